#include "tests/lib/core_fixture.h"

#include <string.h>

struct core_limits fixture_limits(void)
{
    return (struct core_limits){.pool_bytes = 65536,
                                .granule_bytes = 4096,
                                .keys_max = 4096,
                                .blocks_max = 1024,
                                .parts_max = 1024,
                                .sessions_max = 8,
                                .requests_max = 16,
                                .instances_max = 8,
                                .spaces_max = 8,
                                .shapes_max = 64,
                                .leases_max = 16,
                                .tenants_max = 4,
                                .instance_lease_bytes_max = UINT64_C(1) << 40,
                                .high_percent = 100,
                                .low_percent = 100,
                                .hash_seed = 7};
}

void fixture_open(struct core_fixture *fixture, const struct core_limits *limits)
{
    fixture->core = NULL;
    int status = core_create(limits, &fixture->core, NULL);
    KVEIK_ASSERT(status == ST_OK);
}

void fixture_close(struct core_fixture *fixture)
{
    core_check(fixture->core);
    core_destroy(fixture->core);
    fixture->core = NULL;
}

const uint8_t *fixture_keys(struct core_fixture *fixture, uint32_t first, uint32_t count,
                            uint32_t stride)
{
    KVEIK_ASSERT(count <= FIXTURE_KEYS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        struct rng rng = {first + (uint64_t)i * stride};
        for (uint32_t w = 0; w < CORE_KEY_BYTES / 8; w++) {
            uint64_t word = rng_next(&rng);
            (void)memcpy(fixture->keys + (size_t)i * CORE_KEY_BYTES + 8u * w, &word, sizeof word);
        }
    }
    return fixture->keys;
}

const struct core_action *fixture_step(struct core_fixture *fixture, const struct core_event *event,
                                       enum core_action_kind kind)
{
    core_step(fixture->core, event, &fixture->actions);
    for (uint32_t i = 0; i < fixture->actions.count; i++) {
        if (fixture->actions.items[i].kind == kind) {
            return &fixture->actions.items[i];
        }
    }
    return NULL;
}

/* The answer to a request: its reply, or its copies. */
static const struct core_action *answer(struct core_fixture *fixture,
                                        const struct core_event *event)
{
    const struct core_action *action = fixture_step(fixture, event, ACTION_REPLY);
    for (uint32_t i = 0; action == NULL && i < fixture->actions.count; i++) {
        if (fixture->actions.items[i].kind == ACTION_COPY) {
            action = &fixture->actions.items[i];
        }
    }
    KVEIK_ASSERT(action != NULL);
    return action;
}

const struct core_action *fixture_session(struct core_fixture *fixture, uint32_t session,
                                          const char *instance, uint32_t tenant)
{
    struct core_event event = {.kind = EVENT_SESSION_OPEN,
                               .session = session,
                               .u.session_open = {.instance_id = (const uint8_t *)instance,
                                                  .instance_id_bytes = (uint32_t)strlen(instance),
                                                  .tenant = tenant}};
    return fixture_step(fixture, &event, ACTION_SESSION_OPENED);
}

const struct core_action *fixture_session_close(struct core_fixture *fixture, uint32_t session)
{
    struct core_event event = {.kind = EVENT_SESSION_CLOSE, .session = session};
    return fixture_step(fixture, &event, ACTION_SESSION_CLOSED);
}

uint32_t fixture_space(struct core_fixture *fixture, uint32_t session, uint8_t id,
                       const struct core_group *groups, uint32_t count)
{
    uint8_t bytes[CORE_KEY_BYTES] = {id};
    struct core_event event = {.kind = EVENT_SPACE,
                               .session = session,
                               .u.space = {.id = bytes, .group_count = count, .groups = groups}};
    const struct core_action *action = fixture_step(fixture, &event, ACTION_SPACE);
    return action != NULL && action->status == ST_OK ? action->handle : NONE;
}

/* NOLINTNEXTLINE(readability-function-size): a test's event in one line */
uint32_t fixture_shape(struct core_fixture *fixture, uint32_t session, uint32_t space,
                       uint32_t group, uint32_t grains, struct core_ranges ranges, uint64_t bytes)
{
    struct core_event event = {
        .kind = EVENT_SHAPE,
        .session = session,
        .u.shape = {
            .space = space, .group = group, .grains = grains, .ranges = ranges, .bytes = bytes}};
    const struct core_action *action = fixture_step(fixture, &event, ACTION_SHAPE);
    return action != NULL && action->status == ST_OK ? action->handle : NONE;
}

