/*
 * COLO proxy: filter-rewriter
 *
 * Translates between the TCP sequence numbers and timestamps of this guest and
 * those the clients know, on a secondary and for as long as its connections
 * live after it took over. Without anything to translate packets pass
 * untouched. On a secondary it also gives the guest input again that its NIC
 * has dropped, see repair.h.
 *
 * Runs under the BQL, as all filters do.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "migration/colo.h"
#include "net/colo/rewriter.h"
#include "system/runstate.h"
#include "trace.h"

/* How often closed connections are looked for, in ms. */
#define TICK_MS 5000

static int64_t rewriter_now(FilterRewriter *s)
{
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (now - s->last_tick >= TICK_MS) {
        s->last_tick = now;
        colo_rewrite_tick(s->core, now);
    }
    return now;
}

static ssize_t rewriter_drop(NetFilterState *nf, size_t size)
{
    trace_colo_rewriter_unknown(nf->netdev_id, size);
    colo_checkpoint_request(COLO_CHECKPOINT_REASON_TCP);
    return size;
}

/* From the main loop, never within the guest's transmit path. */
static void rewriter_repair(FilterRewriter *s)
{
    NetFilterState *nf = NETFILTER(s);
    uint8_t *frame;
    size_t len;

    while ((frame = colo_repair_pop(s->repair, nf->netdev->vnet_hdr_len,
                                    &len))) {
        struct iovec iov = { .iov_base = frame, .iov_len = len };

        trace_colo_rewriter_repair(nf->netdev_id, len);
        qemu_netfilter_pass_to_next(nf->netdev, QEMU_NET_PACKET_FLAG_NONE,
                                    &iov, 1, nf);
        g_free(frame);
    }
}

/* A NIC that can't receive drops nothing: what the guest lacks is queued. */
static bool rewriter_can_repair(FilterRewriter *s)
{
    NetFilterState *nf = NETFILTER(s);

    return nf->on && runstate_is_running() && nf->netdev->peer &&
           qemu_can_receive_packet(nf->netdev->peer);
}

static void rewriter_repair_bh(void *opaque)
{
    FilterRewriter *s = opaque;

    if (rewriter_can_repair(s)) {
        rewriter_repair(s);
    }
}

static void rewriter_arm_repair(FilterRewriter *s, int64_t now)
{
    timer_mod(s->repair_timer, now + COLO_REPAIR_TICK_MS);
}

static void rewriter_repair_tick(void *opaque)
{
    FilterRewriter *s = opaque;
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (!colo_repair_count(s->repair)) {
        return;
    }
    if (!rewriter_can_repair(s) || colo_repair_tick(s->repair, now)) {
        rewriter_arm_repair(s, now);
    }
    rewriter_repair_bh(s);
}

/* A packet passes, numbered as the guest knows it. */
static void rewriter_observe(FilterRewriter *s, bool input, unsigned flags,
                             const uint8_t *frame, size_t size,
                             size_t vnet_len, int64_t now)
{
    if (colo_proxy_status()->role != COLO_PROXY_SECONDARY ||
        (flags & QEMU_NET_PACKET_FLAG_RAW)) {
        return;
    }
    if (!input) {
        if (colo_repair_out(s->repair, frame, size, vnet_len, now)) {
            qemu_bh_schedule(s->repair_bh);
        }
    } else if (colo_repair_in(s->repair, frame, size, vnet_len, now) &&
               !timer_pending(s->repair_timer)) {
        rewriter_arm_repair(s, now);
    }
}

