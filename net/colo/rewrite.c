/*
 * COLO proxy: translation of TCP sequence numbers and timestamps
 *
 * rewrite.h tells where offsets come from and which numbering a frame is in;
 * here is how. Only connections with an offset that may differ from zero are
 * in the table.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "conn.h"
#include "rewrite.h"

/* Twice the maximum segment lifetime, RFC 9293. */
#define TIME_WAIT_MS        240000
#define SCAN_MS             10000

/* How many of the least recently used entries are looked at to make room. */
#define EVICT_TRIES         64

/* Plain ACKs for a SYN of the guest that are kept from it, see withhold(). */
#define WITHHELD_MAX        8

/* The client sends no further than the window of a SYN-ACK: it is unscaled. */
#define FIRST_WINDOW        65535

/* The table on the wire, see colo_rewrite_save(). */
#define TABLE_MAGIC         0x434f5257 /* "CORW" */
#define TABLE_VERSION       2
#define TABLE_HEADER        12
#define TABLE_ENTRY         68

enum {
    LEARNED   = 1 << 0,     /* the offsets are known */
    BY_GUEST  = 1 << 1,     /* the guest has opened it, else the client */
    FIN_OUT   = 1 << 2,     /* the guest has closed it */
    FIN_IN    = 1 << 3,     /* its peer has */
    RESET     = 1 << 4,     /* either has reset it */
    STAMPS    = 1 << 5,     /* the guest's SYN has timestamps */
    ALL_FLAGS = (1 << 6) - 1,
};

typedef struct Entry {
    ColoConn conn;
    uint32_t offset;        /* wire - guest; 0 unless LEARNED */
    uint32_t isn;           /* of the guest, in its numbering */
    uint32_t peer_next;     /* first number the client uses; not BY_GUEST */
    uint32_t ts_offset;     /* wire - guest; 0 unless LEARNED and STAMPS */
    uint32_t ts_first;      /* TSval of the guest's first SYN, if STAMPS */
    uint32_t ts_last;       /* and of its last before LEARNED */
    uint32_t ts_echo;       /* the last TSecr received; 0: none; not saved */
    uint8_t flags;
    uint8_t withheld;       /* see withhold(); not saved */
    int64_t last;           /* ms of the last segment; < 0: not known */
} Entry;

struct ColoRewriteTable {
    ColoConnTable *conns;
};

struct ColoRewrite {
    ColoRewriteMode mode;
    unsigned max_conns;
    ColoConnTable *conns;
    int64_t last_scan;      /* ms */
};

static ColoConnTable *new_conns(unsigned max_conns)
{
    return colo_conn_table_new(sizeof(Entry), max_conns, NULL, NULL);
}

ColoRewrite *colo_rewrite_new(unsigned max_conns)
{
    ColoRewrite *rw = g_new0(ColoRewrite, 1);

    rw->mode = COLO_REWRITE_WIRE;
    rw->max_conns = max_conns;
    rw->conns = new_conns(max_conns);
    return rw;
}

void colo_rewrite_free(ColoRewrite *rw)
{
    if (rw) {
        colo_conn_table_free(rw->conns);
        g_free(rw);
    }
}

bool colo_rewrite_idle(const ColoRewrite *rw)
{
    return rw->mode == COLO_REWRITE_WIRE && !colo_conn_count(rw->conns);
}

unsigned colo_rewrite_count(const ColoRewrite *rw)
{
    return colo_conn_count(rw->conns);
}

static bool is_closed(const Entry *e)
{
    return (e->flags & RESET) || (e->flags & FIN_OUT && e->flags & FIN_IN);
}

/* An entry that means the same as none. */
static bool is_void(const Entry *e)
{
    return (e->flags & LEARNED) && !e->offset && !e->ts_offset;
}

