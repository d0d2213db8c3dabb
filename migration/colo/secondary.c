/*
 * COLO: the secondary's side of the engine
 *
 * A thread receives checkpoints and applies them; the coroutine of the
 * incoming migration waits for it. The protocol's machine and the flags in
 * ColoEngine are under the engine's lock; everything that touches the VM
 * needs the BQL, which is taken first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/block-global-state.h"
#include "block/replication.h"
#include "io/channel-buffer.h"
#include "net/colo-proxy.h"
#include "system/cpu-timers.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "../channel.h"
#include "../migration.h"
#include "../multifd.h"
#include "../options.h"
#include "../qemu-file.h"
#include "../savevm.h"
#include "crc.h"
#include "engine.h"
#include "ram.h"
#include "trace.h"
#include "waiting.h"

/* Longer than any commit takes */
#define CATCH_UP_MAX_NS (3600 * NANOSECONDS_PER_SECOND)

/*
 * An idle SVM starts to run when no checkpoint has come for so long. Its clock
 * goes on meanwhile, and a watchdog would not wait for ever.
 */
#define IDLE_MAX_MS 4000

typedef struct ColoSecondaryRun {
    ColoLink link;
    ColoSecondary machine;      /* engine's lock */
    Error *error;               /* why protection ended; engine's lock */
    QemuThread thread;
    Coroutine *co;              /* who waits for the thread */
    bool woken;                 /* it has been told to go on; BQL */
    bool joined;                /* the thread was; main thread */
    bool ram;                   /* set up */
    bool replicating;
    bool proxied;
    bool run_svm;               /* the SVM is to run, by the last commit */
    bool idle;                  /* it does, but its vCPUs don't; BQL */
    QEMUTimer *idle_timer;      /* ends that */
    bool powered_off;           /* so was the guest, by the last commit */
    bool broken;                /* a checkpoint could not be applied */
    VMChangeStateEntry *watch;
    int64_t begun_ticks;        /* of the host, when this run began */
    int64_t begun_ns;
    /* the checkpoint under way */
    GByteArray *device;
    ColoProxyState *tables;
} ColoSecondaryRun;

static ColoEngine *const e = &colo_engine;

/* BQL: set while there is a run. */
static ColoSecondaryRun *current;
static bool incoming_serves;
static bool loading;            /* device state of a checkpoint; BQL */
static NotifierList catch_up_notifiers =
    NOTIFIER_LIST_INITIALIZER(catch_up_notifiers);  /* BQL */

static void note_error(ColoSecondaryRun *r, Error *err)
{
    if (r->error) {
        error_free(err);
    } else {
        r->error = err;
    }
}

static void state_changed(ColoSecondaryRun *r)
{
    trace_colo_secondary_state(colo_secondary_state_name(r->machine.state));
    qemu_cond_broadcast(&e->cond);
}

static bool send_msg(ColoSecondaryRun *r, const ColoMsg *msg, Error **errp)
{
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (!colo_secondary_send(&r->machine, msg, errp)) {
            return false;
        }
        state_changed(r);
    }
    return colo_link_send(&r->link, msg, NULL, 0, errp);
}

static bool may_send(ColoSecondaryRun *r, ColoMsgType type)
{
    QEMU_LOCK_GUARD(&e->lock);
    return colo_secondary_may_send(&r->machine, type);
}

static void send_text(ColoSecondaryRun *r, ColoMsgType type, const char *text)
{
    g_auto(ColoMsg) msg = { 0 };
    uint64_t epoch;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (!colo_secondary_may_send(&r->machine, type)) {
            return;
        }
        epoch = colo_secondary_epoch_of(&r->machine, type);
    }
    colo_msg_init(&msg, type, epoch);
    colo_msg_set_text(&msg, text);
    send_msg(r, &msg, NULL);
}

/* Something here failed, or the peer did wrong: say so, and be on our own. */
static void fail(ColoSecondaryRun *r, Error *err)
{
    g_autofree char *text = g_strdup(error_get_pretty(err));

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        colo_secondary_failed(&r->machine);
        note_error(r, err);
        state_changed(r);
    }
    send_text(r, COLO_MSG_ERROR, text);
}

