/*
 * Fuzzer of the COLO proxy's stream frames
 *
 * The first byte of the input selects whether the stream has vnet headers
 * and into what pieces the rest is cut. Built with -fsanitize=fuzzer, or
 * linked with a main() that replays files.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "net/colo/frame.h"
#include "fuzz.h"

static void check_frame(const ColoFrame *frame)
{
    g_autofree uint8_t *copy = NULL;

    if (frame->is_marker) {
        g_assert(memchr(frame->marker.netdev, 0,
                        sizeof(frame->marker.netdev)));
        return;
    }
    g_assert(frame->len > 0 && frame->len <= COLO_STREAM_MAX_PACKET);
    g_assert(frame->vnet_hdr_len <= frame->len);
    /* a sanitizer sees whether all of it may be read */
    copy = g_memdup2(frame->data, frame->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree ColoFrameDecoder *d = g_new(ColoFrameDecoder, 1);
    size_t piece;

    if (size == 0) {
        return 0;
    }
    colo_frame_decoder_init(d, data[0] & 1);
    piece = 1 + (data[0] >> 1);
    data++;
    size--;
    while (size > 0) {
        size_t len = MIN(piece, size);
        ColoFrame frame;
        Error *err = NULL;
        int ret;

        size -= len;
        do {
            ret = colo_frame_decode(d, &data, &len, &frame, &err);
            if (ret > 0) {
                check_frame(&frame);
            }
        } while (ret > 0);
        g_assert((ret < 0) == (err != NULL));
        if (err) {
            data += len;
            error_free(err);
            colo_frame_decoder_reset(d);
        }
    }
    return 0;
}
