/*
 * COLO checkpoint protocol: tests of the codec and of the RAM table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/units.h"
#include "migration/colo/crc.h"
#include "migration/colo/wire.h"

#define PAGE 1024

/* Offsets in the header. */
#define OFF_TYPE 4
#define OFF_FLAGS 6
#define OFF_PAYLOAD_LEN 16
#define OFF_DATA_LEN 20
#define OFF_PAYLOAD_CRC 24
#define OFF_HEADER_CRC 28

/* Offsets in the sample HELLO's payload. */
#define HELLO_PAGE_SIZE 4
#define HELLO_STRINGS 32
#define HELLO_BLOCKS 47

/* @size bytes at @offset of a payload become @value: this is the error. */
typedef struct BadField {
    ColoMsgType type;
    unsigned offset;
    unsigned size;
    uint64_t value;
    const char *error;
} BadField;

static ColoRamList *sample_ram(void)
{
    ColoRamList *ram = colo_ramlist_new(PAGE, &error_abort);

    colo_ramlist_add(ram, "pc.ram", 64 * PAGE, &error_abort);
    colo_ramlist_add(ram, "vga", 8 * PAGE, &error_abort);
    return ram;
}

static void add_run(ColoMsg *msg, uint64_t first, uint32_t count,
                    uint32_t flags)
{
    ColoRun run = { first, count, flags };

    g_array_append_val(msg->pages.runs, run);
}

static void fill_hello(ColoMsg *msg)
{
    msg->hello.features = COLO_FEATURE_MULTIFD;
    memset(msg->hello.host_id, 0x5a, COLO_HOST_ID_SIZE);
    g_free(msg->hello.qemu_version);
    msg->hello.qemu_version = g_strdup("10.0.13");
    g_free(msg->hello.machine);
    msg->hello.machine = g_strdup("pc-x");
    msg->hello.ram = sample_ram();
}

static void fill_commit(ColoMsg *msg)
{
    msg->commit.totals.pages = 3;
    msg->commit.totals.zero_pages = 4;
    msg->commit.totals.bytes = 5 * PAGE;
    msg->commit.flags = COLO_COMMIT_F_RESET;
    msg->commit.stood_us = 500;
    msg->commit.virtual_ns = 1000;
    msg->commit.capture_ns = 2000;
    msg->commit.sent_ns = 3000;
    msg->commit.rtt_ns = 4000;
}

/* A message of @type with a value in each of its fields. */
static void sample_msg(ColoMsg *msg, ColoMsgType type)
{
    colo_msg_init(msg, type, 0x1122334455667788);
    switch (type) {
    case COLO_MSG_HELLO:
        fill_hello(msg);
        break;
    case COLO_MSG_BEGIN:
    case COLO_MSG_REQUEST:
        msg->begin.reason = COLO_WIRE_REASON_TIMEOUT;
        break;
    case COLO_MSG_PAGES:
        msg->h.flags = COLO_MSG_F_DATA_CRC;
        msg->h.data_len = 3 * PAGE;
        msg->pages.block = 1;
        msg->pages.data_crc = 0xabcdef01;
        add_run(msg, 0, 2, COLO_RUN_DATA);
        add_run(msg, 2, 1, COLO_RUN_ZERO);
        add_run(msg, 7, 1, COLO_RUN_DATA);
        break;
    case COLO_MSG_SYNC:
        msg->sync.number = 12;
        break;
    case COLO_MSG_DEVICE:
    case COLO_MSG_PROXY:
        msg->h.data_len = 77;
        msg->device.data_crc = 0x12345678;
        break;
    case COLO_MSG_COMMIT:
        fill_commit(msg);
        break;
    case COLO_MSG_COMMITTED:
        msg->committed.merge_us = 999;
        break;
    case COLO_MSG_END:
    case COLO_MSG_TAKEOVER:
    case COLO_MSG_STOPPED:
    case COLO_MSG_ERROR:
        colo_msg_set_text(msg, "gr\xc3\xbc\xc3\x9f dich");
        break;
    default:
        break;
    }
}

static bool from_secondary_only(ColoMsgType type)
{
    return type == COLO_MSG_READY || type == COLO_MSG_COMMITTED ||
           type == COLO_MSG_REQUEST;
}

static bool from_both(ColoMsgType type)
{
    return type == COLO_MSG_HELLO || type == COLO_MSG_TAKEOVER ||
           type == COLO_MSG_STOPPED || type == COLO_MSG_ERROR;
}

static bool has_text(ColoMsgType type)
{
    return type >= COLO_MSG_END;
}

static ColoSide sender_of(ColoMsgType type)
{
    return from_secondary_only(type) ? COLO_SIDE_SECONDARY
                                     : COLO_SIDE_PRIMARY;
}

static GByteArray *encode(const ColoMsg *msg)
{
    GByteArray *buf = g_byte_array_new();

    colo_msg_encode(msg, sender_of(msg->h.type), buf, &error_abort);
    return buf;
}