bool colo_secondary_decide(Error **errp)
{
    if (!current) {
        error_setg(errp, "COLO has not started yet");
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (!colo_secondary_failover(&current->machine, errp)) {
            return false;
        }
        e->failover = true;
        state_changed(current);
    }
    send_text(current, COLO_MSG_TAKEOVER, "the secondary takes over");
    return true;
}

bool colo_secondary_ask(ColoCheckpointReason reason)
{
    g_auto(ColoMsg) msg = { 0 };

    if (!current || !may_send(current, COLO_MSG_REQUEST)) {
        return false;
    }
    colo_msg_init(&msg, COLO_MSG_REQUEST, current->machine.committed);
    msg.request.reason = (ColoWireReason)reason;
    return send_msg(current, &msg, NULL);
}

/*
 * The SVM stopping by itself (a panic, an I/O error) is divergence: the next
 * commit sets it right.
 */
static void svm_state_changed(void *opaque, bool running, RunState state)
{
    if (!running && state != RUN_STATE_COLO && state != RUN_STATE_PAUSED) {
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_SECONDARY);
    }
}

/* BQL. All that a secondary needs, before it says READY. */
static bool set_up(ColoSecondaryRun *r, Error **errp)
{
    ERRP_GUARD();

    if (!migration_block_activate(errp)) {
        return false;
    }
    r->ram = colo_ram_setup(r->machine.ram, errp);
    if (!r->ram) {
        return false;
    }
    replication_start_all(REPLICATION_MODE_SECONDARY, errp);
    if (*errp) {
        error_prepend(errp, "disk replication: ");
        return false;
    }
    r->replicating = true;
    r->proxied = colo_proxy_start_secondary(errp);
    if (!r->proxied) {
        return false;
    }
    runstate_set(RUN_STATE_COLO);
    r->watch = qemu_add_vm_change_state_handler(svm_state_changed, r);
    return true;
}

static void get_ready(ColoSecondaryRun *r)
{
    g_auto(ColoMsg) msg = { 0 };
    Error *err = NULL;
    bool ok;

    bql_lock();
    ok = set_up(r, &err);
    bql_unlock();
    if (ok) {
        colo_msg_init(&msg, COLO_MSG_READY, 0);
        ok = send_msg(r, &msg, &err);
    }
    if (!ok) {
        fail(r, err);
    }
}

static void forget_checkpoint(ColoSecondaryRun *r)
{
    g_clear_pointer(&r->device, g_byte_array_unref);
    g_clear_pointer(&r->tables, colo_proxy_state_free);
    if (r->ram) {
        colo_ram_discard_staged();
    }
}

static bool receive_pages(ColoSecondaryRun *r, const ColoMsg *msg,
                          Error **errp)
{
    size_t pages = msg->h.data_len / r->machine.ram->page_size;
    g_autofree struct iovec *iov = g_new(struct iovec, pages);
    g_autofree struct iovec *left = NULL;
    size_t n = colo_ram_stage(msg, iov);
    uint32_t crc = 0;

    left = g_memdup2(iov, n * sizeof(*iov));
    if (!colo_link_recv_data(&r->link, left, n, errp)) {
        return false;
    }
    if (colo_msg_has_data_crc(msg)) {
        for (size_t i = 0; i < n; i++) {
            crc = colo_crc(crc, iov[i].iov_base, iov[i].iov_len);
        }
    }
    return colo_msg_check_data(msg, crc, errp);
}

/* The data of a DEVICE or PROXY message, checked; NULL on failure. */
static GByteArray *receive_blob(ColoSecondaryRun *r, const ColoMsg *msg,
                                Error **errp)
{
    size_t len = msg->h.data_len;
    uint8_t *data = g_try_malloc(len ?: 1);
    struct iovec iov = { .iov_base = data, .iov_len = len };
    g_autoptr(GByteArray) blob = NULL;

    if (!data) {
        error_setg(errp, "no memory for %zu bytes of a checkpoint", len);
        return NULL;
    }
    blob = g_byte_array_new_take(data, len);
    if (!colo_link_recv_data(&r->link, &iov, 1, errp) ||
        !colo_msg_check_data(msg, colo_crc(0, data, len), errp)) {
        return NULL;
    }
    return g_steal_pointer(&blob);
}

