/*
 * The daemon dies under mixed load, again and again, with a disk tier: by kill -9, or with the
 * power (tests/lib/powerloss: what was not synced reached the disk wholly, torn, or not at all).
 * After each restart every block that was reported durable reads back right, no other byte is ever
 * handed out, and the start succeeds.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <check.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/mini.h"

enum {
    PAGES = 64,
    CHAIN_MAX = 8,
    KILLS = 300,
    CUTS = 60,
    FRESH_ROUNDS = 30, /* the store begins anew after so many */
    CHAINS_MAX = 20000,
    CHECKED_MAX = 60, /* chains looked at in one round, the latest first */
    LOAD_MS = 120,
    PERSIST_MS = 20000,
    CUT_CALLS = 400,
};

struct chain {
    uint64_t seed;
    uint32_t count;
    bool durable;
};

static struct daemon kveikd;
static struct chain chains[CHAINS_MAX];
static uint32_t chain_count;
static uint64_t seed_next = 1;
static struct rng dice;
static uint64_t durable_checked;
static uint64_t others_found;
static uint64_t others_asked;

static const char *arguments[] = {"--cpu-bytes", "32MiB",
                                  "--disk=yes",  "--disk-path",
                                  kveikd.disk,   "--disk-bytes",
                                  "2GiB",        "--disk-segment-bytes",
                                  "16MiB",       "--disk-keep-free-percent",
                                  "0",           "--disk-sync-time",
                                  "20ms",        "--log-level",
                                  "warn",        "--disk-io",
                                  "auto",        NULL};

static void nap_ms(uint64_t ms)
{
    struct timespec moment = {.tv_sec = (time_t)(ms / 1000),
                              .tv_nsec = (long)(ms % 1000) * 1000000};
    (void)nanosleep(&moment, NULL);
}

static void setup(void)
{
    daemon_init(&kveikd);
    chain_count = 0;
    dice = (struct rng){.state = clock_ns()};
    (void)printf("seed %llu\n", (unsigned long long)dice.state);
}

static void teardown(void)
{
    daemon_finish(&kveikd);
}

static void open_engine(struct mini *mini)
{
    struct mini_options options = {
        .socket = kveikd.socket, .instance = "one", .pages = PAGES, .page_factor = 2};
    ck_assert(mini_open(mini, &options));
}

/* Pulls a chain; every page that came is right. How many came. */
static uint32_t pull_right(struct mini *mini, const struct chain *chain, uint32_t first_page)
{
    uint8_t keys[CHAIN_MAX * KVEIK_KEY_BYTES];
    int8_t statuses[CHAIN_MAX] = {0};
    mini_keys(chain->seed, chain->count, keys);
    for (uint32_t p = 0; p < chain->count; p++) {
        mini_wipe(mini, first_page + p);
    }
    int status = mini_pull(mini, keys, chain->count, first_page, statuses);
    uint32_t came = 0;
    for (uint32_t p = 0; status == KVEIK_OK && p < chain->count; p++) {
        if (statuses[p] == KVEIK_OK) {
            ck_assert_msg(mini_check(mini, first_page + p, keys + (size_t)p * KVEIK_KEY_BYTES),
                          "wrong bytes of chain %llu, block %u", (unsigned long long)chain->seed,
                          p);
            came++;
        }
    }
    return came;
}

/* ---- load ------------------------------------------------------------------------------------ */

static void push_chain(struct mini *mini)
{
    struct chain *chain = &chains[chain_count];
    uint8_t keys[CHAIN_MAX * KVEIK_KEY_BYTES];
    *chain =
        (struct chain){.seed = seed_next++, .count = 1 + (uint32_t)rng_below(&dice, CHAIN_MAX)};
    mini_keys(chain->seed, chain->count, keys);
    for (uint32_t p = 0; p < chain->count; p++) {
        mini_fill(mini, p, keys + (size_t)p * KVEIK_KEY_BYTES);
    }
    if (mini_push(mini, keys, chain->count, 0, NULL) != KVEIK_OK) {
        return;
    }
    chain_count++;
    if (rng_below(&dice, 3) != 0) {
        return;
    }
    struct kveik_persist persist = KVEIK_PERSIST_INIT;
    persist.space = mini->space;
    persist.keys = keys;
    persist.key_count = chain->count;
    persist.deadline_ms = PERSIST_MS;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    bool durable = kveik_persist(mini->client, &persist, &done) == KVEIK_OK;
    for (uint32_t i = 0; durable && i < done.status_count; i++) {
        durable = done.statuses[i] == KVEIK_OK;
    }
    chain->durable = durable;
    kveik_completion_finish(&done);
}