/* Remove the entries for which @drop is true. */
static void prune(ColoRewrite *rw, bool (*drop)(Entry *e, int64_t now_ms),
                  int64_t now_ms)
{
    ColoConn *conn = colo_conn_oldest(rw->conns);

    while (conn) {
        ColoConn *next = colo_conn_newer(conn);

        if (drop(container_of(conn, Entry, conn), now_ms)) {
            colo_conn_remove(rw->conns, conn);
        }
        conn = next;
    }
}

static bool drop_void(Entry *e, int64_t now_ms)
{
    return is_void(e);
}

static bool drop_expired(Entry *e, int64_t now_ms)
{
    if (e->last < 0) {
        e->last = now_ms;
    }
    return is_closed(e) && now_ms - e->last >= TIME_WAIT_MS;
}

void colo_rewrite_set_mode(ColoRewrite *rw, ColoRewriteMode mode)
{
    rw->mode = mode;
    if (mode == COLO_REWRITE_WIRE) {
        prune(rw, drop_void, 0);
    }
}

void colo_rewrite_tick(ColoRewrite *rw, int64_t now_ms)
{
    if (now_ms - rw->last_scan >= SCAN_MS) {
        rw->last_scan = now_ms;
        prune(rw, drop_expired, now_ms);
    }
}

/* ---- one segment ---- */

static void make_key(ColoConnKey *key, const ColoPacket *pkt, bool from_guest)
{
    ColoPacket whole = *pkt;

    /* A first fragment belongs to the connection of its TCP header. */
    whole.kind = COLO_PACKET_TCP;
    colo_conn_key(key, &whole, from_guest);
}

static Entry *find(ColoRewrite *rw, const ColoPacket *pkt, bool from_guest)
{
    ColoConnKey key;
    ColoConn *conn;

    make_key(&key, pkt, from_guest);
    conn = colo_conn_lookup(rw->conns, &key);
    return conn ? container_of(conn, Entry, conn) : NULL;
}

static void make_room(ColoRewrite *rw)
{
    ColoConn *conn = colo_conn_oldest(rw->conns);
    unsigned i;

    if (colo_conn_count(rw->conns) < rw->max_conns) {
        return;
    }
    for (i = 0; conn && i < EVICT_TRIES; i++) {
        Entry *e = container_of(conn, Entry, conn);

        if (is_closed(e) || is_void(e)) {
            colo_conn_remove(rw->conns, conn);
            return;
        }
        conn = colo_conn_newer(conn);
    }
}

static Entry *add(ColoRewrite *rw, const ColoPacket *pkt)
{
    ColoConnKey key;
    ColoConn *conn;

    make_room(rw);
    make_key(&key, pkt, true);
    conn = colo_conn_add(rw->conns, &key);
    return conn ? container_of(conn, Entry, conn) : NULL;
}

static void track(Entry *e, const ColoPacket *pkt, uint8_t fin, int64_t now)
{
    e->last = now;
    if (pkt->tcp_flags & COLO_TCP_FIN) {
        e->flags |= fin;
    }
    if (pkt->tcp_flags & COLO_TCP_RST) {
        e->flags |= RESET;
    }
}

static ColoRewriteVerdict to_wire(Entry *e, ColoPacket *pkt, uint8_t *frame)
{
    bool stamped = e->ts_offset && pkt->stamps;

    if (e->offset) {
        colo_packet_set_seq(pkt, frame, pkt->seq + e->offset);
    }
    if (stamped) {
        colo_packet_set_tsval(pkt, frame,
                              colo_packet_tsval(pkt) + e->ts_offset);
    }
    return e->offset || stamped ? COLO_REWRITE_CHANGED :
                                  COLO_REWRITE_UNCHANGED;
}

/* Don't let the guest's clock fall behind what the peer has seen for sure. */
static void catch_up(Entry *e, const ColoPacket *pkt)
{
    uint32_t behind;

    if (!(e->flags & STAMPS) || !pkt->stamps || !e->ts_echo) {
        return;
    }
    behind = e->ts_echo - (colo_packet_tsval(pkt) + e->ts_offset);
    if (behind < COLO_REWRITE_TS_BEHIND) {
        e->ts_offset += behind;
    }
}

