/* Monotonic time. The core never calls it: time reaches the core in events. */
#ifndef KVEIK_BASE_CLOCK_H
#define KVEIK_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);

static inline uint64_t clock_ms(void)
{
    return clock_ns() / 1000000u;
}

#endif
