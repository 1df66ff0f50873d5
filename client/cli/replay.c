/* kveik replay: checks, and the processes that play engines. */
#include "client/cli/replay.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/size.h"

enum { STATUS_TIMEOUT_MS = 5000, POLL_MS = 50, ENGINE_FD = 3, NUMBER_BYTES = 12 };

/* ---- engines ----------------------------------------------------------------------------------
 */

struct engines {
    struct replay_shared *shared;
    pid_t pids[REPLAY_ENGINES_MAX]; /* 0: ended */
    uint32_t running;
};

static int engine_start(struct engines *engines, int fd, uint32_t number, struct error *error)
{
    char program[] = "kveik";
    char command[] = "replay-engine";
    char fd_text[NUMBER_BYTES];
    char number_text[NUMBER_BYTES];
    (void)snprintf(fd_text, sizeof fd_text, "%d", ENGINE_FD);
    (void)snprintf(number_text, sizeof number_text, "%u", number);
    char *argv[] = {program, command, fd_text, number_text, NULL};
    posix_spawn_file_actions_t actions;
    int errnum = posix_spawn_file_actions_init(&actions);
    if (errnum == 0) {
        /* also clears close-on-exec, when both numbers are the same */
        errnum = posix_spawn_file_actions_adddup2(&actions, fd, ENGINE_FD);
        if (errnum == 0) {
            errnum = posix_spawn(&engines->pids[number], "/proc/self/exe", &actions, NULL, argv,
                                 environ);
        }
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    if (errnum != 0) {
        engines->pids[number] = 0;
        return error_errno(error, ST_IO, errnum, "cannot start engine %u", number);
    }
    engines->running++;
    return ST_OK;
}

/* Ends what still runs: its sessions' blocks and leases go with the processes. */
static void engines_stop(struct engines *engines)
{
    for (uint32_t i = 0; i < engines->shared->plan.engine_count; i++) {
        if (engines->pids[i] > 0) {
            (void)kill(engines->pids[i], SIGTERM);
            (void)waitpid(engines->pids[i], NULL, 0);
            engines->pids[i] = 0;
        }
    }
    engines->running = 0;
}

/* Reaps engines that ended; ST_IO when one did not end well. */
static int engines_reap(struct engines *engines, struct error *error)
{
    for (uint32_t i = 0; i < engines->shared->plan.engine_count; i++) {
        int how = 0;
        if (engines->pids[i] == 0 || waitpid(engines->pids[i], &how, WNOHANG) == 0) {
            continue;
        }
        engines->pids[i] = 0;
        engines->running--;
        const struct replay_numbers *numbers = &engines->shared->numbers[i];
        if (atomic_load(&numbers->state) == REPLAY_FAILED) {
            return error_set(error, ST_IO, "engine %u failed: %s", i, numbers->text);
        }
        if (atomic_load(&numbers->state) != REPLAY_DONE) {
            return error_set(error, ST_IO, "engine %u ended by %s %d", i,
                             WIFSIGNALED(how) ? "signal" : "exit code",
                             WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
        }
    }
    return ST_OK;
}

static void nap(void)
{
    struct timespec time = {.tv_nsec = (long)POLL_MS * 1000000};
    (void)nanosleep(&time, NULL);
}

static void show_progress(const struct engines *engines, uint64_t began_ns)
{
    const struct replay_shared *shared = engines->shared;
    uint64_t done = 0;
    for (uint32_t i = 0; i < shared->plan.engine_count; i++) {
        done += atomic_load(&shared->numbers[i].progress);
    }
    double seconds = (double)(clock_ns() - began_ns) / 1e9;
    cli_progress("%llu of %u requests, %.0f a second", (unsigned long long)done,
                 shared->request_count, seconds > 0 ? (double)done / seconds : 0.0);
}

static bool all_ready(const struct engines *engines)
{
    for (uint32_t i = 0; i < engines->shared->plan.engine_count; i++) {
        if (atomic_load(&engines->shared->numbers[i].state) == REPLAY_STARTING) {
            return false;
        }
    }
    return true;
}

static int engines_run(struct engines *engines, int fd, uint64_t *wall_ns_out, struct error *error)
{
    struct replay_shared *shared = engines->shared;
    int status = ST_OK;
    for (uint32_t i = 0; status == ST_OK && i < shared->plan.engine_count; i++) {
        status = engine_start(engines, fd, i, error);
    }
    while (status == ST_OK && !all_ready(engines)) {
        nap();
        status = engines_reap(engines, error);
    }
    uint64_t began_ns = clock_ns();
    atomic_store(&shared->go, 1);
    while (status == ST_OK && engines->running > 0) {
        show_progress(engines, began_ns);
        nap();
        status = engines_reap(engines, error);
    }
    cli_progress(NULL);
    uint64_t ended_ns = began_ns;
    for (uint32_t i = 0; i < shared->plan.engine_count; i++) {
        uint64_t ended = shared->numbers[i].ended_ns;
        ended_ns = ended > ended_ns ? ended : ended_ns;
    }
    *wall_ns_out = ended_ns - began_ns;
    return status;
}

/* ---- the replay -------------------------------------------------------------------------------
 */

/* A cache that the daemon cannot hold would be cut by the daemon's own eviction. */
static void warn_of_small_pool(kveik_client *client, const struct replay_plan *plan,
                               const struct trace_counts *counts)
{
    char *text = NULL;
    if (kveik_daemon_status(client, STATUS_TIMEOUT_MS, &text, NULL) != KVEIK_OK) {
        return;
    }
    json_t *status = json_loads(text, 0, NULL);
    const json_t *cpu = json_object_get(status, "cpu");
    uint64_t budget = (uint64_t)json_integer_value(json_object_get(cpu, "budget_bytes"));
    uint64_t wanted = counts->unique * plan->slot_bytes;
    wanted = plan->quota_bytes > 0 && plan->quota_bytes < wanted ? plan->quota_bytes : wanted;
    if (budget > 0 && wanted > budget) {
        char wanted_text[SIZE_TEXT_BYTES];
        char budget_text[SIZE_TEXT_BYTES];
        size_format_short(wanted, wanted_text);
        size_format_short(budget, budget_text);
        cli_progress(NULL);
        (void)fprintf(stderr,
                      "kveik: the replay would fill %s, the daemon's memory is %s: it evicts "
                      "earlier than asked. Smaller --block-bytes avoid that.\n",
                      wanted_text, budget_text);
    }
    json_decref(status);
    kveik_text_free(text);
}

static int report(const struct cli *cli, struct engines *engines, struct replay_result *result)
{
    struct replay_numbers *sum = heap_calloc(1, sizeof *sum);
    if (sum == NULL) {
        return cli_fail(CLI_FAILED, "out of memory");
    }
    for (uint32_t i = 0; i < engines->shared->plan.engine_count; i++) {
        replay_numbers_add(sum, &engines->shared->numbers[i]);
    }
    result->sum = sum;
    int code = replay_report(cli, result);
    heap_free(sum);
    return code;
}

static int play(struct cli *cli, kveik_client *client, struct replay_result *result)
{
    struct error error = {0};
    struct engines engines = {0};
    int fd = -1;
    if (replay_shared_create(result->plan, result->trace, &engines.shared, &fd, &error) != ST_OK) {
        return cli_fail(CLI_FAILED, "%s", error.text);
    }
    int status = engines_run(&engines, fd, &result->wall_ns, &error);
    engines_stop(&engines);
    int code =
        status == ST_OK ? report(cli, &engines, result) : cli_fail(CLI_FAILED, "%s", error.text);
    replay_forget(client, result->plan);
    replay_shared_close(engines.shared);
    (void)close(fd);
    return code;
}

static int prepare_and_play(struct cli *cli, const struct replay_settings *settings,
                            const char *path, struct trace *trace)
{
    struct error error = {0};
    struct trace_options options = {.format = (enum trace_format)settings->format,
                                    .id_tokens = settings->id_tokens,
                                    .requests_max = settings->requests};
    struct trace_counts counts = {0};
    struct replay_plan plan = {0};
    int status = trace_read(trace, path, &options, &error);
    uint32_t block_tokens = settings->block_tokens;
    if (status == ST_OK) {
        block_tokens = block_tokens != 0 ? block_tokens : trace->id_tokens;
        status = trace_check_block_tokens(trace, block_tokens, &error);
    }
    if (status == ST_OK && trace_count(trace, block_tokens, &counts) != ST_OK) {
        status = error_set(&error, ST_NO_MEMORY, "out of memory");
    }
    if (status == ST_OK) {
        status = replay_plan_make(settings, trace, &counts, &plan, &error);
    }
    if (status != ST_OK) {
        return cli_fail(status == ST_NO_MEMORY ? CLI_FAILED : CLI_USAGE, "%s", error.text);
    }
    (void)cli_socket_path(cli, plan.socket_path, sizeof plan.socket_path);
    kveik_client *client = NULL;
    int code = cli_connect(cli, "kveik replay", &client);
    if (code == CLI_GOOD) {
        warn_of_small_pool(client, &plan, &counts);
        struct replay_result result = {
            .plan = &plan, .trace = trace, .counts = &counts, .path = path};
        code = play(cli, client, &result);
    }
    kveik_close(client);
    return code;
}

int command_replay(struct cli *cli, int argc, char **argv)
{
    struct replay_settings settings = {0};
    struct options *options = NULL;
    int code = cli_load(cli, &replay_options, argc, argv, &settings, &options);
    if (code != CLI_GO_ON) {
        return code;
    }
    int count = 0;
    char *const *arguments = options_arguments(options, &count);
    if (count != 1) {
        code = cli_fail(CLI_USAGE, "replay: give one FILE; `kveik replay --help' explains");
    } else {
        struct trace trace = {0};
        code = prepare_and_play(cli, &settings, arguments[0], &trace);
        trace_finish(&trace);
    }
    options_destroy(options);
    return code;
}
