/*
 * What pool.c (the reservation, commit and give back) shares with pool_touch.c (the thread that
 * obtains memory). Private to the two.
 */
#ifndef KVEIK_STORAGE_CPU_POOL_INTERNAL_H
#define KVEIK_STORAGE_CPU_POOL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/queue.h"
#include "base/vm.h"
#include "storage/cpu/pool.h"
#include "storage/cpu/pool_file.h"

#define POOL_NOWHERE UINT64_MAX

enum granule_state {
    GRANULE_NONE,
    GRANULE_COMMITTED,
    GRANULE_TOUCHING,
    GRANULE_TOUCHED,
    GRANULE_LOCKED,
};

/* A committed slab that the thread has still to touch. */
struct pool_slab {
    struct queue link;
    uint64_t offset;
    uint64_t bytes;
};

struct pool {
    uint32_t magic;
    struct pool_options options; /* its strings are gone after pool_create() */
    struct pool_file file;       /* fd -1: the memory is anonymous */
    bool keep;                   /* the file stays at the end */
    bool whole;                  /* the attached file lacks nothing that it held when it was kept */
    char *mapping;               /* the reservation, with a granule to spare for alignment */
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
    pthread_cond_t touched; /* the thread is done with a granule */
    struct queue slabs;
    uint64_t touching; /* offset of the granule that the thread is at, else POOL_NOWHERE */
    bool recount;      /* huge_bytes is to be read again */
    bool stopping;
};

static inline atomic_uchar *pool_state_of(const struct pool *pool, uint64_t offset)
{
    return (atomic_uchar *)pool->states.base + offset / POOL_GRANULE_BYTES;
}

/* Makes the lock and starts the thread. ST_OK, ST_NO_MEMORY. */
int pool_touch_start(struct pool *pool, struct error *error);

/* Ends the thread and forgets what it had still to touch. */
void pool_touch_stop(struct pool *pool);

/* Hands a slab to the thread. Without memory to remember it, it is touched by its first use. */
void pool_touch_later(struct pool *pool, uint64_t offset, uint64_t bytes);

/* Waits until the thread is at no granule of a range whose granules are taken back already: the
 * time of one granule at most. Called and left with the mutex held. */
void pool_touch_await(struct pool *pool, uint64_t offset, uint64_t bytes);

#endif
