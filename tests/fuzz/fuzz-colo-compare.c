/*
 * COLO proxy: fuzzer of the comparison
 *
 * The input is a script: packets of both guests and events, most of them of
 * one TCP connection with few sequence numbers, so that they meet. What may
 * leave is judged by a model that keeps every byte: invariant 1 of the
 * design, in the plainest form.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "net/colo/compare.h"
#include "fuzz.h"

#define NUMBERS 256         /* sequence numbers in use, from BASE on */
#define BASE 0xffffffc0u    /* they wrap */
#define PACKETS 512        /* of the PVM, at most */
#define NR_FLOWS 4          /* of UDP */

typedef struct Sent {
    uint64_t epoch;
    uint32_t ack;
    bool left;
    bool tcp;
    bool has_ack;
    uint8_t seq, len, fin, value, flow;
} Sent;

typedef struct Model {
    ColoCompare *c;
    uint64_t epoch;             /* committed */
    bool have_epoch;
    bool protect;
    unsigned nr_sent;
    unsigned next_tcp;          /* first packet that has not left */
    unsigned next_udp[NR_FLOWS];
    Sent sent[PACKETS];
    bool floor[NUMBERS + 64];   /* has left, so the PVM has emitted it */
    bool svm[NUMBERS + 64][8];  /* emitted by the SVM, with this value */
    bool svm_fin[NUMBERS + 64];
    bool ack_known, pvm_ack_known;
    uint32_t ack, pvm_ack;      /* highest that may leave; emitted, noted */
    unsigned released;
} Model;

/* ---- frames ---- */

static size_t put_ip(uint8_t *f, uint8_t proto, uint16_t id, unsigned len)
{
    memset(f, 0, 34);
    f[12] = 8;
    f[14] = 0x45;
    stw_be_p(f + 16, 20 + len);
    stw_be_p(f + 18, id);
    f[23] = proto;
    return 34 + len;
}

static size_t put_tcp(uint8_t *f, uint16_t id, const Sent *s)
{
    size_t len = put_ip(f, 6, id, 20 + s->len);

    memset(f + 34, 0, 20);
    f[35] = 80;
    f[37] = 99;
    stl_be_p(f + 38, BASE + s->seq);
    stl_be_p(f + 42, s->ack);
    f[46] = 0x50;
    f[47] = (s->has_ack ? COLO_TCP_ACK : 0) | (s->fin ? COLO_TCP_FIN : 0);
    memset(f + 54, s->value, s->len);
    return len;
}

static size_t put_udp(uint8_t *f, uint16_t id, const Sent *s)
{
    size_t len = put_ip(f, 17, id, 9);

    memset(f + 34, 0, 8);
    f[35] = s->flow;
    f[39] = 9;
    f[42] = s->value;
    return len;
}

/* ---- the model ---- */

static void raise_ack(bool *known, uint32_t *max, uint32_t ack)
{
    *max = *known ? colo_seq_max(*max, ack) : ack;
    *known = true;
}

static void model_svm(Model *m, const Sent *s)
{
    unsigned i;

    for (i = 0; i < s->len; i++) {
        m->svm[s->seq + i][s->value] = true;
    }
    if (s->fin) {
        m->svm_fin[s->seq + s->len] = true;
    }
    if (s->has_ack) {
        raise_ack(&m->ack_known, &m->ack, s->ack);
    }
}

/* A segment of the running epoch leaves, with @ack in it. */
static void judge(Model *m, const Sent *s, uint32_t ack)
{
    unsigned i;

    for (i = 0; i < s->len; i++) {
        g_assert(m->floor[s->seq + i] || m->svm[s->seq + i][s->value]);
    }
    g_assert(!s->fin || m->floor[s->seq + s->len] ||
             m->svm_fin[s->seq + s->len]);
    g_assert(!s->has_ack ||
             (m->ack_known && colo_seq_diff(ack, m->ack) <= 0));
}

static void leave(Model *m, const Sent *s, bool old)
{
    unsigned end = s->seq + s->len + s->fin;
    unsigned i;

    /*
     * All before it was emitted earlier, or it would be held. Of a bare ACK
     * that is only assumed at a commit.
     */
    for (i = 0; i < end && (old || s->len + s->fin); i++) {
        m->floor[i] = true;
    }
    if (s->has_ack) {
        raise_ack(&m->pvm_ack_known, &m->pvm_ack, s->ack);
    }
}

/* Packets of a connection leave in the order they came in. */
static void check_order(Model *m, unsigned id)
{
    while (m->next_tcp < m->nr_sent &&
           (!m->sent[m->next_tcp].tcp || m->sent[m->next_tcp].left)) {
        m->next_tcp++;
    }
    g_assert(id < m->next_tcp);
}

static void on_release(void *opaque, const uint8_t *frame, size_t len,
                       size_t vnet_len)
{
    Model *m = opaque;
    unsigned id = lduw_be_p(frame + 18);
    Sent *s = &m->sent[id];
    bool old = !m->protect ||
               (m->have_epoch && s->epoch < m->epoch);

    m->released++;
    g_assert(id < m->nr_sent);
    g_assert(old || (m->have_epoch && s->epoch == m->epoch));
    if (!s->tcp) {
        g_assert(!s->left);
        s->left = true;
        while (m->next_udp[s->flow] < m->nr_sent &&
               (m->sent[m->next_udp[s->flow]].tcp ||
                m->sent[m->next_udp[s->flow]].flow != s->flow ||
                m->sent[m->next_udp[s->flow]].left)) {
            m->next_udp[s->flow]++;
        }
        g_assert(id < m->next_udp[s->flow]);
        return;
    }
    if (s->left) {
        /* An ACK that makes up for a lowered one. */
        g_assert(len == 54 && s->has_ack);
        g_assert(old || colo_seq_diff(ldl_be_p(frame + 42), m->ack) <= 0);
        return;
    }
    s->left = true;
    check_order(m, id);
    if (!old) {
        judge(m, s, ldl_be_p(frame + 42));
    }
    leave(m, s, old);
    if (old && s->has_ack) {
        raise_ack(&m->ack_known, &m->ack, s->ack);
    }
}

