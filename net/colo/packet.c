/*
 * COLO proxy: what is in a frame
 *
 * Frames come from a guest, or over a socket that claims to carry a guest's:
 * nothing in them is trusted, and every length is checked before it is used.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_net.h"
#include "packet.h"

#define ETH_HLEN            14
#define ETHERTYPE_IP4       0x0800
#define ETHERTYPE_ARP      0x0806
#define ETHERTYPE_CVLAN     0x8100
#define ETHERTYPE_IP6       0x86dd
#define ETHERTYPE_SVLAN     0x88a8
#define VLAN_HLEN           4

#define ARP_LEN             28
#define IP4_HLEN            20
#define IP6_HLEN            40
#define TCP_HLEN            20
#define UDP_HLEN            8
#define ICMP_HLEN           8
#define ICMP6_HLEN          4

#define PROTO_HOPOPTS       0
#define PROTO_ICMP          1
#define PROTO_TCP           6
#define PROTO_UDP           17
#define PROTO_ROUTING       43
#define PROTO_FRAGMENT      44
#define PROTO_ICMP6         58
#define PROTO_DSTOPTS       60

#define TCPOPT_EOL          0
#define TCPOPT_NOP          1
#define TCPOPT_WSCALE       3
#define TCPOPT_SACK         5
#define TCPOPT_TIMESTAMP    8
#define TCPOLEN_TIMESTAMP   10
/* Two no-operations and a timestamp: what most segments carry, as one word. */
#define TCPOPT_TSTAMP_WORD  0x0101080a

/* Offsets of fields within the timestamps option. */
#define TSTAMP_VAL          2
#define TSTAMP_ECR          6

/* Offsets of fields within the TCP header. */
#define TCP_SEQ             4
#define TCP_ACK             8
#define TCP_DOFF            12
#define TCP_WIN             14
#define TCP_CSUM            16

/* Bytes of @pkt from @off on. */
static uint32_t room(const ColoPacket *pkt, uint32_t off)
{
    return pkt->end - off;
}

static bool parse_tcp_option(ColoPacket *pkt, uint32_t opt, uint8_t kind,
                             uint8_t olen)
{
    switch (kind) {
    case TCPOPT_WSCALE:
        if (olen != 3) {
            return false;
        }
        pkt->has_wscale = true;
        pkt->wscale = MIN(pkt->buf[opt + 2], 14);
        return true;
    case TCPOPT_SACK:
        /* Only one can be translated, and no stack sends more. */
        if (pkt->nr_sacks || olen < 10 || (olen - 2) % 8) {
            return false;
        }
        pkt->sack = opt;
        pkt->nr_sacks = (olen - 2) / 8;
        return true;
    case TCPOPT_TIMESTAMP:
        /* Of a wrong length it is ignored, as receivers do. */
        if (olen != TCPOLEN_TIMESTAMP) {
            return true;
        }
        /* Only one can be translated here too. */
        if (pkt->stamps) {
            return false;
        }
        pkt->stamps = opt;
        return true;
    default:
        return true;
    }
}

static bool parse_tcp_options(ColoPacket *pkt)
{
    uint32_t opt = pkt->l4 + TCP_HLEN;

    if (pkt->payload - opt == 12 &&
        ldl_be_p(pkt->buf + opt) == TCPOPT_TSTAMP_WORD) {
        pkt->stamps = opt + 2;
        return true;
    }
    while (opt < pkt->payload) {
        uint8_t kind = pkt->buf[opt];
        uint8_t olen;

        if (kind == TCPOPT_EOL) {
            break;
        }
        if (kind == TCPOPT_NOP) {
            opt++;
            continue;
        }
        if (pkt->payload - opt < 2) {
            return false;
        }
        olen = pkt->buf[opt + 1];
        if (olen < 2 || olen > pkt->payload - opt ||
            !parse_tcp_option(pkt, opt, kind, olen)) {
            return false;
        }
        opt += olen;
    }
    return true;
}

