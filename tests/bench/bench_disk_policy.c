/*
 * bench_disk_policy: what the disk tier's policy keeps, beside an exact LRU, and what it writes for
 * it. The pure core with a disk that does everything at once; requests are prompts of equal blocks:
 * looked up, pulled, pushed. Figures are of the second half of each workload.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/status.h"
#include "client/cli/trace.h"
#include "daemon/core/core.h"
#include "tests/bench/exact_lru.h"

enum {
    SLOT = 512, /* bytes of a block; their number is all that counts */
    GRAINS = 32,
    SEGMENTS = 128,
    CPU_SHARE = 8, /* the CPU tier is one part in so many of the disk */
    PROMPT = 8,    /* blocks of a synthetic prompt */
    PROMPT_MAX = 1024,
    JOBS = 64,
    QUEUE = 8192,
    PENDING_MAX = 4096,
};

/* ---- the disk: everything is done as soon as it is asked for ----------------------------------
 */

static struct {
    uint32_t capacity; /* blocks of a segment */
    uint32_t fill[SEGMENTS];
    bool used[SEGMENTS];
    uint32_t open[2];
    uint32_t used_count;
    uint64_t full; /* writes refused */
} disk;

static struct core *core;
static uint32_t space;
static uint32_t shape;
static struct core_event pending[PENDING_MAX];
static uint32_t pending_count;
static struct core_action answer;

static bool disk_place(bool survivor, struct core_place *place)
{
    uint32_t *open = &disk.open[survivor ? 1 : 0];
    if (*open == UINT32_MAX || disk.fill[*open] == disk.capacity) {
        if (SEGMENTS - disk.used_count < (survivor ? 1 : 2)) {
            disk.full++;
            return false;
        }
        uint32_t n = 0;
        while (disk.used[n]) {
            n++;
        }
        disk.used[n] = true;
        disk.fill[n] = 0;
        disk.used_count++;
        *open = n;
    }
    *place = (struct core_place){.segment = *open, .offset = disk.fill[*open]++};
    return true;
}

static void act(const struct core_action *action)
{
    struct core_event event = {.kind = EVENT_STORE_DONE};
    switch ((int)action->kind) {
    case ACTION_STORE:
        event.u.store_done.store = action->job;
        event.u.store_done.status =
            disk_place(action->stored->survivor, &event.u.store_done.place) ? ST_OK : ST_NO_SPACE;
        break;
    case ACTION_LOAD:
        event.kind = EVENT_LOAD_DONE;
        event.u.load_done.load = action->job;
        break;
    case ACTION_SEGMENT_FREE:
        disk.used[action->handle] = false;
        disk.used_count--;
        return;
    case ACTION_COPY:
        event.kind = EVENT_COPY_DONE;
        event.request = action->request;
        break;
    case ACTION_SPACE:
    case ACTION_SHAPE:
    case ACTION_REPLY:
        answer = *action;
        return;
    default:
        return;
    }
    KVEIK_ASSERT(pending_count < PENDING_MAX);
    pending[pending_count++] = event;
}

static void step(const struct core_event *event)
{
    struct core_actions actions;
    core_step(core, event, &actions);
    for (uint32_t i = 0; i < actions.count; i++) {
        act(&actions.items[i]);
    }
}

/* The event, and all that follows from it: loads end before the copies that wait for them. */
static void step_all(const struct core_event *event)
{
    step(event);
    while (pending_count > 0) {
        uint32_t at = 0;
        while (at + 1 < pending_count && pending[at].kind != EVENT_LOAD_DONE) {
            at++;
        }
        at = pending[at].kind == EVENT_LOAD_DONE ? at : 0;
        struct core_event next = pending[at];
        (void)memmove(pending + at, pending + at + 1, (--pending_count - at) * sizeof pending[0]);
        step(&next);
    }
}

