/*
 * RocksDB as bench_blobs sets it up, and the threads that write, read and churn. The first error of
 * a run is printed and ends all threads.
 */
#ifndef KVEIK_TESTS_BENCH_BLOBS_STORE_H
#define KVEIK_TESTS_BENCH_BLOBS_STORE_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <rocksdb/c.h>

#include "base/rng.h"

enum {
    BLOBS_KEY_BYTES = 32, /* as Kveik's */
    BLOBS_STAMP_BYTES = 8,
    BLOBS_THREADS_MAX = 256,
    BLOBS_PATH_BYTES = 4096,
    BLOBS_LIVE_PERCENT = 80,
};

struct bench {
    const char *directory;
    uint64_t block_bytes;
    uint64_t total_bytes;
    uint64_t threads;
    uint64_t timeout_s;
    bool churn;
    bool no_wal;
    uint64_t gc_percent;    /* blob files are rewritten once so much of them is garbage; 100: as by
                               RocksDB's defaults, which do not bound the space */
    uint64_t reuse_percent; /* of the blocks whose turn to go has come, so many were used again and
                               stay for another turn: 0 is first in, first out */

    char folder[BLOBS_PATH_BYTES];
    char database[BLOBS_PATH_BYTES + 8];
    uint64_t blocks;
    uint64_t give_up_ms;
    char *payload; /* random bytes; each block takes its own stamp besides */
    uint64_t *order;
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options;

    /* of the phase that runs */
    bool (*work)(struct bench *bench, uint64_t i, char *block);
    atomic_uint_fast64_t next;
    uint64_t end;
    atomic_bool failed;

    pthread_mutex_t mutex; /* guards what follows */
    uint64_t *turns;       /* ring of live blocks, the next to go in front */
    uint64_t turns_begin;
    uint64_t turns_count;
    struct rng chance;
};

extern volatile sig_atomic_t blobs_interrupted; /* the only thing that a signal may touch */

/* Prints a complaint unless there was one; false. */
bool blobs_complain(struct bench *bench, const char *text);

/* Fills the options in, of which all else is made. */
void blobs_make_options(struct bench *bench);

bool blobs_open(struct bench *bench);

/* What is in memory goes to blob files. */
bool blobs_flush(struct bench *bench);

/* What was acknowledged is on the device from here on. */
bool blobs_make_durable(struct bench *bench);

/* Until nothing runs in the background, or for two minutes. */
void blobs_await_quiet(const struct bench *bench);

/* A number that RocksDB tells; 0 when it does not. */
double blobs_property(const struct bench *bench, const char *name);

bool blobs_delete(struct bench *bench, uint64_t number);

/* Does `work` for 0 .. count - 1, on all threads. */
bool blobs_run(struct bench *bench, uint64_t count,
               bool (*work)(struct bench *bench, uint64_t i, char *block));

/* Work: the i-th block is written; the i-th in random order is read and checked; one comes and the
 * next goes. */
bool blobs_put(struct bench *bench, uint64_t i, char *block);
bool blobs_get(struct bench *bench, uint64_t i, char *block);
bool blobs_churn(struct bench *bench, uint64_t i, char *block);

#endif
