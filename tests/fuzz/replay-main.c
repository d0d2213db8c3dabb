/*
 * Run a fuzzer over files that are there already
 *
 * Linked to a fuzzer in place of libFuzzer: every argument is a file, or a
 * folder of files, that becomes one input each. So the corpus is a test that
 * takes no clang and a second.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "fuzz.h"

static unsigned replayed;

static bool replay_file(const char *path)
{
    g_autofree char *data = NULL;
    g_autoptr(GError) err = NULL;
    gsize size;

    if (!g_file_get_contents(path, &data, &size, &err)) {
        fprintf(stderr, "%s\n", err->message);
        return false;
    }
    LLVMFuzzerTestOneInput((const uint8_t *)data, size);
    replayed++;
    return true;
}

static bool replay_folder(const char *path)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GDir) dir = g_dir_open(path, 0, &err);
    const char *name;

    if (!dir) {
        fprintf(stderr, "%s\n", err->message);
        return false;
    }
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        if (!replay_file(file)) {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    int i;

    for (i = 1; i < argc; i++) {
        bool folder = g_file_test(argv[i], G_FILE_TEST_IS_DIR);

        if (!(folder ? replay_folder(argv[i]) : replay_file(argv[i]))) {
            return 1;
        }
    }
    printf("%u inputs replayed\n", replayed);
    return replayed ? 0 : 1;
}
