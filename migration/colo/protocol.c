/*
 * COLO checkpoint protocol: the state machines of both sides
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "protocol.h"

/* Epochs stay far from where k + 1 would wrap. */
#define COLO_MAX_EPOCH (UINT64_MAX / 2)

/* Sets of states, and of message types, as bits. */
#define IN(state) (1u << (state))
#define OWED(type) (1u << (type))

/* Sent once when there is a reason, whatever else happens. */
#define SENT_IF_OWED (OWED(COLO_MSG_COMMITTED) | OWED(COLO_MSG_TAKEOVER) | \
                      OWED(COLO_MSG_STOPPED) | OWED(COLO_MSG_ERROR))

/* As the next state in a row: it stays as it is. */
#define SAME_STATE (-1)

/* Which epoch the header of a message must have. */
typedef enum ColoEpochRule {
    EPOCH_ANY,
    EPOCH_ZERO,
    EPOCH_BASE,
    EPOCH_COMMITTED,
    EPOCH_NEXT,             /* committed + 1 */
} ColoEpochRule;

static const char *const primary_state_names[COLO_P__MAX] = {
    [COLO_P_INIT] = "INIT",
    [COLO_P_GREETED] = "GREETED",
    [COLO_P_WAIT_READY] = "WAIT_READY",
    [COLO_P_READY] = "READY",
    [COLO_P_RUNNING] = "RUNNING",
    [COLO_P_SENDING] = "SENDING",
    [COLO_P_WAIT_COMMIT] = "WAIT_COMMIT",
    [COLO_P_ENDING] = "ENDING",
    [COLO_P_LOST] = "LOST",
    [COLO_P_TAKING_OVER] = "TAKING_OVER",
    [COLO_P_STOPPED] = "STOPPED",
    [COLO_P_ENDED] = "ENDED",
};

static const char *const secondary_state_names[COLO_S__MAX] = {
    [COLO_S_INIT] = "INIT",
    [COLO_S_GREETED] = "GREETED",
    [COLO_S_SETUP] = "SETUP",
    [COLO_S_READY] = "READY",
    [COLO_S_RUNNING] = "RUNNING",
    [COLO_S_RECEIVING] = "RECEIVING",
    [COLO_S_COMMITTING] = "COMMITTING",
    [COLO_S_LOST] = "LOST",
    [COLO_S_TAKING_OVER] = "TAKING_OVER",
    [COLO_S_STOPPED] = "STOPPED",
    [COLO_S_ENDED] = "ENDED",
};

const char *colo_primary_state_name(ColoPrimaryState state)
{
    return primary_state_names[state];
}

const char *colo_secondary_state_name(ColoSecondaryState state)
{
    return secondary_state_names[state];
}

/* The handshake */

static bool agree_version(const ColoHello *local, const ColoHello *peer,
                          uint16_t *version, Error **errp)
{
    *version = MIN(local->version_max, peer->version_max);
    if (*version < MAX(local->version_min, peer->version_min)) {
        error_setg(errp, "COLO protocol: this QEMU speaks versions %u to %u"
                   " and the peer %u to %u: use QEMU versions that share one",
                   local->version_min, local->version_max,
                   peer->version_min, peer->version_max);
        return false;
    }
    return true;
}

static bool agree_features(const ColoHello *local, const ColoHello *peer,
                           uint64_t *features, Error **errp)
{
    uint64_t differ = (local->features ^ peer->features) & COLO_FEATURES_SAME;

    if (differ & COLO_FEATURE_MULTIFD) {
        bool here = local->features & COLO_FEATURE_MULTIFD;

        error_setg(errp, "COLO protocol: migration capability multifd is %s"
                   " here and %s at the peer: set it alike on both",
                   here ? "on" : "off", here ? "off" : "on");
        return false;
    }
    *features = local->features & peer->features &
                (COLO_FEATURES_SAME | COLO_FEATURES_COMMON);
    return true;
}

bool colo_hello_agree(const ColoHello *local, const ColoHello *peer,
                      ColoAgreed *agreed, Error **errp)
{
    ERRP_GUARD();

    if (!agree_version(local, peer, &agreed->version, errp) ||
        !agree_features(local, peer, &agreed->features, errp)) {
        return false;
    }
    if (!colo_ramlist_match(local->ram, peer->ram, errp)) {
        error_prepend(errp, "COLO: the guests differ (machine %s in QEMU %s"
                      " here, %s in %s at the peer): ",
                      local->machine, local->qemu_version,
                      peer->machine, peer->qemu_version);
        return false;
    }
    agreed->same_host =
        !buffer_is_zero(local->host_id, COLO_HOST_ID_SIZE) &&
        !memcmp(local->host_id, peer->host_id, COLO_HOST_ID_SIZE);
    return true;
}