static bool receive_tables(ColoSecondaryRun *r, const ColoMsg *msg,
                           Error **errp)
{
    g_autoptr(GByteArray) blob = receive_blob(r, msg, errp);

    if (!blob) {
        return false;
    }
    r->tables = colo_proxy_load(blob->data, blob->len, errp);
    return r->tables != NULL;
}

/* The data that follows a message the machine has taken. */
static bool receive_data(ColoSecondaryRun *r, const ColoMsg *msg,
                         Error **errp)
{
    bool wanted;

    if (!msg->h.data_len && msg->h.type != COLO_MSG_PAGES &&
        msg->h.type != COLO_MSG_PROXY) {
        return true;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        wanted = r->machine.state == COLO_S_RECEIVING;
    }
    if (!wanted) {
        return colo_link_skip_data(&r->link, msg->h.data_len, errp);
    }
    switch (msg->h.type) {
    case COLO_MSG_PAGES:
        return receive_pages(r, msg, errp);
    case COLO_MSG_DEVICE:
        r->device = receive_blob(r, msg, errp);
        return r->device != NULL;
    case COLO_MSG_PROXY:
        return receive_tables(r, msg, errp);
    default:
        return colo_link_skip_data(&r->link, msg->h.data_len, errp);
    }
}

/* Wait until the multifd channels have received all up to the sync. */
static bool sync_multifd(ColoSecondaryRun *r, Error **errp)
{
    uint64_t pages, zero_pages;

    if (multifd_recv_alive()) {
        multifd_recv_sync_main();
    }
    if (!multifd_recv_alive()) {
        error_setg(errp, "a multifd channel failed");
        return false;
    }
    colo_ram_multifd_synced(&pages, &zero_pages);
    QEMU_LOCK_GUARD(&e->lock);
    if (r->machine.state == COLO_S_RECEIVING) {
        colo_secondary_add_pages(&r->machine, pages, zero_pages);
    }
    return true;
}

static bool load_device_state(ColoSecondaryRun *r, Error **errp)
{
    size_t len = r->device->len;
    QIOChannelBuffer *buffer = qio_channel_buffer_new(0);
    QEMUFile *f;
    int ret;

    g_free(buffer->data);
    buffer->data = g_byte_array_free(g_steal_pointer(&r->device), false);
    buffer->capacity = len;
    buffer->usage = len;
    f = qemu_file_new_input(QIO_CHANNEL(buffer));
    cpu_synchronize_all_pre_loadvm();
    loading = true;
    ret = qemu_load_device_state(f);
    loading = false;
    qemu_fclose(f);
    object_unref(OBJECT(buffer));
    if (ret < 0) {
        error_setg(errp, "device state of the checkpoint can't be loaded: %s",
                   strerror(-ret));
        return false;
    }
    cpu_timers_go_on(0, 0);
    return true;
}

/* Make the SVM what the PVM was at the capture. BQL, SVM stopped. */
static bool apply(ColoSecondaryRun *r, uint64_t epoch, Error **errp)
{
    ERRP_GUARD();
    int64_t begin = g_get_monotonic_time(), ram, device, disk;

    colo_ram_commit();
    ram = g_get_monotonic_time();
    if (!load_device_state(r, errp)) {
        return false;
    }
    device = g_get_monotonic_time();
    replication_do_checkpoint_all(errp);
    if (*errp) {
        error_prepend(errp, "disk replication: ");
        return false;
    }
    disk = g_get_monotonic_time();
    colo_proxy_commit(epoch, g_steal_pointer(&r->tables));
    trace_colo_commit_applied(epoch, ram - begin, device - ram, disk - device,
                              g_get_monotonic_time() - disk);
    return true;
}

/* Nanoseconds since the PVM went on, at the latest; @received: COMMIT came. */
static int64_t since_capture(ColoSecondaryRun *r, const ColoMsg *msg,
                             int64_t received)
{
    if (r->machine.agreed.same_host) {
        return MAX(get_clock() - msg->commit.capture_ns, 0);
    }
    return msg->commit.sent_ns - msg->commit.capture_ns +
           msg->commit.rtt_ns + get_clock() - received;
}

