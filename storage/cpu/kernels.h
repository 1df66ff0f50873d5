/*
 * Copy kernels: how one contiguous run of bytes is moved. Several exist because the best one
 * depends on the machine and on the run's size:
 *
 *   plain         the C library's memcpy
 *   stream        loads, then non-temporal stores, which skip reading the destination's lines
 *   interleaved   streaming over several 4 KiB pages at a time, which keeps more of the memory's
 *                 banks and the hardware prefetchers busy
 *
 * each for AVX-512, AVX2 and portable C, chosen at run time. A short calibration at start measures
 * them for each size class and keeps the fastest; kernel_for() then is one table look-up.
 * All kernels give the same bytes for every size and alignment. Thread-safe once calibrated.
 * Streaming stores are weakly ordered: kernel_fence() after the last one, before publishing.
 */
#ifndef KVEIK_STORAGE_CPU_KERNELS_H
#define KVEIK_STORAGE_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef void (*kernel_copy)(void *restrict to, const void *restrict from, size_t bytes);

/* What will be read next: `count` contiguous runs. Fetched into the cache while something else is
 * copied, since the hardware's prefetchers start anew at every page and lose track of strides. */
struct kernel_ahead {
    const char *from; /* NULL: nothing */
    uint64_t run_bytes;
    uint64_t count;
    uint64_t stride;
};

/* Runs of equal length in two dimensions, strided on both sides: what converts one order of tokens
 * and heads into another. Strides are bytes; the inner dimension is walked first. */
struct kernel_rows {
    char *to;
    const char *from;
    uint64_t run_bytes;
    uint64_t inner_count;
    uint64_t inner_to;
    uint64_t inner_from;
    uint64_t outer_count;
    uint64_t outer_to;
    uint64_t outer_from;
    struct kernel_ahead ahead;
};

typedef void (*kernel_copy_rows)(const struct kernel_rows *rows);

/* True when every run begins on a cache line of the destination and fills whole lines: only then
 * may rows be streamed. */
static inline bool kernel_rows_aligned(const struct kernel_rows *rows)
{
    uint64_t bits =
        (uint64_t)(uintptr_t)rows->to | rows->run_bytes | rows->inner_to | rows->outer_to;
    return (bits & 63) == 0;
}

struct kernel {
    const char *name; /* such as "avx512-interleaved" */
    kernel_copy copy;
    kernel_copy_rows rows;   /* streaming, for aligned rows; NULL if it has none */
    bool (*supported)(void); /* by this processor */
};

/* All kernels built for this architecture, supported or not; count in *count_out. */
const struct kernel *kernels_all(uint32_t *count_out);

/* Size classes of runs: <= 2 KiB, <= 16 KiB, <= 128 KiB, larger. */
enum { KERNEL_CLASSES = 4 };

struct kernel_choice {
    const struct kernel *best[KERNEL_CLASSES];
    double gbps[KERNEL_CLASSES]; /* what calibration measured for the best */
    kernel_copy_rows rows;       /* streams aligned rows; NULL: copy() is better here */
    double rows_gbps;            /* for rows of 32 KiB, the next one fetched ahead */
};

uint32_t kernel_class_of(size_t bytes);

/* Measures for at most about budget_ms; memory_bytes of scratch memory (use more than the last
 * cache for a true picture). ST_OK or ST_NO_MEMORY (then plain memcpy everywhere). */
int kernel_calibrate(struct kernel_choice *choice, size_t memory_bytes, uint32_t budget_ms);

/* Chosen without measuring: streaming for large runs where supported. */
void kernel_choice_default(struct kernel_choice *choice);

/* memcpy everywhere: for destinations that are to stay in the cache. */
void kernel_choice_plain(struct kernel_choice *choice);

static inline kernel_copy kernel_for(const struct kernel_choice *choice, size_t bytes)
{
    return choice->best[kernel_class_of(bytes)]->copy;
}

/* Orders this thread's streaming stores before whatever it publishes next. */
void kernel_fence(void);

#endif
