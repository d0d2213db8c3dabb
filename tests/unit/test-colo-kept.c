/*
 * COLO: copies of pages that the stopped PVM had dirtied
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "migration/colo/kept.h"

#define PAGE 4096
#define ROOM 8
#define MANY 4000

typedef struct Page {
    unsigned block;
    uint64_t page;
    uint8_t byte;               /* 0: zero */
} Page;

typedef struct Check {
    const Page *pages;
    unsigned n;
    unsigned stop;              /* at this one */
} Check;

static void keep(ColoKept *k, const Page *p)
{
    uint8_t data[PAGE];

    memset(data, p->byte, PAGE);
    colo_kept_add(k, p->block, p->page, p->byte ? data : NULL);
    /* it was copied */
    memset(data, 0xff, PAGE);
}

static bool check_page(void *opaque, unsigned block, uint64_t page, void *data,
                       Error **errp)
{
    Check *c = opaque;
    const Page *p = &c->pages[c->n];
    const uint8_t *bytes = data;

    if (c->n == c->stop) {
        error_setg(errp, "enough");
        return false;
    }
    c->n++;
    g_assert_cmpuint(block, ==, p->block);
    g_assert_cmpuint(page, ==, p->page);
    g_assert_cmpint(!data, ==, !p->byte);
    for (unsigned i = 0; data && i < PAGE; i++) {
        g_assert_cmpuint(bytes[i], ==, p->byte);
    }
    return true;
}

static void check(ColoKept *k, const Page *pages, unsigned n)
{
    Check c = { .pages = pages, .stop = n };

    g_assert_true(colo_kept_foreach(k, check_page, &c, &error_abort));
    g_assert_cmpuint(c.n, ==, n);
}

/* Neighbours, of one block and of two, forwards and backwards; zero or not */
static void test_pages(void)
{
    static const Page pages[] = {
        { 0, 5, 1 }, { 0, 6, 2 }, { 0, 7, 0 }, { 0, 8, 0 }, { 0, 9, 3 },
        { 1, 10, 4 }, { 1, 9, 5 }, { 1, 11, 0 }, { 2, 12, 0 },
        { 2, 1ull << 40, 6 },
    };
    g_autoptr(ColoKept) k = colo_kept_new(PAGE, ROOM, &error_abort);

    for (int round = 0; round < 2; round++) {
        check(k, pages, 0);
        g_assert_cmpuint(colo_kept_room(k), ==, ROOM);
        for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
            keep(k, &pages[i]);
        }
        g_assert_cmpuint(colo_kept_room(k), ==, ROOM - 6);
        check(k, pages, ARRAY_SIZE(pages));
        check(k, pages, ARRAY_SIZE(pages));
        colo_kept_clear(k);
    }
}

/* All the room is used, and zero pages need none */
static void test_full(void)
{
    g_autoptr(ColoKept) k = colo_kept_new(PAGE, ROOM, &error_abort);
    g_autofree Page *pages = g_new0(Page, MANY);

    for (unsigned i = 0; i < MANY; i++) {
        pages[i] = (Page) { i % 2, i, i < ROOM ? i + 1 : 0 };
        keep(k, &pages[i]);
    }
    g_assert_cmpuint(colo_kept_room(k), ==, 0);
    check(k, pages, MANY);
}

static void test_broken_off(void)
{
    static const Page pages[] = { { 0, 1, 1 }, { 0, 2, 2 }, { 0, 3, 3 } };
    g_autoptr(ColoKept) k = colo_kept_new(PAGE, ROOM, &error_abort);
    Check c = { .pages = pages, .stop = 1 };
    Error *err = NULL;

    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        keep(k, &pages[i]);
    }
    g_assert_false(colo_kept_foreach(k, check_page, &c, &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "enough");
    error_free(err);
}

static bool note_place(void *opaque, unsigned block, uint64_t page, void *data,
                       Error **errp)
{
    *(void **)opaque = data;
    return true;
}

/* How many of the first ROOM pages at @place take memory */
static unsigned resident(void *place, size_t page_size)
{
    unsigned char map[ROOM];
    unsigned n = 0;

    g_assert_cmpint(mincore(place, ROOM * page_size, (void *)map), ==, 0);
    for (unsigned i = 0; i < ROOM; i++) {
        n += map[i] & 1;
    }
    return n;
}

static void checkpoints(ColoKept *k, unsigned n, uint64_t pages)
{
    while (n--) {
        colo_kept_reserve(k, pages);
        colo_kept_trim(k);
    }
}

/* Memory is there before it is needed, and goes when it no longer is */
static void test_memory(void)
{
    size_t page_size = qemu_real_host_page_size();
    g_autoptr(ColoKept) k = colo_kept_new(page_size, ROOM, &error_abort);
    g_autofree uint8_t *data = g_malloc0(page_size);
    void *place = NULL;

    colo_kept_add(k, 0, 0, data);
    colo_kept_foreach(k, note_place, &place, &error_abort);
    g_assert_cmpuint(resident(place, page_size), ==, 1);
    colo_kept_reserve(k, 5);
    g_assert_cmpuint(resident(place, page_size), ==, 5);
    colo_kept_clear(k);
    colo_kept_reserve(k, ROOM + 1);
    g_assert_cmpuint(resident(place, page_size), ==, ROOM);
    checkpoints(k, 4, 3);
    g_assert_cmpuint(resident(place, page_size), ==, ROOM);
    checkpoints(k, 4, 3);
    g_assert_cmpuint(resident(place, page_size), ==, 3);
    checkpoints(k, 4, 0);
    g_assert_cmpuint(resident(place, page_size), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/kept/pages", test_pages);
    g_test_add_func("/colo/kept/full", test_full);
    g_test_add_func("/colo/kept/broken-off", test_broken_off);
    g_test_add_func("/colo/kept/memory", test_memory);
    return g_test_run();
}
