/*
 * COLO proxy: frame streams over character devices
 *
 * Peers are not trusted: bytes that are no frame end the connection, with a
 * message, and the next connection starts afresh. Sending never waits; what
 * does not fit into the queue is dropped and counted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "net/colo/stream.h"
#include "trace.h"

/* A queue of that many bytes is crowded. */
#define CROWDED (COLO_OUT_MAX_QUEUE / 2)

/* Bytes of small frames that go out with one write */
#define OUT_BATCH (64 * KiB)

static char *owner_name(Object *owner)
{
    return g_strdup_printf("%s %s", object_get_typename(owner),
                           object_get_canonical_path_component(owner));
}

/* Streams that outlive their owners. BQL. */
static QTAILQ_HEAD(, ColoOut) lingering =
    QTAILQ_HEAD_INITIALIZER(lingering);
static QTAILQ_HEAD(, ColoIn) draining = QTAILQ_HEAD_INITIALIZER(draining);

Chardev *colo_stream_chardev(Object *object, const char *name, const char *id,
                             Error **errp)
{
    g_autofree char *owner = owner_name(object);
    Chardev *chardev = qemu_chr_find(id);

    if (!chardev) {
        error_setg(errp, "%s: option '%s': there is no character device '%s'",
                   owner, name, id);
    }
    return chardev;
}

/* Take @chardev for the front end @chr, saying who wanted it if that fails. */
static bool stream_take(CharBackend *chr, Chardev *chardev, const char *owner,
                        const char *name, GMainContext *context, Error **errp)
{
    ERRP_GUARD();

    if (context && !qemu_chr_has_feature(chardev,
                                         QEMU_CHAR_FEATURE_GCONTEXT)) {
        error_setg(errp, "%s: option '%s': character device '%s' can't be "
                   "used in an iothread; use a socket", owner, name,
                   chardev->label);
        return false;
    }
    if (!qemu_chr_fe_init(chr, chardev, errp)) {
        error_prepend(errp, "%s: option '%s': ", owner, name);
        return false;
    }
    return true;
}

static void out_drop_queue(ColoOut *out)
{
    out->dropped += g_queue_get_length(&out->frames);
    g_queue_clear_full(&out->frames, (GDestroyNotify)g_bytes_unref);
    out->queued = 0;
    out->sent = 0;
}

static void out_unwatch(ColoOut *out)
{
    GSource *source;

    if (!out->watch) {
        return;
    }
    source = g_main_context_find_source_by_id(out->context, out->watch);
    if (source) {
        g_source_destroy(source);
    }
    out->watch = 0;
}

static void out_event(ColoOut *out, ColoOutEvent event)
{
    out->crowded = false;
    if (out->event) {
        out->event(out->opaque, event);
    }
}

static void out_end(ColoOut *out)
{
    out_unwatch(out);
    out_drop_queue(out);
    qemu_chr_fe_deinit(&out->chr, false);
    if (out->linger) {
        timer_free(out->linger);
        QTAILQ_REMOVE(&lingering, out, next);
    }
    g_free(out->batch);
    g_free(out->owner);
    g_free(out);
}

static void out_closed(ColoOut *out)
{
    out->inherited = false;
    trace_colo_out_closed(out->owner, g_queue_get_length(&out->frames));
    out_unwatch(out);
    out_drop_queue(out);
    out_event(out, COLO_OUT_CLOSED);
}

static gboolean out_writable(void *do_not_use, GIOCondition cond, void *opaque);

static void out_watch(ColoOut *out)
{
    if (!out->watch) {
        out->watch = qemu_chr_fe_add_watch(&out->chr, G_IO_OUT | G_IO_HUP,
                                           out_writable, out);
    }
}

/* @bytes of the queue are gone. */
static void out_gone(ColoOut *out, size_t bytes)
{
    GBytes *head;

    out->sent += bytes;
    while ((head = g_queue_peek_head(&out->frames)) &&
           out->sent >= g_bytes_get_size(head)) {
        out->sent -= g_bytes_get_size(head);
        out->queued -= g_bytes_get_size(head);
        g_bytes_unref(g_queue_pop_head(&out->frames));
    }
}

