/*
 * Unit tests: block replication on real images
 *
 * Each row of the failure table in docs/block-replication.txt, with a filter
 * node that fails or holds requests on demand; invariant 5 (what is the disk's
 * content after a checkpoint and after a failover); and quorum's rule that the
 * local disk decides.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "block/blockjob.h"
#include "block/qdict.h"
#include "block/replication.h"
#include "block/replication-int.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "system/block-backend.h"

#define SIZE (1 * MiB)
#define CHUNK (64 * KiB)    /* a cluster, for whoever counts in such */
#define MERGE_JOB "replication-merge-top"

static char *dir;

/* The filter that fails */

typedef struct Fault {
    int read_error;         /* negative errno for all reads; 0: none */
    int write_error;        /* the same for writes, zeroes and discards */
    int flush_error;
    bool hold;              /* writes wait */
    bool hold_next_read;    /* one read waits */
    bool read_held;
    CoQueue held;
    unsigned reads, writes, flushes;
} Fault;

static int fault_open(BlockDriverState *bs, QDict *options, int flags,
                      Error **errp)
{
    Fault *f = bs->opaque;

    qemu_co_queue_init(&f->held);
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    return bdrv_open_file_child(NULL, options, "file", bs, errp);
}

static int fault_reopen_prepare(BDRVReopenState *state,
                                BlockReopenQueue *queue, Error **errp)
{
    return 0;
}

static int64_t coroutine_fn GRAPH_RDLOCK
fault_co_getlength(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
fault_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    Fault *f = bs->opaque;

    f->reads++;
    if (f->hold_next_read) {
        f->hold_next_read = false;
        f->read_held = true;
        qemu_co_queue_wait(&f->held, NULL);
        f->read_held = false;
    }
    return f->read_error ?:
        bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn fault_write(BlockDriverState *bs)
{
    Fault *f = bs->opaque;

    f->writes++;
    while (f->hold) {
        qemu_co_queue_wait(&f->held, NULL);
    }
    return f->write_error;
}

static int coroutine_fn GRAPH_RDLOCK
fault_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return fault_write(bs) ?:
        bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
fault_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       BdrvRequestFlags flags)
{
    return fault_write(bs) ?:
        bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

static int coroutine_fn GRAPH_RDLOCK
fault_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return fault_write(bs) ?: bdrv_co_pdiscard(bs->file, offset, bytes);
}

static int coroutine_fn GRAPH_RDLOCK fault_co_flush(BlockDriverState *bs)
{
    Fault *f = bs->opaque;

    f->flushes++;
    return f->flush_error ?: bdrv_co_flush(bs->file->bs);
}

static BlockDriver fault_driver = {
    .format_name            = "colo-fault",
    .instance_size          = sizeof(Fault),
    .bdrv_open              = fault_open,
    .bdrv_reopen_prepare    = fault_reopen_prepare,
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_getlength      = fault_co_getlength,
    .bdrv_co_preadv         = fault_co_preadv,
    .bdrv_co_pwritev        = fault_co_pwritev,
    .bdrv_co_pwrite_zeroes  = fault_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = fault_co_pdiscard,
    .bdrv_co_flush          = fault_co_flush,
    .is_filter              = true,
};

static Fault *fault(const char *node)
{
    BlockDriverState *bs = bdrv_find_node(node);

    g_assert(bs && bs->drv == &fault_driver);
    return bs->opaque;
}

static void release(Fault *f)
{
    f->hold = false;
    qemu_co_enter_all(&f->held, NULL);
}

/* Images and nodes */

static char *image(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static void make_raw(const char *name, int64_t size)
{
    g_autofree char *path = image(name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    close(fd);
}

static void make_qcow2(const char *name, int64_t size)
{
    g_autofree char *path = image(name);

    bdrv_img_create(path, "qcow2", NULL, NULL, NULL, size, BDRV_O_RDWR, true,
                    &error_abort);
}

static BlockDriverState *node(const char *json, Error **errp)
{
    QDict *options = qobject_to(QDict, qobject_from_json(json, &error_abort));

    qdict_flatten(options);
    return bdrv_open(NULL, NULL, options, BDRV_O_RDWR, errp);
}

/* Node @name of @driver on fault node "@name-fault" on image @name */
static BlockDriverState *image_node(const char *name, const char *driver,
                                    const char *more)
{
    g_autofree char *path = image(name);
    g_autofree char *json = g_strdup_printf(
        "{ 'driver': '%s', 'node-name': '%s', 'discard': 'unmap',"
        "  'file': { 'driver': 'colo-fault', 'node-name': '%s-fault',"
        "            'file': { 'driver': 'file', 'filename': '%s',"
        "                      'locking': 'off' } } %s }",
        driver, name, name, path, more);

    g_strdelimit(json, "'", '"');
    return node(json, &error_abort);
}

static BlockDriverState *other_node(const char *text, Error **errp)
{
    g_autofree char *json = g_strdup(text);

    g_strdelimit(json, "'", '"');
    return node(json, errp);
}

static BlockBackend *user_sharing(BlockDriverState *bs, uint64_t shared)
{
    BlockBackend *blk = blk_new(qemu_get_aio_context(),
                                BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                                shared);

    blk_insert_bs(blk, bs, &error_abort);
    blk_set_allow_aio_context_change(blk, true);
    return blk;
}

static BlockBackend *export_of(BlockDriverState *bs)
{
    return user_sharing(bs, BLK_PERM_ALL & ~BLK_PERM_RESIZE);
}

static BlockBackend *guest_of(BlockDriverState *bs)
{
    return user_sharing(bs, BLK_PERM_CONSISTENT_READ |
                            BLK_PERM_WRITE_UNCHANGED);
}

/* Requests: one byte value over a range */

static int put(BlockBackend *blk, int64_t offset, int64_t bytes, int value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, value, bytes);
    return blk_pwrite(blk, offset, bytes, buf, 0);
}

static void check_is(BlockBackend *blk, int64_t offset, int64_t bytes,
                     int value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    int64_t i;

    g_assert_cmpint(blk_pread(blk, offset, bytes, buf, 0), ==, 0);
    for (i = 0; i < bytes; i++) {
        g_assert_cmpint(buf[i], ==, value);
    }
}

static int get(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    return blk_pread(blk, offset, bytes, buf, 0);
}

/* What is in the file, whatever nodes and caches there are above */
static void check_file(const char *name, int64_t offset, int64_t bytes,
                       int value)
{
    g_autofree char *path = image(name);
    g_autofree uint8_t *buf = g_malloc(bytes);
    int fd = open(path, O_RDONLY);
    int64_t i;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, buf, bytes, offset), ==, bytes);
    for (i = 0; i < bytes; i++) {
        g_assert_cmpint(buf[i], ==, value);
    }
    close(fd);
}

static void check_error(Error *err, const char *text)
{
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), text)) {
        g_error("'%s' is not in '%s'", text, error_get_pretty(err));
    }
    error_free(err);
}

static void check_replication_error(const char *text)
{
    Error *err = NULL;

    replication_get_error_all(&err);
    check_error(err, text);
    err = NULL;
    replication_do_checkpoint_all(&err);
    g_assert_nonnull(err);
    error_free(err);
}

