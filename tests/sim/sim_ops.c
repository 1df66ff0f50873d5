/* Operations of sessions: open, close, register, lookup, release, cancel, pin, quota. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

static const uint32_t block_grains[] = {1, 8, 32};

void op_open(void)
{
    uint32_t number = pick(SIM_SESSIONS);
    if (!sim.sessions[number].open) {
        op_session(number, pick(SIM_INSTANCES));
    }
}

void op_session(uint32_t number, uint32_t instance)
{
    struct sim_session *session = &sim.sessions[number];
    uint8_t id[CORE_INSTANCE_MAX];
    int bytes = snprintf((char *)id, sizeof id, "engine-%u", instance);
    *session = (struct sim_session){.open = true,
                                    .instance = instance,
                                    .tenant = instance % sim.config->tenants,
                                    .space = NONE,
                                    .grains = block_grains[sim.config->sizes ? pick(3) : 0],
                                    .tp = sim.config->ranks ? 1u << pick(3) : 1,
                                    .pp = sim.config->ranks ? 1u << pick(2) : 1,
                                    .shapes = {NONE, NONE}};
    session->tp_rank = pick(session->tp);
    session->pp_rank = pick(session->pp);
    world_step(&(struct core_event){.kind = EVENT_SESSION_OPEN,
                                    .session = number,
                                    .u.session_open = {.instance_id = id,
                                                       .instance_id_bytes = (uint32_t)bytes,
                                                       .tenant = session->tenant}});
    SIM_CHECK(sim.answer.kind == ACTION_SESSION_OPENED && sim.answer.status == ST_OK);
    sim.instance_sessions[instance]++;
}

/* What the session's rank keeps of a group: its share of layers, and of heads if they divide. */
struct core_ranges session_ranges(const struct sim_session *session, uint32_t group)
{
    uint32_t count = 0;
    const struct core_group *g = &space_groups(session->space, &count)[group];
    struct core_ranges r = {0, g->layer_count, 0, g->head_count};
    if (g->layer_count % session->pp == 0) {
        r.layer_count /= session->pp;
        r.layer_begin = session->pp_rank * r.layer_count;
    }
    if (g->head_count % session->tp == 0) {
        r.head_count /= session->tp;
        r.head_begin = session->tp_rank * r.head_count;
    }
    return r;
}

static bool space_live(uint32_t space)
{
    for (uint32_t s = 0; s < SIM_SESSIONS; s++) {
        if (sim.sessions[s].open && sim.sessions[s].space == space) {
            return true;
        }
    }
    for (uint32_t i = 0; i < SIM_SHAPES; i++) {
        if (sim.shapes[i].used && sim.shapes[i].space == space) {
            return true;
        }
    }
    return false;
}

uint32_t op_space_register(uint32_t number, uint32_t space)
{
    uint8_t id[CORE_KEY_BYTES] = {(uint8_t)(1 + space)};
    uint32_t count = 0;
    const struct core_group *groups = space_groups(space, &count);
    bool live = space_live(space);
    world_step(&(struct core_event){
        .kind = EVENT_SPACE,
        .session = number,
        .u.space = {.id = id,
                    .group_count = count,
                    .groups = groups,
                    .quota_bytes = sim.config->quotas && chance(50) ? 4096 + pick(65536) : 0,
                    .admission = sim.config->disk.segments > 0 ? pick(CORE_ADMIT_NEVER + 1) : 0}});
    SIM_CHECK(sim.answer.kind == ACTION_SPACE && sim.answer.status == ST_OK);
    SIM_CHECK(!live || sim.answer.handle == sim.space_handles[space]);
    for (uint32_t s = 0; s < SIM_SPACES; s++) {
        SIM_CHECK(s == space || sim.space_handles[s] != sim.answer.handle || !space_live(s));
    }
    sim.space_handles[space] = sim.answer.handle;
    return sim.answer.handle;
}

static void op_space(struct sim_session *session, uint32_t number)
{
    if (session->space != NONE) {
        return;
    }
    uint32_t space = session->tenant * SIM_KINDS + pick(sim.config->kinds);
    session->space_handle = op_space_register(number, space);
    session->space = space;
}

static uint32_t shape_known(const struct sim_shape *like)
{
    for (uint32_t i = 0; i < SIM_SHAPES; i++) {
        const struct sim_shape *shape = &sim.shapes[i];
        if (shape->used && shape->space == like->space && shape->group == like->group &&
            shape->grains == like->grains && shape->bytes == like->bytes &&
            memcmp(&shape->ranges, &like->ranges, sizeof like->ranges) == 0) {
            return i;
        }
    }
    return NONE;
}

