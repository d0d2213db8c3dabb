/*
 * COLO: the secondary's memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "qemu/main-loop.h"
#include "qemu/madvise.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "exec/exec-all.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "qemu/error-report.h"
#include "system/hostmem.h"
#include "system/system.h"
#include "system/tcg.h"
#include "../migration.h"
#include "../options.h"
#include "../ram.h"
#include "cow.h"
#include "iovs.h"
#include "ram.h"
#include "stage.h"
#include "trace.h"

/* From this size on it is worth while to know what the SVM has written. */
#define SMALL_BLOCK (4 * MiB)

typedef struct ColoCopy {
    RAMBlock *rb;
    size_t size;            /* bytes mapped, of base and multifd each */
    uint64_t npages;
    ColoMemoryKind kind;
    ColoCow *cow;           /* or NULL, by kind; it owns base */
    uint8_t *base;
    unsigned long *changed; /* empty but in a commit */
    uint8_t *multifd;       /* what came by multifd, each page at its place */
    unsigned long *fresh;   /* since the last SYNC; by channels: atomic */
    unsigned long *by_multifd;  /* pages whose last content is there */
    uint64_t multifd_pages;     /* that take memory there, at most */
    bool multifd_used;      /* since the last commit */
} ColoCopy;

static struct {
    ColoCopy *copies;       /* in the order of the primary's HELLO */
    unsigned n;
    ColoStage *stage;       /* what came by the link */
    uint64_t limit;         /* pages that are to wait for a commit, at most */
    GHashTable *by_block;   /* RAMBlock -> ColoCopy */
    bool ready;             /* set up */
    bool logging;           /* what the SVM writes */
    bool ended;             /* no page may come any more */
    bool discard_disabled;
    bool pinned;            /* somebody wants the memory to stay what it is */
    unsigned long pages;    /* by multifd, not told yet; atomic */
    unsigned long zero_pages;
} ram;

/* Copy @rb to its base; pages that are zero stay unpopulated there. */
static void take_base(ColoCopy *c)
{
    for (uint64_t i = 0; i < c->npages; i++) {
        const uint8_t *host = c->rb->host + (i << TARGET_PAGE_BITS);

        if (!buffer_is_zero(host, TARGET_PAGE_SIZE)) {
            memcpy(c->base + (i << TARGET_PAGE_BITS), host, TARGET_PAGE_SIZE);
        }
    }
}

static bool no_memory(ColoCopy *c, Error **errp)
{
    error_setg_errno(errp, errno, "no memory for the checkpoints of RAM "
                     "block '%s', %zu bytes", c->rb->idstr, c->size);
    return false;
}

ColoMemoryBlockList *colo_ram_query(void)
{
    ColoMemoryBlockList *list = NULL, **tail = &list;

    if (!qatomic_load_acquire(&ram.ready) || qatomic_read(&ram.ended)) {
        return NULL;
    }
    for (unsigned i = 0; i < ram.n; i++) {
        const ColoCopy *c = &ram.copies[i];
        ColoMemoryBlock *block = g_new(ColoMemoryBlock, 1);

        *block = (ColoMemoryBlock) {
            .name = g_strdup(c->rb->idstr),
            .size = c->rb->used_length,
            .kind = c->kind,
        };
        QAPI_LIST_APPEND(tail, block);
    }
    return list;
}

static HostMemoryBackend *backend_of(RAMBlock *rb)
{
    Object *owner = memory_region_owner(rb->mr);

    return (HostMemoryBackend *)object_dynamic_cast(owner,
                                                    TYPE_MEMORY_BACKEND);
}

/* Does its backend leave it to us where the memory comes from? */
static bool backend_allows(RAMBlock *rb)
{
    HostMemoryBackend *backend = backend_of(rb);

    return !backend || (!backend->prealloc &&
                        backend->policy == HOST_MEM_POLICY_DEFAULT);
}

