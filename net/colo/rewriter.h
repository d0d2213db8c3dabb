/*
 * COLO proxy: filter-rewriter, as the proxy sees it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_REWRITER_H
#define NET_COLO_REWRITER_H

#include "net/filter.h"
#include "net/colo/proxy.h"
#include "net/colo/repair.h"
#include "net/colo/rewrite.h"
#include "qom/object.h"

OBJECT_DECLARE_SIMPLE_TYPE(FilterRewriter, FILTER_REWRITER)

/*
 * BQL. The proxy, which may be built without this filter, uses @core and
 * @repair; the rest is the filter's.
 */
struct FilterRewriter {
    NetFilterState parent_obj;

    ColoRewrite *core;
    /* input the guest may have to get again; empty but on a secondary */
    ColoRepair *repair;
    /* runs while anything is stored in @repair */
    QEMUTimer *repair_timer;
    /* gives the guest what is due */
    QEMUBH *repair_bh;
    bool vnet_hdr_support;
    /* when closed connections were last looked for, in ms of real time */
    int64_t last_tick;
};

#endif
