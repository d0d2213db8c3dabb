/*
 * QTest: what tests of a pair under COLO have in common
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef COLO_PAIR_H
#define COLO_PAIR_H

#include "libqtest.h"
#include "qobject/qdict.h"

/* Have @qts take part in COLO, with no checkpoint but on demand. */
static inline void colo_enable(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute':"
        " 'migrate-set-capabilities', 'arguments': {'capabilities':"
        " [{'capability': 'x-colo', 'state': true}]}}");
    qtest_qmp_assert_success(qts, "{'execute':"
        " 'migrate-set-parameters', 'arguments':"
        " {'x-checkpoint-delay': 4000000000}}");
}

/* Number of the last checkpoint that @primary committed, 0 if there is none. */
static inline int64_t colo_committed(QTestState *primary)
{
    QDict *rsp = qtest_qmp_assert_success_ref(primary, "{'execute':"
                                              " 'query-colo-status'}");
    QDict *stats = qdict_get_qdict(rsp, "stats");
    int64_t epoch = stats ? qdict_get_int(stats, "epoch") : 0;

    qobject_unref(rsp);
    return epoch;
}

static inline void colo_checkpoint(QTestState *primary)
{
    int64_t before = colo_committed(primary);

    qtest_qmp_assert_success(primary, "{'execute': 'x-colo-checkpoint'}");
    while (colo_committed(primary) == before) {
        continue;
    }
}

/* Protect @primary by @secondary, which listens at the socket @path. */
static inline void colo_protect(QTestState *primary, QTestState *secondary,
                                const char *path)
{
    g_autofree char *uri = g_strdup_printf("unix:%s", path);

    colo_enable(secondary);
    colo_enable(primary);
    qtest_qmp_assert_success(primary, "{'execute': 'migrate',"
                             " 'arguments': {'uri': %s}}", uri);
    while (colo_committed(primary) == 0) {
        continue;
    }
}

#endif
