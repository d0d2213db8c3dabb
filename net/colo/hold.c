/*
 * COLO proxy: the hold, nearest to each netdev while COLO is active
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "migration/colo.h"
#include "net/filter.h"
#include "net/colo/frame.h"
#include "net/colo/held.h"
#include "net/colo/hold.h"
#include "net/colo/proxy.h"
#include "qom/object.h"
#include "system/runstate.h"
#include "trace.h"

/* From here on a checkpoint is asked for, and none is kept after a loss. */
#define HOLD_BYTES_SOFT (32 * 1024 * 1024)

/* What the guest emits beyond it is dropped, as by a congested network. */
#define HOLD_BYTES_HARD (256 * 1024 * 1024)

OBJECT_DECLARE_SIMPLE_TYPE(ColoHold, COLO_HOLD)

struct ColoHold {
    NetFilterState parent_obj;

    ColoHoldMode mode;
    /* what comes now comes from the comparison */
    bool released;
    /* a checkpoint was asked for since the last capture */
    bool requested;
    uint64_t epoch;
    /* packets of epochs below may leave; @all: every packet may */
    uint64_t commit;
    bool all;
    ColoHeldQueue queue;
};

ColoHold *colo_hold_find(NetClientState *nc)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &nc->filters, next) {
        if (object_dynamic_cast(OBJECT(nf), TYPE_COLO_HOLD)) {
            return COLO_HOLD(nf);
        }
    }
    return NULL;
}

static void hold_overflow(ColoHold *hold)
{
    if (!hold->requested) {
        hold->requested = true;
        trace_colo_hold_overflow(NETFILTER(hold)->netdev_id,
                                 hold->queue.count, hold->queue.bytes);
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_OVERFLOW);
    }
}

static void hold_push(ColoHold *hold, uint64_t epoch, unsigned int flags,
                      const struct iovec *iov, int iovcnt)
{
    size_t size = iov_size(iov, iovcnt);

    if (hold->mode == COLO_HOLD_FENCED || hold->mode == COLO_HOLD_CUT) {
        hold->queue.dropped++;
        return;
    }
    if (hold->mode == COLO_HOLD_LOST && size < HOLD_BYTES_SOFT) {
        colo_held_trim(&hold->queue, HOLD_BYTES_SOFT - size);
    } else if (hold->queue.bytes + size > HOLD_BYTES_HARD) {
        hold->queue.dropped++;
        return;
    } else if (hold->queue.bytes + size > HOLD_BYTES_SOFT) {
        hold_overflow(hold);
    }
    colo_held_push(&hold->queue, epoch, flags, 0, iov, iovcnt);
}

static ssize_t hold_receive_iov(NetFilterState *nf, NetClientState *sender,
                                unsigned flags, const struct iovec *iov,
                                int iovcnt, NetPacketSent *sent_cb)
{
    ColoHold *hold = COLO_HOLD(nf);
    bool output = sender != nf->netdev;

    if (hold->mode != COLO_HOLD_CUT) {
        if (!output) {
            return 0;
        }
        if (hold->released && hold->mode != COLO_HOLD_FENCED) {
            return 0;
        }
    }
    hold_push(hold, hold->epoch, flags, iov, iovcnt);
    return iov_size(iov, iovcnt);
}

/* To the netdev; nothing of ours is nearer to it than the hold. */
static void hold_emit(ColoHold *hold, unsigned int flags,
                      const struct iovec *iov, int iovcnt)
{
    NetFilterState *nf = NETFILTER(hold);

    qemu_netfilter_pass_to_next(nf->netdev->peer, flags, iov, iovcnt, nf);
}

void colo_hold_flush(ColoHold *hold)
{
    uint64_t below = hold->all ? UINT64_MAX : hold->commit;
    ColoHeld *pkt;

    if (!hold->all && below == 0) {
        return;
    }
    while ((pkt = colo_held_pop(&hold->queue,
                                hold->all ? below : below - 1))) {
        struct iovec iov = { .iov_base = pkt->data, .iov_len = pkt->len };

        hold_emit(hold, pkt->flags, &iov, 1);
        g_free(pkt);
    }
}

