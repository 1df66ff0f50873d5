/* Reading back: STORED parts into slots of the CPU tier. One read a part, whoever wants it. What is
 * UNVERIFIED is verified in place instead: verify.c. */
#include "daemon/core/state.h"

static bool loads_full(const struct disk *disk)
{
    return disk->loads.used - disk->verifies >= disk->limits.loads_max;
}

bool load_begin(struct core *core, uint32_t number)
{
    struct disk *disk = &core->disk;
    struct part *part = part_at(core, number);
    if (part->state == PART_UNVERIFIED) {
        bool begun = verify_begin(core, number);
        load_wanted(core, number);
        core->counters.load_refused += begun ? 0 : 1;
        return begun;
    }
    KVEIK_ASSERT(part->state == PART_STORED && part->refs > 0 && part_on_disk(part));
    uint32_t slot = NONE;
    uint32_t job = loads_full(disk) ? (uint32_t)NONE : slots_take(&disk->loads);
    if (job == NONE || space_make(core, part->shape, &slot) != ST_OK) {
        if (job != NONE) {
            slots_give(&disk->loads, job);
        }
        core->counters.load_refused++;
        return false;
    }
    const struct disk_part *at = disk_part_at(core, number);
    const struct shape *shape = shape_at(core, part->shape);
    part_slot_take(core, number, slot);
    part_ref(core, number);
    part->lru_next = job;
    *(struct load *)slots_at(&disk->loads, job) =
        (struct load){.part = number, .segment = disk_segment(at), .used = true};
    segment_at(core, disk_segment(at))->busy++;
    disk->load_bytes += shape->bytes;
    struct core_action *action = action_add(core, ACTION_LOAD);
    action->job = job;
    action->handle = part->shape;
    action->bytes = shape->bytes;
    action->offset = slabs_offset(&core->slabs, shape->class, slot);
    action->place = (struct core_place){.segment = disk_segment(at), .offset = at->offset};
    action->seal = disk_seal(at);
    const struct block *block = block_at(core, part->block);
    action->key = keys_at(&core->keys, block->keys + block->keys_less_one);
    return true;
}

void load_ahead(struct core *core, const uint32_t *parts, uint32_t count)
{
    const struct disk *disk = &core->disk;
    for (uint32_t i = 0; i < count && (disk->stored > 0 || core->unverified > 0); i++) {
        const struct part *part = part_at(core, parts[i]);
        if (part->state == PART_UNVERIFIED && disk->verifies < core->limits.verifies_max) {
            (void)load_begin(core, parts[i]);
        }
        if (part->state != PART_STORED) {
            continue;
        }
        uint64_t bytes = shape_at(core, part->shape)->bytes;
        if (disk->load_bytes + bytes > disk->limits.load_bytes_max || loads_full(disk) ||
            !load_begin(core, parts[i])) {
            return;
        }
        core->counters.load_ahead++;
    }
}

/* The read ended badly. Damaged or unreadable bytes are given up; what could only not be read now
 * stays on disk. */
static void load_fail(struct core *core, uint32_t number, int status)
{
    struct part *part = part_at(core, number);
    part_slot_give(core, number);
    part->slot = NONE;
    core->counters.load_corrupt += status == ST_CORRUPT ? 1 : 0;
    core->counters.load_failed += status != ST_CORRUPT ? 1 : 0;
    if ((status == ST_CORRUPT || status == ST_IO) && part_on_disk(part)) {
        disk_detach(core, number, true);
    }
    if (part_on_disk(part)) {
        part->state = PART_STORED;
        core->disk.stored++;
    } else {
        part->state = PART_FAILED;
    }
}

void step_load_done(struct core *core, const struct core_event *event)
{
    struct disk *disk = &core->disk;
    uint32_t slot = event->u.load_done.load;
    KVEIK_ASSERT(slot < disk->loads.high);
    struct load load = *(struct load *)slots_at(&disk->loads, slot);
    KVEIK_ASSERT(load.used);
    ((struct load *)slots_at(&disk->loads, slot))->used = false;
    slots_give(&disk->loads, slot);
    if (load.segment == NONE) {
        verify_done(core, &load, event->u.load_done.status);
        return;
    }
    struct part *part = part_at(core, load.part);
    uint64_t bytes = shape_at(core, part->shape)->bytes;
    KVEIK_ASSERT(part->state == PART_LOADING && part->lru_next == slot);
    KVEIK_ASSERT(disk->load_bytes >= bytes && segment_at(core, load.segment)->busy > 0);
    disk->load_bytes -= bytes;
    segment_at(core, load.segment)->busy--;
    part->lru_next = NONE;
    if (event->u.load_done.status == ST_OK) {
        part_ready(core, load.part);
        core->counters.loads++;
    } else {
        load_fail(core, load.part, event->u.load_done.status);
    }
    part_unref(core, load.part);
    segment_try_free(core, load.segment);
    persist_check(core);
}