static GByteArray *encode_sample(ColoMsgType type)
{
    g_auto(ColoMsg) msg = { 0 };

    sample_msg(&msg, type);
    return encode(&msg);
}

/* Make checksums and payload length fit again after a change. */
static void seal(GByteArray *buf)
{
    uint8_t *h = buf->data;
    unsigned len = buf->len - COLO_HEADER_SIZE;

    stl_be_p(h + OFF_PAYLOAD_LEN, len);
    stl_be_p(h + OFF_PAYLOAD_CRC, colo_crc(0, h + COLO_HEADER_SIZE, len));
    stl_be_p(h + OFF_HEADER_CRC, colo_crc(0, h, OFF_HEADER_CRC));
}

/*
 * Decode a message as if it came from the wire. The payload gets a buffer of
 * its own size, so that a read beyond it is seen.
 */
static bool decode(const GByteArray *buf, const ColoRamList *ram,
                   ColoMsg *msg, Error **errp)
{
    ColoHeader h;
    g_autofree uint8_t *payload = NULL;
    ColoMsgType type = lduw_be_p(buf->data + OFF_TYPE);

    if (!colo_header_decode(buf->data, sender_of(type), &h, errp)) {
        return false;
    }
    g_assert_cmpuint(h.payload_len, ==, buf->len - COLO_HEADER_SIZE);
    payload = g_memdup2(buf->data + COLO_HEADER_SIZE, h.payload_len);
    return colo_msg_decode(&h, payload, ram, msg, errp);
}

static void assert_refused(const GByteArray *buf, const char *text)
{
    g_autoptr(ColoRamList) ram = sample_ram();
    g_auto(ColoMsg) msg = { 0 };
    Error *err = NULL;

    g_assert_false(decode(buf, ram, &msg, &err));
    if (!strstr(error_get_pretty(err), text)) {
        g_test_message("'%s' is not in '%s'", text, error_get_pretty(err));
        g_test_fail();
    }
    error_free(err);
}

static void assert_same_hello(const ColoHello *a, const ColoHello *b)
{
    unsigned i;

    g_assert_cmpuint(a->version_min, ==, b->version_min);
    g_assert_cmpuint(a->version_max, ==, b->version_max);
    g_assert_cmphex(a->features, ==, b->features);
    g_assert_cmpmem(a->host_id, COLO_HOST_ID_SIZE,
                    b->host_id, COLO_HOST_ID_SIZE);
    g_assert_cmpstr(a->qemu_version, ==, b->qemu_version);
    g_assert_cmpstr(a->machine, ==, b->machine);
    g_assert_cmpuint(a->ram->page_size, ==, b->ram->page_size);
    g_assert_cmpuint(colo_ramlist_size(a->ram), ==,
                     colo_ramlist_size(b->ram));
    for (i = 0; i < colo_ramlist_size(a->ram); i++) {
        const ColoRamBlock *x = colo_ramlist_get(a->ram, i);
        const ColoRamBlock *y = colo_ramlist_get(b->ram, i);

        g_assert_cmpstr(x->idstr, ==, y->idstr);
        g_assert_cmpuint(x->used_length, ==, y->used_length);
    }
}

static void assert_same_msg(const ColoMsg *a, const ColoMsg *b)
{
    g_assert_cmpuint(a->h.type, ==, b->h.type);
    g_assert_cmpuint(a->h.flags, ==, b->h.flags);
    g_assert_cmpuint(a->h.epoch, ==, b->h.epoch);
    g_assert_cmpuint(a->h.data_len, ==, b->h.data_len);
    switch (a->h.type) {
    case COLO_MSG_HELLO:
        assert_same_hello(&a->hello, &b->hello);
        break;
    case COLO_MSG_BEGIN:
    case COLO_MSG_REQUEST:
        g_assert_cmpuint(a->begin.reason, ==, b->begin.reason);
        break;
    case COLO_MSG_PAGES:
        g_assert_cmpuint(a->pages.block, ==, b->pages.block);
        g_assert_cmphex(a->pages.data_crc, ==, b->pages.data_crc);
        g_assert_cmpmem(a->pages.runs->data,
                        a->pages.runs->len * sizeof(ColoRun),
                        b->pages.runs->data,
                        b->pages.runs->len * sizeof(ColoRun));
        break;
    case COLO_MSG_SYNC:
        g_assert_cmpuint(a->sync.number, ==, b->sync.number);
        break;
    case COLO_MSG_DEVICE:
    case COLO_MSG_PROXY:
        g_assert_cmphex(a->device.data_crc, ==, b->device.data_crc);
        break;
    case COLO_MSG_COMMIT:
        g_assert_cmpmem(&a->commit, sizeof(a->commit),
                        &b->commit, sizeof(b->commit));
        break;
    case COLO_MSG_COMMITTED:
        g_assert_cmpuint(a->committed.merge_us, ==, b->committed.merge_us);
        break;
    case COLO_MSG_READY:
        break;
    default:
        g_assert_cmpstr(a->text.text, ==, b->text.text);
        break;
    }
}

