/* Lookups and pulls. */
#include <string.h>

#include "tests/sim/sim.h"

static const uint32_t key_steps[] = {1, 1, 1, 8, 32, 3};

static uint8_t key_bytes[SIM_RUNS][SIM_DEPTH_MAX * CORE_KEY_BYTES];

static struct core_ranges random_ranges(const struct sim_session *session, uint32_t group)
{
    if (chance(60)) {
        return session_ranges(session, group);
    }
    uint32_t count = 0;
    const struct core_group *g = &space_groups(session->space, &count)[group];
    struct core_ranges r = {.layer_begin = pick(g->layer_count), .head_begin = pick(g->head_count)};
    r.layer_count = 1 + pick(g->layer_count - r.layer_begin);
    r.head_count = 1 + pick(g->head_count - r.head_begin);
    return r;
}

/* Ranges and counts as a hostile client sends them. */
static void spoil_want(struct core_want *want)
{
    switch (pick(4)) {
    case 0:
        want->ranges.layer_begin = UINT32_MAX - 1;
        want->ranges.layer_count = 3;
        break;
    case 1:
        want->ranges.head_begin = 2;
        want->ranges.head_count = UINT32_MAX;
        break;
    case 2:
        want->ranges.head_count = 0;
        break;
    default:
        want->group = SIM_GROUPS + pick(8);
        break;
    }
}

static void note_lease(const struct sim_session *session, const struct core_event *event,
                       const uint32_t *keys, const struct core_want *wants, uint32_t want_count)
{
    uint32_t slot = 0;
    while (slot < SIM_LEASES && sim.leases[slot].id != 0) {
        SIM_CHECK(sim.leases[slot].id != sim.answer.lease);
        slot++;
    }
    SIM_CHECK(slot < SIM_LEASES);
    struct sim_lease *lease = &sim.leases[slot];
    *lease = (struct sim_lease){.id = sim.answer.lease,
                                .instance = session->instance,
                                .space = session->space,
                                .key_grains = event->u.lookup.key_grains,
                                .key_count = sim.answer.hit_keys,
                                .want_count = want_count};
    (void)memcpy(lease->keys, keys, sim.answer.hit_keys * sizeof keys[0]);
    uint32_t group_count = 0;
    const struct core_group *groups = space_groups(session->space, &group_count);
    for (uint32_t w = 0; w < want_count; w++) {
        lease->wants[w] = wants[w];
        lease->first_needed[w] = model_first_needed(&groups[wants[w].group], sim.answer.hit_tokens,
                                                    lease->key_count, lease->key_grains);
    }
    sim.stats.leases++;
}

static uint32_t lease_count(void)
{
    uint32_t count = 0;
    for (uint32_t n = 0; n < SIM_LEASES; n++) {
        count += sim.leases[n].id != 0 ? 1 : 0;
    }
    return count;
}

static void check_lookup(const struct sim_session *session, const struct core_event *event,
                         const uint32_t *keys, uint32_t expected)
{
    const struct core_action *answer = &sim.answer;
    struct core_want all[SIM_GROUPS];
    uint32_t count = 0;
    const struct core_group *groups = space_groups(session->space, &count);
    for (uint32_t g = 0; g < count; g++) {
        all[g] = (struct core_want){g, {0, groups[g].layer_count, 0, groups[g].head_count}};
    }
    if (answer->status != ST_OK) {
        SIM_CHECK(event->u.lookup.lease && expected > 0);
        SIM_CHECK((answer->status == ST_LIMIT && lease_count() == SIM_LEASES - 8) ||
                  (answer->status == ST_QUOTA && sim.config->lease_bytes_max < 1u << 30));
        return;
    }
    bool given = event->u.lookup.want_count > 0;
    SIM_CHECK(answer->hit_keys == expected);
    uint32_t tokens = expected * event->u.lookup.key_grains * GRAIN_TOKENS;
    tokens -= expected == event->u.lookup.key_count && expected > 0
                  ? GRAIN_TOKENS - event->u.lookup.tail_tokens
                  : 0;
    SIM_CHECK(answer->hit_tokens == tokens && (answer->hit_bytes > 0) == (expected > 0));
    SIM_CHECK(answer->hit_disk_bytes <= answer->hit_bytes);
    SIM_CHECK((answer->lease != 0) == (event->u.lookup.lease && expected > 0));
    uint32_t origin_keys = 0;
    for (uint32_t o = 0; o < answer->origin_count; o++) {
        SIM_CHECK(answer->origins[o].keys > 0 && answer->origins[o].instance_id_bytes == 8);
        SIM_CHECK(memcmp(answer->origins[o].instance_id, "engine-", 7) == 0);
        origin_keys += answer->origins[o].keys;
    }
    SIM_CHECK(origin_keys <= expected &&
              (!event->u.lookup.origins || (origin_keys > 0) == (expected > 0)));
    if (answer->lease != 0) {
        note_lease(session, event, keys, given ? event->u.lookup.wants : all,
                   given ? event->u.lookup.want_count : count);
    }
    sim.stats.lookup_keys += event->u.lookup.key_count;
    sim.stats.hit_keys += expected;
}

