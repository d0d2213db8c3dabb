/*
 * Block replication: requests a second on a replicated disk
 *
 * bench-colo-replication FOLDER DISK ROLE OPERATION [SECONDS]
 *
 * 4 KiB each, at random, DEPTH of them under way, for SECONDS (0.5). Prints
 * "NAME VALUE" for each metric: requests a second, and the CPU time of one, in
 * all threads, which other load on the host hardly changes.
 *
 * DISK is "file", a raw image in FOLDER, which is best on a tmpfs; or "null",
 * which takes no time, so that what is left is the block layer and the driver.
 * ROLE is what is put on the disk:
 *
 *   none       nothing, to compare with
 *   primary    the driver as the primary has it: it forwards writes to the
 *              disk, and reads nothing
 *   secondary  active and hidden disk, in FOLDER; the requests are the SVM's
 *   export     the same; the requests are the primary's, to the disk below
 *
 * The last two need a file. Where overlays are empty a request costs more, and
 * each checkpoint empties them: so one is made each EPOCH writes, whose time
 * does not count. Reads follow one epoch of writes.
 *
 * Built with QEMU's own replication driver too, so nothing but what both trees
 * have is used.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "block/qdict.h"
#include "block/replication.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "system/block-backend.h"

#define SIZE    (256 * MiB)
#define BYTES   (4 * KiB)
#define DEPTH   16
#define EPOCH   4096

typedef struct Disk {
    const char *folder;
    bool null;
    const char *role;
    BlockDriverState *disk, *hidden, *active, *repl;
    BlockBackend *below;    /* on @disk */
    BlockBackend *top;      /* on @repl, if there is one */
    BlockBackend *user;     /* of the two, who sends the requests */
} Disk;

typedef struct Load {
    BlockBackend *blk;
    bool write;
    uint32_t random;
    unsigned left;          /* requests to begin */
    unsigned running;
    int error;
    uint64_t done;
    double seconds;         /* these took */
    double cpu_seconds;
} Load;

typedef struct Request {
    Load *load;
    QEMUIOVector qiov;
} Request;

/* ---- disks ---- */

static bool has_role(const Disk *d, const char *role)
{
    return g_str_equal(d->role, role);
}

static bool on_secondary(const Disk *d)
{
    return has_role(d, "secondary") || has_role(d, "export");
}

static BlockDriverState *open_node(const char *format, ...)
    G_GNUC_PRINTF(1, 2);

/* Options in JSON, with single quotes */
static BlockDriverState *open_node(const char *format, ...)
{
    g_autofree char *json = NULL;
    QDict *options;
    va_list ap;

    va_start(ap, format);
    json = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_strdelimit(json, "'", '"');
    options = qobject_to(QDict, qobject_from_json(json, &error_fatal));
    qdict_flatten(options);
    return bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_fatal);
}

static BlockDriverState *open_image(Disk *d, const char *driver,
                                    const char *name, const char *backing)
{
    g_autofree char *path = g_build_filename(d->folder, name, NULL);

    bdrv_img_create(path, driver, NULL, NULL, NULL, SIZE, BDRV_O_RDWR, true,
                    &error_fatal);
    return open_node("{ 'driver': '%s', 'node-name': '%s', 'file': {"
                     "  'driver': 'file', 'filename': '%s' } %s }",
                     driver, name, path, backing);
}

static BlockBackend *user_of(BlockDriverState *bs)
{
    BlockBackend *blk = blk_new(qemu_get_aio_context(),
                                BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                                BLK_PERM_ALL & ~BLK_PERM_RESIZE);

    blk_insert_bs(blk, bs, &error_fatal);
    return blk;
}

/* What a hole reads as costs nothing to copy: leave none. */
static void fill(BlockBackend *blk)
{
    g_autofree uint8_t *buf = g_malloc(MiB);
    int64_t offset;

    memset(buf, 0x5a, MiB);
    for (offset = 0; offset < SIZE; offset += MiB) {
        int ret = blk_pwrite(blk, offset, MiB, buf, 0);

        if (ret < 0) {
            error_report("can't fill the disk: %s", strerror(-ret));
            exit(1);
        }
    }
}

static void open_secondary(Disk *d)
{
    d->hidden = open_image(d, "qcow2", "hidden", ", 'backing': 'disk'");
    d->active = open_image(d, "qcow2", "active", ", 'backing': 'hidden'");
    d->repl = open_node("{ 'driver': 'replication', 'mode': 'secondary',"
                        "  'node-name': 'repl', 'top-id': 'repl',"
                        "  'file': 'active' }");
}

static void open_disk(Disk *d)
{
    if (d->null) {
        d->disk = open_node("{ 'driver': 'null-co', 'node-name': 'disk',"
                            "  'read-zeroes': true, 'size': %" PRId64 " }",
                            (int64_t)SIZE);
    } else {
        d->disk = open_image(d, "raw", "disk", "");
    }
    d->below = user_of(d->disk);
    fill(d->below);
}

static void open_all(Disk *d)
{
    ReplicationMode mode = on_secondary(d) ? REPLICATION_MODE_SECONDARY :
                                             REPLICATION_MODE_PRIMARY;

    open_disk(d);
    if (on_secondary(d)) {
        open_secondary(d);
    } else if (has_role(d, "primary")) {
        d->repl = open_node("{ 'driver': 'replication', 'mode': 'primary',"
                            "  'node-name': 'repl', 'file': 'disk' }");
    }
    if (d->repl) {
        d->top = user_of(d->repl);
        replication_start_all(mode, &error_fatal);
    }
    d->user = d->top && !has_role(d, "export") ? d->top : d->below;
}