static void no_replication_error(void)
{
    replication_get_error_all(&error_abort);
}

/* The primary's disk: quorum of "local" and, through "repl", "peer" */

typedef struct Primary {
    BlockDriverState *local, *peer, *repl, *top;
    BlockBackend *guest;
} Primary;

static void primary_open(Primary *p)
{
    make_raw("local", SIZE);
    make_raw("peer", SIZE);
    p->local = image_node("local", "raw", "");
    p->peer = image_node("peer", "raw", "");
    p->repl = other_node("{ 'driver': 'replication', 'mode': 'primary',"
                         "  'node-name': 'repl', 'file': 'peer' }",
                         &error_abort);
    p->top = other_node("{ 'driver': 'quorum', 'vote-threshold': 1,"
                        "  'read-pattern': 'fifo', 'node-name': 'top',"
                        "  'children': [ 'local', 'repl' ] }", &error_abort);
    p->guest = guest_of(p->top);
}

static void primary_close(Primary *p)
{
    blk_unref(p->guest);
    bdrv_unref(p->top);
    bdrv_unref(p->repl);
    bdrv_unref(p->peer);
    bdrv_unref(p->local);
    g_assert_null(bdrv_find_node("local"));
    g_assert_null(bdrv_find_node("peer"));
}

static void primary_start(Primary *p)
{
    primary_open(p);
    replication_start_all(REPLICATION_MODE_PRIMARY, &error_abort);
}

/* Where the peer has no fast way to write zeroes, it gets slow ones */
static void test_fast_zeroes(void)
{
    Primary p;

    primary_start(&p);
    p.peer->supported_zero_flags &= ~BDRV_REQ_NO_FALLBACK;
    g_assert_cmpint(put(p.guest, 0, CHUNK, 0x11), ==, 0);
    g_assert_cmpint(blk_pwrite_zeroes(p.guest, 0, 512, BDRV_REQ_NO_FALLBACK),
                    ==, 0);
    no_replication_error();
    check_file("peer", 0, 512, 0);
    replication_stop_all(true, &error_abort);
    primary_close(&p);
}

static void primary_stop(Primary *p)
{
    replication_stop_all(true, &error_abort);
    primary_close(p);
}

static void test_forward(void)
{
    Primary p;

    primary_start(&p);
    g_assert_cmpint(put(p.guest, 0, CHUNK, 0x11), ==, 0);
    g_assert_cmpint(put(p.guest, SIZE - 512, 512, 0x22), ==, 0);
    check_file("peer", 0, CHUNK, 0x11);
    check_file("peer", SIZE - 512, 512, 0x22);
    check_file("local", 0, CHUNK, 0x11);

    g_assert_cmpint(blk_pwrite_zeroes(p.guest, 512, 512, 0), ==, 0);
    check_file("peer", 512, 512, 0);
    check_file("peer", 1024, 512, 0x11);

    replication_do_checkpoint_all(&error_abort);
    no_replication_error();
    primary_stop(&p);
}

static void test_forward_fails(void)
{
    Primary p;

    primary_start(&p);
    fault("peer-fault")->write_error = -ENOSPC;
    g_assert_cmpint(put(p.guest, 4096, 512, 0x11), ==, 0);
    check_file("local", 4096, 512, 0x11);
    check_replication_error("could not be forwarded");
    check_replication_error("512 bytes at offset 4096");
    check_replication_error("'repl'");

    /* The peer's disk is of no use any more and not written to */
    fault("peer-fault")->write_error = 0;
    fault("peer-fault")->writes = 0;
    g_assert_cmpint(put(p.guest, 0, 512, 0x22), ==, 0);
    g_assert_cmpint(fault("peer-fault")->writes, ==, 0);
    check_replication_error("could not be forwarded");
    primary_stop(&p);
}

/* A failed local write or flush reaches the guest, with its own errno */
static void test_local_fails(void)
{
    Primary p;

    primary_start(&p);
    fault("local-fault")->write_error = -ENOSPC;
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, -ENOSPC);
    g_assert_cmpint(blk_pwrite_zeroes(p.guest, 0, 512, 0), ==, -ENOSPC);
    no_replication_error();
    fault("local-fault")->write_error = 0;
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);

    fault("local-fault")->flush_error = -EDQUOT;
    g_assert_cmpint(blk_flush(p.guest), ==, -EDQUOT);
    fault("local-fault")->flush_error = 0;
    g_assert_cmpint(blk_flush(p.guest), ==, 0);
    no_replication_error();

    /* Both at once: the guest's error is the local one */
    fault("local-fault")->write_error = -ENOSPC;
    fault("peer-fault")->write_error = -EIO;
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, -ENOSPC);
    check_replication_error("could not be forwarded");
    fault("local-fault")->write_error = 0;
    primary_stop(&p);
}

static void test_local_read_fails(void)
{
    Primary p;

    primary_start(&p);
    fault("peer-fault")->reads = 0;
    fault("local-fault")->read_error = -EIO;
    g_assert_cmpint(get(p.guest, 0, 512), ==, -EIO);
    g_assert_cmpint(fault("peer-fault")->reads, ==, 0);
    no_replication_error();
    primary_stop(&p);
}

/* Before the start, the local disk decides as well */
static void test_local_fails_before(void)
{
    Primary p;

    primary_open(&p);
    fault("local-fault")->write_error = -ENOSPC;
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, -ENOSPC);
    fault("local-fault")->write_error = 0;
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    primary_close(&p);
}

static void test_flush_stays(void)
{
    Primary p;

    primary_start(&p);
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    fault("peer-fault")->flushes = 0;
    fault("local-fault")->flushes = 0;
    g_assert_cmpint(blk_flush(p.guest), ==, 0);
    g_assert_cmpint(fault("peer-fault")->flushes, ==, 0);
    g_assert_cmpint(fault("local-fault")->flushes, ==, 1);
    primary_stop(&p);
}

