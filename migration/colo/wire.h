/*
 * COLO checkpoint protocol: the messages and their encoding
 *
 * docs/interop/colo-protocol.rst describes the protocol; this is its codec.
 * A message is a header of fixed size, a payload that depends on its type,
 * and, for three of the types, data: raw bytes the codec does not look at.
 * All numbers are big-endian.
 *
 * Reading a message:
 *
 *     read COLO_HEADER_SIZE bytes          colo_header_decode()
 *     is it its turn?                      colo_{primary,secondary}_expects()
 *     read h.payload_len bytes             colo_msg_decode()
 *     let the state machine take it        colo_{primary,secondary}_recv()
 *     read h.data_len bytes                colo_msg_check_data()
 *
 * Functions here have no global state and take no locks; any thread may call
 * them. The bytes they decode are untrusted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_WIRE_H
#define MIGRATION_COLO_WIRE_H

#include "ramlist.h"

/* The versions of the protocol that this code speaks. */
#define COLO_VERSION_MIN 1
#define COLO_VERSION_MAX 1

#define COLO_MAGIC 0x51434f4c           /* "QCOL" */
#define COLO_HEADER_SIZE 32

#define COLO_MAX_TEXT 1024              /* bytes of a message's text */
#define COLO_MAX_NAME 255               /* bytes of a string in HELLO */
#define COLO_MAX_RUNS 65536             /* runs in a PAGES message */
#define COLO_MAX_PAGES_DATA (32u << 20)     /* bytes of data after PAGES */
#define COLO_MAX_DEVICE_DATA (256u << 20)   /* bytes of data after DEVICE */
#define COLO_MAX_PROXY_DATA (64u << 20)     /* bytes of data after PROXY */
#define COLO_MAX_HELLO (2u << 20)           /* bytes of a HELLO's payload */
#define COLO_HOST_ID_SIZE 16
/* Clock values, ns: low enough that sums of a few can't overflow. */
#define COLO_MAX_CLOCK (INT64_MAX / 4)
#define COLO_MAX_RTT_NS (3600 * 1000000000ull)
#define COLO_MAX_MERGE_US (86400 * 1000000ull)

/* Who sent a message. */
typedef enum ColoSide {
    COLO_SIDE_PRIMARY,
    COLO_SIDE_SECONDARY,
} ColoSide;

typedef enum ColoMsgType {
    COLO_MSG_HELLO = 1,     /* both: who I am; the secondary's comes first */
    COLO_MSG_READY = 2,     /* S: set up, checkpoints may begin */
    COLO_MSG_BEGIN = 3,     /* P: checkpoint @epoch begins */
    COLO_MSG_PAGES = 4,     /* P: pages of one RAMBlock; data follows */
    COLO_MSG_SYNC = 5,      /* P: the multifd channels are flushed here */
    COLO_MSG_DEVICE = 6,    /* P: device state; data follows */
    COLO_MSG_PROXY = 7,     /* P: the proxy's tables; data follows */
    COLO_MSG_COMMIT = 8,    /* P: that was all of it, apply it */
    COLO_MSG_COMMITTED = 9, /* S: it is applied */
    COLO_MSG_REQUEST = 10,  /* S: please take a checkpoint */
    COLO_MSG_END = 11,      /* P: protection ends, I go on, stop */
    COLO_MSG_TAKEOVER = 12, /* both: I am to be the sole survivor, stop */
    COLO_MSG_STOPPED = 13,  /* both: I have stopped and will not run again */
    COLO_MSG_ERROR = 14,    /* both: I can't go on with the protocol */
    COLO_MSG__MAX,
} ColoMsgType;

/* Header flag, PAGES only: pages.data_crc is the crc of the data. */
#define COLO_MSG_F_DATA_CRC 1

/* Features a side offers in its HELLO. */
#define COLO_FEATURE_MULTIFD (1ull << 0)    /* pages come by multifd */
#define COLO_FEATURE_PAGE_CRC (1ull << 1)   /* PAGES data has a checksum */
#define COLO_FEATURE_IDLE_SVM (1ull << 2)   /* COMMIT may say F_IDLE */
/* Features that both sides or none must have. */
#define COLO_FEATURES_SAME COLO_FEATURE_MULTIFD
/* Features used if both sides have them. */
#define COLO_FEATURES_COMMON (COLO_FEATURE_PAGE_CRC | COLO_FEATURE_IDLE_SVM)

/* Why a checkpoint is taken. The numbers of ColoCheckpointReason, for good. */
typedef enum ColoWireReason {
    COLO_WIRE_REASON_START = 0,
    COLO_WIRE_REASON_PERIOD = 1,
    COLO_WIRE_REASON_REQUEST = 2,
    COLO_WIRE_REASON_TCP = 3,
    COLO_WIRE_REASON_UDP = 4,
    COLO_WIRE_REASON_ICMP = 5,
    COLO_WIRE_REASON_OTHER = 6,
    COLO_WIRE_REASON_TIMEOUT = 7,
    COLO_WIRE_REASON_OVERFLOW = 8,
    COLO_WIRE_REASON_GUEST = 9,
    COLO_WIRE_REASON_SECONDARY = 10,
    COLO_WIRE_REASON_MEMORY = 11,
    COLO_WIRE_REASON__MAX,
} ColoWireReason;

/*
 * What the guest did at the capture that ends its epoch, or that it runs on
 * without the SVM; at most one.
 */
#define COLO_COMMIT_F_SHUTDOWN 1
#define COLO_COMMIT_F_RESET 2
#define COLO_COMMIT_F_SUSPEND 4
#define COLO_COMMIT_F_PAUSED 8          /* the user stopped it */
#define COLO_COMMIT_F_IDLE 16           /* nothing the SVM does is compared */

