/*
 * Memory is committed by making a slab of the reservation accessible, and given back by making it
 * inaccessible and dropping its pages. A slab's life, granule by granule:
 *
 *   NONE --pool_commit--> COMMITTED --thread--> TOUCHING --thread--> TOUCHED --thread--> LOCKED
 *     ^-----------------------+--------------------+--------------------+-------------------'
 *                                   pool_decommit
 *
 * The thread obtains memory with MADV_POPULATE_WRITE, which fails where a plain touch would fault:
 * so the owner may take a slab back at any moment without waiting for the thread. It never changes
 * a byte: the owner and its copies may use a slab from the moment of its commit.
 */
#include "storage/cpu/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/queue.h"
#include "base/status.h"
#include "base/vm.h"
#include "storage/cpu/limits.h"
#include "storage/cpu/smaps.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

enum {
    POOL_MAGIC = 0x706f6f6c,
    PAGE_BYTES = 4096,
    STATUS_AGE_MAX_MS = 1000,
    BUDGET_LEAST_BYTES = 64 * 1024 * 1024,
};

enum granule_state {
    GRANULE_NONE,
    GRANULE_COMMITTED,
    GRANULE_TOUCHING,
    GRANULE_TOUCHED,
    GRANULE_LOCKED,
};

/* A committed slab that the thread has still to touch. */
struct slab {
    struct queue link;
    uint64_t offset;
    uint64_t bytes;
};

struct pool {
    uint32_t magic;
    struct pool_options options;
    char *mapping; /* the reservation, with a granule to spare for alignment */
    char *base;
    struct vm_array states; /* atomic_uchar, one a granule */
    uint64_t committed_bytes;
    uint64_t commit_failures;
    atomic_uint_fast64_t touched_bytes;
    atomic_uint_fast64_t locked_bytes;
    atomic_uint_fast64_t huge_bytes;
    uint64_t status_asked_ms; /* when the owner last asked for huge_bytes */

    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows, and that a granule locked is one committed */
    pthread_cond_t work;
    struct queue slabs;
    bool recount; /* huge_bytes is to be read again */
    bool stopping;
};

uint64_t pool_default_budget(uint64_t limit_bytes)
{
    uint64_t budget = limits_available_bytes("") / 4 * 3;
    if (limit_bytes != 0 && budget > limit_bytes) {
        budget = limit_bytes;
    }
    budget = budget / POOL_GRANULE_BYTES * POOL_GRANULE_BYTES;
    return budget < BUDGET_LEAST_BYTES ? BUDGET_LEAST_BYTES : budget;
}

static atomic_uchar *state_of(const struct pool *pool, uint64_t offset)
{
    return (atomic_uchar *)pool->states.base + offset / POOL_GRANULE_BYTES;
}

