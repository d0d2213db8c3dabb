/*
 * Unit tests of the COLO proxy's stream frames, gate and held packets
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "net/colo/frame.h"
#include "net/colo/gate.h"
#include "net/colo/held.h"

static ColoFrameDecoder *new_decoder(bool vnet_hdr)
{
    ColoFrameDecoder *d = g_new(ColoFrameDecoder, 1);

    colo_frame_decoder_init(d, vnet_hdr);
    return d;
}

static void add_packet(GByteArray *out, bool vnet_hdr, const void *data,
                       size_t len, uint32_t vnet_hdr_len)
{
    uint8_t header[8];

    g_byte_array_append(out, header,
                        colo_frame_put_header(header, vnet_hdr, len,
                                              vnet_hdr_len));
    g_byte_array_append(out, data, len);
}

static void add_marker(GByteArray *out, bool vnet_hdr, ColoMarkerKind kind,
                       uint64_t epoch, const char *netdev)
{
    uint8_t buf[COLO_MARKER_MAX];
    ColoMarker marker = { .kind = kind, .epoch = epoch };

    g_strlcpy(marker.netdev, netdev, sizeof(marker.netdev));
    g_byte_array_append(out, buf,
                        colo_frame_put_marker(buf, vnet_hdr, &marker));
}

/* Decode one frame from the start of @in; the decoder's answer. */
static int decode(ColoFrameDecoder *d, GByteArray *in, ColoFrame *frame,
                  Error **errp)
{
    const uint8_t *buf = in->data;
    size_t len = in->len;
    int ret = colo_frame_decode(d, &buf, &len, frame, errp);

    g_byte_array_remove_range(in, 0, buf - in->data);
    return ret;
}

/* The bytes at @in must be refused with a message that has @what in it. */
static void assert_refused(bool vnet_hdr, GByteArray *in, const char *what)
{
    g_autofree ColoFrameDecoder *d = new_decoder(vnet_hdr);
    Error *err = NULL;
    ColoFrame frame;
    int ret;

    do {
        ret = decode(d, in, &frame, &err);
    } while (ret == 1);
    g_assert_cmpint(ret, ==, -1);
    g_assert_nonnull(strstr(error_get_pretty(err), what));
    error_free(err);
    g_assert_cmpint(decode(d, in, &frame, &error_abort), ==, 0);
    g_assert_cmpuint(in->len, ==, 0);
    g_byte_array_unref(in);
}

static void assert_packet(const ColoFrame *frame, const void *data, size_t len,
                          uint32_t vnet_hdr_len)
{
    g_assert_false(frame->is_marker);
    g_assert_cmpmem(frame->data, frame->len, data, len);
    g_assert_cmpuint(frame->vnet_hdr_len, ==, vnet_hdr_len);
}

static void assert_marker(const ColoFrame *frame, ColoMarkerKind kind,
                          uint64_t epoch, const char *netdev)
{
    g_assert_true(frame->is_marker);
    g_assert_cmpint(frame->marker.kind, ==, kind);
    g_assert_cmpuint(frame->marker.epoch, ==, epoch);
    g_assert_cmpstr(frame->marker.netdev, ==, netdev);
}

/* QEMU's own tests and stream netdevs send and expect these bytes. */
static void test_format(void)
{
    static const uint8_t plain[] = { 0, 0, 0, 3, 'a', 'b', 'c' };
    static const uint8_t vnet[] = {
        0, 0, 0, 13, 0, 0, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 'x',
    };
    g_autoptr(GByteArray) out = g_byte_array_new();

    add_packet(out, false, "abc", 3, 0);
    g_assert_cmpmem(out->data, out->len, plain, sizeof(plain));
    g_byte_array_set_size(out, 0);
    add_packet(out, true, vnet + 8, 13, 12);
    g_assert_cmpmem(out->data, out->len, vnet, sizeof(vnet));
}

/* No packet may look like a marker, whatever its length. */
static void test_marker_is_no_length(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();

    add_marker(out, false, COLO_MARKER_CAPTURE, 1, "n");
    g_assert_cmpuint(ldl_be_p(out->data), >, COLO_STREAM_MAX_PACKET);
}

static GByteArray *sample(bool vnet_hdr)
{
    static const uint8_t data[40] = { 0, 1, 2, 3, 4 };
    GByteArray *out = g_byte_array_new();

    add_marker(out, vnet_hdr, COLO_MARKER_ATTACH, 0, "hn0");
    add_packet(out, vnet_hdr, data, sizeof(data), 10);
    add_marker(out, vnet_hdr, COLO_MARKER_CAPTURE, UINT64_MAX, "");
    add_packet(out, vnet_hdr, data, 1, 0);
    return out;
}