typedef struct ColoHeader {
    ColoMsgType type;
    uint16_t flags;         /* COLO_MSG_F_* */
    uint64_t epoch;         /* see colo-protocol.rst for each type */
    uint32_t payload_len;   /* bytes; set by colo_msg_encode() */
    uint32_t data_len;      /* bytes of raw data after the payload */
    uint32_t payload_crc;   /* set by colo_msg_encode() */
} ColoHeader;

/* HELLO. A ColoHello owns what it points to. */
typedef struct ColoHello {
    uint16_t version_min;
    uint16_t version_max;
    uint64_t features;      /* COLO_FEATURE_* */
    uint8_t host_id[COLO_HOST_ID_SIZE]; /* the host's boot id, or zeroes */
    char *qemu_version;     /* for error texts only */
    char *machine;          /* likewise */
    ColoRamList *ram;       /* with the page size; NULL if no version fits */
} ColoHello;

/* What a checkpoint consisted of. */
typedef struct ColoTotals {
    uint64_t pages;         /* pages sent with data, by whatever channel */
    uint64_t zero_pages;
    uint64_t bytes;         /* sum of data_len of all the epoch's messages */
} ColoTotals;

typedef struct ColoMsg {
    ColoHeader h;
    union {
        ColoHello hello;
        struct {
            ColoWireReason reason;
        } begin, request;
        struct {
            uint16_t block;     /* index into the primary's HELLO */
            uint32_t data_crc;  /* with COLO_MSG_F_DATA_CRC, else 0 */
            GArray *runs;       /* of ColoRun; the data is in their order */
        } pages;
        struct {
            uint32_t number;    /* 1 for the first of an epoch, then 2... */
        } sync;
        struct {
            uint32_t data_crc;
        } device, proxy;
        struct {
            ColoTotals totals;
            uint32_t flags;     /* COLO_COMMIT_F_* */
            uint32_t stood_us;  /* from the PVM's stop until it went on */
            /* QEMU_CLOCK_VIRTUAL at the capture, ns */
            int64_t virtual_ns;
            /* the primary's monotonic clock when the PVM went on, ns */
            int64_t capture_ns;
            /* the same clock when this message is sent, ns */
            int64_t sent_ns;
            /* the primary's last measure of a round trip, ns, 0: unknown */
            uint64_t rtt_ns;
        } commit;
        struct {
            uint64_t merge_us;  /* from COMMIT received to applied */
        } committed;
        struct {
            char *text;         /* END, TAKEOVER, STOPPED, ERROR; not NULL */
        } text;
    };
} ColoMsg;

/* The name of @type for messages and traces, "unknown" if it is none. */
const char *colo_msg_type_name(unsigned type);

/* The name of @side: "primary" or "secondary". */
const char *colo_side_name(ColoSide side);

/*
 * Make @msg an empty message of @type for @epoch. It must be cleared in the
 * end; pages.runs is there and empty, hello.ram is NULL, texts are "".
 */
void colo_msg_init(ColoMsg *msg, ColoMsgType type, uint64_t epoch);

/* Free what @msg owns and zero it. Harmless on one that is all zero. */
void colo_msg_clear(ColoMsg *msg);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ColoMsg, colo_msg_clear)

/*
 * Set the text of an END, TAKEOVER, STOPPED or ERROR. What must not be in a
 * text (control characters, bytes that are not UTF-8) becomes '?', and what
 * is longer than COLO_MAX_TEXT is cut at a character.
 */
void colo_msg_set_text(ColoMsg *msg, const char *text);

/* Make @dst, which is zero or a hello already, a copy of @src. */
void colo_hello_copy(ColoHello *dst, const ColoHello *src);

/* Free what @hello owns and zero it. Harmless on one that is all zero. */
void colo_hello_clear(ColoHello *hello);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ColoHello, colo_hello_clear)

/*
 * Append header and payload of @msg to @out; the data, of h.data_len bytes,
 * is for the caller to send behind it. Fails, and leaves @out alone, on what
 * colo_header_decode() and colo_msg_decode() of the peer would refuse: a VM
 * with more RAMBlocks than fit in a HELLO, say. PAGES are checked against
 * their limits, not against a RAM list.
 */
bool colo_msg_encode(const ColoMsg *msg, ColoSide from, GByteArray *out,
                     Error **errp);

/*
 * Decode the COLO_HEADER_SIZE bytes at @buf, sent by @from. Checked: magic,
 * checksum, type and that it is one @from sends, flags, and the length of
 * payload and data against what the type allows. So the caller may allocate
 * payload_len bytes on the strength of it, once it is the type's turn.
 */
bool colo_header_decode(const uint8_t *buf, ColoSide from, ColoHeader *h,
                        Error **errp);

/*
 * Decode the @h->payload_len bytes at @payload into @msg, which is
 * overwritten and must be cleared by the caller if this succeeds. @payload
 * may be NULL if it is empty. Checked: the checksum, each field, and that
 * nothing is left over. PAGES are checked against @ram, the list in the
 * primary's HELLO; NULL is for a side that takes none, and refuses them.
 */
bool colo_msg_decode(const ColoHeader *h, const uint8_t *payload,
                     const ColoRamList *ram, ColoMsg *msg, Error **errp);

/* Does @msg carry a checksum of its data? */
bool colo_msg_has_data_crc(const ColoMsg *msg);

/*
 * Check the data that came after @msg, whose checksum by colo_crc() is @crc,
 * if colo_msg_has_data_crc(); else there is nothing to check.
 */
bool colo_msg_check_data(const ColoMsg *msg, uint32_t crc, Error **errp);

#endif