/*
 * The PVM has run since the capture. The SVM's time moves on by as much, or
 * every answer that has the time in it would differ, and an SVM that took over
 * would be behind the timestamps of the PVM's segments. BQL, VM stopped.
 */
static void catch_up(ColoSecondaryRun *r, const ColoMsg *msg,
                     int64_t received)
{
    ColoCatchUp passed = { .stood_ns = msg->commit.stood_us * SCALE_US };
    double rate = (double)(cpu_get_host_ticks() - r->begun_ticks) /
                  MAX(get_clock() - r->begun_ns, 1);

    /* the primary's word, which must not take the clock out of its range */
    passed.ns = MIN(since_capture(r, msg, received), CATCH_UP_MAX_NS);
    trace_colo_catch_up(msg->h.epoch, passed.ns);
    cpu_timers_go_on(passed.ns, passed.ns * rate);
    notifier_list_notify(&catch_up_notifiers, &passed);
}

/* Whatever becomes of the primary, the SVM does not fall behind. BQL. */
static void stop_idling(void *opaque)
{
    ColoSecondaryRun *r = opaque;

    timer_del(r->idle_timer);
    if (r->idle) {
        r->idle = false;
        resume_all_vcpus();
    }
}

static void start_svm(ColoSecondaryRun *r)
{
    if (r->idle) {
        colo_engine_vm_start_idle();
        timer_mod(r->idle_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + IDLE_MAX_MS);
    } else {
        colo_engine_vm_start();
    }
}

/* After a commit the SVM does what the PVM does. BQL. */
static void follow(ColoSecondaryRun *r, const ColoMsg *msg, int64_t received)
{
    uint32_t flags = msg->commit.flags;

    r->powered_off = flags & COLO_COMMIT_F_SHUTDOWN;
    r->run_svm = !(flags & (COLO_COMMIT_F_PAUSED | COLO_COMMIT_F_SHUTDOWN));
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->requested = false;
        e->reset = SHUTDOWN_CAUSE_NONE;
        e->shutdown = r->powered_off ? SHUTDOWN_CAUSE_GUEST_SHUTDOWN :
                                       SHUTDOWN_CAUSE_NONE;
    }
    r->idle = flags & COLO_COMMIT_F_IDLE;
    if (r->run_svm) {
        catch_up(r, msg, received);
        start_svm(r);
    }
    colo_engine_let_go();
}

static void commit(ColoSecondaryRun *r, const ColoMsg *msg)
{
    int64_t begin_us = g_get_monotonic_time(), received = get_clock(), us;
    Error *err = NULL;
    bool ok, stood;

    bql_lock();
    colo_engine_settle();
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->in_checkpoint = true;
    }
    timer_del(r->idle_timer);
    stood = !runstate_is_running();
    vm_stop(RUN_STATE_COLO);
    qemu_system_forget_guest_requests();
    colo_forget_waiting_requests(stood);
    ok = apply(r, msg->h.epoch, &err);
    if (ok) {
        follow(r, msg, received);
    }
    bql_unlock();
    us = g_get_monotonic_time() - begin_us;
    trace_colo_commit(msg->h.epoch, us);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (ok) {
            colo_secondary_commit_applied(&r->machine);
        } else {
            r->broken = true;
            colo_secondary_commit_failed(&r->machine);
            note_error(r, err);
        }
        state_changed(r);
    }
    if (may_send(r, COLO_MSG_COMMITTED)) {
        g_auto(ColoMsg) done = { 0 };

        colo_msg_init(&done, COLO_MSG_COMMITTED, msg->h.epoch);
        done.committed.merge_us = us;
        send_msg(r, &done, NULL);
    }
    colo_ram_trim();
    send_text(r, COLO_MSG_TAKEOVER, "the secondary takes over");
}

