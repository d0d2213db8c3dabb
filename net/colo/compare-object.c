/*
 * COLO proxy: colo-compare
 *
 * Reads the packets of the PVM and of the SVM from two character devices,
 * lets compare.c decide, and sends what may leave to a third one. Before
 * COLO starts and when this side is the sole survivor, the PVM's packets
 * leave at once.
 *
 * The streams belong to the iothread. The decisions, and what they released
 * but was not sent yet, are under the object's lock, as the engine's events
 * come in other threads. Lock order: BQL, then an object's lock; the iothread
 * never takes the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/tsan.h"
#include "migration/colo.h"
#include "net/colo/compare.h"
#include "net/colo/compare-object.h"
#include "net/colo/hold.h"
#include "net/colo/proxy.h"
#include "net/colo/stream.h"
#include "qom/object_interfaces.h"
#include "system/iothread.h"
#include "trace.h"

#define TYPE_COLO_COMPARE "colo-compare"
OBJECT_DECLARE_SIMPLE_TYPE(ColoCompareObject, COLO_COMPARE)

/* Released packets that wait to be sent, in bytes; then the PVM's wait too. */
#define MAX_RELEASED (16 * 1024 * 1024)

/* Packets that are queued before they are written */
#define SEND_BATCH 64

/* Limits in ms are kept in range of any arithmetic on them. */
#define MAX_MS INT32_MAX

/* What Xen's COLO says and hears on notify_dev; frames without vnet headers. */
#define XEN_INIT "COLO_USERSPACE_PROXY_INIT"
#define XEN_INIT_REPLY "COLO_COMPARE_GET_XEN_INIT"
#define XEN_CHECKPOINT_DONE "COLO_CHECKPOINT"
#define XEN_CHECKPOINT_WANTED "DO_CHECKPOINT"

typedef struct Released {
    GBytes *packet;
    uint32_t vnet_hdr_len;
} Released;

/* Which epoch the frames of a stream belong to. */
typedef struct StreamEpoch {
    bool marked;
    uint64_t epoch;
} StreamEpoch;

struct ColoCompareObject {
    Object parent_obj;

    /* options; constant once the object is complete */
    char *primary_in;
    char *secondary_in;
    char *outdev;
    char *notify_dev;
    bool vnet_hdr_support;
    IOThread *iothread;

    /* BQL */
    IOThread *owned_iothread;
    bool complete;
    bool running;
    QTAILQ_ENTRY(ColoCompareObject) next;

    /* iothread */
    AioContext *ctx;
    ColoIn *primary;
    ColoIn *secondary;
    ColoOut *out;
    ColoIn *notify;
    QEMUTimer *tick;
    QEMUBH *flush_bh;

    /* @lock */
    QemuMutex lock;
    ColoCompareLimits limits;
    ColoCompare *core;
    /* whose packets the primary's stream has, once it said so */
    char *netdev;
    StreamEpoch pvm;
    StreamEpoch svm;
    /* the last capture or, with Xen, checkpoint */
    uint64_t captured;
    bool xen;
    bool xen_wanted;
    GQueue released;
    size_t released_bytes;
    uint64_t lost;
};

/* Complete objects. BQL. */
static QTAILQ_HEAD(, ColoCompareObject) compares =
    QTAILQ_HEAD_INITIALIZER(compares);

