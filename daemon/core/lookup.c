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

/* How many keys ahead each cache miss of a probe is begun. */
enum {
    AHEAD_BUCKET = 28,
    AHEAD_KEY = 20,
    AHEAD_OVERFLOW = 15,
    AHEAD_BLOCK = 10,
    AHEAD_PART = 5,
    AHEAD_RING = 32,
    STRETCH_MAX = 64, /* keys that the table is asked about before neighbours are tried again */
};

/* A lookup under way. */
struct probe {
    struct core *core;
    uint32_t space;
    const uint8_t *keys;
    uint32_t key_count;
    uint32_t key_grains;
    uint32_t tail_tokens;
    bool failed; /* out of memory */
    struct cover cover;
    uint32_t recent[COVER_PIECES_MAX]; /* parts of the key before */
    uint32_t recent_count;
    bool stopped;                    /* a key is not held */
    uint32_t last_number;            /* of the key found last; NONE: unknown */
    uint32_t direction;              /* to the next one: 1, or 2^32 - 1 for one back */
    uint32_t ahead_keys[AHEAD_RING]; /* on the way to their parts */
    uint32_t ahead_blocks[AHEAD_RING];
};

static const uint32_t *hashes(const struct core *core)
{
    return core->scratch.hashes.base;
}

/* Hashes of keys [from, to), for a stretch that the table is asked about. */
static void hash_stretch(const struct probe *probe, uint32_t from, uint32_t to)
{
    uint32_t *out = probe->core->scratch.hashes.base;
    for (uint32_t i = from; i < to; i++) {
        out[i] = core_hash(probe->core, probe->space, probe->keys + (size_t)i * CORE_KEY_BYTES);
    }
}

static struct asked asked_of(const struct probe *probe, uint32_t i)
{
    return (struct asked){.key = probe->keys + (size_t)i * CORE_KEY_BYTES,
                          .space = probe->space,
                          .grains = probe->key_grains,
                          .tail_tokens =
                              i + 1 == probe->key_count ? probe->tail_tokens : GRAIN_TOKENS};
}

/* Whether key `i` is held for `want`; the parts are in probe->cover. */
static bool probe_held(struct probe *probe, uint32_t i, const struct core_want *want)
{
    struct asked asked = asked_of(probe, i);
    asked.hash = core_hash(probe->core, asked.space, asked.key);
    return find_cover(probe->core, &asked, want, &probe->cover);
}

static bool among(const uint32_t *parts, uint32_t count, uint32_t part)
{
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i] == part) {
            return true;
        }
    }
    return false;
}

/* Puts the parts of probe->cover at the end of scratch.hits. */
static bool hits_add(struct probe *probe)
{
    struct scratch *scratch = &probe->core->scratch;
    const struct cover *cover = &probe->cover;
    if (vm_array_commit(&scratch->hits, (uint64_t)scratch->hit_count + cover->count) != ST_OK) {
        probe->failed = true;
        return false;
    }
    uint32_t *hits = scratch->hits.base;
    uint32_t first = scratch->hit_count;
    for (uint32_t p = 0; p < cover->count; p++) {
        /* consecutive keys of one large block lead to the same parts */
        uint32_t part = cover->pieces[p].part;
        if (!among(probe->recent, probe->recent_count, part) &&
            !among(hits + first, scratch->hit_count - first, part)) {
            hits[scratch->hit_count++] = part;
        }
    }
    for (uint32_t p = 0; p < cover->count; p++) {
        probe->recent[p] = cover->pieces[p].part;
    }
    probe->recent_count = cover->count;
    return true;
}

/* The parts for key `i` and `want` at the end of scratch.hits; false: not held, or failed. */
static bool probe_key(struct probe *probe, uint32_t i, const struct core_want *want)
{
    return probe_held(probe, i, want) && hits_add(probe);
}

/* Goes ahead of key `i`, of `limit` keys, on the way to its part. */
static inline void probe_ahead(struct probe *probe, uint32_t i, uint32_t limit)
{
    const struct core *core = probe->core;
    if (i + AHEAD_BUCKET < limit) {
        find_prefetch_bucket(core, hashes(core)[i + AHEAD_BUCKET]);
    }
    if (i + AHEAD_KEY < limit) {
        uint32_t at = i + AHEAD_KEY;
        probe->ahead_keys[at % AHEAD_RING] = find_prefetch_key(core, hashes(core)[at]);
    }
    if (i + AHEAD_OVERFLOW < limit) {
        uint32_t at = i + AHEAD_OVERFLOW;
        if (probe->ahead_keys[at % AHEAD_RING] == NONE) {
            probe->ahead_keys[at % AHEAD_RING] = find_prefetch_overflow(core, hashes(core)[at]);
        }
    }
    if (i + AHEAD_BLOCK < limit) {
        uint32_t at = (i + AHEAD_BLOCK) % AHEAD_RING;
        probe->ahead_blocks[at] = find_prefetch_block(core, probe->ahead_keys[at]);
    }
    if (i + AHEAD_PART < limit) {
        find_prefetch_part(core, probe->ahead_blocks[(i + AHEAD_PART) % AHEAD_RING]);
    }
}