static bool parse_tcp(ColoPacket *pkt)
{
    const uint8_t *tcp = pkt->buf + pkt->l4;
    unsigned hlen;

    if (room(pkt, pkt->l4) < TCP_HLEN) {
        return false;
    }
    hlen = (tcp[TCP_DOFF] >> 4) * 4;
    if (hlen < TCP_HLEN || hlen > room(pkt, pkt->l4)) {
        return false;
    }
    pkt->sport = lduw_be_p(tcp);
    pkt->dport = lduw_be_p(tcp + 2);
    pkt->seq = ldl_be_p(tcp + TCP_SEQ);
    pkt->ack = ldl_be_p(tcp + TCP_ACK);
    pkt->tcp_flags = tcp[TCP_DOFF + 1];
    pkt->win = lduw_be_p(tcp + TCP_WIN);
    pkt->payload = pkt->l4 + hlen;
    pkt->has_tcp = hlen == TCP_HLEN || parse_tcp_options(pkt);
    return pkt->has_tcp;
}

static bool parse_udp(ColoPacket *pkt)
{
    const uint8_t *udp = pkt->buf + pkt->l4;
    unsigned ulen;

    if (room(pkt, pkt->l4) < UDP_HLEN) {
        return false;
    }
    ulen = lduw_be_p(udp + 4);
    /* Offloaded segmentation leaves the length of one segment, or nothing. */
    if (!pkt->gso_type) {
        if (ulen < UDP_HLEN || ulen > room(pkt, pkt->l4)) {
            return false;
        }
    }
    pkt->sport = lduw_be_p(udp);
    pkt->dport = lduw_be_p(udp + 2);
    pkt->payload = pkt->l4 + UDP_HLEN;
    return true;
}

static bool icmp_is_echo(ColoPacketKind kind, uint8_t type)
{
    return kind == COLO_PACKET_ICMP ? type == 0 || type == 8 :
                                      type == 128 || type == 129;
}

static bool parse_icmp(ColoPacket *pkt, unsigned hlen)
{
    const uint8_t *icmp = pkt->buf + pkt->l4;

    if (room(pkt, pkt->l4) < hlen) {
        return false;
    }
    if (icmp_is_echo(pkt->kind, icmp[0])) {
        if (room(pkt, pkt->l4) < ICMP_HLEN) {
            return false;
        }
        pkt->sport = lduw_be_p(icmp + 4);
    }
    return true;
}

/* What stands at @pkt->l4, by @pkt->ip_proto. */
static bool parse_l4(ColoPacket *pkt)
{
    pkt->payload = pkt->l4;
    switch (pkt->ip_proto) {
    case PROTO_TCP:
        pkt->kind = COLO_PACKET_TCP;
        return parse_tcp(pkt);
    case PROTO_UDP:
        pkt->kind = COLO_PACKET_UDP;
        return parse_udp(pkt);
    case PROTO_ICMP:
        if (pkt->ip_version == 4) {
            pkt->kind = COLO_PACKET_ICMP;
            return parse_icmp(pkt, ICMP_HLEN);
        }
        break;
    case PROTO_ICMP6:
        if (pkt->ip_version == 6) {
            pkt->kind = COLO_PACKET_ICMP6;
            return parse_icmp(pkt, ICMP6_HLEN);
        }
        break;
    }
    pkt->kind = COLO_PACKET_IP;
    return true;
}

/*
 * A fragment is compared as it is. In a first one the TCP header is looked
 * at all the same, for the rewriter; that it may be cut off is no error.
 */
static bool parse_fragment(ColoPacket *pkt)
{
    pkt->payload = pkt->l4;
    if (!pkt->frag_off && pkt->ip_proto == PROTO_TCP && !parse_tcp(pkt)) {
        pkt->has_tcp = false;
        pkt->sport = pkt->dport = 0;
        pkt->payload = pkt->l4;
    }
    pkt->kind = COLO_PACKET_FRAGMENT;
    return true;
}

