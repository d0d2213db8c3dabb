/*
 * COLO proxy: the state of one TCP connection in the comparison
 *
 * Invariant 1 of the design, for TCP. All sequence numbers are the wire's,
 * but for those of the SVM's SYN segments; all comparisons of them are serial
 * number arithmetic, so a wrap needs no care.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "tcp.h"

/* The flags of a SYN that take part in negotiating a connection. */
#define SYN_FLAGS (COLO_TCP_FIN | COLO_TCP_SYN | COLO_TCP_RST | \
                   COLO_TCP_ACK | COLO_TCP_ECE | COLO_TCP_CWR)

/* Data in a SYN (RFC 7413) that only one side may have accepted, at most. */
#define SYN_DATA_MAX 65535

/* No window is larger (RFC 7323), so nothing older is sent again. */
#define WINDOW_MAX (1 << 30)

/* A window smaller than this may stall the peer until its persist timer. */
#define STALL_BYTES 4096

#define RING_MIN 256

static uint32_t payload_len(const ColoPacket *pkt)
{
    return pkt->end - pkt->payload;
}

/* ---- the SVM's bytes ---- */

static uint32_t ring_end(const ColoTcp *t)
{
    return t->start + t->ring_used;
}

static void ring_free(ColoTcp *t)
{
    g_free(t->ring);
    t->ring = NULL;
    t->ring_size = t->ring_head = t->ring_used = 0;
}

static void ring_copy_out(const ColoTcp *t, uint8_t *to)
{
    uint32_t first = MIN(t->ring_used, t->ring_size - t->ring_head);

    memcpy(to, t->ring + t->ring_head, first);
    memcpy(to + first, t->ring, t->ring_used - first);
}

static void ring_reserve(ColoTcp *t, uint32_t len)
{
    uint32_t size = pow2ceil(MAX(t->ring_used + len, RING_MIN));
    uint8_t *ring;

    if (size <= t->ring_size) {
        return;
    }
    ring = g_malloc(size);
    if (t->ring_used) {
        ring_copy_out(t, ring);
    }
    g_free(t->ring);
    t->ring = ring;
    t->ring_size = size;
    t->ring_head = 0;
}

static void ring_append(ColoTcp *t, const uint8_t *data, uint32_t len)
{
    uint32_t at, first;

    ring_reserve(t, len);
    at = (t->ring_head + t->ring_used) & (t->ring_size - 1);
    first = MIN(len, t->ring_size - at);
    memcpy(t->ring + at, data, first);
    memcpy(t->ring, data + first, len - first);
    t->ring_used += len;
}

/* True if @len bytes from number @seq on, all in the ring, equal @data. */
static bool ring_equal(const ColoTcp *t, uint32_t seq, const uint8_t *data,
                       uint32_t len)
{
    uint32_t at = (t->ring_head + (seq - t->start)) & (t->ring_size - 1);
    uint32_t first = MIN(len, t->ring_size - at);

    return !memcmp(t->ring + at, data, first) &&
           !memcmp(t->ring, data + first, len - first);
}

/* Forget the bytes before @seq. */
static void ring_drop(ColoTcp *t, uint32_t seq)
{
    int32_t n = colo_seq_diff(seq, t->start);

    if (!t->ring_used || n <= 0) {
        return;
    }
    n = MIN(n, t->ring_used);
    t->ring_head = (t->ring_head + n) & (t->ring_size - 1);
    t->ring_used -= n;
    t->start += n;
}

/* ---- small sets ---- */

static bool sack_covers(const ColoTcpSacks *set, ColoSack sack)
{
    unsigned i;

    for (i = 0; i < set->nr; i++) {
        if (colo_seq_diff(sack.left, set->block[i].left) >= 0 &&
            colo_seq_diff(sack.right, set->block[i].right) <= 0) {
            return true;
        }
    }
    return false;
}

static void sack_add(ColoTcpSacks *set, ColoSack sack)
{
    unsigned i;

    for (i = 0; i < set->nr; i++) {
        ColoSack *old = &set->block[i];

        if (colo_seq_diff(sack.left, old->right) <= 0 &&
            colo_seq_diff(old->left, sack.right) <= 0) {
            if (colo_seq_diff(sack.left, old->left) < 0) {
                old->left = sack.left;
            }
            old->right = colo_seq_max(old->right, sack.right);
            return;
        }
    }
    if (set->nr < COLO_TCP_SACKS) {
        set->block[set->nr++] = sack;
    } else {
        set->block[set->next] = sack;
        set->next = (set->next + 1) % COLO_TCP_SACKS;
    }
}

