/*
 * COLO: where the pages of a checkpoint wait until it is whole
 *
 * The pages lie one after the other, in the order they came, in an arena that
 * the next checkpoint fills anew: no page fault and no system call per page.
 *
 * Memory only, no locks: the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_STAGE_H
#define MIGRATION_COLO_STAGE_H

#include "ramlist.h"

/* Bytes of the arena that stay populated, whatever checkpoints need */
#define COLO_STAGE_KEEP (64u << 20)

/*
 * Zeroed memory of @size bytes, populated as it is written, in no core dump
 * and in no child. To be given back with munmap(). NULL and errno if the
 * address space has no room.
 */
void *colo_map_sparse(size_t size);

typedef struct ColoStage ColoStage;

/*
 * A stage for the blocks of @ram, which it does not keep. The arena has room
 * for each of their pages once; memory is taken as pages come. NULL and @errp
 * if the address space has no room.
 */
ColoStage *colo_stage_new(const ColoRamList *ram, Error **errp);
void colo_stage_free(ColoStage *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoStage, colo_stage_free)

/*
 * Stage @count pages of block @block from page @first on, all of which the
 * block has: their data is to be written to @iov, which has room for @count
 * entries. Returns how many are used. What a page had before is forgotten.
 */
size_t colo_stage_data(ColoStage *s, unsigned block, uint64_t first,
                       uint32_t count, struct iovec *iov);

/* The same for pages that are zero, of which no data comes. */
void colo_stage_zero(ColoStage *s, unsigned block, uint64_t first,
                     uint32_t count);

/* A page of block @block that may have been staged is to be as it was. */
void colo_stage_forget(ColoStage *s, unsigned block, uint64_t page);

/* A bit for each page of block @block: is it staged? Owned by @s. */
const unsigned long *colo_stage_map(const ColoStage *s, unsigned block);

/* The content of a staged page, valid until colo_stage_clear(). */
const void *colo_stage_page(const ColoStage *s, unsigned block, uint64_t page);

/* What a commit of a block works on; all of it is the caller's. */
typedef struct ColoStageTarget {
    uint8_t *base;              /* the memory as of the last commit */
    uint8_t *svm;               /* what the SVM runs on; NULL: on the base */
    const uint8_t *multifd;     /* staged by other means, in place; or NULL */
    const unsigned long *by_multifd;    /* its pages, before those staged */
} ColoStageTarget;

/*
 * For each page in @changed, which are those staged and those that the SVM has
 * written: a staged page gets into base and SVM, any other is again what it
 * was at the last commit. No data under way, the SVM stopped.
 */
void colo_stage_commit(const ColoStage *s, unsigned block,
                       const unsigned long *changed,
                       const ColoStageTarget *target);

/* Pages of the arena that are in use. */
uint64_t colo_stage_used(const ColoStage *s);

/* Forget what is staged. */
void colo_stage_clear(ColoStage *s);

/*
 * A checkpoint is done, and forgotten: give the host back what the arena holds
 * in excess of COLO_STAGE_KEEP and of what the last few checkpoints needed.
 */
void colo_stage_trim(ColoStage *s);

#endif
