/*
 * COLO proxy: filter-redirector
 *
 * Diverts the packets of a netdev to a character device (outdev), and puts
 * packets that come from one (indev) in their place.
 *
 * While protected, on a primary: guest output is diverted only to a
 * comparison that is known to read it; else it passes on, to the hold. What
 * a comparison released comes back through indev and passes the hold.
 * On a secondary: what comes from indev is input from the mirror and is let
 * in by its epoch.
 *
 * Runs under the BQL, as all filters do.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/cutils.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "migration/colo.h"
#include "net/filter.h"
#include "net/colo/gate.h"
#include "net/colo/held.h"
#include "net/colo/proxy.h"
#include "net/colo/stream.h"
#include "qom/object.h"
#include "trace.h"

/* Input of epochs that don't run yet, in bytes. */
#define MAX_WAITING (16 * 1024 * 1024)

OBJECT_DECLARE_SIMPLE_TYPE(FilterRedirector, FILTER_REDIRECTOR)

struct FilterRedirector {
    NetFilterState parent_obj;

    char *indev;
    char *outdev;
    bool vnet_hdr_support;
    bool complete;
    ColoOut *out;
    ColoIn *in;

    /* primary: a comparison reads outdev */
    bool attached;
    /* primary: guest output is diverted to it */
    bool diverting;
    /* primary: output of the running epoch passed the comparison by */
    bool bypassed;
    /* the comparison that read outdev was deleted */
    bool orphaned;
    /* there was one, so outdev leads to this QEMU */
    bool local;

    /* secondary: input and the epochs it belongs to */
    ColoGate gate;
    ColoHeldQueue waiting;
};

/* Can guest output end up in outdev? */
static bool diverts_output(FilterRedirector *s)
{
    return s->outdev && NETFILTER(s)->direction != NET_FILTER_DIRECTION_TX;
}

/* Can guest input come from indev? */
static bool injects_input(FilterRedirector *s)
{
    return s->indev && NETFILTER(s)->direction != NET_FILTER_DIRECTION_RX;
}

static void redirector_marker(FilterRedirector *s, ColoMarkerKind kind,
                              uint64_t epoch)
{
    ColoMarker marker = {
        .kind = kind,
        .epoch = epoch,
    };

    pstrcpy(marker.netdev, sizeof(marker.netdev),
            NETFILTER(s)->netdev->name);
    colo_out_marker(s->out, &marker);
}

/* The comparison can't have this packet: let the hold have it. */
static ssize_t redirector_bypass(FilterRedirector *s)
{
    if (s->diverting && !s->bypassed) {
        trace_colo_redirector_bypass(s->out->owner);
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_OVERFLOW);
    }
    s->bypassed = true;
    return 0;
}

static ssize_t redirector_receive_iov(NetFilterState *nf,
                                      NetClientState *sender, unsigned flags,
                                      const struct iovec *iov, int iovcnt,
                                      NetPacketSent *sent_cb)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);
    bool output = sender != nf->netdev;
    bool on_hold = output && colo_proxy_status()->role == COLO_PROXY_PRIMARY;

    if (!s->outdev) {
        return 0;
    }
    if (output && s->orphaned) {
        return 0;
    }
    if (on_hold && !s->diverting) {
        return redirector_bypass(s);
    }
    if (!colo_out_packet(s->out, iov, iovcnt, nf->netdev->vnet_hdr_len,
                         flags & QEMU_NET_PACKET_FLAG_RAW) && on_hold) {
        return redirector_bypass(s);
    }
    return iov_size(iov, iovcnt);
}

static void pass_on(FilterRedirector *s, NetClientState *sender,
                    const struct iovec *iov, int iovcnt)
{
    NetFilterState *nf = NETFILTER(s);

    if (!sender) {
        return;
    }
    colo_proxy_release_begin(nf->netdev);
    qemu_netfilter_pass_to_next(sender, QEMU_NET_PACKET_FLAG_NONE, iov, iovcnt,
                                nf);
    colo_proxy_release_end(nf->netdev);
}

static void inject(FilterRedirector *s, const uint8_t *data, size_t len,
                   uint32_t vnet_hdr_len)
{
    NetFilterState *nf = NETFILTER(s);
    uint8_t hdr[COLO_VNET_HDR_MAX];
    struct iovec iov[2];
    uint32_t want = s->vnet_hdr_support ? nf->netdev->vnet_hdr_len : 0;

    colo_frame_fit_vnet_hdr(iov, hdr, data, len, vnet_hdr_len, want);
    if (iov_size(iov, 2) < nf->netdev->vnet_hdr_len) {
        trace_colo_redirector_short(s->in->owner, len);
        return;
    }
    if (nf->direction != NET_FILTER_DIRECTION_RX) {
        pass_on(s, nf->netdev, iov, ARRAY_SIZE(iov));
    }
    if (nf->direction != NET_FILTER_DIRECTION_TX) {
        pass_on(s, nf->netdev->peer, iov, ARRAY_SIZE(iov));
    }
}