struct worker {
    struct mini mini;
    atomic_bool stop;
};

static void *work(void *arg)
{
    struct worker *worker = arg;
    while (!atomic_load(&worker->stop) && chain_count + 1 < CHAINS_MAX) {
        if (rng_below(&dice, 4) != 0 || chain_count == 0) {
            push_chain(&worker->mini);
        } else {
            (void)pull_right(&worker->mini, &chains[rng_below(&dice, chain_count)],
                             PAGES - CHAIN_MAX);
        }
    }
    return NULL;
}

/* ---- what must be there after a restart ------------------------------------------------------ */

static void check_all(struct mini *mini)
{
    uint32_t looked = 0;
    for (uint32_t n = chain_count; n-- > 0 && looked < CHECKED_MAX; looked++) {
        const struct chain *chain = &chains[n];
        uint32_t came = pull_right(mini, chain, 0);
        if (chain->durable) {
            ck_assert_msg(came == chain->count, "%u of %u durable blocks of chain %llu are there",
                          came, chain->count, (unsigned long long)chain->seed);
            durable_checked += came;
        } else {
            others_found += came;
            others_asked += chain->count;
        }
    }
}

/* One life of a daemon: check, load, death. */
static void one_life(void (*die)(void))
{
    if (!daemon_start(&kveikd, arguments)) {
        ck_abort_msg("it did not start: see %s", kveikd.log);
    }
    struct worker worker = {.stop = false};
    open_engine(&worker.mini);
    check_all(&worker.mini);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, work, &worker), 0);
    die();
    atomic_store(&worker.stop, true);
    (void)pthread_join(thread, NULL);
    mini_close(&worker.mini);
}

static void begin_anew(void)
{
    daemon_finish(&kveikd);
    const char *const *environment = kveikd.environment;
    daemon_init(&kveikd);
    kveikd.environment = environment;
    chain_count = 0;
}

static void say(const char *what, uint64_t times)
{
    (void)printf("%llu %s: %llu durable blocks read back right, %llu of %llu others found\n",
                 (unsigned long long)times, what, (unsigned long long)durable_checked,
                 (unsigned long long)others_found, (unsigned long long)others_asked);
}

static void die_by_kill(void)
{
    nap_ms(rng_below(&dice, LOAD_MS));
    daemon_kill(&kveikd);
}

START_TEST(killed_at_random_moments)
    {
        uint64_t rounds = check_scaled(KILLS);
        for (uint64_t round = 0; round < rounds; round++) {
            if (round % FRESH_ROUNDS == FRESH_ROUNDS - 1) {
                begin_anew();
            }
            one_life(die_by_kill);
        }
        say("kills", rounds);
        ck_assert_uint_gt(durable_checked, 0);
    }
END_TEST

static void die_with_the_power(void)
{
    ck_assert_msg(daemon_ended(&kveikd, 30000), "the power was not cut");
}

START_TEST(the_power_fails)
    {
        static char seed[32];
        static char after[32];
        static const char *environment[] = {"LD_PRELOAD",
                                            KVEIK_POWERLOSS_PATH,
                                            "KVEIK_POWERLOSS_DIR",
                                            kveikd.disk,
                                            "KVEIK_POWERLOSS_SEED",
                                            seed,
                                            "KVEIK_POWERLOSS_AFTER",
                                            after,
                                            NULL};
        arguments[16] = "threads"; /* io_uring's writes go past the C library */
        uint64_t rounds = check_scaled(CUTS);
        for (uint64_t round = 0; round < rounds; round++) {
            if (round % FRESH_ROUNDS == FRESH_ROUNDS - 1) {
                begin_anew();
            }
            (void)snprintf(seed, sizeof seed, "%llu", (unsigned long long)rng_next(&dice) >> 16);
            (void)snprintf(after, sizeof after, "%llu",
                           60 + (unsigned long long)rng_below(&dice, CUT_CALLS));
            kveikd.environment = environment;
            one_life(die_with_the_power);
        }
        say("power cuts", rounds);
        ck_assert_uint_gt(durable_checked, 0);
    }
END_TEST

int main(void)
{
#ifdef KVEIK_SANITIZED /* a sanitizer's library must be the first: nothing can be preloaded */
    const TTest *const tests[] = {killed_at_random_moments};
    (void)the_power_fails;
#else
    const TTest *const tests[] = {killed_at_random_moments, the_power_fails};
#endif
    struct check_suite suite = {.name = "disk_death",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 550,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
