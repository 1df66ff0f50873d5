#include "client/cli/bench_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <kveik/kveik.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    START_MS = 20 * 1000,
    END_MS = 10 * 1000,
    STEP_MS = 10,
    EXIT_EXEC = 127,
    PROGRAM_BYTES = 4096,
    ARGUMENT_BYTES = 160,
    ARGUMENTS_MAX = 32,
};

int bench_folder_create(char *out, size_t out_bytes, struct error *error)
{
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    int length = snprintf(out, out_bytes, "%s/kveik-bench-XXXXXX",
                          runtime != NULL && runtime[0] == '/' ? runtime : "/tmp");
    if (length < 0 || (size_t)length >= out_bytes) {
        return error_set(error, ST_IO, "$XDG_RUNTIME_DIR is too long for a socket's path");
    }
    return mkdtemp(out) != NULL ? ST_OK : error_errno(error, ST_IO, errno, "create %s", out);
}

/* kveikd beside this program; else the name alone, which execvp() looks up. */
static void find_program(const struct bench_daemon_options *options, char out[PROGRAM_BYTES])
{
    static const char name[] = "kveikd";
    if (options->program[0] != '\0') {
        (void)snprintf(out, PROGRAM_BYTES, "%s", options->program);
        return;
    }
    ssize_t length = readlink("/proc/self/exe", out, PROGRAM_BYTES - sizeof name);
    out[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(out, '/');
    if (slash != NULL) {
        memcpy(slash + 1, name, sizeof name);
    }
    if (slash == NULL || access(out, X_OK) != 0) {
        memcpy(out, name, sizeof name);
    }
}

_Noreturn static void become_daemon(char *const argv[], const char *log_path)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (log >= 0 && dup2(log, STDERR_FILENO) >= 0 && dup2(log, STDOUT_FILENO) >= 0) {
        (void)execvp(argv[0], argv);
    }
    _exit(EXIT_EXEC);
}

static int await_daemon(struct bench_daemon *daemon, struct error *error)
{
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = daemon->socket_path;
    options.client_name = "kveik bench";
    uint64_t give_up_ms = clock_ms() + START_MS;
    for (;;) {
        kveik_client *client = NULL;
        struct kveik_error wrong = {0};
        int status = kveik_connect(&options, &client, &wrong);
        kveik_close(client);
        if (status == KVEIK_OK) {
            return ST_OK;
        }
        if (waitpid(daemon->pid, NULL, WNOHANG) == daemon->pid) {
            daemon->pid = 0;
            return error_set(error, ST_UNAVAILABLE,
                             "kveikd ended at once; is it installed beside kveik or on the path?");
        }
        if (clock_ms() > give_up_ms) {
            return error_set(error, ST_UNAVAILABLE, "kveikd does not answer: %.200s", wrong.text);
        }
        (void)poll(NULL, 0, STEP_MS);
    }
}

int bench_daemon_start(struct bench_daemon *daemon, const struct bench_daemon_options *options,
                       struct error *error)
{
    *daemon = (struct bench_daemon){0};
    int status = bench_folder_create(daemon->folder, sizeof daemon->folder, error);
    if (status != ST_OK) {
        daemon->folder[0] = '\0';
        return status;
    }
    char program[PROGRAM_BYTES];
    char socket_path[ARGUMENT_BYTES];
    char bytes[ARGUMENT_BYTES];
    char threads[ARGUMENT_BYTES];
    char log_path[ARGUMENT_BYTES];
    find_program(options, program);
    (void)snprintf(daemon->socket_path, sizeof daemon->socket_path, "%s/k.sock", daemon->folder);
    (void)snprintf(socket_path, sizeof socket_path, "--socket=%s", daemon->socket_path);
    (void)snprintf(bytes, sizeof bytes, "--cpu-bytes=%llu", (unsigned long long)options->cpu_bytes);
    (void)snprintf(threads, sizeof threads, "--copy-threads=%u", options->copy_threads);
    (void)snprintf(log_path, sizeof log_path, "%s/log", daemon->folder);
    static const char *const no_disk[] = {"--disk=no", NULL}; /* memory is what is measured */
    char *argv[ARGUMENTS_MAX + 1] = {program, socket_path, bytes, threads};
    union {
        const char *given;
        char *passed;
    } word;
    const char *const *more = options->more != NULL ? options->more : no_disk;
    for (size_t i = 0, at = 4; more[i] != NULL && at < ARGUMENTS_MAX; i++) {
        word.given = more[i];
        argv[at++] = word.passed;
    }
    daemon->pid = fork();
    if (daemon->pid == 0) {
        become_daemon(argv, log_path);
    }
    if (daemon->pid < 0) {
        daemon->pid = 0;
        return error_errno(error, ST_IO, errno, "start kveikd");
    }
    return await_daemon(daemon, error);
}

double bench_daemon_cpu_s(const struct bench_daemon *daemon)
{
    char path[64];
    char line[1024];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)daemon->pid);
    FILE *file = fopen(path, "re");
    size_t used = file != NULL ? fread(line, 1, sizeof line - 1, file) : 0;
    if (file != NULL) {
        (void)fclose(file);
    }
    line[used] = '\0';
    const char *at = strrchr(line, ')'); /* the name may have anything in it */
    double ticks = 0;
    for (uint32_t field = 2; at != NULL && field < 15; field++) {
        at = strchr(at + 1, ' ');
        if (at != NULL && field + 1 >= 14) { /* utime and stime are fields 14 and 15 */
            ticks += strtod(at, NULL);
        }
    }
    return ticks / (double)sysconf(_SC_CLK_TCK);
}

void bench_child_end(pid_t pid, int signal_number)
{
    if (signal_number != 0) {
        (void)kill(pid, signal_number);
    }
    uint64_t give_up_ms = clock_ms() + END_MS;
    while (waitpid(pid, NULL, WNOHANG) == 0) {
        if (clock_ms() >= give_up_ms) {
            (void)kill(pid, SIGKILL);
            give_up_ms = UINT64_MAX;
        }
        (void)poll(NULL, 0, STEP_MS);
    }
}

void bench_daemon_finish(struct bench_daemon *daemon)
{
    if (daemon->pid > 0) {
        bench_child_end(daemon->pid, SIGTERM);
        daemon->pid = 0;
    }
    if (daemon->folder[0] != '\0') {
        char path[ARGUMENT_BYTES];
        static const char *const names[] = {"k.sock", "k.sock.lock", "log"};
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            (void)snprintf(path, sizeof path, "%s/%s", daemon->folder, names[i]);
            (void)unlink(path);
        }
        (void)rmdir(daemon->folder);
        daemon->folder[0] = '\0';
    }
}