static bool parse_ip4(ColoPacket *pkt)
{
    const uint8_t *ip = pkt->buf + pkt->l3;
    unsigned hlen, total, frag;

    if (room(pkt, pkt->l3) < IP4_HLEN || ip[0] >> 4 != 4) {
        return false;
    }
    hlen = (ip[0] & 0xf) * 4;
    total = lduw_be_p(ip + 2);
    if (!total && pkt->gso_type) {
        total = room(pkt, pkt->l3);
    }
    if (hlen < IP4_HLEN || total < hlen || total > room(pkt, pkt->l3)) {
        return false;
    }
    pkt->end = pkt->l3 + total;
    pkt->l4 = pkt->l3 + hlen;
    pkt->ip_version = 4;
    pkt->ip_proto = ip[9];
    frag = lduw_be_p(ip + 6);
    if (frag & 0x3fff) {
        pkt->frag_id = lduw_be_p(ip + 4);
        pkt->frag_off = (frag & 0x1fff) * 8;
        pkt->frag_more = frag & 0x2000;
        return parse_fragment(pkt);
    }
    return parse_l4(pkt);
}

/* Step over one extension header of @pkt->ip_proto at @pkt->l4. */
static bool skip_ext_header(ColoPacket *pkt)
{
    const uint8_t *ext = pkt->buf + pkt->l4;
    unsigned hlen;

    if (room(pkt, pkt->l4) < 8) {
        return false;
    }
    hlen = (ext[1] + 1) * 8;
    if (hlen > room(pkt, pkt->l4)) {
        return false;
    }
    pkt->ip_proto = ext[0];
    pkt->l4 += hlen;
    return true;
}

/* The fragment header, RFC 8200 section 4.5. True: it is a real fragment. */
static bool parse_frag_header(ColoPacket *pkt)
{
    const uint8_t *ext = pkt->buf + pkt->l4;
    unsigned frag = lduw_be_p(ext + 2);

    pkt->ip_proto = ext[0];
    pkt->l4 += 8;
    /* An "atomic" fragment (RFC 6946) is a whole datagram. */
    if (!(frag & 0xfff9)) {
        return false;
    }
    pkt->frag_id = ldl_be_p(ext + 4);
    pkt->frag_off = frag & 0xfff8;
    pkt->frag_more = frag & 1;
    return true;
}

static bool parse_ip6(ColoPacket *pkt)
{
    const uint8_t *ip = pkt->buf + pkt->l3;
    unsigned plen;

    if (room(pkt, pkt->l3) < IP6_HLEN || ip[0] >> 4 != 6) {
        return false;
    }
    plen = lduw_be_p(ip + 4);
    if (!plen && pkt->gso_type) {
        plen = room(pkt, pkt->l3) - IP6_HLEN;
    }
    if (plen > room(pkt, pkt->l3) - IP6_HLEN) {
        return false;
    }
    pkt->end = pkt->l3 + IP6_HLEN + plen;
    pkt->l4 = pkt->l3 + IP6_HLEN;
    pkt->ip_version = 6;
    pkt->ip_proto = ip[6];
    /* Ends: each turn moves l4 on by 8 at least, and no further than end. */
    while (true) {
        switch (pkt->ip_proto) {
        case PROTO_HOPOPTS:
        case PROTO_ROUTING:
        case PROTO_DSTOPTS:
            if (!skip_ext_header(pkt)) {
                return false;
            }
            break;
        case PROTO_FRAGMENT:
            if (room(pkt, pkt->l4) < 8) {
                return false;
            }
            if (parse_frag_header(pkt)) {
                return parse_fragment(pkt);
            }
            break;
        default:
            return parse_l4(pkt);
        }
    }
}

static bool parse_arp(ColoPacket *pkt)
{
    const uint8_t *arp = pkt->buf + pkt->l3;

    if (room(pkt, pkt->l3) < ARP_LEN ||
        lduw_be_p(arp) != 1 || lduw_be_p(arp + 2) != ETHERTYPE_IP4 ||
        arp[4] != 6 || arp[5] != 4) {
        return false;
    }
    pkt->kind = COLO_PACKET_ARP;
    pkt->l4 = pkt->payload = pkt->l3;
    pkt->end = pkt->l3 + ARP_LEN;
    return true;
}

static bool parse_l3(ColoPacket *pkt)
{
    switch (pkt->ethertype) {
    case ETHERTYPE_IP4:
        return parse_ip4(pkt);
    case ETHERTYPE_IP6:
        return parse_ip6(pkt);
    case ETHERTYPE_ARP:
        return parse_arp(pkt);
    default:
        return false;
    }
}

