/*
 * COLO: the SVM's disk requests that wait to be repeated
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_WAITING_H
#define MIGRATION_COLO_WAITING_H

/*
 * A request that failed under the policy to stop the VM waits in its device
 * until the VM runs again, and is part of the device's state: one of the SVM
 * would be carried out in the PVM's epoch, which knows nothing of it, and one
 * of the PVM that is loaded with every checkpoint would be there twice. Make
 * the SVM's devices forget theirs before they are loaded anew. As that may
 * write to the guest's memory, do it before the memory is made the PVM's.
 *
 * The SVM is stopped; @stood: it stood still before the engine stopped it.
 * BQL.
 */
void colo_forget_waiting_requests(bool stood);

#endif