static void add_sacks(ColoTcp *t, const ColoPacket *pkt, bool svm)
{
    unsigned i;

    if (!pkt->nr_sacks) {
        return;
    }
    if (!t->sacks) {
        t->sacks = g_malloc0(sizeof(*t->sacks));
    }
    for (i = 0; i < pkt->nr_sacks; i++) {
        sack_add(svm ? &t->sacks->svm : &t->sacks->pvm,
                 colo_packet_sack(pkt, i));
    }
}

static void raise_to(bool *known, uint32_t *max, uint32_t val)
{
    *max = *known ? colo_seq_max(*max, val) : val;
    *known = true;
}

static uint32_t window_edge(const ColoTcp *t, const ColoPacket *pkt)
{
    return pkt->ack + ((uint32_t)pkt->win << t->scale);
}

/* ---- SYN ---- */

static ColoTcpSyn *syn_new(const ColoPacket *pkt)
{
    ColoTcpSyn *syn = g_malloc(sizeof(*syn) + payload_len(pkt));

    syn->isn = pkt->seq;
    syn->ack = pkt->ack;
    syn->flags = pkt->tcp_flags & SYN_FLAGS;
    syn->options_len = colo_packet_syn_options(pkt, syn->options);
    syn->payload_len = payload_len(pkt);
    memcpy(syn->payload, pkt->buf + pkt->payload, syn->payload_len);
    return syn;
}

static bool syn_equal(const ColoTcpSyn *syn, const ColoPacket *pkt)
{
    uint8_t options[COLO_TCP_OPTIONS_MAX];

    return syn->flags == (pkt->tcp_flags & SYN_FLAGS) &&
           syn->options_len == colo_packet_syn_options(pkt, options) &&
           !memcmp(syn->options, options, syn->options_len) &&
           syn->payload_len == payload_len(pkt) &&
           !memcmp(syn->payload, pkt->buf + pkt->payload, syn->payload_len);
}

static bool is_syn_again(const ColoTcp *t, const ColoPacket *pkt)
{
    return t->isn_known && t->isn == pkt->seq;
}

/*
 * The guest's scale is in force if its peer offered one too: known to be so
 * in a SYN-ACK, and no matter where the guest offers none.
 */
static void set_scale(ColoTcp *t, const ColoPacket *pkt)
{
    t->scale = pkt->has_wscale ? pkt->wscale : 0;
    t->scale_known = (pkt->tcp_flags & COLO_TCP_ACK) || !pkt->has_wscale;
}

/*
 * The SYN @pkt leaves and begins a new connection under these addresses and
 * ports. A SYN the SVM is ahead with stays.
 */
static void begin(ColoTcp *t, const ColoPacket *pkt)
{
    ColoTcpSyn *svm_syn = g_steal_pointer(&t->svm_syn);

    colo_tcp_clear(t);
    t->svm_syn = svm_syn;
    t->syn = syn_new(pkt);
    t->isn = pkt->seq;
    t->isn_known = true;
    t->passed = pkt->seq + colo_packet_tcp_len(pkt);
    t->known = t->fresh = true;
    if (pkt->tcp_flags & COLO_TCP_ACK) {
        raise_to(&t->pvm_ack_known, &t->pvm_ack, pkt->ack);
    }
    set_scale(t, pkt);
}

/*
 * The first segment behind a SYN has the next number, or the one before. If
 * not, the SYN was in another numbering: that of a former secondary whose
 * rewriter did not know the connection's offset yet. Then there is no floor.
 */
static bool is_renumbered(const ColoTcp *t, const ColoPacket *pkt)
{
    return t->fresh && pkt->seq != t->passed && pkt->seq + 1 != t->passed;
}

static void settle_numbering(ColoTcp *t, const ColoPacket *pkt)
{
    if (is_renumbered(t, pkt)) {
        t->known = t->isn_known = false;
    }
    t->fresh = false;
}

/* ---- may it leave? ---- */

