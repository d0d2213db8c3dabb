/*
 * COLO proxy: connections and a bounded table of them
 *
 * The key names a flow from the guest's point of view, so that packets of
 * both directions find the same entry. One table belongs to one comparison
 * or rewriter and is used by one thread at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_CONN_H
#define NET_COLO_CONN_H

#include "qemu/queue.h"
#include "packet.h"

/*
 * What makes two packets belong to one flow. Without implicit padding, unused
 * bytes are zero: keys are hashed and compared as memory.
 *
 * Not IP: the addresses hold the MAC addresses, ports the EtherType; ARP: the
 * target's IP address besides. Fragments: no ports, as only the first has
 * them; ICMP: type and, for echo, the identifier.
 */
typedef struct ColoConnKey {
    uint8_t guest[16];      /* address on the guest's side */
    uint8_t peer[16];       /* address on the other side */
    uint16_t guest_port;
    uint16_t peer_port;
    uint16_t vlan[COLO_VLANS_MAX]; /* 0xffff: no such tag */
    uint8_t kind;           /* ColoPacketKind */
    uint8_t ip_version;
    uint8_t ip_proto;
    uint8_t zero[5];        /* to a multiple of 8 bytes */
} ColoConnKey;

/* The key of @pkt, which the guest emits (@from_guest) or receives. */
void colo_conn_key(ColoConnKey *key, const ColoPacket *pkt, bool from_guest);

/* The head of a table's entries; embed it as the first member. */
typedef struct ColoConn ColoConn;
struct ColoConn {
    ColoConnKey key;
    uint64_t hash;
    ColoConn *chain;                /* next in the hash bucket */
    QTAILQ_ENTRY(ColoConn) lru;
};

typedef struct ColoConnTable ColoConnTable;

/*
 * A table of at most @max entries of @size bytes each. @destroy is called
 * before an entry's memory is freed, and may be NULL.
 */
ColoConnTable *colo_conn_table_new(size_t size, unsigned max,
                                   void (*destroy)(ColoConn *conn,
                                                   void *opaque),
                                   void *opaque);
void colo_conn_table_free(ColoConnTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoConnTable, colo_conn_table_free)

/* The entry of @key, made the most recently used one; NULL: none. */
ColoConn *colo_conn_lookup(ColoConnTable *table, const ColoConnKey *key);

/*
 * Add an entry for @key, which has none, zeroed but for its head. NULL if the
 * table is full: make room with colo_conn_remove() or give up.
 */
ColoConn *colo_conn_add(ColoConnTable *table, const ColoConnKey *key);

/* Take @conn out of the table and free it. */
void colo_conn_remove(ColoConnTable *table, ColoConn *conn);
void colo_conn_clear(ColoConnTable *table);

unsigned colo_conn_count(const ColoConnTable *table);

/* Least recently used entry and the next more recent one; NULL: no more. */
ColoConn *colo_conn_oldest(ColoConnTable *table);
ColoConn *colo_conn_newer(ColoConn *conn);

#endif
