/*
 * Push to durable, and cold pull, beside fio. One round: fio writes, we push new blocks and wait
 * until all are durable, fio reads what it wrote, we pull in random order from a daemon that was
 * just started. Ratios are formed within a round.
 */
#include <jansson.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/cli/bench_disk.h"

enum { MEMORY_FACTOR = 2, DISK_FACTOR = 4, ENGINE_BYTES = 256 << 20, LARGE_BYTES = 2 << 20 };

static const double wanted_small = 0.7;
static const double wanted_large = 0.9;
static const uint64_t disk_bytes_min = 2ull << 30;

struct transfer {
    struct bench_disk *disk;
    const struct bench_shape *shape;
    uint64_t block_bytes;
    uint32_t blocks;
    double limit_write; /* bytes a second */
    double limit_read;
};

static struct bench_metric *metric_of(const struct transfer *transfer, const char *unit,
                                      const char *what)
{
    return bench_metric(transfer->disk->report, unit, "%s_%s", what, transfer->shape->name);
}

static void note(const struct transfer *transfer, const char *unit, const char *what, double value)
{
    samples_add(&metric_of(transfer, unit, what)->samples, value);
}

static void note_ratio(const struct transfer *transfer, const char *what, double value)
{
    struct bench_metric *metric = metric_of(transfer, "of fio", what);
    samples_add(&metric->samples, value);
    bench_want(metric, BENCH_AT_LEAST,
               transfer->block_bytes >= LARGE_BYTES ? wanted_large : wanted_small);
}

static int engine_start(const struct transfer *transfer, struct bench_engine *engine,
                        struct error *error)
{
    struct bench_disk *disk = transfer->disk;
    uint64_t pages = ENGINE_BYTES / transfer->block_bytes;
    uint64_t disk_bytes = DISK_FACTOR * disk->bytes;
    int status = bench_disk_start(disk, MEMORY_FACTOR * disk->bytes,
                                  disk_bytes > disk_bytes_min ? disk_bytes : disk_bytes_min,
                                  "256MiB", error);
    struct bench_engine_options options = {
        .socket_path = disk->daemon.socket_path,
        .shape = transfer->shape,
        .pages = (uint32_t)(pages < transfer->blocks ? pages : transfer->blocks)};
    return status != ST_OK ? status : bench_engine_init(engine, &options, error);
}

static int fio_passes(struct transfer *transfer, bool write, struct error *error)
{
    struct bench_disk_job job = {.block_bytes = (uint32_t)transfer->block_bytes,
                                 .depth = transfer->disk->depth,
                                 .total_bytes = transfer->disk->bytes,
                                 .preallocated = true}; /* as segment files are: no easier limit */
    struct bench_disk_result result = {0};
    int status = write ? bench_disk_limit_write(&transfer->disk->limit, &job, &result, error)
                       : bench_disk_limit_read(&transfer->disk->limit, &job, &result, error);
    if (status != ST_OK) {
        return error_wrap(error, "fio");
    }
    if (write) {
        transfer->limit_write = result.bytes_per_s;
    } else {
        transfer->limit_read = result.bytes_per_s;
    }
    note(transfer, "GB/s", write ? "fio_write" : "fio_read", result.bytes_per_s / 1e9);
    note(transfer, "s/GB", write ? "fio_write_cpu" : "fio_read_cpu",
         result.cpu_s / ((double)result.bytes / 1e9));
    return ST_OK;
}

static void note_pass(const struct transfer *transfer, bool write, double seconds, double cpu_s)
{
    double bytes = (double)transfer->blocks * (double)transfer->block_bytes;
    double limit = write ? transfer->limit_write : transfer->limit_read;
    note(transfer, "GB/s", write ? "write" : "read", bytes / seconds / 1e9);
    note_ratio(transfer, write ? "write_ratio" : "read_ratio", bytes / seconds / limit);
    note(transfer, "s/GB", write ? "write_cpu" : "read_cpu", cpu_s / (bytes / 1e9));
}

static int push_durable(struct transfer *transfer, struct error *error)
{
    struct bench_engine engine = {0};
    bench_disk_fresh(transfer->disk);
    int status = engine_start(transfer, &engine, error);
    double cpu_s = bench_daemon_cpu_s(&transfer->disk->daemon);
    uint64_t began_ns = clock_ns();
    struct bench_pass push = {
        .push = true, .key_first = 1, .blocks = transfer->blocks, .depth = transfer->disk->depth};
    if (status == ST_OK) {
        status = bench_engine_pass(&engine, &push, error);
    }
    if (status == ST_OK) {
        status = bench_disk_persist(&engine, 1, transfer->blocks, error);
    }
    double seconds = (double)(clock_ns() - began_ns) / 1e9;
    if (status == ST_OK) {
        note_pass(transfer, true, seconds, bench_daemon_cpu_s(&transfer->disk->daemon) - cpu_s);
    }
    bench_engine_finish(&engine);
    bench_disk_stop(transfer->disk);
    return status;
}

static int pull_cold(struct transfer *transfer, struct error *error)
{
    struct bench_engine engine = {0};
    uint32_t *order = bench_shuffle(transfer->blocks);
    int status = order == NULL ? error_set(error, ST_NO_MEMORY, "no memory for an order") : ST_OK;
    if (status == ST_OK) {
        status = engine_start(transfer, &engine, error);
    }
    double cpu_s = bench_daemon_cpu_s(&transfer->disk->daemon);
    struct bench_pass pull = {.key_first = 1,
                              .blocks = transfer->blocks,
                              .depth = transfer->disk->depth,
                              .key_order = order};
    if (status == ST_OK) {
        status = bench_engine_pass(&engine, &pull, error);
    }
    if (status == ST_OK) {
        note_pass(transfer, false, pull.seconds,
                  bench_daemon_cpu_s(&transfer->disk->daemon) - cpu_s);
    }
    bench_engine_finish(&engine);
    bench_disk_stop(transfer->disk);
    heap_free(order);
    return status;
}

int bench_disk_transfer(struct bench_disk *disk, const struct bench_shape *shape,
                        struct error *error)
{
    struct transfer transfer = {
        .disk = disk, .shape = shape, .block_bytes = bench_block_bytes(shape)};
    transfer.blocks = (uint32_t)(disk->bytes / transfer.block_bytes);
    KVEIK_ASSERT(transfer.blocks > 0);
    int status = ST_OK;
    for (uint32_t i = 0; i < disk->rounds && status == ST_OK; i++) {
        status = fio_passes(&transfer, true, error);
        status = status != ST_OK ? status : push_durable(&transfer, error);
        status = status != ST_OK ? status : fio_passes(&transfer, false, error);
        status = status != ST_OK ? status : pull_cold(&transfer, error);
    }
    return status != ST_OK ? error_wrap(error, "blocks of %s", shape->name) : ST_OK;
}
