/*
 * COLO proxy: the comparison
 *
 * Queues, epochs, modes, limits and time; what a TCP segment needs is decided
 * in tcp.c. One rule is worth knowing when reading: a packet leaves through
 * let_go() and nowhere else, and its callers are the cases of invariant 1:
 * try_pass() is (a), commit_older() and the older epoch in
 * colo_compare_pvm() are (b), colo_compare_release_all() and mode OPEN (c).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "compare.h"
#include "conn.h"
#include "tcp.h"

/* How many of the oldest flows are looked at to find an idle one. */
#define EVICT_TRIES 16

/* Datagrams in fragments whose identifications are remembered, per flow. */
#define FRAG_PAIRS 16

typedef struct Flow Flow;

/* A packet that is kept. */
typedef struct Held {
    QTAILQ_ENTRY(Held) all;     /* ColoCompare::held or ::early */
    QTAILQ_ENTRY(Held) next;    /* Flow::pvm or ::svm */
    Flow *flow;                 /* NULL: there was no room for one */
    uint64_t epoch;
    int64_t since;              /* ms */
    ColoPacket pkt;             /* points to @data */
    uint8_t data[];
} Held;

typedef QTAILQ_HEAD(HeldQueue, Held) HeldQueue;

/* IP identifications of one datagram, as the two guests chose them. */
typedef struct FragPair {
    uint32_t pvm;
    uint32_t svm;
} FragPair;

typedef struct FragPairs {
    FragPair pair[FRAG_PAIRS];
    unsigned nr;
    unsigned next;              /* to be overwritten when full */
} FragPairs;

struct Flow {
    ColoConn conn;
    HeldQueue pvm;              /* waiting for their like, or a commit */
    HeldQueue svm;              /* not TCP: waiting for the PVM's like */
    unsigned nr_pvm;
    unsigned nr_svm;
    size_t pvm_bytes;
    size_t svm_bytes;           /* in @svm and in the TCP stream */
    int64_t svm_since;          /* ms: no progress since, if @svm_waits */
    bool svm_waits;             /* on ColoCompare::waiting */
    bool active;                /* on ColoCompare::active */
    bool blocked;               /* only a commit helps */
    QTAILQ_ENTRY(Flow) waiting_entry;
    QTAILQ_ENTRY(Flow) active_entry;
    ColoTcp tcp;
    FragPairs *frags;
};

struct ColoCompare {
    const ColoCompareOps *ops;
    void *opaque;
    ColoCompareLimits limits;
    ColoCompareMode mode;
    ColoConnTable *flows;
    HeldQueue held;             /* of the PVM, in the order they came in */
    HeldQueue early;            /* of the SVM, of epochs to come */
    QTAILQ_HEAD(, Flow) active; /* anything happened in this epoch */
    QTAILQ_HEAD(, Flow) waiting; /* SVM ahead of the PVM; longest first */
    uint64_t epoch;             /* the committed one, if @have_epoch */
    bool have_epoch;
    bool comparing;             /* the SVM's packets of @epoch are all here */
    bool asked;                 /* for a checkpoint, in this epoch */
    bool capturing;             /* captured and not yet committed */
    bool early_lost;            /* no room for a packet of an epoch to come */
    bool overflowed;            /* a limit of the PVM's side was reached */
    bool flows_full;            /* packets of the PVM are held without flow */
    int64_t now;                /* ms */
    int64_t epoch_start;        /* ms */
    int64_t last_scan;          /* ms */
    ColoCompareStats stats;
};

/* ---- asking for checkpoints ---- */

static void ask(ColoCompare *c, ColoCheckpointReason reason)
{
    c->stats.divergences[reason]++;
    if (c->asked || c->capturing ||
        (c->mode != COLO_COMPARE_COMPARE && c->mode != COLO_COMPARE_HOLD)) {
        return;
    }
    c->asked = true;
    c->stats.checkpoints++;
    c->ops->checkpoint(c->opaque, reason);
}

/* ---- kept packets ---- */

