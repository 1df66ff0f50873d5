/*
 * Making room. Plain LRU over all spaces by the tick of the last use, within the quotas of space
 * and tenant first. When the victim is of another size, its whole slab is emptied (its neighbours
 * came with it and are about as old) and the memory goes to the size that asks.
 */
#include "daemon/core/state.h"

enum { SLAB_TRIES_MAX = 64 /* victims whose slab holds parts in use, before giving up */ };

/* The least recently used part of a space that nobody refers to. Parts in use that stand in the
 * way are used right now: they move to the new end. */
static uint32_t space_victim(struct core *core, struct space *space)
{
    if (space->idle_parts == 0) {
        return NONE;
    }
    while (part_at(core, space->lru_old)->refs > 0) {
        part_touch(core, space->lru_old);
    }
    return space->lru_old;
}

/* Over all spaces (tenant NONE) or those of one tenant. */
static uint32_t oldest_victim(struct core *core, uint32_t tenant)
{
    uint32_t best = NONE;
    uint64_t best_tick = UINT64_MAX;
    for (uint32_t i = 0; i < core->spaces.high; i++) {
        struct space *space = space_at(core, i);
        if (!space->used || space->idle_parts == 0 || (tenant != NONE && space->tenant != tenant)) {
            continue;
        }
        uint32_t victim = space_victim(core, space);
        if (part_at(core, victim)->tick < best_tick) {
            best = victim;
            best_tick = part_at(core, victim)->tick;
        }
    }
    return best;
}

static int keep_quotas(struct core *core, uint32_t space_number, uint64_t bytes)
{
    struct space *space = space_at(core, space_number);
    const struct tenant *tenant = tenant_at(core, space->tenant);
    if ((space->quota_bytes != 0 && bytes > space->quota_bytes) ||
        (tenant->quota_bytes != 0 && bytes > tenant->quota_bytes)) {
        return ST_QUOTA;
    }
    while (space->quota_bytes != 0 && space->used_bytes + bytes > space->quota_bytes) {
        uint32_t victim = space_victim(core, space);
        if (victim == NONE) {
            return ST_QUOTA;
        }
        part_drop(core, victim);
        core->counters.evicted_quota++;
    }
    while (tenant->quota_bytes != 0 && tenant->used_bytes + bytes > tenant->quota_bytes) {
        uint32_t victim = oldest_victim(core, space->tenant);
        if (victim == NONE) {
            return ST_QUOTA;
        }
        part_drop(core, victim);
        core->counters.evicted_quota++;
    }
    return ST_OK;
}

static void give_slab_back(struct core *core, uint32_t class, uint32_t slab)
{
    struct core_action *action = action_add(core, ACTION_DECOMMIT);
    action->bytes = core->slabs.classes[class].slab_bytes;
    slabs_shrink(&core->slabs, class, slab, &action->offset);
    core->counters.slabs_decommitted++;
}

/* A slab from the budget, taking empty slabs of other sizes for it. */
static bool grow_class(struct core *core, uint32_t class)
{
    while (!slabs_fits(&core->slabs, class)) {
        struct slab_place place;
        if (!slabs_find_empty(&core->slabs, class, &place)) {
            return false;
        }
        give_slab_back(core, place.class, place.slot);
    }
    uint64_t offset = 0;
    if (!slabs_grow(&core->slabs, class, &offset)) {
        return false;
    }
    struct core_action *action = action_add(core, ACTION_COMMIT);
    action->offset = offset;
    action->bytes = core->slabs.classes[class].slab_bytes;
    core->counters.slabs_committed++;
    return true;
}

