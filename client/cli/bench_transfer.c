/*
 * Bulk transfer against what the machine can do. The bare copy and the system take turns, and each
 * ratio is formed within a round, with the limit measured before and behind it: noise of the
 * machine hits both.
 */
#include <jansson.h>
#include <stdio.h>

#include "base/assert.h"
#include "client/cli/bench.h"
#include "client/cli/bench_limit.h"
#include "storage/cpu/kernels.h"

enum { DEPTHS = 3, WANTED_DEPTH = 4, WARM_ROUNDS = 2 };

static const uint32_t depths[DEPTHS] = {1, WANTED_DEPTH, 16};
static const double wanted_ratio_32k = 0.8;
static const double wanted_ratio_512k = 0.9;
static const double wanted_convert_ratio = 0.9;
static const double wanted_cross_ratio = 0.9;

const struct bench_shape bench_shape_32k =
    {.name = "32k", .layers = 32, .kinds = 2, .heads = 8, .elements = 128, .page_tokens = 16};
const struct bench_shape bench_shape_512k =
    {.name = "512k", .layers = 16, .kinds = 2, .heads = 8, .elements = 128, .page_tokens = 256};

struct transfer {
    struct bench_run *run;
    const struct bench_shape *shape;
    struct bench_engine engine;
    struct bench_engine other_order; /* head-major pages */
    struct bench_limit limit;
    uint32_t blocks;
    uint64_t key_next; /* every push brings new blocks, or nothing would be copied */
    bool warm;         /* samples count */
};

static double gbps(const struct transfer *transfer, double seconds)
{
    return (double)transfer->limit.bytes / seconds / 1e9;
}

static void note(struct transfer *transfer, const char *what, double value)
{
    if (transfer->warm) {
        struct bench_metric *metric =
            bench_metric(transfer->run->report, "GB/s", "%s_gbps_%s", what, transfer->shape->name);
        samples_add(&metric->samples, value);
    }
}

static void note_depth(struct transfer *transfer, const char *what, uint32_t depth, double value,
                       double limit)
{
    if (!transfer->warm) {
        return;
    }
    const char *shape = transfer->shape->name;
    struct bench_metric *metric =
        bench_metric(transfer->run->report, "GB/s", "%s_gbps_%s_%u", what, shape, depth);
    samples_add(&metric->samples, value);
    metric = bench_metric(transfer->run->report, "of limit", "%s_ratio_%s_%u", what, shape, depth);
    samples_add(&metric->samples, value / limit);
    if (depth == WANTED_DEPTH) {
        bench_want(metric, BENCH_AT_LEAST,
                   transfer->shape == &bench_shape_32k ? wanted_ratio_32k : wanted_ratio_512k);
    }
}

static int round_at(struct transfer *transfer, uint32_t depth, double *limit_io,
                    struct error *error)
{
    struct bench_pass push = {
        .push = true, .key_first = transfer->key_next, .blocks = transfer->blocks, .depth = depth};
    struct bench_pass pull = push;
    pull.push = false;
    transfer->key_next += transfer->blocks;
    int status = bench_engine_pass(&transfer->engine, &push, error);
    if (status == ST_OK) {
        status = bench_engine_pass(&transfer->engine, &pull, error);
    }
    if (status != ST_OK) {
        return error_wrap(error, "%s blocks, %u in flight", transfer->shape->name, depth);
    }
    double behind = gbps(transfer, bench_limit_best(&transfer->limit));
    note(transfer, "copy_limit", behind);
    double limit = (*limit_io + behind) / 2;
    *limit_io = behind;
    note_depth(transfer, "push", depth, gbps(transfer, push.seconds), limit);
    note_depth(transfer, "pull", depth, gbps(transfer, pull.seconds), limit);
    if (depth != WANTED_DEPTH) {
        return ST_OK;
    }
    struct bench_pass convert = pull;
    status = bench_engine_pass(&transfer->other_order, &convert, error);
    if (status == ST_OK && transfer->warm) {
        struct bench_metric *metric = bench_metric(transfer->run->report, "of pull",
                                                   "convert_ratio_%s", transfer->shape->name);
        samples_add(&metric->samples, pull.seconds / convert.seconds);
        bench_want(metric, BENCH_AT_LEAST, wanted_convert_ratio);
    }
    return status;
}

static int one_round(struct transfer *transfer, struct error *error)
{
    double limit = gbps(transfer, bench_limit_best(&transfer->limit));
    note(transfer, "copy_limit", limit);
    note(transfer, "memcpy", gbps(transfer, bench_limit_memcpy(&transfer->limit)));
    int status = ST_OK;
    for (uint32_t i = 0; i < DEPTHS && status == ST_OK; i++) {
        status = round_at(transfer, depths[i], &limit, error);
    }
    return status;
}

