/*
 * Tests of the COLO proxy's packet parser
 *
 * Frames are parsed from memory that ends where they do, so that a sanitizer
 * sees each byte read too far.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_net.h"
#include "net/colo/packet.h"
#include "colo-frame.h"

#define TS_OPTION "\1\1\10\12\0\0\0\5\0\0\0\6"
#define SACK_OPTION "\1\1\5\22\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0"

static const TestFrame tcp4 = {
    .proto = 6, .sport = 80, .dport = 40000, .seq = 0xfffffff0, .ack = 77,
    .flags = COLO_TCP_ACK | COLO_TCP_PSH, .win = 500,
    .options = TS_OPTION, .options_len = 12,
    .payload = "hello, world", .payload_len = 12,
};

/* Everything the parser knows, one of each. */
static const uint8_t hop_frag[16] = { 44, 0, 1, 4, 0, 0, 0, 0,
                                      17, 0, 0, 1, 0, 0, 0, 9 };
static const uint8_t hop_dst[24] = { 43, 0, 1, 4, 0, 0, 0, 0,
                                     60, 0, 0, 0, 0, 0, 0, 0,
                                     6, 0, 1, 4, 0, 0, 0, 0 };
static const uint8_t ah[24] = { 6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2 };

static const TestFrame all_frames[] = {
    { .proto = 6, .flags = COLO_TCP_SYN, .options = TEST_SYN_OPTIONS,
      .options_len = TEST_SYN_OPTIONS_LEN },
    { .proto = 6, .flags = COLO_TCP_ACK, .options = SACK_OPTION,
      .options_len = 20, .payload = "abc", .payload_len = 3 },
    { .proto = 6, .v6 = true, .options = SACK_OPTION, .options_len = 20,
      .payload = "abc", .payload_len = 3 },
    { .proto = 6, .v6 = true, .ext_proto = 0, .ip_options = hop_dst,
      .ip_options_len = sizeof(hop_dst), .options = TS_OPTION,
      .options_len = 12, .payload = "abc", .payload_len = 3 },
    { .proto = 17, .v6 = true, .ext_proto = 0, .ip_options = hop_frag,
      .ip_options_len = sizeof(hop_frag), .payload = "abcdefgh",
      .payload_len = 8 },
    { .proto = 17, .payload = "abc", .payload_len = 3,
      .ip_options = "\1\1\1\0", .ip_options_len = 4 },
    { .proto = 17, .v6 = true, .payload = "abc", .payload_len = 3 },
    { .proto = 1, .payload = "\10\0\0\0\0\7\0\1ping", .payload_len = 12 },
    { .proto = 1, .payload = "\3\4\0\0\0\0\5\0ping", .payload_len = 12 },
    { .proto = 58, .v6 = true, .payload = "\200\0\0\0\0\7\0\1ping",
      .payload_len = 12 },
    { .proto = 51, .payload = ah, .payload_len = 24 },
    { .proto = 51, .v6 = true, .payload = ah, .payload_len = 24 },
    { .proto = 17, .frag = 0x2000, .payload = "abcdefgh", .payload_len = 8 },
    { .proto = 6, .frag = 0x2000, .payload = "abcdefgh", .payload_len = 8 },
    { .proto = 6, .frag = 0x0010, .payload = "abcdefgh", .payload_len = 8 },
};

static uint8_t frame[TEST_FRAME_MAX];

/* Offsets in order and inside; counts within what their arrays hold. */
static void check_sane(const ColoPacket *pkt)
{
    unsigned i;

    g_assert_cmpuint(pkt->eth, <=, pkt->l3);
    g_assert_cmpuint(pkt->l3, <=, pkt->l4);
    g_assert_cmpuint(pkt->l4, <=, pkt->payload);
    g_assert_cmpuint(pkt->payload, <=, pkt->end);
    g_assert_cmpuint(pkt->end, <=, pkt->len);
    g_assert_cmpuint(pkt->nr_sacks, <=, COLO_SACK_MAX);
    for (i = 0; i < pkt->nr_sacks; i++) {
        colo_packet_sack(pkt, i);
    }
}