/* What both sides check of the parts of a checkpoint */

/* May a message with header @h be part of the checkpoint, after @progress? */
static bool part_expected(const ColoProgress *progress,
                          const ColoAgreed *agreed, const ColoHeader *h,
                          Error **errp)
{
    bool crc = agreed->features & COLO_FEATURE_PAGE_CRC;
    bool multifd = agreed->features & COLO_FEATURE_MULTIFD;

    if ((h->type == COLO_MSG_DEVICE && progress->device) ||
        (h->type == COLO_MSG_PROXY && progress->proxy)) {
        error_setg(errp, "COLO protocol: %s is there twice in checkpoint %"
                   PRIu64, colo_msg_type_name(h->type), h->epoch);
        return false;
    }
    if (h->type == COLO_MSG_SYNC && !multifd) {
        error_setg(errp, "COLO protocol: SYNC without multifd");
        return false;
    }
    if (h->type == COLO_MSG_PAGES &&
        !(h->flags & COLO_MSG_F_DATA_CRC) != !crc) {
        error_setg(errp, "COLO protocol: PAGES %s a checksum, which is not"
                   " what was agreed", crc ? "without" : "with");
        return false;
    }
    return true;
}

static bool commit_complete(const ColoProgress *progress,
                            const ColoAgreed *agreed, const ColoMsg *msg,
                            Error **errp)
{
    const ColoTotals *got = &progress->totals;
    const ColoTotals *want = &msg->commit.totals;

    if (!progress->device || !progress->proxy) {
        error_setg(errp, "COLO protocol: COMMIT of checkpoint %" PRIu64
                   " without %s", msg->h.epoch,
                   progress->device ? "PROXY" : "DEVICE");
        return false;
    }
    if ((agreed->features & COLO_FEATURE_MULTIFD) &&
        (progress->unsynced || !progress->syncs)) {
        error_setg(errp, "COLO protocol: COMMIT of checkpoint %" PRIu64
                   " without SYNC after its pages", msg->h.epoch);
        return false;
    }
    if (got->pages != want->pages || got->zero_pages != want->zero_pages ||
        got->bytes != want->bytes) {
        error_setg(errp, "COLO protocol: COMMIT of checkpoint %" PRIu64
                   " with %" PRIu64 " pages, %" PRIu64 " zero pages and %"
                   PRIu64 " bytes; counted were %" PRIu64 ", %" PRIu64
                   " and %" PRIu64, msg->h.epoch,
                   want->pages, want->zero_pages, want->bytes,
                   got->pages, got->zero_pages, got->bytes);
        return false;
    }
    return true;
}

/* Take @msg as the next part of a checkpoint. It is part_expected(). */
static bool part_take(ColoProgress *progress, ColoRamList *ram,
                      const ColoMsg *msg, Error **errp)
{
    switch (msg->h.type) {
    case COLO_MSG_PAGES:
        colo_ramlist_count(ram, msg->pages.block,
                           (ColoRun *)msg->pages.runs->data,
                           msg->pages.runs->len, &progress->totals.pages,
                           &progress->totals.zero_pages);
        break;
    case COLO_MSG_SYNC:
        if (msg->sync.number != progress->syncs + 1) {
            error_setg(errp, "COLO protocol: SYNC number %" PRIu32
                       " comes after %" PRIu32, msg->sync.number,
                       progress->syncs);
            return false;
        }
        progress->syncs++;
        progress->unsynced = false;
        break;
    case COLO_MSG_DEVICE:
        progress->device = true;
        break;
    default:
        progress->proxy = true;
        break;
    }
    progress->totals.bytes += msg->h.data_len;
    return true;
}

static void progress_start(ColoProgress *progress, ColoRamList *ram)
{
    memset(progress, 0, sizeof(*progress));
    colo_ramlist_reset_counts(ram);
}

static void progress_add_pages(ColoProgress *progress, uint64_t pages,
                               uint64_t zero_pages)
{
    progress->totals.pages += pages;
    progress->totals.zero_pages += zero_pages;
    progress->unsynced = true;
}

