/*
 * Steady state: a working set of 80 % of the disk is used again and again, in random order, while
 * blocks that nobody asks for again are pushed. What counts is the bytes that the device got for
 * each byte that was new, and how much of the working set was found: either alone can be had
 * cheaply.
 */
#include <jansson.h>
#include <kveik/kveik.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/cli/bench_disk.h"

enum {
    SEGMENTS = 48,
    WORKING_PERCENT = 80,
    USES_A_PUSH = 8, /* of the working set, for each block that is new */
    TURNS = 3,       /* new bytes, in sizes of the disk */
    QUICK_SEGMENTS = 16,
    CPU_SHARE = 8,
};

static const struct bench_shape block_128k =
    {.name = "churn", .layers = 4, .kinds = 2, .heads = 4, .elements = 128, .page_tokens = 16};
static const double wanted_amplification = 1.2;
static const uint64_t segment_bytes = 16ull << 20;

struct churn {
    struct bench_disk *disk;
    struct bench_engine engine;
    uint32_t working; /* blocks 1 … working */
    uint32_t disk_blocks;
    uint64_t fresh_next; /* key of the next block that is new */
    uint64_t asked;
    uint64_t found;
    struct rng rng;
};

/* Found, or pushed again, as an engine would that computed it. */
static int use_one(struct churn *churn, struct error *error)
{
    uint8_t key[KVEIK_KEY_BYTES];
    uint64_t number = 1 + rng_below(&churn->rng, churn->working);
    bench_key(number, key);
    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
    lookup.space = churn->engine.space;
    lookup.keys = key;
    lookup.key_count = 1;
    lookup.key_tokens = block_128k.page_tokens;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_lookup(churn->engine.client, &lookup, &done);
    if (status != KVEIK_OK) {
        (void)error_set(error, status, "lookup: %s", done.text);
    }
    bool hit = done.hit_keys == 1;
    kveik_completion_finish(&done);
    churn->asked++;
    churn->found += hit ? 1 : 0;
    return status != KVEIK_OK || hit
               ? status
               : bench_engine_one(&churn->engine, true, number, 0, NULL, error);
}

/* Pushes new blocks and uses old ones; every so often waits for the disk, so that nothing is
 * dropped for want of its speed. */
static int turn(struct churn *churn, uint32_t blocks, struct error *error)
{
    uint32_t every = churn->engine.pages;
    int status = ST_OK;
    for (uint32_t i = 0; i < blocks && status == ST_OK; i++) {
        status =
            bench_engine_one(&churn->engine, true, churn->fresh_next++, i % every, NULL, error);
        for (uint32_t use = 0; use < USES_A_PUSH && status == ST_OK; use++) {
            status = use_one(churn, error);
        }
        if (status == ST_OK && i % every == every - 1) {
            status = bench_disk_persist(&churn->engine, churn->fresh_next - 1, 1, error);
        }
    }
    return status;
}

static double counter(const json_t *status, const char *name)
{
    const json_t *counters = json_object_get(json_object_get(status, "disk"), "counters");
    return json_number_value(json_object_get(counters, name));
}

static int run(struct churn *churn, struct error *error)
{
    struct bench_pass fill = {.push = true, .key_first = 1, .blocks = churn->working, .depth = 4};
    int status = bench_engine_pass(&churn->engine, &fill, error);
    status = status != ST_OK ? status : turn(churn, churn->disk_blocks, error); /* to fill it */
    json_t *before = status == ST_OK ? bench_disk_status(&churn->engine, error) : NULL;
    churn->asked = 0;
    churn->found = 0;
    if (before != NULL) {
        status = turn(churn, TURNS * churn->disk_blocks, error);
    }
    json_t *after =
        before != NULL && status == ST_OK ? bench_disk_status(&churn->engine, error) : NULL;
    if (after != NULL) {
        double fresh = counter(after, "written_bytes") - counter(before, "written_bytes");
        double device = counter(after, "device_bytes") - counter(before, "device_bytes");
        struct bench_metric *metric =
            bench_metric(churn->disk->report, "written/new", "write_amplification");
        samples_add(&metric->samples, device / fresh);
        bench_want(metric, BENCH_AT_MOST, wanted_amplification);
        samples_add(&bench_metric(churn->disk->report, "of asked", "churn_hit_ratio")->samples,
                    (double)churn->found / (double)churn->asked);
    }
    json_decref(before);
    json_decref(after);
    return after != NULL ? ST_OK : error->status;
}

int bench_disk_churn(struct bench_disk *disk, struct error *error)
{
    uint64_t disk_bytes = (disk->quick ? QUICK_SEGMENTS : SEGMENTS) * segment_bytes;
    struct churn churn = {.disk = disk, .rng = {.state = 1}, .fresh_next = 1ull << 32};
    churn.disk_blocks = (uint32_t)(disk_bytes / bench_block_bytes(&block_128k));
    churn.working = churn.disk_blocks / 100 * WORKING_PERCENT;
    bench_disk_fresh(disk);
    int status = bench_disk_start(disk, disk_bytes / CPU_SHARE, disk_bytes, "16MiB", error);
    struct bench_engine_options options = {
        .socket_path = disk->daemon.socket_path, .shape = &block_128k, .pages = 64};
    status = status != ST_OK ? status : bench_engine_init(&churn.engine, &options, error);
    status = status != ST_OK ? status : run(&churn, error);
    bench_engine_finish(&churn.engine);
    bench_disk_stop(disk);
    return status != ST_OK ? error_wrap(error, "churn") : ST_OK;
}