/* Frames that fit into @out->batch, one after the other; returns the bytes. */
static size_t out_gather(ColoOut *out)
{
    size_t bytes = 0;

    for (GList *l = out->frames.head; l; l = l->next) {
        size_t size, skip = bytes ? 0 : out->sent;
        const uint8_t *data = g_bytes_get_data(l->data, &size);

        if (bytes + size - skip > OUT_BATCH) {
            break;
        }
        memcpy(out->batch + bytes, data + skip, size - skip);
        bytes += size - skip;
    }
    return bytes;
}

/* Write the first frame, or several at once; false: not all was taken. */
static bool out_write(ColoOut *out)
{
    GBytes *head = g_queue_peek_head(&out->frames);
    size_t size;
    const uint8_t *data = g_bytes_get_data(head, &size);
    int ret;

    data += out->sent;
    size -= out->sent;
    if (size < OUT_BATCH / 2 && g_queue_get_length(&out->frames) > 1) {
        out->batch = out->batch ?: g_malloc(OUT_BATCH);
        data = out->batch;
        size = out_gather(out);
    }
    ret = qemu_chr_fe_write(&out->chr, data, size);
    if (ret > 0) {
        out_gone(out, ret);
    }
    return ret == size;
}

/*
 * A write that fails closes a socket under our feet, with the device's lock
 * held; its event is looked at when we are out of there.
 */
static void out_flush(ColoOut *out)
{
    if (out->writing || out->corked) {
        return;
    }
    out->writing = true;
    while (!g_queue_is_empty(&out->frames) && !out->closed_while_writing &&
           out_write(out)) {
        continue;
    }
    out->writing = false;
    if (out->closed_while_writing) {
        out->closed_while_writing = false;
        out_closed(out);
    } else if (!g_queue_is_empty(&out->frames)) {
        out_watch(out);
    }
}

void colo_out_cork(ColoOut *out, bool cork)
{
    out->corked = cork;
    if (!cork) {
        out_flush(out);
    }
}

static gboolean out_writable(void *do_not_use, GIOCondition cond, void *opaque)
{
    ColoOut *out = opaque;

    out->watch = 0;
    out_flush(out);
    if (out->linger && g_queue_is_empty(&out->frames)) {
        out_end(out);
        return G_SOURCE_REMOVE;
    }
    if (out->crowded && out->queued <= CROWDED / 2) {
        out_event(out, COLO_OUT_ROOM);
    }
    return G_SOURCE_REMOVE;
}

static void out_chr_event(void *opaque, QEMUChrEvent event)
{
    ColoOut *out = opaque;

    switch (event) {
    case CHR_EVENT_OPENED:
        out->warned = false;
        if (!out->inherited) {
            out_drop_queue(out);
        }
        out_event(out, COLO_OUT_OPENED);
        break;
    case CHR_EVENT_CLOSED:
        if (out->writing) {
            out->closed_while_writing = true;
        } else {
            out_closed(out);
        }
        break;
    case CHR_EVENT_BREAK:
    case CHR_EVENT_MUX_IN:
    case CHR_EVENT_MUX_OUT:
        break;
    }
}

/* A peer that only receives has nothing to say: take it and forget it. */
static int out_can_read(void *opaque)
{
    return CHR_READ_BUF_LEN;
}

static void out_read(void *opaque, const uint8_t *buf, int size)
{
    ColoOut *out = opaque;

    trace_colo_out_ignored(out->owner, size);
}

/* Take over the frame that another object began to send to @chardev. */
static void out_inherit(ColoOut *out, Chardev *chardev)
{
    ColoOut *old;

    QTAILQ_FOREACH(old, &lingering, next) {
        if (old->chr.chr == chardev) {
            out->frames = old->frames;
            out->queued = old->queued;
            out->sent = old->sent;
            out->inherited = true;
            g_queue_init(&old->frames);
            out_end(old);
            return;
        }
    }
}

