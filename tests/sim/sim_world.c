/* Opens and closes a history, takes steps and carries out what the core says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

uint32_t pick(uint32_t bound)
{
    return (uint32_t)rng_below(&sim.rng, bound);
}

bool chance(uint32_t percent)
{
    return pick(100) < percent;
}

/* An empty core, and an empty pool beside it. */
void world_core(void)
{
    const struct sim_config *config = sim.config;
    const struct sim_disk_config *disk = &config->disk;
    struct core_limits limits = {.pool_bytes = config->pool_bytes,
                                 .granule_bytes = config->granule_bytes,
                                 .keys_max = config->keys_max,
                                 .blocks_max = config->blocks_max,
                                 .parts_max = config->parts_max,
                                 .sessions_max = SIM_SESSIONS,
                                 .requests_max = SIM_REQUESTS,
                                 .instances_max = SIM_INSTANCES,
                                 .spaces_max = SIM_SPACES,
                                 .shapes_max = SIM_SHAPES,
                                 .leases_max = SIM_LEASES - 8,
                                 .tenants_max = SIM_TENANTS,
                                 .instance_lease_bytes_max = config->lease_bytes_max,
                                 .high_percent = config->high_percent,
                                 .low_percent = config->low_percent,
                                 .hash_seed = sim.hash_seed,
                                 .disk = {.segments_max = disk->segments,
                                          .stores_max = disk->stores,
                                          .loads_max = disk->loads,
                                          .queue_max = disk->queue,
                                          .store_bytes_max = disk->store_bytes,
                                          .load_bytes_max = disk->load_bytes,
                                          .admission = disk->admission}};
    struct error error = {0};
    SIM_CHECK(core_create(&limits, &sim.core, &error) == ST_OK);
    sim.part_record = malloc(config->parts_max * sizeof(uint32_t));
    SIM_CHECK(sim.part_record != NULL);
    (void)memset(sim.part_record, 0xff, config->parts_max * sizeof(uint32_t));
    (void)memset(sim.space_handles, 0xff, sizeof sim.space_handles);
    (void)memset(sim.pins, 0xff, sizeof sim.pins);
    sim.failed_slab = UINT64_MAX;
    sim.evicted_before = 0;
    pool_init();
}

void world_open(const struct sim_config *config, uint64_t seed)
{
    struct sim_stats stats = sim.stats;
    uint64_t check_every = sim.check_every;
    bool verbose = sim.verbose;
    uint64_t step = sim.step;
    sim = (struct sim){.config = config, .rng = {seed}};
    sim.stats = stats;
    sim.check_every = check_every;
    sim.verbose = verbose;
    sim.step = step;
    sim.hash_seed = rng_next(&sim.rng);
    world_core();
    disk_open();
    model_build();
    sim.stats.histories++;
}

uint32_t world_request(void)
{
    uint32_t from = pick(SIM_REQUESTS);
    for (uint32_t i = 0; i < SIM_REQUESTS; i++) {
        uint32_t number = (from + i) % SIM_REQUESTS;
        if (sim.requests[number].pending == SIM_FREE) {
            return number;
        }
    }
    return NONE;
}

static void lease_forget(uint64_t id)
{
    for (uint32_t n = 0; n < SIM_LEASES; n++) {
        if (sim.leases[n].id == id) {
            sim.leases[n].id = 0;
            sim.old_leases[pick(ARRAY_COUNT(sim.old_leases))] = id;
        }
    }
}

static void on_reply(const struct core_action *action)
{
    struct sim_request *request = &sim.requests[action->request];
    SIM_CHECK(request->pending != SIM_FREE && request->session == action->session);
    SIM_CHECK(action->status != ST_INTERNAL);
    if (request->release_lease != 0) {
        lease_forget(request->release_lease);
    }
    SIM_CHECK(request->copies == NULL);
    if (request->pending == SIM_PERSISTING) {
        persist_reply(request, action);
    }
    request->pending = SIM_FREE;
}

static void on_copy(const struct core_action *action)
{
    struct sim_request *request = &sim.requests[action->request];
    SIM_CHECK(request->pending == SIM_ASKED && request->session == action->session);
    SIM_CHECK(action->copy_count > 0);
    request->pending = SIM_COPYING;
    request->must_fail = false;
    request->cancelled = false;
    pool_begin(request, action);
    SIM_CHECK(!request->must_fail || (request->push && sim.failed_slab != UINT64_MAX));
}

