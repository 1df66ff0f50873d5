/* core_check(): slabs and their slots, LRU lists, bytes of tenants, spaces and shapes. */
#include "base/heap.h"
#include "daemon/core/check.h"

static uint32_t free_slots(const struct slab_class *class, const struct slab *slab, uint32_t first,
                           uint8_t *slot_free)
{
    uint32_t count = 0;
    for (uint32_t s = slab->free_head; s != NONE; s = slab_part(class, s)) {
        KVEIK_ASSERT(s >= first && s < first + class->slab_slots && slot_free[s - first] == 0);
        slot_free[s - first] = 1;
        count++;
    }
    return count;
}

/* used + free = total; every used slot has its part, and the part knows the slot. */
static void check_slab(const struct check *check, uint32_t class_number, uint32_t number)
{
    const struct core *core = check->core;
    const struct slab_class *class = &core->slabs.classes[class_number];
    const struct slab *slab = slab_at(class, number);
    uint32_t first = number * class->slab_slots;
    uint8_t *slot_free = check_alloc(class->slab_slots, 1);
    uint32_t free_count = free_slots(class, slab, first, slot_free);
    KVEIK_ASSERT(slab->committed && !slab->restoring);
    KVEIK_ASSERT(slab->used + free_count == class->slab_slots);
    KVEIK_ASSERT(!slab->broken || slab->used > 0);
    for (uint32_t i = 0; i < class->slab_slots; i++) {
        if (slot_free[i]) {
            continue;
        }
        uint32_t part = slab_part(class, first + i);
        KVEIK_ASSERT(part < core->parts.high && check->parts[part]);
        KVEIK_ASSERT(part_at(core, part)->slot == first + i);
        KVEIK_ASSERT(shape_at(core, part_at(core, part)->shape)->class == class_number);
    }
    heap_free(slot_free);
}

/* Counts a list's slabs; all are empty, or all are partly used. */
static uint32_t check_slab_list(const struct slab_class *class, const uint8_t *live, uint32_t head,
                                bool empty)
{
    uint32_t count = 0;
    uint32_t before = NONE;
    for (uint32_t n = head; n != NONE; n = slab_at(class, n)->next) {
        const struct slab *slab = slab_at(class, n);
        count++;
        KVEIK_ASSERT(n < class->slabs.high && live[n] && count <= class->slabs.used);
        KVEIK_ASSERT(slab->prev == before && slab->free_head != NONE && !slab->broken);
        KVEIK_ASSERT((slab->used == 0) == empty);
        before = n;
    }
    return count;
}

static uint64_t check_class(const struct check *check, uint32_t number, uint32_t *empty)
{
    const struct core *core = check->core;
    const struct slab_class *class = &core->slabs.classes[number];
    /* slots of a slab, and slabs of the class's range, lie side by side */
    KVEIK_ASSERT(class->slab_slots * class->slot_bytes <= class->slab_bytes);
    KVEIK_ASSERT(class->slabs_max * class->slab_bytes <= core->slabs.class_reserve_bytes);
    KVEIK_ASSERT(class->slab_bytes % core->slabs.granule_bytes == 0);
    KVEIK_ASSERT(class->slabs.high <= class->slabs_max);
    uint8_t *live = check_live(&class->slabs);
    uint64_t used_slots = 0;
    uint32_t listed = 0;
    for (uint32_t s = 0; s < class->slabs.high; s++) {
        const struct slab *slab = slab_at(class, s);
        if (live[s]) {
            check_slab(check, number, s);
            used_slots += slab->used;
            listed += slab->free_head != NONE && !slab->broken ? 1 : 0;
        }
    }
    KVEIK_ASSERT(used_slots == class->used_slots);
    uint32_t empty_here = check_slab_list(class, live, class->empty_head, true);
    KVEIK_ASSERT(listed == check_slab_list(class, live, class->open_head, false) + empty_here);
    *empty += empty_here;
    uint32_t shapes = 0;
    uint32_t before = NONE;
    for (uint32_t s = class->shape_first; s != NONE; s = shape_at(core, s)->class_next) {
        shapes++;
        KVEIK_ASSERT(s < core->shapes.high && check->shapes[s] && shapes <= class->shapes);
        KVEIK_ASSERT(shape_at(core, s)->class == number && shape_at(core, s)->class_prev == before);
        before = s;
    }
    KVEIK_ASSERT(shapes == class->shapes && (shapes > 0 || class->slabs.used > 0));
    heap_free(live);
    return class->slab_bytes * class->slabs.used;
}

