/*
 * COLO proxy: how many packets a second the comparison matches
 *
 * bench-colo-compare [CONNECTIONS [PAYLOAD [PACKETS]]]
 *
 * Segments of TCP connections, from memory, one thread; both guests say the
 * same. Prints packets of the PVM per second with either guest first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "net/colo/compare.h"

#define HEADERS (14 + 20 + 20)

static uint64_t released;

static void on_release(void *opaque, const uint8_t *frame, size_t len,
                       size_t vnet_len)
{
    released++;
}

static void on_checkpoint(void *opaque, ColoCheckpointReason reason)
{
    fprintf(stderr, "diverged: %s\n", ColoCheckpointReason_str(reason));
    exit(1);
}

static const ColoCompareOps ops = {
    .release = on_release,
    .checkpoint = on_checkpoint,
};

static void set_segment(uint8_t *frame, unsigned conn, uint32_t seq)
{
    stl_be_p(frame + 30, 0x0a000000 + conn);
    stl_be_p(frame + 38, seq);
}

static void make_frame(uint8_t *frame, unsigned payload)
{
    memset(frame, 0, HEADERS + payload);
    frame[12] = 8;
    frame[14] = 0x45;
    stw_be_p(frame + 16, HEADERS - 14 + payload);
    frame[23] = 6;
    frame[35] = 80;
    frame[46] = 0x50;
    frame[47] = COLO_TCP_ACK;
}

/* @burst packets of one guest, then those of the other. */
static void run(unsigned conns, unsigned payload, unsigned packets,
                bool svm_first, unsigned burst)
{
    g_autofree uint8_t *frame = g_malloc(HEADERS + payload);
    ColoCompareLimits limits = { .max_conns = conns };
    ColoCompare *c = colo_compare_new(&ops, NULL, &limits);
    unsigned done, i, side;
    int64_t start;
    double seconds;

    make_frame(frame, payload);
    colo_compare_set_mode(c, COLO_COMPARE_COMPARE);
    colo_compare_commit(c, 1, 0);
    released = 0;
    start = g_get_monotonic_time();
    for (done = 0; done < packets; done += burst) {
        for (side = 0; side < 2; side++) {
            for (i = done; i < done + burst; i++) {
                set_segment(frame, i % conns, i / conns * payload);
                if (svm_first == !side) {
                    colo_compare_svm(c, frame, HEADERS + payload, 0, 1, 0);
                } else {
                    colo_compare_pvm(c, frame, HEADERS + payload, 0, 1, 0);
                }
            }
        }
    }
    seconds = (g_get_monotonic_time() - start) / 1e6;
    g_assert_cmpuint(released, ==, done);
    printf("%u connections, %u bytes, %s first, bursts of %u: "
           "%.2f million packets/s\n", conns, HEADERS + payload,
           svm_first ? "SVM" : "PVM", burst, done / seconds / 1e6);
    colo_compare_free(c);
}

int main(int argc, char **argv)
{
    unsigned arg[] = { 1, 10, 2000000 }; /* connections, payload, packets */
    unsigned burst;
    int i;

    for (i = 1; i < argc; i++) {
        if (i > ARRAY_SIZE(arg) ||
            qemu_strtoui(argv[i], NULL, 0, &arg[i - 1]) < 0 || !arg[i - 1] ||
            arg[1] > 60000) {
            fprintf(stderr, "usage: %s [CONNECTIONS [PAYLOAD [PACKETS]]], "
                    "up to 60000 bytes of payload\n", argv[0]);
            return 1;
        }
    }
    for (burst = 1; burst <= 64; burst *= 64) {
        run(arg[0], arg[1], arg[2], true, burst);
        run(arg[0], arg[1], arg[2], false, burst);
    }
    return 0;
}
