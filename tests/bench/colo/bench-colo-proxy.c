/*
 * COLO proxy: what a packet costs
 *
 * bench-colo-proxy NAME BYTES CONNECTIONS [SECONDS]
 *
 * Calls the proxy's functions with frames from memory, in one thread, for
 * SECONDS (0.5) of its CPU time: what else runs does not count. BYTES is the
 * length of a frame, Ethernet header included. Frames are segments of
 * CONNECTIONS TCP connections, which take turns in an order that caches can't
 * foresee. There is one frame, changed in place: that of QEMU is in the cache
 * too, as it was received just before.
 *
 *   decode         a frame is cut out of a stream of them
 *   parse          ... and its headers are read; there are no connections
 *   lookup         the connection of a parsed packet is found
 *   compare        the SVM's like of a packet comes behind it, which was held
 *   compare-burst  the same, 64 packets of the PVM and then the SVM's
 *   compare-ahead  the SVM's comes first
 *   rewrite-out    what the guest emits is put into the wire's numbering
 *   rewrite-in     what the guest receives is put into its own
 *   repair         a segment to the guest is stored, and its ACK frees it
 *
 * Comparing counts the PVM's packets, in the time for both guests'. All but
 * decode and lookup include parsing. Prints "NAME VALUE" for each metric.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "net/colo/compare.h"
#include "net/colo/conn.h"
#include "net/colo/frame.h"
#include "net/colo/repair.h"
#include "net/colo/rewrite.h"

#define HEADERS     (14 + 20 + 20)
#define BYTES_MAX   (HEADERS + 60000)
#define CONNS_MAX   (1 << 24)

/* Offsets in a frame */
#define AT_IP_LEN   16
#define AT_PROTO    23
#define AT_SRC      26
#define AT_DST      30
#define AT_SPORT    34
#define AT_DPORT    36
#define AT_SEQ      38
#define AT_ACK      42
#define AT_DOFF     46
#define AT_FLAGS    47
#define AT_WINDOW   48

#define GUEST       0x0a000001
#define PEERS       0x0b000000
#define GUEST_PORT  80
#define PEER_PORT   1024

/* First sequence numbers: of the peers, on the wire, and of the guest */
#define PEER_ISN    1000
#define WIRE_ISN    2000
#define GUEST_ISN   3000

/* Packets between two looks at the clock; a multiple of BURST */
#define STEP        256
#define BURST       64

/*
 * Were each round like the last, the connection due would always be the least
 * recently used one, and its neighbours in such a list the ones due next.
 */
#define ORDERS      2

/* How much a socket is read at a time */
#define CHUNK       4096

/* Which connection is next, and at which byte of its stream all are */
typedef struct Turn {
    unsigned nr;
    uint32_t seq;
} Turn;

typedef struct Load {
    unsigned bytes;
    unsigned conns;
    uint32_t *order;        /* of the connections, in ORDERS rounds */
    uint8_t *frame;
    uint8_t *ack;           /* of the guest, without data */
    Turn turn;              /* the PVM's, where there are two guests */
    Turn svm;
    uint64_t good;          /* packets that were treated as expected */
    uint8_t *chunk;
    ColoFrameDecoder *decoder;
    ColoConnTable *table;
    ColoPacket pkt;
    ColoCompare *compare;
    ColoRewrite *rewrite;
    ColoRepair *repair;
} Load;

typedef struct Bench {
    const char *name;
    void (*set_up)(Load *load);
    /* @n packets; adds those that were treated as expected to @load->good */
    void (*step)(Load *load, unsigned n);
    void (*tear_down)(Load *load);
} Bench;

/* ---- frames ---- */

static uint8_t *make_frame(unsigned bytes, bool from_guest)
{
    uint8_t *frame = g_malloc0(bytes);

    frame[12] = 8;
    frame[14] = 0x45;
    stw_be_p(frame + AT_IP_LEN, bytes - 14);
    frame[AT_PROTO] = IPPROTO_TCP;
    stl_be_p(frame + (from_guest ? AT_SRC : AT_DST), GUEST);
    stw_be_p(frame + (from_guest ? AT_SPORT : AT_DPORT), GUEST_PORT);
    stw_be_p(frame + (from_guest ? AT_DPORT : AT_SPORT), PEER_PORT);
    frame[AT_DOFF] = 5 << 4;
    frame[AT_FLAGS] = COLO_TCP_ACK;
    stw_be_p(frame + AT_WINDOW, 0xffff);
    return frame;
}