uint32_t op_shape_register(uint32_t number, const struct sim_shape *like)
{
    uint32_t known = shape_known(like);
    struct core_event event = {.kind = known != NONE ? EVENT_SHAPE_USE : EVENT_SHAPE,
                               .session = number};
    if (known != NONE) {
        event.u.handle.handle = sim.shapes[known].handle;
    } else {
        event.u.shape.space = sim.space_handles[like->space];
        event.u.shape.group = like->group;
        event.u.shape.grains = like->grains;
        event.u.shape.ranges = like->ranges;
        event.u.shape.bytes = like->bytes;
    }
    world_step(&event);
    SIM_CHECK(sim.answer.kind == ACTION_SHAPE && sim.answer.status == ST_OK);
    if (known == NONE) {
        struct sim_shape shape = *like;
        shape.handle = sim.answer.handle;
        for (known = 0; sim.shapes[known].used; known++) {
            SIM_CHECK(sim.shapes[known].handle != shape.handle && known + 1 < SIM_SHAPES);
        }
        sim.shapes[known] = shape;
    }
    return known;
}

static void op_shape(struct sim_session *session, uint32_t number)
{
    uint32_t count = 0;
    if (session->space == NONE) {
        return;
    }
    (void)space_groups(session->space, &count);
    uint32_t group = pick(count);
    if (session->shapes[group] != NONE) {
        return;
    }
    static const uint64_t scales[SIM_KINDS] = {SIM_CELL_BYTES, 3 * SIM_CELL_BYTES,
                                               10 * SIM_CELL_BYTES};
    struct sim_shape shape = {.used = true,
                              .space = session->space,
                              .group = group,
                              .grains = session->grains,
                              .ranges = session_ranges(session, group)};
    shape.bytes = (uint64_t)shape.ranges.layer_count * shape.ranges.head_count * shape.grains *
                  scales[session->space % SIM_KINDS];
    session->shapes[group] = op_shape_register(number, &shape);
}

static void op_drop(struct sim_session *session, uint32_t number)
{
    for (uint32_t g = 0; g < SIM_GROUPS; g++) {
        uint32_t shape = session->shapes[g];
        if (shape != NONE) {
            session->shapes[g] = NONE;
            world_step(&(struct core_event){.kind = EVENT_SHAPE_DROP,
                                            .session = number,
                                            .u.handle.handle = sim.shapes[shape].handle});
            SIM_CHECK(sim.answer.kind == ACTION_SHAPE && sim.answer.status == ST_OK);
        }
    }
    if (session->space != NONE) {
        session->space = NONE;
        world_step(&(struct core_event){
            .kind = EVENT_SPACE_DROP, .session = number, .u.handle.handle = session->space_handle});
        SIM_CHECK(sim.answer.kind == ACTION_SPACE && sim.answer.status == ST_OK);
    }
    world_step(&(struct core_event){.kind = pick(2) == 0 ? EVENT_SHAPE_DROP : EVENT_SPACE_DROP,
                                    .session = number,
                                    .u.handle.handle = (uint32_t)rng_next(&sim.rng)});
    SIM_CHECK(sim.answer.status == ST_UNKNOWN_ID);
}

static void op_close(struct sim_session *session, uint32_t number)
{
    session->closing = true;
    world_step(&(struct core_event){.kind = EVENT_SESSION_CLOSE, .session = number});
}

static void op_cancel(uint32_t number)
{
    uint32_t target = pick(SIM_REQUESTS);
    const struct sim_request *request = &sim.requests[target];
    bool copying = request->pending == SIM_COPYING;
    bool persisting = request->pending == SIM_PERSISTING;
    uint32_t session = (copying || persisting) && chance(90) ? request->session : number;
    bool hits = request->session == session && (persisting || (copying && !request->cancelled));
    world_step(&(struct core_event){.kind = EVENT_CANCEL, .session = session, .request = target});
    uint32_t cancels = 0;
    for (uint32_t i = 0; i < sim.actions.count; i++) {
        cancels += sim.actions.items[i].kind == ACTION_CANCEL_COPY ? 1 : 0;
    }
    SIM_CHECK(cancels == (hits && copying ? 1 : 0) && sim.answered == (hits && persisting));
    SIM_CHECK(!sim.answered || sim.answer.status == ST_CANCELLED);
    SIM_CHECK(sim.config->disk.segments > 0 || sim.actions.count == cancels);
    sim.stats.cancels += hits ? 1 : 0;
}

void op_release(const struct sim_session *session, uint32_t number, const struct sim_lease *lease)
{
    uint32_t request = world_request();
    if (request == NONE) {
        return;
    }
    uint64_t id = lease->id;
    bool known = id != 0 && lease->instance == session->instance;
    if (id == 0) {
        uint64_t stale = sim.old_leases[pick(ARRAY_COUNT(sim.old_leases))];
        id = chance(50) ? stale : rng_next(&sim.rng) >> pick(64);
        for (uint32_t n = 0; n < SIM_LEASES; n++) {
            known = known || (id != 0 && sim.leases[n].id == id &&
                              sim.leases[n].instance == session->instance);
        }
    }
    sim.requests[request] = (struct sim_request){
        .pending = SIM_ASKED, .session = number, .release_lease = known ? id : 0};
    world_step(&(struct core_event){
        .kind = EVENT_RELEASE, .session = number, .request = request, .u.release.lease = id});
    SIM_CHECK(sim.answered && sim.answer.status == (known ? ST_OK : ST_UNKNOWN_ID));
}

