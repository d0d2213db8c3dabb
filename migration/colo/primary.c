/*
 * COLO: the primary's side of the engine
 *
 * Runs in the migration thread, after the initial migration. A thread of its
 * own receives what the secondary says. The protocol's machine and the flags
 * in ColoEngine are under the engine's lock; everything that touches the VM
 * needs the BQL, which is taken first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-events-colo.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "block/block-global-state.h"
#include "block/replication.h"
#include "io/channel-buffer.h"
#include "migration/global_state.h"
#include "net/colo-proxy.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "../channel.h"
#include "../migration.h"
#include "../options.h"
#include "../qemu-file.h"
#include "../savevm.h"
#include "ahead.h"
#include "capture.h"
#include "crc.h"
#include "engine.h"
#include "pace.h"
#include "sender.h"
#include "trace.h"

#define DEVICE_BUFFER (1u << 20)    /* bytes, to begin with */

/* Pages are sent ahead so many times an epoch at most, within limits. */
#define ROUNDS 16
#define ROUND_MIN_MS 50
#define ROUND_MAX_MS 200

/* An SVM that does nothing is at most so far behind if it has to take over. */
#define IDLE_MAX_MS 2000

typedef struct ColoPrimaryRun {
    MigrationState *s;
    ColoLink link;
    ColoPrimary machine;        /* engine's lock */
    Error *error;               /* why the link ended; engine's lock */
    QemuThread receiver;
    bool replicating;           /* replication was started */
    bool proxied;               /* so was the proxy */
    int64_t started_ms;         /* the running epoch, QEMU_CLOCK_REALTIME */
    QEMUTimer *stall_timer;     /* while the VM stands still */
    GByteArray *tables;         /* the proxy's, reused */
    QIOChannelBuffer *device;   /* device state of the checkpoint, reused */
    QEMUFile *device_file;      /* writes to it */
    uint64_t captured;          /* the epoch the VM is in; engine's lock */
    uint64_t merge_us;          /* of the last commit; engine's lock */
    uint64_t rtt_ns;            /* the last that was measured; 0: none yet */
    ColoAhead *ahead;
    ColoPace pace;
    uint64_t ahead_pages;       /* sent ahead in this epoch */
    ColoKept *kept;
} ColoPrimaryRun;

static ColoEngine *const e = &colo_engine;

/* Remember the first reason why the link ended. Engine's lock. */
static void note_error(ColoPrimaryRun *r, Error *err)
{
    if (r->error) {
        error_free(err);
    } else {
        r->error = err;
    }
}

static void state_changed(ColoPrimaryRun *r)
{
    trace_colo_primary_state(colo_primary_state_name(r->machine.state));
    qemu_cond_broadcast(&e->cond);
}

/* Has somebody decided that this protection is to end? Engine's lock. */
static bool must_end(ColoPrimaryRun *r)
{
    return e->failover || e->cancel || e->quit;
}

/*
 * What became of an SVM, and what it holds for a commit, is settled by a
 * checkpoint that was captured since; what it asks for because of input it has
 * lost may be of the new epoch. Engine's lock.
 */
static bool is_settled(ColoPrimaryRun *r, const ColoMsg *request)
{
    return (request->request.reason == COLO_WIRE_REASON_SECONDARY ||
            request->request.reason == COLO_WIRE_REASON_MEMORY) &&
           request->h.epoch < r->captured;
}

/* Take one message. False ends the receiving. */
static bool receive_one(ColoPrimaryRun *r)
{
    g_auto(ColoMsg) msg = { 0 };
    ColoHeader h;
    Error *err = NULL;
    bool ok;

    if (!colo_link_recv_header(&r->link, &h, &err)) {
        WITH_QEMU_LOCK_GUARD(&e->lock) {
            colo_primary_peer_lost(&r->machine);
            note_error(r, err);
            state_changed(r);
        }
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        ok = colo_primary_expects(&r->machine, &h, &err);
    }
    ok = ok && colo_link_recv_payload(&r->link, &h, NULL, &msg, &err);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (!ok) {
            colo_primary_failed(&r->machine);
        } else {
            ok = colo_primary_recv(&r->machine, &msg, &err);
        }
        if (!ok) {
            note_error(r, err);
        } else if (msg.h.type == COLO_MSG_ERROR) {
            error_setg(&err, "the secondary: %s", msg.text.text);
            note_error(r, err);
        } else if (msg.h.type == COLO_MSG_STOPPED && !must_end(r)) {
            error_setg(&err, "the secondary has stopped: %s", msg.text.text);
            note_error(r, err);
        } else if (msg.h.type == COLO_MSG_COMMITTED) {
            r->merge_us = msg.committed.merge_us;
        } else if (msg.h.type == COLO_MSG_REQUEST && !e->requested &&
                   !is_settled(r, &msg)) {
            e->requested = true;
            e->reason = (ColoCheckpointReason)msg.request.reason;
        }
        state_changed(r);
    }
    return ok;
}

