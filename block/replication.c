/*
 * Block driver "replication": one replicated disk
 *
 * mode=primary: a child of the guest's quorum node, next to the local disk. It
 * forwards the guest's writes to its own child, the NBD client of the disk on
 * the secondary. A write that cannot be forwarded ends protection, it does not
 * fail the guest's request. From the capture of a checkpoint to its commit, the
 * guest's writes belong to an epoch the secondary does not run yet: they are
 * copied, answered, and forwarded after the commit.
 *
 * mode=secondary: the SVM's disk. Its child is the active disk, which takes
 * the SVM's writes; below that the hidden disk, which takes what the primary's
 * writes overwrite in the secondary disk below it. A gate (see
 * replication-gate.h) stands between the primary's writes and the secondary
 * disk. At a checkpoint active and hidden disk are emptied; at failover they
 * are merged into the secondary disk.
 *
 * What is allowed when is decided in replication-state.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-yank.h"
#include "qapi/qapi-visit-block-core.h"
#include "block/block-io.h"
#include "block/aio_task.h"
#include "block/block_int.h"
#include "block/blockjob_int.h"
#include "block/qdict.h"
#include "block/replication.h"
#include "block/replication-gate.h"
#include "block/replication-int.h"
#include "block/replication-queue.h"
#include "block/replication-state.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/runstate.h"

#define REPL_OPT_MODE "mode"
#define REPL_OPT_TOP_ID "top-id"

/* Held writes that are forwarded side by side */
#define REPLAY_BATCH 16

typedef struct ReplNode {
    ReplicatedDisk *entry;  /* in the registry */

    QemuMutex lock;         /* protects state, forwards, held, drained */
    ReplState state;

    /* Primary mode */
    ReplQueue held;         /* writes to be forwarded later */
    CoQueue room;           /* who waits for room in it; under lock */
    bool drained;           /* no write comes: let those that wait be held */
    unsigned forwards;      /* forwarded requests without an answer */
    QEMUTimer *limit;       /* runs in the main AioContext while forwards > 0 */
    strList *peers;         /* node names of the NBD clients below; BQL */

    /* Secondary mode: the active disk was written to; set atomically */
    bool written;

    /* Secondary mode, all BQL; the nodes are valid while running */
    char *top_id;
    BlockDriverState *top;
    BlockDriverState *active;
    BlockDriverState *hidden;
    BlockDriverState *disk;
    BlockDriverState *gate; /* a reference of ours */
    bool hidden_was_ro;
    BlockJob *hold;         /* keeps top; may be cancelled when QEMU exits */
    Error *blocker;         /* of operations on top, as long as hold */
    BlockJob *merge;        /* while stage is FAILOVER */
    bool merge_held;        /* we paused the job, merge_bh lets it go */
    QEMUBH *merge_bh;       /* runs in the main loop itself, never nested */
    Notifier merge_idle;    /* in the job's list; called under the job lock */
} ReplNode;

/* Written by tests only, before a disk is started */
static int64_t forward_limit_ms = 10 * 1000;

/* Bytes of a disk's held writes from which on the guest's writes wait; ditto */
static size_t held_limit = 32 * MiB;

void replication_set_forward_limit(int64_t ms)
{
    forward_limit_ms = ms;
}

void replication_set_held_limit(size_t bytes)
{
    held_limit = bytes;
}

/* Options and life of the node */

static QemuOptsList repl_runtime_opts = {
    .name = "replication",
    .head = QTAILQ_HEAD_INITIALIZER(repl_runtime_opts.head),
    .desc = {
        {
            .name = REPL_OPT_MODE,
            .type = QEMU_OPT_STRING,
            .help = "The side of the pair: primary or secondary",
        },
        {
            .name = REPL_OPT_TOP_ID,
            .type = QEMU_OPT_STRING,
            .help = "Secondary only: node name or device ID of the root node "
                    "of the guest's disk",
        },
        { /* end of list */ }
    },
};

static bool repl_parse_options(ReplNode *s, QDict *options,
                                      Error **errp)
{
    g_autoptr(QemuOpts) opts = NULL;
    const char *mode, *top_id;
    int value;

    opts = qemu_opts_create(&repl_runtime_opts, NULL, 0, &error_abort);
    if (!qemu_opts_absorb_qdict(opts, options, errp)) {
        return false;
    }

    mode = qemu_opt_get(opts, REPL_OPT_MODE);
    if (!mode) {
        error_setg(errp, "Option 'mode' is missing: set it to 'primary' or "
                   "'secondary'");
        return false;
    }
    value = qapi_enum_parse(&ReplicationMode_lookup, mode, -1, NULL);
    if (value < 0) {
        error_setg(errp, "Option 'mode' has the value '%s': set it to "
                   "'primary' or 'secondary'", mode);
        return false;
    }
    repl_state_init(&s->state, value);

    top_id = qemu_opt_get(opts, REPL_OPT_TOP_ID);
    if (value == REPLICATION_MODE_PRIMARY && top_id) {
        error_setg(errp, "Option 'top-id' is for mode=secondary: leave it out "
                   "with mode=primary");
        return false;
    }
    if (value == REPLICATION_MODE_SECONDARY && !top_id) {
        error_setg(errp, "Option 'top-id' is missing: with mode=secondary set "
                   "it to the node name or device ID of the root node of the "
                   "guest's disk");
        return false;
    }
    s->top_id = g_strdup(top_id);
    return true;
}

