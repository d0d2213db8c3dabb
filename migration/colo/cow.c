/*
 * COLO: memory that goes back to a base, at the cost of what has changed
 *
 * See proc(5) and the kernel's Documentation/admin-guide/mm/pagemap.rst: a
 * private copy of a page of a file is anonymous memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/madvise.h"
#include "qemu/memfd.h"
#include "qemu/units.h"
#include "cow.h"

/* Bits of an entry of /proc/self/pagemap */
#define PM_PRESENT  (1ull << 63)
#define PM_SWAPPED  (1ull << 62)
#define PM_FILE     (1ull << 61)

#define CHUNK (2 * MiB)         /* of the memory that is there twice */
#define ENTRIES 4096            /* of the pagemap that are read at once */

/*
 * Pages between two that are to be dropped which are dropped with them: a
 * system call costs more than to find them again.
 */
#define GAP 16

/* Characters that the name of a memfd can have */
#define NAME_MAX_MEMFD 249

struct ColoCow {
    uint8_t *host;
    uint8_t *base;
    size_t size;                /* bytes, of each */
    size_t page_size;           /* the host's */
    int fd;                     /* of the base; -1: it is the caller's now */
    int pagemap;
};

static void *map_base(int fd, size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (base == MAP_FAILED) {
        return NULL;
    }
    qemu_madvise(base, size, QEMU_MADV_DONTDUMP);
    qemu_madvise(base, size, QEMU_MADV_DONTFORK);
    qemu_madvise(base, size, QEMU_MADV_NOHUGEPAGE);
    return base;
}

/* Copy @size bytes; pages that are zero stay unpopulated in @to. */
static void copy_pages(uint8_t *to, const uint8_t *from, size_t size,
                       size_t page_size)
{
    for (size_t at = 0; at < size; at += page_size) {
        if (!buffer_is_zero(from + at, page_size)) {
            memcpy(to + at, from + at, page_size);
        }
    }
}

/* Move the content to the base, so that never more than a chunk is twice. */
static void move_to_base(ColoCow *c)
{
    for (size_t at = 0; at < c->size; at += CHUNK) {
        size_t n = MIN(CHUNK, c->size - at);

        copy_pages(c->base + at, c->host + at, n, c->page_size);
        qemu_madvise(c->host + at, n, QEMU_MADV_DONTNEED);
    }
}

static bool map_host(ColoCow *c, int flags)
{
    return mmap(c->host, c->size, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
                c->fd, 0) != MAP_FAILED;
}

/* Read @n entries of the pagemap, from that of page @page on. */
static bool read_pagemap(ColoCow *c, uint64_t *entries, size_t page, size_t n)
{
    off_t at = ((uintptr_t)c->host / c->page_size + page) * sizeof(*entries);

    return pread(c->pagemap, entries, n * sizeof(*entries), at) ==
           n * sizeof(*entries);
}

static bool open_all(ColoCow *c, const char *name, Error **errp)
{
    g_autofree char *short_name = g_strndup(name, NAME_MAX_MEMFD);
    uint64_t entry;

    c->fd = qemu_memfd_create(short_name, c->size, false, 0, 0, errp);
    if (c->fd < 0) {
        return false;
    }
    c->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (c->pagemap < 0 || !read_pagemap(c, &entry, 0, 1)) {
        error_setg_errno(errp, errno, "/proc/self/pagemap can't be read");
        return false;
    }
    c->base = map_base(c->fd, c->size);
    if (!c->base) {
        error_setg_errno(errp, errno, "no address space for the base");
        return false;
    }
    return true;
}

ColoCow *colo_cow_new(uint8_t *host, size_t size, const char *name,
                      Error **errp)
{
    g_autoptr(ColoCow) c = g_new0(ColoCow, 1);

    c->host = host;
    c->size = size;
    c->page_size = qemu_real_host_page_size();
    c->fd = c->pagemap = -1;
    if (!open_all(c, name, errp)) {
        return NULL;
    }
    move_to_base(c);
    if (!map_host(c, MAP_PRIVATE)) {
        error_setg_errno(errp, errno, "the base can't be mapped");
        copy_pages(c->host, c->base, c->size, c->page_size);
        return NULL;
    }
    /* before Linux 6.11 the pagemap does not tell a huge page from a copy */
    qemu_madvise(c->host, c->size, QEMU_MADV_NOHUGEPAGE);
    return g_steal_pointer(&c);
}

void colo_cow_free(ColoCow *c)
{
    if (!c) {
        return;
    }
    if (c->base) {
        munmap(c->base, c->size);
    }
    if (c->pagemap >= 0) {
        close(c->pagemap);
    }
    if (c->fd >= 0) {
        close(c->fd);
    }
    g_free(c);
}

uint8_t *colo_cow_base(ColoCow *c)
{
    return c->base;
}

static bool is_private(uint64_t entry)
{
    return (entry & (PM_PRESENT | PM_SWAPPED)) && !(entry & PM_FILE);
}

bool colo_cow_written(ColoCow *c, size_t first, size_t n, unsigned long *map)
{
    uint64_t entries[ENTRIES];

    for (size_t end = first + n; first < end; first += ENTRIES) {
        n = MIN(ENTRIES, end - first);
        if (!read_pagemap(c, entries, first, n)) {
            return false;
        }
        for (size_t i = 0; i < n; i++) {
            if (is_private(entries[i])) {
                set_bit(first + i, map);
            }
        }
    }
    return true;
}

void colo_cow_changed(ColoCow *c, unsigned long *map)
{
    size_t npages = c->size / c->page_size;

    if (!colo_cow_written(c, 0, npages, map)) {
        /* what was not written may be dropped as well */
        bitmap_set(map, 0, npages);
    }
}

/* Where the run from @first on ends, with gaps that are too small to count. */
static size_t run_end(const unsigned long *map, size_t first, size_t npages)
{
    size_t end = find_next_zero_bit(map, npages, first);
    size_t next = find_next_bit(map, npages, end);

    while (next < npages && next - end <= GAP) {
        end = find_next_zero_bit(map, npages, next);
        next = find_next_bit(map, npages, end);
    }
    return end;
}

void colo_cow_drop(ColoCow *c, const unsigned long *map)
{
    size_t npages = c->size / c->page_size, end;

    for (size_t first = find_first_bit(map, npages); first < npages;
         first = find_next_bit(map, npages, end)) {
        end = run_end(map, first, npages);
        qemu_madvise(c->host + first * c->page_size,
                     (end - first) * c->page_size, QEMU_MADV_DONTNEED);
    }
}

int colo_cow_share(ColoCow *c, Error **errp)
{
    size_t npages = c->size / c->page_size;
    g_autofree unsigned long *map = bitmap_new(npages);
    int fd = c->fd;

    colo_cow_changed(c, map);
    for (size_t page = find_first_bit(map, npages); page < npages;
         page = find_next_bit(map, npages, page + 1)) {
        size_t at = page * c->page_size;

        memcpy(c->base + at, c->host + at, c->page_size);
    }
    if (!map_host(c, MAP_SHARED)) {
        error_setg_errno(errp, errno, "the base can't be mapped shared");
        return -1;
    }
    c->fd = -1;
    return fd;
}
