/*
 * Asynchronous file I/O of the disk tier: reads and writes with direct I/O, many in flight, by
 * io_uring where the kernel allows it and by threads of our own where it does not (containers often
 * forbid it). A job is a struct that the caller embeds:
 *
 *   filled by the owner -> disk_io_submit() (now the engine's) -> disk_io_reap() hands it back
 *
 * A short transfer is continued, EINTR and EAGAIN are tried again; whatever else fails ends the job
 * with ST_IO (ENOSPC and EDQUOT: ST_NO_SPACE) and the errno. Nothing touches the job's memory once
 * it was reaped: this is the fence that frees rest on. A request that the device sits on for
 * seconds holds nothing else up than its own place in the depth.
 *
 * One owner thread submits and reaps. The engine's own threads run `before` and `after`.
 */
#ifndef KVEIK_STORAGE_DISK_IO_H
#define KVEIK_STORAGE_DISK_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/queue.h"

enum {
    DISK_ALIGN = 4096,    /* of memory, offsets and lengths under direct I/O */
    DISK_IO_VECTORS = 64, /* pieces of one job */
    DISK_IO_DEPTH_MAX = 1024,
};

enum disk_io_kind { DISK_IO_AUTO, DISK_IO_URING, DISK_IO_THREADS };

struct disk_io_job {
    /* set by the owner */
    int fd;
    bool write;
    uint64_t offset; /* in the file */
    struct iovec vectors[DISK_IO_VECTORS];
    uint32_t vector_count;                  /* the bytes of all together must not be 0 */
    int (*before)(struct disk_io_job *job); /* on an engine's thread, just before a write: fills
                                               headers and checksums; may be NULL; not ST_OK ends
                                               the job */
    int (*after)(struct disk_io_job *job);  /* … after a read that went well: verifies */
    void *owner;

    /* set by the engine, valid once reaped */
    int status;        /* ST_OK, ST_IO, ST_NO_SPACE, or what before/after said */
    int error;         /* errno of ST_IO and ST_NO_SPACE */
    uint64_t began_ns; /* clock_ns() when it was submitted … */
    uint64_t ended_ns; /* … and when it ended */

    /* the engine's own */
    struct queue link;
    struct iovec rest[DISK_IO_VECTORS]; /* what is left after a short transfer */
    uint32_t rest_count;
    uint64_t done_bytes;
};

struct disk_io_options {
    enum disk_io_kind kind;
    uint32_t depth;          /* jobs at the device at once, 1 .. DISK_IO_DEPTH_MAX */
    uint32_t jobs_max;       /* submitted and not reaped; beyond, disk_io_submit() says ST_BUSY */
    void (*wake)(void *arg); /* from an engine's thread: disk_io_reap() has something; coalesced */
    void *wake_arg;
};

struct disk_io;

/* Why io_uring cannot be used here, in words, into `why` (may be NULL); true when it can. Tries it
 * for real: sets a ring up and lets it do nothing. */
bool disk_io_uring_works(char *why, uint32_t why_bytes);

/* AUTO: io_uring if it works, else threads. URING where it does not work: ST_UNSUPPORTED with the
 * reason. ST_OK, ST_NO_MEMORY, ST_IO. */
int disk_io_create(const struct disk_io_options *options, struct disk_io **io_out,
                   struct error *error);

/* All jobs must have been reaped. Accepts NULL. */
void disk_io_destroy(struct disk_io *io);

/* DISK_IO_URING or DISK_IO_THREADS: what was chosen. */
enum disk_io_kind disk_io_kind(const struct disk_io *io);

/* ST_OK: the job is the engine's until reaped. ST_BUSY: jobs_max reached, nothing happened. */
int disk_io_submit(struct disk_io *io, struct disk_io_job *job);

/* The next finished job, or NULL. */
struct disk_io_job *disk_io_reap(struct disk_io *io);

/* Jobs submitted and not reaped. */
uint32_t disk_io_in_flight(const struct disk_io *io);

/* clock_ns() at which the oldest job still in flight was submitted; 0: none is. */
uint64_t disk_io_oldest_ns(const struct disk_io *io);

#endif
