#include "storage/disk/bounce.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/heap.h"
#include "storage/disk/io.h"

enum {
    IDLE_FRACTION = 4,          /* of the budget is kept at most */
    FIT = 4,                    /* a kept one is used for what needs at least this part of it */
    SMALLEST = 16 * DISK_ALIGN, /* bytes */
};

void bounce_pool_init(struct bounce_pool *pool, uint64_t budget_bytes)
{
    pool->budget_bytes = budget_bytes;
    pool->out_bytes = 0;
    pool->idle_bytes = 0;
    queue_init(&pool->idle);
}

static void destroy(struct bounce *bounce)
{
    heap_free(bounce->bytes);
    heap_free(bounce);
}

/* The list is not empty. */
static struct bounce *pop_idle(struct bounce_pool *pool)
{
    struct bounce *bounce = CONTAINER_OF(pool->idle.next, struct bounce, link);
    queue_remove(&bounce->link);
    pool->idle_bytes -= bounce->capacity;
    return bounce;
}

void bounce_pool_finish(struct bounce_pool *pool)
{
    KVEIK_ASSERT(pool->out_bytes == 0);
    while (!queue_empty(&pool->idle)) {
        destroy(pop_idle(pool));
    }
}

static struct bounce *take_fitting(struct bounce_pool *pool, uint64_t bytes)
{
    queue_foreach (item, &pool->idle) {
        struct bounce *bounce = CONTAINER_OF(item, struct bounce, link);
        if (bounce->capacity >= bytes && bounce->capacity / FIT <= bytes) {
            queue_remove(&bounce->link);
            pool->idle_bytes -= bounce->capacity;
            return bounce;
        }
    }
    return NULL;
}

static struct bounce *make(uint64_t bytes)
{
    struct bounce *bounce = heap_calloc(1, sizeof *bounce);
    char *memory = heap_alloc_aligned(DISK_ALIGN, bytes);
    if (bounce == NULL || memory == NULL) {
        heap_free(bounce);
        heap_free(memory);
        return NULL;
    }
    queue_init(&bounce->link);
    bounce->bytes = memory;
    bounce->capacity = bytes;
    return bounce;
}

struct bounce *bounce_get(struct bounce_pool *pool, uint64_t bytes)
{
    KVEIK_ASSERT(bytes > 0);
    bytes = round_up(bytes > SMALLEST ? bytes : SMALLEST, SMALLEST);
    if (pool->out_bytes > 0 && pool->out_bytes + bytes > pool->budget_bytes) {
        return NULL;
    }
    struct bounce *bounce = take_fitting(pool, bytes);
    if (bounce == NULL) {
        bounce = make(bytes);
    }
    if (bounce != NULL) {
        pool->out_bytes += bounce->capacity;
    }
    return bounce;
}

void bounce_put(struct bounce_pool *pool, struct bounce *bounce)
{
    if (bounce == NULL) {
        return;
    }
    KVEIK_ASSERT(pool->out_bytes >= bounce->capacity);
    pool->out_bytes -= bounce->capacity;
    queue_push_back(&pool->idle, &bounce->link);
    pool->idle_bytes += bounce->capacity;
    while (pool->idle_bytes > pool->budget_bytes / IDLE_FRACTION) {
        struct bounce *oldest = pop_idle(pool);
        KVEIK_ASSERT(oldest != NULL);
        destroy(oldest);
    }
}
