/*
 * COLO: programs without a VM protect none
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/colo.h"

bool colo_check_idle(const char *what, Error **errp)
{
    return true;
}
