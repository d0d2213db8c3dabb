/*
 * COLO proxy: repair of input that a NIC of the SVM has dropped
 *
 * repair.h tells why, and what counts as lost.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "conn.h"
#include "repair.h"

/* The first segment waits this long for an ACK: then twice, up to the max. */
#define WAIT_MS         20
#define WAIT_MAX_MS     200

/* A segment is not repeated within this time, doubled DOUBLE_MAX times. */
#define REPEAT_MS       10
#define DOUBLE_MAX      4

/* A guest that does not acknowledge a segment repeated so often won't. */
#define REPEAT_MAX      16

/* Frames that one event makes due, so that they don't overflow the ring. */
#define BURST           8

/* Duplicate ACKs without SACK that tell a loss. */
#define DUPLICATES      2

/* The largest window, RFC 7323, section 2.3: 2^30; beyond is not in use. */
#define WINDOW_MAX      (1 << 30)

typedef struct Conn Conn;

/* A mirrored segment; in @segs of its connection, which is sorted by @seq. */
typedef struct Seg {
    QTAILQ_ENTRY(Seg) age;
    QTAILQ_ENTRY(Seg) order;
    QTAILQ_ENTRY(Seg) due_next;
    Conn *conn;
    uint32_t seq;
    uint32_t end;               /* number behind its data and FIN */
    bool due;                   /* in the list of frames to take */
    unsigned repeats;           /* by us or by the client */
    int64_t last;               /* ms of the last repetition */
    size_t len;
    uint8_t frame[];
} Seg;

struct Conn {
    ColoConn conn;
    QTAILQ_HEAD(, Seg) segs;
    QTAILQ_ENTRY(Conn) waiting; /* only while @segs is not empty */
    bool ack_known;
    uint32_t ack;               /* of the guest; else where @segs began */
    uint16_t win;               /* of its last ACK, unscaled */
    unsigned duplicates;
    unsigned per_ack;           /* frames to repeat at a partial ACK */
    uint32_t recover;           /* ACKs below it are partial, if @per_ack */
    uint32_t repeated;          /* end of what was repeated in order */
    int64_t since;              /* ms: waits for an ACK since then */
    unsigned wait;              /* ms */
};

struct ColoRepair {
    size_t max_bytes;
    unsigned max_frames;
    size_t bytes;
    unsigned frames;
    unsigned max_conns;
    size_t vnet_len;            /* of all frames stored */
    ColoConnTable *conns;
    QTAILQ_HEAD(, Seg) segs;    /* oldest first */
    QTAILQ_HEAD(, Seg) due;
    QTAILQ_HEAD(, Conn) waiting;
};

static size_t seg_size(size_t len)
{
    return sizeof(Seg) + len;
}

static void seg_remove(ColoRepair *r, Seg *seg)
{
    Conn *conn = seg->conn;

    QTAILQ_REMOVE(&r->segs, seg, age);
    QTAILQ_REMOVE(&conn->segs, seg, order);
    if (seg->due) {
        QTAILQ_REMOVE(&r->due, seg, due_next);
    }
    if (QTAILQ_EMPTY(&conn->segs)) {
        QTAILQ_REMOVE(&r->waiting, conn, waiting);
    }
    r->bytes -= seg_size(seg->len);
    r->frames--;
    g_free(seg);
}

static void forget_segs(ColoRepair *r, Conn *conn)
{
    Seg *seg, *next;

    QTAILQ_FOREACH_SAFE(seg, &conn->segs, order, next) {
        seg_remove(r, seg);
    }
}

static void conn_destroy(ColoConn *head, void *opaque)
{
    forget_segs(opaque, container_of(head, Conn, conn));
}

ColoRepair *colo_repair_new(size_t max_bytes, unsigned max_frames,
                            unsigned max_conns)
{
    ColoRepair *r = g_new0(ColoRepair, 1);

    r->max_bytes = max_bytes;
    r->max_frames = max_frames;
    r->max_conns = max_conns;
    QTAILQ_INIT(&r->segs);
    QTAILQ_INIT(&r->due);
    QTAILQ_INIT(&r->waiting);
    r->conns = colo_conn_table_new(sizeof(Conn), max_conns, conn_destroy, r);
    return r;
}

