/*
 * COLO proxy: frames of the mirror, redirector and comparison streams
 *
 * The pure codec: no sockets, no globals, no locks. The format is written
 * down in docs/interop/colo-proxy-stream.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_FRAME_H
#define NET_COLO_FRAME_H

/* Longest packet in a frame, in bytes: NET_BUFSIZE, which net.h explains. */
#define COLO_STREAM_MAX_PACKET (4096 + 65536)

/* Longest name of a netdev in a marker, in bytes without the NUL. */
#define COLO_MARKER_MAX_NETDEV 255

/* Marker without its netdev name, and the longest marker, in bytes. */
#define COLO_MARKER_FIXED 28
#define COLO_MARKER_MAX (COLO_MARKER_FIXED + COLO_MARKER_MAX_NETDEV)

/* Longest frame of any kind, in bytes. */
#define COLO_STREAM_FRAME_MAX (4 + 4 + COLO_STREAM_MAX_PACKET)

typedef enum ColoMarkerKind {
    /* A redirector tells the comparison whose packets it sends; no epoch. */
    COLO_MARKER_ATTACH = 1,
    /* What follows was sent to or by the PVM in the marker's epoch. */
    COLO_MARKER_CAPTURE = 2,
    /* What follows was sent by the SVM in the marker's epoch. */
    COLO_MARKER_COMMIT = 3,
    /* The comparison has gone: what was sent to it ends here; no epoch. */
    COLO_MARKER_DETACH = 4,
} ColoMarkerKind;

typedef struct ColoMarker {
    ColoMarkerKind kind;
    uint64_t epoch;
    char netdev[COLO_MARKER_MAX_NETDEV + 1];
} ColoMarker;

typedef struct ColoFrame {
    bool is_marker;
    /* a marker: */
    ColoMarker marker;
    /*
     * or a packet: @data has @len bytes, the first @vnet_hdr_len of which are
     * the vnet header. Belongs to the decoder, valid until its next call.
     */
    const uint8_t *data;
    size_t len;
    uint32_t vnet_hdr_len;
} ColoFrame;

typedef struct ColoFrameDecoder {
    /* true if packet frames of this stream have a vnet_hdr_len field */
    bool vnet_hdr;
    /* set by the first error, cleared by colo_frame_decoder_reset() */
    bool failed;
    /* the last packet of a stream without vnet headers seemed to have one */
    bool vnet_hdr_suspected;
    size_t have;
    uint8_t buf[COLO_STREAM_FRAME_MAX];
} ColoFrameDecoder;

/*
 * Prepare @d for a stream whose packets have a vnet_hdr_len field if
 * @vnet_hdr. The caller owns @d; it needs no clean-up.
 */
void colo_frame_decoder_init(ColoFrameDecoder *d, bool vnet_hdr);

/* Forget what was received: the next byte is the first of a frame. */
void colo_frame_decoder_reset(ColoFrameDecoder *d);

/* True if the stream stopped inside a frame. */
bool colo_frame_decoder_partial(const ColoFrameDecoder *d);

/* Bytes up to the next boundary as far as known, at least 1. */
size_t colo_frame_decoder_missing(ColoFrameDecoder *d);

/*
 * Take bytes from *@buf, which has *@len of them, up to the end of a frame,
 * and advance both. The bytes are untrusted.
 *
 * Returns 1 and fills @frame when a frame is complete, 0 when all bytes were
 * taken and the frame is not, -1 with @errp set when the bytes are no frame;
 * from then on the boundaries are lost, and until a reset every call takes
 * all bytes and returns 0.
 */
int colo_frame_decode(ColoFrameDecoder *d, const uint8_t **buf, size_t *len,
                      ColoFrame *frame, Error **errp);

/*
 * Write the header of a packet frame with @len bytes of packet (1 to
 * COLO_STREAM_MAX_PACKET), the first @vnet_hdr_len of which are a vnet header,
 * to @buf (8 bytes). Returns its length in bytes: 4, or 8 if @vnet_hdr.
 */
size_t colo_frame_put_header(uint8_t *buf, bool vnet_hdr, size_t len,
                             uint32_t vnet_hdr_len);

/*
 * Write the frame of @marker for a stream with (@vnet_hdr) or without vnet
 * headers to @buf (COLO_MARKER_MAX bytes). Returns its length in bytes.
 */
size_t colo_frame_put_marker(uint8_t *buf, bool vnet_hdr,
                             const ColoMarker *marker);

/* Longest vnet header of any netdev, in bytes. */
#define COLO_VNET_HDR_MAX 20

/*
 * Describe in @iov the packet of @len bytes at @data, which starts with a
 * vnet header of @have bytes, with one of @want bytes instead: cut, filled up
 * with zeroes (which mean no offload), left out or put in front. Sender and
 * receiver differ, for instance, before a guest has set up its NIC. @hdr is
 * memory for it; both lengths are at most COLO_VNET_HDR_MAX, @have at most
 * @len.
 */
void colo_frame_fit_vnet_hdr(struct iovec iov[2],
                             uint8_t hdr[COLO_VNET_HDR_MAX],
                             const uint8_t *data, size_t len, uint32_t have,
                             uint32_t want);

#endif
