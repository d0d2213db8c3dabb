/*
 * Tests of the COLO proxy's translation of sequence numbers and timestamps
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "standard-headers/linux/virtio_net.h"
#include "net/colo/rewrite.h"
#include "colo-frame.h"

#define A COLO_TCP_ACK
#define S COLO_TCP_SYN
#define F COLO_TCP_FIN
#define R COLO_TCP_RST

/* Initial numbers of the two guests; the offset between them wraps. */
#define PVM_ISN 0x00000100u
#define SVM_ISN 0xffffff00u
#define OFFSET  (PVM_ISN - SVM_ISN)
#define PEER    0x7fffffffu

static uint8_t frame[TEST_FRAME_MAX];
static int64_t now;

static TestFrame base = { .proto = 6, .sport = 80, .dport = 40000 };

static ColoRewriteVerdict out(ColoRewrite *rw, uint32_t seq, uint32_t ack,
                              uint8_t flags, uint32_t *wire_seq)
{
    TestFrame f = base;
    ColoRewriteVerdict verdict;
    ColoPacket pkt;
    size_t len;

    f.seq = seq;
    f.ack = ack;
    f.flags = flags;
    len = test_frame(frame, &f);
    verdict = colo_rewrite_out(rw, frame, len, f.vnet_len, now);
    colo_packet_parse(&pkt, frame, len, f.vnet_len);
    g_assert_cmpuint(pkt.ack, ==, ack);
    g_assert_cmpint(verdict == COLO_REWRITE_CHANGED, ==, pkt.seq != seq);
    if (!f.nr_vlans) {
        g_assert_true(test_frame_csum_ok(frame, len, f.vnet_len));
    }
    *wire_seq = pkt.seq;
    return verdict;
}

static ColoRewriteVerdict in(ColoRewrite *rw, uint32_t seq, uint32_t ack,
                             uint8_t flags, uint32_t *guest_ack)
{
    TestFrame f = base;
    ColoRewriteVerdict verdict;
    ColoPacket pkt;
    size_t len;

    f.reply = true;
    f.seq = seq;
    f.ack = ack;
    f.flags = flags;
    len = test_frame(frame, &f);
    verdict = colo_rewrite_in(rw, frame, len, f.vnet_len, now);
    colo_packet_parse(&pkt, frame, len, f.vnet_len);
    g_assert_cmpuint(pkt.seq, ==, seq);
    g_assert_cmpint(verdict == COLO_REWRITE_CHANGED, ==, pkt.ack != ack);
    if (!f.nr_vlans) {
        g_assert_true(test_frame_csum_ok(frame, len, f.vnet_len));
    }
    *guest_ack = pkt.ack;
    return verdict;
}

static void expect_out(ColoRewrite *rw, uint32_t seq, uint8_t flags,
                       uint32_t want)
{
    uint32_t got;

    g_assert_cmpint(out(rw, seq, PEER, flags, &got), <=,
                    COLO_REWRITE_CHANGED);
    g_assert_cmphex(got, ==, want);
}

static void expect_in(ColoRewrite *rw, uint32_t seq, uint32_t ack,
                      uint8_t flags, uint32_t want)
{
    uint32_t got;

    in(rw, seq, ack, flags, &got);
    g_assert_cmphex(got, ==, want);
}

static void expect_unknown(ColoRewrite *rw, uint32_t seq, uint8_t flags)
{
    uint32_t got;

    g_assert_cmpint(out(rw, seq, PEER, flags, &got), ==,
                    COLO_REWRITE_UNKNOWN);
}

static ColoRewrite *learner(void)
{
    ColoRewrite *rw = colo_rewrite_new(100);

    colo_rewrite_set_mode(rw, COLO_REWRITE_LEARN);
    return rw;
}

/* A client has connected, up to and including its first ACK. */
static void client_opens(ColoRewrite *rw)
{
    expect_in(rw, PEER - 1, 0, S, 0);
    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    expect_in(rw, PEER, PVM_ISN + 1, A, SVM_ISN + 1);
}

static void check_translated(ColoRewrite *rw)
{
    expect_out(rw, SVM_ISN + 1, A, PVM_ISN + 1);
    expect_out(rw, SVM_ISN + 0x200, A | F, PVM_ISN + 0x200);
    expect_in(rw, PEER, PVM_ISN + 0x200, A, SVM_ISN + 0x200);
    expect_in(rw, PEER, 0, R, 0);
}

static void test_idle(void)
{
    g_autoptr(ColoRewrite) rw = colo_rewrite_new(10);

    g_assert_true(colo_rewrite_idle(rw));
    expect_out(rw, 5, S | A, 5);
    expect_in(rw, PEER, 99, A, 99);
    expect_out(rw, 6, A, 6);
    g_assert_cmpuint(colo_rewrite_count(rw), ==, 0);
    g_assert_true(colo_rewrite_idle(rw));
    colo_rewrite_set_mode(rw, COLO_REWRITE_LEARN);
    g_assert_false(colo_rewrite_idle(rw));
}