static int64_t compare_now(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static void released_free(Released *item)
{
    g_bytes_unref(item->packet);
    g_free(item);
}

/* From the core: @lock is held. */
static void compare_release(void *opaque, const uint8_t *frame, size_t len,
                            size_t vnet_len)
{
    ColoCompareObject *s = opaque;
    Released *item = g_new(Released, 1);

    item->packet = g_bytes_new(frame, len);
    item->vnet_hdr_len = vnet_len;
    g_queue_push_tail(&s->released, item);
    s->released_bytes += len;
    qemu_bh_schedule(s->flush_bh);
}

/* From the core: @lock is held. */
static void compare_checkpoint(void *opaque, ColoCheckpointReason reason)
{
    ColoCompareObject *s = opaque;

    trace_colo_compare_checkpoint(s->primary_in, reason);
    if (s->xen) {
        s->xen_wanted = true;
        qemu_bh_schedule(s->flush_bh);
    } else {
        colo_checkpoint_request(reason);
    }
}

static const ColoCompareOps compare_ops = {
    .release = compare_release,
    .checkpoint = compare_checkpoint,
};

/* What is to be sent next; NULL: nothing. */
static Released *next_released(ColoCompareObject *s)
{
    Released *item;

    QEMU_LOCK_GUARD(&s->lock);
    item = g_queue_pop_head(&s->released);
    if (item) {
        s->released_bytes -= g_bytes_get_size(item->packet);
    }
    return item;
}

static void send_released(ColoCompareObject *s, Released *item)
{
    size_t len;
    gconstpointer data = g_bytes_get_data(item->packet, &len);
    struct iovec iov = { .iov_base = (void *)data, .iov_len = len };

    if (!colo_out_packet(s->out, &iov, 1, item->vnet_hdr_len, false)) {
        s->lost++;
        trace_colo_compare_lost(s->primary_in, len, s->lost);
    }
    released_free(item);
}

/* Hold the PVM's stream up while there is no room for what it would bring. */
static void compare_throttle(ColoCompareObject *s)
{
    bool full;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        full = s->released_bytes > MAX_RELEASED || colo_compare_full(s->core);
    }
    colo_in_pause(s->primary, full);
}

/* Small and rare, so there is no queue: what does not go out at once fails. */
static void send_notify(ColoCompareObject *s, const char *message)
{
    uint8_t buf[64];
    size_t len = strlen(message);
    size_t header = colo_frame_put_header(buf, false, len, 0);

    memcpy(buf + header, message, len);
    if (qemu_chr_fe_write(&s->notify->chr, buf, header + len) != header + len) {
        warn_report("colo-compare: notify_dev '%s' did not take '%s'",
                    s->notify_dev, message);
        qemu_chr_fe_disconnect(&s->notify->chr);
    }
}

/* Send some packets with one write; false: there are no more. */
static bool send_batch(ColoCompareObject *s)
{
    Released *item = NULL;

    colo_out_cork(s->out, true);
    for (int i = 0; i < SEND_BATCH; i++) {
        item = next_released(s);
        if (!item) {
            break;
        }
        send_released(s, item);
    }
    colo_out_cork(s->out, false);
    return item;
}

static void compare_flush(ColoCompareObject *s)
{
    bool wanted;

    while (colo_out_room(s->out) && send_batch(s)) {
        continue;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        wanted = s->xen_wanted;
        s->xen_wanted = false;
    }
    if (wanted) {
        send_notify(s, XEN_CHECKPOINT_WANTED);
    }
    compare_throttle(s);
}

static void compare_flush_bh(void *opaque)
{
    compare_flush(opaque);
}

/* Possibly from inside compare_flush(), so not here and now. */
static void compare_out_event(void *opaque, ColoOutEvent event)
{
    ColoCompareObject *s = opaque;

    qemu_bh_schedule(s->flush_bh);
}

static void compare_tick(void *opaque)
{
    ColoCompareObject *s = opaque;
    int64_t now = compare_now();
    int64_t cycle;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        colo_compare_tick(s->core, now);
        cycle = s->limits.expired_scan_cycle;
    }
    timer_mod(s->tick, now + cycle);
}

/*
 * The PVM's frames come behind markers. Those that don't, from before COLO,
 * can't be newer than the last capture.
 */
static void primary_packet(void *opaque, const ColoFrame *frame)
{
    ColoCompareObject *s = opaque;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        colo_compare_pvm(s->core, frame->data, frame->len, frame->vnet_hdr_len,
                         s->pvm.marked ? s->pvm.epoch : s->captured,
                         compare_now());
    }
    compare_throttle(s);
}