static void check_sample(bool vnet_hdr, const ColoFrame *frame, int n)
{
    static const uint8_t data[40] = { 0, 1, 2, 3, 4 };

    switch (n) {
    case 0:
        assert_marker(frame, COLO_MARKER_ATTACH, 0, "hn0");
        break;
    case 1:
        assert_packet(frame, data, sizeof(data), vnet_hdr ? 10 : 0);
        break;
    case 2:
        assert_marker(frame, COLO_MARKER_CAPTURE, UINT64_MAX, "");
        break;
    case 3:
        assert_packet(frame, data, 1, 0);
        break;
    default:
        g_assert_not_reached();
    }
}

/* The frames come out the same, in whatever pieces the bytes come. */
static void test_pieces(gconstpointer opaque)
{
    bool vnet_hdr = GPOINTER_TO_INT(opaque);
    g_autoptr(GByteArray) bytes = sample(vnet_hdr);

    for (size_t piece = 1; piece <= bytes->len; piece++) {
        g_autofree ColoFrameDecoder *d = new_decoder(vnet_hdr);
        int n = 0;

        for (size_t at = 0; at < bytes->len; at += piece) {
            const uint8_t *buf = bytes->data + at;
            size_t len = MIN(piece, bytes->len - at);
            ColoFrame frame;

            while (colo_frame_decode(d, &buf, &len, &frame, &error_abort)) {
                check_sample(vnet_hdr, &frame, n++);
            }
            g_assert_cmpuint(len, ==, 0);
        }
        g_assert_cmpint(n, ==, 4);
        g_assert_false(colo_frame_decoder_partial(d));
    }
}

/* Cut anywhere, the decoder asks for more, and a reset starts afresh. */
static void test_truncated(gconstpointer opaque)
{
    bool vnet_hdr = GPOINTER_TO_INT(opaque);
    g_autoptr(GByteArray) bytes = sample(vnet_hdr);
    g_autofree ColoFrameDecoder *d = new_decoder(vnet_hdr);

    for (size_t cut = 0; cut < bytes->len; cut++) {
        /* an own buffer, so that a sanitizer sees reads behind the cut */
        g_autofree uint8_t *copy = g_memdup2(bytes->data, cut);
        const uint8_t *buf = copy;
        size_t len = cut;
        ColoFrame frame;
        int n = 0;

        while (colo_frame_decode(d, &buf, &len, &frame, &error_abort)) {
            check_sample(vnet_hdr, &frame, n++);
        }
        g_assert_cmpint(n, <, 4);
        colo_frame_decoder_reset(d);
        g_assert_false(colo_frame_decoder_partial(d));
    }
}

static void test_partial(void)
{
    g_autofree ColoFrameDecoder *d = new_decoder(false);
    g_autoptr(GByteArray) in = g_byte_array_new();
    ColoFrame frame;

    g_byte_array_append(in, (const uint8_t *)"\0\0\0\4ab", 6);
    g_assert_cmpint(decode(d, in, &frame, &error_abort), ==, 0);
    g_assert_true(colo_frame_decoder_partial(d));
    colo_frame_decoder_reset(d);
    add_packet(in, false, "new", 3, 0);
    g_assert_cmpint(decode(d, in, &frame, &error_abort), ==, 1);
    assert_packet(&frame, "new", 3, 0);
}

static void test_lengths(void)
{
    g_autofree uint8_t *data = g_malloc0(COLO_STREAM_MAX_PACKET + 1);

    for (int vnet_hdr = 0; vnet_hdr <= 1; vnet_hdr++) {
        g_autofree ColoFrameDecoder *d = new_decoder(vnet_hdr);
        GByteArray *in = g_byte_array_new();
        ColoFrame frame;

        add_packet(in, vnet_hdr, data, COLO_STREAM_MAX_PACKET, 0);
        g_assert_cmpint(decode(d, in, &frame, &error_abort), ==, 1);
        g_assert_cmpuint(frame.len, ==, COLO_STREAM_MAX_PACKET);

        add_packet(in, vnet_hdr, data, COLO_STREAM_MAX_PACKET + 1, 0);
        assert_refused(vnet_hdr, in, "the limit is");

        in = g_byte_array_new();
        add_packet(in, vnet_hdr, data, 0, 0);
        assert_refused(vnet_hdr, in, "0 bytes");
    }
}