static void request_done(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

#define PENDING 1

/* Start a write that the peer will not answer */
static void put_held(Primary *p, QEMUIOVector *qiov, int *ret)
{
    *ret = PENDING;
    fault("peer-fault")->writes = 0;
    fault("peer-fault")->hold = true;
    blk_aio_pwritev(p->guest, 0, qiov, 0, request_done, ret);
    while (!fault("peer-fault")->writes) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

static void wait_for(int *ret)
{
    while (*ret == PENDING) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

static void test_peer_hangs(void)
{
    g_autofree void *buf = g_malloc0(512);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, 512);
    Error *err = NULL;
    Primary p;
    int ret;

    replication_set_forward_limit(1);
    primary_start(&p);
    put_held(&p, &qiov, &ret);
    while (!err) {
        aio_poll(qemu_get_aio_context(), true);
        replication_get_error_all(&err);
    }
    check_error(err, "does not answer");
    g_assert_cmpint(ret, ==, PENDING);

    release(fault("peer-fault"));
    wait_for(&ret);
    g_assert_cmpint(ret, ==, 0);
    replication_set_forward_limit(10 * 1000);
    primary_stop(&p);
}

static void test_primary_stop(void)
{
    g_autofree void *buf = g_malloc0(512);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, 512);
    Error *err = NULL;
    Primary p;
    int ret;

    /* A write on its way when replication stops does the guest no harm */
    primary_start(&p);
    put_held(&p, &qiov, &ret);
    replication_stop_all(true, &error_abort);
    fault("peer-fault")->write_error = -EIO;
    release(fault("peer-fault"));
    wait_for(&ret);
    g_assert_cmpint(ret, ==, 0);
    no_replication_error();

    fault("peer-fault")->write_error = 0;
    fault("peer-fault")->writes = 0;
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    g_assert_cmpint(fault("peer-fault")->writes, ==, 0);

    replication_start_all(REPLICATION_MODE_PRIMARY, &err);
    check_error(err, "secondary disk differs");
    primary_close(&p);
}

/* Between capture and commit the peer gets nothing, and the guest waits not */
static void test_held(void)
{
    Primary p;

    primary_start(&p);
    g_assert_cmpint(put(p.guest, 0, CHUNK, 0x11), ==, 0);
    replication_capture_all();
    fault("peer-fault")->writes = 0;
    g_assert_cmpint(put(p.guest, 512, 1024, 0x22), ==, 0);
    g_assert_cmpint(put(p.guest, 1024, 512, 0x33), ==, 0);
    g_assert_cmpint(blk_pwrite_zeroes(p.guest, 4096, 4096,
                                      BDRV_REQ_NO_FALLBACK), ==, 0);
    g_assert_cmpint(put(p.guest, 8192 - 512, 512, 0x44), ==, 0);
    bdrv_drain_all();
    g_assert_cmpint(fault("peer-fault")->writes, ==, 0);
    check_file("peer", 0, CHUNK, 0x11);
    check_file("local", 1024, 512, 0x33);

    replication_do_checkpoint_all(&error_abort);
    bdrv_drain_all();
    g_assert_cmpint(fault("peer-fault")->writes, ==, 4);
    check_file("peer", 0, 512, 0x11);
    check_file("peer", 512, 512, 0x22);
    check_file("peer", 1024, 512, 0x33);
    check_file("peer", 1536, 4096 - 1536, 0x11);
    check_file("peer", 4096, 4096 - 512, 0);
    check_file("peer", 8192 - 512, 512, 0x44);

    /* And from then on as before */
    g_assert_cmpint(put(p.guest, 0, 512, 0x55), ==, 0);
    check_file("peer", 0, 512, 0x55);
    no_replication_error();
    primary_stop(&p);
}

/* What is written after the commit does not overtake what was held */
static void test_held_order(void)
{
    Primary p;

    primary_start(&p);
    replication_capture_all();
    g_assert_cmpint(put(p.guest, 0, 4096, 0x11), ==, 0);
    fault("peer-fault")->writes = 0;
    fault("peer-fault")->hold = true;
    replication_do_checkpoint_all(&error_abort);
    while (!fault("peer-fault")->writes) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(put(p.guest, 512, 512, 0x22), ==, 0);
    g_assert_cmpint(fault("peer-fault")->writes, ==, 1);
    release(fault("peer-fault"));
    bdrv_drain_all();
    check_file("peer", 0, 512, 0x11);
    check_file("peer", 512, 512, 0x22);
    no_replication_error();
    primary_stop(&p);
}

static void test_held_fails(void)
{
    Primary p;

    primary_start(&p);
    replication_capture_all();
    g_assert_cmpint(put(p.guest, 4096, 512, 0x11), ==, 0);
    g_assert_cmpint(put(p.guest, 4096, 512, 0x22), ==, 0);
    no_replication_error();
    fault("peer-fault")->write_error = -ENOSPC;
    fault("peer-fault")->writes = 0;
    replication_do_checkpoint_all(&error_abort);
    bdrv_drain_all();
    check_replication_error("could not be forwarded");
    check_replication_error("512 bytes at offset 4096");
    /* the other one overlaps it, and was not tried any more */
    g_assert_cmpint(fault("peer-fault")->writes, ==, 1);
    primary_stop(&p);
}

/* What is held when replication ends never gets to the peer */
static void test_held_stop(void)
{
    Error *err = NULL;
    Primary p;

    primary_start(&p);
    replication_capture_all();
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    replication_stop_all(true, &error_abort);
    bdrv_drain_all();
    check_file("peer", 0, 512, 0);
    check_file("local", 0, 512, 0x11);
    replication_start_all(REPLICATION_MODE_PRIMARY, &err);
    check_error(err, "secondary disk differs");
    primary_close(&p);
}

static void test_held_lost(void)
{
    Primary p;

    /* Before the start there is nothing to lose */
    primary_open(&p);
    replication_lost_all();
    replication_start_all(REPLICATION_MODE_PRIMARY, &error_abort);
    replication_capture_all();
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    replication_lost_all();
    check_replication_error("was lost");
    g_assert_cmpint(put(p.guest, 0, 512, 0x22), ==, 0);
    bdrv_drain_all();
    check_file("peer", 0, 512, 0);
    check_file("local", 0, 512, 0x22);
    primary_stop(&p);
}

/* Start a write that waits for room */
static void put_waiting(Primary *p, QEMUIOVector *qiov, int *ret)
{
    *ret = PENDING;
    blk_aio_pwritev(p->guest, 0, qiov, 0, request_done, ret);
    while (aio_poll(qemu_get_aio_context(), false)) {
        continue;
    }
    g_assert_cmpint(*ret, ==, PENDING);
}

/* At the limit the guest waits: for the commit, or until all are to stop */
static void test_held_limit(void)
{
    g_autofree void *buf = g_malloc0(512);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, 512);
    Primary p;
    int ret;

    replication_set_held_limit(1024);
    primary_start(&p);
    memset(buf, 0x22, 512);
    replication_capture_all();
    g_assert_cmpint(put(p.guest, 0, 2048, 0x11), ==, 0);
    put_waiting(&p, &qiov, &ret);
    bdrv_drain_all();
    g_assert_cmpint(ret, ==, 0);
    check_file("peer", 0, 2048, 0);

    put_waiting(&p, &qiov, &ret);
    replication_do_checkpoint_all(&error_abort);
    wait_for(&ret);
    g_assert_cmpint(ret, ==, 0);
    bdrv_drain_all();
    check_file("peer", 0, 512, 0x22);
    check_file("peer", 512, 1536, 0x11);

    /* ... or until there is nobody any more to hold it for */
    replication_capture_all();
    g_assert_cmpint(put(p.guest, 0, 2048, 0x33), ==, 0);
    put_waiting(&p, &qiov, &ret);
    replication_lost_all();
    wait_for(&ret);
    g_assert_cmpint(ret, ==, 0);
    replication_set_held_limit(32 * MiB);
    primary_stop(&p);
}

static void test_restart(void)
{
    Primary p;

    primary_start(&p);
    replication_stop_all(true, &error_abort);
    replication_start_all(REPLICATION_MODE_PRIMARY, &error_abort);
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    check_file("peer", 0, 512, 0x11);
    primary_stop(&p);
}

