/*
 * The limit that the disk tier is held against: what the program fio reaches in the same directory
 * with the same block size and depth, by direct I/O.
 *
 * The file lies in the directory without a name: it is gone when this process ends, however it
 * ends. One thread.
 */
#ifndef KVEIK_CLI_BENCH_DISK_LIMIT_H
#define KVEIK_CLI_BENCH_DISK_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct bench_disk_job {
    uint32_t block_bytes; /* multiple of 4096 */
    uint32_t depth;       /* blocks in flight, 1 .. 1024 */
    uint64_t total_bytes; /* rounded down to whole blocks; at least one */
    uint32_t timeout_s;   /* 0: BENCH_DISK_TIMEOUT_S */
    bool preallocated; /* writing: the file's space is allocated before (fallocate); else the file
                          grows with each block, as that of a writer that appends */
};

struct bench_disk_result {
    double bytes_per_s; /* writing: with the fsync at the end */
    double cpu_s;       /* user and system, of all of fio's threads while they ran */
    uint64_t bytes;
};

enum { BENCH_DISK_TIMEOUT_S = 600 };

struct bench_disk_limit {
    const char *engine; /* fio's name for what was chosen: "io_uring", "libaio" or "psync" (depth
                           threads) */
    const char *program;
    char *directory;
    int fd;              /* of the file; -1: none yet */
    uint64_t file_bytes; /* written by the last pass */
};

/* Finds out with which engine fio can do direct I/O in a directory. `program` NULL: fio on the
 * path. ST_OK, ST_UNSUPPORTED (no fio: the text says how to get it; or no direct I/O there), ST_IO,
 * ST_NO_MEMORY. Finished by the caller in any case. */
int bench_disk_limit_init(struct bench_disk_limit *limit, const char *directory,
                          const char *program, struct error *error);
void bench_disk_limit_finish(struct bench_disk_limit *limit);

/* Sequential write of a fresh file, fsync at the end. ST_OK, ST_IO, ST_NO_SPACE, ST_DEADLINE,
 * ST_NO_MEMORY. */
int bench_disk_limit_write(struct bench_disk_limit *limit, const struct bench_disk_job *job,
                           struct bench_disk_result *result_out, struct error *error);

/* Random read of whole blocks, each once, of the file that the last write left; written first when
 * that one is smaller. As bench_disk_limit_write(). */
int bench_disk_limit_read(struct bench_disk_limit *limit, const struct bench_disk_job *job,
                          struct bench_disk_result *result_out, struct error *error);

/* What fio printed (messages, then JSON). ST_OK, ST_IO, ST_NO_SPACE. */
int bench_disk_limit_parse(const char *text, size_t bytes, bool write,
                           struct bench_disk_result *result_out, struct error *error);

#endif