static Held *held_new(const ColoPacket *pkt, uint64_t epoch, int64_t now)
{
    Held *held = g_malloc(sizeof(*held) + pkt->len);

    held->flow = NULL;
    held->epoch = epoch;
    held->since = now;
    held->pkt = *pkt;
    held->pkt.buf = held->data;
    memcpy(held->data, pkt->buf, pkt->len);
    return held;
}

/* What a packet counts against the limits: its memory. */
static size_t held_size(const ColoPacket *pkt)
{
    return sizeof(Held) + pkt->len;
}

static void unhold(ColoCompare *c, Held *held)
{
    Flow *flow = held->flow;

    QTAILQ_REMOVE(&c->held, held, all);
    c->stats.held_packets--;
    c->stats.held_bytes -= held_size(&held->pkt);
    if (flow) {
        QTAILQ_REMOVE(&flow->pvm, held, next);
        flow->nr_pvm--;
        flow->pvm_bytes -= held_size(&held->pkt);
    }
}

static void svm_unqueue(ColoCompare *c, Flow *flow, Held *held)
{
    QTAILQ_REMOVE(&flow->svm, held, next);
    flow->nr_svm--;
    flow->svm_bytes -= held_size(&held->pkt);
    c->stats.svm_bytes -= held_size(&held->pkt);
    g_free(held);
}

static void let_go(ColoCompare *c, const ColoPacket *pkt)
{
    c->ops->release(c->opaque, pkt->buf, pkt->len, pkt->eth);
}

/* ---- flows ---- */

static void set_waiting(ColoCompare *c, Flow *flow, bool waits)
{
    if (flow->svm_waits) {
        QTAILQ_REMOVE(&c->waiting, flow, waiting_entry);
    }
    flow->svm_waits = waits;
    if (waits) {
        flow->svm_since = c->now;
        QTAILQ_INSERT_TAIL(&c->waiting, flow, waiting_entry);
    }
}

/* The TCP stream's share of the SVM's bytes has changed. */
static void account_stream(ColoCompare *c, Flow *flow)
{
    if (flow->conn.key.kind == COLO_PACKET_TCP) {
        c->stats.svm_bytes += flow->tcp.ring_used - flow->svm_bytes;
        flow->svm_bytes = flow->tcp.ring_used;
    }
}

/* Forget what the SVM has emitted. */
static void forget_svm(ColoCompare *c, Flow *flow)
{
    Held *held;

    while ((held = QTAILQ_FIRST(&flow->svm))) {
        svm_unqueue(c, flow, held);
    }
    colo_tcp_forget_svm(&flow->tcp);
    account_stream(c, flow);
    g_clear_pointer(&flow->frags, g_free);
    set_waiting(c, flow, false);
}

static void flow_destroy(ColoConn *conn, void *opaque)
{
    Flow *flow = container_of(conn, Flow, conn);
    ColoCompare *c = opaque;
    Held *held;

    QTAILQ_FOREACH(held, &flow->pvm, next) {
        held->flow = NULL;
    }
    forget_svm(c, flow);
    colo_tcp_clear(&flow->tcp);
    if (flow->active) {
        QTAILQ_REMOVE(&c->active, flow, active_entry);
    }
}

static bool flow_idle(const Flow *flow)
{
    return !flow->nr_pvm && !flow->svm_waits && !flow->blocked &&
           !flow->tcp.owed;
}

static void evict(ColoCompare *c)
{
    ColoConn *conn = colo_conn_oldest(c->flows);
    unsigned i;

    for (i = 0; conn && i < EVICT_TRIES; i++) {
        if (flow_idle(container_of(conn, Flow, conn))) {
            colo_conn_remove(c->flows, conn);
            return;
        }
        conn = colo_conn_newer(conn);
    }
}

/* The flow of @pkt, NULL: there is no room. */
static Flow *get_flow(ColoCompare *c, const ColoPacket *pkt)
{
    ColoConnKey key;
    ColoConn *conn;
    Flow *flow;

    colo_conn_key(&key, pkt, true);
    conn = colo_conn_lookup(c->flows, &key);
    if (!conn) {
        if (colo_conn_count(c->flows) >= c->limits.max_conns) {
            evict(c);
        }
        /*
         * A packet that is held without a flow must not be overtaken by a
         * later one that gets a flow.
         */
        if (c->flows_full ||
            colo_conn_count(c->flows) >= c->limits.max_conns) {
            return NULL;
        }
        conn = colo_conn_add(c->flows, &key);
        flow = container_of(conn, Flow, conn);
        QTAILQ_INIT(&flow->pvm);
        QTAILQ_INIT(&flow->svm);
    }
    flow = container_of(conn, Flow, conn);
    if (!flow->active) {
        flow->active = true;
        QTAILQ_INSERT_TAIL(&c->active, flow, active_entry);
    }
    return flow;
}

