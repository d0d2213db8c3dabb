/*
 * COLO checkpoint protocol: the messages and their encoding
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "crc.h"
#include "wire.h"

/* Offsets in the header. */
#define H_MAGIC 0
#define H_TYPE 4
#define H_FLAGS 6
#define H_EPOCH 8
#define H_PAYLOAD_LEN 16
#define H_DATA_LEN 20
#define H_PAYLOAD_CRC 24
#define H_HEADER_CRC 28

/* Sizes of payloads, or of their fixed part. */
#define HELLO_VERSIONS_SIZE 4
#define PAGES_FIXED_SIZE 16
#define PAGES_RUN_SIZE 16

/* What is left of a payload. */
typedef struct ColoReader {
    const uint8_t *p;
    size_t left;
} ColoReader;

/*
 * How one type of message is put, got and checked. get() and put() know the
 * layout, check() the values; each may be NULL. check() is used both ways.
 */
typedef struct ColoMsgInfo {
    const char *name;
    bool from[2];           /* by ColoSide: who sends it */
    uint16_t flags;         /* header flags it may have */
    uint32_t payload_min;
    uint32_t payload_max;
    uint32_t data_min;
    uint32_t data_max;
    void (*put)(const ColoMsg *msg, GByteArray *out);
    bool (*get)(ColoReader *r, ColoMsg *msg, Error **errp);
    bool (*check)(const ColoMsg *msg, Error **errp);
} ColoMsgInfo;

static void put_u8(GByteArray *out, uint8_t v)
{
    g_byte_array_append(out, &v, 1);
}

static void put_u16(GByteArray *out, uint16_t v)
{
    uint8_t buf[2];

    stw_be_p(buf, v);
    g_byte_array_append(out, buf, sizeof(buf));
}

static void put_u32(GByteArray *out, uint32_t v)
{
    uint8_t buf[4];

    stl_be_p(buf, v);
    g_byte_array_append(out, buf, sizeof(buf));
}

static void put_u64(GByteArray *out, uint64_t v)
{
    uint8_t buf[8];

    stq_be_p(buf, v);
    g_byte_array_append(out, buf, sizeof(buf));
}

/* A string with its length before it; the caller has checked that it fits. */
static void put_str(GByteArray *out, const char *str)
{
    put_u8(out, strlen(str));
    g_byte_array_append(out, (const uint8_t *)str, strlen(str));
}

/* The next @len bytes, or NULL with an error that names @field. */
static const uint8_t *get_bytes(ColoReader *r, size_t len, const char *field,
                                Error **errp)
{
    const uint8_t *p = r->p;

    if (r->left < len) {
        error_setg(errp, "%s: the message ends before it does", field);
        return NULL;
    }
    r->p += len;
    r->left -= len;
    return p;
}

static bool get_u16(ColoReader *r, uint16_t *v, const char *field,
                    Error **errp)
{
    const uint8_t *p = get_bytes(r, 2, field, errp);

    if (p) {
        *v = lduw_be_p(p);
    }
    return p;
}

static bool get_u32(ColoReader *r, uint32_t *v, const char *field,
                    Error **errp)
{
    const uint8_t *p = get_bytes(r, 4, field, errp);

    if (p) {
        *v = ldl_be_p(p);
    }
    return p;
}

static bool get_u64(ColoReader *r, uint64_t *v, const char *field,
                    Error **errp)
{
    const uint8_t *p = get_bytes(r, 8, field, errp);

    if (p) {
        *v = ldq_be_p(p);
    }
    return p;
}

static bool get_i64(ColoReader *r, int64_t *v, const char *field,
                    Error **errp)
{
    uint64_t u;

    if (!get_u64(r, &u, field, errp)) {
        return false;
    }
    *v = u;
    return true;
}

