/*
 * The whole server with every allocation and system call made to fail once: the n-th one, for n
 * from the first on until none fails any more. Whatever fails, the daemon answers or ends that
 * session, never crashes, leaks nothing, and serves the next one.
 *
 * Covers: daemon/server/server.c
 * Covers: daemon/server/session.c
 * Covers: daemon/server/request.c, daemon/server/lookup.c
 * Covers: daemon/server/memory.c
 * Covers: daemon/server/probe.c
 * Covers: daemon/server/shape.c
 * Covers: daemon/server/quiesce.c
 * Covers: daemon/server/status.c
 * Covers: daemon/server/actions.c
 * Covers: daemon/server/settings.c
 * Covers: daemon/engine/engine.c
 * Covers: daemon/engine/listen.c
 * Covers: daemon/engine/import.c
 */
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "base/fault.h"
#include "base/heap.h"
#include "daemon/server/server.h"
#include "tests/lib/check_main.h"
#include "tests/lib/raw.h"

enum { LAYERS = 2, PAGES = 8, FAULTS_MAX = 4000, CLIENT_GOOD = 0, CLIENT_REFUSED = 7 };

static char folder[64];
static char path[96];
static char disk_path[96];
static bool with_disk;

static void setup(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/kveik-torture-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/s", folder);
    (void)snprintf(disk_path, sizeof disk_path, "%s/disk", folder);
}

static int remove_one(const char *name, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    return remove(name);
}