static void peer_lost(ColoPrimaryRun *r)
{
    QEMU_LOCK_GUARD(&e->lock);
    colo_primary_peer_lost(&r->machine);
    state_changed(r);
}

static void *receiver_thread(void *opaque)
{
    ColoPrimaryRun *r = opaque;

    rcu_register_thread();
    while (receive_one(r)) {
        continue;
    }
    /* A peer that can't be followed may live; one that dies closes the link */
    colo_link_drain(&r->link);
    peer_lost(r);
    rcu_unregister_thread();
    return NULL;
}

/* Ask the machine and send. */
static bool send_msg(ColoPrimaryRun *r, const ColoMsg *msg,
                     const struct iovec *iov, size_t niov, Error **errp)
{
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (!colo_primary_send(&r->machine, msg, errp)) {
            return false;
        }
        state_changed(r);
    }
    return colo_link_send(&r->link, msg, iov, niov, errp);
}

static void send_text(ColoPrimaryRun *r, ColoMsgType type, const char *text)
{
    g_auto(ColoMsg) msg = { 0 };
    uint64_t epoch;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (!colo_primary_may_send(&r->machine, type)) {
            return;
        }
        epoch = colo_primary_epoch_of(&r->machine, type);
    }
    colo_msg_init(&msg, type, epoch);
    colo_msg_set_text(&msg, text);
    send_msg(r, &msg, NULL, 0, NULL);
}

/* The secondary's silence while we wait for it, or to send, is limited. BQL. */
static void stall_check(void *opaque)
{
    ColoPrimaryRun *r = opaque;

    if (colo_link_idle_ms(&r->link) < COLO_STALL_MS) {
        timer_mod(r->stall_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + COLO_STALL_MS / 10);
        return;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        Error *err = NULL;

        error_setg(&err, "the secondary did not answer for %d seconds",
                   COLO_STALL_MS / 1000);
        note_error(r, err);
    }
    colo_link_shutdown(&r->link);
}

static void stall_watch(ColoPrimaryRun *r, bool on)
{
    if (on) {
        colo_link_touch(&r->link);
        timer_mod(r->stall_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + COLO_STALL_MS / 10);
    } else {
        timer_del(r->stall_timer);
    }
}

/* Wait until the machine leaves @state, or somebody decides to end. */
static bool wait_state(ColoPrimaryRun *r, ColoPrimaryState state, int64_t ms)
{
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ms;

    QEMU_LOCK_GUARD(&e->lock);
    while (r->machine.state == state && !must_end(r)) {
        int64_t left = end - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            return false;
        }
        qemu_cond_timedwait(&e->cond, &e->lock, MIN(left, INT_MAX));
    }
    return r->machine.state != state;
}

static bool handshake(ColoPrimaryRun *r, Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };

    colo_msg_init(&msg, COLO_MSG_HELLO, 0);
    colo_hello_copy(&msg.hello, &r->machine.local);
    if (!wait_state(r, COLO_P_INIT, COLO_HANDSHAKE_MS)) {
        error_setg(errp, "the other side does not answer: is x-colo set "
                   "there, and is it the same QEMU?");
        return false;
    }
    if (!send_msg(r, &msg, NULL, 0, errp)) {
        return false;
    }
    if (!wait_state(r, COLO_P_WAIT_READY, COLO_HANDSHAKE_MS)) {
        error_setg(errp, "the secondary did not get ready in %d seconds",
                   COLO_HANDSHAKE_MS / 1000);
        return false;
    }
    QEMU_LOCK_GUARD(&e->lock);
    if (r->machine.state != COLO_P_READY) {
        error_setg(errp, "the secondary did not get ready");
        return false;
    }
    return true;
}

