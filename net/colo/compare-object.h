/*
 * COLO proxy: the colo-compare object, as other parts of QEMU see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_COMPARE_OBJECT_H
#define NET_COLO_COMPARE_OBJECT_H

/*
 * QEMU is about to exit: detach every comparison from its iothread and its
 * character devices, which are going to be freed. BQL, main loop.
 */
void colo_compare_cleanup(void);

/*
 * The events of all comparisons of this QEMU, from the proxy. BQL; each
 * takes the object's lock, none waits. The functions are called as those of
 * compare.h.
 */
void colo_compare_all_start(void);
void colo_compare_all_capture(uint64_t epoch);
void colo_compare_all_commit(uint64_t epoch);
void colo_compare_all_lost(void);
void colo_compare_all_stop(bool survivor);

/* Is there a comparison, of whatever netdev? BQL. */
bool colo_compare_any(void);

#endif