static void note_peers(BlockDriverState *bs);
static void forward_limit_passed(void *opaque);
static void merge_step(void *opaque);
static const ReplicatedDiskOps repl_ops;

static int open_node(BlockDriverState *bs, QDict *options, Error **errp)
{
    int ret = bdrv_open_file_child(NULL, options, "file", bs, errp);

    if (ret < 0) {
        return ret;
    }
    return repl_parse_options(bs->opaque, options, errp) ? 0 : -EINVAL;
}

static int repl_open(BlockDriverState *bs, QDict *options, int flags,
                            Error **errp)
{
    ReplNode *s = bs->opaque;
    int ret;

    /* The node is drained already while its child is opened */
    qemu_mutex_init(&s->lock);
    repl_queue_init(&s->held);
    qemu_co_queue_init(&s->room);
    ret = open_node(bs, options, errp);
    if (ret < 0) {
        qemu_mutex_destroy(&s->lock);
        return ret;
    }

    bs->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags = BDRV_REQ_WRITE_UNCHANGED |
        BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;

    s->limit = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                             SCALE_MS, forward_limit_passed, bs);
    s->merge_bh = aio_bh_new(iohandler_get_aio_context(), merge_step, bs);
    s->entry = replication_add(bs, &repl_ops);
    if (s->state.mode == REPLICATION_MODE_PRIMARY) {
        note_peers(bs);
    }
    return 0;
}

static void repl_give_up(BlockDriverState *bs);

static void repl_close(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    if (s->merge) {
        job_cancel_sync(&s->merge->job, true);
    }
    if (s->state.stage == REPL_STAGE_RUNNING) {
        repl_give_up(bs);
    }
    replication_remove(s->entry);
    repl_queue_clear(&s->held);
    qemu_bh_delete(s->merge_bh);
    timer_free(s->limit);
    qemu_mutex_destroy(&s->lock);
    qapi_free_strList(s->peers);
    g_free(s->top_id);
}

static void GRAPH_RDLOCK
repl_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                       BlockReopenQueue *reopen_queue,
                       uint64_t perm, uint64_t shared,
                       uint64_t *nperm, uint64_t *nshared)
{
    ReplNode *s = bs->opaque;

    bdrv_default_perms(bs, c, role, reopen_queue, perm, shared,
                       nperm, nshared);
    if (s->state.mode == REPLICATION_MODE_SECONDARY &&
        s->state.stage != REPL_STAGE_DONE) {
        /*
         * The primary writes to the secondary disk at the end of the active
         * disk's backing chain, which needs write sharing on all of the chain.
         */
        *nshared |= BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED;
        if (!(bs->open_flags & BDRV_O_INACTIVE)) {
            /* We empty the active disk */
            *nperm |= BLK_PERM_WRITE_UNCHANGED;
        }
    }
}

/* Main thread. */
static void repl_set_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    ReplNode *s = bs->opaque;

    if (s->state.mode == REPLICATION_MODE_PRIMARY) {
        QEMU_LOCK_GUARD(&s->lock);
        repl_state_attached(&s->state, perm & BLK_PERM_WRITE,
                            runstate_check(RUN_STATE_PAUSED));
    }
}