static bool is_tcp(const ColoPacket *pkt)
{
    return pkt->kind == COLO_PACKET_TCP;
}

static ColoCheckpointReason reason_of(const ColoPacket *pkt)
{
    switch (pkt->kind) {
    case COLO_PACKET_TCP:
        return COLO_CHECKPOINT_REASON_TCP;
    case COLO_PACKET_UDP:
        return COLO_CHECKPOINT_REASON_UDP;
    case COLO_PACKET_ICMP:
    case COLO_PACKET_ICMP6:
        return COLO_CHECKPOINT_REASON_ICMP;
    default:
        return COLO_CHECKPOINT_REASON_OTHER;
    }
}

static void block(ColoCompare *c, Flow *flow, ColoCheckpointReason reason)
{
    flow->blocked = true;
    forget_svm(c, flow);
    ask(c, reason);
}

/* ---- datagrams ---- */

/* Fragments: do these two belong to the same datagram on both sides? */
static bool frags_fit(Flow *flow, uint32_t pvm, uint32_t svm)
{
    FragPairs *frags = flow->frags;
    unsigned i;

    if (!frags) {
        frags = flow->frags = g_new0(FragPairs, 1);
    }
    for (i = 0; i < frags->nr; i++) {
        if (frags->pair[i].pvm == pvm || frags->pair[i].svm == svm) {
            return frags->pair[i].pvm == pvm && frags->pair[i].svm == svm;
        }
    }
    if (frags->nr < FRAG_PAIRS) {
        i = frags->nr++;
    } else {
        i = frags->next;
        frags->next = (i + 1) % FRAG_PAIRS;
    }
    frags->pair[i] = (FragPair) { pvm, svm };
    return true;
}

static bool same_datagram(Flow *flow, const ColoPacket *pvm,
                          const ColoPacket *svm)
{
    return colo_packet_equal(pvm, svm) &&
           (pvm->kind != COLO_PACKET_FRAGMENT ||
            frags_fit(flow, pvm->frag_id, svm->frag_id));
}

/*
 * Repeated at will, and on timers that are random in part: how often either
 * guest has sent it means nothing.
 */
static bool is_repeatable(const ColoPacket *pkt)
{
    uint8_t type;

    switch (pkt->kind) {
    case COLO_PACKET_ARP:
        return true;
    case COLO_PACKET_ICMP6:
        /* MLD (RFC 2710, 3810) and neighbour discovery (RFC 4861). */
        type = pkt->buf[pkt->l4];
        return (type >= 130 && type <= 137) || type == 143;
    case COLO_PACKET_IP:
        return pkt->ip_version == 4 && pkt->ip_proto == IPPROTO_IGMP;
    default:
        return false;
    }
}

static bool svm_has_sent(const Flow *flow, const ColoPacket *pkt)
{
    Held *held;

    QTAILQ_FOREACH(held, &flow->svm, next) {
        if (colo_packet_equal(&held->pkt, pkt)) {
            return true;
        }
    }
    return false;
}

/* ---- the PVM's packets against what the SVM emitted ---- */

static void let_go_changed(ColoCompare *c, const ColoPacket *pkt,
                           const ColoTcpChange *change)
{
    g_autofree uint8_t *buf = g_memdup2(pkt->buf, pkt->len);
    ColoPacket changed = *pkt;

    changed.buf = buf;
    if (change->lower_ack) {
        colo_packet_set_ack(&changed, buf, change->ack);
        c->stats.acks_lowered++;
    }
    if (change->clamp_win) {
        colo_packet_set_win(&changed, buf, change->win);
        c->stats.windows_clamped++;
    }
    if (change->strip_sacks) {
        colo_packet_keep_sacks(&changed, buf, change->keep_sacks);
        c->stats.sacks_stripped++;
    }
    let_go(c, &changed);
}

