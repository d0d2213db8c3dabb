/*
 * COLO proxy: frames of the mirror, redirector and comparison streams
 *
 * Packets travel as QEMU's stream netdevs send them. Markers start with a
 * length no packet can have, so that neither is taken for the other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qapi/error.h"
#include "net/colo/frame.h"

/* "COLO marker, version 1", far above every packet length */
#define MARKER_MAGIC 0xC0104D01u

#define MARKER_FLAG_VNET_HDR 0x0001
#define MARKER_FLAGS_KNOWN MARKER_FLAG_VNET_HDR

/* Offsets in a marker; the CRC comes last, behind the name. */
enum {
    OFF_MAGIC = 0,
    OFF_SIZE = 4,
    OFF_KIND = 8,
    OFF_FLAGS = 10,
    OFF_EPOCH = 12,
    OFF_RESERVED = 20,
    OFF_NAME_LEN = 22,
    OFF_NAME = 24,
    CRC_SIZE = 4,
};

QEMU_BUILD_BUG_ON(OFF_NAME + CRC_SIZE != COLO_MARKER_FIXED);
QEMU_BUILD_BUG_ON(COLO_MARKER_MAX > COLO_STREAM_FRAME_MAX);

void colo_frame_decoder_init(ColoFrameDecoder *d, bool vnet_hdr)
{
    d->vnet_hdr = vnet_hdr;
    colo_frame_decoder_reset(d);
}

void colo_frame_decoder_reset(ColoFrameDecoder *d)
{
    d->failed = false;
    d->vnet_hdr_suspected = false;
    d->have = 0;
}

bool colo_frame_decoder_partial(const ColoFrameDecoder *d)
{
    return !d->failed && d->have > 0;
}

/* The lengths of struct virtio_net_hdr in its variants. */
static bool vnet_hdr_len_valid(uint32_t len)
{
    return len == 0 || len == 10 || len == 12 || len == 20;
}

/*
 * Does a packet of a stream without vnet headers start like one of a stream
 * with them? Then a broken frame behind it has its likely cause there.
 */
static bool looks_like_vnet_hdr(const uint8_t *data, size_t len)
{
    return len >= 4 && ldl_be_p(data) != 0 &&
           vnet_hdr_len_valid(ldl_be_p(data));
}

static bool check_length(const ColoFrameDecoder *d, uint32_t len, Error **errp)
{
    if (len > 0 && len <= COLO_STREAM_MAX_PACKET) {
        return true;
    }
    if (len == 0) {
        error_setg(errp, "frame with a packet of 0 bytes");
    } else {
        error_setg(errp, "frame with a packet of %" PRIu32
                   " bytes, the limit is %d", len, COLO_STREAM_MAX_PACKET);
    }
    if (d->vnet_hdr_suspected) {
        error_append_hint(errp, "The sender seems to use vnet headers, the "
                          "receiver does not: set vnet_hdr_support on both "
                          "or on neither.\n");
    }
    return false;
}

static bool check_vnet_hdr_len(uint32_t vnet_hdr_len, uint32_t len,
                               Error **errp)
{
    if (!vnet_hdr_len_valid(vnet_hdr_len)) {
        error_setg(errp, "frame with a vnet header of %" PRIu32
                   " bytes, valid are 0, 10, 12 and 20", vnet_hdr_len);
        error_append_hint(errp, "The sender seems to use no vnet headers, "
                          "the receiver does: set vnet_hdr_support on both "
                          "or on neither.\n");
        return false;
    }
    if (vnet_hdr_len > len) {
        error_setg(errp, "frame with a vnet header of %" PRIu32 " bytes in a "
                   "packet of %" PRIu32 " bytes", vnet_hdr_len, len);
        return false;
    }
    return true;
}

/*
 * Size of the frame that starts in @d->buf as far as its @d->have bytes
 * tell: more than @d->have while there is more to come, 0 with @errp set if
 * it can't be a frame.
 */
static size_t frame_size(const ColoFrameDecoder *d, Error **errp)
{
    size_t header = d->vnet_hdr ? 8 : 4;
    uint32_t len;

    if (d->have < 4) {
        return 4;
    }
    len = ldl_be_p(d->buf);
    if (len == MARKER_MAGIC) {
        if (d->have < OFF_KIND) {
            return OFF_KIND;
        }
        len = ldl_be_p(d->buf + OFF_SIZE);
        if (len < COLO_MARKER_FIXED || len > COLO_MARKER_MAX) {
            error_setg(errp, "marker of %" PRIu32 " bytes, valid are %d to %d",
                       len, COLO_MARKER_FIXED, COLO_MARKER_MAX);
            return 0;
        }
        return len;
    }
    if (!check_length(d, len, errp)) {
        return 0;
    }
    if (d->have >= header && d->vnet_hdr &&
        !check_vnet_hdr_len(ldl_be_p(d->buf + 4), len, errp)) {
        return 0;
    }
    return d->have < header ? header : header + len;
}

size_t colo_frame_decoder_missing(ColoFrameDecoder *d)
{
    size_t size = d->failed ? 0 : frame_size(d, NULL);

    return size > d->have ? size - d->have : 1;
}

