/*
 * Frames for the tests of the COLO proxy
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_COLO_FRAME_H
#define TESTS_COLO_FRAME_H

#define TEST_FRAME_MAX 70000

/* Options of a SYN: MSS 1460, SACK permitted, timestamps, scale 7. */
#define TEST_SYN_OPTIONS "\2\4\5\xb4\4\2\10\12\0\0\0\1\0\0\0\0\1\3\3\7"
#define TEST_SYN_OPTIONS_LEN 20

/* What to build; zeroed memory is a UDP-less IPv4 packet of protocol 0. */
typedef struct TestFrame {
    unsigned vnet_len;
    uint8_t vnet_flags;
    uint8_t gso_type;
    uint16_t gso_size;
    unsigned nr_vlans;
    uint16_t vlan[4];
    bool v6;
    bool bad_csum;          /* leave the checksum field alone */
    bool reply;             /* swap addresses and ports: towards the guest */
    uint8_t proto;
    uint8_t ttl;
    uint16_t id;
    uint16_t frag;          /* IPv4 flags and offset, as in the header */
    const void *ip_options; /* IPv4 options, or IPv6 extension headers */
    unsigned ip_options_len;
    uint8_t ext_proto;      /* IPv6: next header of the fixed header */
    uint16_t sport, dport;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t win;
    const void *options;    /* TCP */
    unsigned options_len;
    const void *payload;
    unsigned payload_len;
    unsigned padding;
} TestFrame;

/*
 * Build @f at @out, TEST_FRAME_MAX bytes. Lengths and checksums are right,
 * partial where VIRTIO_NET_HDR_F_NEEDS_CSUM is set. Returns the length.
 */
size_t test_frame(uint8_t *out, const TestFrame *f);

/* True if the IPv4 header and TCP, UDP or ICMPv6 checksums are right. */
bool test_frame_csum_ok(const uint8_t *frame, size_t len, size_t vnet_len);

#endif