/*
 * Prompts were pushed in order, so the numbers of their keys mostly follow each other: the next key
 * is looked for right beside the last one found, in memory that is read in sequence, and only where
 * that fails in the table, whose buckets are anywhere. Up to and without the key where it fails.
 */
static uint32_t follow(struct probe *probe, const struct core_want *want, uint32_t i,
                       uint32_t limit)
{
    uint32_t *ends = probe->core->scratch.ends.base;
    for (; i < limit && probe->last_number != NONE; i++) {
        struct asked asked = asked_of(probe, i);
        uint32_t number = probe->last_number + probe->direction;
        if (!find_guess(probe->core, &asked, want, number, &probe->cover)) {
            /* runs that eviction freed are filled in the other direction */
            probe->direction = 0u - probe->direction;
            number = probe->last_number + probe->direction;
            if (!find_guess(probe->core, &asked, want, number, &probe->cover)) {
                probe->last_number = NONE;
                return i;
            }
        }
        if (!hits_add(probe)) {
            return i;
        }
        probe->last_number = number;
        ends[i] = probe->core->scratch.hit_count;
    }
    return i;
}

/* Asks the table about keys [from, to), every cache miss begun ahead of time; stops early where a
 * run of neighbouring keys may begin. The first key not held, or where to go on. */
static uint32_t probe_stretch(struct probe *probe, const struct core_want *want, uint32_t from,
                              uint32_t to)
{
    struct core *core = probe->core;
    uint32_t *ends = core->scratch.ends.base;
    hash_stretch(probe, from, to);
    for (uint32_t i = from; i < from + AHEAD_BUCKET && i < to; i++) {
        find_prefetch_bucket(core, hashes(core)[i]);
    }
    for (uint32_t i = from; i < from + AHEAD_KEY && i < to; i++) {
        probe->ahead_keys[i % AHEAD_RING] = find_prefetch_key(core, hashes(core)[i]);
    }
    for (uint32_t i = from; i < from + AHEAD_BLOCK && i < to; i++) {
        probe->ahead_blocks[i % AHEAD_RING] =
            find_prefetch_block(core, probe->ahead_keys[i % AHEAD_RING]);
    }
    for (uint32_t i = from; i < to; i++) {
        probe_ahead(probe, i, to);
        struct asked asked = asked_of(probe, i);
        asked.hash = hashes(core)[i];
        asked.hint = probe->ahead_keys[i % AHEAD_RING] + 1;
        if (!find_cover(core, &asked, want, &probe->cover) || !hits_add(probe)) {
            probe->stopped = true;
            return i;
        }
        ends[i] = core->scratch.hit_count;
        probe->last_number = probe->ahead_keys[i % AHEAD_RING];
    }
    return to;
}

/* Leading keys held under the `every` rule, at most `limit`; their parts are in scratch.hits, and
 * ends[i] counts them up to and with key i. */
static uint32_t probe_every(struct probe *probe, const struct core_want *want, uint32_t limit)
{
    probe->recent_count = 0;
    probe->last_number = NONE;
    probe->direction = 1;
    probe->stopped = false;
    uint32_t stretch = 1;
    uint32_t i = 0;
    while (i < limit && !probe->stopped && !probe->failed) {
        uint32_t to = limit - i > stretch ? i + stretch : limit;
        i = probe_stretch(probe, want, i, to);
        uint32_t followed = probe->stopped ? i : follow(probe, want, i, limit);
        /* where neighbours do not follow, longer stretches at once hide more cache misses */
        stretch = followed > i ? 1 : (stretch < STRETCH_MAX ? stretch * 2 : STRETCH_MAX);
        i = followed;
    }
    return i;
}

/* Tokens of a hit of n keys. */
static uint32_t tokens_of(const struct probe *probe, uint32_t n)
{
    uint32_t tokens = n * probe->key_grains * GRAIN_TOKENS;
    return n == probe->key_count && n > 0 ? tokens - (GRAIN_TOKENS - probe->tail_tokens) : tokens;
}