static void set_peer(uint8_t *frame, uint32_t conn, bool from_guest)
{
    stl_be_p(frame + (from_guest ? AT_DST : AT_SRC), PEERS + conn);
}

/* Make @load's frame the next segment, and return its sequence number. */
static uint32_t next_segment(Load *load, Turn *turn, bool from_guest)
{
    uint32_t seq = turn->seq;

    set_peer(load->frame, load->order[turn->nr], from_guest);
    stl_be_p(load->frame + AT_SEQ, seq);
    if (++turn->nr == load->conns || turn->nr == ORDERS * load->conns) {
        turn->seq += load->bytes - HEADERS;
        if (turn->nr != load->conns) {
            turn->nr = 0;
        }
    }
    return seq;
}

static void shuffle(uint32_t *order, unsigned n, GRand *rand)
{
    unsigned i, j;

    for (i = 0; i < n; i++) {
        j = g_rand_int(rand) % (i + 1);
        order[i] = order[j];
        order[j] = i;
    }
}

/* The same in each run. */
static uint32_t *make_orders(unsigned conns)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    uint32_t *order = g_new(uint32_t, ORDERS * conns);
    unsigned i;

    for (i = 0; i < ORDERS; i++) {
        shuffle(order + i * conns, conns, rand);
    }
    return order;
}

/* ---- streams ---- */

static void decode_set_up(Load *load)
{
    load->decoder = g_new(ColoFrameDecoder, 1);
    colo_frame_decoder_init(load->decoder, false);
    load->chunk = g_malloc(8 + load->bytes);
    colo_frame_put_header(load->chunk, false, load->bytes, 0);
    memcpy(load->chunk + 4, load->frame, load->bytes);
}

/* Chunks are read without regard to where frames end. */
static void decode_step(Load *load, unsigned n)
{
    size_t size = 4 + load->bytes, left = size * n, chunk = 0;

    while (left) {
        const uint8_t *buf = load->chunk + (size - left % size) % size;
        size_t len = MIN(size - (buf - load->chunk), CHUNK - chunk);
        size_t part = len;
        ColoFrame frame;

        load->good += colo_frame_decode(load->decoder, &buf, &part, &frame,
                                        &error_abort);
        chunk = (chunk + len) % CHUNK;
        left -= len;
    }
}

static void decode_tear_down(Load *load)
{
    g_free(load->chunk);
    g_free(load->decoder);
}

/* ---- packets and connections ---- */

static void parse_step(Load *load, unsigned n)
{
    ColoPacket pkt;

    while (n--) {
        next_segment(load, &load->turn, true);
        colo_packet_parse(&pkt, load->frame, load->bytes, 0);
        load->good += pkt.kind == COLO_PACKET_TCP;
    }
}

static void lookup_set_up(Load *load)
{
    ColoConnKey key;
    uint32_t i;

    load->table = colo_conn_table_new(sizeof(ColoConn), load->conns, NULL,
                                      NULL);
    colo_packet_parse(&load->pkt, load->frame, load->bytes, 0);
    for (i = 0; i < load->conns; i++) {
        set_peer(load->frame, i, true);
        colo_conn_key(&key, &load->pkt, true);
        colo_conn_add(load->table, &key);
    }
}

static void lookup_step(Load *load, unsigned n)
{
    ColoConnKey key;

    while (n--) {
        next_segment(load, &load->turn, true);
        colo_conn_key(&key, &load->pkt, true);
        load->good += colo_conn_lookup(load->table, &key) != NULL;
    }
}

static void lookup_tear_down(Load *load)
{
    colo_conn_table_free(load->table);
}

/* ---- comparing ---- */

static void on_release(void *opaque, const uint8_t *frame, size_t len,
                       size_t vnet_len)
{
    Load *load = opaque;

    load->good++;
}

static void on_checkpoint(void *opaque, ColoCheckpointReason reason)
{
    error_report("the guests diverge: %s", ColoCheckpointReason_str(reason));
    exit(1);
}