static bool try_tcp(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    ColoTcpChange change;

    switch (colo_tcp_check(&flow->tcp, pkt, &change)) {
    case COLO_TCP_WAIT:
        return false;
    case COLO_TCP_DIVERGED:
        block(c, flow, COLO_CHECKPOINT_REASON_TCP);
        return false;
    case COLO_TCP_PASS:
        break;
    }
    colo_tcp_left(&flow->tcp, pkt, &change);
    account_stream(c, flow);
    if (change.lower_ack || change.clamp_win || change.strip_sacks) {
        let_go_changed(c, pkt, &change);
    } else {
        let_go(c, pkt);
    }
    return true;
}

static bool try_repeatable(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    if (svm_has_sent(flow, pkt)) {
        let_go(c, pkt);
        return true;
    }
    if (flow->nr_svm) {
        block(c, flow, reason_of(pkt));
    }
    return false;
}

static bool try_datagram(ColoCompare *c, Flow *flow, const ColoPacket *pkt,
                         const ColoPacket *svm)
{
    if (!svm) {
        return false;
    }
    if (!same_datagram(flow, pkt, svm)) {
        block(c, flow, reason_of(pkt));
        return false;
    }
    let_go(c, pkt);
    return true;
}

/*
 * @pkt is the next one of @flow and of the running epoch: let it go if it
 * may. @svm is what the SVM has just emitted, NULL: look in the queue.
 */
static bool try_pass(ColoCompare *c, Flow *flow, const ColoPacket *pkt,
                     const ColoPacket *svm)
{
    Held *queued = QTAILQ_FIRST(&flow->svm);
    bool passed;

    if (flow->blocked) {
        return false;
    }
    if (is_tcp(pkt)) {
        passed = try_tcp(c, flow, pkt);
    } else if (is_repeatable(pkt)) {
        passed = try_repeatable(c, flow, pkt);
    } else {
        if (!svm && queued) {
            svm = &queued->pkt;
        } else {
            queued = NULL;
        }
        passed = try_datagram(c, flow, pkt, svm);
        if (passed && queued) {
            svm_unqueue(c, flow, queued);
        }
    }
    c->stats.matched += passed;
    return passed;
}

static void pay_owed(ColoCompare *c, Flow *flow, bool force)
{
    g_autofree ColoTcpOwed *owed = colo_tcp_take_owed(&flow->tcp, force);

    if (owed) {
        c->stats.acks_made++;
        c->ops->release(c->opaque, owed->frame, owed->len, owed->vnet_len);
    }
}

/* Something has changed for @flow; @progress: a packet has left. */
static void settle(ColoCompare *c, Flow *flow, bool progress)
{
    Held *first = QTAILQ_FIRST(&flow->svm);
    bool waits = !flow->blocked &&
                 ((first && !is_repeatable(&first->pkt)) ||
                  colo_tcp_svm_waits(&flow->tcp));

    pay_owed(c, flow, false);
    if (progress || waits != flow->svm_waits) {
        set_waiting(c, flow, waits);
    }
}

static Held *next_to_compare(ColoCompare *c, Flow *flow)
{
    Held *held = QTAILQ_FIRST(&flow->pvm);

    return c->comparing && held && held->epoch == c->epoch ? held : NULL;
}

/* Let go what may of @flow's held packets. */
static void drain(ColoCompare *c, Flow *flow)
{
    bool progress = false;
    Held *held;

    while ((held = next_to_compare(c, flow)) &&
           try_pass(c, flow, &held->pkt, NULL)) {
        unhold(c, held);
        g_free(held);
        progress = true;
    }
    settle(c, flow, progress);
}

/* ---- packets come in ---- */

static bool over_limits(const ColoCompare *c, const Flow *flow)
{
    return c->stats.held_bytes > c->limits.max_bytes ||
           (flow && (flow->nr_pvm > c->limits.max_queue_size ||
                     flow->pvm_bytes > c->limits.max_conn_bytes));
}

