/*
 * QTest: block replication between two QEMUs over NBD
 *
 * Without VMs: each side exports its guest's disk, which qemu-io writes to and
 * reads from, and the replication is driven with Xen's commands, which call
 * what the checkpoint engine calls.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <signal.h>
#include "libqtest.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#define SIZE (4 * MiB)

static char *dir;

typedef struct Host {
    QTestState *qts;
    char *socket;           /* of its NBD server */
    bool exited;
} Host;

typedef struct Pair {
    Host primary, secondary;
} Pair;

/* How the two are wired; DIR in the command lines stands for the folder */
typedef struct Wiring {
    const char *primary;
    const char *secondary;
    void (*connect)(Pair *p);
    bool iothread;
} Wiring;

static char *path(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static void make_raw(const char *name, int value)
{
    g_autofree char *file = path(name);
    g_autofree char *content = g_malloc(SIZE);

    memset(content, value, SIZE);
    g_assert_true(g_file_set_contents(file, content, SIZE, NULL));
}

/* The tool @name, of the build that QTEST_QEMU_IMG is from */
static char *tool(const char *name)
{
    const char *qemu_img = getenv("QTEST_QEMU_IMG");
    g_autofree char *bin = NULL;

    if (!qemu_img) {
        return g_strdup(name);
    }
    bin = g_path_get_dirname(qemu_img);
    return g_build_filename(bin, name, NULL);
}

static void make_qcow2(const char *name)
{
    g_autofree char *qemu_img = tool("qemu-img");
    g_autofree char *file = path(name);
    g_autofree char *size = g_strdup_printf("%" PRId64, (int64_t)SIZE);
    const char *argv[] = {
        qemu_img, "create", "-q", "-f", "qcow2", file, size, NULL
    };
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH,
                               NULL, NULL, NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

/* What is in the file, whatever the QEMU that has it open is doing */
static void check_file(const char *name, int64_t offset, int64_t bytes,
                       int value)
{
    g_autofree char *file = path(name);
    g_autofree uint8_t *buf = g_malloc(bytes);
    int fd = open(file, O_RDONLY);
    int64_t i;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, buf, bytes, offset), ==, bytes);
    for (i = 0; i < bytes; i++) {
        g_assert_cmpint(buf[i], ==, value);
    }
    close(fd);
}

/* The standard output is for TAP */
static void output_to_stderr(void *opaque)
{
    dup2(STDERR_FILENO, STDOUT_FILENO);
}

/* Start a qemu-io command on the guest's disk */
static GPid disk_start(Host *host, const char *command)
{
    g_autofree char *qemu_io = tool("qemu-io");
    g_autofree char *url = g_strdup_printf("nbd+unix:///guest?socket=%s",
                                           host->socket);
    const char *argv[] = {
        qemu_io, "-f", "raw", "-c", command, url, NULL
    };
    GPid pid;

    g_assert_true(g_spawn_async(NULL, (char **)argv, NULL,
                                G_SPAWN_SEARCH_PATH |
                                G_SPAWN_DO_NOT_REAP_CHILD,
                                output_to_stderr, NULL, &pid, NULL));
    return pid;
}

/* The command succeeds; a read of other content does not */
static void disk_wait(GPid pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    g_spawn_close_pid(pid);
}

static void disk_ok(Host *host, const char *command)
{
    disk_wait(disk_start(host, command));
}

static void replication(Host *host, bool enable, bool primary,
                        bool failover)
{
    if (enable) {
        qtest_qmp_assert_success(host->qts, "{ 'execute':"
            " 'xen-set-replication', 'arguments': { 'enable': true,"
            " 'primary': %i } }", primary);
    } else {
        qtest_qmp_assert_success(host->qts, "{ 'execute':"
            " 'xen-set-replication', 'arguments': { 'enable': false,"
            " 'primary': %i, 'failover': %i } }", primary, failover);
    }
}

static void checkpoint(Pair *p)
{
    qtest_qmp_assert_success(p->secondary.qts,
                             "{ 'execute': 'xen-colo-do-checkpoint' }");
    qtest_qmp_assert_success(p->primary.qts,
                             "{ 'execute': 'xen-colo-do-checkpoint' }");
}

