/*
 * COLO proxy: the state of one TCP connection in the comparison
 *
 * Answers for one connection, and one direction of it, whether a segment of
 * the PVM may leave. Queues, epochs, limits and time are the caller's
 * (compare.c), who also sees to it that segments come in order.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_TCP_H
#define NET_COLO_TCP_H

#include "packet.h"

typedef enum ColoTcpVerdict {
    COLO_TCP_PASS,          /* may leave */
    COLO_TCP_WAIT,          /* the SVM may still emit what is missing */
    COLO_TCP_DIVERGED,      /* the SVM has emitted something else */
} ColoTcpVerdict;

/* What must be changed in a segment that may leave. */
typedef struct ColoTcpChange {
    bool lower_ack;
    bool clamp_win;
    bool strip_sacks;
    uint16_t win;
    uint32_t ack;
    unsigned keep_sacks;    /* see colo_packet_keep_sacks() */
} ColoTcpChange;

/* A SYN segment: what of it is content, and its numbers. */
typedef struct ColoTcpSyn {
    uint32_t isn;
    uint32_t ack;
    uint8_t flags;
    uint8_t options_len;
    uint8_t options[COLO_TCP_OPTIONS_MAX];
    uint32_t payload_len;
    uint8_t payload[];
} ColoTcpSyn;

/* A set of SACK blocks, small: when full the oldest goes. */
#define COLO_TCP_SACKS 8
typedef struct ColoTcpSacks {
    ColoSack block[COLO_TCP_SACKS];
    unsigned nr;
    unsigned next;          /* to be overwritten when full */
} ColoTcpSacks;

/* A bare ACK that makes up for a lowered one, or a window cut back. */
typedef struct ColoTcpOwed {
    uint32_t ack;
    uint16_t win;           /* as the PVM offered it */
    bool window_only;       /* @ack has left */
    uint32_t vnet_len;
    uint32_t len;
    uint8_t frame[];
} ColoTcpOwed;

#define COLO_TCP_RSTS 4
typedef struct ColoTcpRst {
    uint32_t seq;
    uint32_t ack;
    bool has_ack;
    bool matched;
} ColoTcpRst;

/* Zeroed memory is a connection nothing is known of. */
typedef struct ColoTcp {
    /*
     * What has left of this connection. All of it was emitted by the PVM, so
     * at a commit it is the floor.
     */
    bool known;             /* @passed is valid */
    bool isn_known;
    bool fresh;             /* nothing but the SYN has left */
    bool ack_known;         /* @floor_ack is valid */
    bool pvm_ack_known;
    bool edge_known;
    bool pvm_edge_known;
    bool scale_known;
    uint8_t scale;
    uint32_t passed;        /* all before this may leave (again) */
    uint32_t isn;
    uint32_t floor_ack;     /* highest ACK the PVM emitted before capture */
    uint32_t pvm_ack;       /* ... and so far, as emitted, not as lowered */
    uint32_t floor_edge;    /* right edge of the window, likewise */
    uint32_t pvm_edge;
    ColoTcpSyn *syn;        /* the SYN at @isn; NULL: not seen */

    /* What the SVM has emitted in this epoch. */
    bool svm_ack_known;
    bool svm_edge_known;
    bool svm_fin_known;
    bool svm_isn_known;
    uint8_t nr_rsts;
    uint8_t next_rst;
    uint32_t svm_ack;
    uint32_t svm_edge;
    uint32_t svm_fin;       /* sequence number of the FIN */
    uint32_t svm_isn;       /* in its own numbering, of the SYN at @isn */
    ColoTcpSyn *svm_syn;    /* a SYN the PVM has not emitted yet */
    ColoTcpRst rst[COLO_TCP_RSTS];

    /* Bytes of the SVM's stream from @start on, not left yet: a ring. */
    uint8_t *ring;
    uint32_t ring_size;     /* a power of two, or 0 */
    uint32_t ring_head;     /* index of the byte numbered @start */
    uint32_t ring_used;
    uint32_t start;

    ColoTcpOwed *owed;
    struct {
        ColoTcpSacks floor; /* reported by the PVM before capture */
        ColoTcpSacks pvm;   /* ... and so far */
        ColoTcpSacks svm;   /* reported by the SVM in this epoch */
    } *sacks;               /* NULL: none was ever seen */
} ColoTcp;

/*
 * May @pkt, the next segment of the PVM, leave? If COLO_TCP_PASS, @change
 * says with what changes. Nothing in @t changes.
 */
ColoTcpVerdict colo_tcp_check(const ColoTcp *t, const ColoPacket *pkt,
                              ColoTcpChange *change);

/*
 * @pkt, as the PVM emitted it, leaves because colo_tcp_check() passed it with
 * @change.
 */
void colo_tcp_left(ColoTcp *t, const ColoPacket *pkt,
                   const ColoTcpChange *change);

/*
 * @pkt leaves for another reason: it is not compared, or belongs to an epoch
 * older than the committed one. Raises the floor.
 */
void colo_tcp_note(ColoTcp *t, const ColoPacket *pkt);

/*
 * The SVM has emitted @pkt, in this epoch. False: it has more than @room
 * bytes to keep, and they are not kept.
 */
bool colo_tcp_svm(ColoTcp *t, const ColoPacket *pkt, size_t room);

/* True if the SVM has emitted what the PVM has not. */
bool colo_tcp_svm_waits(const ColoTcp *t);

/*
 * The ACK owed to the client, if it may leave now: a frame of @len bytes with
 * a vnet header of @vnet_len bytes, to be freed with g_free() by way of the
 * owed structure itself. NULL: none. With @force it leaves whatever the SVM
 * has acknowledged, as a commit allows.
 */
ColoTcpOwed *colo_tcp_take_owed(ColoTcp *t, bool force);

/* A commit: the PVM's state is the floor, the SVM starts from it. */
void colo_tcp_commit(ColoTcp *t);

/* Forget what the SVM has emitted, and free its memory. */
void colo_tcp_forget_svm(ColoTcp *t);

/* Free what hangs on @t; it is a connection nothing is known of then. */
void colo_tcp_clear(ColoTcp *t);

#endif
