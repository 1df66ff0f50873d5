/*
 * The limits that the system is held against, bare: the copy kernels on one thread, copies between
 * processes, one wake-up of another process.
 */
#ifndef KVEIK_CLI_BENCH_LIMIT_H
#define KVEIK_CLI_BENCH_LIMIT_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "client/cli/bench_engine.h"
#include "client/cli/bench_stats.h"

struct kernel;

/* Two memories like an engine's (planes apart) and a pool's (blocks whole). */
struct bench_limit {
    const struct bench_shape *shape;
    uint32_t blocks;
    uint64_t bytes; /* of each */
    char *planes;
    char *pool;
    uint32_t *order;
    const struct kernel *best; /* kernel with the most GB/s at this shape */
};

/* Maps the memories and finds the best kernel. ST_OK, ST_NO_MEMORY. */
int bench_limit_init(struct bench_limit *limit, const struct bench_shape *shape, uint32_t blocks,
                     struct error *error);
void bench_limit_finish(struct bench_limit *limit);

/* One pass over all blocks, plane by plane: seconds. */
double bench_limit_best(struct bench_limit *limit);
double bench_limit_memcpy(struct bench_limit *limit);

/* A second process with planes of its own, for process_vm_readv() and writev(). */
struct bench_peer {
    pid_t pid;
    int socket;   /* closing it ends the process */
    char *planes; /* there */
};

int bench_peer_start(struct bench_peer *peer, const struct bench_limit *limit, struct error *error);
void bench_peer_finish(struct bench_peer *peer);

/* One pass between the peer's planes and our pool, one call a block. ST_OK or ST_PERMISSION. */
int bench_peer_pass(const struct bench_peer *peer, struct bench_limit *limit, bool read_there,
                    double *seconds_out);

/* Round trips of 64 bytes over a Unix stream socket with another process, in microseconds. `placed`
 * (may be NULL) is called with the other process before. */
int bench_ping(uint32_t rounds, void (*placed)(pid_t other, void *arg), void *arg,
               struct samples *us_out, struct error *error);

#endif