/* Parse a copy that ends where the frame does, and use what was found. */
static void parse_exact(const uint8_t *buf, size_t len, size_t vnet_len)
{
    g_autofree uint8_t *copy = g_memdup2(buf, len);
    uint8_t options[COLO_TCP_OPTIONS_MAX];
    ColoPacket pkt, quoted;

    colo_packet_parse(&pkt, copy, len, vnet_len);
    check_sane(&pkt);
    g_assert_true(colo_packet_equal(&pkt, &pkt));
    if (pkt.has_tcp) {
        g_assert_cmpuint(colo_packet_syn_options(&pkt, options), <=,
                         COLO_TCP_OPTIONS_MAX);
        colo_packet_set_seq(&pkt, copy, 5);
        colo_packet_set_ack(&pkt, copy, 6);
        colo_packet_set_win(&pkt, copy, 7);
        colo_packet_shift_sacks(&pkt, copy, 8);
        colo_packet_keep_sacks(&pkt, copy, 1);
    }
    if (colo_packet_quoted(&pkt, &quoted)) {
        colo_packet_set_quoted_seq(&pkt, &quoted, copy, 9);
    }
}

static void test_cut(void)
{
    static const unsigned vnet_lens[] = { 0, 10, 12, 20 };
    unsigned i, v;
    size_t len;

    for (i = 0; i < ARRAY_SIZE(all_frames); i++) {
        for (v = 0; v < ARRAY_SIZE(vnet_lens); v++) {
            TestFrame f = all_frames[i];
            size_t full;

            f.vnet_len = vnet_lens[v];
            f.nr_vlans = v % 3;
            full = test_frame(frame, &f);
            for (len = 0; len <= full; len++) {
                parse_exact(frame, len, f.vnet_len);
            }
        }
    }
}

/* Each byte of the headers takes each value: lengths beyond the packet. */
static void test_every_byte(void)
{
    unsigned i, at, val;

    for (i = 0; i < ARRAY_SIZE(all_frames); i++) {
        size_t len = test_frame(frame, &all_frames[i]);

        for (at = 0; at < len; at++) {
            uint8_t old = frame[at];

            for (val = 0; val < 256; val++) {
                frame[at] = val;
                parse_exact(frame, len, 0);
            }
            frame[at] = old;
        }
    }
}

static void check_opaque(const uint8_t *buf, size_t len, size_t vnet_len)
{
    g_autofree uint8_t *copy = g_memdup2(buf, len);
    ColoPacket pkt;

    colo_packet_parse(&pkt, copy, len, vnet_len);
    g_assert_cmpint(pkt.kind, ==, COLO_PACKET_OPAQUE);
    g_assert_cmpuint(pkt.end, ==, len);
    g_assert_cmpuint(pkt.ip_version, ==, 0);
    g_assert_cmpuint(pkt.nr_vlans, ==, 0);
    g_assert_false(pkt.has_tcp);
}

static void test_malformed(void)
{
    TestFrame f = tcp4;
    size_t len = test_frame(frame, &f);
    uint8_t *tcp = frame + 34;

    check_opaque(frame, 0, 0);
    check_opaque(frame, 13, 0);
    check_opaque(frame, len, len + 1);
    check_opaque(frame, len, SIZE_MAX);
    check_opaque(frame, len, len);
    check_opaque(frame, len - 1, 0);            /* shorter than IP says */
    tcp[12] = 0xf0;                             /* data offset: 60 of 44 */
    check_opaque(frame, len, 0);
    tcp[12] = 0x40;                             /* ... and 16 */
    check_opaque(frame, len, 0);
    tcp[12] = 0x80;
    tcp[23] = 30;                               /* an option of 30 bytes */
    check_opaque(frame, len, 0);
    tcp[23] = 1;                                /* ... and of 1 */
    check_opaque(frame, len, 0);
    f.options = "\5\12\0\0\0\1\0\0\0\2\5\12\0\0\0\3\0\0\0\4";
    f.options_len = 20;                         /* two SACK options */
    len = test_frame(frame, &f);
    check_opaque(frame, len, 0);
    f = tcp4;
    len = test_frame(frame, &f);
    frame[14] = 0x4f;                           /* IP header: 60 bytes */
    frame[16] = 0;
    frame[17] = 59;
    check_opaque(frame, len, 0);
    frame[14] = 0x44;
    check_opaque(frame, len, 0);
    frame[14] = 0x65;
    check_opaque(frame, len, 0);
    f = (TestFrame) { .proto = 17, .payload = "abc", .payload_len = 3 };
    len = test_frame(frame, &f);
    frame[39] = 12;                             /* UDP: 12 of 11 bytes */
    check_opaque(frame, len, 0);
    frame[39] = 7;
    check_opaque(frame, len, 0);
    f = tcp4;
    f.nr_vlans = COLO_VLANS_MAX + 1;
    len = test_frame(frame, &f);
    check_opaque(frame, len, 0);
}