static void open_core(uint32_t disk_blocks, uint32_t admission)
{
    uint64_t granule = (uint64_t)SLOT * 64;
    uint64_t pool = (uint64_t)disk_blocks / CPU_SHARE * SLOT / granule * granule;
    struct core_limits limits = {.pool_bytes = pool,
                                 .granule_bytes = granule,
                                 .keys_max = (uint64_t)disk_blocks * 4,
                                 .blocks_max = disk_blocks * 4,
                                 .parts_max = disk_blocks * 4,
                                 .sessions_max = 1,
                                 .requests_max = 1,
                                 .instances_max = 1,
                                 .spaces_max = 1,
                                 .shapes_max = 1,
                                 .leases_max = 16,
                                 .tenants_max = 1,
                                 .instance_lease_bytes_max = UINT64_MAX,
                                 .high_percent = 100,
                                 .low_percent = 100,
                                 .hash_seed = 1,
                                 .disk = {.segments_max = SEGMENTS,
                                          .stores_max = JOBS,
                                          .loads_max = PROMPT_MAX,
                                          .queue_max = QUEUE,
                                          .store_bytes_max = (uint64_t)JOBS * SLOT,
                                          .load_bytes_max = 0,
                                          .admission = admission}};
    struct error error = {0};
    int status = core_create(&limits, &core, &error);
    KVEIK_ASSERT(status == ST_OK);
    (void)memset(&disk, 0, sizeof disk);
    disk.capacity = disk_blocks / SEGMENTS;
    disk.open[0] = UINT32_MAX;
    disk.open[1] = UINT32_MAX;
    static const uint8_t id[CORE_KEY_BYTES] = {1};
    static const struct core_group group = {CORE_EVERY, 0, 1, 1};
    step_all(&(struct core_event){
        .kind = EVENT_SESSION_OPEN,
        .u.session_open = {.instance_id = (const uint8_t *)"bench", .instance_id_bytes = 5}});
    step_all(&(struct core_event){.kind = EVENT_SPACE,
                                  .u.space = {.id = id, .group_count = 1, .groups = &group}});
    space = answer.handle;
    step_all(&(struct core_event){
        .kind = EVENT_SHAPE,
        .u.shape = {.space = space, .grains = GRAINS, .ranges = {0, 1, 0, 1}, .bytes = SLOT}});
    shape = answer.handle;
    KVEIK_ASSERT(answer.status == ST_OK);
}

/* ---- one request ------------------------------------------------------------------------------
 */

static uint32_t request(const uint64_t *names, uint32_t count)
{
    static uint8_t keys[PROMPT_MAX * CORE_KEY_BYTES];
    for (uint32_t i = 0; i < count; i++) {
        struct rng rng = {names[i]};
        for (uint32_t w = 0; w < CORE_KEY_BYTES / 8; w++) {
            uint64_t word = rng_next(&rng);
            (void)memcpy(keys + (size_t)i * CORE_KEY_BYTES + 8u * w, &word, sizeof word);
        }
    }
    step_all(&(struct core_event){.kind = EVENT_LOOKUP,
                                  .u.lookup = {.space = space,
                                               .keys = keys,
                                               .key_count = count,
                                               .key_grains = GRAINS,
                                               .tail_tokens = GRAIN_TOKENS,
                                               .lease = true}});
    uint32_t hit = answer.hit_keys;
    if (hit > 0) {
        struct core_pull_run run = {.want = {.ranges = {0, 1, 0, 1}},
                                    .keys = keys,
                                    .key_count = hit,
                                    .key_grains = GRAINS,
                                    .tail_tokens = GRAIN_TOKENS};
        step_all(&(struct core_event){.kind = EVENT_PULL,
                                      .u.pull = {.space = space,
                                                 .runs = &run,
                                                 .run_count = 1,
                                                 .lease = answer.lease,
                                                 .release_lease = true}});
    }
    if (hit < count) {
        struct core_push_run run = {.shape = shape,
                                    .keys = keys + (size_t)hit * CORE_KEY_BYTES,
                                    .key_count = count - hit,
                                    .block_count = count - hit,
                                    .tail_tokens = GRAINS * GRAIN_TOKENS};
        step_all(&(struct core_event){.kind = EVENT_PUSH,
                                      .u.push = {.space = space, .runs = &run, .run_count = 1}});
    }
    return hit;
}