void colo_repair_free(ColoRepair *r)
{
    if (r) {
        colo_conn_table_free(r->conns);
        g_free(r);
    }
}

void colo_repair_reset(ColoRepair *r)
{
    colo_conn_clear(r->conns);
}

unsigned colo_repair_count(const ColoRepair *r)
{
    return r->frames;
}

size_t colo_repair_bytes(const ColoRepair *r)
{
    return r->bytes;
}

static Conn *find(ColoRepair *r, const ColoPacket *pkt, bool from_guest)
{
    ColoConnKey key;
    ColoConn *conn;

    colo_conn_key(&key, pkt, from_guest);
    conn = colo_conn_lookup(r->conns, &key);
    return conn ? container_of(conn, Conn, conn) : NULL;
}

static Conn *add_conn(ColoRepair *r, const ColoPacket *pkt)
{
    ColoConnKey key;
    Conn *conn;

    if (colo_conn_count(r->conns) == r->max_conns) {
        colo_conn_remove(r->conns, colo_conn_oldest(r->conns));
    }
    colo_conn_key(&key, pkt, false);
    conn = container_of(colo_conn_add(r->conns, &key), Conn, conn);
    QTAILQ_INIT(&conn->segs);
    conn->ack = pkt->seq;
    return conn;
}

/* ---- what the guest receives ---- */

/* The guest waits for its first segment anew. */
static void restart_wait(Conn *conn, int64_t now)
{
    conn->since = now;
    conn->wait = WAIT_MS;
}

/* All that is stored lies within one window, or its order would not be one. */
static bool in_window(const Conn *conn, uint32_t end)
{
    if (conn->ack_known && colo_seq_diff(end, conn->ack) <= 0) {
        return false;
    }
    return ABS((int64_t)colo_seq_diff(end, conn->ack)) < WINDOW_MAX;
}

/*
 * The last segment of @conn that does not start behind @seq, and of those the
 * one with the same @end if it is there; NULL if none.
 */
static Seg *find_place(Conn *conn, uint32_t seq, uint32_t end)
{
    Seg *place = QTAILQ_LAST(&conn->segs);
    Seg *seg;

    while (place && colo_seq_diff(place->seq, seq) > 0) {
        place = QTAILQ_PREV(place, order);
    }
    for (seg = place; seg && seg->seq == seq;
         seg = QTAILQ_PREV(seg, order)) {
        if (seg->end == end) {
            return seg;
        }
    }
    return place;
}

static void store(ColoRepair *r, Conn *conn, Seg *after,
                  const ColoPacket *pkt, uint32_t end, int64_t now)
{
    Seg *seg = g_malloc(seg_size(pkt->len));

    *seg = (Seg) {
        .conn = conn,
        .seq = pkt->seq,
        .end = end,
        .len = pkt->len,
    };
    memcpy(seg->frame, pkt->buf, pkt->len);
    if (QTAILQ_EMPTY(&conn->segs)) {
        QTAILQ_INSERT_TAIL(&r->waiting, conn, waiting);
        restart_wait(conn, now);
    }
    if (after) {
        QTAILQ_INSERT_AFTER(&conn->segs, after, seg, order);
    } else {
        QTAILQ_INSERT_HEAD(&conn->segs, seg, order);
    }
    QTAILQ_INSERT_TAIL(&r->segs, seg, age);
    r->bytes += seg_size(seg->len);
    r->frames++;
    while (r->bytes > r->max_bytes || r->frames > r->max_frames) {
        seg_remove(r, QTAILQ_FIRST(&r->segs));
    }
}

static void in_data(ColoRepair *r, const ColoPacket *pkt, int64_t now)
{
    uint32_t end = pkt->seq + colo_packet_tcp_len(pkt);
    Conn *conn = find(r, pkt, false);
    Seg *place;

    if (!conn) {
        conn = add_conn(r, pkt);
    }
    if (!in_window(conn, end)) {
        return;
    }
    place = find_place(conn, pkt->seq, end);
    if (place && place->seq == pkt->seq && place->end == end) {
        /* the client repeats it itself */
        place->repeats++;
        place->last = now;
        return;
    }
    store(r, conn, place, pkt, end, now);
}

