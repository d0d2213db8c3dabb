/*
 * Tests of the COLO proxy's comparison
 *
 * Each test feeds packets of both guests and events to a comparison and looks
 * at what it lets go, in which order, and when it asks for a checkpoint.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_net.h"
#include "net/colo/compare.h"
#include "colo-frame.h"

#define A COLO_TCP_ACK
#define S COLO_TCP_SYN
#define F COLO_TCP_FIN
#define R COLO_TCP_RST

/* Where the PVM's stream begins in most tests: it wraps soon. */
#define SEQ 0xfffffff0u
#define ACK 0xffffff00u

typedef struct Fixture {
    ColoCompare *c;
    int64_t now;
    uint64_t epoch;
    GPtrArray *out;             /* frames let go: GBytes */
    unsigned asked;             /* checkpoints */
    ColoCheckpointReason reason; /* of the last */
    uint8_t frame[TEST_FRAME_MAX];
} Fixture;

static void on_release(void *opaque, const uint8_t *frame, size_t len,
                       size_t vnet_len)
{
    Fixture *fx = opaque;

    g_ptr_array_add(fx->out, g_bytes_new(frame, len));
}

static void on_checkpoint(void *opaque, ColoCheckpointReason reason)
{
    Fixture *fx = opaque;

    fx->asked++;
    fx->reason = reason;
}

static const ColoCompareOps ops = {
    .release = on_release,
    .checkpoint = on_checkpoint,
};

static void open_fixture(Fixture *fx, const ColoCompareLimits *limits)
{
    memset(fx, 0, sizeof(*fx));
    fx->c = colo_compare_new(&ops, fx, limits);
    fx->out = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
}

static void close_fixture(Fixture *fx)
{
    ColoCompareStats stats;

    colo_compare_drop_all(fx->c);
    colo_compare_stats(fx->c, &stats);
    g_assert_cmpuint(stats.held_packets, ==, 0);
    g_assert_cmpuint(stats.held_bytes, ==, 0);
    g_assert_cmpuint(stats.svm_bytes, ==, 0);
    g_assert_cmpuint(stats.conns, ==, 0);
    colo_compare_free(fx->c);
    g_ptr_array_unref(fx->out);
}

static void commit(Fixture *fx)
{
    colo_compare_commit(fx->c, ++fx->epoch, fx->now);
}

static void pvm(Fixture *fx, const TestFrame *f)
{
    size_t len = test_frame(fx->frame, f);

    colo_compare_pvm(fx->c, fx->frame, len, f->vnet_len, fx->epoch, fx->now);
}

static void svm(Fixture *fx, const TestFrame *f)
{
    size_t len = test_frame(fx->frame, f);

    colo_compare_svm(fx->c, fx->frame, len, f->vnet_len, fx->epoch, fx->now);
}

/* Protection runs, in epoch 1, and nothing has been seen. */
static void start(Fixture *fx, const ColoCompareLimits *limits)
{
    open_fixture(fx, limits);
    colo_compare_set_mode(fx->c, COLO_COMPARE_COMPARE);
    commit(fx);
}

static TestFrame seg(uint32_t seq, uint32_t ack, uint8_t flags,
                     const char *data)
{
    return (TestFrame) {
        .proto = 6, .sport = 80, .dport = 40000, .seq = seq, .ack = ack,
        .flags = flags, .win = 1000, .payload = data,
        .payload_len = strlen(data),
    };
}

static void pvm_seg(Fixture *fx, uint32_t seq, uint32_t ack, uint8_t flags,
                    const char *data)
{
    TestFrame f = seg(seq, ack, flags, data);

    pvm(fx, &f);
}

static void svm_seg(Fixture *fx, uint32_t seq, uint32_t ack, uint8_t flags,
                    const char *data)
{
    TestFrame f = seg(seq, ack, flags, data);

    svm(fx, &f);
}

/* Epoch 2 runs; the PVM had emitted up to SEQ and acknowledged ACK. */
static void start_established(Fixture *fx, const ColoCompareLimits *limits)
{
    start(fx, limits);
    pvm_seg(fx, SEQ - 4, ACK, A, "old!");
    commit(fx);
    g_assert_cmpuint(fx->out->len, ==, 1);
    g_ptr_array_set_size(fx->out, 0);
    fx->asked = 0;
}

/* @n frames have left since the last call, and no checkpoint was wanted. */
static void expect(Fixture *fx, unsigned n)
{
    g_assert_cmpuint(fx->out->len, ==, n);
    g_assert_cmpuint(fx->asked, ==, 0);
    g_ptr_array_set_size(fx->out, 0);
}

/* Nothing has left, and a checkpoint was asked for, once. */
static void expect_asked(Fixture *fx, ColoCheckpointReason reason)
{
    g_assert_cmpuint(fx->out->len, ==, 0);
    g_assert_cmpuint(fx->asked, ==, 1);
    g_assert_cmpint(fx->reason, ==, reason);
    fx->asked = 0;
}

static void parse_out(Fixture *fx, unsigned i, ColoPacket *pkt)
{
    gsize len;
    const uint8_t *data;

    g_assert_cmpuint(i, <, fx->out->len);
    data = g_bytes_get_data(g_ptr_array_index(fx->out, i), &len);
    colo_packet_parse(pkt, data, len, 0);
    if (pkt->kind == COLO_PACKET_TCP) {
        g_assert_true(test_frame_csum_ok(data, len, 0));
    }
}

static ColoCompareStats stats_of(Fixture *fx)
{
    ColoCompareStats stats;

    colo_compare_stats(fx->c, &stats);
    return stats;
}

/* ---- TCP ---- */

static void test_same_either_first(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK, A, "hello");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, ACK, A, "hello");
    expect(&fx, 1);
    svm_seg(&fx, SEQ + 5, ACK, A, "world");
    expect(&fx, 0);
    pvm_seg(&fx, SEQ + 5, ACK, A, "world");
    expect(&fx, 1);
    g_assert_cmpuint(stats_of(&fx).svm_bytes, ==, 0);
    close_fixture(&fx);
}

static void test_segmentation(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK, A, "0123456789abcdefghij");
    svm_seg(&fx, SEQ, ACK, A, "0123456");
    svm_seg(&fx, SEQ + 7, ACK, A, "789abcdefgh");
    expect(&fx, 0);
    svm_seg(&fx, SEQ + 18, ACK, A, "ijklm");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ + 20, ACK, A, "k");
    pvm_seg(&fx, SEQ + 21, ACK, A, "l");
    pvm_seg(&fx, SEQ + 22, ACK, A, "mn");
    expect(&fx, 2);
    svm_seg(&fx, SEQ + 20, ACK, A, "klmno");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_differ(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK, A, "hello");
    svm_seg(&fx, SEQ, ACK, A, "hullo");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    /* Nothing of it leaves, whatever follows, until the commit. */
    svm_seg(&fx, SEQ, ACK, A, "hello");
    pvm_seg(&fx, SEQ, ACK, A, "hello");
    expect(&fx, 0);
    colo_compare_capture(fx.c, fx.epoch + 1);
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 2);
    /* And goes on from there. */
    pvm_seg(&fx, SEQ + 5, ACK, A, "x");
    svm_seg(&fx, SEQ + 5, ACK, A, "x");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_differ_svm_first(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK, A, "hello");
    pvm_seg(&fx, SEQ, ACK, A, "hellO and more");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    close_fixture(&fx);
}

