/*
 * The COLO proxy's decision core on a simulated pair
 *
 * Two guests run the same service on a small TCP of their own, with initial
 * sequence numbers, timestamp offsets, segmentation and pace that differ.
 * Both ends discard what is too old by its timestamp (PAWS) and insist on
 * echoes of their own. Around them: mirror, rewriters, comparison, a network
 * that loses packets, and a peer with connections in both directions.
 * Checkpoints, deaths of the primary and of the secondary come at random.
 * Whatever happens, the peer must see its connections go on with the right
 * content and must never be acknowledged what the survivor does not have.
 *
 * Everything is driven by one generator, seeded by g_test: a failure is
 * repeated with --seed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "net/colo/compare.h"
#include "net/colo/rewrite.h"
#include "colo-frame.h"

#define A COLO_TCP_ACK
#define S COLO_TCP_SYN
#define F COLO_TCP_FIN
#define R COLO_TCP_RST

enum {
    BY_PEER = 6,            /* connections the peer opens, at a time */
    BY_GUEST = 3,           /* connections the guest opens, at a time */
    CONNS = BY_PEER + BY_GUEST,
    ROUNDS = 4,             /* each is opened as often, with the same ports */
    STREAM = 3000,          /* at most this many bytes each way */
    WINDOW = 1200,
    RTO = 60,               /* steps */
    TIMEOUT = 400,
    LAG_MAX = 5000,         /* steps between the two guests */
    STEPS_MAX = 300000,
};

typedef enum State {
    CLOSED, SYN_SENT, SYN_RCVD, OPEN,
} State;

/* One end of a connection. Plain data: a snapshot is a copy. */
typedef struct Tcb {
    State state;
    unsigned id;            /* names the content, with @round */
    unsigned round;
    uint32_t iss, una, nxt;
    uint32_t irs, rcv;
    uint32_t ts_offset;     /* of its clock, which runs a tick per step */
    uint32_t ts_opened;     /* when, by that clock */
    uint32_t ts_recent;     /* RFC 7323: the peer's clock, to be echoed */
    bool peer_fin, want_ack;
    int64_t timer;
} Tcb;

typedef struct Guest {
    Tcb tcb[CONNS];
} Guest;

typedef struct Host {
    Guest guest;
    ColoRewrite *rw;
    uint64_t epoch;
} Host;

/* A frame under way, of an epoch. */
typedef struct Packet {
    uint64_t epoch;
    size_t len;
    uint8_t data[];
} Packet;

typedef struct World {
    Host *p, *s;            /* primary; secondary, NULL: none */
    ColoCompare *c;
    Guest peer;             /* the other ends */
    GQueue to_peer, to_guest, mirror, to_compare;
    int64_t now;
    uint64_t epoch;         /* last captured */
    bool wanted;            /* a checkpoint was asked for */
    bool applied;           /* the secondary has it, the primary not yet */
    Guest captured;
    GByteArray *table;
    unsigned loss;          /* percent */
    bool tight;             /* the comparison has room for little */
    unsigned checkpoints, failovers, unknown, too_old;
} World;

static unsigned rnd(unsigned n)
{
    return g_test_rand_int_range(0, n);
}

/* ---- content ---- */

static bool opened_by_peer(unsigned id)
{
    return id < BY_PEER;
}

static uint8_t content(const Tcb *t, bool from_guest, uint32_t at)
{
    return at * 7 + (at >> 8) + t->id * 31 + t->round * 13 + from_guest;
}

static uint32_t stream_len(const Tcb *t, bool from_guest)
{
    return (t->id * 977 + t->round * 331 + from_guest * 1500) % STREAM;
}

/* The guest answers: until the end, no more than it has heard allows. */
static uint32_t may_say(const Tcb *t, bool is_guest)
{
    uint32_t heard = t->rcv - t->irs;

    return MIN(stream_len(t, is_guest),
               is_guest && !t->peer_fin ? 100 + heard : STREAM);
}

/* ---- a small TCP ---- */

static void push(GQueue *q, uint64_t epoch, const uint8_t *data, size_t len)
{
    Packet *p = g_malloc(sizeof(*p) + len);

    p->epoch = epoch;
    p->len = len;
    memcpy(p->data, data, len);
    g_queue_push_tail(q, p);
}