static ColoMemoryKind choose_kind(RAMBlock *rb)
{
    if (rb->used_length < SMALL_BLOCK) {
        return COLO_MEMORY_KIND_COMPARE;
    }
    return !ram.pinned && rb->fd < 0 &&
           !(rb->flags & (RAM_SHARED | RAM_PREALLOC | RAM_RESIZEABLE |
                          RAM_NORESERVE)) &&
           rb->page_size == TARGET_PAGE_SIZE &&
           rb->page_size == qemu_real_host_page_size() &&
           rb->used_length == rb->max_length &&
           !should_mlock(mlock_state) && backend_allows(rb) ?
           COLO_MEMORY_KIND_COW : COLO_MEMORY_KIND_LOG;
}

/* What was advised for the memory of @c and is lost with a mapping. */
static void advise(ColoCopy *c)
{
    HostMemoryBackend *backend = backend_of(c->rb);
    void *host = c->rb->host;

    if (backend ? backend->merge : machine_mem_merge(current_machine)) {
        qemu_madvise(host, c->size, QEMU_MADV_MERGEABLE);
    }
    if (!(backend ? backend->dump :
                    machine_dump_guest_core(current_machine))) {
        qemu_madvise(host, c->size, QEMU_MADV_DONTDUMP);
    }
    qemu_madvise(host, c->size, QEMU_MADV_DONTFORK);
}

static bool setup_copy(ColoCopy *c, Error **errp)
{
    c->base = colo_map_sparse(c->size);
    if (!c->base) {
        return no_memory(c, errp);
    }
    take_base(c);
    return true;
}

static bool setup_base(ColoCopy *c, Error **errp)
{
    Error *err = NULL;

    c->kind = choose_kind(c->rb);
    if (c->kind == COLO_MEMORY_KIND_COW) {
        c->cow = colo_cow_new(c->rb->host, c->size, c->rb->idstr, &err);
        if (c->cow) {
            c->base = colo_cow_base(c->cow);
            advise(c);
        } else {
            warn_reportf_err(err, "COLO: RAM block '%s' is there twice: ",
                             c->rb->idstr);
            c->kind = COLO_MEMORY_KIND_LOG;
        }
    }
    trace_colo_ram_setup(c->rb->idstr, ColoMemoryKind_str(c->kind));
    return c->cow || setup_copy(c, errp);
}

static bool block_setup(ColoCopy *c, const ColoRamBlock *block, Error **errp)
{
    RAMBlock *rb = qemu_ram_block_by_name(block->idstr);

    if (!rb || rb->used_length != block->used_length) {
        error_setg(errp, "RAM block '%s' of the primary is not there, or of "
                   "another size", block->idstr);
        return false;
    }
    c->rb = rb;
    c->size = ROUND_UP(rb->used_length, qemu_real_host_page_size());
    c->npages = rb->used_length >> TARGET_PAGE_BITS;
    c->changed = bitmap_new(c->npages);
    if (migrate_multifd()) {
        c->multifd = colo_map_sparse(c->size);
        if (!c->multifd) {
            return no_memory(c, errp);
        }
        c->fresh = bitmap_new(c->npages);
        c->by_multifd = bitmap_new(c->npages);
    }
    return setup_base(c, errp);
}

/*
 * A channel of multifd may be in the middle of a page, and lives longer than
 * protection: what it writes to stays mapped until QEMU ends.
 */
static void copy_free(ColoCopy *c)
{
    if (c->cow) {
        g_clear_pointer(&c->cow, colo_cow_free);
    } else if (c->base) {
        munmap(c->base, c->size);
    }
    c->base = NULL;
    g_clear_pointer(&c->changed, g_free);
    if (c->multifd) {
        qemu_madvise(c->multifd, c->size, QEMU_MADV_DONTNEED);
    }
}

/* Log the SVM's writes in RAMBlock::bmap, cleared at each sync. */
static bool start_log(Error **errp)
{
    for (unsigned i = 0; i < ram.n; i++) {
        ColoCopy *c = &ram.copies[i];

        if (c->kind == COLO_MEMORY_KIND_LOG) {
            c->rb->bmap = bitmap_new(c->npages);
            c->rb->clear_bmap = NULL;
            ram.logging = true;
        }
    }
    if (!ram.logging) {
        return true;
    }
    if (!memory_global_dirty_log_start(GLOBAL_DIRTY_MIGRATION, errp)) {
        return false;
    }
    memory_global_dirty_log_sync(false);
    for (unsigned i = 0; i < ram.n; i++) {
        ColoCopy *c = &ram.copies[i];

        if (c->kind == COLO_MEMORY_KIND_LOG) {
            cpu_physical_memory_sync_dirty_bitmap(c->rb, 0,
                                                  c->rb->used_length);
            bitmap_zero(c->rb->bmap, c->npages);
        }
    }
    return true;
}

