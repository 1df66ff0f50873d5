#include "base/fault.h"

#include <stdatomic.h>

/* Process-wide by purpose: allocation itself passes a point, so no object could carry them. */
static atomic_bool armed;
static atomic_int_fast64_t countdowns[FAULT_POINT_COUNT];
static atomic_int_fast64_t failures_left[FAULT_POINT_COUNT];
static atomic_int_fast64_t fired[FAULT_POINT_COUNT];

void fault_set(enum fault_point point, int64_t countdown, int64_t failures)
{
    atomic_store(&countdowns[point], countdown);
    atomic_store(&failures_left[point], failures);
    atomic_store(&fired[point], 0);
    atomic_store(&armed, true);
}

void fault_clear(void)
{
    atomic_store(&armed, false);
    for (int i = 0; i < FAULT_POINT_COUNT; i++) {
        atomic_store(&failures_left[i], 0);
        atomic_store(&fired[i], 0);
    }
}

int64_t fault_fired(enum fault_point point)
{
    return atomic_load(&fired[point]);
}

bool fault_fires(enum fault_point point)
{
    if (!atomic_load_explicit(&armed, memory_order_relaxed)) {
        return false;
    }
    if (atomic_load(&failures_left[point]) <= 0) {
        return false;
    }
    if (atomic_fetch_sub(&countdowns[point], 1) > 0) {
        return false;
    }
    atomic_fetch_sub(&failures_left[point], 1);
    atomic_fetch_add(&fired[point], 1);
    return true;
}