/* What @pkt shows of its connection is the floor. */
static void note(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    if (flow && is_tcp(pkt)) {
        colo_tcp_note(&flow->tcp, pkt);
        account_stream(c, flow);
    }
}

static void drop_oldest(ColoCompare *c)
{
    Held *held;

    while (c->stats.held_bytes > c->limits.max_bytes &&
           (held = QTAILQ_FIRST(&c->held))) {
        Flow *flow = held->flow;

        unhold(c, held);
        /* Emitted it was, and what follows on the connection builds on it. */
        note(c, flow, &held->pkt);
        g_free(held);
        c->stats.dropped++;
    }
}

static void attach(Flow *flow, Held *held)
{
    held->flow = flow;
    QTAILQ_INSERT_TAIL(&flow->pvm, held, next);
    flow->nr_pvm++;
    flow->pvm_bytes += held_size(&held->pkt);
}

static void hold(ColoCompare *c, Flow *flow, const ColoPacket *pkt,
                 uint64_t epoch)
{
    Held *held = held_new(pkt, epoch, c->now);

    QTAILQ_INSERT_TAIL(&c->held, held, all);
    c->stats.held_packets++;
    c->stats.held_bytes += held_size(pkt);
    if (flow) {
        attach(flow, held);
    }
    c->flows_full |= !flow;
    if (c->mode == COLO_COMPARE_LOST) {
        drop_oldest(c);
    } else if (!flow || over_limits(c, flow)) {
        c->overflowed = true;
        ask(c, COLO_CHECKPOINT_REASON_OVERFLOW);
    }
}

/* @pkt leaves whatever the SVM has emitted; it is part of the floor. */
static void let_go_noted(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    note(c, flow, pkt);
    let_go(c, pkt);
}

static void pvm_protected(ColoCompare *c, const ColoPacket *pkt,
                          uint64_t epoch)
{
    Flow *flow = get_flow(c, pkt);

    if (c->have_epoch && epoch < c->epoch) {
        let_go_noted(c, flow, pkt);
        c->stats.committed++;
        if (flow) {
            drain(c, flow);
        }
        return;
    }
    if (flow && c->comparing && epoch == c->epoch &&
        QTAILQ_EMPTY(&flow->pvm) && try_pass(c, flow, pkt, NULL)) {
        settle(c, flow, true);
        return;
    }
    hold(c, flow, pkt, epoch);
}

void colo_compare_pvm(ColoCompare *c, const uint8_t *frame, size_t len,
                      size_t vnet_len, uint64_t epoch, int64_t now_ms)
{
    ColoPacket pkt;

    c->now = now_ms;
    c->stats.pvm_packets++;
    colo_packet_parse(&pkt, frame, len, vnet_len);
    switch (c->mode) {
    case COLO_COMPARE_OPEN:
        let_go_noted(c, is_tcp(&pkt) ? get_flow(c, &pkt) : NULL, &pkt);
        c->stats.open++;
        break;
    case COLO_COMPARE_COMPARE:
    case COLO_COMPARE_HOLD:
        pvm_protected(c, &pkt, epoch);
        break;
    case COLO_COMPARE_LOST:
        hold(c, get_flow(c, &pkt), &pkt, epoch);
        break;
    case COLO_COMPARE_CLOSED:
        c->stats.dropped++;
        break;
    }
}

static size_t svm_room(const ColoCompare *c, const Flow *flow)
{
    size_t all = c->limits.max_bytes;
    size_t conn = c->limits.max_conn_bytes;

    all -= MIN(all, c->stats.svm_bytes);
    conn -= MIN(conn, flow->svm_bytes);
    return MIN(all, conn);
}

static void svm_overflow(ColoCompare *c, Flow *flow)
{
    c->stats.svm_ignored++;
    block(c, flow, COLO_CHECKPOINT_REASON_OVERFLOW);
}

static void svm_tcp(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    if (colo_tcp_svm(&flow->tcp, pkt, svm_room(c, flow))) {
        account_stream(c, flow);
        drain(c, flow);
    } else {
        svm_overflow(c, flow);
    }
}

