/*
 * COLO checkpoint protocol: tests of both state machines
 *
 * First each machine alone: which message it takes and sends in which state.
 * Then the two against each other, with a bit of guest memory, through a
 * stream in memory that is cut, stalled or corrupted at a chosen byte.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "migration/colo/crc.h"
#include "migration/colo/protocol.h"

#define PAGE 1024
#define BASE 7          /* epoch the pair starts from */
#define CHECKPOINTS 2   /* until the script comes to its end */
#define BLOCK_PAGES 4   /* of each of the two blocks */
#define PAGES (2 * BLOCK_PAGES)
#define MAX_STEPS 10000
#define ORDER_STEPS 160 /* more than a script takes */

/* Machines alone */

static void make_hello(ColoHello *hello, uint64_t features)
{
    memset(hello, 0, sizeof(*hello));
    hello->version_min = COLO_VERSION_MIN;
    hello->version_max = COLO_VERSION_MAX;
    hello->features = features;
    hello->qemu_version = g_strdup("10.0.13");
    hello->machine = g_strdup("pc");
    memset(hello->host_id, 1, COLO_HOST_ID_SIZE);
    hello->ram = colo_ramlist_new(PAGE, &error_abort);
    colo_ramlist_add(hello->ram, "ram", BLOCK_PAGES * PAGE, &error_abort);
    colo_ramlist_add(hello->ram, "vga", BLOCK_PAGES * PAGE, &error_abort);
}

/* A good message of @type for @epoch. */
static void make_msg(ColoMsg *msg, ColoMsgType type, uint64_t epoch)
{
    ColoRun run = { 0, 1, COLO_RUN_ZERO };

    colo_msg_init(msg, type, epoch);
    if (type == COLO_MSG_HELLO) {
        colo_hello_clear(&msg->hello);
        make_hello(&msg->hello, COLO_FEATURE_MULTIFD);
    } else if (type == COLO_MSG_PAGES) {
        g_array_append_val(msg->pages.runs, run);
    } else if (type == COLO_MSG_SYNC) {
        msg->sync.number = 1;
    } else if (type == COLO_MSG_DEVICE) {
        msg->h.data_len = 10;
    }
}

static bool p_recv(ColoPrimary *p, ColoMsgType type, uint64_t epoch,
                   Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };

    make_msg(&msg, type, epoch);
    return colo_primary_recv(p, &msg, errp);
}

static bool p_send(ColoPrimary *p, ColoMsgType type, uint64_t epoch,
                   Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };

    make_msg(&msg, type, epoch);
    if (type == COLO_MSG_COMMIT) {
        msg.commit.totals = p->progress.totals;
    }
    return colo_primary_send(p, &msg, errp);
}

static bool s_recv(ColoSecondary *s, ColoMsgType type, uint64_t epoch,
                   Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };

    make_msg(&msg, type, epoch);
    if (type == COLO_MSG_COMMIT) {
        msg.commit.totals = s->progress.totals;
    }
    return colo_secondary_recv(s, &msg, errp);
}

static bool s_send(ColoSecondary *s, ColoMsgType type, uint64_t epoch,
                   Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };

    make_msg(&msg, type, epoch);
    return colo_secondary_send(s, &msg, errp);
}

static void p_send_parts(ColoPrimary *p, uint64_t epoch)
{
    p_send(p, COLO_MSG_PAGES, epoch, &error_abort);
    p_send(p, COLO_MSG_SYNC, epoch, &error_abort);
    p_send(p, COLO_MSG_DEVICE, epoch, &error_abort);
    p_send(p, COLO_MSG_PROXY, epoch, &error_abort);
}

static void p_commit(ColoPrimary *p, uint64_t epoch)
{
    p_send(p, COLO_MSG_BEGIN, epoch, &error_abort);
    p_send_parts(p, epoch);
    p_send(p, COLO_MSG_COMMIT, epoch, &error_abort);
}

/*
 * A primary in @state, after checkpoint BASE + 1 where the state allows it.
 * SENDING is up to the point where COMMIT may be sent.
 */
static void primary_in(ColoPrimary *p, ColoPrimaryState state)
{
    g_auto(ColoHello) hello = { 0 };

    make_hello(&hello, COLO_FEATURE_MULTIFD);
    colo_primary_init(p, &hello, BASE);
    if (state == COLO_P_INIT) {
        return;
    }
    p_recv(p, COLO_MSG_HELLO, 0, &error_abort);
    if (state == COLO_P_GREETED) {
        return;
    }
    p_send(p, COLO_MSG_HELLO, BASE, &error_abort);
    if (state == COLO_P_WAIT_READY) {
        return;
    }
    p_recv(p, COLO_MSG_READY, BASE, &error_abort);
    if (state == COLO_P_READY) {
        return;
    }
    p_commit(p, BASE + 1);
    p_recv(p, COLO_MSG_COMMITTED, BASE + 1, &error_abort);
    switch (state) {
    case COLO_P_SENDING:
        p_send(p, COLO_MSG_BEGIN, BASE + 2, &error_abort);
        break;
    case COLO_P_WAIT_COMMIT:
        p_commit(p, BASE + 2);
        break;
    case COLO_P_ENDING:
        p_send(p, COLO_MSG_END, BASE + 1, &error_abort);
        break;
    case COLO_P_LOST:
        colo_primary_failed(p);
        break;
    case COLO_P_TAKING_OVER:
        colo_primary_failover(p, &error_abort);
        break;
    case COLO_P_STOPPED:
        p_recv(p, COLO_MSG_TAKEOVER, BASE + 1, &error_abort);
        break;
    case COLO_P_ENDED:
        p_recv(p, COLO_MSG_STOPPED, BASE + 1, &error_abort);
        break;
    default:
        break;
    }
}

static void s_recv_parts(ColoSecondary *s, uint64_t epoch)
{
    s_recv(s, COLO_MSG_PAGES, epoch, &error_abort);
    s_recv(s, COLO_MSG_SYNC, epoch, &error_abort);
    s_recv(s, COLO_MSG_DEVICE, epoch, &error_abort);
    s_recv(s, COLO_MSG_PROXY, epoch, &error_abort);
}

static void s_recv_all(ColoSecondary *s, uint64_t epoch)
{
    s_recv(s, COLO_MSG_BEGIN, epoch, &error_abort);
    s_recv_parts(s, epoch);
    s_recv(s, COLO_MSG_COMMIT, epoch, &error_abort);
}

/* A secondary in @state, like primary_in(). */
static void secondary_in(ColoSecondary *s, ColoSecondaryState state)
{
    g_auto(ColoHello) hello = { 0 };

    make_hello(&hello, COLO_FEATURE_MULTIFD);
    colo_secondary_init(s, &hello);
    if (state == COLO_S_INIT) {
        return;
    }
    s_send(s, COLO_MSG_HELLO, 0, &error_abort);
    if (state == COLO_S_GREETED) {
        return;
    }
    s_recv(s, COLO_MSG_HELLO, BASE, &error_abort);
    if (state == COLO_S_SETUP) {
        return;
    }
    s_send(s, COLO_MSG_READY, BASE, &error_abort);
    if (state == COLO_S_READY) {
        return;
    }
    s_recv_all(s, BASE + 1);
    colo_secondary_commit_applied(s);
    s_send(s, COLO_MSG_COMMITTED, BASE + 1, &error_abort);
    switch (state) {
    case COLO_S_RECEIVING:
        s_recv(s, COLO_MSG_BEGIN, BASE + 2, &error_abort);
        break;
    case COLO_S_COMMITTING:
        s_recv_all(s, BASE + 2);
        break;
    case COLO_S_LOST:
        colo_secondary_failed(s);
        break;
    case COLO_S_TAKING_OVER:
        colo_secondary_failover(s, &error_abort);
        break;
    case COLO_S_STOPPED:
        s_recv(s, COLO_MSG_END, BASE + 1, &error_abort);
        break;
    case COLO_S_ENDED:
        colo_secondary_failover(s, &error_abort);
        s_recv(s, COLO_MSG_STOPPED, BASE + 1, &error_abort);
        break;
    default:
        break;
    }
}

static void test_states(void)
{
    ColoPrimary p;
    ColoSecondary s;
    int i;

    for (i = 0; i < COLO_P__MAX; i++) {
        primary_in(&p, i);
        g_assert_cmpstr(colo_primary_state_name(p.state), ==,
                        colo_primary_state_name(i));
        g_assert_true(colo_primary_survives(&p) == (i == COLO_P_ENDED));
        colo_primary_destroy(&p);
    }
    for (i = 0; i < COLO_S__MAX; i++) {
        secondary_in(&s, i);
        g_assert_cmpstr(colo_secondary_state_name(s.state), ==,
                        colo_secondary_state_name(i));
        g_assert_true(colo_secondary_survives(&s) == (i == COLO_S_ENDED));
        colo_secondary_destroy(&s);
    }
}

/*
 * What each state does with each message, written as the documentation has
 * it: '.' refused, '-' passed over, else a letter for the state it leads to.
 * The order of messages is that of ColoMsgType.
 */
