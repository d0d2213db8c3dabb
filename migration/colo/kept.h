/*
 * COLO: copies of pages that the stopped PVM had dirtied
 *
 * Taken while it stands still, sent when it runs again: a bounded amount in
 * memory that is populated before, so that a copy costs neither an allocation
 * nor a page fault.
 *
 * Memory only, no locks: the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_KEPT_H
#define MIGRATION_COLO_KEPT_H

typedef struct ColoKept ColoKept;

/*
 * Room for @pages pages of @page_size bytes with content, and for any number
 * that are zero. NULL and @errp if the address space has none.
 */
ColoKept *colo_kept_new(size_t page_size, uint64_t pages, Error **errp);
void colo_kept_free(ColoKept *k);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoKept, colo_kept_free)

/* How many pages with content there is room for yet. */
uint64_t colo_kept_room(const ColoKept *k);

/*
 * Keep page @page of block @block, whose content is copied from @data; NULL:
 * it is zero. There is room for it.
 */
void colo_kept_add(ColoKept *k, unsigned block, uint64_t page,
                   const void *data);

/*
 * Call @func with each page, in the order they were added, until it returns
 * false; @data as for colo_kept_add(), valid until colo_kept_clear(). Returns
 * false if @func did.
 */
typedef bool ColoKeptFunc(void *opaque, unsigned block, uint64_t page,
                          void *data, Error **errp);
bool colo_kept_foreach(const ColoKept *k, ColoKeptFunc *func, void *opaque,
                       Error **errp);

/* Forget all pages. */
void colo_kept_clear(ColoKept *k);

/*
 * The next checkpoint is expected to have @pages pages with content, or fewer:
 * take the memory for these now, for the PVM will stand still then. There may
 * be more, and whether there is memory shows when it is written to.
 */
void colo_kept_reserve(ColoKept *k, uint64_t pages);

/*
 * A checkpoint is done, and its pages are forgotten: give the host back what
 * the last few have neither used nor reserved.
 */
void colo_kept_trim(ColoKept *k);

#endif
