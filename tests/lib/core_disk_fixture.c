#include "tests/lib/core_disk_fixture.h"

uint32_t core_disk_space;
uint32_t core_disk_shape;

static const struct core_group group = {CORE_EVERY, 0, 2, 2};

struct core_limits core_disk_limits(void)
{
    struct core_limits limits = fixture_limits();
    limits.disk = (struct core_disk_limits){.segments_max = 8,
                                            .stores_max = 4,
                                            .loads_max = 4,
                                            .queue_max = 8,
                                            .store_bytes_max = 1 << 20,
                                            .load_bytes_max = 1 << 20,
                                            .admission = CORE_ADMIT_AT_ONCE};
    return limits;
}

void core_disk_open(struct core_fixture *fixture, const struct core_limits *limits,
                    uint32_t admission)
{
    static const uint8_t id[CORE_KEY_BYTES] = {9};
    fixture_open(fixture, limits);
    (void)fixture_session(fixture, 0, "a", 1);
    struct core_event event = {
        .kind = EVENT_SPACE,
        .u.space = {.id = id, .group_count = 1, .groups = &group, .admission = admission}};
    core_disk_space = fixture_step(fixture, &event, ACTION_SPACE)->handle;
    core_disk_shape =
        fixture_shape(fixture, 0, core_disk_space, 0, 1, (struct core_ranges){0, 2, 0, 2}, 512);
}

const struct core_action *core_disk_action(const struct core_fixture *fixture,
                                           enum core_action_kind kind, uint32_t index)
{
    for (uint32_t i = 0; i < fixture->actions.count; i++) {
        if (fixture->actions.items[i].kind == kind && index-- == 0) {
            return &fixture->actions.items[i];
        }
    }
    return NULL;
}

uint32_t core_disk_count(const struct core_fixture *fixture, enum core_action_kind kind)
{
    uint32_t count = 0;
    while (core_disk_action(fixture, kind, count) != NULL) {
        count++;
    }
    return count;
}

void core_disk_written(struct core_fixture *fixture, uint32_t job, uint32_t segment,
                       uint32_t offset, uint32_t epoch)
{
    struct core_event event = {.kind = EVENT_STORE_DONE,
                               .u.store_done = {.store = job,
                                                .place = {.segment = segment, .offset = offset},
                                                .seal = offset + (uint64_t)1,
                                                .epoch = epoch}};
    core_step(fixture->core, &event, &fixture->actions);
}

void core_disk_write_failed(struct core_fixture *fixture, uint32_t job, int status)
{
    struct core_event event = {.kind = EVENT_STORE_DONE,
                               .u.store_done = {.store = job, .status = status}};
    core_step(fixture->core, &event, &fixture->actions);
}

void core_disk_loaded(struct core_fixture *fixture, uint32_t job, int status)
{
    struct core_event event = {.kind = EVENT_LOAD_DONE,
                               .u.load_done = {.load = job, .status = status}};
    core_step(fixture->core, &event, &fixture->actions);
}

void core_disk_write_all(struct core_fixture *fixture, uint32_t segment, uint32_t epoch)
{
    static uint32_t offset;
    for (uint32_t job = 0; job < fixture->core->disk.stores.high;) {
        const struct store *store = slots_at(&fixture->core->disk.stores, job);
        if (store->used) {
            core_disk_written(fixture, job, segment, offset++, epoch);
            job = 0;
        } else {
            job++;
        }
    }
}

void core_disk_committed(struct core_fixture *fixture, uint32_t epoch)
{
    struct core_event event = {.kind = EVENT_COMMITTED, .u.committed.epoch = epoch};
    core_step(fixture->core, &event, &fixture->actions);
}

void core_disk_lost(struct core_fixture *fixture, uint32_t segment)
{
    struct core_event event = {.kind = EVENT_SEGMENT_LOST, .u.segment_lost.segment = segment};
    core_step(fixture->core, &event, &fixture->actions);
}

void core_disk_state(struct core_fixture *fixture, uint32_t segments, bool readable, bool writable)
{
    struct core_event event = {
        .kind = EVENT_DISK_STATE,
        .u.disk_state = {.segments_max = segments, .readable = readable, .writable = writable}};
    core_step(fixture->core, &event, &fixture->actions);
}

void core_disk_quota(struct core_fixture *fixture, uint64_t bytes)
{
    struct core_event event = {.kind = EVENT_TENANT_QUOTA,
                               .u.tenant_quota = {.tenant = 1, .disk_bytes = bytes}};
    core_step(fixture->core, &event, &fixture->actions);
}

static uint32_t found;

static void note(struct core *core, uint32_t part)
{
    (void)core;
    found = part;
}

uint32_t core_disk_part(struct core_fixture *fixture, uint32_t key)
{
    struct asked asked = {.key = fixture_keys(fixture, key, 1, 1), .space = core_disk_space};
    asked.hash = core_hash(fixture->core, asked.space, asked.key);
    found = NONE;
    find_each(fixture->core, &asked, note);
    return found;
}

enum part_state core_disk_part_state(struct core_fixture *fixture, uint32_t key)
{
    uint32_t part = core_disk_part(fixture, key);
    return part == NONE ? PART_ABSENT : (enum part_state)part_at(fixture->core, part)->state;
}

void core_disk_demote(struct core_fixture *fixture, uint32_t first, uint32_t count)
{
    uint64_t gone = 0;
    fixture->core->scratch.action_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        evict(fixture->core, core_disk_part(fixture, first + i), &gone);
    }
}

void core_disk_fill(struct core_fixture *fixture, uint32_t first, uint32_t count, uint32_t segment)
{
    fixture_store(fixture, 0, core_disk_shape, first, count);
    core_disk_write_all(fixture, segment, 1);
    core_disk_demote(fixture, first, count);
}

void core_disk_pin(struct core_fixture *fixture, uint32_t key, bool on)
{
    struct core_event event = {.kind = EVENT_PIN,
                               .request = 15,
                               .u.pin = {.space = core_disk_space,
                                         .keys = fixture_keys(fixture, key, 1, 1),
                                         .key_count = 1,
                                         .on = on}};
    (void)fixture_step(fixture, &event, ACTION_REPLY);
}

const struct core_action *core_disk_persist(struct core_fixture *fixture, uint32_t first,
                                            uint32_t count)
{
    fixture->last_request = 14;
    struct core_event event = {.kind = EVENT_PERSIST,
                               .request = fixture->last_request,
                               .u.persist = {.space = core_disk_space,
                                             .keys = fixture_keys(fixture, first, count, 1),
                                             .key_count = count,
                                             .key_grains = 1,
                                             .tail_tokens = GRAIN_TOKENS}};
    const struct core_action *wait = fixture_step(fixture, &event, ACTION_WAIT);
    return wait != NULL ? wait : core_disk_action(fixture, ACTION_REPLY, 0);
}

int core_disk_restore(struct core_fixture *fixture, uint32_t key, uint32_t segment, uint32_t offset)
{
    struct core_event event = {.kind = EVENT_RESTORE,
                               .u.restore = {.shape = core_disk_shape,
                                             .keys = fixture_keys(fixture, key, 1, 1),
                                             .key_count = 1,
                                             .grains = 1,
                                             .tail_tokens = GRAIN_TOKENS,
                                             .origin = (const uint8_t *)"past",
                                             .origin_bytes = 4,
                                             .place = {.segment = segment, .offset = offset},
                                             .seal = offset + (uint64_t)1}};
    return fixture_step(fixture, &event, ACTION_RESTORED)->status;
}