static bool type_is_part(ColoMsgType type)
{
    return type == COLO_MSG_PAGES || type == COLO_MSG_SYNC ||
           type == COLO_MSG_DEVICE || type == COLO_MSG_PROXY;
}

static uint64_t rule_epoch(ColoEpochRule rule, uint64_t base,
                           uint64_t committed)
{
    switch (rule) {
    case EPOCH_BASE:
        return base;
    case EPOCH_COMMITTED:
        return committed;
    case EPOCH_NEXT:
        return committed + 1;
    default:
        return 0;
    }
}

static bool epoch_fits(ColoEpochRule rule, uint64_t base, uint64_t committed,
                       const ColoHeader *h, Error **errp)
{
    uint64_t want = rule_epoch(rule, base, committed);

    if (rule != EPOCH_ANY && h->epoch != want) {
        error_setg(errp, "COLO protocol: %s is for epoch %" PRIu64
                   " and not for %" PRIu64, colo_msg_type_name(h->type),
                   h->epoch, want);
        return false;
    }
    return true;
}

/*
 * The primary
 *
 * A row says in which states a message may come or go and for which epoch,
 * which state is next, and what else is to be checked and done before.
 */

typedef bool ColoPrimaryAction(ColoPrimary *p, const ColoMsg *msg,
                               Error **errp);

typedef struct ColoPrimaryRow {
    uint32_t in;
    ColoEpochRule epoch;
    int next;
    ColoPrimaryAction *act;
} ColoPrimaryRow;

/* Before the first checkpoint begins, and from then on. */
#define P_EARLY (IN(COLO_P_INIT) | IN(COLO_P_GREETED) | \
                 IN(COLO_P_WAIT_READY) | IN(COLO_P_READY))
#define P_ACTIVE (IN(COLO_P_RUNNING) | IN(COLO_P_SENDING) | \
                  IN(COLO_P_WAIT_COMMIT))
/* States in which late messages of the secondary are passed over. */
#define P_CLOSING (IN(COLO_P_ENDING) | IN(COLO_P_LOST) | \
                   IN(COLO_P_TAKING_OVER) | IN(COLO_P_STOPPED) | \
                   IN(COLO_P_ENDED))

void colo_primary_init(ColoPrimary *p, const ColoHello *local, uint64_t base)
{
    assert(base < COLO_MAX_EPOCH);
    memset(p, 0, sizeof(*p));
    colo_hello_copy(&p->local, local);
    p->ram = colo_ramlist_copy(local->ram);
    p->base = p->committed = p->offered = base;
    p->link = true;
}

void colo_primary_destroy(ColoPrimary *p)
{
    colo_hello_clear(&p->local);
    colo_ramlist_free(p->ram);
    memset(p, 0, sizeof(*p));
}

/* No more progress with this peer; who survives may be undecided. */
static void primary_lose(ColoPrimary *p)
{
    switch (p->state) {
    case COLO_P_STOPPED:
    case COLO_P_ENDED:
    case COLO_P_LOST:
        break;
    case COLO_P_TAKING_OVER:
        p->state = COLO_P_ENDED;
        break;
    default:
        /* A secondary that never got a COMMIT can't take over. */
        p->state = p->offered > p->base ? COLO_P_LOST : COLO_P_ENDED;
        break;
    }
}

void colo_primary_peer_lost(ColoPrimary *p)
{
    p->link = false;
    p->owed = 0;
    primary_lose(p);
}

void colo_primary_failed(ColoPrimary *p)
{
    if (p->link && p->state != COLO_P_STOPPED && p->state != COLO_P_ENDED) {
        p->owed |= OWED(COLO_MSG_ERROR);
    }
    primary_lose(p);
}

bool colo_primary_failover(ColoPrimary *p, Error **errp)
{
    switch (p->state) {
    case COLO_P_STOPPED:
        error_setg(errp, "COLO: the secondary has taken over, this side"
                   " can't go on");
        return false;
    case COLO_P_ENDED:
    case COLO_P_TAKING_OVER:
        return true;
    default:
        p->owed = p->link ? OWED(COLO_MSG_TAKEOVER) : 0;
        p->state = p->link ? COLO_P_TAKING_OVER : COLO_P_ENDED;
        return true;
    }
}

static bool primary_got_hello(ColoPrimary *p, const ColoMsg *msg,
                              Error **errp)
{
    return colo_hello_agree(&p->local, &msg->hello, &p->agreed, errp);
}

