/*
 * COLO: pages that lie next to each other in memory are one piece of an iovec
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_IOVS_H
#define MIGRATION_COLO_IOVS_H

/*
 * Add @len bytes at @base to the @n entries of @iov, which has room for one
 * more. Returns how many it has then. Any context.
 */
static inline size_t colo_iov_append(struct iovec *iov, size_t n, void *base,
                                     size_t len)
{
    struct iovec *last = n ? &iov[n - 1] : NULL;

    if (last && (uint8_t *)last->iov_base + last->iov_len == base) {
        last->iov_len += len;
    } else {
        iov[n++] = (struct iovec) { .iov_base = base, .iov_len = len };
    }
    return n;
}

#endif