/* BQL. What protection needs besides the link. */
static bool start_parts(ColoPrimaryRun *r, Error **errp)
{
    ERRP_GUARD();

    replication_start_all(REPLICATION_MODE_PRIMARY, errp);
    if (*errp) {
        return false;
    }
    r->replicating = true;
    if (!colo_proxy_start_primary(errp)) {
        return false;
    }
    r->proxied = true;
    colo_capture_start();
    return true;
}

/* The state of all devices of the stopped VM, to r->device. BQL. */
static bool save_device_state(ColoPrimaryRun *r, Error **errp)
{
    int ret;

    r->device->usage = 0;
    r->device->offset = 0;
    ret = qemu_save_device_state(r->device_file);
    if (!ret) {
        ret = qemu_fflush(r->device_file);
    }
    if (ret) {
        error_setg(errp, "the state of a device can't be saved");
        return false;
    }
    return true;
}

/* One checkpoint, from the stop of the VM to its commit. */
typedef struct Shot {
    uint64_t epoch;
    ColoCheckpointReason reason;
    int64_t stopped_us;
    int64_t phase_us;           /* when the current phase began */
    ColoPhases phases;
    uint64_t pause;             /* us */
    uint64_t ahead;             /* pages that were sent before the stop */
    uint64_t dirty;
    uint32_t flags;
    int64_t virtual_ns;         /* the guest's clock when the VM stood still */
    int64_t capture_ns;         /* the host's, when the guest's went on */
} Shot;

/* Microseconds of the phase that ends now */
static uint64_t end_phase(Shot *shot)
{
    int64_t begin = shot->phase_us;

    shot->phase_us = g_get_monotonic_time();
    return shot->phase_us - begin;
}

/*
 * Where all output is held for its checkpoint, nobody looks at what an SVM
 * does, and it may as well take over where that was: unless checkpoints are so
 * seldom that its guest would lose much. BQL and engine's lock.
 */
static bool svm_idles(ColoPrimaryRun *r)
{
    return (r->machine.agreed.features & COLO_FEATURE_IDLE_SVM) &&
           migrate_checkpoint_delay() <= IDLE_MAX_MS && colo_proxy_only_holds();
}

/* Stop the VM and take what only a stopped VM can give. BQL. */
static bool capture(ColoPrimaryRun *r, Shot *shot, Error **errp)
{
    ERRP_GUARD();

    colo_engine_settle();
    shot->stopped_us = shot->phase_us = g_get_monotonic_time();
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        /* the migration has stopped the VM, or the user did since */
        if (shot->reason != COLO_CHECKPOINT_REASON_START) {
            e->want_run = runstate_is_live(runstate_get());
        }
        e->in_checkpoint = true;
        r->captured = shot->epoch;
        shot->flags = e->shutdown ? COLO_COMMIT_F_SHUTDOWN :
                      !e->want_run ? COLO_COMMIT_F_PAUSED :
                      svm_idles(r) ? COLO_COMMIT_F_IDLE : 0;
    }
    stall_watch(r, true);
    vm_stop(RUN_STATE_COLO);
    global_state_store();
    shot->phases.stop = end_phase(shot);
    shot->virtual_ns = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    replication_get_error_all(errp);
    if (*errp) {
        error_prepend(errp, "disk replication: ");
        return false;
    }
    replication_capture_all();
    colo_proxy_capture(shot->epoch);
    g_byte_array_set_size(r->tables, 0);
    colo_proxy_save(r->tables);
    shot->phases.sync = end_phase(shot);
    if (!save_device_state(r, errp)) {
        return false;
    }
    shot->phases.device = end_phase(shot);
    /* what is saved may write to memory, or log what it has written before */
    shot->dirty = colo_capture_sync(true);
    shot->phases.sync += end_phase(shot);
    trace_colo_checkpoint_captured(shot->epoch, shot->dirty,
                                   r->device->usage);
    return true;
}

static bool capture_sending(void *opaque, const ColoMsg *msg, Error **errp)
{
    ColoPrimaryRun *r = opaque;

    QEMU_LOCK_GUARD(&e->lock);
    if (must_end(r)) {
        error_setg(errp, "the checkpoint was broken off");
        return false;
    }
    return colo_primary_send(&r->machine, msg, errp);
}

static void capture_sent(void *opaque, uint64_t pages, uint64_t zero_pages)
{
    ColoPrimaryRun *r = opaque;

    QEMU_LOCK_GUARD(&e->lock);
    colo_primary_add_pages(&r->machine, pages, zero_pages);
}

