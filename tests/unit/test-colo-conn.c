/*
 * Tests of the COLO proxy's connection keys and table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "net/colo/conn.h"
#include "colo-frame.h"

typedef struct Entry {
    ColoConn conn;
    unsigned value;
} Entry;

static void key_of(ColoConnKey *key, const TestFrame *f)
{
    uint8_t frame[2048];
    size_t len = test_frame(frame, f);
    ColoPacket pkt;

    colo_packet_parse(&pkt, frame, len, f->vnet_len);
    colo_conn_key(key, &pkt, !f->reply);
}

static bool same_key(const TestFrame *a, const TestFrame *b)
{
    ColoConnKey key_a, key_b;

    key_of(&key_a, a);
    key_of(&key_b, b);
    return !memcmp(&key_a, &key_b, sizeof(key_a));
}

static void test_directions(void)
{
    static const uint8_t protos[] = { 6, 17, 51 };
    unsigned i, v6;

    for (i = 0; i < ARRAY_SIZE(protos); i++) {
        for (v6 = 0; v6 < 2; v6++) {
            TestFrame f = { .proto = protos[i], .v6 = v6, .sport = 80,
                            .dport = 1234, .nr_vlans = 1, .vlan = { 5 },
                            .payload = "0123456789abcdef",
                            .payload_len = 16 };
            TestFrame g = f;

            g.reply = true;
            g_assert_true(same_key(&f, &g));
        }
    }
}

static void test_different(void)
{
    const TestFrame f = { .proto = 6, .sport = 80, .dport = 1234 };
    TestFrame g = f;

    g.dport++;
    g_assert_false(same_key(&f, &g));
    g = f;
    g.sport = f.dport;
    g.dport = f.sport;
    g_assert_false(same_key(&f, &g));
    g = f;
    g.proto = 17;
    g_assert_false(same_key(&f, &g));
    g = f;
    g.v6 = true;
    g_assert_false(same_key(&f, &g));
    g = f;
    g.nr_vlans = 1;
    g_assert_false(same_key(&f, &g));
    g.nr_vlans = 2;
    g.vlan[1] = 3;
    g_assert_false(same_key(&f, &g));
    g = f;
    g.vnet_len = 12;
    g.seq = 5;
    g_assert_true(same_key(&f, &g));
}

static void count_destroyed(ColoConn *conn, void *opaque)
{
    (*(unsigned *)opaque)++;
}

static ColoConnKey numbered_key(unsigned n)
{
    ColoConnKey key = { .kind = COLO_PACKET_TCP };

    memcpy(key.peer, &n, sizeof(n));
    return key;
}

static void test_table(void)
{
    enum { MAX = 5000 };
    unsigned destroyed = 0;
    ColoConnTable *table = colo_conn_table_new(sizeof(Entry), MAX,
                                               count_destroyed, &destroyed);
    ColoConnKey key;
    ColoConn *conn;
    unsigned i;

    for (i = 0; i < MAX; i++) {
        key = numbered_key(i);
        g_assert_null(colo_conn_lookup(table, &key));
        conn = colo_conn_add(table, &key);
        container_of(conn, Entry, conn)->value = i;
    }
    key = numbered_key(MAX);
    g_assert_null(colo_conn_add(table, &key));
    g_assert_cmpuint(colo_conn_count(table), ==, MAX);
    for (i = 0; i < MAX; i++) {
        key = numbered_key(i);
        conn = colo_conn_lookup(table, &key);
        g_assert_nonnull(conn);
        g_assert_cmpuint(container_of(conn, Entry, conn)->value, ==, i);
    }
    for (i = 0; i < MAX; i += 2) {
        key = numbered_key(i);
        colo_conn_remove(table, colo_conn_lookup(table, &key));
    }
    g_assert_cmpuint(destroyed, ==, MAX / 2);
    for (i = 0; i < MAX; i++) {
        key = numbered_key(i);
        g_assert_true(!colo_conn_lookup(table, &key) == !(i & 1));
    }
    colo_conn_table_free(table);
    g_assert_cmpuint(destroyed, ==, MAX);
}

static void test_order(void)
{
    g_autoptr(ColoConnTable) table = colo_conn_table_new(sizeof(Entry), 3,
                                                         NULL, NULL);
    ColoConnKey key[3];
    ColoConn *conn;
    unsigned i;

    for (i = 0; i < 3; i++) {
        key[i] = numbered_key(i);
        colo_conn_add(table, &key[i]);
    }
    colo_conn_lookup(table, &key[0]);
    conn = colo_conn_oldest(table);
    g_assert_false(memcmp(&conn->key, &key[1], sizeof(key[1])));
    conn = colo_conn_newer(conn);
    g_assert_false(memcmp(&conn->key, &key[2], sizeof(key[2])));
    conn = colo_conn_newer(conn);
    g_assert_false(memcmp(&conn->key, &key[0], sizeof(key[0])));
    g_assert_null(colo_conn_newer(conn));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/conn/directions", test_directions);
    g_test_add_func("/colo/conn/different", test_different);
    g_test_add_func("/colo/conn/table", test_table);
    g_test_add_func("/colo/conn/order", test_order);
    return g_test_run();
}