/* Keep @pkt for the PVM's like. False: there was no room. */
static bool svm_queue(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    Held *held;

    if (flow->nr_svm >= c->limits.max_queue_size ||
        held_size(pkt) > svm_room(c, flow)) {
        svm_overflow(c, flow);
        return false;
    }
    held = held_new(pkt, c->epoch, c->now);
    QTAILQ_INSERT_TAIL(&flow->svm, held, next);
    flow->nr_svm++;
    flow->svm_bytes += held_size(pkt);
    c->stats.svm_bytes += held_size(pkt);
    return true;
}

static void svm_repeatable(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    if (svm_has_sent(flow, pkt) || svm_queue(c, flow, pkt)) {
        drain(c, flow);
    }
}

static void svm_datagram(ColoCompare *c, Flow *flow, const ColoPacket *pkt)
{
    Held *held = next_to_compare(c, flow);

    if (held && !flow->nr_svm) {
        if (try_pass(c, flow, &held->pkt, pkt)) {
            unhold(c, held);
            g_free(held);
        }
        settle(c, flow, true);
        return;
    }
    if (svm_queue(c, flow, pkt)) {
        settle(c, flow, false);
    }
}

/* @pkt of the SVM belongs to the running epoch. */
static void svm_running(ColoCompare *c, const ColoPacket *pkt)
{
    Flow *flow = c->comparing ? get_flow(c, pkt) : NULL;

    if (!flow) {
        c->stats.svm_ignored++;
        if (c->comparing) {
            ask(c, COLO_CHECKPOINT_REASON_OVERFLOW);
        }
    } else if (flow->blocked) {
        c->stats.svm_ignored++;
    } else if (is_tcp(pkt)) {
        svm_tcp(c, flow, pkt);
    } else if (is_repeatable(pkt)) {
        svm_repeatable(c, flow, pkt);
    } else {
        svm_datagram(c, flow, pkt);
    }
}

static void svm_early(ColoCompare *c, const ColoPacket *pkt, uint64_t epoch)
{
    Held *held;

    if (c->stats.svm_bytes + held_size(pkt) > c->limits.max_bytes) {
        c->early_lost = true;
        c->stats.svm_ignored++;
        return;
    }
    held = held_new(pkt, epoch, c->now);
    QTAILQ_INSERT_TAIL(&c->early, held, all);
    c->stats.svm_bytes += held_size(pkt);
}

void colo_compare_svm(ColoCompare *c, const uint8_t *frame, size_t len,
                      size_t vnet_len, uint64_t epoch, int64_t now_ms)
{
    ColoPacket pkt;

    c->now = now_ms;
    c->stats.svm_packets++;
    if (c->mode != COLO_COMPARE_COMPARE ||
        (c->have_epoch && epoch < c->epoch)) {
        c->stats.svm_ignored++;
        return;
    }
    colo_packet_parse(&pkt, frame, len, vnet_len);
    if (c->have_epoch && epoch == c->epoch) {
        svm_running(c, &pkt);
    } else {
        svm_early(c, &pkt, epoch);
    }
}

/* ---- epochs ---- */

void colo_compare_capture(ColoCompare *c, uint64_t epoch)
{
    if (!c->have_epoch || epoch > c->epoch) {
        c->capturing = true;
    }
}

void colo_compare_abort(ColoCompare *c)
{
    c->asked = c->capturing = false;
}

/* Everything of epochs before @epoch leaves, in order. */
static void commit_older(ColoCompare *c, uint64_t epoch)
{
    Held *held;

    while ((held = QTAILQ_FIRST(&c->held)) && held->epoch < epoch) {
        Flow *flow = held->flow;

        unhold(c, held);
        let_go_noted(c, flow, &held->pkt);
        c->stats.committed++;
        g_free(held);
    }
}

/* What the PVM has emitted on @flow is its floor now. */
static void flow_commit(ColoCompare *c, Flow *flow)
{
    pay_owed(c, flow, true);
    forget_svm(c, flow);
    colo_tcp_commit(&flow->tcp);
    flow->blocked = false;
    if (!flow->nr_pvm) {
        QTAILQ_REMOVE(&c->active, flow, active_entry);
        flow->active = false;
    }
}

