/* What starting takes as the store grows: small blocks, many of them, and a daemon that is killed,
 * so that nothing but the disk is there for the next one. */
#include <jansson.h>
#include <kveik/kveik.h>
#include <signal.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/cli/bench_disk.h"

enum { BATCH = 1024, WAIT_MS = 60 * 1000, PAGES = BATCH };

static const struct bench_shape tiny =
    {.name = "1k", .layers = 1, .kinds = 2, .heads = 1, .elements = 16, .page_tokens = 16};
static const uint32_t sizes[] = {10000, 100000, 1000000};
static const double wanted_start_s = 5.0;
static const uint64_t cpu_bytes = 2ull << 30;
static const uint64_t disk_bytes = 8ull << 30;

/* Blocks first … in one push. */
static int push_batch(struct bench_engine *engine, uint64_t first, uint32_t count,
                      struct error *error)
{
    static uint8_t keys[BATCH * KVEIK_KEY_BYTES];
    static uint32_t pages[BATCH];
    for (uint32_t i = 0; i < count; i++) {
        bench_key(first + i, keys + (size_t)i * KVEIK_KEY_BYTES);
        pages[i] = i;
    }
    struct kveik_push_run run = {.layout = engine->layout,
                                 .block_count = count,
                                 .block_tokens = engine->shape->page_tokens,
                                 .keys = keys,
                                 .key_count = count,
                                 .pages = pages,
                                 .page_count = count};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    push.deadline_ms = WAIT_MS;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_push(engine->client, &push, &done);
    if (status != KVEIK_OK) {
        (void)error_set(error, status, "push: %s", done.text);
    }
    kveik_completion_finish(&done);
    return status;
}

static int fill(struct bench_disk *disk, uint32_t from, uint32_t to, struct error *error)
{
    struct bench_engine engine = {0};
    struct bench_engine_options options = {
        .socket_path = disk->daemon.socket_path, .shape = &tiny, .pages = PAGES};
    int status = bench_engine_init(&engine, &options, error);
    for (uint32_t at = from; at < to && status == ST_OK; at += BATCH) {
        uint32_t count = to - at < BATCH ? to - at : (uint32_t)BATCH;
        status = push_batch(&engine, 1 + at, count, error);
        if (status == ST_OK) {
            status = bench_disk_persist(&engine, 1 + at, count, error);
        }
    }
    bench_engine_finish(&engine);
    return status;
}

static double number(const json_t *status, const char *name)
{
    return json_number_value(json_object_get(json_object_get(status, "disk"), name));
}

static int note_start(struct bench_disk *disk, uint32_t blocks, double seconds, struct error *error)
{
    struct bench_engine engine = {0};
    struct bench_engine_options options = {
        .socket_path = disk->daemon.socket_path, .shape = &tiny, .pages = PAGES};
    int status = bench_engine_init(&engine, &options, error);
    json_t *answer = status == ST_OK ? bench_disk_status(&engine, error) : NULL;
    bench_engine_finish(&engine);
    if (answer == NULL) {
        return status != ST_OK ? status : ST_UNAVAILABLE;
    }
    double found = number(answer, "parts");
    struct bench_metric *metric = bench_metric(disk->report, "s", "start_%u", blocks);
    samples_add(&metric->samples, seconds);
    bench_want(metric, BENCH_AT_MOST, wanted_start_s);
    samples_add(&bench_metric(disk->report, "s", "start_catalogue_%u", blocks)->samples,
                number(answer, "start_ms") / 1e3);
    samples_add(&bench_metric(disk->report, "bytes", "catalogue_bytes_a_block_%u", blocks)->samples,
                number(answer, "catalogue_bytes") / found);
    json_decref(answer);
    return found >= blocks
               ? ST_OK
               : error_set(error, ST_MISS, "%.0f of %u blocks were found at start", found, blocks);
}

int bench_disk_growth(struct bench_disk *disk, struct error *error)
{
    bench_disk_fresh(disk);
    uint32_t held = 0;
    int status = bench_disk_start(disk, cpu_bytes, disk_bytes, "256MiB", error);
    uint32_t count = disk->quick ? 1 : (uint32_t)ARRAY_COUNT(sizes);
    for (uint32_t i = 0; i < count && status == ST_OK; i++) {
        status = fill(disk, held, sizes[i], error);
        held = sizes[i];
        if (status != ST_OK) {
            break;
        }
        (void)kill(disk->daemon.pid, SIGKILL);
        bench_disk_stop(disk);
        uint64_t began_ns = clock_ns();
        status = bench_disk_start(disk, cpu_bytes, disk_bytes, "256MiB", error);
        double seconds = (double)(clock_ns() - began_ns) / 1e9;
        status = status != ST_OK ? status : note_start(disk, sizes[i], seconds, error);
    }
    bench_disk_stop(disk);
    return status;
}
