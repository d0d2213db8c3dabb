/*
 * QTest testcases for the COLO proxy with COLO active
 *
 * Two QEMUs without a guest, wired as QEMU's COLO document has it. What
 * their guests emit is what announce-self sends; both NICs have the same
 * address, so that both sides emit the same packet.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "colo-pair.h"
#include "qapi/error.h"
#include "qemu/bswap.h"

/* A RARP packet, padded to the shortest Ethernet frame. */
#define ANNOUNCEMENT 60

#define DEVICES "-machine pc -m 16 -nodefaults -netdev socket,id=hn0,fd=%d " \
                "-device e1000,netdev=hn0,mac=52:54:00:12:34:56 "

typedef struct Side {
    QTestState *qts;
    /* the other end of the netdev */
    int net;
} Side;

typedef struct Pair {
    char *dir;
    Side p, s;
} Pair;

static int new_net(Side *side)
{
    int net[2];

    g_assert_cmpint(socketpair(PF_UNIX, SOCK_STREAM, 0, net), ==, 0);
    side->net = net[0];
    return net[1];
}

static void start_primary(Pair *pair, bool proxy)
{
    int fd = new_net(&pair->p);
    g_autofree char *objects = proxy ? g_strdup_printf(
        "-chardev socket,id=mirror0,path=%1$s/mirror,server=on,wait=off "
        "-chardev socket,id=compare1,path=%1$s/compare,server=on,wait=off "
        "-chardev socket,id=compare0,path=%1$s/in,server=on,wait=off "
        "-chardev socket,id=compare0-0,path=%1$s/in "
        "-chardev socket,id=compare_out,path=%1$s/out,server=on,wait=off "
        "-chardev socket,id=compare_out0,path=%1$s/out "
        "-object filter-mirror,id=m0,netdev=hn0,queue=tx,outdev=mirror0 "
        "-object filter-redirector,netdev=hn0,id=redire0,queue=rx,"
        "indev=compare_out "
        "-object filter-redirector,netdev=hn0,id=redire1,queue=rx,"
        "outdev=compare0 "
        "-object iothread,id=iothread1 "
        "-object colo-compare,id=comp0,primary_in=compare0-0,"
        "secondary_in=compare1,outdev=compare_out0,iothread=iothread1,"
        "compare_timeout=1000000", pair->dir) : g_strdup("");

    pair->p.qts = qtest_initf(DEVICES "%s", fd, objects);
    close(fd);
}

static void start_secondary(Pair *pair, bool proxy)
{
    int fd = new_net(&pair->s);
    g_autofree char *objects = proxy ? g_strdup_printf(
        "-chardev socket,id=red0,path=%1$s/mirror "
        "-chardev socket,id=red1,path=%1$s/compare "
        "-object filter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0 "
        "-object filter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1 "
        "-object filter-rewriter,id=rew0,netdev=hn0,queue=all", pair->dir) :
        g_strdup("");

    pair->s.qts = qtest_initf(DEVICES "%s -incoming unix:%s/migrate", fd,
                              objects, pair->dir);
    close(fd);
}

static void get_announcement(Side *side)
{
    uint8_t buf[4 + ANNOUNCEMENT];

    g_assert_cmpint(recv(side->net, buf, sizeof(buf), MSG_WAITALL), ==,
                    sizeof(buf));
    g_assert_cmpuint(ldl_be_p(buf), ==, ANNOUNCEMENT);
}

/* Nothing has left so far: a lower bound, but one that needs no waiting. */
static void assert_silent(Side *side)
{
    char byte;

    qtest_qmp_assert_success(side->qts, "{'execute': 'query-status'}");
    g_assert_cmpint(recv(side->net, &byte, 1, MSG_DONTWAIT), ==, -1);
}

static void announce(Side *side)
{
    qtest_qmp_assert_success(side->qts, "{'execute': 'announce-self',"
                             " 'arguments': {'initial': 50, 'max': 50,"
                             " 'rounds': 1, 'step': 50}}");
}

static void pair_start(Pair *pair, bool proxy)
{
    g_autofree char *socket = NULL;

    pair->dir = g_dir_make_tmp("colo-proxy-XXXXXX", NULL);
    g_assert_nonnull(pair->dir);
    start_primary(pair, proxy);
    start_secondary(pair, proxy);
    socket = g_build_filename(pair->dir, "migrate", NULL);
    colo_protect(pair->p.qts, pair->s.qts, socket);
    /* the comparison gets known to the redirector meanwhile */
    announce(&pair->p);
    colo_checkpoint(pair->p.qts);
    get_announcement(&pair->p);
    colo_checkpoint(pair->p.qts);
}

static void side_end(Side *side)
{
    if (side->qts) {
        qtest_quit(side->qts);
        close(side->net);
        side->qts = NULL;
    }
}

/* This side is lost to the other: first the link, then itself. */
static void side_lose(Side *side)
{
    qtest_qmp_assert_success(side->qts, "{'execute': 'yank', 'arguments':"
                             " {'instances': [{'type': 'migration'}]}}");
    qtest_qmp_eventwait(side->qts, "COLO_EXIT");
    side_end(side);
}

