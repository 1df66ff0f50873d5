/*
 * A disk of segments. A write's place is settled when the core asks for it, in one open segment for
 * fresh parts and one for survivors; its bytes are taken when it ends, at a random later operation,
 * so that a slot given up too early shows as wrong bytes. What was written is durable when its
 * epoch is committed.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/sim/sim.h"

enum { SEAL_BITS = 48 };

void disk_open(void)
{
    const struct sim_disk_config *config = &sim.config->disk;
    SIM_CHECK(config->segments <= SIM_SEGMENTS);
    SIM_CHECK(config->stores <= SIM_JOBS && config->loads <= SIM_JOBS);
    sim.disk = (struct sim_disk){.open = {NONE, NONE},
                                 .segments_max = config->segments,
                                 .readable = true,
                                 .writable = true,
                                 .epoch = 1};
}

void segment_clear(uint32_t number)
{
    struct sim_segment *segment = &sim.disk.segments[number];
    for (uint32_t i = 0; i < segment->count; i++) {
        free(segment->entries[i].bytes);
    }
    free(segment->entries);
    *segment = (struct sim_segment){.used = false};
    for (uint32_t i = 0; i < ARRAY_COUNT(sim.disk.open); i++) {
        sim.disk.open[i] = sim.disk.open[i] == number ? NONE : sim.disk.open[i];
    }
}

void disk_close(void)
{
    for (uint32_t i = 0; i < SIM_SEGMENTS; i++) {
        segment_clear(i);
    }
}

struct sim_entry *disk_entry(struct core_place place)
{
    SIM_CHECK(place.segment < SIM_SEGMENTS && sim.disk.segments[place.segment].used);
    SIM_CHECK(place.offset < sim.disk.segments[place.segment].count);
    return &sim.disk.segments[place.segment].entries[place.offset];
}

static bool same_place(struct core_place a, struct core_place b)
{
    return a.segment == b.segment && a.offset == b.offset;
}

static uint64_t seal_of(const uint8_t *bytes, uint64_t count)
{
    return XXH3_64bits(bytes, count) & ((UINT64_C(1) << SEAL_BITS) - 1);
}

static uint32_t segments_free(void)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < sim.config->disk.segments; i++) {
        used += sim.disk.segments[i].used ? 1 : 0;
    }
    return used < sim.disk.segments_max ? sim.disk.segments_max - used : 0;
}

/* A place for so many bytes; false: the disk is full. The last free segment is for survivors. */
static bool place_take(uint64_t bytes, bool survivor, struct core_place *place_out)
{
    uint32_t *open = &sim.disk.open[survivor ? 1 : 0];
    SIM_CHECK(bytes <= sim.config->disk.segment_bytes);
    if (*open == NONE || sim.disk.segments[*open].fill + bytes > sim.config->disk.segment_bytes) {
        if (segments_free() < (survivor ? 1 : 2)) {
            return false;
        }
        uint32_t number = pick(sim.config->disk.segments);
        while (sim.disk.segments[number].used) {
            number = (number + 1) % sim.config->disk.segments;
        }
        sim.disk.segments[number].used = true;
        *open = number;
    }
    struct sim_segment *segment = &sim.disk.segments[*open];
    if (segment->count == segment->room) {
        segment->room = segment->room == 0 ? 8 : 2 * segment->room;
        segment->entries = realloc(segment->entries, segment->room * sizeof segment->entries[0]);
        SIM_CHECK(segment->entries != NULL);
    }
    *place_out = (struct core_place){.segment = *open, .offset = segment->count++};
    segment->entries[place_out->offset] = (struct sim_entry){.size = (uint32_t)bytes};
    segment->fill += (uint32_t)bytes;
    return true;
}

/* The entry that a load or move reads is what the core was told. */
static const struct sim_entry *entry_to_read(const struct core_action *action)
{
    const struct sim_entry *entry = disk_entry(action->place);
    SIM_CHECK(entry->written && !entry->forgotten &&
              !sim.disk.segments[action->place.segment].lost);
    SIM_CHECK(entry->seal == action->seal && entry->size == action->bytes);
    return entry;
}

static void entry_describe(struct sim_entry *entry, const struct core_action *action, uint32_t part)
{
    const struct core_stored *stored = action->stored;
    SIM_CHECK(sim.part_record[part] != NONE);
    entry->part = part;
    entry->record = sim.records[sim.part_record[part]];
    entry->shape = sim.shapes[entry->record.shape];
    SIM_CHECK(entry->shape.handle == action->handle && entry->shape.bytes == action->bytes);
    SIM_CHECK(stored->grains == entry->record.grains && stored->key_count <= stored->grains);
    SIM_CHECK(stored->key_count == (entry->record.all_keys ? stored->grains : 1));
    SIM_CHECK(stored->tail_tokens == sim.nodes[entry->record.last].tokens);
    (void)memcpy(entry->keys, stored->keys, (size_t)stored->key_count * CORE_KEY_BYTES);
    SIM_CHECK(memcmp(entry->keys + (size_t)(stored->key_count - 1) * CORE_KEY_BYTES,
                     sim.nodes[entry->record.last].key, CORE_KEY_BYTES) == 0);
    entry->key_count = stored->key_count;
    entry->tail_tokens = stored->tail_tokens;
    (void)memcpy(entry->parent, stored->parent, CORE_KEY_BYTES);
    (void)memcpy(entry->origin, stored->origin, stored->origin_bytes);
    entry->origin_bytes = stored->origin_bytes;
}