/* In the main loop: the redirectors of that netdev can divert to us. */
static void compare_attach_bh(void *opaque)
{
    ColoCompareObject *s = opaque;
    g_autofree char *netdev = NULL;

    if (s->running) {
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            netdev = g_strdup(s->netdev);
        }
        colo_proxy_attach(netdev, true);
    }
    object_unref(OBJECT(s));
}

static void primary_marker(void *opaque, const ColoMarker *marker)
{
    ColoCompareObject *s = opaque;
    bool attach = marker->kind == COLO_MARKER_ATTACH;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (marker->kind == COLO_MARKER_CAPTURE) {
            s->pvm.marked = true;
            s->pvm.epoch = marker->epoch;
        } else if (attach) {
            g_free(s->netdev);
            s->netdev = g_strdup(marker->netdev);
        }
    }
    if (attach) {
        object_ref(OBJECT(s));
        aio_bh_schedule_oneshot(qemu_get_aio_context(), compare_attach_bh, s);
    }
}

static void primary_restart(void *opaque)
{
    ColoCompareObject *s = opaque;

    QEMU_LOCK_GUARD(&s->lock);
    s->pvm.marked = false;
}

static const ColoInOps primary_ops = {
    .packet = primary_packet,
    .marker = primary_marker,
    .restart = primary_restart,
};

/* Frames of the SVM that don't come behind a marker have no epoch: unseen. */
static void secondary_packet(void *opaque, const ColoFrame *frame)
{
    ColoCompareObject *s = opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (s->svm.marked || s->xen) {
        colo_compare_svm(s->core, frame->data, frame->len, frame->vnet_hdr_len,
                         s->xen ? s->captured : s->svm.epoch, compare_now());
    }
}

static void secondary_marker(void *opaque, const ColoMarker *marker)
{
    ColoCompareObject *s = opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (marker->kind == COLO_MARKER_COMMIT) {
        s->svm.marked = true;
        s->svm.epoch = marker->epoch;
    }
}

static void secondary_restart(void *opaque)
{
    ColoCompareObject *s = opaque;

    QEMU_LOCK_GUARD(&s->lock);
    s->svm.marked = false;
}

static const ColoInOps secondary_ops = {
    .packet = secondary_packet,
    .marker = secondary_marker,
    .restart = secondary_restart,
};

static bool notify_is(const ColoFrame *frame, const char *message)
{
    return frame->len == strlen(message) &&
           !memcmp(frame->data, message, frame->len);
}

/*
 * Xen knows no epochs: each "checkpoint done" starts one, captured and
 * committed at once, with both guests' next packets.
 */
static void notify_packet(void *opaque, const ColoFrame *frame)
{
    ColoCompareObject *s = opaque;
    bool init = notify_is(frame, XEN_INIT);

    if (!init && !notify_is(frame, XEN_CHECKPOINT_DONE)) {
        error_report("colo-compare: notify_dev '%s' sent an unknown message "
                     "of %zu bytes", s->notify_dev, frame->len);
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->xen = true;
        colo_compare_set_mode(s->core, COLO_COMPARE_COMPARE);
        s->captured++;
        colo_compare_capture(s->core, s->captured);
        colo_compare_commit(s->core, s->captured, compare_now());
    }
    if (init) {
        send_notify(s, XEN_INIT_REPLY);
    }
}

static void notify_marker(void *opaque, const ColoMarker *marker)
{
}

static void notify_restart(void *opaque)
{
}

static const ColoInOps notify_ops = {
    .packet = notify_packet,
    .marker = notify_marker,
    .restart = notify_restart,
};

/* The engine's events: BQL, and each object's lock. */

void colo_compare_all_start(void)
{
    ColoCompareObject *s;

    QTAILQ_FOREACH(s, &compares, next) {
        QEMU_LOCK_GUARD(&s->lock);
        s->captured = 0;
        colo_compare_release_all(s->core);
        colo_compare_set_mode(s->core, COLO_COMPARE_COMPARE);
    }
}

void colo_compare_all_capture(uint64_t epoch)
{
    ColoCompareObject *s;

    QTAILQ_FOREACH(s, &compares, next) {
        QEMU_LOCK_GUARD(&s->lock);
        s->captured = epoch;
        colo_compare_capture(s->core, epoch);
    }
}

