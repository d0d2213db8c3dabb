/*
 * Services of the test guest: a disk load
 *
 * One thread that writes to a file of fixed size, past the page cache. The
 * file is there in full before the load starts, so that no write allocates.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "guestd.h"

enum { FILE_MIB = 64, MIB = 1 << 20 };

typedef struct Pattern {
    const char *name;
    size_t len;                 /* of a write, bytes */
    bool random, sync;
} Pattern;

static const Pattern patterns[] = {
    { "seq", MIB, false, false },
    { "seq4k", 4096, false, false },
    { "rand4k", 4096, true, false },
    { "sync4k", 4096, false, true },
    { "randsync4k", 4096, true, true },
    { "off", 0, false, false },
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const Pattern *pattern;     /* NULL until the first command */
    uint64_t writes;            /* done with this pattern */
    int error;
} load = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .changed = PTHREAD_COND_INITIALIZER };

static int do_write(int fd, void *buf, const Pattern *p, uint64_t number)
{
    static uint64_t random_state;
    uint64_t slots = (uint64_t)FILE_MIB * MIB / p->len;
    uint64_t slot = p->random ? splitmix64(&random_state) : number;

    memcpy(buf, &number, sizeof(number));
    errno = EIO;        /* a write that is cut short sets none */
    if (pwrite(fd, buf, p->len, slot % slots * p->len) != (ssize_t)p->len ||
        (p->sync && fdatasync(fd))) {
        return errno;
    }
    return 0;
}

static void *load_thread(void *opaque)
{
    int fd = (intptr_t)opaque;
    void *buf = aligned_alloc(4096, MIB);

    memset(buf, 0x5a, MIB);
    pthread_mutex_lock(&load.lock);
    for (;;) {
        const Pattern *pattern = load.pattern;
        uint64_t number = load.writes;
        int error;

        if (!pattern->len || load.error) {
            pthread_cond_wait(&load.changed, &load.lock);
            continue;
        }
        pthread_mutex_unlock(&load.lock);
        error = do_write(fd, buf, pattern, number);
        pthread_mutex_lock(&load.lock);
        load.error = error;
        load.writes += !error && pattern == load.pattern;
    }
    return NULL;
}

/* The file, written once. Returns 0 or an errno. */
static int load_start(void)
{
    int fd = open("/data/load", O_RDWR | O_CREAT | O_DIRECT, 0644);
    void *buf = aligned_alloc(4096, MIB);
    int error = fd < 0 ? errno : 0;

    memset(buf, 0xa5, MIB);
    for (uint64_t i = 0; !error && i < FILE_MIB; i++) {
        error = do_write(fd, buf, &patterns[0], i);
    }
    free(buf);
    if (!error && fsync(fd)) {
        error = errno;
    }
    if (!error) {
        spawn(load_thread, (void *)(intptr_t)fd);
    }
    return error;
}

const char *writes_set(const char *name)
{
    const Pattern *pattern = patterns;
    const Pattern *end = patterns + sizeof(patterns) / sizeof(patterns[0]);
    int error = 0;

    while (pattern < end && strcmp(pattern->name, name)) {
        pattern++;
    }
    if (pattern == end) {
        return "the load is seq, seq4k, rand4k, sync4k, randsync4k or off";
    }
    pthread_mutex_lock(&load.lock);
    if (!load.pattern) {
        error = load_start();
    }
    if (!error) {
        load.pattern = pattern;
        load.writes = 0;
        load.error = 0;
    }
    pthread_cond_signal(&load.changed);
    pthread_mutex_unlock(&load.lock);
    return error ? strerror(error) : NULL;
}

uint64_t writes_stat(int *error)
{
    uint64_t writes;

    pthread_mutex_lock(&load.lock);
    writes = load.writes;
    *error = load.error;
    pthread_mutex_unlock(&load.lock);
    return writes;
}

uint64_t writes_second(int *error)
{
    int fd = open("/data/load", O_RDONLY | O_DIRECT);
    uint64_t *buf = aligned_alloc(4096, 4096), number = 0;

    errno = EIO;        /* a read that is cut short sets none */
    *error = 0;
    if (fd >= 0 && pread(fd, buf, 4096, 4096) == 4096) {
        number = buf[0];
    } else {
        *error = errno;
    }
    free(buf);
    if (fd >= 0) {
        close(fd);
    }
    return number;
}
