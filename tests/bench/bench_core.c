/*
 * bench_core: what lookups, pushes and evictions cost at 10^4, 10^5 and 10^6 resident blocks.
 * Chains of 1,000 blocks of one grain, one part each; every figure is of single steps.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/status.h"
#include "daemon/core/core.h"

enum { CHAIN = 1000, SLOT_BYTES = 512, ROUNDS = 2000, GRANULE = 1 << 20 };

static struct core *core;
static struct core_actions actions;
static struct core_action last;
static uint32_t space;
static double worst_us;

static double now_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static double step(const struct core_event *event)
{
    double begin = now_us();
    core_step(core, event, &actions);
    double took = now_us() - begin;
    worst_us = took > worst_us ? took : worst_us;
    last = actions.items[actions.count - 1];
    return took;
}

static void make_keys(uint8_t *keys, uint64_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct rng rng = {first + i};
        for (uint32_t w = 0; w < CORE_KEY_BYTES / 8; w++) {
            uint64_t word = rng_next(&rng);
            (void)memcpy(keys + (size_t)i * CORE_KEY_BYTES + 8u * w, &word, sizeof word);
        }
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

static void print(const char *what, double *times, uint32_t count, uint32_t items)
{
    qsort(times, count, sizeof times[0], by_value);
    double median = times[count / 2];
    double p99 = times[(size_t)count * 99 / 100];
    (void)printf("  %-28s median %9.2f us  p99 %9.2f us  %8.1f ns each\n", what, median, p99,
                 median * 1000 / items);
}

static void open_core(uint64_t blocks, uint64_t pool_blocks, uint32_t grains, uint32_t *shape_out)
{
    struct core_limits limits = {.pool_bytes =
                                     (pool_blocks * SLOT_BYTES + GRANULE - 1) / GRANULE * GRANULE,
                                 .granule_bytes = GRANULE,
                                 .keys_max = blocks * grains * 2,
                                 .blocks_max = (uint32_t)blocks * 2,
                                 .parts_max = (uint32_t)blocks * 2,
                                 .sessions_max = 64,
                                 .requests_max = 64,
                                 .instances_max = 64,
                                 .spaces_max = 64,
                                 .shapes_max = 1024,
                                 .leases_max = 1024,
                                 .tenants_max = 16,
                                 .instance_lease_bytes_max = UINT64_C(1) << 40,
                                 .high_percent = 100,
                                 .low_percent = 100,
                                 .hash_seed = 7};
    struct error error = {0};
    int status = core_create(&limits, &core, &error);
    KVEIK_ASSERT(status == ST_OK);
    static const struct core_group group = {CORE_EVERY, 0, 1, 1};
    uint8_t id[CORE_KEY_BYTES] = {1};
    (void)step(&(struct core_event){.kind = EVENT_SESSION_OPEN,
                                    .u.session_open = {.instance_id = id, .instance_id_bytes = 1}});
    (void)step(&(struct core_event){.kind = EVENT_SPACE,
                                    .u.space = {.id = id, .group_count = 1, .groups = &group}});
    space = last.handle;
    (void)step(&(struct core_event){
        .kind = EVENT_SHAPE,
        .u.shape = {
            .space = space, .grains = grains, .ranges = {0, 1, 0, 1}, .bytes = SLOT_BYTES}});
    KVEIK_ASSERT(last.status == ST_OK);
    *shape_out = last.handle;
}

/* Both steps of a push of `blocks` blocks whose keys begin at `first`. */
static double push(uint32_t shape, uint32_t grains, uint64_t first, uint32_t blocks)
{
    static uint8_t keys[CHAIN * 8 * CORE_KEY_BYTES];
    make_keys(keys, first, blocks * grains);
    struct core_push_run run = {shape, keys, blocks * grains, blocks, grains * 16, NULL};
    double took = step(&(struct core_event){
        .kind = EVENT_PUSH, .u.push = {.space = space, .runs = &run, .run_count = 1}});
    KVEIK_ASSERT(last.kind == ACTION_COPY);
    return took + step(&(struct core_event){.kind = EVENT_COPY_DONE, .u.copy_done.status = ST_OK});
}