ColoOut *colo_out_new(Chardev *chardev, Object *object, const char *name,
                      bool vnet_hdr, GMainContext *context,
                      ColoOutEventHandler *event, void *opaque, Error **errp)
{
    g_autofree char *owner = owner_name(object);
    ColoOut *out = g_new0(ColoOut, 1);

    g_queue_init(&out->frames);
    out_inherit(out, chardev);
    if (!stream_take(&out->chr, chardev, owner, name, context, errp)) {
        out_drop_queue(out);
        g_free(out);
        return NULL;
    }
    out->owner = g_strdup_printf("%s: %s", owner, name);
    out->vnet_hdr = vnet_hdr;
    out->event = event;
    out->opaque = opaque;
    out->context = context;
    return out;
}

void colo_out_run(ColoOut *out)
{
    qemu_chr_fe_set_handlers(&out->chr, out_can_read, out_read, out_chr_event,
                             NULL, out, out->context, true);
}

void colo_out_detach(ColoOut *out)
{
    out_unwatch(out);
    qemu_chr_fe_set_handlers(&out->chr, NULL, NULL, NULL, NULL, NULL, NULL,
                             false);
    out->context = NULL;
}

static void linger_timeout(void *opaque)
{
    ColoOut *out = opaque;

    warn_report("%s: ended inside a frame, disconnecting", out->owner);
    qemu_chr_fe_disconnect(&out->chr);
    out_end(out);
}

static void out_linger(ColoOut *out)
{
    GBytes *head = g_queue_pop_head(&out->frames);
    size_t sent = out->sent;

    out_drop_queue(out);
    out->sent = sent;
    out->queued = g_bytes_get_size(head);
    g_queue_push_head(&out->frames, head);
    out->inherited = true;
    out->linger = timer_new_ms(QEMU_CLOCK_REALTIME, linger_timeout, out);
    timer_mod(out->linger,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + COLO_LINGER_MS);
    QTAILQ_INSERT_TAIL(&lingering, out, next);
    qemu_chr_fe_set_handlers_full(&out->chr, out_can_read, out_read,
                                  out_chr_event, NULL, out, NULL, true, false);
    out_watch(out);
}

void colo_out_free(ColoOut *out, bool linger)
{
    if (!out) {
        return;
    }
    out->event = NULL;
    out_unwatch(out);
    out->context = NULL;
    if (out->sent && linger && colo_out_open(out)) {
        out_linger(out);
        return;
    }
    if (out->sent) {
        qemu_chr_fe_disconnect(&out->chr);
    }
    out_end(out);
}

bool colo_out_open(ColoOut *out)
{
    return qemu_chr_fe_backend_open(&out->chr) && !out->closed_while_writing;
}

static void out_count_drop(ColoOut *out, const char *why)
{
    out->dropped++;
    trace_colo_out_drop(out->owner, why);
    if (!out->warned) {
        out->warned = true;
        warn_report("%s: packets are dropped: %s", out->owner, why);
    }
}

static void out_push(ColoOut *out, GBytes *frame)
{
    out->queued += g_bytes_get_size(frame);
    g_queue_push_tail(&out->frames, frame);
    out_flush(out);
}

bool colo_out_packet(ColoOut *out, const struct iovec *iov, int iovcnt,
                     uint32_t vnet_hdr_len, bool raw)
{
    size_t pad = raw ? vnet_hdr_len : 0;
    size_t size = iov_size(iov, iovcnt);
    size_t header;
    uint8_t *buf;

    if (!colo_out_open(out)) {
        /* nobody to warn about: a peer that is not there yet, or no more */
        out->dropped++;
        return false;
    }
    if (size == 0 || pad + size > COLO_STREAM_MAX_PACKET ||
        vnet_hdr_len > pad + size) {
        out_count_drop(out, "length out of range");
        return false;
    }
    if (out->queued + pad + size > COLO_OUT_MAX_QUEUE) {
        out_count_drop(out, "the peer does not read them fast enough");
        return false;
    }
    buf = g_malloc(8 + pad + size);
    header = colo_frame_put_header(buf, out->vnet_hdr, pad + size,
                                   vnet_hdr_len);
    memset(buf + header, 0, pad);
    iov_to_buf(iov, iovcnt, 0, buf + header + pad, size);
    out_push(out, g_bytes_new_take(buf, header + pad + size));
    return true;
}