/* ---- workloads --------------------------------------------------------------------------------
 */

struct workload {
    const char *name;
    uint32_t disk_blocks;
    uint64_t requests;
    uint32_t (*next)(uint64_t *names, uint64_t at, uint32_t disk_blocks);
};

static struct rng chance;
static struct trace trace;
static uint64_t fresh;

static uint32_t prompt_of(uint64_t *names, uint64_t prompt)
{
    for (uint32_t i = 0; i < PROMPT; i++) {
        names[i] = prompt * PROMPT + i + 1;
    }
    return PROMPT;
}

/* Four prompts in five out of a set as large as 80 % of the disk, the fifth seen once only. */
static uint32_t next_working_set(uint64_t *names, uint64_t at, uint32_t disk_blocks)
{
    (void)at;
    uint64_t set = (uint64_t)disk_blocks * 8 / 10 / PROMPT;
    return prompt_of(names, rng_below(&chance, 10) < 8 ? rng_below(&chance, (uint32_t)set)
                                                       : UINT64_C(1000000000) + fresh++);
}

/* Prompts by Zipf's law with exponent 0.9, of four times what the disk holds. */
static uint32_t next_zipf(uint64_t *names, uint64_t at, uint32_t disk_blocks)
{
    static double *sums;
    static uint32_t count;
    (void)at;
    uint32_t prompts = disk_blocks * 4 / PROMPT;
    KVEIK_ASSERT(prompts > 0);
    if (count != prompts || sums == NULL) {
        free(sums);
        sums = malloc(prompts * sizeof sums[0]);
        KVEIK_ASSERT(sums != NULL);
        double sum = 0;
        for (uint32_t i = 0; i < prompts; i++) {
            double rank = (double)(i + 1);
            /* rank^-0.9 without libm: near enough with rank^-1 * rank^0.1 by Newton's tenth root */
            double root = 1;
            for (int k = 0; k < 60; k++) {
                double nine = root * root * root * root * root * root * root * root * root;
                root = (9 * root + rank / nine) / 10;
            }
            sum += root / rank;
            sums[i] = sum;
        }
        count = prompts;
    }
    double want = (double)(rng_next(&chance) >> 11) / 9007199254740992.0 * sums[prompts - 1];
    uint32_t low = 0;
    for (uint32_t high = prompts - 1; low < high;) {
        uint32_t middle = low + (high - low) / 2;
        low = sums[middle] < want ? middle + 1 : low;
        high = sums[middle] < want ? high : middle;
    }
    return prompt_of(names, low);
}

/* Around and around, a tenth more than fits: LRU hits nothing. */
static uint32_t next_cyclic(uint64_t *names, uint64_t at, uint32_t disk_blocks)
{
    return prompt_of(names, at % ((uint64_t)disk_blocks * 11 / 10 / PROMPT));
}

static uint32_t next_trace(uint64_t *names, uint64_t at, uint32_t disk_blocks)
{
    (void)disk_blocks;
    const struct trace_request *r = &trace.requests[at];
    uint32_t count = trace_blocks(&trace, r, GRAINS * GRAIN_TOKENS);
    count = count < PROMPT_MAX ? count : (uint32_t)PROMPT_MAX;
    for (uint32_t i = 0; i < count; i++) {
        names[i] = trace_block_name(&trace, r, GRAINS * GRAIN_TOKENS, i);
    }
    return count;
}

/* ---- figures ----------------------------------------------------------------------------------
 */

static double share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : (double)part / (double)whole;
}

