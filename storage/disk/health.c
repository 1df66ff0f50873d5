#include "storage/disk/health.h"

void health_good(struct health *health)
{
    health->failures = 0;
    health->backoff_ms = 0;
    health->down_until_ms = 0;
}

void health_down(struct health *health, uint64_t now_ms)
{
    if (now_ms < health->down_until_ms) {
        return; /* what was in flight when it went down says nothing new */
    }
    uint64_t next = health->backoff_ms == 0 ? HEALTH_BACKOFF_MS : health->backoff_ms * 2;
    health->backoff_ms = next < HEALTH_BACKOFF_MAX_MS ? next : HEALTH_BACKOFF_MAX_MS;
    health->down_until_ms = now_ms + health->backoff_ms;
}

void health_bad(struct health *health, uint64_t now_ms)
{
    health->failures++;
    /* one that was down has to prove itself: its first failure sends it back */
    if (health->failures >= HEALTH_FAILURES || health->backoff_ms > 0) {
        health_down(health, now_ms);
    }
}

bool health_up(const struct health *health, uint64_t now_ms)
{
    return now_ms >= health->down_until_ms;
}
