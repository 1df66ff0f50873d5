/*
 * The index as it grows: chains of 1,000 tiny blocks are pushed until a given number is resident;
 * at each size lookups of 1, 100 and 1,000 keys are timed, with keys of random chains. The cost of
 * a pushed block is compared between the first and the last size, and the longest single request
 * is told: a table that is rehashed or moved at once would show there.
 */
#include <jansson.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/cli/bench.h"

enum {
    CHAIN = 1000,
    LEVELS = 3,
    COUNTS = 3,
    LOOKUPS = 2000,
    QUICK_LOOKUPS = 200,
    WARM_LOOKUPS = 50,
    STATUS_MS = 10 * 1000,
    EXPONENT_FIRST = 4,
    QUICK_EXPONENT_FIRST = 3,
    COST_CHAINS_MAX = 100,
};

static const double wanted_lookup_ratio = 2.0;
static const double wanted_index_bytes = 128;
static const double wanted_growth = 3.0;
static const uint32_t key_counts[COUNTS] = {1, 100, CHAIN};
static const uint64_t chain_keys_first = 4ull << 32;

/* 512 bytes in one plane */
static const struct bench_shape tiny =
    {.name = "tiny", .layers = 1, .kinds = 1, .heads = 1, .elements = 16, .page_tokens = 16};

struct index_bench {
    struct bench_run *run;
    struct bench_engine engine;
    uint8_t *keys; /* of one chain */
    uint32_t *pages;
    uint64_t chains;     /* resident */
    double longest_us;   /* push of one chain */
    struct samples cost; /* us a pushed block, since the last level */
};

static void chain_keys(struct index_bench *bench, uint64_t chain)
{
    for (uint32_t i = 0; i < CHAIN; i++) {
        bench_key(chain_keys_first + chain * CHAIN + i, bench->keys + (size_t)i * KVEIK_KEY_BYTES);
    }
}

static int push_chain(struct index_bench *bench, struct error *error)
{
    chain_keys(bench, bench->chains);
    struct kveik_push_run run = {.layout = bench->engine.layout,
                                 .block_count = CHAIN,
                                 .block_tokens = KVEIK_GRAIN_TOKENS,
                                 .keys = bench->keys,
                                 .key_count = CHAIN,
                                 .pages = bench->pages,
                                 .page_count = CHAIN};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    uint64_t began_ns = clock_ns();
    int status = kveik_push(bench->engine.client, &push, &done);
    double us = (double)(clock_ns() - began_ns) / 1e3;
    if (status < 0 || done.bytes != CHAIN * bench_block_bytes(&tiny)) {
        status = error_set(error, status < 0 ? status : ST_MISS, "push %u tiny blocks: %s", CHAIN,
                           done.text[0] != '\0' ? done.text : "not all were taken");
    } else {
        status = ST_OK;
        bench->longest_us = us > bench->longest_us ? us : bench->longest_us;
        samples_add(&bench->cost, us / CHAIN);
        bench->chains++;
    }
    kveik_completion_finish(&done);
    return status;
}

static int time_lookups(struct index_bench *bench, uint32_t key_count, struct samples *us,
                        struct error *error)
{
    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
    lookup.space = bench->engine.space;
    lookup.keys = bench->keys;
    lookup.key_count = key_count;
    struct rng rng = {.state = key_count};
    uint32_t lookups = bench->run->quick ? QUICK_LOOKUPS : LOOKUPS;
    int status = ST_OK;
    for (uint32_t i = 0; i < lookups + WARM_LOOKUPS && status == ST_OK; i++) {
        chain_keys(bench, rng_below(&rng, bench->chains));
        struct kveik_completion found = KVEIK_COMPLETION_INIT;
        uint64_t began_ns = clock_ns();
        int done = kveik_lookup(bench->engine.client, &lookup, &found);
        double took_us = (double)(clock_ns() - began_ns) / 1e3;
        if (done < 0 || found.hit_keys != key_count) {
            status = error_set(error, done < 0 ? done : ST_MISS, "lookup of %u keys found %u: %s",
                               key_count, found.hit_keys, found.text);
        } else if (i >= WARM_LOOKUPS) {
            samples_add(us, took_us);
        }
        kveik_completion_finish(&found);
    }
    return status;
}