static uint32_t make_wants(const struct sim_session *session, struct core_want *wants)
{
    uint32_t group_count = 0;
    (void)space_groups(session->space, &group_count);
    uint32_t count = pick(group_count + 1);
    uint32_t first = pick(group_count);
    for (uint32_t w = 0; w < count; w++) {
        uint32_t group = (first + w) % group_count;
        wants[w] = (struct core_want){group, random_ranges(session, group)};
    }
    return count;
}

void op_lookup(struct sim_session *session, uint32_t number)
{
    uint32_t slot = world_request();
    if (slot == NONE || session->space == NONE) {
        return;
    }
    uint32_t path[SIM_DEPTH_MAX];
    uint32_t keys[SIM_DEPTH_MAX];
    uint32_t length = model_path(model_prompt(), path);
    uint32_t key_grains = key_steps[pick(ARRAY_COUNT(key_steps))];
    uint32_t count = length / key_grains;
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = path[(i + 1) * key_grains - 1];
        (void)memcpy(key_bytes[0] + (size_t)i * CORE_KEY_BYTES, sim.nodes[keys[i]].key,
                     CORE_KEY_BYTES);
    }
    struct core_want wants[SIM_GROUPS];
    uint32_t want_count = make_wants(session, wants);
    struct core_event event = {.kind = EVENT_LOOKUP,
                               .session = number,
                               .request = slot,
                               .u.lookup = {.space = session->space_handle,
                                            .keys = key_bytes[0],
                                            .key_count = count,
                                            .key_grains = key_grains,
                                            .tail_tokens = count == 0 || chance(5)
                                                               ? 1 + pick(GRAIN_TOKENS)
                                                               : sim.nodes[keys[count - 1]].tokens,
                                            .step_grains = chance(60) ? pick(2) : pick(40),
                                            .wants = wants,
                                            .want_count = want_count,
                                            .lease = sim.config->leases && chance(40),
                                            .origins = chance(30)}};
    bool spoilt = chance(2);
    if (spoilt && want_count > 0 && chance(50)) {
        spoil_want(&wants[pick(want_count)]);
    } else if (spoilt) {
        event.u.lookup.key_grains = chance(50) ? 0 : BLOCK_GRAINS_MAX + 1 + pick(1000);
    }
    struct core_want all[SIM_GROUPS];
    uint32_t all_count = 0;
    const struct core_group *groups = space_groups(session->space, &all_count);
    for (uint32_t g = 0; g < all_count; g++) {
        all[g] = (struct core_want){g, {0, groups[g].layer_count, 0, groups[g].head_count}};
    }
    uint32_t expected = spoilt
                            ? 0
                            : model_hit(session->space, &event, keys, want_count > 0 ? wants : all,
                                        want_count > 0 ? want_count : all_count);
    sim.requests[slot] = (struct sim_request){.pending = SIM_ASKED, .session = number};
    world_step(&event);
    SIM_CHECK(sim.answered && sim.answer.kind == ACTION_REPLY);
    if (spoilt) {
        SIM_CHECK(sim.answer.status == ST_INVALID);
        return;
    }
    check_lookup(session, &event, keys, expected);
}

static void make_pull_run(const struct sim_session *session, struct sim_request *request,
                          struct core_pull_run *out)
{
    uint32_t path[SIM_DEPTH_MAX];
    uint32_t length = model_path(model_prompt(), path);
    uint32_t key_grains = key_steps[pick(ARRAY_COUNT(key_steps))];
    uint32_t r = request->run_count;
    struct sim_run *run = &request->runs[r];
    uint32_t all = length / key_grains;
    if (all == 0) {
        return;
    }
    uint32_t from = chance(60) ? 0 : pick(all);
    uint32_t count = chance(60) ? all - from : 1 + pick(all - from);
    uint32_t group_count = 0;
    (void)space_groups(session->space, &group_count);
    uint32_t group = pick(group_count);
    run->want = (struct core_want){group, random_ranges(session, group)};
    run->grains = count * key_grains;
    (void)memcpy(run->nodes, path + (size_t)from * key_grains, run->grains * sizeof path[0]);
    for (uint32_t i = 0; i < count; i++) {
        (void)memcpy(key_bytes[r] + (size_t)i * CORE_KEY_BYTES,
                     sim.nodes[run->nodes[(i + 1) * key_grains - 1]].key, CORE_KEY_BYTES);
    }
    *out = (struct core_pull_run){.want = run->want,
                                  .keys = key_bytes[r],
                                  .key_count = count,
                                  .key_grains = key_grains,
                                  .tail_tokens = sim.nodes[run->nodes[run->grains - 1]].tokens};
    request->run_count++;
}

