/*
 * COLO: memory that goes back to a base, at the cost of what has changed
 *
 * The base is a memfd, and what the SVM runs on a private mapping of it at the
 * same address as before: a page that anybody writes is copied by the kernel,
 * which also knows which ones those are, however they were written. To go back
 * to the base these private copies are dropped; a page that nobody has written
 * is there once. Linux only.
 *
 * No locks: the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_COW_H
#define MIGRATION_COLO_COW_H

typedef struct ColoCow ColoCow;

/*
 * Make the @size bytes at @host, private anonymous memory in whole host pages,
 * a copy-on-write mapping with the same content. @name is for those who look
 * at the process. Nobody else uses the memory meanwhile; advice given for it
 * is gone afterwards, and it must not be advised to be in huge pages before
 * colo_cow_share(). NULL and @errp if this system can't do it or has not
 * the memory, and @host is as it was.
 */
ColoCow *colo_cow_new(uint8_t *host, size_t size, const char *name,
                      Error **errp);

/*
 * Free what @c needs; the mapping at the host address stays as it is. The
 * memory of the base goes with the last mapping of it.
 */
void colo_cow_free(ColoCow *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoCow, colo_cow_free)

/* The base, to be read and written: @size bytes, owned by @c. */
uint8_t *colo_cow_base(ColoCow *c);

/*
 * Set the bits in @map, which has one for each host page, of those of the @n
 * pages from @first on that have been written since they were last dropped.
 * They stay so, and what the base has there is not seen, until they are dropped
 * again; others may be written to meanwhile. False: it can't be told.
 */
bool colo_cow_written(ColoCow *c, size_t first, size_t n, unsigned long *map);

/*
 * The same for all pages, to which nobody writes meanwhile; some may be set
 * without need.
 */
void colo_cow_changed(ColoCow *c, unsigned long *map);

/*
 * Take the pages in @map, which are all that colo_cow_changed() tells and maybe
 * others, back to the base. Nobody writes to the memory meanwhile.
 */
void colo_cow_drop(ColoCow *c, const unsigned long *map);

/*
 * No going back any more: the base gets the content of the memory, and is
 * mapped shared in its place. Returns its file descriptor, which is the
 * caller's; or -1 and @errp, and the mapping is still private. Nobody uses the
 * memory meanwhile.
 */
int colo_cow_share(ColoCow *c, Error **errp);

#endif
