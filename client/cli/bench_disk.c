/*
 * `kveik bench disk`: the disk tier beside fio in the same directory, block size and depth; what
 * starting takes as the store grows; write amplification where most of the disk is used again.
 */
#include "client/cli/bench_disk.h"

#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/cli/bench.h"
#include "client/cli/cli.h"

enum {
    PERSIST_KEYS = 4096,
    PERSIST_BYTES = 256 << 20,
    PERSIST_MS = 600 * 1000,
    WALK_DESCRIPTORS = 16,
    QUICK_MIB = 64
};

struct options_of_disk {
    struct cli_common common;
    bool quick;
    const char *directory;
    uint64_t bytes;
    uint32_t depth;
    uint32_t rounds;
    const char *program;
    bool growth;
    bool check;
};

#define FIELD(name) offsetof(struct options_of_disk, name)

// clang-format off
static const struct option_spec specs[] = {
    CLI_COMMON_SPECS,
    {.name = "directory", .kind = OPTION_PATH, .preset = ".", .max = 2000,
     .offset = FIELD(directory),
     .help = "measure the disk that this folder lies on, in a folder of its own in it"},
    {.name = "bytes", .kind = OPTION_SIZE, .preset = "1GiB", .min = 64u << 20, .max = 1ull << 40,
     .offset = FIELD(bytes),
     .help = "moved in every pass; the daemon's memory is twice this"},
    {.name = "depth", .kind = OPTION_U32, .preset = "16", .min = 1, .max = 128,
     .offset = FIELD(depth), .help = "requests in flight, ours and fio's"},
    {.name = "rounds", .kind = OPTION_U32, .preset = "3", .min = 1, .max = 100,
     .offset = FIELD(rounds), .help = "passes of each kind; medians are printed"},
    {.name = "growth", .kind = OPTION_BOOL, .preset = "yes", .offset = FIELD(growth),
     .help = "also start daemons on stores of 10^4, 10^5 and 10^6 blocks"},
    {.name = "quick", .kind = OPTION_BOOL, .preset = "no", .offset = FIELD(quick),
     .help = "a few small passes, to see that it works; the figures mean little"},
    {.name = "kveikd", .kind = OPTION_PATH, .preset = "", .offset = FIELD(program),
     .preset_note = "beside this program, else on the path",
     .help = "the daemon to start"},
    {.name = "check", .kind = OPTION_BOOL, .preset = "no", .offset = FIELD(check),
     .help = "end with exit code 1 when something wanted is not met"},
};
// clang-format on

#undef FIELD

static const struct options_table table = {
    .program = "kveik bench disk",
    .version = KVEIK_VERSION,
    .summary = "Measures the disk tier beside fio (apt-get install fio) in the same directory and "
               "run: push to durable, cold pull, starting, write amplification.\v" CLI_EXIT_HELP,
    .env_prefix = CLI_ENV_PREFIX,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct options_of_disk),
};

static const struct bench_shape shapes[] = {
    {.name = "128k", .layers = 4, .kinds = 2, .heads = 4, .elements = 128, .page_tokens = 16},
    {.name = "2m", .layers = 32, .kinds = 2, .heads = 8, .elements = 128, .page_tokens = 16},
    {.name = "16m", .layers = 32, .kinds = 2, .heads = 8, .elements = 128, .page_tokens = 128},
};

/* ---- the store and its daemon ---------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

static void remove_tree(const char *path)
{
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread */
    (void)nftw(path, remove_one, WALK_DESCRIPTORS, FTW_DEPTH | FTW_PHYS);
}

void bench_disk_fresh(struct bench_disk *disk)
{
    (void)snprintf(disk->store, sizeof disk->store, "%s/store", disk->directory);
    remove_tree(disk->store);
}

int bench_disk_start(struct bench_disk *disk, uint64_t cpu_bytes, uint64_t disk_bytes,
                     const char *segment, struct error *error)
{
    char path[sizeof disk->store + 16];
    char bytes[64];
    char segments[64];
    (void)snprintf(path, sizeof path, "--disk-path=%s", disk->store);
    (void)snprintf(bytes, sizeof bytes, "--disk-bytes=%llu", (unsigned long long)disk_bytes);
    (void)snprintf(segments, sizeof segments, "--disk-segment-bytes=%s", segment);
    const char *const more[] = {"--disk=yes", path, bytes, segments, "--disk-keep-free-percent=1",
                                NULL};
    struct bench_daemon_options options = {
        .program = disk->program, .cpu_bytes = cpu_bytes, .copy_threads = 1, .more = more};
    return bench_daemon_start(&disk->daemon, &options, error);
}

void bench_disk_stop(struct bench_disk *disk)
{
    bench_daemon_finish(&disk->daemon);
}

struct json_t *bench_disk_status(const struct bench_engine *engine, struct error *error)
{
    char *text = NULL;
    struct kveik_error wrong = {0};
    int status = kveik_daemon_status(engine->client, PERSIST_MS, &text, &wrong);
    json_t *object = status == KVEIK_OK ? json_loads(text, 0, NULL) : NULL;
    kveik_text_free(text);
    if (object == NULL) {
        (void)error_set(error, ST_UNAVAILABLE, "no status from the daemon: %s", wrong.text);
    }
    return object;
}