static const ColoCompareOps compare_ops = {
    .release = on_release,
    .checkpoint = on_checkpoint,
};

static void compare_set_up(Load *load)
{
    ColoCompareLimits limits = { .max_conns = load->conns };

    load->compare = colo_compare_new(&compare_ops, load, &limits);
    colo_compare_set_mode(load->compare, COLO_COMPARE_COMPARE);
    colo_compare_commit(load->compare, 1, 0);
}

static void pvm_sends(Load *load, unsigned n)
{
    while (n--) {
        next_segment(load, &load->turn, true);
        colo_compare_pvm(load->compare, load->frame, load->bytes, 0, 1, 0);
    }
}

static void svm_sends(Load *load, unsigned n)
{
    while (n--) {
        next_segment(load, &load->svm, true);
        colo_compare_svm(load->compare, load->frame, load->bytes, 0, 1, 0);
    }
}

static void compare_step(Load *load, unsigned n)
{
    while (n--) {
        pvm_sends(load, 1);
        svm_sends(load, 1);
    }
}

static void compare_burst_step(Load *load, unsigned n)
{
    for (; n; n -= BURST) {
        pvm_sends(load, BURST);
        svm_sends(load, BURST);
    }
}

static void compare_ahead_step(Load *load, unsigned n)
{
    while (n--) {
        svm_sends(load, 1);
        pvm_sends(load, 1);
    }
}

static void compare_tear_down(Load *load)
{
    colo_compare_free(load->compare);
}

/* ---- rewriting ---- */

static void use_frame(Load *load, bool from_guest)
{
    g_free(load->frame);
    load->frame = make_frame(load->bytes, from_guest);
}

/* The peers have connected to both guests, which chose numbers apart. */
static void connect_all(Load *load)
{
    g_autofree uint8_t *syn_ack = make_frame(HEADERS, true);
    g_autofree uint8_t *answer = make_frame(HEADERS, false);
    uint32_t i;

    syn_ack[AT_FLAGS] |= COLO_TCP_SYN;
    stl_be_p(syn_ack + AT_SEQ, GUEST_ISN);
    stl_be_p(syn_ack + AT_ACK, PEER_ISN + 1);
    for (i = 0; i < load->conns; i++) {
        set_peer(syn_ack, i, true);
        colo_rewrite_out(load->rewrite, syn_ack, HEADERS, 0, 0);
        set_peer(answer, i, false);
        stl_be_p(answer + AT_SEQ, PEER_ISN + 1);
        stl_be_p(answer + AT_ACK, WIRE_ISN + 1);
        colo_rewrite_in(load->rewrite, answer, HEADERS, 0, 0);
    }
}

static void rewrite_set_up(Load *load, bool from_guest)
{
    use_frame(load, from_guest);
    load->rewrite = colo_rewrite_new(load->conns);
    colo_rewrite_set_mode(load->rewrite, COLO_REWRITE_LEARN);
    connect_all(load);
}

static void rewrite_out_set_up(Load *load)
{
    rewrite_set_up(load, true);
}

static void rewrite_in_set_up(Load *load)
{
    rewrite_set_up(load, false);
}

static void rewrite_out_step(Load *load, unsigned n)
{
    while (n--) {
        next_segment(load, &load->turn, true);
        load->good += colo_rewrite_out(load->rewrite, load->frame, load->bytes,
                                       0, 0) == COLO_REWRITE_CHANGED;
    }
}

static void rewrite_in_step(Load *load, unsigned n)
{
    while (n--) {
        next_segment(load, &load->turn, false);
        load->good += colo_rewrite_in(load->rewrite, load->frame, load->bytes,
                                      0, 0) == COLO_REWRITE_CHANGED;
    }
}

static void rewrite_tear_down(Load *load)
{
    colo_rewrite_free(load->rewrite);
}

/* ---- repairing ---- */

static void repair_set_up(Load *load)
{
    use_frame(load, false);
    load->ack = make_frame(HEADERS, true);
    load->repair = colo_repair_new(COLO_REPAIR_BYTES_DEFAULT,
                                   COLO_REPAIR_FRAMES_DEFAULT,
                                   COLO_REPAIR_CONNS_DEFAULT);
}