/* Bytes that mean nothing yet and must be zero until they do. */
static bool get_reserved(ColoReader *r, size_t len, Error **errp)
{
    const uint8_t *p = get_bytes(r, len, "reserved", errp);

    if (!p) {
        return false;
    }
    if (!buffer_is_zero(p, len)) {
        error_setg(errp, "reserved: is not zero");
        return false;
    }
    return true;
}

/* @len bytes of text as a new string. */
static char *get_text(ColoReader *r, size_t len, const char *field,
                      Error **errp)
{
    const char *p = (const char *)get_bytes(r, len, field, errp);

    if (!p) {
        return NULL;
    }
    if (!colo_text_valid(p, len)) {
        error_setg(errp, "%s: is not printable UTF-8", field);
        return NULL;
    }
    return g_strndup(p, len);
}

static char *get_str(ColoReader *r, const char *field, Error **errp)
{
    const uint8_t *len = get_bytes(r, 1, field, errp);

    return len ? get_text(r, *len, field, errp) : NULL;
}

static void put_hello(const ColoMsg *msg, GByteArray *out)
{
    const ColoHello *hello = &msg->hello;
    unsigned i;

    put_u16(out, hello->version_min);
    put_u16(out, hello->version_max);
    if (!hello->ram) {
        return;
    }
    put_u32(out, hello->ram->page_size);
    put_u64(out, hello->features);
    g_byte_array_append(out, hello->host_id, sizeof(hello->host_id));
    put_str(out, hello->qemu_version);
    put_str(out, hello->machine);
    put_u16(out, colo_ramlist_size(hello->ram));
    put_u16(out, 0);
    for (i = 0; i < colo_ramlist_size(hello->ram); i++) {
        const ColoRamBlock *block = colo_ramlist_get(hello->ram, i);

        put_str(out, block->idstr);
        put_u64(out, block->used_length);
    }
}

static bool get_hello_block(ColoReader *r, ColoRamList *ram, Error **errp)
{
    g_autofree char *idstr = get_str(r, "RAM block name", errp);
    uint64_t used_length;

    return idstr &&
           get_u64(r, &used_length, "RAM block length", errp) &&
           colo_ramlist_add(ram, idstr, used_length, errp);
}

static bool get_hello_ram(ColoReader *r, ColoRamList *ram, Error **errp)
{
    uint16_t n_blocks, i;

    if (!get_u16(r, &n_blocks, "number of RAM blocks", errp) ||
        !get_reserved(r, 2, errp)) {
        return false;
    }
    for (i = 0; i < n_blocks; i++) {
        if (!get_hello_block(r, ram, errp)) {
            return false;
        }
    }
    return true;
}

static void hello_set_str(char **dst, char *src)
{
    g_free(*dst);
    *dst = src;
}

/* Does its sender speak none of our versions? */
static bool hello_foreign(const ColoHello *hello)
{
    return hello->version_min > COLO_VERSION_MAX ||
           hello->version_max < COLO_VERSION_MIN;
}

static bool get_hello(ColoReader *r, ColoMsg *msg, Error **errp)
{
    ColoHello *hello = &msg->hello;
    const uint8_t *host_id;
    uint32_t page_size;
    char *str;

    if (!get_u16(r, &hello->version_min, "lowest version", errp) ||
        !get_u16(r, &hello->version_max, "highest version", errp)) {
        return false;
    }
    /* The rest may look different in versions that are none of ours. */
    if (hello_foreign(hello)) {
        r->left = 0;
        return true;
    }
    if (!get_u32(r, &page_size, "page size", errp)) {
        return false;
    }
    hello->ram = colo_ramlist_new(page_size, errp);
    if (!hello->ram || !get_u64(r, &hello->features, "features", errp)) {
        return false;
    }
    host_id = get_bytes(r, sizeof(hello->host_id), "host id", errp);
    if (!host_id) {
        return false;
    }
    memcpy(hello->host_id, host_id, sizeof(hello->host_id));
    str = get_str(r, "QEMU version", errp);
    if (!str) {
        return false;
    }
    hello_set_str(&hello->qemu_version, str);
    str = get_str(r, "machine", errp);
    if (!str) {
        return false;
    }
    hello_set_str(&hello->machine, str);
    if (!get_hello_ram(r, hello->ram, errp)) {
        return false;
    }
    /* A newer version may have added to the end of what we know. */
    if (hello->version_max > COLO_VERSION_MAX) {
        r->left = 0;
    }
    return true;
}

