/* sim_core: random histories through the core, from one seed. See README.md. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/size.h"
#include "tests/sim/sim.h"

struct sim sim;

enum { MIB = 1 << 20, ALL = 1 << 16 };

#define NO_DISK                                                                                    \
    {                                                                                              \
        0                                                                                          \
    }

static const struct sim_config configs[] = {
    {"plain", MIB / 16, 8192, 1, 1, false, false, false, false, false, true, 100, 100, ALL, ALL,
     ALL, UINT64_C(1) << 40, 4000, NO_DISK},
    {"windows", MIB / 4, 8192, 2, 1, false, true, false, false, false, true, 100, 100, ALL, ALL,
     ALL, UINT64_C(1) << 40, 4000, NO_DISK},
    {"states", MIB / 2, 16384, 3, 2, true, true, false, false, true, true, 100, 100, ALL, ALL, ALL,
     UINT64_C(1) << 40, 4000, NO_DISK},
    {"quotas", MIB / 4, 4096, 3, 3, true, true, false, true, false, true, 100, 100, ALL, ALL, ALL,
     32768, 3000, NO_DISK},
    {"faults", MIB / 4, 16384, 3, 2, true, true, true, false, true, true, 100, 100, ALL, ALL, ALL,
     UINT64_C(1) << 40, 3000, NO_DISK},
    {"watermarks", MIB / 4, 8192, 3, 2, true, true, true, true, false, true, 85, 60, ALL, ALL, ALL,
     UINT64_C(1) << 40, 3000, NO_DISK},
    {"records", MIB, 16384, 3, 2, true, true, false, false, false, true, 100, 100, 1536, 300, 400,
     65536, 3000, NO_DISK},
    {"tiny", 65536, 4096, 3, 3, true, true, true, true, true, true, 95, 90, 1024, 128, 128, 8192,
     1500, NO_DISK},
    {"roomy", 4 * MIB, 65536, 3, 2, true, true, false, false, false, true, 100, 100, ALL, ALL, ALL,
     UINT64_C(1) << 40, 6000, NO_DISK},
    {"disk", MIB / 4, 8192, 3, 2, true, true, false, false, true, true, 100, 100, ALL, ALL, ALL,
     UINT64_C(1) << 40, 4000,
     .disk = {10, 24576, 8, 8, 64, 65536, 32768, CORE_ADMIT_AT_ONCE, false}},
    {"disk-small", MIB / 16, 8192, 3, 2, true, false, true, true, false, true, 95, 80, ALL, ALL,
     ALL, 16384, 4000, .disk = {8, 2048, 8, 8, 64, 4096, 2048, CORE_ADMIT_EVICTION, false}},
    {"disk-faults", MIB / 8, 8192, 3, 2, true, true, true, true, true, true, 100, 100, ALL, ALL,
     ALL, 65536, 3000, .disk = {9, 20480, 8, 8, 32, 32768, 32768, CORE_ADMIT_SECOND_USE, true}},
    {"disk-records", MIB / 4, 16384, 3, 2, true, true, false, false, true, true, 100, 100, 1536,
     300, 400, 65536, 3000, .disk = {8, 20480, 8, 4, 16, 32768, 16384, CORE_ADMIT_AT_ONCE, false}},
};

static uint64_t seed;

static void say_where(void)
{
    /* NOLINTNEXTLINE(bugprone-signal-handler): one thread, about to end: better than silence */
    (void)fprintf(stderr,
                  "sim_core: seed %llu, configuration %s, history %llu, step %llu\n"
                  "replay: sim_core --seed %llu --operations %llu --check-every 1\n",
                  (unsigned long long)seed, sim.config != NULL ? sim.config->name : "-",
                  (unsigned long long)sim.stats.histories, (unsigned long long)sim.step,
                  (unsigned long long)seed, (unsigned long long)sim.stats.operations);
}

_Noreturn void sim_fail(const char *file, int line, const char *condition)
{
    (void)fprintf(stderr, "%s:%d: %s\n", file, line, condition);
    abort();
}

/* An assertion of the core, or a wild access, ends here too. */
static void on_abort(int number)
{
    (void)number;
    say_where(); /* NOLINT(bugprone-signal-handler): one thread, about to end: better than silence
                  */
    _exit(1);
}

