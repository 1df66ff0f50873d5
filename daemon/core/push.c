/*
 * Push: for each block either what is held already (HELD), or a slot to fill. Parts enter the index
 * FILLING at once, so that a second pusher of the same block does not copy it again, and become
 * readable when all copies of the request are done.
 */
#include "daemon/core/state.h"

enum { AHEAD_BLOCKS = 8 /* how far ahead the table's cache misses are begun */ };

/* One block of a run. */
struct pushed {
    const uint8_t *keys;
    uint32_t key_count; /* every grain's, or one */
    uint32_t grains;
    uint32_t tail_tokens; /* of the last grain */
    uint32_t hash;        /* of the last key */
};

static uint32_t grains_of(uint32_t tokens)
{
    return (tokens + GRAIN_TOKENS - 1) / GRAIN_TOKENS;
}

static struct pushed block_of_run(const struct core *core, const struct core_push_run *run,
                                  uint32_t index)
{
    const struct shape *shape = shape_at(core, run->shape);
    bool last = index + 1 == run->block_count;
    struct pushed block = {.grains = last ? grains_of(run->tail_tokens) : shape->grains};
    block.tail_tokens =
        last ? run->tail_tokens - (block.grains - 1) * GRAIN_TOKENS : (uint32_t)GRAIN_TOKENS;
    bool every = run->key_count != run->block_count;
    block.key_count = every ? block.grains : 1;
    block.keys = run->keys + (size_t)index * (every ? shape->grains : 1) * CORE_KEY_BYTES;
    block.hash =
        core_hash(core, shape->space, block.keys + (size_t)(block.key_count - 1) * CORE_KEY_BYTES);
    return block;
}

/* What was said to be held must not be evicted for the blocks behind it. Without memory to note it
 * it is touched only. */
static void hold(struct core *core, const struct cover *cover)
{
    bool held = parts_hold(core, cover);
    for (uint32_t i = 0; i < cover->count; i++) {
        if (!held) {
            part_touch(core, cover->pieces[i].part);
        }
        store_used(core, cover->pieces[i].part);
    }
}

/* Whether all that the block would add is there, or is being filled. */
static bool held(struct core *core, uint32_t shape_number, const struct pushed *block)
{
    const struct shape *shape = shape_at(core, shape_number);
    struct core_want want = {.group = shape->group, .ranges = shape->ranges};
    struct asked asked = {.key = block->keys + (size_t)(block->key_count - 1) * CORE_KEY_BYTES,
                          .hash = block->hash,
                          .space = shape->space,
                          .grains = block->grains,
                          .tail_tokens = block->tail_tokens,
                          .filling = true};
    struct cover cover;
    if (find_cover(core, &asked, &want, &cover)) {
        hold(core, &cover);
        return true;
    }
    if (block->key_count != block->grains || block->grains == 1) {
        return false;
    }
    /* smaller blocks may hold it grain by grain; the last grain first: it says no most often */
    uint32_t before = core->scratch.hit_count;
    asked.grains = 1;
    for (uint32_t i = block->grains; i-- > 0;) {
        asked.key = block->keys + (size_t)i * CORE_KEY_BYTES;
        asked.hash = core_hash(core, shape->space, asked.key);
        asked.tail_tokens = i + 1 == block->grains ? block->tail_tokens : (uint32_t)GRAIN_TOKENS;
        if (!find_cover(core, &asked, &want, &cover)) {
            parts_let_go(core, before);
            return false;
        }
        hold(core, &cover);
    }
    return true;
}

static uint32_t find_or_create_block(struct core *core, uint32_t space, const struct pushed *block)
{
    struct block like = {.grains_less_one = (uint8_t)(block->grains - 1),
                         .keys_less_one = (uint8_t)(block->key_count - 1),
                         .tail_tokens = (uint8_t)block->tail_tokens};
    struct asked asked = {.key = block->keys + (size_t)(block->key_count - 1) * CORE_KEY_BYTES,
                          .hash = block->hash,
                          .space = space};
    uint32_t number = find_block(core, &asked, &like);
    return number != NONE ? number
                          : block_create(core, space, block->keys, block->key_count, block->grains,
                                         block->tail_tokens);
}

/* Admits one block: *part_out is FILLING and in the request's list. */
static int admit(struct core *core, struct request *request, uint32_t shape_number,
                 const struct pushed *pushed, uint32_t *part_out)
{
    const struct shape *shape = shape_at(core, shape_number);
    uint32_t slot = NONE;
    if (!records_make(core, pushed->key_count)) {
        return ST_NO_SPACE;
    }
    int status = space_make(core, shape_number, &slot);
    if (status != ST_OK) {
        return status;
    }
    uint32_t block = find_or_create_block(core, shape->space, pushed);
    uint32_t part = NONE;
    if (block != NONE && list_add(core, &request->parts, NONE) == ST_OK) {
        uint32_t origin = instance_at(core, session_at(core, request->session)->instance)->origin;
        part = part_create(core, block, shape_number, slot, origin);
        struct chunk *chunk = slots_at(&core->chunks, request->parts.last);
        chunk->items[chunk->count - 1] = part;
        if (part == NONE) {
            (void)list_remove(core, &request->parts, NONE);
        }
    }
    if (part == NONE) {
        if (block != NONE && block_at(core, block)->parts == NONE) {
            block_drop(core, block);
        }
        (void)slabs_slot_give(&core->slabs, shape->class, slot);
        return ST_NO_SPACE;
    }
    *part_out = part;
    return ST_OK;
}