static int lookups_at(struct index_bench *bench, uint32_t exponent, enum bench_place place,
                      struct error *error)
{
    struct bench_report *report = bench->run->report;
    const char *name = bench_place_name(place);
    int status = ST_OK;
    bench_place_take(place, bench->run->daemon_pid);
    for (uint32_t i = 0; i < COUNTS && status == ST_OK; i++) {
        struct samples us = {0};
        uint32_t count = key_counts[i];
        status = time_lookups(bench, count, &us, error);
        double p50 = samples_median(&us);
        struct bench_metric *metric =
            bench_metric(report, "us", "lookup_us_p50_%u_at_1e%u_%s", count, exponent, name);
        samples_add(&metric->samples, p50);
        metric = bench_metric(report, "us", "lookup_us_p99_%u_at_1e%u_%s", count, exponent, name);
        samples_add(&metric->samples, samples_percentile(&us, 99));
        if (count == CHAIN) {
            char ping[BENCH_NAME_BYTES];
            (void)snprintf(ping, sizeof ping, "ping_us_p50_%s", name);
            metric = bench_metric(report, "of ping", "lookup_ratio_at_1e%u_%s", exponent, name);
            samples_add(&metric->samples, p50 / bench_median(report, ping));
            bench_want(metric, BENCH_AT_MOST, wanted_lookup_ratio);
        }
        samples_finish(&us);
    }
    bench_place_take(BENCH_ANYWHERE, bench->run->daemon_pid);
    return status;
}

static int lookups(struct index_bench *bench, uint32_t exponent, struct error *error)
{
    int status = ST_OK;
    for (int place = 0; place < BENCH_PLACES && status == ST_OK; place++) {
        if (bench_place_possible(bench->run, (enum bench_place)place)) {
            status = lookups_at(bench, exponent, (enum bench_place)place, error);
        }
    }
    return status;
}

static int index_memory(struct index_bench *bench, struct error *error)
{
    char *text = NULL;
    struct kveik_error wrong = {0};
    int status = kveik_daemon_status(bench->engine.client, STATUS_MS, &text, &wrong);
    if (status != KVEIK_OK) {
        return error_set(error, status, "status: %s", wrong.text);
    }
    json_t *document = json_loads(text, 0, NULL);
    const json_t *index = json_object_get(document, "index");
    double blocks = (double)json_integer_value(json_object_get(index, "blocks"));
    double bytes = (double)json_integer_value(json_object_get(index, "index_live_bytes"));
    kveik_text_free(text);
    json_decref(document);
    if (blocks <= 0) {
        return error_set(error, ST_PROTOCOL, "the daemon's status tells no blocks");
    }
    struct bench_metric *metric =
        bench_metric(bench->run->report, "bytes", "index_bytes_per_block");
    samples_add(&metric->samples, bytes / blocks);
    bench_want(metric, BENCH_AT_MOST, wanted_index_bytes);
    return ST_OK;
}

/* Grows to 1,000, 10,000, ... resident blocks and measures at each. */
static int grow(struct index_bench *bench, struct error *error)
{
    struct bench_report *report = bench->run->report;
    uint32_t exponent = bench->run->quick ? QUICK_EXPONENT_FIRST : EXPONENT_FIRST;
    uint64_t target = bench->run->quick ? 1 : 10; /* chains */
    double first_cost = 0;
    int status = ST_OK;
    for (uint32_t level = 0; level < LEVELS && status == ST_OK; level++, exponent++, target *= 10) {
        while (bench->chains < target && status == ST_OK) {
            /* the cost at a size is that of the last chains before it */
            if (target - bench->chains == COST_CHAINS_MAX) {
                samples_clear(&bench->cost);
            }
            status = push_chain(bench, error);
        }
        double cost = samples_median(&bench->cost);
        samples_add(&bench_metric(report, "us", "push_us_per_block_at_1e%u", exponent)->samples,
                    cost);
        samples_clear(&bench->cost);
        first_cost = level == 0 ? cost : first_cost;
        if (status == ST_OK) {
            status = lookups(bench, exponent, error);
        }
        if (level == LEVELS - 1 && status == ST_OK) {
            struct bench_metric *growth = bench_metric(report, "times", "push_cost_growth");
            samples_add(&growth->samples, cost / first_cost);
            bench_want(growth, BENCH_AT_MOST, wanted_growth);
            samples_add(&bench_metric(report, "us", "longest_push_of_1000_us")->samples,
                        bench->longest_us);
            status = index_memory(bench, error);
        }
    }
    return status;
}

int bench_index(struct bench_run *run, struct error *error)
{
    struct index_bench bench = {.run = run};
    struct bench_engine_options options = {
        .socket_path = run->socket_path, .shape = &tiny, .pages = CHAIN};
    bench.keys = heap_calloc(CHAIN, KVEIK_KEY_BYTES);
    bench.pages = bench_shuffle(CHAIN);
    int status = bench.keys != NULL && bench.pages != NULL
                     ? ST_OK
                     : error_set(error, ST_NO_MEMORY, "no memory for %u keys", CHAIN);
    if (status == ST_OK) {
        status = bench_engine_init(&bench.engine, &options, error);
    }
    if (status == ST_OK) {
        status = grow(&bench, error);
    }
    bench_engine_finish(&bench.engine);
    samples_finish(&bench.cost);
    heap_free(bench.pages);
    heap_free(bench.keys);
    return status != ST_OK ? error_wrap(error, "index") : ST_OK;
}
