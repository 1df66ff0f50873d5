/* The daemon dies and starts anew: what was committed and not forgotten is told to a new core. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static void drop_all(void)
{
    for (uint32_t r = 0; r < SIM_REQUESTS; r++) {
        free(sim.requests[r].copies);
        free(sim.requests[r].copy_parts);
        free(sim.requests[r].copy_states);
        sim.requests[r] = (struct sim_request){.pending = SIM_FREE};
    }
    for (uint32_t i = 0; i < sim.record_high; i++) {
        sim.records[i].readers = 0;
        if (sim.records[i].used) {
            model_remove(i);
        }
    }
    (void)memset(sim.sessions, 0, sizeof sim.sessions);
    (void)memset(sim.instance_sessions, 0, sizeof sim.instance_sessions);
    (void)memset(sim.leases, 0, sizeof sim.leases);
    (void)memset(sim.shapes, 0, sizeof sim.shapes);
    (void)memset(sim.disk.stores, 0, sizeof sim.disk.stores);
    (void)memset(sim.disk.loads, 0, sizeof sim.disk.loads);
    core_destroy(sim.core);
    pool_finish();
    free(sim.part_record);
}

static bool entry_survives(const struct sim_entry *entry)
{
    return entry->written && !entry->forgotten && entry->epoch <= sim.disk.committed;
}

/* Segments without anything that counts are free from the beginning; none is open. */
static void keep_segments(void)
{
    for (uint32_t n = 0; n < SIM_SEGMENTS; n++) {
        struct sim_segment *segment = &sim.disk.segments[n];
        uint32_t live = 0;
        for (uint32_t i = 0; i < segment->count; i++) {
            segment->entries[i].forgotten = !entry_survives(&segment->entries[i]);
            live += segment->entries[i].forgotten ? 0 : 1;
        }
        if (live == 0 || segment->lost) {
            segment_clear(n);
        }
    }
    sim.disk.open[0] = NONE;
    sim.disk.open[1] = NONE;
}

static bool known(const struct sim_record *like, uint32_t shape)
{
    for (uint32_t i = 0; i < sim.record_high; i++) {
        const struct sim_record *record = &sim.records[i];
        if (record->used && record->shape == shape && record->last == like->last &&
            record->grains == like->grains &&
            (record->all_keys == like->all_keys || record->grains == 1)) {
            return true;
        }
    }
    return false;
}

static void restore(uint32_t segment, uint32_t offset)
{
    struct core_place place = {.segment = segment, .offset = offset};
    struct sim_entry *entry = disk_entry(place);
    uint32_t session = entry->shape.space / SIM_KINDS;
    uint32_t shape = op_shape_register(session, &entry->shape);
    bool twice = known(&entry->record, shape);
    bool spoilt = chance(2);
    struct core_event event = {.kind = EVENT_RESTORE,
                               .u.restore = {.shape = sim.shapes[shape].handle,
                                             .keys = entry->keys,
                                             .key_count = entry->key_count,
                                             .grains = entry->record.grains,
                                             .tail_tokens = entry->tail_tokens,
                                             .parent = entry->parent,
                                             .origin = entry->origin,
                                             .origin_bytes = entry->origin_bytes,
                                             .place = place,
                                             .seal = entry->seal}};
    if (spoilt) {
        uint32_t *fields[] = {&event.u.restore.shape, &event.u.restore.grains,
                              &event.u.restore.tail_tokens, &event.u.restore.place.segment,
                              &event.u.restore.origin_bytes};
        *fields[pick(ARRAY_COUNT(fields))] = 1000000 + pick(UINT32_MAX - 1000000);
    }
    world_step(&event);
    SIM_CHECK(sim.answered && sim.answer.kind == ACTION_RESTORED);
    if (spoilt || sim.answer.status != ST_OK) {
        bool limits = sim.config->parts_max < 1u << 16;
        SIM_CHECK(sim.answer.status == (spoilt ? ST_INVALID : ST_LIMIT));
        SIM_CHECK(spoilt || twice || limits);
        entry->forgotten = true;
        return;
    }
    SIM_CHECK(!twice);
    entry->part = segment_at(sim.core, segment)->part_first;
    entry->record.part = entry->part;
    entry->record.shape = shape;
    entry->record.ready = true;
    entry->record.readers = 0;
    (void)model_add(&entry->record);
    sim.stats.restored++;
}

void world_restart(void)
{
    drop_all();
    keep_segments();
    world_core();
    disk_state(sim.config->disk.segments, true, false); /* nothing is freed before all is known */
    for (uint32_t t = 0; t < sim.config->tenants; t++) {
        op_session(t, t);
        for (uint32_t k = 0; k < sim.config->kinds; k++) {
            (void)op_space_register(t, t * SIM_KINDS + k);
        }
    }
    for (uint32_t n = 0; n < SIM_SEGMENTS; n++) {
        for (uint32_t i = 0; i < sim.disk.segments[n].count; i++) {
            if (!sim.disk.segments[n].entries[i].forgotten) {
                restore(n, i);
            }
        }
    }
    core_check(sim.core);
    for (uint32_t n = 0; n < SIM_SEGMENTS; n++) {
        if (sim.disk.segments[n].used && segment_at(sim.core, n)->state == SEGMENT_FREE) {
            segment_clear(n); /* nothing of it was wanted */
        }
    }
    disk_state(sim.config->disk.segments, true, true);
    for (uint32_t t = 0; t < sim.config->tenants; t++) {
        sim.sessions[t].closing = true;
        world_step(&(struct core_event){.kind = EVENT_SESSION_CLOSE, .session = t});
    }
    sim.stats.restarts++;
}