/* What is received and validated, and does not change the machine, first. */
static bool check_msg(ColoSecondaryRun *r, const ColoMsg *msg, Error **errp)
{
    ERRP_GUARD();

    if (msg->h.type == COLO_MSG_SYNC) {
        return sync_multifd(r, errp);
    }
    if (msg->h.type == COLO_MSG_COMMIT) {
        bql_lock();
        replication_get_error_all(errp);
        bql_unlock();
        if (*errp) {
            error_prepend(errp, "disk replication: ");
            return false;
        }
    }
    return true;
}

/*
 * Say that there is no protection any more, unless it was said before, and be
 * ready to take over. BQL.
 */
static void announce_loss(ColoSecondaryRun *r)
{
    g_autofree char *why = NULL;
    bool undecided;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        undecided = r->machine.state == COLO_S_LOST && !e->quit &&
                    !e->exit_sent;
        why = g_strdup(r->error ? error_get_pretty(r->error) : "unknown");
    }
    if (undecided && r->powered_off) {
        /* the primary has done so, and there is nothing left to survive */
        colo_engine_resume_deferred();
    } else if (undecided) {
        Error *err = NULL;

        error_report("COLO: protection is lost: %s", why);
        stop_idling(r);
        /* The primary only knows that its write failed */
        replication_get_error_all(&err);
        if (err) {
            error_reportf_err(err, "COLO: disk replication: ");
        }
        colo_engine_exit(COLO_EXIT_REASON_ERROR);
    }
}

/*
 * What waits for a commit takes memory that a secondary has no second time. A
 * checkpoint ends that; the sending of pages ahead stops at once.
 */
static void ask_if_full(ColoSecondaryRun *r)
{
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (r->machine.state != COLO_S_RECEIVING || e->requested) {
            return;
        }
    }
    if (colo_ram_is_full()) {
        bql_lock();
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_MEMORY);
        bql_unlock();
    }
}

static void handle(ColoSecondaryRun *r, const ColoMsg *msg)
{
    ColoSecondaryState state;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        state = r->machine.state;
    }
    if (msg->h.type == COLO_MSG_HELLO && state == COLO_S_SETUP) {
        get_ready(r);
    } else if (msg->h.type == COLO_MSG_COMMIT && state == COLO_S_COMMITTING) {
        commit(r, msg);
    } else if (state != COLO_S_RECEIVING) {
        forget_checkpoint(r);
    } else {
        ask_if_full(r);
    }
    if (msg->h.type == COLO_MSG_ERROR) {
        /* the link stays, for the primary may yet say that it takes over */
        bql_lock();
        announce_loss(r);
        bql_unlock();
    }
}

/* The link has ended. */
static void lost(ColoSecondaryRun *r, Error *err)
{
    QEMU_LOCK_GUARD(&e->lock);
    colo_secondary_peer_lost(&r->machine);
    note_error(r, err);
    state_changed(r);
}

static bool finished(ColoSecondaryRun *r)
{
    QEMU_LOCK_GUARD(&e->lock);
    return e->quit || r->machine.state == COLO_S_STOPPED ||
           r->machine.state == COLO_S_ENDED;
}

/* Take one message. False ends the receiving. */
static bool receive_one(ColoSecondaryRun *r)
{
    g_auto(ColoMsg) msg = { 0 };
    const ColoRamList *ram;
    Error *err = NULL;
    ColoHeader h;
    bool ok;

    if (!colo_link_recv_header(&r->link, &h, &err)) {
        lost(r, err);
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        ok = colo_secondary_expects(&r->machine, &h, &err);
        ram = r->machine.ram;
    }
    ok = ok && colo_link_recv_payload(&r->link, &h, ram, &msg, &err) &&
         check_msg(r, &msg, &err);
    if (ok) {
        WITH_QEMU_LOCK_GUARD(&e->lock) {
            ok = colo_secondary_recv(&r->machine, &msg, &err);
            if (ok && msg.h.type == COLO_MSG_ERROR) {
                Error *said = NULL;

                error_setg(&said, "the primary: %s", msg.text.text);
                note_error(r, said);
            }
            state_changed(r);
        }
    }
    ok = ok && receive_data(r, &msg, &err);
    if (!ok) {
        fail(r, err);
        return false;
    }
    handle(r, &msg);
    return !finished(r);
}