static void test_tcp(void)
{
    static const unsigned vnet_lens[] = { 0, 10, 12, 20 };
    unsigned i, v;

    for (i = 0; i < ARRAY_SIZE(vnet_lens); i++) {
        for (v = 0; v <= COLO_VLANS_MAX; v++) {
            TestFrame f = tcp4;
            ColoPacket pkt;
            size_t len;

            f.vnet_len = vnet_lens[i];
            f.nr_vlans = v;
            f.vlan[0] = 0xf123;
            f.vlan[1] = 7;
            f.padding = 6;
            len = test_frame(frame, &f);
            colo_packet_parse(&pkt, frame, len, f.vnet_len);
            g_assert_cmpint(pkt.kind, ==, COLO_PACKET_TCP);
            g_assert_cmpuint(pkt.nr_vlans, ==, v);
            g_assert_cmpuint(pkt.vlan[0], ==, v ? 0x123 : 0);
            g_assert_cmpuint(pkt.seq, ==, f.seq);
            g_assert_cmpuint(pkt.ack, ==, f.ack);
            g_assert_cmpuint(pkt.win, ==, f.win);
            g_assert_cmpuint(pkt.sport, ==, 80);
            g_assert_cmpuint(pkt.dport, ==, 40000);
            g_assert_cmpuint(pkt.end - pkt.payload, ==, 12);
            g_assert_cmpuint(len - pkt.end, ==, 6);
            g_assert_cmpuint(colo_packet_tcp_len(&pkt), ==, 12);
            g_assert_false(memcmp(frame + pkt.payload, f.payload, 12));
        }
    }
}

static void test_extension_headers(void)
{
    ColoPacket pkt;
    size_t len;

    len = test_frame(frame, &all_frames[3]);
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmpint(pkt.kind, ==, COLO_PACKET_TCP);
    g_assert_cmpuint(pkt.end - pkt.payload, ==, 3);
    len = test_frame(frame, &all_frames[4]);
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmpint(pkt.kind, ==, COLO_PACKET_FRAGMENT);
    g_assert_cmpuint(pkt.ip_proto, ==, 17);
    g_assert_cmpuint(pkt.frag_id, ==, 9);
    g_assert_true(pkt.frag_more);
}

/* One segment of 60000 bytes, and one whose length IP does not tell. */
static void test_offload(void)
{
    g_autofree uint8_t *payload = g_malloc0(60000);
    TestFrame f = tcp4;
    ColoPacket pkt;
    size_t len;

    f.vnet_len = 12;
    f.vnet_flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    f.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN;
    f.gso_size = 1448;
    f.payload = payload;
    f.payload_len = 60000;
    len = test_frame(frame, &f);
    colo_packet_parse(&pkt, frame, len, 12);
    g_assert_cmpint(pkt.kind, ==, COLO_PACKET_TCP);
    g_assert_cmpuint(colo_packet_tcp_len(&pkt), ==, 60000);
    g_assert_true(pkt.needs_csum);
    g_assert_cmpuint(pkt.gso_type, ==, VIRTIO_NET_HDR_GSO_TCPV4);
    stw_be_p(frame + 12 + 14 + 2, 0);
    colo_packet_parse(&pkt, frame, len, 12);
    g_assert_cmpuint(colo_packet_tcp_len(&pkt), ==, 60000);
}

