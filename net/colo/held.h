/*
 * COLO proxy: a queue of packets that belong to epochs
 *
 * A plain data structure, without locks: its owner says who may use it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_HELD_H
#define NET_COLO_HELD_H

#include "qemu/queue.h"

typedef struct ColoHeld {
    QSIMPLEQ_ENTRY(ColoHeld) next;
    /* the epoch it was sent in, or is meant for */
    uint64_t epoch;
    /* QEMU_NET_PACKET_FLAG_* */
    unsigned int flags;
    uint32_t vnet_hdr_len;
    size_t len;
    uint8_t data[];
} ColoHeld;

typedef struct ColoHeldQueue {
    QSIMPLEQ_HEAD(, ColoHeld) list;
    size_t count;
    /* memory of the packets with their headers, in bytes */
    size_t bytes;
    uint64_t dropped;
} ColoHeldQueue;

/* Prepare the empty queue @q, which its caller owns. */
void colo_held_init(ColoHeldQueue *q);

/* Drop all packets. They are counted in @q->dropped. */
void colo_held_clear(ColoHeldQueue *q);

/*
 * Append a copy of the packet @iov, with the fields of ColoHeld as given.
 * Epochs must not go down from one packet to the next.
 */
void colo_held_push(ColoHeldQueue *q, uint64_t epoch, unsigned int flags,
                       uint32_t vnet_hdr_len, const struct iovec *iov,
                       int iovcnt);

/* Epoch of the oldest packet in *@epoch, or false if there is none. */
bool colo_held_oldest(const ColoHeldQueue *q, uint64_t *epoch);

/*
 * Take the oldest packet out if its epoch is at most @epoch, else NULL. The
 * caller frees it with g_free().
 */
ColoHeld *colo_held_pop(ColoHeldQueue *q, uint64_t epoch);

/* Drop the oldest packets until at most @bytes are left; they are counted. */
void colo_held_trim(ColoHeldQueue *q, size_t bytes);

#endif
