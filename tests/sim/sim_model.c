/* The plain model: prompts, records of what was pushed, and what must therefore be held. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/sim/sim.h"

static const struct core_group groups[SIM_KINDS][SIM_GROUPS] = {
    {{CORE_EVERY, 0, 4, 4}},
    {{CORE_EVERY, 0, 2, 4}, {CORE_WINDOW, 72, 2, 4}},
    {{CORE_EVERY, 0, 4, 2}, {CORE_STATE, 0, 2, 1}},
};

const struct core_group *space_groups(uint32_t space, uint32_t *count_out)
{
    *count_out = space % SIM_KINDS == 0 ? 1 : 2;
    return groups[space % SIM_KINDS];
}

void model_build(void)
{
    for (uint32_t i = 0; i < SIM_NODES; i++) {
        struct sim_node *node = &sim.nodes[i];
        uint32_t parent = i == 0 || chance(2) ? NONE : chance(80) ? i - 1 : pick(i);
        while (parent != NONE && (sim.nodes[parent].tokens != GRAIN_TOKENS ||
                                  sim.nodes[parent].depth >= SIM_DEPTH_MAX - 1)) {
            parent = sim.nodes[parent].parent;
        }
        node->parent = parent;
        node->depth = parent == NONE ? 1 : sim.nodes[parent].depth + 1;
        node->tokens = chance(15) ? 1 + pick(GRAIN_TOKENS - 1) : GRAIN_TOKENS;
        uint64_t words[CORE_KEY_BYTES / 8];
        for (uint32_t w = 0; w < CORE_KEY_BYTES / 8; w++) {
            words[w] = rng_next(&sim.rng);
        }
        (void)memcpy(node->key, words, sizeof words);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(sim.recent); i++) {
        sim.recent[i] = pick(SIM_NODES);
    }
}

uint32_t model_path(uint32_t node, uint32_t *path_out)
{
    uint32_t depth = sim.nodes[node].depth;
    for (uint32_t i = depth; i-- > 0;) {
        path_out[i] = node;
        node = sim.nodes[node].parent;
    }
    return depth;
}

uint32_t model_prompt(void)
{
    uint32_t *slot = &sim.recent[pick(ARRAY_COUNT(sim.recent))];
    if (chance(20)) {
        *slot = pick(SIM_NODES);
    }
    return *slot;
}

uint32_t model_cells(const struct core_ranges *ranges)
{
    uint32_t cells = 0;
    for (uint32_t l = 0; l < ranges->layer_count; l++) {
        for (uint32_t h = 0; h < ranges->head_count; h++) {
            cells |= 1u << ((ranges->layer_begin + l) * SIM_HEADS + ranges->head_begin + h);
        }
    }
    return cells;
}

/* Whether the core may count on the record: what is on disk only, while the disk can be read. */
bool model_record_held(const struct sim_record *record, bool filling)
{
    switch (part_at(sim.core, record->part)->state) {
    case PART_FILLING:
        return filling;
    case PART_READY:
        return true;
    case PART_STORED:
    case PART_LOADING:
        return sim.disk.readable;
    default:
        return false;
    }
}

/* Every layer and head that is wanted lies in some block that has the key and the grains before
 * it. */
bool model_held(uint32_t space, const struct core_want *want, uint32_t node, uint32_t key_grains,
                uint32_t tail_tokens, bool filling)
{
    if (sim.nodes[node].tokens != tail_tokens) {
        return false;
    }
    uint32_t wanted = model_cells(&want->ranges);
    uint32_t found = 0;
    const struct sim_places *places = &sim.places[space][node];
    for (uint32_t i = 0; i < places->count; i++) {
        const struct sim_record *record = &sim.records[places->items[i].record];
        if (record->group == want->group && model_record_held(record, filling) &&
            places->items[i].grain + 1u >= key_grains) {
            found |= record->cells;
        }
    }
    return (found & wanted) == wanted;
}

