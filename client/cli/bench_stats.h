/* Samples of a measurement, and what is said of them: median, other percentiles, mean, spread. */
#ifndef KVEIK_CLI_BENCH_STATS_H
#define KVEIK_CLI_BENCH_STATS_H

#include <stdbool.h>
#include <stdint.h>

struct samples {
    double *values; /* in the order of arrival until asked for a percentile */
    uint32_t count;
    uint32_t capacity;
    bool sorted;
    bool lost; /* memory was short and a value is missing */
};

/* A zeroed struct is ready. */
void samples_add(struct samples *samples, double value);
void samples_clear(struct samples *samples);

/* Frees the values; the struct is ready again. Accepts a zeroed one. */
void samples_finish(struct samples *samples);

/* percent in 0..100, by linear interpolation between the two nearest ranks; 0 when empty. */
double samples_percentile(struct samples *samples, double percent);
double samples_median(struct samples *samples);
double samples_mean(const struct samples *samples);
double samples_sum(const struct samples *samples);
double samples_max(const struct samples *samples);

/* Half the distance between the quartiles, as a share of the median: 0.05 means that half of the
 * samples lie within about 5 % of it. 0 when it says nothing (fewer than three samples). */
double samples_spread(struct samples *samples);

#endif
