/*
 * COLO checkpoint protocol: fuzzer of codec and state machines
 *
 * The input is one byte of options and then, again and again, a byte that
 * says what happens on this side, and a message from the peer. It is read by
 * the real codec, taken by the real state machine, and what must hold after
 * any input is checked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "migration/colo/crc.h"
#include "migration/colo/protocol.h"
#include "fuzz.h"

/* Options */
#define OPT_PRIMARY 1   /* the input goes to a primary */
#define OPT_MULTIFD 2
#define OPT_PAGE_CRC 4
#define OPT_SEALED 8    /* magic and checksums are set right, data left out */

#define BASE 3
#define PAGE 1024

#define OFF_PAYLOAD_LEN 16
#define OFF_PAYLOAD_CRC 24
#define OFF_HEADER_CRC 28

/* What happens on this side before the next message is read. */
enum {
    ACT_NOTHING,
    ACT_STEP,           /* do the next thing that is ours to do */
    ACT_FAILOVER,
    ACT_LOST,
    ACT_FAILED,
    ACT_STOP,           /* secondary: quit. Primary: end protection */
    ACT_COMMIT_FAILED,
    ACT_ADD_PAGES,
    ACT__MAX,
};

typedef struct Input {
    const uint8_t *p;
    size_t left;
    uint8_t options;
} Input;

static void make_hello(ColoHello *hello, uint8_t options)
{
    memset(hello, 0, sizeof(*hello));
    hello->version_min = COLO_VERSION_MIN;
    hello->version_max = COLO_VERSION_MAX;
    hello->features |= options & OPT_MULTIFD ? COLO_FEATURE_MULTIFD : 0;
    hello->features |= options & OPT_PAGE_CRC ? COLO_FEATURE_PAGE_CRC : 0;
    hello->qemu_version = g_strdup("10");
    hello->machine = g_strdup("pc");
    hello->ram = colo_ramlist_new(PAGE, &error_abort);
    colo_ramlist_add(hello->ram, "ram", 16 * PAGE, &error_abort);
    colo_ramlist_add(hello->ram, "vga", 4 * PAGE, &error_abort);
}

/* What was decoded must be something that can be encoded, and the same. */
static void check_round_trip(const ColoMsg *msg, ColoSide from,
                             const uint8_t *head, const uint8_t *payload)
{
    g_autoptr(GByteArray) out = g_byte_array_new();

    if (msg->h.type == COLO_MSG_HELLO &&
        (msg->hello.version_max > COLO_VERSION_MAX || !msg->hello.ram)) {
        return;
    }
    colo_msg_encode(msg, from, out, &error_abort);
    g_assert(out->len == COLO_HEADER_SIZE + msg->h.payload_len);
    g_assert(!memcmp(out->data, head, COLO_HEADER_SIZE));
    g_assert(!memcmp(out->data + COLO_HEADER_SIZE, payload,
                     msg->h.payload_len));
}

/* Magic and checksums as they should be, for inputs that would not get by. */
static void seal(uint8_t *head, const uint8_t *payload, size_t left)
{
    uint32_t len = ldl_be_p(head + OFF_PAYLOAD_LEN);

    stl_be_p(head, COLO_MAGIC);
    stl_be_p(head + OFF_PAYLOAD_CRC, colo_crc(0, payload, MIN(len, left)));
    stl_be_p(head + OFF_HEADER_CRC, colo_crc(0, head, OFF_HEADER_CRC));
}

static const uint8_t *take(Input *in, size_t len)
{
    const uint8_t *p = in->p;

    if (in->left < len) {
        return NULL;
    }
    in->p += len;
    in->left -= len;
    return p;
}

typedef bool Expects(const void *machine, const ColoHeader *h, Error **errp);

/*
 * Read a message as the engine does. False is the end of the stream, for
 * whatever reason.
 */
static bool read_msg(Input *in, ColoSide from, const void *machine,
                     Expects *expects, const ColoRamList *ram, ColoMsg *msg)
{
    uint8_t head[COLO_HEADER_SIZE];
    const uint8_t *raw = take(in, COLO_HEADER_SIZE);
    const uint8_t *payload;
    g_autofree uint8_t *copy = NULL;
    ColoHeader h;

    if (!raw) {
        return false;
    }
    memcpy(head, raw, COLO_HEADER_SIZE);
    if (in->options & OPT_SEALED) {
        seal(head, in->p, in->left);
    }
    if (!colo_header_decode(head, from, &h, NULL) ||
        !expects(machine, &h, NULL)) {
        return false;
    }
    payload = take(in, h.payload_len);
    if (!payload) {
        return false;
    }
    /* a buffer of its own size, so that reads beyond it are seen */
    copy = g_memdup2(payload, h.payload_len);
    if (!colo_msg_decode(&h, copy, ram, msg, NULL)) {
        return false;
    }
    check_round_trip(msg, from, head, payload);
    return true;
}

