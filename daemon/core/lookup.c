/*
 * Lookup: how many leading keys are held, under each group's hit rule, with a lease taken in the
 * same step.
 *
 *   every    a hit of n keys needs the parts of keys 0 .. n-1
 *   window   … of the keys whose tokens lie in the last window before n
 *   state    … of key n-1 only
 */
#include <string.h>

#include "daemon/core/state.h"

enum { PREFETCH_BUCKETS = 12, PREFETCH_KEYS = 6 };

/* A lookup under way. */
struct probe {
    struct core *core;
    uint32_t space;
    const uint8_t *keys;
    uint32_t key_count;
    uint32_t key_grains;
    uint32_t tail_tokens;
};

static const uint32_t *hashes(const struct core *core)
{
    return core->scratch.hashes.base;
}

static bool probe_hashes(struct core *core, uint32_t space, const uint8_t *keys, uint32_t count)
{
    if (vm_array_commit(&core->scratch.hashes, count) != ST_OK) {
        return false;
    }
    uint32_t *out = core->scratch.hashes.base;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = core_hash(core, space, keys + (size_t)i * CORE_KEY_BYTES);
    }
    return true;
}

static bool probe_cover(const struct probe *probe, uint32_t i, const struct core_want *want,
                        struct cover *cover)
{
    struct asked asked = {.key = probe->keys + (size_t)i * CORE_KEY_BYTES,
                          .hash = hashes(probe->core)[i],
                          .space = probe->space,
                          .grains = probe->key_grains,
                          .tail_tokens =
                              i + 1 == probe->key_count ? probe->tail_tokens : GRAIN_TOKENS};
    return find_cover(probe->core, &asked, want, cover);
}

/* The parts for key `i` and `want` at the end of scratch.hits; false: not held. */
static bool probe_key(struct probe *probe, uint32_t i, const struct core_want *want)
{
    struct core *core = probe->core;
    struct cover cover;
    if (!probe_cover(probe, i, want, &cover)) {
        return false;
    }
    struct scratch *scratch = &core->scratch;
    if (vm_array_commit(&scratch->hits, (uint64_t)scratch->hit_count + cover.count) != ST_OK) {
        return false;
    }
    uint32_t *hits = scratch->hits.base;
    for (uint32_t p = 0; p < cover.count; p++) {
        /* consecutive keys of one large block lead to one part */
        if (scratch->hit_count == 0 || hits[scratch->hit_count - 1] != cover.pieces[p].part) {
            hits[scratch->hit_count++] = cover.pieces[p].part;
        }
    }
    return true;
}

/* Leading keys held under the `every` rule, at most `limit`; their parts are in scratch.hits, and
 * ends[i] counts them up to and with key i. */
static uint32_t probe_every(struct probe *probe, const struct core_want *want, uint32_t limit)
{
    struct core *core = probe->core;
    uint32_t *ends = core->scratch.ends.base;
    for (uint32_t i = 0; i < PREFETCH_BUCKETS && i < limit; i++) {
        find_prefetch_bucket(core, hashes(core)[i]);
    }
    for (uint32_t i = 0; i < limit; i++) {
        if (i + PREFETCH_BUCKETS < limit) {
            find_prefetch_bucket(core, hashes(core)[i + PREFETCH_BUCKETS]);
        }
        if (i + PREFETCH_KEYS < limit) {
            find_prefetch_key(core, hashes(core)[i + PREFETCH_KEYS]);
        }
        if (!probe_key(probe, i, want)) {
            return i;
        }
        ends[i] = core->scratch.hit_count;
    }
    return limit;
}

static bool probe_held(struct probe *probe, uint32_t i, const struct core_want *want)
{
    struct cover cover;
    return probe_cover(probe, i, want, &cover);
}

/* First key that a hit of n keys needs from a group. */
static uint32_t first_needed(const struct probe *probe, const struct core_group *group, uint32_t n)
{
    if (group->rule == CORE_STATE) {
        return n - 1;
    }
    if (group->rule == CORE_WINDOW) {
        uint32_t key_tokens = probe->key_grains * GRAIN_TOKENS;
        uint32_t keys = (group->window_tokens + key_tokens - 1) / key_tokens;
        return n > keys ? n - keys : 0;
    }
    return 0;
}

/* The largest hit of at most n keys that a window or state group allows, cut to multiples of
 * `step` keys except at n_end (the whole prompt). */
