/*
 * COLO proxy: fuzzer of the translation table a peer sends
 *
 * What is accepted must be what would be sent.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "net/colo/rewrite.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(ColoRewrite) rw = colo_rewrite_new(64);
    g_autoptr(GByteArray) saved = g_byte_array_new();
    ColoRewriteTable *table;
    Error *err = NULL;

    table = colo_rewrite_load(data, size, 64, &err);
    g_assert(!table != !err);
    error_free(err);
    if (table) {
        colo_rewrite_commit(rw, table);
        colo_rewrite_save(rw, saved);
        g_assert(saved->len == size && !memcmp(saved->data, data, size));
    }
    return 0;
}