static bool primary_got_committed(ColoPrimary *p, const ColoMsg *msg,
                                  Error **errp)
{
    p->committed = p->epoch;
    return true;
}

static bool primary_got_request(ColoPrimary *p, const ColoMsg *msg,
                                Error **errp)
{
    if (p->committed == p->base) {
        error_setg(errp, "COLO protocol: REQUEST before the first checkpoint");
        return false;
    }
    return true;
}

static bool primary_got_error(ColoPrimary *p, const ColoMsg *msg,
                              Error **errp)
{
    primary_lose(p);
    return true;
}

static bool primary_got_takeover(ColoPrimary *p, const ColoMsg *msg,
                                 Error **errp)
{
    /* It goes on from a checkpoint that it was sent, or it lies. */
    if (msg->h.epoch <= p->base || msg->h.epoch < p->committed ||
        msg->h.epoch > p->offered) {
        error_setg(errp, "COLO protocol: TAKEOVER from epoch %" PRIu64
                   ", which the secondary can't have", msg->h.epoch);
        return false;
    }
    p->owed = p->link ? OWED(COLO_MSG_STOPPED) : 0;
    return true;
}

static bool primary_got_stopped(ColoPrimary *p, const ColoMsg *msg,
                                Error **errp)
{
    p->owed = 0;
    return true;
}

static const ColoPrimaryRow primary_recv_rows[COLO_MSG__MAX] = {
    [COLO_MSG_HELLO] = {
        IN(COLO_P_INIT), EPOCH_ZERO, COLO_P_GREETED, primary_got_hello
    },
    [COLO_MSG_READY] = {
        IN(COLO_P_WAIT_READY), EPOCH_BASE, COLO_P_READY
    },
    [COLO_MSG_COMMITTED] = {
        IN(COLO_P_WAIT_COMMIT), EPOCH_NEXT, COLO_P_RUNNING,
        primary_got_committed
    },
    [COLO_MSG_REQUEST] = {
        P_ACTIVE, EPOCH_COMMITTED, SAME_STATE, primary_got_request
    },
    [COLO_MSG_ERROR] = {
        P_EARLY | P_ACTIVE, EPOCH_ANY, SAME_STATE, primary_got_error
    },
    /* Not in TAKING_OVER: of two sides told to survive, the primary does. */
    [COLO_MSG_TAKEOVER] = {
        P_ACTIVE | IN(COLO_P_ENDING) | IN(COLO_P_LOST), EPOCH_ANY,
        COLO_P_STOPPED, primary_got_takeover
    },
    [COLO_MSG_STOPPED] = {
        P_EARLY | P_ACTIVE | IN(COLO_P_ENDING) | IN(COLO_P_LOST) |
        IN(COLO_P_TAKING_OVER), EPOCH_ANY,
        COLO_P_ENDED, primary_got_stopped
    },
};

static bool primary_put_begin(ColoPrimary *p, const ColoMsg *msg,
                              Error **errp)
{
    p->epoch = msg->h.epoch;
    progress_start(&p->progress, p->ram);
    return true;
}

static bool primary_put_part(ColoPrimary *p, const ColoMsg *msg, Error **errp)
{
    if (!part_expected(&p->progress, &p->agreed, &msg->h, errp)) {
        return false;
    }
    if (msg->h.type == COLO_MSG_PAGES &&
        !colo_ramlist_check_runs(p->ram, msg->pages.block,
                                 (ColoRun *)msg->pages.runs->data,
                                 msg->pages.runs->len, msg->h.data_len,
                                 errp)) {
        return false;
    }
    return part_take(&p->progress, p->ram, msg, errp);
}

static bool primary_put_commit(ColoPrimary *p, const ColoMsg *msg,
                               Error **errp)
{
    if (!commit_complete(&p->progress, &p->agreed, msg, errp)) {
        return false;
    }
    p->offered = p->epoch;
    return true;
}

