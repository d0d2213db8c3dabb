/*
 * Frames for the tests of the COLO proxy
 *
 * Written apart from the code under test, so that a mistake in lengths or
 * checksums there does not cancel out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_net.h"
#include "colo-frame.h"

static uint32_t sum16(uint32_t sum, const uint8_t *p, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++) {
        sum += i & 1 ? p[i] : p[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static uint32_t pseudo(const uint8_t *ip, uint8_t proto, uint32_t len)
{
    bool v4 = ip[0] >> 4 == 4;
    uint8_t tail[8] = { len >> 24, len >> 16, len >> 8, len, 0, 0, 0, proto };

    return sum16(sum16(0, ip + (v4 ? 12 : 8), v4 ? 8 : 32), tail, 8);
}

static int csum_field(uint8_t proto)
{
    switch (proto) {
    case 6:
        return 16;
    case 17:
        return 6;
    case 1:
    case 58:
        return 2;
    default:
        return -1;
    }
}

static uint8_t *put_l2(uint8_t *p, const TestFrame *f)
{
    static const uint8_t guest[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
    static const uint8_t peer[6] = { 0x52, 0x55, 10, 0, 2, 2 };
    unsigned i;

    memcpy(p, f->reply ? guest : peer, 6);
    memcpy(p + 6, f->reply ? peer : guest, 6);
    p += 12;
    for (i = 0; i < f->nr_vlans; i++) {
        stw_be_p(p, i + 1 < f->nr_vlans ? 0x88a8 : 0x8100);
        stw_be_p(p + 2, f->vlan[i]);
        p += 4;
    }
    stw_be_p(p, f->v6 ? 0x86dd : 0x0800);
    return p + 2;
}

static uint8_t *put_ip4(uint8_t *ip, const TestFrame *f, unsigned l4_len)
{
    unsigned hlen = 20 + f->ip_options_len;

    memset(ip, 0, 20);
    ip[0] = 0x40 | hlen / 4;
    stw_be_p(ip + 2, MIN(hlen + l4_len, 0xffff));
    stw_be_p(ip + 4, f->id);
    stw_be_p(ip + 6, f->frag);
    ip[8] = f->ttl ? f->ttl : 64;
    ip[9] = f->proto;
    stl_be_p(ip + (f->reply ? 16 : 12), 0x0a00020f);
    stl_be_p(ip + (f->reply ? 12 : 16), 0x0a000202);
    if (f->ip_options_len) {
        memcpy(ip + 20, f->ip_options, f->ip_options_len);
    }
    stw_be_p(ip + 10, ~sum16(0, ip, hlen));
    return ip + hlen;
}

static uint8_t *put_ip6(uint8_t *ip, const TestFrame *f, unsigned l4_len)
{
    memset(ip, 0, 40);
    ip[0] = 0x60;
    stw_be_p(ip + 2, f->id);        /* in the flow label */
    stw_be_p(ip + 4, f->ip_options_len + l4_len);
    ip[6] = f->ip_options_len ? f->ext_proto : f->proto;
    ip[7] = f->ttl ? f->ttl : 64;
    ip[8] = ip[24] = 0xfd;
    ip[f->reply ? 39 : 23] = 1;
    ip[f->reply ? 23 : 39] = 2;
    if (f->ip_options_len) {
        memcpy(ip + 40, f->ip_options, f->ip_options_len);
    }
    return ip + 40 + f->ip_options_len;
}

static unsigned l4_hlen(const TestFrame *f)
{
    return f->proto == 6 ? 20 + f->options_len : f->proto == 17 ? 8 : 0;
}

static void put_l4(uint8_t *l4, const TestFrame *f)
{
    unsigned hlen = l4_hlen(f);

    memset(l4, 0, hlen);
    if (hlen) {
        stw_be_p(l4, f->reply ? f->dport : f->sport);
        stw_be_p(l4 + 2, f->reply ? f->sport : f->dport);
    }
    if (f->proto == 17) {
        stw_be_p(l4 + 4, 8 + f->payload_len);
    }
    if (f->proto == 6) {
        stl_be_p(l4 + 4, f->seq);
        stl_be_p(l4 + 8, f->ack);
        l4[12] = hlen / 4 << 4;
        l4[13] = f->flags;
        stw_be_p(l4 + 14, f->win);
        if (f->options_len) {
            memcpy(l4 + 20, f->options, f->options_len);
        }
    }
    if (f->payload_len) {
        memcpy(l4 + hlen, f->payload, f->payload_len);
    }
}

static void put_csum(uint8_t *ip, uint8_t *l4, const TestFrame *f,
                     unsigned len)
{
    int field = csum_field(f->proto);
    uint32_t sum = f->proto == 1 ? 0 : pseudo(ip, f->proto, len);

    if (field < 0 || field + 2 > len || f->bad_csum) {
        return;
    }
    if (f->vnet_len && f->vnet_flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        stw_be_p(l4 + field, sum);
        return;
    }
    stw_be_p(l4 + field, 0);
    stw_be_p(l4 + field, ~sum16(sum, l4, len));
}

size_t test_frame(uint8_t *out, const TestFrame *f)
{
    unsigned l4_len = l4_hlen(f) + f->payload_len;
    uint8_t *p = out + f->vnet_len;
    uint8_t *ip, *l4;

    memset(out, 0, f->vnet_len);
    if (f->vnet_len >= sizeof(struct virtio_net_hdr)) {
        struct virtio_net_hdr hdr = {
            .flags = f->vnet_flags,
            .gso_type = f->gso_type,
            .gso_size = f->gso_size,
        };

        memcpy(out, &hdr, sizeof(hdr));
    }
    ip = put_l2(p, f);
    l4 = f->v6 ? put_ip6(ip, f, l4_len) : put_ip4(ip, f, l4_len);
    put_l4(l4, f);
    put_csum(ip, l4, f, l4_len);
    memset(l4 + l4_len, 0xaa, f->padding);
    return l4 + l4_len + f->padding - out;
}

bool test_frame_csum_ok(const uint8_t *frame, size_t len, size_t vnet_len)
{
    const uint8_t *ip = frame + vnet_len + 14;
    bool v4 = ip[0] >> 4 == 4;
    unsigned hlen = v4 ? (ip[0] & 15) * 4 : 40;
    unsigned l4_len = v4 ? lduw_be_p(ip + 2) - hlen : lduw_be_p(ip + 4);
    uint8_t proto = v4 ? ip[9] : ip[6];
    uint32_t sum = proto == 1 ? 0 : pseudo(ip, proto, l4_len);

    g_assert_cmpuint(vnet_len + 14 + hlen + l4_len, <=, len);
    return (!v4 || sum16(0, ip, hlen) == 0xffff) &&
           sum16(sum, ip + hlen, l4_len) == 0xffff;
}