/* The key before a block's first: of the run's, where it names all of them or the last of every
 * block, else of before the run. */
static void parent_note(struct core *core, uint32_t block, const struct core_push_run *run,
                        uint32_t index)
{
    const uint8_t *parent = run->parent;
    if (index > 0) {
        bool every = run->key_count != run->block_count;
        uint32_t grains = every ? shape_at(core, run->shape)->grains : 1;
        parent = run->keys + ((size_t)index * grains - 1) * CORE_KEY_BYTES;
    }
    if (parent != NULL) { /* another rank may have told it before */
        block_parent_set(core, block, parent);
    }
}

static int push_block(struct core *core, struct request *request, const struct core_push_run *run,
                      uint32_t run_index, uint32_t index)
{
    struct pushed block = block_of_run(core, run, index);
    if (held(core, run->shape, &block)) {
        core->counters.push_held++;
        return ST_HELD;
    }
    struct core_copy *copy = copy_add(core);
    if (copy == NULL) {
        return ST_NO_MEMORY;
    }
    uint32_t part = NONE;
    int status = admit(core, request, run->shape, &block, &part);
    if (status != ST_OK) {
        core->scratch.copy_count--;
        core->counters.push_refused++;
        return status;
    }
    const struct shape *shape = shape_at(core, run->shape);
    *copy = (struct core_copy){
        .run = run_index,
        .shape = run->shape,
        .offset = slabs_offset(&core->slabs, shape->class, part_at(core, part)->slot),
        .run_token = index * shape->grains * GRAIN_TOKENS,
        .tokens = (block.grains - 1) * GRAIN_TOKENS + block.tail_tokens,
        .ranges = shape->ranges,
        .load = CORE_NO_LOAD};
    parent_note(core, part_at(core, part)->block, run, index);
    return ST_OK;
}

static const char *run_refusal(const struct core *core, const struct core_event *event,
                               const struct core_push_run *run)
{
    if (!session_has_shape(core, event->session, run->shape) ||
        shape_at(core, run->shape)->space != event->u.push.space) {
        return "push: this session registered no such shape in the space";
    }
    uint32_t grains = shape_at(core, run->shape)->grains;
    uint32_t tail_grains = grains_of(run->tail_tokens);
    if (run->block_count == 0 || tail_grains == 0 || tail_grains > grains) {
        return "push: a run has blocks, and 1 token to a whole block in the last";
    }
    uint64_t all = (uint64_t)(run->block_count - 1) * grains + tail_grains;
    if (run->key_count != run->block_count && run->key_count != all) {
        return "push: keys must be of every grain or of every block's last grain";
    }
    if ((uint64_t)run->block_count * grains > UINT32_MAX / GRAIN_TOKENS) {
        return "push: a run has too many tokens";
    }
    return NULL;
}

static const char *push_refusal(const struct core *core, const struct core_event *event)
{
    uint64_t blocks = 0;
    for (uint32_t r = 0; r < event->u.push.run_count; r++) {
        const char *refusal = run_refusal(core, event, &event->u.push.runs[r]);
        if (refusal != NULL) {
            return refusal;
        }
        blocks += event->u.push.runs[r].block_count;
    }
    return blocks > STATUSES_MAX ? "push: too many blocks" : NULL;
}

void step_push(struct core *core, const struct core_event *event)
{
    core->counters.pushes++;
    const char *refusal = push_refusal(core, event);
    if (refusal != NULL) {
        (void)reply_add(core, event->session, event->request, ST_INVALID, refusal);
        return;
    }
    uint32_t blocks = 0;
    for (uint32_t r = 0; r < event->u.push.run_count; r++) {
        blocks += event->u.push.runs[r].block_count;
    }
    if (statuses_reserve(core, blocks) != ST_OK) {
        (void)reply_add(core, event->session, event->request, ST_NO_MEMORY, NULL);
        return;
    }
    struct request *request = request_begin(core, event, true);
    uint32_t at = 0;
    for (uint32_t r = 0; r < event->u.push.run_count; r++) {
        const struct core_push_run *run = &event->u.push.runs[r];
        for (uint32_t i = 0; i < run->block_count; i++) {
            if (i + AHEAD_BLOCKS < run->block_count) {
                find_prefetch_bucket(core, block_of_run(core, run, i + AHEAD_BLOCKS).hash);
            }
            *statuses_at(core, at++) = (int8_t)push_block(core, request, run, r, i);
        }
    }
    parts_let_go(core, 0);
    evict_to_watermark(core);
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
