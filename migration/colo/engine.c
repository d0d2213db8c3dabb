/*
 * COLO: what the sides of the engine share, and management's commands
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-events-migration.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/uuid.h"
#include "hw/boards.h"
#include "system/block-backend.h"
#include "system/runstate.h"
#include "block/block_int.h"
#include "../migration.h"
#include "../options.h"
#include "capture.h"
#include "crc.h"
#include "engine.h"
#include "ram.h"
#include "trace.h"

/* Bytes; with less room for copies nothing is to be gained by them. */
#define MIN_COPY_LIMIT (1u << 20)

ColoEngine colo_engine;

static QEMUTimer *takeover_timer;
static VMChangeStateEntry *standing_watch;

static void __attribute__((constructor)) colo_engine_init(void)
{
    qemu_mutex_init(&colo_engine.lock);
    qemu_cond_init(&colo_engine.cond);
}

/* The last to be told that the VM stops, and the first that it starts. */
static void standing_changed(void *opaque, bool running, RunState state)
{
    ColoEngine *e = &colo_engine;

    QEMU_LOCK_GUARD(&e->lock);
    e->standing = !running;
    e->changes++;
    qemu_cond_broadcast(&e->cond);
}

void colo_engine_begin(COLOMode mode)
{
    ColoEngine *e = &colo_engine;

    if (!standing_watch) {
        standing_watch = qemu_add_vm_change_state_handler_prio(standing_changed,
                                                               NULL, INT_MIN);
    }
    trace_colo_mode(COLOMode_str(mode));
    QEMU_LOCK_GUARD(&e->lock);
    e->mode = mode;
    e->last_mode = mode;
    e->exit_reason = COLO_EXIT_REASON_NONE;
    e->exit_sent = false;
    e->has_stats = mode == COLO_MODE_PRIMARY;
    memset(&e->stats, 0, sizeof(e->stats));
    e->requested = false;
    e->failover = false;
    e->cancel = false;
    e->in_checkpoint = false;
    e->want_run = true;
    e->standing = !runstate_is_running();
    e->stopped = false;
    e->shutdown = SHUTDOWN_CAUSE_NONE;
    e->reset = SHUTDOWN_CAUSE_NONE;
    e->let_go = false;
}

void colo_engine_end(void)
{
    ColoEngine *e = &colo_engine;

    if (takeover_timer) {
        timer_free(takeover_timer);
        takeover_timer = NULL;
    }
    g_clear_pointer(&standing_watch, qemu_del_vm_change_state_handler);
    trace_colo_mode(COLOMode_str(COLO_MODE_NONE));
    colo_engine_let_go();
    QEMU_LOCK_GUARD(&e->lock);
    e->mode = COLO_MODE_NONE;
    e->requested = false;
    e->link = NULL;
}

void colo_engine_exit(COLOExitReason reason)
{
    ColoEngine *e = &colo_engine;
    COLOMode mode;

    colo_engine_tell_stopped();
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->exit_reason = reason;
        if (e->exit_sent) {
            return;
        }
        e->exit_sent = true;
        mode = e->mode;
    }
    qapi_event_send_colo_exit(mode, reason);
}

static void read_host_id(uint8_t *id)
{
    g_autofree char *text = NULL;
    QemuUUID uuid;

    if (g_file_get_contents("/proc/sys/kernel/random/boot_id", &text, NULL,
                            NULL) &&
        !qemu_uuid_parse(g_strstrip(text), &uuid)) {
        memcpy(id, uuid.data, COLO_HOST_ID_SIZE);
    }
}

