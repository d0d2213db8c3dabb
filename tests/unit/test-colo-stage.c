/*
 * COLO: where the pages of a checkpoint wait until it is whole
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "migration/colo/stage.h"

#define PAGE 4096
#define PAGES 600           /* of block 1 */
#define MAX_RUN 40
#define ROUNDS 4000

typedef struct Fixture {
    ColoRamList *ram;
    ColoStage *stage;
    int expected[PAGES];    /* the byte a page is filled with; -1: not staged */
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    f->ram = colo_ramlist_new(PAGE, &error_abort);
    colo_ramlist_add(f->ram, "other", 2 * PAGE, &error_abort);
    colo_ramlist_add(f->ram, "ram", PAGES * PAGE, &error_abort);
    f->stage = colo_stage_new(f->ram, &error_abort);
    memset(f->expected, -1, sizeof(f->expected));
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    colo_stage_free(f->stage);
    colo_ramlist_free(f->ram);
}

/* Returns how many pieces the data was to be received in. */
static size_t put(Fixture *f, uint64_t first, uint32_t count, uint8_t byte)
{
    struct iovec iov[PAGES];
    size_t n = 0, bytes = 0;

    if (byte) {
        n = colo_stage_data(f->stage, 1, first, count, iov);
        g_assert_cmpuint(n, <=, count);
    } else {
        colo_stage_zero(f->stage, 1, first, count);
    }
    for (size_t i = 0; i < n; i++) {
        memset(iov[i].iov_base, byte, iov[i].iov_len);
        bytes += iov[i].iov_len;
    }
    g_assert_cmpuint(bytes, ==, byte ? count * PAGE : 0);
    for (uint64_t page = first; page < first + count; page++) {
        f->expected[page] = byte;
    }
    return n;
}

/* Some pages are as if they had never been staged. */
static void forget(Fixture *f, uint64_t first, uint32_t count)
{
    for (uint64_t page = first; page < first + count; page++) {
        colo_stage_forget(f->stage, 1, page);
        f->expected[page] = -1;
    }
}

static void check(Fixture *f)
{
    const unsigned long *map = colo_stage_map(f->stage, 1);

    for (unsigned page = 0; page < PAGES; page++) {
        g_assert_cmpint(test_bit(page, map), ==, f->expected[page] >= 0);
        if (f->expected[page] >= 0) {
            const uint8_t *data = colo_stage_page(f->stage, 1, page);

            g_assert_cmpint(data[0], ==, f->expected[page]);
            g_assert_true(!memcmp(data, data + 1, PAGE - 1));
        }
    }
    g_assert_true(bitmap_empty(colo_stage_map(f->stage, 0), 2));
}

static void clear(Fixture *f)
{
    colo_stage_clear(f->stage);
    memset(f->expected, -1, sizeof(f->expected));
}

/*
 * Pages come again and again, as data and as zero, and some are forgotten: the
 * last one counts.
 */
static void test_random(Fixture *f, gconstpointer unused)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint32_t count = g_rand_int_range(rand, 1, MAX_RUN);
        uint64_t first = g_rand_int_range(rand, 0, PAGES - count + 1);

        if (i % 10 == 9) {
            forget(f, first, count);
        } else {
            put(f, first, count, g_rand_int_range(rand, -100, 256) < 0 ? 0 :
                                 g_rand_int_range(rand, 1, 256));
        }
        if (i % 100 == 0) {
            check(f);
        }
        if (i % 1000 == 0) {
            clear(f);
            check(f);
        }
    }
    check(f);
}

/* However scattered pages are, their data is received in one piece. */
static void test_one_piece(Fixture *f, gconstpointer unused)
{
    struct iovec iov[2];
    uint8_t *end = NULL;

    for (unsigned page = 1; page < PAGES; page += 7) {
        g_assert_cmpuint(colo_stage_data(f->stage, 1, page, 1, iov), ==, 1);
        g_assert_true(!end || iov[0].iov_base == end);
        end = (uint8_t *)iov[0].iov_base + iov[0].iov_len;
    }
    clear(f);
    g_assert_cmpuint(put(f, 0, PAGES, 3), ==, 1);
    check(f);
}