/* The data after a message; its content is not ours to check. */
static bool read_data(Input *in, const ColoMsg *msg)
{
    const uint8_t *data;

    if (in->options & OPT_SEALED) {
        return true;
    }
    data = take(in, msg->h.data_len);
    return data && colo_msg_check_data(msg,
                                       colo_crc(0, data, msg->h.data_len),
                                       NULL);
}

static bool expects_secondary(const void *machine, const ColoHeader *h,
                              Error **errp)
{
    return colo_secondary_expects(machine, h, errp);
}

static bool expects_primary(const void *machine, const ColoHeader *h,
                            Error **errp)
{
    return colo_primary_expects(machine, h, errp);
}

static void secondary_say(ColoSecondary *s, ColoMsgType type)
{
    g_auto(ColoMsg) msg = { 0 };

    if (colo_secondary_may_send(s, type)) {
        colo_msg_init(&msg, type, colo_secondary_epoch_of(s, type));
        if (type == COLO_MSG_HELLO) {
            colo_hello_copy(&msg.hello, &s->local);
        }
        colo_secondary_send(s, &msg, &error_abort);
    }
}

static void secondary_step(ColoSecondary *s)
{
    ColoMsgType type;

    colo_secondary_commit_applied(s);
    for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
        secondary_say(s, type);
    }
}

static void secondary_act(ColoSecondary *s, uint8_t act)
{
    switch (act % ACT__MAX) {
    case ACT_STEP:
        secondary_step(s);
        break;
    case ACT_FAILOVER:
        colo_secondary_failover(s, NULL);
        break;
    case ACT_LOST:
        colo_secondary_peer_lost(s);
        break;
    case ACT_FAILED:
        colo_secondary_failed(s);
        break;
    case ACT_STOP:
        colo_secondary_stop(s);
        break;
    case ACT_COMMIT_FAILED:
        colo_secondary_commit_failed(s);
        break;
    case ACT_ADD_PAGES:
        if (s->state == COLO_S_RECEIVING) {
            colo_secondary_add_pages(s, act / ACT__MAX, 1);
        }
        break;
    default:
        break;
    }
}

static bool secondary_final(const ColoSecondary *s)
{
    return s->state == COLO_S_STOPPED || s->state == COLO_S_ENDED;
}

static void secondary_check(const ColoSecondary *before,
                            const ColoSecondary *s)
{
    g_assert(s->state < COLO_S__MAX);
    if (secondary_final(before)) {
        g_assert(s->state == before->state);
    }
    g_assert(s->committed >= s->base);
    if (before->state == COLO_S_COMMITTING && before->epoch == s->committed) {
        g_assert(s->committed == before->committed + 1);
    } else if (before->state > COLO_S_GREETED) {
        g_assert(s->committed == before->committed);
    }
    g_assert(colo_secondary_discards_staging(s) ==
             (s->state != COLO_S_RECEIVING && s->state != COLO_S_COMMITTING));
    if (colo_secondary_survives(s)) {
        g_assert(s->committed > s->base);
    }
    g_assert(s->link || !s->owed);
}

static void fuzz_secondary(Input *in)
{
    g_auto(ColoHello) hello = { 0 };
    ColoSecondary s, before;
    const uint8_t *act;

    make_hello(&hello, in->options);
    colo_secondary_init(&s, &hello);
    secondary_say(&s, COLO_MSG_HELLO);
    while (s.link && (act = take(in, 1))) {
        g_auto(ColoMsg) msg = { 0 };

        before = s;
        secondary_act(&s, *act);
        secondary_check(&before, &s);
        before = s;
        if (!read_msg(in, COLO_SIDE_PRIMARY, &s, expects_secondary, s.ram,
                      &msg)) {
            colo_secondary_failed(&s);
            secondary_check(&before, &s);
            break;
        }
        if (!colo_secondary_recv(&s, &msg, NULL) || !read_data(in, &msg)) {
            colo_secondary_failed(&s);
        }
        secondary_check(&before, &s);
    }
    colo_secondary_peer_lost(&s);
    colo_secondary_commit_applied(&s);
    g_assert(secondary_final(&s) || s.state == COLO_S_LOST);
    g_assert(colo_secondary_failover(&s, NULL) ==
             (s.state != COLO_S_STOPPED));
    colo_secondary_destroy(&s);
}