static int64_t coroutine_fn GRAPH_RDLOCK
repl_co_getlength(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

/* Set @errp to what has gone wrong, if anything has. */
static void get_fault(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    repl_state_get_error(&s->state, bdrv_get_node_name(bs), errp);
}

/* The guest's requests */

/* A request is forwarded, and goes to forward_end() later. Lock held. */
static void forward_begin(ReplNode *s)
{
    if (s->forwards++ == 0) {
        timer_mod(s->limit, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                            forward_limit_ms);
    }
}

/* A forwarded request was answered. Returns what the guest is told. */
static int forward_end(ReplNode *s, int64_t offset, int64_t bytes,
                       int ret)
{
    QEMU_LOCK_GUARD(&s->lock);
    if (ret < 0) {
        repl_state_fault(&s->state, REPL_FAULT_FORWARD, -ret, offset, bytes);
    }
    if (--s->forwards == 0) {
        timer_del(s->limit);
    } else {
        timer_mod(s->limit, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                            forward_limit_ms);
    }
    return 0;
}

static ReplIo read_verdict(ReplNode *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return repl_state_read(&s->state);
}

static int coroutine_fn GRAPH_RDLOCK
repl_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    if (read_verdict(bs->opaque) != REPL_IO_PASS) {
        return -EIO;
    }
    return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

/* Decide on a write, which first waits for room if it is to be held. */
static ReplIo coroutine_fn write_begin(ReplNode *s)
{
    ReplIo io;

    QEMU_LOCK_GUARD(&s->lock);
    while ((io = repl_state_write(&s->state)) == REPL_IO_HOLD &&
           s->held.memory >= held_limit && !s->drained) {
        qemu_co_queue_wait(&s->room, &s->lock);
    }
    if (io == REPL_IO_FORWARD) {
        forward_begin(s);
    }
    return io;
}

/* False: what made writes be held is over, so decide again. */
static bool hold_write(ReplNode *s, ReplWriteKind kind, int64_t offset,
                       int64_t bytes, QEMUIOVector *qiov,
                       BdrvRequestFlags flags)
{
    g_autoptr(ReplWrite) w = repl_write_new(kind, offset, bytes, flags, qiov);

    QEMU_LOCK_GUARD(&s->lock);
    if (!repl_state_holds(&s->state)) {
        return false;
    }
    if (w) {
        repl_queue_push(&s->held, g_steal_pointer(&w));
        repl_state_set_queued(&s->state, true);
    } else {
        repl_state_fault(&s->state, REPL_FAULT_FORWARD, ENOMEM, offset, bytes);
    }
    return true;
}

static int coroutine_fn GRAPH_RDLOCK
write_child(BlockDriverState *bs, ReplWriteKind kind, int64_t offset,
            int64_t bytes, QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    switch (kind) {
    case REPL_WRITE_DATA:
        return bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    case REPL_WRITE_ZEROES:
        return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
    case REPL_WRITE_DISCARD:
        return bdrv_co_pdiscard(bs->file, offset, bytes);
    }
    g_assert_not_reached();
}

/* The local disk's result counts, whether ours is fast or not. */
static int coroutine_fn GRAPH_RDLOCK
forward_write(BlockDriverState *bs, ReplWriteKind kind, int64_t offset,
              int64_t bytes, QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int ret = write_child(bs, kind, offset, bytes, qiov,
                          flags & ~BDRV_REQ_NO_FALLBACK);

    return forward_end(bs->opaque, offset, bytes, ret);
}

static int coroutine_fn GRAPH_RDLOCK
guest_write(BlockDriverState *bs, ReplWriteKind kind, int64_t offset,
            int64_t bytes, QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    ReplNode *s = bs->opaque;

    while (true) {
        switch (write_begin(s)) {
        case REPL_IO_FAIL:
            return -EIO;
        case REPL_IO_DROP:
            return 0;
        case REPL_IO_PASS:
            qatomic_set(&s->written, true);
            return write_child(bs, kind, offset, bytes, qiov, flags);
        case REPL_IO_FORWARD:
            return forward_write(bs, kind, offset, bytes, qiov, flags);
        case REPL_IO_HOLD:
            if (hold_write(bs->opaque, kind, offset, bytes, qiov, flags)) {
                return 0;
            }
            break;
        }
    }
}

static int coroutine_fn GRAPH_RDLOCK
repl_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return guest_write(bs, REPL_WRITE_DATA, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
repl_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, BdrvRequestFlags flags)
{
    return guest_write(bs, REPL_WRITE_ZEROES, offset, bytes, NULL, flags);
}

static int coroutine_fn GRAPH_RDLOCK
repl_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return guest_write(bs, REPL_WRITE_DISCARD, offset, bytes, NULL, 0);
}

/*
 * The primary's flush ends at its own disk: the secondary's content is of use
 * while its host is up, and a peer that hangs must not hold up the guest or
 * whoever flushes all disks under the BQL.
 */
static int coroutine_fn GRAPH_RDLOCK repl_co_flush(BlockDriverState *bs)
{
    if (read_verdict(bs->opaque) != REPL_IO_PASS) {
        return 0;
    }
    return bdrv_co_flush(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
repl_co_block_status(BlockDriverState *bs, bool want_zero,
                            int64_t offset, int64_t bytes, int64_t *pnum,
                            int64_t *map, BlockDriverState **file)
{
    ReplNode *s = bs->opaque;

    *pnum = bytes;
    if (s->state.mode == REPLICATION_MODE_PRIMARY) {
        /* Nothing is ever read from the peer, so don't ask it */
        return BDRV_BLOCK_DATA;
    }
    *map = offset;
    *file = bs->file->bs;
    return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
}

static int coroutine_fn GRAPH_RDLOCK
repl_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                        PreallocMode prealloc, BdrvRequestFlags flags,
                        Error **errp)
{
    error_setg(errp, "Cannot resize a replicated disk");
    return -EPERM;
}

bool replication_is_forwarder(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    return bs->drv && bs->drv->bdrv_open == repl_open &&
           s->state.mode == REPLICATION_MODE_PRIMARY;
}

/* Primary */

static void GRAPH_RDLOCK find_peers(ReplNode *s,
                                    BlockDriverState *bs)
{
    BdrvChild *child;

    if (bs->drv && g_str_equal(bs->drv->format_name, "nbd")) {
        QAPI_LIST_PREPEND(s->peers, g_strdup(bs->node_name));
    }
    QLIST_FOREACH(child, &bs->children, next) {
        find_peers(s, child->bs);
    }
}

/*
 * Cut the connections to the peer: whatever waits for it fails at once. Main
 * thread, with or without waiting for I/O.
 */
static void cut_peers(ReplNode *s)
{
    strList *peer;

    for (peer = s->peers; peer; peer = peer->next) {
        YankInstance instance = {
            .type = YANK_INSTANCE_TYPE_BLOCK_NODE,
            .u.block_node.node_name = peer->value,
        };
        YankInstanceList list = { .value = &instance };

        /* The node may be gone */
        qmp_yank(&list, NULL);
    }
}

/*
 * The peer has not answered any forwarded request for forward_limit_ms. It
 * may hang without its connection breaking, and with it the guest's requests
 * and everyone who drains the disk.
 */
static void forward_limit_passed(void *opaque)
{
    BlockDriverState *bs = opaque;
    ReplNode *s = bs->opaque;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (!s->forwards) {
            return;
        }
        repl_state_fault(&s->state, REPL_FAULT_TIMEOUT, ETIMEDOUT, 0, 0);
    }
    cut_peers(s);
}

