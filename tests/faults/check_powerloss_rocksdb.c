/*
 * RocksDB under power loss: every key whose synced put came back is there when it is opened again,
 * cut after cut on one database. It shows that the power loss library serves what the catalogue
 * stands on; a library that lost synced bytes, or took too little back, would show here or in
 * check_powerloss.c.
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>
#include <rocksdb/c.h>

#include "base/rng.h"
#include "base/size.h"
#include "base/status.h"
#include "tests/lib/check_main.h"
#include "tests/lib/powerloss_trial.h"

enum {
    KEYS = 64,
    PUTS_MAX = 100000,
    VALUE_BYTES = 2000,
    BUFFER_BYTES = 64 * 1024,
    HEADER_LEVEL = 5, /* of RocksDB's text log: the highest */
    PUT_FAILED = 2,   /* the victim's status when RocksDB says that a put failed */
};

/* NULL: it cannot be opened, and problem says why. */
static rocksdb_t *database_open(const char *path, bool only_to_read, char **problem)
{
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_write_buffer_size(options, BUFFER_BYTES);
    rocksdb_options_set_target_file_size_base(options, BUFFER_BYTES);
    rocksdb_options_set_level0_file_num_compaction_trigger(options, 2);
    rocksdb_options_set_paranoid_checks(options, 1);
    /* Debian's RocksDB is built with assertions; one says that a text log is left alone once it
     * could not be written to, which is not so. With the head of the log alone there is nothing to
     * write. */
    rocksdb_options_set_info_log_level(options, HEADER_LEVEL);
    rocksdb_t *database = only_to_read ? rocksdb_open_for_read_only(options, path, 0, problem)
                                       : rocksdb_open(options, path, problem);
    rocksdb_options_destroy(options);
    return database;
}

static void value_make(char *value, uint64_t key, uint64_t version)
{
    struct rng rng = {.state = key << 32 | version};
    memcpy(value, &version, sizeof version);
    for (size_t i = sizeof version; i < VALUE_BYTES; i += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);
        memcpy(value + i, &word, sizeof word);
    }
}

/* One finished put: key and version, to the parent. */
struct put {
    uint64_t key;
    uint64_t version;
    uint64_t synced;
};

/* Puts until the power goes; versions count on from `seed` * PUTS_MAX. */
static int victim(const char *path, uint64_t seed)
{
    char *problem = NULL;
    struct rng rng = {.state = seed};
    char value[VALUE_BYTES];
    rocksdb_t *database = database_open(path, false, &problem);
    if (problem != NULL) {
        (void)fprintf(stderr, "victim: %s\n", problem);
        return 1;
    }
    rocksdb_writeoptions_t *options = rocksdb_writeoptions_create();
    for (uint64_t i = 1; i < PUTS_MAX; i++) {
        struct put put = {.key = rng_below(&rng, KEYS),
                          .version = seed * PUTS_MAX + i,
                          .synced = rng_below(&rng, 3) == 0};
        value_make(value, put.key, put.version);
        rocksdb_writeoptions_set_sync(options, put.synced != 0);
        rocksdb_put(database, options, (const char *)&put.key, sizeof put.key, value, sizeof value,
                    &problem);
        if (problem != NULL) {
            rocksdb_close(database); /* its threads must not outlive what they use */
            return PUT_FAILED;
        }
        if (write(STDOUT_FILENO, &put, sizeof put) != (ssize_t)sizeof put) {
            return 1;
        }
    }
    return 0;
}

/* ---- the parent ------------------------------------------------------------------------------ */

/* Takes what the victim said: what must be there, and what may be. */
static void listen_to(int fd, uint64_t *synced, uint64_t *last)
{
    struct put put;
    ssize_t got = 0;
    while ((got = read(fd, &put, sizeof put)) == (ssize_t)sizeof put) {
        ck_assert_uint_lt(put.key, KEYS);
        last[put.key] = put.version;
        if (put.synced != 0) {
            /* one log: what came before a synced put is synced with it */
            memcpy(synced, last, KEYS * sizeof *synced);
        }
    }
    ck_assert_int_eq(got, 0);
}

/* Every key holds its last synced version, or a whole later one. How many hold less than the last
 * version that was put. Opened only to read, all is as the power left it for the next victim, whose
 * recovery may be cut, too. */