static void primary_say(ColoPrimary *p, ColoMsgType type)
{
    g_auto(ColoMsg) msg = { 0 };

    if (!colo_primary_may_send(p, type)) {
        return;
    }
    colo_msg_init(&msg, type, colo_primary_epoch_of(p, type));
    if (type == COLO_MSG_HELLO) {
        colo_hello_copy(&msg.hello, &p->local);
    } else if (type == COLO_MSG_SYNC) {
        msg.sync.number = 1;
    } else if (type == COLO_MSG_DEVICE) {
        msg.h.data_len = 1;
    } else if (type == COLO_MSG_COMMIT) {
        msg.commit.totals = p->progress.totals;
    }
    colo_primary_send(p, &msg, &error_abort);
}

/* Handshake, a whole checkpoint, or what is owed. */
static void primary_step(ColoPrimary *p)
{
    primary_say(p, COLO_MSG_HELLO);
    primary_say(p, COLO_MSG_TAKEOVER);
    primary_say(p, COLO_MSG_STOPPED);
    primary_say(p, COLO_MSG_ERROR);
    if (colo_primary_may_send(p, COLO_MSG_BEGIN)) {
        primary_say(p, COLO_MSG_BEGIN);
        if (p->agreed.features & COLO_FEATURE_MULTIFD) {
            primary_say(p, COLO_MSG_SYNC);
        }
        primary_say(p, COLO_MSG_DEVICE);
        primary_say(p, COLO_MSG_PROXY);
        primary_say(p, COLO_MSG_COMMIT);
    }
}

static void primary_act(ColoPrimary *p, uint8_t act)
{
    switch (act % ACT__MAX) {
    case ACT_STEP:
        primary_step(p);
        break;
    case ACT_FAILOVER:
        colo_primary_failover(p, NULL);
        break;
    case ACT_LOST:
        colo_primary_peer_lost(p);
        break;
    case ACT_FAILED:
        colo_primary_failed(p);
        break;
    case ACT_STOP:
        primary_say(p, COLO_MSG_END);
        break;
    default:
        break;
    }
}

static bool primary_final(const ColoPrimary *p)
{
    return p->state == COLO_P_STOPPED || p->state == COLO_P_ENDED;
}

static void primary_check(const ColoPrimary *before, const ColoPrimary *p)
{
    g_assert(p->state < COLO_P__MAX);
    if (primary_final(before)) {
        g_assert(p->state == before->state);
    }
    g_assert(p->committed >= before->committed);
    g_assert(p->committed <= p->offered);
    g_assert(p->offered <= p->committed + 1);
    if (!colo_primary_survives(p)) {
        g_assert(!colo_primary_may_release(p, p->committed));
    }
    g_assert(p->link || !p->owed);
}

static void fuzz_primary(Input *in)
{
    g_auto(ColoHello) hello = { 0 };
    ColoPrimary p, before;
    const uint8_t *act;

    make_hello(&hello, in->options);
    colo_primary_init(&p, &hello, BASE);
    while (p.link && (act = take(in, 1))) {
        g_auto(ColoMsg) msg = { 0 };

        before = p;
        primary_act(&p, *act);
        primary_check(&before, &p);
        before = p;
        if (!read_msg(in, COLO_SIDE_SECONDARY, &p, expects_primary, NULL,
                      &msg)) {
            colo_primary_failed(&p);
            primary_check(&before, &p);
            break;
        }
        colo_primary_recv(&p, &msg, NULL);
        primary_check(&before, &p);
    }
    colo_primary_peer_lost(&p);
    g_assert(primary_final(&p) || p.state == COLO_P_LOST);
    g_assert(colo_primary_failover(&p, NULL) == (p.state != COLO_P_STOPPED));
    colo_primary_destroy(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input in = { .p = data, .left = size };
    const uint8_t *options = take(&in, 1);

    if (!options) {
        return 0;
    }
    in.options = *options;
    if (in.options & OPT_PRIMARY) {
        fuzz_primary(&in);
    } else {
        fuzz_secondary(&in);
    }
    return 0;
}
