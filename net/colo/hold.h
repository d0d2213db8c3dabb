/*
 * COLO proxy: the hold, nearest to each netdev while COLO is active
 *
 * On a primary it keeps what the guest emits until the checkpoint behind it
 * is committed, and lets through what the comparison has released. On a
 * secondary it cuts the guest off from its netdev. It is a filter that the
 * proxy makes and users can't.
 *
 * BQL, as with all filters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_HOLD_H
#define NET_COLO_HOLD_H

#include "net/net.h"

typedef struct ColoHold ColoHold;

typedef enum ColoHoldMode {
    /* output is held and leaves by commits; input passes */
    COLO_HOLD_KEEP,
    /* the same, but past the limit the oldest packets are dropped */
    COLO_HOLD_LOST,
    /* output is dropped, input passes: the peer has taken over */
    COLO_HOLD_FENCED,
    /* nothing passes in either direction: a secondary */
    COLO_HOLD_CUT,
} ColoHoldMode;

/*
 * Put a hold on netdev @nc. It belongs to the netdev, and goes with it or
 * with colo_hold_remove().
 */
ColoHold *colo_hold_add(NetClientState *nc, ColoHoldMode mode);

/* The hold of @nc or NULL. */
ColoHold *colo_hold_find(NetClientState *nc);

/* Remove @hold. What it still holds is dropped. */
void colo_hold_remove(ColoHold *hold);

void colo_hold_set_mode(ColoHold *hold, ColoHoldMode mode);

/* What the guest emits from now on belongs to @epoch. */
void colo_hold_capture(ColoHold *hold, uint64_t epoch);

/*
 * Output of epochs older than @epoch leaves: at once, or if the VM is stopped
 * by colo_hold_flush() when it runs, as netdevs take little until then.
 */
void colo_hold_commit(ColoHold *hold, uint64_t epoch);

/* Everything leaves, as with colo_hold_commit(). */
void colo_hold_release_all(ColoHold *hold);

/* The VM runs again: let go what may leave. */
void colo_hold_flush(ColoHold *hold);

/* Drop everything. */
void colo_hold_drop_all(ColoHold *hold);

/*
 * Hold, as if the guest had emitted it in @epoch, or pass on to the netdev
 * at once, the packet of @len bytes at @data with a vnet header of
 * @vnet_hdr_len bytes.
 */
void colo_hold_put(ColoHold *hold, uint64_t epoch, const uint8_t *data,
                   size_t len, uint32_t vnet_hdr_len);
void colo_hold_pass(ColoHold *hold, const uint8_t *data, size_t len,
                    uint32_t vnet_hdr_len);

/* Whether packets that come now have been released already. */
void colo_hold_set_released(ColoHold *hold, bool released);

/* Packets and bytes held, and packets dropped since the hold was made. */
void colo_hold_count(const ColoHold *hold, uint64_t *packets, uint64_t *bytes,
                     uint64_t *dropped);

#endif
