/*
 * One space, blocks of one grain, one size, no leases: hits and evictions equal a plain LRU list's,
 * block for block and in order. A request counts as one use of all its blocks, the last one first.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

enum {
    KEYS = 1000,
    CAPACITY = 256,
    CHAIN_MAX = 40,
    SLOT = 512,
    COMPARE_EVERY = 16,
};

struct plain {
    uint32_t order[CAPACITY]; /* the least recently used first */
    uint32_t count;
    uint8_t keys[KEYS][CORE_KEY_BYTES];
    uint64_t hits, evictions;
};

static struct plain plain;

static uint32_t plain_find(uint32_t key)
{
    for (uint32_t i = 0; i < plain.count; i++) {
        if (plain.order[i] == key) {
            return i;
        }
    }
    return NONE;
}

static void plain_take(uint32_t at)
{
    plain.count--;
    (void)memmove(&plain.order[at], &plain.order[at + 1],
                  (plain.count - at) * sizeof plain.order[0]);
}

static void plain_use(uint32_t key)
{
    uint32_t at = plain_find(key);
    if (at != NONE) {
        plain_take(at);
    }
    plain.order[plain.count++] = key;
}

/* The core's list is the plain one. */
static void compare(uint32_t shape)
{
    uint32_t n = shape_at(sim.core, shape)->lru_old;
    for (uint32_t i = 0; i < plain.count; i++) {
        SIM_CHECK(n != NONE);
        const struct block *block = block_at(sim.core, part_at(sim.core, n)->block);
        SIM_CHECK(memcmp(keys_at(&sim.core->keys, block->keys), plain.keys[plain.order[i]],
                         CORE_KEY_BYTES) == 0);
        n = part_at(sim.core, n)->lru_next;
    }
    SIM_CHECK(n == NONE && sim.core->parts.used == plain.count);
}

static void step(const struct core_event *event)
{
    core_step(sim.core, event, &sim.actions);
    sim.answer = sim.actions.items[sim.actions.count - 1];
    sim.step++;
}

static void lookup(uint32_t space, const uint8_t *keys, const uint32_t *chain, uint32_t count)
{
    uint32_t expected = 0;
    while (expected < count && plain_find(chain[expected]) != NONE) {
        expected++;
    }
    step(&(struct core_event){.kind = EVENT_LOOKUP,
                              .u.lookup = {.space = space,
                                           .keys = keys,
                                           .key_count = count,
                                           .key_grains = 1,
                                           .tail_tokens = GRAIN_TOKENS}});
    SIM_CHECK(sim.answer.status == ST_OK && sim.answer.hit_keys == expected);
    for (uint32_t i = expected; i-- > 0;) {
        plain_use(chain[i]);
    }
    plain.hits += expected;
}

static void push(uint32_t space, uint32_t shape, const uint8_t *keys, const uint32_t *chain,
                 uint32_t count)
{
    bool held[CHAIN_MAX];
    uint32_t held_count = 0;
    uint32_t fresh_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = plain_find(chain[i]);
        held[i] = at != NONE;
        if (held[i]) {
            plain_take(at); /* what the push needs does not go for the blocks behind it */
            held_count++;
        } else {
            fresh_count++;
            if (plain.count + held_count + fresh_count > CAPACITY) {
                plain_take(0);
                plain.evictions++;
            }
        }
    }
    struct core_push_run run = {shape, keys, count, count, GRAIN_TOKENS, NULL};
    step(&(struct core_event){.kind = EVENT_PUSH,
                              .u.push = {.space = space, .runs = &run, .run_count = 1}});
    SIM_CHECK(sim.answer.status == ST_OK && sim.answer.status_count == count);
    for (uint32_t i = count; i-- > 0;) {
        SIM_CHECK(sim.answer.statuses[i] == (held[i] ? ST_HELD : ST_OK));
        if (held[i]) {
            plain_use(chain[i]);
        }
    }
    if (sim.answer.kind == ACTION_COPY) {
        step(&(struct core_event){.kind = EVENT_COPY_DONE, .u.copy_done.status = ST_OK});
    }
    for (uint32_t i = count; i-- > 0;) {
        if (!held[i]) {
            plain_use(chain[i]);
        }
    }
}

static void operation(uint32_t space, uint32_t shape)
{
    uint8_t keys[CHAIN_MAX * CORE_KEY_BYTES];
    uint32_t chain[CHAIN_MAX];
    uint32_t count = 1 + pick(CHAIN_MAX);
    uint32_t first = pick(KEYS / CHAIN_MAX) * CHAIN_MAX * (chance(70) ? 1 : 0);
    for (uint32_t i = 0; i < count; i++) {
        chain[i] = (first + i) % KEYS;
        (void)memcpy(keys + (size_t)i * CORE_KEY_BYTES, plain.keys[chain[i]], CORE_KEY_BYTES);
    }
    if (chance(50)) {
        lookup(space, keys, chain, count);
    } else {
        push(space, shape, keys, chain, count);
    }
}

void lru_run(uint64_t seed, uint64_t operations)
{
    sim.rng.state = seed;
    struct core_limits limits = {.pool_bytes = CAPACITY * SLOT,
                                 .granule_bytes = 4096,
                                 .keys_max = 4 * CAPACITY,
                                 .blocks_max = 2 * CAPACITY,
                                 .parts_max = 2 * CAPACITY,
                                 .sessions_max = 1,
                                 .requests_max = 1,
                                 .instances_max = 1,
                                 .spaces_max = 1,
                                 .shapes_max = 1,
                                 .leases_max = 1,
                                 .tenants_max = 1,
                                 .instance_lease_bytes_max = 1,
                                 .high_percent = 100,
                                 .low_percent = 100,
                                 .hash_seed = rng_next(&sim.rng)};
    SIM_CHECK(core_create(&limits, &sim.core, NULL) == ST_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        for (uint32_t b = 0; b < CORE_KEY_BYTES; b++) {
            plain.keys[i][b] = (uint8_t)rng_next(&sim.rng);
        }
    }
    static const struct core_group group = {CORE_EVERY, 0, 1, 1};
    static const uint8_t id[CORE_KEY_BYTES] = {1};
    step(&(struct core_event){.kind = EVENT_SESSION_OPEN,
                              .u.session_open = {.instance_id = id, .instance_id_bytes = 1}});
    step(&(struct core_event){.kind = EVENT_SPACE,
                              .u.space = {.id = id, .group_count = 1, .groups = &group}});
    uint32_t space = sim.answer.handle;
    step(&(struct core_event){
        .kind = EVENT_SHAPE,
        .u.shape = {.space = space, .grains = 1, .ranges = {0, 1, 0, 1}, .bytes = SLOT}});
    uint32_t shape = sim.answer.handle;
    for (uint64_t i = 0; i < operations; i++) {
        operation(space, shape);
        if (i % COMPARE_EVERY == 0) {
            compare(shape);
        }
    }
    core_check(sim.core);
    core_destroy(sim.core);
    (void)printf("sim_core --lru: %llu operations, seed %llu: %llu hits and %llu evictions, all as "
                 "plain LRU has them\n",
                 (unsigned long long)operations, (unsigned long long)seed,
                 (unsigned long long)plain.hits, (unsigned long long)plain.evictions);
}
