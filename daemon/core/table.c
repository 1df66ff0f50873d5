#include "daemon/core/table.h"

#include <string.h>

#include "base/assert.h"
#include "base/status.h"

_Static_assert(sizeof(struct bucket) == 64, "a bucket is one cache line");

enum { FIRST_LEVEL = 4, FILL_PERCENT = 70 /* of the entries of the primary buckets */ };

static struct bucket *bucket_at(const struct table *table, uint32_t number)
{
    return (struct bucket *)table->buckets.base + number;
}

int table_init(struct table *table, uint64_t entries_max)
{
    *table = (struct table){.level = FIRST_LEVEL};
    uint64_t buckets_max = 64 + entries_max * 100 / FILL_PERCENT / BUCKET_ENTRIES * 2;
    if (buckets_max > (1u << 30)) {
        buckets_max = 1u << 30;
    }
    int status = vm_array_init(&table->buckets, sizeof(struct bucket), buckets_max);
    if (status == ST_OK) {
        status = slots_init(&table->overflow, sizeof(struct bucket), (uint32_t)buckets_max);
    }
    if (status == ST_OK) {
        status = vm_array_commit(&table->buckets, 1u << FIRST_LEVEL);
    }
    for (uint32_t i = 0; status == ST_OK && i < 1u << FIRST_LEVEL; i++) {
        bucket_at(table, i)->next = NONE;
    }
    return status;
}

void table_finish(struct table *table)
{
    vm_array_finish(&table->buckets);
    slots_finish(&table->overflow);
}

/* At the end of the chain, unless `same_max` entries of the hash are in it. */
static int chain_add(struct table *table, struct bucket *bucket, uint32_t hash, uint32_t key,
                     uint32_t same_max)
{
    uint32_t same = 0;
    while (bucket->count == BUCKET_ENTRIES) {
        for (uint32_t i = 0; i < BUCKET_ENTRIES; i++) {
            same += bucket->entries[i].hash == hash ? 1 : 0;
        }
        if (same >= same_max) {
            return ST_LIMIT;
        }
        if (bucket->next == NONE) {
            uint32_t fresh = slots_take(&table->overflow);
            if (fresh == NONE) {
                return ST_NO_MEMORY;
            }
            ((struct bucket *)slots_at(&table->overflow, fresh))->next = NONE;
            bucket->next = fresh;
        }
        bucket = slots_at(&table->overflow, bucket->next);
    }
    bucket->entries[bucket->count].hash = hash;
    bucket->entries[bucket->count].key = key;
    bucket->count++;
    return ST_OK;
}

/* Splits the next bucket: its entries go to it and to its new sibling. */
static void table_split(struct table *table)
{
    uint32_t fresh = (1u << table->level) + table->split;
    if (vm_array_commit(&table->buckets, (uint64_t)fresh + 1) != ST_OK) {
        return; /* chains get longer, nothing breaks */
    }
    struct bucket *from = bucket_at(table, table->split);
    struct bucket *to = bucket_at(table, fresh);
    uint32_t bit = 1u << table->level;
    struct bucket old = *from;
    *from = (struct bucket){.next = NONE};
    *to = (struct bucket){.next = NONE};
    for (;;) {
        /* cannot fail: k full buckets need at most k - 1 overflow buckets beside the two primary
         * ones, and so many were given back by then */
        for (uint32_t i = 0; i < old.count; i++) {
            uint32_t hash = old.entries[i].hash;
            int status = chain_add(table, (hash & bit) != 0 ? to : from, hash, old.entries[i].key,
                                   UINT32_MAX);
            KVEIK_ASSERT(status == ST_OK);
        }
        if (old.next == NONE) {
            break;
        }
        uint32_t given = old.next;
        old = *(const struct bucket *)slots_at(&table->overflow, given);
        slots_give(&table->overflow, given);
    }
    if (++table->split == 1u << table->level) {
        table->level++;
        table->split = 0;
    }
}

int table_insert(struct table *table, uint32_t hash, uint32_t key)
{
    int status =
        chain_add(table, bucket_at(table, table_bucket_of(table, hash)), hash, key, TABLE_SAME_MAX);
    if (status != ST_OK) {
        return status;
    }
    table->entries++;
    uint64_t primaries = ((uint64_t)1 << table->level) + table->split;
    if (table->entries * 100 > primaries * BUCKET_ENTRIES * FILL_PERCENT) {
        table_split(table);
    }
    return ST_OK;
}

void table_remove(struct table *table, uint32_t hash, uint32_t key)
{
    struct bucket *first = bucket_at(table, table_bucket_of(table, hash));
    struct bucket *found = NULL;
    uint32_t found_at = 0;
    struct bucket *last = first;
    struct bucket *before_last = NULL;
    for (struct bucket *b = first;; b = slots_at(&table->overflow, b->next)) {
        for (uint32_t i = 0; found == NULL && i < b->count; i++) {
            if (b->entries[i].key == key && b->entries[i].hash == hash) {
                found = b;
                found_at = i;
            }
        }
        if (b->next == NONE) {
            break;
        }
        before_last = b;
        last = slots_at(&table->overflow, b->next);
    }
    KVEIK_ASSERT(found != NULL && last->count > 0);
    /* the hole is filled from the end of the chain, so that only its last bucket is not full */
    found->entries[found_at] = last->entries[--last->count];
    if (last->count == 0 && before_last != NULL) {
        uint32_t gone = before_last->next;
        before_last->next = NONE;
        slots_give(&table->overflow, gone);
    }
    table->entries--;
}
