/*
 * QTest testcases for the objects of the COLO proxy, outside of COLO
 *
 * Their character devices are UNIX sockets that QEMU listens on, so that
 * the tests play every peer and can reconnect.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "qemu/bswap.h"
#include "qemu/sockets.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qapi/error.h"

#define MAX_CHARDEVS 4

/* Longest packet of a frame, in bytes. */
#define MAX_PACKET (4096 + 65536)

static const char *const chardevs[MAX_CHARDEVS] = { "c0", "c1", "c2", "c3" };

typedef struct Setup {
    QTestState *qts;
    char *dir;
    /* the other end of the netdev "n0" */
    int net;
} Setup;

static char *chardev_path(Setup *s, const char *id)
{
    return g_strdup_printf("%s/%s", s->dir, id);
}

static void setup_start(Setup *s)
{
    g_autoptr(GString) args = g_string_new("-object iothread,id=io");
    int net[2];

    s->dir = g_dir_make_tmp("colo-proxy-XXXXXX", NULL);
    g_assert_nonnull(s->dir);
    g_assert_cmpint(socketpair(PF_UNIX, SOCK_STREAM, 0, net), ==, 0);
    s->net = net[0];
    for (int i = 0; i < MAX_CHARDEVS; i++) {
        g_autofree char *path = chardev_path(s, chardevs[i]);

        g_string_append_printf(args, " -chardev socket,id=%s,path=%s,"
                               "server=on,wait=off", chardevs[i], path);
    }
    s->qts = qtest_initf("%s -nic socket,id=n0,fd=%d", args->str, net[1]);
    close(net[1]);
}

static void setup_end(Setup *s)
{
    qtest_quit(s->qts);
    close(s->net);
    for (int i = 0; i < MAX_CHARDEVS; i++) {
        g_autofree char *path = chardev_path(s, chardevs[i]);

        unlink(path);
    }
    g_assert_cmpint(rmdir(s->dir), ==, 0);
    g_free(s->dir);
}

static void add(Setup *s, const char *json)
{
    qtest_qmp_assert_success(s->qts, "{'execute': 'object-add',"
                             " 'arguments': %p}",
                             qobject_from_json(json, &error_abort));
}

static void del(Setup *s, const char *id)
{
    qtest_qmp_assert_success(s->qts, "{'execute': 'object-del',"
                             " 'arguments': {'id': %s}}", id);
}

/* Adding must fail with a message in which all of @words occur. */
static void add_fails(Setup *s, const char *json, const char *words)
{
    g_auto(GStrv) list = g_strsplit(words, " ", -1);
    QDict *rsp = qtest_qmp(s->qts, "{'execute': 'object-add',"
                           " 'arguments': %p}",
                           qobject_from_json(json, &error_abort));
    const char *desc;

    g_assert_true(qdict_haskey(rsp, "error"));
    desc = qdict_get_str(qdict_get_qdict(rsp, "error"), "desc");
    for (int i = 0; list[i]; i++) {
        if (!strstr(desc, list[i])) {
            g_error("'%s' is not in the error '%s'", list[i], desc);
        }
    }
    qobject_unref(rsp);
}

static bool chardev_connected(Setup *s, const char *id)
{
    QDict *rsp = qtest_qmp(s->qts, "{'execute': 'query-chardev'}");
    QListEntry *entry;
    bool connected = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), entry) {
        QDict *chardev = qobject_to(QDict, qlist_entry_obj(entry));

        if (!strcmp(qdict_get_str(chardev, "label"), id)) {
            connected = !g_str_has_prefix(qdict_get_str(chardev, "filename"),
                                          "disconnected:");
        }
    }
    qobject_unref(rsp);
    return connected;
}

/*
 * For a character device QEMU reads from: what is sent before it accepts the
 * connection is not lost.
 */
static int connect_input(Setup *s, const char *id)
{
    g_autofree char *path = chardev_path(s, id);

    return unix_connect(path, &error_abort);
}

/*
 * For one that QEMU writes to: what it has to send before is lost, so wait.
 * To be used while the main loop serves the device.
 */
static int connect_output(Setup *s, const char *id)
{
    int fd;

    while (chardev_connected(s, id)) {
        continue;
    }
    fd = connect_input(s, id);
    while (!chardev_connected(s, id)) {
        continue;
    }
    return fd;
}

static void put(int fd, const void *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

        g_assert_cmpint(n, >, 0);
        buf += n;
        len -= n;
    }
}

static void put_be32(int fd, uint32_t value)
{
    uint8_t buf[4];

    stl_be_p(buf, value);
    put(fd, buf, sizeof(buf));
}

