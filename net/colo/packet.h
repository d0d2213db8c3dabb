/*
 * COLO proxy: what is in a frame
 *
 * A bounds-checked parser of frames as they pass a netdev, with an optional
 * virtio-net header in front, and the few changes the proxy makes to them.
 * Nothing here allocates or keeps state; any thread may call it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_PACKET_H
#define NET_COLO_PACKET_H

/* The longest frame, virtio-net header included, the proxy takes. */
#define COLO_FRAME_MAX (256 * 1024)

/* VLAN tags the parser looks through; deeper stacks are opaque. */
#define COLO_VLANS_MAX 2

/* SACK blocks that fit into a TCP header (RFC 2018, section 3). */
#define COLO_SACK_MAX 4

#define COLO_TCP_FIN 0x01
#define COLO_TCP_SYN 0x02
#define COLO_TCP_RST 0x04
#define COLO_TCP_PSH 0x08
#define COLO_TCP_ACK 0x10
#define COLO_TCP_URG 0x20
#define COLO_TCP_ECE 0x40
#define COLO_TCP_CWR 0x80

typedef enum ColoPacketKind {
    COLO_PACKET_OPAQUE,     /* unknown EtherType, or a malformed header */
    COLO_PACKET_ARP,        /* RFC 826, Ethernet and IPv4 only */
    COLO_PACKET_TCP,        /* RFC 9293 */
    COLO_PACKET_UDP,        /* RFC 768 */
    COLO_PACKET_ICMP,       /* RFC 792 */
    COLO_PACKET_ICMP6,      /* RFC 4443 */
    COLO_PACKET_IP,         /* any other protocol on IP: AH, ESP, SCTP, ... */
    COLO_PACKET_FRAGMENT,   /* a fragment of an IP datagram, the first too */
} ColoPacketKind;

/* One SACK block, RFC 2018: [left, right) in host byte order. */
typedef struct ColoSack {
    uint32_t left;
    uint32_t right;
} ColoSack;

/*
 * What a frame is. All offsets count bytes from @buf, and everything between
 * two of them was checked to lie within @len. Numbers are in host byte order.
 */
typedef struct ColoPacket {
    const uint8_t *buf;     /* the frame, virtio-net header first; borrowed */
    uint32_t len;           /* bytes at @buf */
    uint32_t eth;           /* the Ethernet header: length of the vnet header */
    uint32_t l3;            /* behind Ethernet header and VLAN tags */
    uint32_t l4;            /* TCP, UDP, ... header; content of a fragment */
    uint32_t payload;       /* behind the TCP or UDP header; else equals @l4 */
    uint32_t end;           /* of the content: padding starts here */
    ColoPacketKind kind;
    uint16_t ethertype;     /* behind the VLAN tags */
    uint16_t vlan[COLO_VLANS_MAX]; /* identifiers (12 bits), outermost first */
    uint8_t nr_vlans;
    uint8_t ip_version;     /* 4, 6, or 0: not IP */
    uint8_t ip_proto;       /* of what stands at @l4 */
    uint8_t gso_type;       /* of the vnet header, 0: a single packet */
    uint16_t gso_size;
    bool needs_csum;        /* VIRTIO_NET_HDR_F_NEEDS_CSUM is set */
    bool has_tcp;           /* TCP fields are valid: also in a first fragment */
    bool frag_more;         /* FRAGMENT: more follow */
    uint32_t frag_id;       /* FRAGMENT: identification */
    uint32_t frag_off;      /* FRAGMENT: offset in bytes */
    uint16_t sport;         /* TCP and UDP; ICMP echo: identifier */
    uint16_t dport;
    uint32_t seq;
    uint32_t ack;           /* valid with COLO_TCP_ACK in @tcp_flags */
    uint16_t win;           /* unscaled */
    uint8_t tcp_flags;
    bool has_wscale;        /* RFC 7323 option, in a SYN */
    uint8_t wscale;
    uint8_t nr_sacks;
    uint32_t sack;          /* offset of the SACK option (its kind byte) */
    uint32_t stamps;        /* of the timestamps option, RFC 7323; 0: none */
} ColoPacket;

/*
 * Parse the @len bytes at @buf, the first @vnet_len of which are a virtio-net
 * header (0: none; 10, 12 and 20 are in use, any other is skipped).
 *
 * Never fails: what is truncated or malformed becomes an opaque packet (with
 * its VLAN and IP fields cleared), to be compared byte by byte. A vnet header
 * longer than the frame leaves nothing but an empty opaque packet.
 *
 * Headers by IEEE 802.3 and 802.1Q, RFC 826, 791, 8200, 9293, 768, 792, 4443.
 * Segmentation offload makes one big segment, whose length is the frame's
 * where IP's own length field is zero.
 */
void colo_packet_parse(ColoPacket *pkt, const uint8_t *buf, size_t len,
                       size_t vnet_len);

/* The IP addresses of @pkt, 4 or 16 bytes by ip_version, which is not 0. */
const uint8_t *colo_packet_src(const ColoPacket *pkt);
const uint8_t *colo_packet_dst(const ColoPacket *pkt);