static void test_client_opens(void)
{
    unsigned i;

    for (i = 0; i < 16; i++) {
        g_autoptr(ColoRewrite) rw = learner();

        base.v6 = i & 1;
        base.nr_vlans = i & 2 ? 1 : 0;
        base.vnet_len = i & 4 ? 12 : 0;
        base.payload = "odd";
        base.payload_len = i & 8 ? 3 : 0;
        client_opens(rw);
        check_translated(rw);
    }
    base.v6 = false;
    base.nr_vlans = base.vnet_len = base.payload_len = 0;
}

static void test_guest_opens(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, SVM_ISN, S, SVM_ISN);
    /* An old connection of the peer does not teach the offset. */
    expect_in(rw, 5, 0x12345678, A, 0x12345678);
    expect_unknown(rw, SVM_ISN + 1, A);
    expect_out(rw, SVM_ISN, S, SVM_ISN);
    expect_in(rw, PEER - 1, PVM_ISN + 1, S | A, SVM_ISN + 1);
    check_translated(rw);
}

static void test_guest_refused(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, SVM_ISN, S, SVM_ISN);
    expect_in(rw, 0, PVM_ISN + 1, R | A, SVM_ISN + 1);
}

static void test_unknown(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    expect_unknown(rw, SVM_ISN + 1, A);
    expect_unknown(rw, SVM_ISN + 1, R);
    /* An old duplicate, far from the client's first numbers. */
    expect_in(rw, PEER + 0x20000, 5, A, 5);
    expect_in(rw, PEER - 5, 5, A, 5);
    expect_unknown(rw, SVM_ISN + 1, A);
    /* The first ACK was lost, data comes behind a gap. */
    expect_in(rw, PEER + 3000, PVM_ISN + 1, A, SVM_ISN + 1);
    /* A SYN-ACK again: the guest's number for the comparison. */
    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    check_translated(rw);
}

static void test_failover(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    client_opens(rw);
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    expect_out(rw, SVM_ISN, S | A, PVM_ISN);    /* again, for the wire */
    check_translated(rw);
    /* What is opened from now on has no offset. */
    base.dport++;
    expect_out(rw, 77, S | A, 77);
    expect_in(rw, PEER, 78, A, 78);
    expect_out(rw, 78, A, 78);
    base.dport--;
    g_assert_cmpuint(colo_rewrite_count(rw), ==, 1);
}

static void test_failover_half_open(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    expect_in(rw, PEER, PVM_ISN + 1, A, SVM_ISN + 1);
    check_translated(rw);
}

/* The client never saw the old primary's SYN-ACK. */
static void test_failover_half_open_anew(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    expect_in(rw, PEER, SVM_ISN + 1, A, SVM_ISN + 1);
    expect_out(rw, SVM_ISN + 1, A, SVM_ISN + 1);
}

/* Connections without an offset cost a survivor nothing. */
static void test_failover_no_offset(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, 50, S | A, 50);
    expect_in(rw, PEER, 51, A, 51);
    expect_out(rw, 51, A, 51);
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    g_assert_true(colo_rewrite_idle(rw));
}

/* Until the offset is known the guest is silent, but for RST. */
static void test_failover_unknown(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    expect_unknown(rw, SVM_ISN + 1, A);
    expect_out(rw, PVM_ISN, R, PVM_ISN);
}

/*
 * The peer answers a repeated SYN with an ACK of the old PVM's: the guest
 * must not see it, unless it comes again and again.
 */
static void test_failover_guest_opens(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    uint32_t got;
    unsigned i;

    expect_out(rw, SVM_ISN, S, SVM_ISN);
    g_assert_cmpint(in(rw, PEER, PVM_ISN + 1, A, &got), ==,
                    COLO_REWRITE_UNCHANGED);
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    expect_out(rw, SVM_ISN, S, SVM_ISN);
    for (i = 0; i < 8; i++) {
        g_assert_cmpint(in(rw, PEER, PVM_ISN + 1, A, &got), ==,
                        COLO_REWRITE_UNKNOWN);
    }
    g_assert_cmpint(in(rw, PEER, PVM_ISN + 1, A, &got), ==,
                    COLO_REWRITE_UNCHANGED);
    expect_in(rw, PEER - 1, PVM_ISN + 1, S | A, SVM_ISN + 1);
    check_translated(rw);
}