/* A segment that begins or ends a connection: what was is over. */
static void forget_conn(ColoRepair *r, const ColoPacket *pkt, bool from_guest)
{
    Conn *conn = find(r, pkt, from_guest);

    if (conn) {
        colo_conn_remove(r->conns, &conn->conn);
    }
}

static void check_vnet_len(ColoRepair *r, size_t vnet_len)
{
    if (r->vnet_len != vnet_len) {
        colo_repair_reset(r);
        r->vnet_len = vnet_len;
    }
}

bool colo_repair_in(ColoRepair *r, const uint8_t *frame, size_t len,
                    size_t vnet_len, int64_t now_ms)
{
    ColoPacket pkt;

    check_vnet_len(r, vnet_len);
    if (len > COLO_FRAME_MAX) {
        return r->frames;
    }
    colo_packet_parse(&pkt, frame, len, vnet_len);
    if (pkt.kind == COLO_PACKET_TCP) {
        if (pkt.tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST)) {
            forget_conn(r, &pkt, false);
        } else if (colo_packet_tcp_len(&pkt)) {
            in_data(r, &pkt, now_ms);
        }
    }
    return r->frames;
}

/* ---- what the guest lacks ---- */

static bool may_repeat(const Seg *seg, int64_t now)
{
    unsigned doubled = MIN(seg->repeats, DOUBLE_MAX);

    return !seg->due && seg->repeats < REPEAT_MAX &&
           (!seg->repeats ||
            now - seg->last >= REPEAT_MS << (doubled - 1));
}

/* True if @seg is now due, which it may not be again so soon. */
static bool repeat(ColoRepair *r, Seg *seg, int64_t now)
{
    if (!may_repeat(seg, now)) {
        return false;
    }
    seg->due = true;
    seg->repeats++;
    seg->last = now;
    QTAILQ_INSERT_TAIL(&r->due, seg, due_next);
    return true;
}

/* The first @count segments, which start at the ACK number or cover it. */
static void repeat_first(ColoRepair *r, Conn *conn, unsigned count,
                         int64_t now)
{
    uint32_t next = conn->ack;
    Seg *seg;

    QTAILQ_FOREACH(seg, &conn->segs, order) {
        if (!count-- || colo_seq_diff(seg->seq, next) > 0) {
            return;
        }
        repeat(r, seg, now);
        next = colo_seq_max(next, seg->end);
        conn->repeated = next;
    }
}

/* From now on ACKs are partial up to the last data stored. */
static void begin_recovery(Conn *conn, unsigned per_ack)
{
    conn->per_ack = per_ack;
    conn->recover = QTAILQ_LAST(&conn->segs)->end;
}

/*
 * The end of the data the guest has above its ACK number, in its SACK blocks;
 * the ACK number if there are none. Duplicate SACKs (RFC 2883) lie below it,
 * or within another block.
 */
static uint32_t sacked_end(const ColoPacket *pkt)
{
    uint32_t end = pkt->ack;
    unsigned i;

    for (i = 0; i < pkt->nr_sacks; i++) {
        ColoSack sack = colo_packet_sack(pkt, i);

        if (colo_seq_diff(sack.right, sack.left) > 0) {
            end = colo_seq_max(end, sack.right);
        }
    }
    return end;
}

static bool is_sacked(const ColoPacket *pkt, const Seg *seg)
{
    unsigned i;

    for (i = 0; i < pkt->nr_sacks; i++) {
        ColoSack sack = colo_packet_sack(pkt, i);

        if (colo_seq_diff(seg->seq, sack.left) >= 0 &&
            colo_seq_diff(seg->end, sack.right) <= 0) {
            return true;
        }
    }
    return false;
}

static void repeat_holes(ColoRepair *r, Conn *conn, const ColoPacket *pkt,
                         uint32_t end, int64_t now)
{
    unsigned count = 0;
    Seg *seg;

    QTAILQ_FOREACH(seg, &conn->segs, order) {
        if (count == BURST || colo_seq_diff(seg->seq, end) >= 0) {
            return;
        }
        if (!is_sacked(pkt, seg) && repeat(r, seg, now)) {
            count++;
        }
    }
}

/* RFC 5681, section 2, of a @pkt that does not change the ACK number. */
static bool is_duplicate(const Conn *conn, const ColoPacket *pkt)
{
    return pkt->win == conn->win && !colo_packet_tcp_len(pkt);
}

