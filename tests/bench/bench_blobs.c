/*
 * bench_blobs: the same blocks inside RocksDB with blob files, as a comparison for the disk tier:
 * what one would have without segment files of one's own. Prints one JSON object.
 *
 * Three phases in a private folder, which is removed at the end: all blocks are written and made
 * durable; the database is opened again and all are read in random order (direct I/O: cold); then,
 * with --churn, blocks come and the oldest go, so that 80 % of the size is live, until three times
 * the size was written: the bytes that went to the device for each byte of payload are the write
 * amplification.
 */
#include <argp.h>
#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "base/status.h"
#include "tests/bench/blobs_store.h"

enum {
    BLOCK_BYTES_MAX = 64 * 1024 * 1024,
    BLOCKS_PER_THREAD_MIN = 4,
    CHURN_FACTOR = 3,
    DESCRIPTORS_AT_ONCE = 16,
};

static const double gb = 1e9;

/* What a phase took. */
struct took {
    double wall_s;
    double cpu_s;
    double device_write_bytes;
};

/* ---- measuring ------------------------------------------------------------------------------- */

static double cpu_s(void)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Bytes that this process caused to be sent to devices; less what was cancelled. */
static double device_write_bytes(void)
{
    char line[128];
    uint64_t bytes = 0;
    FILE *file = fopen("/proc/self/io", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        static const char field[] = "write_bytes: ";
        if (strncmp(line, field, sizeof field - 1) == 0) {
            (void)number_prefix(line + sizeof field - 1, 10, &bytes);
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return (double)bytes;
}

static struct took took_begin(void)
{
    return (struct took){.wall_s = (double)clock_ns() / 1e9,
                         .cpu_s = cpu_s(),
                         .device_write_bytes = device_write_bytes()};
}

static void took_end(struct took *took)
{
    took->wall_s = (double)clock_ns() / 1e9 - took->wall_s;
    took->cpu_s = cpu_s() - took->cpu_s;
    took->device_write_bytes = device_write_bytes() - took->device_write_bytes;
}

static void report(json_t *object, const char *name, double value)
{
    (void)json_object_set_new(object, name, json_real(value));
}

static bool measure_write(struct bench *bench, json_t *object)
{
    double bytes = (double)bench->blocks * (double)bench->block_bytes;
    struct took took = took_begin();
    if (!blobs_open(bench) || !blobs_run(bench, bench->blocks, blobs_put) ||
        !blobs_make_durable(bench)) {
        return false;
    }
    took_end(&took);
    report(object, "write_bytes_per_s", bytes / took.wall_s);
    report(object, "write_cpu_s_per_gb", took.cpu_s / (bytes / gb));
    return true;
}

static bool measure_read(struct bench *bench, json_t *object)
{
    double bytes = (double)bench->blocks * (double)bench->block_bytes;
    if (!blobs_flush(
            bench)) { /* else the log would be replayed, and the last blocks be in memory */
        return false;
    }
    blobs_await_quiet(bench);
    rocksdb_close(bench->db);
    bench->db = NULL;
    uint64_t began_ns = clock_ns();
    if (!blobs_open(bench)) {
        return false;
    }
    report(object, "open_ms", (double)(clock_ns() - began_ns) / 1e6);
    struct took took = took_begin();
    if (!blobs_run(bench, bench->blocks, blobs_get)) {
        return false;
    }
    took_end(&took);
    report(object, "read_bytes_per_s", bytes / took.wall_s);
    report(object, "read_cpu_s_per_gb", took.cpu_s / (bytes / gb));
    report(object, "catalogue_bytes", blobs_property(bench, "rocksdb.total-sst-files-size"));
    report(object, "catalogue_memory_bytes",
           blobs_property(bench, "rocksdb.estimate-table-readers-mem"));
    report(object, "blob_bytes", blobs_property(bench, "rocksdb.total-blob-file-size"));
    return true;
}

static bool measure_churn(struct bench *bench, json_t *object)
{
    uint64_t live = bench->blocks * BLOBS_LIVE_PERCENT / 100;
    for (uint64_t i = 0; i < bench->blocks; i++) {
        if (i >= bench->blocks - live) {
            bench->turns[bench->turns_count++] = i;
        } else if (!blobs_delete(bench, i)) {
            return false;
        }
    }
    uint64_t count = bench->blocks * CHURN_FACTOR;
    double bytes = (double)count * (double)bench->block_bytes;
    struct took took = took_begin();
    if (!blobs_run(bench, count, blobs_churn) || !blobs_make_durable(bench)) {
        return false;
    }
    double wall_s = (double)clock_ns() / 1e9 - took.wall_s;
    if (!blobs_flush(bench)) {
        return false;
    }
    blobs_await_quiet(bench); /* what was put off is written, too */
    took_end(&took);
    report(object, "churn_bytes_per_s", bytes / wall_s);
    report(object, "churn_cpu_s_per_gb", took.cpu_s / (bytes / gb));
    report(object, "write_amplification", took.device_write_bytes / bytes);
    report(object, "live_bytes", (double)live * (double)bench->block_bytes);
    double blob_bytes = blobs_property(bench, "rocksdb.total-blob-file-size");
    report(object, "churned_blob_bytes", blob_bytes);
    report(object, "space_amplification", blob_bytes / ((double)live * (double)bench->block_bytes));
    return true;
}

static bool measure(struct bench *bench, json_t *object)
{
    (void)json_object_set_new(object, "block_bytes", json_integer((json_int_t)bench->block_bytes));
    (void)json_object_set_new(object, "blocks", json_integer((json_int_t)bench->blocks));
    (void)json_object_set_new(object, "threads", json_integer((json_int_t)bench->threads));
    (void)json_object_set_new(object, "reuse_percent",
                              json_integer((json_int_t)bench->reuse_percent));
    (void)json_object_set_new(object, "gc_percent", json_integer((json_int_t)bench->gc_percent));
    (void)json_object_set_new(object, "wal", json_boolean(!bench->no_wal));
    if (!measure_write(bench, object) || !measure_read(bench, object) ||
        (bench->churn && !measure_churn(bench, object))) {
        return false;
    }
    double both = json_real_value(json_object_get(object, "write_cpu_s_per_gb")) +
                  json_real_value(json_object_get(object, "read_cpu_s_per_gb"));
    report(object, "cpu_s_per_gb", both); /* a gigabyte in and out again */
    return true;
}

/* ---- before and after ------------------------------------------------------------------------ */

static void on_signal(int number)
{
    (void)number;
    blobs_interrupted = 1;
}

static bool prepare(struct bench *bench)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    bench->blocks = bench->total_bytes / bench->block_bytes;
    bench->give_up_ms = clock_ms() + bench->timeout_s * 1000;
    bench->turns = calloc(bench->blocks + bench->threads, sizeof *bench->turns);
    bench->payload = malloc(bench->block_bytes);
    bench->order = calloc(bench->blocks, sizeof *bench->order);
    if (bench->payload == NULL || bench->order == NULL || bench->turns == NULL) {
        return blobs_complain(bench, "no memory");
    }
    struct rng rng = {.state = 1};
    for (uint64_t i = 0; i + 8 <= bench->block_bytes; i += 8) {
        uint64_t word = rng_next(&rng);
        memcpy(bench->payload + i, &word, sizeof word);
    }
    for (uint64_t i = 0; i < bench->blocks; i++) {
        uint64_t other = rng_next(&rng) % (i + 1);
        bench->order[i] = bench->order[other];
        bench->order[other] = i;
    }
    int length =
        snprintf(bench->folder, sizeof bench->folder, "%s/kveik-blobs-XXXXXX", bench->directory);
    if (length < 0 || (size_t)length >= sizeof bench->folder || mkdtemp(bench->folder) == NULL) {
        bench->folder[0] = '\0';
        return blobs_complain(bench, "cannot create a folder in the directory");
    }
    (void)snprintf(bench->database, sizeof bench->database, "%s/db", bench->folder);
    blobs_make_options(bench);
    return true;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    (void)remove(path);
    return 0;
}

static void clean_up(struct bench *bench)
{
    if (bench->db != NULL) {
        rocksdb_cancel_all_background_work(bench->db, 1);
        rocksdb_close(bench->db);
    }
    if (bench->options != NULL) {
        rocksdb_readoptions_destroy(bench->read_options);
        rocksdb_writeoptions_destroy(bench->write_options);
        rocksdb_options_destroy(bench->options);
    }
    if (bench->folder[0] != '\0') {
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): one thread is left */
        (void)nftw(bench->folder, remove_entry, DESCRIPTORS_AT_ONCE, FTW_DEPTH | FTW_PHYS);
    }
    free(bench->turns);
    free(bench->order);
    free(bench->payload);
}