static void take_early(ColoCompare *c)
{
    Held *held, *next;

    QTAILQ_FOREACH_SAFE(held, &c->early, all, next) {
        if (held->epoch > c->epoch) {
            continue;
        }
        QTAILQ_REMOVE(&c->early, held, all);
        c->stats.svm_bytes -= held_size(&held->pkt);
        if (held->epoch == c->epoch) {
            svm_running(c, &held->pkt);
        } else {
            c->stats.svm_ignored++;
        }
        g_free(held);
    }
}

static void free_early(ColoCompare *c)
{
    Held *held;

    while ((held = QTAILQ_FIRST(&c->early))) {
        QTAILQ_REMOVE(&c->early, held, all);
        c->stats.svm_bytes -= held_size(&held->pkt);
        g_free(held);
    }
    c->early_lost = false;
}

/* Find flows for packets that are held without one. */
static void attach_all(ColoCompare *c)
{
    Held *held;

    c->flows_full = false;
    QTAILQ_FOREACH(held, &c->held, all) {
        if (!held->flow) {
            Flow *flow = get_flow(c, &held->pkt);

            if (flow) {
                attach(flow, held);
            }
            c->flows_full |= !flow;
        }
    }
    c->overflowed |= c->flows_full;
}

/* Compare what is held of the epoch that has just been committed. */
static void start_epoch(ColoCompare *c)
{
    Flow *flow, *next;

    attach_all(c);
    QTAILQ_FOREACH_SAFE(flow, &c->active, active_entry, next) {
        drain(c, flow);
    }
    take_early(c);
    QTAILQ_FOREACH(flow, &c->active, active_entry) {
        c->overflowed |= over_limits(c, flow);
    }
    if (c->overflowed || c->early_lost) {
        ask(c, COLO_CHECKPOINT_REASON_OVERFLOW);
    }
    c->early_lost = false;
}

void colo_compare_commit(ColoCompare *c, uint64_t epoch, int64_t now_ms)
{
    Flow *flow, *next;

    if ((c->mode != COLO_COMPARE_COMPARE && c->mode != COLO_COMPARE_HOLD) ||
        (c->have_epoch && epoch <= c->epoch)) {
        return;
    }
    c->now = now_ms;
    commit_older(c, epoch);
    QTAILQ_FOREACH_SAFE(flow, &c->active, active_entry, next) {
        flow_commit(c, flow);
    }
    c->epoch = epoch;
    c->have_epoch = true;
    c->epoch_start = now_ms;
    /* Where a packet of the SVM was lost nothing can be compared in order. */
    c->comparing = c->mode == COLO_COMPARE_COMPARE && !c->early_lost;
    c->asked = c->capturing = false;
    c->overflowed = c->stats.held_bytes > c->limits.max_bytes;
    start_epoch(c);
}

void colo_compare_tick(ColoCompare *c, int64_t now_ms)
{
    Held *held = QTAILQ_FIRST(&c->held);
    Flow *flow = QTAILQ_FIRST(&c->waiting);
    int64_t timeout = c->limits.compare_timeout;

    c->now = now_ms;
    if (now_ms - c->last_scan < c->limits.expired_scan_cycle) {
        return;
    }
    c->last_scan = now_ms;
    if (!c->comparing || c->asked || c->capturing) {
        return;
    }
    /* One of an epoch to come just waits for its commit. */
    if ((held && held->epoch == c->epoch &&
         now_ms - MAX(held->since, c->epoch_start) >= timeout) ||
        (flow && now_ms - flow->svm_since >= timeout)) {
        ask(c, COLO_CHECKPOINT_REASON_TIMEOUT);
    }
}

bool colo_compare_full(const ColoCompare *c)
{
    return c->overflowed || c->stats.held_bytes > c->limits.max_bytes;
}

/* ---- modes ---- */

/* No SVM any more: forget all it has emitted. */
static void end_comparing(ColoCompare *c)
{
    Flow *flow, *next;

    c->comparing = false;
    free_early(c);
    QTAILQ_FOREACH_SAFE(flow, &c->active, active_entry, next) {
        forget_svm(c, flow);
    }
}