static void note_stamps(Entry *e, const ColoPacket *pkt)
{
    if (!pkt->stamps) {
        return;
    }
    e->ts_last = colo_packet_tsval(pkt);
    if (!(e->flags & STAMPS)) {
        e->ts_first = e->ts_last;
        e->flags |= STAMPS;
    }
}

/* The guest opens a connection that is not the one of @e, if there is one. */
static ColoRewriteVerdict out_new(ColoRewrite *rw, Entry *e,
                                  const ColoPacket *pkt, int64_t now)
{
    if (rw->mode == COLO_REWRITE_WIRE) {
        /* What it chooses is the wire's numbering. */
        if (e) {
            colo_conn_remove(rw->conns, &e->conn);
        }
        return COLO_REWRITE_UNCHANGED;
    }
    if (!e) {
        e = add(rw, pkt);
    }
    if (!e) {
        return COLO_REWRITE_OVERFLOW;
    }
    e->offset = e->ts_offset = 0;
    e->ts_first = e->ts_last = e->ts_echo = 0;
    e->withheld = 0;
    e->isn = pkt->seq;
    e->peer_next = pkt->tcp_flags & COLO_TCP_ACK ? pkt->ack : 0;
    e->flags = pkt->tcp_flags & COLO_TCP_ACK ? 0 : BY_GUEST;
    note_stamps(e, pkt);
    e->last = now;
    return COLO_REWRITE_UNCHANGED;
}

static ColoRewriteVerdict out_syn(ColoRewrite *rw, Entry *e, ColoPacket *pkt,
                                  uint8_t *frame, int64_t now)
{
    if (!e || e->isn != pkt->seq) {
        return out_new(rw, e, pkt, now);
    }
    e->last = now;
    if (!(e->flags & LEARNED)) {
        note_stamps(e, pkt);
    }
    return rw->mode == COLO_REWRITE_WIRE ? to_wire(e, pkt, frame) :
                                           COLO_REWRITE_UNCHANGED;
}

ColoRewriteVerdict colo_rewrite_out(ColoRewrite *rw, uint8_t *frame,
                                    size_t len, size_t vnet_len,
                                    int64_t now_ms)
{
    ColoPacket pkt;
    Entry *e;

    if (colo_rewrite_idle(rw)) {
        return COLO_REWRITE_UNCHANGED;
    }
    colo_packet_parse(&pkt, frame, len, vnet_len);
    if (!pkt.has_tcp) {
        return COLO_REWRITE_UNCHANGED;
    }
    e = find(rw, &pkt, true);
    if (pkt.tcp_flags & COLO_TCP_SYN) {
        return out_syn(rw, e, &pkt, frame, now_ms);
    }
    if (!e) {
        return COLO_REWRITE_UNCHANGED;
    }
    if (!(e->flags & LEARNED)) {
        /*
         * A RST that answers a segment has its number from the segment's
         * ACK, which was not translated either.
         */
        return rw->mode == COLO_REWRITE_WIRE &&
               (pkt.tcp_flags & COLO_TCP_RST) ? COLO_REWRITE_UNCHANGED :
                                                COLO_REWRITE_UNKNOWN;
    }
    track(e, &pkt, FIN_OUT, now_ms);
    catch_up(e, &pkt);
    return to_wire(e, &pkt, frame);
}

/* The echo of a TSval in a segment to the guest; 0: none. */
static uint32_t echo(const ColoPacket *pkt)
{
    return pkt->stamps && (pkt->tcp_flags & COLO_TCP_ACK) ?
           colo_packet_tsecr(pkt) : 0;
}

/* @pkt acknowledges the SYN that defines the wire's timestamps. */
static void learn_stamps(Entry *e, const ColoPacket *pkt)
{
    uint32_t tsecr = echo(pkt);

    if ((e->flags & STAMPS) && tsecr &&
        tsecr - e->ts_first > e->ts_last - e->ts_first) {
        e->ts_offset = tsecr - e->ts_first;
    }
}

