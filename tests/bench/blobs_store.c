#include "tests/bench/blobs_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

enum {
    BUFFER_BLOCKS = 16, /* a write buffer holds at least so many */
    BUFFER_BYTES_MIN = 64 * 1024 * 1024,
    BLOB_FILE_BYTES = 256 * 1024 * 1024,
    QUIET_MS = 120 * 1000,         /* most time that compactions get to end */
    WRITE_BYTES = 8 * 1024 * 1024, /* of one direct write */
    STEP_MS = 50,
};

volatile sig_atomic_t blobs_interrupted;

/* ---- little things --------------------------------------------------------------------------- */

/* True when it is an error, which is printed once; takes the text. */
static bool wrong(struct bench *bench, char *text)
{
    if (text == NULL) {
        return false;
    }
    if (!atomic_exchange(&bench->failed, true)) {
        (void)fprintf(stderr, "bench_blobs: %s\n", text);
    }
    rocksdb_free(text);
    return true;
}

bool blobs_complain(struct bench *bench, const char *text)
{
    if (!atomic_exchange(&bench->failed, true)) {
        (void)fprintf(stderr, "bench_blobs: %s\n", text);
    }
    return false;
}

double blobs_property(const struct bench *bench, const char *name)
{
    uint64_t value = 0;
    return rocksdb_property_int(bench->db, name, &value) == 0 ? (double)value : 0;
}

static void make_key(uint64_t number, char key[BLOBS_KEY_BYTES])
{
    struct rng rng = {.state = number};
    for (int i = 0; i < BLOBS_KEY_BYTES; i += 8) {
        uint64_t word = rng_next(&rng);
        memcpy(key + i, &word, sizeof word);
    }
}

/* ---- the database ---------------------------------------------------------------------------- */

void blobs_make_options(struct bench *bench)
{
    rocksdb_options_t *options = rocksdb_options_create();
    uint64_t buffer_bytes = bench->block_bytes * BUFFER_BLOCKS;
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_compression(options, rocksdb_no_compression);
    rocksdb_options_set_write_buffer_size(
        options, buffer_bytes < BUFFER_BYTES_MIN ? BUFFER_BYTES_MIN : buffer_bytes);
    rocksdb_options_set_max_write_buffer_number(options, 4);
    rocksdb_options_set_max_background_jobs(options, 4);
    rocksdb_options_set_use_direct_reads(options, 1);
    rocksdb_options_set_use_direct_io_for_flush_and_compaction(options, 1);
    rocksdb_options_set_writable_file_max_buffer_size(options, WRITE_BYTES);
    rocksdb_options_set_enable_blob_files(options, 1);
    rocksdb_options_set_min_blob_size(options, 0);
    rocksdb_options_set_blob_file_size(options, BLOB_FILE_BYTES);
    rocksdb_options_set_blob_compression_type(options, rocksdb_no_compression);
    rocksdb_options_set_enable_blob_gc(options, 1);
    if (bench->gc_percent < 100) {
        rocksdb_options_set_blob_gc_age_cutoff(options, 1.0); /* files of any age */
        rocksdb_options_set_blob_gc_force_threshold(options, (double)bench->gc_percent / 100);
    }
    bench->options = options;
    bench->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(bench->write_options, bench->no_wal ? 1 : 0);
    bench->read_options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_fill_cache(bench->read_options, 0);
}

bool blobs_open(struct bench *bench)
{
    char *text = NULL;
    bench->db = rocksdb_open(bench->options, bench->database, &text);
    return !wrong(bench, text);
}

bool blobs_flush(struct bench *bench)
{
    char *text = NULL;
    rocksdb_flushoptions_t *options = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(options, 1);
    rocksdb_flush(bench->db, options, &text);
    rocksdb_flushoptions_destroy(options);
    return !wrong(bench, text);
}

/* What was acknowledged is on the device from here on. */
bool blobs_make_durable(struct bench *bench)
{
    if (bench->no_wal) {
        return blobs_flush(bench);
    }
    char *text = NULL;
    rocksdb_flush_wal(bench->db, 1, &text);
    return !wrong(bench, text);
}

static bool out_of_time(const struct bench *bench)
{
    return blobs_interrupted != 0 || clock_ms() >= bench->give_up_ms;
}

/* Until nothing runs in the background, or for QUIET_MS. */
void blobs_await_quiet(const struct bench *bench)
{
    uint64_t give_up_ms = clock_ms() + QUIET_MS;
    while (clock_ms() < give_up_ms && !out_of_time(bench) &&
           (blobs_property(bench, "rocksdb.num-running-flushes") > 0 ||
            blobs_property(bench, "rocksdb.num-running-compactions") > 0 ||
            blobs_property(bench, "rocksdb.mem-table-flush-pending") > 0 ||
            blobs_property(bench, "rocksdb.compaction-pending") > 0)) {
        struct timespec pause = {.tv_nsec = STEP_MS * 1000000L};
        (void)nanosleep(&pause, NULL);
    }
}