static void end_protection(ColoCompare *c, ColoCompareMode mode)
{
    Flow *flow, *next;

    end_comparing(c);
    QTAILQ_FOREACH_SAFE(flow, &c->active, active_entry, next) {
        g_clear_pointer(&flow->tcp.owed, g_free);
        flow->blocked = flow->active = false;
        QTAILQ_REMOVE(&c->active, flow, active_entry);
    }
    c->have_epoch = c->asked = c->capturing = false;
    c->overflowed = c->flows_full = false;
    c->mode = mode;
}

void colo_compare_set_mode(ColoCompare *c, ColoCompareMode mode)
{
    if (mode == c->mode) {
        return;
    }
    switch (mode) {
    case COLO_COMPARE_OPEN:
        colo_compare_release_all(c);
        break;
    case COLO_COMPARE_CLOSED:
        colo_compare_drop_all(c);
        break;
    case COLO_COMPARE_COMPARE:
        /* From HOLD: what the SVM emits is complete from a commit on only. */
        c->mode = mode;
        break;
    case COLO_COMPARE_HOLD:
    case COLO_COMPARE_LOST:
        end_comparing(c);
        c->mode = mode;
        break;
    }
}

ColoCompareMode colo_compare_mode(const ColoCompare *c)
{
    return c->mode;
}

void colo_compare_release_all(ColoCompare *c)
{
    Flow *flow;
    Held *held;

    while ((held = QTAILQ_FIRST(&c->held))) {
        flow = held->flow;
        unhold(c, held);
        let_go_noted(c, flow, &held->pkt);
        c->stats.open++;
        g_free(held);
    }
    QTAILQ_FOREACH(flow, &c->active, active_entry) {
        pay_owed(c, flow, true);
    }
    end_protection(c, COLO_COMPARE_OPEN);
}

void colo_compare_drop_all(ColoCompare *c)
{
    Held *held;

    while ((held = QTAILQ_FIRST(&c->held))) {
        unhold(c, held);
        g_free(held);
        c->stats.dropped++;
    }
    end_protection(c, COLO_COMPARE_CLOSED);
    colo_conn_clear(c->flows);
}

void colo_compare_take_all(ColoCompare *c, ColoCompareTake *take,
                           void *opaque)
{
    Held *held;

    while ((held = QTAILQ_FIRST(&c->held))) {
        unhold(c, held);
        take(opaque, held->data, held->pkt.len, held->pkt.eth, held->epoch);
        c->stats.taken++;
        g_free(held);
    }
}

/* ---- instances ---- */

#define LIMIT(field, dflt) \
    (c->limits.field = limits && limits->field ? limits->field : (dflt))

void colo_compare_set_limits(ColoCompare *c, const ColoCompareLimits *limits)
{
    LIMIT(max_conns, COLO_COMPARE_CONNS_DEFAULT);
    LIMIT(max_queue_size, COLO_COMPARE_QUEUE_DEFAULT);
    LIMIT(max_conn_bytes, COLO_COMPARE_CONN_BYTES_DEFAULT);
    LIMIT(max_bytes, COLO_COMPARE_BYTES_DEFAULT);
    LIMIT(compare_timeout, COLO_COMPARE_TIMEOUT_DEFAULT);
    LIMIT(expired_scan_cycle, COLO_COMPARE_CYCLE_DEFAULT);
}

ColoCompare *colo_compare_new(const ColoCompareOps *ops, void *opaque,
                              const ColoCompareLimits *limits)
{
    ColoCompare *c = g_new0(ColoCompare, 1);

    c->ops = ops;
    c->opaque = opaque;
    colo_compare_set_limits(c, limits);
    c->flows = colo_conn_table_new(sizeof(Flow), UINT_MAX, flow_destroy, c);
    QTAILQ_INIT(&c->held);
    QTAILQ_INIT(&c->early);
    QTAILQ_INIT(&c->active);
    QTAILQ_INIT(&c->waiting);
    return c;
}

void colo_compare_free(ColoCompare *c)
{
    if (c) {
        colo_compare_drop_all(c);
        colo_conn_table_free(c->flows);
        g_free(c);
    }
}

void colo_compare_stats(const ColoCompare *c, ColoCompareStats *stats)
{
    *stats = c->stats;
    stats->conns = colo_conn_count(c->flows);
}
