/*
 * COLO: the table of RAMBlocks that both sides agreed on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/host-utils.h"
#include "ramlist.h"

bool colo_text_valid(const char *str, size_t len)
{
    const char *end = str + len;

    if (!g_utf8_validate(str, len, NULL)) {
        return false;
    }
    for (; str < end; str = g_utf8_next_char(str)) {
        if (*str == '\0' || g_unichar_iscntrl(g_utf8_get_char(str))) {
            return false;
        }
    }
    return true;
}

static void ram_block_clear(gpointer opaque)
{
    ColoRamBlock *block = opaque;

    g_free(block->idstr);
}

ColoRamList *colo_ramlist_new(uint32_t page_size, Error **errp)
{
    ColoRamList *list;

    if (page_size < COLO_RAM_MIN_PAGE_SIZE ||
        page_size > COLO_RAM_MAX_PAGE_SIZE || !is_power_of_2(page_size)) {
        error_setg(errp, "page size %" PRIu32 " is not a power of two"
                   " from %d to %d", page_size,
                   COLO_RAM_MIN_PAGE_SIZE, COLO_RAM_MAX_PAGE_SIZE);
        return NULL;
    }
    list = g_new0(ColoRamList, 1);
    list->page_size = page_size;
    list->blocks = g_array_new(false, true, sizeof(ColoRamBlock));
    g_array_set_clear_func(list->blocks, ram_block_clear);
    list->index = g_hash_table_new(g_str_hash, g_str_equal);
    return list;
}

void colo_ramlist_free(ColoRamList *list)
{
    if (list) {
        g_hash_table_destroy(list->index);
        g_array_free(list->blocks, true);
        g_free(list);
    }
}

ColoRamList *colo_ramlist_copy(const ColoRamList *list)
{
    ColoRamList *copy = colo_ramlist_new(list->page_size, &error_abort);
    unsigned i;

    for (i = 0; i < colo_ramlist_size(list); i++) {
        const ColoRamBlock *block = colo_ramlist_get(list, i);

        colo_ramlist_add(copy, block->idstr, block->used_length,
                         &error_abort);
    }
    return copy;
}

bool colo_ramlist_add(ColoRamList *list, const char *idstr,
                      uint64_t used_length, Error **errp)
{
    size_t len = strlen(idstr);
    ColoRamBlock block = { .used_length = used_length };

    if (list->blocks->len >= COLO_RAM_MAX_BLOCKS) {
        error_setg(errp, "more than %d RAM blocks", COLO_RAM_MAX_BLOCKS);
        return false;
    }
    if (len == 0 || len > COLO_RAM_MAX_IDSTR ||
        !colo_text_valid(idstr, len)) {
        error_setg(errp, "RAM block %u has no proper name",
                   list->blocks->len);
        return false;
    }
    if (colo_ramlist_find(list, idstr) >= 0) {
        error_setg(errp, "RAM block '%s' is there twice", idstr);
        return false;
    }
    if (used_length == 0 || used_length % list->page_size) {
        error_setg(errp, "length %" PRIu64 " of RAM block '%s' is not a"
                   " number of pages of %" PRIu32 " bytes",
                   used_length, idstr, list->page_size);
        return false;
    }
    block.idstr = g_strdup(idstr);
    g_array_append_val(list->blocks, block);
    g_hash_table_insert(list->index, block.idstr,
                        GUINT_TO_POINTER(list->blocks->len));
    return true;
}

unsigned colo_ramlist_size(const ColoRamList *list)
{
    return list->blocks->len;
}

const ColoRamBlock *colo_ramlist_get(const ColoRamList *list, unsigned i)
{
    if (i >= list->blocks->len) {
        return NULL;
    }
    return &g_array_index(list->blocks, ColoRamBlock, i);
}

int colo_ramlist_find(const ColoRamList *list, const char *idstr)
{
    return GPOINTER_TO_INT(g_hash_table_lookup(list->index, idstr)) - 1;
}

uint64_t colo_ramlist_pages(const ColoRamList *list, unsigned i)
{
    const ColoRamBlock *block = colo_ramlist_get(list, i);

    return block ? block->used_length / list->page_size : 0;
}

/* Every block of @a must be in @b with the same length. */
static bool ramlist_covered(const ColoRamList *a, const char *name_a,
                            const ColoRamList *b, const char *name_b,
                            Error **errp)
{
    unsigned i;

    for (i = 0; i < colo_ramlist_size(a); i++) {
        const ColoRamBlock *block = colo_ramlist_get(a, i);
        int j = colo_ramlist_find(b, block->idstr);
        uint64_t length;

        if (j < 0) {
            error_setg(errp, "RAM block '%s' is there on %s and not on %s:"
                       " start both with the same machine, memory and devices",
                       block->idstr, name_a, name_b);
            return false;
        }
        length = colo_ramlist_get(b, j)->used_length;
        if (length != block->used_length) {
            error_setg(errp, "RAM block '%s' has %" PRIu64 " bytes on %s and"
                       " %" PRIu64 " on %s: start both with the same machine,"
                       " memory and firmware", block->idstr,
                       block->used_length, name_a, length, name_b);
            return false;
        }
    }
    return true;
}