static int transfer_init(struct transfer *transfer, struct error *error)
{
    const struct bench_shape *shape = transfer->shape;
    transfer->blocks = (uint32_t)(transfer->run->working_bytes / bench_block_bytes(shape));
    KVEIK_ASSERT(transfer->blocks > 0);
    struct bench_engine_options options = {
        .socket_path = transfer->run->socket_path, .shape = shape, .pages = transfer->blocks};
    int status = bench_limit_init(&transfer->limit, shape, transfer->blocks, error);
    if (status == ST_OK) {
        status = bench_engine_init(&transfer->engine, &options, error);
    }
    if (status == ST_OK) {
        options.head_major = true;
        status = bench_engine_init(&transfer->other_order, &options, error);
    }
    return status;
}

int bench_transfer(struct bench_run *run, const struct bench_shape *shape, struct error *error)
{
    struct transfer transfer = {.run = run, .shape = shape, .key_next = 1};
    int status = transfer_init(&transfer, error);
    for (uint32_t i = 0; i < run->rounds + WARM_ROUNDS && status == ST_OK; i++) {
        transfer.warm = i >= WARM_ROUNDS;
        status = one_round(&transfer, error);
    }
    if (status == ST_OK) {
        char name[BENCH_NAME_BYTES];
        (void)snprintf(name, sizeof name, "copy_limit_kernel_%s", shape->name);
        (void)json_object_set_new(run->report->facts, name, json_string(transfer.limit.best->name));
    }
    bench_engine_finish(&transfer.other_order);
    bench_engine_finish(&transfer.engine);
    bench_limit_finish(&transfer.limit);
    return status;
}

/* ---- cross-memory ---------------------------------------------------------------------------- */

static int cross_round(struct transfer *transfer, const struct bench_peer *peer,
                       struct error *error)
{
    struct bench_pass push = {.push = true,
                              .key_first = transfer->key_next,
                              .blocks = transfer->blocks,
                              .depth = WANTED_DEPTH};
    struct bench_pass pull = push;
    pull.push = false;
    transfer->key_next += transfer->blocks;
    double read_s = 0;
    double write_s = 0;
    int status = bench_peer_pass(peer, &transfer->limit, true, &read_s);
    if (status == ST_OK) {
        status = bench_peer_pass(peer, &transfer->limit, false, &write_s);
    }
    if (status != ST_OK) {
        return error_set(error, status, "process_vm_readv() is not allowed here");
    }
    status = bench_engine_pass(&transfer->engine, &push, error);
    if (status == ST_OK) {
        status = bench_engine_pass(&transfer->engine, &pull, error);
    }
    if (status != ST_OK || !transfer->warm) {
        return status;
    }
    note(transfer, "cross_limit_read", gbps(transfer, read_s));
    note(transfer, "cross_limit_write", gbps(transfer, write_s));
    note(transfer, "cross_push", gbps(transfer, push.seconds));
    note(transfer, "cross_pull", gbps(transfer, pull.seconds));
    struct bench_metric *metric = bench_metric(transfer->run->report, "of limit",
                                               "cross_push_ratio_%s", transfer->shape->name);
    samples_add(&metric->samples, read_s / push.seconds);
    bench_want(metric, BENCH_AT_LEAST, wanted_cross_ratio);
    metric = bench_metric(transfer->run->report, "of limit", "cross_pull_ratio_%s",
                          transfer->shape->name);
    samples_add(&metric->samples, write_s / pull.seconds);
    bench_want(metric, BENCH_AT_LEAST, wanted_cross_ratio);
    return ST_OK;
}

int bench_cross(struct bench_run *run, struct error *error)
{
    struct transfer transfer = {.run = run, .shape = &bench_shape_32k, .key_next = 1ull << 32};
    transfer.blocks = (uint32_t)(run->working_bytes / bench_block_bytes(transfer.shape));
    struct bench_engine_options options = {.socket_path = run->socket_path,
                                           .shape = transfer.shape,
                                           .pages = transfer.blocks,
                                           .memory_mode = KVEIK_MEMORY_CROSS};
    struct bench_peer peer = {0};
    int status = bench_limit_init(&transfer.limit, transfer.shape, transfer.blocks, error);
    if (status == ST_OK) {
        status = bench_peer_start(&peer, &transfer.limit, error);
    }
    if (status == ST_OK) {
        status = bench_engine_init(&transfer.engine, &options, error);
    }
    for (uint32_t i = 0; i < run->rounds + WARM_ROUNDS && status == ST_OK; i++) {
        transfer.warm = i >= WARM_ROUNDS;
        status = cross_round(&transfer, &peer, error);
    }
    bench_engine_finish(&transfer.engine);
    bench_peer_finish(&peer);
    bench_limit_finish(&transfer.limit);
    return status != ST_OK ? error_wrap(error, "cross-memory") : ST_OK;
}
