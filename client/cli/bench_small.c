/* What small things cost: a round trip, a small pull, a key. */
#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/cli/bench.h"
#include "client/cli/bench_limit.h"

enum {
    PINGS = 20000,
    PULLS = 4000,
    QUICK_DIVISOR = 20,
    WARM_PULLS = 100,
    SMALL_PAGES = 1024,
    HASH_BLOCKS = 1000,
    HASH_ROUNDS = 200,
};

static const double wanted_small_ratio = 1.3;
static const uint64_t small_keys_first = 3ull << 32;

/* 128 KiB in four planes of 32 KiB */
static const struct bench_shape shape_128k =
    {.name = "128k", .layers = 2, .kinds = 2, .heads = 8, .elements = 128, .page_tokens = 16};

static void on_ping_placed(pid_t other, void *arg)
{
    bench_place_take(*(const enum bench_place *)arg, other);
}

static int ping(struct bench_run *run, enum bench_place place, double *p50_out, struct error *error)
{
    struct samples us = {0};
    int status =
        bench_ping(run->quick ? PINGS / QUICK_DIVISOR : PINGS, on_ping_placed, &place, &us, error);
    const char *name = bench_place_name(place);
    *p50_out = samples_median(&us);
    samples_add(&bench_metric(run->report, "us", "ping_us_p50_%s", name)->samples, *p50_out);
    samples_add(&bench_metric(run->report, "us", "ping_us_p99_%s", name)->samples,
                samples_percentile(&us, 99));
    samples_finish(&us);
    return status;
}

/* Percentiles of many single pulls of blocks that are in no cache. */
static int small_pulls(struct bench_run *run, struct bench_engine *engine, struct samples *us,
                       struct error *error)
{
    int status = ST_OK;
    uint32_t pulls = run->quick ? PULLS / QUICK_DIVISOR : PULLS;
    struct rng rng = {.state = 1};
    for (uint32_t i = 0; i < pulls + WARM_PULLS && status == ST_OK; i++) {
        double took_us = 0;
        status = bench_engine_one(engine, false, small_keys_first + rng_below(&rng, engine->pages),
                                  (uint32_t)rng_below(&rng, engine->pages), &took_us, error);
        if (i >= WARM_PULLS) {
            samples_add(us, took_us);
        }
    }
    return status;
}

static int hashing(struct bench_run *run, struct error *error)
{
    uint32_t tokens = HASH_BLOCKS * KVEIK_GRAIN_TOKENS;
    uint32_t *ids = heap_calloc(tokens, sizeof *ids);
    uint8_t *keys = heap_calloc(HASH_BLOCKS, KVEIK_KEY_BYTES);
    kveik_hasher *hasher = kveik_hasher_create();
    int status = ids != NULL && keys != NULL && hasher != NULL ? ST_OK : ST_NO_MEMORY;
    struct bench_metric *metric = bench_metric(run->report, "us", "hash_us_per_1000_blocks");
    for (uint32_t i = 0; i < HASH_ROUNDS && status == ST_OK; i++) {
        ids[0] = i;
        uint64_t began_ns = clock_ns();
        status = kveik_hasher_tokens(hasher, NULL, ids, tokens, NULL, 0, keys);
        samples_add(&metric->samples, (double)(clock_ns() - began_ns) / 1e3);
    }
    kveik_hasher_destroy(hasher);
    heap_free(keys);
    heap_free(ids);
    return status != ST_OK ? error_set(error, status, "hash tokens") : ST_OK;
}

/* Ping and small pulls with both processes at one place. */
static int measure_at(struct bench_run *run, struct bench_engine *engine, enum bench_place place,
                      struct error *error)
{
    double ping_us = 0;
    struct samples us = {0};
    int status = ping(run, place, &ping_us, error);
    if (status == ST_OK) {
        bench_place_take(place, run->daemon_pid);
        status = small_pulls(run, engine, &us, error);
    }
    struct bench_report *report = run->report;
    const char *name = bench_place_name(place);
    double p50 = samples_median(&us);
    samples_add(&bench_metric(report, "us", "small_pull_us_p50_%s", name)->samples, p50);
    samples_add(&bench_metric(report, "us", "small_pull_us_p99_%s", name)->samples,
                samples_percentile(&us, 99));
    struct bench_metric *ratio = bench_metric(report, "of ping", "small_pull_ratio_%s", name);
    samples_add(&ratio->samples, p50 / ping_us);
    /* a ping moves no block: the bare copy's time is allowed beside it */
    double copy_us = (double)bench_block_bytes(&shape_128k) /
                     (bench_median(report, "copy_limit_gbps_32k") * 1e3);
    ratio = bench_metric(report, "of ping + copy", "small_pull_ratio_with_copy_%s", name);
    samples_add(&ratio->samples, p50 / (ping_us + copy_us));
    bench_want(ratio, BENCH_AT_MOST, wanted_small_ratio);
    samples_finish(&us);
    return status;
}

int bench_small(struct bench_run *run, struct error *error)
{
    struct bench_engine engine = {0};
    struct bench_engine_options options = {
        .socket_path = run->socket_path, .shape = &shape_128k, .pages = SMALL_PAGES};
    int status = bench_engine_init(&engine, &options, error);
    struct bench_pass push = {
        .push = true, .key_first = small_keys_first, .blocks = SMALL_PAGES, .depth = 4};
    if (status == ST_OK) {
        status = bench_engine_pass(&engine, &push, error);
    }
    for (int place = 0; place < BENCH_PLACES && status == ST_OK; place++) {
        if (bench_place_possible(run, (enum bench_place)place)) {
            status = measure_at(run, &engine, (enum bench_place)place, error);
        }
    }
    bench_place_take(BENCH_ANYWHERE, run->daemon_pid);
    if (status == ST_OK) {
        status = hashing(run, error);
    }
    bench_engine_finish(&engine);
    return status;
}
