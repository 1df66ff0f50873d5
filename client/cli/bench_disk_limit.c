#include "client/cli/bench_disk_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"

enum {
    ALIGN_BYTES = 4096,
    DEPTH_MAX = 1024,
    PROBE_TIMEOUT_S = 60,
    ARGUMENT_BYTES = 128,
    ARGUMENTS_MAX = 24,
    OUTPUT_BYTES_MAX = 4 * 1024 * 1024,
    MESSAGE_BYTES = 160,
    EXIT_EXEC = 127,
    EXIT_KILLED = -1,
};

static const char *const engines[] = {"io_uring", "libaio", "psync"};

/* ---- what fio says --------------------------------------------------------------------------- */

/* The JSON begins with a line of its own; messages may stand before it. */
static const char *find_json(const char *text, size_t bytes)
{
    const char *end = text + bytes;
    for (const char *at = text; at != NULL && at < end;) {
        if (*at == '{') {
            return at;
        }
        at = memchr(at, '\n', (size_t)(end - at));
        at = at == NULL ? NULL : at + 1;
    }
    return NULL;
}

/* The first message, without what would break a line. */
static void first_message(const char *text, size_t bytes, char out[MESSAGE_BYTES])
{
    size_t length = 0;
    while (length < bytes && length < MESSAGE_BYTES - 1 && text[length] != '\n' &&
           text[length] != '\0') {
        out[length] = ' ';
        if (text[length] > ' ') {
            out[length] = text[length];
        }
        length++;
    }
    out[length] = '\0';
}

static double number_of(const json_t *object, const char *name)
{
    const json_t *number = json_object_get(object, name);
    return json_is_number(number) ? json_number_value(number) : 0;
}

/* Adds one of fio's jobs, which ran at the same time. */
static int add_job(const json_t *job, bool write, struct bench_disk_result *sum, double *run_ms,
                   struct error *error)
{
    int cause = (int)number_of(job, "error");
    if (cause != 0) {
        return error_errno(error, cause == ENOSPC ? ST_NO_SPACE : ST_IO, cause, "fio");
    }
    const json_t *side = json_object_get(job, write ? "write" : "read");
    double bytes = number_of(side, "io_bytes");
    double side_ms = number_of(side, "runtime");
    double cpu_percent = number_of(job, "usr_cpu") + number_of(job, "sys_cpu");
    if (!(bytes > 0 && bytes < 1e18 && side_ms >= 0 && cpu_percent >= 0)) {
        return error_set(error, ST_IO, "fio reports no bytes moved");
    }
    sum->bytes += (uint64_t)bytes;
    sum->cpu_s += cpu_percent / 100 * number_of(job, "job_runtime") / 1000;
    *run_ms = side_ms > *run_ms ? side_ms : *run_ms;
    return ST_OK;
}

int bench_disk_limit_parse(const char *text, size_t bytes, bool write,
                           struct bench_disk_result *result_out, struct error *error)
{
    char message[MESSAGE_BYTES];
    first_message(text, bytes, message);
    const char *begin = find_json(text, bytes);
    json_error_t wrong;
    json_t *root = begin == NULL ? NULL
                                 : json_loadb(begin, bytes - (size_t)(begin - text),
                                              JSON_DISABLE_EOF_CHECK, &wrong);
    const json_t *jobs = json_object_get(root, "jobs");
    if (!json_is_array(jobs) || json_array_size(jobs) == 0) {
        json_decref(root);
        return error_set(error, ST_IO, "fio printed no result: %s", message);
    }
    struct bench_disk_result sum = {.bytes = 0};
    double run_ms = 0;
    int status = ST_OK;
    for (size_t i = 0; i < json_array_size(jobs) && status == ST_OK; i++) {
        status = add_job(json_array_get(jobs, i), write, &sum, &run_ms, error);
    }
    json_decref(root);
    if (status == ST_OK && run_ms < 1) {
        status = error_set(error, ST_IO, "fio was done within a millisecond: nothing was measured");
    }
    if (status == ST_OK) {
        sum.bytes_per_s = (double)sum.bytes / (run_ms / 1000);
        *result_out = sum;
    }
    return status;
}

/* ---- running it ------------------------------------------------------------------------------ */

struct command {
    char texts[ARGUMENTS_MAX][ARGUMENT_BYTES];
    char *argv[ARGUMENTS_MAX + 1];
    uint32_t count;
};