static void put_frame(int fd, const char *packet)
{
    put_be32(fd, strlen(packet));
    put(fd, packet, strlen(packet));
}

static void get(int fd, void *buf, size_t len)
{
    g_assert_cmpint(recv(fd, buf, len, MSG_WAITALL), ==, len);
}

static uint32_t get_be32(int fd)
{
    uint8_t buf[4];

    get(fd, buf, sizeof(buf));
    return ldl_be_p(buf);
}

static void get_frame(int fd, const char *packet)
{
    char buf[128] = {};

    g_assert_cmpuint(get_be32(fd), ==, strlen(packet));
    get(fd, buf, strlen(packet));
    g_assert_cmpstr(buf, ==, packet);
}

/* The peer closes; what it has sent before is left unread. */
static void expect_close(int fd)
{
    char buf[64];

    while (recv(fd, buf, sizeof(buf), 0) > 0) {
        continue;
    }
    close(fd);
}

#define MIRROR(options) \
    "{'qom-type': 'filter-mirror', 'id': 'm0', 'netdev': 'n0'" options "}"
#define REDIRECTOR(options) \
    "{'qom-type': 'filter-redirector', 'id': 'r0', 'netdev': 'n0'" options "}"
#define COMPARE(options) \
    "{'qom-type': 'colo-compare', 'id': 'comp0'" options "}"
#define COMPARE_DEVS \
    ", 'primary_in': 'c0', 'secondary_in': 'c1', 'outdev': 'c2'"
#define COMPARE_ALL COMPARE_DEVS ", 'iothread': 'io'"

static void test_options_filters(void)
{
    Setup s;

    setup_start(&s);
    add_fails(&s, MIRROR(""), "outdev missing");
    add_fails(&s, MIRROR(", 'outdev': 'nope'"), "filter-mirror outdev nope");
    add_fails(&s, MIRROR(", 'outdev': 'c0', 'queue': 'up'"), "queue up");
    add_fails(&s, MIRROR(", 'outdev': 'c0', 'status': 'maybe'"), "status");
    add_fails(&s, MIRROR(", 'outdev': 'c0', 'position': 'middle'"),
              "position");
    add_fails(&s, MIRROR(", 'outdev': 'c0', 'position': 'id=nope'"), "nope");
    add_fails(&s, "{'qom-type': 'filter-mirror', 'id': 'm0', 'netdev': 'n9',"
              " 'outdev': 'c0'}", "netdev");
    add_fails(&s, REDIRECTOR(""), "indev outdev");
    add_fails(&s, REDIRECTOR(", 'indev': 'nope'"), "indev nope");
    add_fails(&s, REDIRECTOR(", 'outdev': 'nope'"), "outdev nope");
    add_fails(&s, REDIRECTOR(", 'indev': 'c0', 'outdev': 'c0'"),
              "indev outdev c0");
    /* a failed attempt leaves nothing behind */
    add(&s, MIRROR(", 'outdev': 'c0'"));
    add_fails(&s, REDIRECTOR(", 'outdev': 'c0'"), "outdev c0 in use");
    del(&s, "m0");
    add(&s, REDIRECTOR(", 'outdev': 'c0'"));
    setup_end(&s);
}

static void test_options_compare(void)
{
    Setup s;

    setup_start(&s);
    add_fails(&s, COMPARE(", 'primary_in': 'nope', 'secondary_in': 'c1',"
                          " 'outdev': 'c2', 'iothread': 'io'"),
              "primary_in nope");
    add_fails(&s, COMPARE(", 'primary_in': 'c0', 'secondary_in': 'nope',"
                          " 'outdev': 'c2', 'iothread': 'io'"),
              "secondary_in nope");
    add_fails(&s, COMPARE(", 'primary_in': 'c0', 'secondary_in': 'c1',"
                          " 'outdev': 'nope', 'iothread': 'io'"),
              "outdev nope");
    add_fails(&s, COMPARE(COMPARE_DEVS ", 'iothread': 'nope'"), "nope");
    add_fails(&s, COMPARE(COMPARE_DEVS), "iothread");
    add_fails(&s, COMPARE(", 'primary_in': 'c0', 'secondary_in': 'c0',"
                          " 'outdev': 'c2', 'iothread': 'io'"),
              "primary_in secondary_in c0");
    add_fails(&s, COMPARE(COMPARE_ALL ", 'notify_dev': 'c2'"),
              "outdev notify_dev c2");
    add_fails(&s, COMPARE(COMPARE_ALL ", 'notify_dev': 'nope'"),
              "notify_dev nope");
    add_fails(&s, COMPARE(COMPARE_ALL ", 'compare_timeout': 0"),
              "compare_timeout 0");
    add_fails(&s, COMPARE(COMPARE_ALL ", 'compare_timeout': 4294967296"),
              "compare_timeout 4294967296");
    add_fails(&s, COMPARE(COMPARE_ALL ", 'expired_scan_cycle': 0"),
              "expired_scan_cycle 0");
    add_fails(&s, COMPARE(COMPARE_ALL ", 'max_queue_size': 0"),
              "max_queue_size 0");
    add_fails(&s, COMPARE(COMPARE_ALL ", 'max_queue_size': -1"),
              "max_queue_size");
    add(&s, COMPARE(COMPARE_ALL ", 'notify_dev': 'c3', 'max_queue_size': 7"));
    del(&s, "comp0");
    setup_end(&s);
}

