/*
 * COLO: memory that goes back to a base, at the cost of what has changed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "migration/colo/cow.h"

#define PAGES 5000              /* more than are looked at at once */
#define ROUNDS 200

typedef struct Fixture {
    size_t page;                /* bytes */
    size_t size;
    uint8_t *host;
    ColoCow *cow;
    unsigned long *map;
} Fixture;

/* What page @i has at first: some are zero, and were never touched. */
static uint8_t first_byte(size_t i)
{
    return i % 3 ? i % 251 + 1 : 0;
}

static void set_up(Fixture *f, gconstpointer unused)
{
    f->page = qemu_real_host_page_size();
    f->size = PAGES * f->page;
    f->host = mmap(NULL, f->size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(f->host != MAP_FAILED);
    for (size_t i = 0; i < PAGES; i++) {
        if (first_byte(i)) {
            memset(f->host + i * f->page, first_byte(i), f->page);
        }
    }
    f->cow = colo_cow_new(f->host, f->size, "test", &error_abort);
    f->map = bitmap_new(PAGES);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    colo_cow_free(f->cow);
    munmap(f->host, f->size);
    g_free(f->map);
}

static bool page_is(const uint8_t *p, size_t len, uint8_t byte)
{
    return p[0] == byte && !memcmp(p, p + 1, len - 1);
}

static void check_page(Fixture *f, size_t i, uint8_t host, uint8_t base)
{
    g_assert_true(page_is(f->host + i * f->page, f->page, host));
    g_assert_true(page_is(colo_cow_base(f->cow) + i * f->page, f->page, base));
}

/* Exactly the pages in @expected were written. */
static void check_changed(Fixture *f, const unsigned long *expected)
{
    bitmap_zero(f->map, PAGES);
    colo_cow_changed(f->cow, f->map);
    g_assert_true(bitmap_equal(f->map, expected, PAGES));
}

/* The content is what it was, and to read it is no change. */
static void test_content(Fixture *f, gconstpointer unused)
{
    g_autofree unsigned long *none = bitmap_new(PAGES);

    for (size_t i = 0; i < PAGES; i++) {
        check_page(f, i, first_byte(i), first_byte(i));
    }
    check_changed(f, none);
}

/* Written pages are known, and go back; by a system call as well. */
static void test_drop(Fixture *f, gconstpointer unused)
{
    static const size_t written[] = { 0, 1, 2, 40, 41, 60, 1000, 4095, 4096,
                                      PAGES - 1 };
    g_autofree unsigned long *expected = bitmap_new(PAGES);
    int zero = open("/dev/zero", O_RDONLY);

    for (int i = 0; i < ARRAY_SIZE(written); i++) {
        memset(f->host + written[i] * f->page, 0xee, f->page);
        set_bit(written[i], expected);
    }
    g_assert_cmpint(read(zero, f->host + 2000 * f->page, 1), ==, 1);
    set_bit(2000, expected);
    close(zero);
    check_changed(f, expected);
    check_page(f, 40, 0xee, first_byte(40));

    colo_cow_drop(f->cow, f->map);
    bitmap_zero(expected, PAGES);
    check_changed(f, expected);
    for (size_t i = 0; i < PAGES; i++) {
        check_page(f, i, first_byte(i), first_byte(i));
    }
}

/* What is written to the base is seen, unless the page was changed. */
static void test_base(Fixture *f, gconstpointer unused)
{
    uint8_t *base = colo_cow_base(f->cow);

    memset(f->host + 7 * f->page, 0x11, f->page);
    memset(base + 7 * f->page, 0x22, f->page);
    memset(base + 8 * f->page, 0x33, f->page);
    memset(base + 9 * f->page, 0x44, f->page);
    check_page(f, 7, 0x11, 0x22);
    check_page(f, 8, 0x33, 0x33);
    check_page(f, 9, 0x44, 0x44);
    bitmap_zero(f->map, PAGES);
    colo_cow_changed(f->cow, f->map);
    g_assert_cmpint(bitmap_count_one(f->map, PAGES), ==, 1);
    colo_cow_drop(f->cow, f->map);
    check_page(f, 7, 0x22, 0x22);
}

static void test_random(Fixture *f, gconstpointer unused)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autofree uint8_t *base = g_malloc(PAGES);
    g_autofree unsigned long *expected = bitmap_new(PAGES);

    for (size_t i = 0; i < PAGES; i++) {
        base[i] = first_byte(i);
    }
    for (int round = 0; round < ROUNDS; round++) {
        int n = g_rand_int_range(rand, 0, 60);

        bitmap_zero(expected, PAGES);
        for (int k = 0; k < n; k++) {
            size_t i = g_rand_int_range(rand, 0, PAGES);

            if (g_rand_boolean(rand)) {
                memset(f->host + i * f->page, round, f->page);
                set_bit(i, expected);
            } else {
                base[i] = round + 1;
                memset(colo_cow_base(f->cow) + i * f->page, base[i], f->page);
            }
        }
        check_changed(f, expected);
        colo_cow_drop(f->cow, f->map);
        for (size_t i = 0; i < PAGES; i++) {
            g_assert_cmpint(f->host[i * f->page], ==, base[i]);
        }
    }
}

/* In the end all is where it was, and what is dropped is zero. */
static void test_share(Fixture *f, gconstpointer unused)
{
    struct stat st;
    int fd;

    memset(f->host + 7 * f->page, 0x11, f->page);
    fd = colo_cow_share(f->cow, &error_abort);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, f->size);
    g_clear_pointer(&f->cow, colo_cow_free);
    for (size_t i = 0; i < PAGES; i++) {
        g_assert_true(page_is(f->host + i * f->page, f->page,
                              i == 7 ? 0x11 : first_byte(i)));
    }
    memset(f->host + 8 * f->page, 0x55, f->page);
    g_assert_cmpint(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              7 * f->page, f->page), ==, 0);
    g_assert_true(page_is(f->host + 7 * f->page, f->page, 0));
    g_assert_true(page_is(f->host + 8 * f->page, f->page, 0x55));
    close(fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) \
    g_test_add("/colo/cow/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("content", test_content);
    ADD("drop", test_drop);
    ADD("base", test_base);
    ADD("random", test_random);
    ADD("share", test_share);
    return g_test_run();
}