void colo_compare_all_commit(uint64_t epoch)
{
    ColoCompareObject *s;

    QTAILQ_FOREACH(s, &compares, next) {
        QEMU_LOCK_GUARD(&s->lock);
        colo_compare_commit(s->core, epoch, compare_now());
        /* the PVM's stream may have been held up for want of room */
        qemu_bh_schedule(s->flush_bh);
    }
}

void colo_compare_all_lost(void)
{
    ColoCompareObject *s;

    QTAILQ_FOREACH(s, &compares, next) {
        QEMU_LOCK_GUARD(&s->lock);
        colo_compare_set_mode(s->core, COLO_COMPARE_LOST);
        qemu_bh_schedule(s->flush_bh);
    }
}

void colo_compare_all_stop(bool survivor)
{
    ColoCompareObject *s;

    QTAILQ_FOREACH(s, &compares, next) {
        QEMU_LOCK_GUARD(&s->lock);
        if (survivor) {
            colo_compare_release_all(s->core);
        } else {
            colo_compare_drop_all(s->core);
        }
        qemu_bh_schedule(s->flush_bh);
    }
}

bool colo_compare_any(void)
{
    return !QTAILQ_EMPTY(&compares);
}

/* Join what the proxy has begun already. */
static void compare_join(ColoCompareObject *s)
{
    const ColoProxyStatus *status = colo_proxy_status();

    if (status->role != COLO_PROXY_PRIMARY) {
        return;
    }
    colo_compare_set_mode(s->core, COLO_COMPARE_COMPARE);
    if (status->has_epoch) {
        s->captured = status->epoch;
    }
    if (status->peer_lost) {
        colo_compare_set_mode(s->core, COLO_COMPARE_LOST);
    }
}

/* In the iothread, the main loop waits: take the character devices. */
static void compare_run_bh(void *opaque)
{
    ColoCompareObject *s = opaque;

    if (s->notify_dev) {
        colo_in_run(s->notify);
    }
    colo_out_run(s->out);
    colo_in_run(s->secondary);
    colo_in_run(s->primary);
    timer_mod(s->tick, compare_now() + s->limits.expired_scan_cycle);
}

/* In the iothread, the main loop waits: give them back. */
static void compare_detach_bh(void *opaque)
{
    ColoCompareObject *s = opaque;

    timer_free(s->tick);
    qemu_bh_delete(s->flush_bh);
    colo_in_detach(s->primary);
    colo_in_detach(s->secondary);
    colo_out_detach(s->out);
    if (s->notify_dev) {
        colo_in_detach(s->notify);
    }
    /* AIO_WAIT's fences are nothing ThreadSanitizer knows about */
    QEMU_TSAN_ANNOTATE_HAPPENS_BEFORE(s);
}

static bool check_options(ColoCompareObject *s, Error **errp)
{
    struct {
        const char *name;
        const char *value;
    } devs[] = {
        { "primary_in", s->primary_in },
        { "secondary_in", s->secondary_in },
        { "outdev", s->outdev },
        { "notify_dev", s->notify_dev },
    };

    for (int i = 0; i < ARRAY_SIZE(devs); i++) {
        if (!devs[i].value && i < 3) {
            error_setg(errp, "colo-compare: option '%s' is missing",
                       devs[i].name);
            return false;
        }
        for (int j = 0; j < i; j++) {
            if (!g_strcmp0(devs[i].value, devs[j].value)) {
                error_setg(errp, "colo-compare: options '%s' and '%s' both "
                           "name '%s'; give them different character devices",
                           devs[j].name, devs[i].name, devs[i].value);
                return false;
            }
        }
    }
    if (!s->iothread) {
        error_setg(errp, "colo-compare: option 'iothread' is missing");
        return false;
    }
    return true;
}

