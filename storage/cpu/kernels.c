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

enum { KERNEL_COUNT = ARRAY_COUNT(kernels) };

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
    uint64_t end_ns;
};

/* Nanoseconds for one piece of the scratch memory in runs of one size. `round` says which piece, so
 * that no kernel finds what the one before it left in the cache. */
static uint64_t measure(const struct scratch *scratch, const struct kernel *kernel,
                        size_t run_bytes, uint32_t round, size_t *copied_out)
{
    enum { PIECE_BYTES = 4 * 1024 * 1024, JUMP = 7919 };
    size_t run_count = scratch->half_bytes / run_bytes;
    size_t count = PIECE_BYTES / run_bytes;
    uint64_t begin_ns = clock_ns();
    for (size_t i = 0; i < count; i++) {
        size_t at = (round * count + i) * JUMP % run_count * run_bytes;
        kernel->copy(scratch->base + scratch->half_bytes + at, scratch->base + at, run_bytes);
    }
    kernel_fence();
    *copied_out = count * run_bytes;
    uint64_t took_ns = clock_ns() - begin_ns;
    return took_ns == 0 ? 1 : took_ns;
}

/* The kernels take turns, and each is judged by its best turn: other work on the machine only ever
 * makes a turn slower. */
static void calibrate_class(struct kernel_choice *choice, uint32_t size_class,
                            const struct scratch *scratch)
{
    enum { ROUNDS_MAX = 16 };
    size_t run_bytes = class_bytes_typical[size_class];
    double gbps[KERNEL_COUNT] = {0};
    uint32_t turn = 0;
    for (uint32_t round = 0; round < ROUNDS_MAX; round++) {
        for (uint32_t i = 0; i < KERNEL_COUNT; i++, turn++) {
            if (!kernels[i].supported()) {
                continue;
            }
            size_t copied = 0;
            uint64_t took_ns = measure(scratch, &kernels[i], run_bytes, turn, &copied);
            double got = (double)copied / (double)took_ns;
            gbps[i] = got > gbps[i] ? got : gbps[i];
        }
        if (clock_ns() >= scratch->end_ns) {
            break;
        }
    }
    uint32_t best = 0;
    for (uint32_t i = 1; i < KERNEL_COUNT; i++) {
        best = gbps[i] > gbps[best] ? i : best;
    }
    choice->best[size_class] = &kernels[best];
    choice->gbps[size_class] = gbps[best];
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
    uint64_t begin_ns = clock_ns();
    uint64_t budget_ns = (uint64_t)budget_ms * 1000000u;
    for (uint32_t size_class = 0; size_class < KERNEL_CLASSES; size_class++) {
        struct scratch scratch = {.base = base,
                                  .half_bytes = memory_bytes / 2,
                                  .end_ns =
                                      begin_ns + budget_ns * (size_class + 1) / KERNEL_CLASSES};
        calibrate_class(choice, size_class, &scratch);
    }
    (void)munmap(base, memory_bytes);
    /* rows end up in planes of tens of KiB: where streaming wins there, it wins for them */
    choice->rows = choice->best[2]->rows;
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