static uint32_t ts_clock(const World *w, const Tcb *t)
{
    return w->now + t->ts_offset;
}

/* RST goes without timestamps, as it often does. */
static unsigned put_options(const World *w, const Tcb *t, uint8_t flags,
                            uint8_t *out)
{
    static const uint8_t plain[12] = { 1, 1, 8, 10 };
    unsigned len = flags & S ? TEST_SYN_OPTIONS_LEN : sizeof(plain);
    uint8_t *stamps = out + (flags & S ? 8 : 4);

    if (flags & R) {
        return 0;
    }
    memcpy(out, flags & S ? (const uint8_t *)TEST_SYN_OPTIONS : plain, len);
    stl_be_p(stamps, ts_clock(w, t));
    stl_be_p(stamps + 4, flags & A ? t->ts_recent : 0);
    return len;
}

static void emit(World *w, Host *h, const Tcb *t, uint32_t seq,
                 uint8_t flags, const uint8_t *data, unsigned len)
{
    uint8_t frame[2048], options[40];
    TestFrame f = {
        .proto = 6, .reply = !h, .v6 = t->id & 1,
        .sport = opened_by_peer(t->id) ? 80 : 5000 + t->id,
        .dport = opened_by_peer(t->id) ? 4000 + t->id : 80,
        .seq = seq, .ack = flags & A ? t->rcv : 0, .flags = flags,
        .win = WINDOW, .payload = data, .payload_len = len,
    };
    size_t flen;

    f.options = options;
    f.options_len = put_options(w, t, flags, options);
    flen = test_frame(frame, &f);
    if (!h) {
        push(&w->to_guest, 0, frame, flen);
    } else if (colo_rewrite_out(h->rw, frame, flen, 0, w->now) >=
               COLO_REWRITE_UNKNOWN) {
        w->wanted = true;
        w->unknown++;
    } else if (h == w->p) {
        colo_compare_pvm(w->c, frame, flen, 0, h->epoch, w->now);
    } else {
        push(&w->to_compare, h->epoch, frame, flen);
    }
}

static bool all_acked(const Tcb *t, bool is_guest)
{
    return t->state == OPEN &&
           t->una - t->iss == stream_len(t, is_guest) + 2;
}

static bool finished(const Tcb *t, bool is_guest)
{
    return all_acked(t, is_guest) && t->peer_fin;
}

static void open_tcb(World *w, Tcb *t, State state)
{
    t->state = state;
    t->iss = g_test_rand_int();
    t->una = t->nxt = t->iss;
    t->ts_offset = g_test_rand_int();
    t->ts_opened = ts_clock(w, t);
    t->peer_fin = t->want_ack = false;
    t->timer = w->now - RTO;
}

static void send_stream(World *w, Host *h, Tcb *t, uint32_t from)
{
    uint32_t at = from - t->iss - 1;
    uint32_t end = stream_len(t, h);
    uint32_t can = may_say(t, h);
    uint32_t len = at < can ? MIN(can - at, 1 + rnd(500)) : 0;
    bool fin = at + len == end && can == end && (!len || rnd(2));
    uint8_t data[512];
    unsigned i;

    if (!len && !fin) {
        return;
    }
    for (i = 0; i < len; i++) {
        data[i] = content(t, h, at + i);
    }
    emit(w, h, t, from, A | (fin ? F : 0), data, len);
    from += len + fin;
    if (colo_seq_diff(from, t->nxt) > 0) {
        t->nxt = from;
    }
    t->want_ack = false;
}

static void send_syn(World *w, Host *h, Tcb *t)
{
    emit(w, h, t, t->iss, S | (t->state == SYN_RCVD ? A : 0), NULL, 0);
    t->nxt = t->iss + 1;
}

/* One connection has the chance to send something. */
static void poll_tcb(World *w, Host *h, Tcb *t)
{
    bool again = t->una != t->nxt && w->now - t->timer >= RTO;

    if (t->state == SYN_SENT || t->state == SYN_RCVD) {
        if (again || t->nxt == t->iss) {
            t->timer = w->now;
            send_syn(w, h, t);
        }
        return;
    }
    if (t->state != OPEN) {
        return;
    }
    if (again) {
        t->timer = w->now;
        send_stream(w, h, t, t->una);
    } else if (t->nxt - t->una < WINDOW && !all_acked(t, h) &&
               t->nxt - t->iss < stream_len(t, h) + 2) {
        if (t->una == t->nxt) {
            t->timer = w->now;
        }
        send_stream(w, h, t, t->nxt);
    }
    if (t->want_ack) {
        t->want_ack = false;
        emit(w, h, t, t->nxt, A, NULL, 0);
    }
}