static const ColoPrimaryRow primary_send_rows[COLO_MSG__MAX] = {
    [COLO_MSG_HELLO] = {
        IN(COLO_P_GREETED), EPOCH_BASE, COLO_P_WAIT_READY
    },
    [COLO_MSG_BEGIN] = {
        IN(COLO_P_READY) | IN(COLO_P_RUNNING), EPOCH_NEXT, COLO_P_SENDING,
        primary_put_begin
    },
    [COLO_MSG_PAGES] = {
        IN(COLO_P_SENDING), EPOCH_NEXT, SAME_STATE, primary_put_part
    },
    [COLO_MSG_SYNC] = {
        IN(COLO_P_SENDING), EPOCH_NEXT, SAME_STATE, primary_put_part
    },
    [COLO_MSG_DEVICE] = {
        IN(COLO_P_SENDING), EPOCH_NEXT, SAME_STATE, primary_put_part
    },
    [COLO_MSG_PROXY] = {
        IN(COLO_P_SENDING), EPOCH_NEXT, SAME_STATE, primary_put_part
    },
    [COLO_MSG_COMMIT] = {
        IN(COLO_P_SENDING), EPOCH_NEXT, COLO_P_WAIT_COMMIT,
        primary_put_commit
    },
    [COLO_MSG_END] = {
        P_EARLY | P_ACTIVE | IN(COLO_P_LOST), EPOCH_COMMITTED, COLO_P_ENDING
    },
    [COLO_MSG_TAKEOVER] = {
        IN(COLO_P_TAKING_OVER) | IN(COLO_P_ENDED), EPOCH_COMMITTED,
        SAME_STATE
    },
    [COLO_MSG_STOPPED] = {
        IN(COLO_P_STOPPED), EPOCH_COMMITTED, SAME_STATE
    },
    [COLO_MSG_ERROR] = {
        P_CLOSING, EPOCH_COMMITTED, SAME_STATE
    },
};

static bool primary_do_row(ColoPrimary *p, const ColoPrimaryRow *row,
                           const ColoMsg *msg, Error **errp)
{
    if (row->act && !row->act(p, msg, errp)) {
        return false;
    }
    if (row->next != SAME_STATE) {
        p->state = row->next;
    }
    return true;
}

bool colo_primary_expects(const ColoPrimary *p, const ColoHeader *h,
                          Error **errp)
{
    const ColoPrimaryRow *row = &primary_recv_rows[h->type];

    if (row->in & IN(p->state)) {
        return epoch_fits(row->epoch, p->base, p->committed, h, errp);
    }
    if (P_CLOSING & IN(p->state)) {
        return true;
    }
    error_setg(errp, "COLO protocol: the secondary sent %s in state %s",
               colo_msg_type_name(h->type),
               colo_primary_state_name(p->state));
    return false;
}

bool colo_primary_recv(ColoPrimary *p, const ColoMsg *msg, Error **errp)
{
    const ColoPrimaryRow *row = &primary_recv_rows[msg->h.type];

    if (!colo_primary_expects(p, &msg->h, errp) ||
        ((row->in & IN(p->state)) && !primary_do_row(p, row, msg, errp))) {
        colo_primary_failed(p);
        return false;
    }
    return true;
}

bool colo_primary_may_send(const ColoPrimary *p, ColoMsgType type)
{
    return p->link && (primary_send_rows[type].in & IN(p->state)) &&
           (!(SENT_IF_OWED & OWED(type)) || (p->owed & OWED(type)));
}

uint64_t colo_primary_epoch_of(const ColoPrimary *p, ColoMsgType type)
{
    return rule_epoch(primary_send_rows[type].epoch, p->base, p->committed);
}

bool colo_primary_send(ColoPrimary *p, const ColoMsg *msg, Error **errp)
{
    const ColoPrimaryRow *row = &primary_send_rows[msg->h.type];

    if (!colo_primary_may_send(p, msg->h.type)) {
        error_setg(errp, "COLO protocol: %s can't be sent in state %s",
                   colo_msg_type_name(msg->h.type),
                   colo_primary_state_name(p->state));
        return false;
    }
    if (!epoch_fits(row->epoch, p->base, p->committed, &msg->h, errp) ||
        !primary_do_row(p, row, msg, errp)) {
        return false;
    }
    p->owed &= ~OWED(msg->h.type);
    return true;
}

void colo_primary_add_pages(ColoPrimary *p, uint64_t pages,
                            uint64_t zero_pages)
{
    progress_add_pages(&p->progress, pages, zero_pages);
}

bool colo_primary_may_release(const ColoPrimary *p, uint64_t epoch)
{
    if (p->state == COLO_P_STOPPED) {
        return false;
    }
    return p->state == COLO_P_ENDED || epoch < p->committed;
}

bool colo_primary_survives(const ColoPrimary *p)
{
    return p->state == COLO_P_ENDED;
}

/* The secondary; rows as the primary's */

typedef bool ColoSecondaryAction(ColoSecondary *s, const ColoMsg *msg,
                                 Error **errp);

