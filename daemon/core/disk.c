/* Where parts lie on disk: segments and the lists of what is in them. */
#include "daemon/core/state.h"

enum {
    SEAL_SHIFT = 16, /* below it the segment's number */
    SEGMENTS_LIMIT = 65535,
    STORES_LIMIT = 65536,
    LOADS_LIMIT = 65536,
    FORGETS_MAX = 1 << 19, /* of one step */
};

const char *disk_limits_refusal(const struct core_disk_limits *limits)
{
    if (limits->segments_max == 0) {
        return NULL; /* no disk: nothing else counts */
    }
    if (limits->segments_max > SEGMENTS_LIMIT) {
        return "disk: at most 65535 segments";
    }
    if (limits->stores_max == 0 || limits->stores_max > STORES_LIMIT || limits->loads_max == 0 ||
        limits->loads_max > LOADS_LIMIT) {
        return "disk: 1 to 65536 writes and reads at once";
    }
    if (limits->queue_max == 0) {
        return "disk: at least one part must be able to wait to be written";
    }
    if (limits->admission < CORE_ADMIT_AT_ONCE || limits->admission > CORE_ADMIT_NEVER) {
        return "disk: the admission must be said";
    }
    return NULL;
}

int disk_init(struct core *core)
{
    struct disk *disk = &core->disk;
    disk->limits = core->limits.disk;
    disk->victim = NONE;
    disk->open[0] = NONE;
    disk->open[1] = NONE;
    disk->stored_old = NONE;
    disk->stored_new = NONE;
    disk->persisting = NONE;
    disk->on = disk->limits.segments_max > 0;
    if (core->limits.verifies_max > LOADS_LIMIT) {
        return ST_INVALID;
    }
    if (!disk->on) {
        return slots_init(&disk->loads, sizeof(struct load), core->limits.verifies_max + 1);
    }
    disk->readable = true;
    disk->writable = true;
    disk->segments_max = disk->limits.segments_max;
    disk->chance = core->limits.hash_seed | 1u;
    struct {
        struct vm_array *array;
        size_t bytes;
        uint64_t count;
        bool all;
    } arrays[] = {
        {&disk->disk_parts, sizeof(struct disk_part), core->limits.parts_max, false},
        {&disk->parents, CORE_KEY_BYTES, core->limits.blocks_max, false},
        {&disk->segments, sizeof(struct segment), disk->limits.segments_max, true},
        {&disk->queue, sizeof(uint32_t), disk->limits.queue_max, true},
        {&disk->described, sizeof(struct core_stored), disk->limits.stores_max, true},
    };
    int status = slots_init(&disk->stores, sizeof(struct store), disk->limits.stores_max);
    status = status != ST_OK ? status
                             : slots_init(&disk->loads, sizeof(struct load),
                                          disk->limits.loads_max + core->limits.verifies_max);
    for (size_t i = 0; status == ST_OK && i < ARRAY_COUNT(arrays); i++) {
        status = vm_array_init(arrays[i].array, arrays[i].bytes, arrays[i].count);
        if (status == ST_OK && arrays[i].all) {
            status = vm_array_commit(arrays[i].array, arrays[i].count);
        }
    }
    return status;
}

void disk_finish(struct core *core)
{
    struct disk *disk = &core->disk;
    vm_array_finish(&disk->disk_parts);
    vm_array_finish(&disk->parents);
    vm_array_finish(&disk->segments);
    vm_array_finish(&disk->queue);
    vm_array_finish(&disk->described);
    slots_finish(&disk->stores);
    slots_finish(&disk->loads);
}