static void take_ack(World *w, Tcb *t, const ColoPacket *pkt)
{
    /* Who is acknowledged what it never sent has lost something. */
    g_assert_cmpint(colo_seq_diff(pkt->ack, t->nxt), <=, 0);
    if (colo_seq_diff(pkt->ack, t->una) > 0) {
        t->una = pkt->ack;
        t->timer = w->now;
    }
}

static void take_data(Host *h, Tcb *t, const ColoPacket *pkt)
{
    const uint8_t *data = pkt->buf + pkt->payload;
    uint32_t len = pkt->end - pkt->payload;
    uint32_t i;

    if (!colo_packet_tcp_len(pkt)) {
        return;
    }
    t->want_ack = true;
    for (i = 0; i < len; i++) {
        if (pkt->seq + i == t->rcv && !t->peer_fin) {
            g_assert_cmpuint(data[i], ==,
                             content(t, !h, t->rcv - t->irs - 1));
            t->rcv++;
        }
    }
    if ((pkt->tcp_flags & F) && pkt->seq + len == t->rcv && !t->peer_fin) {
        g_assert_cmpuint(t->rcv - t->irs - 1, ==, stream_len(t, !h));
        t->peer_fin = true;
        t->rcv++;
    }
}

/* Of this connection's life until now, as Linux demands in SYN-SENT. */
static bool echo_is_mine(const World *w, const Tcb *t, const ColoPacket *pkt)
{
    return colo_packet_tsecr(pkt) - t->ts_opened <=
           ts_clock(w, t) - t->ts_opened;
}

/* PAWS, RFC 7323, section 5.3. */
static bool is_too_old(World *w, Tcb *t, const ColoPacket *pkt)
{
    if (colo_seq_diff(colo_packet_tsval(pkt), t->ts_recent) < 0) {
        t->want_ack = t->state == OPEN;
        w->too_old++;
        return true;
    }
    if (colo_seq_diff(pkt->seq, t->rcv) <= 0) {
        t->ts_recent = colo_packet_tsval(pkt);
    }
    return false;
}

/* What fits otherwise has a true echo, but for the lag between the guests. */
static void check_echo(const World *w, const Tcb *t, const ColoPacket *pkt)
{
    if (pkt->seq == t->rcv && pkt->ack - t->una <= t->nxt - t->una) {
        g_assert_cmpuint(colo_packet_tsecr(pkt) - t->ts_opened + LAG_MAX, <=,
                         ts_clock(w, t) - t->ts_opened + 2 * LAG_MAX);
    }
}

static void take_syn(World *w, Host *h, Tcb *t, const ColoPacket *pkt)
{
    bool fresh = t->state == CLOSED ||
                 (finished(t, h) && colo_seq_diff(pkt->seq, t->rcv) > 0);

    if (opened_by_peer(t->id) == !h) {
        /* This end is the one that opens. */
        if (t->state == SYN_SENT && (pkt->tcp_flags & A) &&
            pkt->ack == t->iss + 1 && echo_is_mine(w, t, pkt)) {
            t->ts_recent = colo_packet_tsval(pkt);
            t->irs = pkt->seq;
            t->rcv = pkt->seq + 1;
            t->una = pkt->ack;
            t->state = OPEN;
        } else if (t->state == SYN_SENT) {
            Tcb raw = { .id = t->id };

            emit(w, h, &raw, pkt->ack, R, NULL, 0);
            return;
        }
        t->want_ack = true;
    } else if (fresh) {
        t->round++;
        open_tcb(w, t, SYN_RCVD);
        t->ts_recent = colo_packet_tsval(pkt);
        t->irs = pkt->seq;
        t->rcv = pkt->seq + 1;
    } else if (t->state == SYN_RCVD && pkt->seq == t->irs) {
        t->timer = w->now - RTO;
    } else {
        t->want_ack = t->state == OPEN;
        if (t->state == SYN_RCVD) {
            emit(w, h, t, t->nxt, A, NULL, 0);
        }
    }
}

