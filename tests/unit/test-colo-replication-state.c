/*
 * Unit tests: what a replication node may do, and when
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/replication-state.h"

#define PRIMARY REPLICATION_MODE_PRIMARY
#define SECONDARY REPLICATION_MODE_SECONDARY

/* A node that got to @stage the way nodes do */
static ReplState at(ReplicationMode mode, ReplStage stage)
{
    ReplState s;

    repl_state_init(&s, mode);
    if (stage == REPL_STAGE_NONE) {
        return s;
    }
    repl_state_started(&s);
    if (stage == REPL_STAGE_RUNNING) {
        return s;
    }
    if (mode == PRIMARY) {
        repl_state_stopped(&s);
        return s;
    }
    repl_state_merging(&s);
    if (stage == REPL_STAGE_FAILOVER_FAILED) {
        repl_state_merged(&s, -ENOSPC);
    } else if (stage == REPL_STAGE_DONE) {
        repl_state_merged(&s, 0);
    }
    return s;
}

/* An Error is set exactly if the verdict is a refusal */
static void check(ReplVerdict got, ReplVerdict want, Error **err)
{
    g_assert_cmpint(got, ==, want);
    g_assert((*err != NULL) == (want == REPL_REFUSE));
    error_free(*err);
    *err = NULL;
}

static void may_start(ReplState s, ReplicationMode mode, ReplVerdict want)
{
    Error *err = NULL;

    check(repl_state_may_start(&s, mode, &err), want, &err);
}

static void may_checkpoint(ReplState s, ReplVerdict want)
{
    Error *err = NULL;

    check(repl_state_may_checkpoint(&s, &err), want, &err);
}

static void may_stop(ReplState s, bool failover, ReplVerdict want)
{
    Error *err = NULL;

    check(repl_state_may_stop(&s, failover, &err), want, &err);
}

static void has_error(const ReplState *s, const char *text)
{
    Error *err = NULL;

    repl_state_get_error(s, "node7", &err);
    if (!text) {
        g_assert_null(err);
        return;
    }
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    g_assert_nonnull(strstr(error_get_pretty(err), "'node7'"));
    error_free(err);
}

static void test_start(void)
{
    may_start(at(PRIMARY, REPL_STAGE_NONE), PRIMARY, REPL_ACT);
    may_start(at(PRIMARY, REPL_STAGE_NONE), SECONDARY, REPL_REFUSE);
    may_start(at(PRIMARY, REPL_STAGE_RUNNING), PRIMARY, REPL_REFUSE);
    may_start(at(PRIMARY, REPL_STAGE_DONE), PRIMARY, REPL_ACT);
    may_start(at(PRIMARY, REPL_STAGE_DONE), SECONDARY, REPL_REFUSE);

    may_start(at(SECONDARY, REPL_STAGE_NONE), SECONDARY, REPL_ACT);
    may_start(at(SECONDARY, REPL_STAGE_NONE), PRIMARY, REPL_REFUSE);
    may_start(at(SECONDARY, REPL_STAGE_RUNNING), SECONDARY, REPL_REFUSE);
    may_start(at(SECONDARY, REPL_STAGE_RUNNING), PRIMARY, REPL_REFUSE);

    /* A secondary that took over is part of a new primary */
    may_start(at(SECONDARY, REPL_STAGE_FAILOVER), PRIMARY, REPL_NOTHING);
    may_start(at(SECONDARY, REPL_STAGE_DONE), PRIMARY, REPL_NOTHING);
    may_start(at(SECONDARY, REPL_STAGE_FAILOVER), SECONDARY, REPL_REFUSE);
    may_start(at(SECONDARY, REPL_STAGE_DONE), SECONDARY, REPL_REFUSE);
    may_start(at(SECONDARY, REPL_STAGE_FAILOVER_FAILED), PRIMARY, REPL_REFUSE);
    may_start(at(SECONDARY, REPL_STAGE_FAILOVER_FAILED), SECONDARY,
              REPL_REFUSE);
}

static void test_checkpoint(void)
{
    ReplState s;

    may_checkpoint(at(PRIMARY, REPL_STAGE_NONE), REPL_REFUSE);
    may_checkpoint(at(PRIMARY, REPL_STAGE_RUNNING), REPL_ACT);
    may_checkpoint(at(PRIMARY, REPL_STAGE_DONE), REPL_REFUSE);
    may_checkpoint(at(SECONDARY, REPL_STAGE_NONE), REPL_REFUSE);
    may_checkpoint(at(SECONDARY, REPL_STAGE_RUNNING), REPL_ACT);
    may_checkpoint(at(SECONDARY, REPL_STAGE_FAILOVER), REPL_NOTHING);
    may_checkpoint(at(SECONDARY, REPL_STAGE_DONE), REPL_NOTHING);
    may_checkpoint(at(SECONDARY, REPL_STAGE_FAILOVER_FAILED), REPL_REFUSE);

    s = at(SECONDARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_SECONDARY_DISK, EIO, 0, 512);
    may_checkpoint(s, REPL_REFUSE);
    s = at(PRIMARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_FORWARD, EIO, 0, 512);
    may_checkpoint(s, REPL_REFUSE);
}

