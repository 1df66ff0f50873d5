/* Memory behind the core's offsets, with a shadow that knows who copies where. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/sim/sim.h"

void pool_init(void)
{
    sim.pool.bytes = core_reserve_bytes(&sim.core->limits);
    void *memory = mmap(NULL, sim.pool.bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SIM_CHECK(memory != MAP_FAILED);
    sim.pool.memory = memory;
    sim.pool.committed = calloc(sim.pool.bytes / sim.config->granule_bytes + 1, 1);
    sim.pool.readers = calloc(sim.pool.bytes / SIM_UNIT_BYTES + 1, sizeof(uint16_t));
    sim.pool.writers = calloc(sim.pool.bytes / SIM_UNIT_BYTES + 1, 1);
    SIM_CHECK(sim.pool.committed != NULL && sim.pool.readers != NULL && sim.pool.writers != NULL);
}

void pool_finish(void)
{
    (void)munmap(sim.pool.memory, sim.pool.bytes);
    free(sim.pool.committed);
    free(sim.pool.readers);
    free(sim.pool.writers);
}

static void committed_move(uint64_t offset, uint64_t bytes, bool on)
{
    uint64_t granule = sim.config->granule_bytes;
    SIM_CHECK(offset % granule == 0 && bytes % granule == 0 && bytes > 0);
    SIM_CHECK(offset + bytes <= sim.pool.bytes);
    for (uint64_t g = offset / granule; g < (offset + bytes) / granule; g++) {
        SIM_CHECK((sim.pool.committed[g] != 0) != on);
        sim.pool.committed[g] = on ? 1 : 0;
    }
    for (uint64_t u = offset / SIM_UNIT_BYTES; u < (offset + bytes) / SIM_UNIT_BYTES; u++) {
        SIM_CHECK(sim.pool.readers[u] == 0 && sim.pool.writers[u] == 0);
    }
}

void pool_commit(uint64_t offset, uint64_t bytes)
{
    committed_move(offset, bytes, true);
    if (sim.config->faults && sim.failed_slab == UINT64_MAX && chance(4)) {
        sim.failed_slab = offset;
        sim.stats.failed_slabs++;
        (void)memset(sim.pool.committed + offset / sim.config->granule_bytes, 2,
                     bytes / sim.config->granule_bytes);
    }
}

void pool_decommit(uint64_t offset, uint64_t bytes)
{
    committed_move(offset, bytes, false);
    (void)memset(sim.pool.memory + offset, 0xdd, bytes);
    if (sim.failed_slab == offset) {
        sim.failed_slab = UINT64_MAX; /* gone before anyone said that it failed */
    }
}

/* The number of the part in the slot that begins at `offset`. */
uint32_t pool_part(uint64_t offset)
{
    const struct slabs *slabs = &sim.core->slabs;
    uint32_t number = (uint32_t)(offset / slabs->class_reserve_bytes);
    SIM_CHECK(number < CORE_CLASSES_MAX && slabs->classes[number].slot_bytes != 0);
    const struct slab_class *class = &slabs->classes[number];
    uint64_t in_class = offset % slabs->class_reserve_bytes;
    uint64_t in_slab = in_class % class->slab_bytes;
    SIM_CHECK(in_slab % class->slot_bytes == 0);
    uint32_t slot =
        (uint32_t)(in_class / class->slab_bytes * class->slab_slots + in_slab / class->slot_bytes);
    return slab_part(class, slot);
}

const struct sim_shape *pool_shape(uint32_t handle)
{
    for (uint32_t i = 0; i < SIM_SHAPES; i++) {
        if (sim.shapes[i].used && sim.shapes[i].handle == handle) {
            return &sim.shapes[i];
        }
    }
    sim_fail(__FILE__, __LINE__, "a copy names a shape that is in use");
}

