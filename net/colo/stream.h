/*
 * COLO proxy: frame streams over character devices
 *
 * ColoOut sends frames through a queue with a bound and never waits for the
 * peer; ColoIn receives them. Both survive that the character device closes
 * and opens again, always going on at a frame boundary.
 *
 * Neither has a lock: a stream is used in the thread of the GMainContext
 * given when it is made, or under the BQL if that is the default one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_STREAM_H
#define NET_COLO_STREAM_H

#include "chardev/char-fe.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "net/colo/frame.h"

/* How long a stream may outlive its owner, in ms. */
#define COLO_LINGER_MS 1000

/* Bound of a ColoOut's queue, in bytes. */
#define COLO_OUT_MAX_QUEUE (4 * 1024 * 1024)

typedef struct ColoOut ColoOut;

typedef enum ColoOutEvent {
    COLO_OUT_OPENED,
    /* what was queued is dropped */
    COLO_OUT_CLOSED,
    /* colo_out_room() was false and is true again */
    COLO_OUT_ROOM,
} ColoOutEvent;

/* Called in the stream's context; it may send, but not end the stream. */
typedef void ColoOutEventHandler(void *opaque, ColoOutEvent event);

struct ColoOut {
    CharBackend chr;
    /* who sends, for messages; owned */
    char *owner;
    bool vnet_hdr;
    ColoOutEventHandler *event;
    void *opaque;
    /* GBytes of whole frames; the first @sent bytes of the head are gone */
    GQueue frames;
    size_t queued;
    size_t sent;
    /* where small frames are gathered for one write; NULL until needed */
    uint8_t *batch;
    guint watch;
    GMainContext *context;
    bool corked;
    bool writing;
    bool closed_while_writing;
    bool warned;
    /* the head of the queue is what another object began to send */
    bool inherited;
    /* ends with the frame that was begun */
    QEMUTimer *linger;
    QTAILQ_ENTRY(ColoOut) next;
    /* the sender waits for room */
    bool crowded;
    /* packets that were not sent: the stream was closed, or its queue full */
    uint64_t dropped;
};

/*
 * Find the character device that option @name of @object names with @id.
 * Returns NULL and sets @errp if there is none. BQL.
 */
Chardev *colo_stream_chardev(Object *object, const char *name, const char *id,
                             Error **errp);

/*
 * Take @chardev, which option @name of @object names, to send packets with
 * vnet headers if @vnet_hdr. @event may be NULL. @context is the GMainContext
 * of the thread that will use the stream, NULL for the main loop. Nothing
 * happens before colo_out_run(). BQL. Returns NULL and sets @errp if @chardev
 * is in use or can't be used with @context.
 */
ColoOut *colo_out_new(Chardev *chardev, Object *object, const char *name,
                      bool vnet_hdr, GMainContext *context,
                      ColoOutEventHandler *event, void *opaque, Error **errp);

/* Start to send. In the context's thread, which gets the character device. */
void colo_out_run(ColoOut *out);

/*
 * Stop receiving events and watching, for a stream with a context of its
 * own. What is queued stays. In the context's thread.
 */
void colo_out_detach(ColoOut *out);

/*
 * End the stream and drop what is queued; @out may be NULL. BQL, main loop.
 *
 * If a frame was sent in part, the device is disconnected, so that its
 * receiver starts afresh; or if @linger, which is for devices that can't
 * reconnect, kept until the frame is sent whole, at most COLO_LINGER_MS. A
 * new stream can be started on it meanwhile, and finishes the frame.
 */
void colo_out_free(ColoOut *out, bool linger);

/* True if the character device is connected. In the context's thread. */
bool colo_out_open(ColoOut *out);

/*
 * Send the packet @iov of a netdev whose vnet header has @vnet_hdr_len bytes;
 * if @raw the sender left that header out, and a zeroed one is sent instead.
 * Returns false if the packet was dropped because the stream is closed, the
 * queue full or its length impossible. In the context's thread.
 */
bool colo_out_packet(ColoOut *out, const struct iovec *iov, int iovcnt,
                     uint32_t vnet_hdr_len, bool raw);

/*
 * Queue packets without writing them, so that many go out in one write once
 * it is told to go on. Not across a return to the main loop. In the context's
 * thread.
 */
void colo_out_cork(ColoOut *out, bool cork);

/*
 * True if the queue is not crowded: a sender that can wait does so until
 * COLO_OUT_ROOM. In the context's thread.
 */
bool colo_out_room(ColoOut *out);

/*
 * Take the oldest packet that was not begun to be sent out of the queue of a
 * detached stream, NULL if there is none. Markers are dropped. The caller
 * unrefs it; *@vnet_hdr_len is as in its frame.
 */
GBytes *colo_out_take(ColoOut *out, uint32_t *vnet_hdr_len);

/* Send @marker, whatever the bound; dropped only if the stream is closed. */
bool colo_out_marker(ColoOut *out, const ColoMarker *marker);

typedef struct ColoIn ColoIn;

typedef void ColoInTake(void *opaque, const ColoFrame *frame);

/*
 * What a ColoIn tells its owner, in the stream's context. None of them may
 * end the stream.
 */
typedef struct ColoInOps {
    /* A packet has come; @frame is valid during the call. */
    void (*packet)(void *opaque, const ColoFrame *frame);
    /* A marker has come. */
    void (*marker)(void *opaque, const ColoMarker *marker);
    /* The stream broke or closed: what comes next is a fresh stream. */
    void (*restart)(void *opaque);
} ColoInOps;

struct ColoIn {
    CharBackend chr;
    char *owner;
    const ColoInOps *ops;
    void *opaque;
    GMainContext *context;
    /* the sender is held up */
    bool paused;
    /* the decoder has what another object began to receive */
    bool inherited;
    /* outlives its owner */
    QEMUTimer *linger;
    bool ended;
    ColoInTake *take;
    void *take_opaque;
    GDestroyNotify destroy;
    QTAILQ_ENTRY(ColoIn) next;
    /* streams that broke: garbage, or closed inside a frame */
    uint64_t broken;
    ColoFrameDecoder decoder;
};

/*
 * Take @chardev, which option @name of @object names, to receive from it. @ops
 * is called with @opaque; the rest is as with colo_out_new(). BQL.
 */
ColoIn *colo_in_new(Chardev *chardev, Object *object, const char *name,
                    bool vnet_hdr, GMainContext *context,
                    const ColoInOps *ops, void *opaque, Error **errp);

/* Start to receive. In the context's thread. */
void colo_in_run(ColoIn *in);

/* Hold the sender up, or no more. In the context's thread. */
void colo_in_pause(ColoIn *in, bool pause);

/*
 * Receive nothing any more, for a stream with a context of its own. In the
 * context's thread, which loses the character device to the main loop.
 */
void colo_in_detach(ColoIn *in);

/*
 * End the stream; @in may be NULL. If a frame was received in part, the device
 * is disconnected. BQL, main loop.
 */
void colo_in_free(ColoIn *in);

/*
 * End the stream, as colo_in_free(), but let it outlive its owner for at most
 * COLO_LINGER_MS, for devices that can't reconnect: until a frame that was
 * received in part is whole; or, if there is @take, until a DETACH marker.
 * Packets are given to @take with @opaque, which @destroy frees at the end.
 * All may be NULL. A new stream can be started on the device meanwhile.
 */
void colo_in_drain(ColoIn *in, ColoInTake *take, void *opaque,
                   GDestroyNotify destroy);

#endif