uint32_t model_first_needed(const struct core_group *group, uint32_t tokens, uint32_t n,
                            uint32_t key_grains)
{
    switch (group->rule) {
    case CORE_WINDOW:
        return tokens <= group->window_tokens
                   ? 0
                   : (tokens - group->window_tokens) / (key_grains * GRAIN_TOKENS);
    case CORE_STATE:
        return n - 1;
    default:
        return 0;
    }
}

/* The longest hit that every want's rule allows: tried from the longest on. */
uint32_t model_hit(uint32_t space, const struct core_event *event, const uint32_t *keys,
                   const struct core_want *wants, uint32_t want_count)
{
    uint32_t group_count = 0;
    const struct core_group *all = space_groups(space, &group_count);
    uint32_t key_count = event->u.lookup.key_count;
    uint32_t key_grains = event->u.lookup.key_grains;
    uint32_t tail = event->u.lookup.tail_tokens;
    static bool held[CORE_WANTS_MAX][SIM_DEPTH_MAX];
    for (uint32_t w = 0; w < want_count; w++) {
        for (uint32_t i = 0; i < key_count; i++) {
            held[w][i] = model_held(space, &wants[w], keys[i], key_grains,
                                    i + 1 == key_count ? tail : GRAIN_TOKENS, false);
        }
    }
    for (uint32_t n = key_count; n > 0; n--) {
        uint32_t step = event->u.lookup.step_grains;
        bool good = step <= 1 || n * key_grains % step == 0;
        uint32_t tokens = n * key_grains * GRAIN_TOKENS;
        tokens -= n == key_count ? GRAIN_TOKENS - tail : 0;
        for (uint32_t w = 0; good && w < want_count; w++) {
            uint32_t first = model_first_needed(&all[wants[w].group], tokens, n, key_grains);
            for (uint32_t i = first; good && i < n; i++) {
                good = held[w][i];
            }
        }
        if (good) {
            return n;
        }
    }
    return 0;
}

static void places_add(struct sim_places *places, uint32_t record, uint32_t grain)
{
    if (places->count == places->room) {
        places->room = places->room == 0 ? 4 : 2 * places->room;
        places->items = realloc(places->items, places->room * sizeof places->items[0]);
        SIM_CHECK(places->items != NULL);
    }
    places->items[places->count++] =
        (struct sim_place){.record = (uint16_t)record, .grain = (uint16_t)grain};
}

static void places_remove(struct sim_places *places, uint32_t record)
{
    uint32_t i = 0;
    while (i < places->count && places->items[i].record != record) {
        i++;
    }
    SIM_CHECK(i < places->count);
    places->items[i] = places->items[--places->count];
}

uint32_t model_add(const struct sim_record *record)
{
    uint32_t number = 0;
    while (number < SIM_RECORDS && sim.records[number].used) {
        number++;
    }
    SIM_CHECK(number < SIM_RECORDS);
    sim.records[number] = *record;
    sim.records[number].used = true;
    sim.record_count++;
    sim.record_high = number >= sim.record_high ? number + 1 : sim.record_high;
    SIM_CHECK(sim.part_record[record->part] == NONE);
    sim.part_record[record->part] = number;
    uint32_t node = record->last;
    for (uint32_t g = record->grains; g-- > 0; node = sim.nodes[node].parent) {
        if (record->all_keys || g + 1 == record->grains) {
            places_add(&sim.places[record->space][node], number, g);
        }
    }
    return number;
}

void model_remove(uint32_t number)
{
    struct sim_record *record = &sim.records[number];
    SIM_CHECK(record->used && record->readers == 0);
    uint32_t node = record->last;
    for (uint32_t g = record->grains; g-- > 0; node = sim.nodes[node].parent) {
        if (record->all_keys || g + 1 == record->grains) {
            places_remove(&sim.places[record->space][node], number);
        }
    }
    if (sim.part_record[record->part] == number) {
        sim.part_record[record->part] = NONE;
    }
    record->used = false;
    sim.record_count--;
}