static bool parse_eth(ColoPacket *pkt)
{
    uint32_t type = pkt->eth + ETH_HLEN - 2;

    if (room(pkt, pkt->eth) < ETH_HLEN) {
        return false;
    }
    pkt->ethertype = lduw_be_p(pkt->buf + type);
    while (pkt->ethertype == ETHERTYPE_CVLAN ||
           pkt->ethertype == ETHERTYPE_SVLAN) {
        if (pkt->nr_vlans == COLO_VLANS_MAX || room(pkt, type) < 2 + 4) {
            return false;
        }
        pkt->vlan[pkt->nr_vlans++] = lduw_be_p(pkt->buf + type + 2) & 0xfff;
        type += VLAN_HLEN;
        pkt->ethertype = lduw_be_p(pkt->buf + type);
    }
    pkt->l3 = type + 2;
    return parse_l3(pkt);
}

static void parse_vnet(ColoPacket *pkt, size_t vnet_len)
{
    struct virtio_net_hdr hdr;

    if (vnet_len < sizeof(hdr)) {
        return;
    }
    memcpy(&hdr, pkt->buf, sizeof(hdr));
    pkt->needs_csum = hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
    pkt->gso_type = hdr.gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
    if (pkt->gso_type) {
        pkt->gso_size = hdr.gso_size;
    }
}

static void reset(ColoPacket *pkt, const uint8_t *buf, size_t len,
                  size_t vnet_len)
{
    memset(pkt, 0, sizeof(*pkt));
    pkt->buf = buf;
    pkt->len = len;
    pkt->eth = pkt->l3 = pkt->l4 = pkt->payload = MIN(vnet_len, len);
    pkt->end = len;
}

void colo_packet_parse(ColoPacket *pkt, const uint8_t *buf, size_t len,
                       size_t vnet_len)
{
    reset(pkt, buf, len, vnet_len);
    if (vnet_len <= len) {
        parse_vnet(pkt, vnet_len);
        if (parse_eth(pkt)) {
            return;
        }
    }
    /* A half-filled descriptor must not pass for what it is not. */
    reset(pkt, buf, len, vnet_len);
}

const uint8_t *colo_packet_src(const ColoPacket *pkt)
{
    return pkt->buf + pkt->l3 + (pkt->ip_version == 4 ? 12 : 8);
}

const uint8_t *colo_packet_dst(const ColoPacket *pkt)
{
    return pkt->buf + pkt->l3 + (pkt->ip_version == 4 ? 16 : 24);
}

ColoSack colo_packet_sack(const ColoPacket *pkt, unsigned i)
{
    const uint8_t *block = pkt->buf + pkt->sack + 2 + 8 * i;

    return (ColoSack) { ldl_be_p(block), ldl_be_p(block + 4) };
}

uint32_t colo_packet_tsval(const ColoPacket *pkt)
{
    return ldl_be_p(pkt->buf + pkt->stamps + TSTAMP_VAL);
}

uint32_t colo_packet_tsecr(const ColoPacket *pkt)
{
    return ldl_be_p(pkt->buf + pkt->stamps + TSTAMP_ECR);
}

/* ---- equality ---- */

static bool same_bytes(const ColoPacket *a, uint32_t a_off,
                       const ColoPacket *b, uint32_t b_off, uint32_t len)
{
    return !len || !memcmp(a->buf + a_off, b->buf + b_off, len);
}

/* IPv4 header but for identification, DF, TTL and checksum. */
static bool same_ip4(const ColoPacket *a, const ColoPacket *b)
{
    return same_bytes(a, a->l3, b, b->l3, 4) &&
           same_bytes(a, a->l3 + 9, b, b->l3 + 9, 1) &&
           same_bytes(a, a->l3 + 12, b, b->l3 + 12, a->l4 - a->l3 - 12);
}

/* IPv6 header but for flow label, hop limit and identification. */
static bool same_ip6(const ColoPacket *a, const ColoPacket *b)
{
    uint32_t ext_a = a->l3 + IP6_HLEN;
    uint32_t ext_b = b->l3 + IP6_HLEN;
    uint32_t ext_len = a->l4 - ext_a;

    /* The identification is the end of the last extension header. */
    if (a->kind == COLO_PACKET_FRAGMENT) {
        ext_len -= 4;
    }
    return a->buf[a->l3] == b->buf[b->l3] &&
           (a->buf[a->l3 + 1] & 0xf0) == (b->buf[b->l3 + 1] & 0xf0) &&
           same_bytes(a, a->l3 + 4, b, b->l3 + 4, 3) &&
           same_bytes(a, a->l3 + 8, b, b->l3 + 8, 32) &&
           same_bytes(a, ext_a, b, ext_b, ext_len);
}