/* @text is in the replication error, or NULL: there is none */
static void check_error(Host *host, const char *text)
{
    QDict *status = qtest_qmp_assert_success_ref(
        host->qts, "{ 'execute': 'query-xen-replication-status' }");

    g_assert_cmpint(qdict_get_bool(status, "error"), ==, text != NULL);
    if (text && !strstr(qdict_get_str(status, "desc"), text)) {
        g_error("'%s' is not in '%s'", text, qdict_get_str(status, "desc"));
    }
    qobject_unref(status);
}

static QTestState *start(const char *disks_format)
{
    QList *capabilities = qlist_new();
    g_auto(GStrv) parts = g_strsplit(disks_format, "DIR", -1);
    g_autofree char *disks = g_strjoinv(dir, parts);
    g_autofree char *args = g_strdup_printf("-machine none -object "
                                            "iothread,id=iothread0 %s", disks);
    QTestState *s;

    qlist_append_str(capabilities, "oob");
    s = qtest_init_with_env_and_capabilities(NULL, args, capabilities, true);
    qobject_unref(capabilities);
    return s;
}

static void hmp_silent(QTestState *s, const char *command)
{
    g_autofree char *out = qtest_hmp(s, "%s", command);

    g_assert_cmpstr(out, ==, "");
}

/* As COLO's documentation has it */

static void connect_drives(Pair *p)
{
    g_autofree char *drive_add = NULL;

    qtest_qmp_assert_success(p->secondary.qts, "{ 'execute': 'nbd-server-add',"
        " 'arguments': { 'device': 'parent0', 'writable': true } }");

    drive_add = g_strdup_printf("drive_add -n buddy driver=replication,"
        "mode=primary,file.driver=nbd,file.server.type=unix,"
        "file.server.path=%s,file.export=parent0,node-name=replication0",
        p->secondary.socket);
    hmp_silent(p->primary.qts, drive_add);
    qtest_qmp_assert_success(p->primary.qts, "{ 'execute': 'x-blockdev-change',"
        " 'arguments': { 'parent': 'disk', 'node': 'replication0' } }");
}

static const Wiring drives = {
    .primary =
        "-drive if=none,id=disk,driver=quorum,read-pattern=fifo,"
        "vote-threshold=1,children.0.file.filename=DIR/local,"
        "children.0.driver=raw",
    .secondary =
        "-incoming defer "
        "-drive if=none,id=parent0,file.filename=DIR/disk,driver=raw "
        "-drive if=none,id=childs0,driver=replication,mode=secondary,"
        "file.driver=qcow2,top-id=disk,file.file.filename=DIR/active,"
        "file.backing.driver=qcow2,file.backing.file.filename=DIR/hidden,"
        "file.backing.backing=parent0 "
        "-drive if=none,id=disk,driver=quorum,read-pattern=fifo,"
        "vote-threshold=1,children.0=childs0",
    .connect = connect_drives,
};

/* The same with nothing that is deprecated or HMP's alone */

static void connect_nodes(Pair *p)
{
    qtest_qmp_assert_success(p->secondary.qts, "{ 'execute':"
        " 'block-export-add', 'arguments': { 'type': 'nbd', 'id': 'export0',"
        " 'name': 'parent0', 'node-name': 'parent0', 'writable': true } }");

    qtest_qmp_assert_success(p->primary.qts, "{ 'execute': 'blockdev-add',"
        " 'arguments': { 'driver': 'replication', 'mode': 'primary',"
        " 'node-name': 'replication0', 'file': { 'driver': 'nbd',"
        " 'node-name': 'nbd0', 'export': 'parent0', 'server': {"
        " 'type': 'unix', 'path': %s } } } }", p->secondary.socket);
    qtest_qmp_assert_success(p->primary.qts, "{ 'execute': 'x-blockdev-change',"
        " 'arguments': { 'parent': 'disk', 'node': 'replication0' } }");
}

#define NODES_PRIMARY \
    "-blockdev driver=file,node-name=file0,filename=DIR/local " \
    "-blockdev driver=raw,node-name=local0,file=file0 " \
    "-blockdev driver=quorum,node-name=disk,read-pattern=fifo," \
    "vote-threshold=1,children.0=local0"

#define NODES_SECONDARY \
    "-incoming defer " \
    "-blockdev driver=raw,node-name=parent0,file.driver=file," \
    "file.filename=DIR/disk " \
    "-blockdev driver=qcow2,node-name=hidden0,file.driver=file," \
    "file.filename=DIR/hidden,backing=parent0 " \
    "-blockdev driver=qcow2,node-name=active0,file.driver=file," \
    "file.filename=DIR/active,backing=hidden0 " \
    "-blockdev driver=replication,node-name=childs0,mode=secondary," \
    "top-id=disk,file=active0 " \
    "-blockdev driver=quorum,node-name=disk,read-pattern=fifo," \
    "vote-threshold=1,children.0=childs0"