/*
 * The peer's stream can't be followed, and yet it may live, and be told of a
 * takeover. One that is dead has closed the connection, perhaps in the middle
 * of a message; with one that is not, the engine's timer does it.
 */
static void wait_link_end(ColoSecondaryRun *r)
{
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (e->quit || !r->machine.link ||
            (r->machine.state != COLO_S_LOST &&
             r->machine.state != COLO_S_TAKING_OVER)) {
            return;
        }
    }
    colo_link_drain(&r->link);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        colo_secondary_peer_lost(&r->machine);
        state_changed(r);
    }
}

/* Wait until somebody has decided. */
static void wait_lost(ColoSecondaryRun *r)
{
    wait_link_end(r);
    QEMU_LOCK_GUARD(&e->lock);
    while (!e->quit && r->machine.state == COLO_S_LOST) {
        qemu_cond_wait(&e->cond, &e->lock);
    }
}

/* The peer is gone or has failed, and nobody has decided yet. */
static void wait_decision(ColoSecondaryRun *r)
{
    forget_checkpoint(r);
    bql_lock();
    announce_loss(r);
    bql_unlock();
    wait_lost(r);
}

/* Until the link ends, or can no longer be followed. */
static void receive(ColoSecondaryRun *r)
{
    while (receive_one(r)) {
        continue;
    }
}

/*
 * What the guest has flushed is on the disk of the primary, which is lost; here
 * it may be in caches, of an image's metadata among them. BQL, SVM stopped.
 */
static void flush_disks(void)
{
    int ret = bdrv_flush_all();

    if (ret < 0) {
        error_report("COLO: the disks can't be flushed on taking over: %s; "
                     "what the guest has written may be lost if this host "
                     "fails before the guest flushes it", strerror(-ret));
    }
}

/*
 * End what set_up() began; @survivor becomes false if the disks can't be
 * made what the SVM has seen. BQL.
 */
static void stop_parts(ColoSecondaryRun *r, bool *survivor)
{
    Error *err = NULL;

    colo_engine_settle();
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->in_checkpoint = true;
        e->want_run = r->run_svm;
    }
    vm_stop(RUN_STATE_COLO);
    if (r->watch) {
        qemu_del_vm_change_state_handler(r->watch);
    }
    if (*survivor) {
        flush_disks();
    }
    if (r->replicating) {
        replication_stop_all(*survivor, &err);
        if (err) {
            error_reportf_err(err, "COLO: ending disk replication: ");
            r->broken |= *survivor;
            *survivor = false;
        }
    }
    if (r->proxied) {
        colo_proxy_stop_secondary(*survivor);
    }
    if (r->ram) {
        colo_ram_stop();
        r->ram = false;
    }
}

/* BQL. This side takes over, or never runs again. False: the latter. */
static bool settle(ColoSecondaryRun *r, bool survivor)
{
    stop_parts(r, &survivor);
    if (survivor) {
        bool run;

        WITH_QEMU_LOCK_GUARD(&e->lock) {
            run = e->want_run;
        }
        if (run) {
            colo_engine_vm_restart();
        }
        colo_engine_let_go();
        if (!run && runstate_check(RUN_STATE_COLO)) {
            runstate_set(RUN_STATE_PAUSED);
        }
        colo_engine_resume_deferred();
        return true;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->stopped = true;
    }
    if (runstate_check(RUN_STATE_COLO)) {
        runstate_set(r->broken ? RUN_STATE_INTERNAL_ERROR :
                                 RUN_STATE_POSTMIGRATE);
    }
    return false;
}

static void say_hello(ColoSecondaryRun *r)
{
    g_auto(ColoMsg) msg = { 0 };
    Error *err = NULL;

    colo_msg_init(&msg, COLO_MSG_HELLO, 0);
    colo_hello_copy(&msg.hello, &r->machine.local);
    if (!send_msg(r, &msg, &err)) {
        lost(r, err);
    }
}

static void wake_coroutine(void *opaque)
{
    aio_co_wake(opaque);
}

