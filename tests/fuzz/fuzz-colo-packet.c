/*
 * COLO proxy: fuzzer of the packet parser, and of all that trusts it
 *
 * The input is one byte that picks the length of the vnet header, and a
 * frame, vnet header first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "net/colo/conn.h"
#include "net/colo/rewrite.h"
#include "fuzz.h"

static void check_sane(const ColoPacket *pkt, size_t len)
{
    g_assert(pkt->len == len && pkt->eth <= pkt->l3 && pkt->l3 <= pkt->l4 &&
             pkt->l4 <= pkt->payload && pkt->payload <= pkt->end &&
             pkt->end <= len);
    g_assert(pkt->nr_sacks <= COLO_SACK_MAX);
    g_assert(pkt->nr_vlans <= COLO_VLANS_MAX);
    g_assert(colo_packet_equal(pkt, pkt));
}

/* A segment that was changed is one still, with nothing else changed. */
static void change_tcp(ColoPacket *pkt, uint8_t *buf, size_t vnet_len)
{
    uint8_t options[COLO_TCP_OPTIONS_MAX];
    g_autofree uint8_t *ack = g_malloc(pkt->payload + 12);
    ColoPacket again;
    size_t len;

    g_assert(colo_packet_syn_options(pkt, options) <= sizeof(options));
    colo_packet_set_seq(pkt, buf, ~pkt->seq);
    colo_packet_set_ack(pkt, buf, pkt->ack + 1);
    colo_packet_set_win(pkt, buf, 1);
    colo_packet_shift_sacks(pkt, buf, 0x10203);
    if (pkt->stamps) {
        colo_packet_set_tsval(pkt, buf, ~colo_packet_tsval(pkt));
        colo_packet_set_tsecr(pkt, buf, colo_packet_tsecr(pkt) + 1);
    }
    colo_packet_parse(&again, buf, pkt->len, vnet_len);
    g_assert(!memcmp(&again, pkt, sizeof(again)));
    colo_packet_keep_sacks(pkt, buf, 2);
    colo_packet_parse(&again, buf, pkt->len, vnet_len);
    g_assert(again.has_tcp && again.nr_sacks == pkt->nr_sacks &&
             again.payload == pkt->payload);
    if (pkt->kind != COLO_PACKET_TCP) {
        return;
    }
    len = colo_packet_make_ack(pkt, 1, 2, 3, ack, pkt->payload + 12);
    colo_packet_parse(&again, ack, len, vnet_len);
    g_assert(again.kind == COLO_PACKET_TCP && again.end == len &&
             again.tcp_flags == COLO_TCP_ACK &&
             again.payload == again.end);
}

/* Both directions, both modes, with and without an entry for it. */
static void rewrite(const uint8_t *data, size_t len, size_t vnet_len)
{
    g_autoptr(ColoRewrite) rw = colo_rewrite_new(4);
    g_autoptr(GByteArray) saved = g_byte_array_new();
    g_autofree uint8_t *buf = g_memdup2(data, len);
    ColoRewriteTable *table;
    unsigned i;

    colo_rewrite_set_mode(rw, COLO_REWRITE_LEARN);
    for (i = 0; i < 4; i++) {
        colo_rewrite_out(rw, buf, len, vnet_len, i);
        colo_rewrite_in(rw, buf, len, vnet_len, i);
        if (i == 2) {
            colo_rewrite_set_mode(rw, COLO_REWRITE_WIRE);
        }
    }
    colo_rewrite_save(rw, saved);
    table = colo_rewrite_load(saved->data, saved->len, 4, NULL);
    g_assert(table);
    colo_rewrite_commit(rw, table);
    colo_rewrite_tick(rw, 1000000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t vnet_lens[] = { 0, 10, 12, 20 };
    g_autofree uint8_t *buf = NULL;
    ColoConnKey out, in;
    ColoPacket pkt, quoted;
    size_t vnet_len, len;

    if (!size) {
        return 0;
    }
    vnet_len = vnet_lens[data[0] & 3];
    len = size - 1;
    /* Memory that ends where the frame does, and is never NULL. */
    buf = g_malloc(MAX(len, 1));
    memcpy(buf, data + 1, len);
    colo_packet_parse(&pkt, buf, len, vnet_len);
    check_sane(&pkt, len);
    colo_conn_key(&out, &pkt, true);
    colo_conn_key(&in, &pkt, false);
    if (pkt.kind == COLO_PACKET_TCP || pkt.kind == COLO_PACKET_UDP) {
        colo_packet_l4_csum(&pkt);
    }
    rewrite(buf, len, vnet_len);
    if (colo_packet_quoted(&pkt, &quoted)) {
        colo_packet_set_quoted_seq(&pkt, &quoted, buf, 7);
    }
    if (pkt.has_tcp) {
        change_tcp(&pkt, buf, vnet_len);
    }
    return 0;
}