static bool marker_name(const uint8_t *buf, size_t size, ColoMarker *m,
                        Error **errp)
{
    uint16_t name_len = lduw_be_p(buf + OFF_NAME_LEN);

    if (name_len != size - COLO_MARKER_FIXED) {
        error_setg(errp, "marker of %zu bytes with a netdev name of %u bytes",
                   size, name_len);
        return false;
    }
    memcpy(m->netdev, buf + OFF_NAME, name_len);
    m->netdev[name_len] = '\0';
    if (strlen(m->netdev) != name_len) {
        error_setg(errp, "marker with a NUL byte in its netdev name");
        return false;
    }
    return true;
}

static bool parse_marker(const ColoFrameDecoder *d, size_t size,
                         ColoMarker *m, Error **errp)
{
    const uint8_t *buf = d->buf;
    uint16_t kind = lduw_be_p(buf + OFF_KIND);
    uint16_t flags = lduw_be_p(buf + OFF_FLAGS);
    bool vnet_hdr = flags & MARKER_FLAG_VNET_HDR;

    if (crc32c(0xffffffff, buf, size - CRC_SIZE) !=
        ldl_be_p(buf + size - CRC_SIZE)) {
        error_setg(errp, "marker with a wrong checksum");
        return false;
    }
    if (kind < COLO_MARKER_ATTACH || kind > COLO_MARKER_DETACH) {
        error_setg(errp, "marker of the unknown kind %u", kind);
        return false;
    }
    if ((flags & ~MARKER_FLAGS_KNOWN) || lduw_be_p(buf + OFF_RESERVED)) {
        error_setg(errp, "marker with unknown flags 0x%x", flags);
        return false;
    }
    if (vnet_hdr != d->vnet_hdr) {
        error_setg(errp, "sender %s vnet headers, receiver %s",
                   vnet_hdr ? "uses" : "does not use",
                   d->vnet_hdr ? "does" : "does not");
        error_append_hint(errp, "Set vnet_hdr_support on both or on "
                          "neither.\n");
        return false;
    }
    m->kind = kind;
    m->epoch = ldq_be_p(buf + OFF_EPOCH);
    return marker_name(buf, size, m, errp);
}

static bool parse_frame(ColoFrameDecoder *d, size_t size, ColoFrame *frame,
                        Error **errp)
{
    size_t header = d->vnet_hdr ? 8 : 4;

    frame->is_marker = ldl_be_p(d->buf) == MARKER_MAGIC;
    if (frame->is_marker) {
        return parse_marker(d, size, &frame->marker, errp);
    }
    frame->data = d->buf + header;
    frame->len = size - header;
    frame->vnet_hdr_len = d->vnet_hdr ? ldl_be_p(d->buf + 4) : 0;
    d->vnet_hdr_suspected = !d->vnet_hdr &&
                            looks_like_vnet_hdr(frame->data, frame->len);
    return true;
}

int colo_frame_decode(ColoFrameDecoder *d, const uint8_t **buf, size_t *len,
                      ColoFrame *frame, Error **errp)
{
    while (!d->failed) {
        size_t size = frame_size(d, errp);
        size_t take;

        if (size == 0) {
            d->failed = true;
            return -1;
        }
        if (d->have == size) {
            d->have = 0;
            if (parse_frame(d, size, frame, errp)) {
                return 1;
            }
            d->failed = true;
            return -1;
        }
        if (*len == 0) {
            return 0;
        }
        take = MIN(size - d->have, *len);
        memcpy(d->buf + d->have, *buf, take);
        d->have += take;
        *buf += take;
        *len -= take;
    }
    *buf += *len;
    *len = 0;
    return 0;
}

size_t colo_frame_put_header(uint8_t *buf, bool vnet_hdr, size_t len,
                             uint32_t vnet_hdr_len)
{
    stl_be_p(buf, len);
    if (!vnet_hdr) {
        return 4;
    }
    stl_be_p(buf + 4, vnet_hdr_len);
    return 8;
}

size_t colo_frame_put_marker(uint8_t *buf, bool vnet_hdr,
                             const ColoMarker *marker)
{
    size_t name_len = strlen(marker->netdev);
    size_t size = COLO_MARKER_FIXED + name_len;

    stl_be_p(buf + OFF_MAGIC, MARKER_MAGIC);
    stl_be_p(buf + OFF_SIZE, size);
    stw_be_p(buf + OFF_KIND, marker->kind);
    stw_be_p(buf + OFF_FLAGS, vnet_hdr ? MARKER_FLAG_VNET_HDR : 0);
    stq_be_p(buf + OFF_EPOCH, marker->epoch);
    stw_be_p(buf + OFF_RESERVED, 0);
    stw_be_p(buf + OFF_NAME_LEN, name_len);
    memcpy(buf + OFF_NAME, marker->netdev, name_len);
    stl_be_p(buf + size - CRC_SIZE, crc32c(0xffffffff, buf, size - CRC_SIZE));
    return size;
}

void colo_frame_fit_vnet_hdr(struct iovec iov[2],
                             uint8_t hdr[COLO_VNET_HDR_MAX],
                             const uint8_t *data, size_t len, uint32_t have,
                             uint32_t want)
{
    memset(hdr, 0, want);
    memcpy(hdr, data, MIN(have, want));
    iov[0].iov_base = hdr;
    iov[0].iov_len = want;
    iov[1].iov_base = (void *)(data + have);
    iov[1].iov_len = len - have;
}
