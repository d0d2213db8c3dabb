/*
 * Block replication: the gate in front of the secondary disk
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/block-copy.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/dirty-bitmap.h"
#include "block/replication-gate.h"
#include "qemu/cutils.h"

typedef struct ReplGate {
    BdrvChild *hidden;          /* to the disk once closed; BQL, drained */
    BlockCopyState *copy;       /* NULL once closed; BQL, drained */
    bool active;                /* in the graph and in charge; BQL */
    bool closed;                /* atomic, set once */
    ReplGateFaultFunc *fault;
    void *opaque;
} ReplGate;

/* Make it safe to overwrite the range, or return a negative errno. */
static int coroutine_fn GRAPH_RDLOCK
gate_enter(BlockDriverState *bs, int64_t offset, int64_t bytes,
           BdrvRequestFlags flags)
{
    ReplGate *g = bs->opaque;
    int64_t cluster, start, end;
    int ret;

    if (qatomic_read(&g->closed)) {
        return -EPERM;
    }
    if (flags & BDRV_REQ_WRITE_UNCHANGED) {
        return 0;
    }

    cluster = block_copy_cluster_size(g->copy);
    start = QEMU_ALIGN_DOWN(offset, cluster);
    end = QEMU_ALIGN_UP(offset + bytes, cluster);
    ret = block_copy(g->copy, start, end - start, true, 0, NULL, NULL);
    if (ret < 0) {
        g->fault(g->opaque, REPL_FAULT_BACKUP, -ret, offset, bytes);
    }
    return ret;
}

static int gate_leave(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      int ret)
{
    ReplGate *g = bs->opaque;

    if (ret < 0) {
        g->fault(g->opaque, REPL_FAULT_SECONDARY_DISK, -ret, offset, bytes);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
gate_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->backing, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
gate_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int ret = gate_enter(bs, offset, bytes, flags);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_pwritev(bs->backing, offset, bytes, qiov, flags);
    return gate_leave(bs, offset, bytes, ret);
}

static int coroutine_fn GRAPH_RDLOCK
gate_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags)
{
    int ret = gate_enter(bs, offset, bytes, flags);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_pwrite_zeroes(bs->backing, offset, bytes, flags);
    if (ret == -ENOTSUP && (flags & BDRV_REQ_NO_FALLBACK)) {
        return ret;
    }
    return gate_leave(bs, offset, bytes, ret);
}

static int coroutine_fn GRAPH_RDLOCK
gate_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    int ret = gate_enter(bs, offset, bytes, 0);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_pdiscard(bs->backing, offset, bytes);
    return gate_leave(bs, offset, bytes, ret);
}

static int coroutine_fn GRAPH_RDLOCK gate_co_flush(BlockDriverState *bs)
{
    ReplGate *g = bs->opaque;

    if (!bs->backing || qatomic_read(&g->closed)) {
        return 0;
    }
    return bdrv_co_flush(bs->backing->bs);
}

static int coroutine_fn GRAPH_RDLOCK
gate_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                 PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    error_setg(errp, "Cannot resize the secondary disk of a replication");
    return -EPERM;
}

static void GRAPH_RDLOCK gate_refresh_filename(BlockDriverState *bs)
{
    if (bs->backing) {
        pstrcpy(bs->exact_filename, sizeof(bs->exact_filename),
                bs->backing->bs->filename);
    }
}

static void GRAPH_RDLOCK
gate_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                BlockReopenQueue *reopen_queue, uint64_t perm, uint64_t shared,
                uint64_t *nperm, uint64_t *nshared)
{
    ReplGate *g = bs->opaque;

    if (qatomic_read(&g->closed)) {
        *nperm = perm & BLK_PERM_CONSISTENT_READ;
        *nshared = BLK_PERM_ALL;
        return;
    }
    if (!(role & BDRV_CHILD_FILTERED)) {
        /* The hidden disk: the active disk above it may be written to */
        *nperm = BLK_PERM_WRITE;
        *nshared = BLK_PERM_ALL & ~BLK_PERM_RESIZE;
        return;
    }

    bdrv_default_perms(bs, c, role, reopen_queue, perm, shared,
                       nperm, nshared);
    if (g->active) {
        /* Nobody may write to the disk behind the gate's back */
        *nperm |= BLK_PERM_CONSISTENT_READ;
        *nshared &= ~(BLK_PERM_WRITE | BLK_PERM_RESIZE);
    }
}

static void gate_close_node(BlockDriverState *bs)
{
    ReplGate *g = bs->opaque;

    block_copy_state_free(g->copy);
    g->copy = NULL;
}

/*
 * Not registered: users have no business making one. The disk is the backing
 * child as bdrv_append() has it.
 */
static BlockDriver bdrv_replication_gate = {
    .format_name            = "replication-gate",
    .instance_size          = sizeof(ReplGate),

    .bdrv_close             = gate_close_node,
    .bdrv_child_perm        = gate_child_perm,
    .bdrv_refresh_filename  = gate_refresh_filename,

    .bdrv_co_preadv         = gate_co_preadv,
    .bdrv_co_pwritev        = gate_co_pwritev,
    .bdrv_co_pwrite_zeroes  = gate_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = gate_co_pdiscard,
    .bdrv_co_flush          = gate_co_flush,
    .bdrv_co_truncate       = gate_co_truncate,

    .is_filter              = true,
    .filtered_child_is_backing = true,
};