static void take_rst(Host *h, Tcb *t, const ColoPacket *pkt)
{
    if (pkt->seq != t->rcv) {
        return;
    }
    if (t->state == SYN_RCVD) {
        t->state = CLOSED;
        t->round--;
    } else if (t->peer_fin && t->nxt - t->iss == stream_len(t, h) + 2) {
        /*
         * The peer has gone on to the next connection, and the last ACK of
         * this one was lost, if only with a primary.
         */
        t->state = CLOSED;
    } else {
        g_assert_cmpint(t->state, !=, OPEN);
    }
}

static void take(World *w, Host *h, const uint8_t *frame, size_t len)
{
    Guest *g = h ? &h->guest : &w->peer;
    ColoPacket pkt;
    unsigned port;
    Tcb *t;

    g_assert_true(test_frame_csum_ok(frame, len, 0));
    colo_packet_parse(&pkt, frame, len, 0);
    g_assert_cmpint(pkt.kind, ==, COLO_PACKET_TCP);
    port = MAX(pkt.sport, pkt.dport);
    t = &g->tcb[port >= 5000 ? port - 5000 : port - 4000];
    if (pkt.tcp_flags & R) {
        take_rst(h, t, &pkt);
    } else if (pkt.tcp_flags & S) {
        take_syn(w, h, t, &pkt);
    } else if (t->state == SYN_SENT) {
        Tcb raw = { .id = t->id };

        emit(w, h, &raw, pkt.ack, R, NULL, 0);
    } else if (t->state == SYN_RCVD && pkt.ack != t->iss + 1) {
        Tcb raw = { .id = t->id };

        emit(w, h, &raw, pkt.ack, R, NULL, 0);
    } else if (t->state != CLOSED && !is_too_old(w, t, &pkt)) {
        check_echo(w, t, &pkt);
        t->state = OPEN;
        take_ack(w, t, &pkt);
        take_data(h, t, &pkt);
    }
}

/* ---- the opening ends ---- */

static void poll_open(World *w, Host *h, Tcb *t)
{
    Guest *other = h ? &w->peer : &w->p->guest;

    if (opened_by_peer(t->id) != !h || t->round == ROUNDS) {
        return;
    }
    /*
     * The guest's are opened in step with its input: when the peer's
     * connection of the same number has got somewhere.
     */
    if (t->state == CLOSED || (finished(t, h) &&
                               finished(&other->tcb[t->id], !h))) {
        if (h && h->guest.tcb[t->id % BY_PEER].round <= t->round) {
            return;
        }
        t->round++;
        open_tcb(w, t, SYN_SENT);
    }
}

static void poll_guest(World *w, Host *h)
{
    Guest *g = h ? &h->guest : &w->peer;
    Tcb *t = &g->tcb[rnd(CONNS)];

    poll_open(w, h, t);
    poll_tcb(w, h, t);
}

/* ---- the pair ---- */

static void on_release(void *opaque, const uint8_t *frame, size_t len,
                       size_t vnet_len)
{
    World *w = opaque;

    push(&w->to_peer, 0, frame, len);
}

static void on_checkpoint(void *opaque, ColoCheckpointReason reason)
{
    World *w = opaque;

    w->wanted = true;
}

static const ColoCompareOps ops = {
    .release = on_release,
    .checkpoint = on_checkpoint,
};

static Host *host_new(void)
{
    Host *h = g_new0(Host, 1);
    unsigned i;

    for (i = 0; i < CONNS; i++) {
        h->guest.tcb[i].id = i;
    }
    h->rw = colo_rewrite_new(1000);
    return h;
}

static void host_free(Host *h)
{
    if (h) {
        colo_rewrite_free(h->rw);
        g_free(h);
    }
}

static void new_compare(World *w)
{
    ColoCompareLimits limits = { .compare_timeout = TIMEOUT,
                                 .expired_scan_cycle = 1 };

    if (w->tight) {
        limits.max_conns = 4;
        limits.max_queue_size = 2;
        limits.max_conn_bytes = 1500;
        limits.max_bytes = 6000;
    }
    colo_compare_free(w->c);
    w->c = colo_compare_new(&ops, w, &limits);
}