static void test_port_reuse(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    client_opens(rw);
    expect_out(rw, 500, S | A, 500);
    expect_unknown(rw, 501, A);
    expect_in(rw, PEER, 801, A, 501);
    expect_out(rw, 501, A, 801);
    /* As a primary: the guest's numbers are the wire's. */
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    expect_out(rw, 900, S | A, 900);
    expect_in(rw, PEER, 901, A, 901);
    g_assert_true(colo_rewrite_idle(rw));
}

static void test_sacks(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    TestFrame f = base;
    ColoPacket pkt;
    size_t len;

    client_opens(rw);
    f.reply = true;
    f.flags = A;
    f.ack = PVM_ISN + 1;
    f.options = "\1\1\5\12\0\0\1\x20\0\0\1\x30";
    f.options_len = 12;
    len = test_frame(frame, &f);
    colo_rewrite_in(rw, frame, len, 0, now);
    g_assert_true(test_frame_csum_ok(frame, len, 0));
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmphex(pkt.ack, ==, SVM_ISN + 1);
    g_assert_cmphex(colo_packet_sack(&pkt, 0).left, ==, SVM_ISN + 0x20);
    g_assert_cmphex(colo_packet_sack(&pkt, 0).right, ==, SVM_ISN + 0x30);
}

static void test_partial_csum(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    g_autofree uint8_t *want = g_malloc(TEST_FRAME_MAX);
    TestFrame f = base;
    size_t len;

    client_opens(rw);
    f.vnet_len = 12;
    f.vnet_flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    f.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    f.gso_size = 2;
    f.flags = A;
    f.payload = "abcd";
    f.payload_len = 4;
    f.seq = SVM_ISN + 1;
    len = test_frame(frame, &f);
    colo_rewrite_out(rw, frame, len, 12, now);
    f.seq = PVM_ISN + 1;
    g_assert_cmpmem(frame, len, want, test_frame(want, &f));
}

/* A first fragment carries the TCP header, and a checksum of the whole. */
static void test_fragment(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    TestFrame f = base;
    ColoPacket pkt;
    uint16_t csum;
    size_t len;

    client_opens(rw);
    f.flags = A;
    f.seq = SVM_ISN + 1;
    f.payload = "abcd";
    f.payload_len = 4;
    f.frag = 0x2000;
    len = test_frame(frame, &f);
    g_assert_cmpint(colo_rewrite_out(rw, frame, len, 0, now), ==,
                    COLO_REWRITE_CHANGED);
    g_assert_true(test_frame_csum_ok(frame, len, 0));
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmphex(pkt.seq, ==, PVM_ISN + 1);
    csum = lduw_be_p(frame + pkt.l4 + 16);
    f.frag = 0x0010;
    len = test_frame(frame, &f);
    g_assert_cmpint(colo_rewrite_out(rw, frame, len, 0, now), ==,
                    COLO_REWRITE_UNCHANGED);
    g_assert_cmphex(lduw_be_p(frame + pkt.l4 + 16), !=, csum);
}

static void test_icmp_error(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    uint8_t quote[36] = { 3, 4, 0, 0, 0, 0, 5, 0xb4, 0x45 };
    TestFrame f = { .proto = 1, .reply = true, .payload = quote,
                    .payload_len = sizeof(quote) };
    size_t len;

    client_opens(rw);
    quote[17] = 6;
    stl_be_p(quote + 20, 0x0a00020f);
    stl_be_p(quote + 24, 0x0a000202);
    stw_be_p(quote + 28, 80);
    stw_be_p(quote + 30, 40000);
    stl_be_p(quote + 32, PVM_ISN + 9);
    len = test_frame(frame, &f);
    g_assert_cmpint(colo_rewrite_in(rw, frame, len, 0, now), ==,
                    COLO_REWRITE_CHANGED);
    g_assert_true(test_frame_csum_ok(frame, len, 0));
    g_assert_cmphex((uint32_t)ldl_be_p(frame + len - 4), ==, SVM_ISN + 9);
}

static void test_overflow(void)
{
    g_autoptr(ColoRewrite) rw = colo_rewrite_new(2);
    uint32_t got;

    colo_rewrite_set_mode(rw, COLO_REWRITE_LEARN);
    client_opens(rw);
    base.dport++;
    client_opens(rw);
    base.dport++;
    g_assert_cmpint(out(rw, SVM_ISN, PEER, S | A, &got), ==,
                    COLO_REWRITE_OVERFLOW);
    /* A closed one makes room. */
    base.dport--;
    expect_in(rw, PEER, 0, R, 0);
    base.dport++;
    g_assert_cmpint(out(rw, SVM_ISN, PEER, S | A, &got), ==,
                    COLO_REWRITE_UNCHANGED);
    base.dport = 40000;
}

