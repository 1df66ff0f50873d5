/* Pushes, and the end of copies. */
#include <string.h>

#include "tests/sim/sim.h"

/* Keys of the runs of one request, side by side. */
static uint8_t key_bytes[SIM_RUNS][SIM_DEPTH_MAX * CORE_KEY_BYTES];

struct made {
    struct core_push_run runs[SIM_RUNS];
    bool all_keys[SIM_RUNS];
    uint32_t count;
};

static void make_run(const struct sim_session *session, struct sim_request *request,
                     struct made *made, uint32_t group)
{
    uint32_t path[SIM_DEPTH_MAX];
    uint32_t length = model_path(model_prompt(), path);
    uint32_t grains = session->grains;
    uint32_t blocks = (length + grains - 1) / grains;
    uint32_t from = chance(60) ? 0 : pick(blocks);
    uint32_t to = chance(70) ? blocks : from + 1 + pick(blocks - from);
    uint32_t first = from * grains;
    uint32_t end = to * grains < length ? to * grains : length;
    uint32_t r = request->run_count++;
    struct sim_run *run = &request->runs[r];
    run->shape = session->shapes[group];
    run->grains = end - first;
    (void)memcpy(run->nodes, path + first, run->grains * sizeof path[0]);
    bool all = grains == 1 || chance(70);
    uint32_t keys = 0;
    for (uint32_t i = 0; i < run->grains; i++) {
        if (all || (i + 1) % grains == 0 || i + 1 == run->grains) {
            (void)memcpy(key_bytes[r] + (size_t)keys++ * CORE_KEY_BYTES,
                         sim.nodes[run->nodes[i]].key, CORE_KEY_BYTES);
        }
    }
    uint32_t tail_grains = run->grains - (to - from - 1) * grains;
    made->all_keys[r] = all;
    made->runs[r] = (struct core_push_run){.shape = sim.shapes[run->shape].handle,
                                           .keys = key_bytes[r],
                                           .key_count = keys,
                                           .block_count = to - from,
                                           .tail_tokens = (tail_grains - 1) * GRAIN_TOKENS +
                                                          sim.nodes[path[end - 1]].tokens};
    made->count = request->run_count;
}

/* Makes the event wrong in a way that must be refused; false: it is left as it is. */
static bool spoil(const struct sim_session *session, struct core_push_run *run)
{
    const struct sim_shape *other = &sim.shapes[pick(SIM_SHAPES)];
    switch (pick(6)) {
    case 5:
        for (uint32_t g = 0; g < SIM_GROUPS; g++) {
            if (session->shapes[g] != NONE && other == &sim.shapes[session->shapes[g]]) {
                return false;
            }
        }
        if (!other->used) {
            return false;
        }
        run->shape = other->handle; /* it exists, and is another session's */
        return true;
    case 0:
        run->shape = (uint32_t)rng_next(&sim.rng);
        return true;
    case 1:
        run->tail_tokens = 0;
        return true;
    case 2:
        run->tail_tokens = UINT32_MAX - pick(64);
        return true;
    case 3:
        run->key_count += 1000;
        return true;
    default:
        run->block_count = 0;
        return true;
    }
}

static bool expect_held(uint32_t space, const struct sim_shape *shape, const uint32_t *nodes,
                        uint32_t grains, bool all_keys)
{
    struct core_want want = {shape->group, shape->ranges};
    uint32_t last = nodes[grains - 1];
    if (model_held(space, &want, last, grains, sim.nodes[last].tokens, true)) {
        return true;
    }
    for (uint32_t i = 0; i < grains; i++) {
        if (!all_keys || !model_held(space, &want, nodes[i], 1, sim.nodes[nodes[i]].tokens, true)) {
            return false;
        }
    }
    return true;
}

/* The copy of one block, and the record for its part. */
static void note_part(const struct sim_request *request, uint32_t r, uint32_t block,
                      const struct core_copy *copy, bool all_keys)
{
    const struct sim_run *run = &request->runs[r];
    const struct sim_shape *shape = &sim.shapes[run->shape];
    uint32_t first = block * shape->grains;
    uint32_t left = run->grains - first;
    uint32_t grains = left < shape->grains ? left : shape->grains;
    uint32_t last = run->nodes[first + grains - 1];
    SIM_CHECK(copy->run == r && copy->shape == shape->handle);
    SIM_CHECK(copy->run_token == first * GRAIN_TOKENS && copy->part_token == 0);
    SIM_CHECK(copy->tokens == (grains - 1) * GRAIN_TOKENS + sim.nodes[last].tokens);
    SIM_CHECK(memcmp(&copy->ranges, &shape->ranges, sizeof shape->ranges) == 0);
    struct sim_record record = {.all_keys = all_keys,
                                .space = request->space,
                                .group = shape->group,
                                .shape = run->shape,
                                .part = pool_part(copy->offset),
                                .last = last,
                                .grains = grains,
                                .cells = model_cells(&shape->ranges),
                                .offset = copy->offset};
    (void)model_add(&record);
}

