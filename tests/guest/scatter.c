/*
 * Services of the test guest: a memory load that writes at random places
 *
 * For measurements: nothing is checked, so that a slow vCPU can write fast.
 * Every page of the working set has been written once before the load starts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include "guestd.h"

enum { PAGE = 4096, WORDS = PAGE / 8, STEP_NS = 10000000 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* the rate */
    uint64_t *mem;
    size_t npages;
    unsigned rate;              /* MiB a second */
    unsigned run;               /* pages */
    uint64_t random;
    uint64_t written;           /* pages */
} load = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .changed = PTHREAD_COND_INITIALIZER };

static void write_page(size_t page)
{
    uint64_t *p = load.mem + page * WORDS;

    load.written++;
    for (size_t i = 0; i < WORDS; i++) {
        p[i] = load.written + i;
    }
}

static void write_run(void)
{
    size_t runs = load.npages / load.run;
    size_t first = splitmix64(&load.random) % runs * load.run;

    for (unsigned i = 0; i < load.run; i++) {
        write_page(first + i);
    }
}

/* Write what has become due; returns what of it is left, in bytes. */
static uint64_t write_due(uint64_t due, uint64_t now)
{
    uint64_t end = now + 2 * STEP_NS;

    while (due >= load.run * PAGE && now < end) {
        write_run();
        due -= load.run * PAGE;
        now = clock_ns(CLOCK_MONOTONIC);
    }
    /* a vCPU that can't keep up does what it can */
    return now < end ? due : 0;
}

static void *load_thread(void *opaque)
{
    struct timespec step = { 0, STEP_NS };
    uint64_t last = 0, due = 0;

    for (;;) {
        uint64_t now = clock_ns(CLOCK_MONOTONIC);

        pthread_mutex_lock(&load.lock);
        while (!load.rate) {
            pthread_cond_wait(&load.changed, &load.lock);
            now = last = clock_ns(CLOCK_MONOTONIC);
            due = 0;
        }
        due += (now - last) / 1000 * load.rate * (1 << 20) / 1000000;
        last = now;
        due = write_due(due, now);
        pthread_mutex_unlock(&load.lock);
        if (due) {
            nanosleep(&step, NULL);
        } else {
            sched_yield();
        }
    }
    return NULL;
}

static const char *load_start(unsigned mib)
{
    void *mem = mmap(NULL, (size_t)mib << 20, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (!mib || mem == MAP_FAILED) {
        return "no memory";
    }
    load.mem = mem;
    load.npages = ((size_t)mib << 20) / PAGE;
    for (size_t page = 0; page < load.npages; page++) {
        write_page(page);
    }
    load.written = 0;
    spawn(load_thread, NULL);
    return NULL;
}

const char *scatter_set(unsigned mib, unsigned rate, unsigned run)
{
    const char *error = NULL;

    if (!run || run > (size_t)mib * 256) {
        return "a run has one page at least, and fits into the memory";
    }
    pthread_mutex_lock(&load.lock);
    if (!load.mem) {
        error = load_start(mib);
    } else if (load.npages != (size_t)mib * 256) {
        error = "the memory's size can't change";
    }
    if (!error) {
        load.rate = rate;
        load.run = run;
        pthread_cond_signal(&load.changed);
    }
    pthread_mutex_unlock(&load.lock);
    return error;
}

uint64_t scatter_stat(void)
{
    uint64_t written;

    pthread_mutex_lock(&load.lock);
    written = load.written;
    pthread_mutex_unlock(&load.lock);
    return written;
}