static void add(struct command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add(struct command *command, const char *format, ...)
{
    KVEIK_ASSERT(command->count < ARGUMENTS_MAX);
    va_list arguments;
    va_start(arguments, format);
    char *text = command->texts[command->count];
    int length = vsnprintf(text, ARGUMENT_BYTES, format, arguments);
    va_end(arguments);
    KVEIK_ASSERT(length >= 0 && length < ARGUMENT_BYTES);
    command->argv[command->count++] = text;
    command->argv[command->count] = NULL;
}

static bool uses_threads(const struct bench_disk_limit *limit)
{
    return strcmp(limit->engine, "psync") == 0;
}

/* Whether the file is long before anything is written: threads cannot all append to it. */
static bool room_before(const struct bench_disk_limit *limit, const struct bench_disk_job *job)
{
    return job->preallocated || uses_threads(limit);
}

static void make_command(struct command *command, const struct bench_disk_limit *limit,
                         const struct bench_disk_job *job, bool write)
{
    uint64_t blocks = job->total_bytes / job->block_bytes;
    bool threads = uses_threads(limit);
    uint64_t count = threads ? (job->depth < blocks ? job->depth : blocks) : 1;
    uint64_t each_bytes = blocks / count * job->block_bytes;
    command->count = 0;
    add(command, "fio");
    add(command, "--name=kveik");
    add(command, "--filename=/proc/self/fd/%d", limit->fd); /* the file has no other name */
    add(command, "--rw=%s", write ? "write" : "randread");
    add(command, "--bs=%u", job->block_bytes);
    add(command, "--size=%llu", (unsigned long long)each_bytes);
    add(command, "--ioengine=%s", limit->engine);
    add(command, "--iodepth=%u", threads ? 1 : job->depth);
    add(command, "--numjobs=%llu", (unsigned long long)count);
    add(command, "--offset_increment=%llu", (unsigned long long)(threads ? each_bytes : 0));
    add(command, "--direct=1");
    add(command, "--thread"); /* one process: it ends as a whole */
    add(command, "--fallocate=none");
    /* fio removes a file that it would have to extend, unless it appends to it */
    add(command, "--file_append=%d", write && !room_before(limit, job) ? 1 : 0);
    add(command, "--end_fsync=%d", write ? 1 : 0);
    add(command, "--output-format=json");
    add(command, "--eta=never");
}

_Noreturn static void become_fio(const struct command *command, const char *program, int file,
                                 int output)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (fcntl(file, F_SETFD, 0) == 0 && dup2(output, STDOUT_FILENO) >= 0 &&
        dup2(output, STDERR_FILENO) >= 0) {
        (void)execvp(program, command->argv);
    }
    _exit(EXIT_EXEC);
}

struct output {
    char *text;
    size_t bytes;
    int code; /* exit status, or EXIT_KILLED */
};

/* Reads until the end of file, or the time is up. False: the time, or too much was printed. */
static bool read_output(int from, struct output *output, uint64_t give_up_ms)
{
    for (;;) {
        uint64_t now_ms = clock_ms();
        struct pollfd wait = {.fd = from, .events = POLLIN};
        if (now_ms >= give_up_ms || output->bytes == OUTPUT_BYTES_MAX) {
            return false;
        }
        int ready = poll(&wait, 1, (int)(give_up_ms - now_ms));
        if (ready < 0 && errno != EINTR) {
            return false;
        }
        if (ready <= 0) {
            continue;
        }
        ssize_t got = read(from, output->text + output->bytes, OUTPUT_BYTES_MAX - output->bytes);
        if (got < 0 && errno != EINTR) {
            return false;
        }
        if (got == 0) {
            return true;
        }
        output->bytes += got > 0 ? (size_t)got : 0;
    }
}