/* Evicts every part of the slab that holds `victim`; false when one of them is in use. */
static bool empty_slab(struct core *core, uint32_t victim)
{
    uint32_t class_number = shape_at(core, part_at(core, victim)->shape)->class;
    struct slab_class *class = &core->slabs.classes[class_number];
    uint32_t where = slab_of(class, part_at(core, victim)->slot);
    uint32_t first = where * class->slab_slots;
    uint32_t in_use = 0;
    for (uint32_t i = 0; i < class->slab_slots; i++) {
        uint32_t number = slab_part(class, first + i);
        if (number < core->parts.high && part_at(core, number)->state != PART_ABSENT &&
            part_at(core, number)->slot == first + i &&
            shape_at(core, part_at(core, number)->shape)->class == class_number) {
            const struct part *part = part_at(core, number);
            if (part->refs > 0 || (part->flags & PART_PINNED) != 0) {
                return false;
            }
            in_use++;
        }
    }
    KVEIK_ASSERT(in_use == slab_at(class, where)->used);
    for (uint32_t i = 0; in_use > 0 && i < class->slab_slots; i++) {
        uint32_t number = slab_part(class, first + i);
        if (number < core->parts.high && part_at(core, number)->state != PART_ABSENT &&
            part_at(core, number)->slot == first + i &&
            shape_at(core, part_at(core, number)->shape)->class == class_number) {
            part_drop(core, number);
            core->counters.evicted_slab++;
            in_use--;
        }
    }
    return true;
}

/* The oldest idle part of one class, when no slab of another size can be had. A rare path: it
 * walks the LRU lists. */
static uint32_t oldest_of_class(struct core *core, uint32_t class)
{
    uint32_t best = NONE;
    for (uint32_t i = 0; i < core->spaces.high; i++) {
        const struct space *space = space_at(core, i);
        if (!space->used || space->idle_parts == 0) {
            continue;
        }
        uint32_t n = space->lru_old;
        while (n != NONE && (part_at(core, n)->refs > 0 ||
                             shape_at(core, part_at(core, n)->shape)->class != class)) {
            n = part_at(core, n)->lru_next;
        }
        if (n != NONE && (best == NONE || part_at(core, n)->tick < part_at(core, best)->tick)) {
            best = n;
        }
    }
    return best;
}

static bool evict_for_class(struct core *core, uint32_t class)
{
    for (uint32_t tries = 0; tries < SLAB_TRIES_MAX; tries++) {
        uint32_t victim = oldest_victim(core, NONE);
        if (victim == NONE) {
            return false;
        }
        if (shape_at(core, part_at(core, victim)->shape)->class == class) {
            part_drop(core, victim);
            core->counters.evicted_space++;
            return true;
        }
        if (empty_slab(core, victim)) {
            if (grow_class(core, class)) {
                return true;
            }
            tries = 0; /* progress: each round frees a slab, so this ends */
        } else {
            part_touch(core, victim); /* shares its slab with a part in use: as good as used */
        }
    }
    uint32_t own = oldest_of_class(core, class);
    if (own == NONE) {
        return false;
    }
    part_drop(core, own);
    core->counters.evicted_space++;
    return true;
}

bool records_make(struct core *core)
{
    while (core->parts.used >= core->limits.parts_max ||
           core->blocks.used >= core->limits.blocks_max ||
           core->keys.taken + BLOCK_KEYS_MAX > core->limits.keys_max) {
        uint32_t victim = oldest_victim(core, NONE);
        if (victim == NONE) {
            return false;
        }
        part_drop(core, victim);
        core->counters.evicted_space++;
    }
    return true;
}

int space_make(struct core *core, uint32_t shape_number, uint32_t *slot_out)
{
    const struct shape *shape = shape_at(core, shape_number);
    uint32_t class = shape->class;
    int status = keep_quotas(core, shape->space, core->slabs.classes[class].slot_bytes);
    if (status != ST_OK) {
        return status;
    }
    uint32_t slot = slabs_slot_take(&core->slabs, class);
    while (slot == NONE) {
        if (!grow_class(core, class) && !evict_for_class(core, class)) {
            return ST_NO_SPACE;
        }
        slot = slabs_slot_take(&core->slabs, class);
    }
    *slot_out = slot;
    return ST_OK;
}

void evict_to_watermark(struct core *core)
{
    uint64_t budget = core->slabs.budget_bytes;
    if (core->limits.high_percent >= 100 ||
        core->slot_bytes <= budget / 100 * core->limits.high_percent) {
        return;
    }
    while (core->slot_bytes > budget / 100 * core->limits.low_percent) {
        uint32_t victim = oldest_victim(core, NONE);
        if (victim == NONE) {
            return;
        }
        part_drop(core, victim);
        core->counters.evicted_watermark++;
    }
}
