/* The table of kernels, the choice among them, and the calibration that makes it. */
#include "storage/cpu/kernels.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/status.h"
#include "storage/cpu/kernels_x86.h"

static bool always(void)
{
    return true;
}

static void copy_plain(void *restrict to, const void *restrict from, size_t bytes)
{
    (void)memcpy(to, from, bytes);
}

/* Page-interleaved with plain stores: for processors without kernels of their own. */
static void copy_portable_interleaved(void *restrict to, const void *restrict from, size_t bytes)
{
    enum { STEP = 256, PAGE = 4096 };
    char *t = to;
    const char *f = from;
    for (; bytes >= (size_t)2 * PAGE; bytes -= (size_t)2 * PAGE) {
        for (size_t at = 0; at < PAGE; at += STEP) {
            (void)memcpy(t + at, f + at, STEP);
            (void)memcpy(t + PAGE + at, f + PAGE + at, STEP);
        }
        t += (size_t)2 * PAGE;
        f += (size_t)2 * PAGE;
    }
    (void)memcpy(t, f, bytes);
}

static const struct kernel kernels[] = {
    {"plain", copy_plain, NULL, always},
    {"portable-interleaved", copy_portable_interleaved, NULL, always},
#if defined(__x86_64__)
    {"x86-string", copy_x86_string, NULL, always},
    {"avx2-interleaved", copy_avx2_interleaved, rows_avx2_stream, x86_has_avx2},
    {"avx2-stream", copy_avx2_stream, rows_avx2_stream, x86_has_avx2},
    {"avx512-interleaved", copy_avx512_interleaved, rows_avx512_stream, x86_has_avx512},
    {"avx512-stream", copy_avx512_stream, rows_avx512_stream, x86_has_avx512},
#endif
};

enum { KERNEL_COUNT = ARRAY_COUNT(kernels), ROWS_CLASS = 2 };

/* The largest run of each class but the last, and the run that stands for the class when the
 * kernels are measured. */
static const size_t class_bytes_max[KERNEL_CLASSES - 1] = {2048, 16384, 131072};
static const size_t class_bytes_typical[KERNEL_CLASSES] = {1024, 8192, 32768, 524288};

const struct kernel *kernels_all(uint32_t *count_out)
{
    *count_out = KERNEL_COUNT;
    return kernels;
}

uint32_t kernel_class_of(size_t bytes)
{
    uint32_t size_class = 0;
    while (size_class < KERNEL_CLASSES - 1 && bytes > class_bytes_max[size_class]) {
        size_class++;
    }
    return size_class;
}

void kernel_choice_default(struct kernel_choice *choice)
{
    KVEIK_ASSERT(choice != NULL);
    const struct kernel *stream = &kernels[0];
    for (uint32_t i = 0; i < KERNEL_COUNT; i++) {
        if (kernels[i].rows != NULL && kernels[i].supported()) {
            stream = &kernels[i]; /* the last of the table is the widest stream */
        }
    }
    *choice = (struct kernel_choice){.rows = stream->rows};
    for (uint32_t size_class = 0; size_class < KERNEL_CLASSES; size_class++) {
        choice->best[size_class] = size_class < 2 ? &kernels[0] : stream;
    }
}

void kernel_choice_plain(struct kernel_choice *choice)
{
    KVEIK_ASSERT(choice != NULL);
    *choice = (struct kernel_choice){.rows = NULL};
    for (uint32_t size_class = 0; size_class < KERNEL_CLASSES; size_class++) {
        choice->best[size_class] = &kernels[0];
    }
}

/* Scratch memory of a calibration: the first half is copied to the second, run by run, in an order
 * that jumps, as planes do. */
struct scratch {
    char *base;
    size_t half_bytes;
};

/* One way to move a run; `next` is the run after it. */
struct contender {
    kernel_copy copy;
    kernel_copy_rows rows; /* if not NULL, instead of copy */
};

static void move_run(const struct contender *contender, char *to, const char *from,
                     const char *next, size_t bytes)
{
    if (contender->rows == NULL) {
        contender->copy(to, from, bytes);
        return;
    }
    struct kernel_rows rows = {.to = to,
                               .from = from,
                               .run_bytes = bytes,
                               .inner_count = 1,
                               .outer_count = 1,
                               .ahead = {.from = next, .run_bytes = bytes, .count = 1}};
    contender->rows(&rows);
}

/* GB/s of a pass over the scratch memory. Only the second half of the pass is timed: in the first,
 * what the pass before left behind (lines in the cache, some of them still to be written) gives way
 * to what this one leaves, so that nobody pays for, or gains from, somebody else. */