static bool ack_limit(const ColoTcp *t, uint32_t *limit)
{
    if (t->ack_known && t->svm_ack_known) {
        *limit = colo_seq_max(t->floor_ack, t->svm_ack);
    } else {
        *limit = t->ack_known ? t->floor_ack : t->svm_ack;
    }
    return t->ack_known || t->svm_ack_known;
}

static bool ack_allowed(const ColoTcp *t, const ColoPacket *pkt)
{
    uint32_t limit;

    return !(pkt->tcp_flags & COLO_TCP_ACK) ||
           (ack_limit(t, &limit) && colo_seq_diff(pkt->ack, limit) <= 0);
}

static ColoTcpVerdict check_syn(const ColoTcp *t, const ColoPacket *pkt)
{
    const ColoTcpSyn *syn = t->svm_syn;

    if (pkt->tcp_flags & (COLO_TCP_RST | COLO_TCP_FIN)) {
        return COLO_TCP_DIVERGED;   /* no stack does: let a commit decide */
    }
    if (is_syn_again(t, pkt)) {
        if (!t->syn || !syn_equal(t->syn, pkt)) {
            return COLO_TCP_DIVERGED;
        }
        return ack_allowed(t, pkt) ? COLO_TCP_PASS : COLO_TCP_WAIT;
    }
    if (!syn) {
        return COLO_TCP_WAIT;
    }
    if (!syn_equal(syn, pkt)) {
        return COLO_TCP_DIVERGED;
    }
    if (pkt->tcp_flags & COLO_TCP_ACK) {
        uint32_t less = syn->ack - pkt->ack;

        return less <= SYN_DATA_MAX ? COLO_TCP_PASS : COLO_TCP_WAIT;
    }
    return COLO_TCP_PASS;
}

static ColoTcpRst *find_rst(const ColoTcp *t, const ColoPacket *pkt)
{
    bool has_ack = pkt->tcp_flags & COLO_TCP_ACK;
    unsigned i;

    for (i = 0; i < t->nr_rsts; i++) {
        const ColoTcpRst *rst = &t->rst[i];

        if (rst->seq == pkt->seq && rst->has_ack == has_ack &&
            (!has_ack || rst->ack == pkt->ack || ack_allowed(t, pkt))) {
            return (ColoTcpRst *)rst;
        }
    }
    return NULL;
}

static ColoTcpVerdict check_rst(const ColoTcp *t, const ColoPacket *pkt)
{
    if (payload_len(pkt) || (pkt->tcp_flags & COLO_TCP_FIN)) {
        return COLO_TCP_DIVERGED;
    }
    return find_rst(t, pkt) ? COLO_TCP_PASS : COLO_TCP_WAIT;
}

/* Bytes [@seq, @end), of which the first is at @data, and none has left. */
static ColoTcpVerdict check_new_bytes(const ColoTcp *t, uint32_t seq,
                                      uint32_t end, const uint8_t *data)
{
    uint32_t have = ring_end(t);

    if (t->ring_used && colo_seq_diff(seq, t->start) >= 0 &&
        colo_seq_diff(seq, have) < 0) {
        uint32_t n = MIN(end - seq, have - seq);

        if (!ring_equal(t, seq, data, n)) {
            return COLO_TCP_DIVERGED;
        }
        seq += n;
    }
    if (seq == end) {
        return COLO_TCP_PASS;
    }
    /* The SVM's stream has ended where the PVM's goes on. */
    if (t->svm_fin_known && colo_seq_diff(end, t->svm_fin) > 0) {
        return COLO_TCP_DIVERGED;
    }
    return COLO_TCP_WAIT;
}

static ColoTcpVerdict check_fin(const ColoTcp *t, uint32_t fin, bool known)
{
    if (known && colo_seq_diff(t->passed, fin) > 0) {
        return COLO_TCP_PASS;
    }
    if (t->svm_fin_known) {
        return t->svm_fin == fin ? COLO_TCP_PASS : COLO_TCP_DIVERGED;
    }
    if (t->ring_used && colo_seq_diff(ring_end(t), fin) > 0) {
        return COLO_TCP_DIVERGED;   /* the SVM's stream goes on */
    }
    return COLO_TCP_WAIT;
}

