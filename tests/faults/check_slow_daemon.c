/*
 * The daemon stopped (SIGSTOP) under a push, and going on later: an engine that gave the push up at
 * its deadline writes other contents to the pages at once, and nothing of that may ever be found
 * under the push's keys.
 */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <check.h>

#include "base/clock.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/mini.h"

enum {
    PAGES = 128,
    FACTOR = 64, /* pages of 1 MiB: a copy takes long enough to be caught in the middle */
    DEADLINE_MS = 100,
    GIVE_UP_MS = 2500, /* the deadline, the library's second of grace, a slow machine */
    ROUNDS = 6,
};

static struct daemon kveikd;
static struct mini mini;
static uint8_t keys[PAGES * KVEIK_KEY_BYTES];
static const char *const arguments[] = {"--cpu-bytes", "512MiB", "--log-level", "warn", NULL};

static void setup(void)
{
    daemon_init(&kveikd);
    ck_assert(daemon_start(&kveikd, arguments));
    struct mini_options options = {
        .socket = kveikd.socket, .instance = "slow", .pages = PAGES, .page_factor = FACTOR};
    ck_assert(mini_open(&mini, &options));
}

static void teardown(void)
{
    mini_close(&mini);
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
    daemon_finish(&kveikd);
}

static void stop_daemon(void)
{
    siginfo_t info;
    ck_assert_int_eq(kill(kveikd.pid, SIGSTOP), 0);
    ck_assert_int_eq(waitid(P_PID, (id_t)kveikd.pid, &info, WSTOPPED), 0);
}

static uint64_t submit(uint32_t pages)
{
    uint32_t numbers[PAGES];
    for (uint32_t i = 0; i < pages; i++) {
        numbers[i] = i;
        mini_fill(&mini, i, keys + (size_t)i * KVEIK_KEY_BYTES);
    }
    struct kveik_push_run run = {.layout = mini.layout,
                                 .block_count = pages,
                                 .block_tokens = MINI_PAGE_TOKENS,
                                 .keys = keys,
                                 .key_count = pages,
                                 .pages = numbers,
                                 .page_count = pages};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    push.deadline_ms = DEADLINE_MS;
    uint64_t op = 0;
    struct kveik_error error;
    ck_assert_msg(kveik_submit_push(mini.client, &push, NULL, &op, &error) == KVEIK_OK, "%s",
                  error.text);
    return op;
}

static int outcome(uint64_t op)
{
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    ck_assert_int_eq(kveik_wait(mini.client, op, GIVE_UP_MS, &done), KVEIK_OK);
    int status = done.status;
    kveik_completion_finish(&done);
    return status;
}

/* The pages get other contents, the daemon goes on; then whatever it holds must be right. */
static void reuse_and_check(uint32_t pages)
{
    for (uint32_t i = 0; i < pages; i++) {
        mini_wipe(&mini, i);
    }
    ck_assert_int_eq(kill(kveikd.pid, SIGCONT), 0);
    int held = -1;
    for (uint64_t until = clock_ms() + 10000; held < 0 && clock_ms() < until;) {
        held = mini_lookup(&mini, keys, pages, NULL); /* answered behind the push */
    }
    ck_assert_int_ge(held, 0);
    if (held > 0) {
        ck_assert_int_eq(mini_pull(&mini, keys, (uint32_t)held, 0, NULL), KVEIK_OK);
    }
    for (int i = 0; i < held; i++) {
        ck_assert_msg(mini_check(&mini, (uint32_t)i, keys + (size_t)i * KVEIK_KEY_BYTES),
                      "page %d was read after it had been given up", i);
    }
}

START_TEST(a_push_that_was_not_read_in_time_is_not_kept)
    {
        mini_keys(1, PAGES, keys);
        stop_daemon();
        uint64_t op = submit(4);
        ck_assert_int_eq(outcome(op), KVEIK_E_DEADLINE);
        reuse_and_check(4);
        ck_assert_int_eq(mini_lookup(&mini, keys, 4, NULL), 0);
        /* and the same keys can be pushed again */
        for (uint32_t i = 0; i < 4; i++) {
            mini_fill(&mini, i, keys + (size_t)i * KVEIK_KEY_BYTES);
        }
        ck_assert_int_eq(mini_push(&mini, keys, 4, 0, NULL), KVEIK_OK);
        ck_assert_int_eq(mini_lookup(&mini, keys, 4, NULL), 4);
    }
END_TEST

/* Stopped at any time of the copy: before, in the middle, behind it. */
START_TEST(a_push_stopped_in_its_copy_keeps_no_wrong_byte)
    {
        uint32_t given_up = 0;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            mini_keys(100 + round, PAGES, keys);
            uint64_t op = submit(PAGES);
            const struct timespec nap = {.tv_nsec = (long)round * 6000000L};
            (void)nanosleep(&nap, NULL);
            stop_daemon();
            int status = outcome(op);
            ck_assert_msg(status == KVEIK_OK || status == KVEIK_E_DEADLINE, "round %u: %d", round,
                          status);
            given_up += status == KVEIK_E_DEADLINE;
            reuse_and_check(PAGES);
        }
        ck_assert_uint_gt(given_up, 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_push_that_was_not_read_in_time_is_not_kept,
                                  a_push_stopped_in_its_copy_keeps_no_wrong_byte};
    struct check_suite suite = {.name = "slow_daemon",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 200,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