static void get_property(Setup *s, const char *name, int64_t value)
{
    QDict *rsp = qtest_qmp(s->qts, "{'execute': 'qom-get', 'arguments':"
                           " {'path': '/objects/comp0', 'property': %s}}",
                           name);

    g_assert_cmpint(qdict_get_int(rsp, "return"), ==, value);
    qobject_unref(rsp);
}

static void set_property(Setup *s, const char *name, int64_t value, bool fails)
{
    QDict *rsp = qtest_qmp(s->qts, "{'execute': 'qom-set', 'arguments':"
                           " {'path': '/objects/comp0', 'property': %s,"
                           " 'value': %" PRId64 "}}", name, value);

    g_assert_true(qdict_haskey(rsp, "error") == fails);
    qobject_unref(rsp);
}

/* Limits are each object's own and can be changed while it runs. */
static void test_limits(void)
{
    Setup s;

    setup_start(&s);
    add(&s, COMPARE(COMPARE_ALL ", 'compare_timeout': 1234"));
    get_property(&s, "compare_timeout", 1234);
    get_property(&s, "expired_scan_cycle", 3000);
    get_property(&s, "max_queue_size", 1024);
    set_property(&s, "compare_timeout", 99, false);
    get_property(&s, "compare_timeout", 99);
    set_property(&s, "max_queue_size", 0, true);
    get_property(&s, "max_queue_size", 1024);
    setup_end(&s);
}

typedef void BreakStream(int fd);

static void break_zero(int fd)
{
    put_be32(fd, 0);
}

static void break_oversized(int fd)
{
    put_be32(fd, MAX_PACKET + 1);
}

static void break_huge(int fd)
{
    put_be32(fd, UINT32_MAX);
}

/* A marker whose checksum is wrong. */
static void break_marker(int fd)
{
    uint8_t marker[28] = { 0xc0, 0x10, 0x4d, 0x01, 0, 0, 0, 28, 0, 2 };

    put(fd, marker, sizeof(marker));
}

/* A vnet header where none is expected: the zeroes end up as a length. */
static void break_vnet(int fd)
{
    uint8_t packet[60] = {};

    put_be32(fd, sizeof(packet));
    put_be32(fd, 12);
    put(fd, packet, sizeof(packet));
}

static const struct {
    const char *name;
    BreakStream *func;
} breaks[] = {
    { "zero", break_zero },
    { "oversized", break_oversized },
    { "huge", break_huge },
    { "marker", break_marker },
    { "vnet", break_vnet },
};

/*
 * Bytes that are no frame end the connection to @id, which takes packets
 * that come out at @out; the next connection works.
 */
static void check_breaks(Setup *s, const char *id, int out)
{
    int fd;

    for (int i = 0; i < ARRAY_SIZE(breaks); i++) {
        g_test_message("%s", breaks[i].name);
        fd = connect_input(s, id);
        put_frame(fd, "before");
        get_frame(out, "before");
        breaks[i].func(fd);
        if (breaks[i].func == break_vnet) {
            char header[4 + 60];

            /* what has the length it says is taken for a packet */
            get(out, header, sizeof(header));
        }
        expect_close(fd);
        fd = connect_input(s, id);
        put_frame(fd, "after");
        get_frame(out, "after");
        close(fd);
    }

    for (size_t cut = 1; cut < 4 + 6; cut++) {
        static const char frame[] = "\0\0\0\6packet";

        fd = connect_input(s, id);
        put(fd, frame, cut);
        close(fd);
        fd = connect_input(s, id);
        put_frame(fd, "whole");
        get_frame(out, "whole");
        close(fd);
    }
}

static void test_redirector_breaks(void)
{
    Setup s;

    setup_start(&s);
    add(&s, REDIRECTOR(", 'indev': 'c0', 'queue': 'rx'"));
    check_breaks(&s, "c0", s.net);
    setup_end(&s);
}