/* ---- the thread -------------------------------------------------------------------------------
 */

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
    if (atomic_load(state_of(pool, offset)) == GRANULE_TOUCHED &&
        mlock(pool->base + offset, POOL_GRANULE_BYTES) == 0) {
        atomic_store(state_of(pool, offset), GRANULE_LOCKED);
        (void)atomic_fetch_add(&pool->locked_bytes, POOL_GRANULE_BYTES);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void touch_granule(struct pool *pool, uint64_t offset)
{
    unsigned char state = GRANULE_COMMITTED;
    if (!atomic_compare_exchange_strong(state_of(pool, offset), &state, GRANULE_TOUCHING)) {
        return; /* taken back meanwhile */
    }
    bool obtained = obtain(pool, pool->base + offset);
    /* counted before it shows, so that whoever takes it back can subtract it */
    (void)atomic_fetch_add(&pool->touched_bytes, POOL_GRANULE_BYTES);
    state = GRANULE_TOUCHING;
    if (!obtained ||
        !atomic_compare_exchange_strong(state_of(pool, offset), &state, GRANULE_TOUCHED)) {
        (void)atomic_fetch_sub(&pool->touched_bytes, POOL_GRANULE_BYTES);
    } else if (pool->options.lock) {
        lock_granule(pool, offset);
    }
}

/* Touches the next granule of the slab in front; called and left with the mutex held. */
static void touch_next(struct pool *pool)
{
    struct slab *slab = CONTAINER_OF(pool->slabs.next, struct slab, link);
    uint64_t offset = slab->offset;
    slab->offset += POOL_GRANULE_BYTES;
    slab->bytes -= POOL_GRANULE_BYTES;
    if (slab->bytes == 0) {
        queue_remove(&slab->link);
        heap_free(slab);
        pool->recount = queue_empty(&pool->slabs);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    touch_granule(pool, offset);
    (void)pthread_mutex_lock(&pool->mutex);
}

static void *pool_main(void *arg)
{
    struct pool *pool = arg;
    (void)pthread_mutex_lock(&pool->mutex);
    while (!pool->stopping) {
        if (!queue_empty(&pool->slabs)) {
            touch_next(pool);
        } else if (pool->recount) {
            pool->recount = false;
            (void)pthread_mutex_unlock(&pool->mutex);
            struct smaps_bytes bytes = smaps_read("/proc/self/smaps", pool->base,
                                                  pool->base + pool->options.reserve_bytes);
            atomic_store(&pool->huge_bytes, bytes.huge);
            if (!pool->options.prefault) { /* touched by whoever used it */
                atomic_store(&pool->touched_bytes, bytes.resident);
            }
            (void)pthread_mutex_lock(&pool->mutex);
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

/* ---- the reservation --------------------------------------------------------------------------
 */

/* Advice stays with address space through commit and decommit, but not through a new mapping. Most
 * of it is a wish; KV in core dumps and in children is not. */
static bool advise(const struct pool *pool, char *at, uint64_t bytes)
{
    if (pool->options.pages != POOL_PAGES_HUGE) {
        bool huge = pool->options.pages == POOL_PAGES_AUTO;
        (void)madvise(at, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    return madvise(at, bytes, MADV_DONTDUMP) == 0 && madvise(at, bytes, MADV_DONTFORK) == 0;
}

static int reserve(struct pool *pool, struct error *error)
{
    uint64_t bytes = pool->options.reserve_bytes + POOL_GRANULE_BYTES;
    void *mapping =
        fault_fires(FAULT_MMAP)
            ? MAP_FAILED
            : mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        return error_errno(error, ST_NO_MEMORY, errno, "pool: cannot reserve %llu bytes",
                           (unsigned long long)bytes);
    }
    pool->mapping = mapping;
    uint64_t misaligned = (uint64_t)((uintptr_t)mapping % POOL_GRANULE_BYTES);
    pool->base = pool->mapping + (misaligned == 0 ? 0 : POOL_GRANULE_BYTES - misaligned);
    if (!advise(pool, pool->base, pool->options.reserve_bytes)) {
        return error_errno(error, ST_NO_MEMORY, errno, "pool: cannot keep KV out of core dumps");
    }
    uint64_t granules = pool->options.reserve_bytes / POOL_GRANULE_BYTES;
    if (vm_array_init(&pool->states, sizeof(atomic_uchar), granules) != ST_OK ||
        vm_array_commit(&pool->states, granules) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "pool: no memory for %llu granules",
                         (unsigned long long)granules);
    }
    return ST_OK;
}

static void unreserve(struct pool *pool)
{
    vm_array_finish(&pool->states);
    if (pool->mapping != NULL) {
        (void)munmap(pool->mapping, pool->options.reserve_bytes + POOL_GRANULE_BYTES);
    }
}

static int check_options(const struct pool_options *options, struct error *error)
{
    if (options->budget_bytes == 0 || options->budget_bytes % POOL_GRANULE_BYTES != 0 ||
        options->reserve_bytes % POOL_GRANULE_BYTES != 0) {
        return error_set(error, ST_INVALID, "pool: sizes must be multiples of %u bytes",
                         (unsigned)POOL_GRANULE_BYTES);
    }
    if (options->reserve_bytes < options->budget_bytes ||
        options->reserve_bytes > (uint64_t)INT64_MAX) {
        return error_set(error, ST_INVALID, "pool: %llu bytes of address space for %llu of memory",
                         (unsigned long long)options->reserve_bytes,
                         (unsigned long long)options->budget_bytes);
    }
    return ST_OK;
}

int pool_create(const struct pool_options *options, struct pool **pool_out, struct error *error)
{
    KVEIK_ASSERT(options != NULL && pool_out != NULL);
    int status = check_options(options, error);
    if (status != ST_OK) {
        return status;
    }
    struct pool *pool = heap_calloc(1, sizeof *pool);
    if (pool == NULL) {
        return error_set(error, ST_NO_MEMORY, "pool: no memory");
    }
    pool->magic = POOL_MAGIC;
    pool->options = *options;
    queue_init(&pool->slabs);
    status = reserve(pool, error);
    if (status != ST_OK) {
        goto err_unreserve;
    }
    if (pthread_mutex_init(&pool->mutex, NULL) != 0) {
        status = error_set(error, ST_NO_MEMORY, "pool: no memory for a mutex");
        goto err_unreserve;
    }
    if (pthread_cond_init(&pool->work, NULL) != 0) {
        status = error_set(error, ST_NO_MEMORY, "pool: no memory for a condition");
        goto err_mutex;
    }
    status = start_thread(pool);
    if (status != ST_OK) {
        (void)error_set(error, status, "pool: cannot start a thread");
        goto err_condition;
    }
    *pool_out = pool;
    return ST_OK;

err_condition:
    (void)pthread_cond_destroy(&pool->work);
err_mutex:
    (void)pthread_mutex_destroy(&pool->mutex);
err_unreserve:
    unreserve(pool);
    heap_free(pool);
    return status;
}

void pool_destroy(struct pool *pool)
{
    if (pool == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    (void)pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    (void)pthread_cond_signal(&pool->work);
    (void)pthread_mutex_unlock(&pool->mutex);
    (void)pthread_join(pool->thread, NULL);
    for (struct queue *link = queue_pop_front(&pool->slabs); link != NULL;
         link = queue_pop_front(&pool->slabs)) {
        heap_free(CONTAINER_OF(link, struct slab, link));
    }
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->mutex);
    unreserve(pool);
    pool->magic = 0;
    heap_free(pool);
}

/* ---- slabs ------------------------------------------------------------------------------------
 */

static void check_range(const struct pool *pool, uint64_t offset, uint64_t bytes)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    KVEIK_ASSERT(bytes > 0);
    KVEIK_ASSERT(offset % POOL_GRANULE_BYTES == 0 && bytes % POOL_GRANULE_BYTES == 0);
    KVEIK_ASSERT(offset <= pool->options.reserve_bytes);
    KVEIK_ASSERT(bytes <= pool->options.reserve_bytes - offset);
}

/* True when the range can be used from now on. */
static bool make_usable(const struct pool *pool, char *at, uint64_t bytes)
{
    if (fault_fires(FAULT_MMAP)) {
        errno = ENOMEM;
        return false;
    }
    if (pool->options.pages != POOL_PAGES_HUGE) {
        return mprotect(at, bytes, PROT_READ | PROT_WRITE) == 0;
    }
    /* Without NORESERVE: huge pages are set aside now or refused now, never missed in a copy. They
     * are mapped elsewhere and moved here: refused in place, they could leave a hole in the
     * reservation that some other mapping falls into. */
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB;
    void *elsewhere = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (elsewhere == MAP_FAILED) {
        return false;
    }
    if (mremap(elsewhere, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED) {
        int cause = errno;
        (void)munmap(elsewhere, bytes);
        errno = cause;
        return false;
    }
    return advise(pool, at, bytes);
}

/* Back to bare address space. What fails here (the kernel's limit on mappings) leaves address space
 * accessible that nobody will use: harmless. The pages are dropped in any case. */
static void make_unusable(const struct pool *pool, char *at, uint64_t bytes)
{
    if (pool->options.pages == POOL_PAGES_HUGE) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
        if (mmap(at, bytes, PROT_NONE, flags, -1, 0) != MAP_FAILED) {
            (void)advise(pool, at, bytes);
        }
        return;
    }
    if (pool->options.lock) {
        (void)munlock(at, bytes);
    }
    (void)mprotect(at, bytes, PROT_NONE);
    (void)madvise(at, bytes, MADV_DONTNEED);
}

/* Hands a slab to the thread. Without memory to remember it, it is touched by its first use. */
static void touch_later(struct pool *pool, uint64_t offset, uint64_t bytes)
{
    struct slab *slab = heap_alloc(sizeof *slab);
    if (slab == NULL) {
        return;
    }
    *slab = (struct slab){.offset = offset, .bytes = bytes};
    (void)pthread_mutex_lock(&pool->mutex);
    queue_push_back(&pool->slabs, &slab->link);
    (void)pthread_cond_signal(&pool->work);
    (void)pthread_mutex_unlock(&pool->mutex);
}

int pool_commit(struct pool *pool, uint64_t offset, uint64_t bytes, struct error *error)
{
    check_range(pool, offset, bytes);
    if (bytes > pool->options.budget_bytes - pool->committed_bytes) {
        pool->commit_failures++;
        return error_set(
            error, ST_LIMIT, "pool: %llu bytes more than the budget of %llu",
            (unsigned long long)(bytes + pool->committed_bytes - pool->options.budget_bytes),
            (unsigned long long)pool->options.budget_bytes);
    }
    if (!make_usable(pool, pool->base + offset, bytes)) {
        int cause = errno;
        make_unusable(pool, pool->base + offset, bytes);
        pool->commit_failures++;
        return error_errno(error, ST_NO_MEMORY, cause, "pool: cannot commit %llu bytes",
                           (unsigned long long)bytes);
    }
    for (uint64_t at = offset; at < offset + bytes; at += POOL_GRANULE_BYTES) {
        KVEIK_ASSERT(atomic_load(state_of(pool, at)) == GRANULE_NONE);
        atomic_store(state_of(pool, at), GRANULE_COMMITTED);
    }
    pool->committed_bytes += bytes;
    if (pool->options.prefault) {
        touch_later(pool, offset, bytes);
    }
    return ST_OK;
}

void pool_decommit(struct pool *pool, uint64_t offset, uint64_t bytes)
{
    check_range(pool, offset, bytes);
    KVEIK_ASSERT(bytes <= pool->committed_bytes);
    (void)pthread_mutex_lock(&pool->mutex); /* no granule is being locked */
    for (uint64_t at = offset; at < offset + bytes; at += POOL_GRANULE_BYTES) {
        unsigned char before = atomic_exchange(state_of(pool, at), GRANULE_NONE);
        KVEIK_ASSERT(before != GRANULE_NONE);
        if (before == GRANULE_TOUCHED || before == GRANULE_LOCKED) {
            (void)atomic_fetch_sub(&pool->touched_bytes, POOL_GRANULE_BYTES);
        }
        if (before == GRANULE_LOCKED) {
            (void)atomic_fetch_sub(&pool->locked_bytes, POOL_GRANULE_BYTES);
        }
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    make_unusable(pool, pool->base + offset, bytes);
    pool->committed_bytes -= bytes;
}

bool pool_committed(const struct pool *pool, uint64_t offset)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    KVEIK_ASSERT(offset < pool->options.reserve_bytes);
    return atomic_load_explicit(state_of(pool, offset), memory_order_relaxed) != GRANULE_NONE;
}

char *pool_address(const struct pool *pool, uint64_t offset)
{
    KVEIK_ASSERT(offset < pool->options.reserve_bytes);
    KVEIK_ASSERT(atomic_load_explicit(state_of(pool, offset), memory_order_relaxed) !=
                 GRANULE_NONE);
    return pool->base + offset;
}

void pool_status(struct pool *pool, struct pool_status *status_out)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    uint64_t now_ms = clock_ms();
    if (now_ms - pool->status_asked_ms >= STATUS_AGE_MAX_MS) {
        pool->status_asked_ms = now_ms;
        (void)pthread_mutex_lock(&pool->mutex);
        pool->recount = true;
        (void)pthread_cond_signal(&pool->work);
        (void)pthread_mutex_unlock(&pool->mutex);
    }
    *status_out = (struct pool_status){.committed_bytes = pool->committed_bytes,
                                       .touched_bytes = atomic_load(&pool->touched_bytes),
                                       .huge_bytes = atomic_load(&pool->huge_bytes),
                                       .locked_bytes = atomic_load(&pool->locked_bytes),
                                       .commit_failures = pool->commit_failures};
}