static void input(World *w, Host *h, Packet *p)
{
    g_autofree uint8_t *frame = g_memdup2(p->data, p->len);

    if (colo_rewrite_in(h->rw, frame, p->len, 0, w->now) <
        COLO_REWRITE_UNKNOWN) {
        take(w, h, frame, p->len);
    }
}

/* A packet from the network reaches the primary, and the mirror. */
static void from_network(World *w)
{
    g_autofree Packet *p = g_queue_pop_head(&w->to_guest);

    if (!p || rnd(100) < w->loss) {
        return;
    }
    if (w->s) {
        push(&w->mirror, w->p->epoch, p->data, p->len);
    }
    input(w, w->p, p);
}

/* One from the mirror reaches the secondary, in its epoch or not at all. */
static void from_mirror(World *w)
{
    Packet *p = g_queue_peek_head(&w->mirror);

    if (!p || p->epoch > w->s->epoch) {
        return;
    }
    g_queue_pop_head(&w->mirror);
    if (p->epoch == w->s->epoch) {
        input(w, w->s, p);
    }
    g_free(p);
}

static void from_secondary(World *w)
{
    g_autofree Packet *p = g_queue_pop_head(&w->to_compare);

    if (p) {
        colo_compare_svm(w->c, p->data, p->len, 0, p->epoch, w->now);
    }
}

static void to_peer(World *w)
{
    g_autofree Packet *p = g_queue_pop_head(&w->to_peer);

    if (p && rnd(100) >= w->loss) {
        take(w, NULL, p->data, p->len);
    }
}

static void capture(World *w)
{
    w->wanted = false;
    w->p->epoch = ++w->epoch;
    w->captured = w->p->guest;
    w->table = g_byte_array_new();
    colo_rewrite_save(w->p->rw, w->table);
    colo_compare_capture(w->c, w->epoch);
    w->checkpoints++;
}

static void apply(World *w)
{
    ColoRewriteTable *table = colo_rewrite_load(w->table->data, w->table->len,
                                                1000, &error_abort);

    g_clear_pointer(&w->table, g_byte_array_unref);
    w->s->guest = w->captured;
    w->s->epoch = w->epoch;
    colo_rewrite_commit(w->s->rw, table);
    w->applied = true;
}

static void commit(World *w)
{
    w->applied = false;
    colo_compare_commit(w->c, w->epoch, w->now);
}

static void checkpoint_step(World *w)
{
    if (w->table) {
        apply(w);
    } else if (w->applied) {
        commit(w);
    } else if (w->wanted || !rnd(20)) {
        capture(w);
    }
}

static void attach(World *w)
{
    w->s = host_new();
    colo_rewrite_set_mode(w->s->rw, COLO_REWRITE_LEARN);
    colo_compare_set_mode(w->c, COLO_COMPARE_COMPARE);
    capture(w);
    if (rnd(2)) {
        apply(w);
        commit(w);
    }
}

static void clear(GQueue *q)
{
    g_queue_clear_full(q, g_free);
}

static void end_pair(World *w)
{
    clear(&w->mirror);
    clear(&w->to_compare);
    g_clear_pointer(&w->table, g_byte_array_unref);
    w->applied = w->wanted = false;
    w->failovers++;
}

static void primary_dies(World *w)
{
    unsigned n = rnd(w->mirror.length + 1);

    /* Some of what was mirrored still arrives. */
    while (n--) {
        from_mirror(w);
    }
    host_free(w->p);
    w->p = g_steal_pointer(&w->s);
    new_compare(w);
    end_pair(w);
    colo_rewrite_set_mode(w->p->rw, COLO_REWRITE_WIRE);
}

static void secondary_dies(World *w)
{
    colo_compare_set_mode(w->c, COLO_COMPARE_LOST);
    host_free(g_steal_pointer(&w->s));
    end_pair(w);
    while (rnd(10)) {
        poll_guest(w, w->p);
        from_network(w);
    }
    colo_compare_release_all(w->c);
}

static void fault_step(World *w)
{
    if (!w->s) {
        attach(w);
    } else if (w->p->epoch != w->s->epoch && w->s->epoch == 0) {
        checkpoint_step(w);         /* not protected yet */
    } else if (rnd(2)) {
        primary_dies(w);
    } else {
        secondary_dies(w);
    }
}

