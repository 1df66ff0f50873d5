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
    if (core->disk.on &&
        vm_array_commit(&core->disk.parents, (uint64_t)core->blocks.high) != ST_OK) {
        slots_give(&core->blocks, number);
        return NONE;
    }
    block_parent_set(core, number, NULL);
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

void block_parent_set(struct core *core, uint32_t number, const uint8_t *parent)
{
    if (!core->disk.on) {
        return;
    }
    uint8_t *to = (uint8_t *)core->disk.parents.base + (size_t)number * CORE_KEY_BYTES;
    if (parent != NULL) {
        (void)memcpy(to, parent, CORE_KEY_BYTES);
    } else {
        (void)memset(to, 0, CORE_KEY_BYTES);
    }
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

/* The slot's bytes count for space and tenant from now on, or no longer. */
static void slot_count(struct core *core, const struct shape *shape, bool taken)
{
    struct space *space = space_at(core, shape->space);
    struct tenant *tenant = tenant_at(core, space->tenant);
    uint64_t bytes = core->slabs.classes[shape->class].slot_bytes;
    if (taken) {
        space->used_bytes += bytes;
        tenant->used_bytes += bytes;
        core->slot_bytes += bytes;
        core->part_bytes += shape->bytes;
    } else {
        space->used_bytes -= bytes;
        tenant->used_bytes -= bytes;
        core->slot_bytes -= bytes;
        core->part_bytes -= shape->bytes;
    }
}

static uint32_t part_make(struct core *core, uint32_t block, uint32_t shape_number, uint32_t origin,
                          enum part_state state)
{
    uint32_t number = slots_take(&core->parts);
    if (number == NONE) {
        return NONE; /* records_make() saw a free number, but its memory cannot be had */
    }
    if (core->disk.on &&
        vm_array_commit(&core->disk.disk_parts, (uint64_t)core->parts.high) != ST_OK) {
        slots_give(&core->parts, number);
        return NONE;
    }
    struct part *part = part_at(core, number);
    struct shape *shape = shape_at(core, shape_number);
    struct block *owner = block_at(core, block);
    part->block = block;
    part->next = owner->parts;
    owner->parts = number;
    part->slot = NONE;
    part->shape = (uint16_t)shape_number;
    part->origin = (uint16_t)origin;
    part->state = (uint8_t)state;
    origin_at(core, origin)->refs++;
    shape->parts++;
    space_at(core, shape->space)->parts++;
    return number;
}

uint32_t part_create(struct core *core, uint32_t block, uint32_t shape, uint32_t slot,
                     uint32_t origin)
{
    uint32_t number = part_make(core, block, shape, origin, PART_FILLING);
    if (number != NONE) {
        part_at(core, number)->slot = slot;
        part_at(core, number)->refs = 1;
        slabs_slot_fill(&core->slabs, shape_at(core, shape)->class, slot, number);
        slot_count(core, shape_at(core, shape), true);
    }
    return number;
}

uint32_t part_restore(struct core *core, uint32_t block, uint32_t shape, uint32_t origin)
{
    uint32_t number = part_make(core, block, shape, origin, PART_STORED);
    if (number != NONE) {
        core->disk.stored++;
        part_at(core, number)->tick = ++core->tick;
        stored_enter(core, number);
    }
    return number;
}

void part_found_in_memory(struct core *core, uint32_t number, uint32_t slot)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state == PART_STORED && part->refs == 0);
    stored_leave(core, number);
    core->disk.stored--;
    part->state = PART_UNVERIFIED;
    part->slot = slot;
    core->unverified++;
    slabs_slot_fill(&core->slabs, shape_at(core, part->shape)->class, slot, number);
    slot_count(core, shape_at(core, part->shape), true);
    lru_enter(core, number);
}

uint32_t part_restore_memory(struct core *core, uint32_t block, uint32_t shape, uint32_t origin,
                             uint32_t slot)
{
    uint32_t number = part_make(core, block, shape, origin, PART_UNVERIFIED);
    if (number != NONE) {
        part_at(core, number)->slot = slot;
        core->unverified++;
        slabs_slot_fill(&core->slabs, shape_at(core, shape)->class, slot, number);
        slot_count(core, shape_at(core, shape), true);
        lru_enter(core, number);
    }
    return number;
}