static ColoTcpVerdict check_stream(const ColoTcp *t, const ColoPacket *pkt)
{
    uint32_t len = payload_len(pkt);
    uint32_t skip = 0;
    bool known = t->known && !is_renumbered(t, pkt);
    ColoTcpVerdict verdict = COLO_TCP_PASS;

    if (known && colo_packet_tcp_len(pkt)) {
        int32_t left = colo_seq_diff(t->passed, pkt->seq);

        if (left < 0 || left > WINDOW_MAX) {
            return COLO_TCP_WAIT;   /* something before it was not seen */
        }
        skip = MIN(left, len);
    }
    if (skip < len) {
        verdict = check_new_bytes(t, pkt->seq + skip, pkt->seq + len,
                                  pkt->buf + pkt->payload + skip);
    }
    if (verdict == COLO_TCP_PASS && (pkt->tcp_flags & COLO_TCP_FIN)) {
        verdict = check_fin(t, pkt->seq + len, known);
    }
    return verdict;
}

/* The window up to which both guests take data, behind @ack: at most @win. */
static uint16_t common_window(const ColoTcp *t, uint32_t ack, uint16_t win)
{
    uint32_t limit;
    int32_t room;

    if (!t->scale_known || !(t->edge_known || t->svm_edge_known)) {
        return win;
    }
    if (t->edge_known && t->svm_edge_known) {
        limit = colo_seq_max(t->floor_edge, t->svm_edge);
    } else {
        limit = t->edge_known ? t->floor_edge : t->svm_edge;
    }
    room = MAX(colo_seq_diff(limit, ack), 0);
    return MIN(room >> t->scale, win);
}

static bool may_stall(const ColoTcp *t, uint16_t win)
{
    return (uint32_t)win << t->scale < STALL_BYTES;
}

static void check_window(const ColoTcp *t, const ColoPacket *pkt,
                         ColoTcpChange *change)
{
    change->win = common_window(t, change->lower_ack ? change->ack : pkt->ack,
                                pkt->win);
    change->clamp_win = change->win != pkt->win;
}

static void check_sacks(const ColoTcp *t, const ColoPacket *pkt,
                        uint32_t limit, ColoTcpChange *change)
{
    unsigned i;

    for (i = 0; i < pkt->nr_sacks; i++) {
        ColoSack sack = colo_packet_sack(pkt, i);

        if (colo_seq_diff(sack.right, limit) <= 0 ||
            (t->sacks && (sack_covers(&t->sacks->floor, sack) ||
                          sack_covers(&t->sacks->svm, sack)))) {
            change->keep_sacks |= 1u << i;
        } else {
            change->strip_sacks = true;
        }
    }
}

static ColoTcpVerdict check_ack(const ColoTcp *t, const ColoPacket *pkt,
                                ColoTcpChange *change)
{
    uint32_t limit;

    if (!(pkt->tcp_flags & COLO_TCP_ACK)) {
        return COLO_TCP_PASS;
    }
    if (!ack_limit(t, &limit)) {
        return COLO_TCP_WAIT;
    }
    if (colo_seq_diff(pkt->ack, limit) > 0) {
        if (!colo_packet_tcp_len(pkt)) {
            return COLO_TCP_WAIT;
        }
        change->lower_ack = true;
        change->ack = limit;
    }
    check_window(t, pkt, change);
    check_sacks(t, pkt, limit, change);
    return COLO_TCP_PASS;
}

ColoTcpVerdict colo_tcp_check(const ColoTcp *t, const ColoPacket *pkt,
                              ColoTcpChange *change)
{
    ColoTcpVerdict verdict;

    memset(change, 0, sizeof(*change));
    if (pkt->tcp_flags & COLO_TCP_SYN) {
        return check_syn(t, pkt);
    }
    if (pkt->tcp_flags & COLO_TCP_RST) {
        return check_rst(t, pkt);
    }
    verdict = check_stream(t, pkt);
    if (verdict == COLO_TCP_PASS) {
        verdict = check_ack(t, pkt, change);
    }
    return verdict;
}

/* ---- it leaves ---- */

/* What @pkt shows of the PVM's receiving side. */
static void fold_ack(ColoTcp *t, const ColoPacket *pkt)
{
    if (!(pkt->tcp_flags & COLO_TCP_ACK)) {
        return;
    }
    raise_to(&t->pvm_ack_known, &t->pvm_ack, pkt->ack);
    if (!(pkt->tcp_flags & COLO_TCP_SYN)) {
        raise_to(&t->pvm_edge_known, &t->pvm_edge, window_edge(t, pkt));
    }
    add_sacks(t, pkt, false);
    if (t->owed && colo_seq_diff(pkt->ack, t->owed->ack) >= 0) {
        g_clear_pointer(&t->owed, g_free);
    }
}

