/*
 * COLO: where the pages of a checkpoint wait until it is whole
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/madvise.h"
#include "iovs.h"
#include "peak.h"
#include "stage.h"

typedef struct StageBlock {
    uint64_t npages;
    unsigned long *staged;
    unsigned long *placed;      /* has a place in the arena, or else is zero */
    uint32_t *slot;             /* that place, in pages */
} StageBlock;

struct ColoStage {
    size_t page_size;
    StageBlock *blocks;
    unsigned nblocks;
    uint8_t *arena;
    uint64_t capacity;          /* of the arena, pages */
    uint32_t used;              /* pages of it */
    ColoPeak peak;
    void *zero;                 /* a page */
};

static uint64_t all_pages(const ColoRamList *ram)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < colo_ramlist_size(ram); i++) {
        pages += colo_ramlist_pages(ram, i);
    }
    return pages;
}

void *colo_map_sparse(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        return NULL;
    }
    qemu_madvise(p, size, QEMU_MADV_DONTDUMP);
    qemu_madvise(p, size, QEMU_MADV_DONTFORK);
    return p;
}

ColoStage *colo_stage_new(const ColoRamList *ram, Error **errp)
{
    g_autoptr(ColoStage) s = g_new0(ColoStage, 1);

    s->page_size = ram->page_size;
    s->capacity = all_pages(ram);
    if (s->capacity >= UINT32_MAX) {
        error_setg(errp, "%" PRIu64 " pages of guest memory are more than "
                   "checkpoints can have", s->capacity);
        return NULL;
    }
    s->arena = colo_map_sparse(s->capacity * s->page_size);
    if (!s->arena) {
        error_setg_errno(errp, errno, "no address space for checkpoints of "
                         "%" PRIu64 " pages", s->capacity);
        return NULL;
    }
    s->zero = g_malloc0(s->page_size);
    s->nblocks = colo_ramlist_size(ram);
    s->blocks = g_new0(StageBlock, s->nblocks);
    for (unsigned i = 0; i < s->nblocks; i++) {
        StageBlock *b = &s->blocks[i];

        b->npages = colo_ramlist_pages(ram, i);
        b->staged = bitmap_new(b->npages);
        b->placed = bitmap_new(b->npages);
        b->slot = g_new0(uint32_t, b->npages);
    }
    return g_steal_pointer(&s);
}

void colo_stage_free(ColoStage *s)
{
    if (!s) {
        return;
    }
    for (unsigned i = 0; i < s->nblocks; i++) {
        g_free(s->blocks[i].staged);
        g_free(s->blocks[i].placed);
        g_free(s->blocks[i].slot);
    }
    g_free(s->blocks);
    g_free(s->zero);
    if (s->arena) {
        munmap(s->arena, s->capacity * s->page_size);
    }
    g_free(s);
}

/* The place of @page in the arena, a new one unless it has one. */
static uint8_t *place(ColoStage *s, StageBlock *b, uint64_t page)
{
    /* at most once for each page, so that the arena has room */
    if (!test_bit(page, b->placed)) {
        assert(s->used < s->capacity);
        b->slot[page] = s->used++;
        set_bit(page, b->placed);
    }
    set_bit(page, b->staged);
    return s->arena + b->slot[page] * s->page_size;
}

size_t colo_stage_data(ColoStage *s, unsigned block, uint64_t first,
                       uint32_t count, struct iovec *iov)
{
    StageBlock *b = &s->blocks[block];
    size_t n = 0;

    for (uint32_t i = 0; i < count; i++) {
        n = colo_iov_append(iov, n, place(s, b, first + i), s->page_size);
    }
    return n;
}

void colo_stage_zero(ColoStage *s, unsigned block, uint64_t first,
                     uint32_t count)
{
    StageBlock *b = &s->blocks[block];

    for (uint64_t page = first; page < first + count; page++) {
        if (test_bit(page, b->placed)) {
            memset(place(s, b, page), 0, s->page_size);
        } else {
            set_bit(page, b->staged);
        }
    }
}

void colo_stage_forget(ColoStage *s, unsigned block, uint64_t page)
{
    clear_bit(page, s->blocks[block].staged);
}

const unsigned long *colo_stage_map(const ColoStage *s, unsigned block)
{
    return s->blocks[block].staged;
}

const void *colo_stage_page(const ColoStage *s, unsigned block, uint64_t page)
{
    const StageBlock *b = &s->blocks[block];

    return test_bit(page, b->placed) ?
           s->arena + b->slot[page] * s->page_size : s->zero;
}

/* What is to be in @page from now on; NULL: what the base has */
static const void *new_content(const ColoStage *s, unsigned block,
                               uint64_t page, const ColoStageTarget *t)
{
    if (t->by_multifd && test_bit(page, t->by_multifd)) {
        return t->multifd + page * s->page_size;
    }
    if (test_bit(page, s->blocks[block].staged)) {
        return colo_stage_page(s, block, page);
    }
    return NULL;
}

void colo_stage_commit(const ColoStage *s, unsigned block,
                       const unsigned long *changed,
                       const ColoStageTarget *t)
{
    uint64_t npages = s->blocks[block].npages;

    for (uint64_t page = find_first_bit(changed, npages); page < npages;
         page = find_next_bit(changed, npages, page + 1)) {
        const void *content = new_content(s, block, page, t);
        size_t at = page * s->page_size;

        if (content) {
            memcpy(t->base + at, content, s->page_size);
        }
        if (t->svm) {
            memcpy(t->svm + at, content ?: t->base + at, s->page_size);
        }
    }
}

uint64_t colo_stage_used(const ColoStage *s)
{
    return s->used;
}

void colo_stage_clear(ColoStage *s)
{
    for (unsigned i = 0; i < s->nblocks; i++) {
        bitmap_zero(s->blocks[i].staged, s->blocks[i].npages);
        bitmap_zero(s->blocks[i].placed, s->blocks[i].npages);
    }
    colo_peak_need(&s->peak, s->used);
    s->used = 0;
}

void colo_stage_trim(ColoStage *s)
{
    uint64_t first, end;

    colo_peak_need(&s->peak, MIN(COLO_STAGE_KEEP / s->page_size, s->capacity));
    if (colo_peak_done(&s->peak, &first, &end)) {
        size_t begin = ROUND_UP(first * s->page_size,
                                qemu_real_host_page_size());

        if (begin < end * s->page_size) {
            qemu_madvise(s->arena + begin, end * s->page_size - begin,
                         QEMU_MADV_DONTNEED);
        }
    }
}