static void test_round_trip(void)
{
    g_autoptr(ColoRamList) ram = sample_ram();
    ColoMsgType type;

    for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
        g_auto(ColoMsg) in = { 0 };
        g_auto(ColoMsg) out = { 0 };
        g_autoptr(GByteArray) buf = NULL;

        sample_msg(&in, type);
        buf = encode(&in);
        g_assert_true(decode(buf, ram, &out, &error_abort));
        assert_same_msg(&in, &out);
    }
}

/* The bytes of one message, so that the format can't change unnoticed. */
static void test_bytes(void)
{
    static const uint8_t begin[] = {
        'Q', 'C', 'O', 'L', 0, 3, 0, 0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
        0, 0, 0, 4, 0, 0, 0, 0,
    };
    static const uint8_t payload[] = { 0, 7, 0, 0 };
    g_autoptr(GByteArray) buf = encode_sample(COLO_MSG_BEGIN);

    g_assert_cmpuint(buf->len, ==, COLO_HEADER_SIZE + sizeof(payload));
    g_assert_cmpmem(buf->data, sizeof(begin), begin, sizeof(begin));
    g_assert_cmphex(ldl_be_p(buf->data + OFF_PAYLOAD_CRC), ==,
                    colo_crc(0, payload, sizeof(payload)));
    g_assert_cmphex(ldl_be_p(buf->data + OFF_HEADER_CRC), ==,
                    colo_crc(0, buf->data, OFF_HEADER_CRC));
    g_assert_cmpmem(buf->data + COLO_HEADER_SIZE, sizeof(payload),
                    payload, sizeof(payload));
}

