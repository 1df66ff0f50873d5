/*
 * At start: parts found on disk, and those that a planned restart left in memory. First the slabs,
 * then what is on disk, then what is in memory, then the end: only what was claimed until then is
 * used, all else in the slabs is free.
 */
#include <string.h>

#include "daemon/core/state.h"

static const char *restore_refusal(const struct core *core, const struct core_event *event)
{
    uint32_t number = event->u.restore.shape;
    uint32_t keys = event->u.restore.key_count;
    uint32_t grains = event->u.restore.grains;
    if (number >= core->shapes.high || !shape_at(core, number)->used) {
        return "no such shape";
    }
    if (grains == 0 || grains > shape_at(core, number)->grains || (keys != 1 && keys != grains)) {
        return "keys must be of every grain, or of the last, of 1 to the shape's grains";
    }
    if (event->u.restore.tail_tokens == 0 || event->u.restore.tail_tokens > GRAIN_TOKENS) {
        return "the last grain has 1 to 16 tokens";
    }
    bool memory = event->u.restore.in_memory;
    if (!memory && !core->disk.on) {
        return "there is no disk tier";
    }
    if ((!memory && event->u.restore.place.segment >= core->disk.limits.segments_max) ||
        event->u.restore.origin_bytes > CORE_INSTANCE_MAX) {
        return "segment or origin out of bounds";
    }
    if (memory) {
        return core->limits.verifies_max > 0 ? NULL : "this core takes nothing found in memory";
    }
    uint8_t state = segment_at(core, event->u.restore.place.segment)->state;
    return state == SEGMENT_FREE || state == SEGMENT_IN_USE ? NULL : "the segment is being freed";
}

static uint32_t restore_origin(struct core *core, const struct core_event *event, uint32_t tenant)
{
    const uint8_t *id =
        event->u.restore.origin_bytes > 0 ? event->u.restore.origin : (const uint8_t *)"";
    for (uint32_t n = 0; n < core->origins.high; n++) {
        struct origin *origin = origin_at(core, n);
        if (origin->refs > 0 && origin->tenant == tenant &&
            origin->id_bytes == event->u.restore.origin_bytes &&
            memcmp(origin->id, id, origin->id_bytes) == 0) {
            origin->refs++;
            return n;
        }
    }
    return origin_take(core, id, event->u.restore.origin_bytes, tenant);
}

/* The block that the event names, and the part of its shape in it; either may be NONE. */
static void restore_find(const struct core *core, const struct core_event *event,
                         uint32_t *block_out, uint32_t *part_out)
{
    uint32_t keys = event->u.restore.key_count;
    struct block like = {.grains_less_one = (uint8_t)(event->u.restore.grains - 1),
                         .keys_less_one = (uint8_t)(keys - 1),
                         .tail_tokens = (uint8_t)event->u.restore.tail_tokens};
    struct asked asked = {.key = event->u.restore.keys + (size_t)(keys - 1) * CORE_KEY_BYTES,
                          .space = shape_at(core, event->u.restore.shape)->space};
    asked.hash = core_hash(core, asked.space, asked.key);
    *block_out = find_block(core, &asked, &like);
    uint32_t n = *block_out == NONE ? NONE : block_at(core, *block_out)->parts;
    while (n != NONE && part_at(core, n)->shape != event->u.restore.shape) {
        n = part_at(core, n)->next;
    }
    *part_out = n;
}

/* A new part; NONE: a limit is reached. `slot` is NONE when it is on disk only. */
static uint32_t restore_part(struct core *core, const struct core_event *event, uint32_t block,
                             uint32_t slot)
{
    const struct shape *shape = shape_at(core, event->u.restore.shape);
    uint32_t keys = event->u.restore.key_count;
    if (core->parts.used >= core->limits.parts_max ||
        (block == NONE && !keys_room(&core->keys, keys))) {
        return NONE;
    }
    if (block == NONE) {
        block = block_create(core, shape->space, event->u.restore.keys, keys,
                             event->u.restore.grains, event->u.restore.tail_tokens);
    }
    if (block == NONE) {
        return NONE;
    }
    uint32_t origin = restore_origin(core, event, space_at(core, shape->space)->tenant);
    uint32_t part = NONE;
    if (origin != NONE && slot == NONE) {
        part = part_restore(core, block, event->u.restore.shape, origin);
    } else if (origin != NONE) {
        part = part_restore_memory(core, block, event->u.restore.shape, origin, slot);
    }
    if (origin != NONE) {
        origin_give(core, origin); /* the part has its own reference */
    }
    if (part == NONE) {
        if (block_at(core, block)->parts == NONE) {
            block_drop(core, block);
        }
        return NONE;
    }
    block_parent_set(core, block, event->u.restore.parent);
    return part;
}

