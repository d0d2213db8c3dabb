/*
 * Tests of the COLO proxy's repair of input the SVM lacks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_net.h"
#include "net/colo/repair.h"
#include "colo-frame.h"

#define A COLO_TCP_ACK
#define S COLO_TCP_SYN
#define F COLO_TCP_FIN
#define R COLO_TCP_RST

/* Segments of 100 bytes; the numbers wrap within the second. */
#define LEN     100u
#define START   0xffffff38u
#define SEQ(n)  (START + (n) * LEN)

static uint8_t frame[TEST_FRAME_MAX];
static uint8_t payload[4096];
static int64_t now;
static TestFrame base;

static ColoRepair *begin(void)
{
    now = 1000000;
    base = (TestFrame) { .proto = 6, .sport = 80, .dport = 40000,
                         .ack = 77, .win = 1000 };
    return colo_repair_new(1 << 20, 100, 10);
}

static bool in_bytes(ColoRepair *r, uint32_t seq, unsigned len, uint8_t flags)
{
    TestFrame f = base;

    f.reply = true;
    f.seq = seq;
    f.flags = flags;
    f.payload = payload;
    f.payload_len = len;
    return colo_repair_in(r, frame, test_frame(frame, &f), f.vnet_len, now);
}

/* Segments @first to @last come from the client. */
static void in(ColoRepair *r, unsigned first, unsigned last)
{
    unsigned i;

    for (i = first; i <= last; i++) {
        g_assert_true(in_bytes(r, SEQ(i), LEN, A));
    }
}

static bool out_flags(ColoRepair *r, uint32_t ack, uint8_t flags,
                      unsigned len)
{
    TestFrame f = base;

    f.seq = 5;
    f.ack = ack;
    f.flags = flags;
    f.payload = payload;
    f.payload_len = len;
    return colo_repair_out(r, frame, test_frame(frame, &f), f.vnet_len, now);
}

static bool out(ColoRepair *r, unsigned n)
{
    return out_flags(r, SEQ(n), A, 0);
}

/* An ACK of @n, with SACK blocks from the pairs of segments at @blocks. */
static bool out_sack(ColoRepair *r, unsigned n, const unsigned *blocks,
                     unsigned count)
{
    uint8_t options[40] = { 1, 1, 5, 2 + 8 * count };
    TestFrame f = base;
    unsigned i;

    for (i = 0; i < 2 * count; i++) {
        stl_be_p(options + 4 + 4 * i, SEQ(blocks[i]));
    }
    f.ack = SEQ(n);
    f.flags = A;
    f.options = options;
    f.options_len = 4 + 8 * count;
    return colo_repair_out(r, frame, test_frame(frame, &f), f.vnet_len, now);
}

/* The next frame due is the one that starts at @seq, as it was stored. */
static void expect_seq(ColoRepair *r, uint32_t seq, unsigned len)
{
    g_autofree uint8_t *got = NULL;
    TestFrame f = base;
    size_t got_len;
    ColoPacket pkt;

    got = colo_repair_pop(r, base.vnet_len, &got_len);
    g_assert_nonnull(got);
    colo_packet_parse(&pkt, got, got_len, base.vnet_len);
    g_assert_cmphex(pkt.seq, ==, seq);
    f.reply = true;
    f.seq = seq;
    f.flags = pkt.tcp_flags;
    f.payload = payload;
    f.payload_len = len;
    g_assert_cmpmem(got, got_len, frame, test_frame(frame, &f));
}

static void expect(ColoRepair *r, unsigned n)
{
    expect_seq(r, SEQ(n), LEN);
}

static void expect_none(ColoRepair *r)
{
    size_t len;

    g_assert_null(colo_repair_pop(r, base.vnet_len, &len));
}

static void test_acked(void)
{
    g_autoptr(ColoRepair) r = begin();

    g_assert_false(out(r, 0));
    in(r, 0, 4);
    g_assert_cmpuint(colo_repair_count(r), ==, 5);
    g_assert_false(out(r, 2));
    g_assert_cmpuint(colo_repair_count(r), ==, 3);
    /* half of a segment */
    g_assert_false(out_flags(r, SEQ(2) + 50, A, 0));
    g_assert_cmpuint(colo_repair_count(r), ==, 3);
    /* an ACK that was overtaken */
    g_assert_false(out(r, 1));
    g_assert_false(out(r, 5));
    g_assert_cmpuint(colo_repair_count(r), ==, 0);
    g_assert_cmpuint(colo_repair_bytes(r), ==, 0);
    /* duplicates with nothing to repeat */
    g_assert_false(out(r, 5));
    g_assert_false(out(r, 5));
    /* what the guest has is not stored */
    g_assert_false(in_bytes(r, SEQ(4), LEN, A));
    g_assert_false(colo_repair_tick(r, now + 1000));
    expect_none(r);
    /* no ACK at all */
    in(r, 5, 6);
    g_assert_false(out_flags(r, SEQ(7), 0, 0));
    g_assert_cmpuint(colo_repair_count(r), ==, 2);
}

