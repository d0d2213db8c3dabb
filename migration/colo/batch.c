/*
 * COLO: PAGES messages in the making
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "batch.h"
#include "crc.h"
#include "iovs.h"

void colo_batch_init(ColoBatch *b, ColoCapture *capture, uint64_t epoch,
                     uint8_t *copies)
{
    *b = (ColoBatch) { .capture = capture, .copies = copies };
    colo_msg_init(&b->msg, COLO_MSG_PAGES, epoch);
    b->iov = g_new(struct iovec, COLO_BATCH_PAGES);
}

void colo_batch_destroy(ColoBatch *b)
{
    colo_msg_clear(&b->msg);
    g_free(b->iov);
}

static void add_data(ColoBatch *b, uint8_t *data)
{
    size_t page_size = b->capture->ram->page_size;

    if (b->copies) {
        data = memcpy(b->copies + b->pages * page_size, data, page_size);
    }
    b->pages++;
    b->niov = colo_iov_append(b->iov, b->niov, data, page_size);
}

static void add_run(ColoBatch *b, uint64_t page, uint32_t flags)
{
    GArray *runs = b->msg.pages.runs;
    ColoRun *last = runs->len ? &g_array_index(runs, ColoRun, runs->len - 1)
                              : NULL;

    if (last && last->flags == flags && last->first + last->count == page) {
        last->count++;
    } else {
        ColoRun run = { .first = page, .count = 1, .flags = flags };

        g_array_append_val(runs, run);
    }
}

bool colo_batch_flush(ColoBatch *b, Error **errp)
{
    ColoCapture *c = b->capture;
    ColoMsg *msg = &b->msg;
    bool ok;

    if (!msg->pages.runs->len) {
        return true;
    }
    msg->h.data_len = b->pages * c->ram->page_size;
    if (c->page_crc) {
        msg->h.flags = COLO_MSG_F_DATA_CRC;
        for (size_t i = 0; i < b->niov; i++) {
            msg->pages.data_crc = colo_crc(msg->pages.data_crc,
                                           b->iov[i].iov_base,
                                           b->iov[i].iov_len);
        }
    }
    ok = c->sending(c->opaque, msg, errp) &&
         colo_link_send(c->link, msg, b->iov, b->niov, errp);
    g_array_set_size(msg->pages.runs, 0);
    msg->pages.data_crc = 0;
    msg->h.flags = 0;
    b->niov = 0;
    b->pages = 0;
    return ok;
}

/* The runs of a message are of one block, and ascend. */
static bool continues(const ColoBatch *b, unsigned block, uint64_t page)
{
    const GArray *runs = b->msg.pages.runs;
    const ColoRun *last = runs->len ? &g_array_index(runs, ColoRun,
                                                     runs->len - 1) : NULL;

    return !last || (b->msg.pages.block == block &&
                     last->first + last->count <= page);
}

bool colo_batch_add(ColoBatch *b, unsigned block, uint64_t page, void *data,
                    bool *sent, Error **errp)
{
    bool full;

    if (!continues(b, block, page) && !colo_batch_flush(b, errp)) {
        return false;
    }
    b->msg.pages.block = block;
    add_run(b, page, data ? COLO_RUN_DATA : COLO_RUN_ZERO);
    if (data) {
        add_data(b, data);
    }
    full = b->pages == COLO_BATCH_PAGES ||
           b->msg.pages.runs->len == COLO_BATCH_PAGES;
    if (full && sent) {
        *sent = true;
    }
    return !full || colo_batch_flush(b, errp);
}