/* Held writes are forwarded after a commit */

typedef struct ReplayTask {
    AioTask task;
    BlockDriverState *bs;
    ReplWrite *write;
} ReplayTask;

static int coroutine_fn replay_write(AioTask *task)
{
    ReplayTask *t = container_of(task, ReplayTask, task);
    ReplNode *s = t->bs->opaque;
    ReplWrite *w = t->write;
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, w->data, w->bytes);

    GRAPH_RDLOCK_GUARD();
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        forward_begin(s);
    }
    return forward_write(t->bs, w->kind, w->offset, w->bytes,
                         w->data ? &qiov : NULL, w->flags);
}

/* Drop what is held, and let those go on who wait. Lock held. */
static void drop_held(ReplNode *s)
{
    if (s->state.queued) {
        repl_queue_clear(&s->held);
        repl_state_dropped(&s->state);
    }
    qemu_co_enter_all(&s->room, &s->lock);
}

/* The next writes to forward, to @batch; 0: there are none any more. */
static size_t replay_next(ReplNode *s, ReplWrite **batch)
{
    size_t n;

    QEMU_LOCK_GUARD(&s->lock);
    if (!repl_state_holds(&s->state)) {
        drop_held(s);
        return 0;
    }
    n = repl_queue_take(&s->held, batch, REPLAY_BATCH);
    if (n == 0) {
        repl_state_set_queued(&s->state, false);
        qemu_co_enter_all(&s->room, &s->lock);
    }
    return n;
}

static void replay_done(ReplNode *s, ReplWrite **batch, size_t n)
{
    QEMU_LOCK_GUARD(&s->lock);
    repl_queue_done(&s->held, batch, n);
    if (s->held.memory < held_limit) {
        qemu_co_enter_all(&s->room, &s->lock);
    }
}

/*
 * Runs in the disk's AioContext and counts as a request in flight: a drain, as
 * the next capture begins with, waits for its end.
 */
static void coroutine_fn replay_co(void *opaque)
{
    BlockDriverState *bs = opaque;
    AioTaskPool *pool = aio_task_pool_new(REPLAY_BATCH);
    ReplWrite *batch[REPLAY_BATCH];
    size_t n;

    while ((n = replay_next(bs->opaque, batch))) {
        for (size_t i = 0; i < n; i++) {
            ReplayTask *t = g_new(ReplayTask, 1);

            *t = (ReplayTask) {
                .task.func = replay_write,
                .bs = bs,
                .write = batch[i],
            };
            aio_task_pool_start_task(pool, &t->task);
        }
        aio_task_pool_wait_all(pool);
        replay_done(bs->opaque, batch, n);
    }
    aio_task_pool_free(pool);
    bdrv_dec_in_flight(bs);
}

/* A checkpoint was captured. The VM is stopped. */
static void primary_capture(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    /* so that nothing is on its way that is of the epoch that has ended */
    bdrv_drained_begin(bs);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_captured(&s->state);
    }
    bdrv_drained_end(bs);
}

/* It was committed. */
static void primary_checkpoint(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;
    bool replay;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_committed(&s->state);
        replay = s->state.queued;
    }
    if (replay) {
        bdrv_inc_in_flight(bs);
        aio_co_schedule(bdrv_get_aio_context(bs),
                        qemu_coroutine_create(replay_co, bs));
    }
}

static void primary_lost(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    repl_state_fault(&s->state, REPL_FAULT_LOST, 0, 0, 0);
    drop_held(s);
}

static void repl_drain_begin(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    s->drained = true;
    qemu_co_enter_all(&s->room, &s->lock);
}

static void repl_drain_end(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    s->drained = false;
}

/* Whom to cut off if they do not answer. */
static void note_peers(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    qapi_free_strList(s->peers);
    s->peers = NULL;
    bdrv_graph_rdlock_main_loop();
    find_peers(s, bs->file->bs);
    bdrv_graph_rdunlock_main_loop();
}

/*
 * A peer that has been started anew lacks what it had not yet flushed. The
 * first request on a connection that broke fails.
 */
static bool check_peer(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;
    uint8_t byte;
    int ret;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        forward_begin(s);
    }
    ret = bdrv_pread(bs->file, 0, sizeof(byte), &byte, 0);
    forward_end(s, 0, sizeof(byte), ret);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "the secondary disk does not answer");
        return false;
    }
    return true;
}

static void primary_start(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    note_peers(bs);
    if (!check_peer(bs, errp)) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_started(&s->state);
    }
}

static void primary_stop(BlockDriverState *bs, bool failover)
{
    ReplNode *s = bs->opaque;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_stopped(&s->state);
        drop_held(s);
    }
    if (failover) {
        cut_peers(s);
    }
}