static bool all_done(const World *w)
{
    unsigned i;

    for (i = 0; i < CONNS; i++) {
        const Tcb *t = &w->peer.tcb[i];

        if (t->round < ROUNDS || !finished(t, false)) {
            return false;
        }
    }
    return true;
}

static void step(World *w, unsigned fault_in)
{
    w->now++;
    switch (rnd(8)) {
    case 0:
        poll_guest(w, w->p);
        break;
    case 1:
        if (w->s && w->s->epoch) {
            poll_guest(w, w->s);
        }
        break;
    case 2:
        poll_guest(w, NULL);
        break;
    case 3:
        from_network(w);
        break;
    case 4:
        if (w->s) {
            from_mirror(w);
        }
        break;
    case 5:
        from_secondary(w);
        break;
    case 6:
        to_peer(w);
        break;
    case 7:
        if (w->s && !rnd(10)) {
            checkpoint_step(w);
        }
        break;
    }
    colo_compare_tick(w->c, w->now);
    if (fault_in && !rnd(fault_in)) {
        fault_step(w);
    }
}

static World *world_new(bool tight)
{
    World *w = g_new0(World, 1);
    unsigned i;

    for (i = 0; i < CONNS; i++) {
        w->peer.tcb[i].id = i;
    }
    g_queue_init(&w->to_peer);
    g_queue_init(&w->to_guest);
    g_queue_init(&w->mirror);
    g_queue_init(&w->to_compare);
    w->tight = tight;
    w->p = host_new();
    new_compare(w);
    return w;
}

static void world_free(World *w)
{
    clear(&w->to_peer);
    clear(&w->to_guest);
    clear(&w->mirror);
    clear(&w->to_compare);
    host_free(w->p);
    host_free(w->s);
    colo_compare_free(w->c);
    if (w->table) {
        g_byte_array_unref(w->table);
    }
    g_free(w);
}

static void dump_guest(const char *name, const Guest *g)
{
    unsigned i;

    for (i = 0; i < CONNS; i++) {
        const Tcb *t = &g->tcb[i];

        g_test_message("%s %u: round %u state %d una %u nxt %u iss %08x "
                       "rcv %u irs %08x fin %d", name, i, t->round, t->state,
                       t->una - t->iss, t->nxt - t->iss, t->iss,
                       t->rcv - t->irs, t->irs, t->peer_fin);
    }
}

static void dump(const World *w)
{
    dump_guest("peer", &w->peer);
    dump_guest("primary", &w->p->guest);
    if (w->s) {
        dump_guest("secondary", &w->s->guest);
    }
}

/*
 * Run until all connections are through. @fault_in: steps between faults, on
 * average, and 0 for none.
 */
static void run(unsigned loss, unsigned fault_in, bool protect, bool tight)
{
    World *w = world_new(tight);
    ColoCompareStats stats;
    unsigned n;

    w->loss = loss;
    if (protect) {
        attach(w);
    }
    for (n = 0; !all_done(w); n++) {
        if (n == STEPS_MAX) {
            dump(w);
            g_assert_not_reached();
        }
        step(w, fault_in);
    }
    colo_compare_stats(w->c, &stats);
    g_test_message("%u steps, %u checkpoints, %u failovers, %u unknown, "
                   "%u too old, last comparison: matched %" PRIu64
                   ", committed %" PRIu64,
                   n, w->checkpoints, w->failovers, w->unknown, w->too_old,
                   stats.matched, stats.committed);
    world_free(w);
}

static void test_unprotected(void)
{
    run(0, 0, false, false);
    run(5, 0, false, false);
}

static void test_protected(void)
{
    run(0, 0, true, false);
    run(5, 0, true, false);
    run(5, 0, true, true);
}

static void test_faults(void)
{
    unsigned i;

    for (i = 0; i < (g_test_slow() ? 200 : 10); i++) {
        run(i % 3 * 3, 300 + i % 5 * 900, true, i & 1);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/pair/unprotected", test_unprotected);
    g_test_add_func("/colo/pair/protected", test_protected);
    g_test_add_func("/colo/pair/faults", test_faults);
    return g_test_run();
}
