/* The parts of `kveik bench disk`: what each measures goes to the report. */
#ifndef KVEIK_CLI_BENCH_DISK_H
#define KVEIK_CLI_BENCH_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "client/cli/bench_daemon.h"
#include "client/cli/bench_disk_limit.h"
#include "client/cli/bench_engine.h"
#include "client/cli/bench_report.h"

struct json_t;

struct bench_disk {
    struct bench_report *report;
    const char *program;   /* kveikd; "": beside this program */
    const char *directory; /* ours alone, removed at the end; stores lie in it */
    char store[4096];      /* of the daemon that runs */
    uint64_t bytes;        /* moved in one pass */
    uint32_t depth;        /* requests in flight, ours and fio's */
    uint32_t rounds;
    bool quick;
    struct bench_disk_limit limit;
    struct bench_daemon daemon;
};

/* A daemon on the store, which is kept from run to run; `segment` and `disk_bytes` in words for its
 * command line. ST_OK, or why it did not start. */
int bench_disk_start(struct bench_disk *disk, uint64_t cpu_bytes, uint64_t disk_bytes,
                     const char *segment, struct error *error);
void bench_disk_stop(struct bench_disk *disk);

/* An empty store from now on. */
void bench_disk_fresh(struct bench_disk *disk);

/* The daemon's status; a new reference, NULL with the error when it does not answer. */
struct json_t *bench_disk_status(const struct bench_engine *engine, struct error *error);

/* Waits until blocks key_first … are durable. Every one must be held. */
int bench_disk_persist(struct bench_engine *engine, uint64_t key_first, uint32_t blocks,
                       struct error *error);

/* Push to durable and cold pull beside fio, for one shape. */
int bench_disk_transfer(struct bench_disk *disk, const struct bench_shape *shape,
                        struct error *error);

/* The same blocks inside RocksDB, when the program bench_blobs lies beside this one; with `churn`,
 * write amplification, too. */
int bench_disk_blobs(struct bench_disk *disk, const struct bench_shape *shape, bool churn,
                     struct error *error);

/* What starting takes with 10^4, 10^5, 10^6 blocks, and what the catalogue has for each. */
int bench_disk_growth(struct bench_disk *disk, struct error *error);

/* Write amplification and hit ratio where 80 % of the disk is used again and again. */
int bench_disk_churn(struct bench_disk *disk, struct error *error);

#endif