static const char primary_letters[COLO_P__MAX + 1] = "igwrRSCELTXU";
static const char *const primary_recv_table[COLO_P__MAX] = {
    /*                          HRBPSDXCcQETSe */
    [COLO_P_INIT] =            "g...........UU",
    [COLO_P_GREETED] =         "............UU",
    [COLO_P_WAIT_READY] =      ".r..........UU",
    [COLO_P_READY] =           "............UU",
    [COLO_P_RUNNING] =         ".........R.XUL",
    [COLO_P_SENDING] =         ".........S.XUL",
    [COLO_P_WAIT_COMMIT] =     "........RC.XUL",
    [COLO_P_ENDING] =          "-----------XU-",
    [COLO_P_LOST] =            "-----------XU-",
    [COLO_P_TAKING_OVER] =     "------------U-",
    [COLO_P_STOPPED] =         "--------------",
    [COLO_P_ENDED] =           "--------------",
};
static const char *const primary_send_table[COLO_P__MAX] = {
    /*                          HRBPSDXCcQETSe */
    [COLO_P_INIT] =            "..........E...",
    [COLO_P_GREETED] =         "w.........E...",
    [COLO_P_WAIT_READY] =      "..........E...",
    [COLO_P_READY] =           "..S.......E...",
    [COLO_P_RUNNING] =         "..S.......E...",
    [COLO_P_SENDING] =         "...SSSSC..E...",
    [COLO_P_WAIT_COMMIT] =     "..........E...",
    [COLO_P_ENDING] =          "..............",
    [COLO_P_LOST] =            "..........E..L",
    [COLO_P_TAKING_OVER] =     "...........T..",
    [COLO_P_STOPPED] =         "............X.",
    [COLO_P_ENDED] =           "..............",
};

static const char secondary_letters[COLO_S__MAX + 1] = "igsrRVCLTXU";
static const char *const secondary_recv_table[COLO_S__MAX] = {
    /*                          HRBPSDXCcQETSe */
    [COLO_S_INIT] =            "..........XX.X",
    [COLO_S_GREETED] =         "s.........XX.X",
    [COLO_S_SETUP] =           "..........XX.X",
    [COLO_S_READY] =           "..V.......XX.X",
    [COLO_S_RUNNING] =         "..V.......XX.L",
    [COLO_S_RECEIVING] =       "...VVVVC..XX.L",
    [COLO_S_COMMITTING] =      "..........XX.C",
    [COLO_S_LOST] =            "----------XX--",
    [COLO_S_TAKING_OVER] =     "-----------XU-",
    [COLO_S_STOPPED] =         "--------------",
    [COLO_S_ENDED] =           "--------------",
};
static const char *const secondary_send_table[COLO_S__MAX] = {
    /*                          HRBPSDXCcQETSe */
    [COLO_S_INIT] =            "g.............",
    [COLO_S_GREETED] =         "..............",
    [COLO_S_SETUP] =           ".r............",
    [COLO_S_READY] =           "..............",
    [COLO_S_RUNNING] =         ".........R....",
    [COLO_S_RECEIVING] =       ".........V....",
    [COLO_S_COMMITTING] =      "..............",
    [COLO_S_LOST] =            ".............L",
    [COLO_S_TAKING_OVER] =     "...........T..",
    [COLO_S_STOPPED] =         "............X.",
    [COLO_S_ENDED] =           "..............",
};

/* The epoch a message of @type must have when @committed is the last. */
static uint64_t right_epoch(ColoMsgType type, bool from_secondary,
                            uint64_t committed)
{
    switch (type) {
    case COLO_MSG_HELLO:
        return from_secondary ? 0 : BASE;
    case COLO_MSG_READY:
        return BASE;
    case COLO_MSG_BEGIN:
    case COLO_MSG_PAGES:
    case COLO_MSG_SYNC:
    case COLO_MSG_DEVICE:
    case COLO_MSG_PROXY:
    case COLO_MSG_COMMIT:
    case COLO_MSG_COMMITTED:
        return committed + 1;
    default:
        return committed;
    }
}

/* In a state where COMMIT may come, have all before it there. */
static void primary_prepare(ColoPrimary *p, ColoMsgType type)
{
    if (type == COLO_MSG_COMMIT && p->state == COLO_P_SENDING) {
        p_send_parts(p, p->epoch);
    }
}

static void secondary_prepare(ColoSecondary *s, ColoMsgType type)
{
    if (type == COLO_MSG_COMMIT && s->state == COLO_S_RECEIVING) {
        s_recv_parts(s, s->epoch);
    }
}

static void check_cell(const char *what, const char *state, ColoMsgType type,
                       char want, char got)
{
    if (want != got) {
        g_test_message("%s in %s: %s leads to '%c', not '%c'", what, state,
                       colo_msg_type_name(type), got, want);
        g_test_fail();
    }
}

static char primary_cell(ColoPrimaryState state, ColoMsgType type, bool send)
{
    ColoPrimary p;
    bool ok;
    char got;

    primary_in(&p, state);
    primary_prepare(&p, type);
    if (send) {
        ok = p_send(&p, type, right_epoch(type, false, p.committed), NULL);
    } else {
        ok = p_recv(&p, type, right_epoch(type, true, p.committed), NULL);
    }
    got = ok ? primary_letters[p.state] : '.';
    colo_primary_destroy(&p);
    return got;
}

static void test_primary_table(void)
{
    int state;
    ColoMsgType type;

    for (state = 0; state < COLO_P__MAX; state++) {
        for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
            char recv = primary_recv_table[state][type - 1];

            check_cell("receiving", colo_primary_state_name(state), type,
                       recv == '-' ? primary_letters[state] : recv,
                       primary_cell(state, type, false));
            check_cell("sending", colo_primary_state_name(state), type,
                       primary_send_table[state][type - 1],
                       primary_cell(state, type, true));
        }
    }
}

static char secondary_cell(ColoSecondaryState state, ColoMsgType type,
                           bool send)
{
    ColoSecondary s;
    bool ok;
    char got;

    secondary_in(&s, state);
    secondary_prepare(&s, type);
    if (send) {
        ok = s_send(&s, type, right_epoch(type, true, s.committed), NULL);
    } else {
        ok = s_recv(&s, type, right_epoch(type, false, s.committed), NULL);
    }
    got = ok ? secondary_letters[s.state] : '.';
    colo_secondary_destroy(&s);
    return got;
}

static void test_secondary_table(void)
{
    int state;
    ColoMsgType type;

    for (state = 0; state < COLO_S__MAX; state++) {
        for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
            char recv = secondary_recv_table[state][type - 1];

            check_cell("receiving", colo_secondary_state_name(state), type,
                       recv == '-' ? secondary_letters[state] : recv,
                       secondary_cell(state, type, false));
            check_cell("sending", colo_secondary_state_name(state), type,
                       secondary_send_table[state][type - 1],
                       secondary_cell(state, type, true));
        }
    }
}

/* A message that is not for the right epoch is refused, and is the end. */
static void test_wrong_epoch(void)
{
    static const struct {
        ColoSecondaryState state;
        ColoMsgType type;
        uint64_t epoch;
    } to_s[] = {
        { COLO_S_READY, COLO_MSG_BEGIN, BASE },
        { COLO_S_READY, COLO_MSG_BEGIN, BASE + 2 },
        { COLO_S_RUNNING, COLO_MSG_BEGIN, BASE + 1 },
        { COLO_S_RUNNING, COLO_MSG_BEGIN, BASE + 3 },
        { COLO_S_RECEIVING, COLO_MSG_PAGES, BASE + 1 },
        { COLO_S_RECEIVING, COLO_MSG_PAGES, BASE + 3 },
        { COLO_S_RECEIVING, COLO_MSG_DEVICE, BASE + 1 },
        { COLO_S_RECEIVING, COLO_MSG_PROXY, BASE + 3 },
        { COLO_S_RECEIVING, COLO_MSG_SYNC, 0 },
        { COLO_S_RECEIVING, COLO_MSG_COMMIT, BASE + 1 },
        { COLO_S_GREETED, COLO_MSG_HELLO, UINT64_MAX },
    };
    static const struct {
        ColoPrimaryState state;
        ColoMsgType type;
        uint64_t epoch;
    } to_p[] = {
        { COLO_P_INIT, COLO_MSG_HELLO, 1 },
        { COLO_P_WAIT_READY, COLO_MSG_READY, BASE + 1 },
        { COLO_P_WAIT_COMMIT, COLO_MSG_COMMITTED, BASE + 1 },
        { COLO_P_WAIT_COMMIT, COLO_MSG_COMMITTED, BASE + 3 },
        { COLO_P_RUNNING, COLO_MSG_REQUEST, BASE },
        { COLO_P_RUNNING, COLO_MSG_REQUEST, BASE + 2 },
        { COLO_P_RUNNING, COLO_MSG_TAKEOVER, BASE },
        { COLO_P_RUNNING, COLO_MSG_TAKEOVER, BASE + 2 },
        { COLO_P_WAIT_COMMIT, COLO_MSG_TAKEOVER, BASE + 3 },
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(to_s); i++) {
        ColoSecondary s;
        Error *err = NULL;

        secondary_in(&s, to_s[i].state);
        secondary_prepare(&s, to_s[i].type);
        g_assert_false(s_recv(&s, to_s[i].type, to_s[i].epoch, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "epoch"));
        error_free(err);
        g_assert_cmpint(s.state, ==, s.committed > s.base ? COLO_S_LOST
                                                          : COLO_S_STOPPED);
        g_assert_true(colo_secondary_may_send(&s, COLO_MSG_ERROR));
        colo_secondary_destroy(&s);
    }
    for (i = 0; i < ARRAY_SIZE(to_p); i++) {
        ColoPrimary p;
        Error *err = NULL;

        primary_in(&p, to_p[i].state);
        g_assert_false(p_recv(&p, to_p[i].type, to_p[i].epoch, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "epoch"));
        error_free(err);
        g_assert_cmpint(p.state, ==, p.offered > p.base ? COLO_P_LOST
                                                        : COLO_P_ENDED);
        g_assert_true(colo_primary_may_send(&p, COLO_MSG_ERROR));
        colo_primary_destroy(&p);
    }
}