static uint64_t evicted_now(void)
{
    struct core_counters c;
    core_counters(sim.core, &c);
    return c.evicted_space + c.evicted_quota + c.evicted_watermark + c.evicted_slab +
           c.reclaimed_parts;
}

static bool in_copy(const struct core_copy *copies, uint32_t count, uint32_t part)
{
    for (uint32_t i = 0; i < count; i++) {
        if (pool_part(copies[i].offset) == part) {
            return true;
        }
    }
    return false;
}

/* After a step, before what it pushed is noted: parts that are gone, or whose number is another
 * part's now, were evicted; as many as the core counted, and none that was in use. */
void model_observe_evictions(void)
{
    uint64_t now = evicted_now();
    uint64_t expected = now - sim.evicted_before;
    sim.evicted_before = now;
    if (expected == 0 && sim.config->disk.segments == 0) {
        return;
    }
    sim.stats.evicted += expected;
    uint64_t gone = 0;
    bool pushed = sim.answered && sim.answer.kind == ACTION_COPY;
    for (uint32_t i = 0; i < sim.record_high; i++) {
        struct sim_record *record = &sim.records[i];
        if (!record->used) {
            continue;
        }
        bool is_new = pushed && in_copy(sim.answer.copies, sim.answer.copy_count, record->part) &&
                      sim.requests[sim.answer.request].push;
        if (is_new || part_at(sim.core, record->part)->state == PART_ABSENT) {
            SIM_CHECK(record->ready && record->readers == 0);
            struct sim_record copy = *record;
            model_remove(i);
            model_check_leases(&copy);
            gone++;
        } else if (part_at(sim.core, record->part)->state == PART_FAILED) {
            SIM_CHECK(sim.config->disk.faults);
            model_check_leases(record);
        }
    }
    /* what the disk lost goes when nobody holds it any more */
    SIM_CHECK(gone == expected || (sim.config->disk.faults && gone > expected));
}

static bool lease_needs(const struct sim_lease *lease, const struct sim_record *record)
{
    uint32_t node = record->last;
    for (uint32_t g = record->grains; g-- > 0; node = sim.nodes[node].parent) {
        for (uint32_t i = 0; i < lease->key_count; i++) {
            if (lease->keys[i] == node) {
                return true;
            }
        }
    }
    return false;
}

/* What is leased or pinned stays readable whatever went. */
void model_check_leases(const struct sim_record *gone)
{
    for (uint32_t n = 0; n < SIM_LEASES; n++) {
        struct sim_lease *lease = &sim.leases[n];
        if (lease->id == 0 || lease->space != gone->space || !lease_needs(lease, gone)) {
            continue;
        }
        lease->broken = lease->broken || sim.disk.fault;
        if (lease->broken || !sim.disk.readable) {
            continue;
        }
        for (uint32_t w = 0; w < lease->want_count; w++) {
            for (uint32_t i = lease->first_needed[w]; i < lease->key_count; i++) {
                SIM_CHECK(model_held(lease->space, &lease->wants[w], lease->keys[i],
                                     lease->key_grains, sim.nodes[lease->keys[i]].tokens, false));
            }
        }
    }
    for (uint32_t p = 0; p < SIM_PINS && !sim.config->disk.faults; p++) {
        uint32_t group_count = 0;
        const struct core_group *all = space_groups(gone->space, &group_count);
        for (uint32_t g = 0; sim.pins[p] != NONE && gone->space == sim.pin_space && g < group_count;
             g++) {
            struct core_want want = {g, {0, all[g].layer_count, 0, all[g].head_count}};
            SIM_CHECK(model_held(sim.pin_space, &want, sim.pins[p], 1, GRAIN_TOKENS, false));
        }
    }
}