/* Secondary */

static void gate_fault(void *opaque, ReplFault fault, int err,
                       int64_t offset, int64_t bytes)
{
    BlockDriverState *bs = opaque;
    ReplNode *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    repl_state_fault(&s->state, fault, err, offset, bytes);
}

/* Empty the active and the hidden disk; see empty_overlays(). Both drained. */
static int GRAPH_RDLOCK do_empty_overlays(BlockDriverState *bs, bool all,
                                          ReplFault *fault)
{
    ReplNode *s = bs->opaque;
    int ret = 0;

    *fault = REPL_FAULT_EMPTY_ACTIVE;
    if (all || qatomic_read(&s->written)) {
        ret = bdrv_make_empty(bs->file, NULL);
        if (ret < 0) {
            return ret;
        }
        qatomic_set(&s->written, false);
    }
    *fault = REPL_FAULT_EMPTY_HIDDEN;
    if (all || repl_gate_has_saved(s->gate)) {
        ret = bdrv_make_empty(repl_gate_hidden(s->gate), NULL);
        if (ret < 0) {
            return ret;
        }
        repl_gate_restart(s->gate);
    }
    return ret;
}

/*
 * Empty the active and the hidden disk and start saving old content anew; not
 * one that nobody has written to, unless @all: that would cost several syncs
 * of its file. The VM is stopped. On an error, which is kept as a fault, the
 * disk is torn.
 */
static bool empty_overlays(BlockDriverState *bs, bool all)
{
    ReplNode *s = bs->opaque;
    ReplFault fault;
    int ret;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_emptying(&s->state);
    }

    bdrv_drained_begin(bs);
    bdrv_drained_begin(s->gate);
    bdrv_graph_rdlock_main_loop();
    ret = do_empty_overlays(bs, all, &fault);
    bdrv_graph_rdunlock_main_loop();
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (ret >= 0) {
            repl_state_emptied(&s->state);
        } else {
            repl_state_fault(&s->state, fault, -ret, 0, 0);
        }
    }
    bdrv_drained_end(s->gate);
    bdrv_drained_end(bs);
    return ret >= 0;
}

static bool GRAPH_RDLOCK is_below(BlockDriverState *top, BlockDriverState *bs)
{
    BdrvChild *child;

    if (top == bs) {
        return true;
    }
    QLIST_FOREACH(child, &top->children, next) {
        if (is_below(child->bs, bs)) {
            return true;
        }
    }
    return false;
}

static bool find_top(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    s->top = bdrv_lookup_bs(s->top_id, s->top_id, NULL);
    if (!s->top) {
        error_setg(errp, "Option 'top-id': there is no node or device '%s'",
                   s->top_id);
        return false;
    }
    if (!is_below(s->top, bs)) {
        error_setg(errp, "Option 'top-id': '%s' is not the root node of the "
                   "disk, it does not lead to replication node '%s'",
                   s->top_id, bdrv_get_node_name(bs));
        return false;
    }
    return true;
}

/* Find the three disks. */
static bool find_disks(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    s->active = bs->file->bs;
    s->hidden = bdrv_cow_bs(s->active);
    if (!s->hidden) {
        error_setg(errp, "Active disk '%s' has no backing file: it needs the "
                   "hidden disk as its backing file",
                   bdrv_get_node_name(s->active));
        return false;
    }
    s->disk = bdrv_cow_bs(s->hidden);
    if (!s->disk) {
        error_setg(errp, "Hidden disk '%s' has no backing file: it needs the "
                   "secondary disk as its backing file",
                   bdrv_get_node_name(s->hidden));
        return false;
    }
    return true;
}

static bool check_overlay(BlockDriverState *bs, const char *what, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (!bs->drv || !bs->drv->bdrv_make_empty) {
        error_setg(errp, "The %s disk '%s' has a format that cannot be "
                   "emptied: use qcow2", what, bdrv_get_node_name(bs));
        return false;
    }
    return true;
}

static bool check_active(BlockDriverState *bs, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (bdrv_is_inactive(bs)) {
        error_setg(errp, "Node '%s' is inactive", bdrv_get_node_name(bs));
        return false;
    }
    return true;
}

/* What reading writes to the active disk would outlive a checkpoint. */
static bool check_no_copy_on_read(BlockDriverState *bs, Error **errp)
{
    if (qatomic_read(&bs->copy_on_read)) {
        error_setg(errp, "The active disk '%s' has copy-on-read=on: turn it "
                   "off", bdrv_get_node_name(bs));
        return false;
    }
    return true;
}

static bool check_writable(BlockDriverState *bs, const char *what,
                           Error **errp)
{
    if (bdrv_is_read_only(bs)) {
        error_setg(errp, "The %s disk '%s' is read-only: open it for writing",
                   what, bdrv_get_node_name(bs));
        return false;
    }
    return true;
}