bool colo_ramlist_match(const ColoRamList *local, const ColoRamList *peer,
                        Error **errp)
{
    if (local->page_size != peer->page_size) {
        error_setg(errp, "target pages have %" PRIu32 " bytes on this QEMU"
                   " and %" PRIu32 " on the peer: use the same machine type"
                   " on both", local->page_size, peer->page_size);
        return false;
    }
    return ramlist_covered(local, "this QEMU", peer, "the peer", errp) &&
           ramlist_covered(peer, "the peer", local, "this QEMU", errp);
}

bool colo_ramlist_check_runs(const ColoRamList *list, unsigned block,
                             const ColoRun *runs, unsigned n_runs,
                             uint64_t data_len, Error **errp)
{
    uint64_t pages = colo_ramlist_pages(list, block);
    uint64_t end = 0, data_pages = 0;
    unsigned i;

    if (pages == 0) {
        error_setg(errp, "block %u: there are %u RAM blocks",
                   block, colo_ramlist_size(list));
        return false;
    }
    for (i = 0; i < n_runs; i++) {
        const ColoRun *run = &runs[i];

        if (run->flags != COLO_RUN_DATA && run->flags != COLO_RUN_ZERO) {
            error_setg(errp, "run %u: flags 0x%" PRIx32 " are neither data"
                       " nor zero", i, run->flags);
            return false;
        }
        if (run->count == 0) {
            error_setg(errp, "run %u: count is zero", i);
            return false;
        }
        if (run->first >= pages || run->count > pages - run->first) {
            error_setg(errp, "run %u: first %" PRIu64 " and count %" PRIu32
                       " exceed the %" PRIu64 " pages of RAM block '%s'", i,
                       run->first, run->count, pages,
                       colo_ramlist_get(list, block)->idstr);
            return false;
        }
        if (run->first < end) {
            error_setg(errp, "run %u: first %" PRIu64 " overlaps or is out"
                       " of order", i, run->first);
            return false;
        }
        end = run->first + run->count;
        if (run->flags == COLO_RUN_DATA) {
            data_pages += run->count;
        }
    }
    /* Runs are disjoint, so this is at most the length of the block. */
    if (data_pages * list->page_size != data_len) {
        error_setg(errp, "data length %" PRIu64 " is not that of %" PRIu64
                   " pages", data_len, data_pages);
        return false;
    }
    return true;
}

void colo_ramlist_count(ColoRamList *list, unsigned block,
                        const ColoRun *runs, unsigned n_runs,
                        uint64_t *data_pages, uint64_t *zero_pages)
{
    ColoRamBlock *b = &g_array_index(list->blocks, ColoRamBlock, block);
    unsigned i;

    for (i = 0; i < n_runs; i++) {
        if (runs[i].flags == COLO_RUN_DATA) {
            b->data_pages += runs[i].count;
            *data_pages += runs[i].count;
        } else {
            b->zero_pages += runs[i].count;
            *zero_pages += runs[i].count;
        }
    }
}

void colo_ramlist_reset_counts(ColoRamList *list)
{
    unsigned i;

    for (i = 0; i < list->blocks->len; i++) {
        ColoRamBlock *block = &g_array_index(list->blocks, ColoRamBlock, i);

        block->data_pages = 0;
        block->zero_pages = 0;
    }
}