static void test_compare_breaks(void)
{
    Setup s;
    int out;

    setup_start(&s);
    out = connect_output(&s, "c2");
    add(&s, COMPARE(COMPARE_ALL));
    check_breaks(&s, "c0", out);
    close(out);
    setup_end(&s);
}

/* The receiver uses vnet headers, the sender does not, or lies about them. */
static void test_vnet(void)
{
    static const uint32_t bad[] = { 0x52540012, 11, 12 };
    Setup s;
    int fd;

    setup_start(&s);
    add(&s, REDIRECTOR(", 'indev': 'c0', 'queue': 'rx',"
                       " 'vnet_hdr_support': true"));
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        uint8_t frame[18] = "........0123456789";

        /* in one piece, as the receiver may close as soon as it has seen it */
        stl_be_p(frame, 10);
        stl_be_p(frame + 4, bad[i]);
        fd = connect_input(&s, "c0");
        put(fd, frame, sizeof(frame));
        expect_close(fd);
    }
    fd = connect_input(&s, "c0");
    put_be32(fd, 16);
    put_be32(fd, 12);
    put(fd, "0123456789abwith", 16);
    /* the netdev has no vnet header */
    get_frame(s.net, "with");
    put_be32(fd, 7);
    put_be32(fd, 0);
    put(fd, "without", 7);
    get_frame(s.net, "without");
    close(fd);
    setup_end(&s);
}

/* A mirror's peer may come late, go and come again, and send nonsense. */
static void test_mirror_reconnect(void)
{
    Setup s;
    int fd;

    setup_start(&s);
    add(&s, MIRROR(", 'outdev': 'c0', 'queue': 'tx'"));
    add(&s, "{'qom-type': 'filter-redirector', 'id': 'r1', 'netdev': 'n0',"
        " 'outdev': 'c1', 'queue': 'tx'}");
    for (int i = 0; i < 3; i++) {
        int done = connect_output(&s, "c1");

        /* nobody is there: dropped, but it passes */
        put_frame(s.net, "alone");
        get_frame(done, "alone");
        fd = connect_output(&s, "c0");
        put(fd, "nonsense", 8);
        put_frame(s.net, "packet");
        get_frame(fd, "packet");
        get_frame(done, "packet");
        close(fd);
        close(done);
        qtest_qmp_assert_success(s.qts, "{'execute': 'query-status'}");
    }
    setup_end(&s);
}

/* A peer that does not read must not hold the netdev up. */
static void test_mirror_stalled(void)
{
    enum { PACKETS = 200, SIZE = 60000 };
    g_autofree char *packet = g_malloc0(SIZE);
    Setup s;
    int fd, done;

    setup_start(&s);
    add(&s, MIRROR(", 'outdev': 'c0', 'queue': 'tx'"));
    add(&s, "{'qom-type': 'filter-redirector', 'id': 'r1', 'netdev': 'n0',"
        " 'outdev': 'c1', 'queue': 'tx'}");
    fd = connect_output(&s, "c0");
    done = connect_output(&s, "c1");
    for (int i = 0; i < PACKETS; i++) {
        put_be32(s.net, SIZE);
        put(s.net, packet, SIZE);
        g_assert_cmpuint(get_be32(done), ==, SIZE);
        get(done, packet, SIZE);
    }
    /* it gets whole frames, as many as were kept, and then new ones */
    g_assert_cmpuint(get_be32(fd), ==, SIZE);
    get(fd, packet, SIZE);
    close(fd);
    close(done);
    setup_end(&s);
}

static void test_status_off(void)
{
    Setup s;
    int in, out;

    setup_start(&s);
    add(&s, REDIRECTOR(", 'indev': 'c0', 'queue': 'rx', 'status': 'off'"));
    add(&s, "{'qom-type': 'filter-redirector', 'id': 'r1', 'netdev': 'n0',"
        " 'indev': 'c1', 'queue': 'rx'}");
    in = connect_input(&s, "c0");
    out = connect_input(&s, "c1");
    put_frame(in, "ignored");
    qtest_qmp_assert_success(s.qts, "{'execute': 'query-status'}");
    put_frame(out, "passed");
    get_frame(s.net, "passed");
    close(in);
    close(out);
    setup_end(&s);
}

