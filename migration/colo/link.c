/*
 * COLO: messages over the migration's channel
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-yank.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "link.h"
#include "trace.h"

/* Bytes that go out between two notes that the link moves. */
#define SEND_STEP (1u << 20)

void colo_link_touch(ColoLink *link)
{
    qatomic_set_i64(&link->moved_ms, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
}

int64_t colo_link_idle_ms(ColoLink *link)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME) -
           qatomic_read_i64(&link->moved_ms);
}

void colo_link_init(ColoLink *link, QIOChannel *ioc, ColoSide side)
{
    link->ioc = ioc;
    object_ref(OBJECT(ioc));
    qio_channel_set_blocking(ioc, true, NULL);
    /* a message must not wait for the peer's delayed ACK of the last one */
    qio_channel_set_delay(ioc, false);
    link->side = side;
    qemu_mutex_init(&link->send_lock);
    colo_link_touch(link);
}

void colo_link_destroy(ColoLink *link)
{
    if (link->ioc) {
        object_unref(OBJECT(link->ioc));
        link->ioc = NULL;
        qemu_mutex_destroy(&link->send_lock);
    }
}

/* Write in steps, so that a slow link can be told from one that hangs. */
static bool link_writev(ColoLink *link, const struct iovec *iov, size_t niov,
                        Error **errp)
{
    size_t i = 0;

    while (i < niov) {
        size_t n = 0, bytes = 0;

        while (i + n < niov && n < IOV_MAX &&
               (n == 0 || bytes + iov[i + n].iov_len <= SEND_STEP)) {
            bytes += iov[i + n].iov_len;
            n++;
        }
        if (qio_channel_writev_all(link->ioc, iov + i, n, errp) < 0) {
            return false;
        }
        colo_link_touch(link);
        i += n;
    }
    return true;
}

bool colo_link_send(ColoLink *link, const ColoMsg *msg,
                    const struct iovec *iov, size_t niov, Error **errp)
{
    g_autoptr(GByteArray) head = g_byte_array_new();
    struct iovec head_iov;

    if (!colo_msg_encode(msg, link->side, head, errp)) {
        return false;
    }
    trace_colo_send(colo_msg_type_name(msg->h.type), msg->h.epoch,
                    msg->h.data_len);
    head_iov.iov_base = head->data;
    head_iov.iov_len = head->len;
    QEMU_LOCK_GUARD(&link->send_lock);
    return link_writev(link, &head_iov, 1, errp) &&
           link_writev(link, iov, niov, errp);
}

static bool link_read(ColoLink *link, void *buf, size_t len, Error **errp)
{
    struct iovec iov = { .iov_base = buf, .iov_len = len };

    return colo_link_recv_data(link, &iov, 1, errp);
}

bool colo_link_recv_data(ColoLink *link, struct iovec *iov, size_t niov,
                         Error **errp)
{
    while (iov_size(iov, niov)) {
        unsigned int n = MIN(niov, IOV_MAX);
        ssize_t got = qio_channel_readv(link->ioc, iov, n, errp);

        if (got < 0) {
            return false;
        }
        if (got == 0) {
            error_setg(errp, "the peer has closed the connection");
            return false;
        }
        colo_link_touch(link);
        while (niov && (size_t)got >= iov->iov_len) {
            got -= iov->iov_len;
            iov++;
            niov--;
        }
        if (niov) {
            iov->iov_base = (uint8_t *)iov->iov_base + got;
            iov->iov_len -= got;
        }
    }
    return true;
}

bool colo_link_skip_data(ColoLink *link, size_t len, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(MIN(len, SEND_STEP));

    while (len) {
        size_t n = MIN(len, SEND_STEP);

        if (!link_read(link, buf, n, errp)) {
            return false;
        }
        len -= n;
    }
    return true;
}

void colo_link_drain(ColoLink *link)
{
    g_autofree uint8_t *buf = g_malloc(SEND_STEP);

    while (qio_channel_read(link->ioc, (char *)buf, SEND_STEP, NULL) > 0) {
        continue;
    }
}

bool colo_link_recv_header(ColoLink *link, ColoHeader *h, Error **errp)
{
    uint8_t buf[COLO_HEADER_SIZE];
    ColoSide peer = link->side == COLO_SIDE_PRIMARY ? COLO_SIDE_SECONDARY :
                                                      COLO_SIDE_PRIMARY;

    if (!link_read(link, buf, sizeof(buf), errp) ||
        !colo_header_decode(buf, peer, h, errp)) {
        return false;
    }
    trace_colo_recv(colo_msg_type_name(h->type), h->epoch, h->data_len);
    return true;
}

bool colo_link_recv_payload(ColoLink *link, const ColoHeader *h,
                            const ColoRamList *ram, ColoMsg *msg,
                            Error **errp)
{
    g_autofree uint8_t *payload = g_try_malloc(h->payload_len ?: 1);

    if (!payload) {
        error_setg(errp, "no memory for a message of %" PRIu32 " bytes",
                   h->payload_len);
        return false;
    }
    return link_read(link, payload, h->payload_len, errp) &&
           colo_msg_decode(h, payload, ram, msg, errp);
}

void colo_link_shutdown(ColoLink *link)
{
    YankInstance instance = { .type = YANK_INSTANCE_TYPE_MIGRATION };
    YankInstanceList list = { .value = &instance };

    qio_channel_shutdown(link->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    /* the multifd channels; fails if the instance is gone, and they with it */
    qmp_yank(&list, NULL);
}