/* True when a pin caught only some of the groups and must be taken back. */
static bool pin_step(const struct sim_session *session, uint32_t number, uint32_t node, bool on)
{
    uint32_t request = world_request();
    if (request == NONE) {
        return false;
    }
    uint32_t count = 0;
    const struct core_group *groups = space_groups(session->space, &count);
    bool all = true;
    for (uint32_t g = 0; g < count; g++) {
        struct core_want want = {g, {0, groups[g].layer_count, 0, groups[g].head_count}};
        all = model_held(session->space, &want, node, 1, GRAIN_TOKENS, false) && all;
    }
    sim.requests[request] = (struct sim_request){.pending = SIM_ASKED, .session = number};
    world_step(&(struct core_event){.kind = EVENT_PIN,
                                    .session = number,
                                    .request = request,
                                    .u.pin = {.space = session->space_handle,
                                              .keys = sim.nodes[node].key,
                                              .key_count = 1,
                                              .on = on}});
    SIM_CHECK(sim.answered && sim.answer.status == ST_OK);
    SIM_CHECK(!on || sim.answer.hit_keys == (all ? 1 : 0));
    for (uint32_t p = 0; p < SIM_PINS; p++) {
        if (on && all && sim.pins[p] == NONE) {
            sim.pins[p] = node;
            break;
        }
    }
    return on && !all; /* of a group that is held alone */
}

static void pin_one(const struct sim_session *session, uint32_t number, uint32_t node, bool on)
{
    if (pin_step(session, number, node, on)) {
        (void)pin_step(session, number, node, false);
    }
}

static void op_pin(const struct sim_session *session, uint32_t number)
{
    bool any = false;
    bool room = false;
    for (uint32_t p = 0; p < SIM_PINS; p++) {
        any = any || sim.pins[p] != NONE;
        room = room || sim.pins[p] == NONE;
    }
    if (session->space == NONE || (any && sim.pin_space != session->space)) {
        return;
    }
    uint32_t node = model_prompt();
    if (room && chance(60) && sim.nodes[node].tokens == GRAIN_TOKENS) {
        sim.pin_space = session->space;
        bool pinned[SIM_PINS];
        for (uint32_t p = 0; p < SIM_PINS; p++) {
            pinned[p] = sim.pins[p] != NONE;
        }
        pin_one(session, number, node, true);
        /* taking a half pin back may have freed what other keys had pinned: pin these again */
        for (uint32_t p = 0; p < SIM_PINS; p++) {
            uint32_t again = sim.pins[p];
            if (pinned[p]) {
                sim.pins[p] = NONE;
                pin_one(session, number, again, true);
            }
        }
        return;
    }
    for (uint32_t p = 0; p < SIM_PINS; p++) {
        uint32_t pinned = sim.pins[p];
        sim.pins[p] = NONE;
        if (pinned != NONE) {
            pin_one(session, number, pinned, false);
        }
    }
}

static void op_quota(void)
{
    world_step(&(struct core_event){
        .kind = EVENT_TENANT_QUOTA,
        .u.tenant_quota = {
            .tenant = pick(sim.config->tenants),
            .bytes = chance(30) ? 0 : 8192 + pick(131072),
            .disk_bytes = sim.config->disk.segments == 0 || chance(50) ? 0 : 8192 + pick(131072)}});
}

void op_random(void)
{
    sim.stats.operations++;
    if (sim.failed_slab != UINT64_MAX && chance(4)) {
        uint64_t offset = sim.failed_slab;
        sim.failed_slab = UINT64_MAX;
        world_step(&(struct core_event){.kind = EVENT_SLAB_FAILED, .u.slab_failed.offset = offset});
        return;
    }
    if (sim.config->disk.segments > 0 && chance(40)) {
        disk_random();
        return;
    }
    if (chance(30)) {
        uint32_t request = pick(SIM_REQUESTS);
        if (sim.requests[request].pending == SIM_COPYING) {
            op_complete(request);
            return;
        }
    }
    uint32_t number = pick(SIM_SESSIONS);
    struct sim_session *session = &sim.sessions[number];
    if (!session->open) {
        op_open();
        return;
    }
    uint32_t what = pick(1000);
    if (session->closing || what < 40) {
        op_cancel(number);
    } else if (what < 46) {
        op_close(session, number);
    } else if (what < 52) {
        op_drop(session, number);
    } else if (what < 120 || session->space == NONE) {
        op_space(session, number);
        op_shape(session, number);
        op_shape(session, number);
    } else if (what < 170) {
        op_release(session, number, &sim.leases[pick(SIM_LEASES)]);
    } else if (what < 180 && sim.config->quotas) {
        op_quota();
    } else if (what < 200 && sim.config->pins) {
        op_pin(session, number);
    } else if (what < 220 && sim.config->disk.segments > 0) {
        op_persist(session, number);
    } else if (what < 500) {
        op_push(session, number);
    } else if (what < 760) {
        op_lookup(session, number);
    } else {
        op_pull(session, number);
    }
}