static uint64_t stage_limit(const ColoRamList *layout)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < colo_ramlist_size(layout); i++) {
        pages += colo_ramlist_pages(layout, i);
    }
    return MAX(pages / 4, COLO_STAGE_KEEP >> TARGET_PAGE_BITS);
}

bool colo_ram_setup(const ColoRamList *layout, Error **errp)
{
    unsigned n = colo_ramlist_size(layout);

    /* by devices of the host, which know its pages */
    ram.pinned = ram_block_discard_is_disabled();
    if (ram_block_discard_disable(true)) {
        error_setg(errp, "a device discards guest memory (a balloon, say), "
                   "which a secondary can't follow; remove it");
        return false;
    }
    ram.discard_disabled = true;
    ram.stage = colo_stage_new(layout, errp);
    if (!ram.stage) {
        goto fail;
    }
    ram.limit = stage_limit(layout);
    ram.copies = g_new0(ColoCopy, n);
    ram.by_block = g_hash_table_new(NULL, NULL);
    for (unsigned i = 0; i < n; i++) {
        ram.n = i + 1;
        if (!block_setup(&ram.copies[i], colo_ramlist_get(layout, i), errp)) {
            goto fail;
        }
        g_hash_table_insert(ram.by_block, ram.copies[i].rb, &ram.copies[i]);
    }
    if (start_log(errp)) {
        qatomic_store_release(&ram.ready, true);
        return true;
    }
fail:
    colo_ram_stop();
    colo_ram_free();
    return false;
}

static void stop_log(void)
{
    if (!ram.logging) {
        return;
    }
    if (global_dirty_tracking & GLOBAL_DIRTY_MIGRATION) {
        memory_global_dirty_log_stop(GLOBAL_DIRTY_MIGRATION);
    }
    for (unsigned i = 0; i < ram.n; i++) {
        if (ram.copies[i].kind == COLO_MEMORY_KIND_LOG) {
            g_clear_pointer(&ram.copies[i].rb->bmap, g_free);
        }
    }
    ram.logging = false;
}

/*
 * The SVM's memory is no copy of anything any more. A page of a private mapping
 * that was discarded would be the base's and not zero, so it becomes shared
 * memory, and is known as that.
 */
static bool share(ColoCopy *c)
{
    Error *err = NULL;
    int fd = colo_cow_share(c->cow, &err);

    if (fd < 0) {
        warn_reportf_err(err, "COLO: memory of RAM block '%s' can't be given "
                         "back to the host any more: ", c->rb->idstr);
        return false;
    }
    c->rb->fd = fd;
    c->rb->flags |= RAM_SHARED;
    advise(c);
    qemu_madvise(c->rb->host, c->size, QEMU_MADV_HUGEPAGE);
    return true;
}

void colo_ram_stop(void)
{
    bool shared = true;

    qatomic_set(&ram.ended, true);
    stop_log();
    for (unsigned i = 0; i < ram.n; i++) {
        if (ram.copies[i].cow) {
            shared &= share(&ram.copies[i]);
        }
    }
    if (ram.discard_disabled && shared) {
        ram_block_discard_disable(false);
        ram.discard_disabled = false;
    }
}

void colo_ram_free(void)
{
    bool channels = ram.n && ram.copies[0].multifd;

    for (unsigned i = 0; i < ram.n; i++) {
        copy_free(&ram.copies[i]);
    }
    g_clear_pointer(&ram.stage, colo_stage_free);
    if (!channels) {
        g_clear_pointer(&ram.copies, g_free);
        g_clear_pointer(&ram.by_block, g_hash_table_unref);
        ram.n = 0;
    }
}

/*
 * Stage pages of a block that is copy-on-write. What the SVM has written it
 * has for itself, be it that it takes over: the base is free to receive those.
 */
static size_t stage_cow(ColoCopy *c, unsigned block, const ColoRun *run,
                        struct iovec *iov)
{
    uint64_t end = run->first + run->count;
    size_t n = 0;

