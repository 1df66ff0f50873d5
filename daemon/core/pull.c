/*
 * Pull: from keys to copies. Consecutive keys in one part become one copy; parts of ranks are put
 * together by rectangles of layers and heads. What is read is referenced until the copies are done.
 */
#include <string.h>

#include "daemon/core/state.h"

static bool continues(const struct core_copy *last, const struct core_copy *next)
{
    return last->run == next->run && last->offset == next->offset && last->shape == next->shape &&
           last->part_token + last->tokens == next->part_token &&
           last->run_token + last->tokens == next->run_token &&
           memcmp(&last->ranges, &next->ranges, sizeof last->ranges) == 0;
}

/* A copy of one of the last `among` copies that `next` prolongs; NULL: none. A key in parts of
 * several ranks makes several copies, so the one to prolong need not be the last. */
static struct core_copy *prolongs(const struct core *core, const struct core_copy *next,
                                  uint32_t among)
{
    struct core_copy *copies = core->scratch.copies.base;
    uint32_t count = core->scratch.copy_count;
    for (uint32_t i = count; i > 0 && i + among > count; i--) {
        if (continues(&copies[i - 1], next)) {
            return &copies[i - 1];
        }
    }
    return NULL;
}

static int piece_copy(struct core *core, struct request *request, const struct cover_piece *piece,
                      uint32_t among, struct core_copy *next)
{
    const struct part *part = part_at(core, piece->part);
    next->shape = part->shape;
    next->offset = slabs_offset(&core->slabs, shape_at(core, part->shape)->class, part->slot);
    next->ranges = piece->ranges;
    next->load = part->state == PART_LOADING ? part->lru_next : CORE_NO_LOAD;
    struct core_copy *longer = prolongs(core, next, among);
    if (longer != NULL) {
        longer->tokens += next->tokens;
        return ST_OK; /* the part is referenced already */
    }
    if (list_add(core, &request->parts, piece->part) != ST_OK) {
        return ST_NO_MEMORY;
    }
    struct core_copy *copy = copy_add(core);
    if (copy == NULL) {
        (void)list_remove(core, &request->parts, piece->part);
        return ST_NO_MEMORY;
    }
    part_ref(core, piece->part);
    *copy = *next;
    return ST_OK;
}

/* What of the cover is on disk only is being read from now on, what is unverified is being
 * verified; false: some of it cannot be. */
static bool cover_load(struct core *core, const struct cover *cover)
{
    bool good = true;
    bool stored = false;
    for (uint32_t p = 0; p < cover->count; p++) {
        stored = stored || part_needs_load(part_at(core, cover->pieces[p].part));
    }
    if (!stored) {
        return true;
    }
    uint32_t before = core->scratch.hit_count;
    if (!parts_hold(core, cover)) { /* or making room for one piece would evict another */
        return false;
    }
    for (uint32_t p = 0; good && p < cover->count; p++) {
        uint32_t part = cover->pieces[p].part;
        good = !part_needs_load(part_at(core, part)) || load_begin(core, part);
    }
    parts_let_go(core, before);
    return good;
}

static int pull_key(struct core *core, struct request *request, const struct core_event *event,
                    uint32_t run_index, uint32_t i)
{
    const struct core_pull_run *run = &event->u.pull.runs[run_index];
    struct asked asked = {.key = run->keys + (size_t)i * CORE_KEY_BYTES,
                          .space = event->u.pull.space,
                          .grains = run->key_grains,
                          .tail_tokens = i + 1 == run->key_count ? run->tail_tokens : GRAIN_TOKENS};
    asked.hash = core_hash(core, asked.space, asked.key);
    struct cover cover;
    if (!find_cover(core, &asked, &run->want, &cover) || !cover_load(core, &cover)) {
        core->counters.pull_missed_keys++;
        return ST_MISS;
    }
    for (uint32_t p = 0; p < cover.count; p++) {
        KVEIK_ASSERT(cover.pieces[p].grain + 1 >= run->key_grains);
        struct core_copy next = {
            .run = run_index,
            .run_token = i * run->key_grains * GRAIN_TOKENS,
            .part_token = (cover.pieces[p].grain + 1 - run->key_grains) * GRAIN_TOKENS,
            .tokens = (run->key_grains - 1) * GRAIN_TOKENS + asked.tail_tokens};
        int status = piece_copy(core, request, &cover.pieces[p], cover.count, &next);
        if (status != ST_OK) {
            return status;
        }
        load_wanted(core, cover.pieces[p].part);
        store_used(core, cover.pieces[p].part);
    }
    return ST_OK;
}

static const char *pull_refusal(const struct core *core, const struct core_event *event)
{
    if (!session_has_space(core, event->session, event->u.pull.space)) {
        return "pull: this session registered no such space";
    }
    uint64_t keys = 0;
    for (uint32_t r = 0; r < event->u.pull.run_count; r++) {
        const struct core_pull_run *run = &event->u.pull.runs[r];
        if (!want_valid(core, event->u.pull.space, &run->want)) {
            return "pull: no such group, or layers or heads outside it";
        }
        if (!keys_valid(run->key_count, run->key_grains, run->tail_tokens)) {
            return "pull: too many keys, or grains or tail tokens out of range";
        }
        keys += run->key_count;
    }
    return keys > STATUSES_MAX ? "pull: too many keys" : NULL;
}

void step_pull(struct core *core, const struct core_event *event)
{
    core->counters.pulls++;
    const char *refusal = pull_refusal(core, event);
    if (refusal != NULL) {
        (void)reply_add(core, event->session, event->request, ST_INVALID, refusal);
        return;
    }
    uint32_t instance = session_at(core, event->session)->instance;
    if (event->u.pull.lease != 0 && !lease_known(core, instance, event->u.pull.lease)) {
        (void)reply_add(core, event->session, event->request, ST_UNKNOWN_ID,
                        "pull: no such lease of this instance");
        return;
    }
    uint32_t keys = 0;
    for (uint32_t r = 0; r < event->u.pull.run_count; r++) {
        keys += event->u.pull.runs[r].key_count;
    }
    core->counters.pull_keys += keys;
    if (statuses_reserve(core, keys) != ST_OK) {
        (void)reply_add(core, event->session, event->request, ST_NO_MEMORY, NULL);
        return;
    }
    struct request *request = request_begin(core, event, false);
    request->release_lease = event->u.pull.release_lease ? event->u.pull.lease : 0;
    uint32_t at = 0;
    for (uint32_t r = 0; r < event->u.pull.run_count; r++) {
        for (uint32_t i = 0; i < event->u.pull.runs[r].key_count; i++) {
            *statuses_at(core, at++) = (int8_t)pull_key(core, request, event, r, i);
        }
    }
    struct core_action *action = NULL;
    if (core->scratch.copy_count > 0) {
        action = action_add(core, ACTION_COPY);
        action->session = event->session;
        action->request = event->request;
    } else {
        request_end(core, event->request);
        action = reply_add(core, event->session, event->request, ST_OK, NULL);
    }
    action->copies = core->scratch.copies.base;
    action->copy_count = core->scratch.copy_count;
    action->statuses = core->scratch.statuses.base;
    action->status_count = core->scratch.status_count;
}