/* The first ACK that is seen tells where the guest is. */
static void test_first(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 1, 1);
    g_assert_false(out(r, 1));
    in(r, 0, 0);
    g_assert_cmpuint(colo_repair_count(r), ==, 1);
}

static void check_hole(unsigned hole)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 9);
    g_assert_false(out(r, hole));
    g_assert_false(out(r, hole));
    g_assert_true(out(r, hole));
    expect(r, hole);
    expect_none(r);
    /* more of them don't repeat it again */
    g_assert_false(out(r, hole));
    g_assert_false(out(r, hole));
    /* but if it was lost again */
    now += 10;
    g_assert_false(out(r, hole));
    g_assert_true(out(r, hole));
    expect(r, hole);
    g_assert_false(out(r, 10));
    g_assert_cmpuint(colo_repair_count(r), ==, 0);
}

static void test_start(void)
{
    check_hole(0);
}

static void test_middle(void)
{
    check_hole(1);
    check_hole(5);
}

/* An ACK that was overtaken changes nothing. */
static void test_overtaken(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 4);
    out(r, 2);
    out(r, 2);
    g_assert_false(out(r, 1));
    g_assert_true(out(r, 2));
    expect(r, 2);
}

/* Several holes without SACK: each partial ACK tells the next one. */
static void test_partial(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 9);
    out(r, 2);
    out(r, 2);
    g_assert_true(out(r, 2));
    expect(r, 2);
    g_assert_true(out(r, 4));
    expect(r, 4);
    expect_none(r);
    /* all that was there is acknowledged: this is no partial ACK */
    in(r, 10, 12);
    g_assert_false(out(r, 10));
    g_assert_false(out(r, 11));
    expect_none(r);
}

/* The last segments: no duplicate ACK tells. */
static void test_end(void)
{
    g_autoptr(ColoRepair) r = begin();
    unsigned i;

    in(r, 0, 19);
    out(r, 10);
    g_assert_true(colo_repair_tick(r, now + 19));
    expect_none(r);
    now += 1000;
    g_assert_true(colo_repair_tick(r, now));
    expect(r, 10);
    expect_none(r);
    /* it was lost, and the rest may be */
    g_assert_true(out(r, 11));
    for (i = 11; i < 19; i++) {
        expect(r, i);
    }
    expect_none(r);
    g_assert_true(out(r, 13));
    expect(r, 19);
    expect_none(r);
    g_assert_false(out(r, 20));
    g_assert_false(colo_repair_tick(r, now + 1000));
}

/* The guest has more than was repeated: nothing was lost. */
static void test_slow(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 9);
    out(r, 0);
    now += 15;
    g_assert_false(out_flags(r, SEQ(0) + 1, A, 0));
    now += 15;
    g_assert_true(colo_repair_tick(r, now));
    expect_none(r);
    now += 1000;
    g_assert_true(colo_repair_tick(r, now));
    expect(r, 0);
    g_assert_false(out(r, 2));
    g_assert_false(out(r, 3));
    expect_none(r);
}

/* Without an ACK repetitions become rare, and end. */
static void test_backoff(void)
{
    g_autoptr(ColoRepair) r = begin();
    int64_t last = now;
    int64_t least = 20;
    unsigned count = 0;

    in(r, 0, 1);
    while (colo_repair_tick(r, ++now)) {
        size_t len;
        g_autofree uint8_t *got = colo_repair_pop(r, 0, &len);

        if (got) {
            g_assert_cmpint(now - last, >=, least);
            g_assert_cmpint(now - last, <=, 400);
            last = now;
            least = MIN(least * 2, 200);
            count++;
        }
        g_assert_cmpint(now, <, 1010000);
    }
    g_assert_cmpuint(count, ==, 16);
    g_assert_cmpuint(colo_repair_count(r), ==, 0);
}