static uint32_t capture_syncs(void *opaque)
{
    ColoPrimaryRun *r = opaque;

    QEMU_LOCK_GUARD(&e->lock);
    return r->machine.progress.syncs;
}

static bool send_blob(ColoPrimaryRun *r, ColoMsgType type, uint64_t epoch,
                      void *data, size_t len, Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };
    struct iovec iov = { .iov_base = data, .iov_len = len };

    colo_msg_init(&msg, type, epoch);
    msg.h.data_len = len;
    if (type == COLO_MSG_DEVICE) {
        msg.device.data_crc = colo_crc(0, data, len);
    } else {
        msg.proxy.data_crc = colo_crc(0, data, len);
    }
    return send_msg(r, &msg, &iov, len ? 1 : 0, errp);
}

static bool send_commit(ColoPrimaryRun *r, const Shot *shot, Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };

    colo_msg_init(&msg, COLO_MSG_COMMIT, shot->epoch);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        msg.commit.totals = r->machine.progress.totals;
    }
    msg.commit.flags = shot->flags;
    msg.commit.stood_us = MIN(shot->pause, UINT32_MAX);
    msg.commit.virtual_ns = shot->virtual_ns;
    msg.commit.capture_ns = shot->capture_ns;
    msg.commit.rtt_ns = r->rtt_ns;
    msg.commit.sent_ns = get_clock();
    return send_msg(r, &msg, NULL, 0, errp);
}

static ColoCapture capture_of(ColoPrimaryRun *r)
{
    return (ColoCapture) {
        .link = &r->link,
        .ram = r->machine.ram,
        .page_crc = r->machine.agreed.features & COLO_FEATURE_PAGE_CRC,
        .sending = capture_sending,
        .sent = capture_sent,
        .syncs = capture_syncs,
        .opaque = r,
    };
}

/* Begin the checkpoint, unless its first pages were sent ahead. */
static bool send_begin(ColoPrimaryRun *r, uint64_t epoch,
                       ColoCheckpointReason reason, Error **errp)
{
    g_auto(ColoMsg) begin = { 0 };

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (r->machine.state == COLO_P_SENDING) {
            return true;
        }
    }
    colo_msg_init(&begin, COLO_MSG_BEGIN, epoch);
    begin.begin.reason = (ColoWireReason)reason;
    return send_msg(r, &begin, NULL, 0, errp);
}

/*
 * Take the dirty pages, and let the BQL go if some of them have to be sent at
 * once. BQL.
 */
static bool take_pages(ColoPrimaryRun *r, Shot *shot, Error **errp)
{
    ColoCapture c = capture_of(r);
    bool ok;

    if (colo_capture_fits(r->kept, shot->dirty)) {
        ok = colo_capture_take(&c, r->kept, shot->dirty, shot->epoch, errp);
    } else {
        bql_unlock();
        ok = send_begin(r, shot->epoch, shot->reason, errp) &&
             colo_capture_take(&c, r->kept, shot->dirty, shot->epoch, errp);
        bql_lock();
    }
    shot->phases.copy = end_phase(shot);
    return ok;
}

/* With multifd each checkpoint has a SYNC, even if nothing went that way. */
static bool send_last_sync(ColoPrimaryRun *r, ColoCapture *c, uint64_t epoch,
                           Error **errp)
{
    ColoSender s;
    bool ok;

    if (!migrate_multifd() || capture_syncs(r)) {
        return true;
    }
    colo_sender_init(&s, c, epoch, NULL);
    ok = colo_sender_sync(&s, errp);
    colo_sender_destroy(&s);
    return ok;
}

/* Send what was captured. Without the BQL; the VM may run. */
static bool transmit(ColoPrimaryRun *r, Shot *shot, Error **errp)
{
    ColoCapture c = capture_of(r);
    bool ok;

    ok = send_begin(r, shot->epoch, shot->reason, errp) &&
         colo_capture_send_kept(&c, r->kept, shot->epoch, errp) &&
         send_last_sync(r, &c, shot->epoch, errp) &&
         send_blob(r, COLO_MSG_DEVICE, shot->epoch, r->device->data,
                   r->device->usage, errp) &&
         send_blob(r, COLO_MSG_PROXY, shot->epoch, r->tables->data,
                   r->tables->len, errp) &&
         send_commit(r, shot, errp);
    shot->phases.send = end_phase(shot);
    return ok;
}