static void test_missed_write(void)
{
    Error *err = NULL;
    Primary p;

    primary_open(&p);
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    replication_start_all(REPLICATION_MODE_PRIMARY, &err);
    check_error(err, "secondary disk differs");
    primary_close(&p);
}

/* One whose connection has been broken is asked before all else */
static void test_peer_gone(void)
{
    Error *err = NULL;
    Primary p;

    primary_open(&p);
    fault("peer-fault")->read_error = -EIO;
    replication_start_all(REPLICATION_MODE_PRIMARY, &err);
    check_error(err, "does not answer");
    err = NULL;

    /* it may be another one by now */
    fault("peer-fault")->read_error = 0;
    replication_start_all(REPLICATION_MODE_PRIMARY, &err);
    check_error(err, "secondary disk differs");
    primary_close(&p);
}

static BdrvChild * GRAPH_RDLOCK
child_named(BlockDriverState *bs, const char *name)
{
    BdrvChild *child;

    QLIST_FOREACH(child, &bs->children, next) {
        if (g_str_equal(child->name, name)) {
            return child;
        }
    }
    g_assert_not_reached();
}

/* As in the documented primary failover: detached first, then deleted */
static void test_detached(void)
{
    Primary p;

    primary_start(&p);
    bdrv_graph_wrlock();
    bdrv_del_child(p.top, child_named(p.top, "children.1"), &error_abort);
    bdrv_graph_wrunlock();
    check_replication_error("detached from its disk");

    bdrv_unref(p.repl);
    p.repl = NULL;
    check_replication_error("removed while replication was running");
    replication_stop_all(true, &error_abort);
    no_replication_error();
    g_assert_cmpint(put(p.guest, 0, 512, 0x11), ==, 0);
    primary_close(&p);
}

/* The secondary's disk: quorum of "repl" on active, hidden and disk */

typedef struct Secondary {
    BlockDriverState *disk, *hidden, *active, *repl, *top;
    BlockBackend *guest;    /* the SVM */
    BlockBackend *peer;     /* the export of the disk */
} Secondary;

static void open_nodes(Secondary *s, const char *hidden)
{
    s->disk = image_node("disk", "raw", "");
    s->hidden = image_node("hidden", "qcow2", hidden);
    s->active = image_node("active", "qcow2", ", 'backing': 'hidden'");
    s->repl = other_node("{ 'driver': 'replication', 'mode': 'secondary',"
                         "  'top-id': 'top', 'node-name': 'repl',"
                         "  'file': 'active' }", &error_abort);
    s->top = other_node("{ 'driver': 'quorum', 'vote-threshold': 1,"
                        "  'read-pattern': 'fifo', 'node-name': 'top',"
                        "  'children': [ 'repl' ] }", &error_abort);
    s->peer = export_of(s->disk);
    s->guest = guest_of(s->top);
}

static void secondary_open_nodes(Secondary *s)
{
    open_nodes(s, ", 'backing': 'disk'");
}

static void make_images(void)
{
    make_raw("disk", SIZE);
    make_qcow2("hidden", SIZE);
    make_qcow2("active", SIZE);
}

static void secondary_open(Secondary *s)
{
    make_images();
    secondary_open_nodes(s);
    g_assert_cmpint(put(s->peer, 0, SIZE, 0x11), ==, 0);
}

static void secondary_close(Secondary *s)
{
    blk_unref(s->guest);
    blk_unref(s->peer);
    bdrv_unref(s->top);
    bdrv_unref(s->repl);
    bdrv_unref(s->active);
    bdrv_unref(s->hidden);
    bdrv_unref(s->disk);

    /* No reference was left behind */
    g_assert_null(bdrv_next_node(NULL));
}

static void secondary_start(Secondary *s)
{
    secondary_open(s);
    replication_start_all(REPLICATION_MODE_SECONDARY, &error_abort);
}

static Job *merge_job(void)
{
    JOB_LOCK_GUARD();
    return job_get_locked(MERGE_JOB);
}

static void wait_for_merge(void)
{
    while (merge_job()) {
        main_loop_wait(false);
    }
}

static void secondary_stop(Secondary *s)
{
    replication_stop_all(false, &error_abort);
    secondary_close(s);
}

/* The PVM writes 0x22 to the 2nd and 3rd chunk, the SVM 0x33 to 3rd and 4th */
static void write_both(Secondary *s)
{
    g_assert_cmpint(put(s->peer, CHUNK, 2 * CHUNK, 0x22), ==, 0);
    g_assert_cmpint(put(s->guest, 2 * CHUNK, 2 * CHUNK, 0x33), ==, 0);
}

static void check_svm_view(BlockBackend *blk)
{
    check_is(blk, 0, 2 * CHUNK, 0x11);
    check_is(blk, 2 * CHUNK, 2 * CHUNK, 0x33);
    check_is(blk, 4 * CHUNK, SIZE - 4 * CHUNK, 0x11);
}

static void check_pvm_view(BlockBackend *blk)
{
    check_is(blk, 0, CHUNK, 0x11);
    check_is(blk, CHUNK, 2 * CHUNK, 0x22);
    check_is(blk, 3 * CHUNK, SIZE - 3 * CHUNK, 0x11);
}

static void test_checkpoint(void)
{
    Secondary s;

    secondary_start(&s);
    no_replication_error();
    write_both(&s);
    check_svm_view(s.guest);
    check_pvm_view(s.peer);

    replication_do_checkpoint_all(&error_abort);
    check_pvm_view(s.guest);
    check_pvm_view(s.peer);

    /* The next epoch: what was saved once is saved again */
    g_assert_cmpint(put(s.peer, CHUNK, CHUNK, 0x44), ==, 0);
    check_pvm_view(s.guest);
    g_assert_cmpint(blk_pwrite_zeroes(s.peer, 2 * CHUNK, CHUNK, 0), ==, 0);
    check_pvm_view(s.guest);
    g_assert_cmpint(blk_pdiscard(s.peer, 3 * CHUNK, CHUNK, 0), ==, 0);
    check_pvm_view(s.guest);

    replication_do_checkpoint_all(&error_abort);
    check_is(s.guest, CHUNK, CHUNK, 0x44);
    check_is(s.guest, 2 * CHUNK, CHUNK, 0);
    no_replication_error();
    secondary_stop(&s);
}

/*
 * The SVM is reading old content from the disk when the PVM overwrites it: the
 * write must wait, though the SVM's read passed the hidden disk before.
 */