static void test_stop(void)
{
    static const bool yes_no[] = { false, true };
    int i;

    for (i = 0; i < ARRAY_SIZE(yes_no); i++) {
        may_stop(at(PRIMARY, REPL_STAGE_NONE), yes_no[i], REPL_NOTHING);
        may_stop(at(PRIMARY, REPL_STAGE_RUNNING), yes_no[i], REPL_ACT);
        may_stop(at(PRIMARY, REPL_STAGE_DONE), yes_no[i], REPL_NOTHING);
        may_stop(at(SECONDARY, REPL_STAGE_RUNNING), yes_no[i], REPL_ACT);
        may_stop(at(SECONDARY, REPL_STAGE_FAILOVER), yes_no[i], REPL_NOTHING);
        may_stop(at(SECONDARY, REPL_STAGE_DONE), yes_no[i], REPL_NOTHING);
    }

    /* No state of the disk was ever committed */
    may_stop(at(SECONDARY, REPL_STAGE_NONE), true, REPL_REFUSE);
    may_stop(at(SECONDARY, REPL_STAGE_NONE), false, REPL_NOTHING);

    /* A failed merge can be tried again */
    may_stop(at(SECONDARY, REPL_STAGE_FAILOVER_FAILED), true, REPL_ACT);
    may_stop(at(SECONDARY, REPL_STAGE_FAILOVER_FAILED), false, REPL_NOTHING);
}

static void check_io(ReplState s, ReplIo read, ReplIo write)
{
    g_assert_cmpint(repl_state_read(&s), ==, read);
    g_assert_cmpint(repl_state_write(&s), ==, write);
}

static void test_io(void)
{
    ReplState s;

    check_io(at(PRIMARY, REPL_STAGE_NONE), REPL_IO_FAIL, REPL_IO_FAIL);
    check_io(at(PRIMARY, REPL_STAGE_RUNNING), REPL_IO_FAIL, REPL_IO_FORWARD);
    check_io(at(PRIMARY, REPL_STAGE_DONE), REPL_IO_FAIL, REPL_IO_DROP);

    check_io(at(SECONDARY, REPL_STAGE_NONE), REPL_IO_FAIL, REPL_IO_FAIL);
    check_io(at(SECONDARY, REPL_STAGE_RUNNING), REPL_IO_PASS, REPL_IO_PASS);
    check_io(at(SECONDARY, REPL_STAGE_FAILOVER), REPL_IO_PASS, REPL_IO_PASS);
    check_io(at(SECONDARY, REPL_STAGE_FAILOVER_FAILED), REPL_IO_PASS,
             REPL_IO_PASS);
    check_io(at(SECONDARY, REPL_STAGE_DONE), REPL_IO_PASS, REPL_IO_PASS);

    /* Nothing is forwarded behind a write that failed */
    s = at(PRIMARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_FORWARD, EIO, 0, 512);
    check_io(s, REPL_IO_FAIL, REPL_IO_DROP);

    /* Nobody runs from half a checkpoint */
    s = at(SECONDARY, REPL_STAGE_RUNNING);
    repl_state_emptying(&s);
    check_io(s, REPL_IO_FAIL, REPL_IO_FAIL);
    repl_state_emptied(&s);
    check_io(s, REPL_IO_PASS, REPL_IO_PASS);
}

/* What was written while nothing was forwarded forbids a start */
static void test_missed_writes(void)
{
    ReplState s = at(PRIMARY, REPL_STAGE_NONE);

    repl_state_read(&s);
    may_start(s, PRIMARY, REPL_ACT);
    repl_state_write(&s);
    may_start(s, PRIMARY, REPL_REFUSE);

    s = at(PRIMARY, REPL_STAGE_DONE);
    repl_state_write(&s);
    may_start(s, PRIMARY, REPL_REFUSE);

    s = at(PRIMARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_FORWARD, EIO, 0, 512);
    repl_state_stopped(&s);
    may_start(s, PRIMARY, REPL_REFUSE);

    /* An answer that comes after the stop */
    s = at(PRIMARY, REPL_STAGE_DONE);
    g_assert_false(repl_state_fault(&s, REPL_FAULT_FORWARD, EIO, 0, 512));
    has_error(&s, NULL);
    may_start(s, PRIMARY, REPL_REFUSE);
}