void colo_hold_capture(ColoHold *hold, uint64_t epoch)
{
    hold->epoch = epoch;
    hold->requested = false;
}

void colo_hold_commit(ColoHold *hold, uint64_t epoch)
{
    hold->commit = epoch;
    if (runstate_is_running()) {
        colo_hold_flush(hold);
    }
}

void colo_hold_release_all(ColoHold *hold)
{
    hold->all = true;
    colo_hold_flush(hold);
}

void colo_hold_drop_all(ColoHold *hold)
{
    colo_held_clear(&hold->queue);
}

void colo_hold_set_mode(ColoHold *hold, ColoHoldMode mode)
{
    trace_colo_hold_mode(NETFILTER(hold)->netdev_id, mode);
    hold->mode = mode;
}

void colo_hold_set_released(ColoHold *hold, bool released)
{
    hold->released = released;
}

void colo_hold_put(ColoHold *hold, uint64_t epoch, const uint8_t *data,
                   size_t len, uint32_t vnet_hdr_len)
{
    uint8_t hdr[COLO_VNET_HDR_MAX];
    struct iovec iov[2];

    colo_frame_fit_vnet_hdr(iov, hdr, data, len, vnet_hdr_len,
                            NETFILTER(hold)->netdev->vnet_hdr_len);
    hold_push(hold, epoch, 0, iov, ARRAY_SIZE(iov));
}

void colo_hold_pass(ColoHold *hold, const uint8_t *data, size_t len,
                    uint32_t vnet_hdr_len)
{
    uint8_t hdr[COLO_VNET_HDR_MAX];
    struct iovec iov[2];

    if (hold->mode == COLO_HOLD_FENCED || hold->mode == COLO_HOLD_CUT) {
        return;
    }
    colo_frame_fit_vnet_hdr(iov, hdr, data, len, vnet_hdr_len,
                            NETFILTER(hold)->netdev->vnet_hdr_len);
    hold_emit(hold, 0, iov, ARRAY_SIZE(iov));
}

void colo_hold_count(const ColoHold *hold, uint64_t *packets, uint64_t *bytes,
                     uint64_t *dropped)
{
    *packets = hold->queue.count;
    *bytes = hold->queue.bytes;
    *dropped = hold->queue.dropped;
}

ColoHold *colo_hold_add(NetClientState *nc, ColoHoldMode mode)
{
    Object *obj = object_new(TYPE_COLO_HOLD);
    NetFilterState *nf = NETFILTER(obj);

    nf->netdev_id = g_strdup(nc->name);
    nf->netdev = nc;
    nf->direction = NET_FILTER_DIRECTION_ALL;
    /* guest output goes from tail to head: the head is next to the netdev */
    QTAILQ_INSERT_HEAD(&nc->filters, nf, next);
    object_property_add_child(object_get_internal_root(), "colo-hold[*]", obj);
    object_unref(obj);
    colo_hold_set_mode(COLO_HOLD(obj), mode);
    return COLO_HOLD(obj);
}

void colo_hold_remove(ColoHold *hold)
{
    object_unparent(OBJECT(hold));
}

static void hold_cleanup(NetFilterState *nf)
{
    ColoHold *hold = COLO_HOLD(nf);

    trace_colo_hold_remove(nf->netdev_id, hold->queue.count,
                           hold->queue.dropped);
    colo_hold_drop_all(hold);
}

static void hold_init(Object *obj)
{
    colo_held_init(&COLO_HOLD(obj)->queue);
}

static void hold_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    nfc->receive_iov = hold_receive_iov;
    nfc->cleanup = hold_cleanup;
}

static const TypeInfo hold_info = {
    .name = TYPE_COLO_HOLD,
    .parent = TYPE_NETFILTER,
    .instance_size = sizeof(ColoHold),
    .instance_init = hold_init,
    .class_init = hold_class_init,
};

static void hold_register_types(void)
{
    type_register_static(&hold_info);
}

type_init(hold_register_types)