typedef struct ColoSecondaryRow {
    uint32_t in;
    ColoEpochRule epoch;
    int next;
    ColoSecondaryAction *act;
} ColoSecondaryRow;

#define S_EARLY (IN(COLO_S_INIT) | IN(COLO_S_GREETED) | \
                 IN(COLO_S_SETUP) | IN(COLO_S_READY))
#define S_ACTIVE (IN(COLO_S_RUNNING) | IN(COLO_S_RECEIVING) | \
                  IN(COLO_S_COMMITTING))
/* States in which late messages of the primary are passed over. */
#define S_CLOSING (IN(COLO_S_LOST) | IN(COLO_S_TAKING_OVER) | \
                   IN(COLO_S_STOPPED) | IN(COLO_S_ENDED))

void colo_secondary_init(ColoSecondary *s, const ColoHello *local)
{
    memset(s, 0, sizeof(*s));
    colo_hello_copy(&s->local, local);
    s->link = true;
}

void colo_secondary_destroy(ColoSecondary *s)
{
    colo_hello_clear(&s->local);
    colo_ramlist_free(s->ram);
    memset(s, 0, sizeof(*s));
}

static void secondary_lose(ColoSecondary *s)
{
    switch (s->state) {
    case COLO_S_STOPPED:
    case COLO_S_ENDED:
    case COLO_S_LOST:
        break;
    case COLO_S_COMMITTING:
        s->lost_pending = true;
        break;
    case COLO_S_TAKING_OVER:
        s->state = COLO_S_ENDED;
        break;
    default:
        s->state = s->committed > s->base ? COLO_S_LOST : COLO_S_STOPPED;
        break;
    }
}

void colo_secondary_peer_lost(ColoSecondary *s)
{
    s->link = false;
    s->owed = 0;
    secondary_lose(s);
}

void colo_secondary_failed(ColoSecondary *s)
{
    if (s->link && s->state != COLO_S_STOPPED && s->state != COLO_S_ENDED) {
        s->owed |= OWED(COLO_MSG_ERROR);
    }
    secondary_lose(s);
}

static void secondary_take_over(ColoSecondary *s)
{
    s->owed = s->link ? OWED(COLO_MSG_TAKEOVER) : 0;
    s->state = s->link ? COLO_S_TAKING_OVER : COLO_S_ENDED;
}

/* To stop is irrevocable, and the primary is told. */
static void secondary_become_stopped(ColoSecondary *s)
{
    s->owed = s->link ? OWED(COLO_MSG_STOPPED) : 0;
    s->state = COLO_S_STOPPED;
}

void colo_secondary_commit_applied(ColoSecondary *s)
{
    if (s->state != COLO_S_COMMITTING) {
        return;
    }
    s->committed = s->epoch;
    if (s->failover_pending) {
        secondary_take_over(s);
    } else if (s->lost_pending) {
        s->state = COLO_S_LOST;
    } else {
        s->owed |= OWED(COLO_MSG_COMMITTED);
        s->state = COLO_S_RUNNING;
    }
}

void colo_secondary_commit_failed(ColoSecondary *s)
{
    if (s->state == COLO_S_COMMITTING) {
        secondary_become_stopped(s);
    }
}

void colo_secondary_stop(ColoSecondary *s)
{
    if (s->state != COLO_S_STOPPED && s->state != COLO_S_ENDED) {
        secondary_become_stopped(s);
    }
}

bool colo_secondary_failover(ColoSecondary *s, Error **errp)
{
    switch (s->state) {
    case COLO_S_STOPPED:
        error_setg(errp, "COLO: this side has stopped for good, it can't"
                   " take over");
        return false;
    case COLO_S_ENDED:
    case COLO_S_TAKING_OVER:
        return true;
    case COLO_S_COMMITTING:
        s->failover_pending = true;
        return true;
    default:
        if (s->committed == s->base) {
            error_setg(errp, "COLO: no checkpoint is complete yet, there is"
                       " nothing to go on from");
            return false;
        }
        secondary_take_over(s);
        return true;
    }
}

static bool secondary_got_hello(ColoSecondary *s, const ColoMsg *msg,
                                Error **errp)
{
    if (msg->h.epoch >= COLO_MAX_EPOCH) {
        error_setg(errp, "COLO protocol: epoch %" PRIu64 " of HELLO is out"
                   " of range", msg->h.epoch);
        return false;
    }
    if (!colo_hello_agree(&s->local, &msg->hello, &s->agreed, errp)) {
        return false;
    }
    s->ram = colo_ramlist_copy(msg->hello.ram);
    s->base = s->committed = msg->h.epoch;
    return true;
}