/* The secondary may have committed what it did not acknowledge yet. */
static void test_takeover_epoch(void)
{
    ColoPrimary p;

    primary_in(&p, COLO_P_WAIT_COMMIT);
    g_assert_true(p_recv(&p, COLO_MSG_TAKEOVER, BASE + 2, &error_abort));
    g_assert_cmpint(p.state, ==, COLO_P_STOPPED);
    g_assert_false(colo_primary_may_release(&p, BASE));
    g_assert_true(colo_primary_may_send(&p, COLO_MSG_STOPPED));
    colo_primary_destroy(&p);

    /* one that was read just before the link was given up still counts */
    primary_in(&p, COLO_P_RUNNING);
    colo_primary_peer_lost(&p);
    g_assert_true(p_recv(&p, COLO_MSG_TAKEOVER, BASE + 1, &error_abort));
    g_assert_cmpint(p.state, ==, COLO_P_STOPPED);
    g_assert_cmpuint(p.owed, ==, 0);
    colo_primary_destroy(&p);
}

static void assert_commit_refused(ColoSecondary *s, ColoTotals totals,
                                  const char *text)
{
    g_auto(ColoMsg) msg = { 0 };
    Error *err = NULL;

    make_msg(&msg, COLO_MSG_COMMIT, BASE + 2);
    msg.commit.totals = totals;
    g_assert_false(colo_secondary_recv(s, &msg, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
    g_assert_cmpint(s->state, ==, COLO_S_LOST);
    g_assert_true(colo_secondary_discards_staging(s));
    g_assert_cmpuint(s->committed, ==, BASE + 1);
    colo_secondary_destroy(s);
}

static void test_commit_incomplete(void)
{
    static const ColoTotals wrong[] = {
        { 1, 1, 10 }, { 0, 2, 10 }, { 0, 1, 9 },
    };
    ColoSecondary s;
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(wrong); i++) {
        secondary_in(&s, COLO_S_RECEIVING);
        s_recv_parts(&s, BASE + 2);
        assert_commit_refused(&s, wrong[i], "counted were 0, 1 and 10");
    }

    secondary_in(&s, COLO_S_RECEIVING);
    s_recv(&s, COLO_MSG_SYNC, BASE + 2, &error_abort);
    s_recv(&s, COLO_MSG_PROXY, BASE + 2, &error_abort);
    assert_commit_refused(&s, s.progress.totals, "without DEVICE");

    secondary_in(&s, COLO_S_RECEIVING);
    s_recv(&s, COLO_MSG_SYNC, BASE + 2, &error_abort);
    s_recv(&s, COLO_MSG_DEVICE, BASE + 2, &error_abort);
    assert_commit_refused(&s, s.progress.totals, "without PROXY");

    secondary_in(&s, COLO_S_RECEIVING);
    s_recv(&s, COLO_MSG_DEVICE, BASE + 2, &error_abort);
    s_recv(&s, COLO_MSG_PROXY, BASE + 2, &error_abort);
    assert_commit_refused(&s, s.progress.totals, "without SYNC");

    /* multifd pages after the SYNC may still be on their way */
    secondary_in(&s, COLO_S_RECEIVING);
    s_recv_parts(&s, BASE + 2);
    colo_secondary_add_pages(&s, 5, 6);
    assert_commit_refused(&s, s.progress.totals, "without SYNC");
}

/* An SVM only stands still if both sides know that it may. */
static void test_commit_idle(void)
{
    g_auto(ColoMsg) msg = { 0 };
    ColoSecondary s;
    Error *err = NULL;

    secondary_in(&s, COLO_S_RECEIVING);
    s_recv_parts(&s, BASE + 2);
    make_msg(&msg, COLO_MSG_COMMIT, BASE + 2);
    msg.commit.totals = s.progress.totals;
    msg.commit.flags = COLO_COMMIT_F_IDLE;
    g_assert_false(colo_secondary_recv(&s, &msg, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "was not agreed"));
    error_free(err);
    g_assert_cmpint(s.state, ==, COLO_S_LOST);
    colo_secondary_destroy(&s);

    secondary_in(&s, COLO_S_RECEIVING);
    s.agreed.features |= COLO_FEATURE_IDLE_SVM;
    s_recv_parts(&s, BASE + 2);
    g_assert_true(colo_secondary_recv(&s, &msg, &error_abort));
    g_assert_cmpint(s.state, ==, COLO_S_COMMITTING);
    g_assert_cmphex(s.commit_flags, ==, COLO_COMMIT_F_IDLE);
    colo_secondary_destroy(&s);
}

/* Every checkpoint is counted from zero. */
static void test_counts(void)
{
    ColoSecondary s;

    secondary_in(&s, COLO_S_RECEIVING);
    g_assert_cmpuint(colo_ramlist_get(s.ram, 0)->zero_pages, ==, 0);
    g_assert_cmpuint(s.progress.totals.zero_pages, ==, 0);
    s_recv_parts(&s, BASE + 2);
    g_assert_cmpuint(colo_ramlist_get(s.ram, 0)->zero_pages, ==, 1);
    g_assert_cmpuint(s.progress.totals.zero_pages, ==, 1);
    colo_secondary_destroy(&s);
}

static void test_part_twice(void)
{
    static const ColoMsgType once[] = { COLO_MSG_DEVICE, COLO_MSG_PROXY };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(once); i++) {
        g_auto(ColoMsg) msg = { 0 };
        ColoSecondary s;
        Error *err = NULL;

        secondary_in(&s, COLO_S_RECEIVING);
        make_msg(&msg, once[i], BASE + 2);
        colo_secondary_recv(&s, &msg, &error_abort);
        /* refused before its data is read */
        g_assert_false(colo_secondary_expects(&s, &msg.h, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "twice"));
        error_free(err);
        g_assert_cmpint(s.state, ==, COLO_S_RECEIVING);
        colo_secondary_destroy(&s);
    }
}

static void test_sync_number(void)
{
    g_auto(ColoMsg) msg = { 0 };
    ColoSecondary s;

    secondary_in(&s, COLO_S_RECEIVING);
    make_msg(&msg, COLO_MSG_SYNC, BASE + 2);
    g_assert_true(colo_secondary_recv(&s, &msg, &error_abort));
    msg.sync.number = 2;
    g_assert_true(colo_secondary_recv(&s, &msg, &error_abort));
    g_assert_false(colo_secondary_recv(&s, &msg, NULL));
    g_assert_cmpint(s.state, ==, COLO_S_LOST);
    colo_secondary_destroy(&s);
}

static void test_checksum_agreed(void)
{
    g_auto(ColoMsg) msg = { 0 };
    ColoSecondary s;

    secondary_in(&s, COLO_S_RECEIVING);
    make_msg(&msg, COLO_MSG_PAGES, BASE + 2);
    g_assert_true(colo_secondary_expects(&s, &msg.h, NULL));
    msg.h.flags = COLO_MSG_F_DATA_CRC;
    g_assert_false(colo_secondary_expects(&s, &msg.h, NULL));
    s.agreed.features |= COLO_FEATURE_PAGE_CRC;
    g_assert_true(colo_secondary_expects(&s, &msg.h, NULL));
    msg.h.flags = 0;
    g_assert_false(colo_secondary_expects(&s, &msg.h, NULL));
    s.agreed.features = 0;
    msg.h.type = COLO_MSG_SYNC;
    g_assert_false(colo_secondary_expects(&s, &msg.h, NULL));
    colo_secondary_destroy(&s);
}