bool colo_engine_hello(ColoHello *hello, Error **errp)
{
    memset(hello, 0, sizeof(*hello));
    hello->version_min = COLO_VERSION_MIN;
    hello->version_max = COLO_VERSION_MAX;
    hello->features = COLO_FEATURE_IDLE_SVM;
    if (colo_crc_is_fast()) {
        hello->features |= COLO_FEATURE_PAGE_CRC;
    }
    if (migrate_multifd()) {
        hello->features |= COLO_FEATURE_MULTIFD;
    }
    read_host_id(hello->host_id);
    hello->qemu_version = g_strdup(QEMU_VERSION);
    hello->machine = g_strdup(MACHINE_GET_CLASS(current_machine)->name);
    hello->ram = colo_capture_ramlist(errp);
    if (!hello->ram) {
        colo_hello_clear(hello);
        return false;
    }
    return true;
}

static void takeover_timeout(void *opaque)
{
    ColoLink *link;

    WITH_QEMU_LOCK_GUARD(&colo_engine.lock) {
        link = colo_engine.link;
    }
    if (link) {
        trace_colo_takeover_timeout(COLO_TAKEOVER_MS);
        colo_link_shutdown(link);
    }
}

void colo_engine_watch_takeover(void)
{
    if (!takeover_timer) {
        takeover_timer = timer_new_ms(QEMU_CLOCK_REALTIME, takeover_timeout,
                                      NULL);
    }
    timer_mod(takeover_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
              COLO_TAKEOVER_MS);
}

/* Engine's lock, BQL */
static bool is_unsettled(ColoEngine *e)
{
    return e->held_off ||
           (!e->standing && !runstate_is_live(runstate_get()));
}

void colo_engine_settle(void)
{
    ColoEngine *e = &colo_engine;

    qemu_mutex_lock(&e->lock);
    while (!e->quit && is_unsettled(e)) {
        unsigned changes = e->changes;

        e->settling = true;
        bql_unlock();
        while (e->changes == changes && !e->quit) {
            qemu_cond_wait(&e->cond, &e->lock);
        }
        qemu_mutex_unlock(&e->lock);
        bql_lock();
        qemu_mutex_lock(&e->lock);
    }
    e->settling = false;
    qemu_mutex_unlock(&e->lock);
}

bool colo_hold_off(void)
{
    ColoEngine *e = &colo_engine;

    QEMU_LOCK_GUARD(&e->lock);
    e->held_off = !e->in_checkpoint && !e->stopped;
    return e->held_off;
}

void colo_hold_off_end(void)
{
    ColoEngine *e = &colo_engine;

    QEMU_LOCK_GUARD(&e->lock);
    e->held_off = false;
    if (e->settling) {
        e->changes++;
        qemu_cond_broadcast(&e->cond);
    }
}

void colo_engine_let_go(void)
{
    WITH_QEMU_LOCK_GUARD(&colo_engine.lock) {
        colo_engine.in_checkpoint = false;
    }
    colo_engine_tell_stopped();
    /* for what was requested meanwhile */
    qemu_notify_event();
}

static void start_vm(bool vcpus)
{
    ColoEngine *e = &colo_engine;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (e->quit) {
            return;
        }
    }
    if (runstate_check(RUN_STATE_INTERNAL_ERROR)) {
        /* an SVM whose state a commit has replaced; no way leads from there */
        runstate_set(RUN_STATE_PAUSED);
    }
    if (!runstate_check(RUN_STATE_SHUTDOWN)) {
        if (vcpus) {
            vm_start();
        } else {
            vm_prepare_start(false);
        }
    }
}

void colo_engine_vm_start(void)
{
    start_vm(true);
}

void colo_engine_vm_start_idle(void)
{
    start_vm(false);
}

void colo_engine_vm_restart(void)
{
    ColoEngine *e = &colo_engine;
    bool want_run;
    RunState state;
    /* to start the VM forgets that */
    bool stop = qemu_vmstop_requested(&state);

    colo_engine_vm_start();
    if (stop) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(state);
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        want_run = e->want_run;
    }
    if (!want_run) {
        vm_stop(RUN_STATE_PAUSED);
    }
}

