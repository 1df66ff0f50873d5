/* A kveikd of the benchmark's own: on a private socket, gone when the benchmark ends. */
#ifndef KVEIK_CLI_BENCH_DAEMON_H
#define KVEIK_CLI_BENCH_DAEMON_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

enum { BENCH_PATH_BYTES = 108 };

struct bench_daemon {
    pid_t pid; /* 0: none was started */
    char folder[BENCH_PATH_BYTES - 16];
    char socket_path[BENCH_PATH_BYTES];
};

struct bench_daemon_options {
    const char *program; /* "": kveikd beside this program, else on the path */
    uint64_t cpu_bytes;
    uint32_t copy_threads;
    const char *const *more; /* further arguments, NULL-terminated; NULL: none, and no disk */
};

/* Returns once the daemon answers. ST_OK, ST_IO, ST_UNAVAILABLE; finished by the caller in any
 * case. */
int bench_daemon_start(struct bench_daemon *daemon, const struct bench_daemon_options *options,
                       struct error *error);

/* CPU seconds that the daemon has used so far; 0 when it cannot be read. */
double bench_daemon_cpu_s(const struct bench_daemon *daemon);

/* Ends it and removes its folder. Accepts a zeroed one. */
void bench_daemon_finish(struct bench_daemon *daemon);

/* Waits for a child: politely, then not. */
void bench_child_end(pid_t pid, int signal_number);

/* A private folder for sockets, under $XDG_RUNTIME_DIR or /tmp. ST_OK or ST_IO. */
int bench_folder_create(char *out, size_t out_bytes, struct error *error);

#endif
