/*
 * Block replication: writes the guest believes done, that are forwarded later
 *
 * In the order they came, each with a copy of its data. Memory only, no locks:
 * the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_REPLICATION_QUEUE_H
#define BLOCK_REPLICATION_QUEUE_H

#include "block/block-common.h"
#include "qemu/iov.h"
#include "qemu/queue.h"

typedef enum ReplWriteKind {
    REPL_WRITE_DATA,
    REPL_WRITE_ZEROES,
    REPL_WRITE_DISCARD,
} ReplWriteKind;

typedef struct ReplWrite {
    ReplWriteKind kind;
    BdrvRequestFlags flags;
    int64_t offset;             /* bytes */
    int64_t bytes;
    void *data;                 /* of REPL_WRITE_DATA, else NULL; owned */
    QSIMPLEQ_ENTRY(ReplWrite) next;
} ReplWrite;

typedef struct ReplQueue {
    QSIMPLEQ_HEAD(, ReplWrite) list;
    size_t memory;              /* bytes of the writes that are not done */
} ReplQueue;

/*
 * A write of @bytes bytes at @offset. @qiov has the data of REPL_WRITE_DATA,
 * which is copied, and is NULL otherwise. NULL if there is no memory for it.
 */
ReplWrite *repl_write_new(ReplWriteKind kind, int64_t offset, int64_t bytes,
                          BdrvRequestFlags flags, QEMUIOVector *qiov);
void repl_write_free(ReplWrite *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ReplWrite, repl_write_free)

void repl_queue_init(ReplQueue *q);

/* Append @w, which the queue owns from then on. */
void repl_queue_push(ReplQueue *q, ReplWrite *w);

bool repl_queue_empty(const ReplQueue *q);

/*
 * Take out the oldest writes that may be forwarded side by side, because none
 * of them touches what another one does: at most @max, to @batch. Returns how
 * many. They go to repl_queue_done() before others are taken.
 */
size_t repl_queue_take(ReplQueue *q, ReplWrite **batch, size_t max);

/* Free the @n writes of @batch, which were taken out. */
void repl_queue_done(ReplQueue *q, ReplWrite **batch, size_t n);

/* Drop all writes that were not taken out. */
void repl_queue_clear(ReplQueue *q);

#endif
