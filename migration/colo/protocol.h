/*
 * COLO checkpoint protocol: the state machines of both sides
 *
 * Which message may be sent and received when, in what order epochs come,
 * what a lost peer means, and who may survive. docs/interop/colo-protocol.rst
 * has the tables. No sockets, threads or timers: the caller moves messages,
 * and reports what happens as events. A limit on waiting is the caller's,
 * who reports the end of its patience as the loss of the peer.
 *
 * The states say what has been agreed with the peer; every call returns at
 * once. A machine has no lock: the caller serialises all calls on one. Fields
 * are to be read by anyone who does, and written by this file only.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_PROTOCOL_H
#define MIGRATION_COLO_PROTOCOL_H

#include "wire.h"

typedef enum ColoPrimaryState {
    COLO_P_INIT,            /* waiting for the secondary's HELLO */
    COLO_P_GREETED,         /* it fits; our HELLO is to be sent */
    COLO_P_WAIT_READY,      /* waiting for READY */
    COLO_P_READY,           /* nothing committed yet; BEGIN may be sent */
    COLO_P_RUNNING,         /* checkpoint @committed is committed */
    COLO_P_SENDING,         /* checkpoint @epoch is on its way */
    COLO_P_WAIT_COMMIT,     /* COMMIT is sent, waiting for COMMITTED */
    COLO_P_ENDING,          /* END is sent, waiting for STOPPED */
    COLO_P_LOST,            /* no peer; survivor not decided: hold output */
    COLO_P_TAKING_OVER,     /* decided for us; waiting for STOPPED */
    COLO_P_STOPPED,         /* final: the peer goes on, we must not run */
    COLO_P_ENDED,           /* final: the sole survivor, unprotected */
    COLO_P__MAX,
} ColoPrimaryState;

typedef enum ColoSecondaryState {
    COLO_S_INIT,            /* our HELLO is to be sent */
    COLO_S_GREETED,         /* waiting for the primary's HELLO */
    COLO_S_SETUP,           /* it fits; READY is to be sent when set up */
    COLO_S_READY,           /* nothing committed yet, the SVM does not run */
    COLO_S_RUNNING,         /* the SVM runs epoch @committed */
    COLO_S_RECEIVING,       /* and checkpoint @epoch is being staged */
    COLO_S_COMMITTING,      /* @epoch is complete: only forward from here */
    COLO_S_LOST,            /* no peer; survivor not decided */
    COLO_S_TAKING_OVER,     /* decided for us; waiting for STOPPED */
    COLO_S_STOPPED,         /* final: must not run */
    COLO_S_ENDED,           /* final: the sole survivor, unprotected */
    COLO_S__MAX,
} ColoSecondaryState;

/* What of one checkpoint has been sent or received. */
typedef struct ColoProgress {
    ColoTotals totals;
    uint32_t syncs;         /* SYNC messages */
    bool device;            /* DEVICE is there */
    bool proxy;             /* PROXY is there */
    bool unsynced;          /* multifd pages, and no SYNC after them */
} ColoProgress;

/* What the two HELLOs agree on. */
typedef struct ColoAgreed {
    uint16_t version;
    uint64_t features;      /* COLO_FEATURE_* in use */
    bool same_host;         /* monotonic clocks of the sides are the same */
} ColoAgreed;

typedef struct ColoPrimary {
    ColoPrimaryState state;
    ColoHello local;
    ColoRamList *ram;       /* as in @local.ram, with counts of @epoch */
    ColoAgreed agreed;      /* from COLO_P_GREETED on */
    uint64_t base;          /* epochs begin at base + 1 */
    uint64_t committed;     /* last checkpoint known to be committed */
    uint64_t offered;       /* last COMMIT sent: the secondary may be there */
    uint64_t epoch;         /* in SENDING and WAIT_COMMIT: committed + 1 */
    ColoProgress progress;  /* of @epoch */
    bool link;              /* no peer_lost() yet */
    uint32_t owed;          /* 1 << type of messages that are to be sent */
} ColoPrimary;

typedef struct ColoSecondary {
    ColoSecondaryState state;
    ColoHello local;
    ColoRamList *ram;       /* the primary's, from COLO_S_SETUP on */
    ColoAgreed agreed;      /* from COLO_S_SETUP on */
    uint64_t base;          /* from COLO_S_SETUP on */
    uint64_t committed;     /* last checkpoint applied, base if none was */
    uint64_t epoch;         /* RECEIVING and COMMITTING: committed + 1 */
    uint32_t commit_flags;  /* COLO_COMMIT_F_* of @epoch in COMMITTING */
    ColoProgress progress;  /* of @epoch */
    bool link;
    bool lost_pending;      /* peer lost or failed in COMMITTING */
    bool failover_pending;  /* failover asked for in COMMITTING */
    uint32_t owed;
} ColoSecondary;

const char *colo_primary_state_name(ColoPrimaryState state);
const char *colo_secondary_state_name(ColoSecondaryState state);

/*
 * Compare the HELLOs of both sides: pick the highest common version, and
 * check page size, RAM and features. On failure the error says what differs,
 * on which side, and what to do.
 */
bool colo_hello_agree(const ColoHello *local, const ColoHello *peer,
                      ColoAgreed *agreed, Error **errp);

/*
 * A primary that has sent the initial migration; its first checkpoint will
 * be @base + 1. @local is copied and has a RAM list.
 */
void colo_primary_init(ColoPrimary *p, const ColoHello *local, uint64_t base);
void colo_primary_destroy(ColoPrimary *p);

