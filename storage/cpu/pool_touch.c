/*
 * The pool's thread: obtains memory for slabs in the order in which they were committed, and counts
 * what the kernel gave.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/cpu/pool_internal.h"
#include "storage/cpu/smaps.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { PAGE_BYTES = 4096, RECOUNT_MS = 1000 };

/* True when the whole granule has memory. */
static bool obtain(const struct pool *pool, char *granule)
{
    if (pool->options.pages == POOL_PAGES_AUTO) {
        /* one byte: a huge page where the kernel gives one at once; else small pages are brought
         * together, which takes the kernel longer but gives the same */
        if (madvise(granule, PAGE_BYTES, MADV_POPULATE_WRITE) != 0) {
            return false;
        }
        (void)madvise(granule, POOL_GRANULE_BYTES, MADV_COLLAPSE);
    }
    return madvise(granule, POOL_GRANULE_BYTES, MADV_POPULATE_WRITE) == 0;
}

/* With the mutex, so that the owner cannot take the granule back between the look and the lock. */
static void lock_granule(struct pool *pool, uint64_t offset)
{
    (void)pthread_mutex_lock(&pool->mutex);
    if (atomic_load(pool_state_of(pool, offset)) == GRANULE_TOUCHED &&
        mlock(pool->base + offset, POOL_GRANULE_BYTES) == 0) {
        atomic_store(pool_state_of(pool, offset), GRANULE_LOCKED);
        (void)atomic_fetch_add(&pool->locked_bytes, POOL_GRANULE_BYTES);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void touch_granule(struct pool *pool, uint64_t offset)
{
    unsigned char state = GRANULE_COMMITTED;
    if (!atomic_compare_exchange_strong(pool_state_of(pool, offset), &state, GRANULE_TOUCHING)) {
        return; /* taken back meanwhile */
    }
    bool obtained = obtain(pool, pool->base + offset);
    /* counted before it shows, so that whoever takes it back can subtract it */
    (void)atomic_fetch_add(&pool->touched_bytes, POOL_GRANULE_BYTES);
    state = GRANULE_TOUCHING;
    if (!obtained ||
        !atomic_compare_exchange_strong(pool_state_of(pool, offset), &state, GRANULE_TOUCHED)) {
        (void)atomic_fetch_sub(&pool->touched_bytes, POOL_GRANULE_BYTES);
    } else if (pool->options.lock) {
        lock_granule(pool, offset);
    }
}

/* Touches the next granule of the slab in front; called and left with the mutex held. */
static void touch_next(struct pool *pool)
{
    struct pool_slab *slab = CONTAINER_OF(pool->slabs.next, struct pool_slab, link);
    uint64_t offset = slab->offset;
    slab->offset += POOL_GRANULE_BYTES;
    slab->bytes -= POOL_GRANULE_BYTES;
    if (slab->bytes == 0) {
        queue_remove(&slab->link);
        heap_free(slab);
        pool->recount = queue_empty(&pool->slabs);
    }
    pool->touching = offset;
    (void)pthread_mutex_unlock(&pool->mutex);
    touch_granule(pool, offset);
    (void)pthread_mutex_lock(&pool->mutex);
    pool->touching = POOL_NOWHERE;
    (void)pthread_cond_signal(&pool->touched);
}

/* The kernel walks every page for an answer: with slabs that come one by one, as from a disk,
 * asking after each would take a processor. Called and left with the mutex held. */
static void count_pages(struct pool *pool, uint64_t *counted_ms)
{
    uint64_t now = clock_ms();
    uint64_t since = now - *counted_ms;
    if (*counted_ms != 0 && since < RECOUNT_MS) {
        struct timespec until;
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(RECOUNT_MS - since) * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        (void)pthread_cond_timedwait(&pool->work, &pool->mutex, &until);
        return; /* what came meanwhile goes first */
    }
    pool->recount = false;
    (void)pthread_mutex_unlock(&pool->mutex);
    struct smaps_bytes bytes =
        smaps_read("/proc/self/smaps", pool->base, pool->base + pool->options.reserve_bytes);
    atomic_store(&pool->huge_bytes, bytes.huge);
    if (!pool->options.prefault) { /* touched by whoever used it */
        atomic_store(&pool->touched_bytes, bytes.resident);
    }
    *counted_ms = clock_ms();
    (void)pthread_mutex_lock(&pool->mutex);
}

static void *pool_main(void *arg)
{
    struct pool *pool = arg;
    uint64_t counted_ms = 0;
    (void)pthread_mutex_lock(&pool->mutex);
    while (!pool->stopping) {
        if (!queue_empty(&pool->slabs)) {
            touch_next(pool);
        } else if (pool->recount) {
            count_pages(pool, &counted_ms);
        } else {
            (void)pthread_cond_wait(&pool->work, &pool->mutex);
        }
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

static int start_thread(struct pool *pool)
{
    sigset_t blocked;
    sigset_t before;
    (void)sigfillset(&blocked);
    if (fault_fires(FAULT_THREAD) || pthread_sigmask(SIG_SETMASK, &blocked, &before) != 0) {
        return ST_NO_MEMORY;
    }
    int failed = pthread_create(&pool->thread, NULL, pool_main, pool);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0) {
        return ST_NO_MEMORY;
    }
    (void)pthread_setname_np(pool->thread, "kveik-pool");
    return ST_OK;
}

int pool_touch_start(struct pool *pool, struct error *error)
{
    if (pthread_mutex_init(&pool->mutex, NULL) != 0) {
        return error_set(error, ST_NO_MEMORY, "pool: no memory for a mutex");
    }
    int status = ST_NO_MEMORY;
    if (pthread_cond_init(&pool->work, NULL) != 0) {
        (void)error_set(error, status, "pool: no memory for a condition");
        goto err_mutex;
    }
    if (pthread_cond_init(&pool->touched, NULL) != 0) {
        (void)error_set(error, status, "pool: no memory for a condition");
        goto err_work;
    }
    status = start_thread(pool);
    if (status == ST_OK) {
        return ST_OK;
    }
    (void)error_set(error, status, "pool: cannot start a thread");
    (void)pthread_cond_destroy(&pool->touched);
err_work:
    (void)pthread_cond_destroy(&pool->work);
err_mutex:
    (void)pthread_mutex_destroy(&pool->mutex);
    return status;
}

void pool_touch_stop(struct pool *pool)
{
    (void)pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    (void)pthread_cond_signal(&pool->work);
    (void)pthread_mutex_unlock(&pool->mutex);
    (void)pthread_join(pool->thread, NULL);
    for (struct queue *link = queue_pop_front(&pool->slabs); link != NULL;
         link = queue_pop_front(&pool->slabs)) {
        heap_free(CONTAINER_OF(link, struct pool_slab, link));
    }
    (void)pthread_cond_destroy(&pool->touched);
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->mutex);
}

void pool_touch_later(struct pool *pool, uint64_t offset, uint64_t bytes)
{
    struct pool_slab *slab = heap_alloc(sizeof *slab);
    if (slab == NULL) {
        return;
    }
    *slab = (struct pool_slab){.offset = offset, .bytes = bytes};
    (void)pthread_mutex_lock(&pool->mutex);
    queue_push_back(&pool->slabs, &slab->link);
    (void)pthread_cond_signal(&pool->work);
    (void)pthread_mutex_unlock(&pool->mutex);
}

void pool_touch_await(struct pool *pool, uint64_t offset, uint64_t bytes)
{
    while (pool->touching != POOL_NOWHERE && pool->touching >= offset &&
           pool->touching < offset + bytes) {
        (void)pthread_cond_wait(&pool->touched, &pool->mutex);
    }
}