static void test_ignored_fields(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, ACK, A, "hello");
    TestFrame g = f;

    start_established(&fx, NULL);
    f.options = "\1\1\10\12\0\0\0\5\0\0\0\6";
    f.options_len = 12;
    g.options = "\1\1\10\12\0\0\0\7\0\0\0\x8";
    g.options_len = 12;
    g.ttl = 3;
    g.id = 77;
    g.frag = 0x4000;
    g.win = 2000;
    g.flags |= COLO_TCP_PSH;
    g.padding = 9;
    pvm(&fx, &f);
    svm(&fx, &g);
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_retransmission(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    /* At the floor, bytes of an older epoch: not even looked at. */
    pvm_seg(&fx, SEQ - 4, ACK, A, "old!");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ - 1, ACK, A, "");          /* keepalive */
    expect(&fx, 1);
    pvm_seg(&fx, SEQ, ACK, A, "");              /* duplicate ACK */
    pvm_seg(&fx, SEQ, ACK, A, "");
    expect(&fx, 2);
    /* Across the floor. */
    pvm_seg(&fx, SEQ - 2, ACK, A, "d!new");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, ACK, A, "new");
    expect(&fx, 1);
    /* Of this epoch; and retransmissions of the SVM do no harm. */
    pvm_seg(&fx, SEQ, ACK, A, "new");
    expect(&fx, 1);
    svm_seg(&fx, SEQ - 4, ACK, A, "old!new");
    svm_seg(&fx, SEQ, ACK, A, "newer");
    pvm_seg(&fx, SEQ + 1, ACK, A, "ewer");
    expect(&fx, 1);
    g_assert_cmpuint(stats_of(&fx).svm_bytes, ==, 0);
    close_fixture(&fx);
}

static void test_ack_waits(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK + 1000, A, "");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, ACK + 999, A, "");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, ACK + 1500, A, "");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ, ACK + 1200, A, "");
    pvm_seg(&fx, SEQ, ACK + 1500, A, "");
    expect(&fx, 2);
    pvm_seg(&fx, SEQ, ACK + 1501, A, "");
    expect(&fx, 0);
    close_fixture(&fx);
}

/* What the SVM acknowledged in an epoch means nothing in the next one. */
static void test_ack_of_old_epoch(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK + 5000, A, "");
    commit(&fx);
    pvm_seg(&fx, SEQ, ACK + 5000, A, "");
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 1);
    pvm_seg(&fx, SEQ, ACK + 5000, A, "");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_ack_lowered(void)
{
    Fixture fx;
    ColoPacket pkt;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK + 10, A, "data");
    pvm_seg(&fx, SEQ, ACK + 300, A, "data");
    g_assert_cmpuint(fx.out->len, ==, 1);
    parse_out(&fx, 0, &pkt);
    g_assert_cmphex(pkt.ack, ==, ACK + 10);
    expect(&fx, 1);
    /* The rest of the ACK follows by itself, once, with its place now. */
    svm_seg(&fx, SEQ + 4, ACK + 299, A, "more");
    expect(&fx, 0);
    pvm_seg(&fx, SEQ + 4, ACK + 299, A, "more");
    expect(&fx, 1);
    svm_seg(&fx, SEQ + 4, ACK + 300, A, "");
    g_assert_cmpuint(fx.out->len, ==, 1);
    parse_out(&fx, 0, &pkt);
    g_assert_cmphex(pkt.ack, ==, ACK + 300);
    g_assert_cmphex(pkt.seq, ==, SEQ + 8);
    g_assert_cmpuint(colo_packet_tcp_len(&pkt), ==, 0);
    expect(&fx, 1);
    svm_seg(&fx, SEQ + 4, ACK + 301, A, "");
    expect(&fx, 0);
    g_assert_cmpuint(stats_of(&fx).acks_lowered, ==, 1);
    g_assert_cmpuint(stats_of(&fx).acks_made, ==, 1);
    close_fixture(&fx);
}

/* A later packet carries it, or the commit allows it. */
static void test_ack_owed(void)
{
    Fixture fx;
    ColoPacket pkt;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK, A, "datamore");
    pvm_seg(&fx, SEQ, ACK + 300, A, "data");
    pvm_seg(&fx, SEQ + 4, ACK + 400, A, "");
    expect(&fx, 1);
    svm_seg(&fx, SEQ + 8, ACK + 400, A, "");
    g_assert_cmpuint(fx.out->len, ==, 1);
    parse_out(&fx, 0, &pkt);
    g_assert_cmphex(pkt.ack, ==, ACK + 400);
    expect(&fx, 1);
    pvm_seg(&fx, SEQ + 4, ACK + 500, A, "more");
    expect(&fx, 1);
    commit(&fx);
    g_assert_cmpuint(fx.out->len, ==, 1);
    parse_out(&fx, 0, &pkt);
    g_assert_cmphex(pkt.ack, ==, ACK + 500);
    expect(&fx, 1);
    /* The floor is what the PVM had emitted, not what was lowered. */
    pvm_seg(&fx, SEQ + 8, ACK + 500, A, "");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_ack_lowered_partial_csum(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, ACK + 300, A, "data");
    TestFrame want = seg(SEQ, ACK, A, "data");
    g_autofree uint8_t *frame = g_malloc(TEST_FRAME_MAX);
    gsize len;
    const uint8_t *data;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK, A, "data");
    f.vnet_len = want.vnet_len = 12;
    f.vnet_flags = want.vnet_flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    pvm(&fx, &f);
    g_assert_cmpuint(fx.out->len, ==, 1);
    data = g_bytes_get_data(g_ptr_array_index(fx.out, 0), &len);
    g_assert_cmpmem(data, len, frame, test_frame(frame, &want));
    close_fixture(&fx);
}

#define SACK(l, r) "\1\1\5\12\xff\xff\xff" l "\xff\xff\xff" r

static void test_sacks(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, ACK, A, "");
    ColoPacket pkt;

    start_established(&fx, NULL);
    f.options = SACK("\x30", "\x40");
    f.options_len = 12;
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.nr_sacks, ==, 0);
    expect(&fx, 1);
    /* The SVM has more of it. */
    f.options = SACK("\x20", "\x50");
    svm(&fx, &f);
    f.options = SACK("\x30", "\x40");
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.nr_sacks, ==, 1);
    expect(&fx, 1);
    f.options = SACK("\x30", "\x51");
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.nr_sacks, ==, 0);
    expect(&fx, 1);
    /* Committed: the SVM has what the PVM had, and nothing else. */
    f.options = SACK("\x80", "\x90");
    svm(&fx, &f);
    commit(&fx);
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.nr_sacks, ==, 0);
    expect(&fx, 1);
    f.options = SACK("\x30", "\x51");
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.nr_sacks, ==, 1);
    expect(&fx, 1);
    close_fixture(&fx);
}

/* The SYN-ACK both guests answer with, and the end of the handshake. */
static void shake_hands(Fixture *fx, uint32_t isn, uint32_t svm_isn)
{
    TestFrame f = seg(isn, ACK, S | A, "");

    f.options = TEST_SYN_OPTIONS;
    f.options_len = TEST_SYN_OPTIONS_LEN;
    pvm(fx, &f);
    expect(fx, 0);
    f.seq = svm_isn;
    svm(fx, &f);
    expect(fx, 1);
}