void part_slot_take(struct core *core, uint32_t number, uint32_t slot)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state == PART_STORED && part->refs > 0);
    part->state = PART_LOADING;
    part->slot = slot;
    core->disk.stored--;
    slabs_slot_fill(&core->slabs, shape_at(core, part->shape)->class, slot, number);
    slot_count(core, shape_at(core, part->shape), true);
}

void part_slot_give(struct core *core, uint32_t number)
{
    const struct part *part = part_at(core, number);
    const struct shape *shape = shape_at(core, part->shape);
    uint32_t class = shape->class;
    uint32_t slab = slab_of(&core->slabs.classes[class], part->slot);
    slot_count(core, shape, false);
    if (slabs_slot_give(&core->slabs, class, part->slot) &&
        slab_at(&core->slabs.classes[class], slab)->broken) {
        give_slab_back(core, class, slab);
    }
}

bool parts_hold(struct core *core, const struct cover *cover)
{
    struct scratch *scratch = &core->scratch;
    if (vm_array_commit(&scratch->hits, (uint64_t)scratch->hit_count + cover->count) != ST_OK) {
        return false;
    }
    for (uint32_t i = 0; i < cover->count; i++) {
        uint32_t part = cover->pieces[i].part;
        ((uint32_t *)scratch->hits.base)[scratch->hit_count++] = part;
        part_ref(core, part);
        load_wanted(core, part);
    }
    return true;
}

void parts_let_go(struct core *core, uint32_t count)
{
    struct scratch *scratch = &core->scratch;
    while (scratch->hit_count > count) {
        part_unref(core, ((const uint32_t *)scratch->hits.base)[--scratch->hit_count]);
    }
}

void part_ready(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state == PART_FILLING || part->state == PART_LOADING);
    part->state = PART_READY;
}

/* Out of, or into, the list that a part without references and pins is in. */
static void list_leave(struct core *core, uint32_t number)
{
    if ((part_at(core, number)->flags & PART_IN_LRU) == 0) {
        return;
    }
    if (part_at(core, number)->state == PART_STORED) {
        stored_leave(core, number);
    } else {
        lru_leave(core, number);
    }
}

static void list_enter(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    if (part_resident(part)) {
        lru_enter(core, number);
    } else if (part->state == PART_STORED) {
        part->tick = ++core->tick;
        stored_enter(core, number);
    }
}

void part_ref(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state != PART_ABSENT && part->refs < UINT32_MAX);
    list_leave(core, number);
    part->refs++;
}

void part_unref(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    KVEIK_ASSERT(part->state != PART_ABSENT && part->refs > 0);
    part->refs--;
    if (part->refs > 0) {
        return;
    }
    if (part->state == PART_FAILED) {
        part_drop(core, number);
    } else if ((part->flags & PART_PINNED) == 0) {
        list_enter(core, number);
    }
}

void part_pin(struct core *core, uint32_t number, bool on)
{
    struct part *part = part_at(core, number);
    if (((part->flags & PART_PINNED) != 0) == on) {
        return;
    }
    uint64_t bytes = part_slot_bytes(core, part);
    if (on) {
        list_leave(core, number);
        part->flags |= PART_PINNED;
        core->pinned_bytes += bytes;
    } else {
        KVEIK_ASSERT(core->pinned_bytes >= bytes);
        part->flags &= (uint8_t)~PART_PINNED;
        core->pinned_bytes -= bytes;
        if (part->refs == 0) {
            list_enter(core, number);
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
        core->pinned_bytes -= part_slot_bytes(core, part);
        part->flags &= (uint8_t)~PART_PINNED;
    }
    list_leave(core, number);
    if (part_on_disk(part)) {
        disk_detach(core, number, true);
    }
    if ((part->flags & PART_QUEUED) != 0) {
        core->counters.store_dropped++;
    }
    part_unlink(core, number);
    uint32_t block = part->block;
    uint32_t shape = part->shape;
    uint32_t space = shape_at(core, shape)->space;
    origin_give(core, part->origin);
    space_at(core, space)->parts--;
    shape_at(core, shape)->parts--;
    core->disk.stored -= part->state == PART_STORED ? 1 : 0;
    core->unverified -= part->state == PART_UNVERIFIED ? 1 : 0;
    if (part_has_slot(part)) {
        part_slot_give(core, number);
    }
    part->state = PART_ABSENT;
    slots_give(&core->parts, number);
    if (block_at(core, block)->parts == NONE) {
        block_drop(core, block);
    }
    shape_give_unused(core, shape);
    space_give_unused(core, space);
}