static uint32_t free_request(const struct core_fixture *fixture)
{
    uint32_t number = 0;
    while (request_at(fixture->core, number)->state != REQUEST_NONE) {
        number++;
    }
    return number;
}

const struct core_action *fixture_push(struct core_fixture *fixture, uint32_t session,
                                       uint32_t shape, uint32_t first, uint32_t grains,
                                       uint32_t tail_tokens)
{
    const struct shape *form = shape_at(fixture->core, shape);
    uint32_t blocks = (grains + form->grains - 1) / form->grains;
    struct core_push_run run = {
        .shape = shape,
        .keys = fixture_keys(fixture, first, grains, 1),
        .key_count = grains,
        .block_count = blocks,
        .tail_tokens = (grains - (blocks - 1) * form->grains - 1) * GRAIN_TOKENS + tail_tokens};
    fixture->last_request = free_request(fixture);
    struct core_event event = {.kind = EVENT_PUSH,
                               .session = session,
                               .request = fixture->last_request,
                               .u.push = {.space = form->space, .runs = &run, .run_count = 1}};
    return answer(fixture, &event);
}

void fixture_store(struct core_fixture *fixture, uint32_t session, uint32_t shape, uint32_t first,
                   uint32_t grains)
{
    const struct core_action *action =
        fixture_push(fixture, session, shape, first, grains, GRAIN_TOKENS);
    if (action->kind == ACTION_COPY) {
        (void)fixture_done(fixture, session, fixture->last_request, ST_OK);
    }
}

const struct core_action *fixture_done(struct core_fixture *fixture, uint32_t session,
                                       uint32_t request, int status)
{
    struct core_event event = {.kind = EVENT_COPY_DONE,
                               .session = session,
                               .request = request,
                               .u.copy_done.status = status};
    return fixture_step(fixture, &event, ACTION_REPLY);
}

struct core_event fixture_lookup(struct core_fixture *fixture, uint32_t session, uint32_t space,
                                 uint32_t first, uint32_t count)
{
    return (struct core_event){.kind = EVENT_LOOKUP,
                               .session = session,
                               .request = free_request(fixture),
                               .u.lookup = {.space = space,
                                            .keys = fixture_keys(fixture, first, count, 1),
                                            .key_count = count,
                                            .key_grains = 1,
                                            .tail_tokens = GRAIN_TOKENS,
                                            .step_grains = 1}};
}

uint32_t fixture_hit(struct core_fixture *fixture, uint32_t session, uint32_t space, uint32_t first,
                     uint32_t count)
{
    struct core_event event = fixture_lookup(fixture, session, space, first, count);
    const struct core_action *action = answer(fixture, &event);
    KVEIK_ASSERT(action->status == ST_OK);
    return action->hit_keys;
}

uint64_t fixture_lease(struct core_fixture *fixture, uint32_t session, uint32_t space,
                       uint32_t first, uint32_t count)
{
    struct core_event event = fixture_lookup(fixture, session, space, first, count);
    event.u.lookup.lease = true;
    return answer(fixture, &event)->lease;
}

int fixture_release(struct core_fixture *fixture, uint32_t session, uint64_t lease)
{
    struct core_event event = {.kind = EVENT_RELEASE,
                               .session = session,
                               .request = free_request(fixture),
                               .u.release.lease = lease};
    return answer(fixture, &event)->status;
}

const struct core_action *fixture_pull(struct core_fixture *fixture, uint32_t session,
                                       uint32_t space, uint32_t first, uint32_t count)
{
    const struct core_group *group = &space_at(fixture->core, space)->groups[0];
    struct core_pull_run run = {.want = {0, {0, group->layer_count, 0, group->head_count}},
                                .keys = fixture_keys(fixture, first, count, 1),
                                .key_count = count,
                                .key_grains = 1,
                                .tail_tokens = GRAIN_TOKENS};
    fixture->last_request = free_request(fixture);
    struct core_event event = {.kind = EVENT_PULL,
                               .session = session,
                               .request = fixture->last_request,
                               .u.pull = {.space = space, .runs = &run, .run_count = 1}};
    return answer(fixture, &event);
}

struct core_gauges fixture_gauges(const struct core_fixture *fixture)
{
    struct core_gauges gauges;
    core_gauges(fixture->core, &gauges);
    return gauges;
}

struct core_counters fixture_counters(const struct core_fixture *fixture)
{
    struct core_counters counters;
    core_counters(fixture->core, &counters);
    return counters;
}