void colo_engine_resume_deferred(void)
{
    ColoEngine *e = &colo_engine;
    ShutdownCause shutdown, reset;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        shutdown = e->shutdown;
        reset = e->reset;
        e->shutdown = SHUTDOWN_CAUSE_NONE;
        e->reset = SHUTDOWN_CAUSE_NONE;
        e->let_go = true;
    }
    if (shutdown) {
        if (runstate_check(RUN_STATE_COLO)) {
            runstate_set(RUN_STATE_SHUTDOWN);
        }
        qemu_system_shutdown_request(shutdown);
    } else if (reset) {
        qemu_system_reset_request(reset);
    }
}

/* The reasons' numbers on the wire are those of the management interface. */
QEMU_BUILD_BUG_ON((int)COLO_WIRE_REASON_START !=
                  (int)COLO_CHECKPOINT_REASON_START);
QEMU_BUILD_BUG_ON((int)COLO_WIRE_REASON_MEMORY !=
                  (int)COLO_CHECKPOINT_REASON_MEMORY);
QEMU_BUILD_BUG_ON((int)COLO_WIRE_REASON__MAX !=
                  (int)COLO_CHECKPOINT_REASON__MAX);

void colo_checkpoint_request(ColoCheckpointReason reason)
{
    ColoEngine *e = &colo_engine;
    COLOMode mode;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (e->mode == COLO_MODE_NONE || e->requested) {
            return;
        }
        trace_colo_request(ColoCheckpointReason_str(reason));
        mode = e->mode;
        e->requested = true;
        e->reason = reason;
        qemu_cond_broadcast(&e->cond);
    }
    if (mode == COLO_MODE_SECONDARY && !colo_secondary_ask(reason)) {
        QEMU_LOCK_GUARD(&e->lock);
        e->requested = false;
    }
}

void colo_checkpoint_delay_set(void)
{
    QEMU_LOCK_GUARD(&colo_engine.lock);
    qemu_cond_broadcast(&colo_engine.cond);
}

COLOMode get_colo_mode(void)
{
    QEMU_LOCK_GUARD(&colo_engine.lock);
    return colo_engine.mode;
}

bool migration_in_colo_state(void)
{
    return get_colo_mode() == COLO_MODE_PRIMARY;
}

bool migration_incoming_in_colo_state(void)
{
    return get_colo_mode() == COLO_MODE_SECONDARY;
}