static void run(const struct workload *w, uint32_t admission, bool json, bool last)
{
    static uint64_t names[PROMPT_MAX];
    chance = (struct rng){7};
    fresh = 0;
    open_core(w->disk_blocks, admission);
    struct exact_lru *of_disk = exact_lru_create(w->disk_blocks);
    struct exact_lru *of_all = exact_lru_create(w->disk_blocks + w->disk_blocks / CPU_SHARE);
    uint64_t keys = 0;
    uint64_t hits = 0;
    uint64_t disk_hits = 0;
    uint64_t all_hits = 0;
    struct core_counters before = {0};
    for (uint64_t i = 0; i < w->requests; i++) {
        if (i == w->requests / 2) {
            core_counters(core, &before);
            keys = hits = disk_hits = all_hits = 0;
        }
        uint32_t count = w->next(names, i, w->disk_blocks);
        keys += count;
        hits += request(names, count);
        disk_hits += exact_lru_use(of_disk, names, count);
        all_hits += exact_lru_use(of_all, names, count);
    }
    struct core_counters c;
    core_counters(core, &c);
    struct core_gauges g;
    core_gauges(core, &g);
    uint64_t stored = c.stored - before.stored;
    uint64_t moved = c.moved - before.moved;
    double live = share(g.disk_parts, (uint64_t)g.segments * disk.capacity);
    double amplification = share(stored + moved, stored);
    uint64_t freed = c.reclaimed_segments - before.reclaimed_segments;
    uint64_t refused = c.store_dropped + disk.full;
    if (json) {
        (void)printf("  {\"workload\": \"%s\", \"disk_blocks\": %u, \"hit\": %.4f, \"lru_disk\": "
                     "%.4f, \"lru_all\": %.4f, \"amplification\": %.3f, \"stored\": %llu, "
                     "\"moved\": %llu, \"segments_freed\": %llu, \"live\": %.3f}%s\n",
                     w->name, w->disk_blocks, share(hits, keys), share(disk_hits, keys),
                     share(all_hits, keys), amplification, (unsigned long long)stored,
                     (unsigned long long)moved, (unsigned long long)freed, live, last ? "" : ",");
    } else {
        (void)printf("%-14s %8u %8.2f %8.2f %8.2f %7.3f %9llu %9llu %7llu %6.1f %7llu\n", w->name,
                     w->disk_blocks, 100 * share(hits, keys), 100 * share(disk_hits, keys),
                     100 * share(all_hits, keys), amplification, (unsigned long long)stored,
                     (unsigned long long)moved, (unsigned long long)freed, 100 * live,
                     (unsigned long long)refused);
    }
    exact_lru_destroy(of_disk);
    exact_lru_destroy(of_all);
    core_destroy(core);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"trace", required_argument, NULL, 't'},
                                            {"admission", required_argument, NULL, 'a'},
                                            {"json", no_argument, NULL, 'j'},
                                            {NULL, 0, NULL, 0}};
    uint64_t admission = CORE_ADMIT_AT_ONCE;
    bool json = false;
    struct error error = {0};
    int option = 0;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread */
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        bool good = option == 'j' || option == 't' || option == 'a';
        json = json || option == 'j';
        if (option == 't') {
            good = trace_read(&trace, optarg, &(struct trace_options){0}, &error) == ST_OK;
        } else if (option == 'a') {
            good = number_parse(optarg, &admission, NULL) == ST_OK && admission >= 1 &&
                   admission <= CORE_ADMIT_NEVER;
        }
        if (!good) {
            (void)fprintf(stderr,
                          "usage: bench_disk_policy [--trace FILE] [--admission 1..4] "
                          "[--json]\n%s\n",
                          error.text);
            return 2;
        }
    }
    const struct workload workloads[] = {
        {"working-set", 16384, 80000, next_working_set},
        {"zipf", 16384, 60000, next_zipf},
        {"cyclic", 16384, 30000, next_cyclic},
        {"trace", 5120, trace.request_count, next_trace},
        {"trace", 10240, trace.request_count, next_trace},
        {"trace", 51200, trace.request_count, next_trace},
    };
    uint32_t count = trace.request_count > 0 ? 6 : 3;
    (void)printf(json ? "[\n"
                      : "workload         blocks    hit %% lru disk  lru all  w.amp.    stored     "
                        "moved   freed  live%% refused\n");
    for (uint32_t i = 0; i < count; i++) {
        run(&workloads[i], (uint32_t)admission, json, i + 1 == count);
    }
    (void)printf(json ? "]\n" : "");
    trace_finish(&trace);
    return 0;
}