static void test_time_wait(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    now = 20000;
    client_opens(rw);
    expect_out(rw, SVM_ISN + 1, A | F, PVM_ISN + 1);
    expect_in(rw, PEER, PVM_ISN + 2, A | F, SVM_ISN + 2);
    colo_rewrite_tick(rw, now + 239999);
    g_assert_cmpuint(colo_rewrite_count(rw), ==, 1);
    now += 10000;
    expect_in(rw, PEER, PVM_ISN + 2, A | F, SVM_ISN + 2);
    colo_rewrite_tick(rw, now + 239999);
    g_assert_cmpuint(colo_rewrite_count(rw), ==, 1);
    colo_rewrite_tick(rw, now + 250000);
    g_assert_cmpuint(colo_rewrite_count(rw), ==, 0);
    /* An open one stays, however long it is silent. */
    client_opens(rw);
    colo_rewrite_tick(rw, now + 10000000);
    g_assert_cmpuint(colo_rewrite_count(rw), ==, 1);
    now = 0;
}

/* ---- the table as checkpoint state ---- */

/* Save @from, as a primary, and load it into a new secondary's rewriter. */
static ColoRewrite *next_secondary(ColoRewrite *from)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    ColoRewrite *to = learner();

    /* What the new secondary learned before has no meaning any more. */
    base.dport = 1;
    client_opens(to);
    base.dport = 40000;
    colo_rewrite_save(from, bytes);
    colo_rewrite_commit(to, colo_rewrite_load(bytes->data, bytes->len, 100,
                                              &error_abort));
    return to;
}

static void test_table(void)
{
    g_autoptr(ColoRewrite) first = learner();
    g_autoptr(ColoRewrite) second = NULL;
    g_autoptr(ColoRewrite) third = NULL;

    client_opens(first);
    base.dport++;
    expect_out(first, 1000, S, 1000);           /* half open */
    base.dport++;
    expect_out(first, 50, S | A, 50);           /* no offset */
    expect_in(first, PEER, 51, A, 51);
    base.dport = 40000;
    colo_rewrite_set_mode(first, COLO_REWRITE_WIRE);
    second = next_secondary(first);
    g_assert_cmpuint(colo_rewrite_count(second), ==, 2);
    check_translated(second);
    base.dport++;
    expect_in(second, PEER - 1, 2001, S | A, 1001);
    base.dport--;
    colo_rewrite_set_mode(second, COLO_REWRITE_WIRE);
    third = next_secondary(second);
    check_translated(third);
    base.dport++;
    expect_out(third, 1001, A, 2001);
    base.dport--;
    colo_rewrite_commit(third, NULL);
    g_assert_cmpuint(colo_rewrite_count(third), ==, 0);
}

static void expect_refused(GByteArray *bytes, size_t len, unsigned max)
{
    g_autofree uint8_t *copy = g_memdup2(bytes->data, len);
    Error *err = NULL;

    g_assert_null(colo_rewrite_load(copy, len, max, &err));
    g_assert_nonnull(err);
    error_free(err);
}

static void test_table_malformed(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    unsigned i, bit;

    client_opens(rw);
    base.v6 = true;
    client_opens(rw);
    base.v6 = false;
    base.dport++;
    expect_out(rw, 1, S, 1);
    base.dport--;
    colo_rewrite_save(rw, bytes);
    for (i = 0; i < bytes->len; i++) {
        expect_refused(bytes, i, 100);
    }
    expect_refused(bytes, bytes->len, 2);
    g_byte_array_append(bytes, (const uint8_t *)"", 1);
    expect_refused(bytes, bytes->len, 100);
    bytes->len--;
    /* Each bit flipped: refused, or a table that can be used. */
    for (i = 0; i < bytes->len; i++) {
        for (bit = 0; bit < 8; bit++) {
            g_autoptr(ColoRewriteTable) table = NULL;
            g_autoptr(GByteArray) again = g_byte_array_new();

            bytes->data[i] ^= 1 << bit;
            table = colo_rewrite_load(bytes->data, bytes->len, 100, NULL);
            if (table) {
                colo_rewrite_commit(rw, g_steal_pointer(&table));
                colo_rewrite_save(rw, again);
                g_assert_cmpmem(bytes->data, bytes->len,
                                again->data, again->len);
            }
            bytes->data[i] ^= 1 << bit;
        }
    }
    /* Version, IP version, flags, duplicate. */
    bytes->data[7]++;
    expect_refused(bytes, bytes->len, 100);
    bytes->data[7]--;
    bytes->data[12 + 40] = 5;
    expect_refused(bytes, bytes->len, 100);
    bytes->data[12 + 40] = 4;
    bytes->data[12 + 36] = 0x10;                /* a VLAN above 4095 */
    expect_refused(bytes, bytes->len, 100);
    bytes->data[12 + 36] = 0xff;
    bytes->data[12 + 38] = 0;                   /* an inner one alone */
    expect_refused(bytes, bytes->len, 100);
    bytes->data[12 + 38] = 0xff;
    bytes->data[12 + 41] |= 0x40;
    expect_refused(bytes, bytes->len, 100);
    bytes->data[12 + 41] = 0;
    expect_refused(bytes, bytes->len, 100);
    memcpy(bytes->data + 12, bytes->data + 12 + 68, 68);
    expect_refused(bytes, bytes->len, 100);
}

