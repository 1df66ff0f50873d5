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

static int chain_add(struct table *table, struct bucket *bucket, uint32_t hash, uint32_t key)
{
    while (bucket->count == BUCKET_ENTRIES) {
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

/* Frees the overflow buckets behind `bucket` and empties it; the entries are in `old` copies. */
static void chain_reset(struct table *table, struct bucket *bucket)
{
    uint32_t next = bucket->next;
    while (next != NONE) {
        uint32_t after = ((struct bucket *)slots_at(&table->overflow, next))->next;
        slots_give(&table->overflow, next);
        next = after;
    }
    bucket->count = 0;
    bucket->next = NONE;
}

/* Chains are short: at 70 % fill one of 28 entries or more is rarer than 1 in 10^9. A longer one
 * (hostile keys cannot make one: the hash is seeded) is simply not split this time. */
enum { SPLIT_ENTRIES_MAX = 8 * BUCKET_ENTRIES };

/* Splits the next bucket: its entries go to it and to its new sibling. */
static void table_split(struct table *table)
{
    uint32_t fresh = (1u << table->level) + table->split;
    if (vm_array_commit(&table->buckets, (uint64_t)fresh + 1) != ST_OK) {
        return; /* chains get longer, nothing breaks */
    }
    struct bucket *from = bucket_at(table, table->split);
    struct bucket *to = bucket_at(table, fresh);
    uint32_t hashes[SPLIT_ENTRIES_MAX];
    uint32_t keys[SPLIT_ENTRIES_MAX];
    uint32_t count = 0;
    for (const struct bucket *b = from; b != NULL; b = table_overflow(table, b)) {
        if (count + b->count > SPLIT_ENTRIES_MAX) {
            return;
        }
        for (uint32_t i = 0; i < b->count; i++) {
            hashes[count] = b->entries[i].hash;
            keys[count++] = b->entries[i].key;
        }
    }
    chain_reset(table, from);
    *to = (struct bucket){.next = NONE};
    uint32_t bit = 1u << table->level;
    for (uint32_t i = 0; i < count; i++) {
        /* cannot fail: the overflow buckets that are needed were just given back */
        int status = chain_add(table, (hashes[i] & bit) != 0 ? to : from, hashes[i], keys[i]);
        KVEIK_ASSERT(status == ST_OK);
    }
    if (++table->split == 1u << table->level) {
        table->level++;
        table->split = 0;
    }
}

int table_insert(struct table *table, uint32_t hash, uint32_t key)
{
    int status = chain_add(table, bucket_at(table, table_bucket_of(table, hash)), hash, key);
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