/* Committed, or somebody has decided to end. Without the BQL. */
static bool wait_committed(ColoPrimaryRun *r, Shot *shot, Error **errp)
{
    wait_state(r, COLO_P_WAIT_COMMIT, INT64_MAX / 2);
    shot->phases.commit = end_phase(shot);
    QEMU_LOCK_GUARD(&e->lock);
    shot->phases.merge = r->merge_us;
    if (shot->phases.commit > r->merge_us) {
        uint64_t rtt_us = shot->phases.commit - r->merge_us;

        r->rtt_ns = MIN(rtt_us * SCALE_US, COLO_MAX_RTT_NS);
    }
    if (r->machine.committed != shot->epoch) {
        error_setg(errp, "checkpoint %" PRIu64 " was not committed",
                   shot->epoch);
        return false;
    }
    return true;
}

/* Stopped by the migration, or by us */
static bool stopped_for_colo(void)
{
    return runstate_check(RUN_STATE_COLO) ||
           runstate_check(RUN_STATE_FINISH_MIGRATE);
}

/* Let the VM go on if it stands still for a checkpoint and is to. BQL. */
static void resume_vm(ColoPrimaryRun *r)
{
    bool run, powering_off;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        powering_off = e->shutdown;
        run = e->in_checkpoint && e->want_run && !powering_off;
    }
    if (run) {
        colo_engine_vm_restart();
    }
    colo_engine_let_go();
    if (!run && !powering_off && stopped_for_colo()) {
        runstate_set(RUN_STATE_PAUSED);
        bdrv_flush_all();
    }
}

/*
 * Captured: the VM goes on while the checkpoint is sent and committed. What
 * leaves it is of the new epoch, and held until then. BQL.
 */
static void go_on(ColoPrimaryRun *r, Shot *shot)
{
    shot->capture_ns = get_clock();
    resume_vm(r);
    shot->phases.resume = end_phase(shot);
    shot->pause = shot->phase_us - shot->stopped_us;
    r->started_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static void count(ColoPrimaryRun *r, const Shot *shot)
{
    const ColoTotals *t = &r->machine.progress.totals;
    g_autoptr(ColoCheckpoint) event = NULL;
    ColoCheckpointStats stats = {
        .epoch = shot->epoch,
        .pages_ahead = shot->ahead,
        .reason = shot->reason,
        .pause = shot->pause,
        .held = shot->phase_us - shot->stopped_us,
        .phases = shot->phases,
    };

    trace_colo_checkpoint_committed(shot->epoch, stats.pause, stats.held);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        stats.pages = t->pages;
        stats.zero_pages = t->zero_pages;
        stats.bytes = t->bytes;
        colo_stats_add(&e->stats, &stats);
    }
    if (migrate_events()) {
        event = colo_stats_checkpoint(&stats);
        qapi_event_send_colo_checkpoint(event);
    }
}

static bool finish(ColoPrimaryRun *r, Shot *shot, Error **errp)
{
    ERRP_GUARD();

    replication_do_checkpoint_all(errp);
    if (*errp) {
        error_prepend(errp, "disk replication: ");
        return false;
    }
    colo_proxy_committed(shot->epoch);
    stall_watch(r, false);
    shot->phases.release = end_phase(shot);
    count(r, shot);
    if (shot->flags & COLO_COMMIT_F_SHUTDOWN) {
        colo_engine_resume_deferred();
    }
    return true;
}

/* Pages of the checkpoint that was begun, if one was. Engine's lock. */
static uint64_t pages_begun(ColoPrimaryRun *r)
{
    const ColoTotals *t = &r->machine.progress.totals;

    return r->machine.state == COLO_P_SENDING ? t->pages + t->zero_pages : 0;
}

/* On failure the VM may stand still, and what is to become of it is open. */
static bool checkpoint(ColoPrimaryRun *r, ColoCheckpointReason reason,
                       Error **errp)
{
    Shot shot = { .reason = reason };
    bool ok;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        shot.epoch = r->machine.committed + 1;
        shot.ahead = pages_begun(r);
        e->requested = false;
    }
    trace_colo_checkpoint_begin(shot.epoch, ColoCheckpointReason_str(reason));
    bql_lock();
    ok = capture(r, &shot, errp) && take_pages(r, &shot, errp);
    if (ok) {
        go_on(r, &shot);
    }
    bql_unlock();
    ok = ok && transmit(r, &shot, errp) && wait_committed(r, &shot, errp);
    if (ok) {
        bql_lock();
        ok = finish(r, &shot, errp);
        bql_unlock();
        colo_kept_trim(r->kept);
    }
    return ok;
}

