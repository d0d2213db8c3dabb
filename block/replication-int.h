/*
 * Block replication: for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_REPLICATION_INT_H
#define BLOCK_REPLICATION_INT_H

/*
 * For how many milliseconds a primary waits for an answer to any of the writes
 * it forwarded before it gives up the peer. Must be called before a disk is
 * started.
 */
void replication_set_forward_limit(int64_t ms);

/*
 * How many bytes of a disk's writes are held between capture and commit before
 * further ones wait. Must be called before a disk is started.
 */
void replication_set_held_limit(size_t bytes);

#endif