void disk_attach(struct core *core, uint32_t number, struct core_place place, uint64_t seal,
                 uint32_t epoch)
{
    struct part *part = part_at(core, number);
    const struct shape *shape = shape_at(core, part->shape);
    struct segment *segment = segment_at(core, place.segment);
    KVEIK_ASSERT(!part_on_disk(part));
    if (segment->state == SEGMENT_FREE) {
        *segment = (struct segment){.state = SEGMENT_IN_USE, .part_first = NONE};
        core->disk.segments_used++;
    }
    *disk_part_at(core, number) =
        (struct disk_part){.seal_segment = (seal << SEAL_SHIFT) | place.segment,
                           .offset = place.offset,
                           .prev = NONE,
                           .next = segment->part_first,
                           .epoch = epoch};
    if (segment->part_first != NONE) {
        disk_part_at(core, segment->part_first)->prev = number;
    }
    segment->part_first = number;
    segment->parts++;
    segment->live_bytes += shape->bytes;
    if (segment->live_bytes > core->disk.segment_bytes) {
        core->disk.segment_bytes = segment->live_bytes;
    }
    part->flags |= PART_ON_DISK;
    core->disk.parts++;
    core->disk.bytes += shape->bytes;
    tenant_at(core, space_at(core, shape->space)->tenant)->disk_bytes += shape->bytes;
}

void disk_detach(struct core *core, uint32_t number, bool forget)
{
    struct part *part = part_at(core, number);
    const struct shape *shape = shape_at(core, part->shape);
    const struct disk_part *at = disk_part_at(core, number);
    struct segment *segment = segment_at(core, disk_segment(at));
    KVEIK_ASSERT(part_on_disk(part) && segment->parts > 0 && segment->live_bytes >= shape->bytes);
    if (at->prev != NONE) {
        disk_part_at(core, at->prev)->next = at->next;
    } else {
        segment->part_first = at->next;
    }
    if (at->next != NONE) {
        disk_part_at(core, at->next)->prev = at->prev;
    }
    segment->parts--;
    segment->live_bytes -= shape->bytes;
    part->flags &= (uint8_t)~PART_ON_DISK;
    core->disk.parts--;
    core->disk.bytes -= shape->bytes;
    tenant_at(core, space_at(core, shape->space)->tenant)->disk_bytes -= shape->bytes;
    if (forget && segment->state == SEGMENT_IN_USE && core->scratch.action_count < FORGETS_MAX) {
        /* an entry that is not forgotten now comes back after a restart, and is as good then */
        struct core_action *action = action_add(core, ACTION_FORGET);
        action->place = (struct core_place){.segment = disk_segment(at), .offset = at->offset};
    }
}

void disk_part_lost(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    disk_detach(core, number, true);
    if (part->state == PART_STORED) {
        if (part->refs == 0) {
            core->counters.lost_parts++;
            part_drop(core, number);
            return;
        }
        core->disk.stored--;
        core->counters.lost_parts++;
        part->state = PART_FAILED; /* goes with its last reference */
    }
}

void segment_try_free(struct core *core, uint32_t number)
{
    struct segment *segment = segment_at(core, number);
    bool ending = segment->state == SEGMENT_RECLAIMING || segment->state == SEGMENT_LOST;
    if (!ending || segment->parts > 0 || segment->busy > 0) {
        return;
    }
    segment->state = SEGMENT_FREE;
    core->disk.segments_used--;
    core->disk.full = false;
    if (core->disk.victim == number) {
        core->disk.victim = NONE;
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(core->disk.open); i++) {
        core->disk.open[i] = core->disk.open[i] == number ? NONE : core->disk.open[i];
    }
    struct core_action *action = action_add(core, ACTION_SEGMENT_FREE);
    action->handle = number;
}

void step_segment_lost(struct core *core, const struct core_event *event)
{
    uint32_t number = event->u.segment_lost.segment;
    struct segment *segment = segment_at(core, number);
    if (segment->state == SEGMENT_FREE) { /* nothing of it was ever told */
        *segment = (struct segment){.state = SEGMENT_IN_USE, .part_first = NONE};
        core->disk.segments_used++;
    }
    segment->state = SEGMENT_LOST;
    while (segment->part_first != NONE) {
        disk_part_lost(core, segment->part_first);
    }
    segment_try_free(core, number);
    persist_check(core);
}

void step_disk_state(struct core *core, const struct core_event *event)
{
    uint32_t most = core->disk.limits.segments_max;
    uint32_t now = event->u.disk_state.segments_max;
    core->disk.segments_max = now < most ? now : most;
    core->disk.full = false;
    core->disk.readable = event->u.disk_state.readable;
    core->disk.writable = event->u.disk_state.writable;
}