bool colo_check_capabilities(const bool *caps, Error **errp)
{
    static const struct {
        MigrationCapability cap;
        const char *why;
    } refused[] = {
        { MIGRATION_CAPABILITY_RETURN_PATH,
          "COLO has a way back of its own" },
        { MIGRATION_CAPABILITY_SWITCHOVER_ACK,
          "it needs return-path, which COLO does not work with" },
        { MIGRATION_CAPABILITY_POSTCOPY_RAM,
          "the secondary must hold all memory before it may run" },
        { MIGRATION_CAPABILITY_POSTCOPY_PREEMPT,
          "the secondary must hold all memory before it may run" },
        { MIGRATION_CAPABILITY_POSTCOPY_BLOCKTIME,
          "the secondary must hold all memory before it may run" },
        { MIGRATION_CAPABILITY_RELEASE_RAM,
          "the primary keeps its memory" },
        { MIGRATION_CAPABILITY_X_IGNORE_SHARED,
          "the two guests must not share memory" },
        { MIGRATION_CAPABILITY_XBZRLE,
          "checkpoints have an encoding of their own" },
        { MIGRATION_CAPABILITY_ZERO_COPY_SEND,
          "pages may be read after the guest has changed them" },
        { MIGRATION_CAPABILITY_DIRTY_LIMIT,
          "it throttles the guest until a migration ends, and COLO does not"
        },
        { MIGRATION_CAPABILITY_AUTO_CONVERGE,
          "it throttles the guest until a migration ends, and COLO does not"
        },
        { MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
          "it writes a snapshot, not a second VM" },
        { MIGRATION_CAPABILITY_MAPPED_RAM,
          "it writes a file, not a second VM" },
        { MIGRATION_CAPABILITY_DIRTY_BITMAPS,
          "they are not part of checkpoints" },
        { MIGRATION_CAPABILITY_RDMA_PIN_ALL,
          "COLO needs a stream in both directions" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        if (caps[refused[i].cap]) {
            error_setg(errp, "capability x-colo can't be combined with "
                       "capability %s: %s; turn one of them off",
                       MigrationCapability_str(refused[i].cap),
                       refused[i].why);
            return false;
        }
    }
    return true;
}

/* Does a node of replication forward what is written to @bs? */
static bool GRAPH_RDLOCK is_replicated(BlockDriverState *bs)
{
    BdrvChild *child;

    if (!strcmp(bs->drv ? bs->drv->format_name : "", "replication")) {
        return true;
    }
    QLIST_FOREACH(child, &bs->children, next) {
        if (is_replicated(child->bs)) {
            return true;
        }
    }
    return false;
}

static bool check_disks(Error **errp)
{
    BlockBackend *blk = NULL;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    while ((blk = blk_all_next(blk))) {
        BlockDriverState *bs = blk_bs(blk);

        if (bs && blk_get_attached_dev(blk) && blk_is_writable(blk) &&
            !is_replicated(bs)) {
            g_autofree char *dev = blk_get_attached_dev_id(blk);

            error_setg(errp, "disk '%s' (node '%s') is writable and not "
                       "replicated; add a replication node to it, make it "
                       "read-only, or remove it", dev,
                       bdrv_get_node_name(bs));
            return false;
        }
    }
    return true;
}

bool colo_check_idle(const char *what, Error **errp)
{
    if (get_colo_mode() != COLO_MODE_NONE) {
        error_setg(errp, "this VM is protected by COLO, which forbids %s; end "
                   "that first, by migrate_cancel on the primary or "
                   "x-colo-lost-heartbeat", what);
        return false;
    }
    return true;
}

static bool check_copy_limit(Error **errp)
{
    uint64_t limit = migrate_get_current()->colo_copy_limit;

    if (limit < MIN_COPY_LIMIT) {
        error_setg(errp, "x-colo-copy-limit is %" PRIu64 " bytes, and must be "
                   "%u at least; set it with -global "
                   "migration.x-colo-copy-limit=48M", limit, MIN_COPY_LIMIT);
        return false;
    }
    return true;
}

bool colo_check_start(Error **errp)
{
    return colo_check_capabilities(migrate_get_current()->capabilities, errp) &&
           check_copy_limit(errp) && check_disks(errp);
}

bool colo_cancel(void)
{
    ColoEngine *e = &colo_engine;

    QEMU_LOCK_GUARD(&e->lock);
    if (e->mode == COLO_MODE_SECONDARY) {
        /* it is the primary's migration */
        return true;
    }
    if (e->mode != COLO_MODE_PRIMARY || e->quit) {
        return false;
    }
    e->cancel = true;
    qemu_cond_broadcast(&e->cond);
    colo_engine_watch_takeover();
    return true;
}

void colo_shutdown(void)
{
    ColoEngine *e = &colo_engine;
    ColoLink *link;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->quit = true;
        link = e->link;
        qemu_cond_broadcast(&e->cond);
    }
    if (link) {
        colo_link_shutdown(link);
    }
    colo_secondary_join();
}

/* The guest is to do no more before a checkpoint, if there will be one. BQL. */
static void stop_for_checkpoint(void)
{
    bool lost;

    vm_stop(RUN_STATE_COLO);
    WITH_QEMU_LOCK_GUARD(&colo_engine.lock) {
        lost = colo_engine.exit_sent;
    }
    if (lost) {
        colo_engine_tell_stopped();
    }
}

bool colo_defer_shutdown(ShutdownCause cause)
{
    ColoEngine *e = &colo_engine;
    COLOMode mode;

    if (!shutdown_caused_by_guest(cause)) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (e->mode == COLO_MODE_NONE || e->let_go) {
            return false;
        }
        e->shutdown = cause;
        mode = e->mode;
    }
    stop_for_checkpoint();
    colo_checkpoint_request(mode == COLO_MODE_PRIMARY ?
                            COLO_CHECKPOINT_REASON_GUEST :
                            COLO_CHECKPOINT_REASON_SECONDARY);
    return true;
}