static bool check_name(const char *str, const char *field, Error **errp)
{
    size_t len = str ? strlen(str) : 0;

    if (!str || len > COLO_MAX_NAME || !colo_text_valid(str, len)) {
        error_setg(errp, "%s: is not printable UTF-8 of at most %d bytes",
                   field, COLO_MAX_NAME);
        return false;
    }
    return true;
}

/* Without a RAM list it may only be of versions that are none of ours. */
static bool check_hello(const ColoMsg *msg, Error **errp)
{
    const ColoHello *hello = &msg->hello;

    if (hello->version_min == 0 ||
        hello->version_min > hello->version_max) {
        error_setg(errp, "versions: %u to %u is no range",
                   hello->version_min, hello->version_max);
        return false;
    }
    if (!hello->ram && !hello_foreign(hello)) {
        error_setg(errp, "RAM blocks: are missing");
        return false;
    }
    return check_name(hello->qemu_version, "QEMU version", errp) &&
           check_name(hello->machine, "machine", errp);
}

static void put_reason(const ColoMsg *msg, GByteArray *out)
{
    put_u16(out, msg->begin.reason);
    put_u16(out, 0);
}

static bool get_reason(ColoReader *r, ColoMsg *msg, Error **errp)
{
    uint16_t reason;

    if (!get_u16(r, &reason, "reason", errp)) {
        return false;
    }
    msg->begin.reason = reason;
    return get_reserved(r, 2, errp);
}

static bool check_reason(const ColoMsg *msg, Error **errp)
{
    if (msg->begin.reason >= COLO_WIRE_REASON__MAX) {
        error_setg(errp, "reason: %u is unknown",
                   (unsigned)msg->begin.reason);
        return false;
    }
    return true;
}

static void put_pages(const ColoMsg *msg, GByteArray *out)
{
    const GArray *runs = msg->pages.runs;
    unsigned i;

    put_u16(out, msg->pages.block);
    put_u16(out, 0);
    put_u32(out, runs->len);
    put_u32(out, msg->pages.data_crc);
    put_u32(out, 0);
    for (i = 0; i < runs->len; i++) {
        const ColoRun *run = &g_array_index(runs, ColoRun, i);

        put_u64(out, run->first);
        put_u32(out, run->count);
        put_u32(out, run->flags);
    }
}

static bool get_pages(ColoReader *r, ColoMsg *msg, Error **errp)
{
    uint32_t n_runs, i;

    if (!get_u16(r, &msg->pages.block, "block", errp) ||
        !get_reserved(r, 2, errp) ||
        !get_u32(r, &n_runs, "number of runs", errp) ||
        !get_u32(r, &msg->pages.data_crc, "data checksum", errp) ||
        !get_reserved(r, 4, errp)) {
        return false;
    }
    if (r->left != (uint64_t)n_runs * PAGES_RUN_SIZE) {
        error_setg(errp, "number of runs: %" PRIu32 " do not take the %zu"
                   " bytes there are", n_runs, r->left);
        return false;
    }
    g_array_set_size(msg->pages.runs, n_runs);
    for (i = 0; i < n_runs; i++) {
        ColoRun *run = &g_array_index(msg->pages.runs, ColoRun, i);

        if (!get_u64(r, &run->first, "first", errp) ||
            !get_u32(r, &run->count, "count", errp) ||
            !get_u32(r, &run->flags, "flags", errp)) {
            return false;
        }
    }
    return true;
}