static void test_window(void)
{
    Fixture fx;
    TestFrame f;
    ColoPacket pkt;

    start(&fx, NULL);
    shake_hands(&fx, SEQ, 5);
    f = seg(SEQ + 1, ACK, A, "");
    f.win = 400;
    svm(&fx, &f);
    f.win = 500;
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.win, ==, 400);
    expect(&fx, 1);
    f.win = 300;
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.win, ==, 300);
    expect(&fx, 1);
    f.win = 900;
    svm(&fx, &f);
    commit(&fx);
    f.win = 800;
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.win, ==, 500);
    expect(&fx, 1);
    close_fixture(&fx);
}

/* Whether the scale is in force is not known of a SYN that offers one. */
static void test_window_scale_unknown(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, 0, S, "");
    ColoPacket pkt;

    start(&fx, NULL);
    f.options = TEST_SYN_OPTIONS;
    f.options_len = TEST_SYN_OPTIONS_LEN;
    pvm(&fx, &f);
    f.seq = 5;
    svm(&fx, &f);
    expect(&fx, 1);
    f = seg(SEQ + 1, ACK, A, "");
    f.win = 100;
    svm(&fx, &f);
    f.win = 500;
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.win, ==, 500);
    expect(&fx, 1);
    close_fixture(&fx);
}

/* A window the SVM has closed opens when the SVM opens it. */
static void test_window_opens(void)
{
    Fixture fx;
    TestFrame f;
    ColoPacket pkt;

    start(&fx, NULL);
    shake_hands(&fx, SEQ, 5);
    f = seg(SEQ + 1, ACK + 1000, A, "");
    f.win = 0;
    svm(&fx, &f);
    f.win = 500;
    pvm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.win, ==, 0);
    expect(&fx, 1);
    f.win = 3;
    svm(&fx, &f);
    expect(&fx, 0);
    f.win = 100;
    svm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmpuint(pkt.win, ==, 100);
    g_assert_cmphex(pkt.ack, ==, ACK + 1000);
    expect(&fx, 1);
    f.win = 500;
    svm(&fx, &f);
    expect(&fx, 0);
    close_fixture(&fx);
}

/* An ACK that follows a lowered one offers no more than the SVM either. */
static void test_owed_window(void)
{
    Fixture fx;
    TestFrame f;
    ColoPacket pkt;

    start(&fx, NULL);
    shake_hands(&fx, SEQ, 5);
    svm_seg(&fx, SEQ + 1, ACK, A, "data");
    pvm_seg(&fx, SEQ + 1, ACK + 10, A, "data");
    expect(&fx, 1);
    f = seg(SEQ + 5, ACK + 10, A, "");
    f.win = 999;
    svm(&fx, &f);
    parse_out(&fx, 0, &pkt);
    g_assert_cmphex(pkt.ack, ==, ACK + 10);
    g_assert_cmpuint(pkt.win, ==, 999);
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_syn(void)
{
    Fixture fx;
    TestFrame f;

    start(&fx, NULL);
    shake_hands(&fx, SEQ, 1234);
    /* Retransmissions on either side; then the stream. */
    f = seg(1234, ACK, S | A, "");
    f.options = TEST_SYN_OPTIONS;
    f.options_len = TEST_SYN_OPTIONS_LEN;
    svm(&fx, &f);
    f.seq = SEQ;
    pvm(&fx, &f);
    expect(&fx, 1);
    svm_seg(&fx, SEQ + 1, ACK, A, "banner");
    pvm_seg(&fx, SEQ + 1, ACK, A, "banner");
    expect(&fx, 1);
    /* Again in the next epoch: both guests have the same number now. */
    commit(&fx);
    svm(&fx, &f);
    expect(&fx, 0);
    pvm(&fx, &f);
    expect(&fx, 1);
    fx.now += 100000;
    colo_compare_tick(fx.c, fx.now);
    expect(&fx, 0);
    f.ack++;
    pvm(&fx, &f);
    expect(&fx, 0);
    svm(&fx, &f);
    expect(&fx, 1);
    f.options_len = 4;
    pvm(&fx, &f);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    close_fixture(&fx);
}

/* RFC 7413: data in a SYN is content. */
static void test_syn_data(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, 0, S, "data");

    start(&fx, NULL);
    pvm(&fx, &f);
    svm(&fx, &f);
    expect(&fx, 1);
    f.seq += 100;
    pvm(&fx, &f);
    f.payload = "dato";
    svm(&fx, &f);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    close_fixture(&fx);
}

/* A late SYN of a committed epoch does not touch what the SVM is up to. */
static void test_syn_late(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, 0, S, "");
    size_t len;

    start(&fx, NULL);
    svm(&fx, &f);
    f.seq = 5000;
    len = test_frame(fx.frame, &f);
    colo_compare_pvm(fx.c, fx.frame, len, 0, 0, fx.now);
    expect(&fx, 1);
    f.seq = 777;
    pvm(&fx, &f);
    expect(&fx, 1);
    close_fixture(&fx);
}

static void check_syn_differs(const char *options, unsigned len,
                              uint8_t flags)
{
    Fixture fx;
    TestFrame f = seg(SEQ, ACK, S | A, "");

    start(&fx, NULL);
    f.options = TEST_SYN_OPTIONS;
    f.options_len = TEST_SYN_OPTIONS_LEN;
    pvm(&fx, &f);
    f.options = options;
    f.options_len = len;
    f.flags = flags;
    f.seq = 1;
    svm(&fx, &f);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    commit(&fx);
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_syn_differs(void)
{
    check_syn_differs("\2\4\5\xb5\4\2\10\12\0\0\0\1\0\0\0\0\1\3\3\7", 20,
                      S | A);                           /* MSS */
    check_syn_differs("\2\4\5\xb4\4\2\10\12\0\0\0\1\0\0\0\0\1\3\3\6", 20,
                      S | A);                           /* scale */
    check_syn_differs("\2\4\5\xb4\1\1\10\12\0\0\0\1\0\0\0\0\1\3\3\7", 20,
                      S | A);                           /* no SACK */
    check_syn_differs("\2\4\5\xb4\4\2\1\1\1\3\3\7", 12, S | A); /* no stamps */
    check_syn_differs(TEST_SYN_OPTIONS, 20, S | A | COLO_TCP_ECE);
    check_syn_differs(TEST_SYN_OPTIONS, 20, S);
}

static void test_syn_stamps_alike(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, 0, S, "");

    start(&fx, NULL);
    f.options = "\2\4\5\xb4\4\2\10\12\0\0\0\1\0\0\0\0\1\3\3\7";
    f.options_len = 20;
    pvm(&fx, &f);
    f.options = "\2\4\5\xb4\4\2\10\12\0\0\1\1\0\0\0\0\1\3\3\7";
    f.seq = 99;
    svm(&fx, &f);
    expect(&fx, 1);
    close_fixture(&fx);
}

/* The client must not see a SYN-ACK for a SYN only the PVM got. */
static void test_syn_ack_ack(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, ACK, S | A, "");

    start(&fx, NULL);
    f.ack = ACK - 70000;
    svm(&fx, &f);
    f.ack = ACK;
    pvm(&fx, &f);
    expect(&fx, 0);
    close_fixture(&fx);
}

