/*
 * The daemon killed under load: engines get a clear code at once, go on without it, and are back
 * within a second of its return with no restart of theirs. And a pool full of leased blocks.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/mini.h"

enum {
    PAGES = 64,
    CHAIN = 4, /* little of the engines' own work: it is the daemon that is waited for */
    ENGINES = 4,
    ROUNDS = 10,
    PROMPT_MS = 500,
    BACK_MS = 1000,
    START_MS = 30000,
};

static struct daemon kveikd;
static const char *const arguments[] = {"--cpu-bytes", "64MiB", "--log-level", "warn", NULL};

static void setup(void)
{
    daemon_init(&kveikd);
    ck_assert(daemon_start(&kveikd, arguments));
}

static void teardown(void)
{
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
    daemon_finish(&kveikd);
}

/* An engine that works all the time, with the daemon or without. */
struct worker {
    pthread_t thread;
    atomic_bool stop;
    atomic_uint_fast64_t slowest_ms; /* of any call */
    atomic_uint_fast64_t good;       /* calls that the daemon answered */
    atomic_uint_fast64_t without;    /* calls that found no daemon */
    atomic_int odd;                  /* a code that is neither */
    atomic_bool wrong_byte;
    char instance[32];
};

static void note(struct worker *worker, int status, uint64_t began_ms)
{
    uint64_t took = clock_ms() - began_ms;
    if (took > atomic_load(&worker->slowest_ms)) {
        atomic_store(&worker->slowest_ms, took);
    }
    if (status == KVEIK_OK) {
        atomic_fetch_add(&worker->good, 1);
    } else if (status == KVEIK_E_UNAVAILABLE || status == KVEIK_E_LOST ||
               status == KVEIK_E_SHUTDOWN) {
        atomic_fetch_add(&worker->without, 1);
    } else {
        atomic_store(&worker->odd, status);
    }
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct mini mini;
    struct mini_options options = {
        .socket = kveikd.socket, .instance = worker->instance, .pages = PAGES, .page_factor = 8};
    if (!mini_open(&mini, &options)) {
        atomic_store(&worker->odd, KVEIK_E_INTERNAL);
        return NULL;
    }
    uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
    for (uint64_t i = 0; !atomic_load(&worker->stop); i++) {
        mini_keys(i % 7, CHAIN, keys);
        for (uint32_t p = 0; p < CHAIN; p++) {
            mini_fill(&mini, p, keys + (size_t)p * KVEIK_KEY_BYTES);
            mini_wipe(&mini, CHAIN + p);
        }
        uint64_t began = clock_ms();
        note(worker, mini_push(&mini, keys, CHAIN, 0, NULL), began);
        int8_t statuses[CHAIN];
        began = clock_ms();
        int status = mini_pull(&mini, keys, CHAIN, CHAIN, statuses);
        note(worker, status, began);
        for (uint32_t p = 0; status == KVEIK_OK && p < CHAIN; p++) {
            if (statuses[p] == KVEIK_OK &&
                !mini_check(&mini, CHAIN + p, keys + (size_t)p * KVEIK_KEY_BYTES)) {
                atomic_store(&worker->wrong_byte, true);
            }
        }
    }
    mini_close(&mini);
    return NULL;
}

static void nap_ms(uint64_t ms)
{
    struct timespec moment = {.tv_sec = (time_t)(ms / 1000),
                              .tv_nsec = (long)(ms % 1000) * 1000000};
    (void)nanosleep(&moment, NULL);
}

/* All workers have calls answered (again) within so long; how long it took. */
static uint64_t must_come_back(struct worker *workers, uint64_t within_ms)
{
    uint64_t began = clock_ms();
    uint64_t before[ENGINES];
    for (int i = 0; i < ENGINES; i++) {
        before[i] = atomic_load(&workers[i].good);
    }
    for (int i = 0; i < ENGINES; i++) {
        while (atomic_load(&workers[i].good) == before[i]) {
            ck_assert_msg(clock_ms() - began < within_ms, "engine %d is not back after %d ms", i,
                          (int)within_ms);
            nap_ms(1);
        }
    }
    return clock_ms() - began;
}