static void advance(ColoTcp *t, uint32_t end)
{
    raise_to(&t->known, &t->passed, end);
    ring_drop(t, t->passed);
}

/* Remember what @pkt, which leaves with @change, would have told the peer. */
static void owe_ack(ColoTcp *t, const ColoPacket *pkt,
                    const ColoTcpChange *change)
{
    size_t size = pkt->payload + 12;
    ColoTcpOwed *owed = g_malloc(sizeof(*owed) + size);

    owed->ack = pkt->ack;
    owed->win = pkt->win;
    owed->window_only = !change->lower_ack;
    owed->vnet_len = pkt->eth;
    owed->len = colo_packet_make_ack(pkt, pkt->seq + colo_packet_tcp_len(pkt),
                                     pkt->ack, pkt->win, owed->frame, size);
    g_free(t->owed);
    t->owed = owed;
}

static void svm_syn_left(ColoTcp *t, const ColoPacket *pkt)
{
    ColoTcpSyn *syn = g_steal_pointer(&t->svm_syn);

    begin(t, pkt);
    t->svm_isn = syn->isn;
    t->svm_isn_known = true;
    if (syn->flags & COLO_TCP_ACK) {
        raise_to(&t->svm_ack_known, &t->svm_ack, syn->ack);
    }
    g_free(syn);
}

void colo_tcp_left(ColoTcp *t, const ColoPacket *pkt,
                   const ColoTcpChange *change)
{
    if (pkt->tcp_flags & COLO_TCP_SYN) {
        if (!is_syn_again(t, pkt)) {
            svm_syn_left(t, pkt);
        }
        return;
    }
    if (pkt->tcp_flags & COLO_TCP_RST) {
        find_rst(t, pkt)->matched = true;
        return;
    }
    settle_numbering(t, pkt);
    fold_ack(t, pkt);
    if (change->lower_ack ||
        (change->clamp_win && may_stall(t, change->win))) {
        owe_ack(t, pkt, change);
    }
    if (colo_packet_tcp_len(pkt)) {
        advance(t, pkt->seq + colo_packet_tcp_len(pkt));
    }
}

void colo_tcp_note(ColoTcp *t, const ColoPacket *pkt)
{
    if (pkt->tcp_flags & COLO_TCP_RST) {
        return;
    }
    if (!(pkt->tcp_flags & COLO_TCP_SYN)) {
        settle_numbering(t, pkt);
    } else if (!is_syn_again(t, pkt)) {
        begin(t, pkt);
    }
    fold_ack(t, pkt);
    t->ack_known = t->pvm_ack_known;
    t->floor_ack = t->pvm_ack;
    t->edge_known = t->pvm_edge_known;
    t->floor_edge = t->pvm_edge;
    if (t->sacks) {
        t->sacks->floor = t->sacks->pvm;
    }
    /* A bare ACK too: all before its number has been emitted. */
    advance(t, pkt->seq + colo_packet_tcp_len(pkt));
}

ColoTcpOwed *colo_tcp_take_owed(ColoTcp *t, bool force)
{
    ColoTcpOwed *owed = t->owed;
    ColoPacket pkt;
    uint32_t limit;
    uint16_t win;

    if (!owed || !(force || (ack_limit(t, &limit) &&
                             colo_seq_diff(owed->ack, limit) <= 0))) {
        return NULL;
    }
    win = force ? owed->win : common_window(t, owed->ack, owed->win);
    if (owed->window_only && win != owed->win && may_stall(t, win)) {
        return NULL;
    }
    t->owed = NULL;
    colo_packet_parse(&pkt, owed->frame, owed->len, owed->vnet_len);
    if (pkt.has_tcp) {
        colo_packet_set_seq(&pkt, owed->frame, t->passed);
        colo_packet_set_win(&pkt, owed->frame, win);
    }
    return owed;
}

/* ---- the SVM ---- */

static void svm_syn(ColoTcp *t, const ColoPacket *pkt)
{
    bool again = t->svm_isn_known ? t->svm_isn == pkt->seq :
                                    is_syn_again(t, pkt);

    if (again) {
        if (pkt->tcp_flags & COLO_TCP_ACK) {
            raise_to(&t->svm_ack_known, &t->svm_ack, pkt->ack);
        }
    } else if (!t->svm_syn || t->svm_syn->isn != pkt->seq) {
        g_free(t->svm_syn);
        t->svm_syn = syn_new(pkt);
    }
}