static uint32_t probe_tail(struct probe *probe, const struct core_want *want,
                           const struct core_group *group, uint32_t n)
{
    while (n > 0) {
        uint32_t first = first_needed(probe, group, n);
        uint32_t i = n;
        while (i > first && probe_held(probe, i - 1, want)) {
            i--;
        }
        if (i == first) {
            return n;
        }
        /* key i-1 is missing: no hit whose window holds it; the next candidate ends before it */
        n = i - 1;
    }
    return 0;
}

static uint32_t cut_to_step(const struct core_event *event, uint32_t n)
{
    uint32_t key_grains = event->u.lookup.key_grains;
    uint32_t step = event->u.lookup.step_grains;
    if (step <= key_grains) {
        return step <= 1 || key_grains % step == 0 ? n : 0;
    }
    if (step % key_grains != 0) {
        return 0;
    }
    return n / (step / key_grains) * (step / key_grains);
}

static const struct core_group *group_of(const struct core *core, uint32_t space,
                                         const struct core_want *want)
{
    return &space_at(core, space)->groups[want->group];
}

/* Settles the hit length; `every` wants first, each shortening what the next must look at. A step
 * cut or a tail rule may shorten the hit again, so tail wants are asked until nothing changes. */
static uint32_t settle(struct probe *probe, const struct core_event *event,
                       const struct core_want *wants, uint32_t want_count, uint32_t every_hit)
{
    uint32_t n = cut_to_step(event, every_hit);
    for (bool changed = true; changed && n > 0;) {
        changed = false;
        for (uint32_t w = 0; w < want_count && n > 0; w++) {
            const struct core_group *group = group_of(probe->core, probe->space, &wants[w]);
            if (group->rule == CORE_EVERY) {
                continue;
            }
            uint32_t held = probe_tail(probe, &wants[w], group, n);
            held = held == n ? n : cut_to_step(event, held);
            changed = changed || held != n;
            n = held;
        }
    }
    return n;
}

/* Wants of all groups when none were given. */
static uint32_t wants_of(const struct core *core, const struct core_event *event,
                         struct core_want *all, const struct core_want **wants_out)
{
    if (event->u.lookup.want_count > 0) {
        *wants_out = event->u.lookup.wants;
        return event->u.lookup.want_count;
    }
    const struct space *space = space_at(core, event->u.lookup.space);
    for (uint32_t g = 0; g < space->group_count; g++) {
        all[g] = (struct core_want){.group = g,
                                    .ranges = {.layer_count = space->groups[g].layer_count,
                                               .head_count = space->groups[g].head_count}};
    }
    *wants_out = all;
    return space->group_count;
}

static const char *lookup_refusal(const struct core *core, const struct core_event *event)
{
    if (!session_has_space(core, event->session, event->u.lookup.space)) {
        return "lookup: this session registered no such space";
    }
    const struct space *space = space_at(core, event->u.lookup.space);
    for (uint32_t w = 0; w < event->u.lookup.want_count; w++) {
        const struct core_want *want = &event->u.lookup.wants[w];
        if (want->group >= space->group_count) {
            return "lookup: the space has no such group";
        }
        const struct core_group *group = &space->groups[want->group];
        struct core_ranges all = {.layer_count = group->layer_count,
                                  .head_count = group->head_count};
        if (want->ranges.layer_count == 0 || want->ranges.head_count == 0 ||
            !ranges_inside(&want->ranges, &all)) {
            return "lookup: layers or heads outside the group";
        }
    }
    return NULL;
}

/* Who pushed the hit, by keys. The parts of the first `every` want tell. */
static uint32_t count_origins(struct core *core, uint32_t hits_end, uint32_t hit_keys)
{
    struct core_origin *origins = core->scratch.origins;
    const uint32_t *hits = core->scratch.hits.base;
    const uint32_t *ends = core->scratch.ends.base;
    uint32_t count = 0;
    for (uint32_t i = 0; i < hit_keys; i++) {
        uint32_t at = ends[i] == 0 ? 0 : ends[i] - 1;
        if (at >= hits_end) {
            break;
        }
        const struct origin *origin = origin_at(core, part_at(core, hits[at])->origin);
        uint32_t o = 0;
        while (o < count && (origins[o].instance_id_bytes != origin->id_bytes ||
                             memcmp(origins[o].instance_id, origin->id, origin->id_bytes) != 0)) {
            o++;
        }
        if (o == CORE_ORIGINS_MAX) {
            continue;
        }
        if (o == count) {
            origins[count] = (struct core_origin){.instance_id_bytes = origin->id_bytes};
            (void)memcpy(origins[count++].instance_id, origin->id, origin->id_bytes);
        }
        origins[o].keys++;
    }
    return count;
}