/* First key that a hit of n keys needs from a group. */
static uint32_t first_needed(const struct probe *probe, const struct core_group *group, uint32_t n)
{
    if (group->rule == CORE_STATE) {
        return n - 1;
    }
    if (group->rule == CORE_WINDOW) {
        uint32_t tokens = tokens_of(probe, n);
        return tokens > group->window_tokens
                   ? (tokens - group->window_tokens) / (probe->key_grains * GRAIN_TOKENS)
                   : 0;
    }
    return 0;
}

/* The largest hit of at most n keys that a window or state group allows. Keys [*held_from, n) are
 * known to be held from the times before, so that no key is probed twice for one want. */
static uint32_t probe_tail(struct probe *probe, const struct core_want *want,
                           const struct core_group *group, uint32_t n, uint32_t *held_from)
{
    while (n > 0) {
        uint32_t first = first_needed(probe, group, n);
        uint32_t i = *held_from < n ? *held_from : n;
        while (i > first && probe_held(probe, i - 1, want)) {
            i--;
        }
        *held_from = i;
        if (i <= first) {
            return n;
        }
        /* key i-1 is missing: no hit whose window holds it; the next candidate ends before it */
        n = i - 1;
    }
    return 0;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Hits are multiples of step_grains. */
static uint32_t cut_to_step(const struct core_event *event, uint32_t n)
{
    uint32_t step = event->u.lookup.step_grains;
    if (step <= 1) {
        return n;
    }
    uint32_t keys = step / gcd(step, event->u.lookup.key_grains);
    return n / keys * keys;
}

static const struct core_group *group_of(const struct core *core, uint32_t space,
                                         const struct core_want *want)
{
    return &space_at(core, space)->groups[want->group];
}

/* Settles the hit length. A step cut or a tail rule may shorten the hit again, so window and state
 * wants are asked until nothing changes. */
static uint32_t settle(struct probe *probe, const struct core_event *event,
                       const struct core_want *wants, uint32_t want_count, uint32_t every_hit)
{
    uint32_t held_from[CORE_WANTS_MAX];
    for (uint32_t w = 0; w < want_count; w++) {
        held_from[w] = UINT32_MAX;
    }
    uint32_t n = cut_to_step(event, every_hit);
    for (bool changed = true; changed && n > 0;) {
        changed = false;
        for (uint32_t w = 0; w < want_count && n > 0; w++) {
            const struct core_group *group = group_of(probe->core, probe->space, &wants[w]);
            if (group->rule == CORE_EVERY) {
                continue;
            }
            uint32_t held = probe_tail(probe, &wants[w], group, n, &held_from[w]);
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
    if (event->u.lookup.want_count > CORE_WANTS_MAX) {
        return "lookup: too many wants";
    }
    if (!keys_valid(event->u.lookup.key_count, event->u.lookup.key_grains,
                    event->u.lookup.tail_tokens)) {
        return "lookup: too many keys, or grains or tail tokens out of range";
    }
    for (uint32_t w = 0; w < event->u.lookup.want_count; w++) {
        if (!want_valid(core, event->u.lookup.space, &event->u.lookup.wants[w])) {
            return "lookup: no such group, or layers or heads outside it";
        }
    }
    return NULL;
}

/* Who pushed the hit, by keys: the parts of one want tell, keys that it does not need count not. */
static uint32_t count_origins(struct core *core, uint32_t hit_keys)
{
    struct core_origin *origins = core->scratch.origins;
    const uint32_t *hits = core->scratch.hits.base;
    const uint32_t *ends = core->scratch.ends.base;
    uint32_t count = 0;
    for (uint32_t i = 0; i < hit_keys; i++) {
        if (ends[i] == 0) {
            continue;
        }
        KVEIK_ASSERT(ends[i] <= core->scratch.hit_count);
        const struct origin *origin = origin_at(core, part_at(core, hits[ends[i] - 1])->origin);
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

static const char *lease_refusal(int status)
{
    switch (status) {
    case ST_OK:
        return NULL;
    case ST_QUOTA:
        return "lookup: the instance's lease quota is used up";
    case ST_LIMIT:
        return "lookup: too many leases";
    default:
        return "lookup: no memory for the lease";
    }
}

/* The answer for a hit of n keys whose parts are in scratch.hits. */
static void answer(const struct probe *probe, const struct core_event *event, uint32_t n)
{
    struct core *core = probe->core;
    uint64_t lease = 0;
    uint64_t bytes = 0;
    uint64_t disk_bytes = 0;
    const uint32_t *hits = core->scratch.hits.base;
    uint32_t count = core->scratch.hit_count;
    /* the last first: a prefix's beginning is the most recently used */
    for (uint32_t i = count; i-- > 0;) {
        part_touch(core, hits[i]);
        store_used(core, hits[i]);
        const struct part *part = part_at(core, hits[i]);
        bytes += shape_at(core, part->shape)->bytes;
        bool in_memory = part_resident(part) || part_verifying(part);
        disk_bytes += in_memory ? 0 : shape_at(core, part->shape)->bytes;
    }
    int status = ST_OK;
    if (event->u.lookup.lease && count > 0) {
        uint32_t instance = session_at(core, event->session)->instance;
        status = lease_create(core, instance, hits, count, &lease);
    }
    struct core_action *reply =
        reply_add(core, event->session, event->request, status, lease_refusal(status));
    if (status != ST_OK) {
        return;
    }
    if (lease != 0) {
        load_ahead(core, hits, count);
    }
    reply->hit_keys = n;
    reply->hit_tokens = tokens_of(probe, n);
    reply->hit_bytes = bytes;
    reply->hit_disk_bytes = disk_bytes;
    reply->lease = lease;
    if (event->u.lookup.origins) {
        reply->origin_count = count_origins(core, n);
        reply->origins = core->scratch.origins;
    }
    core->counters.lookup_hit_keys += n;
}

/* Parts of window and state wants, once the hit's length is known; with `tell`, the first of them
 * also tells the origins. */
static void collect_tails(struct probe *probe, const struct core_want *wants, uint32_t want_count,
                          uint32_t n, bool tell)
{
    uint32_t *ends = probe->core->scratch.ends.base;
    for (uint32_t i = 0; tell && i < n; i++) {
        ends[i] = 0;
    }
    for (uint32_t w = 0; w < want_count && n > 0; w++) {
        const struct core_group *group = group_of(probe->core, probe->space, &wants[w]);
        if (group->rule == CORE_EVERY) {
            continue;
        }
        probe->recent_count = 0;
        for (uint32_t i = first_needed(probe, group, n); i < n; i++) {
            bool found = probe_key(probe, i, &wants[w]);
            KVEIK_ASSERT(found || probe->failed);
            ends[i] = tell ? probe->core->scratch.hit_count : ends[i];
        }
        tell = false;
    }
}

/* The hit's length; its parts are in scratch.hits. */
static uint32_t probe_all(struct probe *probe, const struct core_event *event,
                          const struct core_want *wants, uint32_t want_count)
{
    struct scratch *scratch = &probe->core->scratch;
    uint32_t n = probe->key_count;
    uint32_t every = 0;
    for (uint32_t w = 0; w < want_count; w++) {
        if (group_of(probe->core, probe->space, &wants[w])->rule == CORE_EVERY) {
            scratch->hit_count = 0;
            n = probe_every(probe, &wants[w], n);
            every++;
        }
    }
    n = settle(probe, event, wants, want_count, n);
    if (every == 1) {
        scratch->hit_count = n == 0 ? 0 : ((const uint32_t *)scratch->ends.base)[n - 1];
    } else {
        /* several wants, and the hits of one only: collect them all for the final length */
        scratch->hit_count = 0;
        for (uint32_t w = 0; w < want_count; w++) {
            if (group_of(probe->core, probe->space, &wants[w])->rule == CORE_EVERY) {
                uint32_t found = probe_every(probe, &wants[w], n);
                KVEIK_ASSERT(found == n || probe->failed);
            }
        }
    }
    collect_tails(probe, wants, want_count, n, every == 0);
    return n;
}

void step_lookup(struct core *core, const struct core_event *event)
{
    core->counters.lookups++;
    const char *refusal = lookup_refusal(core, event);
    if (refusal != NULL) {
        (void)reply_add(core, event->session, event->request, ST_INVALID, refusal);
        return;
    }
    core->counters.lookup_keys += event->u.lookup.key_count;
    struct core_want all[CORE_GROUPS_MAX];
    const struct core_want *wants = NULL;
    uint32_t want_count = wants_of(core, event, all, &wants);
    struct probe probe;
    probe.core = core;
    probe.space = event->u.lookup.space;
    probe.keys = event->u.lookup.keys;
    probe.key_count = event->u.lookup.key_count;
    probe.key_grains = event->u.lookup.key_grains;
    probe.tail_tokens = event->u.lookup.tail_tokens;
    probe.failed = false;
    probe.recent_count = 0;
    uint32_t n = 0;
    if (vm_array_commit(&core->scratch.hashes, probe.key_count) != ST_OK ||
        vm_array_commit(&core->scratch.ends, probe.key_count) != ST_OK) {
        probe.failed = true;
    } else {
        n = probe_all(&probe, event, wants, want_count);
    }
    if (probe.failed) {
        (void)reply_add(core, event->session, event->request, ST_NO_MEMORY, NULL);
        return;
    }
    answer(&probe, event, n);
}