START_TEST(the_daemon_is_killed_under_load)
    {
        static struct worker workers[ENGINES];
        for (int i = 0; i < ENGINES; i++) {
            (void)snprintf(workers[i].instance, sizeof workers[i].instance, "worker-%d", i);
            ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
        }
        uint64_t rounds = check_scaled(ROUNDS);
        (void)must_come_back(workers, START_MS); /* the first time they also get their memory */
        uint64_t slowest_return = 0;
        for (uint64_t round = 0; round < rounds; round++) {
            nap_ms(100);
            daemon_kill(&kveikd);
            nap_ms(150);
            ck_assert(daemon_start(&kveikd, arguments));
            uint64_t took = must_come_back(workers, BACK_MS);
            slowest_return = took > slowest_return ? took : slowest_return;
        }
        (void)printf("back after at most %llu ms\n", (unsigned long long)slowest_return);
        for (int i = 0; i < ENGINES; i++) {
            atomic_store(&workers[i].stop, true);
        }
        for (int i = 0; i < ENGINES; i++) {
            (void)pthread_join(workers[i].thread, NULL);
            ck_assert_int_eq(atomic_load(&workers[i].odd), 0);
            ck_assert(!atomic_load(&workers[i].wrong_byte));
            ck_assert_uint_gt(atomic_load(&workers[i].without), 0);
            (void)printf(
                "engine %d: %llu calls answered, %llu without the daemon, slowest %llu ms\n", i,
                (unsigned long long)atomic_load(&workers[i].good),
                (unsigned long long)atomic_load(&workers[i].without),
                (unsigned long long)atomic_load(&workers[i].slowest_ms));
            ck_assert_uint_lt(atomic_load(&workers[i].slowest_ms), PROMPT_MS);
        }
    }
END_TEST

START_TEST(a_graceful_stop_answers_what_is_in_flight)
    {
        struct mini mini;
        struct mini_options options = {
            .socket = kveikd.socket, .instance = "one", .pages = PAGES, .page_factor = 8};
        ck_assert(mini_open(&mini, &options));
        uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
        mini_keys(1, CHAIN, keys);
        ck_assert_int_eq(mini_push(&mini, keys, CHAIN, 0, NULL), KVEIK_OK);
        ck_assert_int_eq(daemon_stop(&kveikd), 0);
        int status = mini_push(&mini, keys, CHAIN, 0, NULL);
        ck_assert_msg(status == KVEIK_E_UNAVAILABLE || status == KVEIK_E_LOST ||
                          status == KVEIK_E_SHUTDOWN,
                      "status %d", status);
        ck_assert(daemon_start(&kveikd, arguments));
        uint64_t until = clock_ms() + BACK_MS;
        while (mini_push(&mini, keys, CHAIN, 0, NULL) != KVEIK_OK) {
            ck_assert(clock_ms() < until);
            nap_ms(5);
        }
        mini_close(&mini);
    }
END_TEST

/* Leased blocks are not evicted: pushes are refused politely, and go on after the release. */
START_TEST(a_pool_full_of_leased_blocks)
    {
        enum { MANY = 2048, STEP = 32 };
        static uint8_t keys[MANY * KVEIK_KEY_BYTES];
        static const char *const small[] = {"--cpu-bytes", "16MiB", "--lease-percent", "100", NULL};
        ck_assert_int_eq(daemon_stop(&kveikd), 0);
        ck_assert(daemon_start(&kveikd, small));
        struct mini mini;
        struct mini_options options = {
            .socket = kveikd.socket, .instance = "one", .pages = PAGES, .page_factor = 8};
        ck_assert(mini_open(&mini, &options));
        mini_keys(3, MANY, keys);
        int8_t statuses[STEP];
        uint64_t leases[MANY / STEP];
        uint32_t lease_count = 0;
        bool refused = false;
        for (uint32_t at = 0; at < MANY && !refused; at += STEP) {
            const uint8_t *step = keys + (size_t)at * KVEIK_KEY_BYTES;
            ck_assert_int_eq(mini_push(&mini, step, STEP, 0, statuses), KVEIK_OK);
            for (uint32_t i = 0; i < STEP; i++) {
                refused = refused || statuses[i] == KVEIK_E_NO_SPACE;
                ck_assert(statuses[i] == KVEIK_OK || statuses[i] == KVEIK_E_NO_SPACE);
            }
            int hit = mini_lookup(&mini, step, STEP, &leases[lease_count]);
            ck_assert_int_ge(hit, 0);
            lease_count += leases[lease_count] != 0 ? 1 : 0;
        }
        ck_assert(refused);
        /* what is leased stays readable */
        ck_assert_int_eq(mini_pull(&mini, keys, STEP, 0, statuses), KVEIK_OK);
        ck_assert_int_eq(statuses[0], KVEIK_OK);
        while (lease_count > 0) {
            ck_assert_int_eq(kveik_release(mini.client, leases[--lease_count]), KVEIK_OK);
        }
        const uint8_t *last = keys + (size_t)(MANY - STEP) * KVEIK_KEY_BYTES;
        ck_assert_int_eq(mini_push(&mini, last, STEP, 0, statuses), KVEIK_OK);
        ck_assert_int_eq(statuses[STEP - 1], KVEIK_OK);
        mini_close(&mini);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_daemon_is_killed_under_load,
                                  a_graceful_stop_answers_what_is_in_flight,
                                  a_pool_full_of_leased_blocks};
    struct check_suite suite = {.name = "daemon_death",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 200,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