/* 0, 1 or 2: the least usable granule under the part. */
bool pool_committed(uint64_t offset, uint64_t bytes, bool *failed_out)
{
    uint64_t granule = sim.config->granule_bytes;
    bool good = true;
    for (uint64_t g = offset / granule; g <= (offset + bytes - 1) / granule; g++) {
        good = good && sim.pool.committed[g] != 0;
        *failed_out = *failed_out || sim.pool.committed[g] == 2;
    }
    return good;
}

void pool_shadow(uint64_t offset, uint64_t bytes, bool writes, int by)
{
    uint64_t end = (offset + bytes + SIM_UNIT_BYTES - 1) / SIM_UNIT_BYTES;
    for (uint64_t u = offset / SIM_UNIT_BYTES; u < end; u++) {
        if (writes) {
            SIM_CHECK(sim.pool.readers[u] == 0 && sim.pool.writers[u] == (by > 0 ? 0 : 1));
            sim.pool.writers[u] = by > 0 ? 1 : 0;
        } else {
            SIM_CHECK(sim.pool.writers[u] == 0 && (by > 0 || sim.pool.readers[u] > 0));
            sim.pool.readers[u] = (uint16_t)(sim.pool.readers[u] + by);
        }
    }
}

static void shadow_move(const struct core_copy *copy, bool push, int by)
{
    pool_shadow(copy->offset, pool_shape(copy->shape)->bytes, push, by);
}

/* The copy waits for a load: one that is under way, to where it reads. */
static bool waits_for_load(const struct core_copy *copy)
{
    if (copy->load == CORE_NO_LOAD) {
        return false;
    }
    SIM_CHECK(copy->load < SIM_JOBS && sim.disk.loads[copy->load].used);
    SIM_CHECK(sim.disk.loads[copy->load].offset == copy->offset);
    return true;
}

void pool_begin(struct sim_request *request, const struct core_action *action)
{
    request->copy_count = action->copy_count;
    request->copies = malloc(action->copy_count * sizeof action->copies[0]);
    request->copy_parts = malloc(action->copy_count * sizeof(uint32_t));
    request->copy_states = calloc(action->copy_count, 1);
    SIM_CHECK(request->copies != NULL && request->copy_parts != NULL);
    SIM_CHECK(request->copy_states != NULL);
    (void)memcpy(request->copies, action->copies, action->copy_count * sizeof action->copies[0]);
    for (uint32_t i = 0; i < request->copy_count; i++) {
        const struct core_copy *copy = &request->copies[i];
        SIM_CHECK(copy->offset % SIM_UNIT_BYTES == 0);
        uint32_t part = pool_part(copy->offset);
        request->copy_parts[i] = part;
        if (waits_for_load(copy)) {
            SIM_CHECK(!request->push);
            request->copy_states[i] = SIM_COPY_WAITS;
        } else {
            SIM_CHECK(
                pool_committed(copy->offset, pool_shape(copy->shape)->bytes, &request->must_fail));
            shadow_move(copy, request->push, 1);
        }
        if (!request->push) {
            SIM_CHECK(sim.part_record[part] != NONE);
            sim.records[sim.part_record[part]].readers++;
        }
    }
    sim.stats.copies += request->copy_count;
}

bool pool_waits(const struct sim_request *request)
{
    for (uint32_t i = 0; i < request->copy_count; i++) {
        if (request->copy_states[i] == SIM_COPY_WAITS) {
            return true;
        }
    }
    return false;
}

void pool_load_ended(uint32_t job, bool well)
{
    for (uint32_t r = 0; r < SIM_REQUESTS; r++) {
        struct sim_request *request = &sim.requests[r];
        for (uint32_t i = 0; request->pending == SIM_COPYING && i < request->copy_count; i++) {
            if (request->copies[i].load != job || request->copy_states[i] != SIM_COPY_WAITS) {
                continue;
            }
            request->copy_states[i] = well ? SIM_COPY_BEGUN : SIM_COPY_SKIPPED;
            if (well) {
                shadow_move(&request->copies[i], false, 1);
            }
        }
    }
}

