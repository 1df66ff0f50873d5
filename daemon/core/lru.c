/*
 * Which part goes next. Every shape has a list of its idle parts, oldest first; what is referred to
 * or pinned is in no list, so the head of a list can always go.
 *
 * The oldest of all is found with a tournament over the shapes: a binary tree of ages (UINT64_MAX -
 * tick, so that untouched memory means "nothing") whose inner nodes hold the greater of their
 * children. A list's head changes with every use, but only ever to a younger part; so the tree is
 * left alone then, and a leaf that turns out too old is put right when it wins.
 */
#include "daemon/core/state.h"

enum { RETURN_STEPS_MAX = 64 }; /* neighbours asked for a part's place in its list */

int lru_init(struct core *core)
{
    core->age_leaves = 1;
    while (core->age_leaves < core->limits.shapes_max) {
        core->age_leaves *= 2;
    }
    uint64_t nodes = (uint64_t)core->age_leaves * 2;
    int status = vm_array_init(&core->ages, sizeof(uint64_t), nodes);
    return status != ST_OK ? status : vm_array_commit(&core->ages, nodes);
}

static void age_set(struct core *core, uint32_t shape, uint64_t age)
{
    uint64_t *ages = core->ages.base;
    uint32_t node = core->age_leaves + shape;
    ages[node] = age;
    while (node > 1) {
        node /= 2;
        uint64_t left = ages[(size_t)2 * node];
        uint64_t right = ages[(size_t)2 * node + 1];
        uint64_t greater = left > right ? left : right;
        if (ages[node] == greater) {
            break;
        }
        ages[node] = greater;
    }
}

static uint64_t age_of(const struct core *core, uint32_t number)
{
    const struct shape *shape = shape_at(core, number);
    return !shape->used || shape->lru_old == NONE
               ? 0
               : UINT64_MAX - part_at(core, shape->lru_old)->tick;
}

void lru_enter(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    struct shape *shape = shape_at(core, part->shape);
    KVEIK_ASSERT((part->flags & (PART_IN_LRU | PART_PINNED)) == 0);
    KVEIK_ASSERT(part->refs == 0 && part_resident(part));
    part->tick = ++core->tick;
    part->flags |= PART_IN_LRU;
    part->lru_prev = shape->lru_new;
    part->lru_next = NONE;
    shape->idle_parts++;
    if (shape->lru_new != NONE) {
        part_at(core, shape->lru_new)->lru_next = number;
        shape->lru_new = number;
        return;
    }
    shape->lru_old = number;
    shape->lru_new = number;
    if (((const uint64_t *)core->ages.base)[core->age_leaves + part->shape] == 0) {
        age_set(core, part->shape, UINT64_MAX - part->tick);
    }
}

/* The part of the list to look for a place from: `after`, or who was before it when it is away for
 * the same reason; NONE: not told. */
static uint32_t place_near(const struct core *core, uint32_t after, uint32_t shape, uint64_t tick)
{
    for (uint32_t i = 0; after != NONE && i < RETURN_STEPS_MAX; i++) {
        const struct part *part = part_at(core, after);
        if (part_verifying(part)) {
            const struct load *load = slots_at(&core->disk.loads, part->lru_next);
            after = load->after;
            continue;
        }
        bool there = part_resident(part) && (part->flags & PART_IN_LRU) != 0 &&
                     part->shape == shape && part->tick < tick;
        return there ? after : (uint32_t)NONE;
    }
    return after == NONE ? shape_at(core, shape)->lru_old : (uint32_t)NONE;
}

/* The part that one of this tick goes behind; NONE: not told. */
static uint32_t place_behind(const struct core *core, uint32_t after, uint32_t shape, uint64_t tick)
{
    after = place_near(core, after, shape, tick);
    for (uint32_t i = 0; after != NONE && i < RETURN_STEPS_MAX; i++) {
        uint32_t next = part_at(core, after)->lru_next;
        if (next == NONE || part_at(core, next)->tick > tick) {
            return after;
        }
        after = next;
    }
    return NONE;
}

void lru_return(struct core *core, uint32_t number, uint32_t after, uint64_t tick)
{
    struct part *part = part_at(core, number);
    struct shape *shape = shape_at(core, part->shape);
    KVEIK_ASSERT(part->refs == 0 && part_resident(part));
    uint32_t old = shape->lru_old;
    bool oldest = old == NONE || part_at(core, old)->tick > tick;
    after = oldest ? NONE : place_behind(core, after, part->shape, tick);
    if (!oldest && after == NONE) {
        lru_enter(core, number);
        return;
    }
    uint32_t next = oldest ? old : part_at(core, after)->lru_next;
    part->tick = tick;
    part->flags |= PART_IN_LRU;
    part->lru_prev = after;
    part->lru_next = next;
    shape->idle_parts++;
    *(oldest ? &shape->lru_old : &part_at(core, after)->lru_next) = number;
    *(next == NONE ? &shape->lru_new : &part_at(core, next)->lru_prev) = number;
    if (oldest) { /* the tree takes a leaf that is too old, but none that is too young */
        age_set(core, part->shape, UINT64_MAX - tick);
    }
}

