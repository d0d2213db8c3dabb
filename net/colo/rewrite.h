/*
 * COLO proxy: translation of TCP sequence numbers and timestamps
 *
 * The two guests of a pair choose different initial sequence numbers, while
 * the client only ever sees those of the PVM: the wire's numbering. A
 * rewriter knows for every connection the offset between the two,
 *
 *     offset = number on the wire - number in this guest        (mod 2^32)
 *
 * adds it to the sequence numbers of what the guest emits and subtracts it
 * from the acknowledgements and SACK blocks of what the guest receives.
 * A connection that is not in the table has offset 0.
 *
 * Where offsets come from
 *
 * - At a commit the SVM becomes what the PVM was, and the PVM's table becomes
 *   the SVM's. The guest of a PVM speaks the wire's numbering, except for
 *   connections it took over as a former secondary; so the table of a PVM
 *   that never was a secondary is empty.
 * - A connection opened later gets its numbers from each guest separately.
 *   The SVM's rewriter notes the guest's SYN and learns the offset
 *     - opened by the client: from the client's first segment that
 *       acknowledges the PVM's SYN-ACK;
 *     - opened by the guest: from the SYN-ACK (or RST) that acknowledges the
 *       PVM's SYN.
 *   Both only exist once the PVM's SYN has left the host, that is once the
 *   SVM has emitted its own, or after a commit.
 *
 * Which numbering is a frame in?
 *
 * - Mode COLO_REWRITE_LEARN (an SVM): segments with SYN pass as they are, in
 *   the guest's own numbering, retransmissions of them included; the
 *   comparison does not look at their sequence number but to tell a
 *   retransmission from a new connection. Every other segment that passes is
 *   in the wire's numbering. A segment that can't be put into it, because its
 *   connection's offset is not known yet, gets COLO_REWRITE_UNKNOWN: it must
 *   not reach the comparison.
 * - Mode COLO_REWRITE_WIRE (a PVM or sole survivor): everything that passes
 *   is in the wire's numbering, with one exception: the SYN of a connection
 *   that was half open at the failover, and whose offset is not known yet,
 *   passes as it is. It defines the wire's numbering if the old PVM's never
 *   arrived; if it did, the peer's answer tells the offset. Whoever looks at
 *   the stream (the comparison) must expect the numbers to change behind
 *   such a SYN. Other segments of such a connection, but RST, are UNKNOWN in
 *   this mode too. A connection that the guest opens later has no offset.
 *
 * Timestamps (RFC 7323)
 *
 * Guests also draw an offset of their TSval per connection. A client drops
 * what is older than what it has seen (PAWS, section 5), and a guest may
 * refuse the echo of a TSval that is not its own. So there is a second offset,
 *
 *     ts_offset = TSval on the wire - TSval of this guest     (mod 2^32)
 *
 * which is added to the TSval of what the guest emits and subtracted from the
 * TSecr of what it receives, unless that is invalid: no ACK, or zero. It is
 * known, changes and travels as the sequence offset does, SYN segments pass
 * as said above, and it is learned from the same segment, whose TSecr echoes
 * the PVM's SYN:
 *
 *     ts_offset = that TSecr - TSval of the first SYN this guest sent for it
 *
 * or 0 if it echoes one of this guest's own SYN segments: what it sent passes
 * as it is. A side that offers no timestamps, or answers without, has none.
 *
 * The error of that: let the SVM's SYN leave its guest d later than the PVM's
 * did, by the guests' clocks, which are in step. Then the SVM's translated
 * clock is d behind the PVM's; d is the lag of emission, milliseconds. If the
 * PVM's SYN was repeated and the echo is that of the repetition, it is ahead
 * by the time between the two. A TSval may jump ahead; but while it is the SVM
 * such a guest takes a round trip, if measured by timestamps, for as much
 * longer. Pairing with its last SYN instead could leave it as much behind.
 *
 * A segment that would leave with a TSval before the last TSecr that came in
 * is one the peer drops for sure. If it is less than COLO_REWRITE_TS_BEHIND
 * behind, the offset is raised, so that the TSval is that TSecr. This holds
 * whatever the clock's rate is, as no time is measured; and never lowers it.
 * A peer that lies in its TSecr hurts the connection it has, and no other.
 *
 * A server that sends data before the client has acknowledged its SYN-ACK
 * (TCP Fast Open, RFC 7413) and repeats that SYN-ACK after a commit can make
 * the SVM learn a wrong offset. What the SVM then emits differs from the PVM,
 * and the checkpoint this causes puts it right.
 *
 * Thread: an instance is used by one thread at a time, the caller locks.
 * A detached ColoRewriteTable belongs to whoever holds it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_REWRITE_H
#define NET_COLO_REWRITE_H

#include "packet.h"

typedef struct ColoRewrite ColoRewrite;
/* A validated translation table that is not in force. */
typedef struct ColoRewriteTable ColoRewriteTable;

typedef enum ColoRewriteMode {
    COLO_REWRITE_WIRE,      /* PVM, sole survivor, or COLO is not in use */
    COLO_REWRITE_LEARN,     /* SVM */
} ColoRewriteMode;

