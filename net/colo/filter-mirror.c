/*
 * COLO proxy: filter-mirror
 *
 * Copies the packets of a netdev to a character device and lets them pass.
 * On a primary that is what gives the SVM the input of the PVM; a copy that
 * is lost makes the SVM diverge, which the next checkpoint repairs.
 *
 * Runs under the BQL, as all filters do.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/module.h"
#include "migration/colo.h"
#include "net/filter.h"
#include "net/colo/proxy.h"
#include "net/colo/stream.h"
#include "qom/object.h"
#include "trace.h"

OBJECT_DECLARE_SIMPLE_TYPE(FilterMirror, FILTER_MIRROR)

struct FilterMirror {
    NetFilterState parent_obj;

    char *outdev;
    bool vnet_hdr_support;
    ColoOut *out;
    /* input of the running epoch was lost and a checkpoint asked for */
    bool lost;
};

/* The SVM misses input: it is going to diverge, so resynchronise it. */
static void mirror_lost(FilterMirror *s)
{
    const ColoProxyStatus *status = colo_proxy_status();

    if (status->role != COLO_PROXY_PRIMARY || s->lost) {
        return;
    }
    s->lost = true;
    trace_colo_mirror_lost(s->out->owner, status->epoch);
    colo_checkpoint_request(COLO_CHECKPOINT_REASON_OVERFLOW);
}

static ssize_t mirror_receive_iov(NetFilterState *nf, NetClientState *sender,
                                  unsigned flags, const struct iovec *iov,
                                  int iovcnt, NetPacketSent *sent_cb)
{
    FilterMirror *s = FILTER_MIRROR(nf);

    if (!colo_proxy_status()->peer_lost &&
        !colo_out_packet(s->out, iov, iovcnt, nf->netdev->vnet_hdr_len,
                         flags & QEMU_NET_PACKET_FLAG_RAW) &&
        colo_out_open(s->out)) {
        mirror_lost(s);
    }
    return 0;
}

void colo_mirror_capture(NetFilterState *nf, uint64_t epoch)
{
    FilterMirror *s = FILTER_MIRROR(nf);
    ColoMarker marker = {
        .kind = COLO_MARKER_CAPTURE,
        .epoch = epoch,
    };

    s->lost = false;
    pstrcpy(marker.netdev, sizeof(marker.netdev), nf->netdev->name);
    colo_out_marker(s->out, &marker);
}

/*
 * While protected, a connection that comes (again) starts with the epoch;
 * what was mirrored while there was none is missing on the other side.
 */
static void mirror_event(void *opaque, ColoOutEvent event)
{
    FilterMirror *s = opaque;
    const ColoProxyStatus *status = colo_proxy_status();

    if (status->role != COLO_PROXY_PRIMARY || !status->has_epoch ||
        status->peer_lost) {
        return;
    }
    if (event == COLO_OUT_OPENED) {
        colo_mirror_capture(NETFILTER(s), status->epoch);
    }
    mirror_lost(s);
}

static void mirror_setup(NetFilterState *nf, Error **errp)
{
    FilterMirror *s = FILTER_MIRROR(nf);
    Chardev *chardev;

    if (!s->outdev) {
        error_setg(errp, "filter-mirror: option 'outdev' is missing");
        return;
    }
    chardev = colo_stream_chardev(OBJECT(s), "outdev", s->outdev,
                                  errp);
    if (!chardev) {
        return;
    }
    s->out = colo_out_new(chardev, OBJECT(s), "outdev", s->vnet_hdr_support,
                          NULL, mirror_event, s, errp);
    if (s->out) {
        colo_out_run(s->out);
    }
}

static void mirror_cleanup(NetFilterState *nf)
{
    FilterMirror *s = FILTER_MIRROR(nf);

    colo_out_free(g_steal_pointer(&s->out), false);
}

static char *mirror_get_outdev(Object *obj, Error **errp)
{
    return g_strdup(FILTER_MIRROR(obj)->outdev);
}

static void mirror_set_outdev(Object *obj, const char *value, Error **errp)
{
    FilterMirror *s = FILTER_MIRROR(obj);

    if (s->out) {
        error_setg(errp, "filter-mirror: option 'outdev' can't be changed "
                   "once the object exists");
        return;
    }
    g_free(s->outdev);
    s->outdev = g_strdup(value);
}

static bool mirror_get_vnet_hdr(Object *obj, Error **errp)
{
    return FILTER_MIRROR(obj)->vnet_hdr_support;
}

static void mirror_set_vnet_hdr(Object *obj, bool value, Error **errp)
{
    FilterMirror *s = FILTER_MIRROR(obj);

    if (s->out) {
        error_setg(errp, "filter-mirror: option 'vnet_hdr_support' can't be "
                   "changed once the object exists");
        return;
    }
    s->vnet_hdr_support = value;
}

static void mirror_finalize(Object *obj)
{
    g_free(FILTER_MIRROR(obj)->outdev);
}

static void mirror_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    object_class_property_add_str(oc, "outdev", mirror_get_outdev,
                                  mirror_set_outdev);
    object_class_property_add_bool(oc, "vnet_hdr_support",
                                   mirror_get_vnet_hdr, mirror_set_vnet_hdr);
    nfc->setup = mirror_setup;
    nfc->cleanup = mirror_cleanup;
    nfc->receive_iov = mirror_receive_iov;
}

static const TypeInfo mirror_info = {
    .name = TYPE_FILTER_MIRROR,
    .parent = TYPE_NETFILTER,
    .instance_size = sizeof(FilterMirror),
    .instance_finalize = mirror_finalize,
    .class_init = mirror_class_init,
};

static void mirror_register_types(void)
{
    type_register_static(&mirror_info);
}

type_init(mirror_register_types)
