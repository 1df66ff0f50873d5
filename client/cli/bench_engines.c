/* Several engine processes at once: each pushes blocks of its own, then all pull for a while. */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "client/cli/bench.h"
#include "client/cli/bench_daemon.h"

enum { ENGINES = 4, DEPTH = 4, PULL_MS = 1500, PULL_QUICK_MS = 200, KEYS_APART = 1 << 20 };

struct child {
    pid_t pid;
    int socket;
};

struct child_result {
    int status;
    uint64_t bytes;
    double seconds;
};

/* Push, say ready, wait for the start, pull until the time is over. */
static void run_child(const struct bench_run *run, uint32_t number, int socket)
{
    struct child_result result = {0};
    struct bench_engine engine = {0};
    uint64_t block_bytes = bench_block_bytes(&bench_shape_32k);
    uint32_t blocks = (uint32_t)(run->working_bytes / ENGINES / block_bytes);
    struct bench_engine_options options = {
        .socket_path = run->socket_path, .shape = &bench_shape_32k, .pages = blocks};
    struct bench_pass pass = {.push = true,
                              .key_first = (2ull << 32) + (uint64_t)number * KEYS_APART,
                              .blocks = blocks,
                              .depth = DEPTH};
    result.status = bench_engine_init(&engine, &options, NULL);
    if (result.status == ST_OK) {
        result.status = bench_engine_pass(&engine, &pass, NULL);
    }
    char byte = 0;
    bool going = write(socket, &byte, 1) == 1 && read(socket, &byte, 1) == 1;
    uint64_t began_ns = clock_ns();
    uint64_t long_ns = (run->quick ? PULL_QUICK_MS : PULL_MS) * UINT64_C(1000000);
    pass.push = false;
    while (going && result.status == ST_OK && clock_ns() - began_ns < long_ns) {
        result.status = bench_engine_pass(&engine, &pass, NULL);
        result.bytes += blocks * block_bytes;
    }
    result.seconds = (double)(clock_ns() - began_ns) / 1e9;
    (void)send(socket, &result, sizeof result, MSG_NOSIGNAL);
    bench_engine_finish(&engine);
}

static int start_child(const struct bench_run *run, uint32_t number, struct child *child)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return ST_IO;
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(pair[0]);
        run_child(run, number, pair[1]);
        _exit(0);
    }
    (void)close(pair[1]);
    if (pid < 0) {
        (void)close(pair[0]);
        return ST_IO;
    }
    *child = (struct child){.pid = pid, .socket = pair[0]};
    return ST_OK;
}

static int collect(struct child *children, double *gbps_out)
{
    int status = ST_OK;
    char byte = 0;
    for (uint32_t i = 0; i < ENGINES; i++) {
        status = read(children[i].socket, &byte, 1) == 1 ? status : ST_LOST;
    }
    for (uint32_t i = 0; i < ENGINES; i++) {
        status = write(children[i].socket, &byte, 1) == 1 ? status : ST_LOST;
    }
    double sum = 0;
    for (uint32_t i = 0; i < ENGINES; i++) {
        struct child_result result = {0};
        ssize_t got = recv(children[i].socket, &result, sizeof result, MSG_WAITALL);
        if (got != (ssize_t)sizeof result || result.status != ST_OK) {
            status = got == (ssize_t)sizeof result ? result.status : ST_LOST;
        } else {
            sum += (double)result.bytes / result.seconds / 1e9;
        }
    }
    *gbps_out = sum;
    return status;
}

int bench_engines(struct bench_run *run, struct error *error)
{
    struct child children[ENGINES] = {{0}};
    int status = ST_OK;
    for (uint32_t i = 0; i < ENGINES && status == ST_OK; i++) {
        status = start_child(run, i, &children[i]);
    }
    double gbps = 0;
    if (status == ST_OK) {
        status = collect(children, &gbps);
    }
    for (uint32_t i = 0; i < ENGINES; i++) {
        if (children[i].pid > 0) {
            (void)close(children[i].socket);
            bench_child_end(children[i].pid, 0);
        }
    }
    if (status != ST_OK) {
        return error_set(error, status, "four engines at once: %s", status_text(status));
    }
    samples_add(&bench_metric(run->report, "GB/s", "engines_4_gbps")->samples, gbps);
    return ST_OK;
}