static bool check_pages(const ColoMsg *msg, Error **errp)
{
    if (msg->pages.runs->len == 0 || msg->pages.runs->len > COLO_MAX_RUNS) {
        error_setg(errp, "number of runs: %u is not from 1 to %d",
                   msg->pages.runs->len, COLO_MAX_RUNS);
        return false;
    }
    if (!colo_msg_has_data_crc(msg) && msg->pages.data_crc) {
        error_setg(errp, "data checksum: is there without its flag");
        return false;
    }
    return true;
}

static void put_sync(const ColoMsg *msg, GByteArray *out)
{
    put_u32(out, msg->sync.number);
}

static bool get_sync(ColoReader *r, ColoMsg *msg, Error **errp)
{
    return get_u32(r, &msg->sync.number, "number", errp);
}

static void put_blob(const ColoMsg *msg, GByteArray *out)
{
    put_u32(out, msg->device.data_crc);
}

static bool get_blob(ColoReader *r, ColoMsg *msg, Error **errp)
{
    return get_u32(r, &msg->device.data_crc, "data checksum", errp);
}

static void put_commit(const ColoMsg *msg, GByteArray *out)
{
    put_u64(out, msg->commit.totals.pages);
    put_u64(out, msg->commit.totals.zero_pages);
    put_u64(out, msg->commit.totals.bytes);
    put_u32(out, msg->commit.flags);
    put_u32(out, msg->commit.stood_us);
    put_u64(out, msg->commit.virtual_ns);
    put_u64(out, msg->commit.capture_ns);
    put_u64(out, msg->commit.sent_ns);
    put_u64(out, msg->commit.rtt_ns);
}

static bool get_commit(ColoReader *r, ColoMsg *msg, Error **errp)
{
    return get_u64(r, &msg->commit.totals.pages, "pages", errp) &&
           get_u64(r, &msg->commit.totals.zero_pages, "zero pages", errp) &&
           get_u64(r, &msg->commit.totals.bytes, "bytes", errp) &&
           get_u32(r, &msg->commit.flags, "flags", errp) &&
           get_u32(r, &msg->commit.stood_us, "pause", errp) &&
           get_i64(r, &msg->commit.virtual_ns, "virtual clock", errp) &&
           get_i64(r, &msg->commit.capture_ns, "capture clock", errp) &&
           get_i64(r, &msg->commit.sent_ns, "sending clock", errp) &&
           get_u64(r, &msg->commit.rtt_ns, "round trip", errp);
}

static bool check_clock(int64_t ns, const char *field, Error **errp)
{
    if (ns < 0 || ns > COLO_MAX_CLOCK) {
        error_setg(errp, "%s: %" PRId64 " ns is out of range", field, ns);
        return false;
    }
    return true;
}

static bool check_commit(const ColoMsg *msg, Error **errp)
{
    switch (msg->commit.flags) {
    case 0:
    case COLO_COMMIT_F_SHUTDOWN:
    case COLO_COMMIT_F_RESET:
    case COLO_COMMIT_F_SUSPEND:
    case COLO_COMMIT_F_PAUSED:
    case COLO_COMMIT_F_IDLE:
        break;
    default:
        error_setg(errp, "flags: 0x%" PRIx32 " is no single known flag",
                   msg->commit.flags);
        return false;
    }
    if (!check_clock(msg->commit.virtual_ns, "virtual clock", errp) ||
        !check_clock(msg->commit.capture_ns, "capture clock", errp) ||
        !check_clock(msg->commit.sent_ns, "sending clock", errp)) {
        return false;
    }
    if (msg->commit.sent_ns < msg->commit.capture_ns) {
        error_setg(errp, "sending clock: is before the capture");
        return false;
    }
    if (msg->commit.rtt_ns > COLO_MAX_RTT_NS) {
        error_setg(errp, "round trip: %" PRIu64 " ns is out of range",
                   msg->commit.rtt_ns);
        return false;
    }
    return true;
}

