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

/* Bytes of the arena that stay populated between checkpoints */
#define COLO_STAGE_KEEP (64u << 20)

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

/* A bit for each page of block @block: is it staged? Owned by @s. */
const unsigned long *colo_stage_map(const ColoStage *s, unsigned block);

/* The content of a staged page, valid until colo_stage_clear(). */
const void *colo_stage_page(const ColoStage *s, unsigned block, uint64_t page);

/* Forget what is staged. */
void colo_stage_clear(ColoStage *s);

/* Give back what the arena holds in excess of COLO_STAGE_KEEP. */
void colo_stage_trim(ColoStage *s);

#endif
