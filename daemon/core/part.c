/* Blocks and parts: creating, dropping, references. */
#include <string.h>

#define XXH_INLINE_ALL /* a call would cost as much as the hash of 32 bytes */
#include <xxhash.h>

#include "daemon/core/state.h"

uint32_t core_hash(const struct core *core, uint32_t space, const uint8_t *key)
{
    uint64_t seed = core->limits.hash_seed + (uint64_t)space * 0x9e3779b97f4a7c15u;
    return (uint32_t)XXH3_64bits_withSeed(key, CORE_KEY_BYTES, seed);
}

uint32_t block_create(struct core *core, uint32_t space, const uint8_t *keys, uint32_t key_count,
                      uint32_t grains, uint32_t tail_tokens)
{
    uint32_t number = slots_take(&core->blocks);
    if (number == NONE) {
        return NONE;
    }
    struct block *block = block_at(core, number);
    block->keys = keys_take(&core->keys, keys, key_count, number);
    if (block->keys == NONE) {
        slots_give(&core->blocks, number);
        return NONE;
    }
    block->parts = NONE;
    block->space = (uint16_t)space;
    block->grains_less_one = (uint8_t)(grains - 1);
    block->keys_less_one = (uint8_t)(key_count - 1);
    block->tail_tokens = (uint8_t)tail_tokens;
    for (uint32_t i = 0; i < key_count; i++) {
        uint32_t hash = core_hash(core, space, keys + (size_t)i * CORE_KEY_BYTES);
        if (table_insert(&core->table, hash, block->keys + i) != ST_OK) {
            while (i-- > 0) {
                hash = core_hash(core, space, keys + (size_t)i * CORE_KEY_BYTES);
                table_remove(&core->table, hash, block->keys + i);
            }
            keys_give(&core->keys, block->keys, key_count);
            slots_give(&core->blocks, number);
            return NONE;
        }
    }
    return number;
}

void block_drop(struct core *core, uint32_t number)
{
    const struct block *block = block_at(core, number);
    KVEIK_ASSERT(block->parts == NONE);
    uint32_t key_count = block->keys_less_one + 1u;
    for (uint32_t i = 0; i < key_count; i++) {
        uint32_t hash = core_hash(core, block->space, keys_at(&core->keys, block->keys + i));
        table_remove(&core->table, hash, block->keys + i);
    }
    keys_give(&core->keys, block->keys, key_count);
    slots_give(&core->blocks, number);
}

uint32_t part_create(struct core *core, uint32_t block, uint32_t shape_number, uint32_t slot,
                     uint32_t origin)
{
    uint32_t number = slots_take(&core->parts);
    if (number == NONE) {
        return NONE; /* records_make() saw a free number, but its memory cannot be had */
    }
    struct part *part = part_at(core, number);
    struct shape *shape = shape_at(core, shape_number);
    struct space *space = space_at(core, shape->space);
    struct block *owner = block_at(core, block);
    uint64_t bytes = core->slabs.classes[shape->class].slot_bytes;
    part->block = block;
    part->next = owner->parts;
    owner->parts = number;
    part->slot = slot;
    slabs_slot_fill(&core->slabs, shape->class, slot, number);
    part->shape = (uint16_t)shape_number;
    part->origin = (uint16_t)origin;
    part->state = PART_FILLING;
    part->refs = 1;
    origin_at(core, origin)->refs++;
    shape->parts++;
    space->parts++;
    space->used_bytes += bytes;
    tenant_at(core, space->tenant)->used_bytes += bytes;
    core->slot_bytes += bytes;
    core->part_bytes += shape->bytes;
    return number;
}

void part_ready(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state == PART_FILLING);
    part->state = PART_READY;
}

void part_ref(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state != PART_ABSENT && part->refs < UINT32_MAX);
    if ((part->flags & PART_IN_LRU) != 0) {
        lru_leave(core, number);
    }
    part->refs++;
}

void part_unref(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state != PART_ABSENT && part->refs > 0);
    part->refs--;
    if (part->refs == 0 && part->state == PART_READY && (part->flags & PART_PINNED) == 0) {
        lru_enter(core, number);
    }
}

void part_pin(struct core *core, uint32_t number, bool on)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state == PART_READY);
    if (((part->flags & PART_PINNED) != 0) == on) {
        return;
    }
    uint64_t bytes = part_slot_bytes(core, part);
    if (on) {
        if ((part->flags & PART_IN_LRU) != 0) {
            lru_leave(core, number);
        }
        part->flags |= PART_PINNED;
        core->pinned_bytes += bytes;
    } else {
        KVEIK_ASSERT(core->pinned_bytes >= bytes);
        part->flags &= (uint8_t)~PART_PINNED;
        core->pinned_bytes -= bytes;
        if (part->refs == 0) {
            lru_enter(core, number);
        }
    }
}

static void part_unlink(struct core *core, uint32_t number)
{
    const struct part *part = part_at(core, number);
    struct block *block = block_at(core, part->block);
    if (block->parts == number) {
        block->parts = part->next;
        return;
    }
    uint32_t before = block->parts;
    while (part_at(core, before)->next != number) {
        before = part_at(core, before)->next;
        KVEIK_ASSERT(before != NONE);
    }
    part_at(core, before)->next = part->next;
}

void part_drop(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state != PART_ABSENT && part->refs == 0);
    if ((part->flags & PART_PINNED) != 0) {
        part_pin(core, number, false);
    }
    if ((part->flags & PART_IN_LRU) != 0) {
        lru_leave(core, number);
    }
    part_unlink(core, number);
    uint32_t block = part->block;
    uint32_t shape_number = part->shape;
    struct shape *shape = shape_at(core, shape_number);
    uint32_t space_number = shape->space;
    struct space *space = space_at(core, space_number);
    uint64_t bytes = part_slot_bytes(core, part);
    origin_give(core, part->origin);
    space->parts--;
    space->used_bytes -= bytes;
    tenant_at(core, space->tenant)->used_bytes -= bytes;
    core->slot_bytes -= bytes;
    core->part_bytes -= shape->bytes;
    shape->parts--;
    uint32_t class = shape->class;
    uint32_t slot = part->slot;
    part->state = PART_ABSENT;
    slots_give(&core->parts, number);
    uint32_t slab = slab_of(&core->slabs.classes[class], slot);
    if (slabs_slot_give(&core->slabs, class, slot) &&
        slab_at(&core->slabs.classes[class], slab)->broken) {
        give_slab_back(core, class, slab);
    }
    if (block_at(core, block)->parts == NONE) {
        block_drop(core, block);
    }
    shape_give_unused(core, shape_number);
    space_give_unused(core, space_number);
}