static void on_checkpoint(void *opaque, ColoCheckpointReason reason)
{
}

/* ---- the script ---- */

typedef struct Script {
    const uint8_t *p;
    size_t left;
} Script;

static uint8_t next(Script *script)
{
    if (!script->left) {
        return 0;
    }
    script->left--;
    return *script->p++;
}

static Sent next_packet(Script *script, uint8_t op)
{
    Sent s = { .tcp = op & 0x10, .has_ack = true };

    if (s.tcp) {
        uint8_t how = next(script);

        s.seq = next(script);
        s.len = how & 31;
        s.fin = !(how & 0xc0);
        s.value = how >> 5 & 1;
        s.has_ack = next(script) & 15;
        s.ack = BASE + (script->left ? *script->p : 0);
    } else {
        s.flow = op >> 5 & (NR_FLOWS - 1);
        s.value = op >> 7;
    }
    return s;
}

static void do_packet(Model *m, Script *script, uint8_t op, bool pvm)
{
    uint64_t epoch = m->epoch + ((op & 0x0c) == 0x0c) -
                     (m->epoch && (op & 0x0c) == 0x08);
    Sent s = next_packet(script, op);
    uint8_t frame[128];
    size_t len;

    s.epoch = epoch;
    len = s.tcp ? put_tcp(frame, pvm ? m->nr_sent : 0, &s) :
                  put_udp(frame, pvm ? m->nr_sent : 0, &s);
    if (!pvm) {
        /* The model has the SVM's bytes before the comparison acts. */
        if (s.tcp && m->have_epoch && epoch == m->epoch) {
            model_svm(m, &s);
        }
        if (epoch <= m->epoch) {
            colo_compare_svm(m->c, frame, len, 0, epoch, 0);
        }
        return;
    }
    if (m->nr_sent) {
        /* Epochs come in order. */
        s.epoch = epoch = MAX(epoch, m->sent[m->nr_sent - 1].epoch);
    }
    m->sent[m->nr_sent++] = s;
    colo_compare_pvm(m->c, frame, len, 0, epoch, 0);
}

static void do_commit(Model *m)
{
    uint64_t epoch = m->epoch + 1;

    if (!m->protect) {
        return;
    }
    /*
     * Packets of the epoch that is committed now are judged in it; those
     * before it leave whatever they are.
     */
    memset(m->svm, 0, sizeof(m->svm));
    memset(m->svm_fin, 0, sizeof(m->svm_fin));
    m->epoch = epoch;
    m->have_epoch = true;
    m->ack_known = m->pvm_ack_known;
    m->ack = m->pvm_ack;
    colo_compare_commit(m->c, epoch, 0);
}

static void do_raw(Model *m, Script *script, bool pvm)
{
    size_t len = MIN(next(script), script->left);
    uint8_t copy[256];

    /* Not of the model's flows: with another IP address, or no IP. */
    memcpy(copy, script->p, len);
    if (len >= 34) {
        copy[26] |= 1;
    }
    script->p += len;
    script->left -= len;
    if (pvm) {
        return;
    }
    colo_compare_svm(m->c, copy, len, len & 4 ? 12 : 0, m->epoch, 0);
}

static void step(Model *m, Script *script)
{
    uint8_t op = next(script);

    switch (op & 3) {
    case 0:
    case 1:
        if (m->nr_sent < PACKETS) {
            do_packet(m, script, op, op & 1);
        }
        break;
    case 2:
        if (op & 4) {
            do_commit(m);
        } else {
            colo_compare_tick(m->c, op * 1000);
        }
        break;
    case 3:
        if (op & 4) {
            do_raw(m, script, op & 8);
        } else if (op & 8) {
            colo_compare_capture(m->c, m->epoch + 1);
        } else if (!m->protect) {
            m->protect = true;
            colo_compare_set_mode(m->c, COLO_COMPARE_COMPARE);
        }
        break;
    }
}

static void check_counts(Model *m)
{
    ColoCompareStats stats;
    uint64_t left;

    colo_compare_stats(m->c, &stats);
    left = stats.open + stats.matched + stats.committed;
    g_assert(stats.pvm_packets ==
             left + stats.held_packets + stats.dropped + stats.taken);
    g_assert(m->released == left + stats.acks_made);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ColoCompareOps ops = { on_release, on_checkpoint };
    ColoCompareLimits limits = { .max_conns = 6, .max_queue_size = 16 };
    Script script = { data, size };
    Model *m = g_new0(Model, 1);

    if (next(&script) & 1) {
        limits.max_conn_bytes = 2000;
    }
    m->c = colo_compare_new(&ops, m, &limits);
    while (script.left) {
        step(m, &script);
    }
    check_counts(m);
    m->protect = false;
    colo_compare_release_all(m->c);
    check_counts(m);
    colo_compare_free(m->c);
    g_free(m);
    return 0;
}