static bool check_sizes(ReplNode *s, Error **errp)
{
    int64_t active = bdrv_getlength(s->active);
    int64_t hidden = bdrv_getlength(s->hidden);
    int64_t disk = bdrv_getlength(s->disk);
    int64_t err = MIN(active, MIN(hidden, disk));

    if (err < 0) {
        error_setg_errno(errp, -err, "Cannot get the size of active, hidden "
                         "or secondary disk");
        return false;
    }
    if (active != hidden || hidden != disk) {
        error_setg(errp, "Active disk '%s' (%" PRId64 " bytes), hidden disk "
                   "'%s' (%" PRId64 ") and secondary disk '%s' (%" PRId64 ") "
                   "must have the same size", bdrv_get_node_name(s->active),
                   active, bdrv_get_node_name(s->hidden), hidden,
                   bdrv_get_node_name(s->disk), disk);
        return false;
    }
    return true;
}

static bool check_disks(ReplNode *s, Error **errp)
{
    return check_overlay(s->active, "active", errp) &&
           check_overlay(s->hidden, "hidden", errp) &&
           check_active(s->active, errp) &&
           check_active(s->hidden, errp) &&
           check_active(s->disk, errp) &&
           check_no_copy_on_read(s->active, errp) &&
           check_writable(s->active, "active", errp) &&
           check_writable(s->disk, "secondary", errp) &&
           check_sizes(s, errp);
}

static bool freeze_chain(ReplNode *s, Error **errp)
{
    int ret;

    bdrv_graph_rdlock_main_loop();
    ret = bdrv_freeze_backing_chain(s->active, s->disk, errp);
    bdrv_graph_rdunlock_main_loop();
    return ret >= 0;
}

static void unfreeze_chain(ReplNode *s)
{
    bdrv_graph_rdlock_main_loop();
    bdrv_unfreeze_backing_chain(s->active, s->disk);
    bdrv_graph_rdunlock_main_loop();
}

/*
 * While replication runs, an internal job keeps the root node of the disk:
 * nothing else has a reference that both goes away when QEMU exits and keeps
 * the node, with operations blocked on it, from being deleted under us.
 */
static int coroutine_fn hold_run(Job *job, Error **errp)
{
    while (!job_is_cancelled(job)) {
        job_yield(job);
    }
    return 0;
}

static const BlockJobDriver hold_driver = {
    .job_driver = {
        .instance_size  = sizeof(BlockJob),
        .job_type       = JOB_TYPE_BACKUP,
        .free           = block_job_free,
        .user_resume    = block_job_user_resume,
        .run            = hold_run,
    },
};

/* We cancelled the job, or QEMU, which exits, all jobs. Main thread. */
static void hold_done(void *opaque, int ret)
{
    BlockDriverState *bs = opaque;
    ReplNode *s = bs->opaque;

    s->hold = NULL;
    bdrv_op_unblock_all(s->top, s->blocker);
    error_free(s->blocker);
    s->blocker = NULL;
    s->top = NULL;
}

static bool hold_top(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    s->hold = block_job_create(NULL, &hold_driver, NULL, s->top, 0,
                               BLK_PERM_ALL, 0, JOB_INTERNAL, hold_done, bs,
                               errp);
    if (!s->hold) {
        return false;
    }
    job_start(&s->hold->job);
    error_setg(&s->blocker, "The disk is replicated");
    bdrv_op_block_all(s->top, s->blocker);
    return true;
}

static void release_top(ReplNode *s)
{
    if (s->hold) {
        job_cancel_sync(&s->hold->job, true);
    }
}

/* A backing file is opened read-only unless it was asked for otherwise. */
static bool open_hidden_for_writing(ReplNode *s, Error **errp)
{
    s->hidden_was_ro = bdrv_is_read_only(s->hidden);
    return !s->hidden_was_ro ||
           bdrv_reopen_set_read_only(s->hidden, false, errp) >= 0;
}

static void restore_hidden(ReplNode *s)
{
    if (s->hidden_was_ro) {
        /* Writable does no harm if this should fail */
        bdrv_reopen_set_read_only(s->hidden, true, NULL);
    }
}

static void secondary_dismantle(ReplNode *s)
{
    release_top(s);
    unfreeze_chain(s);
    repl_gate_remove(s->gate);
    s->gate = NULL;
    restore_hidden(s);
}

/* Put the parts in place; on failure nothing stays changed. */
static bool secondary_assemble(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    if (!open_hidden_for_writing(s, errp)) {
        return false;
    }
    s->gate = repl_gate_insert(s->disk, s->hidden, gate_fault, bs, errp);
    if (!s->gate) {
        restore_hidden(s);
        return false;
    }
    if (!freeze_chain(s, errp)) {
        repl_gate_remove(s->gate);
        s->gate = NULL;
        restore_hidden(s);
        return false;
    }
    if (!hold_top(bs, errp)) {
        secondary_dismantle(s);
        return false;
    }
    return true;
}

static void secondary_start(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    if (!find_disks(bs, errp) || !check_disks(s, errp) ||
        !find_top(bs, errp) || !secondary_assemble(bs, errp)) {
        return;
    }

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_started(&s->state);
    }
    if (!empty_overlays(bs, true)) {
        get_fault(bs, errp);
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            repl_state_stopped(&s->state);
        }
        secondary_dismantle(s);
    }
}

static void secondary_checkpoint(BlockDriverState *bs, Error **errp)
{
    if (!empty_overlays(bs, false)) {
        get_fault(bs, errp);
    }
}

