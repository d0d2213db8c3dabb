/*
 * COLO proxy: stand-ins for a QEMU built without it
 *
 * filter-mirror and filter-redirector are always built and never see COLO
 * active then.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "net/colo/compare-object.h"
#include "net/colo/proxy.h"

const ColoProxyStatus *colo_proxy_status(void)
{
    static const ColoProxyStatus off;

    return &off;
}

void colo_proxy_release_begin(NetClientState *nc)
{
}

void colo_proxy_release_end(NetClientState *nc)
{
}

void colo_compare_cleanup(void)
{
}