static const Wiring nodes = {
    .primary = NODES_PRIMARY,
    .secondary = NODES_SECONDARY,
    .connect = connect_nodes,
};

static const Wiring nodes_iothread = {
    .primary = NODES_PRIMARY,
    .secondary = NODES_SECONDARY,
    .connect = connect_nodes,
    .iothread = true,
};

static Host host_start(const char *name, const char *disks, bool iothread)
{
    Host host = {
        .qts = start(disks),
        .socket = path(name),
    };

    qtest_qmp_assert_success(host.qts, "{ 'execute': 'nbd-server-start',"
        " 'arguments': { 'addr': { 'type': 'unix',"
        " 'data': { 'path': %s } } } }", host.socket);
    if (iothread) {
        /* The disk is in the iothread to stay, as with a guest's device */
        qtest_qmp_assert_success(host.qts, "{ 'execute': 'block-export-add',"
            " 'arguments': { 'type': 'nbd', 'id': 'guest', 'name': 'guest',"
            " 'node-name': 'disk', 'writable': true,"
            " 'iothread': 'iothread0', 'fixed-iothread': true } }");
    } else {
        qtest_qmp_assert_success(host.qts, "{ 'execute': 'nbd-server-add',"
            " 'arguments': { 'device': 'disk', 'name': 'guest',"
            " 'writable': true } }");
    }
    return host;
}

static void pair_open(Pair *p, const Wiring *wiring)
{
    make_raw("local", 0x11);
    make_raw("disk", 0x11);
    make_qcow2("hidden");
    make_qcow2("active");

    *p = (Pair) {
        .primary = host_start("nbd-primary", wiring->primary,
                              wiring->iothread),
        .secondary = host_start("nbd-secondary", wiring->secondary,
                                wiring->iothread),
    };
    wiring->connect(p);
    replication(&p->secondary, true, false, false);
    replication(&p->primary, true, true, false);
}

/* As if its host lost power */
static void host_kill(Host *host)
{
    pid_t pid = qtest_pid(host->qts);

    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    /* libqtest sees that it is gone, and not how */
    g_assert_false(qtest_probe_child(host->qts));
    host->exited = true;
}

static void host_exit(Host *host)
{
    qtest_qmp_assert_success(host->qts, "{ 'execute': 'quit' }");
    qtest_wait_qemu(host->qts);
    host->exited = true;
}

static void host_close(Host *host)
{
    if (!host->exited) {
        host_kill(host);
    }
    qtest_quit(host->qts);
    unlink(host->socket);
    g_free(host->socket);
}

static void pair_close(Pair *p)
{
    host_close(&p->primary);
    host_close(&p->secondary);
}

/* The merge runs as a job one can see, and ends */
static void wait_for_merge(Host *host)
{
    QDict *event = qtest_qmp_eventwait_ref(host->qts, "BLOCK_JOB_COMPLETED");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "device"), ==,
                    "replication-merge-disk");
    g_assert_false(qdict_haskey(data, "error"));
    qobject_unref(event);
}

/* PVM: 2nd and 3rd 64k are 0x22; SVM: 3rd and 4th are 0x33 */
static void write_both(Pair *p)
{
    disk_ok(&p->primary, "write -P 0x22 64k 128k");
    disk_ok(&p->secondary, "write -P 0x33 128k 128k");
}

static void check_svm(Host *host)
{
    disk_ok(host, "read -P 0x11 0 128k");
    disk_ok(host, "read -P 0x33 128k 128k");
    disk_ok(host, "read -P 0x11 256k 64k");
}

static void check_pvm(Host *host)
{
    disk_ok(host, "read -P 0x11 0 64k");
    disk_ok(host, "read -P 0x22 64k 128k");
    disk_ok(host, "read -P 0x11 192k 128k");
}

/* Whoever looks at the nodes gets an answer */
static void query_nodes(Host *host)
{
    static const char *const queries[] = {
        "query-block", "query-named-block-nodes", "query-blockstats",
        "query-block-jobs", "query-jobs", "query-block-exports",
        "x-debug-query-block-graph",
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(queries); i++) {
        qtest_qmp_assert_success(host->qts, "{ 'execute': %s }", queries[i]);
    }
}