/* Every cell of every key that is there is copied once, of every other not at all. */
static void check_pull(const struct sim_request *request, const struct core_pull_run *runs,
                       bool refused)
{
    static uint8_t cells[SIM_RUNS][SIM_DEPTH_MAX][SIM_LAYERS * SIM_HEADS];
    (void)memset(cells, 0, sizeof cells);
    for (uint32_t c = 0; c < sim.answer.copy_count; c++) {
        const struct core_copy *copy = &sim.answer.copies[c];
        SIM_CHECK(copy->run < request->run_count && copy->run_token % GRAIN_TOKENS == 0);
        uint32_t first = copy->run_token / GRAIN_TOKENS;
        uint32_t grains = (copy->tokens + GRAIN_TOKENS - 1) / GRAIN_TOKENS;
        SIM_CHECK(first + grains <= request->runs[copy->run].grains);
        uint32_t mask = model_cells(&copy->ranges);
        for (uint32_t g = first; g < first + grains; g++) {
            for (uint32_t i = 0; i < SIM_LAYERS * SIM_HEADS; i++) {
                cells[copy->run][g][i] =
                    (uint8_t)(cells[copy->run][g][i] + ((mask >> i & 1) != 0 ? 1 : 0));
            }
        }
    }
    uint32_t at = 0;
    for (uint32_t r = 0; r < request->run_count; r++) {
        uint32_t wanted = model_cells(&runs[r].want.ranges);
        /* NOLINTNEXTLINE(clang-analyzer-core.*): the caller filled request->run_count runs */
        for (uint32_t k = 0; k < runs[r].key_count; k++) {
            uint32_t node = request->runs[r].nodes[(k + 1) * runs[r].key_grains - 1];
            bool held = model_held(request->space, &runs[r].want, node, runs[r].key_grains,
                                   sim.nodes[node].tokens, false);
            SIM_CHECK(at < sim.answer.status_count);
            /* on disk, and it could not be read back now */
            held = held && (!refused || sim.answer.statuses[at] != ST_MISS);
            SIM_CHECK(sim.answer.statuses[at++] == (held ? ST_OK : ST_MISS));
            sim.stats.pull_keys++;
            sim.stats.pull_missed += held ? 0 : 1;
            for (uint32_t g = k * runs[r].key_grains; g < (k + 1) * runs[r].key_grains; g++) {
                for (uint32_t i = 0; i < SIM_LAYERS * SIM_HEADS; i++) {
                    SIM_CHECK(cells[r][g][i] == (held ? wanted >> i & 1 : 0));
                }
            }
        }
    }
    SIM_CHECK(at == sim.answer.status_count);
}

void op_pull(struct sim_session *session, uint32_t number)
{
    uint32_t slot = world_request();
    if (slot == NONE || session->space == NONE) {
        return;
    }
    struct sim_request *request = &sim.requests[slot];
    *request = (struct sim_request){.session = number, .space = session->space};
    struct core_pull_run runs[SIM_RUNS];
    for (uint32_t n = 1 + pick(SIM_RUNS - 1); n > 0; n--) {
        make_pull_run(session, request, &runs[request->run_count]);
    }
    if (request->run_count == 0) {
        return;
    }
    const struct sim_lease *lease = &sim.leases[pick(SIM_LEASES)];
    bool leased = lease->id != 0;
    bool known = leased && lease->instance == session->instance;
    uint64_t id = lease->id;
    bool release = chance(50);
    bool spoilt = chance(2);
    if (spoilt) {
        spoil_want(&runs[pick(request->run_count)].want);
    } else if (known && release) {
        request->release_lease = id;
    }
    request->pending = SIM_ASKED;
    uint64_t refused = sim.core->counters.load_refused;
    world_step(&(struct core_event){.kind = EVENT_PULL,
                                    .session = number,
                                    .request = slot,
                                    .u.pull = {.space = session->space_handle,
                                               .runs = runs,
                                               .run_count = request->run_count,
                                               .lease = id,
                                               .release_lease = release}});
    SIM_CHECK(sim.answered);
    if (spoilt || (leased && !known)) {
        SIM_CHECK(sim.answer.kind == ACTION_REPLY);
        SIM_CHECK(sim.answer.status == (spoilt ? ST_INVALID : ST_UNKNOWN_ID));
        return;
    }
    SIM_CHECK(sim.answer.status == ST_OK);
    check_pull(request, runs, sim.core->counters.load_refused > refused);
}