static void on_session_closed(uint32_t number)
{
    struct sim_session *session = &sim.sessions[number];
    SIM_CHECK(session->open && session->closing);
    for (uint32_t r = 0; r < SIM_REQUESTS; r++) {
        SIM_CHECK(sim.requests[r].pending == SIM_FREE || sim.requests[r].session != number);
    }
    session->open = false;
    if (--sim.instance_sessions[session->instance] > 0) {
        return;
    }
    for (uint32_t n = 0; n < SIM_LEASES; n++) {
        if (sim.leases[n].id != 0 && sim.leases[n].instance == session->instance) {
            lease_forget(sim.leases[n].id);
        }
    }
}

static void on_shape_freed(uint32_t handle)
{
    for (uint32_t i = 0; i < SIM_SHAPES; i++) {
        if (sim.shapes[i].used && sim.shapes[i].handle == handle) {
            for (uint32_t r = 0; r < sim.record_high; r++) {
                SIM_CHECK(!sim.records[r].used || sim.records[r].shape != i);
            }
            sim.shapes[i].used = false;
            return;
        }
    }
    sim_fail(__FILE__, __LINE__, "a freed shape was in use");
}

static void on_cancel(const struct core_action *action)
{
    struct sim_request *request = &sim.requests[action->request];
    SIM_CHECK(request->pending == SIM_COPYING && request->session == action->session);
    request->cancelled = true;
}

static void act(const struct core_action *action)
{
    switch (action->kind) {
    case ACTION_COMMIT:
        pool_commit(action->offset, action->bytes);
        break;
    case ACTION_DECOMMIT:
        pool_decommit(action->offset, action->bytes);
        break;
    case ACTION_COPY:
        on_copy(action);
        break;
    case ACTION_REPLY:
        on_reply(action);
        break;
    case ACTION_SESSION_CLOSED:
        on_session_closed(action->session);
        break;
    case ACTION_SHAPE_FREED:
        on_shape_freed(action->handle);
        break;
    case ACTION_CANCEL_COPY:
        on_cancel(action);
        break;
    case ACTION_SESSION_OPENED:
    case ACTION_SPACE:
    case ACTION_SHAPE:
    case ACTION_RESTORED:
        sim.answer = *action;
        sim.answered = true;
        break;
    case ACTION_WAIT:
        SIM_CHECK(sim.requests[action->request].pending == SIM_ASKED);
        sim.requests[action->request].pending = SIM_PERSISTING;
        break;
    case ACTION_STORE:
    case ACTION_LOAD:
    case ACTION_FORGET:
    case ACTION_SEGMENT_FREE:
    case ACTION_SYNC:
        SIM_CHECK(sim.config->disk.segments > 0);
        disk_act(action);
        break;
    default:
        sim_fail(__FILE__, __LINE__, "a known action");
    }
}

static void check_totals(void)
{
    struct core_gauges gauges;
    core_gauges(sim.core, &gauges);
    SIM_CHECK(gauges.slab_bytes <= sim.config->pool_bytes);
    SIM_CHECK(gauges.slot_bytes <= gauges.slab_bytes && gauges.part_bytes <= gauges.slot_bytes);
    uint64_t part_bytes = 0;
    for (uint32_t i = 0; i < sim.record_high; i++) {
        const struct sim_record *record = &sim.records[i];
        bool in_memory = record->used && part_has_slot(part_at(sim.core, record->part));
        part_bytes += in_memory ? sim.shapes[record->shape].bytes : 0;
    }
    SIM_CHECK(part_bytes == gauges.part_bytes && sim.record_count == gauges.parts);
}

/* What these answers let go of may have left the core at the end of the same step. */
static void leases_ended(void)
{
    for (uint32_t i = 0; i < sim.actions.count; i++) {
        const struct core_action *action = &sim.actions.items[i];
        uint64_t id =
            action->kind == ACTION_REPLY ? sim.requests[action->request].release_lease : 0;
        bool closed = action->kind == ACTION_SESSION_CLOSED;
        uint32_t instance = closed ? sim.sessions[action->session].instance : NONE;
        for (uint32_t n = 0; n < SIM_LEASES && (id != 0 || closed); n++) {
            struct sim_lease *lease = &sim.leases[n];
            lease->broken =
                lease->broken || (id != 0 && lease->id == id) ||
                (closed && lease->instance == instance && sim.instance_sessions[instance] == 1);
        }
    }
}