void lru_leave(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    struct shape *shape = shape_at(core, part->shape);
    KVEIK_ASSERT((part->flags & PART_IN_LRU) != 0 && shape->idle_parts > 0);
    if (part->lru_prev != NONE) {
        part_at(core, part->lru_prev)->lru_next = part->lru_next;
    } else {
        shape->lru_old = part->lru_next;
    }
    if (part->lru_next != NONE) {
        part_at(core, part->lru_next)->lru_prev = part->lru_prev;
    } else {
        shape->lru_new = part->lru_prev;
    }
    part->flags &= (uint8_t)~PART_IN_LRU;
    shape->idle_parts--;
}

void part_touch(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    if ((part->flags & PART_IN_LRU) == 0) {
        load_wanted(core, number);
        return;
    }
    if (part->state == PART_STORED) {
        stored_leave(core, number);
        part->tick = ++core->tick;
        stored_enter(core, number);
        return;
    }
    if (part->lru_next == NONE) {
        part->tick = ++core->tick; /* the newest already */
        return;
    }
    lru_leave(core, number);
    lru_enter(core, number);
}

uint32_t lru_oldest(struct core *core)
{
    const uint64_t *ages = core->ages.base;
    while (ages[1] != 0) {
        uint32_t node = 1;
        while (node < core->age_leaves) {
            node *= 2;
            node += ages[node] < ages[node + 1] ? 1 : 0;
        }
        uint32_t shape = node - core->age_leaves;
        uint64_t age = age_of(core, shape);
        KVEIK_ASSERT(age <= ages[node]);
        if (age == ages[node]) {
            return shape_at(core, shape)->lru_old;
        }
        age_set(core, shape, age);
    }
    return NONE;
}

/* The older of two parts, either of which may be NONE. */
static uint32_t older(const struct core *core, uint32_t a, uint32_t b)
{
    if (a == NONE || b == NONE) {
        return a == NONE ? b : a;
    }
    return part_at(core, a)->tick < part_at(core, b)->tick ? a : b;
}

uint32_t lru_oldest_of_space(const struct core *core, uint32_t space)
{
    uint32_t oldest = NONE;
    for (uint32_t s = space_at(core, space)->shape_first; s != NONE;) {
        const struct shape *shape = shape_at(core, s);
        oldest = older(core, oldest, shape->lru_old);
        s = shape->space_next;
    }
    return oldest;
}

uint32_t lru_oldest_of_tenant(const struct core *core, uint32_t tenant)
{
    uint32_t oldest = NONE;
    for (uint32_t s = tenant_at(core, tenant)->space_first; s != NONE;) {
        oldest = older(core, oldest, lru_oldest_of_space(core, s));
        s = space_at(core, s)->tenant_next;
    }
    return oldest;
}

uint32_t lru_oldest_of_class(const struct core *core, uint32_t class)
{
    uint32_t oldest = NONE;
    for (uint32_t s = core->slabs.classes[class].shape_first; s != NONE;) {
        const struct shape *shape = shape_at(core, s);
        oldest = older(core, oldest, shape->lru_old);
        s = shape->class_next;
    }
    return oldest;
}

void stored_enter(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    struct disk *disk = &core->disk;
    KVEIK_ASSERT((part->flags & (PART_IN_LRU | PART_PINNED)) == 0);
    KVEIK_ASSERT(part->refs == 0 && part->state == PART_STORED);
    part->flags |= PART_IN_LRU;
    part->lru_prev = disk->stored_new;
    part->lru_next = NONE;
    if (disk->stored_new != NONE) {
        part_at(core, disk->stored_new)->lru_next = number;
    } else {
        disk->stored_old = number;
    }
    disk->stored_new = number;
}

void stored_leave(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    struct disk *disk = &core->disk;
    KVEIK_ASSERT((part->flags & PART_IN_LRU) != 0 && part->state == PART_STORED);
    if (part->lru_prev != NONE) {
        part_at(core, part->lru_prev)->lru_next = part->lru_next;
    } else {
        disk->stored_old = part->lru_next;
    }
    if (part->lru_next != NONE) {
        part_at(core, part->lru_next)->lru_prev = part->lru_prev;
    } else {
        disk->stored_new = part->lru_prev;
    }
    part->flags &= (uint8_t)~PART_IN_LRU;
}