static ColoIn *start_in(ColoCompareObject *s, const char *name, const char *id,
                        bool vnet_hdr, const ColoInOps *ops, Error **errp)
{
    Chardev *chardev = colo_stream_chardev(OBJECT(s), name, id, errp);

    if (!chardev) {
        return NULL;
    }
    return colo_in_new(chardev, OBJECT(s), name, vnet_hdr,
                       iothread_get_g_main_context(s->iothread), ops, s, errp);
}

static ColoOut *start_out(ColoCompareObject *s, Error **errp)
{
    Chardev *chardev = colo_stream_chardev(OBJECT(s), "outdev", s->outdev,
                                           errp);

    if (!chardev) {
        return NULL;
    }
    return colo_out_new(chardev, OBJECT(s), "outdev", s->vnet_hdr_support,
                        iothread_get_g_main_context(s->iothread),
                        compare_out_event, s, errp);
}

static bool start_streams(ColoCompareObject *s, Error **errp)
{
    s->primary = start_in(s, "primary_in", s->primary_in, s->vnet_hdr_support,
                          &primary_ops, errp);
    if (!s->primary) {
        return false;
    }
    s->secondary = start_in(s, "secondary_in", s->secondary_in,
                            s->vnet_hdr_support, &secondary_ops, errp);
    if (!s->secondary) {
        return false;
    }
    s->out = start_out(s, errp);
    if (!s->out || !s->notify_dev) {
        return s->out;
    }
    s->notify = start_in(s, "notify_dev", s->notify_dev, false, &notify_ops,
                         errp);
    return s->notify;
}

static void compare_complete(UserCreatable *uc, Error **errp)
{
    ColoCompareObject *s = COLO_COMPARE(uc);

    if (!check_options(s, errp)) {
        return;
    }
    s->complete = true;
    /* the link is gone when the object is finalized, but we need it then */
    s->owned_iothread = IOTHREAD(object_ref(OBJECT(s->iothread)));
    s->ctx = iothread_get_aio_context(s->iothread);
    if (!start_streams(s, errp)) {
        return;
    }
    s->core = colo_compare_new(&compare_ops, s, &s->limits);
    s->tick = aio_timer_new(s->ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                            compare_tick, s);
    s->flush_bh = aio_bh_new(s->ctx, compare_flush_bh, s);
    compare_join(s);
    QTAILQ_INSERT_TAIL(&compares, s, next);
    s->running = true;
    aio_wait_bh_oneshot(s->ctx, compare_run_bh, s);
}

/* Stop everything in the iothread. Main loop. */
static void compare_quiesce(ColoCompareObject *s)
{
    if (s->running) {
        s->running = false;
        QTAILQ_REMOVE(&compares, s, next);
        aio_wait_bh_oneshot(s->ctx, compare_detach_bh, s);
        QEMU_TSAN_ANNOTATE_HAPPENS_AFTER(s);
    }
}

static void stop_streams(ColoCompareObject *s)
{
    colo_in_drain(g_steal_pointer(&s->primary), NULL, NULL, NULL);
    colo_in_free(g_steal_pointer(&s->secondary));
    colo_in_free(g_steal_pointer(&s->notify));
    colo_out_free(g_steal_pointer(&s->out), true);
}

void colo_compare_cleanup(void)
{
    ColoCompareObject *s, *next;

    QTAILQ_FOREACH_SAFE(s, &compares, next, next) {
        compare_quiesce(s);
        stop_streams(s);
    }
}

static void hold_take(void *opaque, const uint8_t *frame, size_t len,
                      size_t vnet_len, uint64_t epoch)
{
    colo_hold_put(opaque, epoch, frame, len, vnet_len);
}

static void hold_pass(ColoHold *hold, GBytes *packet, uint32_t vnet_hdr_len)
{
    size_t len;
    const uint8_t *data = g_bytes_get_data(packet, &len);

    colo_hold_pass(hold, data, len, vnet_hdr_len);
}

/* What was on its way to the comparison when it went. */
static void hold_late(void *opaque, const ColoFrame *frame)
{
    NetClientState *nc = qemu_find_netdev(opaque);
    ColoHold *hold = nc ? colo_hold_find(nc) : NULL;

    if (hold) {
        colo_hold_put(hold, colo_proxy_status()->epoch, frame->data,
                      frame->len, frame->vnet_hdr_len);
    }
}

