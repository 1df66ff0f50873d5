/*
 * An engine killed with SIGKILL at any moment of push and pull leaves nothing behind: no lease, no
 * request, no descriptor, no mapping; also when a forked child of it lives on. And no wrong byte.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/mini.h"

enum {
    DEATHS = 1000,
    PAGES = 128,
    CHAIN = 32,
    CHAINS = 24, /* prompts that victims and watcher share */
    QUIET_MS = 1000,
    FACTOR = 16, /* pages of 256 KiB: copies last long enough to be killed in */
};

static struct daemon kveikd;

static void setup(void)
{
    static const char *const arguments[] = {"--cpu-bytes", "128MiB", "--log-level", "warn", NULL};
    daemon_init(&kveikd);
    ck_assert(daemon_start(&kveikd, arguments));
}

static void teardown(void)
{
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
    daemon_finish(&kveikd);
}

static struct mini_options options_of(const char *instance)
{
    return (struct mini_options){
        .socket = kveikd.socket, .instance = instance, .pages = PAGES, .page_factor = FACTOR};
}

/* A life of pushes, lookups with leases and pulls, many in flight, until it is killed. */
static _Noreturn void victim_live(uint64_t seed, bool with_child)
{
    struct mini mini;
    struct mini_options options = options_of("victim");
    struct rng rng = {.state = seed};
    if (!mini_open(&mini, &options)) {
        _exit(3);
    }
    if (with_child && fork() == 0) {
        (void)pause(); /* holds socket and memory of its dead parent */
    }
    uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
    for (;;) {
        uint32_t count = 1 + (uint32_t)rng_below(&rng, CHAIN);
        uint32_t page = (uint32_t)rng_below(&rng, PAGES - CHAIN);
        mini_keys(rng_below(&rng, CHAINS), CHAIN, keys);
        uint64_t lease = 0;
        switch (rng_below(&rng, 3)) {
        case 0:
            for (uint32_t i = 0; i < count; i++) {
                mini_fill(&mini, page + i, keys + (size_t)i * KVEIK_KEY_BYTES);
            }
            (void)mini_push(&mini, keys, count, page, NULL);
            break;
        case 1:
            (void)mini_lookup(&mini, keys, CHAIN, &lease); /* never released */
            break;
        default:
            (void)mini_pull(&mini, keys, count, page, NULL);
            break;
        }
    }
}

static void nap_us(uint64_t us)
{
    struct timespec moment = {.tv_sec = (time_t)(us / 1000000),
                              .tv_nsec = (long)(us % 1000000) * 1000};
    (void)nanosleep(&moment, NULL);
}

/* Within a second nothing of any dead engine is left. */
static void must_be_quiet(struct mini *watcher)
{
    uint64_t until = clock_ms() + QUIET_MS;
    while (clock_ms() < until) {
        if (mini_number(watcher, NULL, "sessions") == 1 &&
            mini_number(watcher, "index", "leases") == 0 &&
            mini_number(watcher, NULL, "requests") == 0 &&
            mini_number(watcher, NULL, "copies_in_flight") == 0) {
            return;
        }
        nap_us(1000);
    }
    ck_abort_msg("a second after their death engines left sessions %d, leases %d, requests %d",
                 (int)mini_number(watcher, NULL, "sessions"),
                 (int)mini_number(watcher, "index", "leases"),
                 (int)mini_number(watcher, NULL, "requests"));
}

/* Whatever survives is whole. */
static void must_be_right(struct mini *watcher)
{
    uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
    for (uint64_t chain = 0; chain < CHAINS; chain++) {
        mini_keys(chain, CHAIN, keys);
        int8_t statuses[CHAIN];
        for (uint32_t i = 0; i < CHAIN; i++) {
            mini_wipe(watcher, i);
        }
        ck_assert_int_eq(mini_pull(watcher, keys, CHAIN, 0, statuses), KVEIK_OK);
        for (uint32_t i = 0; i < CHAIN; i++) {
            if (statuses[i] == KVEIK_OK) {
                ck_assert_msg(mini_check(watcher, i, keys + (size_t)i * KVEIK_KEY_BYTES),
                              "a wrong byte in key %u of chain %u", i, (uint32_t)chain);
            }
        }
    }
}

static pid_t victim_start(uint64_t seed, bool with_child)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (with_child) {
            (void)setpgid(0, 0);
        }
        victim_live(seed, with_child);
    }
    return pid;
}

START_TEST(killed_a_thousand_times)
    {
        struct mini watcher;
        struct mini_options options = options_of("watcher");
        ck_assert(mini_open(&watcher, &options));
        struct rng rng = {.state = 42};
        uint64_t deaths = check_scaled(DEATHS);
        uint32_t descriptors = 0;
        uint32_t mappings = 0;
        for (uint64_t i = 0; i < deaths; i++) {
            pid_t pid = victim_start(i, false);
            nap_us(rng_below(&rng, 20000));
            ck_assert_int_eq(kill(pid, SIGKILL), 0);
            (void)waitpid(pid, NULL, 0);
            if (i == 20) {
                must_be_quiet(&watcher);
                descriptors = daemon_descriptors(&kveikd);
                mappings = daemon_mappings(&kveikd);
            }
            if (i % 100 == 99) {
                must_be_quiet(&watcher);
                must_be_right(&watcher);
            }
        }
        must_be_quiet(&watcher);
        must_be_right(&watcher);
        if (deaths > 20) {
            ck_assert_uint_le(daemon_descriptors(&kveikd), descriptors);
            ck_assert_uint_le(daemon_mappings(&kveikd), mappings + 40); /* the pool's slabs */
        }
        mini_close(&watcher);
    }
END_TEST

START_TEST(a_forked_child_lives_on)
    {
        struct mini watcher;
        struct mini_options options = options_of("watcher");
        ck_assert(mini_open(&watcher, &options));
        for (uint64_t i = 0; i < 20; i++) {
            pid_t pid = victim_start(1000 + i, true);
            (void)setpgid(pid, pid);
            nap_us(30000);
            ck_assert_int_eq(kill(pid, SIGKILL), 0);
            (void)waitpid(pid, NULL, 0);
            must_be_quiet(&watcher); /* although the child still holds the socket */
            (void)kill(-pid, SIGKILL);
        }
        must_be_right(&watcher);
        mini_close(&watcher);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {killed_a_thousand_times, a_forked_child_lives_on};
    struct check_suite suite = {.name = "engine_death",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 300,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
