/* The sections of `kveik bench local`: each adds its metrics to the report. */
#ifndef KVEIK_CLI_BENCH_H
#define KVEIK_CLI_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/cli/bench_engine.h"
#include "client/cli/bench_report.h"

struct cli;

struct bench_run {
    struct bench_report *report;
    const char *socket_path; /* of the daemon that is measured; NULL: the default */
    uint64_t working_bytes;  /* of each memory that is moved: four times the last cache or more */
    uint32_t rounds;
    bool quick;
    pid_t daemon_pid; /* of a daemon of our own, which may be placed; else 0 */
};

/* Where the other process of a round trip runs. On one processor nobody sleeps deeply, so that the
 * work shows; on two, waking an idle processor does. Left to the scheduler it is now one, now the
 * other, and a ratio of two figures would mean nothing. */
enum bench_place { BENCH_NEAR, BENCH_FAR, BENCH_ANYWHERE, BENCH_PLACES };

/* "near", "far", "anywhere": behind the names of metrics. */
const char *bench_place_name(enum bench_place place);

/* True when this run can have that place: near and far need a daemon of our own, far needs two
 * processors; anywhere is for what cannot be placed. */
bool bench_place_possible(const struct bench_run *run, enum bench_place place);

/* Puts this thread, and process `other`'s main thread (0: nobody), where the place says. */
void bench_place_take(enum bench_place place, pid_t other);

/* Both shapes of blocks that the project's wanted figures name. */
extern const struct bench_shape bench_shape_32k;  /* 2 MiB in 64 planes of 32 KiB */
extern const struct bench_shape bench_shape_512k; /* 16 MiB in 32 planes of 512 KiB */

/* Push and pull at 1, 4 and 16 requests in flight against the bare copy, conversion. */
int bench_transfer(struct bench_run *run, const struct bench_shape *shape, struct error *error);

/* Memory mode CROSS against bare process_vm_readv() and writev(). */
int bench_cross(struct bench_run *run, struct error *error);

/* Four engine processes pulling at once. */
int bench_engines(struct bench_run *run, struct error *error);

/* Ping, small pulls, hashing. */
int bench_small(struct bench_run *run, struct error *error);

/* Lookups, push cost and index memory as the number of blocks grows. */
int bench_index(struct bench_run *run, struct error *error);

/* `kveik bench disk`. */
int command_bench_disk(struct cli *cli, int argc, char **argv);

/* The same blocks through a Redis server of our own. ST_UNSUPPORTED when there is none. */
int bench_redis(struct bench_run *run, struct error *error);

#endif