int bench_disk_persist(struct bench_engine *engine, uint64_t key_first, uint32_t blocks,
                       struct error *error)
{
    uint64_t most = PERSIST_BYTES / bench_block_bytes(engine->shape);
    uint32_t step = most < PERSIST_KEYS ? (uint32_t)most : (uint32_t)PERSIST_KEYS;
    uint8_t *keys = heap_calloc(PERSIST_KEYS, KVEIK_KEY_BYTES);
    int status = keys == NULL ? error_set(error, ST_NO_MEMORY, "no memory for keys") : ST_OK;
    for (uint32_t at = 0; at < blocks && status == ST_OK; at += step) {
        uint32_t count = blocks - at < step ? blocks - at : step;
        for (uint32_t i = 0; i < count; i++) {
            bench_key(key_first + at + i, keys + (size_t)i * KVEIK_KEY_BYTES);
        }
        struct kveik_persist persist = KVEIK_PERSIST_INIT;
        persist.space = engine->space;
        persist.keys = keys;
        persist.key_count = count;
        persist.key_tokens = engine->shape->page_tokens;
        persist.deadline_ms = PERSIST_MS;
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        if (kveik_persist(engine->client, &persist, &done) != KVEIK_OK) {
            status = error_set(error, done.status, "persist: %s", done.text);
        }
        for (uint32_t i = 0; status == ST_OK && i < done.status_count; i++) {
            if (done.statuses[i] != KVEIK_OK) {
                status = error_set(error, done.statuses[i], "block %u did not become durable: %s",
                                   at + i, kveik_status_text(done.statuses[i]));
            }
        }
        kveik_completion_finish(&done);
    }
    heap_free(keys);
    return status;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int run_all(struct bench_disk *disk, bool growth, struct error *error)
{
    int status = bench_disk_limit_init(&disk->limit, disk->directory, NULL, error);
    for (uint32_t i = 0; status == ST_OK && i < ARRAY_COUNT(shapes); i++) {
        cli_progress("blocks of %s ...", shapes[i].name);
        status = bench_disk_transfer(disk, &shapes[i], error);
        for (uint32_t r = 0; status == ST_OK && r < disk->rounds; r++) {
            cli_progress("blocks of %s in RocksDB ...", shapes[i].name);
            status = bench_disk_blobs(disk, &shapes[i], r == 0, error);
        }
    }
    if (status == ST_OK) {
        cli_progress("80 %% of the disk used again ...");
        status = bench_disk_churn(disk, error);
    }
    if (status == ST_OK && growth) {
        cli_progress("starting ...");
        status = bench_disk_growth(disk, error);
    }
    cli_progress(NULL);
    bench_disk_limit_finish(&disk->limit);
    return status;
}

static int measure(const struct options_of_disk *options, struct bench_report *report)
{
    char folder[2048];
    (void)snprintf(folder, sizeof folder, "%s/kveik-bench-disk-XXXXXX", options->directory);
    if (mkdtemp(folder) == NULL) {
        return cli_fail(CLI_FAILED, "cannot make a folder in %s: %s", options->directory,
                        strerror(errno)); /* NOLINT(concurrency-mt-unsafe): one thread */
    }
    struct bench_disk disk = {.report = report,
                              .program = options->program,
                              .directory = folder,
                              .bytes = options->quick ? (uint64_t)QUICK_MIB << 20 : options->bytes,
                              .depth = options->depth,
                              .rounds = options->quick ? 1 : options->rounds,
                              .quick = options->quick};
    struct error error = {0};
    report->facts = bench_machine_facts();
    uint64_t began_ns = clock_ns();
    int status = run_all(&disk, options->growth, &error);
    (void)json_object_set_new(report->facts, "fio_engine",
                              json_string(disk.limit.engine != NULL ? disk.limit.engine : ""));
    (void)json_object_set_new(report->facts, "depth", json_integer(options->depth));
    (void)json_object_set_new(report->facts, "pass_bytes", json_integer((json_int_t)disk.bytes));
    (void)json_object_set_new(report->facts, "quick", json_boolean(options->quick));
    (void)json_object_set_new(report->facts, "seconds",
                              json_real((double)(clock_ns() - began_ns) / 1e9));
    bench_disk_stop(&disk);
    remove_tree(folder);
    return status == ST_OK ? CLI_GOOD : cli_fail(CLI_FAILED, "%s", error.text);
}

int command_bench_disk(struct cli *cli, int argc, char **argv)
{
    static struct bench_report report; /* one run a process; it is large for a stack */
    struct options_of_disk disk_options = {0};
    struct options *options = NULL;
    int code = cli_load(cli, &table, argc, argv, &disk_options, &options);
    if (code != CLI_GO_ON) {
        return code;
    }
    code = measure(&disk_options, &report);
    if (code == CLI_GOOD) {
        bench_report_print(&report, cli->json);
        code = disk_options.check && !bench_met(&report) ? CLI_FAILED : CLI_GOOD;
    }
    bench_report_finish(&report);
    options_destroy(options);
    return code;
}