/* The sender's mistakes change nothing. */
static void test_send_refused(void)
{
    g_auto(ColoMsg) msg = { 0 };
    ColoRun run = { BLOCK_PAGES, 1, COLO_RUN_ZERO };
    ColoPrimary p;

    primary_in(&p, COLO_P_SENDING);
    make_msg(&msg, COLO_MSG_PAGES, BASE + 2);
    g_array_append_val(msg.pages.runs, run);
    g_assert_false(colo_primary_send(&p, &msg, NULL));
    g_assert_cmpuint(p.progress.totals.zero_pages, ==, 0);
    g_assert_false(p_send(&p, COLO_MSG_PAGES, BASE + 1, NULL));
    g_assert_false(p_send(&p, COLO_MSG_COMMIT, BASE + 2, NULL));
    g_assert_cmpint(p.state, ==, COLO_P_SENDING);
    p_send_parts(&p, BASE + 2);
    g_assert_false(p_send(&p, COLO_MSG_DEVICE, BASE + 2, NULL));
    g_assert_true(p_send(&p, COLO_MSG_COMMIT, BASE + 2, &error_abort));
    colo_primary_destroy(&p);
}

/* COMMITTED must be out before a new checkpoint, or a request, follows. */
static void test_committed_first(void)
{
    ColoSecondary s;

    secondary_in(&s, COLO_S_COMMITTING);
    g_assert_false(colo_secondary_may_send(&s, COLO_MSG_COMMITTED));
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_RUNNING);
    g_assert_true(colo_secondary_may_send(&s, COLO_MSG_COMMITTED));
    g_assert_false(colo_secondary_may_send(&s, COLO_MSG_REQUEST));
    g_assert_false(s_recv(&s, COLO_MSG_BEGIN, BASE + 3, NULL));
    g_assert_cmpint(s.state, ==, COLO_S_LOST);
    colo_secondary_destroy(&s);
}

static void test_request_early(void)
{
    ColoPrimary p;
    ColoSecondary s;

    primary_in(&p, COLO_P_READY);
    p_send(&p, COLO_MSG_BEGIN, BASE + 1, &error_abort);
    g_assert_false(p_recv(&p, COLO_MSG_REQUEST, BASE, NULL));
    g_assert_cmpint(p.state, ==, COLO_P_ENDED);
    colo_primary_destroy(&p);

    secondary_in(&s, COLO_S_READY);
    s_recv(&s, COLO_MSG_BEGIN, BASE + 1, &error_abort);
    g_assert_false(colo_secondary_may_send(&s, COLO_MSG_REQUEST));
    colo_secondary_destroy(&s);
}

/* A commit that has begun ends before anything else does. */
static void test_commit_rolls_forward(void)
{
    ColoSecondary s;

    secondary_in(&s, COLO_S_COMMITTING);
    g_assert_false(colo_secondary_may_fail_over(&s));
    g_assert_false(colo_secondary_discards_staging(&s));
    colo_secondary_peer_lost(&s);
    g_assert_cmpint(s.state, ==, COLO_S_COMMITTING);
    g_assert_false(colo_secondary_discards_staging(&s));
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_LOST);
    g_assert_cmpuint(s.committed, ==, BASE + 2);
    g_assert_true(colo_secondary_may_fail_over(&s));
    colo_secondary_destroy(&s);

    secondary_in(&s, COLO_S_COMMITTING);
    colo_secondary_failover(&s, &error_abort);
    g_assert_cmpint(s.state, ==, COLO_S_COMMITTING);
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_TAKING_OVER);
    g_assert_true(colo_secondary_may_send(&s, COLO_MSG_TAKEOVER));
    g_assert_false(colo_secondary_may_send(&s, COLO_MSG_COMMITTED));
    colo_secondary_peer_lost(&s);
    g_assert_cmpint(s.state, ==, COLO_S_ENDED);
    colo_secondary_destroy(&s);

    secondary_in(&s, COLO_S_COMMITTING);
    colo_secondary_peer_lost(&s);
    colo_secondary_failover(&s, &error_abort);
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_ENDED);
    g_assert_cmpuint(s.committed, ==, BASE + 2);
    colo_secondary_destroy(&s);

    /* garbage while it commits: reported, and only then lost */
    secondary_in(&s, COLO_S_COMMITTING);
    g_assert_false(s_recv(&s, COLO_MSG_BEGIN, BASE + 3, NULL));
    g_assert_cmpint(s.state, ==, COLO_S_COMMITTING);
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_LOST);
    g_assert_true(colo_secondary_may_send(&s, COLO_MSG_ERROR));
    colo_secondary_destroy(&s);
}

static void test_commit_fails(void)
{
    ColoSecondary s;

    secondary_in(&s, COLO_S_COMMITTING);
    colo_secondary_commit_failed(&s);
    g_assert_cmpint(s.state, ==, COLO_S_STOPPED);
    g_assert_true(colo_secondary_may_send(&s, COLO_MSG_STOPPED));
    g_assert_false(colo_secondary_failover(&s, NULL));
    g_assert_false(colo_secondary_may_fail_over(&s));
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_STOPPED);
    g_assert_cmpuint(s.committed, ==, BASE + 1);
    colo_secondary_destroy(&s);

    /* stopped by the primary while it commits */
    secondary_in(&s, COLO_S_COMMITTING);
    s_recv(&s, COLO_MSG_TAKEOVER, BASE + 1, &error_abort);
    colo_secondary_commit_failed(&s);
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_STOPPED);
    colo_secondary_destroy(&s);

    /* and neither means anything while nothing is being applied */
    secondary_in(&s, COLO_S_RECEIVING);
    colo_secondary_commit_failed(&s);
    colo_secondary_commit_applied(&s);
    g_assert_cmpint(s.state, ==, COLO_S_RECEIVING);
    g_assert_cmpuint(s.committed, ==, BASE + 1);
    colo_secondary_destroy(&s);
}

/* What losing the peer means in each state, and failover after it. */
static void test_lost(void)
{
    /* letters as in the tables */
    static const char p_lost[] = "UUUULLLLLUXU";
    static const char s_lost[] = "XXXXLLCLUXU";
    static const char s_then[] = "XXXXUUCUUXU";
    int i;

    for (i = 0; i < COLO_P__MAX; i++) {
        ColoPrimary p;
        ColoMsgType type;

        primary_in(&p, i);
        colo_primary_peer_lost(&p);
        g_assert_cmpint(primary_letters[p.state], ==, p_lost[i]);
        for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
            g_assert_false(colo_primary_may_send(&p, type));
        }
        g_assert_true(colo_primary_failover(&p, NULL) ==
                      (i != COLO_P_STOPPED));
        g_assert_cmpint(p.state, ==,
                        i == COLO_P_STOPPED ? COLO_P_STOPPED : COLO_P_ENDED);
        colo_primary_destroy(&p);
    }
    for (i = 0; i < COLO_S__MAX; i++) {
        ColoSecondary s;
        ColoMsgType type;

        secondary_in(&s, i);
        colo_secondary_peer_lost(&s);
        g_assert_cmpint(secondary_letters[s.state], ==, s_lost[i]);
        for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
            g_assert_false(colo_secondary_may_send(&s, type));
        }
        g_assert_true(colo_secondary_failover(&s, NULL) ==
                      (s_then[i] != 'X'));
        g_assert_cmpint(secondary_letters[s.state], ==, s_then[i]);
        colo_secondary_destroy(&s);
    }
}

/* A first COMMIT that was sent may have been applied: the primary waits. */
static void test_lost_first(void)
{
    ColoPrimary p;

    primary_in(&p, COLO_P_READY);
    p_send(&p, COLO_MSG_BEGIN, BASE + 1, &error_abort);
    p_send_parts(&p, BASE + 1);
    colo_primary_peer_lost(&p);
    g_assert_cmpint(p.state, ==, COLO_P_ENDED);
    colo_primary_destroy(&p);

    primary_in(&p, COLO_P_READY);
    p_commit(&p, BASE + 1);
    colo_primary_peer_lost(&p);
    g_assert_cmpint(p.state, ==, COLO_P_LOST);
    colo_primary_destroy(&p);
}

static void test_release(void)
{
    ColoPrimary p;

    primary_in(&p, COLO_P_WAIT_COMMIT);
    g_assert_true(colo_primary_may_release(&p, BASE));
    g_assert_false(colo_primary_may_release(&p, BASE + 1));
    p_recv(&p, COLO_MSG_COMMITTED, BASE + 2, &error_abort);
    g_assert_true(colo_primary_may_release(&p, BASE + 1));
    g_assert_false(colo_primary_may_release(&p, BASE + 2));
    colo_primary_peer_lost(&p);
    g_assert_false(colo_primary_may_release(&p, BASE + 2));
    colo_primary_failover(&p, &error_abort);
    g_assert_true(colo_primary_may_release(&p, BASE + 2));
    colo_primary_destroy(&p);
}

static void test_stop(void)
{
    int i;

    for (i = 0; i < COLO_S__MAX; i++) {
        ColoSecondary s;

        secondary_in(&s, i);
        colo_secondary_stop(&s);
        g_assert_cmpint(s.state, ==, i == COLO_S_ENDED ? COLO_S_ENDED
                                                       : COLO_S_STOPPED);
        g_assert_true(colo_secondary_may_send(&s, COLO_MSG_STOPPED) ==
                      (i != COLO_S_ENDED));
        colo_secondary_destroy(&s);
    }
}