static void put_committed(const ColoMsg *msg, GByteArray *out)
{
    put_u64(out, msg->committed.merge_us);
}

static bool get_committed(ColoReader *r, ColoMsg *msg, Error **errp)
{
    return get_u64(r, &msg->committed.merge_us, "merge time", errp);
}

static bool check_committed(const ColoMsg *msg, Error **errp)
{
    if (msg->committed.merge_us > COLO_MAX_MERGE_US) {
        error_setg(errp, "merge time: %" PRIu64 " us is out of range",
                   msg->committed.merge_us);
        return false;
    }
    return true;
}

static void put_text(const ColoMsg *msg, GByteArray *out)
{
    g_byte_array_append(out, (const uint8_t *)msg->text.text,
                        strlen(msg->text.text));
}

static bool get_text_msg(ColoReader *r, ColoMsg *msg, Error **errp)
{
    char *text = get_text(r, r->left, "text", errp);

    if (!text) {
        return false;
    }
    g_free(msg->text.text);
    msg->text.text = text;
    return true;
}

static const ColoMsgInfo msg_info[COLO_MSG__MAX] = {
    [COLO_MSG_HELLO] = {
        .name = "HELLO",
        .from = { true, true },
        .payload_min = HELLO_VERSIONS_SIZE,
        .payload_max = COLO_MAX_HELLO,
        .put = put_hello,
        .get = get_hello,
        .check = check_hello,
    },
    [COLO_MSG_READY] = {
        .name = "READY",
        .from = { [COLO_SIDE_SECONDARY] = true },
    },
    [COLO_MSG_BEGIN] = {
        .name = "BEGIN",
        .from = { [COLO_SIDE_PRIMARY] = true },
        .payload_min = 4,
        .payload_max = 4,
        .put = put_reason,
        .get = get_reason,
        .check = check_reason,
    },
    [COLO_MSG_PAGES] = {
        .name = "PAGES",
        .from = { [COLO_SIDE_PRIMARY] = true },
        .flags = COLO_MSG_F_DATA_CRC,
        .payload_min = PAGES_FIXED_SIZE + PAGES_RUN_SIZE,
        .payload_max = PAGES_FIXED_SIZE + PAGES_RUN_SIZE * COLO_MAX_RUNS,
        .data_max = COLO_MAX_PAGES_DATA,
        .put = put_pages,
        .get = get_pages,
        .check = check_pages,
    },
    [COLO_MSG_SYNC] = {
        .name = "SYNC",
        .from = { [COLO_SIDE_PRIMARY] = true },
        .payload_min = 4,
        .payload_max = 4,
        .put = put_sync,
        .get = get_sync,
    },
    [COLO_MSG_DEVICE] = {
        .name = "DEVICE",
        .from = { [COLO_SIDE_PRIMARY] = true },
        .payload_min = 4,
        .payload_max = 4,
        .data_min = 1,
        .data_max = COLO_MAX_DEVICE_DATA,
        .put = put_blob,
        .get = get_blob,
    },
    [COLO_MSG_PROXY] = {
        .name = "PROXY",
        .from = { [COLO_SIDE_PRIMARY] = true },
        .payload_min = 4,
        .payload_max = 4,
        .data_max = COLO_MAX_PROXY_DATA,
        .put = put_blob,
        .get = get_blob,
    },
    [COLO_MSG_COMMIT] = {
        .name = "COMMIT",
        .from = { [COLO_SIDE_PRIMARY] = true },
        .payload_min = 64,
        .payload_max = 64,
        .put = put_commit,
        .get = get_commit,
        .check = check_commit,
    },
    [COLO_MSG_COMMITTED] = {
        .name = "COMMITTED",
        .from = { [COLO_SIDE_SECONDARY] = true },
        .payload_min = 8,
        .payload_max = 8,
        .put = put_committed,
        .get = get_committed,
        .check = check_committed,
    },
    [COLO_MSG_REQUEST] = {
        .name = "REQUEST",
        .from = { [COLO_SIDE_SECONDARY] = true },
        .payload_min = 4,
        .payload_max = 4,
        .put = put_reason,
        .get = get_reason,
        .check = check_reason,
    },
    [COLO_MSG_END] = {
        .name = "END",
        .from = { [COLO_SIDE_PRIMARY] = true },
        .payload_max = COLO_MAX_TEXT,
        .put = put_text,
        .get = get_text_msg,
    },
    [COLO_MSG_TAKEOVER] = {
        .name = "TAKEOVER",
        .from = { true, true },
        .payload_max = COLO_MAX_TEXT,
        .put = put_text,
        .get = get_text_msg,
    },
    [COLO_MSG_STOPPED] = {
        .name = "STOPPED",
        .from = { true, true },
        .payload_max = COLO_MAX_TEXT,
        .put = put_text,
        .get = get_text_msg,
    },
    [COLO_MSG_ERROR] = {
        .name = "ERROR",
        .from = { true, true },
        .payload_max = COLO_MAX_TEXT,
        .put = put_text,
        .get = get_text_msg,
    },
};