/*
 * @pkt, with an ACK, goes to the guest: does it acknowledge the SYN of the
 * other guest, whose number it then tells? An old duplicate does not: the
 * client's first segments lie in the window of the SYN-ACK, and a SYN of the
 * guest is answered with SYN-ACK or RST (while a plain ACK comes from an old
 * connection of the peer, and the guest itself must see to that).
 */
static void learn(Entry *e, const ColoPacket *pkt)
{
    bool fits;

    if (e->flags & BY_GUEST) {
        fits = pkt->tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST);
    } else {
        fits = !(pkt->tcp_flags & COLO_TCP_SYN) &&
               pkt->seq - e->peer_next <= FIRST_WINDOW;
    }
    if (fits) {
        e->offset = pkt->ack - 1 - e->isn;
        learn_stamps(e, pkt);
        e->flags |= LEARNED;
    }
}

/*
 * A former secondary has sent the guest's SYN again in the guest's numbering,
 * while the peer has the old PVM's: it answers with a plain ACK. The guest
 * would reset the connection for that, where the peer's next SYN-ACK tells
 * the offset. But the ACK may as well belong to a connection the peer still
 * remembers under these ports, which must be reset; so not for ever.
 */
static bool withhold(ColoRewrite *rw, Entry *e, const ColoPacket *pkt)
{
    return rw->mode == COLO_REWRITE_WIRE &&
           (e->flags & (LEARNED | BY_GUEST)) == BY_GUEST &&
           !(pkt->tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST)) &&
           e->withheld < WITHHELD_MAX;
}

static ColoRewriteVerdict to_guest(Entry *e, ColoPacket *pkt, uint8_t *frame)
{
    uint32_t tsecr = echo(pkt);
    bool stamped = e->ts_offset && tsecr;
    bool shifted = e->offset && (pkt->tcp_flags & COLO_TCP_ACK);

    if (shifted) {
        colo_packet_set_ack(pkt, frame, pkt->ack - e->offset);
        colo_packet_shift_sacks(pkt, frame, -e->offset);
    }
    if (stamped) {
        colo_packet_set_tsecr(pkt, frame, tsecr - e->ts_offset);
    }
    return shifted || stamped ? COLO_REWRITE_CHANGED : COLO_REWRITE_UNCHANGED;
}

static ColoRewriteVerdict in_tcp(ColoRewrite *rw, ColoPacket *pkt,
                                 uint8_t *frame, int64_t now)
{
    Entry *e = find(rw, pkt, false);

    if (!e) {
        return COLO_REWRITE_UNCHANGED;
    }
    if ((pkt->tcp_flags & COLO_TCP_ACK) && !(e->flags & LEARNED)) {
        learn(e, pkt);
    }
    if (withhold(rw, e, pkt)) {
        e->withheld++;
        return COLO_REWRITE_UNKNOWN;
    }
    track(e, pkt, FIN_IN, now);
    if ((e->flags & LEARNED) && echo(pkt)) {
        e->ts_echo = echo(pkt);
    }
    return to_guest(e, pkt, frame);
}

/* An ICMP error quotes what the guest sent, as it was on the wire. */
static ColoRewriteVerdict in_error(ColoRewrite *rw, const ColoPacket *pkt,
                                   uint8_t *frame)
{
    ColoPacket quoted;
    Entry *e;

    if (!colo_packet_quoted(pkt, &quoted)) {
        return COLO_REWRITE_UNCHANGED;
    }
    e = find(rw, &quoted, true);
    if (!e || !e->offset) {
        return COLO_REWRITE_UNCHANGED;
    }
    colo_packet_set_quoted_seq(pkt, &quoted, frame, quoted.seq - e->offset);
    return COLO_REWRITE_CHANGED;
}