bool colo_out_room(ColoOut *out)
{
    out->crowded = out->queued >= CROWDED;
    return !out->crowded;
}

/* Packet of a frame as colo_out_packet() put it together; NULL: a marker. */
static GBytes *frame_packet(ColoOut *out, GBytes *frame,
                            uint32_t *vnet_hdr_len)
{
    size_t header = out->vnet_hdr ? 8 : 4;
    size_t size;
    const uint8_t *data = g_bytes_get_data(frame, &size);

    if (size - header != ldl_be_p(data)) {
        return NULL;
    }
    *vnet_hdr_len = out->vnet_hdr ? ldl_be_p(data + 4) : 0;
    return g_bytes_new_from_bytes(frame, header, size - header);
}

GBytes *colo_out_take(ColoOut *out, uint32_t *vnet_hdr_len)
{
    GBytes *packet = NULL;

    while (!packet && g_queue_get_length(&out->frames) > (out->sent ? 1 : 0)) {
        g_autoptr(GBytes) frame = g_queue_pop_nth(&out->frames,
                                                  out->sent ? 1 : 0);

        out->queued -= g_bytes_get_size(frame);
        packet = frame_packet(out, frame, vnet_hdr_len);
    }
    return packet;
}

bool colo_out_marker(ColoOut *out, const ColoMarker *marker)
{
    uint8_t buf[COLO_MARKER_MAX];
    size_t size;

    if (!colo_out_open(out)) {
        return false;
    }
    trace_colo_out_marker(out->owner, marker->kind, marker->epoch);
    size = colo_frame_put_marker(buf, out->vnet_hdr, marker);
    out_push(out, g_bytes_new(buf, size));
    return true;
}

static int in_can_read(void *opaque)
{
    ColoIn *in = opaque;

    if (in->linger && !in->take) {
        return MIN(colo_frame_decoder_missing(&in->decoder), CHR_READ_BUF_LEN);
    }
    return in->paused ? 0 : CHR_READ_BUF_LEN;
}

static void in_broken(ColoIn *in, Error *err)
{
    error_reportf_err(err, "%s: ", in->owner);
    in->broken++;
    in->ops->restart(in->opaque);
    /* a device that can't disconnect goes on, ignored until it reopens */
    qemu_chr_fe_disconnect(&in->chr);
}

static void in_end(ColoIn *in)
{
    qemu_chr_fe_deinit(&in->chr, false);
    if (in->linger) {
        timer_free(in->linger);
        QTAILQ_REMOVE(&draining, in, next);
    }
    if (in->destroy) {
        in->destroy(in->take_opaque);
    }
    g_free(in->owner);
    g_free(in);
}

static void in_read(void *opaque, const uint8_t *buf, int size)
{
    ColoIn *in = opaque;
    size_t len = size;

    while (len > 0) {
        Error *err = NULL;
        ColoFrame frame;
        int ret = colo_frame_decode(&in->decoder, &buf, &len, &frame, &err);

        if (ret < 0) {
            in_broken(in, err);
            return;
        }
        if (ret == 0) {
            return;
        }
        if (frame.is_marker) {
            trace_colo_in_marker(in->owner, frame.marker.kind,
                                 frame.marker.epoch);
            in->ops->marker(in->opaque, &frame.marker);
        } else {
            in->ops->packet(in->opaque, &frame);
        }
        if (in->ended) {
            in_end(in);
            return;
        }
    }
}

static void in_fresh(ColoIn *in)
{
    if (in->inherited) {
        in->inherited = false;
        return;
    }
    if (colo_frame_decoder_partial(&in->decoder)) {
        warn_report("%s: closed inside a frame", in->owner);
        in->broken++;
    }
    colo_frame_decoder_reset(&in->decoder);
}