/* BEGIN and REQUEST, DEVICE and PROXY share members and so get and put. */
QEMU_BUILD_BUG_ON(offsetof(ColoMsg, begin) != offsetof(ColoMsg, request));
QEMU_BUILD_BUG_ON(offsetof(ColoMsg, device) != offsetof(ColoMsg, proxy));

static const ColoMsgInfo *get_info(unsigned type)
{
    if (type >= COLO_MSG__MAX || !msg_info[type].name) {
        return NULL;
    }
    return &msg_info[type];
}

const char *colo_msg_type_name(unsigned type)
{
    const ColoMsgInfo *info = get_info(type);

    return info ? info->name : "unknown";
}

const char *colo_side_name(ColoSide side)
{
    return side == COLO_SIDE_PRIMARY ? "primary" : "secondary";
}

static bool type_has_text(ColoMsgType type)
{
    return type == COLO_MSG_END || type == COLO_MSG_TAKEOVER ||
           type == COLO_MSG_STOPPED || type == COLO_MSG_ERROR;
}

void colo_msg_init(ColoMsg *msg, ColoMsgType type, uint64_t epoch)
{
    memset(msg, 0, sizeof(*msg));
    msg->h.type = type;
    msg->h.epoch = epoch;
    if (type == COLO_MSG_HELLO) {
        msg->hello.version_min = COLO_VERSION_MIN;
        msg->hello.version_max = COLO_VERSION_MAX;
        msg->hello.qemu_version = g_strdup("");
        msg->hello.machine = g_strdup("");
    } else if (type == COLO_MSG_PAGES) {
        msg->pages.runs = g_array_new(false, true, sizeof(ColoRun));
    } else if (type_has_text(type)) {
        msg->text.text = g_strdup("");
    }
}

void colo_msg_clear(ColoMsg *msg)
{
    if (msg->h.type == COLO_MSG_HELLO) {
        colo_hello_clear(&msg->hello);
    } else if (msg->h.type == COLO_MSG_PAGES) {
        g_array_free(msg->pages.runs, true);
    } else if (type_has_text(msg->h.type)) {
        g_free(msg->text.text);
    }
    memset(msg, 0, sizeof(*msg));
}

void colo_msg_set_text(ColoMsg *msg, const char *text)
{
    g_autoptr(GString) str = g_string_new(NULL);

    while (*text) {
        gunichar c = g_utf8_get_char_validated(text, -1);
        bool bad = c >= (gunichar)-2;
        char utf8[6];
        int len;

        if (bad || g_unichar_iscntrl(c)) {
            utf8[0] = '?';
            len = 1;
        } else {
            len = g_unichar_to_utf8(c, utf8);
        }
        if (str->len + len > COLO_MAX_TEXT) {
            break;
        }
        g_string_append_len(str, utf8, len);
        text = bad ? text + 1 : g_utf8_next_char(text);
    }
    g_free(msg->text.text);
    msg->text.text = g_strdup(str->str);
}

