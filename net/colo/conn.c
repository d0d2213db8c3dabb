/*
 * COLO proxy: connections and a bounded table of them
 *
 * A chained hash table that doubles as it fills, with a list of its entries
 * by last use. The hash is keyed per table, so that who chooses addresses
 * and ports from outside can't choose the bucket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "conn.h"

#define BUCKETS_MIN 256
#define NO_VLAN     0xffff

struct ColoConnTable {
    size_t entry_size;
    unsigned max;
    unsigned count;
    unsigned nr_buckets;        /* a power of two */
    uint64_t seed[2];
    ColoConn **buckets;
    QTAILQ_HEAD(, ColoConn) lru;    /* least recently used first */
    void (*destroy)(ColoConn *conn, void *opaque);
    void *opaque;
};

QEMU_BUILD_BUG_ON(sizeof(ColoConnKey) != 48);

static void set_ports(ColoConnKey *key, uint16_t sport, uint16_t dport,
                      bool from_guest)
{
    key->guest_port = from_guest ? sport : dport;
    key->peer_port = from_guest ? dport : sport;
}

static void set_addresses(ColoConnKey *key, const uint8_t *src,
                          const uint8_t *dst, unsigned len, bool from_guest)
{
    memcpy(from_guest ? key->guest : key->peer, src, len);
    memcpy(from_guest ? key->peer : key->guest, dst, len);
}

static void set_link_key(ColoConnKey *key, const ColoPacket *pkt,
                         bool from_guest)
{
    const uint8_t *eth = pkt->buf + pkt->eth;

    if (pkt->len - pkt->eth < 14) {
        return;
    }
    set_addresses(key, eth + 6, eth, 6, from_guest);
    if (pkt->kind == COLO_PACKET_ARP) {
        memcpy(key->peer + 6, pkt->buf + pkt->l3 + 24, 4);
        set_ports(key, lduw_be_p(pkt->buf + pkt->l3 + 6), 0, true);
    } else {
        set_ports(key, lduw_be_p(eth + 12), 0, true);
    }
}

static void set_ip_key(ColoConnKey *key, const ColoPacket *pkt,
                       bool from_guest)
{
    set_addresses(key, colo_packet_src(pkt), colo_packet_dst(pkt),
                  pkt->ip_version == 4 ? 4 : 16, from_guest);
    switch (pkt->kind) {
    case COLO_PACKET_TCP:
    case COLO_PACKET_UDP:
        set_ports(key, pkt->sport, pkt->dport, from_guest);
        break;
    case COLO_PACKET_ICMP:
    case COLO_PACKET_ICMP6:
        set_ports(key, pkt->sport, pkt->buf[pkt->l4], true);
        break;
    default:
        break;
    }
}

void colo_conn_key(ColoConnKey *key, const ColoPacket *pkt, bool from_guest)
{
    unsigned i;

    memset(key, 0, sizeof(*key));
    for (i = 0; i < COLO_VLANS_MAX; i++) {
        key->vlan[i] = i < pkt->nr_vlans ? pkt->vlan[i] : NO_VLAN;
    }
    key->kind = pkt->kind;
    key->ip_version = pkt->ip_version;
    key->ip_proto = pkt->ip_proto;
    if (pkt->ip_version) {
        set_ip_key(key, pkt, from_guest);
    } else {
        set_link_key(key, pkt, from_guest);
    }
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t lo, hi;

    mulu64(&lo, &hi, a, b);
    return lo ^ hi;
}

static uint64_t hash_key(const ColoConnTable *table, const ColoConnKey *key)
{
    uint64_t w[6];

    memcpy(w, key, sizeof(w));
    return mix(mix(w[0] ^ table->seed[0], w[1] ^ table->seed[1]) ^ w[2],
               mix(w[3] ^ table->seed[1], w[4] ^ table->seed[0]) ^ w[5] ^
               table->seed[0]);
}