void check_slabs(const struct check *check)
{
    const struct slabs *slabs = &check->core->slabs;
    uint64_t committed = 0;
    uint64_t slots = 0;
    uint32_t empty = 0;
    for (uint32_t i = 0; i < CORE_CLASSES_MAX; i++) {
        if (slabs->classes[i].slot_bytes != 0) {
            committed += check_class(check, i, &empty);
            slots += slabs->classes[i].used_slots;
        }
    }
    KVEIK_ASSERT(committed == slabs->committed_bytes && committed <= slabs->budget_bytes);
    for (uint32_t n = 0; n < check->core->parts.high; n++) {
        slots -= check->parts[n] && part_has_slot(part_at(check->core, n)) ? 1 : 0;
    }
    KVEIK_ASSERT(slots == 0 && empty == slabs->empty_slabs);
}

static void check_ages(const struct core *core)
{
    const uint64_t *ages = core->ages.base;
    for (uint32_t node = 1; node < core->age_leaves; node++) {
        uint64_t left = ages[(size_t)2 * node];
        uint64_t right = ages[(size_t)2 * node + 1];
        KVEIK_ASSERT(ages[node] == (left > right ? left : right));
    }
}

/* How many parts are in the list of those on disk only. */
static uint32_t check_stored_list(const struct check *check)
{
    const struct core *core = check->core;
    uint32_t count = 0;
    uint32_t before = NONE;
    for (uint32_t n = core->disk.stored_old; n != NONE; n = part_at(core, n)->lru_next) {
        const struct part *part = part_at(core, n);
        KVEIK_ASSERT(n < core->parts.high && check->parts[n] && part->state == PART_STORED);
        KVEIK_ASSERT((part->flags & PART_IN_LRU) != 0 && part->lru_prev == before);
        count++;
        KVEIK_ASSERT(count <= core->disk.stored);
        before = n;
    }
    KVEIK_ASSERT(before == core->disk.stored_new || core->disk.stored_old == NONE);
    return count;
}

void check_lru(const struct check *check)
{
    const struct core *core = check->core;
    uint32_t idle = 0;
    for (uint32_t s = 0; s < core->shapes.high; s++) {
        const struct shape *shape = shape_at(core, s);
        KVEIK_ASSERT(shape->used == (check->shapes[s] != 0));
        if (!shape->used) {
            continue;
        }
        uint32_t count = 0;
        uint32_t before = NONE;
        uint64_t tick = 0;
        for (uint32_t n = shape->lru_old; n != NONE; n = part_at(core, n)->lru_next) {
            const struct part *part = part_at(core, n);
            KVEIK_ASSERT(n < core->parts.high && check->parts[n] && part->shape == s);
            KVEIK_ASSERT((part->flags & PART_IN_LRU) != 0 && part->lru_prev == before);
            KVEIK_ASSERT(part_resident(part));
            KVEIK_ASSERT(part->tick > tick && part->tick <= core->tick);
            count++;
            KVEIK_ASSERT(count <= shape->idle_parts);
            before = n;
            tick = part->tick;
        }
        KVEIK_ASSERT(before == shape->lru_new && count == shape->idle_parts);
        idle += count;
        if (count > 0) {
            uint64_t leaf = ((const uint64_t *)core->ages.base)[core->age_leaves + s];
            KVEIK_ASSERT(leaf >= UINT64_MAX - part_at(core, shape->lru_old)->tick);
        }
    }
    idle += check_stored_list(check);
    for (uint32_t n = 0; n < core->parts.high; n++) {
        const struct part *part = part_at(core, n);
        if (!check->parts[n]) {
            continue;
        }
        bool can_go = (part_resident(part) || part->state == PART_STORED) && part->refs == 0 &&
                      (part->flags & PART_PINNED) == 0;
        KVEIK_ASSERT(((part->flags & PART_IN_LRU) != 0) == can_go);
        idle -= can_go ? 1 : 0;
    }
    KVEIK_ASSERT(idle == 0);
    check_ages(core);
}