static void test_failover_early(void)
{
    ColoSecondary s;
    Error *err = NULL;

    secondary_in(&s, COLO_S_READY);
    s_recv(&s, COLO_MSG_BEGIN, BASE + 1, &error_abort);
    g_assert_false(colo_secondary_may_fail_over(&s));
    g_assert_false(colo_secondary_failover(&s, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "no checkpoint"));
    error_free(err);
    g_assert_cmpint(s.state, ==, COLO_S_RECEIVING);
    colo_secondary_destroy(&s);
}

/* The handshake */

static void assert_disagree(const ColoHello *a, const ColoHello *b,
                            const char *text)
{
    ColoAgreed agreed;
    Error *err = NULL;

    g_assert_false(colo_hello_agree(a, b, &agreed, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
}

static void test_agree_version(void)
{
    static const struct {
        uint16_t min_a, max_a, min_b, max_b, want;
    } cases[] = {
        { 1, 1, 1, 1, 1 }, { 1, 3, 2, 5, 3 }, { 2, 5, 1, 3, 3 },
        { 1, 9, 4, 4, 4 }, { 1, 1, 2, 2, 0 }, { 3, 4, 1, 2, 0 },
    };
    g_auto(ColoHello) a = { 0 };
    g_auto(ColoHello) b = { 0 };
    ColoAgreed agreed;
    unsigned i;

    make_hello(&a, 0);
    make_hello(&b, 0);
    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        a.version_min = cases[i].min_a;
        a.version_max = cases[i].max_a;
        b.version_min = cases[i].min_b;
        b.version_max = cases[i].max_b;
        if (cases[i].want) {
            g_assert_true(colo_hello_agree(&a, &b, &agreed, &error_abort));
            g_assert_cmpuint(agreed.version, ==, cases[i].want);
        } else {
            assert_disagree(&a, &b, "versions");
        }
    }
    /* one that sent nothing but its versions, as foreign ones are read */
    colo_ramlist_free(b.ram);
    b.ram = NULL;
    assert_disagree(&a, &b, "this QEMU speaks versions 3 to 4 and the peer"
                    " 1 to 2");
}

static void test_agree_features(void)
{
    g_auto(ColoHello) a = { 0 };
    g_auto(ColoHello) b = { 0 };
    ColoAgreed agreed;

    make_hello(&a, COLO_FEATURE_MULTIFD | COLO_FEATURE_PAGE_CRC | 1ull << 60);
    make_hello(&b, COLO_FEATURE_MULTIFD | 1ull << 60);
    colo_hello_agree(&a, &b, &agreed, &error_abort);
    g_assert_cmphex(agreed.features, ==, COLO_FEATURE_MULTIFD);
    b.features |= COLO_FEATURE_PAGE_CRC;
    colo_hello_agree(&a, &b, &agreed, &error_abort);
    g_assert_cmphex(agreed.features, ==,
                    COLO_FEATURE_MULTIFD | COLO_FEATURE_PAGE_CRC);
    a.features |= COLO_FEATURE_IDLE_SVM;
    colo_hello_agree(&a, &b, &agreed, &error_abort);
    g_assert_false(agreed.features & COLO_FEATURE_IDLE_SVM);
    b.features |= COLO_FEATURE_IDLE_SVM;
    colo_hello_agree(&a, &b, &agreed, &error_abort);
    g_assert_true(agreed.features & COLO_FEATURE_IDLE_SVM);
    b.features = 0;
    assert_disagree(&a, &b, "multifd is on here and off at the peer");
    assert_disagree(&b, &a, "multifd is off here and on at the peer");
}

static void test_agree_host(void)
{
    g_auto(ColoHello) a = { 0 };
    g_auto(ColoHello) b = { 0 };
    ColoAgreed agreed;

    make_hello(&a, 0);
    make_hello(&b, 0);
    colo_hello_agree(&a, &b, &agreed, &error_abort);
    g_assert_true(agreed.same_host);
    b.host_id[15]++;
    colo_hello_agree(&a, &b, &agreed, &error_abort);
    g_assert_false(agreed.same_host);
    memset(a.host_id, 0, COLO_HOST_ID_SIZE);
    memset(b.host_id, 0, COLO_HOST_ID_SIZE);
    colo_hello_agree(&a, &b, &agreed, &error_abort);
    g_assert_false(agreed.same_host);
}

/* Two that don't fit: the primary goes on, the secondary stops. */
static void test_agree_ram(void)
{
    g_auto(ColoMsg) msg = { 0 };
    ColoPrimary p;
    ColoSecondary s;
    Error *err = NULL;

    primary_in(&p, COLO_P_INIT);
    make_msg(&msg, COLO_MSG_HELLO, 0);
    g_free(msg.hello.machine);
    msg.hello.machine = g_strdup("q35");
    colo_ramlist_add(msg.hello.ram, "extra", PAGE, &error_abort);
    g_assert_false(colo_primary_recv(&p, &msg, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "'extra'"));
    g_assert_nonnull(strstr(error_get_pretty(err), "q35"));
    error_free(err);
    g_assert_cmpint(p.state, ==, COLO_P_ENDED);
    g_assert_true(colo_primary_may_send(&p, COLO_MSG_ERROR));
    colo_primary_destroy(&p);

    secondary_in(&s, COLO_S_GREETED);
    g_assert_false(colo_secondary_recv(&s, &msg, NULL));
    g_assert_cmpint(s.state, ==, COLO_S_STOPPED);
    colo_secondary_destroy(&s);
}

/*
 * The two against each other
 *
 * Guest memory is one value per page: the secondary stages what it receives,
 * applies it page by page, and must never be seen in between.
 */

typedef enum Script {
    SCRIPT_END,             /* the primary ends protection */
    SCRIPT_PRIMARY,         /* the primary is told to survive */
    SCRIPT_SECONDARY,       /* the secondary is */
    SCRIPT_BOTH,            /* both are, at once */
    SCRIPT_QUIT,            /* the secondary quits */
    SCRIPT__MAX,
} Script;

typedef enum Fault {
    FAULT_NONE,
    FAULT_CUT,              /* the connection breaks after byte @at */
    FAULT_STALL,            /* from byte @at on nothing arrives */
    FAULT_CORRUPT,          /* byte @at arrives changed */
    FAULT__MAX,
} Fault;

/* One direction of the stream. */
typedef struct Pipe {
    GByteArray *bytes;      /* all that was ever sent */
    size_t read;            /* how much of it was taken */
    GArray *marks;          /* size_t: where the bytes of interest are */
    Fault fault;
    size_t at;
} Pipe;

/* A message on its way in: its payload is there, its data may not be. */
typedef struct Incoming {
    ColoMsg msg;
    bool taken;             /* by the state machine; data is to come */
} Incoming;

typedef struct Sim {
    ColoPrimary p;
    ColoSecondary s;
    Pipe to_p;
    Pipe to_s;
    bool closed;            /* by one of the sides */
    Incoming in_p;
    Incoming in_s;

    Script script;
    bool script_done;
    bool multifd;
    bool p_gives_up_first;  /* whose patience ends first */
    unsigned step;
    unsigned order_step;    /* at which the script's orders are given */

    unsigned taken;         /* checkpoints begun */
    unsigned part;          /* of the checkpoint being sent */
    uint8_t p_mem[PAGES];
    uint8_t s_mem[PAGES];
    uint8_t snapshot[CHECKPOINTS + 1][PAGES];
    int staged[PAGES];      /* value, or -1 */
    uint64_t requested;     /* epoch for which REQUEST was sent */
    uint64_t released;      /* output of epochs below it has left */
    bool p_told;            /* somebody told it to survive */
    bool s_told;
} Sim;

static void pipe_init(Pipe *pipe, Fault fault, size_t at)
{
    memset(pipe, 0, sizeof(*pipe));
    pipe->bytes = g_byte_array_new();
    pipe->marks = g_array_new(false, false, sizeof(size_t));
    pipe->fault = fault;
    pipe->at = at;
}

static void pipe_destroy(Pipe *pipe)
{
    g_byte_array_free(pipe->bytes, true);
    g_array_unref(pipe->marks);
}

static bool pipe_cut(const Pipe *pipe)
{
    return pipe->fault == FAULT_CUT && pipe->bytes->len > pipe->at;
}

static bool sim_cut(const Sim *sim)
{
    return sim->closed || pipe_cut(&sim->to_p) || pipe_cut(&sim->to_s);
}

/* Bytes that the receiver can have. */
static size_t pipe_available(const Pipe *pipe)
{
    size_t len = pipe->bytes->len;

    if (pipe->fault == FAULT_CUT || pipe->fault == FAULT_STALL) {
        len = MIN(len, pipe->at);
    }
    return len - pipe->read;
}

static void pipe_mark(Pipe *pipe, size_t from, size_t to)
{
    for (; from < to; from++) {
        g_array_append_val(pipe->marks, from);
    }
}

static void pipe_write(Pipe *pipe, const GByteArray *msg, const uint8_t *data,
                       size_t data_len)
{
    size_t start = pipe->bytes->len;
    size_t at = pipe->at;

    g_byte_array_append(pipe->bytes, msg->data, msg->len);
    pipe_mark(pipe, start, pipe->bytes->len);
    if (data_len) {
        size_t data_start = pipe->bytes->len;

        g_byte_array_append(pipe->bytes, data, data_len);
        pipe_mark(pipe, data_start, data_start + 1);
        pipe_mark(pipe, data_start + data_len / 2,
                  data_start + data_len / 2 + 1);
        pipe_mark(pipe, pipe->bytes->len - 1, pipe->bytes->len);
    }
    if (pipe->fault == FAULT_CORRUPT && at >= start &&
        at < pipe->bytes->len) {
        pipe->bytes->data[at] ^= 0x40;
    }
}

static void sim_write(Sim *sim, ColoSide from, const ColoMsg *msg,
                      const uint8_t *data)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();

    if (sim_cut(sim)) {
        return;
    }
    colo_msg_encode(msg, from, buf, &error_abort);
    pipe_write(from == COLO_SIDE_PRIMARY ? &sim->to_s : &sim->to_p,
               buf, data, msg->h.data_len);
}

