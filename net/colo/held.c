/*
 * COLO proxy: a queue of packets that belong to epochs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "net/colo/held.h"

static size_t packet_size(const ColoHeld *pkt)
{
    return sizeof(*pkt) + pkt->len;
}

void colo_held_init(ColoHeldQueue *q)
{
    QSIMPLEQ_INIT(&q->list);
    q->count = 0;
    q->bytes = 0;
    q->dropped = 0;
}

void colo_held_push(ColoHeldQueue *q, uint64_t epoch, unsigned int flags,
                       uint32_t vnet_hdr_len, const struct iovec *iov,
                       int iovcnt)
{
    size_t len = iov_size(iov, iovcnt);
    ColoHeld *pkt = g_malloc(sizeof(*pkt) + len);

    pkt->epoch = epoch;
    pkt->flags = flags;
    pkt->vnet_hdr_len = vnet_hdr_len;
    pkt->len = len;
    iov_to_buf(iov, iovcnt, 0, pkt->data, len);
    QSIMPLEQ_INSERT_TAIL(&q->list, pkt, next);
    q->count++;
    q->bytes += packet_size(pkt);
}

bool colo_held_oldest(const ColoHeldQueue *q, uint64_t *epoch)
{
    ColoHeld *pkt = QSIMPLEQ_FIRST(&q->list);

    if (!pkt) {
        return false;
    }
    *epoch = pkt->epoch;
    return true;
}

ColoHeld *colo_held_pop(ColoHeldQueue *q, uint64_t epoch)
{
    ColoHeld *pkt = QSIMPLEQ_FIRST(&q->list);

    if (!pkt || pkt->epoch > epoch) {
        return NULL;
    }
    QSIMPLEQ_REMOVE_HEAD(&q->list, next);
    q->count--;
    q->bytes -= packet_size(pkt);
    return pkt;
}

void colo_held_trim(ColoHeldQueue *q, size_t bytes)
{
    while (q->bytes > bytes) {
        g_free(colo_held_pop(q, UINT64_MAX));
        q->dropped++;
    }
}

void colo_held_clear(ColoHeldQueue *q)
{
    colo_held_trim(q, 0);
}