/*
 * With only the last segments lost nothing but what was repeated can be
 * acknowledged; if more is, the guest was merely slow (RFC 5682).
 */
static bool recovered(const Conn *conn)
{
    return colo_seq_diff(conn->ack, conn->recover) >= 0 ||
           (conn->per_ack == BURST &&
            colo_seq_diff(conn->ack, conn->repeated) > 0);
}

static void advance(ColoRepair *r, Conn *conn, uint32_t ack, int64_t now)
{
    Seg *seg, *next;

    conn->ack_known = true;
    conn->ack = ack;
    conn->duplicates = 0;
    restart_wait(conn, now);
    QTAILQ_FOREACH_SAFE(seg, &conn->segs, order, next) {
        if (colo_seq_diff(seg->seq, ack) >= 0) {
            break;
        }
        if (colo_seq_diff(seg->end, ack) <= 0) {
            seg_remove(r, seg);
        }
    }
    if (conn->per_ack && recovered(conn)) {
        conn->per_ack = 0;
    }
}

static void out_ack(ColoRepair *r, Conn *conn, const ColoPacket *pkt,
                    int64_t now)
{
    int32_t step = colo_seq_diff(pkt->ack, conn->ack);
    bool first = !conn->ack_known;
    uint32_t end;

    if (ABS((int64_t)step) >= WINDOW_MAX || (step < 0 && !first)) {
        return;
    }
    if (step || first) {
        advance(r, conn, pkt->ack, now);
        end = sacked_end(pkt);
        if (end == pkt->ack && conn->per_ack) {
            repeat_first(r, conn, conn->per_ack, now);
        }
    } else {
        end = sacked_end(pkt);
        if (end == pkt->ack && is_duplicate(conn, pkt) &&
            ++conn->duplicates == DUPLICATES &&
            !QTAILQ_EMPTY(&conn->segs)) {
            conn->duplicates = 0;
            begin_recovery(conn, 1);
            repeat_first(r, conn, 1, now);
        }
    }
    conn->win = pkt->win;
    if (end != pkt->ack) {
        repeat_holes(r, conn, pkt, end, now);
    }
}

bool colo_repair_out(ColoRepair *r, const uint8_t *frame, size_t len,
                     size_t vnet_len, int64_t now_ms)
{
    ColoPacket pkt;
    Conn *conn;

    if (!colo_conn_count(r->conns) || len > COLO_FRAME_MAX) {
        return false;
    }
    colo_packet_parse(&pkt, frame, len, vnet_len);
    if (pkt.kind != COLO_PACKET_TCP) {
        return false;
    }
    if (pkt.tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST)) {
        forget_conn(r, &pkt, true);
        return false;
    }
    conn = find(r, &pkt, true);
    if (conn && (pkt.tcp_flags & COLO_TCP_ACK)) {
        out_ack(r, conn, &pkt, now_ms);
    }
    return !QTAILQ_EMPTY(&r->due);
}

/* ---- no ACK ---- */

static void tick_conn(ColoRepair *r, Conn *conn, int64_t now)
{
    Seg *first = QTAILQ_FIRST(&conn->segs);

    if (now - conn->since < conn->wait) {
        return;
    }
    if (first->repeats >= REPEAT_MAX) {
        forget_segs(r, conn);
        return;
    }
    conn->since = now;
    conn->wait = MIN(conn->wait * 2, WAIT_MAX_MS);
    begin_recovery(conn, BURST);
    repeat_first(r, conn, 1, now);
}

bool colo_repair_tick(ColoRepair *r, int64_t now_ms)
{
    Conn *conn, *next;

    QTAILQ_FOREACH_SAFE(conn, &r->waiting, waiting, next) {
        tick_conn(r, conn, now_ms);
    }
    return r->frames;
}

uint8_t *colo_repair_pop(ColoRepair *r, size_t vnet_len, size_t *len)
{
    Seg *seg;

    check_vnet_len(r, vnet_len);
    seg = QTAILQ_FIRST(&r->due);
    if (!seg) {
        return NULL;
    }
    QTAILQ_REMOVE(&r->due, seg, due_next);
    seg->due = false;
    *len = seg->len;
    return g_memdup2(seg->frame, seg->len);
}