static void on_store(const struct core_action *action)
{
    SIM_CHECK(action->job < sim.config->disk.stores && !sim.disk.stores[action->job].used);
    SIM_CHECK(sim.disk.writable);
    struct sim_job *job = &sim.disk.stores[action->job];
    *job = (struct sim_job){.used = true,
                            .move = action->stored->move,
                            .offset = action->offset,
                            .bytes = action->bytes,
                            .from = action->place};
    if (job->move) {
        job->part = entry_to_read(action)->part;
    } else {
        bool failed = false;
        SIM_CHECK(pool_committed(job->offset, job->bytes, &failed) && !failed);
        job->part = pool_part(job->offset);
        pool_shadow(job->offset, job->bytes, false, 1);
    }
    job->must_fail = !place_take(job->bytes, action->stored->survivor, &job->to);
    if (!job->must_fail) {
        entry_describe(disk_entry(job->to), action, job->part);
    }
    /* what is leased or pinned is never lost for want of room */
    SIM_CHECK(!job->must_fail || !action->stored->survivor || sim.config->disk.faults);
}

static void on_load(const struct core_action *action)
{
    SIM_CHECK(action->job < sim.config->disk.loads && !sim.disk.loads[action->job].used);
    const struct sim_entry *entry = entry_to_read(action);
    struct sim_job *job = &sim.disk.loads[action->job];
    *job = (struct sim_job){.used = true,
                            .offset = action->offset,
                            .bytes = action->bytes,
                            .part = pool_part(action->offset),
                            .from = action->place};
    SIM_CHECK(job->part == entry->part);
    SIM_CHECK(memcmp(action->key, sim.nodes[entry->record.last].key, CORE_KEY_BYTES) == 0);
    SIM_CHECK(pool_committed(job->offset, job->bytes, &job->must_fail));
    pool_shadow(job->offset, job->bytes, true, 1);
}

/* Nothing that the core still counts on lies there, nothing reads it. `whole`: the segment. */
static void check_unused(struct core_place place, bool whole)
{
    for (uint32_t p = 0; p < sim.core->parts.high; p++) {
        const struct disk_part *at = disk_part_at(sim.core, p);
        SIM_CHECK(part_at(sim.core, p)->state == PART_ABSENT ||
                  !part_on_disk(part_at(sim.core, p)) || disk_segment(at) != place.segment ||
                  (!whole && at->offset != place.offset));
    }
    for (uint32_t j = 0; j < SIM_JOBS; j++) {
        const struct sim_job *store = &sim.disk.stores[j];
        const struct sim_job *load = &sim.disk.loads[j];
        SIM_CHECK(!store->used || !store->move || store->from.segment != place.segment ||
                  (!whole && !same_place(store->from, place)));
        SIM_CHECK(!load->used || load->from.segment != place.segment ||
                  (!whole && !same_place(load->from, place)));
        SIM_CHECK(!store->used || store->must_fail || store->to.segment != place.segment ||
                  (!whole && !same_place(store->to, place)));
    }
}

static void on_forget(const struct core_action *action)
{
    struct sim_entry *entry = disk_entry(action->place);
    SIM_CHECK(entry->written && !entry->forgotten);
    entry->forgotten = true;
    check_unused(action->place, false);
}

static void on_segment_free(uint32_t number)
{
    SIM_CHECK(number < SIM_SEGMENTS && sim.disk.segments[number].used);
    check_unused((struct core_place){.segment = number}, true);
    segment_clear(number);
    sim.stats.segments_freed++;
}

void disk_act(const struct core_action *action)
{
    if (action->kind == ACTION_STORE) {
        on_store(action);
    } else if (action->kind == ACTION_LOAD) {
        on_load(action);
    } else if (action->kind == ACTION_FORGET) {
        on_forget(action);
    } else if (action->kind == ACTION_SEGMENT_FREE) {
        on_segment_free(action->handle);
    } else {
        SIM_CHECK(action->kind == ACTION_SYNC);
        sim.disk.sync = true;
    }
}

/* ---- what ends, and what goes wrong ------------------------------------------------------------
 */

static void step_with_fault(const struct core_event *event, bool fault)
{
    sim.disk.fault = fault && sim.config->disk.faults;
    world_step(event);
    sim.disk.fault = false;
}