/*
 * The object goes while its netdev is protected: what it released leaves past
 * the hold, what it held is held there, and the redirector is told to send
 * the hold what comes next. Nothing of the object runs any more.
 */
static void hand_over(ColoCompareObject *s)
{
    NetClientState *nc = s->netdev ? qemu_find_netdev(s->netdev) : NULL;
    ColoHold *hold = nc ? colo_hold_find(nc) : NULL;
    uint32_t vnet_hdr_len;
    Released *item;
    GBytes *packet;

    if (s->netdev) {
        colo_proxy_attach(s->netdev, false);
    }
    if (!hold) {
        return;
    }
    while ((packet = colo_out_take(s->out, &vnet_hdr_len))) {
        hold_pass(hold, packet, vnet_hdr_len);
        g_bytes_unref(packet);
    }
    while ((item = next_released(s))) {
        hold_pass(hold, item->packet, item->vnet_hdr_len);
        released_free(item);
    }
    colo_compare_take_all(s->core, hold_take, hold);
    colo_in_drain(g_steal_pointer(&s->primary), hold_late,
                  g_strdup(s->netdev), g_free);
}

static bool check_mutable(ColoCompareObject *s, const char *name, Error **errp)
{
    if (s->complete) {
        error_setg(errp, "colo-compare: option '%s' can't be changed once "
                   "the object exists", name);
    }
    return !s->complete;
}

static void set_string(Object *obj, char **field, const char *name,
                       const char *value, Error **errp)
{
    if (check_mutable(COLO_COMPARE(obj), name, errp)) {
        g_free(*field);
        *field = g_strdup(value);
    }
}

static char *get_primary_in(Object *obj, Error **errp)
{
    return g_strdup(COLO_COMPARE(obj)->primary_in);
}

static void set_primary_in(Object *obj, const char *value, Error **errp)
{
    set_string(obj, &COLO_COMPARE(obj)->primary_in, "primary_in", value, errp);
}

static char *get_secondary_in(Object *obj, Error **errp)
{
    return g_strdup(COLO_COMPARE(obj)->secondary_in);
}

static void set_secondary_in(Object *obj, const char *value, Error **errp)
{
    set_string(obj, &COLO_COMPARE(obj)->secondary_in, "secondary_in", value,
               errp);
}

static char *get_outdev(Object *obj, Error **errp)
{
    return g_strdup(COLO_COMPARE(obj)->outdev);
}

static void set_outdev(Object *obj, const char *value, Error **errp)
{
    set_string(obj, &COLO_COMPARE(obj)->outdev, "outdev", value, errp);
}

static char *get_notify_dev(Object *obj, Error **errp)
{
    return g_strdup(COLO_COMPARE(obj)->notify_dev);
}

static void set_notify_dev(Object *obj, const char *value, Error **errp)
{
    set_string(obj, &COLO_COMPARE(obj)->notify_dev, "notify_dev", value, errp);
}

static bool get_vnet_hdr(Object *obj, Error **errp)
{
    return COLO_COMPARE(obj)->vnet_hdr_support;
}

static void set_vnet_hdr(Object *obj, bool value, Error **errp)
{
    ColoCompareObject *s = COLO_COMPARE(obj);

    if (check_mutable(s, "vnet_hdr_support", errp)) {
        s->vnet_hdr_support = value;
    }
}

/* Limits can be changed at any time. */
typedef struct LimitProperty {
    const char *name;
    const char *unit;
    uint64_t max;
    uint64_t (*get)(const ColoCompareLimits *limits);
    void (*set)(ColoCompareLimits *limits, uint64_t value);
} LimitProperty;

static uint64_t limit_get_timeout(const ColoCompareLimits *limits)
{
    return limits->compare_timeout;
}

static void limit_set_timeout(ColoCompareLimits *limits, uint64_t value)
{
    limits->compare_timeout = value;
}