/* Milliseconds between two rounds of sending ahead */
static int64_t round_ms(ColoPrimaryRun *r)
{
    int64_t ms = migrate_checkpoint_delay() / ROUNDS;

    return colo_pace_interval(&r->pace, MIN(MAX(ms, ROUND_MIN_MS),
                                            ROUND_MAX_MS));
}

/* When the last round of the epoch is due, QEMU_CLOCK_REALTIME */
static int64_t last_round(ColoPrimaryRun *r)
{
    return r->started_ms + migrate_checkpoint_delay() - ROUND_MIN_MS;
}

/* When a round is due after one that ended at @before */
static int64_t next_round(ColoPrimaryRun *r, int64_t before)
{
    int64_t last = last_round(r);

    return before < last ? MIN(before + round_ms(r), last) : INT64_MAX;
}

/*
 * Pages that may go now so that the epoch's keep to max-bandwidth, a round that
 * sent less leaving more to the next; 0: all
 */
static uint64_t round_pages(ColoPrimaryRun *r)
{
    uint64_t per_s = migrate_max_bandwidth() / r->machine.ram->page_size;
    int64_t ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - r->started_ms;
    uint64_t most = per_s * MAX(ms, 0) / 1000;

    return migrate_max_bandwidth() ?
           MAX(most - MIN(most, r->ahead_pages), 1) : 0;
}

/* Something more urgent than pages has come up. */
static bool ahead_enough(void *opaque)
{
    ColoPrimaryRun *r = opaque;

    QEMU_LOCK_GUARD(&e->lock);
    return e->requested || must_end(r);
}

/*
 * Are the dirty pages of the running VM, of which there are @dirty, to be sent
 * now? BQL.
 */
static bool ahead_due(ColoPrimaryRun *r, uint64_t *dirty)
{
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    ColoPaceRound round = {
        .dirty = colo_capture_sync(false),
        .unsent = colo_ahead_unsent(r->ahead, r->machine.ram),
        .room = colo_kept_room(r->kept),
        .elapsed_ms = now - r->started_ms,
        .period_ms = migrate_checkpoint_delay(),
        .last = now >= last_round(r),
    };

    *dirty = round.dirty;
    return colo_pace_due(&r->pace, &round);
}

/*
 * Send what the running VM has dirtied, so that little is left when it stops.
 * Without the BQL.
 */
static bool send_ahead(ColoPrimaryRun *r, Error **errp)
{
    ColoCapture c = capture_of(r);
    uint64_t epoch, dirty, sent = 0;
    bool due, ok;

    bql_lock();
    due = ahead_due(r, &dirty);
    if (due) {
        colo_capture_settle();
        stall_watch(r, true);
    }
    bql_unlock();
    /* a checkpoint that comes before the next round has about as many */
    colo_kept_reserve(r->kept, dirty);
    if (!due) {
        return true;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        epoch = r->machine.committed + 1;
    }
    ok = send_begin(r, epoch, COLO_CHECKPOINT_REASON_PERIOD, errp) &&
         colo_ahead_send(r->ahead, &c, epoch, round_pages(r), ahead_enough,
                         &sent, errp);
    colo_pace_sent(&r->pace, sent);
    r->ahead_pages += sent;
    bql_lock();
    stall_watch(r, false);
    bql_unlock();
    return ok;
}

typedef enum EpochEvent {
    EPOCH_ENDS,             /* a checkpoint is due */
    EPOCH_ROUND,            /* it is time to send ahead */
    EPOCH_BROKEN,           /* the peer is lost, or somebody has decided */
} EpochEvent;

static bool epoch_open(ColoPrimaryRun *r)
{
    return !must_end(r) && (r->machine.state == COLO_P_RUNNING ||
                            r->machine.state == COLO_P_SENDING);
}

/* Wait for what comes next in an epoch whose last round ended at @before. */
static EpochEvent wait_event(ColoPrimaryRun *r, int64_t before,
                             ColoCheckpointReason *reason)
{
    QEMU_LOCK_GUARD(&e->lock);
    while (epoch_open(r)) {
        int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        int64_t round = next_round(r, before);
        int64_t left = r->started_ms + migrate_checkpoint_delay() - now;

        if (e->requested) {
            *reason = e->reason;
            return EPOCH_ENDS;
        }
        if (left <= 0 && colo_pace_once_more(&r->pace)) {
            return EPOCH_ROUND;
        }
        if (left <= 0) {
            *reason = COLO_CHECKPOINT_REASON_PERIOD;
            return EPOCH_ENDS;
        }
        if (round <= now) {
            return EPOCH_ROUND;
        }
        left = MIN(left, round - now);
        qemu_cond_timedwait(&e->cond, &e->lock, MIN(left, INT_MAX));
    }
    return EPOCH_BROKEN;
}

