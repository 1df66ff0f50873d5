/*
 * A histogram of latencies: buckets of equal relative width, at most 1/64 wide, so that
 * percentiles of any number of requests, of any number of processes, take a fixed space.
 */
#ifndef KVEIK_CLI_HIST_H
#define KVEIK_CLI_HIST_H

#include <stdint.h>

enum {
    HIST_STEP_BITS = 6,
    HIST_BITS_MAX = 40, /* microseconds: 12 days; what is longer counts as that */
    HIST_BUCKETS = ((HIST_BITS_MAX - HIST_STEP_BITS) + 1) << HIST_STEP_BITS,
};

struct hist { /* zeroed is empty */
    uint64_t count;
    uint64_t sum;
    uint64_t max;
    uint32_t buckets[HIST_BUCKETS];
};

void hist_add(struct hist *hist, uint64_t value);

void hist_merge(struct hist *into, const struct hist *from);

/* The value that `share` (0 .. 1) of all values do not exceed, as the upper end of its bucket but
 * never above the maximum; 0 when empty. */
uint64_t hist_quantile(const struct hist *hist, double share);

#endif
