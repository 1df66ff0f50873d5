/*
 * Buffers for what cannot go straight between the owner's memory and the device: aligned, within a
 * budget. One that is larger than the whole budget is given when nothing else is out. The owner
 * thread's.
 */
#ifndef KVEIK_STORAGE_DISK_BOUNCE_H
#define KVEIK_STORAGE_DISK_BOUNCE_H

#include <stdint.h>

#include "base/queue.h"

struct bounce_pool {
    uint64_t budget_bytes;
    uint64_t out_bytes;  /* in use */
    uint64_t idle_bytes; /* kept for the next */
    struct queue idle;
};

struct bounce {
    struct queue link; /* the pool's own */
    char *bytes;       /* aligned to DISK_ALIGN */
    uint64_t capacity;
};

void bounce_pool_init(struct bounce_pool *pool, uint64_t budget_bytes);

/* Nothing may be out. */
void bounce_pool_finish(struct bounce_pool *pool);

/* Of at least `bytes` > 0. NULL: the budget is used up for now, or memory is short: try later. */
struct bounce *bounce_get(struct bounce_pool *pool, uint64_t bytes);

/* Accepts NULL. */
void bounce_put(struct bounce_pool *pool, struct bounce *bounce);

#endif