static void test_read_against_write(void)
{
    g_autofree uint8_t *old = g_malloc(CHUNK);
    g_autofree uint8_t *new = g_malloc0(CHUNK);
    QEMUIOVector read = QEMU_IOVEC_INIT_BUF(read, old, CHUNK);
    QEMUIOVector write = QEMU_IOVEC_INIT_BUF(write, new, CHUNK);
    int read_ret = PENDING, write_ret = PENDING;
    Secondary s;
    int i;

    secondary_start(&s);
    fault("disk-fault")->hold_next_read = true;
    blk_aio_preadv(s.guest, 0, &read, 0, request_done, &read_ret);
    while (!fault("disk-fault")->read_held) {
        aio_poll(qemu_get_aio_context(), true);
    }

    blk_aio_pwritev(s.peer, 0, &write, 0, request_done, &write_ret);
    for (i = 0; i < 1000; i++) {
        aio_poll(qemu_get_aio_context(), false);
    }
    g_assert_cmpint(write_ret, ==, PENDING);
    check_file("disk", 0, CHUNK, 0x11);

    release(fault("disk-fault"));
    wait_for(&read_ret);
    wait_for(&write_ret);
    g_assert_cmpint(read_ret, ==, 0);
    g_assert_cmpint(write_ret, ==, 0);
    g_assert_cmpint(old[0], ==, 0x11);
    g_assert_cmpint(memcmp(old, old + 1, CHUNK - 1), ==, 0);
    check_file("disk", 0, CHUNK, 0);
    check_is(s.guest, 0, SIZE, 0x11);
    secondary_stop(&s);
}

/* As documented, the NBD server is stopped before the failover */
static void test_no_export_at_failover(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    blk_unref(s.peer);
    s.peer = NULL;
    replication_stop_all(true, &error_abort);
    wait_for_merge();
    no_replication_error();
    check_svm_view(s.guest);
    check_file("disk", CHUNK, CHUNK, 0x11);
    check_file("disk", 2 * CHUNK, 2 * CHUNK, 0x33);
    secondary_close(&s);
}

/* A write that is no whole number of clusters */
static void test_small_write(void)
{
    Secondary s;

    secondary_start(&s);
    g_assert_cmpint(put(s.peer, CHUNK - 512, 1024, 0x22), ==, 0);
    g_assert_cmpint(put(s.guest, CHUNK, 512, 0x33), ==, 0);
    check_is(s.guest, 0, CHUNK, 0x11);
    check_is(s.guest, CHUNK, 512, 0x33);
    check_is(s.guest, CHUNK + 512, CHUNK, 0x11);

    replication_stop_all(true, &error_abort);
    wait_for_merge();
    check_file("disk", 0, CHUNK, 0x11);
    check_file("disk", CHUNK, 512, 0x33);
    check_file("disk", CHUNK + 512, CHUNK, 0x11);
    secondary_close(&s);
}

static void test_failover(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    replication_stop_all(true, &error_abort);
    /* It starts when whoever ends replication, and starts the VM, is done */
    g_assert_nonnull(merge_job());
    g_assert_cmpint(merge_job()->status, ==, JOB_STATUS_PAUSED);

    /* The former primary is refused from now on, the guest runs */
    g_assert_cmpint(put(s.peer, 0, 512, 0x55), ==, -EPERM);
    g_assert_cmpint(blk_pwrite_zeroes(s.peer, 0, 512, 0), ==, -EPERM);
    g_assert_cmpint(blk_pdiscard(s.peer, 0, CHUNK, 0), ==, -EPERM);
    check_svm_view(s.guest);
    g_assert_cmpint(put(s.guest, SIZE - CHUNK, CHUNK, 0x66), ==, 0);

    wait_for_merge();
    no_replication_error();
    g_assert_cmpint(put(s.peer, 0, 512, 0x55), ==, -EPERM);
    check_is(s.guest, SIZE - CHUNK, CHUNK, 0x66);
    check_is(s.guest, 0, 2 * CHUNK, 0x11);
    check_is(s.guest, 2 * CHUNK, 2 * CHUNK, 0x33);

    /* The overlays are out of the way, the disk is the guest's alone */
    bdrv_graph_rdlock_main_loop();
    g_assert(bdrv_filter_bs(s.repl) == s.disk);
    bdrv_graph_rdunlock_main_loop();
    g_assert_null(blk_new_with_bs(s.disk, BLK_PERM_WRITE, BLK_PERM_ALL,
                                  NULL));
    g_assert_cmpint(put(s.guest, 5 * CHUNK, CHUNK, 0x77), ==, 0);
    check_file("disk", 0, 2 * CHUNK, 0x11);
    check_file("disk", 2 * CHUNK, 2 * CHUNK, 0x33);
    check_file("disk", 4 * CHUNK, CHUNK, 0x11);
    check_file("disk", 5 * CHUNK, CHUNK, 0x77);
    check_file("disk", SIZE - CHUNK, CHUNK, 0x66);

    /* Part of a new primary: nothing to do any more */
    replication_start_all(REPLICATION_MODE_PRIMARY, &error_abort);
    replication_do_checkpoint_all(&error_abort);
    replication_stop_all(true, &error_abort);
    secondary_close(&s);
}

static void test_rollback(void)
{
    Error *err = NULL;
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    replication_stop_all(false, &error_abort);
    g_assert_cmpint(get(s.guest, 0, 512), ==, -EIO);
    check_file("disk", CHUNK, 2 * CHUNK, 0x22);
    check_file("disk", 3 * CHUNK, CHUNK, 0x11);
    replication_stop_all(true, &err);
    check_error(err, "not running");

    /* All is as before, so it can start once more */
    g_assert_cmpint(put(s.peer, 0, SIZE, 0x11), ==, 0);
    replication_start_all(REPLICATION_MODE_SECONDARY, &error_abort);
    write_both(&s);
    check_svm_view(s.guest);
    secondary_stop(&s);
}

/* A hidden disk that was opened as backing files are */
static void test_hidden_read_only(void)
{
    Secondary s;

    make_images();
    open_nodes(&s, ", 'backing': 'disk', 'read-only': true");
    g_assert_cmpint(put(s.peer, 0, SIZE, 0x11), ==, 0);
    replication_start_all(REPLICATION_MODE_SECONDARY, &error_abort);
    write_both(&s);
    check_svm_view(s.guest);
    replication_stop_all(false, &error_abort);
    g_assert_true(bdrv_is_read_only(s.hidden));
    secondary_close(&s);
}

static void test_active_fails(void)
{
    Secondary s;

    secondary_start(&s);
    fault("active-fault")->write_error = -ENOSPC;
    g_assert_cmpint(put(s.guest, 0, CHUNK, 0x33), ==, -ENOSPC);
    fault("active-fault")->write_error = 0;
    g_assert_cmpint(put(s.guest, 0, CHUNK, 0x33), ==, 0);
    fault("active-fault")->read_error = -EIO;
    g_assert_cmpint(get(s.guest, 0, CHUNK), ==, -EIO);
    fault("active-fault")->read_error = 0;
    no_replication_error();
    secondary_stop(&s);
}

static void test_backup_fails(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);

    /* The old content cannot be written */
    fault("hidden-fault")->write_error = -ENOSPC;
    g_assert_cmpint(put(s.peer, 5 * CHUNK, CHUNK, 0x22), ==, -ENOSPC);
    fault("hidden-fault")->write_error = 0;
    check_file("disk", 5 * CHUNK, CHUNK, 0x11);
    check_replication_error("could not be saved to the hidden disk");
    check_svm_view(s.guest);

    /* The SVM can still take over */
    replication_stop_all(true, &error_abort);
    wait_for_merge();
    no_replication_error();
    check_svm_view(s.guest);
    secondary_close(&s);
}