static void test_sack(void)
{
    static const unsigned blocks[] = { 6, 7, 3, 5 };
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 9);
    /* holes at 1, 2 and 5; what lies above 7 is on its way */
    g_assert_true(out_sack(r, 1, blocks, 2));
    expect(r, 1);
    expect(r, 2);
    expect(r, 5);
    expect_none(r);
    g_assert_false(out_sack(r, 1, blocks, 2));
    /* lost again */
    now += 10;
    g_assert_true(out_sack(r, 1, blocks, 2));
    expect(r, 1);
    expect(r, 2);
    expect(r, 5);
    now += 10;
    g_assert_false(out_sack(r, 1, blocks, 2));
    expect_none(r);
}

/* Duplicate SACKs tell that a repetition was useless, not that more is lost. */
static void test_dsack(void)
{
    static const unsigned below[] = { 1, 2 };
    static const unsigned reversed[] = { 8, 5 };
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 9);
    out(r, 2);
    g_assert_false(out_sack(r, 2, below, 1));
    out(r, 3);
    g_assert_false(out_sack(r, 3, reversed, 1));
    expect_none(r);
}

/* No more than a burst at once; a frame is due once only. */
static void test_burst(void)
{
    static const unsigned blocks[] = { 49, 50 };
    g_autoptr(ColoRepair) r = begin();
    unsigned i;

    in(r, 0, 49);
    g_assert_true(out_sack(r, 0, blocks, 1));
    for (i = 0; i < 8; i++) {
        expect(r, i);
    }
    expect_none(r);
    g_assert_true(out_sack(r, 0, blocks, 1));
    expect(r, 8);
    now += 1000;
    g_assert_true(out_sack(r, 0, blocks, 1));
    for (i = 9; i < 16; i++) {
        expect(r, i);
    }
    for (i = 0; i < 8; i++) {
        expect(r, i);
    }
    expect_none(r);
}

/* SACK blocks that never change: repetitions end. */
static void test_stuck(void)
{
    static const unsigned blocks[] = { 1, 2 };
    g_autoptr(ColoRepair) r = begin();
    unsigned count = 0;
    unsigned i;

    in(r, 0, 1);
    for (i = 0; i < 40; i++) {
        now += 1000;
        if (out_sack(r, 0, blocks, 1)) {
            expect(r, 0);
            count++;
        }
    }
    g_assert_cmpuint(count, ==, 16);
}

/* What is due but acknowledged meanwhile is not given out. */
static void test_late(void)
{
    static const unsigned blocks[] = { 3, 4 };
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 4);
    g_assert_true(out_sack(r, 0, blocks, 1));
    now += 1000;
    g_assert_true(out_sack(r, 0, blocks, 1));
    g_assert_true(out(r, 2));
    expect(r, 2);
    expect_none(r);
}

/* ACKs that are no duplicates: with data, FIN, or another window. */
static void test_not_duplicate(void)
{
    g_autoptr(ColoRepair) r = begin();
    unsigned i;

    in(r, 0, 4);
    out(r, 1);
    for (i = 0; i < 5; i++) {
        base.win++;
        g_assert_false(out(r, 1));
    }
    for (i = 0; i < 5; i++) {
        g_assert_false(out_flags(r, SEQ(1), A, 10));
        g_assert_false(out_flags(r, SEQ(1), A | F, 0));
    }
    expect_none(r);
}

/* A hole the PVM has too: the segment never came, the client repeats it. */
static void test_not_stored(void)
{
    static const unsigned blocks[] = { 4, 6 };
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 1);
    in(r, 4, 5);
    out(r, 2);
    out(r, 2);
    g_assert_false(out(r, 2));
    g_assert_false(out_sack(r, 2, blocks, 1));
    expect_none(r);
}

/* The client repeats a segment, and then one with other bounds. */
static void test_client_repeats(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 3);
    in(r, 1, 1);
    g_assert_cmpuint(colo_repair_count(r), ==, 4);
    out(r, 1);
    out(r, 1);
    g_assert_false(out(r, 1));
    in_bytes(r, SEQ(1), 2 * LEN, A);
    g_assert_cmpuint(colo_repair_count(r), ==, 4);
    in_bytes(r, SEQ(1), 2 * LEN, A);
    g_assert_cmpuint(colo_repair_count(r), ==, 4);
    /* partial: 3 is lost too */
    g_assert_true(out(r, 3));
    expect(r, 3);
    expect_none(r);
    g_assert_cmpuint(colo_repair_count(r), ==, 1);
}