/* From @l4 on, but for the 2 bytes of a checksum at @csum. */
static bool same_but_csum(const ColoPacket *a, const ColoPacket *b,
                          uint32_t csum)
{
    uint32_t rest = csum + 2;

    return same_bytes(a, a->l4, b, b->l4, csum) &&
           same_bytes(a, a->l4 + rest, b, b->l4 + rest,
                      a->end - a->l4 - rest);
}

static bool same_l4(const ColoPacket *a, const ColoPacket *b)
{
    switch (a->kind) {
    case COLO_PACKET_UDP:
        return a->gso_type == b->gso_type && a->gso_size == b->gso_size &&
               same_but_csum(a, b, 6);
    case COLO_PACKET_ICMP:
    case COLO_PACKET_ICMP6:
        return same_but_csum(a, b, 2);
    default:
        return same_bytes(a, a->l4, b, b->l4, a->end - a->l4);
    }
}

bool colo_packet_equal(const ColoPacket *a, const ColoPacket *b)
{
    /* The kind stands for which headers there are, so offsets compare. */
    if (a->kind != b->kind || a->ip_version != b->ip_version ||
        a->l3 - a->eth != b->l3 - b->eth ||
        a->l4 - a->eth != b->l4 - b->eth ||
        a->end - a->eth != b->end - b->eth ||
        a->frag_off != b->frag_off || a->frag_more != b->frag_more ||
        !same_bytes(a, a->eth, b, b->eth, a->l3 - a->eth)) {
        return false;
    }
    if ((a->ip_version == 4 && !same_ip4(a, b)) ||
        (a->ip_version == 6 && !same_ip6(a, b))) {
        return false;
    }
    return same_l4(a, b);
}

unsigned colo_packet_syn_options(const ColoPacket *pkt,
                                 uint8_t out[COLO_TCP_OPTIONS_MAX])
{
    uint32_t opt = pkt->l4 + TCP_HLEN;
    unsigned n = 0;

    /* parse_tcp_options() has checked the lengths. */
    while (opt < pkt->payload && pkt->buf[opt] != TCPOPT_EOL) {
        uint8_t kind = pkt->buf[opt];
        uint8_t olen;

        if (kind == TCPOPT_NOP) {
            opt++;
            continue;
        }
        olen = pkt->buf[opt + 1];
        memcpy(out + n, pkt->buf + opt, olen);
        if (kind == TCPOPT_TIMESTAMP) {
            memset(out + n + 2, 0, olen - 2);
        }
        n += olen;
        opt += olen;
    }
    return n;
}

/* ---- checksums ---- */

uint64_t colo_csum_add(uint64_t sum, const uint8_t *buf, size_t len)
{
    for (; len >= 4; buf += 4, len -= 4) {
        sum += (uint32_t)ldl_be_p(buf);
    }
    if (len >= 2) {
        sum += lduw_be_p(buf);
        buf += 2;
        len -= 2;
    }
    if (len) {
        sum += *buf << 8;
    }
    return sum;
}

uint16_t colo_csum_finish(uint64_t sum)
{
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return ~sum;
}

static uint64_t pseudo_header(const ColoPacket *pkt, uint32_t len)
{
    unsigned alen = pkt->ip_version == 4 ? 4 : 16;
    uint64_t sum = pkt->ip_proto + (uint64_t)len;

    sum = colo_csum_add(sum, colo_packet_src(pkt), alen);
    return colo_csum_add(sum, colo_packet_dst(pkt), alen);
}

static unsigned csum_offset(const ColoPacket *pkt)
{
    switch (pkt->ip_proto) {
    case PROTO_TCP:
        return TCP_CSUM;
    case PROTO_UDP:
        return 6;
    default:
        return 2;
    }
}