ColoConnTable *colo_conn_table_new(size_t size, unsigned max,
                                   void (*destroy)(ColoConn *conn,
                                                   void *opaque),
                                   void *opaque)
{
    ColoConnTable *table = g_new0(ColoConnTable, 1);
    unsigned i;

    assert(size >= sizeof(ColoConn));
    table->entry_size = size;
    table->max = max;
    table->destroy = destroy;
    table->opaque = opaque;
    for (i = 0; i < ARRAY_SIZE(table->seed); i++) {
        table->seed[i] = (uint64_t)g_random_int() << 32 | g_random_int() | 1;
    }
    table->nr_buckets = BUCKETS_MIN;
    table->buckets = g_new0(ColoConn *, table->nr_buckets);
    QTAILQ_INIT(&table->lru);
    return table;
}

void colo_conn_table_free(ColoConnTable *table)
{
    if (table) {
        colo_conn_clear(table);
        g_free(table->buckets);
        g_free(table);
    }
}

static ColoConn **bucket(ColoConnTable *table, uint64_t hash)
{
    return &table->buckets[hash & (table->nr_buckets - 1)];
}

static ColoConn *find(ColoConnTable *table, const ColoConnKey *key,
                      uint64_t hash)
{
    ColoConn *conn = *bucket(table, hash);

    while (conn && (conn->hash != hash ||
                    memcmp(&conn->key, key, sizeof(*key)))) {
        conn = conn->chain;
    }
    return conn;
}

ColoConn *colo_conn_lookup(ColoConnTable *table, const ColoConnKey *key)
{
    ColoConn *conn = find(table, key, hash_key(table, key));

    if (conn && QTAILQ_NEXT(conn, lru)) {
        QTAILQ_REMOVE(&table->lru, conn, lru);
        QTAILQ_INSERT_TAIL(&table->lru, conn, lru);
    }
    return conn;
}

static void link_bucket(ColoConnTable *table, ColoConn *conn)
{
    ColoConn **head = bucket(table, conn->hash);

    conn->chain = *head;
    *head = conn;
}

static void grow(ColoConnTable *table)
{
    ColoConn *conn;

    g_free(table->buckets);
    table->nr_buckets *= 2;
    table->buckets = g_new0(ColoConn *, table->nr_buckets);
    QTAILQ_FOREACH(conn, &table->lru, lru) {
        link_bucket(table, conn);
    }
}

ColoConn *colo_conn_add(ColoConnTable *table, const ColoConnKey *key)
{
    ColoConn *conn;

    if (table->count >= table->max) {
        return NULL;
    }
    if (table->count == table->nr_buckets) {
        grow(table);
    }
    conn = g_malloc0(table->entry_size);
    conn->key = *key;
    conn->hash = hash_key(table, key);
    link_bucket(table, conn);
    QTAILQ_INSERT_TAIL(&table->lru, conn, lru);
    table->count++;
    return conn;
}

void colo_conn_remove(ColoConnTable *table, ColoConn *conn)
{
    ColoConn **link = bucket(table, conn->hash);

    while (*link != conn) {
        link = &(*link)->chain;
    }
    *link = conn->chain;
    QTAILQ_REMOVE(&table->lru, conn, lru);
    table->count--;
    if (table->destroy) {
        table->destroy(conn, table->opaque);
    }
    g_free(conn);
}

void colo_conn_clear(ColoConnTable *table)
{
    ColoConn *conn;

    while ((conn = QTAILQ_FIRST(&table->lru))) {
        colo_conn_remove(table, conn);
    }
}

unsigned colo_conn_count(const ColoConnTable *table)
{
    return table->count;
}

ColoConn *colo_conn_oldest(ColoConnTable *table)
{
    return QTAILQ_FIRST(&table->lru);
}

ColoConn *colo_conn_newer(ColoConn *conn)
{
    return QTAILQ_NEXT(conn, lru);
}