/* Keep input of an epoch that comes next; lost input makes the SVM diverge. */
static void keep_waiting(FilterRedirector *s, const ColoFrame *frame)
{
    struct iovec iov = {
        .iov_base = (void *)frame->data,
        .iov_len = frame->len,
    };

    if (s->waiting.bytes + frame->len > MAX_WAITING) {
        s->waiting.dropped++;
        trace_colo_redirector_overflow(s->in->owner, s->waiting.dropped);
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_OVERFLOW);
        return;
    }
    colo_held_push(&s->waiting, s->gate.marker, 0, frame->vnet_hdr_len,
                      &iov, 1);
}

static void redirector_in_packet(void *opaque, const ColoFrame *frame)
{
    FilterRedirector *s = opaque;

    if (!NETFILTER(s)->on) {
        return;
    }
    switch (colo_gate_verdict(&s->gate)) {
    case COLO_GATE_TAKE:
        inject(s, frame->data, frame->len, frame->vnet_hdr_len);
        break;
    case COLO_GATE_WAIT:
        keep_waiting(s, frame);
        break;
    case COLO_GATE_DISCARD:
        trace_colo_redirector_discard(s->in->owner, frame->len);
        break;
    }
}

static void redirector_in_marker(void *opaque, const ColoMarker *marker)
{
    FilterRedirector *s = opaque;

    if (marker->kind == COLO_MARKER_CAPTURE) {
        colo_gate_marker(&s->gate, marker->epoch);
    }
}

static void redirector_in_restart(void *opaque)
{
    FilterRedirector *s = opaque;

    colo_gate_restart(&s->gate);
}

static const ColoInOps redirector_in_ops = {
    .packet = redirector_in_packet,
    .marker = redirector_in_marker,
    .restart = redirector_in_restart,
};

/*
 * A connection that comes while protected starts with the epoch. The frames
 * that were queued or sent when the last one broke are missing at the
 * comparison, so take a checkpoint.
 */
static void redirector_out_event(void *opaque, ColoOutEvent event)
{
    FilterRedirector *s = opaque;
    const ColoProxyStatus *status = colo_proxy_status();
    bool primary = status->role == COLO_PROXY_PRIMARY;

    if (status->role == COLO_PROXY_OFF || !diverts_output(s)) {
        return;
    }
    if (event == COLO_OUT_CLOSED) {
        s->attached = false;
        s->diverting = false;
        s->bypassed = true;
    } else if (primary) {
        redirector_marker(s, COLO_MARKER_ATTACH, 0);
    }
    if (event == COLO_OUT_OPENED && status->has_epoch) {
        redirector_marker(s, primary ? COLO_MARKER_CAPTURE :
                                       COLO_MARKER_COMMIT, status->epoch);
    }
    colo_checkpoint_request(COLO_CHECKPOINT_REASON_OVERFLOW);
}

void colo_redirector_start(NetFilterState *nf, ColoProxyRole role)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);

    if (role == COLO_PROXY_SECONDARY) {
        if (injects_input(s)) {
            colo_gate_start(&s->gate);
        }
        return;
    }
    s->attached = false;
    s->diverting = false;
    s->bypassed = false;
    if (diverts_output(s)) {
        redirector_marker(s, COLO_MARKER_ATTACH, 0);
    }
}

void colo_redirector_capture(NetFilterState *nf, uint64_t epoch)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);

    if (!diverts_output(s)) {
        return;
    }
    redirector_marker(s, COLO_MARKER_CAPTURE, epoch);
    s->diverting = s->attached;
    s->bypassed = false;
}

/*
 * An epoch is compared from its first packet on or not at all, or packets
 * of the SVM would find no partner.
 */
void colo_redirector_attach(NetFilterState *nf, bool attached)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);

    if (!diverts_output(s)) {
        return;
    }
    trace_colo_redirector_attach(s->out->owner, attached);
    if (s->attached && !attached) {
        redirector_marker(s, COLO_MARKER_DETACH, 0);
    }
    s->local |= attached;
    s->attached = attached;
    s->orphaned = !attached;
    s->diverting = attached && !s->bypassed;
    if (attached && !s->diverting) {
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_REQUEST);
    }
}

void colo_redirector_commit(NetFilterState *nf, uint64_t epoch)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);
    ColoHeld *pkt;

    if (diverts_output(s)) {
        redirector_marker(s, COLO_MARKER_COMMIT, epoch);
    }
    if (!injects_input(s)) {
        return;
    }
    colo_gate_run(&s->gate, epoch);
    while ((pkt = colo_held_pop(&s->waiting, epoch))) {
        if (pkt->epoch == epoch) {
            inject(s, pkt->data, pkt->len, pkt->vnet_hdr_len);
        }
        g_free(pkt);
    }
}

void colo_redirector_stop(NetFilterState *nf)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);

    s->attached = false;
    s->diverting = false;
    colo_gate_stop(&s->gate);
    colo_held_clear(&s->waiting);
}

static bool setup_indev(FilterRedirector *s, Error **errp)
{
    Chardev *chardev = colo_stream_chardev(OBJECT(s), "indev",
                                           s->indev, errp);

    if (chardev) {
        s->in = colo_in_new(chardev, OBJECT(s), "indev", s->vnet_hdr_support,
                            NULL, &redirector_in_ops, s, errp);
    }
    return s->in;
}