static void store_end(uint32_t number)
{
    struct sim_job job = sim.disk.stores[number];
    sim.disk.stores[number].used = false;
    int status = job.must_fail ? ST_NO_SPACE : ST_OK;
    if (sim.config->disk.faults && chance(8)) {
        status = chance(50) ? ST_NO_SPACE : ST_IO;
    }
    if (!job.move) {
        pool_shadow(job.offset, job.bytes, false, -1);
    }
    struct core_event event = {
        .kind = EVENT_STORE_DONE,
        .u.store_done = {
            .store = number, .status = status, .place = job.to, .epoch = sim.disk.epoch}};
    if (status == ST_OK) {
        struct sim_entry *entry = disk_entry(job.to);
        entry->bytes = malloc(job.bytes);
        SIM_CHECK(entry->bytes != NULL && entry->size == job.bytes);
        const uint8_t *from = sim.pool.memory + job.offset;
        if (job.move) {
            from = disk_entry(job.from)->bytes;
        }
        (void)memcpy(entry->bytes, from, job.bytes);
        entry->seal = seal_of(entry->bytes, job.bytes);
        entry->epoch = sim.disk.epoch;
        entry->written = true;
        event.u.store_done.seal = entry->seal;
        sim.stats.stored += job.move ? 0 : 1;
        sim.stats.moved += job.move ? 1 : 0;
    }
    step_with_fault(&event, status != ST_OK);
}

static void load_end(uint32_t number)
{
    static const int failures[] = {ST_CORRUPT, ST_IO, ST_UNAVAILABLE};
    struct sim_job job = sim.disk.loads[number];
    sim.disk.loads[number].used = false;
    int status = job.must_fail ? ST_NO_MEMORY : ST_OK;
    if (status == ST_OK && sim.config->disk.faults && chance(10)) {
        status = failures[pick(3)];
    }
    pool_shadow(job.offset, job.bytes, true, -1);
    if (status == ST_OK) {
        (void)memcpy(sim.pool.memory + job.offset, disk_entry(job.from)->bytes, job.bytes);
    } else if (!job.must_fail) {
        (void)memset(sim.pool.memory + job.offset, 0xee, job.bytes);
    }
    sim.stats.loaded += status == ST_OK ? 1 : 0;
    sim.stats.load_failures += status == ST_OK ? 0 : 1;
    pool_load_ended(number, status == ST_OK);
    step_with_fault(&(struct core_event){.kind = EVENT_LOAD_DONE,
                                         .u.load_done = {.load = number, .status = status}},
                    status != ST_OK);
}

static void commit(void)
{
    sim.disk.committed = sim.disk.epoch++;
    sim.disk.sync = false;
    persist_committed();
    world_step(
        &(struct core_event){.kind = EVENT_COMMITTED, .u.committed.epoch = sim.disk.committed});
}

static void job_random(struct sim_job *jobs, void (*end)(uint32_t))
{
    uint32_t from = pick(SIM_JOBS);
    for (uint32_t i = 0; i < SIM_JOBS; i++) {
        if (jobs[(from + i) % SIM_JOBS].used) {
            end((from + i) % SIM_JOBS);
            return;
        }
    }
}

static void lose_segment(void)
{
    uint32_t number = pick(sim.config->disk.segments);
    struct sim_segment *segment = &sim.disk.segments[number];
    if (!segment->used || segment->lost) {
        return;
    }
    segment->lost = true;
    for (uint32_t j = 0; j < SIM_JOBS; j++) {
        struct sim_job *store = &sim.disk.stores[j];
        store->must_fail = store->must_fail || (store->used && store->to.segment == number);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(sim.disk.open); i++) {
        sim.disk.open[i] = sim.disk.open[i] == number ? NONE : sim.disk.open[i];
    }
    step_with_fault(
        &(struct core_event){.kind = EVENT_SEGMENT_LOST, .u.segment_lost.segment = number}, true);
}

void disk_state(uint32_t segments, bool readable, bool writable)
{
    sim.disk.segments_max = segments;
    sim.disk.readable = readable;
    sim.disk.writable = writable;
    world_step(&(struct core_event){
        .kind = EVENT_DISK_STATE,
        .u.disk_state = {.segments_max = segments, .readable = readable, .writable = writable}});
}

void disk_drain(void)
{
    for (uint32_t j = 0; j < SIM_JOBS; j++) {
        while (sim.disk.loads[j].used) {
            load_end(j);
        }
        while (sim.disk.stores[j].used) {
            store_end(j);
        }
    }
}

void disk_random(void)
{
    uint32_t what = pick(100);
    if (sim.config->disk.faults && what == 0) {
        disk_state(chance(50) ? sim.config->disk.segments : pick(sim.config->disk.segments + 4),
                   chance(80), chance(80));
    } else if (sim.config->disk.faults && what == 1) {
        if (chance(20)) {
            lose_segment();
        }
    } else if (what < 10 || (sim.disk.sync && what < 20)) {
        commit();
    } else if (what < 60) {
        job_random(sim.disk.stores, store_end);
    } else {
        job_random(sim.disk.loads, load_end);
    }
}