static double measure(const struct scratch *scratch, const struct contender *contender,
                      size_t run_bytes)
{
    enum { JUMP = 7919 }; /* prime: visits every run once */
    size_t count = scratch->half_bytes / run_bytes;
    const char *from = scratch->base;
    char *to = scratch->base + scratch->half_bytes;
    uint64_t begin_ns = 0;
    for (size_t i = 0; i < count; i++) {
        if (i == count / 2) {
            begin_ns = clock_ns();
        }
        size_t at = i * JUMP % count * run_bytes;
        size_t next = (i + 1) * JUMP % count * run_bytes;
        move_run(contender, to + at, from + at, from + next, run_bytes);
    }
    kernel_fence();
    uint64_t took_ns = clock_ns() - begin_ns;
    size_t timed_bytes = (count - count / 2) * run_bytes;
    return (double)timed_bytes / (double)(took_ns == 0 ? 1 : took_ns);
}

/* Measures everything once more and keeps each one's best: other work on the machine only ever
 * makes a pass slower. */
static void measure_all(const struct scratch *scratch, double gbps[KERNEL_CLASSES][KERNEL_COUNT],
                        double rows_gbps[KERNEL_COUNT])
{
    for (uint32_t size_class = 0; size_class < KERNEL_CLASSES; size_class++) {
        size_t run_bytes = class_bytes_typical[size_class];
        for (uint32_t i = 0; i < KERNEL_COUNT; i++) {
            struct contender contender = {.copy = kernels[i].copy};
            if (!kernels[i].supported()) {
                continue;
            }
            double got = measure(scratch, &contender, run_bytes);
            gbps[size_class][i] = got > gbps[size_class][i] ? got : gbps[size_class][i];
            contender.rows = kernels[i].rows;
            if (size_class == ROWS_CLASS && contender.rows != NULL) {
                got = measure(scratch, &contender, run_bytes);
                rows_gbps[i] = got > rows_gbps[i] ? got : rows_gbps[i];
            }
        }
    }
}

/* Streaming kernels win ties: they leave the cache to the engine, and what cached stores cost comes
 * in part after the clock was stopped, when their lines are written back. */
static double score(double gbps, bool streams)
{
    return streams ? gbps * 1.1 : gbps;
}

static uint32_t best_of(const double gbps[KERNEL_COUNT])
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < KERNEL_COUNT; i++) {
        bool better =
            score(gbps[i], kernels[i].rows != NULL) > score(gbps[best], kernels[best].rows != NULL);
        best = better ? i : best;
    }
    return best;
}

static void choose(struct kernel_choice *choice, double gbps[KERNEL_CLASSES][KERNEL_COUNT],
                   const double rows_gbps[KERNEL_COUNT])
{
    for (uint32_t size_class = 0; size_class < KERNEL_CLASSES; size_class++) {
        uint32_t best = best_of(gbps[size_class]);
        choice->best[size_class] = &kernels[best];
        choice->gbps[size_class] = gbps[size_class][best];
    }
    uint32_t best = best_of(rows_gbps);
    choice->rows_gbps = rows_gbps[best];
    /* where no processor-specific rows exist, none were measured */
    bool better = score(rows_gbps[best], true) > choice->gbps[ROWS_CLASS];
    choice->rows = better ? kernels[best].rows : NULL;
}

int kernel_calibrate(struct kernel_choice *choice, size_t memory_bytes, uint32_t budget_ms)
{
    KVEIK_ASSERT(choice != NULL);
    kernel_choice_default(choice);
    size_t least = (size_t)2 * class_bytes_typical[KERNEL_CLASSES - 1];
    memory_bytes = (memory_bytes < least ? least : memory_bytes) / least * least;
    void *base = fault_fires(FAULT_MMAP) ? MAP_FAILED
                                         : mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        kernel_choice_plain(choice);
        return ST_NO_MEMORY;
    }
    (void)madvise(base, memory_bytes, MADV_HUGEPAGE);
    (void)memset(base, 1, memory_bytes); /* real pages on both sides, not the shared zero page */
    struct scratch scratch = {.base = base, .half_bytes = memory_bytes / 2};
    double gbps[KERNEL_CLASSES][KERNEL_COUNT] = {{0}};
    double rows_gbps[KERNEL_COUNT] = {0};
    uint64_t end_ms = clock_ms() + budget_ms;
    do {
        measure_all(&scratch, gbps, rows_gbps);
    } while (clock_ms() < end_ms);
    choose(choice, gbps, rows_gbps);
    (void)munmap(base, memory_bytes);
    return ST_OK;
}

void kernel_fence(void)
{
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#else
    atomic_thread_fence(memory_order_release);
#endif
}