/* ---- phases ---------------------------------------------------------------------------------- */

static void *worker_main(void *arg)
{
    struct bench *bench = arg;
    char *block = malloc(bench->block_bytes);
    if (block == NULL) {
        (void)blobs_complain(bench, "no memory");
        return NULL;
    }
    memcpy(block, bench->payload, bench->block_bytes);
    while (!atomic_load(&bench->failed)) {
        uint64_t i = atomic_fetch_add(&bench->next, 1);
        if (i >= bench->end) {
            break;
        }
        if (out_of_time(bench)) {
            (void)blobs_complain(bench, blobs_interrupted != 0 ? "interrupted" : "the time is up");
        } else if (!bench->work(bench, i, block)) {
            break;
        }
    }
    free(block);
    return NULL;
}

bool blobs_run(struct bench *bench, uint64_t count,
               bool (*work)(struct bench *bench, uint64_t i, char *block))
{
    pthread_t threads[BLOBS_THREADS_MAX];
    uint64_t started = 0;
    bench->work = work;
    bench->end = count;
    atomic_store(&bench->next, 0);
    while (started < bench->threads &&
           pthread_create(&threads[started], NULL, worker_main, bench) == 0) {
        started++;
    }
    if (started < bench->threads) {
        (void)blobs_complain(bench, "cannot start a thread");
    }
    for (uint64_t i = 0; i < started; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    return !atomic_load(&bench->failed);
}

bool blobs_put(struct bench *bench, uint64_t i, char *block)
{
    char key[BLOBS_KEY_BYTES];
    char *text = NULL;
    make_key(i, key);
    memcpy(block, &i, BLOBS_STAMP_BYTES);
    memcpy(block + bench->block_bytes - BLOBS_STAMP_BYTES, &i, BLOBS_STAMP_BYTES);
    rocksdb_put(bench->db, bench->write_options, key, sizeof key, block, bench->block_bytes, &text);
    return !wrong(bench, text);
}

bool blobs_get(struct bench *bench, uint64_t i, char *block)
{
    char key[BLOBS_KEY_BYTES];
    char *text = NULL;
    size_t bytes = 0;
    uint64_t number = bench->order[i];
    make_key(number, key);
    rocksdb_pinnableslice_t *slice =
        rocksdb_get_pinned(bench->db, bench->read_options, key, sizeof key, &text);
    if (wrong(bench, text)) {
        return false;
    }
    const char *value = slice == NULL ? NULL : rocksdb_pinnableslice_value(slice, &bytes);
    bool good = value != NULL && bytes == bench->block_bytes &&
                memcmp(value, &number, BLOBS_STAMP_BYTES) == 0 &&
                memcmp(value + bytes - BLOBS_STAMP_BYTES, &number, BLOBS_STAMP_BYTES) == 0;
    if (good) {
        memcpy(block, value, bytes); /* to where its asker wants it */
    }
    if (slice != NULL) {
        rocksdb_pinnableslice_destroy(slice);
    }
    return good || blobs_complain(bench, "a block did not come back as it was written");
}

bool blobs_delete(struct bench *bench, uint64_t number)
{
    char key[BLOBS_KEY_BYTES];
    char *text = NULL;
    make_key(number, key);
    rocksdb_delete(bench->db, bench->write_options, key, sizeof key, &text);
    return !wrong(bench, text);
}

/* Takes the new block in and says which one goes. */
static uint64_t take_turn(struct bench *bench, uint64_t number)
{
    uint64_t room = bench->blocks + bench->threads; /* more than are ever in the ring */
    (void)pthread_mutex_lock(&bench->mutex);
    bench->turns[(bench->turns_begin + bench->turns_count) % room] = number;
    uint64_t victim = bench->turns[bench->turns_begin];
    for (uint64_t i = 0; i < bench->turns_count; i++) {
        victim = bench->turns[bench->turns_begin];
        bench->turns_begin = (bench->turns_begin + 1) % room;
        if (rng_next(&bench->chance) % 100 >= bench->reuse_percent) {
            break;
        }
        bench->turns[(bench->turns_begin + bench->turns_count) % room] = victim;
    }
    (void)pthread_mutex_unlock(&bench->mutex);
    return victim;
}

bool blobs_churn(struct bench *bench, uint64_t i, char *block)
{
    uint64_t number = bench->blocks + i;
    return blobs_put(bench, number, block) && blobs_delete(bench, take_turn(bench, number));
}