static void repair_step(Load *load, unsigned n)
{
    for (; n; n -= 2) {
        uint32_t conn = load->order[load->turn.nr];
        uint32_t seq = next_segment(load, &load->turn, false);

        load->good += colo_repair_in(load->repair, load->frame, load->bytes,
                                     0, 0);
        set_peer(load->ack, conn, true);
        stl_be_p(load->ack + AT_ACK, seq + load->bytes - HEADERS);
        load->good += !colo_repair_out(load->repair, load->ack, HEADERS, 0, 0);
    }
}

static void repair_tear_down(Load *load)
{
    colo_repair_free(load->repair);
}

/* ---- measuring ---- */

static void nothing(Load *load)
{
}

static const Bench benches[] = {
    { "decode", decode_set_up, decode_step, decode_tear_down },
    { "parse", nothing, parse_step, nothing },
    { "lookup", lookup_set_up, lookup_step, lookup_tear_down },
    { "compare", compare_set_up, compare_step, compare_tear_down },
    { "compare-burst", compare_set_up, compare_burst_step,
      compare_tear_down },
    { "compare-ahead", compare_set_up, compare_ahead_step,
      compare_tear_down },
    { "rewrite-out", rewrite_out_set_up, rewrite_out_step,
      rewrite_tear_down },
    { "rewrite-in", rewrite_in_set_up, rewrite_in_step, rewrite_tear_down },
    { "repair", repair_set_up, repair_step, repair_tear_down },
};

static double cpu_seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Packets done; each connection was used once before the clock starts. */
static uint64_t measure(const Bench *bench, Load *load, double *seconds)
{
    double start, spent;
    uint64_t done = 0;

    while (done < load->conns) {
        bench->step(load, STEP);
        done += STEP;
    }
    load->good = done = 0;
    start = cpu_seconds();
    do {
        bench->step(load, STEP);
        done += STEP;
        spent = cpu_seconds() - start;
    } while (spent < *seconds);
    *seconds = spent;
    return done;
}

static bool run(const Bench *bench, unsigned bytes, unsigned conns,
                double seconds)
{
    Load load = {
        .bytes = bytes, .conns = conns, .order = make_orders(conns),
        .frame = make_frame(bytes, true),
    };
    uint64_t done;

    bench->set_up(&load);
    done = measure(bench, &load, &seconds);
    bench->tear_down(&load);
    g_free(load.ack);
    g_free(load.frame);
    g_free(load.order);
    if (load.good != done) {
        error_report("of %" PRIu64 " packets %" PRIu64 " were treated as "
                     "expected", done, load.good);
        return false;
    }
    printf("ns_per_packet %.2f\nmpps %.4f\n", seconds * 1e9 / done,
           done / seconds / 1e6);
    return true;
}

static const Bench *find_bench(const char *name)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(benches); i++) {
        if (g_str_equal(benches[i].name, name)) {
            return &benches[i];
        }
    }
    error_report("there is no '%s'; there are:", name);
    for (i = 0; i < ARRAY_SIZE(benches); i++) {
        error_printf("  %s\n", benches[i].name);
    }
    return NULL;
}

static bool number(const char *text, unsigned min, unsigned max,
                   const char *what, unsigned *value)
{
    if (qemu_strtoui(text, NULL, 10, value) < 0 || *value < min ||
        *value > max) {
        error_report("%s is '%s', must be from %u to %u", what, text, min,
                     max);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    unsigned bytes, conns;
    double seconds = 0.5;
    const Bench *bench;

    error_init(argv[0]);
    if (argc < 4 || argc > 5) {
        error_printf("usage: %s NAME BYTES CONNECTIONS [SECONDS]\n", argv[0]);
        return 1;
    }
    bench = find_bench(argv[1]);
    if (!bench || !number(argv[2], HEADERS + 1, BYTES_MAX, "BYTES", &bytes) ||
        !number(argv[3], 1, CONNS_MAX, "CONNECTIONS", &conns)) {
        return 1;
    }
    if (argc == 5 && (qemu_strtod_finite(argv[4], NULL, &seconds) < 0 ||
                      seconds < 0 || seconds > 3600)) {
        error_report("SECONDS is '%s', must be from 0 to 3600", argv[4]);
        return 1;
    }
    return run(bench, bytes, conns, seconds) ? 0 : 1;
}