/* Change the fields of @f and see that the checksum stays what it should. */
static void check_changes(const TestFrame *f)
{
    uint8_t *want = frame + TEST_FRAME_MAX / 2;
    TestFrame g = *f;
    ColoPacket pkt;
    size_t len;

    len = test_frame(frame, f);
    colo_packet_parse(&pkt, frame, len, f->vnet_len);
    colo_packet_set_seq(&pkt, frame, g.seq = g_test_rand_int());
    colo_packet_set_ack(&pkt, frame, g.ack = g_test_rand_int());
    colo_packet_set_win(&pkt, frame, g.win = g_test_rand_int());
    g_assert_cmpuint(test_frame(want, &g), ==, len);
    g_assert_cmpmem(frame, len, want, len);
    g_assert_cmpuint(pkt.seq, ==, g.seq);
    g_assert_cmpuint(pkt.ack, ==, g.ack);
}

static void test_checksums(void)
{
    unsigned i;

    for (i = 0; i < 1000; i++) {
        TestFrame f = tcp4;

        f.v6 = i & 1;
        f.vnet_len = i & 2 ? 12 : 0;
        f.vnet_flags = i & 4 ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
        f.payload_len = i % 13;
        f.seq = g_test_rand_int();
        check_changes(&f);
    }
}

/* An odd number of NOPs puts the SACK option on an odd offset. */
static void check_sacks(bool odd, bool v6)
{
    TestFrame f = tcp4;
    ColoPacket pkt;
    size_t len;

    f.v6 = v6;
    f.options = odd ? "\1\5\22\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0" :
                      SACK_OPTION;
    f.options_len = 20;
    len = test_frame(frame, &f);
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmpuint(pkt.nr_sacks, ==, 2);
    colo_packet_shift_sacks(&pkt, frame, 0x01020304);
    g_assert_cmphex(colo_packet_sack(&pkt, 0).left, ==, 0x01020404);
    g_assert_cmphex(colo_packet_sack(&pkt, 1).right, ==, 0x01020704);
    g_assert_true(test_frame_csum_ok(frame, len, 0));
    colo_packet_keep_sacks(&pkt, frame, 2);
    g_assert_true(test_frame_csum_ok(frame, len, 0));
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmpuint(pkt.nr_sacks, ==, 1);
    g_assert_cmphex(colo_packet_sack(&pkt, 0).left, ==, 0x01020604);
    colo_packet_keep_sacks(&pkt, frame, 0);
    g_assert_true(test_frame_csum_ok(frame, len, 0));
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmpint(pkt.kind, ==, COLO_PACKET_TCP);
    g_assert_cmpuint(pkt.nr_sacks, ==, 0);
}

static void test_sacks(void)
{
    check_sacks(false, false);
    check_sacks(true, false);
    check_sacks(false, true);
    check_sacks(true, true);
}

/* Wherever the option stands, and only if it is one, and the only one. */
static void test_stamps(void)
{
    static const struct {
        const char *options;
        unsigned at;            /* 0: none */
        bool opaque;
    } cases[] = {
        { "\1\1\10\12\0\0\0\1\0\0\0\2\1\1\1\1\1\1\1\1", 2 },
        { "\1\10\12\0\0\0\1\0\0\0\2\1\1\1\1\1\1\1\1\1", 1 },
        { "\5\12\0\0\0\1\0\0\0\2\10\12\0\0\0\1\0\0\0\2", 10 },
        { "\10\11\0\0\0\1\0\0\0\1\1\1\1\1\1\1\1\1\1\1", 0 },
        { "\10\13\0\0\0\1\0\0\0\2\1\1\1\1\1\1\1\1\1\1", 0 },
        { "\0\0\10\12\0\0\0\1\0\0\0\2\1\1\1\1\1\1\1\1", 0 },
        { "\10\12\0\0\0\1\0\0\0\2\10\12\0\0\0\1\0\0\0\2", 0, true },
        { "\1\1\1\1\1\1\1\1\1\1\1\10\12\0\0\0\1\0\0\0", 0, true },
    };
    unsigned i;

    for (i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
        TestFrame f = tcp4;
        ColoPacket pkt;
        size_t len;

        f.v6 = i & 1;
        f.options = cases[i / 2].options;
        f.options_len = 20;
        len = test_frame(frame, &f);
        colo_packet_parse(&pkt, frame, len, 0);
        g_assert_cmpint(pkt.has_tcp, ==, !cases[i / 2].opaque);
        if (!cases[i / 2].at) {
            g_assert_cmpuint(pkt.stamps, ==, 0);
            continue;
        }
        g_assert_cmpuint(pkt.stamps, ==, pkt.l4 + 20 + cases[i / 2].at);
        g_assert_cmphex(colo_packet_tsval(&pkt), ==, 1);
        g_assert_cmphex(colo_packet_tsecr(&pkt), ==, 2);
        colo_packet_set_tsval(&pkt, frame, 0x89abcdef);
        colo_packet_set_tsecr(&pkt, frame, 0xfedcba98);
        g_assert_cmphex(colo_packet_tsval(&pkt), ==, 0x89abcdef);
        g_assert_cmphex(colo_packet_tsecr(&pkt), ==, 0xfedcba98);
        g_assert_true(test_frame_csum_ok(frame, len, 0));
    }
}

