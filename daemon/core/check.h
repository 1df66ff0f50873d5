/* What core_check() counts while it walks, to compare with what the core keeps. */
#ifndef KVEIK_CORE_CHECK_H
#define KVEIK_CORE_CHECK_H

#include "daemon/core/state.h"

/* Arrays by number, as long as the pool's high mark; one byte each says whether it is in use. */
struct check {
    const struct core *core;
    uint8_t *blocks;
    uint8_t *parts;
    uint8_t *chunks;
    uint8_t *instances;
    uint8_t *origins;
    uint8_t *spaces;
    uint8_t *shapes;
    uint8_t *leases;
    uint32_t *part_refs; /* leases' and requests' */
    uint8_t *part_pushes;
    uint32_t *origin_refs;
    uint32_t *shape_sessions;
    uint32_t *space_sessions;
    uint32_t *instance_sessions;
    uint32_t chunk_count;
};

/* Zeroed memory for `count` items; never NULL. */
void *check_alloc(uint64_t count, size_t item_bytes);

/* Which numbers of a pool are in use, from its free list; to be freed. */
uint8_t *check_live(const struct slots *slots);

/* check_disk.c: stores, loads, segments, what is on disk; adds to part_refs */
void check_disk(const struct check *check);

/* check_index.c: keys, table, blocks */
void check_blocks(const struct check *check);
void check_table(const struct check *check);

/* check_memory.c: slabs, LRU lists, bytes */
void check_slabs(const struct check *check);
void check_lru(const struct check *check);
void check_bytes(const struct check *check);

#endif