/* They come in any order. */
static void test_reordered(void)
{
    static const unsigned blocks[] = { 4, 5 };
    g_autoptr(ColoRepair) r = begin();

    in(r, 4, 4);
    in(r, 2, 2);
    in(r, 3, 3);
    in(r, 0, 1);
    g_assert_true(out_sack(r, 1, blocks, 1));
    expect(r, 1);
    expect(r, 2);
    expect(r, 3);
    expect_none(r);
}

static void test_fin(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 0);
    g_assert_true(in_bytes(r, SEQ(1), 0, A | F));
    out(r, 1);
    g_assert_cmpuint(colo_repair_count(r), ==, 1);
    now += 1000;
    g_assert_true(colo_repair_tick(r, now));
    expect_seq(r, SEQ(1), 0);
    g_assert_false(out_flags(r, SEQ(1) + 1, A, 0));
    g_assert_cmpuint(colo_repair_count(r), ==, 0);
}

/* SYN and RST in either direction: what was is over. */
static void test_over(void)
{
    static const uint8_t flags[] = { S, S | A, R, R | A };
    g_autoptr(ColoRepair) r = begin();
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(flags); i++) {
        in(r, 0, 3);
        g_assert_false(in_bytes(r, SEQ(4), 0, flags[i]));
        in(r, 0, 3);
        g_assert_false(out_flags(r, SEQ(0), flags[i], 0));
        g_assert_cmpuint(colo_repair_count(r), ==, 0);
    }
    /* another connection under the same ports, with any numbers */
    g_assert_true(in_bytes(r, SEQ(0) + 0x80000000u, LEN, A));
}

static void test_two(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 3);
    base.dport++;
    in(r, 2, 5);
    out(r, 2);
    out(r, 2);
    base.dport--;
    g_assert_false(out(r, 1));
    g_assert_false(out(r, 1));
    base.dport++;
    g_assert_true(out(r, 2));
    expect(r, 2);
    expect_none(r);
    out(r, 6);
    g_assert_cmpuint(colo_repair_count(r), ==, 3);
    base.dport--;
    g_assert_true(out(r, 1));
    expect(r, 1);
    expect_none(r);
}

static void test_frames_bound(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 109);
    g_assert_cmpuint(colo_repair_count(r), ==, 100);
    out(r, 9);
    out(r, 9);
    g_assert_false(out(r, 9));
    out(r, 10);
    out(r, 10);
    g_assert_true(out(r, 10));
    /* due, and evicted before it was taken */
    in(r, 110, 110);
    expect_none(r);
}

static void test_bytes_bound(void)
{
    g_autoptr(ColoRepair) r = begin();
    g_autoptr(ColoRepair) tiny = colo_repair_new(2000, 100, 10);
    unsigned i;

    for (i = 0; i < 20; i++) {
        in(tiny, i, i);
        g_assert_cmpuint(colo_repair_bytes(tiny), <=, 2000);
        g_assert_cmpuint(colo_repair_count(tiny), >, 0);
    }
    g_assert_cmpuint(colo_repair_count(tiny), <, 20);
    /* one that never fits */
    g_assert_false(in_bytes(tiny, SEQ(20), 4000, A));
    g_assert_cmpuint(colo_repair_bytes(tiny), ==, 0);
}

static void test_conns_bound(void)
{
    g_autoptr(ColoRepair) r = begin();
    unsigned i;

    for (i = 0; i < 12; i++) {
        base.dport++;
        in(r, 0, 0);
    }
    g_assert_cmpuint(colo_repair_count(r), ==, 10);
}

/* Numbers outside of any window of the connection. */
static void test_window(void)
{
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 1);
    out(r, 1);
    in_bytes(r, SEQ(1) + 0x40000000u, LEN, A);
    in_bytes(r, SEQ(1) + 0x80000000u, LEN, A);
    in_bytes(r, SEQ(1) + 0xc0000000u, LEN, A);
    g_assert_cmpuint(colo_repair_count(r), ==, 1);
    g_assert_false(out_flags(r, SEQ(1) + 0x40000000u, A, 0));
    g_assert_false(out_flags(r, SEQ(1) + 0x80000000u, A, 0));
    g_assert_cmpuint(colo_repair_count(r), ==, 1);
}

