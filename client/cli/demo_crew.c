#include "client/cli/demo_crew.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

enum {
    START_MS = 60 * 1000,
    JOB_MS = 120 * 1000,
    END_MS = 10 * 1000,
    END_STEP_MS = 10,
    EXIT_EXEC = 127,
};

const char *demo_engine_name(uint32_t engine)
{
    static const char *const names[DEMO_ENGINES] = {"engine-A", "engine-B"};
    KVEIK_ASSERT(engine < DEMO_ENGINES);
    return names[engine];
}

/* Between fork and exec: only what a signal handler may do. */
_Noreturn static void become_engine(int socket, pid_t parent)
{
    char *const argv[] = {(char[]){"kveik"}, (char[]){"demo"}, (char[]){DEMO_ENGINE_WORD}, NULL};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool orphan = getppid() != parent;
    /* dup2() onto itself would keep the close-on-exec flag */
    int moved = socket == DEMO_ENGINE_FD ? dup(socket) : socket;
    if (!orphan && moved >= 0 && dup2(moved, DEMO_ENGINE_FD) >= 0) {
        (void)execv("/proc/self/exe", argv);
    }
    _exit(EXIT_EXEC);
}

static int start_worker(struct demo_worker *worker, struct error *error)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        return error_errno(error, ST_IO, errno, "create a socket pair");
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        become_engine(pair[1], parent);
    }
    (void)close(pair[1]);
    if (pid < 0) {
        int status = error_errno(error, ST_IO, errno, "start an engine");
        (void)close(pair[0]);
        return status;
    }
    *worker = (struct demo_worker){.pid = pid, .socket = pair[0], .job = DEMO_NO_JOB};
    return ST_OK;
}

static bool send_whole(struct demo_worker *worker, const void *message, size_t bytes)
{
    ssize_t sent = 0;
    do {
        sent = send(worker->socket, message, bytes, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)bytes;
}

static void end_worker(struct demo_worker *worker)
{
    if (worker->pid <= 0) {
        return;
    }
    (void)close(worker->socket);
    worker->socket = -1;
    /* with its socket closed it ends by itself; if not, it is ended */
    uint64_t give_up_ms = clock_ms() + END_MS;
    while (waitpid(worker->pid, NULL, WNOHANG) == 0) {
        if (clock_ms() >= give_up_ms) {
            (void)kill(worker->pid, SIGKILL);
            give_up_ms = UINT64_MAX;
        }
        (void)poll(NULL, 0, END_STEP_MS);
    }
    worker->pid = 0;
    worker->job = DEMO_NO_JOB;
}

static void kill_worker(struct demo_worker *worker)
{
    (void)kill(worker->pid, SIGKILL);
    end_worker(worker);
}

int demo_crew_start(struct demo_crew *crew, const struct demo_setup *setup, struct error *error)
{
    *crew = (struct demo_crew){0};
    for (uint32_t i = 0; i < DEMO_ENGINES; i++) {
        int status = start_worker(&crew->workers[i], error);
        if (status != ST_OK) {
            return status;
        }
        struct demo_setup mine = *setup;
        (void)snprintf(mine.instance, sizeof mine.instance, "%s", demo_engine_name(i));
        crew->workers[i].job = DEMO_READY - 1; /* busy: building its model */
        crew->workers[i].deadline_ms = clock_ms() + START_MS;
        if (!send_whole(&crew->workers[i], &mine, sizeof mine)) {
            return error_set(error, ST_LOST, "%s could not be started", mine.instance);
        }
    }
    for (uint32_t i = 0; i < DEMO_ENGINES; i++) {
        uint32_t engine = 0;
        struct demo_result ready;
        if (demo_crew_wait(crew, &engine, &ready) != ST_OK) {
            return error_set(error, ST_LOST, "%s ended while it was starting",
                             demo_engine_name(engine));
        }
        if (ready.status != ST_OK) {
            return error_set(error, ready.status, "%s: %.200s", demo_engine_name(engine),
                             ready.text);
        }
    }
    return ST_OK;
}

bool demo_crew_alive(const struct demo_crew *crew, uint32_t engine)
{
    return crew->workers[engine].pid > 0;
}

int demo_crew_give(struct demo_crew *crew, uint32_t engine, const struct demo_job *job)
{
    struct demo_worker *worker = &crew->workers[engine];
    KVEIK_ASSERT(worker->pid > 0 && worker->job == DEMO_NO_JOB);
    size_t bytes = offsetof(struct demo_job, tokens) + job->token_count * sizeof job->tokens[0];
    if (!send_whole(worker, job, bytes)) {
        kill_worker(worker);
        return ST_LOST;
    }
    worker->job = job->index;
    worker->deadline_ms = clock_ms() + JOB_MS;
    return ST_OK;
}

static int receive(struct demo_worker *worker, struct demo_result *result_out)
{
    ssize_t got = recv(worker->socket, result_out, sizeof *result_out, MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return ST_PENDING;
    }
    return got == (ssize_t)sizeof *result_out ? ST_OK : ST_LOST;
}

/* One busy engine after its descriptor was polled. */
static int check_worker(struct demo_worker *worker, short events, struct demo_result *result_out)
{
    int status = events != 0 ? receive(worker, result_out) : ST_PENDING;
    if (status == ST_OK) {
        worker->job = DEMO_NO_JOB;
    } else if (status == ST_LOST || clock_ms() >= worker->deadline_ms) {
        *result_out = (struct demo_result){.index = worker->job, .status = ST_LOST};
        kill_worker(worker);
        status = ST_LOST;
    }
    return status;
}

/* Fills in what to poll; returns the nearest deadline, UINT64_MAX when nobody is busy. */
static uint64_t poll_list(const struct demo_crew *crew, struct pollfd polled[DEMO_ENGINES])
{
    uint64_t deadline_ms = UINT64_MAX;
    for (uint32_t i = 0; i < DEMO_ENGINES; i++) {
        const struct demo_worker *worker = &crew->workers[i];
        bool busy = worker->pid > 0 && worker->job != DEMO_NO_JOB;
        polled[i] = (struct pollfd){.fd = busy ? worker->socket : -1, .events = POLLIN};
        if (busy && worker->deadline_ms < deadline_ms) {
            deadline_ms = worker->deadline_ms;
        }
    }
    return deadline_ms;
}

int demo_crew_wait(struct demo_crew *crew, uint32_t *engine_out, struct demo_result *result_out)
{
    for (;;) {
        struct pollfd polled[DEMO_ENGINES];
        uint64_t deadline_ms = poll_list(crew, polled);
        if (deadline_ms == UINT64_MAX) {
            return ST_PENDING;
        }
        uint64_t now_ms = clock_ms();
        (void)poll(polled, DEMO_ENGINES, now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0);
        for (uint32_t i = 0; i < DEMO_ENGINES; i++) {
            int status = polled[i].fd < 0
                             ? ST_PENDING
                             : check_worker(&crew->workers[i], polled[i].revents, result_out);
            if (status != ST_PENDING) {
                *engine_out = i;
                return status;
            }
        }
    }
}

void demo_crew_finish(struct demo_crew *crew)
{
    for (uint32_t i = 0; i < DEMO_ENGINES; i++) {
        end_worker(&crew->workers[i]);
    }
}