static void sim_p_send(Sim *sim, ColoMsg *msg, const uint8_t *data)
{
    colo_primary_send(&sim->p, msg, &error_abort);
    sim_write(sim, COLO_SIDE_PRIMARY, msg, data);
}

static void sim_s_send(Sim *sim, ColoMsg *msg)
{
    colo_secondary_send(&sim->s, msg, &error_abort);
    sim_write(sim, COLO_SIDE_SECONDARY, msg, NULL);
}

/* Send a message that has a text or nothing in it. */
static void sim_p_say(Sim *sim, ColoMsgType type)
{
    g_auto(ColoMsg) msg = { 0 };

    colo_msg_init(&msg, type, colo_primary_epoch_of(&sim->p, type));
    sim_p_send(sim, &msg, NULL);
}

static void sim_s_say(Sim *sim, ColoMsgType type)
{
    g_auto(ColoMsg) msg = { 0 };

    colo_msg_init(&msg, type, colo_secondary_epoch_of(&sim->s, type));
    sim_s_send(sim, &msg);
}

static void sim_hello(Sim *sim, bool primary)
{
    g_auto(ColoMsg) msg = { 0 };

    colo_msg_init(&msg, COLO_MSG_HELLO, primary ? BASE : 0);
    colo_hello_copy(&msg.hello, primary ? &sim->p.local : &sim->s.local);
    if (primary) {
        sim_p_send(sim, &msg, NULL);
    } else {
        sim_s_send(sim, &msg);
    }
}

static void sim_begin(Sim *sim)
{
    uint8_t e = ++sim->taken;
    g_auto(ColoMsg) msg = { 0 };

    /* one page written in each block, and one made zero */
    sim->p_mem[e % BLOCK_PAGES] = e;
    sim->p_mem[BLOCK_PAGES + e] = e;
    sim->p_mem[(e + 1) % BLOCK_PAGES] = 0;
    memcpy(sim->snapshot[e], sim->p_mem, PAGES);
    sim->part = 0;
    colo_msg_init(&msg, COLO_MSG_BEGIN, BASE + e);
    sim_p_send(sim, &msg, NULL);
}

/* All pages of @block, data or zero as they are. */
static void sim_send_pages(Sim *sim, unsigned block)
{
    g_auto(ColoMsg) msg = { 0 };
    uint8_t data[BLOCK_PAGES * PAGE];
    unsigned i;

    colo_msg_init(&msg, COLO_MSG_PAGES, sim->p.epoch);
    msg.h.flags = COLO_MSG_F_DATA_CRC;
    msg.pages.block = block;
    for (i = 0; i < BLOCK_PAGES; i++) {
        uint8_t value = sim->p_mem[block * BLOCK_PAGES + i];
        ColoRun run = { i, 1, value ? COLO_RUN_DATA : COLO_RUN_ZERO };

        g_array_append_val(msg.pages.runs, run);
        if (value) {
            memset(data + msg.h.data_len, value, PAGE);
            msg.h.data_len += PAGE;
        }
    }
    msg.pages.data_crc = colo_crc(0, data, msg.h.data_len);
    sim_p_send(sim, &msg, data);
}

static void sim_send_blob(Sim *sim, ColoMsgType type)
{
    static const uint8_t blob[] = "state of devices or connections";
    g_auto(ColoMsg) msg = { 0 };

    colo_msg_init(&msg, type, sim->p.epoch);
    msg.h.data_len = sizeof(blob);
    msg.device.data_crc = colo_crc(0, blob, sizeof(blob));
    sim_p_send(sim, &msg, blob);
}

static void sim_send_sync(Sim *sim)
{
    g_auto(ColoMsg) msg = { 0 };

    if (sim->multifd) {
        colo_msg_init(&msg, COLO_MSG_SYNC, sim->p.epoch);
        msg.sync.number = 1;
        sim_p_send(sim, &msg, NULL);
    }
}

static void sim_send_part(Sim *sim)
{
    g_auto(ColoMsg) msg = { 0 };

    switch (sim->part++) {
    case 0:
    case 1:
        sim_send_pages(sim, sim->part - 1);
        break;
    case 2:
        sim_send_sync(sim);
        break;
    case 3:
        sim_send_blob(sim, COLO_MSG_DEVICE);
        break;
    case 4:
        sim_send_blob(sim, COLO_MSG_PROXY);
        break;
    default:
        colo_msg_init(&msg, COLO_MSG_COMMIT, sim->p.epoch);
        msg.commit.totals = sim->p.progress.totals;
        sim_p_send(sim, &msg, NULL);
        break;
    }
}

/* The primary does the next thing that is its to do. True if there was any. */
static bool sim_p_act(Sim *sim)
{
    static const ColoMsgType owed[] = {
        COLO_MSG_STOPPED, COLO_MSG_TAKEOVER, COLO_MSG_ERROR
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(owed); i++) {
        if (colo_primary_may_send(&sim->p, owed[i])) {
            sim_p_say(sim, owed[i]);
            return true;
        }
    }
    if (colo_primary_may_send(&sim->p, COLO_MSG_HELLO)) {
        sim_hello(sim, true);
        return true;
    }
    if (colo_primary_may_send(&sim->p, COLO_MSG_BEGIN) &&
        sim->taken < CHECKPOINTS) {
        sim_begin(sim);
        return true;
    }
    if (colo_primary_may_send(&sim->p, COLO_MSG_PAGES)) {
        sim_send_part(sim);
        return true;
    }
    return false;
}

/* The secondary applies one page, or is done with it. */
static void sim_apply(Sim *sim)
{
    unsigned i;

    for (i = 0; i < PAGES; i++) {
        if (sim->staged[i] >= 0) {
            sim->s_mem[i] = sim->staged[i];
            sim->staged[i] = -1;
            return;
        }
    }
    colo_secondary_commit_applied(&sim->s);
}

static bool sim_s_act(Sim *sim)
{
    static const ColoMsgType owed[] = {
        COLO_MSG_COMMITTED, COLO_MSG_STOPPED, COLO_MSG_TAKEOVER,
        COLO_MSG_ERROR, COLO_MSG_READY
    };
    unsigned i;

    if (colo_secondary_discards_staging(&sim->s)) {
        for (i = 0; i < PAGES; i++) {
            sim->staged[i] = -1;
        }
    }
    if (sim->s.state == COLO_S_COMMITTING) {
        sim_apply(sim);
        return true;
    }
    for (i = 0; i < ARRAY_SIZE(owed); i++) {
        if (colo_secondary_may_send(&sim->s, owed[i])) {
            sim_s_say(sim, owed[i]);
            return true;
        }
    }
    if (colo_secondary_may_send(&sim->s, COLO_MSG_HELLO)) {
        sim_hello(sim, false);
        return true;
    }
    if (colo_secondary_may_send(&sim->s, COLO_MSG_REQUEST) &&
        sim->requested < sim->s.committed) {
        sim->requested = sim->s.committed;
        sim_s_say(sim, COLO_MSG_REQUEST);
        return true;
    }
    return false;
}

static void sim_stage(Sim *sim, const ColoMsg *msg, const uint8_t *data)
{
    unsigned i, j;

    for (i = 0; i < msg->pages.runs->len; i++) {
        const ColoRun *run = &g_array_index(msg->pages.runs, ColoRun, i);

        for (j = 0; j < run->count; j++) {
            int *page = &sim->staged[msg->pages.block * BLOCK_PAGES +
                                     run->first + j];

            *page = run->flags == COLO_RUN_DATA ? *data : 0;
            data += run->flags == COLO_RUN_DATA ? PAGE : 0;
        }
    }
}

typedef enum Got {
    GOT_NOTHING,            /* not enough bytes yet */
    GOT_MESSAGE,
    GOT_GARBAGE,            /* there is no next message to be found */
} Got;

