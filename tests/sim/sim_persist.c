/* Persist: what was promised to be durable is written and committed before the answer says so. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static uint8_t key_bytes[SIM_DEPTH_MAX * CORE_KEY_BYTES];

static bool part_durable(uint32_t part)
{
    if (part_at(sim.core, part)->state == PART_ABSENT || !part_on_disk(part_at(sim.core, part))) {
        return false;
    }
    const struct disk_part *at = disk_part_at(sim.core, part);
    const struct sim_entry *entry =
        disk_entry((struct core_place){.segment = disk_segment(at), .offset = at->offset});
    return entry->written && !entry->forgotten && entry->epoch <= sim.disk.committed;
}

/* The parts that the core still waits for. */
static void note_parts(struct sim_request *request, uint32_t slot)
{
    const struct list *parts = &request_at(sim.core, slot)->parts;
    request->copy_parts = malloc(parts->count * sizeof(uint32_t));
    request->copy_states = calloc(parts->count, 1);
    SIM_CHECK(request->copy_parts != NULL && request->copy_states != NULL);
    for (uint32_t n = parts->last; n != NONE;) {
        const struct chunk *chunk = slots_at(&sim.core->chunks, n);
        for (uint32_t i = 0; i < chunk->count; i++) {
            uint32_t part = chunk->items[i];
            request->copy_states[request->copy_count] = part_durable(part) ? 1 : 0;
            request->copy_parts[request->copy_count++] = part;
        }
        n = chunk->before;
    }
    SIM_CHECK(request->copy_count == parts->count);
}

static bool waited_for(const struct sim_request *request, uint32_t part)
{
    for (uint32_t i = 0; i < request->copy_count; i++) {
        if (request->copy_parts[i] == part) {
            return true;
        }
    }
    return false;
}

/* Every layer and head of the group at the key is durable, or waited for. */
static void check_key(const struct sim_request *request, uint32_t group, uint32_t node,
                      uint32_t key_grains)
{
    uint32_t count = 0;
    const struct core_group *g = &space_groups(request->space, &count)[group];
    struct core_want want = {group, {0, g->layer_count, 0, g->head_count}};
    if (!model_held(request->space, &want, node, key_grains, sim.nodes[node].tokens, false)) {
        return;
    }
    uint32_t found = 0;
    const struct sim_places *places = &sim.places[request->space][node];
    for (uint32_t i = 0; i < places->count; i++) {
        const struct sim_record *record = &sim.records[places->items[i].record];
        if (record->group == group && places->items[i].grain + 1u >= key_grains &&
            (part_durable(record->part) || waited_for(request, record->part))) {
            found |= record->cells;
        }
    }
    uint32_t wanted = model_cells(&want.ranges);
    SIM_CHECK((found & wanted) == wanted);
}

static bool key_expected(uint32_t space, uint32_t node, uint32_t key_grains)
{
    uint32_t count = 0;
    const struct core_group *groups = space_groups(space, &count);
    bool any = false;
    for (uint32_t g = 0; g < count; g++) {
        struct core_want want = {g, {0, groups[g].layer_count, 0, groups[g].head_count}};
        bool held = model_held(space, &want, node, key_grains, sim.nodes[node].tokens, false);
        if (!held && groups[g].rule == CORE_EVERY) {
            return false;
        }
        any = any || held;
    }
    return any;
}

void op_persist(struct sim_session *session, uint32_t number)
{
    static const uint32_t key_steps[] = {1, 1, 8, 32};
    uint32_t slot = world_request();
    uint32_t path[SIM_DEPTH_MAX];
    bool expected[SIM_DEPTH_MAX];
    uint32_t length = model_path(model_prompt(), path);
    uint32_t key_grains = key_steps[pick(ARRAY_COUNT(key_steps))];
    uint32_t count = length / key_grains;
    if (slot == NONE || session->space == NONE || count == 0) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t node = path[(i + 1) * key_grains - 1];
        expected[i] = key_expected(session->space, node, key_grains);
        (void)memcpy(key_bytes + (size_t)i * CORE_KEY_BYTES, sim.nodes[node].key, CORE_KEY_BYTES);
    }
    struct sim_request *request = &sim.requests[slot];
    *request =
        (struct sim_request){.pending = SIM_ASKED, .session = number, .space = session->space};
    /* what went, or was refused, at the end of the step, is waited for no longer */
    uint64_t evicted = sim.stats.evicted + sim.core->counters.store_quota;
    world_step(&(struct core_event){
        .kind = EVENT_PERSIST,
        .session = number,
        .request = slot,
        .u.persist = {.space = session->space_handle,
                      .keys = key_bytes,
                      .key_count = count,
                      .key_grains = key_grains,
                      .tail_tokens = sim.nodes[path[count * key_grains - 1]].tokens}});
    SIM_CHECK(sim.answered && sim.answer.kind == ACTION_WAIT);
    SIM_CHECK(sim.answer.status_count == count);
    if (request->pending == SIM_PERSISTING) {
        note_parts(request, slot);
    }
    bool left = sim.stats.evicted + sim.core->counters.store_quota == evicted;
    for (uint32_t i = 0; i < count; i++) {
        int status = (int)sim.answer.statuses[i]; /* NOLINT: a signed number */
        SIM_CHECK(status == (expected[i] ? ST_OK : ST_MISS) ||
                  (expected[i] && status == ST_BUSY && sim.core->counters.persist_busy > 0));
        for (uint32_t g = 0; status == ST_OK && g < SIM_GROUPS && left; g++) {
            uint32_t groups = 0;
            (void)space_groups(session->space, &groups);
            if (g < groups) {
                check_key(request, g, path[(i + 1) * key_grains - 1], key_grains);
            }
        }
    }
    sim.stats.persists++;
}

/* Before the core is told. */
void persist_committed(void)
{
    for (uint32_t r = 0; r < SIM_REQUESTS; r++) {
        struct sim_request *request = &sim.requests[r];
        for (uint32_t i = 0; request->pending == SIM_PERSISTING && i < request->copy_count; i++) {
            request->copy_states[i] =
                request->copy_states[i] != 0 || part_durable(request->copy_parts[i]) ? 1 : 0;
        }
    }
}

void persist_reply(struct sim_request *request, const struct core_action *action)
{
    for (uint32_t i = 0; action->status == ST_OK && i < request->copy_count; i++) {
        SIM_CHECK(request->copy_states[i] != 0);
    }
    SIM_CHECK(action->status == ST_OK || action->status == ST_IO ||
              action->status == ST_CANCELLED || action->status == ST_DEADLINE ||
              (action->status == ST_LOST && sim.sessions[request->session].closing));
    sim.stats.persisted += action->status == ST_OK ? 1 : 0;
    free(request->copy_parts);
    free(request->copy_states);
    request->copy_parts = NULL;
    request->copy_states = NULL;
    request->copy_count = 0;
}

/* The deadline, as the owner tells it. */
void persist_cancel(uint32_t number)
{
    world_step(&(struct core_event){.kind = EVENT_CANCEL,
                                    .session = sim.requests[number].session,
                                    .request = number,
                                    .u.cancel.status = ST_DEADLINE});
    SIM_CHECK(sim.answered && sim.answer.kind == ACTION_REPLY);
    SIM_CHECK(sim.answer.status == ST_DEADLINE && sim.requests[number].pending == SIM_FREE);
}