void world_step(const struct core_event *event)
{
    sim.step++;
    sim.answered = false;
    core_step(sim.core, event, &sim.actions);
    for (uint32_t i = 0; i < sim.actions.count; i++) {
        const struct core_action *action = &sim.actions.items[i];
        bool answers = action->kind == ACTION_REPLY || action->kind == ACTION_COPY ||
                       action->kind == ACTION_WAIT;
        if (answers && action->session == event->session && action->request == event->request) {
            if (sim.answered && sim.answer.kind == ACTION_WAIT) {
                continue; /* a persist that needs not wait is answered at once */
            }
            SIM_CHECK(!sim.answered);
            sim.answer = *action;
            sim.answered = true;
        }
    }
    leases_ended();
    model_observe_evictions();
    for (uint32_t i = 0; i < sim.actions.count; i++) {
        act(&sim.actions.items[i]);
    }
    if (sim.verbose) {
        (void)printf("%llu: event %d session %u request %u -> %u actions, status %d\n",
                     (unsigned long long)sim.step, (int)event->kind, event->session, event->request,
                     sim.actions.count, sim.answered ? sim.answer.status : 0);
    }
}

/* When nothing is in use, every shape can still have room: nothing leaked, nothing is torn into
 * pieces that nobody can use. */
static void check_room(void)
{
    for (uint32_t r = 0; r < SIM_REQUESTS; r++) {
        if (sim.requests[r].pending != SIM_FREE) {
            op_complete(r);
        }
    }
    for (uint32_t n = 0; n < SIM_LEASES; n++) {
        for (uint32_t s = 0; s < SIM_SESSIONS && sim.leases[n].id != 0; s++) {
            if (sim.sessions[s].open && !sim.sessions[s].closing &&
                sim.sessions[s].instance == sim.leases[n].instance) {
                op_release(&sim.sessions[s], s, &sim.leases[n]);
            }
        }
    }
    uint64_t refused = sim.stats.no_space;
    for (uint32_t s = 0; s < SIM_SESSIONS && !sim.config->quotas && !sim.config->pins; s++) {
        for (uint32_t n = 0; n < 20 && sim.sessions[s].open; n++) {
            op_push_one(&sim.sessions[s], s);
        }
    }
    SIM_CHECK(sim.stats.no_space == refused);
}

/* Everything of the sessions goes; what stays is cached blocks only. */
void world_close(void)
{
    if (sim.config->disk.segments > 0) {
        disk_state(sim.config->disk.segments, true, false);
        disk_drain();
    }
    check_room();
    for (uint32_t s = 0; s < SIM_SESSIONS; s++) {
        if (sim.sessions[s].open && !sim.sessions[s].closing) {
            sim.sessions[s].closing = true;
            world_step(&(struct core_event){.kind = EVENT_SESSION_CLOSE, .session = s});
        }
    }
    for (uint32_t r = 0; r < SIM_REQUESTS; r++) {
        if (sim.requests[r].pending != SIM_FREE) {
            op_complete(r);
        }
    }
    if (sim.failed_slab != UINT64_MAX) {
        world_step(&(struct core_event){.kind = EVENT_SLAB_FAILED,
                                        .u.slab_failed.offset = sim.failed_slab});
    }
    core_check(sim.core);
    check_totals();
    struct core_gauges gauges;
    core_gauges(sim.core, &gauges);
    SIM_CHECK(gauges.sessions == 0 && gauges.instances == 0 && gauges.requests == 0);
    SIM_CHECK(gauges.leases == 0 && gauges.leased_bytes == 0);
    bool spaces[SIM_SPACES] = {false};
    bool shapes[SIM_SHAPES] = {false};
    uint32_t space_count = 0;
    uint32_t shape_count = 0;
    for (uint32_t i = 0; i < sim.record_high; i++) {
        const struct sim_record *record = &sim.records[i];
        SIM_CHECK(!record->used || (record->ready && record->readers == 0));
        if (record->used) {
            space_count += spaces[record->space] ? 0 : 1;
            shape_count += shapes[record->shape] ? 0 : 1;
            spaces[record->space] = true;
            shapes[record->shape] = true;
        }
    }
    SIM_CHECK(gauges.spaces == space_count && gauges.shapes == shape_count);
    core_destroy(sim.core);
    pool_finish();
    disk_close();
    free(sim.part_record);
    for (uint32_t s = 0; s < SIM_SPACES; s++) {
        for (uint32_t n = 0; n < SIM_NODES; n++) {
            free(sim.places[s][n].items);
        }
    }
}
