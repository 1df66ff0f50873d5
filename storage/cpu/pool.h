/*
 * The CPU tier's memory: one reservation of private anonymous address space, much larger than the
 * memory that may be used, committed and given back in slabs. The core decides which slabs exist
 * (it counts bytes against the budget); the pool only makes them real, so that a size class can
 * grow contiguous slabs whatever other classes came and went: no fragmentation collapse.
 *
 * Memory is obtained in the background: one thread touches one byte per 2 MiB (which gives a huge
 * page where the kernel grants one at fault time) and collapses what was given as small pages
 * (MADV_COLLAPSE). Advice alone may give none, so what was obtained is counted and reported. KV
 * stays out of core dumps (MADV_DONTDUMP) and out of forked children (MADV_DONTFORK).
 */
#ifndef KVEIK_STORAGE_CPU_POOL_H
#define KVEIK_STORAGE_CPU_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { POOL_GRANULE_BYTES = 2 * 1024 * 1024 };

enum pool_pages {
    POOL_PAGES_AUTO,  /* transparent huge pages where the kernel grants them */
    POOL_PAGES_SMALL, /* none: for comparison */
    POOL_PAGES_HUGE, /* explicit (MAP_HUGETLB, 2 MiB); refused at commit when the system has none */
};

struct pool_options {
    uint64_t budget_bytes;  /* multiple of POOL_GRANULE_BYTES: most memory in use at once */
    uint64_t reserve_bytes; /* address space; offsets lie below it */
    enum pool_pages pages;
    bool prefault; /* the background thread touches slabs before they are used */
    bool lock;     /* mlock; failure is reported in the status, not fatal */
};

struct pool_status {
    uint64_t committed_bytes;
    uint64_t touched_bytes;
    uint64_t huge_bytes; /* of the touched; read from /proc/self/smaps by the pool's thread, after
                            it touched a slab and when asked, at most once a second: it may be one
                            question old. Without prefault, touched_bytes comes from there, too */
    uint64_t locked_bytes;
    uint64_t commit_failures;
};

struct pool;

/* What to take when nothing was configured: three quarters of what the cgroup (v1 or v2, its own
 * limit and all its parents') or, if smaller, the machine has available now, at most
 * limit_bytes if not 0, rounded down to whole granules; at least 64 MiB. */
uint64_t pool_default_budget(uint64_t limit_bytes);

/* ST_OK, ST_NO_MEMORY, ST_INVALID. */
int pool_create(const struct pool_options *options, struct pool **pool_out, struct error *error);

/* All copies must have drained. Accepts NULL. */
void pool_destroy(struct pool *pool);

/* Makes [offset, offset + bytes) usable (both multiples of the granule). The memory reads as zero
 * at first. ST_OK, ST_NO_MEMORY, ST_LIMIT (beyond the budget). Owner thread only. */
int pool_commit(struct pool *pool, uint64_t offset, uint64_t bytes, struct error *error);

/* Gives the memory back to the system. No copy may touch it any more. Owner thread only. */
void pool_decommit(struct pool *pool, uint64_t offset, uint64_t bytes);

/* Whether the granule at an offset is committed. Owner thread only. */
bool pool_committed(const struct pool *pool, uint64_t offset);

/* The address of an offset in a committed slab. Any thread. */
char *pool_address(const struct pool *pool, uint64_t offset);

void pool_status(struct pool *pool, struct pool_status *status_out);

#endif