static ssize_t rewriter_receive_iov(NetFilterState *nf, NetClientState *sender,
                                    unsigned flags, const struct iovec *iov,
                                    int iovcnt, NetPacketSent *sent_cb)
{
    FilterRewriter *s = FILTER_REWRITER(nf);
    bool input = sender == nf->netdev;
    size_t vnet_len = flags & QEMU_NET_PACKET_FLAG_RAW ?
                      0 : nf->netdev->vnet_hdr_len;
    size_t size = iov_size(iov, iovcnt);
    g_autofree uint8_t *frame = NULL;
    ColoRewriteVerdict verdict;
    struct iovec changed;
    int64_t now;

    if (colo_rewrite_idle(s->core) || size > NET_BUFSIZE) {
        return 0;
    }
    frame = g_malloc(size);
    iov_to_buf(iov, iovcnt, 0, frame, size);
    now = rewriter_now(s);
    if (!input) {
        rewriter_observe(s, false, flags, frame, size, vnet_len, now);
    }
    verdict = (input ? colo_rewrite_in : colo_rewrite_out)
              (s->core, frame, size, vnet_len, now);
    if (input && verdict != COLO_REWRITE_UNKNOWN) {
        rewriter_observe(s, true, flags, frame, size, vnet_len, now);
    }
    switch (verdict) {
    case COLO_REWRITE_UNCHANGED:
        return 0;
    case COLO_REWRITE_UNKNOWN:
        return rewriter_drop(nf, size);
    case COLO_REWRITE_OVERFLOW:
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_OVERFLOW);
        return 0;
    case COLO_REWRITE_CHANGED:
        break;
    }
    changed.iov_base = frame;
    changed.iov_len = size;
    qemu_netfilter_pass_to_next(sender, flags, &changed, 1, nf);
    return size;
}

static bool rewriter_get_vnet_hdr(Object *obj, Error **errp)
{
    return FILTER_REWRITER(obj)->vnet_hdr_support;
}

static void rewriter_set_vnet_hdr(Object *obj, bool value, Error **errp)
{
    /* the netdev says how long its vnet headers are, with or without this */
    FILTER_REWRITER(obj)->vnet_hdr_support = value;
}

/* A rewriter that joins an SVM late knows nothing of its connections. */
static void rewriter_setup(NetFilterState *nf, Error **errp)
{
    FilterRewriter *s = FILTER_REWRITER(nf);

    if (colo_proxy_status()->role == COLO_PROXY_SECONDARY) {
        colo_rewrite_set_mode(s->core, COLO_REWRITE_LEARN);
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_TCP);
    }
}

static void rewriter_init(Object *obj)
{
    FilterRewriter *s = FILTER_REWRITER(obj);

    s->core = colo_rewrite_new(COLO_REWRITE_CONNS_DEFAULT);
    s->repair = colo_repair_new(COLO_REPAIR_BYTES_DEFAULT,
                                COLO_REPAIR_FRAMES_DEFAULT,
                                COLO_REPAIR_CONNS_DEFAULT);
    s->repair_timer = timer_new_ms(QEMU_CLOCK_REALTIME, rewriter_repair_tick,
                                   s);
    s->repair_bh = qemu_bh_new(rewriter_repair_bh, s);
}

static void rewriter_finalize(Object *obj)
{
    FilterRewriter *s = FILTER_REWRITER(obj);

    qemu_bh_delete(s->repair_bh);
    timer_free(s->repair_timer);
    colo_repair_free(s->repair);
    colo_rewrite_free(s->core);
}

static void rewriter_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    object_class_property_add_bool(oc, "vnet_hdr_support",
                                   rewriter_get_vnet_hdr,
                                   rewriter_set_vnet_hdr);
    nfc->setup = rewriter_setup;
    nfc->receive_iov = rewriter_receive_iov;
}

static const TypeInfo rewriter_info = {
    .name = TYPE_FILTER_REWRITER,
    .parent = TYPE_NETFILTER,
    .instance_size = sizeof(FilterRewriter),
    .instance_init = rewriter_init,
    .instance_finalize = rewriter_finalize,
    .class_init = rewriter_class_init,
};

static void rewriter_register_types(void)
{
    type_register_static(&rewriter_info);
}

type_init(rewriter_register_types)