static bool restore_disk(struct core *core, const struct core_event *event)
{
    uint32_t block = NONE;
    uint32_t part = NONE;
    restore_find(core, event, &block, &part);
    part = part != NONE ? NONE : restore_part(core, event, block, NONE);
    if (part != NONE) {
        disk_attach(core, part, event->u.restore.place, event->u.restore.seal,
                    core->disk.committed);
        core->counters.restored++;
    }
    return part != NONE;
}

/* Found on disk already: it is in memory, too. */
static bool restore_memory(struct core *core, const struct core_event *event)
{
    uint32_t block = NONE;
    uint32_t part = NONE;
    uint32_t class = shape_at(core, event->u.restore.shape)->class;
    restore_find(core, event, &block, &part);
    bool known = part != NONE;
    if (known && (part_at(core, part)->state != PART_STORED ||
                  (part_at(core, part)->flags & PART_IN_LRU) == 0)) {
        return false;
    }
    uint64_t parts = (uint64_t)core->parts.high + 1;
    parts = parts < core->limits.parts_max ? parts : core->limits.parts_max;
    uint32_t slot = vm_array_commit(&core->seals, parts) != ST_OK
                        ? (uint32_t)NONE
                        : slabs_claim(&core->slabs, class, event->u.restore.offset);
    if (slot == NONE) {
        return false;
    }
    if (known) {
        part_found_in_memory(core, part, slot);
    } else {
        part = restore_part(core, event, block, slot);
    }
    if (part == NONE) {
        (void)slabs_slot_give(&core->slabs, class, slot);
        return false;
    }
    ((uint64_t *)core->seals.base)[part] = event->u.restore.seal;
    core->counters.reattached++;
    return true;
}

void step_restore(struct core *core, const struct core_event *event)
{
    struct core_action *action = action_add(core, ACTION_RESTORED);
    action->status = ST_INVALID;
    action->text = restore_refusal(core, event);
    if (action->text != NULL) {
        return;
    }
    bool good =
        event->u.restore.in_memory ? restore_memory(core, event) : restore_disk(core, event);
    action->status = good ? ST_OK : ST_LIMIT;
    action->text =
        good ? NULL : "it is there already, its place is not free, or a limit is reached";
}

/* ---- slabs ----------------------------------------------------------------------------------- */

void step_restore_slab(struct core *core, const struct core_event *event)
{
    struct core_action *action = action_add(core, ACTION_RESTORED);
    uint64_t offset = event->u.restore_slab.offset;
    action->status = slabs_restore(&core->slabs, event->u.restore_slab.slot_bytes, offset);
    action->text = action->status == ST_OK ? NULL : "no such slab can be there";
    if (action->status == ST_OK) {
        action->offset = offset;
        action->bytes = core->slabs.classes[offset / core->slabs.class_reserve_bytes].slab_bytes;
        core->counters.slabs_committed++;
    }
}

static void forget_memory(struct core *core)
{
    uint64_t unused = 0;
    for (uint32_t n = 0; n < core->parts.high && core->unverified > 0; n++) {
        const struct part *part = part_at(core, n);
        if (part->state == PART_UNVERIFIED && part->refs == 0) {
            evict(core, n, &unused);
        }
    }
}

void step_restore_end(struct core *core, const struct core_event *event)
{
    if (event->u.restore_end.forget) {
        forget_memory(core);
    }
    for (uint32_t c = 0; c < CORE_CLASSES_MAX; c++) {
        const struct slab_class *class = &core->slabs.classes[c];
        uint32_t high = class->slot_bytes != 0 ? class->slabs.high : 0;
        for (uint32_t s = 0; s < high; s++) {
            const struct slab *slab = slab_at(class, s);
            if (!slab->committed || !slab->restoring || !slabs_restored(&core->slabs, c, s)) {
                continue;
            }
            give_slab_back(core, c, s);
            if (class->slot_bytes == 0) { /* it was the last of its class */
                break;
            }
        }
    }
}