ColoRewriteVerdict colo_rewrite_in(ColoRewrite *rw, uint8_t *frame,
                                   size_t len, size_t vnet_len,
                                   int64_t now_ms)
{
    ColoPacket pkt;

    if (colo_rewrite_idle(rw)) {
        return COLO_REWRITE_UNCHANGED;
    }
    colo_packet_parse(&pkt, frame, len, vnet_len);
    if (pkt.has_tcp) {
        return in_tcp(rw, &pkt, frame, now_ms);
    }
    return in_error(rw, &pkt, frame);
}

/* ---- the table as checkpoint state ---- */

static void put16(GByteArray *out, uint16_t val)
{
    uint8_t bytes[2];

    stw_be_p(bytes, val);
    g_byte_array_append(out, bytes, sizeof(bytes));
}

static void put32(GByteArray *out, uint32_t val)
{
    uint8_t bytes[4];

    stl_be_p(bytes, val);
    g_byte_array_append(out, bytes, sizeof(bytes));
}

static void save_entry(const Entry *e, GByteArray *out)
{
    const ColoConnKey *key = &e->conn.key;
    uint8_t bytes[4] = { key->ip_version, e->flags, 0, 0 };
    unsigned i;

    g_byte_array_append(out, key->guest, sizeof(key->guest));
    g_byte_array_append(out, key->peer, sizeof(key->peer));
    put16(out, key->guest_port);
    put16(out, key->peer_port);
    for (i = 0; i < COLO_VLANS_MAX; i++) {
        put16(out, key->vlan[i]);
    }
    g_byte_array_append(out, bytes, sizeof(bytes));
    put32(out, e->offset);
    put32(out, e->isn);
    put32(out, e->peer_next);
    put32(out, e->ts_offset);
    put32(out, e->ts_first);
    put32(out, e->ts_last);
}

void colo_rewrite_save(ColoRewrite *rw, GByteArray *out)
{
    guint start = out->len;
    uint32_t count = 0;
    ColoConn *conn;

    put32(out, TABLE_MAGIC);
    put32(out, TABLE_VERSION);
    put32(out, 0);
    for (conn = colo_conn_oldest(rw->conns); conn;
         conn = colo_conn_newer(conn)) {
        const Entry *e = container_of(conn, Entry, conn);

        if (!is_void(e)) {
            save_entry(e, out);
            count++;
        }
    }
    stl_be_p(out->data + start + 8, count);
}

static bool is_zero(const uint8_t *buf, size_t len)
{
    while (len--) {
        if (*buf++) {
            return false;
        }
    }
    return true;
}

static bool vlans_valid(const ColoConnKey *key)
{
    return (key->vlan[0] <= 0xfff || key->vlan[0] == 0xffff) &&
           (key->vlan[1] <= 0xfff || key->vlan[1] == 0xffff) &&
           !(key->vlan[0] == 0xffff && key->vlan[1] != 0xffff);
}

/* The fields of an entry, checked. Returns what is wrong, or NULL. */
static const char *load_entry(Entry *e, const uint8_t *p)
{
    ColoConnKey *key = &e->conn.key;
    unsigned i;

    memset(e, 0, sizeof(*e));
    memcpy(key->guest, p, 16);
    memcpy(key->peer, p + 16, 16);
    key->guest_port = lduw_be_p(p + 32);
    key->peer_port = lduw_be_p(p + 34);
    for (i = 0; i < COLO_VLANS_MAX; i++) {
        key->vlan[i] = lduw_be_p(p + 36 + 2 * i);
    }
    key->kind = COLO_PACKET_TCP;
    key->ip_proto = IPPROTO_TCP;
    key->ip_version = p[40];
    e->flags = p[41];
    e->offset = ldl_be_p(p + 44);
    e->isn = ldl_be_p(p + 48);
    e->peer_next = ldl_be_p(p + 52);
    e->ts_offset = ldl_be_p(p + 56);
    e->ts_first = ldl_be_p(p + 60);
    e->ts_last = ldl_be_p(p + 64);
    e->last = -1;

    if (key->ip_version != 4 && key->ip_version != 6) {
        return "unknown IP version";
    }
    if (key->ip_version == 4 &&
        !(is_zero(key->guest + 4, 12) && is_zero(key->peer + 4, 12))) {
        return "IPv4 address too long";
    }
    if (!vlans_valid(key)) {
        return "invalid VLAN";
    }
    if ((e->flags & ~ALL_FLAGS) || !is_zero(p + 42, 2)) {
        return "unknown flags";
    }
    if (!(e->flags & LEARNED) != !(e->offset || e->ts_offset)) {
        return "offset contradicts flags";
    }
    if (!(e->flags & STAMPS) && (e->ts_offset || e->ts_first || e->ts_last)) {
        return "timestamps contradict flags";
    }
    return NULL;
}