static void test_port_reuse(void)
{
    Fixture fx;
    uint32_t isn = SEQ;
    unsigned i;

    start(&fx, NULL);
    for (i = 0; i < 4; i++) {
        shake_hands(&fx, isn, 77 * i);
        svm_seg(&fx, isn + 1, ACK, A | F, "bye");
        pvm_seg(&fx, isn + 1, ACK, A | F, "bye");
        expect(&fx, 1);
        isn += 0x70000000;
        if (i == 1) {
            commit(&fx);
        }
    }
    close_fixture(&fx);
}

/* The SVM already speaks in the next connection under these ports. */
static void test_port_reuse_svm_ahead(void)
{
    Fixture fx;
    TestFrame f = seg(7777, ACK + 9, S | A, "");

    start(&fx, NULL);
    shake_hands(&fx, SEQ, 5);
    svm_seg(&fx, SEQ + 1, ACK, A | F, "bye");
    svm(&fx, &f);
    expect(&fx, 0);
    pvm_seg(&fx, SEQ + 1, ACK, A | F, "bye");
    expect(&fx, 1);
    f.seq = 100000;
    pvm(&fx, &f);
    expect(&fx, 1);
    svm_seg(&fx, 100001, ACK + 9, A, "new");
    pvm_seg(&fx, 100001, ACK + 9, A, "new");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_fin(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK, A | F, "end");
    svm_seg(&fx, SEQ, ACK, A, "end");
    expect(&fx, 0);
    svm_seg(&fx, SEQ + 3, ACK, A | F, "");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ + 3, ACK, A | F, "");      /* again */
    pvm_seg(&fx, SEQ + 4, ACK, A, "");
    expect(&fx, 2);
    commit(&fx);
    pvm_seg(&fx, SEQ, ACK, A | F, "end");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_fin_differs(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK, A | F, "end");
    svm_seg(&fx, SEQ, ACK, A, "ending");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    close_fixture(&fx);
    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK, A | F, "end");
    pvm_seg(&fx, SEQ, ACK, A, "ending");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    close_fixture(&fx);
    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK, A | F, "");
    pvm_seg(&fx, SEQ, ACK, A, "data");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    close_fixture(&fx);
}

static void test_rst(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ, 0, R, "");
    expect(&fx, 0);
    svm_seg(&fx, SEQ + 1, 0, R, "");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, 0, R, "");
    expect(&fx, 1);
    svm_seg(&fx, SEQ + 2, 0, R, "");
    commit(&fx);
    pvm_seg(&fx, SEQ + 2, 0, R, "");            /* of another epoch */
    expect(&fx, 0);
    svm_seg(&fx, SEQ + 2, 0, R, "");
    expect(&fx, 1);
    fx.now += 100000;
    colo_compare_tick(fx.c, fx.now);
    expect(&fx, 0);
    svm_seg(&fx, SEQ + 3, 0, R, "");
    pvm_seg(&fx, SEQ + 3, 0, R, "why");         /* can't be judged */
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TCP);
    close_fixture(&fx);
    /* A closed port: the client's numbers are all there is. */
    start(&fx, NULL);
    svm_seg(&fx, 0, 500, R | A, "");
    pvm_seg(&fx, 0, 500, R | A, "");
    svm_seg(&fx, 0, 400, R | A, "");
    pvm_seg(&fx, 0, 400, R | A, "");
    expect(&fx, 2);
    pvm_seg(&fx, 0, 600, R | A, "");
    expect(&fx, 0);
    close_fixture(&fx);
}

/* A connection that is older than all that was seen of it. */
static void test_no_floor(void)
{
    Fixture fx;

    start(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK, A, "data");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, ACK, A, "data");
    expect(&fx, 1);
    close_fixture(&fx);
    start(&fx, NULL);
    svm_seg(&fx, SEQ, ACK, A, "data");
    pvm_seg(&fx, SEQ - 2, ACK, A, "ordata");
    pvm_seg(&fx, SEQ + 4, ACK, A, "");
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 2);
    pvm_seg(&fx, SEQ, ACK, A, "data");
    expect(&fx, 1);
    close_fixture(&fx);
    start(&fx, NULL);
    pvm_seg(&fx, SEQ, ACK, A, "");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, ACK, A, "");
    expect(&fx, 1);
    close_fixture(&fx);
}

/* What left before protection started is the floor. */
static void test_open(void)
{
    Fixture fx;

    open_fixture(&fx, NULL);
    pvm_seg(&fx, SEQ - 4, ACK, A, "data");
    expect(&fx, 1);
    colo_compare_set_mode(fx.c, COLO_COMPARE_COMPARE);
    pvm_seg(&fx, SEQ - 4, ACK, A, "data");
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 1);
    pvm_seg(&fx, SEQ - 4, ACK, A, "data");
    expect(&fx, 1);
    close_fixture(&fx);
}

/* Something of the stream is missing: what follows can't be judged. */
static void test_gap(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ + 4, ACK, A, "data");
    pvm_seg(&fx, SEQ + 4, ACK, A, "data");
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 1);
    close_fixture(&fx);
}

/*
 * A former secondary's SYN was in the guest's numbering: what follows it, in
 * the wire's, must not pass for something old.
 */
static void check_renumbered(uint32_t isn)
{
    Fixture fx;
    TestFrame f = seg(isn, ACK, S | A, "");

    open_fixture(&fx, NULL);
    pvm(&fx, &f);
    expect(&fx, 1);
    colo_compare_set_mode(fx.c, COLO_COMPARE_COMPARE);
    commit(&fx);
    pvm_seg(&fx, SEQ, ACK, A | F, "data");
    expect(&fx, 0);
    svm_seg(&fx, SEQ, ACK, A | F, "data");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ, ACK, A | F, "data");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_renumbered(void)
{
    check_renumbered(SEQ + 10000);
    check_renumbered(SEQ - 10000);
    check_renumbered(SEQ + 1);
}

/* No stack sends again what is older than the largest window. */
static void test_too_old(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    pvm_seg(&fx, SEQ - (1u << 30), ACK, A, "data");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ - (1u << 30) - 1, ACK, A, "data");
    expect(&fx, 0);
    close_fixture(&fx);
}

/* What was held while the peer was lost is part of the floor. */
static void check_lost_floor(size_t max_bytes, bool dropped)
{
    ColoCompareLimits limits = { .max_bytes = max_bytes };
    TestFrame f = seg(SEQ - 10000, ACK, S | A, "");
    Fixture fx;

    start_established(&fx, NULL);
    colo_compare_set_limits(fx.c, &limits);
    colo_compare_set_mode(fx.c, COLO_COMPARE_LOST);
    pvm(&fx, &f);
    colo_compare_release_all(fx.c);
    colo_compare_set_limits(fx.c, NULL);
    expect(&fx, !dropped);
    colo_compare_set_mode(fx.c, COLO_COMPARE_COMPARE);
    commit(&fx);
    pvm_seg(&fx, SEQ - 10000 + 1, ACK, A, "data");
    expect(&fx, 0);
    close_fixture(&fx);
}

static void test_lost_floor(void)
{
    check_lost_floor(0, false);
    check_lost_floor(100, true);
}