/* ---- timestamps ---- */

/* The two guests' TSval at the same time; the offset between them wraps. */
#define PVM_TS  0x00000200u
#define SVM_TS  0xfffffe00u
#define TS      (PVM_TS - SVM_TS)
#define PEER_TS 0x12345678u

/* What stands around the option. */
typedef struct Layout {
    const char *before, *after;
    unsigned before_len, after_len;
} Layout;

static const Layout layouts[] = {
    { "\1\1", "", 2, 0 },
    { "\1", "\1", 1, 1 },
    { "\2\4\5\xb4\4\2", "\1\3\3\7", 6, 4 },
    { "", "\0\10", 0, 2 },
};
static const Layout *layout = layouts;

static unsigned put_stamps(uint8_t *opts, uint32_t val, uint32_t ecr)
{
    uint8_t *opt = opts + layout->before_len;

    memcpy(opts, layout->before, layout->before_len);
    opt[0] = 8;
    opt[1] = 10;
    stl_be_p(opt + 2, val);
    stl_be_p(opt + 6, ecr);
    memcpy(opt + 10, layout->after, layout->after_len);
    return layout->before_len + 10 + layout->after_len;
}

/*
 * A segment with timestamps goes through @rw: what comes out is the one with
 * @want_seq, @want_ack and timestamps @want_val, @want_ecr, byte by byte.
 */
static void expect_stamps(ColoRewrite *rw, TestFrame *f, uint32_t val,
                          uint32_t ecr, uint32_t want_seq, uint32_t want_ack,
                          uint32_t want_val, uint32_t want_ecr)
{
    g_autofree uint8_t *want = g_malloc(TEST_FRAME_MAX);
    ColoRewriteVerdict verdict;
    uint8_t opts[40];
    size_t len, want_len;
    bool same;

    f->options = opts;
    f->options_len = put_stamps(opts, val, ecr);
    len = test_frame(frame, f);
    verdict = (f->reply ? colo_rewrite_in : colo_rewrite_out)
              (rw, frame, len, f->vnet_len, now);
    put_stamps(opts, want_val, want_ecr);
    same = f->seq == want_seq && f->ack == want_ack && val == want_val &&
           ecr == want_ecr;
    f->seq = want_seq;
    f->ack = want_ack;
    want_len = test_frame(want, f);
    g_assert_cmpmem(frame, len, want, want_len);
    g_assert_cmpint(verdict, ==,
                    same ? COLO_REWRITE_UNCHANGED : COLO_REWRITE_CHANGED);
}

static void ts_out(ColoRewrite *rw, uint32_t seq, uint8_t flags, uint32_t val,
                   uint32_t want_seq, uint32_t want_val)
{
    TestFrame f = base;

    f.flags = flags;
    f.seq = seq;
    f.ack = flags & A ? PEER : 0;
    expect_stamps(rw, &f, val, PEER_TS, want_seq, f.ack, want_val, PEER_TS);
}

static void ts_in(ColoRewrite *rw, uint32_t seq, uint32_t ack, uint8_t flags,
                  uint32_t ecr, uint32_t want_ack, uint32_t want_ecr)
{
    TestFrame f = base;

    f.reply = true;
    f.flags = flags;
    f.seq = seq;
    f.ack = ack;
    expect_stamps(rw, &f, PEER_TS, ecr, seq, want_ack, PEER_TS, want_ecr);
}

/* The SYN-ACK takes the SVM 3 ms longer. */
static void ts_client_opens(ColoRewrite *rw)
{
    ts_in(rw, PEER - 1, 0, S, 0, 0, 0);
    ts_out(rw, SVM_ISN, S | A, SVM_TS + 3, SVM_ISN, SVM_TS + 3);
    ts_in(rw, PEER, PVM_ISN + 1, A, PVM_TS, SVM_ISN + 1, SVM_TS + 3);
}