static void in_chr_event(void *opaque, QEMUChrEvent event)
{
    ColoIn *in = opaque;

    switch (event) {
    case CHR_EVENT_OPENED:
    case CHR_EVENT_CLOSED:
        in_fresh(in);
        in->ops->restart(in->opaque);
        break;
    case CHR_EVENT_BREAK:
    case CHR_EVENT_MUX_IN:
    case CHR_EVENT_MUX_OUT:
        break;
    }
}

/* Take over what another object began to receive from @chardev. */
static void in_inherit(ColoIn *in, Chardev *chardev)
{
    ColoIn *old;

    QTAILQ_FOREACH(old, &draining, next) {
        if (old->chr.chr == chardev) {
            in->inherited = old->decoder.vnet_hdr == in->decoder.vnet_hdr;
            if (in->inherited) {
                in->decoder = old->decoder;
            }
            in_end(old);
            return;
        }
    }
}

ColoIn *colo_in_new(Chardev *chardev, Object *object, const char *name,
                    bool vnet_hdr, GMainContext *context,
                    const ColoInOps *ops, void *opaque, Error **errp)
{
    g_autofree char *owner = owner_name(object);
    ColoIn *in = g_new0(ColoIn, 1);

    colo_frame_decoder_init(&in->decoder, vnet_hdr);
    in_inherit(in, chardev);
    if (!stream_take(&in->chr, chardev, owner, name, context, errp)) {
        g_free(in);
        return NULL;
    }
    in->owner = g_strdup_printf("%s: %s", owner, name);
    in->ops = ops;
    in->opaque = opaque;
    in->context = context;
    return in;
}

void colo_in_run(ColoIn *in)
{
    qemu_chr_fe_set_handlers(&in->chr, in_can_read, in_read, in_chr_event,
                             NULL, in, in->context, true);
}

void colo_in_pause(ColoIn *in, bool pause)
{
    bool resume = in->paused && !pause;

    in->paused = pause;
    if (resume) {
        qemu_chr_fe_accept_input(&in->chr);
    }
}

void colo_in_detach(ColoIn *in)
{
    qemu_chr_fe_set_handlers(&in->chr, NULL, NULL, NULL, NULL, NULL, NULL,
                             false);
}

void colo_in_free(ColoIn *in)
{
    if (!in) {
        return;
    }
    if (colo_frame_decoder_partial(&in->decoder)) {
        qemu_chr_fe_set_handlers(&in->chr, NULL, NULL, NULL, NULL, NULL, NULL,
                                 true);
        qemu_chr_fe_disconnect(&in->chr);
    }
    in_end(in);
}

static void drain_packet(void *opaque, const ColoFrame *frame)
{
    ColoIn *in = opaque;

    if (in->take) {
        in->take(in->take_opaque, frame);
    } else {
        in->ended = true;
    }
}

static void drain_marker(void *opaque, const ColoMarker *marker)
{
    ColoIn *in = opaque;

    in->ended = !in->take || marker->kind == COLO_MARKER_DETACH;
}

static void drain_restart(void *opaque)
{
}

static const ColoInOps drain_ops = {
    .packet = drain_packet,
    .marker = drain_marker,
    .restart = drain_restart,
};

static void drain_timeout(void *opaque)
{
    ColoIn *in = opaque;

    trace_colo_in_drain_timeout(in->owner);
    colo_in_free(in);
}

void colo_in_drain(ColoIn *in, ColoInTake *take, void *opaque,
                   GDestroyNotify destroy)
{
    if (!in) {
        return;
    }
    in->take = take;
    in->take_opaque = opaque;
    in->destroy = destroy;
    if (!qemu_chr_fe_backend_open(&in->chr) ||
        (!take && !colo_frame_decoder_partial(&in->decoder))) {
        in_end(in);
        return;
    }
    in->ops = &drain_ops;
    in->opaque = in;
    in->paused = false;
    in->context = NULL;
    in->linger = timer_new_ms(QEMU_CLOCK_REALTIME, drain_timeout, in);
    timer_mod(in->linger,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + COLO_LINGER_MS);
    QTAILQ_INSERT_TAIL(&draining, in, next);
    qemu_chr_fe_set_handlers_full(&in->chr, in_can_read, in_read,
                                  in_chr_event, NULL, in, NULL, true, false);
}
