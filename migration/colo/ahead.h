/*
 * COLO: pages that are sent before the PVM stops
 *
 * Which pages were sent ahead in this epoch, and the sending.
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
 * How many of the dirty pages that colo_capture_sync() has found were not sent
 * in this epoch. Migration thread.
 */
uint64_t colo_ahead_unsent(const ColoAhead *a, const ColoRamList *ram);

/*
 * Send the dirty pages of the running VM ahead, as part of checkpoint @epoch:
 * those first that were not sent in this epoch, at most @pages (0: all), until
 * @enough says so. *@sent becomes how many went. Migration thread, without the
 * BQL, after colo_capture_sync() and colo_capture_settle().
 */
bool colo_ahead_send(ColoAhead *a, ColoCapture *c, uint64_t epoch,
                     uint64_t pages, bool (*enough)(void *opaque),
                     uint64_t *sent, Error **errp);

#endif