static void ts_check(ColoRewrite *rw, uint32_t ts)
{
    unsigned i;

    /* Over the wrap of both clocks. */
    for (i = 0; i < 3; i++) {
        uint32_t at = SVM_TS + 0x100 + i * 0x40000000;

        ts_out(rw, SVM_ISN + 1, A, at, PVM_ISN + 1, at + ts);
        ts_in(rw, PEER, PVM_ISN + 1, A, at + ts, SVM_ISN + 1, at);
    }
    ts_out(rw, SVM_ISN + 1, A | F, SVM_TS + 3, PVM_ISN + 1, SVM_TS + 3 + ts);
    /* An echo that is none: no ACK, or zero. */
    ts_in(rw, PEER, 0, R, 0x77, 0, 0x77);
    ts_in(rw, PEER, PVM_ISN + 2, A, 0, SVM_ISN + 2, 0);
    ts_in(rw, PEER, PVM_ISN + 2, R | A, PVM_TS, SVM_ISN + 2, PVM_TS - ts);
}

static void test_ts_client_opens(void)
{
    unsigned i;

    for (i = 0; i < 32; i++) {
        g_autoptr(ColoRewrite) rw = learner();

        base.v6 = i & 1;
        base.vnet_len = i & 2 ? 12 : 0;
        base.payload = "odd";
        base.payload_len = i & 4 ? 3 : 0;
        layout = &layouts[i / 8];
        ts_client_opens(rw);
        ts_check(rw, TS - 3);
    }
    layout = layouts;
    base.v6 = false;
    base.vnet_len = base.payload_len = 0;
}

static void test_ts_guest_opens(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    ts_out(rw, SVM_ISN, S, SVM_TS, SVM_ISN, SVM_TS);
    ts_in(rw, 5, 0x12345678, A, 99, 0x12345678, 99);
    ts_in(rw, PEER - 1, PVM_ISN + 1, S | A, PVM_TS, SVM_ISN + 1, SVM_TS);
    ts_check(rw, TS);
    /* Its SYN again, in its own numbering; for the wire translated. */
    ts_out(rw, SVM_ISN, S, SVM_TS + 9, SVM_ISN, SVM_TS + 9);
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    ts_out(rw, SVM_ISN, S, SVM_TS + 9, PVM_ISN, PVM_TS + 9);
    ts_check(rw, TS);
}

/* Whichever SYN is echoed, the SVM is not behind. */
static void test_ts_repeated(void)
{
    uint32_t at;

    for (at = 0; at <= 3000; at += 1000) {
        g_autoptr(ColoRewrite) rw = learner();

        ts_out(rw, SVM_ISN, S | A, SVM_TS, SVM_ISN, SVM_TS);
        ts_out(rw, SVM_ISN, S | A, SVM_TS + 1000, SVM_ISN, SVM_TS + 1000);
        ts_in(rw, PEER, PVM_ISN + 1, A, PVM_TS + at, SVM_ISN + 1, SVM_TS);
        ts_check(rw, TS + at);
    }
}

/* Without the option on either side there is nothing to translate. */
static void test_ts_none(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    expect_out(rw, SVM_ISN, S | A, SVM_ISN);
    ts_in(rw, PEER, PVM_ISN + 1, A, PVM_TS, SVM_ISN + 1, PVM_TS);
    ts_out(rw, SVM_ISN + 1, A, PVM_TS - 5, PVM_ISN + 1, PVM_TS - 5);
    check_translated(rw);
    base.dport++;
    ts_out(rw, SVM_ISN, S, SVM_TS, SVM_ISN, SVM_TS);
    expect_in(rw, PEER - 1, PVM_ISN + 1, S | A, SVM_ISN + 1);
    ts_out(rw, SVM_ISN + 1, A, SVM_TS, PVM_ISN + 1, SVM_TS);
    check_translated(rw);
    base.dport++;
    ts_out(rw, SVM_ISN, S | A, SVM_TS, SVM_ISN, SVM_TS);
    ts_in(rw, PEER, PVM_ISN + 1, A, 0, SVM_ISN + 1, 0);
    ts_out(rw, SVM_ISN + 1, A, SVM_TS, PVM_ISN + 1, SVM_TS);
    base.dport = 40000;
}

/* A SYN that passed as it is, and what the peer may have seen before it. */
static void test_ts_half_open(void)
{
    unsigned i;

    for (i = 0; i < 4; i++) {
        g_autoptr(ColoRewrite) rw = learner();
        uint8_t flags = i & 1 ? S : S | A;
        uint8_t answer = i & 1 ? S | A : A;
        uint32_t seq = i & 1 ? PEER - 1 : PEER;
        uint32_t at = SVM_TS + 1000;

        ts_out(rw, SVM_ISN, flags, SVM_TS, SVM_ISN, SVM_TS);
        colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
        ts_out(rw, SVM_ISN, flags, SVM_TS + 500, SVM_ISN, SVM_TS + 500);
        ts_out(rw, SVM_ISN, flags, SVM_TS + 999, SVM_ISN, SVM_TS + 999);
        if (i & 2) {
            ts_in(rw, seq, PVM_ISN + 1, answer, PVM_TS, SVM_ISN + 1, SVM_TS);
            ts_check(rw, TS);
        } else {
            ts_in(rw, seq, SVM_ISN + 1, answer, SVM_TS + 500, SVM_ISN + 1,
                  SVM_TS + 500);
            ts_out(rw, SVM_ISN + 1, A, at, SVM_ISN + 1, at);
            colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
            g_assert_true(colo_rewrite_idle(rw));
        }
    }
}