static void check_space_lists(const struct check *check)
{
    const struct core *core = check->core;
    uint32_t spaces = 0;
    uint32_t shapes = 0;
    for (uint32_t t = 0; t < core->limits.tenants_max; t++) {
        uint64_t bytes = 0;
        uint32_t before = NONE;
        uint32_t s = tenant_at(core, t)->used ? tenant_at(core, t)->space_first : NONE;
        for (; s != NONE; s = space_at(core, s)->tenant_next) {
            const struct space *space = space_at(core, s);
            KVEIK_ASSERT(s < core->spaces.high && check->spaces[s] && space->used);
            KVEIK_ASSERT(space->tenant == t && space->tenant_prev == before);
            spaces++;
            KVEIK_ASSERT(spaces <= core->spaces.used);
            bytes += space->used_bytes;
            before = s;
            uint32_t shape_before = NONE;
            uint32_t count = 0;
            for (uint32_t h = space->shape_first; h != NONE; h = shape_at(core, h)->space_next) {
                KVEIK_ASSERT(h < core->shapes.high && check->shapes[h]);
                count++;
                KVEIK_ASSERT(shape_at(core, h)->space == s && count <= space->shapes);
                KVEIK_ASSERT(shape_at(core, h)->space_prev == shape_before);
                shape_before = h;
            }
            KVEIK_ASSERT(count == space->shapes);
            shapes += count;
        }
        KVEIK_ASSERT(bytes == tenant_at(core, t)->used_bytes);
    }
    KVEIK_ASSERT(spaces == core->spaces.used && shapes == core->shapes.used);
}

void check_bytes(const struct check *check)
{
    const struct core *core = check->core;
    uint64_t *space_bytes = check_alloc(core->spaces.high, sizeof(uint64_t));
    uint32_t *space_parts = check_alloc(core->spaces.high, sizeof(uint32_t));
    uint32_t *shape_parts = check_alloc(core->shapes.high, sizeof(uint32_t));
    uint64_t slot_bytes = 0;
    uint64_t part_bytes = 0;
    uint64_t pinned_bytes = 0;
    for (uint32_t n = 0; n < core->parts.high; n++) {
        if (!check->parts[n]) {
            continue;
        }
        const struct part *part = part_at(core, n);
        const struct shape *shape = shape_at(core, part->shape);
        uint64_t bytes = part_slot_bytes(core, part);
        KVEIK_ASSERT(bytes >= shape->bytes);
        shape_parts[part->shape]++;
        space_parts[shape->space]++;
        if (part_has_slot(part)) {
            space_bytes[shape->space] += bytes;
            slot_bytes += bytes;
            part_bytes += shape->bytes;
        }
        pinned_bytes += (part->flags & PART_PINNED) != 0 ? bytes : 0;
    }
    for (uint32_t s = 0; s < core->shapes.high; s++) {
        KVEIK_ASSERT(!check->shapes[s] || shape_at(core, s)->parts == shape_parts[s]);
    }
    for (uint32_t s = 0; s < core->spaces.high; s++) {
        KVEIK_ASSERT(!check->spaces[s] || (space_at(core, s)->parts == space_parts[s] &&
                                           space_at(core, s)->used_bytes == space_bytes[s]));
    }
    KVEIK_ASSERT(slot_bytes == core->slot_bytes && part_bytes == core->part_bytes);
    KVEIK_ASSERT(pinned_bytes == core->pinned_bytes);
    heap_free(shape_parts);
    heap_free(space_parts);
    heap_free(space_bytes);
    check_space_lists(check);
}
