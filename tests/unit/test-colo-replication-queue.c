/*
 * Unit tests: block replication's queue of writes to be forwarded later
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qemu/units.h"
#include "block/replication-queue.h"

#define DISK 256                /* bytes */
#define WRITES 20000
#define MAX_BATCH 5
#define BIG (100 * KiB + 512)   /* bytes, what a heap would be used for */
#define BURST 512

static void push(ReplQueue *q, ReplWriteKind kind, int64_t offset,
                 int64_t bytes, uint8_t value)
{
    uint8_t buf[DISK];
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);

    memset(buf, value, sizeof(buf));
    repl_queue_push(q, repl_write_new(kind, offset, bytes, 0,
                                      kind == REPL_WRITE_DATA ? &qiov : NULL));
}

static void apply(uint8_t *disk, const ReplWrite *w)
{
    if (w->data) {
        memcpy(disk + w->offset, w->data, w->bytes);
    } else {
        memset(disk + w->offset, 0, w->bytes);
    }
}

/* How many may go at once of two, given where the second one is */
static size_t side_by_side(int64_t offset, int64_t bytes)
{
    ReplWrite *batch[MAX_BATCH];
    ReplQueue q;
    size_t n;

    repl_queue_init(&q);
    push(&q, REPL_WRITE_DATA, 100, 50, 1);
    push(&q, REPL_WRITE_ZEROES, offset, bytes, 0);
    n = repl_queue_take(&q, batch, MAX_BATCH);
    repl_queue_done(&q, batch, n);
    repl_queue_clear(&q);
    g_assert_cmpuint(q.memory, ==, 0);
    return n;
}

static void test_overlap(void)
{
    g_assert_cmpuint(side_by_side(0, 100), ==, 2);
    g_assert_cmpuint(side_by_side(0, 101), ==, 1);
    g_assert_cmpuint(side_by_side(150, 50), ==, 2);
    g_assert_cmpuint(side_by_side(149, 50), ==, 1);
    g_assert_cmpuint(side_by_side(120, 10), ==, 1);
    g_assert_cmpuint(side_by_side(50, 150), ==, 1);
    g_assert_cmpuint(side_by_side(100, 50), ==, 1);
}

/* One may not overtake another that waits for a third */
static void test_no_overtaking(void)
{
    ReplWrite *batch[MAX_BATCH];
    ReplQueue q;

    repl_queue_init(&q);
    push(&q, REPL_WRITE_DATA, 0, 20, 1);
    push(&q, REPL_WRITE_DATA, 10, 20, 2);
    push(&q, REPL_WRITE_DATA, 25, 20, 3);
    for (uint8_t value = 1; value <= 3; value++) {
        g_assert_cmpuint(repl_queue_take(&q, batch, MAX_BATCH), ==, 1);
        g_assert_cmpuint(*(uint8_t *)batch[0]->data, ==, value);
        repl_queue_done(&q, batch, 1);
    }
    g_assert_true(repl_queue_empty(&q));
    g_assert_cmpuint(repl_queue_take(&q, batch, MAX_BATCH), ==, 0);
}

static void test_memory(void)
{
    ReplWrite *batch[MAX_BATCH];
    size_t data, zeroes;
    ReplQueue q;

    repl_queue_init(&q);
    push(&q, REPL_WRITE_DATA, 0, 100, 1);
    data = q.memory;
    g_assert_cmpuint(data, >=, 100);
    push(&q, REPL_WRITE_DISCARD, 100, 100, 0);
    zeroes = q.memory - data;
    g_assert_cmpuint(zeroes, >, 0);
    g_assert_cmpuint(zeroes, ==, data - 100);
    g_assert_cmpuint(repl_queue_take(&q, batch, 1), ==, 1);
    /* until it is done it takes memory */
    g_assert_cmpuint(q.memory, ==, data + zeroes);
    repl_queue_done(&q, batch, 1);
    g_assert_cmpuint(q.memory, ==, zeroes);
    repl_queue_clear(&q);
    g_assert_cmpuint(q.memory, ==, 0);
}

/* Pages of this process's address space */
static uint64_t address_space(void)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents("/proc/self/statm", &text, NULL, NULL));
    return g_ascii_strtoull(text, NULL, 10);
}

/* A burst of writes leaves no memory behind in the process. */
static void test_given_back(void)
{
    g_autofree uint8_t *buf = g_malloc0(BIG);
    g_autofree void *last = NULL;
    unsigned char map[BIG / 4096 + 1];
    void *data[BURST];
    uint64_t before;
    ReplQueue q;

    repl_queue_init(&q);
    before = address_space();
    for (unsigned i = 0; i < BURST; i++) {
        QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, BIG);
        ReplWrite *w = repl_write_new(REPL_WRITE_DATA, 0, BIG, 0, &qiov);

        data[i] = w->data;
        g_assert_cmpint(mincore(w->data, BIG, (void *)map), ==, 0);
        repl_queue_push(&q, w);
    }
    push(&q, REPL_WRITE_ZEROES, 0, BIG, 0);
    /* what was allocated before it an allocator can't give back */
    last = g_malloc(100);
    repl_queue_clear(&q);
    for (unsigned i = 0; i < BURST; i++) {
        g_assert_cmpint(mincore(data[i], BIG, (void *)map), ==, -1);
        g_assert_cmpint(errno, ==, ENOMEM);
    }
    /* a thread of QEMU's may have begun to allocate meanwhile */
    g_assert_cmpuint(address_space(), <, before + BURST * MiB / 2 / 4096);
}

/* Whatever the order within a batch, the disk ends as written in order */
static void test_random(void)
{
    uint8_t expected[DISK] = { 0 }, disk[DISK] = { 0 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    ReplWrite *batch[MAX_BATCH];
    ReplQueue q;
    size_t n;

    repl_queue_init(&q);
    for (int i = 0; i < WRITES; i++) {
        ReplWriteKind kind = g_rand_int_range(rand, REPL_WRITE_DATA,
                                              REPL_WRITE_DISCARD + 1);
        int64_t offset = g_rand_int_range(rand, 0, DISK);
        int64_t bytes = g_rand_int_range(rand, 0, MIN(DISK - offset, 40)) + 1;

        push(&q, kind, offset, bytes, i);
        memset(expected + offset, kind == REPL_WRITE_DATA ? i : 0, bytes);
        if (g_rand_boolean(rand)) {
            continue;
        }
        n = repl_queue_take(&q, batch, MAX_BATCH);
        g_assert_cmpuint(n, >, 0);
        for (size_t at = n; at > 0; at--) {
            apply(disk, batch[at - 1]);
        }
        repl_queue_done(&q, batch, n);
    }
    while ((n = repl_queue_take(&q, batch, MAX_BATCH))) {
        for (size_t at = 0; at < n; at++) {
            apply(disk, batch[at]);
        }
        repl_queue_done(&q, batch, n);
    }
    g_assert_cmpmem(disk, DISK, expected, DISK);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/replication/queue/overlap", test_overlap);
    g_test_add_func("/colo/replication/queue/no-overtaking",
                    test_no_overtaking);
    g_test_add_func("/colo/replication/queue/memory", test_memory);
    g_test_add_func("/colo/replication/queue/given-back", test_given_back);
    g_test_add_func("/colo/replication/queue/random", test_random);
    return g_test_run();
}