/* A gate that is not yet in the graph, in the AioContext of @disk. */
static BlockDriverState *gate_new(BlockDriverState *disk, Error **errp)
{
    BlockDriverState *gate;

    gate = bdrv_new_open_driver(&bdrv_replication_gate, NULL,
                                BDRV_O_RDWR |
                                (disk->open_flags & BDRV_O_UNMAP), errp);
    if (!gate) {
        return NULL;
    }

    gate->total_sectors = disk->total_sectors;
    gate->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED |
        (BDRV_REQ_FUA & disk->supported_write_flags);
    gate->supported_zero_flags = BDRV_REQ_WRITE_UNCHANGED |
        ((BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK) &
         disk->supported_zero_flags);

    if (bdrv_try_change_aio_context(gate, bdrv_get_aio_context(disk), NULL,
                                    errp) < 0) {
        bdrv_unref(gate);
        return NULL;
    }
    return gate;
}

/*
 * Attach @gate to the hidden disk first: that makes bdrv_append() leave the
 * hidden disk's link to the disk alone, which must not go through the gate.
 */
static bool gate_attach(BlockDriverState *gate, BlockDriverState *disk,
                        BlockDriverState *hidden, Error **errp)
{
    ReplGate *g = gate->opaque;

    bdrv_ref(hidden);
    bdrv_graph_wrlock();
    g->hidden = bdrv_attach_child(gate, hidden, "hidden", &child_of_bds,
                                  BDRV_CHILD_DATA, errp);
    bdrv_graph_wrunlock();
    if (!g->hidden) {
        return false;
    }
    return bdrv_append(gate, disk, errp) >= 0;
}

static bool gate_activate(BlockDriverState *gate, Error **errp)
{
    ReplGate *g = gate->opaque;
    int ret;

    bdrv_graph_rdlock_main_loop();
    g->copy = block_copy_state_new(gate->backing, g->hidden, gate, NULL, false,
                                   0, errp);
    bdrv_graph_rdunlock_main_loop();
    if (!g->copy) {
        return false;
    }
    /* within the host's kernel, where it can: both are files of this host */
    block_copy_set_copy_opts(g->copy, true, false);

    g->active = true;
    bdrv_graph_wrlock();
    ret = bdrv_child_refresh_perms(gate, gate->backing, errp);
    bdrv_graph_wrunlock();
    return ret >= 0;
}

BlockDriverState *repl_gate_insert(BlockDriverState *disk,
                                   BlockDriverState *hidden,
                                   ReplGateFaultFunc *fault, void *opaque,
                                   Error **errp)
{
    BlockDriverState *gate;
    ReplGate *g;

    GLOBAL_STATE_CODE();

    gate = gate_new(disk, errp);
    if (!gate) {
        return NULL;
    }
    g = gate->opaque;
    g->fault = fault;
    g->opaque = opaque;

    bdrv_drained_begin(disk);
    if (!gate_attach(gate, disk, hidden, errp)) {
        bdrv_drained_end(disk);
        bdrv_unref(gate);
        return NULL;
    }
    if (!gate_activate(gate, errp)) {
        repl_gate_remove(gate);
        bdrv_drained_end(disk);
        return NULL;
    }
    bdrv_drained_end(disk);
    return gate;
}

BdrvChild *repl_gate_hidden(BlockDriverState *gate)
{
    ReplGate *g = gate->opaque;

    GLOBAL_STATE_CODE();
    return g->hidden;
}

bool repl_gate_has_saved(BlockDriverState *gate)
{
    ReplGate *g = gate->opaque;
    BdrvDirtyBitmap *to_save = block_copy_dirty_bitmap(g->copy);

    GLOBAL_STATE_CODE();
    return bdrv_get_dirty_count(to_save) < bdrv_dirty_bitmap_size(to_save);
}

void repl_gate_restart(BlockDriverState *gate)
{
    ReplGate *g = gate->opaque;
    BdrvDirtyBitmap *to_save = block_copy_dirty_bitmap(g->copy);

    GLOBAL_STATE_CODE();
    bdrv_set_dirty_bitmap(to_save, 0, bdrv_dirty_bitmap_size(to_save));
}

/*
 * The link to the hidden disk is pointed at the disk, not taken away: QEMU
 * moves a node that loses a parent to the main AioContext if it can, and with
 * it all that is connected, NBD clients in the middle of a request included.
 */
void repl_gate_close(BlockDriverState *gate)
{
    ReplGate *g = gate->opaque;
    BlockDriverState *disk;

    GLOBAL_STATE_CODE();

    qatomic_set(&g->closed, true);
    bdrv_drained_begin(gate);
    block_copy_state_free(g->copy);
    g->copy = NULL;

    bdrv_graph_wrlock();
    bdrv_child_refresh_perms(gate, g->hidden, &error_abort);
    bdrv_child_refresh_perms(gate, gate->backing, &error_abort);
    disk = gate->backing->bs;
    bdrv_graph_wrunlock();
    bdrv_replace_child_bs(g->hidden, disk, &error_abort);

    bdrv_drained_end(gate);
    bdrv_unref(gate);
}

void repl_gate_remove(BlockDriverState *gate)
{
    ReplGate *g = gate->opaque;

    GLOBAL_STATE_CODE();

    g->active = false;
    bdrv_drop_filter(gate, &error_abort);
    bdrv_unref(gate);
}
