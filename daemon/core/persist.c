/*
 * Persist: a request that is answered when all named blocks are durable. It refers to their parts,
 * so that they stay in memory until they are written; commits, and writes that end, move it on.
 * What all requests refer to is bounded: with a disk that does not write, persisting must not keep
 * others out of memory.
 */
#include "daemon/core/state.h"

enum { POOL_SHARE = 2 /* of the pool may be referred to */ };

static bool durable(const struct core *core, uint32_t number)
{
    return part_on_disk(part_at(core, number)) &&
           (int32_t)(disk_part_at(core, number)->epoch - core->disk.committed) <= 0;
}

static void persist_link(struct core *core, uint32_t number)
{
    struct request *request = request_at(core, number);
    request->persist_prev = NONE;
    request->persist_next = core->disk.persisting;
    if (request->persist_next != NONE) {
        request_at(core, request->persist_next)->persist_prev = number;
    }
    core->disk.persisting = number;
}

static void persist_unlink(struct core *core, const struct request *request)
{
    if (request->persist_prev != NONE) {
        request_at(core, request->persist_prev)->persist_next = request->persist_next;
    } else {
        core->disk.persisting = request->persist_next;
    }
    if (request->persist_next != NONE) {
        request_at(core, request->persist_next)->persist_prev = request->persist_prev;
    }
}

static int hold(struct core *core, struct request *request, uint32_t part)
{
    uint64_t bytes = part_slot_bytes(core, part_at(core, part));
    if (core->disk.persist_bytes + bytes > core->limits.pool_bytes / POOL_SHARE) {
        return ST_BUSY;
    }
    if (list_add(core, &request->parts, part) != ST_OK) {
        return ST_NO_MEMORY;
    }
    core->disk.persist_bytes += bytes;
    part_ref(core, part);
    return ST_OK;
}

static void let_go(struct core *core, uint32_t part)
{
    uint64_t bytes = part_slot_bytes(core, part_at(core, part));
    KVEIK_ASSERT(core->disk.persist_bytes >= bytes);
    core->disk.persist_bytes -= bytes;
    part_unref(core, part);
}

void persist_end(struct core *core, uint32_t number, int status, const char *text)
{
    struct request *request = request_at(core, number);
    uint32_t session = request->session;
    KVEIK_ASSERT(request->state == REQUEST_PERSISTING);
    persist_unlink(core, request);
    list_visit(core, &request->parts, let_go);
    request_end(core, number);
    (void)reply_add(core, session, number, status, text);
}

/* Lets go of parts that are settled, the last first; true when none is left. */
static bool persist_advance(struct core *core, struct request *request, bool *written_out)
{
    while (request->parts.count > 0) {
        uint32_t number = list_last(core, &request->parts);
        const struct part *part = part_at(core, number);
        if (!durable(core, number)) {
            bool on_the_way = part_on_disk(part) ||
                              (part->flags & (PART_WRITING | PART_QUEUED | PART_QUEUE_LATER)) != 0;
            if (on_the_way) {
                *written_out = *written_out || part_on_disk(part);
                return false;
            }
            request->persist_failed = true;
        }
        (void)list_remove(core, &request->parts, number);
        let_go(core, number);
    }
    return true;
}

void persist_check(struct core *core)
{
    uint32_t number = core->disk.persisting;
    bool written = false; /* something waits for a commit alone */
    while (number != NONE) {
        struct request *request = request_at(core, number);
        uint32_t next = request->persist_next;
        if (persist_advance(core, request, &written)) {
            bool failed = request->persist_failed;
            persist_end(core, number, failed ? ST_IO : ST_OK,
                        failed ? "persist: some blocks could not be written to disk" : NULL);
        }
        number = next;
    }
    if (written) {
        (void)action_add(core, ACTION_SYNC);
    }
}

void step_committed(struct core *core, const struct core_event *event)
{
    core->disk.committed = event->u.committed.epoch;
    core->disk.full = false; /* segments that were freed come back with a commit */
    persist_check(core);
}

/* The parts of one key of every group that is held; ST_MISS when a group that needs every block is
 * not. */
static int persist_key(struct core *core, struct request *request, const struct asked *asked)
{
    const struct space *space = space_at(core, asked->space);
    bool any = false;
    for (uint32_t g = 0; g < space->group_count; g++) {
        struct core_want want = {.group = g,
                                 .ranges = {.layer_count = space->groups[g].layer_count,
                                            .head_count = space->groups[g].head_count}};
        struct cover cover;
        if (!find_cover(core, asked, &want, &cover)) {
            if (space->groups[g].rule == CORE_EVERY) {
                return ST_MISS;
            }
            continue;
        }
        any = true;
        for (uint32_t p = 0; p < cover.count; p++) {
            uint32_t part = cover.pieces[p].part;
            if (!store_queue(core, part) && !durable(core, part)) {
                return ST_BUSY;
            }
            int status = hold(core, request, part);
            if (status != ST_OK) {
                return status;
            }
        }
    }
    return any ? ST_OK : ST_MISS;
}

void step_persist(struct core *core, const struct core_event *event)
{
    uint32_t count = event->u.persist.key_count;
    const char *refusal = NULL;
    if (!session_has_space(core, event->session, event->u.persist.space)) {
        refusal = "persist: this session registered no such space";
    } else if (!keys_valid(count, event->u.persist.key_grains, event->u.persist.tail_tokens)) {
        refusal = "persist: too many keys, or grains or tail tokens out of range";
    }
    if (refusal != NULL || !core->disk.on) {
        (void)reply_add(core, event->session, event->request,
                        refusal != NULL ? ST_INVALID : ST_UNSUPPORTED,
                        refusal != NULL ? refusal : "persist: this daemon has no disk tier");
        return;
    }
    if (statuses_reserve(core, count) != ST_OK) {
        (void)reply_add(core, event->session, event->request, ST_NO_MEMORY, NULL);
        return;
    }
    struct request *request = request_begin(core, event, false);
    request->state = REQUEST_PERSISTING;
    persist_link(core, event->request);
    for (uint32_t i = 0; i < count; i++) {
        struct asked asked = {.key = event->u.persist.keys + (size_t)i * CORE_KEY_BYTES,
                              .space = event->u.persist.space,
                              .grains = event->u.persist.key_grains,
                              .tail_tokens = i + 1 == count ? event->u.persist.tail_tokens
                                                            : (uint32_t)GRAIN_TOKENS};
        asked.hash = core_hash(core, asked.space, asked.key);
        int status = persist_key(core, request, &asked);
        core->counters.persist_busy += status == ST_BUSY ? 1 : 0;
        *statuses_at(core, i) = (int8_t)status;
    }
    struct core_action *action = action_add(core, ACTION_WAIT);
    action->session = event->session;
    action->request = event->request;
    action->statuses = core->scratch.statuses.base;
    action->status_count = core->scratch.status_count;
    persist_check(core);
}