/* The old content cannot be read */
static void test_backup_read_fails(void)
{
    Secondary s;

    secondary_start(&s);
    fault("disk-fault")->read_error = -EIO;
    g_assert_cmpint(put(s.peer, 0, CHUNK, 0x22), ==, -EIO);
    fault("disk-fault")->read_error = 0;
    check_file("disk", 0, CHUNK, 0x11);
    check_replication_error("could not be saved to the hidden disk");
    secondary_stop(&s);
}

static void test_disk_fails(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    fault("disk-fault")->write_error = -EIO;
    g_assert_cmpint(put(s.peer, 5 * CHUNK, CHUNK, 0x22), ==, -EIO);
    fault("disk-fault")->write_error = 0;
    check_replication_error("write to the secondary disk failed");
    check_svm_view(s.guest);

    replication_stop_all(true, &error_abort);
    wait_for_merge();
    no_replication_error();
    check_svm_view(s.guest);
    secondary_close(&s);
}

static void empty_fails(const char *node, const char *text)
{
    Error *err = NULL;
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    fault(node)->write_error = -EIO;
    replication_do_checkpoint_all(&err);
    check_error(err, text);
    check_replication_error(text);

    /* Nobody runs from, or merges, half a checkpoint */
    g_assert_cmpint(get(s.guest, 0, 512), ==, -EIO);
    g_assert_cmpint(put(s.guest, 0, 512, 0x33), ==, -EIO);
    err = NULL;
    replication_stop_all(true, &err);
    check_error(err, "parts of two states");
    g_assert_null(merge_job());
    g_assert_cmpint(get(s.guest, 0, 512), ==, -EIO);
    check_file("disk", CHUNK, 2 * CHUNK, 0x22);
    check_file("disk", 3 * CHUNK, CHUNK, 0x11);
    fault(node)->write_error = 0;
    secondary_close(&s);
}

static void test_empty_active_fails(void)
{
    empty_fails("active-fault", "active disk could not be emptied");
}

static void test_empty_hidden_fails(void)
{
    empty_fails("hidden-fault", "hidden disk could not be emptied");
}

/* What failed once is rolled forward at failover if it works then */
static void test_empty_recovers(void)
{
    Error *err = NULL;
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    fault("hidden-fault")->write_error = -EIO;
    replication_do_checkpoint_all(&err);
    check_error(err, "hidden disk could not be emptied");
    fault("hidden-fault")->write_error = 0;
    replication_stop_all(true, &error_abort);
    wait_for_merge();
    no_replication_error();
    check_pvm_view(s.guest);
    secondary_close(&s);
}

/* A checkpoint does not touch an overlay that nobody has written to. */
static void test_empty_untouched(void)
{
    Secondary s;

    secondary_start(&s);
    fault("active-fault")->write_error = -EIO;
    fault("hidden-fault")->write_error = -EIO;
    replication_do_checkpoint_all(&error_abort);

    fault("active-fault")->write_error = 0;
    g_assert_cmpint(put(s.guest, 0, CHUNK, 0x33), ==, 0);
    replication_do_checkpoint_all(&error_abort);
    check_is(s.guest, 0, CHUNK, 0x11);

    fault("active-fault")->write_error = -EIO;
    fault("hidden-fault")->write_error = 0;
    g_assert_cmpint(put(s.peer, 0, CHUNK, 0x22), ==, 0);
    check_is(s.guest, 0, CHUNK, 0x11);
    replication_do_checkpoint_all(&error_abort);
    check_is(s.guest, 0, CHUNK, 0x22);

    fault("hidden-fault")->write_error = -EIO;
    replication_do_checkpoint_all(&error_abort);
    fault("active-fault")->write_error = 0;
    fault("hidden-fault")->write_error = 0;
    secondary_stop(&s);
}

static void test_merge_fails(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    fault("disk-fault")->write_error = -ENOSPC;
    replication_stop_all(true, &error_abort);
    wait_for_merge();
    check_replication_error("both are kept");
    check_replication_error(strerror(ENOSPC));

    /* Nothing is lost, the guest runs on, the former primary is refused */
    check_svm_view(s.guest);
    g_assert_cmpint(put(s.guest, 6 * CHUNK, CHUNK, 0x66), ==, 0);
    check_is(s.guest, 6 * CHUNK, CHUNK, 0x66);
    g_assert_cmpint(put(s.guest, 6 * CHUNK, CHUNK, 0x11), ==, 0);
    fault("disk-fault")->write_error = 0;
    g_assert_cmpint(put(s.peer, 0, 512, 0x55), ==, -EPERM);

    /* It can be tried again */
    replication_stop_all(true, &error_abort);
    wait_for_merge();
    no_replication_error();
    check_svm_view(s.guest);
    check_file("disk", CHUNK, CHUNK, 0x11);
    check_file("disk", 2 * CHUNK, 2 * CHUNK, 0x33);
    secondary_close(&s);
}

/* The node goes away while the overlays are being merged */
static void test_close_in_merge(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    replication_stop_all(true, &error_abort);
    secondary_close(&s);
    g_assert_null(merge_job());

    /* With the overlays the content is the SVM's, merged or not */
    secondary_open_nodes(&s);
    blk_unref(s.guest);
    s.guest = export_of(s.active);
    check_svm_view(s.guest);
    secondary_close(&s);
}

/* The SVM's device goes away while replication runs */
static void test_unplugged(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    blk_unref(s.guest);
    bdrv_unref(s.top);
    bdrv_unref(s.repl);
    s.guest = NULL;
    s.top = NULL;
    s.repl = NULL;
    no_replication_error();
    g_assert_cmpint(put(s.peer, 0, 512, 0x55), ==, 0);

    replication_stop_all(true, &error_abort);
    g_assert_cmpint(put(s.peer, 0, 512, 0x55), ==, -EPERM);
    g_assert_null(bdrv_find_node("repl"));
    secondary_close(&s);
}

/* QEMU exits while replication runs */
static void test_exit(void)
{
    Secondary s;

    secondary_start(&s);
    write_both(&s);
    job_cancel_sync_all();
    blk_unref(s.guest);
    bdrv_unref(s.top);
    bdrv_unref(s.repl);
    s.guest = NULL;
    s.top = NULL;
    s.repl = NULL;
    check_replication_error("removed while replication was running");
    g_assert_cmpint(put(s.peer, 0, 512, 0x55), ==, -EPERM);
    replication_stop_all(true, &error_abort);
    secondary_close(&s);
}

static bool blocked(BlockDriverState *bs)
{
    static const BlockOpType ops[] = {
        BLOCK_OP_TYPE_MIRROR_SOURCE, BLOCK_OP_TYPE_EXTERNAL_SNAPSHOT,
        BLOCK_OP_TYPE_RESIZE, BLOCK_OP_TYPE_DRIVE_DEL,
    };
    int i;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    for (i = 0; i < ARRAY_SIZE(ops); i++) {
        Error *err = NULL;

        if (!bdrv_op_is_blocked(bs, ops[i], &err)) {
            return false;
        }
        check_error(err, "The disk is replicated");
    }
    return true;
}