static void test_make_ack(void)
{
    unsigned i;

    for (i = 0; i < 8; i++) {
        TestFrame f = tcp4;
        uint8_t out[256];
        ColoPacket pkt, made;
        size_t len;

        f.v6 = i & 1;
        f.vnet_len = i & 2 ? 12 : 0;
        f.vnet_flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        f.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
        f.options_len = i & 4 ? 12 : 0;
        len = test_frame(frame, &f);
        colo_packet_parse(&pkt, frame, len, f.vnet_len);
        g_assert_cmpuint(colo_packet_make_ack(&pkt, 1, 2, 3, out, 40), ==, 0);
        len = colo_packet_make_ack(&pkt, 1, 2, 3, out, sizeof(out));
        g_assert_true(test_frame_csum_ok(out, len, f.vnet_len));
        colo_packet_parse(&made, out, len, f.vnet_len);
        g_assert_cmpint(made.kind, ==, COLO_PACKET_TCP);
        g_assert_cmpuint(made.tcp_flags, ==, COLO_TCP_ACK);
        g_assert_cmpuint(made.seq, ==, 1);
        g_assert_cmpuint(made.ack, ==, 2);
        g_assert_cmpuint(made.win, ==, 3);
        g_assert_cmpuint(made.end - made.payload, ==, 0);
        g_assert_cmpuint(made.payload - made.l4, ==, i & 4 ? 32 : 20);
        g_assert_false(made.needs_csum || made.gso_type);
        if (i & 4) {
            g_assert_cmpmem(out + made.payload - 10, 10, TS_OPTION + 2, 10);
        }
    }
}

static bool equal(const TestFrame *a, const TestFrame *b)
{
    uint8_t *other = frame + TEST_FRAME_MAX / 2;
    size_t len_a = test_frame(frame, a);
    size_t len_b = test_frame(other, b);
    ColoPacket pkt_a, pkt_b;

    colo_packet_parse(&pkt_a, frame, len_a, a->vnet_len);
    colo_packet_parse(&pkt_b, other, len_b, b->vnet_len);
    return colo_packet_equal(&pkt_a, &pkt_b);
}

static void test_equal(void)
{
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(all_frames); i++) {
        const TestFrame *f = &all_frames[i];
        TestFrame g = *f;

        g.ttl = 3;
        g.id = 99;
        g.padding = 5;
        g.vnet_len = 12;
        if (!f->frag && f->ip_options != hop_frag) {
            g.vnet_flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        }
        if (f->proto != 6) {
            g_assert_true(equal(f, &g));
        }
        g = *f;
        g.nr_vlans = 1;
        g_assert_false(equal(f, &g));
        g = *f;
        if (g.payload_len) {
            g_autofree char *changed = g_memdup2(f->payload, f->payload_len);

            changed[g.payload_len - 1]++;
            g.payload = changed;
            g_assert_false(equal(f, &g));
            g = *f;
            g.payload_len--;
            g_assert_false(equal(f, &g));
        }
    }
}