/* Something of the SVM's stream is missing. */
static void test_svm_gap(void)
{
    Fixture fx;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ, ACK, A, "0123");
    svm_seg(&fx, SEQ + 8, ACK, A, "89ab");
    pvm_seg(&fx, SEQ, ACK, A, "0123");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ + 4, ACK, A, "4567");
    expect(&fx, 0);
    svm_seg(&fx, SEQ + 4, ACK, A, "456789ab");
    expect(&fx, 1);
    pvm_seg(&fx, SEQ + 8, ACK, A, "89ab");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_big_segment(void)
{
    Fixture fx;
    g_autofree uint8_t *data = g_malloc(60000);
    TestFrame f = seg(SEQ, ACK, A, "");
    unsigned i;

    for (i = 0; i < 60000; i++) {
        data[i] = i * 7 >> 3;
    }
    start_established(&fx, NULL);
    f.payload = data;
    f.payload_len = 60000;
    f.vnet_len = 12;
    f.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    f.gso_size = 1448;
    pvm(&fx, &f);
    f.vnet_len = 0;
    f.payload_len = 1000;
    for (i = 0; i < 60; i++) {
        expect(&fx, 0);
        svm(&fx, &f);
        f.seq += 1000;
        f.payload = (const uint8_t *)f.payload + 1000;
    }
    expect(&fx, 1);
    close_fixture(&fx);
}

/* Both streams cut at random, with retransmissions: no checkpoint. */
static void test_random_segmentation(void)
{
    enum { LEN = 200000, MAX = 3000 };
    g_autofree uint8_t *data = g_malloc(LEN);
    Fixture fx;
    uint32_t at[2] = { 0, 0 };
    unsigned i;

    for (i = 0; i < LEN; i++) {
        data[i] = g_test_rand_int();
    }
    start_established(&fx, NULL);
    while (at[0] < LEN || at[1] < LEN) {
        unsigned side = g_test_rand_int() & 1;
        uint32_t back = MIN(at[side], g_test_rand_int_range(0, 50));
        uint32_t from = at[side] - (g_test_rand_bit() ? 0 : back);
        uint32_t len = MIN(g_test_rand_int_range(0, MAX), LEN - from);
        TestFrame f = seg(SEQ + from, ACK + at[side] / 10, A, "");

        f.payload = data + from;
        f.payload_len = len;
        if (side) {
            svm(&fx, &f);
        } else {
            pvm(&fx, &f);
        }
        at[side] = MAX(at[side], from + len);
    }
    svm_seg(&fx, SEQ + LEN, ACK + LEN, A, "");
    g_assert_cmpuint(fx.asked, ==, 0);
    g_assert_cmpuint(stats_of(&fx).held_packets, ==, 0);
    g_assert_cmpuint(stats_of(&fx).svm_bytes, ==, 0);
    close_fixture(&fx);
}

/* ---- datagrams ---- */

static void check_datagram(TestFrame f, ColoCheckpointReason reason)
{
    Fixture fx;
    g_autofree uint8_t *changed = g_memdup2(f.payload, f.payload_len);
    TestFrame g = f;

    changed[f.payload_len - 1] ^= 1;
    start(&fx, NULL);
    pvm(&fx, &f);
    expect(&fx, 0);
    svm(&fx, &f);
    expect(&fx, 1);
    svm(&fx, &f);
    svm(&fx, &f);
    expect(&fx, 0);
    pvm(&fx, &f);
    pvm(&fx, &f);
    expect(&fx, 2);
    g.ttl = 9;
    g.id = f.frag ? f.id : 10;
    pvm(&fx, &f);
    svm(&fx, &g);
    expect(&fx, 1);
    g.payload = changed;
    pvm(&fx, &f);
    svm(&fx, &g);
    expect_asked(&fx, reason);
    commit(&fx);
    expect(&fx, 1);
    svm(&fx, &f);
    pvm(&fx, &g);
    expect_asked(&fx, reason);
    close_fixture(&fx);
}

static void test_datagrams(void)
{
    TestFrame f = { .proto = 17, .sport = 53, .dport = 53,
                    .payload = "reply", .payload_len = 5 };
    TestFrame ping = { .proto = 1, .payload = "\0\0\0\0\0\7\0\1pong",
                       .payload_len = 12 };

    check_datagram(f, COLO_CHECKPOINT_REASON_UDP);
    f.v6 = true;
    check_datagram(f, COLO_CHECKPOINT_REASON_UDP);
    f.nr_vlans = 2;
    check_datagram(f, COLO_CHECKPOINT_REASON_UDP);
    check_datagram(ping, COLO_CHECKPOINT_REASON_ICMP);
    ping.v6 = true;
    ping.proto = 58;
    ping.payload = "\201\0\0\0\0\7\0\1pong";
    check_datagram(ping, COLO_CHECKPOINT_REASON_ICMP);
    f.v6 = false;
    f.proto = 132;
    check_datagram(f, COLO_CHECKPOINT_REASON_OTHER);
    f.proto = 51;
    check_datagram(f, COLO_CHECKPOINT_REASON_OTHER);
    f.proto = 17;
    f.frag = 0x2000;
    f.payload_len = 4;
    f.vnet_len = 12;
    check_datagram(f, COLO_CHECKPOINT_REASON_OTHER);
}

static void test_udp_checksum(void)
{
    Fixture fx;
    TestFrame f = { .proto = 17, .sport = 1, .dport = 2, .payload = "a",
                    .payload_len = 1 };
    TestFrame g = f;

    start(&fx, NULL);
    g.vnet_len = 12;
    g.vnet_flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    pvm(&fx, &f);
    svm(&fx, &g);
    pvm(&fx, &g);
    svm(&fx, &f);
    expect(&fx, 2);
    close_fixture(&fx);
}

static size_t put_arp(uint8_t *arp, uint8_t target)
{
    static const uint8_t head[] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2, 3,
        8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
    };

    memset(arp, 0, 60);
    memcpy(arp, head, sizeof(head));
    arp[41] = target;
    return 60;
}

static void both_raw(Fixture *fx, const uint8_t *p, const uint8_t *s,
                     size_t len)
{
    colo_compare_pvm(fx->c, p, len, 0, fx->epoch, fx->now);
    colo_compare_svm(fx->c, s, len, 0, fx->epoch, fx->now);
}

static void test_arp(void)
{
    Fixture fx;
    uint8_t p[60], s[60];

    start(&fx, NULL);
    put_arp(p, 1);
    put_arp(s, 1);
    s[59] = 0x55;                               /* padding */
    both_raw(&fx, p, s, 60);
    expect(&fx, 1);
    /* How often does not matter. */
    colo_compare_pvm(fx.c, p, 60, 0, fx.epoch, fx.now);
    colo_compare_pvm(fx.c, p, 60, 0, fx.epoch, fx.now);
    expect(&fx, 2);
    colo_compare_svm(fx.c, p, 60, 0, fx.epoch, fx.now);
    fx.now += 10000;
    colo_compare_tick(fx.c, fx.now);
    expect(&fx, 0);
    commit(&fx);
    colo_compare_pvm(fx.c, p, 60, 0, fx.epoch, fx.now);
    expect(&fx, 0);
    colo_compare_svm(fx.c, s, 60, 0, fx.epoch, fx.now);
    expect(&fx, 1);
    commit(&fx);
    /* Two requests cross: they are flows of their own. */
    put_arp(s, 2);
    both_raw(&fx, p, s, 60);
    expect(&fx, 0);
    both_raw(&fx, s, p, 60);
    expect(&fx, 2);
    commit(&fx);
    s[30] = 7;
    put_arp(p, 2);
    both_raw(&fx, p, s, 60);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OTHER);
    close_fixture(&fx);
}