static void remove_image(Disk *d, const char *name)
{
    g_autofree char *path = g_build_filename(d->folder, name, NULL);

    unlink(path);
}

static void close_all(Disk *d)
{
    replication_get_error_all(&error_fatal);
    if (d->top) {
        /* QEMU's own driver takes the end of its backup job for an error */
        replication_stop_all(!on_secondary(d), NULL);
        blk_unref(d->top);
    }
    blk_unref(d->below);
    bdrv_unref(d->repl);
    bdrv_unref(d->active);
    bdrv_unref(d->hidden);
    bdrv_unref(d->disk);
    remove_image(d, "active");
    remove_image(d, "hidden");
    remove_image(d, "disk");
}

/* ---- requests ---- */

static int64_t random_offset(Load *load)
{
    /* xorshift32: the same requests in each run */
    load->random ^= load->random << 13;
    load->random ^= load->random >> 17;
    load->random ^= load->random << 5;
    return load->random % (SIZE / BYTES) * BYTES;
}

static void request_done(void *opaque, int ret);

static void begin(Request *req)
{
    Load *load = req->load;

    load->left--;
    load->running++;
    (load->write ? blk_aio_pwritev : blk_aio_preadv)
        (load->blk, random_offset(load), &req->qiov, 0, request_done, req);
}

static void request_done(void *opaque, int ret)
{
    Request *req = opaque;
    Load *load = req->load;

    load->running--;
    if (ret < 0) {
        load->error = ret;
    }
    if (load->left && !load->error) {
        begin(req);
    }
}

static double clock_seconds(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void run_epoch(Load *load, Request *requests)
{
    double start = clock_seconds(CLOCK_MONOTONIC);
    double cpu_start = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
    int i;

    load->left = EPOCH;
    for (i = 0; i < DEPTH; i++) {
        begin(&requests[i]);
    }
    while (load->running) {
        aio_poll(qemu_get_aio_context(), true);
    }
    if (load->error) {
        error_report("a request failed: %s", strerror(-load->error));
        exit(1);
    }
    load->done += EPOCH;
    load->seconds += clock_seconds(CLOCK_MONOTONIC) - start;
    load->cpu_seconds += clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
}

static void measure(Disk *d, bool write, double seconds)
{
    Load load = { .blk = d->user, .random = 1, .write = true };
    uint8_t *buf = blk_blockalign(d->user, DEPTH * BYTES);
    Request requests[DEPTH];
    int i;

    memset(buf, 0xa5, DEPTH * BYTES);
    for (i = 0; i < DEPTH; i++) {
        requests[i].load = &load;
        qemu_iovec_init_buf(&requests[i].qiov, buf + i * BYTES, BYTES);
    }
    run_epoch(&load, requests);
    load.write = write;
    load.done = load.seconds = load.cpu_seconds = 0;
    do {
        if (write) {
            replication_do_checkpoint_all(&error_fatal);
        }
        run_epoch(&load, requests);
    } while (load.seconds < seconds);
    qemu_vfree(buf);
    printf("per_s %.1f\ncpu_us_each %.3f\n", load.done / load.seconds,
           load.cpu_seconds * 1e6 / load.done);
}

/* ---- options ---- */

static bool one_of(const char *value, const char *what, const char *all)
{
    g_auto(GStrv) names = g_strsplit(all, " ", 0);

    if (g_strv_contains((const char *const *)names, value)) {
        return true;
    }
    error_report("%s is '%s', must be one of: %s", what, value, all);
    return false;
}

static bool parse(int argc, char **argv, Disk *d, double *seconds)
{
    if (argc < 5 || argc > 6) {
        error_printf("usage: %s FOLDER DISK ROLE OPERATION [SECONDS]\n",
                     argv[0]);
        return false;
    }
    if (!one_of(argv[2], "DISK", "file null") ||
        !one_of(argv[3], "ROLE", "none primary secondary export") ||
        !one_of(argv[4], "OPERATION", "read write")) {
        return false;
    }
    if (argc == 6 && (qemu_strtod_finite(argv[5], NULL, seconds) < 0 ||
                      *seconds < 0 || *seconds > 3600)) {
        error_report("SECONDS is '%s', must be from 0 to 3600", argv[5]);
        return false;
    }
    d->folder = argv[1];
    d->null = g_str_equal(argv[2], "null");
    d->role = argv[3];
    if (d->null && on_secondary(d)) {
        error_report("ROLE %s needs a file as its disk", d->role);
        return false;
    }
    if (has_role(d, "primary") && g_str_equal(argv[4], "read")) {
        error_report("ROLE primary does not read: its local disk is read");
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    Disk disk = { 0 };
    double seconds = 0.5;

    error_init(argv[0]);
    if (!parse(argc, argv, &disk, &seconds)) {
        return 1;
    }
    qemu_init_main_loop(&error_fatal);
    bdrv_init();
    open_all(&disk);
    measure(&disk, g_str_equal(argv[4], "write"), seconds);
    close_all(&disk);
    return 0;
}