static void check_push(const struct sim_request *request, const struct made *made, uint64_t evicted)
{
    const struct core_action *answer = &sim.answer;
    bool watermark = sim.config->high_percent < 100 || sim.config->disk.segments > 0;
    uint32_t status_at = 0;
    uint32_t copy_at = 0;
    for (uint32_t r = 0; r < made->count; r++) {
        const struct sim_shape *shape = &sim.shapes[request->runs[r].shape];
        for (uint32_t b = 0; b < made->runs[r].block_count; b++) {
            SIM_CHECK(status_at < answer->status_count);
            int status = (int)answer->statuses[status_at++]; /* NOLINT: a signed number */
            uint32_t grains = request->runs[r].grains - b * shape->grains;
            grains = grains < shape->grains ? grains : shape->grains;
            bool held = expect_held(request->space, shape,
                                    request->runs[r].nodes + (size_t)b * shape->grains, grains,
                                    made->all_keys[r]);
            /* what was held may have gone at the step's end, down to the watermark, or to a disk
             * that cannot be read now */
            bool gone = evicted > 0 || !sim.disk.readable;
            SIM_CHECK(held == (status == ST_HELD) || (status == ST_HELD && watermark && gone));
            SIM_CHECK(status == ST_HELD || status == ST_OK || status == ST_NO_SPACE ||
                      (status == ST_QUOTA && sim.config->quotas));
            sim.stats.held += status == ST_HELD ? 1 : 0;
            sim.stats.no_space += status == ST_NO_SPACE ? 1 : 0;
            sim.stats.quota += status == ST_QUOTA ? 1 : 0;
            if (status == ST_OK) {
                SIM_CHECK(copy_at < answer->copy_count);
                note_part(request, r, b, &answer->copies[copy_at++], made->all_keys[r]);
                sim.stats.pushed++;
            }
        }
    }
    SIM_CHECK(status_at == answer->status_count && copy_at == answer->copy_count);
    SIM_CHECK((answer->kind == ACTION_COPY) == (copy_at > 0));
}

void op_push(struct sim_session *session, uint32_t number)
{
    uint32_t slot = world_request();
    if (slot == NONE || session->space == NONE) {
        return;
    }
    struct sim_request *request = &sim.requests[slot];
    *request = (struct sim_request){.push = true, .session = number, .space = session->space};
    struct made made = {.count = 0};
    uint32_t group_count = 0;
    (void)space_groups(session->space, &group_count);
    for (uint32_t g = 0; g < group_count; g++) {
        for (uint32_t n = 1 + pick(2); session->shapes[g] != NONE && chance(80) && n > 0; n--) {
            make_run(session, request, &made, g);
        }
    }
    if (made.count == 0) {
        return;
    }
    bool spoilt = chance(2) && spoil(session, &made.runs[pick(made.count)]);
    request->pending = SIM_ASKED;
    uint64_t evicted = sim.stats.evicted;
    world_step(&(struct core_event){
        .kind = EVENT_PUSH,
        .session = number,
        .request = slot,
        .u.push = {.space = session->space_handle, .runs = made.runs, .run_count = made.count}});
    SIM_CHECK(sim.answered);
    SIM_CHECK(sim.answer.status == (spoilt ? ST_INVALID : ST_OK));
    if (!spoilt) {
        check_push(request, &made, sim.stats.evicted - evicted);
    }
}

void op_push_one(struct sim_session *session, uint32_t number)
{
    uint32_t slot = world_request();
    if (session->space == NONE || session->shapes[0] == NONE || slot == NONE) {
        return;
    }
    struct sim_request *request = &sim.requests[slot];
    *request = (struct sim_request){
        .pending = SIM_ASKED, .push = true, .session = number, .space = session->space};
    struct made made = {.count = 0};
    make_run(session, request, &made, 0);
    /* the first block only */
    uint32_t grains = made.runs[0].block_count > 1 ? session->grains : request->runs[0].grains;
    uint32_t last = request->runs[0].nodes[grains - 1];
    request->runs[0].grains = grains;
    made.runs[0].block_count = 1;
    made.runs[0].key_count = made.all_keys[0] ? grains : 1;
    made.runs[0].tail_tokens = (grains - 1) * GRAIN_TOKENS + sim.nodes[last].tokens;
    uint64_t evicted = sim.stats.evicted;
    world_step(&(struct core_event){
        .kind = EVENT_PUSH,
        .session = number,
        .request = slot,
        .u.push = {.space = session->space_handle, .runs = made.runs, .run_count = 1}});
    check_push(request, &made, sim.stats.evicted - evicted);
    if (request->pending == SIM_COPYING) {
        op_complete(slot);
    }
}

/* The copies of a request end, one way or another. */
void op_complete(uint32_t number)
{
    static const int failures[] = {ST_MEMORY, ST_DEADLINE, ST_CANCELLED};
    struct sim_request *request = &sim.requests[number];
    int status = ST_OK;
    if (request->pending == SIM_PERSISTING) {
        persist_cancel(number);
        return;
    }
    if (pool_waits(request)) { /* for reads from disk: it is given up, or goes on later */
        if (!request->cancelled && chance(80)) {
            return;
        }
        status = ST_DEADLINE;
    } else if (request->must_fail) {
        status = ST_MEMORY;
    } else if (request->cancelled && chance(70)) {
        status = ST_CANCELLED;
    } else if (chance(8)) {
        status = failures[pick(3)];
    }
    pool_end(request, status);
    world_step(&(struct core_event){.kind = EVENT_COPY_DONE,
                                    .session = request->session,
                                    .request = number,
                                    .u.copy_done.status = status});
    SIM_CHECK(sim.answered && sim.answer.kind == ACTION_REPLY && sim.answer.status == status);
    SIM_CHECK(request->pending == SIM_FREE);
}