uint16_t colo_packet_l4_csum(const ColoPacket *pkt)
{
    unsigned field = csum_offset(pkt);
    uint32_t len = pkt->end - pkt->l4;
    uint64_t sum = pseudo_header(pkt, len);
    uint16_t csum;

    sum = colo_csum_add(sum, pkt->buf + pkt->l4, field);
    sum = colo_csum_add(sum, pkt->buf + pkt->l4 + field + 2,
                        len - field - 2);
    csum = colo_csum_finish(sum);
    return pkt->ip_proto == PROTO_UDP && !csum ? 0xffff : csum;
}

/*
 * Put @len bytes from @val at offset @off of the TCP or ICMP header, RFC 1624.
 * An odd @off counts in the other half of the checksum's words.
 */
static void patch(const ColoPacket *pkt, uint8_t *buf, unsigned off,
                  const uint8_t *val, unsigned len)
{
    uint8_t *l4 = buf + pkt->l4;
    uint8_t *csum = l4 + csum_offset(pkt);
    uint64_t sum = (uint16_t)~lduw_be_p(csum);
    unsigned i;

    for (i = 0; i < len; i++) {
        unsigned shift = (off + i) & 1 ? 0 : 8;

        sum += (uint64_t)(uint8_t)~l4[off + i] << shift;
        sum += (uint64_t)val[i] << shift;
        /* The other half of the complemented word. */
        sum += 0xffu << (8 - shift);
        l4[off + i] = val[i];
    }
    if (!pkt->needs_csum) {
        stw_be_p(csum, colo_csum_finish(sum));
    }
}

static void patch32(const ColoPacket *pkt, uint8_t *buf, unsigned off,
                    uint32_t val)
{
    uint8_t bytes[4];

    stl_be_p(bytes, val);
    patch(pkt, buf, off, bytes, sizeof(bytes));
}

void colo_packet_set_seq(ColoPacket *pkt, uint8_t *buf, uint32_t seq)
{
    patch32(pkt, buf, TCP_SEQ, seq);
    pkt->seq = seq;
}

void colo_packet_set_ack(ColoPacket *pkt, uint8_t *buf, uint32_t ack)
{
    patch32(pkt, buf, TCP_ACK, ack);
    pkt->ack = ack;
}

void colo_packet_set_win(ColoPacket *pkt, uint8_t *buf, uint16_t win)
{
    uint8_t bytes[2];

    stw_be_p(bytes, win);
    patch(pkt, buf, TCP_WIN, bytes, sizeof(bytes));
    pkt->win = win;
}

void colo_packet_set_tsval(ColoPacket *pkt, uint8_t *buf, uint32_t tsval)
{
    patch32(pkt, buf, pkt->stamps - pkt->l4 + TSTAMP_VAL, tsval);
}

void colo_packet_set_tsecr(ColoPacket *pkt, uint8_t *buf, uint32_t tsecr)
{
    patch32(pkt, buf, pkt->stamps - pkt->l4 + TSTAMP_ECR, tsecr);
}

void colo_packet_shift_sacks(ColoPacket *pkt, uint8_t *buf, uint32_t delta)
{
    unsigned off = pkt->sack - pkt->l4 + 2;
    unsigned i;

    for (i = 0; i < pkt->nr_sacks; i++, off += 8) {
        ColoSack sack = colo_packet_sack(pkt, i);

        patch32(pkt, buf, off, sack.left + delta);
        patch32(pkt, buf, off + 4, sack.right + delta);
    }
}

void colo_packet_keep_sacks(ColoPacket *pkt, uint8_t *buf, unsigned keep)
{
    uint8_t opt[2 + 8 * COLO_SACK_MAX];
    unsigned size = 2 + 8 * pkt->nr_sacks;
    unsigned n = 0;
    unsigned i;

    memset(opt, TCPOPT_NOP, sizeof(opt));
    for (i = 0; i < pkt->nr_sacks; i++) {
        if (keep & (1u << i)) {
            memcpy(opt + 2 + 8 * n, buf + pkt->sack + 2 + 8 * i, 8);
            n++;
        }
    }
    if (n) {
        opt[0] = TCPOPT_SACK;
        opt[1] = 2 + 8 * n;
    }
    if (pkt->nr_sacks) {
        patch(pkt, buf, pkt->sack - pkt->l4, opt, size);
    }
    pkt->nr_sacks = n;
}

/* ---- ICMP errors ---- */