/*
 * Until the end of the epoch. True: a checkpoint is due, for @reason. False:
 * there will be none; @errp is set if it is this side that can't go on.
 */
static bool run_epoch(ColoPrimaryRun *r, ColoCheckpointReason *reason,
                      Error **errp)
{
    int64_t before = r->started_ms;
    EpochEvent event;

    colo_ahead_restart(r->ahead);
    colo_pace_restart(&r->pace);
    r->ahead_pages = 0;
    while ((event = wait_event(r, before, reason)) == EPOCH_ROUND) {
        if (!send_ahead(r, errp)) {
            return false;
        }
        before = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    }
    return event == EPOCH_ENDS;
}

/* Checkpoint after checkpoint, as long as there is a peer. */
static void protect(ColoPrimaryRun *r, Error **errp)
{
    ColoCheckpointReason reason = COLO_CHECKPOINT_REASON_START;

    do {
        if (!checkpoint(r, reason, errp)) {
            return;
        }
    } while (run_epoch(r, &reason, errp));
}

/* The peer is gone or has failed, and nobody has decided yet. */
static void wait_decision(ColoPrimaryRun *r)
{
    bql_lock();
    stall_watch(r, false);
    colo_proxy_peer_lost();
    replication_lost_all();
    resume_vm(r);
    colo_engine_exit(COLO_EXIT_REASON_ERROR);
    bql_unlock();
    QEMU_LOCK_GUARD(&e->lock);
    while (r->machine.state == COLO_P_LOST && !must_end(r)) {
        qemu_cond_wait(&e->cond, &e->lock);
    }
}

/* Tell a peer that may still answer, and give it time to stop. */
static void tell_peer(ColoPrimaryRun *r)
{
    bool end;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        end = e->cancel &&
              colo_primary_may_send(&r->machine, COLO_MSG_END);
        if (e->quit) {
            return;
        }
        if (!end) {
            colo_primary_failover(&r->machine, NULL);
        }
        state_changed(r);
    }
    if (end) {
        send_text(r, COLO_MSG_END, "protection was cancelled");
    } else {
        send_text(r, COLO_MSG_TAKEOVER, "the primary takes over");
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        int64_t until = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                        COLO_TAKEOVER_MS;

        while ((r->machine.state == COLO_P_TAKING_OVER ||
                r->machine.state == COLO_P_ENDING) && !e->quit) {
            int64_t left = until - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

            if (left <= 0) {
                break;
            }
            qemu_cond_timedwait(&e->cond, &e->lock, left);
        }
        if (r->machine.state != COLO_P_STOPPED && !e->quit) {
            /* it did not answer in time, or could not even be told */
            colo_primary_peer_lost(&r->machine);
            colo_primary_failover(&r->machine, NULL);
        }
    }
}

/* Say why we end to a peer that has not failed itself. */
static void tell_error(ColoPrimaryRun *r, const char *text)
{
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        colo_primary_failed(&r->machine);
        state_changed(r);
    }
    send_text(r, COLO_MSG_ERROR, text);
}

/* This side goes on, alone; or, if the peer took over, never again. BQL. */
static void settle(ColoPrimaryRun *r, bool survivor)
{
    Error *err = NULL;

    if (r->replicating) {
        replication_stop_all(survivor, &err);
        if (err) {
            error_reportf_err(err, "COLO: ending disk replication: ");
        }
    }
    if (r->proxied) {
        colo_proxy_stop_primary(survivor);
    }
    stall_watch(r, false);
    if (survivor) {
        resume_vm(r);
        colo_engine_resume_deferred();
        return;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->stopped = true;
    }
    colo_engine_settle();
    vm_stop(RUN_STATE_COLO);
    if (runstate_check(RUN_STATE_COLO) || runstate_check(RUN_STATE_PAUSED)) {
        runstate_set(RUN_STATE_POSTMIGRATE);
    }
}