static void test_opaque(void)
{
    Fixture fx;
    uint8_t p[60] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x88, 0xcc };
    uint8_t s[60];

    start(&fx, NULL);
    memcpy(s, p, 60);
    both_raw(&fx, p, s, 60);
    both_raw(&fx, p, s, 3);
    both_raw(&fx, p, s, 0);
    expect(&fx, 3);
    s[59]++;
    both_raw(&fx, p, s, 60);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OTHER);
    close_fixture(&fx);
}

/* A vnet header on one side only, or beyond the frame. */
static void test_vnet_mismatch(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, ACK, A, "data");
    size_t len = test_frame(fx.frame, &f);

    start_established(&fx, NULL);
    test_frame(fx.frame, &f);
    colo_compare_pvm(fx.c, fx.frame, len, 12, fx.epoch, fx.now);
    colo_compare_svm(fx.c, fx.frame, len, 0, fx.epoch, fx.now);
    colo_compare_pvm(fx.c, fx.frame, 5, 12, fx.epoch, fx.now);
    colo_compare_svm(fx.c, fx.frame, 5, SIZE_MAX, fx.epoch, fx.now);
    commit(&fx);
    g_assert_cmpuint(fx.out->len, ==, 2);
    close_fixture(&fx);
}

static void frag(Fixture *fx, bool from_pvm, uint16_t id, uint16_t off,
                 bool more, const char *data)
{
    TestFrame f = { .proto = 17, .id = id, .bad_csum = true,
                    .frag = off | (more ? 0x2000 : 0),
                    .sport = 1, .dport = 2, .payload = data,
                    .payload_len = strlen(data) };

    if (from_pvm) {
        pvm(fx, &f);
    } else {
        svm(fx, &f);
    }
}

static void test_fragments(void)
{
    Fixture fx;

    start(&fx, NULL);
    frag(&fx, true, 100, 0, true, "firstone");
    frag(&fx, true, 100, 2, false, "rest");
    frag(&fx, false, 7, 0, true, "firstone");
    frag(&fx, false, 7, 2, false, "rest");
    expect(&fx, 2);
    /* Two datagrams, of which the SVM's are put together otherwise. */
    frag(&fx, true, 101, 0, true, "firstone");
    frag(&fx, true, 102, 0, true, "firstone");
    frag(&fx, true, 101, 2, false, "rest");
    frag(&fx, false, 8, 0, true, "firstone");
    frag(&fx, false, 9, 0, true, "firstone");
    expect(&fx, 2);
    frag(&fx, false, 9, 2, false, "rest");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OTHER);
    close_fixture(&fx);
}

/* ---- epochs ---- */

static void udp(Fixture *fx, bool from_pvm, uint64_t epoch, uint16_t port,
                const char *data)
{
    TestFrame f = { .proto = 17, .sport = port, .dport = 9, .payload = data,
                    .payload_len = strlen(data) };
    size_t len = test_frame(fx->frame, &f);

    if (from_pvm) {
        colo_compare_pvm(fx->c, fx->frame, len, 0, epoch, fx->now);
    } else {
        colo_compare_svm(fx->c, fx->frame, len, 0, epoch, fx->now);
    }
}

static void test_commit_order(void)
{
    Fixture fx;
    unsigned i;

    start(&fx, NULL);
    for (i = 0; i < 20; i++) {
        char data[8];

        snprintf(data, sizeof(data), "%02u", i);
        udp(&fx, true, 1 + i / 10, 100 + i % 3, data);
    }
    expect(&fx, 0);
    colo_compare_capture(fx.c, 2);
    colo_compare_commit(fx.c, 2, 0);
    g_assert_cmpuint(fx.out->len, ==, 10);
    colo_compare_commit(fx.c, 3, 0);
    g_assert_cmpuint(fx.out->len, ==, 20);
    for (i = 0; i < 20; i++) {
        ColoPacket pkt;

        parse_out(&fx, i, &pkt);
        g_assert_cmpuint((pkt.buf[pkt.payload] - '0') * 10 +
                         pkt.buf[pkt.payload + 1] - '0', ==, i);
    }
    close_fixture(&fx);
}

static void test_epochs_do_not_mix(void)
{
    Fixture fx;

    start(&fx, NULL);                           /* epoch 1 runs */
    udp(&fx, true, 2, 1, "a");
    udp(&fx, false, 1, 1, "a");                 /* not for epoch 2 */
    expect(&fx, 0);
    colo_compare_commit(fx.c, 2, 0);
    expect(&fx, 0);
    udp(&fx, false, 1, 1, "a");                 /* late */
    expect(&fx, 0);
    g_assert_cmpuint(stats_of(&fx).svm_bytes, ==, 0);
    udp(&fx, false, 2, 1, "a");
    expect(&fx, 1);
    udp(&fx, true, 1, 1, "b");                  /* late: committed */
    expect(&fx, 1);
    udp(&fx, false, 3, 1, "c");                 /* early: kept */
    udp(&fx, true, 3, 1, "c");
    expect(&fx, 0);
    colo_compare_commit(fx.c, 3, 0);
    expect(&fx, 1);
    udp(&fx, false, 3, 1, "d");
    colo_compare_commit(fx.c, 3, 0);            /* known already */
    colo_compare_commit(fx.c, 1, 0);
    udp(&fx, true, 3, 1, "d");
    expect(&fx, 1);
    g_assert_cmpuint(stats_of(&fx).held_packets, ==, 0);
    close_fixture(&fx);
}

/* A late packet of a committed epoch raises the floor of a connection. */
static void test_late_floor(void)
{
    Fixture fx;
    TestFrame f = seg(SEQ, ACK + 7, A, "late");
    size_t len;

    start_established(&fx, NULL);
    svm_seg(&fx, SEQ + 4, ACK + 7, A, "next");
    pvm_seg(&fx, SEQ - 4, ACK, A, "old!");
    expect(&fx, 1);
    len = test_frame(fx.frame, &f);
    colo_compare_pvm(fx.c, fx.frame, len, 0, fx.epoch - 1, fx.now);
    expect(&fx, 1);
    pvm_seg(&fx, SEQ + 4, ACK + 7, A, "next");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_asks_once(void)
{
    Fixture fx;

    start(&fx, NULL);
    udp(&fx, true, 1, 1, "a");
    udp(&fx, false, 1, 1, "b");
    udp(&fx, true, 1, 2, "a");
    udp(&fx, false, 1, 2, "b");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_UDP);
    g_assert_cmpuint(stats_of(&fx).divergences[COLO_CHECKPOINT_REASON_UDP],
                     ==, 2);
    colo_compare_abort(fx.c);
    udp(&fx, true, 1, 3, "a");
    udp(&fx, false, 1, 3, "b");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_UDP);
    commit(&fx);
    expect(&fx, 3);
    colo_compare_capture(fx.c, 3);
    udp(&fx, true, 2, 1, "a");
    udp(&fx, false, 2, 1, "b");
    expect(&fx, 0);
    close_fixture(&fx);
}

