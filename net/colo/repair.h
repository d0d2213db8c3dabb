/*
 * COLO proxy: repair of input that a NIC of the SVM has dropped
 *
 * A NIC without backpressure drops what its ring has no room for, and the
 * SVM's ring overflows at other times than the PVM's. A TCP segment that only
 * the SVM lacks would never be sent again: the client gets no duplicate ACK
 * from a PVM without a hole, and the PVM's ACKs beyond the SVM's are held. So
 * the SVM's side keeps the mirrored segments the SVM has not acknowledged,
 * and gives the guest again those that it seems to lack. To the guest this is
 * a network that duplicates packets.
 *
 * What counts as lost, when it is stored
 * - what lies below the highest SACK block of an ACK, in none of its blocks
 *   (RFC 2018);
 * - the segment at the ACK number of a second duplicate ACK (RFC 5681,
 *   section 2), and the one at each later ACK number up to the data that was
 *   stored then (RFC 6582, partial ACKs);
 * - what begins a connection's stored data, if no ACK has advanced for some
 *   time.
 * A segment is not repeated twice within a time that doubles.
 *
 * The numbers in question are the peer's. No rewriter changes those, so
 * frames in the guest's and in the wire's numbering both will do for
 * colo_repair_out(); what colo_repair_in() stores is what is given out.
 *
 * No function here blocks or fails. An instance is used by one thread at a
 * time, the caller locks. Times are in ms of any monotonic clock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_REPAIR_H
#define NET_COLO_REPAIR_H

#include "packet.h"

typedef struct ColoRepair ColoRepair;

/* Bounds that suffice: memory of the frames in bytes, their number, TCP. */
#define COLO_REPAIR_BYTES_DEFAULT (4 * 1024 * 1024)
#define COLO_REPAIR_FRAMES_DEFAULT 4096
#define COLO_REPAIR_CONNS_DEFAULT 1024

/* Call colo_repair_tick() this often while it returns true, in ms. */
#define COLO_REPAIR_TICK_MS 10

/*
 * An empty store of at most @max_bytes of memory for at most @max_frames
 * frames of @max_conns connections, each not 0. Past a bound the oldest
 * frames are forgotten, past @max_conns the least recently used connection.
 */
ColoRepair *colo_repair_new(size_t max_bytes, unsigned max_frames,
                            unsigned max_conns);
void colo_repair_free(ColoRepair *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoRepair, colo_repair_free)

/* Forget everything: at a commit, and when this is no SVM any more. */
void colo_repair_reset(ColoRepair *r);

/*
 * The guest is about to receive @frame of @len bytes, which starts with a
 * virtio-net header of @vnet_len bytes. A copy is kept if it is a TCP segment
 * with data or FIN that the guest has not acknowledged. Frames that are
 * anything else, fragments included, are ignored.
 *
 * Returns true if something is stored: colo_repair_tick() is wanted.
 */
bool colo_repair_in(ColoRepair *r, const uint8_t *frame, size_t len,
                    size_t vnet_len, int64_t now_ms);

/*
 * The guest has emitted @frame, as above. Returns true if frames are due:
 * take them with colo_repair_pop(), but not from within the guest's transmit
 * path.
 */
bool colo_repair_out(ColoRepair *r, const uint8_t *frame, size_t len,
                     size_t vnet_len, int64_t now_ms);

/*
 * Look for what has not been acknowledged for long; then take what is due
 * with colo_repair_pop(). Returns true while anything is stored.
 */
bool colo_repair_tick(ColoRepair *r, int64_t now_ms);

/*
 * Take the next frame that is due. Returns a copy that is the caller's, to be
 * freed with g_free(), and its length in *@len; or NULL if none is due.
 * @vnet_len is the length of virtio-net headers now: if it has changed, all
 * that is stored is useless and forgotten.
 */
uint8_t *colo_repair_pop(ColoRepair *r, size_t vnet_len, size_t *len);

/* Frames stored, and the memory they take in bytes. */
unsigned colo_repair_count(const ColoRepair *r);
size_t colo_repair_bytes(const ColoRepair *r);

#endif
