/*
 * Services of the test guest: a memory load that checks what it wrote
 *
 * Each page holds the number of the pass that wrote it. Before a page is
 * written again its content is compared with what that pass must have left,
 * so that a page lost, stale or torn by a checkpoint is found.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "guestd.h"

enum { PAGE = 4096, WORDS = PAGE / 8, STEP_MS = 10 };

/*
 * KIND_ZERO: every other page, of which each second pass makes zero pages that
 * have no neighbours. KIND_CODE: a function that tells the pass, x86 code.
 */
typedef enum Kind {
    KIND_RANDOM, KIND_TEXT, KIND_WORD, KIND_ZERO, KIND_CODE
} Kind;

static struct {
    pthread_mutex_t lock;
    bool running;
    uint64_t *mem;
    size_t npages;              /* that are written */
    size_t stride;              /* from one of them to the next */
    size_t next;
    unsigned rate;
    Kind kind;
    uint64_t written;
    uint64_t bad;
} load = { .lock = PTHREAD_MUTEX_INITIALIZER };

static uint64_t word_of(Kind kind, size_t page, uint64_t pass, size_t i)
{
    uint64_t seed = page * 0x10001 + pass * WORDS + i;

    switch (kind) {
    case KIND_RANDOM:
        return splitmix64(&seed);
    case KIND_TEXT:
        return 0x6f6c6f6320757065ull + pass;
    case KIND_CODE:
        /* mov $pass, %eax; ret; nop; nop */
        return 0x9090c300000000b8ull | (pass & UINT32_MAX) << 8;
    default:
        return ~pass;
    }
}

/* Words of a page that carry content, beside the first: its pass. */
static size_t words_of(Kind kind)
{
    return kind == KIND_WORD || kind == KIND_CODE ? 2 : WORDS;
}

static bool is_zero(Kind kind, uint64_t pass)
{
    return kind == KIND_ZERO && pass % 2 == 0;
}

/* What the code in the page says, which may be another than can be read. */
static uint32_t run_page(const uint64_t *p)
{
    uint32_t (*function)(void) = (uint32_t (*)(void))(p + 1);

    return function();
}

static bool page_good(Kind kind, size_t page, const uint64_t *p)
{
    if (p[0] == 0) {
        return p[1] == 0 && p[WORDS - 1] == 0;
    }
    for (size_t i = 1; i < words_of(kind); i++) {
        if (p[i] != word_of(kind, page, p[0], i)) {
            return false;
        }
    }
    return kind != KIND_CODE || run_page(p) == (uint32_t)p[0];
}

static void write_next(void)
{
    size_t page = load.next;
    uint64_t *p = load.mem + page * load.stride * WORDS;
    uint64_t pass = load.written / load.npages;

    if (p[0] != (is_zero(load.kind, pass) ? 0 : pass) ||
        !page_good(load.kind, page, p)) {
        if (!load.bad++) {
            printf("BAD page %zu: pass %llu, expected %llu\n", page,
                   (unsigned long long)p[0], (unsigned long long)pass);
        }
    }
    if (is_zero(load.kind, pass + 1)) {
        memset(p, 0, PAGE);
    } else {
        for (size_t i = 1; i < words_of(load.kind); i++) {
            p[i] = word_of(load.kind, page, pass + 1, i);
        }
        p[0] = pass + 1;
    }
    if (load.kind == KIND_CODE) {
        run_page(p);            /* so that it is translated */
    }
    load.written++;
    load.next = (page + 1) % load.npages;
}

static void *load_thread(void *opaque)
{
    struct timespec step = { 0, STEP_MS * 1000000l };
    uint64_t last = clock_ns(CLOCK_MONOTONIC), credit = 0;

    for (;;) {
        uint64_t now = clock_ns(CLOCK_MONOTONIC), n;

        pthread_mutex_lock(&load.lock);
        credit += (now - last) / 1000 * load.rate * (1 << 20) / 1000000;
        last = now;
        n = credit / PAGE;
        credit %= PAGE;
        if (n > load.npages) {
            n = load.npages;
        }
        while (n--) {
            write_next();
        }
        pthread_mutex_unlock(&load.lock);
        nanosleep(&step, NULL);
    }
    return NULL;
}

static const char *load_start(unsigned mib, const char *kind)
{
    void *mem;

    if (!strcmp(kind, "random")) {
        load.kind = KIND_RANDOM;
    } else if (!strcmp(kind, "text")) {
        load.kind = KIND_TEXT;
    } else if (!strcmp(kind, "word")) {
        load.kind = KIND_WORD;
    } else if (!strcmp(kind, "zero")) {
        load.kind = KIND_ZERO;
    } else if (!strcmp(kind, "code")) {
        load.kind = KIND_CODE;
    } else {
        return "kind is random, text, word, zero or code";
    }
    mem = mmap(NULL, (size_t)mib << 20, PROT_READ | PROT_WRITE |
               (load.kind == KIND_CODE ? PROT_EXEC : 0),
               MAP_PRIVATE | MAP_ANONYMOUS |
               /* so that pages that are neighbours here are in RAM, too */
               (load.kind == KIND_ZERO ? MAP_POPULATE : 0), -1, 0);
    if (!mib || mem == MAP_FAILED) {
        return "no memory";
    }
    load.mem = mem;
    load.stride = load.kind == KIND_ZERO ? 2 : 1;
    load.npages = ((size_t)mib << 20) / PAGE / load.stride;
    load.running = true;
    spawn(load_thread, NULL);
    return NULL;
}

const char *dirty_set(unsigned mib, unsigned rate, const char *kind)
{
    const char *error = NULL;

    pthread_mutex_lock(&load.lock);
    if (!load.running) {
        error = load_start(mib, kind);
    }
    load.rate = rate;
    pthread_mutex_unlock(&load.lock);
    return error;
}

void dirty_stat(uint64_t *pages, uint64_t *bad)
{
    pthread_mutex_lock(&load.lock);
    *pages = load.written;
    *bad = load.bad;
    pthread_mutex_unlock(&load.lock);
}