/* Header and payload of the next message, if they are there. */
static Got sim_read_message(Sim *sim, ColoSide from, ColoMsg *msg)
{
    Pipe *pipe = from == COLO_SIDE_PRIMARY ? &sim->to_s : &sim->to_p;
    const uint8_t *bytes = pipe->bytes->data + pipe->read;
    ColoHeader h;

    if (pipe_available(pipe) < COLO_HEADER_SIZE) {
        return GOT_NOTHING;
    }
    if (!colo_header_decode(bytes, from, &h, NULL)) {
        return GOT_GARBAGE;
    }
    if (from == COLO_SIDE_PRIMARY ? !colo_secondary_expects(&sim->s, &h, NULL)
                                  : !colo_primary_expects(&sim->p, &h, NULL)) {
        return GOT_GARBAGE;
    }
    if (pipe_available(pipe) < COLO_HEADER_SIZE + h.payload_len) {
        return GOT_NOTHING;
    }
    if (!colo_msg_decode(&h, bytes + COLO_HEADER_SIZE,
                         from == COLO_SIDE_PRIMARY ? sim->s.ram : NULL,
                         msg, NULL)) {
        return GOT_GARBAGE;
    }
    pipe->read += COLO_HEADER_SIZE + h.payload_len;
    return GOT_MESSAGE;
}

static void sim_p_failed(Sim *sim)
{
    colo_primary_failed(&sim->p);
    if (colo_primary_may_send(&sim->p, COLO_MSG_ERROR)) {
        sim_p_say(sim, COLO_MSG_ERROR);
    }
    colo_primary_peer_lost(&sim->p);
    sim->closed = true;
}

static void sim_s_failed(Sim *sim)
{
    colo_secondary_failed(&sim->s);
    if (colo_secondary_may_send(&sim->s, COLO_MSG_ERROR)) {
        sim_s_say(sim, COLO_MSG_ERROR);
    }
    colo_secondary_peer_lost(&sim->s);
    sim->closed = true;
}

static bool sim_p_read(Sim *sim)
{
    g_auto(ColoMsg) msg = { 0 };
    Got got;

    if (!sim->p.link) {
        return false;
    }
    got = sim_read_message(sim, COLO_SIDE_SECONDARY, &msg);
    if (got == GOT_GARBAGE ||
        (got == GOT_MESSAGE && !colo_primary_recv(&sim->p, &msg, NULL))) {
        sim_p_failed(sim);
        return true;
    }
    if (got == GOT_NOTHING && sim_cut(sim)) {
        colo_primary_peer_lost(&sim->p);
        return true;
    }
    return got != GOT_NOTHING;
}

/* The data of a message that the secondary has taken. */
static Got sim_read_data(Sim *sim)
{
    const ColoMsg *msg = &sim->in_s.msg;
    const uint8_t *data = sim->to_s.bytes->data + sim->to_s.read;

    if (pipe_available(&sim->to_s) < msg->h.data_len) {
        return GOT_NOTHING;
    }
    if (!colo_msg_check_data(msg, colo_crc(0, data, msg->h.data_len), NULL)) {
        return GOT_GARBAGE;
    }
    if (msg->h.type == COLO_MSG_PAGES &&
        !colo_secondary_discards_staging(&sim->s)) {
        sim_stage(sim, msg, data);
    }
    sim->to_s.read += msg->h.data_len;
    colo_msg_clear(&sim->in_s.msg);
    sim->in_s.taken = false;
    return GOT_MESSAGE;
}

static bool sim_s_read(Sim *sim)
{
    Got got;

    if (!sim->s.link) {
        return false;
    }
    if (sim->in_s.taken) {
        got = sim_read_data(sim);
    } else {
        got = sim_read_message(sim, COLO_SIDE_PRIMARY, &sim->in_s.msg);
        if (got == GOT_MESSAGE) {
            sim->in_s.taken = true;
            if (!colo_secondary_recv(&sim->s, &sim->in_s.msg, NULL)) {
                got = GOT_GARBAGE;
            }
        }
    }
    if (got == GOT_GARBAGE) {
        sim_s_failed(sim);
        return true;
    }
    if (got == GOT_NOTHING && sim_cut(sim)) {
        colo_secondary_peer_lost(&sim->s);
        return true;
    }
    return got != GOT_NOTHING;
}

/* What has to be true at every moment. */
static void sim_check(Sim *sim)
{
    const ColoPrimary *p = &sim->p;
    const ColoSecondary *s = &sim->s;
    uint64_t epoch;

    if (s->state != COLO_S_COMMITTING && s->state != COLO_S_STOPPED &&
        s->committed >= BASE) {
        g_assert_cmpmem(sim->s_mem, PAGES,
                        sim->snapshot[s->committed - BASE], PAGES);
    }
    if (s->ram) {
        g_assert_cmpuint(p->committed, <=, s->committed);
        g_assert_cmpuint(s->committed, <=, p->offered);
        g_assert_cmpuint(p->offered, <=, p->committed + 1);
    }
    if (p->state != COLO_P_ENDED) {
        for (epoch = BASE; colo_primary_may_release(p, epoch); epoch++) {
            g_assert_cmpuint(epoch, <, s->committed);
            sim->released = MAX(sim->released, epoch + 1);
        }
    }
    if (!(sim->p_told && sim->s_told)) {
        g_assert_false(colo_primary_survives(p) &&
                       colo_secondary_survives(s));
    }
}

static void sim_order(Sim *sim)
{
    switch (sim->script) {
    case SCRIPT_END:
        if (colo_primary_may_send(&sim->p, COLO_MSG_END)) {
            sim_p_say(sim, COLO_MSG_END);
        }
        break;
    case SCRIPT_PRIMARY:
        sim->p_told = colo_primary_failover(&sim->p, NULL);
        break;
    case SCRIPT_SECONDARY:
        sim->s_told = colo_secondary_failover(&sim->s, NULL);
        break;
    case SCRIPT_BOTH:
        sim->p_told = colo_primary_failover(&sim->p, NULL);
        sim->s_told = colo_secondary_failover(&sim->s, NULL);
        break;
    default:
        colo_secondary_stop(&sim->s);
        break;
    }
    sim->script_done = true;
}

/* Nothing moves any more: someone's limit on waiting ends. */
static bool sim_give_up(Sim *sim)
{
    if (sim->p.link && (sim->p_gives_up_first || !sim->s.link)) {
        colo_primary_peer_lost(&sim->p);
    } else if (sim->s.link) {
        colo_secondary_peer_lost(&sim->s);
    } else {
        return false;
    }
    sim->closed = true;
    return true;
}

static bool p_final(const Sim *sim)
{
    return sim->p.state == COLO_P_STOPPED || sim->p.state == COLO_P_ENDED;
}

static bool s_final(const Sim *sim)
{
    return sim->s.state == COLO_S_STOPPED || sim->s.state == COLO_S_ENDED;
}

static bool sim_step(Sim *sim)
{
    bool (*const turns[])(Sim *) = {
        sim_p_act, sim_s_read, sim_s_act, sim_p_read
    };
    bool moved = false;
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(turns); i++) {
        if (!sim->script_done && sim->step == sim->order_step) {
            sim_order(sim);
        }
        sim->step++;
        moved |= turns[i](sim);
        sim_check(sim);
    }
    return moved;
}

/* Until nothing moves, and nobody waits for anything any more. */
static void sim_run(Sim *sim)
{
    for (;;) {
        g_assert_cmpuint(sim->step, <, MAX_STEPS);
        if (sim_step(sim)) {
            continue;
        }
        if (!sim->script_done &&
            (sim->order_step != UINT_MAX || sim->taken == CHECKPOINTS)) {
            sim_order(sim);
            continue;
        }
        if (p_final(sim) && s_final(sim)) {
            return;
        }
        if (!sim_give_up(sim)) {
            return;
        }
    }
}

static void sim_init(Sim *sim, Script script, Fault fault, ColoSide to,
                     size_t at, bool multifd)
{
    g_auto(ColoHello) hello = { 0 };
    uint64_t features = COLO_FEATURE_PAGE_CRC;
    unsigned i;

    features |= multifd ? COLO_FEATURE_MULTIFD : 0;
    memset(sim, 0, sizeof(*sim));
    make_hello(&hello, features);
    colo_primary_init(&sim->p, &hello, BASE);
    colo_secondary_init(&sim->s, &hello);
    pipe_init(&sim->to_p, to == COLO_SIDE_PRIMARY ? fault : FAULT_NONE, at);
    pipe_init(&sim->to_s, to == COLO_SIDE_SECONDARY ? fault : FAULT_NONE,
              at);
    sim->script = script;
    sim->multifd = multifd;
    sim->order_step = UINT_MAX;
    sim->requested = BASE;
    for (i = 0; i < PAGES; i++) {
        sim->staged[i] = -1;
    }
}

static void sim_destroy(Sim *sim)
{
    colo_msg_clear(&sim->in_s.msg);
    colo_primary_destroy(&sim->p);
    colo_secondary_destroy(&sim->s);
    pipe_destroy(&sim->to_p);
    pipe_destroy(&sim->to_s);
}