    bitmap_clear(c->changed, run->first, run->count);
    if (!colo_cow_written(c->cow, run->first, run->count, c->changed)) {
        bitmap_clear(c->changed, run->first, run->count);
    }
    for (uint64_t page = run->first; page < end; page++) {
        struct iovec to = {
            .iov_base = c->base + (page << TARGET_PAGE_BITS),
            .iov_len = TARGET_PAGE_SIZE,
        };

        if (test_bit(page, c->changed)) {
            colo_stage_forget(ram.stage, block, page);
        } else {
            colo_stage_data(ram.stage, block, page, 1, &to);
        }
        n = colo_iov_append(iov, n, to.iov_base, to.iov_len);
    }
    bitmap_clear(c->changed, run->first, run->count);
    return n;
}

size_t colo_ram_stage(const ColoMsg *msg, struct iovec *iov)
{
    unsigned block = msg->pages.block;
    ColoCopy *c = &ram.copies[block];
    size_t n = 0;

    for (unsigned i = 0; i < msg->pages.runs->len; i++) {
        ColoRun *run = &g_array_index(msg->pages.runs, ColoRun, i);

        if (c->by_multifd) {
            bitmap_clear(c->by_multifd, run->first, run->count);
        }
        if (run->flags == COLO_RUN_ZERO) {
            colo_stage_zero(ram.stage, block, run->first, run->count);
        } else if (c->cow) {
            n += stage_cow(c, block, run, iov + n);
        } else {
            n += colo_stage_data(ram.stage, block, run->first, run->count,
                                 iov + n);
        }
    }
    return n;
}

/* The peer's offsets are within the block, but need not be whole pages. */
static bool mark_multifd(ColoCopy *c, const ram_addr_t *offset, uint32_t n,
                        Error **errp)
{
    for (uint32_t i = 0; i < n; i++) {
        if (offset[i] & ~TARGET_PAGE_MASK) {
            error_setg(errp, "multifd: offset " RAM_ADDR_FMT " in RAM block "
                       "'%s' is not the start of a page", offset[i],
                       c->rb->idstr);
            return false;
        }
        set_bit_atomic(offset[i] >> TARGET_PAGE_BITS, c->fresh);
    }
    return true;
}

bool colo_stage_multifd(MultiFDRecvParams *p, Error **errp)
{
    ColoCopy *c;

    if (qatomic_read(&ram.ended)) {
        error_setg(errp, "multifd: pages after the end of protection");
        return false;
    }
    if (!qatomic_load_acquire(&ram.ready)) {
        return true;
    }
    c = g_hash_table_lookup(ram.by_block, p->block);
    if (!c) {
        error_setg(errp, "multifd: RAM block '%s' is not part of checkpoints",
                   p->block->idstr);
        return false;
    }
    if (!mark_multifd(c, p->normal, p->normal_num, errp) ||
        !mark_multifd(c, p->zero, p->zero_num, errp)) {
        return false;
    }
    p->host = c->multifd;
    qatomic_add(&ram.pages, p->normal_num);
    qatomic_add(&ram.zero_pages, p->zero_num);
    return true;
}

/*
 * The channels go on as soon as they are in sync: pages of the primary's next
 * round may be among these. That does no harm, as there is another SYNC between
 * them and all that comes by the link later.
 */
static void take_fresh(ColoCopy *c)
{
    for (size_t i = 0; i < BITS_TO_LONGS(c->npages); i++) {
        if (qatomic_read(&c->fresh[i])) {
            unsigned long fresh = qatomic_xchg(&c->fresh[i], 0);

            c->multifd_pages += ctpopl(fresh & ~c->by_multifd[i]);
            c->by_multifd[i] |= fresh;
            c->multifd_used = true;
        }
    }
}

void colo_ram_multifd_synced(uint64_t *pages, uint64_t *zero_pages)
{
    for (unsigned i = 0; i < ram.n; i++) {
        take_fresh(&ram.copies[i]);
    }
    *pages = qatomic_xchg(&ram.pages, 0);
    *zero_pages = qatomic_xchg(&ram.zero_pages, 0);
}