static void run(uint64_t operations, uint32_t config)
{
    struct rng seeds = {seed};
    uint32_t next = 0;
    while (sim.stats.operations < operations) {
        const struct sim_config *c =
            &configs[config < ARRAY_COUNT(configs) ? config : next++ % ARRAY_COUNT(configs)];
        world_open(c, rng_next(&seeds));
        for (uint32_t i = 0; i < c->history && sim.stats.operations < operations; i++) {
            op_random();
            if (sim.check_every > 0 && i % sim.check_every == 0) {
                core_check(sim.core);
            }
        }
        if (c->disk.segments > 0 && chance(50)) {
            world_restart();
            for (uint32_t i = 0; i < c->history / 4; i++) {
                op_random();
            }
        }
        world_close();
    }
}

static void print_stats(void)
{
    const struct sim_stats *s = &sim.stats;
    (void)printf("sim_core: %llu operations in %llu histories, seed %llu: hits %.1f %% of %llu "
                 "keys, pulled %llu keys (%.1f %% missed) in %llu copies, pushed %llu, held %llu, "
                 "evicted %llu, refused %llu + %llu, leases %llu, cancels %llu, lost slabs %llu\n",
                 (unsigned long long)s->operations, (unsigned long long)s->histories,
                 (unsigned long long)seed,
                 s->lookup_keys == 0 ? 0.0 : 100.0 * (double)s->hit_keys / (double)s->lookup_keys,
                 (unsigned long long)s->lookup_keys, (unsigned long long)s->pull_keys,
                 s->pull_keys == 0 ? 0.0 : 100.0 * (double)s->pull_missed / (double)s->pull_keys,
                 (unsigned long long)s->copies, (unsigned long long)s->pushed,
                 (unsigned long long)s->held, (unsigned long long)s->evicted,
                 (unsigned long long)s->no_space, (unsigned long long)s->quota,
                 (unsigned long long)s->leases, (unsigned long long)s->cancels,
                 (unsigned long long)s->failed_slabs);
    (void)printf(
        "sim_core: disk: stored %llu, moved %llu, loaded %llu (%llu failed), segments freed "
        "%llu, persists %llu (%llu done), restarts %llu (%llu parts restored)\n",
        (unsigned long long)s->stored, (unsigned long long)s->moved, (unsigned long long)s->loaded,
        (unsigned long long)s->load_failures, (unsigned long long)s->segments_freed,
        (unsigned long long)s->persists, (unsigned long long)s->persisted,
        (unsigned long long)s->restarts, (unsigned long long)s->restored);
}

/* 0 for what is no number. */
static uint64_t number_of(const char *text)
{
    uint64_t number = 0;
    return number_parse(text, &number, NULL) == ST_OK ? number : 0;
}

static uint32_t config_of(const char *name)
{
    for (uint32_t i = 0; i < ARRAY_COUNT(configs); i++) {
        if (strcmp(configs[i].name, name) == 0) {
            return i;
        }
    }
    return (uint32_t)number_of(name);
}

/* Operations as the environment asks: a percentage, for slow builds and long nights. */
static uint64_t scaled(uint64_t operations)
{
    const char *scale = secure_getenv("KVEIK_TEST_SCALE");
    return scale == NULL ? operations : operations * number_of(scale) / 100;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"operations", required_argument, NULL, 'o'},
                                            {"seed", required_argument, NULL, 's'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"check-every", required_argument, NULL, 'e'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"lru", no_argument, NULL, 'l'},
                                            {NULL, 0, NULL, 0}};
    uint64_t operations = 100000;
    uint32_t config = UINT32_MAX;
    bool lru = false;
    sim.check_every = 50;
    seed = (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    int option = 0;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread */
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'o':
            operations = number_of(optarg);
            break;
        case 's':
            seed = number_of(optarg);
            break;
        case 'c':
            config = config_of(optarg);
            break;
        case 'e':
            sim.check_every = number_of(optarg);
            break;
        case 'v':
            sim.verbose = true;
            break;
        case 'l':
            lru = true;
            break;
        default:
            (void)fprintf(stderr, "usage: sim_core [--operations N] [--seed S] [--config K] "
                                  "[--check-every N] [--lru] [--verbose]\n");
            return 2;
        }
    }
    (void)signal(SIGABRT, on_abort);
    (void)signal(SIGSEGV, on_abort);
    (void)printf("sim_core: seed %llu\n", (unsigned long long)seed);
    (void)fflush(stdout);
    if (lru) {
        lru_run(seed, scaled(operations));
        return 0;
    }
    run(scaled(operations), config);
    print_stats();
    return 0;
}