static void *secondary_thread(void *opaque)
{
    ColoSecondaryRun *r = opaque;
    g_autofree char *text = NULL;
    bool survivor, quit, decided;

    rcu_register_thread();
    say_hello(r);
    receive(r);
    wait_decision(r);
    bql_lock();
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        survivor = colo_secondary_survives(&r->machine);
        quit = e->quit;
        decided = survivor || r->machine.state == COLO_S_STOPPED;
        text = g_strdup(r->broken && r->error ? error_get_pretty(r->error) :
                                                "stopped");
    }
    if (r->broken) {
        error_report("COLO: protection has ended, this side can't go on: %s",
                     text);
    }
    if (!quit) {
        incoming_serves = settle(r, survivor);
        send_text(r, COLO_MSG_STOPPED, text);
        colo_engine_exit(decided && !r->broken ? COLO_EXIT_REASON_REQUEST :
                                                 COLO_EXIT_REASON_ERROR);
        r->woken = true;
        aio_bh_schedule_oneshot(qemu_get_aio_context(), wake_coroutine, r->co);
    }
    bql_unlock();
    if (!quit) {
        colo_ram_free();
    }
    rcu_unregister_thread();
    return NULL;
}

void colo_secondary_join(void)
{
    if (current && !current->woken) {
        bql_unlock();
        qemu_thread_join(&current->thread);
        bql_lock();
        current->joined = true;
    }
}

bool colo_keeps_translations(void)
{
    return loading;
}

bool migration_incoming_colo_enabled(void)
{
    return migrate_colo();
}

bool colo_incoming_serves(void)
{
    return incoming_serves;
}

void colo_incoming_end(void)
{
    colo_engine_end();
}

void colo_add_catch_up_notifier(Notifier *notifier)
{
    notifier_list_add(&catch_up_notifiers, notifier);
}

static bool run_begin(ColoSecondaryRun *r, MigrationIncomingState *mis,
                      Error **errp)
{
    g_auto(ColoHello) hello = { 0 };

    if (!colo_engine_hello(&hello, errp)) {
        return false;
    }
    incoming_serves = false;
    colo_engine_begin(COLO_MODE_SECONDARY);
    migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE,
                      MIGRATION_STATUS_COLO);
    colo_secondary_init(&r->machine, &hello);
    colo_link_init(&r->link, qemu_file_get_ioc(mis->from_src_file),
                   COLO_SIDE_SECONDARY);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->link = &r->link;
    }
    r->begun_ticks = cpu_get_host_ticks();
    r->begun_ns = get_clock();
    r->co = qemu_coroutine_self();
    r->idle_timer = timer_new_ms(QEMU_CLOCK_REALTIME, stop_idling, r);
    current = r;
    return true;
}

/* Returns why COLO could not even start, or NULL. */
static Error *run_end(ColoSecondaryRun *r)
{
    Error *err = NULL;

    current = NULL;
    timer_free(r->idle_timer);
    forget_checkpoint(r);
    colo_link_shutdown(&r->link);
    colo_engine_end();
    colo_link_destroy(&r->link);
    if (r->machine.state == COLO_S_STOPPED &&
        r->machine.committed == r->machine.base && r->error) {
        err = g_steal_pointer(&r->error);
    }
    error_free(r->error);
    colo_secondary_destroy(&r->machine);
    return err;
}

bool coroutine_fn colo_incoming_co(Error **errp)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    /* not on a coroutine's stack, which nothing unwinds if QEMU exits */
    g_autofree ColoSecondaryRun *r = g_new0(ColoSecondaryRun, 1);
    Error *err;

    r->run_svm = true;
    if (!run_begin(r, mis, errp)) {
        return false;
    }
    qemu_thread_create(&r->thread, MIGRATION_THREAD_DST_COLO,
                       secondary_thread, r, QEMU_THREAD_JOINABLE);
    qemu_coroutine_yield();
    if (!r->joined) {
        qemu_thread_join(&r->thread);
    }
    err = run_end(r);
    if (err) {
        error_propagate(errp, err);
        migrate_set_state(&mis->state, MIGRATION_STATUS_COLO,
                          MIGRATION_STATUS_ACTIVE);
        return false;
    }
    migrate_set_state(&mis->state, MIGRATION_STATUS_COLO,
                      MIGRATION_STATUS_COMPLETED);
    return true;
}