/* Runs of `count` keys of random chains; half the rounds' time is the cache's own, as in life. */
static void bench_lookup(uint64_t blocks, uint32_t count, bool lease)
{
    static uint8_t keys[CHAIN * CORE_KEY_BYTES];
    static double times[ROUNDS];
    struct rng rng = {blocks + count};
    for (uint32_t i = 0; i < ROUNDS; i++) {
        make_keys(keys, rng_below(&rng, blocks / CHAIN) * CHAIN, count);
        times[i] = step(&(struct core_event){.kind = EVENT_LOOKUP,
                                             .u.lookup = {.space = space,
                                                          .keys = keys,
                                                          .key_count = count,
                                                          .key_grains = 1,
                                                          .tail_tokens = 16,
                                                          .lease = lease}});
        KVEIK_ASSERT(last.status == ST_OK && last.hit_keys == count);
        if (lease) {
            (void)step(&(struct core_event){.kind = EVENT_RELEASE, .u.release.lease = last.lease});
        }
    }
    char what[64];
    (void)snprintf(what, sizeof what, "lookup of %u keys%s", count, lease ? ", leased" : "");
    print(what, times, ROUNDS, count);
}

static void bench_size(uint64_t blocks)
{
    static double times[ROUNDS];
    uint32_t shape = 0;
    open_core(blocks, blocks, 1, &shape);
    (void)printf("%llu blocks of one grain\n", (unsigned long long)blocks);
    worst_us = 0;
    uint32_t count = 0;
    for (uint64_t first = 0; first < blocks; first += CHAIN) {
        times[count % ROUNDS] = push(shape, 1, first, CHAIN);
        count++;
    }
    print("push of 1,000 blocks", times, count < ROUNDS ? count : ROUNDS, CHAIN);
    struct core_gauges gauges;
    core_gauges(core, &gauges);
    (void)printf("  %-28s %.1f bytes a block, %.1f committed; worst step so far %.1f us\n", "index",
                 (double)gauges.index_live_bytes / (double)gauges.blocks,
                 (double)gauges.index_bytes / (double)gauges.blocks, worst_us);
    bench_lookup(blocks, 1, false);
    bench_lookup(blocks, 100, false);
    bench_lookup(blocks, CHAIN, false);
    bench_lookup(blocks, CHAIN, true);
    struct core_counters before;
    core_counters(core, &before);
    worst_us = 0;
    for (uint32_t i = 0; i < 500; i++) {
        times[i] = push(shape, 1, blocks + (uint64_t)i * CHAIN, CHAIN);
    }
    struct core_counters after;
    core_counters(core, &after);
    print("push with evictions", times, 500, CHAIN);
    (void)printf("  %-28s %.2f evicted a block pushed; worst step %.1f us\n", "",
                 (double)(after.evicted_space - before.evicted_space) / (500.0 * CHAIN), worst_us);
    core_destroy(core);
}

static void bench_large_blocks(uint64_t blocks)
{
    uint32_t shape = 0;
    open_core(blocks, blocks, 8, &shape);
    for (uint64_t first = 0; first < blocks; first += CHAIN) {
        (void)push(shape, 8, first * 8, CHAIN);
    }
    struct core_gauges gauges;
    core_gauges(core, &gauges);
    (void)printf("%llu blocks of eight grains, all keys: index %.1f bytes a block\n",
                 (unsigned long long)blocks,
                 (double)gauges.index_live_bytes / (double)gauges.blocks);
    core_destroy(core);
}

int main(int argc, char **argv)
{
    uint64_t most = 1000000;
    if (argc > 1 && number_parse(argv[1], &most, NULL) != ST_OK) {
        (void)fprintf(stderr, "usage: bench_core [BLOCKS]\n");
        return 2;
    }
    for (uint64_t blocks = 10000; blocks <= most; blocks *= 10) {
        bench_size(blocks);
    }
    bench_large_blocks(100000);
    return 0;
}