bool colo_defer_reset(ShutdownCause cause)
{
    ColoEngine *e = &colo_engine;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        if (e->mode == COLO_MODE_NONE || e->let_go) {
            return false;
        }
        if (e->mode == COLO_MODE_SECONDARY) {
            e->reset = cause;
        }
    }
    if (migration_in_colo_state()) {
        if (runstate_check(RUN_STATE_SUSPENDED)) {
            /* a reset would end that without a word to its devices */
            vm_stop(RUN_STATE_PAUSED);
        }
        return false;
    }
    stop_for_checkpoint();
    colo_checkpoint_request(COLO_CHECKPOINT_REASON_SECONDARY);
    return true;
}

void colo_reset_done(void)
{
    WITH_QEMU_LOCK_GUARD(&colo_engine.lock) {
        /* what the guest does from here on it has not asked for before */
        colo_engine.let_go = false;
    }
    if (migration_in_colo_state()) {
        /* what the reset guest does is held until this is committed */
        colo_checkpoint_request(COLO_CHECKPOINT_REASON_GUEST);
    }
}

bool colo_defer_run(bool run, Error **errp)
{
    ColoEngine *e = &colo_engine;

    QEMU_LOCK_GUARD(&e->lock);
    if (e->stopped && run) {
        error_setg(errp, "the other side of this VM has taken over; quit "
                   "this QEMU and start a new secondary");
        return true;
    }
    if (e->mode == COLO_MODE_NONE) {
        return false;
    }
    if (e->shutdown && run) {
        error_setg(errp, "the guest is powering off");
        return true;
    }
    if (!e->in_checkpoint) {
        /* the other guest has to follow */
        if (e->mode == COLO_MODE_PRIMARY && !e->requested) {
            e->requested = true;
            e->reason = COLO_CHECKPOINT_REASON_REQUEST;
            qemu_cond_broadcast(&e->cond);
        }
        return false;
    }
    e->want_run = run;
    return true;
}

void qmp_x_colo_lost_heartbeat(Error **errp)
{
    ColoEngine *e = &colo_engine;
    COLOMode mode;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        mode = e->mode;
        if (mode == COLO_MODE_NONE) {
            error_setg(errp, "COLO is not running%s", e->stopped ?
                       ": the other side has taken over" : "");
            return;
        }
        if (e->failover) {
            error_setg(errp, "a failover is under way already; COLO_EXIT "
                       "and query-colo-status tell its end");
            return;
        }
        if (mode == COLO_MODE_PRIMARY) {
            e->failover = true;
            qemu_cond_broadcast(&e->cond);
        }
    }
    if (mode == COLO_MODE_SECONDARY && !colo_secondary_decide(errp)) {
        return;
    }
    colo_engine_watch_takeover();
}

void qmp_x_colo_checkpoint(Error **errp)
{
    if (get_colo_mode() != COLO_MODE_PRIMARY) {
        error_setg(errp, "COLO is not running, or this is not the primary");
        return;
    }
    colo_checkpoint_request(COLO_CHECKPOINT_REASON_REQUEST);
}

COLOStatus *qmp_query_colo_status(Error **errp)
{
    ColoEngine *e = &colo_engine;
    COLOStatus *status = g_new0(COLOStatus, 1);

    status->memory = colo_ram_query();
    status->has_memory = status->memory;
    QEMU_LOCK_GUARD(&e->lock);
    status->mode = e->mode;
    status->last_mode = e->last_mode;
    status->reason = e->mode != COLO_MODE_NONE && e->failover ?
                     COLO_EXIT_REASON_PROCESSING : e->exit_reason;
    if (e->has_stats) {
        status->stats = colo_stats_query(&e->stats);
    }
    return status;
}