static void test_blockers(void)
{
    BlockBackend *blk;
    Error *err = NULL;
    Secondary s;

    secondary_start(&s);
    g_assert_true(blocked(s.top));
    blk_set_perm(s.peer, BLK_PERM_WRITE | BLK_PERM_RESIZE, BLK_PERM_ALL,
                 &error_abort);
    g_assert_cmpint(blk_truncate(s.peer, 2 * SIZE, true, PREALLOC_MODE_OFF, 0,
                                 NULL), ==, -EPERM);

    /* Nobody gets at the disk past the gate */
    blk = blk_new_with_bs(s.disk, BLK_PERM_WRITE, BLK_PERM_ALL, &err);
    g_assert_null(blk);
    g_assert_nonnull(err);
    error_free(err);

    replication_stop_all(true, &error_abort);
    wait_for_merge();
    g_assert_false(blocked(s.top));
    secondary_close(&s);
}

/* Starting what cannot be started changes nothing */
static void start_fails(Secondary *s, ReplicationMode mode, const char *text)
{
    Error *err = NULL;

    replication_start_all(mode, &err);
    check_error(err, text);
    g_assert_cmpint(get(s->guest, 0, 512), ==, -EIO);
    g_assert_cmpint(put(s->peer, 0, 512, 0x22), ==, 0);
    secondary_close(s);
}

static void test_wrong_disks(void)
{
    Secondary s;

    make_raw("disk", SIZE);
    make_qcow2("hidden", SIZE);
    make_qcow2("active", SIZE / 2);
    secondary_open_nodes(&s);
    start_fails(&s, REPLICATION_MODE_SECONDARY, "the same size");

    secondary_open(&s);
    start_fails(&s, REPLICATION_MODE_PRIMARY, "mode=secondary");

    secondary_open(&s);
    bdrv_enable_copy_on_read(bdrv_find_node("active"));
    start_fails(&s, REPLICATION_MODE_SECONDARY, "copy-on-read=on");

    make_images();
    secondary_open_nodes(&s);
    fault("hidden-fault")->write_error = -EIO;
    start_fails(&s, REPLICATION_MODE_SECONDARY, "hidden disk could not");
}

static void test_wrong_chain(void)
{
    BlockDriverState *active, *repl;
    BlockBackend *guest;
    Error *err = NULL;

    make_qcow2("active", SIZE);
    active = image_node("active", "qcow2", "");
    repl = other_node("{ 'driver': 'replication', 'mode': 'secondary',"
                      "  'top-id': 'repl', 'node-name': 'repl',"
                      "  'file': 'active' }", &error_abort);
    guest = guest_of(repl);
    replication_start_all(REPLICATION_MODE_SECONDARY, &err);
    check_error(err, "'active' has no backing file");
    blk_unref(guest);
    bdrv_unref(repl);
    bdrv_unref(active);
}

static void test_wrong_top(const void *opaque)
{
    const char *const *test = opaque;
    g_autofree char *json = NULL;
    Secondary s;

    secondary_open(&s);
    blk_unref(s.guest);
    bdrv_unref(s.top);
    bdrv_unref(s.repl);
    json = g_strdup_printf("{ 'driver': 'replication', 'mode': 'secondary',"
                           "  'top-id': '%s', 'node-name': 'repl',"
                           "  'file': 'active' }", test[0]);
    s.repl = other_node(json, &error_abort);
    s.top = NULL;
    s.guest = guest_of(s.repl);
    start_fails(&s, REPLICATION_MODE_SECONDARY, test[1]);
}

static const char *const wrong_tops[][2] = {
    { "nowhere", "there is no node or device 'nowhere'" },
    { "disk", "does not lead to replication node 'repl'" },
};

/* One disk of two cannot start: the other one is taken back */
static void test_start_all_or_none(void)
{
    BlockDriverState *bad;
    Error *err = NULL;
    Secondary s;
    int i;

    /* Whichever is asked first */
    for (i = 0; i < 2; i++) {
        if (i) {
            secondary_open(&s);
        }
        make_raw("peer", SIZE);
        bad = other_node("{ 'driver': 'replication', 'mode': 'primary',"
                         "  'node-name': 'bad', 'file': { 'driver':"
                         "  'null-co', 'size': 1048576,"
                         "  'read-zeroes': true } }", &error_abort);
        if (!i) {
            secondary_open(&s);
        }
        replication_start_all(REPLICATION_MODE_SECONDARY, &err);
        check_error(err, "'bad'");
        err = NULL;
        g_assert_cmpint(get(s.guest, 0, 512), ==, -EIO);
        g_assert_false(blocked(s.top));
        bdrv_unref(bad);
        secondary_close(&s);
    }
}

static void test_options(void)
{
    static const char *const wrong[][2] = {
        { "", "Option 'mode' is missing" },
        { ", 'mode': 'tertiary'", "'tertiary'" },
        { ", 'mode': 'secondary'", "Option 'top-id' is missing" },
        { ", 'mode': 'primary', 'top-id': 'x'", "Option 'top-id'" },
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(wrong); i++) {
        g_autofree char *json = g_strdup_printf(
            "{ 'driver': 'replication', 'file': { 'driver': 'null-co',"
            "  'read-zeroes': true } %s }", wrong[i][0]);
        Error *err = NULL;

        g_assert_null(other_node(json, &err));
        check_error(err, wrong[i][1]);
    }
}

/* The guest's disk in an iothread, and with it everything below */
static void test_iothread(void)
{
    IOThread *iothread = iothread_new();
    AioContext *ctx = iothread_get_aio_context(iothread);
    Secondary s;

    secondary_open(&s);
    blk_set_allow_aio_context_change(s.guest, false);
    g_assert_cmpint(blk_set_aio_context(s.guest, ctx, &error_abort), ==, 0);

    replication_start_all(REPLICATION_MODE_SECONDARY, &error_abort);
    g_assert(blk_get_aio_context(s.guest) == ctx);
    write_both(&s);
    check_svm_view(s.guest);
    replication_do_checkpoint_all(&error_abort);
    check_pvm_view(s.guest);
    g_assert_cmpint(put(s.peer, 0, SIZE, 0x11), ==, 0);
    replication_do_checkpoint_all(&error_abort);

    write_both(&s);
    replication_stop_all(true, &error_abort);
    g_assert_cmpint(put(s.peer, 0, 512, 0x55), ==, -EPERM);
    wait_for_merge();
    no_replication_error();
    check_svm_view(s.guest);
    g_assert(blk_get_aio_context(s.guest) == ctx);

    blk_set_allow_aio_context_change(s.guest, true);
    blk_set_aio_context(s.guest, qemu_get_aio_context(), &error_abort);
    secondary_close(&s);
    iothread_join(iothread);
}

/*
 * A device with an iothread moves the disk there when the VM starts, which is
 * right after the failover, and back when it stops. Do either after each step
 * of the main loop in turn, until the merge has ended before that.
 */
