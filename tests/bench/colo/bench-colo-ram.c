/*
 * COLO checkpoint engine: what a byte of a checkpoint costs
 *
 * bench-colo-ram NAME RUN [SECONDS]
 *
 * Calls the engine's functions on memory of its own, in one thread, for SECONDS
 * (0.5) of its CPU time: what else runs does not count. An epoch has 32 MiB,
 * in runs of RUN pages, scattered over a guest of 192 MiB.
 *
 *   memcpy   the epoch's pages are copied to one place: the limit
 *   zero     each is found not to be zero
 *   keep     that, and it is copied: what a capture does with the VM stopped
 *   crc      their checksum is taken
 *   stage    they are received from one place into the stage
 *   commit   they get into base and SVM, which has changed none of them
 *
 * And where the SVM's memory is copy-on-write on the base:
 *
 *   stage-own    they are received into the base, as the SVM has its own
 *   commit-own   what the SVM has written of these is found, and dropped
 *   commit-cow   they get into the base, and the SVM has changed none of them
 *
 * Prints "NAME VALUE" for each metric.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "migration/colo/cow.h"
#include "migration/colo/crc.h"
#include "migration/colo/kept.h"
#include "migration/colo/stage.h"

#define PAGE        4096
#define GUEST_PAGES (192 * MiB / PAGE)
#define EPOCH_PAGES (32 * MiB / PAGE)

typedef struct Bench {
    unsigned run;               /* pages */
    uint64_t *first;            /* of each run */
    unsigned nruns;
    uint8_t *guest;
    uint8_t *svm;
    uint8_t *wire;              /* an epoch's pages, one after the other */
    ColoKept *kept;
    ColoStage *stage;
    unsigned long *changed;
    uint8_t *shared;            /* copy-on-write on the base of cow */
    ColoCow *cow;
    unsigned long *written;     /* of its pages */
} Bench;

/* Keeps a result, and so what it took to get it. */
static volatile uint64_t sink;

/* Guest memory is at page boundaries, which some CPUs' copying depends on. */
static uint8_t *new_memory(size_t size)
{
    uint8_t *p = qemu_memalign(PAGE, size);

    for (size_t i = 0; i < size; i++) {
        p[i] = i * 7 + i / PAGE;
    }
    return p;
}

/* Places for runs that don't overlap, in random order */
static void scatter(Bench *b)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    unsigned places = GUEST_PAGES / b->run;
    g_autofree uint64_t *place = g_new(uint64_t, places);

    b->nruns = EPOCH_PAGES / b->run;
    b->first = g_new(uint64_t, b->nruns);
    for (unsigned i = 0; i < places; i++) {
        place[i] = i;
    }
    for (unsigned i = 0; i < b->nruns; i++) {
        unsigned j = g_rand_int_range(rand, i, places);
        uint64_t taken = place[j];

        place[j] = place[i];
        b->first[i] = taken * b->run;
        bitmap_set(b->changed, b->first[i], b->run);
    }
}

static void set_up_cow(Bench *b)
{
    size_t size = GUEST_PAGES * PAGE;

    b->shared = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert(b->shared != MAP_FAILED);
    memcpy(b->shared, b->guest, size);
    b->cow = colo_cow_new(b->shared, size, "bench", &error_fatal);
    b->written = bitmap_new(GUEST_PAGES);
}

static void set_up(Bench *b)
{
    ColoRamList *ram = colo_ramlist_new(PAGE, &error_abort);

    colo_ramlist_add(ram, "ram", GUEST_PAGES * PAGE, &error_abort);
    b->stage = colo_stage_new(ram, &error_abort);
    colo_ramlist_free(ram);
    b->kept = colo_kept_new(PAGE, EPOCH_PAGES, &error_abort);
    b->guest = new_memory(GUEST_PAGES * PAGE);
    b->svm = new_memory(GUEST_PAGES * PAGE);
    b->wire = new_memory(EPOCH_PAGES * PAGE);
    b->changed = bitmap_new(GUEST_PAGES);
    scatter(b);
    set_up_cow(b);
}

static void do_memcpy(Bench *b)
{
    size_t len = b->run * PAGE;

    for (unsigned i = 0; i < b->nruns; i++) {
        memcpy(b->wire + i * len, b->guest + b->first[i] * PAGE, len);
    }
    sink = b->wire[0];
}

static void do_zero(Bench *b)
{
    for (unsigned i = 0; i < b->nruns; i++) {
        for (unsigned j = 0; j < b->run; j++) {
            sink = buffer_is_zero(b->guest + (b->first[i] + j) * PAGE, PAGE);
        }
    }
}