static void test_vnet_hdr_len(void)
{
    static const uint32_t bad[] = { 1, 9, 11, 13, 21, 0x52540012, UINT32_MAX };
    static const uint32_t good[] = { 0, 10, 12, 20 };
    uint8_t data[20] = {};
    GByteArray *in;

    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        in = g_byte_array_new();
        add_packet(in, true, data, sizeof(data), bad[i]);
        assert_refused(true, in, "vnet header of");
    }
    for (int i = 0; i < ARRAY_SIZE(good); i++) {
        g_autofree ColoFrameDecoder *d = new_decoder(true);
        ColoFrame frame;

        in = g_byte_array_new();
        add_packet(in, true, data, sizeof(data), good[i]);
        g_assert_cmpint(decode(d, in, &frame, &error_abort), ==, 1);
        assert_packet(&frame, data, sizeof(data), good[i]);
        g_byte_array_unref(in);
    }
    /* longer than the packet */
    in = g_byte_array_new();
    add_packet(in, true, data, 11, 12);
    assert_refused(true, in, "in a packet of 11 bytes");
}

/* One side uses vnet headers and the other does not, outside COLO. */
static void test_vnet_hdr_mismatch(void)
{
    static const uint8_t eth[60] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
    uint8_t with_hdr[12 + sizeof(eth)] = {};
    GByteArray *in = g_byte_array_new();

    add_packet(in, false, eth, sizeof(eth), 0);
    assert_refused(true, in, "vnet header of");

    memcpy(with_hdr + 12, eth, sizeof(eth));
    in = g_byte_array_new();
    add_packet(in, true, with_hdr, sizeof(with_hdr), 12);
    /* the packet's end is taken for the next length */
    assert_refused(false, in, "0 bytes");
}

/* ... and in COLO, where the markers tell. */
static void test_vnet_hdr_marker(void)
{
    GByteArray *in = g_byte_array_new();

    add_marker(in, true, COLO_MARKER_CAPTURE, 1, "hn0");
    assert_refused(false, in, "uses vnet headers");
    in = g_byte_array_new();
    add_marker(in, false, COLO_MARKER_CAPTURE, 1, "hn0");
    assert_refused(true, in, "does not use vnet headers");
}

/* No byte of a marker can change without being noticed. */
static void test_marker_corrupt(void)
{
    g_autoptr(GByteArray) good = g_byte_array_new();

    add_marker(good, false, COLO_MARKER_COMMIT, 42, "netdev0");
    for (size_t i = 0; i < good->len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            g_autofree ColoFrameDecoder *d = new_decoder(false);
            g_autofree uint8_t *copy = g_memdup2(good->data, good->len);
            const uint8_t *buf = copy;
            size_t len = good->len;
            Error *err = NULL;
            ColoFrame frame;

            copy[i] ^= 1 << bit;
            /* a size that grew makes it wait for more */
            if (colo_frame_decode(d, &buf, &len, &frame, &err) == 0) {
                g_assert_true(colo_frame_decoder_partial(d));
                continue;
            }
            g_assert_nonnull(err);
            error_free(err);
        }
    }
}

static void test_marker_name(void)
{
    char name[COLO_MARKER_MAX_NETDEV + 1];
    g_autofree ColoFrameDecoder *d = new_decoder(false);
    g_autoptr(GByteArray) in = g_byte_array_new();
    ColoFrame frame;

    memset(name, 'x', sizeof(name));
    name[COLO_MARKER_MAX_NETDEV] = '\0';
    add_marker(in, false, COLO_MARKER_ATTACH, 0, name);
    g_assert_cmpuint(in->len, ==, COLO_MARKER_MAX);
    g_assert_cmpint(decode(d, in, &frame, &error_abort), ==, 1);
    assert_marker(&frame, COLO_MARKER_ATTACH, 0, name);
}

static void test_gate_off(void)
{
    ColoGate gate = {};

    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_TAKE);
    colo_gate_restart(&gate);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_TAKE);
}

static void test_gate_epochs(void)
{
    ColoGate gate = {};

    colo_gate_start(&gate);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_DISCARD);
    colo_gate_marker(&gate, 0);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_WAIT);
    colo_gate_run(&gate, 0);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_TAKE);
    /* the commit comes before the marker */
    colo_gate_run(&gate, 1);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_DISCARD);
    colo_gate_marker(&gate, 1);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_TAKE);
    /* the marker comes before the commit */
    colo_gate_marker(&gate, 2);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_WAIT);
    colo_gate_run(&gate, 2);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_TAKE);
}