static uint64_t limit_get_cycle(const ColoCompareLimits *limits)
{
    return limits->expired_scan_cycle;
}

static void limit_set_cycle(ColoCompareLimits *limits, uint64_t value)
{
    limits->expired_scan_cycle = value;
}

static uint64_t limit_get_queue(const ColoCompareLimits *limits)
{
    return limits->max_queue_size;
}

static void limit_set_queue(ColoCompareLimits *limits, uint64_t value)
{
    limits->max_queue_size = value;
}

static LimitProperty limit_properties[] = {
    { "compare_timeout", " ms", MAX_MS, limit_get_timeout, limit_set_timeout },
    { "expired_scan_cycle", " ms", MAX_MS, limit_get_cycle, limit_set_cycle },
    { "max_queue_size", " packets", UINT32_MAX, limit_get_queue,
      limit_set_queue },
};

static void get_limit(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    LimitProperty *prop = opaque;
    uint64_t value = prop->get(&COLO_COMPARE(obj)->limits);

    visit_type_uint64(v, name, &value, errp);
}

static void set_limit(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    ColoCompareObject *s = COLO_COMPARE(obj);
    LimitProperty *prop = opaque;
    uint64_t value;

    if (!visit_type_uint64(v, name, &value, errp)) {
        return;
    }
    if (value < 1 || value > prop->max) {
        error_setg(errp, "colo-compare: option '%s' is %" PRIu64 "; give it "
                   "1 to %" PRIu64 "%s", name, value, prop->max, prop->unit);
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    prop->set(&s->limits, value);
    if (s->core) {
        colo_compare_set_limits(s->core, &s->limits);
    }
}

static void compare_init(Object *obj)
{
    ColoCompareObject *s = COLO_COMPARE(obj);

    qemu_mutex_init(&s->lock);
    g_queue_init(&s->released);
    s->limits.compare_timeout = COLO_COMPARE_TIMEOUT_DEFAULT;
    s->limits.expired_scan_cycle = COLO_COMPARE_CYCLE_DEFAULT;
    s->limits.max_queue_size = COLO_COMPARE_QUEUE_DEFAULT;
}

static void compare_finalize(Object *obj)
{
    ColoCompareObject *s = COLO_COMPARE(obj);
    Released *item;

    compare_quiesce(s);
    if (s->core) {
        hand_over(s);
    }
    stop_streams(s);
    while ((item = next_released(s))) {
        released_free(item);
    }
    colo_compare_free(s->core);
    object_unref(OBJECT(s->owned_iothread));
    qemu_mutex_destroy(&s->lock);
    g_free(s->netdev);
    g_free(s->primary_in);
    g_free(s->secondary_in);
    g_free(s->outdev);
    g_free(s->notify_dev);
}

static void compare_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = compare_complete;
    object_class_property_add_str(oc, "primary_in", get_primary_in,
                                  set_primary_in);
    object_class_property_add_str(oc, "secondary_in", get_secondary_in,
                                  set_secondary_in);
    object_class_property_add_str(oc, "outdev", get_outdev, set_outdev);
    object_class_property_add_str(oc, "notify_dev", get_notify_dev,
                                  set_notify_dev);
    object_class_property_add_bool(oc, "vnet_hdr_support", get_vnet_hdr,
                                   set_vnet_hdr);
    object_class_property_add_link(oc, "iothread", TYPE_IOTHREAD,
                                   offsetof(ColoCompareObject, iothread),
                                   object_property_allow_set_link,
                                   OBJ_PROP_LINK_STRONG);
    for (int i = 0; i < ARRAY_SIZE(limit_properties); i++) {
        object_class_property_add(oc, limit_properties[i].name, "uint64",
                                  get_limit, set_limit, NULL,
                                  &limit_properties[i]);
    }
}

static const TypeInfo compare_info = {
    .name = TYPE_COLO_COMPARE,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(ColoCompareObject),
    .instance_init = compare_init,
    .instance_finalize = compare_finalize,
    .class_init = compare_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void compare_register_types(void)
{
    type_register_static(&compare_info);
}

type_init(compare_register_types)