static const char *load_and_add(ColoConnTable *conns, const uint8_t *p)
{
    const char *wrong;
    ColoConn *conn;
    Entry fields;
    Entry *e;

    wrong = load_entry(&fields, p);
    if (wrong) {
        return wrong;
    }
    if (colo_conn_lookup(conns, &fields.conn.key)) {
        return "duplicate connection";
    }
    conn = colo_conn_add(conns, &fields.conn.key);
    e = container_of(conn, Entry, conn);
    e->offset = fields.offset;
    e->isn = fields.isn;
    e->peer_next = fields.peer_next;
    e->ts_offset = fields.ts_offset;
    e->ts_first = fields.ts_first;
    e->ts_last = fields.ts_last;
    e->flags = fields.flags;
    e->last = fields.last;
    return NULL;
}

static bool check_header(const uint8_t *buf, size_t len, unsigned max_conns,
                         Error **errp)
{
    uint32_t count;

    if (len < TABLE_HEADER || ldl_be_p(buf) != TABLE_MAGIC) {
        error_setg(errp, "COLO: this is not a TCP translation table");
        return false;
    }
    if (ldl_be_p(buf + 4) != TABLE_VERSION) {
        error_setg(errp, "COLO: TCP translation table has version %"
                   PRIu32 ", need %d", ldl_be_p(buf + 4), TABLE_VERSION);
        return false;
    }
    count = ldl_be_p(buf + 8);
    if (count > max_conns) {
        error_setg(errp, "COLO: TCP translation table has %" PRIu32
                   " connections, the limit is %u", count, max_conns);
        return false;
    }
    if (len - TABLE_HEADER != (uint64_t)count * TABLE_ENTRY) {
        error_setg(errp, "COLO: TCP translation table has %zu bytes for"
                   " %" PRIu32 " connections", len, count);
        return false;
    }
    return true;
}

ColoRewriteTable *colo_rewrite_load(const uint8_t *buf, size_t len,
                                    unsigned max_conns, Error **errp)
{
    g_autoptr(ColoRewriteTable) table = NULL;
    uint32_t i;

    if (!check_header(buf, len, max_conns, errp)) {
        return NULL;
    }
    table = g_new0(ColoRewriteTable, 1);
    table->conns = new_conns(max_conns);
    for (i = 0; i < (len - TABLE_HEADER) / TABLE_ENTRY; i++) {
        const char *wrong = load_and_add(table->conns, buf + TABLE_HEADER +
                                         i * TABLE_ENTRY);

        if (wrong) {
            error_setg(errp, "COLO: TCP translation table, connection %"
                       PRIu32 ": %s", i, wrong);
            return NULL;
        }
    }
    return g_steal_pointer(&table);
}

void colo_rewrite_table_free(ColoRewriteTable *table)
{
    if (table) {
        colo_conn_table_free(table->conns);
        g_free(table);
    }
}

void colo_rewrite_commit(ColoRewrite *rw, ColoRewriteTable *table)
{
    colo_conn_table_free(rw->conns);
    if (table) {
        rw->conns = g_steal_pointer(&table->conns);
        colo_rewrite_table_free(table);
    } else {
        rw->conns = new_conns(rw->max_conns);
    }
}