/* The answer for a hit of n keys whose parts are scratch.hits[0 .. count). */
static void answer(struct core *core, const struct core_event *event, uint32_t n, uint32_t count)
{
    uint64_t lease = 0;
    uint64_t bytes = 0;
    const uint32_t *hits = core->scratch.hits.base;
    for (uint32_t i = 0; i < count; i++) {
        part_touch(core, hits[i]);
        bytes += shape_at(core, part_at(core, hits[i])->shape)->bytes;
    }
    int status = ST_OK;
    if (event->u.lookup.lease && count > 0) {
        uint32_t instance = session_at(core, event->session)->instance;
        status = lease_create(core, instance, hits, count, &lease);
    }
    const char *text = status == ST_OK ? NULL : "lookup: the instance's lease quota is used up";
    struct core_action *reply = reply_add(core, event->session, event->request, status, text);
    if (status != ST_OK) {
        return;
    }
    reply->hit_keys = n;
    reply->hit_tokens = n * event->u.lookup.key_grains * GRAIN_TOKENS;
    if (n == event->u.lookup.key_count && n > 0) {
        reply->hit_tokens -= GRAIN_TOKENS - event->u.lookup.tail_tokens;
    }
    reply->hit_bytes = bytes;
    reply->lease = lease;
    if (event->u.lookup.origins) {
        reply->origin_count = count_origins(core, count, n);
        reply->origins = core->scratch.origins;
    }
    core->counters.lookup_hit_keys += n;
}

/* Parts of window and state wants, once the hit's length is known. */
static void collect_tails(struct probe *probe, const struct core_want *wants, uint32_t want_count,
                          uint32_t n)
{
    for (uint32_t w = 0; w < want_count && n > 0; w++) {
        const struct core_group *group = group_of(probe->core, probe->space, &wants[w]);
        for (uint32_t i = first_needed(probe, group, n); group->rule != CORE_EVERY && i < n; i++) {
            bool held = probe_key(probe, i, &wants[w]);
            KVEIK_ASSERT(held);
        }
    }
}

void step_lookup(struct core *core, const struct core_event *event)
{
    core->counters.lookups++;
    core->counters.lookup_keys += event->u.lookup.key_count;
    const char *refusal = lookup_refusal(core, event);
    if (refusal != NULL) {
        (void)reply_add(core, event->session, event->request, ST_INVALID, refusal);
        return;
    }
    struct core_want all[CORE_GROUPS_MAX];
    const struct core_want *wants = NULL;
    uint32_t want_count = wants_of(core, event, all, &wants);
    struct probe probe = {.core = core,
                          .space = event->u.lookup.space,
                          .keys = event->u.lookup.keys,
                          .key_count = event->u.lookup.key_count,
                          .key_grains = event->u.lookup.key_grains,
                          .tail_tokens = event->u.lookup.tail_tokens};
    if (!probe_hashes(core, probe.space, probe.keys, probe.key_count) ||
        vm_array_commit(&core->scratch.ends, probe.key_count) != ST_OK) {
        (void)reply_add(core, event->session, event->request, ST_NO_MEMORY, NULL);
        return;
    }
    uint32_t n = probe.key_count;
    uint32_t every = 0;
    for (uint32_t w = 0; w < want_count; w++) {
        if (group_of(core, probe.space, &wants[w])->rule == CORE_EVERY) {
            core->scratch.hit_count = 0;
            n = probe_every(&probe, &wants[w], n);
            every++;
        }
    }
    n = settle(&probe, event, wants, want_count, n);
    if (every == 1) {
        const uint32_t *ends = core->scratch.ends.base;
        core->scratch.hit_count = n == 0 ? 0 : ends[n - 1];
    } else {
        /* several wants, or the hits of one only: collect them all for the final length */
        core->scratch.hit_count = 0;
        for (uint32_t w = 0; w < want_count; w++) {
            if (group_of(core, probe.space, &wants[w])->rule == CORE_EVERY) {
                (void)probe_every(&probe, &wants[w], n);
            }
        }
    }
    collect_tails(&probe, wants, want_count, n);
    answer(core, event, n, core->scratch.hit_count);
}
