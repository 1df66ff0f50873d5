/*
 * Whether the device is worth asking: after a few failures in a row it is left alone for a second,
 * then two, up to fifteen; then real requests try it again.
 */
#ifndef KVEIK_STORAGE_DISK_HEALTH_H
#define KVEIK_STORAGE_DISK_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

enum {
    HEALTH_FAILURES = 3, /* in a row make it down */
    HEALTH_BACKOFF_MS = 1000,
    HEALTH_BACKOFF_MAX_MS = 15000,
};

/* Zeroed is healthy. */
struct health {
    uint32_t failures;   /* in a row */
    uint64_t backoff_ms; /* the last one; 0: none since it was well */
    uint64_t down_until_ms;
};

void health_good(struct health *health);
void health_bad(struct health *health, uint64_t now_ms);

/* Down at once, whatever went before. */
void health_down(struct health *health, uint64_t now_ms);

bool health_up(const struct health *health, uint64_t now_ms);

#endif