static uint64_t content(uint32_t space, uint32_t group, uint32_t node, uint32_t cell,
                        uint32_t tokens)
{
    struct rng rng = {((uint64_t)space << 56) ^ ((uint64_t)group << 48) ^ ((uint64_t)node << 24) ^
                      ((uint64_t)cell << 8) ^ tokens};
    return rng_next(&rng);
}

/* Writes or compares every layer, head and grain of one copy. */
static void copy_cells(const struct sim_request *request, const struct core_copy *copy)
{
    const struct sim_shape *shape = pool_shape(copy->shape);
    const struct sim_run *run = &request->runs[copy->run];
    const struct core_ranges *r = &copy->ranges;
    SIM_CHECK(copy->run_token % GRAIN_TOKENS == 0 && copy->part_token % GRAIN_TOKENS == 0);
    SIM_CHECK(copy->tokens > 0 && ranges_inside(r, &shape->ranges));
    uint32_t grains = (copy->tokens + GRAIN_TOKENS - 1) / GRAIN_TOKENS;
    SIM_CHECK(copy->part_token / GRAIN_TOKENS + grains <= shape->grains);
    SIM_CHECK(copy->run_token / GRAIN_TOKENS + grains <= run->grains);
    for (uint32_t g = 0; g < grains; g++) {
        uint32_t left = copy->tokens - g * GRAIN_TOKENS;
        uint32_t tokens = left < GRAIN_TOKENS ? left : (uint32_t)GRAIN_TOKENS;
        uint32_t node = run->nodes[copy->run_token / GRAIN_TOKENS + g];
        SIM_CHECK(tokens == sim.nodes[node].tokens);
        for (uint32_t i = 0; i < r->layer_count * r->head_count; i++) {
            uint32_t layer = r->layer_begin + i / r->head_count;
            uint32_t head = r->head_begin + i % r->head_count;
            uint64_t at = (uint64_t)(layer - shape->ranges.layer_begin) * shape->ranges.head_count +
                          (head - shape->ranges.head_begin);
            at = at * shape->grains + copy->part_token / GRAIN_TOKENS + g;
            SIM_CHECK((at + 1) * SIM_CELL_BYTES <= shape->bytes);
            uint64_t expected =
                content(request->space, shape->group, node, layer * SIM_HEADS + head, tokens);
            uint8_t *cell = sim.pool.memory + copy->offset + at * SIM_CELL_BYTES;
            uint64_t found = 0;
            (void)memcpy(&found, cell, sizeof found);
            SIM_CHECK(request->push || found == expected);
            (void)memcpy(cell, &expected, request->push ? sizeof expected : 0);
        }
    }
}

/* Before the core is told. A copy that was given up may have moved some of its bytes. */
void pool_end(struct sim_request *request, int status)
{
    for (uint32_t i = 0; i < request->copy_count; i++) {
        const struct core_copy *copy = &request->copies[i];
        bool failed = false;
        uint32_t number = sim.part_record[request->copy_parts[i]];
        SIM_CHECK(number != NONE && sim.records[number].ready == !request->push);
        if (request->copy_states[i] == SIM_COPY_BEGUN) {
            SIM_CHECK(pool_committed(copy->offset, pool_shape(copy->shape)->bytes, &failed));
            SIM_CHECK(pool_part(copy->offset) == request->copy_parts[i]);
            if (status == ST_OK || (!failed && chance(50))) {
                copy_cells(request, copy);
            }
            shadow_move(copy, request->push, -1);
        } else {
            SIM_CHECK(status != ST_OK || request->copy_states[i] == SIM_COPY_SKIPPED);
        }
        if (!request->push) {
            sim.records[number].readers--;
        } else if (status == ST_OK) {
            sim.records[number].ready = true;
        } else {
            model_remove(number);
        }
    }
    free(request->copies);
    free(request->copy_parts);
    free(request->copy_states);
    request->copies = NULL;
    request->copy_parts = NULL;
    request->copy_states = NULL;
    request->copy_count = 0;
}