static void test_ts_port_reuse(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    g_autoptr(ColoRewrite) second = NULL;

    ts_client_opens(rw);
    ts_check(rw, TS - 3);
    ts_out(rw, 500, S | A, 70, 500, 70);
    ts_in(rw, PEER, 801, A, 90, 501, 70);
    ts_out(rw, 501, A, 75, 801, 95);
    /* The next one without timestamps. */
    expect_out(rw, 900, S | A, 900);
    expect_in(rw, PEER, 1001, A, 901);
    ts_out(rw, 901, A, 75, 1001, 75);
    second = next_secondary(rw);
    ts_out(second, 901, A, 75, 1001, 75);
    /* As a primary: what the guest says. */
    colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    ts_out(rw, 50, S | A, 7, 50, 7);
    ts_in(rw, PEER, 51, A, 7, 51, 7);
    g_assert_true(colo_rewrite_idle(rw));
}

/* An echo from the future of the translated clock moves it on. */
static void test_ts_behind(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    uint32_t at = SVM_TS + 100;
    unsigned i;

    ts_client_opens(rw);
    for (i = 0; i < 2; i++) {
        uint32_t ts = TS - 3 + i * 999;

        /* Neither a late echo nor one out of reach does. */
        ts_in(rw, PEER, PVM_ISN + 1, A, at + ts - 9, SVM_ISN + 1, at - 9);
        ts_out(rw, SVM_ISN + 1, A, at, PVM_ISN + 1, at + ts);
        ts_in(rw, PEER, PVM_ISN + 1, A, at + ts + 1000, SVM_ISN + 1,
              at + 1000);
        ts_out(rw, SVM_ISN + 1, A, at, PVM_ISN + 1, at + ts);
        ts_in(rw, PEER, PVM_ISN + 1, A, at + ts + 999, SVM_ISN + 1, at + 999);
        /* A SYN again leaves it alone. */
        ts_out(rw, SVM_ISN, S | A, at, i ? PVM_ISN : SVM_ISN,
               i ? at + ts : at);
        ts_out(rw, SVM_ISN + 1, A, at, PVM_ISN + 1, at + ts + 999);
        ts_in(rw, PEER, PVM_ISN + 1, A, at + ts + 999, SVM_ISN + 1, at);
        colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
    }
}

static void test_ts_partial_csum(void)
{
    g_autoptr(ColoRewrite) rw = learner();

    base.vnet_len = 12;
    base.vnet_flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    base.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    base.gso_size = 2;
    base.payload = "abcd";
    base.payload_len = 4;
    layout = &layouts[1];
    ts_client_opens(rw);
    ts_check(rw, TS - 3);
    layout = layouts;
    base = (TestFrame) { .proto = 6, .sport = 80, .dport = 40000 };
}

/* Options of a wrong length, twice the same, or cut off. */
static void test_ts_malformed(void)
{
    uint8_t opts[40];
    unsigned i, n;

    for (n = 4; n <= 40; n += 4) {
        for (i = 0; i < 256; i++) {
            g_autoptr(ColoRewrite) rw = learner();
            TestFrame f = base;
            size_t len;

            memset(opts, 8, sizeof(opts));
            opts[1] = i;
            f.options = opts;
            f.options_len = n;
            f.flags = S | A;
            f.seq = SVM_ISN;
            f.ack = PEER;
            len = test_frame(frame, &f);
            colo_rewrite_out(rw, frame, len, 0, now);
            f.reply = true;
            f.flags = A;
            f.seq = PEER;
            f.ack = PVM_ISN + 1;
            len = test_frame(frame, &f);
            colo_rewrite_in(rw, frame, len, 0, now);
            g_assert_true(test_frame_csum_ok(frame, len, 0));
            /* What was no option was not changed. */
            if (i != 10) {
                g_assert_cmpmem(frame + len - n, n, opts, n);
            }
        }
    }
}