static void teardown(void)
{
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the tree is the test's own */
    (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static struct settings small_settings(void)
{
    return (struct settings){.disk = with_disk,
                             .disk_path = disk_path,
                             .disk_bytes = 16u << 20,
                             .disk_segment_bytes = 4u << 20,
                             .disk_depth = 4,
                             .disk_sync_ms = 10,
                             .disk_slow_ms = 2000,
                             .disk_queue_max = 64,
                             .disk_inflight_bytes = 1u << 20,
                             .cpu_file = "",
                             .cpu_index = "",
                             .socket_path = path,
                             .socket_mode = 600,
                             .cpu_bytes = 16u << 20,
                             .cpu_high_percent = 100,
                             .cpu_low_percent = 100,
                             .copy_threads = 1,
                             .sessions_max = 8,
                             .requests_max = 64,
                             .session_requests_max = 16,
                             .blocks_max = 1024,
                             .leases_max = 64,
                             .lease_percent = 50,
                             .stall_ms = 2000,
                             .stop_grace_ms = 500};
}

/* A life with one of everything. Refusals are fine, hanging is not. */
static int client_script(void)
{
    struct raw raw;
    if (!raw_connect(&raw, path) || !raw_hello(&raw, "torture")) {
        return CLIENT_REFUSED;
    }
    int space = raw_space(&raw, LAYERS);
    int fd = raw_memfd(raw_layout_bytes(LAYERS, PAGES));
    int region = space < 0 ? -1 : raw_export(&raw, fd, raw_layout_bytes(LAYERS, PAGES));
    int layout = region < 0 ? -1 : raw_layout(&raw, (uint32_t)space, LAYERS, PAGES);
    uint8_t key[MSG_KEY_BYTES] = {1};
    struct msg_push_run push;
    struct msg msg;
    struct msg answer;
    bool alive = layout >= 0;
    raw_push(&msg, &push, 10, key);
    alive = alive && raw_call(&raw, &msg, &answer);
    struct msg lookup = {.request_id = 11,
                         .kind = MSG_LOOKUP,
                         .u.lookup = {.keys = key,
                                      .key_count = 1,
                                      .key_grains = 1,
                                      .tail_tokens = GRAIN_TOKENS,
                                      .step_grains = 1,
                                      .lease = true,
                                      .origins = true}};
    alive = alive && raw_call(&raw, &lookup, &answer);
    static const uint32_t page = 3;
    struct msg_pull_run pull = {.keys = key,
                                .key_count = 1,
                                .key_grains = 1,
                                .tail_tokens = GRAIN_TOKENS,
                                .pages = &page,
                                .page_count = 1};
    msg =
        (struct msg){.request_id = 12, .kind = MSG_PULL, .u.pull = {.runs = &pull, .run_count = 1}};
    alive = alive && raw_call(&raw, &msg, &answer);
    msg = (struct msg){.request_id = 13, .kind = MSG_QUIESCE};
    alive = alive && raw_call(&raw, &msg, &answer);
    msg = (struct msg){.request_id = 14, .kind = MSG_STATUS_REQUEST};
    alive = alive && raw_call(&raw, &msg, &answer);
    msg = (struct msg){.request_id = 15, .kind = MSG_DROP_LAYOUT};
    alive = alive && raw_call(&raw, &msg, &answer);
    msg = (struct msg){.request_id = 16, .kind = MSG_DROP_MEMORY};
    alive = alive && raw_call(&raw, &msg, &answer);
    raw_close(&raw);
    (void)close(fd);
    return alive ? CLIENT_GOOD : CLIENT_REFUSED;
}

/* Runs the script twice, once under faults and once without, then asks the server to stop. */
static pid_t client_start(void)
{
    pid_t server = getpid();
    pid_t pid = fork();
    if (pid != 0) {
        return pid;
    }
    fault_clear();
    (void)close(STDERR_FILENO); /* refusals are expected, many of them */
    int first = client_script();
    (void)kill(server, SIGUSR1); /* the faults end here */
    int second = client_script();
    (void)kill(server, SIGTERM);
    _exit(first == CLIENT_GOOD && second == CLIENT_GOOD ? 0 : (second == CLIENT_GOOD ? 1 : 2));
}

static volatile sig_atomic_t fired_by_then;

/* Both functions are lock-free atomics only, so a signal handler may call them. */
static void on_usr1(int number) /* NOLINT(bugprone-signal-handler) */
{
    (void)number;
    for (int point = 0; point < FAULT_POINT_COUNT; point++) {
        fired_by_then = fired_by_then || /* NOLINTNEXTLINE(bugprone-signal-handler): atomics */
                        fault_fired((enum fault_point)point) > 0;
    }
    fault_clear(); /* NOLINT(bugprone-signal-handler): atomics */
}

/* True when the n-th pass of the point failed in the life of one server. */
static bool one_life(enum fault_point point, int64_t n)
{
    struct settings settings = small_settings();
    struct log log;
    log_init(&log, STDERR_FILENO, LOG_LEVEL_ERROR, LOG_FORMAT_HUMAN);
    int64_t before = heap_outstanding();
    struct server *server = NULL;
    struct error error = {0};
    (void)signal(SIGUSR1, on_usr1);
    fired_by_then = 0;
    fault_set(point, n, 1);
    int status = server_create(&settings, NULL, &server, &error);
    if (status != ST_OK) {
        ck_assert_msg(error.text[0] != '\0', "no reason for status %d at %lld", status,
                      (long long)n);
        ck_assert_int_eq(heap_outstanding(), before);
        return fault_fired(point) > 0;
    }
    pid_t client = client_start();
    ck_assert_int_eq(server_run(server), ST_OK);
    int ended = 0;
    (void)waitpid(client, &ended, 0);
    ck_assert_msg(WIFEXITED(ended) && WEXITSTATUS(ended) != 2,
                  "after fault %lld the daemon did not serve the next session", (long long)n);
    bool fired = fired_by_then || fault_fired(point) > 0;
    server_destroy(server);
    ck_assert_int_eq(heap_outstanding(), before);
    fault_clear();
    return fired;
}

/* fault_clear() also forgets that one fired, so a clean life in a row of several ends the search.
 */
static void torture(enum fault_point point)
{
    int clean = 0;
    int64_t n = 0;
    for (; n < FAULTS_MAX && clean < 10; n++) {
        clean = one_life(point, n) ? 0 : clean + 1;
    }
    ck_assert_msg(n < FAULTS_MAX, "the faults of point %d do not end", (int)point);
    (void)printf("point %d: %lld lives\n", (int)point, (long long)n);
}

START_TEST(every_allocation)
    {
        torture(FAULT_HEAP);
    }
END_TEST

START_TEST(every_mapping)
    {
        torture(FAULT_MMAP);
    }
END_TEST

START_TEST(every_thread_and_open)
    {
        torture(FAULT_THREAD);
        torture(FAULT_OPEN);
    }
END_TEST

START_TEST(every_receive_and_send)
    {
        torture(FAULT_RECEIVE);
        torture(FAULT_SEND);
    }
END_TEST

/* With a disk tier: a start that fails says why, and one that does not serves. */
START_TEST(everything_of_the_disk)
    {
        with_disk = true;
        torture(FAULT_HEAP);
        torture(FAULT_OPEN);
        torture(FAULT_FILE);
        torture(FAULT_SYNC);
        torture(FAULT_CATALOGUE);
        torture(FAULT_THREAD);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_allocation, every_mapping, every_thread_and_open,
                                  every_receive_and_send, everything_of_the_disk};
    struct check_suite suite = {.name = "torture",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 400,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
