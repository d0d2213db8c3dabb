/*
 * COLO: the table of RAMBlocks that both sides agreed on
 *
 * What the checkpoint protocol has to know of guest RAM: names, lengths and
 * the page size, to validate what a peer sends and to count it. There is no
 * dependency on RAMBlock or anything else of the running VM.
 *
 * A list has one owner and no lock; any thread may use it, one at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_RAMLIST_H
#define MIGRATION_COLO_RAMLIST_H

/* RAMBlocks in a list; their index fits in the 16 bits PAGES has for it. */
#define COLO_RAM_MAX_BLOCKS 4096
/* Bytes in a block's name, without the terminating NUL. */
#define COLO_RAM_MAX_IDSTR 255
/* Bytes in a target page: a power of two between these. */
#define COLO_RAM_MIN_PAGE_SIZE 1024
#define COLO_RAM_MAX_PAGE_SIZE (1024 * 1024)

/* One RAMBlock. */
typedef struct ColoRamBlock {
    char *idstr;            /* unique in the list, printable, owned */
    uint64_t used_length;   /* bytes, a multiple of the page size, not 0 */
    uint64_t data_pages;    /* counted by colo_ramlist_count() */
    uint64_t zero_pages;
} ColoRamBlock;

/* The blocks in the order of the primary's HELLO: PAGES has their index. */
typedef struct ColoRamList {
    uint32_t page_size;     /* bytes of a target page */
    GArray *blocks;         /* of ColoRamBlock */
    GHashTable *index;      /* idstr -> index + 1 */
} ColoRamList;

/* Pages first to first + count - 1 of a block. */
typedef struct ColoRun {
    uint64_t first;         /* page number within the block */
    uint32_t count;         /* pages, not 0 */
    uint32_t flags;         /* exactly one of COLO_RUN_* */
} ColoRun;

#define COLO_RUN_DATA 1     /* the pages' bytes follow in the message's data */
#define COLO_RUN_ZERO 2     /* the pages are all zero, no bytes follow */

/*
 * May the @len bytes at @str go to logs and monitors? Valid UTF-8 without
 * NUL and other control characters.
 */
bool colo_text_valid(const char *str, size_t len);

/*
 * A new, empty list for target pages of @page_size bytes. Returns NULL and
 * sets @errp if that is not a page size.
 */
ColoRamList *colo_ramlist_new(uint32_t page_size, Error **errp);

void colo_ramlist_free(ColoRamList *list);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoRamList, colo_ramlist_free)

/* A copy of @list with all counts at zero. */
ColoRamList *colo_ramlist_copy(const ColoRamList *list);

/*
 * Append the block @idstr of @used_length bytes. Fails on a name that is
 * empty, too long, not printable UTF-8 or in the list already, on a length
 * of zero or that is no whole number of pages, and when the list is full.
 */
bool colo_ramlist_add(ColoRamList *list, const char *idstr,
                      uint64_t used_length, Error **errp);

/* Blocks in the list. */
unsigned colo_ramlist_size(const ColoRamList *list);

/* Block number @i, or NULL if there is none; valid until the next add. */
const ColoRamBlock *colo_ramlist_get(const ColoRamList *list, unsigned i);

/* The index of block @idstr, or -1. */
int colo_ramlist_find(const ColoRamList *list, const char *idstr);

/* Target pages in block @i, 0 if there is no such block. */
uint64_t colo_ramlist_pages(const ColoRamList *list, unsigned i);

/*
 * Do both sides have the same RAM: page size, and the same blocks of the same
 * length, in whatever order? If not the error names what differs, with
 * @local and @peer as "this QEMU" and "the peer".
 */
bool colo_ramlist_match(const ColoRamList *local, const ColoRamList *peer,
                        Error **errp);

/*
 * Check the runs of one PAGES message: block @block exists, runs are not
 * empty, ascending, apart and within the block, each either data or zero,
 * and the data runs take @data_len bytes in all.
 */
bool colo_ramlist_check_runs(const ColoRamList *list, unsigned block,
                             const ColoRun *runs, unsigned n_runs,
                             uint64_t data_len, Error **errp);

/* Count checked runs; adds up the pages in @data_pages and @zero_pages. */
void colo_ramlist_count(ColoRamList *list, unsigned block,
                        const ColoRun *runs, unsigned n_runs,
                        uint64_t *data_pages, uint64_t *zero_pages);

/* Set all counts to zero, as at the begin of a checkpoint. */
void colo_ramlist_reset_counts(ColoRamList *list);

#endif