static void test_every_bit(void)
{
    ColoMsgType type;
    unsigned bit;

    for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
        g_autoptr(GByteArray) buf = encode_sample(type);

        for (bit = 0; bit < buf->len * 8; bit++) {
            buf->data[bit / 8] ^= 1 << (bit % 8);
            assert_refused(buf, bit < 32 ? "no COLO message" : "checksum");
            buf->data[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

static void set_field(GByteArray *buf, unsigned offset, unsigned size,
                      uint64_t value)
{
    uint8_t *p = buf->data + offset;

    switch (size) {
    case 1:
        *p = value;
        break;
    case 2:
        stw_be_p(p, value);
        break;
    case 4:
        stl_be_p(p, value);
        break;
    default:
        stq_be_p(p, value);
        break;
    }
}

/* A header with one wrong field and a checksum that says it is right. */
static void assert_header_refused(ColoMsgType type, ColoSide from,
                                  unsigned offset, unsigned size,
                                  uint64_t value, const char *text)
{
    g_autoptr(GByteArray) buf = encode_sample(type);
    ColoHeader h;
    Error *err = NULL;

    set_field(buf, offset, size, value);
    stl_be_p(buf->data + OFF_HEADER_CRC,
             colo_crc(0, buf->data, OFF_HEADER_CRC));
    g_assert_false(colo_header_decode(buf->data, from, &h, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
}

static void test_header_type(void)
{
    static const uint16_t none[] = { 0, COLO_MSG__MAX, 0x103, 0xffff };
    ColoMsgType type;
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(none); i++) {
        assert_header_refused(COLO_MSG_READY, COLO_SIDE_SECONDARY,
                              OFF_TYPE, 2, none[i], "type: ");
    }
    for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
        if (!from_both(type)) {
            assert_header_refused(type, !sender_of(type), OFF_TYPE, 2, type,
                                  "type: ");
        }
    }
}

static void test_header_flags(void)
{
    ColoMsgType type;
    unsigned bit;

    for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
        for (bit = 0; bit < 16; bit++) {
            if (type != COLO_MSG_PAGES || bit != 0) {
                assert_header_refused(type, sender_of(type), OFF_FLAGS, 2,
                                      1 << bit, "flags: ");
            }
        }
    }
}

static void test_header_lengths(void)
{
    static const struct {
        ColoMsgType type;
        uint32_t payload_min, payload_max, data_min, data_max;
    } limits[] = {
        { COLO_MSG_HELLO, 4, 2 * MiB, 0, 0 },
        { COLO_MSG_READY, 0, 0, 0, 0 },
        { COLO_MSG_BEGIN, 4, 4, 0, 0 },
        { COLO_MSG_PAGES, 32, 16 + 16 * 64 * KiB, 0, 32 * MiB },
        { COLO_MSG_SYNC, 4, 4, 0, 0 },
        { COLO_MSG_DEVICE, 4, 4, 1, 256 * MiB },
        { COLO_MSG_PROXY, 4, 4, 0, 64 * MiB },
        { COLO_MSG_COMMIT, 64, 64, 0, 0 },
        { COLO_MSG_COMMITTED, 8, 8, 0, 0 },
        { COLO_MSG_REQUEST, 4, 4, 0, 0 },
        { COLO_MSG_END, 0, 1024, 0, 0 },
        { COLO_MSG_TAKEOVER, 0, 1024, 0, 0 },
        { COLO_MSG_STOPPED, 0, 1024, 0, 0 },
        { COLO_MSG_ERROR, 0, 1024, 0, 0 },
    };
    unsigned i;

    g_assert_cmpuint(ARRAY_SIZE(limits), ==, COLO_MSG__MAX - 1);
    for (i = 0; i < ARRAY_SIZE(limits); i++) {
        ColoMsgType type = limits[i].type;
        ColoSide from = sender_of(type);

        assert_header_refused(type, from, OFF_PAYLOAD_LEN, 4,
                              limits[i].payload_max + 1, "payload length: ");
        assert_header_refused(type, from, OFF_PAYLOAD_LEN, 4, UINT32_MAX,
                              "payload length: ");
        if (limits[i].payload_min) {
            assert_header_refused(type, from, OFF_PAYLOAD_LEN, 4,
                                  limits[i].payload_min - 1,
                                  "payload length: ");
        }
        assert_header_refused(type, from, OFF_DATA_LEN, 4,
                              limits[i].data_max + 1, "data length: ");
        if (limits[i].data_min) {
            assert_header_refused(type, from, OFF_DATA_LEN, 4,
                                  limits[i].data_min - 1, "data length: ");
        }
    }
}

static void test_fields(void)
{
    static const BadField bad[] = {
        { COLO_MSG_HELLO, 0, 2, 0, "versions: " },
        { COLO_MSG_HELLO, 0, 2, 2, "versions: " },
        { COLO_MSG_HELLO, HELLO_PAGE_SIZE, 4, 0, "page size" },
        { COLO_MSG_HELLO, HELLO_PAGE_SIZE, 4, 512, "page size" },
        { COLO_MSG_HELLO, HELLO_PAGE_SIZE, 4, 4097, "page size" },
        { COLO_MSG_HELLO, HELLO_PAGE_SIZE, 4, 2 * MiB, "page size" },
        { COLO_MSG_HELLO, HELLO_PAGE_SIZE, 4, 128 * KiB, "length" },
        { COLO_MSG_HELLO, HELLO_STRINGS, 1, 255, "QEMU version: " },
        { COLO_MSG_HELLO, HELLO_STRINGS + 1, 1, 0, "QEMU version: " },
        { COLO_MSG_HELLO, HELLO_STRINGS + 1, 1, 0x1b, "QEMU version: " },
        { COLO_MSG_HELLO, HELLO_STRINGS + 9, 1, 0xff, "machine: " },
        { COLO_MSG_HELLO, HELLO_STRINGS + 8, 1, 255, "machine: " },
        { COLO_MSG_HELLO, HELLO_BLOCKS - 2, 2, 3, "RAM block name: " },
        { COLO_MSG_HELLO, HELLO_BLOCKS - 2, 2, 1, "payload length: " },
        { COLO_MSG_HELLO, HELLO_BLOCKS, 2, 1, "reserved: " },
        { COLO_MSG_BEGIN, 0, 2, COLO_WIRE_REASON__MAX, "reason: " },
        { COLO_MSG_BEGIN, 0, 2, 0xffff, "reason: " },
        { COLO_MSG_BEGIN, 2, 2, 1, "reserved: " },
        { COLO_MSG_REQUEST, 0, 2, COLO_WIRE_REASON__MAX, "reason: " },
        { COLO_MSG_REQUEST, 2, 2, 1, "reserved: " },
        { COLO_MSG_PAGES, 0, 2, 2, "block 2: " },
        { COLO_MSG_PAGES, 0, 2, 0xffff, "block 65535: " },
        { COLO_MSG_PAGES, 2, 2, 1, "reserved: " },
        { COLO_MSG_PAGES, 4, 4, 2, "number of runs: " },
        { COLO_MSG_PAGES, 4, 4, 4, "number of runs: " },
        { COLO_MSG_PAGES, 4, 4, 0x10000003, "number of runs: " },
        { COLO_MSG_PAGES, 12, 4, 1, "reserved: " },
        { COLO_MSG_PAGES, 16, 8, 1, "run 1: first" },
        { COLO_MSG_PAGES, 16, 8, UINT64_MAX, "run 0: first" },
        { COLO_MSG_PAGES, 24, 4, 0, "run 0: count" },
        { COLO_MSG_PAGES, 24, 4, 9, "run 0: first 0 and count 9" },
        { COLO_MSG_PAGES, 24, 4, UINT32_MAX, "run 0: first" },
        { COLO_MSG_PAGES, 24, 4, 1, "data length" },
        { COLO_MSG_PAGES, 28, 4, 0, "run 0: flags" },
        { COLO_MSG_PAGES, 28, 4, 3, "run 0: flags" },
        { COLO_MSG_PAGES, 28, 4, 5, "run 0: flags" },
        { COLO_MSG_PAGES, 28, 4, COLO_RUN_ZERO, "data length" },
        { COLO_MSG_PAGES, 48, 8, 8, "run 2: first 8" },
        { COLO_MSG_PAGES, 48, 8, 1, "run 2: first 1 overlaps" },
        { COLO_MSG_COMMIT, 24, 4, 32, "flags: " },
        { COLO_MSG_COMMIT, 24, 4, 3, "flags: " },
        { COLO_MSG_COMMIT, 32, 8, UINT64_MAX, "virtual clock: " },
        { COLO_MSG_COMMIT, 32, 8, INT64_MAX, "virtual clock: " },
        { COLO_MSG_COMMIT, 40, 8, UINT64_MAX, "capture clock: " },
        { COLO_MSG_COMMIT, 40, 8, 3001, "sending clock: " },
        { COLO_MSG_COMMIT, 48, 8, INT64_MAX, "sending clock: " },
        { COLO_MSG_COMMIT, 56, 8, UINT64_MAX, "round trip: " },
        { COLO_MSG_COMMITTED, 0, 8, UINT64_MAX, "merge time: " },
        { COLO_MSG_ERROR, 0, 1, 0, "text: " },
        { COLO_MSG_ERROR, 0, 1, '\n', "text: " },
        { COLO_MSG_ERROR, 0, 1, 0x80, "text: " },
        { COLO_MSG_END, 0, 1, 0x7f, "text: " },
        { COLO_MSG_TAKEOVER, 3, 1, ' ', "text: " },
        { COLO_MSG_STOPPED, 4, 1, 0xff, "text: " },
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(GByteArray) buf = encode_sample(bad[i].type);

        set_field(buf, COLO_HEADER_SIZE + bad[i].offset, bad[i].size,
                  bad[i].value);
        seal(buf);
        assert_refused(buf, bad[i].error);
    }
}

static void test_commit_flags(void)
{
    static const uint32_t good[] = {
        0, COLO_COMMIT_F_SHUTDOWN, COLO_COMMIT_F_RESET,
        COLO_COMMIT_F_SUSPEND, COLO_COMMIT_F_PAUSED, COLO_COMMIT_F_IDLE,
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(good); i++) {
        g_auto(ColoMsg) in = { 0 };
        g_auto(ColoMsg) out = { 0 };
        g_autoptr(GByteArray) buf = NULL;

        sample_msg(&in, COLO_MSG_COMMIT);
        in.commit.flags = good[i];
        buf = encode(&in);
        g_assert_true(decode(buf, NULL, &out, &error_abort));
        g_assert_cmphex(out.commit.flags, ==, good[i]);
    }
}

static void test_pages_without(void)
{
    g_autoptr(GByteArray) buf = encode_sample(COLO_MSG_PAGES);
    g_auto(ColoMsg) msg = { 0 };
    Error *err = NULL;

    g_assert_false(decode(buf, NULL, &msg, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "block: "));
    error_free(err);

    /* a checksum without the flag that says so */
    set_field(buf, OFF_FLAGS, 2, 0);
    seal(buf);
    assert_refused(buf, "data checksum: ");
}

/* Each payload cut short at each length, and with a byte too many. */
static void test_truncated(void)
{
    ColoMsgType type;

    for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
        g_autoptr(GByteArray) buf = encode_sample(type);

        if (has_text(type)) {
            continue;
        }
        g_byte_array_append(buf, (const uint8_t *)"", 1);
        seal(buf);
        assert_refused(buf, type == COLO_MSG_PAGES ? "number of runs: "
                                                   : "payload length: ");
        g_byte_array_set_size(buf, buf->len - 1);
        while (buf->len > COLO_HEADER_SIZE) {
            g_byte_array_set_size(buf, buf->len - 1);
            seal(buf);
            assert_refused(buf, "");
        }
    }
}

/* All that has no payload or an empty one, from a buffer that is NULL. */
static void test_empty(void)
{
    ColoMsgType type;

    for (type = COLO_MSG_HELLO; type < COLO_MSG__MAX; type++) {
        g_autoptr(GByteArray) buf = NULL;
        g_auto(ColoMsg) in = { 0 };
        g_auto(ColoMsg) out = { 0 };

        if (has_text(type) || type == COLO_MSG_READY) {
            colo_msg_init(&in, type, 5);
            buf = encode(&in);
            g_assert_cmpuint(buf->len, ==, COLO_HEADER_SIZE);
            g_assert_true(decode(buf, NULL, &out, &error_abort));
            assert_same_msg(&in, &out);
        }
    }
}

static void test_text_limits(void)
{
    g_autofree char *text = g_strnfill(COLO_MAX_TEXT + 1, 'x');
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_auto(ColoMsg) msg = { 0 };
    Error *err = NULL;

    colo_msg_init(&msg, COLO_MSG_ERROR, 0);
    colo_msg_set_text(&msg, text);
    g_assert_cmpuint(strlen(msg.text.text), ==, COLO_MAX_TEXT);

    /* never half a character at the end */
    memcpy(text + COLO_MAX_TEXT - 1, "\xc3\xbc", 2);
    colo_msg_set_text(&msg, text);
    g_assert_cmpuint(strlen(msg.text.text), ==, COLO_MAX_TEXT - 1);

    colo_msg_set_text(&msg, "a\nb\xff\xc3" "c\x1b[m\xc3\xbc\xc2\x85");
    g_assert_cmpstr(msg.text.text, ==, "a?b??c?[m\xc3\xbc?");

    g_free(msg.text.text);
    msg.text.text = g_strnfill(COLO_MAX_TEXT + 1, 'x');
    g_assert_false(colo_msg_encode(&msg, COLO_SIDE_PRIMARY, out, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "payload length: "));
    error_free(err);
    g_assert_cmpuint(out->len, ==, 0);
}

static void assert_not_encoded(const ColoMsg *msg, ColoSide from,
                               const char *text)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    Error *err = NULL;

    g_assert_false(colo_msg_encode(msg, from, out, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    g_assert_cmpuint(out->len, ==, 0);
    error_free(err);
}

static void test_encode_refuses(void)
{
    g_auto(ColoMsg) pages = { 0 };
    g_auto(ColoMsg) hello = { 0 };
    g_auto(ColoMsg) device = { 0 };
    g_auto(ColoMsg) none = { 0 };

    sample_msg(&pages, COLO_MSG_PAGES);
    assert_not_encoded(&pages, COLO_SIDE_SECONDARY, "type: ");
    pages.h.data_len = COLO_MAX_PAGES_DATA + 1;
    assert_not_encoded(&pages, COLO_SIDE_PRIMARY, "data length: ");
    g_array_set_size(pages.pages.runs, 0);
    assert_not_encoded(&pages, COLO_SIDE_PRIMARY, "number of runs: ");
    g_array_set_size(pages.pages.runs, COLO_MAX_RUNS + 1);
    assert_not_encoded(&pages, COLO_SIDE_PRIMARY, "number of runs: ");

    colo_msg_init(&hello, COLO_MSG_HELLO, 0);
    assert_not_encoded(&hello, COLO_SIDE_PRIMARY, "RAM blocks: ");
    hello.hello.ram = sample_ram();
    g_free(hello.hello.machine);
    hello.hello.machine = g_strnfill(COLO_MAX_NAME + 1, 'm');
    assert_not_encoded(&hello, COLO_SIDE_PRIMARY, "machine: ");

    sample_msg(&device, COLO_MSG_DEVICE);
    device.h.data_len = COLO_MAX_DEVICE_DATA + 1;
    assert_not_encoded(&device, COLO_SIDE_PRIMARY, "data length: ");

    assert_not_encoded(&none, COLO_SIDE_PRIMARY, "no message type 0");
}

/* The largest HELLO that the RAM table allows fits in the limit. */
static void test_hello_largest(void)
{
    g_auto(ColoMsg) in = { 0 };
    g_auto(ColoMsg) out = { 0 };
    g_autoptr(GByteArray) buf = NULL;
    unsigned i;

    colo_msg_init(&in, COLO_MSG_HELLO, 0);
    in.hello.ram = colo_ramlist_new(4096, &error_abort);
    for (i = 0; i < COLO_RAM_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("%0255u", i);

        colo_ramlist_add(in.hello.ram, name, 4096, &error_abort);
    }
    buf = encode(&in);
    g_assert_true(decode(buf, NULL, &out, &error_abort));
    assert_same_hello(&in.hello, &out.hello);
}

/* Nothing but the versions is looked at if none of them is ours. */
static void test_hello_foreign(void)
{
    g_auto(ColoMsg) msg = { 0 };
    g_autoptr(GByteArray) buf = encode_sample(COLO_MSG_HELLO);

    stw_be_p(buf->data + COLO_HEADER_SIZE, COLO_VERSION_MAX + 1);
    stw_be_p(buf->data + COLO_HEADER_SIZE + 2, COLO_VERSION_MAX + 7);
    memset(buf->data + COLO_HEADER_SIZE + 4, 0xee, 20);
    seal(buf);
    g_assert_true(decode(buf, NULL, &msg, &error_abort));
    g_assert_null(msg.hello.ram);
    g_assert_cmpuint(msg.hello.version_min, ==, COLO_VERSION_MAX + 1);
    g_assert_cmpuint(msg.hello.version_max, ==, COLO_VERSION_MAX + 7);
}

/* A newer version may append to a HELLO. */
static void test_hello_newer(void)
{
    g_auto(ColoMsg) msg = { 0 };
    g_autoptr(GByteArray) buf = encode_sample(COLO_MSG_HELLO);

    stw_be_p(buf->data + COLO_HEADER_SIZE + 2, COLO_VERSION_MAX + 1);
    g_byte_array_append(buf, (const uint8_t *)"more", 4);
    seal(buf);
    g_assert_true(decode(buf, NULL, &msg, &error_abort));
    g_assert_cmpuint(colo_ramlist_size(msg.hello.ram), ==, 2);
}

/* Whatever computes it, and wherever the data begins and ends */
static void test_crc_everywhere(void)
{
    uint8_t data[64 + 2 * 8];

    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = i * 151 + 7;
    }
    for (unsigned from = 0; from < 8; from++) {
        for (unsigned len = 0; len <= sizeof(data) - from; len++) {
            /* QEMU's begins with ones, where ours is told what comes before */
            uint32_t expected = crc32c(0xffffffff, data + from, len);

            g_assert_cmphex(colo_crc(0, data + from, len), ==, expected);
        }
    }
}

/* So it is with pages, and all that is somewhat more or less. */
static void test_crc_of_much(void)
{
    enum { MUCH = 4 * 4096 };
    g_autofree uint8_t *data = g_malloc(MUCH);
    uint32_t all, expected = 0;

    for (unsigned i = 0; i < MUCH; i++) {
        data[i] = g_test_rand_int();
    }
    all = crc32c(0xffffffff, data, MUCH);
    for (unsigned len = 0; len <= MUCH; len++) {
        uint32_t crc = colo_crc(0, data, len);

        g_assert_cmphex(crc, ==, expected);
        g_assert_cmphex(colo_crc(crc, data + len, MUCH - len), ==, all);
        if (len < MUCH) {
            expected = crc32c(~expected, data + len, 1);
        }
    }
}

static void test_crc(void)
{
    static const char digits[] = "123456789";
    g_auto(ColoMsg) msg = { 0 };
    Error *err = NULL;
    unsigned i;

    g_assert_cmphex(colo_crc(0, digits, 9), ==, 0xe3069283);
    for (i = 0; i <= 9; i++) {
        g_assert_cmphex(colo_crc(colo_crc(0, digits, i), digits + i, 9 - i),
                        ==, 0xe3069283);
    }
    g_assert_cmphex(colo_crc(0, NULL, 0), ==, 0);

    sample_msg(&msg, COLO_MSG_DEVICE);
    g_assert_true(colo_msg_check_data(&msg, 0x12345678, &error_abort));
    g_assert_false(colo_msg_check_data(&msg, 0x12345679, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "DEVICE: data checksum"));
    error_free(err);
    colo_msg_clear(&msg);

    sample_msg(&msg, COLO_MSG_PAGES);
    err = NULL;
    g_assert_false(colo_msg_check_data(&msg, 1, &err));
    error_free(err);
    msg.h.flags = 0;
    g_assert_true(colo_msg_check_data(&msg, 1, &error_abort));
}

static void assert_not_added(ColoRamList *ram, const char *idstr,
                             uint64_t length, const char *text)
{
    unsigned size = colo_ramlist_size(ram);
    Error *err = NULL;

    g_assert_false(colo_ramlist_add(ram, idstr, length, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    g_assert_cmpuint(colo_ramlist_size(ram), ==, size);
    error_free(err);
}

static void test_ramlist_add(void)
{
    g_autoptr(ColoRamList) ram = sample_ram();
    g_autofree char *name = g_strnfill(COLO_RAM_MAX_IDSTR + 1, 'n');
    unsigned i;

    assert_not_added(ram, "vga", PAGE, "'vga' is there twice");
    assert_not_added(ram, "", PAGE, "name");
    assert_not_added(ram, name, PAGE, "name");
    assert_not_added(ram, "a\nb", PAGE, "name");
    assert_not_added(ram, "\xc3", PAGE, "name");
    assert_not_added(ram, "x", 0, "length 0");
    assert_not_added(ram, "x", PAGE + 1, "length 1025");
    name[COLO_RAM_MAX_IDSTR] = '\0';
    g_assert_true(colo_ramlist_add(ram, name, PAGE, &error_abort));
    g_assert_cmpint(colo_ramlist_find(ram, name), ==, 2);
    g_assert_cmpint(colo_ramlist_find(ram, "pc.ram"), ==, 0);
    g_assert_cmpint(colo_ramlist_find(ram, "none"), ==, -1);
    g_assert_cmpuint(colo_ramlist_pages(ram, 0), ==, 64);
    g_assert_cmpuint(colo_ramlist_pages(ram, 3), ==, 0);
    g_assert_null(colo_ramlist_get(ram, 3));

    for (i = 3; i < COLO_RAM_MAX_BLOCKS; i++) {
        g_autofree char *id = g_strdup_printf("%u", i);

        colo_ramlist_add(ram, id, PAGE, &error_abort);
    }
    assert_not_added(ram, "one more", PAGE, "more than 4096");
}

static void assert_mismatch(const ColoRamList *a, const ColoRamList *b,
                            const char *text)
{
    Error *err = NULL;

    g_assert_false(colo_ramlist_match(a, b, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
}

static void test_ramlist_match(void)
{
    g_autoptr(ColoRamList) a = sample_ram();
    g_autoptr(ColoRamList) b = colo_ramlist_new(PAGE, &error_abort);
    g_autoptr(ColoRamList) c = colo_ramlist_new(2 * PAGE, &error_abort);
    g_autoptr(ColoRamList) d = colo_ramlist_new(PAGE, &error_abort);
    g_autoptr(ColoRamList) copy = colo_ramlist_copy(a);

    g_assert_true(colo_ramlist_match(a, copy, &error_abort));

    /* the order does not matter */
    colo_ramlist_add(b, "vga", 8 * PAGE, &error_abort);
    assert_mismatch(a, b, "'pc.ram' is there on this QEMU and not on the");
    assert_mismatch(b, a, "'pc.ram' is there on the peer and not on this");
    colo_ramlist_add(b, "pc.ram", 64 * PAGE, &error_abort);
    g_assert_true(colo_ramlist_match(a, b, &error_abort));

    assert_mismatch(a, c, "1024 bytes on this QEMU and 2048 on the peer");
    colo_ramlist_add(d, "pc.ram", 32 * PAGE, &error_abort);
    assert_mismatch(a, d, "65536 bytes on this QEMU and 32768 on the peer");
}

static void test_ramlist_count(void)
{
    static const ColoRun runs[] = {
        { 0, 3, COLO_RUN_DATA }, { 3, 1, COLO_RUN_ZERO },
        { 60, 4, COLO_RUN_DATA },
    };
    g_autoptr(ColoRamList) ram = sample_ram();
    uint64_t data = 1, zero = 1;

    g_assert_true(colo_ramlist_check_runs(ram, 0, runs, 3, 7 * PAGE,
                                          &error_abort));
    colo_ramlist_count(ram, 0, runs, 3, &data, &zero);
    colo_ramlist_count(ram, 0, runs, 2, &data, &zero);
    g_assert_cmpuint(data, ==, 11);
    g_assert_cmpuint(zero, ==, 3);
    g_assert_cmpuint(colo_ramlist_get(ram, 0)->data_pages, ==, 10);
    g_assert_cmpuint(colo_ramlist_get(ram, 0)->zero_pages, ==, 2);
    g_assert_cmpuint(colo_ramlist_get(ram, 1)->data_pages, ==, 0);
    colo_ramlist_reset_counts(ram);
    g_assert_cmpuint(colo_ramlist_get(ram, 0)->data_pages, ==, 0);
    g_assert_cmpuint(colo_ramlist_get(ram, 0)->zero_pages, ==, 0);
}

/* Numbers near the end of what 64 bits hold. */
static void test_ramlist_huge(void)
{
    static const ColoRun run = { UINT64_MAX / PAGE - 1, 1, COLO_RUN_DATA };
    static const ColoRun over = {
        UINT64_MAX / PAGE - 1, UINT32_MAX, COLO_RUN_DATA
    };
    g_autoptr(ColoRamList) ram = colo_ramlist_new(PAGE, &error_abort);
    Error *err = NULL;

    colo_ramlist_add(ram, "huge", UINT64_MAX - PAGE + 1, &error_abort);
    g_assert_true(colo_ramlist_check_runs(ram, 0, &run, 1, PAGE,
                                          &error_abort));
    g_assert_false(colo_ramlist_check_runs(ram, 0, &over, 1, PAGE, &err));
    error_free(err);
}

static void test_names(void)
{
    g_assert_cmpstr(colo_msg_type_name(COLO_MSG_COMMIT), ==, "COMMIT");
    g_assert_cmpstr(colo_msg_type_name(0), ==, "unknown");
    g_assert_cmpstr(colo_msg_type_name(COLO_MSG__MAX), ==, "unknown");
    g_assert_cmpstr(colo_side_name(COLO_SIDE_PRIMARY), ==, "primary");
    g_assert_cmpstr(colo_side_name(COLO_SIDE_SECONDARY), ==, "secondary");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/wire/round-trip", test_round_trip);
    g_test_add_func("/colo/wire/bytes", test_bytes);
    g_test_add_func("/colo/wire/every-bit", test_every_bit);
    g_test_add_func("/colo/wire/header/type", test_header_type);
    g_test_add_func("/colo/wire/header/flags", test_header_flags);
    g_test_add_func("/colo/wire/header/lengths", test_header_lengths);
    g_test_add_func("/colo/wire/fields", test_fields);
    g_test_add_func("/colo/wire/commit-flags", test_commit_flags);
    g_test_add_func("/colo/wire/pages-without", test_pages_without);
    g_test_add_func("/colo/wire/truncated", test_truncated);
    g_test_add_func("/colo/wire/empty", test_empty);
    g_test_add_func("/colo/wire/text", test_text_limits);
    g_test_add_func("/colo/wire/encode-refuses", test_encode_refuses);
    g_test_add_func("/colo/wire/hello/largest", test_hello_largest);
    g_test_add_func("/colo/wire/hello/foreign", test_hello_foreign);
    g_test_add_func("/colo/wire/hello/newer", test_hello_newer);
    g_test_add_func("/colo/wire/crc", test_crc);
    g_test_add_func("/colo/wire/crc-of-much", test_crc_of_much);
    g_test_add_func("/colo/wire/crc-everywhere", test_crc_everywhere);
    g_test_add_func("/colo/wire/names", test_names);
    g_test_add_func("/colo/ramlist/add", test_ramlist_add);
    g_test_add_func("/colo/ramlist/match", test_ramlist_match);
    g_test_add_func("/colo/ramlist/count", test_ramlist_count);
    g_test_add_func("/colo/ramlist/huge", test_ramlist_huge);
    return g_test_run();
}
