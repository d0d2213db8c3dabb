/*
 * COLO proxy: what its objects know of each other
 *
 * The objects of the proxy find each other through the netdev they filter.
 * All functions: BQL, unless they say otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_PROXY_INTERNAL_H
#define NET_COLO_PROXY_INTERNAL_H

#include "net/net.h"
#include "net/filter.h"

typedef enum ColoProxyRole {
    /* COLO is not active, or over with this side as the sole survivor */
    COLO_PROXY_OFF,
    COLO_PROXY_PRIMARY,
    COLO_PROXY_SECONDARY,
} ColoProxyRole;

typedef struct ColoProxyStatus {
    ColoProxyRole role;
    /* a capture (primary) or commit (secondary) was seen, the last of @epoch */
    bool has_epoch;
    uint64_t epoch;
    /* primary: the peer is lost, or has taken over */
    bool peer_lost;
} ColoProxyStatus;

/* Where COLO stands on this side. */
const ColoProxyStatus *colo_proxy_status(void);

/*
 * Begin and end to pass packets on to @nc that are allowed to leave: the hold
 * of @nc, if there is one, lets them through. Does not nest.
 */
void colo_proxy_release_begin(NetClientState *nc);
void colo_proxy_release_end(NetClientState *nc);

/*
 * A comparison was found to read what the redirectors of @netdev divert
 * (@attached), or has gone.
 */
void colo_proxy_attach(const char *netdev, bool attached);

/*
 * The events below are for the filters of one netdev. The proxy calls them
 * for every filter whose class is one of ours.
 */
#define TYPE_FILTER_MIRROR "filter-mirror"
#define TYPE_FILTER_REDIRECTOR "filter-redirector"
#define TYPE_FILTER_REWRITER "filter-rewriter"
#define TYPE_COLO_HOLD "colo-hold"

/* filter-mirror: what is mirrored from now on belongs to @epoch. */
void colo_mirror_capture(NetFilterState *nf, uint64_t epoch);

/*
 * filter-redirector on the primary: COLO starts, @epoch is captured, the
 * comparison that reads its outdev was found (@attached) or went away, COLO
 * ends.
 */
void colo_redirector_start(NetFilterState *nf, ColoProxyRole role);
void colo_redirector_capture(NetFilterState *nf, uint64_t epoch);
void colo_redirector_attach(NetFilterState *nf, bool attached);

/* filter-redirector on the secondary: @epoch is committed and runs. */
void colo_redirector_commit(NetFilterState *nf, uint64_t epoch);

/* filter-redirector: COLO ends. */
void colo_redirector_stop(NetFilterState *nf);

#endif
