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

/* 128 KiB in four planes of 32 KiB */
static const struct bench_shape shape_128k =
    {.name = "128k", .layers = 2, .kinds = 2, .heads = 8, .elements = 128, .page_tokens = 16};

static int ping(struct bench_run *run, double *p50_out, struct error *error)
{
    struct samples us = {0};
    int status = bench_ping(run->quick ? PINGS / QUICK_DIVISOR : PINGS, &us, error);
    *p50_out = samples_median(&us);
    samples_add(&bench_metric(run->report, "us", "ping_us_p50")->samples, *p50_out);
    samples_add(&bench_metric(run->report, "us", "ping_us_p99")->samples,
                samples_percentile(&us, 99));
    samples_finish(&us);
    return status;
}

/* Percentiles of many single pulls of blocks that are in no cache. */
static int small_pulls(struct bench_run *run, struct bench_engine *engine, struct samples *us,
                       struct error *error)
{
    uint64_t key_first = 3ull << 32;
    struct bench_pass push = {
        .push = true, .key_first = key_first, .blocks = engine->pages, .depth = 4};
    int status = bench_engine_pass(engine, &push, error);
    uint32_t pulls = run->quick ? PULLS / QUICK_DIVISOR : PULLS;
    struct rng rng = {.state = 1};
    for (uint32_t i = 0; i < pulls + WARM_PULLS && status == ST_OK; i++) {
        double took_us = 0;
        status = bench_engine_one(engine, false, key_first + rng_below(&rng, engine->pages),
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

int bench_small(struct bench_run *run, struct error *error)
{
    double ping_us = 0;
    struct samples us = {0};
    struct bench_engine engine = {0};
    struct bench_engine_options options = {
        .socket_path = run->socket_path, .shape = &shape_128k, .pages = SMALL_PAGES};
    int status = ping(run, &ping_us, error);
    if (status == ST_OK) {
        status = bench_engine_init(&engine, &options, error);
    }
    if (status == ST_OK) {
        status = small_pulls(run, &engine, &us, error);
    }
    if (status == ST_OK) {
        double p50 = samples_median(&us);
        struct bench_report *report = run->report;
        samples_add(&bench_metric(report, "us", "small_pull_us_p50")->samples, p50);
        samples_add(&bench_metric(report, "us", "small_pull_us_p99")->samples,
                    samples_percentile(&us, 99));
        double copy_us = (double)bench_block_bytes(&shape_128k) /
                         (bench_median(report, "copy_limit_gbps_32k") * 1e3);
        struct bench_metric *ratio = bench_metric(report, "of ping", "small_pull_ratio");
        samples_add(&ratio->samples, p50 / ping_us);
        /* a ping moves no block: the bare copy's time is allowed beside it */
        ratio = bench_metric(report, "of ping + copy", "small_pull_ratio_with_copy");
        samples_add(&ratio->samples, p50 / (ping_us + copy_us));
        bench_want(ratio, BENCH_AT_MOST, wanted_small_ratio);
        status = hashing(run, error);
    }
    samples_finish(&us);
    bench_engine_finish(&engine);
    return status;
}