void colo_hello_copy(ColoHello *dst, const ColoHello *src)
{
    colo_hello_clear(dst);
    *dst = *src;
    dst->qemu_version = g_strdup(src->qemu_version);
    dst->machine = g_strdup(src->machine);
    dst->ram = src->ram ? colo_ramlist_copy(src->ram) : NULL;
}

void colo_hello_clear(ColoHello *hello)
{
    g_free(hello->qemu_version);
    g_free(hello->machine);
    colo_ramlist_free(hello->ram);
    memset(hello, 0, sizeof(*hello));
}

static bool check_length(const char *field, uint32_t len, uint32_t min,
                         uint32_t max, Error **errp)
{
    if (len < min || len > max) {
        error_setg(errp, "%s: %" PRIu32 " is not from %" PRIu32 " to %" PRIu32,
                   field, len, min, max);
        return false;
    }
    return true;
}

static bool header_check(const ColoHeader *h, ColoSide from, Error **errp)
{
    const ColoMsgInfo *info = get_info(h->type);

    if (!info || !info->from[from]) {
        error_setg(errp, "type: %u (%s) is none the %s sends",
                   (unsigned)h->type, colo_msg_type_name(h->type),
                   colo_side_name(from));
        return false;
    }
    if (h->flags & ~info->flags) {
        error_setg(errp, "flags: 0x%x are unknown", h->flags);
        return false;
    }
    return check_length("payload length", h->payload_len, info->payload_min,
                        info->payload_max, errp) &&
           check_length("data length", h->data_len, info->data_min,
                        info->data_max, errp);
}

static void put_header(const ColoHeader *h, uint8_t *buf)
{
    stl_be_p(buf + H_MAGIC, COLO_MAGIC);
    stw_be_p(buf + H_TYPE, h->type);
    stw_be_p(buf + H_FLAGS, h->flags);
    stq_be_p(buf + H_EPOCH, h->epoch);
    stl_be_p(buf + H_PAYLOAD_LEN, h->payload_len);
    stl_be_p(buf + H_DATA_LEN, h->data_len);
    stl_be_p(buf + H_PAYLOAD_CRC, h->payload_crc);
    stl_be_p(buf + H_HEADER_CRC, colo_crc(0, buf, H_HEADER_CRC));
}

bool colo_msg_encode(const ColoMsg *msg, ColoSide from, GByteArray *out,
                     Error **errp)
{
    ERRP_GUARD();
    const ColoMsgInfo *info = get_info(msg->h.type);
    g_autoptr(GByteArray) payload = g_byte_array_new();
    uint8_t buf[COLO_HEADER_SIZE];
    ColoHeader h = msg->h;

    if (!info) {
        error_setg(errp, "COLO protocol: there is no message type %u",
                   (unsigned)msg->h.type);
        return false;
    }
    if (info->check && !info->check(msg, errp)) {
        error_prepend(errp, "COLO protocol: can't send %s: ", info->name);
        return false;
    }
    if (info->put) {
        info->put(msg, payload);
    }
    h.payload_len = payload->len;
    h.payload_crc = colo_crc(0, payload->data, payload->len);
    if (!header_check(&h, from, errp)) {
        error_prepend(errp, "COLO protocol: can't send %s: ", info->name);
        return false;
    }
    put_header(&h, buf);
    g_byte_array_append(out, buf, sizeof(buf));
    g_byte_array_append(out, payload->data, payload->len);
    return true;
}