static void svm_rst(ColoTcp *t, const ColoPacket *pkt)
{
    bool has_ack = pkt->tcp_flags & COLO_TCP_ACK;
    unsigned i;

    for (i = 0; i < t->nr_rsts; i++) {
        const ColoTcpRst *rst = &t->rst[i];

        if (rst->seq == pkt->seq && rst->has_ack == has_ack &&
            (!has_ack || rst->ack == pkt->ack)) {
            return;
        }
    }
    if (t->nr_rsts < COLO_TCP_RSTS) {
        i = t->nr_rsts++;
    } else {
        i = t->next_rst;
        t->next_rst = (i + 1) % COLO_TCP_RSTS;
    }
    t->rst[i] = (ColoTcpRst) {
        .seq = pkt->seq, .ack = pkt->ack, .has_ack = has_ack,
    };
}

/* Keep those bytes that continue what the SVM has emitted. */
static bool svm_bytes(ColoTcp *t, const ColoPacket *pkt, size_t room)
{
    uint32_t len = payload_len(pkt);
    uint32_t seq = pkt->seq;
    int32_t skip;

    if (t->ring_used) {
        skip = colo_seq_diff(ring_end(t), seq);
        if (skip < 0) {
            return true;    /* a hole before it: can't be used */
        }
    } else {
        skip = t->known && !is_renumbered(t, pkt) ?
               MAX(colo_seq_diff(t->passed, seq), 0) : 0;
    }
    if (skip >= len) {
        return true;
    }
    if (len - skip > room) {
        return false;
    }
    if (!t->ring_used) {
        t->start = seq + skip;
    }
    ring_append(t, pkt->buf + pkt->payload + skip, len - skip);
    return true;
}

bool colo_tcp_svm(ColoTcp *t, const ColoPacket *pkt, size_t room)
{
    if (pkt->tcp_flags & COLO_TCP_SYN) {
        svm_syn(t, pkt);
        return true;
    }
    if (pkt->tcp_flags & COLO_TCP_RST) {
        svm_rst(t, pkt);
        return true;
    }
    if (pkt->tcp_flags & COLO_TCP_ACK) {
        raise_to(&t->svm_ack_known, &t->svm_ack, pkt->ack);
        raise_to(&t->svm_edge_known, &t->svm_edge, window_edge(t, pkt));
        add_sacks(t, pkt, true);
    }
    if (!svm_bytes(t, pkt, room)) {
        return false;
    }
    if (pkt->tcp_flags & COLO_TCP_FIN) {
        t->svm_fin = pkt->seq + payload_len(pkt);
        t->svm_fin_known = true;
    }
    return true;
}

bool colo_tcp_svm_waits(const ColoTcp *t)
{
    unsigned i;

    for (i = 0; i < t->nr_rsts; i++) {
        if (!t->rst[i].matched) {
            return true;
        }
    }
    return t->ring_used || t->svm_syn ||
           (t->svm_fin_known &&
            !(t->known && colo_seq_diff(t->passed, t->svm_fin) > 0));
}

void colo_tcp_forget_svm(ColoTcp *t)
{
    ring_free(t);
    g_clear_pointer(&t->svm_syn, g_free);
    t->svm_ack_known = t->svm_edge_known = false;
    t->svm_fin_known = t->svm_isn_known = false;
    t->nr_rsts = t->next_rst = 0;
    if (t->sacks) {
        t->sacks->svm.nr = t->sacks->svm.next = 0;
    }
}

void colo_tcp_commit(ColoTcp *t)
{
    colo_tcp_forget_svm(t);
    t->ack_known = t->pvm_ack_known;
    t->floor_ack = t->pvm_ack;
    t->edge_known = t->pvm_edge_known;
    t->floor_edge = t->pvm_edge;
    if (t->sacks) {
        t->sacks->floor = t->sacks->pvm;
    }
}

void colo_tcp_clear(ColoTcp *t)
{
    ring_free(t);
    g_free(t->syn);
    g_free(t->svm_syn);
    g_free(t->owed);
    g_free(t->sacks);
    memset(t, 0, sizeof(*t));
}