/* A primary that says the same page a thousand times can't fill the arena. */
static void test_again(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 3 * PAGES; i++) {
        put(f, 5, 1, i % 2 ? 0 : 1 + i % 255);
        if (i % 3 == 0) {
            forget(f, 5, 1);
        }
    }
    put(f, 0, PAGES, 9);
    check(f);
}

/*
 * Staged pages get into base and SVM, from wherever they are; others that the
 * SVM has changed are restored; the rest is not touched. What is there by
 * multifd counts before what came by the link.
 */
static void test_commit(Fixture *f, gconstpointer unused)
{
    g_autofree uint8_t *base = g_malloc(PAGES * PAGE);
    g_autofree uint8_t *svm = g_malloc(PAGES * PAGE);
    g_autofree uint8_t *multifd = g_malloc(PAGES * PAGE);
    g_autofree unsigned long *by_multifd = bitmap_new(PAGES);
    g_autofree unsigned long *changed = bitmap_new(PAGES);
    ColoStageTarget target = { base, svm, multifd, by_multifd };
    enum { DATA = 3, ZERO = 5, MULTIFD = 9, BOTH = 10, SVM_ONLY = 11 };

    memset(base, 1, PAGES * PAGE);
    memset(svm, 2, PAGES * PAGE);
    memset(multifd, 4, PAGES * PAGE);
    put(f, DATA, 1, 3);
    put(f, ZERO, 1, 0);
    put(f, BOTH, 1, 3);
    set_bit(MULTIFD, by_multifd);
    set_bit(BOTH, by_multifd);
    bitmap_or(changed, colo_stage_map(f->stage, 1), by_multifd, PAGES);
    set_bit(SVM_ONLY, changed);
    colo_stage_commit(f->stage, 1, changed, &target);
    for (unsigned page = 0; page < PAGES; page++) {
        uint8_t in_base = page == DATA ? 3 : page == ZERO ? 0 :
                          page == MULTIFD || page == BOTH ? 4 : 1;
        uint8_t in_svm = page == SVM_ONLY ? 1 :
                         in_base == 1 ? 2 : in_base;

        for (unsigned i = 0; i < PAGE; i++) {
            g_assert_cmpint(base[page * PAGE + i], ==, in_base);
            g_assert_cmpint(svm[page * PAGE + i], ==, in_svm);
        }
    }
}

/* Bytes of a mapping that are in memory */
static size_t resident(const void *start, size_t size)
{
    size_t pages = size / PAGE, n = 0;
    g_autofree unsigned char *vec = g_malloc(pages);

    g_assert_cmpint(mincore((void *)start, size, vec), ==, 0);
    for (size_t i = 0; i < pages; i++) {
        n += vec[i] & 1;
    }
    return n * PAGE;
}

/*
 * What a big checkpoint took is given back, but for what is kept, once a few
 * others have had no use for it.
 */
static void test_trim(void)
{
    size_t size = COLO_STAGE_KEEP + 1024 * PAGE, pages = size / PAGE;
    g_autofree struct iovec *iov = g_new(struct iovec, pages);
    ColoRamList *ram = colo_ramlist_new(PAGE, &error_abort);
    ColoStage *s;

    colo_ramlist_add(ram, "ram", size, &error_abort);
    s = colo_stage_new(ram, &error_abort);
    g_assert_cmpuint(colo_stage_data(s, 0, 0, pages, iov), ==, 1);
    memset(iov[0].iov_base, 1, size);
    colo_stage_clear(s);
    for (int i = 0; i < 7; i++) {
        colo_stage_trim(s);
        g_assert_cmpuint(resident(iov[0].iov_base, size), ==, size);
    }
    colo_stage_trim(s);
    g_assert_cmpuint(resident(iov[0].iov_base, size), ==, COLO_STAGE_KEEP);
    colo_stage_free(s);
    colo_ramlist_free(ram);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/colo/stage/random", Fixture, NULL, set_up, test_random,
               tear_down);
    g_test_add("/colo/stage/one-piece", Fixture, NULL, set_up, test_one_piece,
               tear_down);
    g_test_add("/colo/stage/again", Fixture, NULL, set_up, test_again,
               tear_down);
    g_test_add("/colo/stage/commit", Fixture, NULL, set_up, test_commit,
               tear_down);
    g_test_add_func("/colo/stage/trim", test_trim);
    return g_test_run();
}