static bool setup_outdev(FilterRedirector *s, Error **errp)
{
    Chardev *chardev = colo_stream_chardev(OBJECT(s), "outdev",
                                           s->outdev, errp);

    if (chardev) {
        s->out = colo_out_new(chardev, OBJECT(s), "outdev",
                              s->vnet_hdr_support, NULL, redirector_out_event,
                              s, errp);
    }
    return s->out;
}

/* The filter may be added when COLO is active already. */
static void join_gate(FilterRedirector *s)
{
    const ColoProxyStatus *status = colo_proxy_status();

    if (status->role == COLO_PROXY_SECONDARY && injects_input(s)) {
        colo_gate_start(&s->gate);
        if (status->has_epoch) {
            colo_gate_run(&s->gate, status->epoch);
        }
    }
}

static void redirector_setup(NetFilterState *nf, Error **errp)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);

    if (!s->indev && !s->outdev) {
        error_setg(errp, "filter-redirector: give at least one of the options "
                   "'indev' and 'outdev'");
        return;
    }
    if (s->indev && s->outdev && !strcmp(s->indev, s->outdev)) {
        error_setg(errp, "filter-redirector: options 'indev' and 'outdev' "
                   "both name '%s'; give them different character devices",
                   s->indev);
        return;
    }
    s->complete = true;
    if ((s->indev && !setup_indev(s, errp)) ||
        (s->outdev && !setup_outdev(s, errp))) {
        return;
    }
    s->bypassed = true;
    if (s->indev) {
        join_gate(s);
        colo_in_run(s->in);
    }
    if (s->outdev) {
        colo_out_run(s->out);
    }
}

static void redirector_cleanup(NetFilterState *nf)
{
    FilterRedirector *s = FILTER_REDIRECTOR(nf);

    if (injects_input(s)) {
        colo_in_free(g_steal_pointer(&s->in));
    } else {
        colo_in_drain(g_steal_pointer(&s->in), NULL, NULL, NULL);
    }
    colo_out_free(g_steal_pointer(&s->out), s->local);
    colo_held_clear(&s->waiting);
}

static bool check_mutable(FilterRedirector *s, const char *name, Error **errp)
{
    if (s->complete) {
        error_setg(errp, "filter-redirector: option '%s' can't be changed "
                   "once the object exists", name);
    }
    return !s->complete;
}

static char *redirector_get_indev(Object *obj, Error **errp)
{
    return g_strdup(FILTER_REDIRECTOR(obj)->indev);
}

static void redirector_set_indev(Object *obj, const char *value, Error **errp)
{
    FilterRedirector *s = FILTER_REDIRECTOR(obj);

    if (check_mutable(s, "indev", errp)) {
        g_free(s->indev);
        s->indev = g_strdup(value);
    }
}

static char *redirector_get_outdev(Object *obj, Error **errp)
{
    return g_strdup(FILTER_REDIRECTOR(obj)->outdev);
}

static void redirector_set_outdev(Object *obj, const char *value, Error **errp)
{
    FilterRedirector *s = FILTER_REDIRECTOR(obj);

    if (check_mutable(s, "outdev", errp)) {
        g_free(s->outdev);
        s->outdev = g_strdup(value);
    }
}

static bool redirector_get_vnet_hdr(Object *obj, Error **errp)
{
    return FILTER_REDIRECTOR(obj)->vnet_hdr_support;
}

static void redirector_set_vnet_hdr(Object *obj, bool value, Error **errp)
{
    FilterRedirector *s = FILTER_REDIRECTOR(obj);

    if (check_mutable(s, "vnet_hdr_support", errp)) {
        s->vnet_hdr_support = value;
    }
}

static void redirector_init(Object *obj)
{
    colo_held_init(&FILTER_REDIRECTOR(obj)->waiting);
}

static void redirector_finalize(Object *obj)
{
    FilterRedirector *s = FILTER_REDIRECTOR(obj);

    g_free(s->indev);
    g_free(s->outdev);
}

static void redirector_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    object_class_property_add_str(oc, "indev", redirector_get_indev,
                                  redirector_set_indev);
    object_class_property_add_str(oc, "outdev", redirector_get_outdev,
                                  redirector_set_outdev);
    object_class_property_add_bool(oc, "vnet_hdr_support",
                                   redirector_get_vnet_hdr,
                                   redirector_set_vnet_hdr);
    nfc->setup = redirector_setup;
    nfc->cleanup = redirector_cleanup;
    nfc->receive_iov = redirector_receive_iov;
}

static const TypeInfo redirector_info = {
    .name = TYPE_FILTER_REDIRECTOR,
    .parent = TYPE_NETFILTER,
    .instance_size = sizeof(FilterRedirector),
    .instance_init = redirector_init,
    .instance_finalize = redirector_finalize,
    .class_init = redirector_class_init,
};

static void redirector_register_types(void)
{
    type_register_static(&redirector_info);
}

type_init(redirector_register_types)
