#include "client/cli/hist.h"

#include "base/assert.h"

/* Values below 2^STEP_BITS have buckets of their own; above, each power of two has as many. */
static uint32_t bucket_of(uint64_t value)
{
    const uint64_t most = ((uint64_t)1 << HIST_BITS_MAX) - 1;
    value = value > most ? most : value;
    if (value < (1u << HIST_STEP_BITS)) {
        return (uint32_t)value;
    }
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - HIST_STEP_BITS;
    return (shift << HIST_STEP_BITS) + (uint32_t)(value >> shift);
}

static uint64_t bucket_end(uint32_t bucket)
{
    if (bucket < (2u << HIST_STEP_BITS)) {
        return bucket;
    }
    uint32_t shift = (bucket >> HIST_STEP_BITS) - 1;
    uint64_t step = bucket - ((uint64_t)shift << HIST_STEP_BITS);
    return ((step + 1) << shift) - 1;
}

void hist_add(struct hist *hist, uint64_t value)
{
    uint32_t bucket = bucket_of(value);
    KVEIK_ASSERT(bucket < HIST_BUCKETS);
    hist->buckets[bucket]++;
    hist->count++;
    hist->sum += value;
    hist->max = value > hist->max ? value : hist->max;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        into->buckets[i] += from->buckets[i];
    }
    into->count += from->count;
    into->sum += from->sum;
    into->max = from->max > into->max ? from->max : into->max;
}

uint64_t hist_quantile(const struct hist *hist, double share)
{
    if (hist->count == 0) {
        return 0;
    }
    double wanted = share * (double)hist->count;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        seen += hist->buckets[i];
        if (seen > 0 && (double)seen >= wanted) {
            uint64_t end = bucket_end(i);
            return end < hist->max ? end : hist->max;
        }
    }
    return hist->max;
}