static void test_hold(void)
{
    Fixture fx;

    open_fixture(&fx, NULL);
    colo_compare_set_mode(fx.c, COLO_COMPARE_HOLD);
    commit(&fx);
    udp(&fx, true, 1, 1, "a");
    udp(&fx, false, 1, 1, "a");
    pvm_seg(&fx, SEQ, ACK, A, "data");
    svm_seg(&fx, SEQ, ACK, A, "data");
    fx.now += 100000;
    colo_compare_tick(fx.c, fx.now);
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 2);
    {
        TestFrame f = seg(SEQ, ACK, A, "data");
        size_t len = test_frame(fx.frame, &f);

        /* Even what is at the floor. */
        colo_compare_pvm(fx.c, fx.frame, len, 0, 3, fx.now);
    }
    commit(&fx);
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 1);
    /* Comparison takes over at a commit, floors known. */
    colo_compare_set_mode(fx.c, COLO_COMPARE_COMPARE);
    udp(&fx, true, 4, 1, "a");
    udp(&fx, false, 4, 1, "a");
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 1);
    pvm_seg(&fx, SEQ, ACK, A, "data");
    expect(&fx, 1);
    udp(&fx, true, 5, 1, "a");
    udp(&fx, false, 5, 1, "a");
    expect(&fx, 1);
    colo_compare_set_mode(fx.c, COLO_COMPARE_HOLD);
    udp(&fx, true, 5, 1, "a");
    udp(&fx, false, 5, 1, "a");
    expect(&fx, 0);
    close_fixture(&fx);
}

static void test_before_first_commit(void)
{
    Fixture fx;

    open_fixture(&fx, NULL);
    colo_compare_set_mode(fx.c, COLO_COMPARE_COMPARE);
    udp(&fx, true, 1, 1, "a");
    udp(&fx, false, 1, 1, "a");
    expect(&fx, 0);
    colo_compare_commit(fx.c, 1, 0);
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_lost(void)
{
    ColoCompareLimits limits = { .max_bytes = 4000 };
    ColoCompareStats stats;
    Fixture fx;
    unsigned i;

    start(&fx, &limits);
    udp(&fx, true, 1, 1, "a");
    colo_compare_set_mode(fx.c, COLO_COMPARE_LOST);
    udp(&fx, false, 1, 1, "a");
    commit(&fx);
    expect(&fx, 0);
    for (i = 0; i < 100; i++) {
        udp(&fx, true, 1, 1, "b");
    }
    udp(&fx, true, 1, 1, "z");
    stats = stats_of(&fx);
    g_assert_cmpuint(stats.held_bytes, <=, 4000);
    g_assert_cmpuint(stats.dropped + stats.held_packets, ==, 102);
    expect(&fx, 0);
    colo_compare_release_all(fx.c);
    g_assert_cmpuint(fx.out->len, ==, stats.held_packets);
    udp(&fx, true, 1, 1, "c");
    g_assert_cmpuint(fx.out->len, ==, stats.held_packets + 1);
    close_fixture(&fx);
}

/* Protection starts anew: what an SVM emitted before does not count. */
static void test_restart(void)
{
    Fixture fx;

    start(&fx, NULL);
    udp(&fx, false, 1, 1, "a");
    udp(&fx, false, 2, 1, "a");
    colo_compare_release_all(fx.c);
    colo_compare_set_mode(fx.c, COLO_COMPARE_COMPARE);
    colo_compare_commit(fx.c, 1, 0);
    udp(&fx, true, 1, 1, "a");
    expect(&fx, 0);
    udp(&fx, false, 1, 1, "a");
    expect(&fx, 1);
    colo_compare_commit(fx.c, 2, 0);
    udp(&fx, true, 2, 1, "a");
    expect(&fx, 0);
    close_fixture(&fx);
}

static void test_drop_all(void)
{
    Fixture fx;

    start(&fx, NULL);
    udp(&fx, true, 1, 1, "a");
    colo_compare_drop_all(fx.c);
    udp(&fx, true, 1, 1, "b");
    commit(&fx);
    expect(&fx, 0);
    g_assert_cmpuint(stats_of(&fx).dropped, ==, 2);
    close_fixture(&fx);
}

static void count_taken(void *opaque, const uint8_t *frame, size_t len,
                        size_t vnet_len, uint64_t epoch)
{
    unsigned *n = opaque;

    (*n)++;
    g_assert_cmpuint(epoch, ==, *n);
    g_assert_cmpuint(len, ==, 14 + 20 + 8 + 1);
}

static void test_take_all(void)
{
    Fixture fx;
    unsigned taken = 0;

    start(&fx, NULL);
    udp(&fx, true, 1, 1, "a");
    udp(&fx, true, 2, 1, "b");
    colo_compare_take_all(fx.c, count_taken, &taken);
    g_assert_cmpuint(taken, ==, 2);
    expect(&fx, 0);
    close_fixture(&fx);
}

/* ---- limits and time ---- */

static void test_queue_limit(void)
{
    ColoCompareLimits limits = { .max_queue_size = 4 };
    Fixture fx;
    unsigned i;

    start(&fx, &limits);
    for (i = 0; i < 4; i++) {
        udp(&fx, true, 1, 1, "a");
    }
    g_assert_false(colo_compare_full(fx.c));
    expect(&fx, 0);
    udp(&fx, true, 1, 1, "a");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OVERFLOW);
    g_assert_true(colo_compare_full(fx.c));
    for (i = 0; i < 100; i++) {
        udp(&fx, true, 1, 1, "a");
    }
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 105);
    g_assert_false(colo_compare_full(fx.c));
    for (i = 0; i < 5; i++) {
        expect(&fx, 0);
        udp(&fx, false, 2, 1, "a");
    }
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OVERFLOW);
    udp(&fx, true, 2, 1, "a");                  /* out of step: held */
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_byte_limits(void)
{
    ColoCompareLimits limits = { .max_conn_bytes = 20000 };
    g_autofree char *data = g_strnfill(9000, 'x');
    Fixture fx;

    start_established(&fx, &limits);
    svm_seg(&fx, SEQ, ACK, A, data);
    svm_seg(&fx, SEQ + 9000, ACK, A, data);
    expect(&fx, 0);
    svm_seg(&fx, SEQ + 18000, ACK, A, data);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OVERFLOW);
    pvm_seg(&fx, SEQ, ACK, A, data);
    pvm_seg(&fx, SEQ + 9000, ACK, A, data);
    pvm_seg(&fx, SEQ + 18000, ACK, A, data);
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 3);
    pvm_seg(&fx, SEQ + 27000, ACK, A, data);
    pvm_seg(&fx, SEQ + 36000, ACK, A, data);
    expect(&fx, 0);
    pvm_seg(&fx, SEQ + 45000, ACK, A, data);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OVERFLOW);
    close_fixture(&fx);
}

static void test_connection_limit(void)
{
    ColoCompareLimits limits = { .max_conns = 3 };
    Fixture fx;
    unsigned i;

    start(&fx, &limits);
    for (i = 0; i < 10; i++) {                  /* idle ones make room */
        udp(&fx, true, 1, i, "a");
        udp(&fx, false, 1, i, "a");
    }
    expect(&fx, 10);
    for (i = 0; i < 3; i++) {
        udp(&fx, true, 1, 100 + i, "a");
    }
    expect(&fx, 0);
    udp(&fx, true, 1, 200, "a");
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OVERFLOW);
    udp(&fx, false, 1, 100, "a");
    g_assert_cmpuint(fx.out->len, ==, 1);
    expect(&fx, 1);
    /* There is room again, but 200 must not be overtaken by its next. */
    udp(&fx, true, 1, 200, "b");
    udp(&fx, false, 1, 200, "b");
    expect(&fx, 0);
    udp(&fx, true, 2, 200, "c");
    commit(&fx);
    expect(&fx, 4);
    udp(&fx, false, 2, 200, "c");
    expect(&fx, 1);
    close_fixture(&fx);
}

