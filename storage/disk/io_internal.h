/*
 * What the two kinds of the I/O engine share. A job is in one of three lists, all guarded by the
 * mutex, from submission to reaping:
 *
 *   waiting -> disk_io_take() -> active -> disk_io_end() -> done
 *
 * Everything else in a job that is active belongs to the one thread that took it.
 */
#ifndef KVEIK_STORAGE_DISK_IO_INTERNAL_H
#define KVEIK_STORAGE_DISK_IO_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "storage/disk/io.h"

enum {
    DISK_IO_MAGIC = 0x64696f65,
    DISK_IO_TRIES_MAX = 100, /* of one transfer that says EINTR or EAGAIN */
};

/* How jobs get to the device. */
struct disk_io_engine {
    int (*start)(struct disk_io *io, struct error *error); /* ST_OK: state is set, threads run */
    void (*poke)(struct disk_io *io); /* with the mutex: a job is waiting, or `stopping` was set */
    void (*stop)(struct disk_io *io); /* `stopping` is set: joins the threads, frees the state */
};

extern const struct disk_io_engine disk_io_uring;
extern const struct disk_io_engine disk_io_threads;

struct disk_io {
    uint32_t magic;
    struct disk_io_options options;
    enum disk_io_kind kind;
    const struct disk_io_engine *engine;
    void *state;           /* the engine's */
    uint64_t transfer_max; /* bytes of one transfer at most; set by tests, before any job */
    uint32_t in_flight;    /* the owner's: submitted and not reaped */
    pthread_mutex_t mutex;
    struct queue waiting;
    struct queue active;
    struct queue done;
    bool stopping;
};

/* With the mutex held: the next waiting job becomes active. NULL: none waits. */
struct disk_io_job *disk_io_take(struct disk_io *io);

/* Runs `before`. False: the job has ended. */
bool disk_io_begin(struct disk_io_job *job);

/* Sets rest[] and rest_count to what the next transfer shall move, and says where in the file.
 * False: a fault was injected, and the job has ended. */
bool disk_io_transfer(const struct disk_io *io, struct disk_io_job *job, uint64_t *offset_out);

/* Takes a transfer's result: bytes moved, or -errno. True: another transfer is wanted. `tries`
 * counts in a row what moved nothing; the caller sets it to 0 at first. */
bool disk_io_moved(struct disk_io_job *job, int64_t result, uint32_t *tries);

/* Runs `after`, hands the job to the owner and wakes it. Without the mutex. */
void disk_io_end(struct disk_io *io, struct disk_io_job *job);

/* A thread that no signal is delivered to. ST_OK or ST_NO_MEMORY. */
int disk_io_thread(pthread_t *thread_out, void *(*run)(void *), void *arg, const char *name);

#endif