/* One of the two could be told to go on, and it alone would. */
static void sim_check_decision(const Sim *sim)
{
    ColoPrimary p = sim->p;
    ColoSecondary s = sim->s;

    if (colo_secondary_failover(&s, NULL)) {
        /* the primary is dead: all it let out is in what goes on */
        g_assert_true(colo_secondary_survives(&s));
        g_assert_cmpuint(sim->released, <=, s.committed);
        g_assert_true(sim->p_told || !colo_primary_survives(&p));
    } else {
        /* the secondary can't: the primary can or already does */
        g_assert_true(colo_primary_failover(&p, NULL));
        g_assert_true(colo_primary_survives(&p));
    }
    if (colo_primary_failover(&p, NULL)) {
        g_assert_true(colo_primary_survives(&p));
    } else {
        g_assert_true(colo_secondary_survives(&s));
    }
}

/* Every fault has an outcome: no side is left waiting for the other. */
static void sim_check_outcome(const Sim *sim)
{
    g_assert_true(p_final(sim) || sim->p.state == COLO_P_LOST);
    g_assert_true(s_final(sim) || sim->s.state == COLO_S_LOST);
    if (sim->p_told && !sim->s_told) {
        g_assert_true(colo_primary_survives(&sim->p));
    }
    if (sim->s_told && !sim->p_told) {
        g_assert_true(colo_secondary_survives(&sim->s));
    }
    sim_check_decision(sim);
}

static void run_fault(Script script, Fault fault, ColoSide to, size_t at,
                      bool multifd, bool p_gives_up_first)
{
    Sim sim;

    sim_init(&sim, script, fault, to, at, multifd);
    sim.p_gives_up_first = p_gives_up_first;
    sim_run(&sim);
    sim_check_outcome(&sim);
    sim_destroy(&sim);
}

static void test_no_fault(void)
{
    static const struct {
        ColoPrimaryState p;
        ColoSecondaryState s;
    } want[SCRIPT__MAX] = {
        [SCRIPT_END] = { COLO_P_ENDED, COLO_S_STOPPED },
        [SCRIPT_PRIMARY] = { COLO_P_ENDED, COLO_S_STOPPED },
        [SCRIPT_SECONDARY] = { COLO_P_STOPPED, COLO_S_ENDED },
        [SCRIPT_BOTH] = { COLO_P_ENDED, COLO_S_STOPPED },
        [SCRIPT_QUIT] = { COLO_P_ENDED, COLO_S_STOPPED },
    };
    Script script;
    int multifd;

    for (script = 0; script < SCRIPT__MAX; script++) {
        for (multifd = 0; multifd < 2; multifd++) {
            Sim sim;

            sim_init(&sim, script, FAULT_NONE, COLO_SIDE_PRIMARY, 0, multifd);
            sim_run(&sim);
            sim_check_outcome(&sim);
            g_assert_cmpint(sim.p.state, ==, want[script].p);
            g_assert_cmpint(sim.s.state, ==, want[script].s);
            g_assert_false(sim.closed);
            g_assert_cmpuint(sim.p.committed, ==, BASE + CHECKPOINTS);
            g_assert_cmpuint(sim.s.committed, ==, BASE + CHECKPOINTS);
            g_assert_cmpuint(sim.released, ==, BASE + CHECKPOINTS);
            g_assert_cmpuint(sim.requested, ==, BASE + CHECKPOINTS);
            sim_destroy(&sim);
        }
    }
}

/* The bytes of interest of a run without a fault. */
static GArray *good_marks(Script script, ColoSide to, bool multifd)
{
    GArray *marks;
    Sim sim;

    sim_init(&sim, script, FAULT_NONE, to, 0, multifd);
    sim_run(&sim);
    marks = g_array_ref(to == COLO_SIDE_PRIMARY ? sim.to_p.marks
                                                : sim.to_s.marks);
    sim_destroy(&sim);
    return marks;
}

/* Every byte of headers and payloads, both ways, with one kind of fault. */
static void test_fault(const void *opaque)
{
    Fault fault = GPOINTER_TO_INT(opaque);
    Script script;
    ColoSide to;
    unsigned i;

    for (script = 0; script < SCRIPT__MAX; script++) {
        for (to = COLO_SIDE_PRIMARY; to <= COLO_SIDE_SECONDARY; to++) {
            bool multifd = script % 2;
            g_autoptr(GArray) marks = good_marks(script, to, multifd);

            g_assert_cmpuint(marks->len, >, 0);
            for (i = 0; i < marks->len; i++) {
                size_t at = g_array_index(marks, size_t, i);

                run_fault(script, fault, to, at, multifd, false);
                if (fault == FAULT_STALL) {
                    run_fault(script, fault, to, at, multifd, true);
                }
            }
        }
    }
}

/* The orders come at every step of a run instead of at its end. */
static void test_order_anywhere(void)
{
    Script script;
    unsigned step;

    for (script = 0; script < SCRIPT__MAX; script++) {
        for (step = 0; step < ORDER_STEPS; step++) {
            Sim sim;

            sim_init(&sim, script, FAULT_NONE, COLO_SIDE_PRIMARY, 0, true);
            sim.order_step = step;
            sim_run(&sim);
            sim_check_outcome(&sim);
            /* the link is fine: who was not refused gets a decision */
            if (script != SCRIPT_SECONDARY || sim.s_told) {
                g_assert_true(p_final(&sim) && s_final(&sim));
                g_assert_true(colo_primary_survives(&sim.p) !=
                              colo_secondary_survives(&sim.s));
            }
            sim_destroy(&sim);
        }
    }
}

/* And at every step with the stream stalled at every message's begin. */
static void test_order_stalled(void)
{
    static const Script scripts[] = { SCRIPT_PRIMARY, SCRIPT_SECONDARY };
    unsigned i, step, at;

    for (i = 0; i < ARRAY_SIZE(scripts); i++) {
        for (step = 0; step < ORDER_STEPS; step += 3) {
            for (at = 0; at < 12000; at += 97) {
                Sim sim;

                sim_init(&sim, scripts[i], FAULT_STALL, COLO_SIDE_SECONDARY,
                         at, false);
                sim.order_step = step;
                sim.p_gives_up_first = at % 2;
                sim_run(&sim);
                sim_check_outcome(&sim);
                sim_destroy(&sim);
            }
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/protocol/states", test_states);
    g_test_add_func("/colo/protocol/primary-table", test_primary_table);
    g_test_add_func("/colo/protocol/secondary-table", test_secondary_table);
    g_test_add_func("/colo/protocol/wrong-epoch", test_wrong_epoch);
    g_test_add_func("/colo/protocol/takeover-epoch", test_takeover_epoch);
    g_test_add_func("/colo/protocol/commit/incomplete",
                    test_commit_incomplete);
    g_test_add_func("/colo/protocol/commit/idle", test_commit_idle);
    g_test_add_func("/colo/protocol/commit/rolls-forward",
                    test_commit_rolls_forward);
    g_test_add_func("/colo/protocol/commit/fails", test_commit_fails);
    g_test_add_func("/colo/protocol/counts", test_counts);
    g_test_add_func("/colo/protocol/part-twice", test_part_twice);
    g_test_add_func("/colo/protocol/sync-number", test_sync_number);
    g_test_add_func("/colo/protocol/checksum-agreed", test_checksum_agreed);
    g_test_add_func("/colo/protocol/send-refused", test_send_refused);
    g_test_add_func("/colo/protocol/committed-first", test_committed_first);
    g_test_add_func("/colo/protocol/request-early", test_request_early);
    g_test_add_func("/colo/protocol/lost", test_lost);
    g_test_add_func("/colo/protocol/lost-first", test_lost_first);
    g_test_add_func("/colo/protocol/release", test_release);
    g_test_add_func("/colo/protocol/stop", test_stop);
    g_test_add_func("/colo/protocol/failover-early", test_failover_early);
    g_test_add_func("/colo/protocol/agree/version", test_agree_version);
    g_test_add_func("/colo/protocol/agree/features", test_agree_features);
    g_test_add_func("/colo/protocol/agree/host", test_agree_host);
    g_test_add_func("/colo/protocol/agree/ram", test_agree_ram);
    g_test_add_func("/colo/protocol/pair/no-fault", test_no_fault);
    g_test_add_func("/colo/protocol/pair/order-anywhere",
                    test_order_anywhere);
    g_test_add_func("/colo/protocol/pair/order-stalled", test_order_stalled);
    g_test_add_data_func("/colo/protocol/pair/cut",
                         GINT_TO_POINTER(FAULT_CUT), test_fault);
    g_test_add_data_func("/colo/protocol/pair/stall",
                         GINT_TO_POINTER(FAULT_STALL), test_fault);
    g_test_add_data_func("/colo/protocol/pair/corrupt",
                         GINT_TO_POINTER(FAULT_CORRUPT), test_fault);
    return g_test_run();
}
