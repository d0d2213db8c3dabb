/*
 * COLO: how much of a buffer the last checkpoints have needed
 *
 * What one needs the next may need, too, and memory that is given back and
 * taken again costs a page fault and a zeroed page each time. So it goes back
 * when a few in a row had no use for it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_PEAK_H
#define MIGRATION_COLO_PEAK_H

/* Checkpoints after which memory is given back */
#define COLO_PEAK_CHECKPOINTS 4

/* All zero to begin with. The caller serialises. */
typedef struct ColoPeak {
    uint64_t populated;         /* pages from the start that may take memory */
    uint64_t needed;            /* of them, since memory was given back */
    unsigned checkpoints;       /* since then */
} ColoPeak;

/* The first @pages pages of the buffer are, or are going to be, of use. */
void colo_peak_need(ColoPeak *p, uint64_t pages);

/*
 * A checkpoint is done. True: the pages from @first to before @end were of no
 * use to the last ones, and don't count as populated any more.
 */
bool colo_peak_done(ColoPeak *p, uint64_t *first, uint64_t *end);

#endif