static uint32_t verify(const char *tree, bool only_to_read, uint64_t *synced, uint64_t *last)
{
    char *problem = NULL;
    uint32_t lost = 0;
    char current[128];
    (void)snprintf(current, sizeof current, "%s/CURRENT", tree);
    if (access(current, F_OK) != 0) { /* it was never finished */
        for (size_t key = 0; key < KEYS; key++) {
            ck_assert_uint_eq(synced[key], 0);
        }
        return 0;
    }
    char expected[VALUE_BYTES];
    rocksdb_t *database = database_open(tree, only_to_read, &problem);
    ck_assert_msg(problem == NULL, "%s", problem);
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(options, 1);
    for (uint64_t key = 0; key < KEYS; key++) {
        size_t bytes = 0;
        uint64_t version = 0;
        char *value =
            rocksdb_get(database, options, (const char *)&key, sizeof key, &bytes, &problem);
        ck_assert_msg(problem == NULL, "%s", problem);
        if (value != NULL) {
            ck_assert_uint_eq(bytes, VALUE_BYTES);
            memcpy(&version, value, sizeof version);
            value_make(expected, key, version);
            ck_assert_int_eq(memcmp(value, expected, VALUE_BYTES), 0);
            rocksdb_free(value);
        }
        ck_assert_uint_ge(version, synced[key]);
        lost += version < last[key];
        synced[key] = version;
        last[key] = version;
    }
    rocksdb_readoptions_destroy(options);
    rocksdb_close(database);
    return lost;
}

START_TEST(synced_keys_survive_cut_after_cut)
    {
        static struct powerloss_trial trial;
        char after[48];
        char chance[48];
        char seed[32];
        uint64_t synced[KEYS] = {0};
        uint64_t last[KEYS] = {0};
        struct rng rng = {.state = 21};
        uint32_t lost = 0;
        powerloss_init(&trial);
        trial.settings[0] = after;
        trial.settings[1] = chance;
        uint64_t rounds = check_scaled(40);
        for (uint64_t round = 1; round <= rounds; round++) {
            /* some in the midst of opening, most later */
            uint64_t cut_after = 1 + rng_below(&rng, rng_below(&rng, 4) == 0 ? 60 : 1500);
            (void)snprintf(after, sizeof after, "KVEIK_POWERLOSS_AFTER=%u", (unsigned)cut_after);
            (void)snprintf(chance, sizeof chance, "KVEIK_POWERLOSS_SEED=%u", (unsigned)round);
            (void)snprintf(seed, sizeof seed, "%u", (unsigned)round);
            const char *const argv[] = {"victim", "database", seed, NULL};
            powerloss_start(&trial, "/proc/self/exe", argv);
            listen_to(trial.out_fd, synced, last);
            powerloss_wait(&trial);
            ck_assert_msg(WEXITSTATUS(trial.status) == POWERLOSS_STATUS,
                          "round %u, cut after %u: status %d", (unsigned)round, (unsigned)cut_after,
                          trial.status);
            lost += verify(trial.tree, round < rounds, synced, last);
        }
        ck_assert(rounds < 10 || lost > 0);
        powerloss_finish(&trial);
    }
END_TEST

/* RocksDB sees the faults, says so, and has what it had promised. */
START_TEST(faults_reach_rocksdb)
    {
        static const char *const faults[] = {
            "KVEIK_POWERLOSS_FAIL=write:150:ENOSPC:*", "KVEIK_POWERLOSS_FAIL=write:300:EIO:*",
            "KVEIK_POWERLOSS_FAIL=sync:30:EIO:*", "KVEIK_POWERLOSS_FAIL=open:20:EMFILE:*",
            "KVEIK_POWERLOSS_FAIL=write:100:short:50,any:200:slow=1:100,write:600:EIO:*"};
        for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
            static struct powerloss_trial trial;
            uint64_t synced[KEYS] = {0};
            uint64_t last[KEYS] = {0};
            const char *const argv[] = {"victim", "database", "1", NULL};
            powerloss_init(&trial);
            trial.settings[0] = faults[i];
            powerloss_start(&trial, "/proc/self/exe", argv);
            listen_to(trial.out_fd, synced, last);
            powerloss_wait(&trial);
            ck_assert_msg(WEXITSTATUS(trial.status) == PUT_FAILED, "%s: status %d", faults[i],
                          trial.status);
            uint64_t promised = 0;
            for (size_t key = 0; key < KEYS; key++) {
                promised += synced[key] != 0;
            }
            ck_assert_uint_gt(promised, 0);
            (void)verify(trial.tree, true, synced, last);
            powerloss_finish(&trial);
        }
    }
END_TEST

int main(int argc, char **argv)
{
    uint64_t seed = 0;
    if (argc == 3 && number_parse(argv[2], &seed, NULL) == ST_OK) {
        return victim(".", seed);
    }
    const TTest *const tests[] = {synced_keys_survive_cut_after_cut, faults_reach_rocksdb};
    return check_main("powerloss_rocksdb", tests, ARRAY_COUNT(tests));
}
