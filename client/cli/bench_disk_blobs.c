/*
 * The same blocks inside RocksDB (blob files), by the program bench_blobs when it lies beside this
 * one: the other way to keep them, in the same table.
 */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "client/cli/bench_disk.h"

enum { OUTPUT_BYTES = 64 * 1024, PATH_BYTES = 4096, EXIT_EXEC = 127, BLOCKS_A_THREAD = 4 };

/* The program beside this one; false: it is not there. */
static bool find_program(char out[PATH_BYTES])
{
    static const char name[] = "bench_blobs";
    ssize_t length = readlink("/proc/self/exe", out, PATH_BYTES - sizeof name);
    out[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(out, '/');
    if (slash == NULL) {
        return false;
    }
    (void)memcpy(slash + 1, name, sizeof name);
    return access(out, X_OK) == 0;
}

_Noreturn static void become(char *const argv[], int to)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(to, STDOUT_FILENO) >= 0) {
        (void)execv(argv[0], argv);
    }
    _exit(EXIT_EXEC);
}

/* What it prints, as JSON; NULL with the error. The program has a time limit of its own. */
static json_t *run_program(char *const argv[], struct error *error)
{
    static char output[OUTPUT_BYTES];
    int pipes[2];
    if (pipe(pipes) != 0) {
        (void)error_errno(error, ST_IO, errno, "pipe");
        return NULL;
    }
    pid_t pid = fork();
    if (pid == 0) {
        become(argv, pipes[1]);
    }
    (void)close(pipes[1]);
    size_t used = 0;
    ssize_t got = 0;
    while (used < sizeof output &&
           (got = read(pipes[0], output + used, sizeof output - used)) > 0) {
        used += (size_t)got;
    }
    (void)close(pipes[0]);
    int status = 0;
    (void)waitpid(pid, &status, 0);
    json_t *answer = status == 0 ? json_loadb(output, used, 0, NULL) : NULL;
    if (answer == NULL) {
        (void)error_set(error, ST_IO, "bench_blobs failed (status %d)", status);
    }
    return answer;
}

/* What of the answer goes where. */
static const struct field {
    const char *field;
    const char *name;
    const char *unit;
    double scale;
} fields[] = {
    {"write_bytes_per_s", "write", "GB/s", 1e-9},
    {"read_bytes_per_s", "read", "GB/s", 1e-9},
    {"cpu_s_per_gb", "cpu", "s/GB", 1.0},
    {"write_amplification", "write_amplification", "written/new", 1.0},
    {"space_amplification", "space_amplification", "of budget", 1.0},
};

static void note(struct bench_disk *disk, const struct bench_shape *shape, const json_t *answer)
{
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        const json_t *value = json_object_get(answer, fields[i].field);
        if (json_is_number(value)) {
            struct bench_metric *metric = bench_metric(disk->report, fields[i].unit, "blobs_%s_%s",
                                                       fields[i].name, shape->name);
            samples_add(&metric->samples, json_number_value(value) * fields[i].scale);
        }
    }
}

int bench_disk_blobs(struct bench_disk *disk, const struct bench_shape *shape, bool churn,
                     struct error *error)
{
    static char program[PATH_BYTES];
    if (!find_program(program)) {
        return ST_OK;
    }
    char directory[PATH_BYTES + 16];
    char block[64];
    char total[64];
    char threads[64];
    char churn_flag[] = "--churn";
    char reuse[] = "--reuse=50";
    char gc[] = "--gc=50";
    (void)snprintf(directory, sizeof directory, "--directory=%s", disk->directory);
    (void)snprintf(block, sizeof block, "--block-bytes=%llu",
                   (unsigned long long)bench_block_bytes(shape));
    (void)snprintf(total, sizeof total, "--total-bytes=%llu", (unsigned long long)disk->bytes);
    uint64_t most = disk->bytes / bench_block_bytes(shape) / BLOCKS_A_THREAD;
    uint64_t count = most < disk->depth ? most : disk->depth;
    (void)snprintf(threads, sizeof threads, "--threads=%llu",
                   (unsigned long long)(count > 0 ? count : 1));
    char *argv[] = {program, directory, block, total, threads, reuse, gc, churn ? churn_flag : NULL,
                    NULL};
    json_t *answer = run_program(argv, error);
    if (answer == NULL) {
        return error->status;
    }
    note(disk, shape, answer);
    json_decref(answer);
    return ST_OK;
}