static void end_status(ColoPrimaryRun *r, bool decided, Error *err)
{
    MigrationState *s = r->s;
    MigrationStatus status;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        status = e->cancel ? MIGRATION_STATUS_CANCELLED :
                 decided ? MIGRATION_STATUS_COMPLETED :
                           MIGRATION_STATUS_FAILED;
    }
    if (!decided && err) {
        migrate_set_error(s, err);
    }
    migrate_set_state(&s->state, MIGRATION_STATUS_COLO, status);
}

static void run_end(ColoPrimaryRun *r)
{
    bql_unlock();
    qemu_thread_join(&r->receiver);
    bql_lock();
    colo_engine_end();
    timer_free(r->stall_timer);
    colo_link_destroy(&r->link);
    colo_primary_destroy(&r->machine);
    error_free(r->error);
    g_byte_array_unref(r->tables);
    colo_ahead_free(r->ahead);
    colo_kept_free(r->kept);
    qemu_fclose(r->device_file);
    object_unref(OBJECT(r->device));
}

/* What sending pages while the VM runs takes. */
static bool sending_begin(ColoPrimaryRun *r, const ColoRamList *ram,
                          Error **errp)
{
    r->kept = colo_kept_new(ram->page_size,
                            r->s->colo_copy_limit / ram->page_size, errp);
    if (!r->kept) {
        return false;
    }
    r->ahead = colo_ahead_new(ram);
    return true;
}

static bool run_begin(ColoPrimaryRun *r, MigrationState *s, Error **errp)
{
    g_auto(ColoHello) hello = { 0 };

    r->s = s;
    if (!colo_engine_hello(&hello, errp) ||
        !sending_begin(r, hello.ram, errp)) {
        return false;
    }
    colo_engine_begin(COLO_MODE_PRIMARY);
    colo_primary_init(&r->machine, &hello, 0);
    colo_link_init(&r->link, qemu_file_get_ioc(s->to_dst_file),
                   COLO_SIDE_PRIMARY);
    r->stall_timer = timer_new_ms(QEMU_CLOCK_REALTIME, stall_check, r);
    r->tables = g_byte_array_new();
    r->device = qio_channel_buffer_new(DEVICE_BUFFER);
    r->device_file = qemu_file_new_output(QIO_CHANNEL(r->device));
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->link = &r->link;
        e->in_checkpoint = true;
    }
    qemu_thread_create(&r->receiver, "colo/rx", receiver_thread, r,
                       QEMU_THREAD_JOINABLE);
    return true;
}

/* Without the BQL. Until somebody has decided who survives. */
static void run(ColoPrimaryRun *r)
{
    Error *err = NULL;
    bool started, undecided, broken;

    started = handshake(r, &err);
    if (started) {
        bql_lock();
        started = start_parts(r, &err);
        bql_unlock();
    }
    if (started) {
        protect(r, &err);
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        broken = err && !must_end(r);
    }
    if (broken) {
        tell_error(r, error_get_pretty(err));
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (err) {
            note_error(r, err);
        }
        undecided = r->machine.state == COLO_P_LOST && !must_end(r);
    }
    if (undecided) {
        error_report("COLO: protection is lost: %s",
                     r->error ? error_get_pretty(r->error) : "unknown");
        wait_decision(r);
    }
    tell_peer(r);
}

void migrate_start_colo_process(MigrationState *s)
{
    ColoPrimaryRun r = { 0 };
    Error *err = NULL;
    bool survivor, decided, quit;

    if (!run_begin(&r, s, &err)) {
        error_report_err(error_copy(err));
        migrate_set_error(s, err);
        error_free(err);
        migrate_set_state(&s->state, MIGRATION_STATUS_COLO,
                          MIGRATION_STATUS_FAILED);
        colo_engine_vm_start();
        return;
    }
    bql_unlock();
    run(&r);
    bql_lock();
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        quit = e->quit;
        survivor = colo_primary_survives(&r.machine);
        decided = e->failover || e->cancel || !survivor;
    }
    if (!decided && r.error) {
        error_report("COLO: protection has ended: %s",
                     error_get_pretty(r.error));
    }
    if (survivor || quit) {
        colo_link_shutdown(&r.link);
    }
    if (!quit) {
        settle(&r, survivor);
        send_text(&r, COLO_MSG_STOPPED, "stopped");
        colo_engine_exit(decided ? COLO_EXIT_REASON_REQUEST :
                                   COLO_EXIT_REASON_ERROR);
    }
    colo_link_shutdown(&r.link);
    end_status(&r, decided, r.error);
    run_end(&r);
}
