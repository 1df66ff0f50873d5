/*
 * The same blocks through a Redis server on this machine, over its Unix socket, pipelined: what one
 * would have without Kveik. Redis gets every advantage: no disk, blocks that lie in one piece (a
 * real engine would first have to gather their planes), and one server for one client.
 */
#include <stdlib.h>

#include "client/cli/bench.h"

#ifdef KVEIK_HIREDIS

#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "client/cli/bench_daemon.h"

enum {
    DEPTH = 4,
    START_MS = 10 * 1000,
    STEP_MS = 20,
    REDIS_TIMEOUT_S = 30,
    ARGUMENT_BYTES = 160,
    KEY_TEXT_BYTES = 32,
    EXIT_EXEC = 127,
};

struct redis_bench {
    struct bench_run *run;
    pid_t pid;
    char folder[BENCH_PATH_BYTES - 16];
    char socket_path[BENCH_PATH_BYTES];
    redisContext *context;
    char *memory; /* the engine's pages */
    uint64_t block_bytes;
    uint32_t blocks;
};

_Noreturn static void become_redis(const struct redis_bench *bench)
{
    char socket_path[ARGUMENT_BYTES];
    char folder[ARGUMENT_BYTES];
    (void)snprintf(socket_path, sizeof socket_path, "%s", bench->socket_path);
    (void)snprintf(folder, sizeof folder, "%s", bench->folder);
    char *const argv[] = {(char[]){"redis-server"},
                          (char[]){"--port"},
                          (char[]){"0"},
                          (char[]){"--unixsocket"},
                          socket_path,
                          (char[]){"--save"},
                          (char[]){""},
                          (char[]){"--appendonly"},
                          (char[]){"no"},
                          (char[]){"--dir"},
                          folder,
                          NULL};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (quiet >= 0 && dup2(quiet, STDOUT_FILENO) >= 0 && dup2(quiet, STDERR_FILENO) >= 0) {
        (void)execvp(argv[0], argv);
    }
    _exit(EXIT_EXEC);
}

static int start(struct redis_bench *bench, struct error *error)
{
    int status = bench_folder_create(bench->folder, sizeof bench->folder, error);
    if (status != ST_OK) {
        bench->folder[0] = '\0';
        return status;
    }
    (void)snprintf(bench->socket_path, sizeof bench->socket_path, "%s/r.sock", bench->folder);
    bench->pid = fork();
    if (bench->pid == 0) {
        become_redis(bench);
    }
    uint64_t give_up_ms = clock_ms() + START_MS;
    while (bench->pid > 0 && clock_ms() < give_up_ms) {
        bench->context = redisConnectUnix(bench->socket_path);
        if (bench->context != NULL && bench->context->err == 0) {
            struct timeval limit = {.tv_sec = REDIS_TIMEOUT_S};
            (void)redisSetTimeout(bench->context, limit);
            return ST_OK;
        }
        if (bench->context != NULL) {
            redisFree(bench->context);
            bench->context = NULL;
        }
        (void)poll(NULL, 0, STEP_MS);
    }
    return error_set(error, ST_UNSUPPORTED, "redis-server does not start; is it installed?");
}

static void finish(struct redis_bench *bench)
{
    if (bench->context != NULL) {
        redisFree(bench->context);
    }
    if (bench->pid > 0) {
        bench_child_end(bench->pid, SIGKILL);
    }
    if (bench->folder[0] != '\0') {
        (void)unlink(bench->socket_path);
        (void)rmdir(bench->folder);
    }
    heap_free(bench->memory);
}

static int take(struct redis_bench *bench, bool push, uint32_t block, struct error *error)
{
    void *answer = NULL;
    if (redisGetReply(bench->context, &answer) != REDIS_OK || answer == NULL) {
        return error_set(error, ST_LOST, "redis: %s", bench->context->errstr);
    }
    redisReply *reply = answer;
    int status = ST_OK;
    if (reply->type == REDIS_REPLY_ERROR) {
        status = error_set(error, ST_IO, "redis: %s", reply->str);
    } else if (!push && (reply->type != REDIS_REPLY_STRING || reply->len != bench->block_bytes)) {
        status = error_set(error, ST_MISS, "redis lost a block");
    } else if (!push) {
        memcpy(bench->memory + block * bench->block_bytes, reply->str, reply->len);
    }
    freeReplyObject(answer);
    return status;
}

static int ask(struct redis_bench *bench, bool push, uint32_t block, struct error *error)
{
    char key[KEY_TEXT_BYTES];
    (void)snprintf(key, sizeof key, "kveik-bench-block-%08u", block);
    int done = push ? redisAppendCommand(bench->context, "SET %s %b", key,
                                         bench->memory + block * bench->block_bytes,
                                         (size_t)bench->block_bytes)
                    : redisAppendCommand(bench->context, "GET %s", key);
    return done == REDIS_OK ? ST_OK : error_set(error, ST_NO_MEMORY, "redis: no memory");
}

static int pass(struct redis_bench *bench, bool push, struct error *error)
{
    uint32_t begun = 0;
    int status = ST_OK;
    uint64_t began_ns = clock_ns();
    for (uint32_t ended = 0; ended < bench->blocks && status == ST_OK; ended++) {
        while (begun < bench->blocks && begun - ended < DEPTH && status == ST_OK) {
            status = ask(bench, push, begun++, error);
        }
        if (status == ST_OK) {
            status = take(bench, push, ended, error);
        }
    }
    double seconds = (double)(clock_ns() - began_ns) / 1e9;
    samples_add(
        &bench_metric(bench->run->report, "GB/s", push ? "redis_push_gbps" : "redis_pull_gbps")
             ->samples,
        (double)(bench->blocks * bench->block_bytes) / seconds / 1e9);
    return status;
}

int bench_redis(struct bench_run *run, struct error *error)
{
    struct redis_bench bench = {.run = run, .block_bytes = bench_block_bytes(&bench_shape_32k)};
    bench.blocks = (uint32_t)(run->working_bytes / bench.block_bytes);
    bench.memory = heap_alloc(bench.blocks * bench.block_bytes);
    if (bench.memory == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for blocks");
    }
    memset(bench.memory, 1, bench.blocks * bench.block_bytes);
    int status = start(&bench, error);
    for (uint32_t i = 0; i < run->rounds && i < 5 && status == ST_OK; i++) {
        status = pass(&bench, true, error);
        if (status == ST_OK) {
            status = pass(&bench, false, error);
        }
    }
    finish(&bench);
    return status;
}

#else

int bench_redis(struct bench_run *run, struct error *error)
{
    (void)run;
    return error_set(error, ST_UNSUPPORTED, "this build has no Redis client (hiredis)");
}

#endif