static bool icmp_is_error(const ColoPacket *pkt)
{
    uint8_t type;

    if (pkt->kind != COLO_PACKET_ICMP && pkt->kind != COLO_PACKET_ICMP6) {
        return false;
    }
    type = pkt->buf[pkt->l4];
    return pkt->kind == COLO_PACKET_ICMP6 ? type < 128 :
           type == 3 || type == 4 || type == 11 || type == 12;
}

bool colo_packet_quoted(const ColoPacket *pkt, ColoPacket *quoted)
{
    uint32_t l3 = pkt->l4 + ICMP_HLEN;
    unsigned min = pkt->ip_version == 4 ? IP4_HLEN : IP6_HLEN;
    const uint8_t *ip;
    unsigned hlen;

    if (!icmp_is_error(pkt) || room(pkt, pkt->l4) < ICMP_HLEN + min + 8) {
        return false;
    }
    ip = pkt->buf + l3;
    hlen = pkt->ip_version == 4 ? (ip[0] & 0xf) * 4 : IP6_HLEN;
    if (ip[0] >> 4 != pkt->ip_version || hlen < min ||
        room(pkt, l3) < hlen + 8 ||
        ip[pkt->ip_version == 4 ? 9 : 6] != PROTO_TCP ||
        (pkt->ip_version == 4 && lduw_be_p(ip + 6) & 0x1fff)) {
        return false;
    }
    *quoted = *pkt;
    quoted->kind = COLO_PACKET_TCP;
    quoted->ip_proto = PROTO_TCP;
    quoted->l3 = l3;
    quoted->l4 = l3 + hlen;
    quoted->sport = lduw_be_p(ip + hlen);
    quoted->dport = lduw_be_p(ip + hlen + 2);
    quoted->seq = ldl_be_p(ip + hlen + TCP_SEQ);
    return true;
}

void colo_packet_set_quoted_seq(const ColoPacket *pkt,
                                const ColoPacket *quoted, uint8_t *buf,
                                uint32_t seq)
{
    patch32(pkt, buf, quoted->l4 - pkt->l4 + TCP_SEQ, seq);
}

/* ---- a bare ACK ---- */

static void fix_ip_length(const ColoPacket *pkt, uint8_t *out)
{
    uint8_t *ip = out + pkt->l3;

    if (pkt->ip_version == 6) {
        stw_be_p(ip + 4, pkt->end - pkt->l3 - IP6_HLEN);
        return;
    }
    stw_be_p(ip + 2, pkt->end - pkt->l3);
    stw_be_p(ip + 10, 0);
    stw_be_p(ip + 10,
             colo_csum_finish(colo_csum_add(0, ip, pkt->l4 - pkt->l3)));
}

size_t colo_packet_make_ack(const ColoPacket *pkt, uint32_t seq, uint32_t ack,
                            uint16_t win, uint8_t *out, size_t size)
{
    size_t len = pkt->l4 + TCP_HLEN +
                 (pkt->stamps ? 2 + TCPOLEN_TIMESTAMP : 0);
    uint8_t *tcp = out + pkt->l4;
    ColoPacket made = *pkt;

    if (size < len) {
        return 0;
    }
    memcpy(out, pkt->buf, pkt->l4 + TCP_HLEN);
    memset(out, 0, pkt->eth);
    stl_be_p(tcp + TCP_SEQ, seq);
    stl_be_p(tcp + TCP_ACK, ack);
    stw_be_p(tcp + TCP_WIN, win);
    stw_be_p(tcp + TCP_CSUM, 0);
    stw_be_p(tcp + TCP_CSUM + 2, 0);
    tcp[TCP_DOFF] = (len - pkt->l4) / 4 << 4;
    tcp[TCP_DOFF + 1] = COLO_TCP_ACK;
    if (pkt->stamps) {
        memset(tcp + TCP_HLEN, TCPOPT_NOP, 2);
        memcpy(tcp + TCP_HLEN + 2, pkt->buf + pkt->stamps, TCPOLEN_TIMESTAMP);
    }
    made.buf = out;
    made.end = len;
    fix_ip_length(&made, out);
    stw_be_p(tcp + TCP_CSUM, colo_packet_l4_csum(&made));
    return len;
}