/* Unless it was forwarded, as no write came before the node */
static void test_in_step(void)
{
    ReplState s = at(PRIMARY, REPL_STAGE_NONE);

    repl_state_attached(&s, true, true);
    g_assert_cmpint(repl_state_write(&s), ==, REPL_IO_FORWARD);
    repl_state_attached(&s, true, false);
    g_assert_cmpint(repl_state_write(&s), ==, REPL_IO_FORWARD);
    may_start(s, PRIMARY, REPL_ACT);
    repl_state_fault(&s, REPL_FAULT_FORWARD, EIO, 0, 512);
    g_assert_cmpint(repl_state_write(&s), ==, REPL_IO_FAIL);
    may_start(s, PRIMARY, REPL_REFUSE);

    s = at(PRIMARY, REPL_STAGE_NONE);
    repl_state_attached(&s, true, false);
    g_assert_cmpint(repl_state_write(&s), ==, REPL_IO_FAIL);
    may_start(s, PRIMARY, REPL_REFUSE);

    s = at(PRIMARY, REPL_STAGE_NONE);
    repl_state_attached(&s, true, true);
    repl_state_attached(&s, false, true);
    repl_state_attached(&s, true, true);
    may_start(s, PRIMARY, REPL_REFUSE);
    g_assert_cmpint(repl_state_write(&s), ==, REPL_IO_FAIL);

    /* It need not have been in use when it was made, nor stay so */
    s = at(PRIMARY, REPL_STAGE_NONE);
    repl_state_attached(&s, false, true);
    may_start(s, PRIMARY, REPL_ACT);
    s = at(PRIMARY, REPL_STAGE_RUNNING);
    repl_state_attached(&s, true, true);
    repl_state_attached(&s, false, true);
    repl_state_stopped(&s);
    may_start(s, PRIMARY, REPL_ACT);
}

static void test_faults(void)
{
    ReplState s = at(PRIMARY, REPL_STAGE_RUNNING);

    has_error(&s, NULL);
    g_assert_true(repl_state_fault(&s, REPL_FAULT_FORWARD, ENOSPC, 4096, 512));
    g_assert_false(repl_state_fault(&s, REPL_FAULT_TIMEOUT, ETIMEDOUT, 0, 0));
    has_error(&s, "could not be forwarded");
    has_error(&s, "512 bytes at offset 4096");
    has_error(&s, strerror(ENOSPC));

    s = at(PRIMARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_TIMEOUT, ETIMEDOUT, 0, 0);
    has_error(&s, "does not answer");

    s = at(SECONDARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_BACKUP, EIO, 0, 512);
    has_error(&s, "could not be saved to the hidden disk");

    s = at(SECONDARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_SECONDARY_DISK, EIO, 0, 512);
    has_error(&s, "write to the secondary disk failed");

    s = at(SECONDARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_EMPTY_ACTIVE, EIO, 0, 0);
    has_error(&s, "active disk could not be emptied");

    s = at(SECONDARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_EMPTY_HIDDEN, EIO, 0, 0);
    has_error(&s, "hidden disk could not be emptied");

    /* A start forgets, and nothing running is an error, too */
    repl_state_started(&s);
    has_error(&s, NULL);
    repl_state_stopped(&s);
    has_error(&s, "not running");
    s = at(PRIMARY, REPL_STAGE_DONE);
    has_error(&s, NULL);
}

static void test_merge(void)
{
    ReplState s = at(SECONDARY, REPL_STAGE_FAILOVER);
    Error *err = NULL;

    has_error(&s, NULL);
    repl_state_merged(&s, -ENOSPC);
    g_assert_cmpint(s.stage, ==, REPL_STAGE_FAILOVER_FAILED);
    has_error(&s, "both are kept");
    has_error(&s, strerror(ENOSPC));

    repl_state_merging(&s);
    has_error(&s, NULL);
    repl_state_merged(&s, 0);
    g_assert_cmpint(s.stage, ==, REPL_STAGE_DONE);
    has_error(&s, NULL);

    /* A fault of the time before does not survive into the new role */
    s = at(SECONDARY, REPL_STAGE_RUNNING);
    repl_state_fault(&s, REPL_FAULT_BACKUP, EIO, 0, 512);
    repl_state_merging(&s);
    has_error(&s, NULL);

    /* Half a checkpoint is not merged */
    g_assert_true(repl_state_may_merge(&s, &error_abort));
    repl_state_emptying(&s);
    g_assert_false(repl_state_may_merge(&s, &err));
    g_assert_nonnull(err);
    error_free(err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/colo/replication-state/start", test_start);
    g_test_add_func("/colo/replication-state/checkpoint", test_checkpoint);
    g_test_add_func("/colo/replication-state/stop", test_stop);
    g_test_add_func("/colo/replication-state/io", test_io);
    g_test_add_func("/colo/replication-state/missed-writes",
                    test_missed_writes);
    g_test_add_func("/colo/replication-state/in-step", test_in_step);
    g_test_add_func("/colo/replication-state/faults", test_faults);
    g_test_add_func("/colo/replication-state/merge", test_merge);

    return g_test_run();
}