static void test_checkpoints(const void *opaque)
{
    Pair p;

    pair_open(&p, opaque);
    query_nodes(&p.primary);
    query_nodes(&p.secondary);
    write_both(&p);
    check_svm(&p.secondary);
    check_pvm(&p.primary);
    check_file("disk", 64 * KiB, 128 * KiB, 0x22);

    checkpoint(&p);
    check_pvm(&p.secondary);
    disk_ok(&p.primary, "write -P 0x44 64k 64k");
    check_pvm(&p.secondary);
    checkpoint(&p);
    disk_ok(&p.secondary, "read -P 0x44 64k 64k");

    check_error(&p.primary, NULL);
    check_error(&p.secondary, NULL);
    replication(&p.primary, false, true, false);
    replication(&p.secondary, false, false, false);
    check_file("disk", 64 * KiB, 64 * KiB, 0x44);
    check_file("disk", 128 * KiB, 64 * KiB, 0x22);
    pair_close(&p);
}

/* The primary dies; the secondary's disk is what its VM saw */
static void test_secondary_failover(const void *opaque)
{
    Pair p;

    pair_open(&p, opaque);
    disk_ok(&p.primary, "write -P 0x11 1M 64k");
    checkpoint(&p);
    write_both(&p);
    host_kill(&p.primary);

    replication(&p.secondary, false, false, true);
    query_nodes(&p.secondary);
    check_svm(&p.secondary);
    wait_for_merge(&p.secondary);
    query_nodes(&p.secondary);
    check_svm(&p.secondary);
    check_error(&p.secondary, NULL);
    check_file("disk", 0, 128 * KiB, 0x11);
    check_file("disk", 128 * KiB, 128 * KiB, 0x33);
    disk_ok(&p.secondary, "write -P 0x55 1M 64k");
    check_file("disk", 1 * MiB, 64 * KiB, 0x55);
    pair_close(&p);
}

/* The primary is not dead: what it still sends is refused */
static void test_former_primary(const void *opaque)
{
    Pair p;

    pair_open(&p, opaque);
    write_both(&p);
    g_assert_cmpint(kill(qtest_pid(p.primary.qts), SIGSTOP), ==, 0);
    replication(&p.secondary, false, false, true);
    g_assert_cmpint(kill(qtest_pid(p.primary.qts), SIGCONT), ==, 0);

    disk_ok(&p.primary, "write -P 0x66 0 512k");
    check_file("local", 0, 512 * KiB, 0x66);
    check_error(&p.primary, "could not be forwarded");
    check_svm(&p.secondary);
    wait_for_merge(&p.secondary);
    check_svm(&p.secondary);
    check_file("disk", 0, 128 * KiB, 0x11);
    check_file("disk", 128 * KiB, 128 * KiB, 0x33);
    check_file("disk", 256 * KiB, 256 * KiB, 0x11);
    check_error(&p.secondary, NULL);
    pair_close(&p);
}

/* The secondary dies: the guest's writes go on */
static void test_primary_failover(const void *opaque)
{
    Pair p;

    pair_open(&p, opaque);
    disk_ok(&p.primary, "write -P 0x22 0 64k");
    host_kill(&p.secondary);

    disk_ok(&p.primary, "write -P 0x22 64k 64k");
    check_error(&p.primary, "could not be forwarded");
    disk_ok(&p.primary, "write -P 0x22 128k 64k");
    replication(&p.primary, false, true, true);
    disk_ok(&p.primary, "write -P 0x33 0 64k");
    check_file("local", 0, 64 * KiB, 0x33);
    check_file("local", 64 * KiB, 128 * KiB, 0x22);
    pair_close(&p);
}

/*
 * Start a write of 0x22 to the first 64k and return when the local disk has it
 * while the secondary, which is stopped, does not answer.
 */
static GPid write_to_hanging(Pair *p)
{
    g_autofree char *file = path("local");
    GPid write;
    char byte = 0;
    int fd = open(file, O_RDONLY);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(kill(qtest_pid(p->secondary.qts), SIGSTOP), ==, 0);
    write = disk_start(&p->primary, "write -P 0x22 0 64k");
    while (byte != 0x22) {
        check_error(&p->primary, NULL);
        g_assert_cmpint(pread(fd, &byte, 1, 64 * KiB - 1), ==, 1);
    }
    close(fd);
    return write;
}