/* Give the memory of what came by multifd back. */
static void forget_multifd(ColoCopy *c)
{
    if (c->fresh) {
        take_fresh(c);
    }
    if (c->multifd_used) {
        qemu_madvise(c->multifd, c->size, QEMU_MADV_DONTNEED);
        bitmap_zero(c->by_multifd, c->npages);
        c->multifd_pages = 0;
        c->multifd_used = false;
    }
}

bool colo_ram_is_full(void)
{
    uint64_t pages = colo_stage_used(ram.stage);

    for (unsigned i = 0; i < ram.n; i++) {
        pages += ram.copies[i].multifd_pages;
    }
    return pages > ram.limit;
}

void colo_ram_discard_staged(void)
{
    colo_stage_clear(ram.stage);
    for (unsigned i = 0; i < ram.n; i++) {
        forget_multifd(&ram.copies[i]);
    }
    qatomic_set(&ram.pages, 0);
    qatomic_set(&ram.zero_pages, 0);
}

void colo_ram_trim(void)
{
    colo_stage_trim(ram.stage);
}

/* What the SVM has written since the last commit, to c->changed. */
static void find_changes(ColoCopy *c)
{
    switch (c->kind) {
    case COLO_MEMORY_KIND_COMPARE:
        for (uint64_t i = 0; i < c->npages; i++) {
            size_t at = i << TARGET_PAGE_BITS;

            if (memcmp(c->base + at, c->rb->host + at, TARGET_PAGE_SIZE)) {
                set_bit(i, c->changed);
            }
        }
        break;
    case COLO_MEMORY_KIND_LOG:
        cpu_physical_memory_sync_dirty_bitmap(c->rb, 0, c->rb->used_length);
        bitmap_copy(c->changed, c->rb->bmap, c->npages);
        bitmap_zero(c->rb->bmap, c->npages);
        break;
    case COLO_MEMORY_KIND_COW:
        colo_cow_changed(c->cow, c->changed);
        break;
    case COLO_MEMORY_KIND__MAX:
        g_assert_not_reached();
    }
}

/*
 * Have TCG forget what it has translated from changed pages. It does not see
 * these changes, and marks pages that it has translated as clean.
 */
static void forget_code(ColoCopy *c)
{
    uint64_t end;

    if (!tcg_enabled()) {
        return;
    }
    for (uint64_t page = find_first_bit(c->changed, c->npages);
         page < c->npages; page = find_next_bit(c->changed, c->npages, end)) {
        ram_addr_t start = c->rb->offset + (page << TARGET_PAGE_BITS);
        ram_addr_t len;

        end = find_next_zero_bit(c->changed, c->npages, page);
        len = (end - page) << TARGET_PAGE_BITS;
        if (!cpu_physical_memory_all_dirty(start, len, DIRTY_MEMORY_CODE)) {
            tb_invalidate_phys_range(start, start + len - 1);
        }
    }
}

static void commit_block(ColoCopy *c, unsigned block)
{
    const unsigned long *staged = colo_stage_map(ram.stage, block);
    ColoStageTarget target = {
        .base = c->base,
        .svm = c->cow ? NULL : c->rb->host,
        .multifd = c->multifd,
        .by_multifd = c->by_multifd,
    };

    find_changes(c);
    if (trace_event_get_state_backends(TRACE_COLO_RAM_COMMIT)) {
        trace_colo_ram_commit(c->rb->idstr,
                              bitmap_count_one(staged, c->npages),
                              bitmap_count_one(c->changed, c->npages));
    }
    if (c->cow) {
        colo_cow_drop(c->cow, c->changed);
    }
    bitmap_or(c->changed, c->changed, staged, c->npages);
    if (c->by_multifd) {
        bitmap_or(c->changed, c->changed, c->by_multifd, c->npages);
    }
    colo_stage_commit(ram.stage, block, c->changed, &target);
    forget_code(c);
    forget_multifd(c);
    bitmap_zero(c->changed, c->npages);
}

void colo_ram_commit(void)
{
    if (ram.logging) {
        memory_global_dirty_log_sync(true);
    }
    for (unsigned i = 0; i < ram.n; i++) {
        commit_block(&ram.copies[i], i);
    }
    colo_stage_clear(ram.stage);
}
