/*
 * COLO: pages that are sent before the PVM stops
 *
 * Which pages were sent ahead in this epoch. One that is dirtied again is left
 * to the checkpoint: it is likely to be dirtied a third time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_AHEAD_H
#define MIGRATION_COLO_AHEAD_H

#include "capture.h"

typedef struct ColoAhead ColoAhead;

/* For the blocks of @ram, which is not kept. Any thread. */
ColoAhead *colo_ahead_new(const ColoRamList *ram);
void colo_ahead_free(ColoAhead *a);

/* A new epoch: no page was sent ahead. Migration thread. */
void colo_ahead_restart(ColoAhead *a);

/*
 * Send dirty pages of the running VM ahead, as part of checkpoint @epoch: at
 * most @pages (0: all), each at most once an epoch, until @enough says so.
 * Migration thread, without the BQL, after colo_capture_sync(). Not with
 * multifd, whose channels could deliver two states of a page in either order.
 */
bool colo_ahead_send(ColoAhead *a, ColoCapture *c, uint64_t epoch,
                     uint64_t pages, bool (*enough)(void *opaque),
                     Error **errp);

#endif