static void test_reset(void)
{
    static const unsigned blocks[] = { 3, 4 };
    g_autoptr(ColoRepair) r = begin();

    in(r, 0, 4);
    g_assert_true(out_sack(r, 0, blocks, 1));
    colo_repair_reset(r);
    expect_none(r);
    g_assert_cmpuint(colo_repair_count(r), ==, 0);
    g_assert_cmpuint(colo_repair_bytes(r), ==, 0);
    g_assert_false(colo_repair_tick(r, now + 1000));
    /* the last state of the guest's numbers is gone too */
    in(r, 0, 4);
}

/* A vnet header is part of the frame; with another length it is useless. */
static void test_vnet(void)
{
    static const unsigned blocks[] = { 3, 4 };
    g_autoptr(ColoRepair) r = begin();
    size_t len;

    base.vnet_len = 12;
    base.v6 = true;
    in(r, 0, 4);
    g_assert_true(out_sack(r, 0, blocks, 1));
    expect(r, 0);
    g_assert_null(colo_repair_pop(r, 10, &len));
    g_assert_cmpuint(colo_repair_count(r), ==, 0);
}

/* Frames that are cut short, or no TCP, or fragments. */
static void test_malformed(void)
{
    g_autoptr(ColoRepair) r = begin();
    g_autofree uint8_t *copy = NULL;
    TestFrame f = base;
    size_t len, n;

    f.reply = true;
    f.seq = SEQ(0);
    f.flags = A;
    f.payload = payload;
    f.payload_len = LEN;
    len = test_frame(frame, &f);
    for (n = 0; n < len; n++) {
        g_free(copy);
        copy = g_memdup2(frame, n);
        g_assert_false(colo_repair_in(r, copy, n, 0, now));
        g_assert_false(colo_repair_out(r, copy, n, 0, now));
        g_assert_false(colo_repair_in(r, copy, n, n + 1, now));
    }
    f.proto = 17;
    g_assert_false(colo_repair_in(r, frame, test_frame(frame, &f), 0, now));
    f.proto = 6;
    f.frag = 0x2000;
    g_assert_false(colo_repair_in(r, frame, test_frame(frame, &f), 0, now));
    expect_none(r);
    f.frag = 0;
    len = test_frame(frame, &f);
    g_free(copy);
    copy = g_malloc0(COLO_FRAME_MAX + 1);
    memcpy(copy, frame, len);
    g_assert_false(colo_repair_in(r, copy, COLO_FRAME_MAX + 1, 0, now));
    g_assert_true(colo_repair_in(r, copy, COLO_FRAME_MAX, 0, now));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/repair/acked", test_acked);
    g_test_add_func("/colo/repair/first", test_first);
    g_test_add_func("/colo/repair/overtaken", test_overtaken);
    g_test_add_func("/colo/repair/hole/start", test_start);
    g_test_add_func("/colo/repair/hole/middle", test_middle);
    g_test_add_func("/colo/repair/hole/partial", test_partial);
    g_test_add_func("/colo/repair/hole/end", test_end);
    g_test_add_func("/colo/repair/hole/not-stored", test_not_stored);
    g_test_add_func("/colo/repair/slow", test_slow);
    g_test_add_func("/colo/repair/backoff", test_backoff);
    g_test_add_func("/colo/repair/sack", test_sack);
    g_test_add_func("/colo/repair/dsack", test_dsack);
    g_test_add_func("/colo/repair/burst", test_burst);
    g_test_add_func("/colo/repair/stuck", test_stuck);
    g_test_add_func("/colo/repair/late", test_late);
    g_test_add_func("/colo/repair/not-duplicate", test_not_duplicate);
    g_test_add_func("/colo/repair/client-repeats", test_client_repeats);
    g_test_add_func("/colo/repair/reordered", test_reordered);
    g_test_add_func("/colo/repair/fin", test_fin);
    g_test_add_func("/colo/repair/over", test_over);
    g_test_add_func("/colo/repair/two", test_two);
    g_test_add_func("/colo/repair/bound/frames", test_frames_bound);
    g_test_add_func("/colo/repair/bound/bytes", test_bytes_bound);
    g_test_add_func("/colo/repair/bound/conns", test_conns_bound);
    g_test_add_func("/colo/repair/window", test_window);
    g_test_add_func("/colo/repair/reset", test_reset);
    g_test_add_func("/colo/repair/vnet", test_vnet);
    g_test_add_func("/colo/repair/malformed", test_malformed);
    return g_test_run();
}