static void test_ts_table(void)
{
    g_autoptr(ColoRewrite) first = learner();
    g_autoptr(ColoRewrite) second = NULL;
    g_autoptr(ColoRewrite) third = NULL;

    ts_client_opens(first);
    base.dport++;
    ts_out(first, 1000, S, 50, 1000, 50);       /* half open */
    base.dport++;
    ts_out(first, 50, S | A, 60, 50, 60);       /* timestamps only differ */
    ts_in(first, PEER, 51, A, 75, 51, 60);
    base.dport++;
    ts_out(first, 50, S | A, 60, 50, 60);       /* nothing does */
    ts_in(first, PEER, 51, A, 60, 51, 60);
    base.dport = 40000;
    colo_rewrite_set_mode(first, COLO_REWRITE_WIRE);
    g_assert_cmpuint(colo_rewrite_count(first), ==, 3);
    base.dport++;
    ts_out(first, 1000, S, 58, 1000, 58);       /* again, by the primary */
    base.dport--;
    second = next_secondary(first);
    g_assert_cmpuint(colo_rewrite_count(second), ==, 3);
    ts_check(second, TS - 3);
    base.dport++;
    ts_in(second, PEER - 1, 2001, S | A, 250, 1001, 50);
    base.dport++;
    ts_out(second, 51, A, 61, 51, 76);
    base.dport = 40000;
    colo_rewrite_set_mode(second, COLO_REWRITE_WIRE);
    g_assert_cmpuint(colo_rewrite_count(second), ==, 3);
    third = next_secondary(second);
    ts_check(third, TS - 3);
    base.dport++;
    ts_out(third, 1001, A, 60, 2001, 260);
    base.dport++;
    ts_in(third, PEER, 60, A, 76, 60, 61);
    base.dport = 40000;
    /* The half-open one was answered as its primary had sent it. */
    colo_rewrite_commit(third, NULL);
    g_clear_pointer(&second, colo_rewrite_free);
    second = next_secondary(first);
    base.dport++;
    ts_in(second, PEER - 1, 1001, S | A, 58, 1001, 58);
    ts_out(second, 1001, A, 60, 1001, 60);
    base.dport = 40000;
}

static void test_ts_table_malformed(void)
{
    g_autoptr(ColoRewrite) rw = learner();
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(ColoRewriteTable) table = NULL;
    unsigned i;

    ts_client_opens(rw);
    colo_rewrite_save(rw, bytes);
    g_assert_cmpuint(bytes->len, ==, 12 + 68);
    bytes->data[12 + 41] &= ~0x20;              /* stamps without the flag */
    expect_refused(bytes, bytes->len, 100);
    for (i = 56; i < 68; i += 4) {
        uint8_t copy[12];

        memcpy(copy, bytes->data + 12 + 56, 12);
        memset(bytes->data + 12 + 56, 0, 12);
        bytes->data[12 + i] = 1;
        expect_refused(bytes, bytes->len, 100);
        memcpy(bytes->data + 12 + 56, copy, 12);
    }
    bytes->data[12 + 41] |= 0x20;
    bytes->data[12 + 41] &= ~1;                 /* offsets that are unknown */
    expect_refused(bytes, bytes->len, 100);
    memset(bytes->data + 12 + 44, 0, 4);
    expect_refused(bytes, bytes->len, 100);
    bytes->data[12 + 41] |= 1;                  /* only that of timestamps */
    table = colo_rewrite_load(bytes->data, bytes->len, 1, &error_abort);
    memset(bytes->data + 12 + 56, 0, 4);        /* none at all */
    expect_refused(bytes, bytes->len, 100);
}

#define TEST(path, func) g_test_add_func("/colo/rewrite/" path, func)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("idle", test_idle);
    TEST("client-opens", test_client_opens);
    TEST("guest-opens", test_guest_opens);
    TEST("guest-refused", test_guest_refused);
    TEST("unknown", test_unknown);
    TEST("failover", test_failover);
    TEST("failover-half-open", test_failover_half_open);
    TEST("failover-half-open-anew", test_failover_half_open_anew);
    TEST("failover-no-offset", test_failover_no_offset);
    TEST("failover-unknown", test_failover_unknown);
    TEST("failover-guest-opens", test_failover_guest_opens);
    TEST("port-reuse", test_port_reuse);
    TEST("sacks", test_sacks);
    TEST("partial-csum", test_partial_csum);
    TEST("fragment", test_fragment);
    TEST("icmp-error", test_icmp_error);
    TEST("overflow", test_overflow);
    TEST("time-wait", test_time_wait);
    TEST("table", test_table);
    TEST("table-malformed", test_table_malformed);
    TEST("stamps/client-opens", test_ts_client_opens);
    TEST("stamps/guest-opens", test_ts_guest_opens);
    TEST("stamps/repeated", test_ts_repeated);
    TEST("stamps/none", test_ts_none);
    TEST("stamps/half-open", test_ts_half_open);
    TEST("stamps/port-reuse", test_ts_port_reuse);
    TEST("stamps/behind", test_ts_behind);
    TEST("stamps/partial-csum", test_ts_partial_csum);
    TEST("stamps/malformed", test_ts_malformed);
    TEST("stamps/table", test_ts_table);
    TEST("stamps/table-malformed", test_ts_table_malformed);
    return g_test_run();
}
