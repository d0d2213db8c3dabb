/*
 * COLO proxy: the comparison
 *
 * Decides which packet of the PVM may leave the host, and when (invariant 1
 * of the design). Gets the packets of both guests, each with the epoch of
 * the stream it came in, and three events: capture, commit, and the passing
 * of time. Answers through two callbacks.
 *
 * Modes
 *
 *   OPEN     not protected: packets leave at once; what they show of their
 *            connections is noted, for the floor when protection starts.
 *   COMPARE  a packet of epoch k leaves when k is committed and the SVM has
 *            emitted the same in k, or when k + 1 is committed.
 *   HOLD     as COMPARE without the first: for netdevs without an SVM stream.
 *   LOST     the peer is lost and no decision made: nothing leaves, past the
 *            limit in bytes the oldest packets are dropped and counted.
 *   CLOSED   the peer took over: whatever comes is dropped and counted.
 *
 * Until the first colo_compare_commit() of COMPARE nothing is compared, only
 * held. Both modes can be exchanged while protection lasts.
 *
 * TCP is compared as one stream of bytes per connection. A packet of the PVM
 * leaves when each of its bytes, SYN and FIN has left before (which includes
 * the floor) or is equal to what the SVM emitted in this epoch, and its ACK
 * is no higher than floor and SVM allow. Packets of one connection leave in
 * the order they came in. Beyond that:
 * - A data segment that fails on its ACK alone leaves at once with the ACK
 *   lowered; the ACK it lost follows as a segment of its own when the SVM
 *   acknowledges as much, unless a later packet has carried it. A bare ACK
 *   waits.
 * - SACK blocks the SVM has not reported are taken out, and the window is cut
 *   back to what the SVM offers, where the scale is known. A window that was
 *   cut to (nearly) nothing is opened by an ACK of its own as soon as the SVM
 *   opens it.
 * - A RST must be equal to one of the SVM's of this epoch in sequence number
 *   and, if it has one, be covered in its ACK or equal in it.
 * - Sequence numbers of the SVM's segments are the wire's, but for those with
 *   SYN, which are the SVM's own: see rewrite.h.
 * - A connection first seen in its middle has no floor: its packets leave
 *   when all of their bytes equal the SVM's, or by a commit.
 *
 * Everything else is compared datagram by datagram, in order, within its
 * flow. What may be repeated at will and on timers of its own (ARP, IGMP,
 * MLD, neighbour discovery) leaves if the SVM has emitted the same in this
 * epoch, however often. Fragments are datagrams of a flow by addresses and
 * protocol; that they belong together as the SVM's do is checked with pairs
 * of IP identifications, which themselves are not content.
 *
 * Limits: what the PVM emits is never dropped or let go for want of room; it
 * is held until the commit and a checkpoint is asked for. Past the limits
 * the SVM's packets are dropped, which can only hold a packet longer.
 * A caller that can stop its source looks at colo_compare_full().
 *
 * Thread: an instance is used by one thread at a time, the caller locks.
 * Callbacks are called from inside the call that caused them and must not
 * call back into the instance.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_COMPARE_H
#define NET_COLO_COMPARE_H

#include "qapi/qapi-types-colo.h"
#include "packet.h"

typedef struct ColoCompare ColoCompare;

typedef enum ColoCompareMode {
    COLO_COMPARE_OPEN,
    COLO_COMPARE_COMPARE,
    COLO_COMPARE_HOLD,
    COLO_COMPARE_LOST,
    COLO_COMPARE_CLOSED,
} ColoCompareMode;

typedef struct ColoCompareOps {
    /*
     * Let this frame leave. @frame, of @len bytes with a virtio-net header of
     * @vnet_len bytes first, is valid during the call only.
     */
    void (*release)(void *opaque, const uint8_t *frame, size_t len,
                    size_t vnet_len);
    /*
     * A checkpoint is needed as soon as possible. Called once per epoch, for
     * the first reason, and not while a captured one waits for its commit.
     */
    void (*checkpoint)(void *opaque, ColoCheckpointReason reason);
} ColoCompareOps;

/* A limit of 0 means the default. */
typedef struct ColoCompareLimits {
    unsigned max_conns;         /* connections and flows */
    unsigned max_queue_size;    /* packets held per connection, per side */
    size_t max_conn_bytes;      /* bytes held per connection, per side */
    size_t max_bytes;           /* bytes held in all, per side */
    int64_t compare_timeout;    /* ms a packet may wait for its like */
    int64_t expired_scan_cycle; /* ms between looks for such packets */
} ColoCompareLimits;

#define COLO_COMPARE_CONNS_DEFAULT      131072
#define COLO_COMPARE_QUEUE_DEFAULT      1024
#define COLO_COMPARE_CONN_BYTES_DEFAULT (8 * 1024 * 1024)
#define COLO_COMPARE_BYTES_DEFAULT      (256 * 1024 * 1024)
#define COLO_COMPARE_TIMEOUT_DEFAULT    3000
#define COLO_COMPARE_CYCLE_DEFAULT      3000