/* ---- arguments ------------------------------------------------------------------------------- */

static const struct argp_option option_table[] = {
    {"directory", 'd', "PATH", 0, "where the database lies while it is measured (.)", 0},
    {"block-bytes", 'b', "SIZE", 0, "size of a block (1MiB)", 0},
    {"total-bytes", 't', "SIZE", 0, "size of all blocks (4GiB)", 0},
    {"threads", 'j', "COUNT", 0, "threads that write and read (8)", 0},
    {"churn", 'c', NULL, 0, "measure write amplification, too", 0},
    {"reuse", 'r', "PERCENT", 0,
     "of the blocks whose turn to go has come, so many were used again and stay (0: oldest first)",
     0},
    {"gc", 'g', "PERCENT", 0,
     "rewrite blob files that are garbage by so much (100: RocksDB's defaults)", 0},
    {"no-wal", 'n', NULL, 0, "without a write-ahead log: durable by a flush", 0},
    {"timeout", 's', "TIME", 0, "give up after (30min)", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct bench *bench = state->input;
    struct error error = {0};
    uint64_t timeout_ms = 0;
    int status = ST_OK;
    switch (key) {
    case 'd':
        bench->directory = text;
        break;
    case 'b':
        status = size_parse(text, &bench->block_bytes, &error);
        break;
    case 't':
        status = size_parse(text, &bench->total_bytes, &error);
        break;
    case 'j':
        status = number_parse(text, &bench->threads, &error);
        break;
    case 'g':
        status = number_parse(text, &bench->gc_percent, &error);
        break;
    case 'r':
        status = number_parse(text, &bench->reuse_percent, &error);
        break;
    case 'c':
        bench->churn = true;
        break;
    case 'n':
        bench->no_wal = true;
        break;
    case 's':
        status = duration_parse(text, &timeout_ms, &error);
        bench->timeout_s = timeout_ms / 1000;
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    if (status != ST_OK) {
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): no thread yet */
        argp_error(state, "%s", error.text);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct argp parser = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Measures blocks inside RocksDB with blob files; prints one JSON object."};
    static struct bench bench = {.directory = ".",
                                 .block_bytes = 1024 * 1024,
                                 .total_bytes = (uint64_t)4 << 30,
                                 .threads = 8,
                                 .timeout_s = 1800,
                                 .gc_percent = 100,
                                 .mutex = PTHREAD_MUTEX_INITIALIZER,
                                 .chance = {.state = 2}};
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): no thread yet */
    if (argp_parse(&parser, argc, argv, 0, NULL, &bench) != 0) {
        return 2;
    }
    if (bench.block_bytes < 2 * BLOBS_STAMP_BYTES || bench.block_bytes > BLOCK_BYTES_MAX ||
        bench.threads == 0 || bench.threads > BLOBS_THREADS_MAX || bench.reuse_percent > 99 ||
        bench.gc_percent > 100 ||
        bench.total_bytes / bench.block_bytes < BLOCKS_PER_THREAD_MIN * bench.threads) {
        (void)fprintf(stderr,
                      "bench_blobs: blocks of 16 bytes to 64MiB, 1 to 256 threads with at "
                      "least %d blocks each, reuse of 0 to 99 percent, "
                      "garbage of 0 to 100 percent\n",
                      BLOCKS_PER_THREAD_MIN);
        return 2;
    }
    json_t *object = json_object();
    bool good = object != NULL && prepare(&bench) && measure(&bench, object);
    if (good) {
        good = json_dumpf(object, stdout, JSON_INDENT(2)) == 0 && puts("") >= 0;
    }
    json_decref(object);
    clean_up(&bench);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