/* Before COLO the PVM's packets leave at once, whatever the SVM sends. */
static void test_compare_pass(void)
{
    Setup s;
    int primary, secondary, out;

    setup_start(&s);
    out = connect_output(&s, "c2");
    add(&s, COMPARE(COMPARE_ALL));
    primary = connect_input(&s, "c0");
    put_frame(primary, "one");
    get_frame(out, "one");
    secondary = connect_input(&s, "c1");
    put_frame(secondary, "two");
    put_frame(primary, "three");
    get_frame(out, "three");
    close(secondary);
    put_frame(primary, "four");
    get_frame(out, "four");

    /* delete and make anew, on the same connections */
    del(&s, "comp0");
    add(&s, COMPARE(COMPARE_ALL));
    put_frame(primary, "five");
    get_frame(out, "five");
    del(&s, "comp0");
    del(&s, "io");
    close(primary);
    close(out);
    setup_end(&s);
}

/*
 * A receiver that is slow: what waits goes out many frames at a time, of which
 * the socket may take any part.
 */
static void test_compare_backlog(void)
{
    enum { FRAMES = 30000 };
    Setup s;
    int primary, out;

    setup_start(&s);
    out = connect_output(&s, "c2");
    add(&s, COMPARE(COMPARE_ALL));
    primary = connect_input(&s, "c0");
    for (int i = 0; i < FRAMES; i++) {
        g_autofree char *text = g_strdup_printf("%0*d", 1 + i % 97, i);

        put_frame(primary, text);
    }
    for (int i = 0; i < FRAMES; i++) {
        g_autofree char *text = g_strdup_printf("%0*d", 1 + i % 97, i);

        get_frame(out, text);
    }
    close(primary);
    close(out);
    setup_end(&s);
}

/* The iothread may be deleted first; it lives as long as it is used. */
static void test_compare_iothread(void)
{
    Setup s;
    int primary, out;

    setup_start(&s);
    out = connect_output(&s, "c2");
    add(&s, COMPARE(COMPARE_ALL));
    primary = connect_input(&s, "c0");
    del(&s, "io");
    put_frame(primary, "still");
    get_frame(out, "still");
    del(&s, "comp0");
    close(primary);
    close(out);
    setup_end(&s);
}

/* QEMU ends with everything in place. */
static void test_quit(void)
{
    Setup s;
    int primary;

    setup_start(&s);
    add(&s, COMPARE(COMPARE_ALL ", 'notify_dev': 'c3'"));
    primary = connect_input(&s, "c0");
    put_frame(primary, "packet");
    setup_end(&s);
    close(primary);
}

static void test_rewriter(void)
{
    Setup s;
    int in;

    setup_start(&s);
    add(&s, "{'qom-type': 'filter-rewriter', 'id': 'w0', 'netdev': 'n0',"
        " 'queue': 'all'}");
    add(&s, REDIRECTOR(", 'indev': 'c0', 'queue': 'rx'"));
    in = connect_input(&s, "c0");
    put_frame(in, "passes");
    get_frame(s.net, "passes");
    del(&s, "w0");
    put_frame(in, "without");
    get_frame(s.net, "without");
    close(in);
    setup_end(&s);
}

static bool has_type(const char *type)
{
    QTestState *qts = qtest_init("-machine none");
    QDict *rsp = qtest_qmp(qts, "{'execute': 'qom-list-types'}");
    QListEntry *entry;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), entry) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(entry));

        found |= !strcmp(qdict_get_str(info, "name"), type);
    }
    qobject_unref(rsp);
    qtest_quit(qts);
    return found;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/colo-proxy/options/filters", test_options_filters);
    qtest_add_func("/colo-proxy/redirector/breaks", test_redirector_breaks);
    qtest_add_func("/colo-proxy/redirector/vnet", test_vnet);
    qtest_add_func("/colo-proxy/redirector/status-off", test_status_off);
    qtest_add_func("/colo-proxy/mirror/reconnect", test_mirror_reconnect);
    qtest_add_func("/colo-proxy/mirror/stalled", test_mirror_stalled);
    if (has_type("colo-compare")) {
        qtest_add_func("/colo-proxy/options/compare", test_options_compare);
        qtest_add_func("/colo-proxy/options/limits", test_limits);
        qtest_add_func("/colo-proxy/compare/breaks", test_compare_breaks);
        qtest_add_func("/colo-proxy/compare/pass", test_compare_pass);
        qtest_add_func("/colo-proxy/compare/backlog", test_compare_backlog);
        qtest_add_func("/colo-proxy/compare/iothread", test_compare_iothread);
        qtest_add_func("/colo-proxy/compare/quit", test_quit);
    }
    if (has_type("filter-rewriter")) {
        qtest_add_func("/colo-proxy/rewriter/idle", test_rewriter);
    }
    return g_test_run();
}
