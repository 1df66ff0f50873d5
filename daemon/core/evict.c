/*
 * Making room. Plain LRU over all spaces by the tick of the last use, within the quotas of space
 * and tenant first. When the victim is of another size, its whole slab is emptied (its neighbours
 * came with it and are about as old) and the memory goes to the size that asks.
 */
#include "daemon/core/state.h"

enum {
    SLAB_TRIES_MAX = 64,      /* victims whose slab holds parts in use, before giving up */
    WATERMARK_STEP_MAX = 256, /* evictions of one step, beside those that the push itself needs */
};

void evict(struct core *core, uint32_t victim, uint64_t *counter)
{
    struct part *part = part_at(core, victim);
    KVEIK_ASSERT(part_resident(part) && part->refs == 0);
    if (!part_on_disk(part)) {
        part_drop(core, victim);
        (*counter)++;
        return;
    }
    bool pinned = (part->flags & PART_PINNED) != 0;
    KVEIK_ASSERT(!pinned);
    lru_leave(core, victim);
    part_slot_give(core, victim);
    core->unverified -= part->state == PART_UNVERIFIED ? 1 : 0;
    part->state = PART_STORED;
    core->disk.stored++;
    core->counters.demoted++;
    stored_enter(core, victim); /* its tick stays: demoted is not used */
}

/* Down to `quota`, as far as this step may go: a quota that was lowered is reached over several. */
static int keep_quota(struct core *core, uint64_t quota, const uint64_t *used_bytes, uint64_t bytes,
                      uint32_t (*oldest)(const struct core *core, uint32_t of), uint32_t of)
{
    if (quota == 0) {
        return ST_OK;
    }
    if (bytes > quota) {
        return ST_QUOTA;
    }
    while (*used_bytes > quota - bytes) {
        uint32_t victim = core->evictions_left == 0 ? NONE : oldest(core, of);
        if (victim == NONE) {
            return ST_QUOTA;
        }
        core->evictions_left--;
        evict(core, victim, &core->counters.evicted_quota);
    }
    return ST_OK;
}

static int keep_quotas(struct core *core, uint32_t space_number, uint64_t bytes)
{
    const struct space *space = space_at(core, space_number);
    const struct tenant *tenant = tenant_at(core, space->tenant);
    int status = keep_quota(core, space->quota_bytes, &space->used_bytes, bytes,
                            lru_oldest_of_space, space_number);
    return status != ST_OK ? status
                           : keep_quota(core, tenant->quota_bytes, &tenant->used_bytes, bytes,
                                        lru_oldest_of_tenant, space->tenant);
}

void give_slab_back(struct core *core, uint32_t class, uint32_t slab)
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
        give_slab_back(core, place.class, place.slab);
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

/* Whether the number noted at a slot is a part's that lies there: a free slot notes the next one.
 */
static bool in_slot(const struct core *core, uint32_t number, uint32_t class, uint32_t slot)
{
    return number < core->parts.high && part_has_slot(part_at(core, number)) &&
           part_at(core, number)->slot == slot &&
           shape_at(core, part_at(core, number)->shape)->class == class;
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
        if (in_slot(core, number, class_number, first + i)) {
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
        if (in_slot(core, number, class_number, first + i)) {
            evict(core, number, &core->counters.evicted_slab);
            in_use--;
        }
    }
    return true;
}

static bool evict_for_class(struct core *core, uint32_t class)
{
    for (uint32_t tries = 0; tries < SLAB_TRIES_MAX; tries++) {
        uint32_t victim = lru_oldest(core);
        if (victim == NONE) {
            return false;
        }
        if (shape_at(core, part_at(core, victim)->shape)->class == class) {
            evict(core, victim, &core->counters.evicted_space);
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
    uint32_t own = lru_oldest_of_class(core, class);
    if (own == NONE) {
        return false;
    }
    evict(core, own, &core->counters.evicted_space);
    return true;
}

bool records_make(struct core *core, uint32_t key_count)
{
    while (core->parts.used >= core->limits.parts_max ||
           core->blocks.used >= core->limits.blocks_max || !keys_room(&core->keys, key_count)) {
        /* what is on disk only is older than what is in memory, or nearly */
        uint32_t victim = core->disk.stored_old != NONE ? core->disk.stored_old : lru_oldest(core);
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
    if (core->limits.high_percent >= 100) {
        return;
    }
    if (core->slot_bytes > budget / 100 * core->limits.high_percent) {
        core->draining = true;
    }
    uint64_t low = budget / 100 * core->limits.low_percent;
    for (uint32_t i = 0; core->draining && i < WATERMARK_STEP_MAX; i++) {
        uint32_t victim = core->slot_bytes <= low ? NONE : lru_oldest(core);
        if (victim == NONE) {
            core->draining = false;
            return;
        }
        evict(core, victim, &core->counters.evicted_watermark);
    }
}

void evict_unused_classes(struct core *core)
{
    for (uint32_t i = 0; i < CORE_CLASSES_MAX; i++) {
        const struct slab_class *class = &core->slabs.classes[i];
        while (class->slot_bytes != 0 && class->shapes == 0 && class->empty_head != NONE) {
            KVEIK_ASSERT(class->used_slots == 0);
            give_slab_back(core, i, class->empty_head); /* the last one takes the class along */
        }
    }
}