static bool secondary_got_begin(ColoSecondary *s, const ColoMsg *msg,
                                Error **errp)
{
    if (s->owed & OWED(COLO_MSG_COMMITTED)) {
        error_setg(errp, "COLO protocol: BEGIN of checkpoint %" PRIu64
                   " before the one before it was acknowledged",
                   msg->h.epoch);
        return false;
    }
    s->epoch = msg->h.epoch;
    progress_start(&s->progress, s->ram);
    return true;
}

static bool secondary_got_part(ColoSecondary *s, const ColoMsg *msg,
                               Error **errp)
{
    return part_take(&s->progress, s->ram, msg, errp);
}

static bool secondary_got_commit(ColoSecondary *s, const ColoMsg *msg,
                                 Error **errp)
{
    if (!commit_complete(&s->progress, &s->agreed, msg, errp)) {
        return false;
    }
    if (msg->commit.flags == COLO_COMMIT_F_IDLE &&
        !(s->agreed.features & COLO_FEATURE_IDLE_SVM)) {
        error_setg(errp, "COLO protocol: COMMIT of checkpoint %" PRIu64
                   " for an idle SVM, which was not agreed", msg->h.epoch);
        return false;
    }
    s->commit_flags = msg->commit.flags;
    return true;
}

static bool secondary_got_end(ColoSecondary *s, const ColoMsg *msg,
                              Error **errp)
{
    secondary_become_stopped(s);
    return true;
}

static bool secondary_got_stopped(ColoSecondary *s, const ColoMsg *msg,
                                  Error **errp)
{
    s->owed = 0;
    return true;
}

static bool secondary_got_error(ColoSecondary *s, const ColoMsg *msg,
                                Error **errp)
{
    secondary_lose(s);
    return true;
}

static const ColoSecondaryRow secondary_recv_rows[COLO_MSG__MAX] = {
    [COLO_MSG_HELLO] = {
        IN(COLO_S_GREETED), EPOCH_ANY, COLO_S_SETUP, secondary_got_hello
    },
    [COLO_MSG_BEGIN] = {
        IN(COLO_S_READY) | IN(COLO_S_RUNNING), EPOCH_NEXT,
        COLO_S_RECEIVING, secondary_got_begin
    },
    [COLO_MSG_PAGES] = {
        IN(COLO_S_RECEIVING), EPOCH_NEXT, SAME_STATE, secondary_got_part
    },
    [COLO_MSG_SYNC] = {
        IN(COLO_S_RECEIVING), EPOCH_NEXT, SAME_STATE, secondary_got_part
    },
    [COLO_MSG_DEVICE] = {
        IN(COLO_S_RECEIVING), EPOCH_NEXT, SAME_STATE, secondary_got_part
    },
    [COLO_MSG_PROXY] = {
        IN(COLO_S_RECEIVING), EPOCH_NEXT, SAME_STATE, secondary_got_part
    },
    [COLO_MSG_COMMIT] = {
        IN(COLO_S_RECEIVING), EPOCH_NEXT, COLO_S_COMMITTING,
        secondary_got_commit
    },
    /* Not in TAKING_OVER: then it was decided against a mere END. */
    [COLO_MSG_END] = {
        S_EARLY | S_ACTIVE | IN(COLO_S_LOST), EPOCH_ANY, SAME_STATE,
        secondary_got_end
    },
    /* Of two sides told to survive, the primary does. */
    [COLO_MSG_TAKEOVER] = {
        S_EARLY | S_ACTIVE | IN(COLO_S_LOST) | IN(COLO_S_TAKING_OVER),
        EPOCH_ANY, SAME_STATE, secondary_got_end
    },
    [COLO_MSG_STOPPED] = {
        IN(COLO_S_TAKING_OVER), EPOCH_ANY, COLO_S_ENDED,
        secondary_got_stopped
    },
    [COLO_MSG_ERROR] = {
        S_EARLY | S_ACTIVE, EPOCH_ANY, SAME_STATE, secondary_got_error
    },
};