static bool merge_moved_at(int step, bool to_iothread, bool empty,
                           int write_error)
{
    IOThread *iothread = iothread_new();
    AioContext *ctx = iothread_get_aio_context(iothread);
    bool in_merge;
    Secondary s;
    int i;

    secondary_start(&s);
    if (!empty) {
        write_both(&s);
    }
    if (!to_iothread) {
        blk_set_aio_context(s.guest, ctx, &error_abort);
        ctx = qemu_get_aio_context();
    }
    fault("disk-fault")->write_error = -write_error;
    replication_stop_all(true, &error_abort);
    for (i = 0; i < step; i++) {
        main_loop_wait(true);
    }
    in_merge = merge_job();
    blk_set_aio_context(s.guest, ctx, &error_abort);
    wait_for_merge();
    if (write_error) {
        check_replication_error(strerror(write_error));
    } else {
        no_replication_error();
    }
    if (!empty) {
        check_svm_view(s.guest);
    }
    fault("disk-fault")->write_error = 0;
    put(s.guest, 0, SIZE, 0x11);
    if (write_error) {
        replication_stop_all(true, &error_abort);
        wait_for_merge();
        no_replication_error();
    }
    check_file("disk", 0, SIZE, 0x11);
    blk_set_aio_context(s.guest, qemu_get_aio_context(), &error_abort);
    secondary_close(&s);
    iothread_join(iothread);
    return in_merge;
}

static void move_at_each_step(bool to_iothread, bool empty)
{
    int step = 0;

    while (merge_moved_at(step, to_iothread, empty, 0)) {
        /* each of the first, then fewer: waiting turns of a busy machine */
        step += 1 + step / 8;
    }
}

static void test_moves_empty(void)
{
    move_at_each_step(true, true);
    move_at_each_step(false, true);
}

static void test_moves(void)
{
    move_at_each_step(true, false);
    move_at_each_step(false, false);
}

/* What fails at once does so after the VM was started */
static void test_moves_merge_fails(void)
{
    merge_moved_at(0, true, false, ENOSPC);
}

static void test_iothread_rollback(void)
{
    IOThread *iothread = iothread_new();
    AioContext *ctx = iothread_get_aio_context(iothread);
    Secondary s;

    secondary_open(&s);
    blk_set_allow_aio_context_change(s.guest, false);
    g_assert_cmpint(blk_set_aio_context(s.guest, ctx, &error_abort), ==, 0);
    replication_start_all(REPLICATION_MODE_SECONDARY, &error_abort);
    write_both(&s);
    replication_stop_all(false, &error_abort);
    check_pvm_view(s.peer);

    blk_set_allow_aio_context_change(s.guest, true);
    blk_set_aio_context(s.guest, qemu_get_aio_context(), &error_abort);
    secondary_close(&s);
    iothread_join(iothread);
}

static void remove_images(void)
{
    static const char *const names[] = {
        "local", "peer", "disk", "hidden", "active"
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *path = image(names[i]);

        unlink(path);
    }
    rmdir(dir);
}

#define PRIMARY "/colo/replication/primary/"
#define SECONDARY "/colo/replication/secondary/"

int main(int argc, char **argv)
{
    int ret;

    qemu_init_main_loop(&error_fatal);
    bdrv_init();
    bdrv_register(&fault_driver);
    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("colo-replication-XXXXXX", NULL);
    g_assert_nonnull(dir);

    g_test_add_func("/colo/replication/options", test_options);
    g_test_add_func(PRIMARY "forward", test_forward);
    g_test_add_func(PRIMARY "fast-zeroes", test_fast_zeroes);
    g_test_add_func(PRIMARY "forward-fails", test_forward_fails);
    g_test_add_func(PRIMARY "local-fails", test_local_fails);
    g_test_add_func(PRIMARY "local-read-fails", test_local_read_fails);
    g_test_add_func(PRIMARY "local-fails-before", test_local_fails_before);
    g_test_add_func(PRIMARY "flush-stays", test_flush_stays);
    g_test_add_func(PRIMARY "peer-hangs", test_peer_hangs);
    g_test_add_func(PRIMARY "stop", test_primary_stop);
    g_test_add_func(PRIMARY "held", test_held);
    g_test_add_func(PRIMARY "held-order", test_held_order);
    g_test_add_func(PRIMARY "held-fails", test_held_fails);
    g_test_add_func(PRIMARY "held-stop", test_held_stop);
    g_test_add_func(PRIMARY "held-lost", test_held_lost);
    g_test_add_func(PRIMARY "held-limit", test_held_limit);
    g_test_add_func(PRIMARY "restart", test_restart);
    g_test_add_func(PRIMARY "missed-write", test_missed_write);
    g_test_add_func(PRIMARY "peer-gone", test_peer_gone);
    g_test_add_func(PRIMARY "detached", test_detached);
    g_test_add_func(SECONDARY "checkpoint", test_checkpoint);
    g_test_add_func(SECONDARY "small-write", test_small_write);
    g_test_add_func(SECONDARY "read-against-write", test_read_against_write);
    g_test_add_func(SECONDARY "failover", test_failover);
    g_test_add_func(SECONDARY "failover-without-export",
                    test_no_export_at_failover);
    g_test_add_func(SECONDARY "rollback", test_rollback);
    g_test_add_func(SECONDARY "hidden-read-only", test_hidden_read_only);
    g_test_add_func(SECONDARY "active-fails", test_active_fails);
    g_test_add_func(SECONDARY "backup-fails", test_backup_fails);
    g_test_add_func(SECONDARY "backup-read-fails", test_backup_read_fails);
    g_test_add_func(SECONDARY "disk-fails", test_disk_fails);
    g_test_add_func(SECONDARY "empty-active-fails", test_empty_active_fails);
    g_test_add_func(SECONDARY "empty-hidden-fails", test_empty_hidden_fails);
    g_test_add_func(SECONDARY "empty-recovers", test_empty_recovers);
    g_test_add_func(SECONDARY "empty-untouched", test_empty_untouched);
    g_test_add_func(SECONDARY "merge-fails", test_merge_fails);
    g_test_add_func(SECONDARY "close-in-merge", test_close_in_merge);
    g_test_add_func(SECONDARY "unplugged", test_unplugged);
    g_test_add_func(SECONDARY "exit", test_exit);
    g_test_add_func(SECONDARY "blockers", test_blockers);
    g_test_add_func(SECONDARY "wrong-disks", test_wrong_disks);
    g_test_add_func(SECONDARY "wrong-chain", test_wrong_chain);
    g_test_add_data_func(SECONDARY "wrong-top/unknown", wrong_tops[0],
                         test_wrong_top);
    g_test_add_data_func(SECONDARY "wrong-top/elsewhere", wrong_tops[1],
                         test_wrong_top);
    g_test_add_func(SECONDARY "all-or-none", test_start_all_or_none);
    g_test_add_func(SECONDARY "iothread", test_iothread);
    g_test_add_func(SECONDARY "iothread-rollback", test_iothread_rollback);
    g_test_add_func(SECONDARY "iothread-moves/empty", test_moves_empty);
    g_test_add_func(SECONDARY "iothread-moves/merge", test_moves);
    g_test_add_func(SECONDARY "iothread-moves/merge-fails",
                    test_moves_merge_fails);

    ret = g_test_run();
    remove_images();
    g_free(dir);
    return ret;
}