/* The secondary hangs: yank gets the guest's write going again */
static void test_yank(const void *opaque)
{
    Pair p;
    GPid write;

    pair_open(&p, opaque);
    write = write_to_hanging(&p);
    qtest_qmp_assert_success(p.primary.qts, "{ 'exec-oob': 'yank', 'id': 1,"
        " 'arguments': { 'instances': [ { 'type': 'block-node',"
        " 'node-name': 'nbd0' } ] } }");
    disk_wait(write);

    check_file("local", 0, 64 * KiB, 0x22);
    check_error(&p.primary, "could not be forwarded");
    replication(&p.primary, false, true, true);
    g_assert_cmpint(kill(qtest_pid(p.secondary.qts), SIGCONT), ==, 0);
    pair_close(&p);
}

/* The secondary hangs: failover on the primary cuts the connection */
static void test_stop_while_hanging(const void *opaque)
{
    Pair p;
    GPid write;

    pair_open(&p, opaque);
    write = write_to_hanging(&p);
    replication(&p.primary, false, true, true);
    disk_wait(write);
    check_file("local", 0, 64 * KiB, 0x22);
    disk_ok(&p.primary, "write -P 0x33 0 64k");
    qtest_qmp_assert_success(p.primary.qts, "{ 'execute': 'x-blockdev-change',"
        " 'arguments': { 'parent': 'disk', 'child': 'children.1' } }");
    qtest_qmp_assert_success(p.primary.qts, "{ 'execute': 'blockdev-del',"
        " 'arguments': { 'node-name': 'replication0' } }");
    g_assert_cmpint(kill(qtest_pid(p.secondary.qts), SIGCONT), ==, 0);
    pair_close(&p);
}

/* The secondary hangs and nobody does anything: the primary gives it up */
static void test_peer_hangs(const void *opaque)
{
    Pair p;
    GPid write;

    pair_open(&p, opaque);
    write = write_to_hanging(&p);

    /* Waits for the write in the main thread, as stopping a VM would */
    qtest_qmp_assert_success(p.primary.qts, "{ 'execute': 'x-blockdev-change',"
        " 'arguments': { 'parent': 'disk', 'child': 'children.1' } }");
    disk_wait(write);
    check_file("local", 0, 64 * KiB, 0x22);
    check_error(&p.primary, "'replication0'");
    replication(&p.primary, false, true, true);
    disk_ok(&p.primary, "write -P 0x33 0 64k");
    g_assert_cmpint(kill(qtest_pid(p.secondary.qts), SIGCONT), ==, 0);
    pair_close(&p);
}

/* QEMU exits in the middle of it, on either side */
static void test_quit(const void *opaque)
{
    Pair p;

    pair_open(&p, opaque);
    write_both(&p);
    host_exit(&p.secondary);
    host_exit(&p.primary);
    pair_close(&p);
}

static void add(const char *name, const Wiring *wiring, const char *wiring_name,
                void (*test)(const void *))
{
    g_autofree char *full = g_strdup_printf("/colo/block/%s/%s", wiring_name,
                                            name);

    qtest_add_data_func(full, wiring, test);
}

static void add_all(const Wiring *wiring, const char *name)
{
    add("checkpoints", wiring, name, test_checkpoints);
    add("secondary-failover", wiring, name, test_secondary_failover);
    add("former-primary", wiring, name, test_former_primary);
    add("primary-failover", wiring, name, test_primary_failover);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {
        "local", "disk", "hidden", "active"
    };
    int ret, i;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("colo-block-XXXXXX", NULL);
    g_assert_nonnull(dir);

    add_all(&drives, "drives");
    add_all(&nodes, "nodes");
    add_all(&nodes_iothread, "iothread");
    /*
     * Not in an iothread: QEMU 10.0 can't take two exports out of one graph
     * there at exit, as it polls with the graph locked.
     */
    add("quit", &drives, "drives", test_quit);
    add("quit", &nodes, "nodes", test_quit);
    add("yank", &nodes, "nodes", test_yank);
    add("yank", &nodes_iothread, "iothread", test_yank);
    add("stop-while-hanging", &nodes, "nodes", test_stop_while_hanging);
    add("stop-while-hanging", &nodes_iothread, "iothread",
        test_stop_while_hanging);
    add("peer-hangs", &nodes, "nodes", test_peer_hangs);
    add("peer-hangs", &nodes_iothread, "iothread", test_peer_hangs);

    ret = g_test_run();
    for (i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *file = path(names[i]);

        unlink(file);
    }
    rmdir(dir);
    g_free(dir);
    return ret;
}
