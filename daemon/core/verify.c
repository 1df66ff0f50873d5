/*
 * Verifying in place: parts that a planned restart found in memory. It is a load that reads no
 * disk: whoever wants the part waits for it in the same way. One that is begun ahead of need leaves
 * the part where it was in its LRU list, as if nothing had happened.
 */
#include "daemon/core/state.h"

enum { VERIFY_STEP_MAX = 4096 }; /* parts looked at in one EVENT_VERIFY */

static struct load *load_of(const struct core *core, const struct part *part)
{
    KVEIK_ASSERT(part->state == PART_LOADING);
    return slots_at(&core->disk.loads, part->lru_next);
}

bool verify_begin(struct core *core, uint32_t number)
{
    struct disk *disk = &core->disk;
    struct part *part = part_at(core, number);
    const struct shape *shape = shape_at(core, part->shape);
    KVEIK_ASSERT(part->state == PART_UNVERIFIED);
    uint32_t job =
        disk->verifies < core->limits.verifies_max ? slots_take(&disk->loads) : (uint32_t)NONE;
    if (job == NONE) {
        return false;
    }
    struct load *load = slots_at(&disk->loads, job);
    *load = (struct load){.part = number, .segment = NONE, .used = true, .after = NONE};
    if ((part->flags & PART_IN_LRU) != 0) {
        load->after = part->lru_prev;
        load->tick = part->tick;
    }
    part_ref(core, number);
    part->state = PART_LOADING;
    part->flags |= PART_VERIFYING;
    part->lru_next = job;
    disk->verifies++;
    struct core_action *action = action_add(core, ACTION_LOAD);
    action->verify = true;
    action->job = job;
    action->handle = part->shape;
    action->bytes = shape->bytes;
    action->offset = slabs_offset(&core->slabs, shape->class, part->slot);
    action->seal = ((const uint64_t *)core->seals.base)[number];
    const struct block *block = block_at(core, part->block);
    action->key = keys_at(&core->keys, block->keys + block->keys_less_one);
    return true;
}

void load_wanted(struct core *core, uint32_t number)
{
    const struct part *part = part_at(core, number);
    if (part_verifying(part)) {
        load_of(core, part)->wanted = true;
    }
}

/* Its bytes are not what they were: the memory is given back. What is on disk may be good. */
static void give_up(struct core *core, uint32_t number)
{
    struct part *part = part_at(core, number);
    core->counters.verify_corrupt++;
    part_slot_give(core, number);
    part->slot = NONE;
    part->flags &= (uint8_t)~PART_QUEUE_LATER;
    if (part_on_disk(part)) {
        part->state = PART_STORED;
        core->disk.stored++;
    } else {
        part->state = PART_FAILED;
    }
}

static void settle(struct core *core, uint32_t number, int status)
{
    struct part *part = part_at(core, number);
    core->disk.verifies--;
    part->flags &= (uint8_t)~PART_VERIFYING;
    part->lru_next = NONE;
    if (status == ST_CORRUPT) {
        core->unverified--;
        give_up(core, number);
    } else if (status != ST_OK) { /* it was not looked at: as before */
        part->state = PART_UNVERIFIED;
        core->counters.store_dropped += (part->flags & PART_QUEUE_LATER) != 0 ? 1 : 0;
        part->flags &= (uint8_t)~PART_QUEUE_LATER;
    } else {
        core->unverified--;
        core->counters.verified++;
        part_ready(core, number);
        bool persist = (part->flags & PART_QUEUE_LATER) != 0;
        part->flags &= (uint8_t)~PART_QUEUE_LATER;
        if (persist) {
            (void)store_queue(core, number);
        } else {
            store_pushed(core, number);
        }
    }
}

void verify_done(struct core *core, const struct load *load, int status)
{
    settle(core, load->part, status);
    struct part *part = part_at(core, load->part);
    bool idle = part->refs == 1 && (part->flags & PART_PINNED) == 0 && part_resident(part);
    if (idle && !load->wanted && load->tick != 0) {
        part->refs--;
        lru_return(core, load->part, load->after, load->tick);
    } else {
        part_unref(core, load->part);
    }
    persist_check(core);
}

void step_verify(struct core *core, const struct core_event *event)
{
    uint32_t begun = 0;
    for (uint32_t i = 0; i < VERIFY_STEP_MAX && begun < event->u.verify.count &&
                         core->unverified > 0 && core->verify_next < core->parts.high;
         i++) {
        uint32_t number = core->verify_next;
        if (part_at(core, number)->state == PART_UNVERIFIED) {
            if (!verify_begin(core, number)) {
                return;
            }
            begun++;
        }
        core->verify_next++;
    }
    if (core->verify_next >= core->parts.high) {
        core->verify_next = 0; /* once more: some may have been put off */
    }
}