static void test_early_limit(void)
{
    ColoCompareLimits limits = { .max_bytes = 1000 };
    Fixture fx;
    unsigned i;

    start(&fx, &limits);
    for (i = 0; i < 100; i++) {
        udp(&fx, false, 2, 1, "a");
    }
    g_assert_cmpuint(stats_of(&fx).svm_bytes, <=, 1000);
    expect(&fx, 0);
    commit(&fx);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_OVERFLOW);
    udp(&fx, true, 2, 1, "a");
    expect(&fx, 0);
    close_fixture(&fx);
}

static void tick(Fixture *fx, int64_t ms)
{
    fx->now += ms;
    colo_compare_tick(fx->c, fx->now);
}

static void test_timeout(void)
{
    ColoCompareLimits limits = { .compare_timeout = 100,
                                 .expired_scan_cycle = 10 };
    Fixture fx;

    start(&fx, &limits);
    udp(&fx, true, 1, 1, "a");
    tick(&fx, 99);
    expect(&fx, 0);
    tick(&fx, 1);                               /* within the scan cycle */
    expect(&fx, 0);
    tick(&fx, 9);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TIMEOUT);
    tick(&fx, 500);
    expect(&fx, 0);
    commit(&fx);
    expect(&fx, 1);
    /* Of the next epoch: time starts with the commit. */
    udp(&fx, true, 3, 1, "a");
    tick(&fx, 500);
    expect(&fx, 0);
    commit(&fx);
    tick(&fx, 99);
    expect(&fx, 0);
    tick(&fx, 10);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TIMEOUT);
    close_fixture(&fx);
}

/* The SVM has emitted what the PVM does not. */
static void test_timeout_svm(void)
{
    ColoCompareLimits limits = { .compare_timeout = 100,
                                 .expired_scan_cycle = 1 };
    Fixture fx;
    unsigned i;

    start(&fx, &limits);
    udp(&fx, false, 1, 1, "a");
    tick(&fx, 100);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TIMEOUT);
    close_fixture(&fx);
    start_established(&fx, &limits);
    svm_seg(&fx, SEQ, ACK, A | F, "");
    tick(&fx, 100);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TIMEOUT);
    close_fixture(&fx);
    start_established(&fx, &limits);
    svm_seg(&fx, SEQ, 0, R, "");
    tick(&fx, 100);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TIMEOUT);
    close_fixture(&fx);
    start(&fx, &limits);
    svm_seg(&fx, SEQ, 0, S, "");
    tick(&fx, 100);
    expect_asked(&fx, COLO_CHECKPOINT_REASON_TIMEOUT);
    close_fixture(&fx);
    /* Ahead all the time, but the PVM follows. */
    start_established(&fx, &limits);
    svm_seg(&fx, SEQ, ACK, A, "a");
    for (i = 1; i < 10; i++) {
        tick(&fx, 60);
        svm_seg(&fx, SEQ + i, ACK, A, "a");
        pvm_seg(&fx, SEQ + i - 1, ACK, A, "a");
        expect(&fx, 1);
    }
    close_fixture(&fx);
}

/* Random bytes on random connections never leave but by the rules. */
static void test_garbage(void)
{
    Fixture fx;
    uint64_t held;
    unsigned i, n;

    start(&fx, NULL);
    for (i = 0; i < 20000; i++) {
        size_t len = g_test_rand_int_range(0, 80);

        for (n = 0; n < len; n++) {
            fx.frame[n] = g_test_rand_int() & 15;
        }
        if (g_test_rand_bit() && len > 34) {
            memcpy(fx.frame + 12, "\x8\0\x45\0\0\x20\0\0\0\0\0\6", 12);
        }
        if (g_test_rand_bit()) {
            colo_compare_pvm(fx.c, fx.frame, len, 0, 1, 0);
        } else {
            colo_compare_svm(fx.c, fx.frame, len, 0, 1, 0);
        }
    }
    held = stats_of(&fx).held_packets;
    n = fx.out->len;
    commit(&fx);
    g_assert_cmpuint(fx.out->len, ==, n + held);
    close_fixture(&fx);
}

#define TEST(path, func) g_test_add_func("/colo/compare/" path, func)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("tcp/same", test_same_either_first);
    TEST("tcp/segmentation", test_segmentation);
    TEST("tcp/random-segmentation", test_random_segmentation);
    TEST("tcp/differ", test_differ);
    TEST("tcp/differ-svm-first", test_differ_svm_first);
    TEST("tcp/ignored-fields", test_ignored_fields);
    TEST("tcp/retransmission", test_retransmission);
    TEST("tcp/ack-waits", test_ack_waits);
    TEST("tcp/ack-of-old-epoch", test_ack_of_old_epoch);
    TEST("tcp/ack-lowered", test_ack_lowered);
    TEST("tcp/ack-owed", test_ack_owed);
    TEST("tcp/ack-lowered-partial-csum", test_ack_lowered_partial_csum);
    TEST("tcp/sacks", test_sacks);
    TEST("tcp/window", test_window);
    TEST("tcp/window-scale-unknown", test_window_scale_unknown);
    TEST("tcp/window-opens", test_window_opens);
    TEST("tcp/owed-window", test_owed_window);
    TEST("tcp/syn", test_syn);
    TEST("tcp/syn-data", test_syn_data);
    TEST("tcp/syn-late", test_syn_late);
    TEST("tcp/syn-differs", test_syn_differs);
    TEST("tcp/syn-stamps-alike", test_syn_stamps_alike);
    TEST("tcp/syn-ack-ack", test_syn_ack_ack);
    TEST("tcp/port-reuse", test_port_reuse);
    TEST("tcp/port-reuse-svm-ahead", test_port_reuse_svm_ahead);
    TEST("tcp/fin", test_fin);
    TEST("tcp/fin-differs", test_fin_differs);
    TEST("tcp/rst", test_rst);
    TEST("tcp/no-floor", test_no_floor);
    TEST("tcp/open", test_open);
    TEST("tcp/gap", test_gap);
    TEST("tcp/svm-gap", test_svm_gap);
    TEST("tcp/renumbered", test_renumbered);
    TEST("tcp/too-old", test_too_old);
    TEST("tcp/lost-floor", test_lost_floor);
    TEST("tcp/big-segment", test_big_segment);
    TEST("datagrams", test_datagrams);
    TEST("udp-checksum", test_udp_checksum);
    TEST("arp", test_arp);
    TEST("opaque", test_opaque);
    TEST("vnet-mismatch", test_vnet_mismatch);
    TEST("fragments", test_fragments);
    TEST("epoch/commit-order", test_commit_order);
    TEST("epoch/no-mixing", test_epochs_do_not_mix);
    TEST("epoch/late-floor", test_late_floor);
    TEST("epoch/asks-once", test_asks_once);
    TEST("epoch/before-first-commit", test_before_first_commit);
    TEST("mode/hold", test_hold);
    TEST("mode/lost", test_lost);
    TEST("mode/restart", test_restart);
    TEST("mode/drop-all", test_drop_all);
    TEST("mode/take-all", test_take_all);
    TEST("limit/queue", test_queue_limit);
    TEST("limit/bytes", test_byte_limits);
    TEST("limit/connections", test_connection_limit);
    TEST("limit/early", test_early_limit);
    TEST("timeout/pvm", test_timeout);
    TEST("timeout/svm", test_timeout_svm);
    TEST("garbage", test_garbage);
    return g_test_run();
}