/* Drop what the SVM wrote; the disk stays as the primary wrote it. */
static void secondary_stop(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    if (!empty_overlays(bs, true)) {
        get_fault(bs, errp);
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_stopped(&s->state);
    }
    secondary_dismantle(s);
}

static void refresh_file_perms(BlockDriverState *bs)
{
    bdrv_graph_wrlock();
    /* Sharing less may be refused; sharing more than needed is harmless */
    bdrv_child_refresh_perms(bs, bs->file, NULL);
    bdrv_graph_wrunlock();
}

/* The merge job has ended. Main thread. */
static void merge_done(void *opaque, int ret)
{
    BlockDriverState *bs = opaque;
    ReplNode *s = bs->opaque;

    s->merge = NULL;
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_merged(&s->state, ret);
    }
    if (ret >= 0) {
        refresh_file_perms(bs);
    } else {
        Error *err = NULL;

        get_fault(bs, &err);
        error_report_err(err);
    }
}

/*
 * The merge job, and when its disk may move between AioContexts
 *
 * A commit job drains its source before it ends, and from then until its end
 * is dealt with in the main loop it neither pauses nor lets others wait for
 * it. Whoever moves the disk to another AioContext in between, as a device
 * with an iothread does when the VM starts, finds a job that is not quiescent,
 * which the block layer does not allow. So
 * - the job stays paused until whoever ends replication has let go of the BQL:
 *   at failover that is after the VM was started;
 * - the job does not end by itself when all is merged: we complete it and wait
 *   for that, under the BQL, where nobody can move the disk.
 * Both are done by merge_bh. It belongs to the iohandler context, which is
 * polled by the main loop only and so never in the middle of something that
 * waits for the disk.
 */

/* Any thread, job lock held. The job waits, be it for I/O or for us. */
static void merge_idle(Notifier *n, void *data)
{
    ReplNode *s = container_of(n, ReplNode, merge_idle);
    Job *job = data;

    /* Not STANDBY: paused, it is idle again after it was resumed */
    if (job->status == JOB_STATUS_READY) {
        qemu_bh_schedule(s->merge_bh);
    }
}

/*
 * All was merged but what the guest has written just now: keep it from writing
 * more, so that the wait is as short as that of a VM that is stopped.
 */
static void complete_merge(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    bdrv_drained_begin(bs);
    WITH_JOB_LOCK_GUARD() {
        if (s->merge && s->merge->job.status == JOB_STATUS_READY) {
            /* An error means that it was cancelled: it ends anyway */
            job_complete_sync_locked(&s->merge->job, NULL);
        }
    }
    bdrv_drained_end(bs);
}

/* The main loop, BQL */
static void merge_step(void *opaque)
{
    BlockDriverState *bs = opaque;
    ReplNode *s = bs->opaque;

    if (!s->merge) {
        return;
    }
    if (s->merge_held) {
        s->merge_held = false;
        job_resume(&s->merge->job);
        return;
    }
    bdrv_ref(bs);
    complete_merge(bs);
    bdrv_unref(bs);
}

/* Let the job start paused, merge_bh sees to the rest. */
static void hold_merge(ReplNode *s)
{
    s->merge_idle.notify = merge_idle;
    WITH_JOB_LOCK_GUARD() {
        job_pause_locked(&s->merge->job);
        notifier_list_add(&s->merge->job.on_idle, &s->merge_idle);
    }
    s->merge_held = true;
    qemu_bh_schedule(s->merge_bh);
}

static void start_merge(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;
    BlockDriverState *active = s->active;
    g_autofree char *id = g_strdup_printf("replication-merge-%s", s->top_id);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        repl_state_merging(&s->state);
    }
    /* The job does not run before the end of this section */
    bdrv_drained_begin(active);
    s->merge = commit_active_start(id, active, s->disk, JOB_DEFAULT, 0,
                                   BLOCKDEV_ON_ERROR_REPORT, NULL, merge_done,
                                   bs, false, errp);
    if (s->merge) {
        hold_merge(s);
    } else {
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            repl_state_merged(&s->state, -EIO);
        }
    }
    bdrv_drained_end(active);
}

/* Refuse the former primary from now on and let go of top and backing chain */
static void secondary_cut_off(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    repl_gate_close(s->gate);
    s->gate = NULL;
    unfreeze_chain(s);
    release_top(s);
}

static void secondary_failover(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    if (s->state.torn && !empty_overlays(bs, true)) {
        secondary_cut_off(bs);
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            repl_state_merged(&s->state, -EIO);
        }
        repl_state_may_merge(&s->state, errp);
        return;
    }
    secondary_cut_off(bs);
    start_merge(bs, errp);
}

/* Retry a merge that failed. */
static void secondary_merge_again(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    if (repl_state_may_merge(&s->state, errp)) {
        start_merge(bs, errp);
    }
}

/* The node goes away while replication runs. */
static void repl_give_up(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;
    Error *err = NULL;

    error_setg(&err, "Replication node '%s' was removed while replication was "
               "running", bdrv_get_node_name(bs));
    replication_set_error(err);

    if (s->state.mode == REPLICATION_MODE_SECONDARY) {
        secondary_cut_off(bs);
    }
}