/* Sequence numbers a TCP packet takes: its payload, SYN and FIN. */
static inline uint32_t colo_packet_tcp_len(const ColoPacket *pkt)
{
    return pkt->end - pkt->payload +
           !!(pkt->tcp_flags & COLO_TCP_SYN) +
           !!(pkt->tcp_flags & COLO_TCP_FIN);
}

/* Serial number arithmetic (RFC 1982): how far @a is past @b, may be < 0. */
static inline int32_t colo_seq_diff(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b);
}

static inline uint32_t colo_seq_max(uint32_t a, uint32_t b)
{
    return colo_seq_diff(a, b) >= 0 ? a : b;
}

/* SACK block number @i, below @pkt->nr_sacks. */
ColoSack colo_packet_sack(const ColoPacket *pkt, unsigned i);

/*
 * The timestamps of @pkt, which has them (@pkt->stamps is not 0): its sender's
 * clock, and the echo of the receiver's; that is valid with COLO_TCP_ACK only
 * (RFC 7323, section 3.2).
 */
uint32_t colo_packet_tsval(const ColoPacket *pkt);
uint32_t colo_packet_tsecr(const ColoPacket *pkt);

/*
 * True if @a and @b have the same content: everything but what two equal
 * guests choose on their own or what follows from the rest: TTL and hop
 * limit, IP identification, DF, flow label, checksums, padding and the vnet
 * header (but for the segment size of UDP segmentation offload).
 *
 * For every kind but TCP, which is compared as a stream; two TCP packets are
 * equal here if all bytes behind the IP header are. Fragments of different
 * datagrams (by identification) can be equal: pairing them is up to the
 * caller.
 */
bool colo_packet_equal(const ColoPacket *a, const ColoPacket *b);

/* The most bytes colo_packet_syn_options() makes. */
#define COLO_TCP_OPTIONS_MAX 40

/*
 * Write what the options of a TCP packet offer to @out, in the order they
 * stand there: without padding, and with the values of timestamps zeroed, so
 * that equal offers are equal bytes. Returns the number of bytes.
 */
unsigned colo_packet_syn_options(const ColoPacket *pkt,
                                 uint8_t out[COLO_TCP_OPTIONS_MAX]);

/*
 * Changes to a TCP packet (has_tcp). @buf is the writable memory @pkt was
 * parsed from; @pkt is kept up to date. The checksum follows incrementally
 * (RFC 1624) except where it is partial (needs_csum): that one covers the
 * pseudo header only, which none of these fields is part of.
 */
void colo_packet_set_seq(ColoPacket *pkt, uint8_t *buf, uint32_t seq);
void colo_packet_set_ack(ColoPacket *pkt, uint8_t *buf, uint32_t ack);
void colo_packet_set_win(ColoPacket *pkt, uint8_t *buf, uint16_t win);
/* These two: @pkt has timestamps. */
void colo_packet_set_tsval(ColoPacket *pkt, uint8_t *buf, uint32_t tsval);
void colo_packet_set_tsecr(ColoPacket *pkt, uint8_t *buf, uint32_t tsecr);
/* Shift both edges of all SACK blocks by @delta. */
void colo_packet_shift_sacks(ColoPacket *pkt, uint8_t *buf, uint32_t delta);
/*
 * Keep only those SACK blocks whose bit is set in @keep (bit 0: the first);
 * what becomes free is filled with no-operation options.
 */
void colo_packet_keep_sacks(ColoPacket *pkt, uint8_t *buf, unsigned keep);

/*
 * True if @pkt is an ICMP or ICMPv6 error about a TCP segment (RFC 792, RFC
 * 4443), which @quoted then describes, as far as addresses, ports and
 * sequence number: that is all such an error needs to quote.
 */
bool colo_packet_quoted(const ColoPacket *pkt, ColoPacket *quoted);
/* Change the sequence number quoted, and the checksum of @pkt with it. */
void colo_packet_set_quoted_seq(const ColoPacket *pkt,
                                const ColoPacket *quoted, uint8_t *buf,
                                uint32_t seq);

/*
 * Make a bare ACK from a TCP packet: @out, of @size bytes, gets its headers
 * (no TCP options but timestamps), flags ACK only, sequence number @seq and
 * acknowledgement @ack, a cleared vnet header, right lengths and checksums.
 * Returns the length, or 0 if @size does not suffice.
 */
size_t colo_packet_make_ack(const ColoPacket *pkt, uint32_t seq, uint32_t ack,
                            uint16_t win, uint8_t *out, size_t size);

/*
 * The TCP, UDP or ICMPv6 checksum of @pkt (a whole one, not a fragment) as it
 * should be in the packet, in host byte order: RFC 1071 over pseudo header,
 * header and payload, with the checksum field taken as zero.
 */
uint16_t colo_packet_l4_csum(const ColoPacket *pkt);

/* One's complement sum of @len bytes added to @sum, not yet folded. */
uint64_t colo_csum_add(uint64_t sum, const uint8_t *buf, size_t len);
/* Fold to 16 bits and complement. */
uint16_t colo_csum_finish(uint64_t sum);

#endif
