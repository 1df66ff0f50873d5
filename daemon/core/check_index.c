/* core_check(): blocks, their parts and keys, and the table. */
#include <string.h>

#include "base/heap.h"
#include "daemon/core/check.h"

static uint32_t rounded(uint32_t count)
{
    uint32_t size = 1;
    while (size < count) {
        size *= 2;
    }
    return size;
}

void check_blocks(const struct check *check)
{
    const struct core *core = check->core;
    uint64_t keys = 0;
    uint64_t taken = 0;
    uint32_t parts = 0;
    for (uint32_t b = 0; b < core->blocks.high; b++) {
        if (!check->blocks[b]) {
            continue;
        }
        const struct block *block = block_at(core, b);
        uint32_t key_count = block->keys_less_one + 1u;
        KVEIK_ASSERT(block->parts != NONE && check->spaces[block->space]);
        KVEIK_ASSERT(block->tail_tokens >= 1 && block->tail_tokens <= GRAIN_TOKENS);
        KVEIK_ASSERT(key_count == 1 || block->keys_less_one == block->grains_less_one);
        KVEIK_ASSERT(block->keys % rounded(key_count) == 0);
        for (uint32_t i = 0; i < key_count; i++) {
            KVEIK_ASSERT(keys_owner(&core->keys, block->keys + i) == b);
        }
        keys += key_count;
        taken += rounded(key_count);
        for (uint32_t n = block->parts; n != NONE; n = part_at(core, n)->next) {
            KVEIK_ASSERT(n < core->parts.high && check->parts[n]);
            const struct part *part = part_at(core, n);
            parts++;
            KVEIK_ASSERT(part->block == b && parts <= core->parts.used);
            KVEIK_ASSERT(part->shape < core->shapes.high && check->shapes[part->shape]);
            KVEIK_ASSERT(shape_at(core, part->shape)->space == block->space);
            KVEIK_ASSERT(shape_at(core, part->shape)->grains >= block->grains_less_one + 1u);
        }
    }
    KVEIK_ASSERT(parts == core->parts.used); /* so every part is in its block's list, once */
    KVEIK_ASSERT(keys == core->keys.used && taken == core->keys.taken);
    KVEIK_ASSERT(keys == core->table.entries);
}

/* Free runs and taken ones add up; no two free buddies lie apart. */
static void check_free_keys(const struct core *core)
{
    const uint32_t *owners = core->keys.owners.base;
    uint64_t free_keys = 0;
    for (uint32_t class = 0; class < KEY_CLASSES; class ++) {
        uint32_t size = 1u << class;
        uint32_t before = NONE;
        for (uint32_t n = core->keys.free_head[class]; n != NONE;) {
            uint32_t links[2]; /* prev, next */
            (void)memcpy(links, keys_at(&core->keys, n), sizeof links);
            KVEIK_ASSERT(n % size == 0 && n + size <= core->keys.high);
            KVEIK_ASSERT(owners[n] == KEY_FREE + class && links[0] == before);
            KVEIK_ASSERT(class + 1 == KEY_CLASSES || owners[n ^ size] != KEY_FREE + class);
            free_keys += size;
            KVEIK_ASSERT(free_keys <= core->keys.high);
            before = n;
            n = links[1];
        }
    }
    KVEIK_ASSERT(free_keys + core->keys.taken == core->keys.high);
}

static void check_entry(const struct check *check, uint8_t *seen, uint32_t bucket, uint32_t hash,
                        uint32_t key)
{
    const struct core *core = check->core;
    KVEIK_ASSERT(key < core->keys.high && seen[key] == 0);
    seen[key] = 1;
    uint32_t owner = keys_owner(&core->keys, key);
    KVEIK_ASSERT(owner < core->blocks.high && check->blocks[owner]);
    const struct block *block = block_at(core, owner);
    KVEIK_ASSERT(key >= block->keys && key - block->keys <= block->keys_less_one);
    KVEIK_ASSERT(hash == core_hash(core, block->space, keys_at(&core->keys, key)));
    KVEIK_ASSERT(table_bucket_of(&core->table, hash) == bucket);
}

void check_table(const struct check *check)
{
    const struct core *core = check->core;
    const struct table *table = &core->table;
    uint8_t *seen = check_alloc(core->keys.high, 1);
    uint8_t *overflow = check_live(&table->overflow);
    uint32_t primaries = (1u << table->level) + table->split;
    uint64_t entries = 0;
    uint32_t overflow_count = 0;
    for (uint32_t n = 0; n < primaries; n++) {
        const struct bucket *bucket = (const struct bucket *)table->buckets.base + n;
        while (bucket != NULL) {
            KVEIK_ASSERT(bucket->count <= BUCKET_ENTRIES);
            KVEIK_ASSERT(bucket->next == NONE || bucket->count == BUCKET_ENTRIES);
            for (uint32_t i = 0; i < bucket->count; i++) {
                check_entry(check, seen, n, bucket->entries[i].hash, bucket->entries[i].key);
            }
            entries += bucket->count;
            if (bucket->next != NONE) {
                KVEIK_ASSERT(bucket->next < table->overflow.high && overflow[bucket->next] == 1);
                overflow[bucket->next] = 2; /* in one chain only */
                overflow_count++;
            }
            bucket = table_overflow(table, bucket);
            KVEIK_ASSERT(bucket == NULL || bucket->count > 0);
        }
    }
    /* as many entries as keys and none twice: every key of every block is in the table */
    KVEIK_ASSERT(entries == table->entries && overflow_count == table->overflow.used);
    heap_free(overflow);
    heap_free(seen);
    check_free_keys(core);
}