static void pair_end(Pair *pair)
{
    static const char *const sockets[] = {
        "mirror", "compare", "in", "out", "migrate",
    };

    if (pair->p.qts && pair->s.qts) {
        side_end(&pair->p);
        qtest_qmp_eventwait(pair->s.qts, "COLO_EXIT");
    }
    side_end(&pair->p);
    side_end(&pair->s);
    for (int i = 0; i < ARRAY_SIZE(sockets); i++) {
        g_autofree char *path = g_build_filename(pair->dir, sockets[i], NULL);

        unlink(path);
    }
    g_assert_cmpint(rmdir(pair->dir), ==, 0);
    g_free(pair->dir);
}

static void lost_heartbeat(Side *side)
{
    qtest_qmp_assert_success(side->qts,
                             "{'execute': 'x-colo-lost-heartbeat'}");
}

static void del(Side *side, const char *id)
{
    qtest_qmp_assert_success(side->qts, "{'execute': 'object-del',"
                             " 'arguments': {'id': %s}}", id);
}

/* Without a comparison packets leave when the next checkpoint commits. */
static void test_hold(void)
{
    Pair pair = {};

    pair_start(&pair, false);
    announce(&pair.p);
    announce(&pair.s);
    assert_silent(&pair.p);
    colo_checkpoint(pair.p.qts);
    get_announcement(&pair.p);
    announce(&pair.p);
    assert_silent(&pair.p);
    assert_silent(&pair.s);
    pair_end(&pair);
}

/* What both emit leaves at once; in whichever order, but once. */
static void test_compare(void)
{
    Pair pair = {};

    pair_start(&pair, true);
    announce(&pair.p);
    assert_silent(&pair.p);
    announce(&pair.s);
    get_announcement(&pair.p);

    announce(&pair.s);
    assert_silent(&pair.p);
    announce(&pair.p);
    get_announcement(&pair.p);

    /* what the SVM emitted in the last epoch does not count in the next */
    announce(&pair.s);
    colo_checkpoint(pair.p.qts);
    announce(&pair.p);
    assert_silent(&pair.p);
    colo_checkpoint(pair.p.qts);
    get_announcement(&pair.p);
    assert_silent(&pair.p);
    assert_silent(&pair.s);
    pair_end(&pair);
}

/* Deleted while it holds a packet, the comparison leaves it to the hold. */
static void test_compare_deleted(void)
{
    Pair pair = {};

    pair_start(&pair, true);
    announce(&pair.p);
    del(&pair.p, "comp0");
    announce(&pair.p);
    announce(&pair.s);
    assert_silent(&pair.p);
    colo_checkpoint(pair.p.qts);
    get_announcement(&pair.p);
    get_announcement(&pair.p);
    pair_end(&pair);
}

/* Nothing leaves when the peer is lost; all does when it is decided. */
static void test_primary_survives(void)
{
    Pair pair = {};

    pair_start(&pair, true);
    announce(&pair.p);
    side_lose(&pair.s);
    qtest_qmp_eventwait(pair.p.qts, "COLO_EXIT");
    announce(&pair.p);
    assert_silent(&pair.p);
    lost_heartbeat(&pair.p);
    get_announcement(&pair.p);
    get_announcement(&pair.p);
    /* every object is still there */
    announce(&pair.p);
    get_announcement(&pair.p);
    pair_end(&pair);
}

/* The order in which the document deletes the objects. */
static void test_primary_survives_bare(void)
{
    static const char *const objects[] = {
        "comp0", "iothread1", "m0", "redire0", "redire1",
    };
    Pair pair = {};

    pair_start(&pair, true);
    announce(&pair.p);
    side_lose(&pair.s);
    for (int i = 0; i < ARRAY_SIZE(objects); i++) {
        del(&pair.p, objects[i]);
        announce(&pair.p);
    }
    qtest_qmp_eventwait(pair.p.qts, "COLO_EXIT");
    assert_silent(&pair.p);
    lost_heartbeat(&pair.p);
    for (int i = 0; i <= ARRAY_SIZE(objects); i++) {
        get_announcement(&pair.p);
    }
    pair_end(&pair);
}

/* The SVM is cut off until it takes over, then nothing is in its way. */
static void test_secondary_survives(gconstpointer proxy)
{
    Pair pair = {};
    uint8_t buf[4 + ANNOUNCEMENT];

    pair_start(&pair, GPOINTER_TO_INT(proxy));
    announce(&pair.s);
    assert_silent(&pair.s);
    side_lose(&pair.p);
    qtest_qmp_eventwait(pair.s.qts, "COLO_EXIT");
    announce(&pair.s);
    assert_silent(&pair.s);
    lost_heartbeat(&pair.s);
    /* it announces itself */
    g_assert_cmpint(recv(pair.s.net, buf, sizeof(buf), MSG_WAITALL), ==,
                    sizeof(buf));
    g_assert_cmpuint(ldl_be_p(buf), ==, ANNOUNCEMENT);
    pair_end(&pair);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/colo-proxy-pair/hold", test_hold);
    qtest_add_func("/colo-proxy-pair/compare", test_compare);
    qtest_add_func("/colo-proxy-pair/compare-deleted", test_compare_deleted);
    qtest_add_func("/colo-proxy-pair/primary-survives",
                   test_primary_survives);
    qtest_add_func("/colo-proxy-pair/primary-survives-bare",
                   test_primary_survives_bare);
    qtest_add_data_func("/colo-proxy-pair/secondary-survives",
                        GINT_TO_POINTER(true), test_secondary_survives);
    qtest_add_data_func("/colo-proxy-pair/secondary-survives-bare",
                        GINT_TO_POINTER(false), test_secondary_survives);
    return g_test_run();
}
