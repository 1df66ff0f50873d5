#include "client/cli/bench_stats.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/heap.h"

enum { SAMPLES_FIRST = 64, SPREAD_SAMPLES_MIN = 3 };

void samples_add(struct samples *samples, double value)
{
    if (samples->count == samples->capacity) {
        uint32_t capacity = samples->capacity == 0 ? SAMPLES_FIRST : 2 * samples->capacity;
        double *values = heap_realloc(samples->values, capacity * sizeof(double));
        if (values == NULL) {
            samples->lost = true;
            return;
        }
        samples->values = values;
        samples->capacity = capacity;
    }
    samples->values[samples->count++] = value;
    samples->sorted = false;
}

void samples_clear(struct samples *samples)
{
    samples->count = 0;
    samples->sorted = false;
}

void samples_finish(struct samples *samples)
{
    heap_free(samples->values);
    *samples = (struct samples){0};
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

double samples_percentile(struct samples *samples, double percent)
{
    KVEIK_ASSERT(percent >= 0 && percent <= 100);
    if (samples->count == 0) {
        return 0;
    }
    if (!samples->sorted) {
        qsort(samples->values, samples->count, sizeof(double), compare);
        samples->sorted = true;
    }
    double rank = percent / 100 * (double)(samples->count - 1);
    uint32_t below = (uint32_t)rank;
    if (below + 1 >= samples->count) {
        return samples->values[samples->count - 1];
    }
    double share = rank - (double)below;
    return samples->values[below] * (1 - share) + samples->values[below + 1] * share;
}

double samples_median(struct samples *samples)
{
    return samples_percentile(samples, 50);
}

double samples_sum(const struct samples *samples)
{
    double sum = 0;
    for (uint32_t i = 0; i < samples->count; i++) {
        sum += samples->values[i];
    }
    return sum;
}

double samples_mean(const struct samples *samples)
{
    return samples->count == 0 ? 0 : samples_sum(samples) / (double)samples->count;
}

double samples_max(const struct samples *samples)
{
    double most = samples->count == 0 ? 0 : samples->values[0];
    for (uint32_t i = 1; i < samples->count; i++) {
        most = samples->values[i] > most ? samples->values[i] : most;
    }
    return most;
}

double samples_spread(struct samples *samples)
{
    double median = samples_median(samples);
    if (samples->count < SPREAD_SAMPLES_MIN || median <= 0) {
        return 0;
    }
    double quartiles = samples_percentile(samples, 75) - samples_percentile(samples, 25);
    return quartiles / 2 / median;
}