/* The operations */

static void repl_start(BlockDriverState *bs, ReplicationMode mode,
                       Error **errp)
{
    ERRP_GUARD();
    ReplNode *s = bs->opaque;
    ReplVerdict verdict;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        verdict = repl_state_may_start(&s->state, mode, errp);
    }
    switch (verdict) {
    case REPL_NOTHING:
        return;
    case REPL_REFUSE:
        break;
    case REPL_ACT:
        if (mode == REPLICATION_MODE_PRIMARY) {
            primary_start(bs, errp);
        } else {
            secondary_start(bs, errp);
        }
        break;
    }
    if (*errp) {
        error_prepend(errp, "Cannot start replication on node '%s': ",
                      bdrv_get_node_name(bs));
    }
}

/* A forwarding node nobody writes to protects nothing. */
static bool check_attached(BlockDriverState *bs, Error **errp)
{
    ReplNode *s = bs->opaque;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (s->state.mode == REPLICATION_MODE_PRIMARY &&
        s->state.stage == REPL_STAGE_RUNNING && QLIST_EMPTY(&bs->parents)) {
        error_setg(errp, "Replication node '%s' was detached from its disk",
                   bdrv_get_node_name(bs));
        return false;
    }
    return true;
}

static void repl_checkpoint(BlockDriverState *bs, Error **errp)
{
    ERRP_GUARD();
    ReplNode *s = bs->opaque;
    ReplVerdict verdict;

    if (!check_attached(bs, errp)) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        verdict = repl_state_may_checkpoint(&s->state, errp);
    }
    switch (verdict) {
    case REPL_NOTHING:
        return;
    case REPL_REFUSE:
        break;
    case REPL_ACT:
        if (s->state.mode == REPLICATION_MODE_SECONDARY) {
            secondary_checkpoint(bs, errp);
        } else {
            primary_checkpoint(bs);
        }
        break;
    }
    if (*errp) {
        error_prepend(errp, "Cannot make a checkpoint of replication node "
                      "'%s': ", bdrv_get_node_name(bs));
    }
}

static void repl_capture(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    if (s->state.mode == REPLICATION_MODE_PRIMARY) {
        primary_capture(bs);
    }
}

static void repl_lost(BlockDriverState *bs)
{
    ReplNode *s = bs->opaque;

    /* one that does not forward yet, or no more, loses nothing by it */
    if (s->state.mode == REPLICATION_MODE_PRIMARY &&
        s->state.stage == REPL_STAGE_RUNNING) {
        primary_lost(bs);
    }
}

static void repl_get_error(BlockDriverState *bs, Error **errp)
{
    if (!check_attached(bs, errp)) {
        return;
    }
    get_fault(bs, errp);
}

static void repl_stop(BlockDriverState *bs, bool failover, Error **errp)
{
    ERRP_GUARD();
    ReplNode *s = bs->opaque;
    ReplVerdict verdict;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        verdict = repl_state_may_stop(&s->state, failover, errp);
    }
    /* Letting go of the disk's root node may be the end of this one */
    bdrv_ref(bs);
    switch (verdict) {
    case REPL_NOTHING:
    case REPL_REFUSE:
        break;
    case REPL_ACT:
        if (s->state.mode == REPLICATION_MODE_PRIMARY) {
            primary_stop(bs, failover);
        } else if (s->state.stage == REPL_STAGE_FAILOVER_FAILED) {
            secondary_merge_again(bs, errp);
        } else if (failover) {
            secondary_failover(bs, errp);
        } else {
            secondary_stop(bs, errp);
        }
        break;
    }
    if (*errp) {
        error_prepend(errp, "Cannot stop replication on node '%s': ",
                      bdrv_get_node_name(bs));
    }
    bdrv_unref(bs);
}

static const ReplicatedDiskOps repl_ops = {
    .start = repl_start,
    .capture = repl_capture,
    .lost = repl_lost,
    .checkpoint = repl_checkpoint,
    .get_error = repl_get_error,
    .stop = repl_stop,
};

static const char *const repl_strong_runtime_opts[] = {
    REPL_OPT_MODE, REPL_OPT_TOP_ID, NULL
};

static BlockDriver repl_driver = {
    .format_name            = "replication",
    .instance_size          = sizeof(ReplNode),

    .bdrv_open              = repl_open,
    .bdrv_close             = repl_close,
    .bdrv_child_perm        = repl_child_perm,
    .bdrv_set_perm          = repl_set_perm,

    .bdrv_co_getlength      = repl_co_getlength,
    .bdrv_co_preadv         = repl_co_preadv,
    .bdrv_co_pwritev        = repl_co_pwritev,
    .bdrv_co_pwrite_zeroes  = repl_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = repl_co_pdiscard,
    .bdrv_co_flush          = repl_co_flush,
    .bdrv_co_block_status   = repl_co_block_status,
    .bdrv_co_truncate       = repl_co_truncate,

    .bdrv_drain_begin       = repl_drain_begin,
    .bdrv_drain_end         = repl_drain_end,

    .is_filter              = true,
    .strong_runtime_opts    = repl_strong_runtime_opts,
};

static void repl_register(void)
{
    bdrv_register(&repl_driver);
}

block_init(repl_register);
