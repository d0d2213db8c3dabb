/*
 * COLO: messages over the migration's channel
 *
 * Connects the codec (wire.h) to a QIOChannel. One thread receives; any
 * thread may send, one message at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_LINK_H
#define MIGRATION_COLO_LINK_H

#include "io/channel.h"
#include "qemu/thread.h"
#include "wire.h"

typedef struct ColoLink {
    QIOChannel *ioc;        /* in blocking mode; a reference is held */
    ColoSide side;          /* ours */
    QemuMutex send_lock;    /* held while a message goes out */
    int64_t moved_ms;       /* atomic: when bytes last moved, REALTIME clock */
} ColoLink;

/* @ioc stays in blocking mode until colo_link_destroy(). */
void colo_link_init(ColoLink *link, QIOChannel *ioc, ColoSide side);
void colo_link_destroy(ColoLink *link);

/*
 * Send @msg and, behind it, the @niov buffers at @iov, which together have
 * @msg->h.data_len bytes. Blocks until the kernel has taken them, or the
 * link is shut down. Fails on what the codec refuses and on a broken link.
 */
bool colo_link_send(ColoLink *link, const ColoMsg *msg,
                    const struct iovec *iov, size_t niov, Error **errp);

/*
 * Receive one header. Blocks until it is there or the link is shut down.
 * Bytes are validated by the codec. Only the receiving thread.
 */
bool colo_link_recv_header(ColoLink *link, ColoHeader *h, Error **errp);

/*
 * Receive and decode the payload that follows @h. @ram is what PAGES are
 * checked against. @msg is to be cleared by the caller on success.
 */
bool colo_link_recv_payload(ColoLink *link, const ColoHeader *h,
                            const ColoRamList *ram, ColoMsg *msg,
                            Error **errp);

/* Receive the bytes of the @niov buffers at @iov, which may be changed. */
bool colo_link_recv_data(ColoLink *link, struct iovec *iov, size_t niov,
                         Error **errp);

/* Receive and throw away @len bytes. */
bool colo_link_skip_data(ColoLink *link, size_t len, Error **errp);

/*
 * Throw away what comes, of a stream that can't be followed any more, until
 * the peer closes it or it is shut down. Only the receiving thread.
 */
void colo_link_drain(ColoLink *link);

/* Note that the peer is alive for a reason the link does not see. */
void colo_link_touch(ColoLink *link);

/* For how many milliseconds has no byte moved? Any thread. */
int64_t colo_link_idle_ms(ColoLink *link);

/*
 * End all waiting on the link and on the migration's other channels, at
 * once and for good. BQL.
 */
void colo_link_shutdown(ColoLink *link);

#endif