static void test_gate_restart(void)
{
    ColoGate gate = {};

    colo_gate_start(&gate);
    colo_gate_marker(&gate, 1);
    colo_gate_run(&gate, 1);
    colo_gate_restart(&gate);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_DISCARD);
    colo_gate_marker(&gate, 1);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_TAKE);
}

/* A former primary that still sends is not listened to, the next one is. */
static void test_gate_stop(void)
{
    ColoGate gate = {};

    colo_gate_start(&gate);
    colo_gate_marker(&gate, 1);
    colo_gate_run(&gate, 1);
    colo_gate_stop(&gate);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_DISCARD);
    colo_gate_restart(&gate);
    g_assert_cmpint(colo_gate_verdict(&gate), ==, COLO_GATE_TAKE);
}

static void push(ColoHeldQueue *q, uint64_t epoch, const char *data)
{
    struct iovec iov[] = {
        { .iov_base = (char *)data, .iov_len = 1 },
        { .iov_base = (char *)data + 1, .iov_len = strlen(data) - 1 },
    };

    colo_held_push(q, epoch, 0, 0, iov, 2);
}

static void assert_pop(ColoHeldQueue *q, uint64_t epoch, const char *data)
{
    g_autofree ColoHeld *pkt = colo_held_pop(q, epoch);

    g_assert_nonnull(pkt);
    g_assert_cmpmem(pkt->data, pkt->len, data, strlen(data));
}

static void test_held_epochs(void)
{
    ColoHeldQueue q;
    uint64_t epoch;

    colo_held_init(&q);
    g_assert_null(colo_held_pop(&q, UINT64_MAX));
    g_assert_false(colo_held_oldest(&q, &epoch));
    push(&q, 1, "one");
    push(&q, 1, "two");
    push(&q, 2, "three");
    g_assert_true(colo_held_oldest(&q, &epoch));
    g_assert_cmpuint(epoch, ==, 1);
    g_assert_null(colo_held_pop(&q, 0));
    assert_pop(&q, 1, "one");
    assert_pop(&q, 1, "two");
    g_assert_null(colo_held_pop(&q, 1));
    g_assert_cmpuint(q.count, ==, 1);
    assert_pop(&q, 3, "three");
    g_assert_cmpuint(q.count, ==, 0);
    g_assert_cmpuint(q.bytes, ==, 0);
    g_assert_cmpuint(q.dropped, ==, 0);
}

static void test_held_trim(void)
{
    ColoHeldQueue q;
    size_t one;

    colo_held_init(&q);
    push(&q, 1, "old");
    one = q.bytes;
    push(&q, 1, "mid");
    push(&q, 2, "new");
    colo_held_trim(&q, one);
    g_assert_cmpuint(q.dropped, ==, 2);
    assert_pop(&q, UINT64_MAX, "new");
    push(&q, 3, "end");
    colo_held_clear(&q);
    g_assert_cmpuint(q.dropped, ==, 3);
    g_assert_cmpuint(q.bytes, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/colo/frame/format", test_format);
    g_test_add_func("/colo/frame/marker-is-no-length",
                    test_marker_is_no_length);
    g_test_add_data_func("/colo/frame/pieces/plain", GINT_TO_POINTER(false),
                         test_pieces);
    g_test_add_data_func("/colo/frame/pieces/vnet", GINT_TO_POINTER(true),
                         test_pieces);
    g_test_add_data_func("/colo/frame/truncated/plain",
                         GINT_TO_POINTER(false), test_truncated);
    g_test_add_data_func("/colo/frame/truncated/vnet", GINT_TO_POINTER(true),
                         test_truncated);
    g_test_add_func("/colo/frame/partial", test_partial);
    g_test_add_func("/colo/frame/lengths", test_lengths);
    g_test_add_func("/colo/frame/vnet-hdr-len", test_vnet_hdr_len);
    g_test_add_func("/colo/frame/vnet-hdr-mismatch", test_vnet_hdr_mismatch);
    g_test_add_func("/colo/frame/vnet-hdr-marker", test_vnet_hdr_marker);
    g_test_add_func("/colo/frame/marker-corrupt", test_marker_corrupt);
    g_test_add_func("/colo/frame/marker-name", test_marker_name);
    g_test_add_func("/colo/gate/off", test_gate_off);
    g_test_add_func("/colo/gate/epochs", test_gate_epochs);
    g_test_add_func("/colo/gate/restart", test_gate_restart);
    g_test_add_func("/colo/gate/stop", test_gate_stop);
    g_test_add_func("/colo/held/epochs", test_held_epochs);
    g_test_add_func("/colo/held/trim", test_held_trim);
    return g_test_run();
}