bool colo_header_decode(const uint8_t *buf, ColoSide from, ColoHeader *h,
                        Error **errp)
{
    ERRP_GUARD();
    uint32_t magic = ldl_be_p(buf + H_MAGIC);

    if (magic != COLO_MAGIC) {
        error_setg(errp, "COLO protocol: the %s sent something that is no"
                   " COLO message (0x%08" PRIx32 "): does it run the same"
                   " kind of QEMU, with x-colo set?",
                   colo_side_name(from), magic);
        return false;
    }
    if (ldl_be_p(buf + H_HEADER_CRC) != colo_crc(0, buf, H_HEADER_CRC)) {
        error_setg(errp, "COLO protocol: header checksum: does not match;"
                   " the %s's stream is damaged", colo_side_name(from));
        return false;
    }
    h->type = lduw_be_p(buf + H_TYPE);
    h->flags = lduw_be_p(buf + H_FLAGS);
    h->epoch = ldq_be_p(buf + H_EPOCH);
    h->payload_len = ldl_be_p(buf + H_PAYLOAD_LEN);
    h->data_len = ldl_be_p(buf + H_DATA_LEN);
    h->payload_crc = ldl_be_p(buf + H_PAYLOAD_CRC);
    if (!header_check(h, from, errp)) {
        error_prepend(errp, "COLO protocol: header of %s: ",
                      colo_msg_type_name(h->type));
        return false;
    }
    return true;
}

static bool payload_decode(const ColoMsgInfo *info, const uint8_t *payload,
                           const ColoRamList *ram, ColoMsg *msg, Error **errp)
{
    /* an empty payload may be NULL, but not what is read from it */
    ColoReader r = {
        .p = payload ?: (const uint8_t *)"",
        .left = msg->h.payload_len,
    };

    if (colo_crc(0, r.p, r.left) != msg->h.payload_crc) {
        error_setg(errp, "payload checksum: does not match;"
                   " the stream is damaged");
        return false;
    }
    if (info->get && !info->get(&r, msg, errp)) {
        return false;
    }
    if (r.left) {
        error_setg(errp, "payload length: %zu bytes too many", r.left);
        return false;
    }
    if (info->check && !info->check(msg, errp)) {
        return false;
    }
    if (msg->h.type != COLO_MSG_PAGES) {
        return true;
    }
    if (!ram) {
        error_setg(errp, "block: there are no RAM blocks yet");
        return false;
    }
    return colo_ramlist_check_runs(ram, msg->pages.block,
                                   (ColoRun *)msg->pages.runs->data,
                                   msg->pages.runs->len, msg->h.data_len,
                                   errp);
}

bool colo_msg_decode(const ColoHeader *h, const uint8_t *payload,
                     const ColoRamList *ram, ColoMsg *msg, Error **errp)
{
    ERRP_GUARD();

    colo_msg_init(msg, h->type, h->epoch);
    msg->h = *h;
    if (!payload_decode(get_info(h->type), payload, ram, msg, errp)) {
        error_prepend(errp, "COLO protocol: %s: ",
                      colo_msg_type_name(h->type));
        colo_msg_clear(msg);
        return false;
    }
    return true;
}

bool colo_msg_has_data_crc(const ColoMsg *msg)
{
    return msg->h.type == COLO_MSG_DEVICE || msg->h.type == COLO_MSG_PROXY ||
           (msg->h.type == COLO_MSG_PAGES &&
            (msg->h.flags & COLO_MSG_F_DATA_CRC));
}

bool colo_msg_check_data(const ColoMsg *msg, uint32_t crc, Error **errp)
{
    uint32_t want;

    if (!colo_msg_has_data_crc(msg)) {
        return true;
    }
    want = msg->h.type == COLO_MSG_PAGES ? msg->pages.data_crc
                                         : msg->device.data_crc;
    if (crc != want) {
        error_setg(errp, "COLO protocol: %s: data checksum: does not match;"
                   " the stream is damaged",
                   colo_msg_type_name(msg->h.type));
        return false;
    }
    return true;
}