/*
 * May a message with header @h come now? To be called before its payload is
 * read. Changes nothing: if this, colo_header_decode() or colo_msg_decode()
 * fails, the caller reports it by colo_primary_failed().
 */
bool colo_primary_expects(const ColoPrimary *p, const ColoHeader *h,
                          Error **errp);

/*
 * Take a decoded message. In LOST, STOPPED and ENDED what still arrives is
 * ignored, if it does not matter. A REQUEST changes no state. False: the
 * message breaks the protocol; this was treated as colo_primary_failed().
 */
bool colo_primary_recv(ColoPrimary *p, const ColoMsg *msg, Error **errp);

/* May a message of @type be sent now? */
bool colo_primary_may_send(const ColoPrimary *p, ColoMsgType type);

/* The epoch that the header of a message of @type has if it is sent now. */
uint64_t colo_primary_epoch_of(const ColoPrimary *p, ColoMsgType type);

/*
 * @msg is about to be sent: check and count it, and change state. To be
 * called before the first byte goes out. If it fails nothing changes and the
 * message must not be sent; this is an error of the caller, not the peer.
 */
bool colo_primary_send(ColoPrimary *p, const ColoMsg *msg, Error **errp);

/* Pages of @epoch sent by multifd, for the totals. SENDING only. */
void colo_primary_add_pages(ColoPrimary *p, uint64_t pages,
                            uint64_t zero_pages);

/*
 * The link is broken, or the peer is silent for too long. ENDED if the
 * secondary can't have committed anything or if the decision is made, else
 * LOST.
 */
void colo_primary_peer_lost(ColoPrimary *p);

/*
 * Something failed here or the peer broke the protocol. As
 * colo_primary_peer_lost(), but the link still is there: ERROR may be sent
 * once, END or TAKEOVER as well, and STOPPED or TAKEOVER be received.
 */
void colo_primary_failed(ColoPrimary *p);

/*
 * Management or the arbiter decided that this side survives. TAKING_OVER if
 * there is a link, and TAKEOVER is to be sent; else ENDED. Fails in STOPPED.
 * No effect in TAKING_OVER and ENDED.
 */
bool colo_primary_failover(ColoPrimary *p, Error **errp);

/* May output that the PVM emitted in @epoch leave with no comparison? */
bool colo_primary_may_release(const ColoPrimary *p, uint64_t epoch);

/* Sole survivor? */
bool colo_primary_survives(const ColoPrimary *p);

/*
 * A secondary that has loaded the initial migration. @local is copied and
 * has a RAM list.
 */
void colo_secondary_init(ColoSecondary *s, const ColoHello *local);
void colo_secondary_destroy(ColoSecondary *s);

/* As the primary's; a failed recv is treated as colo_secondary_failed(). */
bool colo_secondary_expects(const ColoSecondary *s, const ColoHeader *h,
                            Error **errp);
bool colo_secondary_recv(ColoSecondary *s, const ColoMsg *msg, Error **errp);
bool colo_secondary_may_send(const ColoSecondary *s, ColoMsgType type);
uint64_t colo_secondary_epoch_of(const ColoSecondary *s, ColoMsgType type);
bool colo_secondary_send(ColoSecondary *s, const ColoMsg *msg, Error **errp);

/* Pages of @epoch received by multifd, for the totals. RECEIVING only. */
void colo_secondary_add_pages(ColoSecondary *s, uint64_t pages,
                              uint64_t zero_pages);

/*
 * The link is broken, or the peer is silent for too long. LOST if there is a
 * committed checkpoint to survive with, else STOPPED. In COMMITTING this
 * takes effect once the checkpoint is applied.
 */
void colo_secondary_peer_lost(ColoSecondary *s);

/*
 * Something failed here (staging memory, device state that does not
 * validate), or the peer broke the protocol. As colo_secondary_peer_lost(),
 * but with the link: ERROR may be sent once, END or TAKEOVER be received.
 */
void colo_secondary_failed(ColoSecondary *s);

/*
 * Checkpoint @epoch is applied as a whole, in COMMITTING. RUNNING, and
 * COMMITTED is to be sent; or what was put off until now. No effect in other
 * states: the primary may have stopped this side in the meantime.
 */
void colo_secondary_commit_applied(ColoSecondary *s);

/*
 * It could not be applied as a whole, in COMMITTING: STOPPED, for good.
 * STOPPED is to be sent. No effect in other states.
 */
void colo_secondary_commit_failed(ColoSecondary *s);

/* Quit: STOPPED, and STOPPED is to be sent. No effect in a final state. */
void colo_secondary_stop(ColoSecondary *s);

/*
 * Management or the arbiter decided that this side survives. In COMMITTING
 * this is remembered and done once the checkpoint is applied. Else
 * TAKING_OVER if there is a link, and TAKEOVER is to be sent; else ENDED.
 * Fails, and changes nothing, in STOPPED and while nothing is committed. No
 * effect in TAKING_OVER and ENDED.
 */
bool colo_secondary_failover(ColoSecondary *s, Error **errp);

/* Is there a whole checkpoint to go on from, right now? */
bool colo_secondary_may_fail_over(const ColoSecondary *s);

/*
 * Must what is staged and not applied be thrown away? True in every state in
 * which no checkpoint is being received or applied.
 */
bool colo_secondary_discards_staging(const ColoSecondary *s);

/* Sole survivor? */
bool colo_secondary_survives(const ColoSecondary *s);

#endif