static const ColoSecondaryRow secondary_send_rows[COLO_MSG__MAX] = {
    [COLO_MSG_HELLO] = {
        IN(COLO_S_INIT), EPOCH_ZERO, COLO_S_GREETED
    },
    [COLO_MSG_READY] = {
        IN(COLO_S_SETUP), EPOCH_BASE, COLO_S_READY
    },
    [COLO_MSG_COMMITTED] = {
        IN(COLO_S_RUNNING), EPOCH_COMMITTED, SAME_STATE
    },
    [COLO_MSG_REQUEST] = {
        IN(COLO_S_RUNNING) | IN(COLO_S_RECEIVING), EPOCH_COMMITTED,
        SAME_STATE
    },
    [COLO_MSG_TAKEOVER] = {
        IN(COLO_S_TAKING_OVER) | IN(COLO_S_ENDED), EPOCH_COMMITTED,
        SAME_STATE
    },
    [COLO_MSG_STOPPED] = {
        IN(COLO_S_STOPPED), EPOCH_COMMITTED, SAME_STATE
    },
    [COLO_MSG_ERROR] = {
        S_CLOSING, EPOCH_COMMITTED, SAME_STATE
    },
};

static bool secondary_do_row(ColoSecondary *s, const ColoSecondaryRow *row,
                             const ColoMsg *msg, Error **errp)
{
    if (row->act && !row->act(s, msg, errp)) {
        return false;
    }
    if (row->next != SAME_STATE) {
        s->state = row->next;
    }
    return true;
}

bool colo_secondary_expects(const ColoSecondary *s, const ColoHeader *h,
                            Error **errp)
{
    const ColoSecondaryRow *row = &secondary_recv_rows[h->type];

    if (row->in & IN(s->state)) {
        return epoch_fits(row->epoch, s->base, s->committed, h, errp) &&
               (!type_is_part(h->type) ||
                part_expected(&s->progress, &s->agreed, h, errp));
    }
    if (S_CLOSING & IN(s->state)) {
        return true;
    }
    error_setg(errp, "COLO protocol: the primary sent %s in state %s",
               colo_msg_type_name(h->type),
               colo_secondary_state_name(s->state));
    return false;
}

bool colo_secondary_recv(ColoSecondary *s, const ColoMsg *msg, Error **errp)
{
    const ColoSecondaryRow *row = &secondary_recv_rows[msg->h.type];

    if (!colo_secondary_expects(s, &msg->h, errp) ||
        ((row->in & IN(s->state)) && !secondary_do_row(s, row, msg, errp))) {
        colo_secondary_failed(s);
        return false;
    }
    return true;
}

bool colo_secondary_may_send(const ColoSecondary *s, ColoMsgType type)
{
    if (!s->link || !(secondary_send_rows[type].in & IN(s->state))) {
        return false;
    }
    if (type == COLO_MSG_REQUEST) {
        /* The primary has to learn of the epoch before. */
        return s->committed > s->base &&
               !(s->owed & OWED(COLO_MSG_COMMITTED));
    }
    return !(SENT_IF_OWED & OWED(type)) || (s->owed & OWED(type));
}

uint64_t colo_secondary_epoch_of(const ColoSecondary *s, ColoMsgType type)
{
    return rule_epoch(secondary_send_rows[type].epoch, s->base,
                      s->committed);
}

bool colo_secondary_send(ColoSecondary *s, const ColoMsg *msg, Error **errp)
{
    const ColoSecondaryRow *row = &secondary_send_rows[msg->h.type];

    if (!colo_secondary_may_send(s, msg->h.type)) {
        error_setg(errp, "COLO protocol: %s can't be sent in state %s",
                   colo_msg_type_name(msg->h.type),
                   colo_secondary_state_name(s->state));
        return false;
    }
    if (!epoch_fits(row->epoch, s->base, s->committed, &msg->h, errp) ||
        !secondary_do_row(s, row, msg, errp)) {
        return false;
    }
    s->owed &= ~OWED(msg->h.type);
    return true;
}

void colo_secondary_add_pages(ColoSecondary *s, uint64_t pages,
                              uint64_t zero_pages)
{
    progress_add_pages(&s->progress, pages, zero_pages);
}

bool colo_secondary_may_fail_over(const ColoSecondary *s)
{
    switch (s->state) {
    case COLO_S_COMMITTING:
    case COLO_S_STOPPED:
        return false;
    default:
        return s->committed > s->base;
    }
}

bool colo_secondary_discards_staging(const ColoSecondary *s)
{
    return s->state != COLO_S_RECEIVING && s->state != COLO_S_COMMITTING;
}

bool colo_secondary_survives(const ColoSecondary *s)
{
    return s->state == COLO_S_ENDED;
}