typedef enum ColoRewriteVerdict {
    COLO_REWRITE_UNCHANGED, /* pass the frame on, it is what it was */
    COLO_REWRITE_CHANGED,   /* pass it on, it was changed in place */
    /*
     * From the guest: drop the frame; it is in no known numbering. In mode
     * LEARN ask for a checkpoint too (reason tcp), which gives the SVM the
     * PVM's numbers. Towards the guest, mode WIRE only: drop the frame; the
     * guest would reset a connection that is half open for it.
     */
    COLO_REWRITE_UNKNOWN,
    /*
     * From the guest, mode LEARN only: pass the frame on, but its connection
     * has no room in the table: ask for a checkpoint (reason overflow).
     */
    COLO_REWRITE_OVERFLOW,
} ColoRewriteVerdict;

/* Connections a table holds unless told otherwise. */
#define COLO_REWRITE_CONNS_DEFAULT 131072

/* How much a TSval is corrected at most, in ticks of the guest (often ms). */
#define COLO_REWRITE_TS_BEHIND 1000

/* A rewriter in mode WIRE with an empty table for @max_conns connections. */
ColoRewrite *colo_rewrite_new(unsigned max_conns);
void colo_rewrite_free(ColoRewrite *rw);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoRewrite, colo_rewrite_free)

/* The table stays: at failover an SVM just becomes COLO_REWRITE_WIRE. */
void colo_rewrite_set_mode(ColoRewrite *rw, ColoRewriteMode mode);

/*
 * Translate a frame the guest emits (_out) or is about to receive (_in), in
 * place. @frame, of @len bytes, starts with a virtio-net header of @vnet_len
 * bytes. Frames that aren't TCP or don't parse are UNCHANGED. Checksums are
 * kept right, partial ones too. @now_ms is any monotonic clock.
 */
ColoRewriteVerdict colo_rewrite_out(ColoRewrite *rw, uint8_t *frame,
                                    size_t len, size_t vnet_len,
                                    int64_t now_ms);
ColoRewriteVerdict colo_rewrite_in(ColoRewrite *rw, uint8_t *frame,
                                   size_t len, size_t vnet_len,
                                   int64_t now_ms);

/*
 * True if colo_rewrite_out() and _in() would leave every frame as it is and
 * learn nothing: the caller then need not copy frames to writable memory.
 */
bool colo_rewrite_idle(const ColoRewrite *rw);

/*
 * Forget connections that have been closed (RST, or FIN from both sides) and
 * silent for twice the maximum segment lifetime (RFC 9293, 3.6.1: 240 s).
 * Call it every few seconds; cheap.
 */
void colo_rewrite_tick(ColoRewrite *rw, int64_t now_ms);

/* Connections in the table. */
unsigned colo_rewrite_count(const ColoRewrite *rw);

/*
 * Append the table to @out, in network byte order and self-contained: its
 * length follows from its content. Entries that equal absence are omitted:
 * those where both offsets are known to be 0.
 *
 * It is a header and the entries. The header: magic "CORW", version (2) and
 * number of entries, 4 bytes each. An entry:
 *
 *     bytes  content
 *      0-15  the guest's address; IPv4: 4 bytes, then zeroes
 *     16-31  the peer's address, likewise
 *     32-35  the guest's port, the peer's port, 2 bytes each
 *     36-39  VLAN identifiers, outermost first, 2 bytes each; 0xffff: none
 *        40  IP version, 4 or 6
 *        41  flags: 1 offsets are known, 2 opened by the guest, 4 closed by
 *            the guest, 8 closed by the peer, 16 reset, 32 the guest's SYN
 *            has timestamps
 *     42-43  zero
 *     44-47  sequence offset; 0 unless known
 *     48-51  initial sequence number of the guest
 *     52-55  the first sequence number of a client; else 0
 *     56-59  ts_offset; 0 unless known and the guest's SYN has timestamps
 *     60-63  TSval of the guest's first SYN; 0 without timestamps
 *     64-67  TSval of its last; 0 without timestamps
 *
 * There are no two entries with the same address, ports and VLANs, and none
 * that would be omitted.
 */
void colo_rewrite_save(ColoRewrite *rw, GByteArray *out);

/*
 * Validate the @len bytes at @buf, which another host's colo_rewrite_save()
 * made and which are not trusted. All of them must be used up. At most
 * @max_conns connections. Returns a table that belongs to the caller, or NULL
 * with @errp set. No context needed; nothing else is changed.
 */
ColoRewriteTable *colo_rewrite_load(const uint8_t *buf, size_t len,
                                    unsigned max_conns, Error **errp);
void colo_rewrite_table_free(ColoRewriteTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoRewriteTable, colo_rewrite_table_free)

/*
 * Put @table (NULL: an empty one) in force in place of the present table, and
 * take ownership of it. Can't fail. The mode stays.
 */
void colo_rewrite_commit(ColoRewrite *rw, ColoRewriteTable *table);

#endif