static void do_keep(Bench *b)
{
    colo_kept_clear(b->kept);
    for (unsigned i = 0; i < b->nruns; i++) {
        for (unsigned j = 0; j < b->run; j++) {
            uint64_t page = b->first[i] + j;
            void *data = b->guest + page * PAGE;

            colo_kept_add(b->kept, 0, page,
                          buffer_is_zero(data, PAGE) ? NULL : data);
        }
    }
}

static void do_crc(Bench *b)
{
    uint32_t crc = 0;

    for (unsigned i = 0; i < b->nruns; i++) {
        crc = colo_crc(crc, b->guest + b->first[i] * PAGE, b->run * PAGE);
    }
    sink = crc;
}

static void do_stage(Bench *b)
{
    g_autofree struct iovec *iov = g_new(struct iovec, b->run);
    const uint8_t *from = b->wire;

    colo_stage_clear(b->stage);
    for (unsigned i = 0; i < b->nruns; i++) {
        size_t n = colo_stage_data(b->stage, 0, b->first[i], b->run, iov);

        for (size_t j = 0; j < n; j++) {
            memcpy(iov[j].iov_base, from, iov[j].iov_len);
            from += iov[j].iov_len;
        }
    }
}

static void do_commit(Bench *b)
{
    ColoStageTarget target = { .base = b->guest, .svm = b->svm };

    colo_stage_commit(b->stage, 0, b->changed, &target);
    sink = b->svm[0];
}

/* The SVM writes to all pages of the epoch. */
static void write_all(Bench *b)
{
    for (unsigned i = 0; i < b->nruns; i++) {
        for (unsigned j = 0; j < b->run; j++) {
            b->shared[(b->first[i] + j) * PAGE]++;
        }
    }
}

static void do_stage_own(Bench *b)
{
    uint8_t *base = colo_cow_base(b->cow);
    size_t len = b->run * PAGE;

    for (unsigned i = 0; i < b->nruns; i++) {
        bitmap_clear(b->written, b->first[i], b->run);
        g_assert(colo_cow_written(b->cow, b->first[i], b->run, b->written));
        for (unsigned j = 0; j < b->run; j++) {
            g_assert(test_bit(b->first[i] + j, b->written));
        }
        memcpy(base + b->first[i] * PAGE, b->wire + i * len, len);
    }
}

static void do_commit_own(Bench *b)
{
    bitmap_zero(b->written, GUEST_PAGES);
    colo_cow_changed(b->cow, b->written);
    colo_cow_drop(b->cow, b->written);
}

static void do_commit_cow(Bench *b)
{
    ColoStageTarget target = { .base = colo_cow_base(b->cow) };

    do_commit_own(b);
    colo_stage_commit(b->stage, 0, b->changed, &target);
    sink = target.base[0];
}

static void nothing(Bench *b)
{
}

static const struct {
    const char *name;
    void (*prepare)(Bench *b);  /* whose time does not count */
    void (*run)(Bench *b);
} benches[] = {
    { "memcpy", nothing, do_memcpy },
    { "zero", nothing, do_zero },
    { "keep", nothing, do_keep },
    { "crc", nothing, do_crc },
    { "stage", nothing, do_stage },
    { "commit", nothing, do_commit },
    { "stage-own", write_all, do_stage_own },
    { "commit-own", write_all, do_commit_own },
    { "commit-cow", nothing, do_commit_cow },
};

static double cpu_seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* MiB a second */
static double measure(Bench *b, unsigned which, double seconds)
{
    double spent = 0;
    unsigned epochs = 0;

    do_stage(b);
    for (bool warm = false; spent < seconds; warm = true) {
        double begin;

        benches[which].prepare(b);
        begin = cpu_seconds();
        benches[which].run(b);
        if (warm) {
            spent += cpu_seconds() - begin;
            epochs++;
        }
    }
    return epochs * (EPOCH_PAGES * PAGE / (double)MiB) / spent;
}

static int usage(const char *program)
{
    error_printf("usage: %s NAME RUN [SECONDS]; RUN is from 1 to 64 and a "
                 "power of two, NAME one of\n", program);
    for (unsigned i = 0; i < ARRAY_SIZE(benches); i++) {
        error_printf("  %s\n", benches[i].name);
    }
    return 1;
}

int main(int argc, char **argv)
{
    Bench b = { 0 };
    double seconds = argc > 3 ? atof(argv[3]) : 0.5;

    if (argc < 3 || argc > 4 || qemu_strtoui(argv[2], NULL, 10, &b.run) ||
        !is_power_of_2(b.run) || b.run > 64 || seconds <= 0) {
        return usage(argv[0]);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(benches); i++) {
        if (!strcmp(argv[1], benches[i].name)) {
            set_up(&b);
            printf("mib_per_s %.1f\n", measure(&b, i, seconds));
            return 0;
        }
    }
    return usage(argv[0]);
}