static int run_command(const struct bench_disk_limit *limit, const struct command *command,
                       uint32_t timeout_s, struct output *output, struct error *error)
{
    int pipes[2];
    if (pipe2(pipes, O_CLOEXEC) != 0) {
        return error_errno(error, ST_IO, errno, "start fio");
    }
    pid_t pid = fork();
    if (pid == 0) {
        become_fio(command, limit->program, limit->fd, pipes[1]);
    }
    int cause = errno;
    (void)close(pipes[1]);
    if (pid < 0) {
        (void)close(pipes[0]);
        return error_errno(error, ST_IO, cause, "start fio");
    }
    bool ended = read_output(pipes[0], output, clock_ms() + timeout_s * (uint64_t)1000);
    (void)close(pipes[0]);
    if (!ended) {
        (void)kill(pid, SIGKILL);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    output->code = ended && WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_KILLED;
    return ended ? ST_OK : error_set(error, ST_DEADLINE, "fio did not end within %u s", timeout_s);
}

static int run_fio(const struct bench_disk_limit *limit, const struct bench_disk_job *job,
                   bool write, struct bench_disk_result *result_out, struct error *error)
{
    struct command *command = heap_alloc(sizeof *command);
    struct output output = {.text = heap_alloc(OUTPUT_BYTES_MAX)};
    int status = ST_NO_MEMORY;
    if (command == NULL || output.text == NULL) {
        (void)error_set(error, status, "no memory to run fio");
    } else {
        uint32_t timeout_s = job->timeout_s != 0 ? job->timeout_s : BENCH_DISK_TIMEOUT_S;
        make_command(command, limit, job, write);
        status = run_command(limit, command, timeout_s, &output, error);
    }
    if (status == ST_OK && output.code == EXIT_EXEC) {
        status =
            error_set(error, ST_UNSUPPORTED, "the program fio is not there: apt-get install fio");
    } else if (status == ST_OK) {
        status = bench_disk_limit_parse(output.text, output.bytes, write, result_out, error);
        if (status == ST_OK && output.code != 0) {
            status = error_set(error, ST_IO, "fio ended with status %d", output.code);
        }
    }
    heap_free(output.text);
    heap_free(command);
    return status;
}

/* ---- passes ---------------------------------------------------------------------------------- */

static int fresh_file(struct bench_disk_limit *limit, struct error *error)
{
    static const char name[] = "/kveik-fio-XXXXXX";
    if (limit->fd >= 0) {
        (void)close(limit->fd);
    }
    limit->fd = -1;
    limit->file_bytes = 0;
    size_t length = strlen(limit->directory);
    char *path = heap_alloc(length + sizeof name);
    if (path == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory");
    }
    memcpy(path, limit->directory, length);
    memcpy(path + length, name, sizeof name);
    limit->fd = mkostemp(path, O_CLOEXEC);
    int status = ST_OK;
    if (limit->fd < 0) {
        status = error_errno(error, ST_IO, errno, "create a file in %.100s", limit->directory);
    } else {
        (void)unlink(path); /* what has no name needs no cleaning up */
    }
    heap_free(path);
    return status;
}

static int make_room(const struct bench_disk_limit *limit, const struct bench_disk_job *job,
                     struct error *error)
{
    off_t bytes = (off_t)(job->total_bytes / job->block_bytes * job->block_bytes);
    int result = 0;
    if (job->preallocated) {
        result = fallocate(limit->fd, 0, 0, bytes);
    } else if (uses_threads(limit)) {
        result = ftruncate(limit->fd, bytes);
    }
    return result == 0 ? ST_OK
                       : error_errno(error, errno == ENOSPC ? ST_NO_SPACE : ST_IO, errno,
                                     "allocate %llu bytes in %.100s", (unsigned long long)bytes,
                                     limit->directory);
}

static int check_job(const struct bench_disk_job *job, struct error *error)
{
    if (job->block_bytes == 0 || job->block_bytes % ALIGN_BYTES != 0 ||
        job->total_bytes < job->block_bytes || job->depth == 0 || job->depth > DEPTH_MAX) {
        return error_set(error, ST_INVALID, "fio: %u blocks in flight of %u bytes, %llu in all",
                         job->depth, job->block_bytes, (unsigned long long)job->total_bytes);
    }
    return ST_OK;
}

int bench_disk_limit_write(struct bench_disk_limit *limit, const struct bench_disk_job *job,
                           struct bench_disk_result *result_out, struct error *error)
{
    *result_out = (struct bench_disk_result){0};
    int status = check_job(job, error);
    if (status == ST_OK) {
        status = fresh_file(limit, error);
    }
    if (status == ST_OK) {
        status = make_room(limit, job, error);
    }
    if (status == ST_OK) {
        status = run_fio(limit, job, true, result_out, error);
    }
    if (status == ST_OK) {
        limit->file_bytes = result_out->bytes;
    }
    return status;
}

int bench_disk_limit_read(struct bench_disk_limit *limit, const struct bench_disk_job *job,
                          struct bench_disk_result *result_out, struct error *error)
{
    int status = check_job(job, error);
    /* with threads a few blocks at the end may be missing: they are not read either */
    uint64_t slack = (uint64_t)job->depth * job->block_bytes;
    if (status == ST_OK && (limit->fd < 0 || limit->file_bytes + slack <= job->total_bytes)) {
        struct bench_disk_result laid_out;
        status = bench_disk_limit_write(limit, job, &laid_out, error);
    }
    if (status != ST_OK) {
        return status;
    }
    struct bench_disk_job whole = *job;
    if (whole.total_bytes > limit->file_bytes) {
        whole.total_bytes = limit->file_bytes;
    }
    return run_fio(limit, &whole, false, result_out, error);
}

int bench_disk_limit_init(struct bench_disk_limit *limit, const char *directory,
                          const char *program, struct error *error)
{
    *limit = (struct bench_disk_limit){.program = program != NULL ? program : "fio", .fd = -1};
    limit->directory = heap_strdup(directory);
    if (limit->directory == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory");
    }
    static const struct bench_disk_job probe = {.block_bytes = 1024 * 1024,
                                                .depth = 2,
                                                .total_bytes = 8 * 1024 * 1024,
                                                .timeout_s = PROBE_TIMEOUT_S};
    int status = ST_OK;
    for (size_t i = 0; i < ARRAY_COUNT(engines); i++) {
        struct bench_disk_result result;
        limit->engine = engines[i];
        status = bench_disk_limit_write(limit, &probe, &result, error);
        if (status != ST_IO || limit->fd < 0) { /* good, or the same with every engine */
            return status;
        }
    }
    return error_wrap(error, "direct I/O in %.60s", directory);
}

void bench_disk_limit_finish(struct bench_disk_limit *limit)
{
    if (limit->fd >= 0) {
        (void)close(limit->fd);
    }
    heap_free(limit->directory);
    *limit = (struct bench_disk_limit){.fd = -1};
}
