/*
 * The grain table: hash of a key -> number of the key. Linear hashing (Litwin 1980): the table
 * grows by splitting one bucket at a time, in order, so that no insertion ever pauses to rehash; a
 * bucket is one cache line of seven entries, with overflow buckets behind it. Several entries may
 * have the same key (blocks of different sizes share grains); the caller compares keys.
 *
 * Entries hold 32 bits of the hash; the bucket's number is taken from the same bits, so splitting
 * touches no key.
 */
#ifndef KVEIK_CORE_TABLE_H
#define KVEIK_CORE_TABLE_H

#include <stdint.h>

#include "base/vm.h"
#include "daemon/core/slots.h"

enum {
    BUCKET_ENTRIES = 7,
    TABLE_SAME_MAX = 512, /* entries of one hash: more come only from someone who repeats a key */
};

struct bucket {
    uint32_t count; /* entries in this bucket, packed at the front */
    uint32_t next;  /* overflow bucket, or NONE */
    struct {
        uint32_t hash;
        uint32_t key;
    } entries[BUCKET_ENTRIES];
};

struct table {
    struct vm_array buckets;
    struct slots overflow;
    uint64_t entries;
    uint32_t level; /* 2^level buckets at the beginning of this round */
    uint32_t split; /* next bucket to split */
};

int table_init(struct table *table, uint64_t entries_max);
void table_finish(struct table *table);

/* ST_OK; ST_NO_MEMORY when an overflow bucket cannot be had; ST_LIMIT: TABLE_SAME_MAX. */
int table_insert(struct table *table, uint32_t hash, uint32_t key);

/* The entry exists. */
void table_remove(struct table *table, uint32_t hash, uint32_t key);

static inline uint32_t table_bucket_of(const struct table *table, uint32_t hash)
{
    uint32_t bucket = hash & ((1u << table->level) - 1);
    return bucket < table->split ? hash & ((2u << table->level) - 1) : bucket;
}

static inline const struct bucket *table_bucket(const struct table *table, uint32_t hash)
{
    return (const struct bucket *)table->buckets.base + table_bucket_of(table, hash);
}

/* A bit for every entry of the bucket that has the hash. Without branches: where in its bucket a
 * key lies is chance, and to guess it wrong costs more than to compare seven times. */
static inline uint32_t table_matches(const struct bucket *bucket, uint32_t hash)
{
#define MATCH(i) ((bucket->entries[i].hash == hash ? 1u : 0u) << (i))
    uint32_t matches = MATCH(0) | MATCH(1) | MATCH(2) | MATCH(3) | MATCH(4) | MATCH(5) | MATCH(6);
#undef MATCH
    return matches & ((1u << bucket->count) - 1);
}

static inline const struct bucket *table_overflow(const struct table *table,
                                                  const struct bucket *bucket)
{
    return bucket->next == NONE ? NULL : slots_at(&table->overflow, bucket->next);
}

#endif