/* Counters since the instance was made; the last four are of this moment. */
typedef struct ColoCompareStats {
    uint64_t pvm_packets;       /* packets of the PVM taken in */
    uint64_t svm_packets;       /* packets of the SVM taken in */
    uint64_t svm_ignored;       /* of these: of another epoch, or no room */
    uint64_t open;              /* left unprotected or as sole survivor */
    uint64_t matched;           /* left because the SVM emitted the same */
    uint64_t committed;         /* left because of a commit */
    uint64_t dropped;           /* PVM's, dropped in LOST or CLOSED */
    uint64_t taken;             /* handed over by colo_compare_take_all() */
    uint64_t acks_lowered;
    uint64_t acks_made;         /* that followed a lowered ACK or window */
    uint64_t sacks_stripped;    /* packets that lost SACK blocks */
    uint64_t windows_clamped;
    uint64_t divergences[COLO_CHECKPOINT_REASON__MAX]; /* found, by reason */
    uint64_t checkpoints;       /* asked for */
    uint64_t held_packets;      /* PVM's packets that wait */
    uint64_t held_bytes;
    uint64_t svm_bytes;         /* the SVM's that wait for the PVM's like */
    uint64_t conns;
} ColoCompareStats;

/*
 * A comparison in mode OPEN. @ops is called with @opaque and must live as
 * long as the instance; @limits is copied and may be NULL.
 */
ColoCompare *colo_compare_new(const ColoCompareOps *ops, void *opaque,
                              const ColoCompareLimits *limits);
/* Drops what is still held. */
void colo_compare_free(ColoCompare *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoCompare, colo_compare_free)

/* Change limits while running, for example on a QOM property write. */
void colo_compare_set_limits(ColoCompare *c, const ColoCompareLimits *limits);

/*
 * OPEN to COMPARE or HOLD starts protection: packets leave by commits and
 * matches only, whatever was committed before. COMPARE and HOLD can be
 * exchanged at any time and may become LOST, which keeps what is held. The
 * other ways out are the functions below. Setting the present mode does
 * nothing.
 */
void colo_compare_set_mode(ColoCompare *c, ColoCompareMode mode);
ColoCompareMode colo_compare_mode(const ColoCompare *c);

/*
 * A packet of the PVM (_pvm) or of the SVM (_svm), which belongs to @epoch by
 * the markers of its stream (in OPEN, LOST and CLOSED @epoch does not
 * matter). @frame, of @len bytes with a virtio-net header of @vnet_len bytes
 * first, is only read, and copied where it must be kept. @now_ms is a
 * monotonic clock, the same in all calls.
 *
 * A packet of the PVM of an epoch older than the committed one leaves at
 * once. A packet of the SVM of an epoch not committed yet is kept for it (the
 * news of the commit travels another way); one of an older epoch is ignored.
 */
void colo_compare_pvm(ColoCompare *c, const uint8_t *frame, size_t len,
                      size_t vnet_len, uint64_t epoch, int64_t now_ms);
void colo_compare_svm(ColoCompare *c, const uint8_t *frame, size_t len,
                      size_t vnet_len, uint64_t epoch, int64_t now_ms);

/*
 * Checkpoint @epoch is being captured: no other one need be asked for until
 * it is committed.
 */
void colo_compare_capture(ColoCompare *c, uint64_t epoch);

/*
 * Checkpoint @epoch is committed. Packets of the PVM of older epochs leave in
 * the order they came in; what the PVM has emitted so far becomes the floor;
 * what the SVM emitted in older epochs is forgotten; packets of @epoch held
 * so far are compared with what the SVM has emitted in it.
 */
void colo_compare_commit(ColoCompare *c, uint64_t epoch, int64_t now_ms);

/*
 * A checkpoint that was asked for or captured will not happen (aborted, and
 * protection goes on): ask again when needed.
 */
void colo_compare_abort(ColoCompare *c);

/* Look for packets that waited too long; call it at least once per cycle. */
void colo_compare_tick(ColoCompare *c, int64_t now_ms);

/* True if a limit is reached: stop to read the PVM's stream if possible. */
bool colo_compare_full(const ColoCompare *c);

/* Sole survivor: everything held leaves in order, and the mode is OPEN. */
void colo_compare_release_all(ColoCompare *c);

/* The peer took over: everything held is dropped, and the mode is CLOSED. */
void colo_compare_drop_all(ColoCompare *c);

/*
 * The instance is to go while protection lasts: everything held is handed to
 * @take in order, with its epoch, and is the caller's to hold. The frame is
 * valid during the call only.
 */
typedef void ColoCompareTake(void *opaque, const uint8_t *frame, size_t len,
                             size_t vnet_len, uint64_t epoch);
void colo_compare_take_all(ColoCompare *c, ColoCompareTake *take,
                           void *opaque);

void colo_compare_stats(const ColoCompare *c, ColoCompareStats *stats);

#endif