static void test_equal_fragments(void)
{
    TestFrame f = { .proto = 17, .frag = 0x2000, .payload = "abcdefgh",
                    .payload_len = 8, .id = 1 };
    TestFrame g = f;

    g.id = 2;
    g.frag |= 0x4000;   /* DF */
    g_assert_true(equal(&f, &g));
    g.frag = 0x2001;
    g_assert_false(equal(&f, &g));
    g.frag = 0x0001;
    f.frag = 0x2001;
    g_assert_false(equal(&f, &g));
    /* IPv6: the identification is in the extension header. */
    f = all_frames[4];
    g = f;
    g.ip_options = "\54\0\1\4\0\0\0\0\21\0\0\1\0\0\0\12";
    g_assert_true(equal(&f, &g));
    g.ip_options = "\54\0\1\4\0\0\0\0\21\0\0\11\0\0\0\11";
    g_assert_false(equal(&f, &g));
}

static void test_syn_options(void)
{
    TestFrame f = { .proto = 6, .flags = COLO_TCP_SYN, .options_len = 20 };
    uint8_t a[COLO_TCP_OPTIONS_MAX], b[COLO_TCP_OPTIONS_MAX];
    ColoPacket pkt;
    unsigned n;

    f.options = TEST_SYN_OPTIONS;
    colo_packet_parse(&pkt, frame, test_frame(frame, &f), 0);
    g_assert_true(pkt.has_wscale);
    g_assert_cmpuint(pkt.wscale, ==, 7);
    n = colo_packet_syn_options(&pkt, a);
    g_assert_cmpuint(n, ==, 19);
    f.options = "\2\4\5\xb4\4\2\10\12\0\0\0\7\0\0\0\0\1\3\3\7";
    colo_packet_parse(&pkt, frame, test_frame(frame, &f), 0);
    g_assert_cmpuint(colo_packet_syn_options(&pkt, b), ==, n);
    g_assert_cmpmem(a, n, b, n);
    f.options = "\2\4\5\xb4\4\2\10\12\0\0\0\7\0\0\0\0\1\3\3\6";
    colo_packet_parse(&pkt, frame, test_frame(frame, &f), 0);
    g_assert_cmpuint(colo_packet_syn_options(&pkt, b), ==, n);
    g_assert_true(memcmp(a, b, n));
}

/* An ICMP error about a segment of the guest. */
static void test_quoted(void)
{
    uint8_t quote[8 + 20 + 8] = { 3, 4, 0, 0, 0, 0, 5, 0xb4, 0x45 };
    TestFrame f = { .proto = 1, .reply = true, .payload = quote,
                    .payload_len = sizeof(quote) };
    ColoPacket pkt, quoted;
    size_t len;

    quote[8 + 9] = 6;
    stl_be_p(quote + 8 + 12, 0x0a00020f);
    stl_be_p(quote + 8 + 16, 0x0a000202);
    stw_be_p(quote + 28, 80);
    stw_be_p(quote + 30, 40000);
    stl_be_p(quote + 32, 1000);
    len = test_frame(frame, &f);
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_true(colo_packet_quoted(&pkt, &quoted));
    g_assert_cmpuint(quoted.seq, ==, 1000);
    g_assert_cmpuint(quoted.sport, ==, 80);
    colo_packet_set_quoted_seq(&pkt, &quoted, frame, 0xfedcba98);
    g_assert_true(test_frame_csum_ok(frame, len, 0));
    g_assert_cmphex((uint32_t)ldl_be_p(frame + len - 4), ==, 0xfedcba98);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/packet/tcp", test_tcp);
    g_test_add_func("/colo/packet/extension-headers", test_extension_headers);
    g_test_add_func("/colo/packet/offload", test_offload);
    g_test_add_func("/colo/packet/malformed", test_malformed);
    g_test_add_func("/colo/packet/cut", test_cut);
    g_test_add_func("/colo/packet/every-byte", test_every_byte);
    g_test_add_func("/colo/packet/checksums", test_checksums);
    g_test_add_func("/colo/packet/sacks", test_sacks);
    g_test_add_func("/colo/packet/stamps", test_stamps);
    g_test_add_func("/colo/packet/make-ack", test_make_ack);
    g_test_add_func("/colo/packet/equal", test_equal);
    g_test_add_func("/colo/packet/equal-fragments", test_equal_fragments);
    g_test_add_func("/colo/packet/syn-options", test_syn_options);
    g_test_add_func("/colo/packet/quoted", test_quoted);
    return g_test_run();
}
