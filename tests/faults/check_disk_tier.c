/*
 * Bad days of the disk tier: restarts, errors, a slow disk, a full one, damaged bytes, two daemons.
 * Whatever happens below (tests/lib/powerloss makes calls fail), engines get blocks that are right,
 * or misses, in time; and the tier is itself again when the disk is.
 *
 * Covers: daemon/server/disk.c, daemon/server/restore.c, daemon/server/wait.c, client/lib/persist.c
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/mini.h"

enum {
    PAGES = 64,
    CHAIN = 8,
    CHAINS = 40,
    FLIPS = 60,
    IN_TIME_MS = 3000, /* any answer, whatever the disk does */
    BACK_MS = 60000,   /* the tier tries again every 15 s at the latest */
};

static struct daemon kveikd;
static char rules[128];
static struct mini mini;

#define DISK_ARGUMENTS(bytes)                                                                      \
    "--cpu-bytes", "16MiB", "--disk=yes", "--disk-path", kveikd.disk, "--disk-bytes", (bytes),     \
        "--disk-segment-bytes", "4MiB", "--disk-keep-free-percent", "0", "--disk-sync-time",       \
        "20ms", "--disk-slow-time", "300ms", "--disk-io", "threads"

static const char *const arguments[] = {DISK_ARGUMENTS("256MiB"), NULL};
static const char *const small[] = {DISK_ARGUMENTS("32MiB"), NULL};
static const char *const environment[] = {"LD_PRELOAD",
                                          KVEIK_POWERLOSS_PATH,
                                          "KVEIK_POWERLOSS_DIR",
                                          kveikd.disk,
                                          "KVEIK_POWERLOSS_MODE",
                                          "keep",
                                          "KVEIK_POWERLOSS_FAIL",
                                          rules,
                                          NULL};

static void setup(void)
{
    daemon_init(&kveikd);
    (void)snprintf(rules, sizeof rules, "@%s/rules", kveikd.folder);
}

static void teardown(void)
{
    daemon_finish(&kveikd);
}

static void start(const char *const *with)
{
    ck_assert_msg(daemon_start(&kveikd, with), "it did not start: see %s", kveikd.log);
    struct mini_options options = {
        .socket = kveikd.socket, .instance = "one", .pages = PAGES, .page_factor = 2};
    ck_assert(mini_open(&mini, &options));
}

static void stop(void)
{
    mini_close(&mini);
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
}

static void kill_it(void)
{
    mini_close(&mini);
    daemon_kill(&kveikd);
}

/* Rules of tests/lib/powerloss from now on; NULL: none. */
static void disk_does(const char *what)
{
    char path[160];
    char fresh[176];
    (void)snprintf(path, sizeof path, "%s/rules", kveikd.folder);
    (void)snprintf(fresh, sizeof fresh, "%s.new", path);
    if (what == NULL) {
        (void)unlink(path);
        return;
    }
    FILE *file = fopen(fresh, "we");
    ck_assert_ptr_nonnull(file);
    (void)fputs(what, file);
    (void)fclose(file);
    ck_assert_int_eq(rename(fresh, path), 0);
}

static int push(uint64_t seed)
{
    uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
    mini_keys(seed, CHAIN, keys);
    for (uint32_t p = 0; p < CHAIN; p++) {
        mini_fill(&mini, p, keys + (size_t)p * KVEIK_KEY_BYTES);
    }
    return mini_push(&mini, keys, CHAIN, 0, NULL);
}

static int persist(uint64_t seed, uint32_t deadline_ms)
{
    uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
    mini_keys(seed, CHAIN, keys);
    struct kveik_persist persist = KVEIK_PERSIST_INIT;
    persist.space = mini.space;
    persist.keys = keys;
    persist.key_count = CHAIN;
    persist.deadline_ms = deadline_ms;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_persist(mini.client, &persist, &done);
    for (uint32_t i = 0; status == KVEIK_OK && i < done.status_count; i++) {
        status = (int)done.statuses[i]; /* NOLINT(bugprone-signed-char-misuse,cert-str34-c) */
    }
    kveik_completion_finish(&done);
    return status;
}

/* Blocks of the chain that came; none is wrong, and the answer is there in time. */
static uint32_t pull(uint64_t seed)
{
    uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
    int8_t statuses[CHAIN] = {0};
    mini_keys(seed, CHAIN, keys);
    for (uint32_t p = 0; p < CHAIN; p++) {
        mini_wipe(&mini, p);
    }
    uint64_t began = clock_ms();
    struct kveik_pull_run run = {.layout = mini.layout, .keys = keys, .key_count = CHAIN};
    uint32_t pages[CHAIN];
    for (uint32_t p = 0; p < CHAIN; p++) {
        pages[p] = p;
    }
    run.pages = pages;
    run.page_count = CHAIN;
    struct kveik_pull request = KVEIK_PULL_INIT;
    request.runs = &run;
    request.run_count = 1;
    request.deadline_ms = IN_TIME_MS / 2;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_pull(mini.client, &request, &done);
    ck_assert_uint_lt(clock_ms() - began, IN_TIME_MS);
    ck_assert_msg(status == KVEIK_OK || status == KVEIK_E_DEADLINE, "pull: %s", done.text);
    uint32_t came = 0;
    for (uint32_t p = 0; p < done.status_count && p < CHAIN; p++) {
        statuses[p] = done.statuses[p];
        if (status == KVEIK_OK && statuses[p] == KVEIK_OK) {
            ck_assert_msg(mini_check(&mini, p, keys + (size_t)p * KVEIK_KEY_BYTES),
                          "wrong bytes of chain %llu", (unsigned long long)seed);
            came++;
        }
    }
    kveik_completion_finish(&done);
    return came;
}

static void fill(uint64_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        ck_assert_int_eq(push(first + i), KVEIK_OK);
        ck_assert_int_eq(persist(first + i, 10000), KVEIK_OK);
    }
}

static uint32_t pull_all(uint64_t first, uint32_t count)
{
    uint32_t came = 0;
    for (uint32_t i = 0; i < count; i++) {
        came += pull(first + i);
    }
    return came;
}

/* The tier works again within so long: what is pushed becomes durable. */
static void must_recover(uint64_t seed)
{
    uint64_t until = clock_ms() + BACK_MS;
    int status = KVEIK_E_IO;
    while (status != KVEIK_OK && clock_ms() < until) {
        ck_assert_int_eq(push(seed), KVEIK_OK);
        status = persist(seed++, 2000);
    }
    ck_assert_int_eq(status, KVEIK_OK);
}

/* What is on disk is found again. */
static void must_be_found(uint64_t first, uint32_t count)
{
    uint64_t until = clock_ms() + BACK_MS;
    while (pull_all(first, count) == 0) {
        ck_assert_uint_lt(clock_ms(), until);
    }
}

START_TEST(blocks_outlive_a_stop_and_a_kill)
    {
        start(arguments);
        fill(1, CHAINS);
        stop();
        start(arguments);
        ck_assert_int_eq(mini_number(&mini, "counters", "restored"), CHAINS * CHAIN);
        ck_assert_uint_eq(pull_all(1, CHAINS), CHAINS * CHAIN);
        kill_it();
        start(arguments);
        ck_assert_uint_eq(pull_all(1, CHAINS), CHAINS * CHAIN);
        ck_assert_int_eq(mini_number(&mini, "counters", "load_failed"), 0);
        stop();
    }
END_TEST

START_TEST(a_second_daemon_is_refused_with_the_pid_of_the_first)
    {
        start(arguments);
        struct daemon other;
        daemon_init(&other);
        ck_assert(!daemon_start(&other, arguments));
        char pid[32];
        (void)snprintf(pid, sizeof pid, "%d", (int)kveikd.pid);
        ck_assert_msg(daemon_logged(&other, pid, 0), "see %s", other.log);
        ck_assert(daemon_logged(&other, "cannot start", 0));
        daemon_finish(&other);
        fill(1, 2); /* the first goes on */
        stop();
    }
END_TEST

START_TEST(writes_that_fail_degrade_the_tier_and_it_recovers)
    {
        static const char *const failures[] = {"write:1:EIO:*", "sync:1:EIO:*", "write:1:ENOSPC:*",
                                               "open:1:EMFILE:*"};
        kveikd.environment = environment;
        start(arguments);
        fill(1, 4);
        for (uint32_t i = 0; i < ARRAY_COUNT(failures); i++) {
            disk_does(failures[i]);
            for (uint32_t n = 0; n < 20; n++) { /* engines do not notice */
                ck_assert_int_eq(push(1000 * (i + 1) + n), KVEIK_OK);
                ck_assert_uint_eq(pull(1000 * (i + 1) + n), CHAIN);
            }
            (void)persist(1000 * (i + 1), 500);
            disk_does(NULL);
            must_recover(1000 * (i + 1) + 100);
        }
        stop();
        start(arguments);
        (void)pull_all(1, 4);
        stop();
    }
END_TEST

START_TEST(short_writes_are_continued)
    {
        kveikd.environment = environment;
        start(arguments);
        disk_does("write:1:short:*");
        fill(1, CHAINS);
        disk_does(NULL);
        kill_it();
        start(arguments);
        ck_assert_uint_eq(pull_all(1, CHAINS), CHAINS * CHAIN);
        stop();
    }
END_TEST

START_TEST(reads_that_fail_are_misses)
    {
        kveikd.environment = environment;
        start(arguments);
        fill(1, CHAINS);
        kill_it();
        start(arguments);
        disk_does("read:1:EIO:*");
        ck_assert_uint_eq(pull_all(1, 5), 0);
        disk_does(NULL);
        must_recover(5000);
        must_be_found(6, CHAINS - 5);
        stop();
    }
END_TEST

START_TEST(a_slow_disk_hangs_nobody)
    {
        kveikd.environment = environment;
        start(arguments);
        fill(1, CHAINS);
        kill_it();
        start(arguments);
        disk_does("read:1:slow=5000:*,write:1:slow=5000:*");
        uint64_t began = clock_ms();
        for (uint32_t i = 0; i < 5; i++) {
            (void)pull(1 + i);
            ck_assert_int_eq(push(7000 + i), KVEIK_OK);
            ck_assert_uint_eq(pull(7000 + i), CHAIN);
        }
        /* the first waits for its deadline; then what is on disk only counts as missed */
        ck_assert_uint_lt(clock_ms() - began, 4000);
        ck_assert(daemon_logged(&kveikd, "not readable", 3000));
        disk_does(NULL);
        must_recover(8000);
        must_be_found(10, CHAINS - 10);
        stop();
    }
END_TEST

static uint64_t folder_bytes(const char *path)
{
    uint64_t bytes = 0;
    DIR *folder = opendir(path);
    ck_assert_ptr_nonnull(folder);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this function's own */
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        struct stat info;
        if (fstatat(dirfd(folder), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode)) {
            bytes += (uint64_t)info.st_blocks * 512;
        }
    }
    (void)closedir(folder);
    return bytes;
}

START_TEST(a_full_disk_frees_the_oldest_and_goes_on)
    {
        enum { MANY = 240 }; /* 120 MiB through 32 MiB */
        char segments[128];
        (void)snprintf(segments, sizeof segments, "%s/segments", kveikd.disk);
        start(small);
        for (uint32_t i = 0; i < MANY; i++) {
            ck_assert_int_eq(push(1 + i), KVEIK_OK);
            if (i % 8 == 7) {
                ck_assert_int_eq(persist(1 + i, 10000), KVEIK_OK);
            }
        }
        ck_assert_uint_le(folder_bytes(segments), 36u << 20);
        ck_assert_int_gt(mini_number(&mini, "counters", "reclaimed_segments"), 5);
        kill_it();
        start(small);
        ck_assert_uint_eq(pull(MANY), CHAIN); /* the latest that was durable */
        ck_assert_uint_eq(pull(1), 0);
        stop();
    }
END_TEST

/* ---- damaged bytes --------------------------------------------------------------------------- */

/* One bit of one file below the folder, by chance; the file's name. */
static void flip(struct rng *rng, const char *folder, char *name_out, size_t name_bytes)
{
    static const char *const parts[] = {"segments", "catalogue", "."};
    char path[256];
    char found[64][64];
    uint32_t count = 0;
    const char *part = parts[rng_below(rng, ARRAY_COUNT(parts))];
    (void)snprintf(path, sizeof path, "%s/%s", folder, part);
    DIR *stream = opendir(path);
    ck_assert_ptr_nonnull(stream);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this function's own */
    for (const struct dirent *entry; count < 64 && (entry = readdir(stream)) != NULL;) {
        struct stat info;
        if (fstatat(dirfd(stream), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode) &&
            info.st_size > 0) {
            (void)snprintf(found[count++], sizeof found[0], "%.63s", entry->d_name);
        }
    }
    (void)closedir(stream);
    if (count == 0) {
        return;
    }
    (void)snprintf(name_out, name_bytes, "%s/%s", path, found[rng_below(rng, count)]);
    int fd = open(name_out, O_RDWR | O_CLOEXEC);
    struct stat info;
    ck_assert(fd >= 0 && fstat(fd, &info) == 0);
    off_t at = (off_t)rng_below(rng, (uint64_t)info.st_size);
    uint8_t byte = 0;
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= (uint8_t)(1u << rng_below(rng, 8));
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void run_program(const char *const *argv)
{
    union {
        const char *const *given;
        char *const *passed;
    } words = {.given = argv};
    pid_t pid = fork();
    if (pid == 0) {
        (void)execvp(argv[0], words.passed);
        _exit(127);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

START_TEST(a_flipped_bit_is_a_miss_and_never_data)
    {
        struct rng rng = {.state = clock_ns()};
        (void)printf("seed %llu\n", (unsigned long long)rng.state);
        char copy[160];
        (void)snprintf(copy, sizeof copy, "%s/copy", kveikd.folder);
        start(arguments);
        fill(1, 12);
        stop();
        const char *const save[] = {"cp", "-a", kveikd.disk, copy, NULL};
        run_program(save);
        const char *const clear[] = {"rm", "-rf", kveikd.disk, NULL};
        const char *const restore[] = {"cp", "-a", copy, kveikd.disk, NULL};
        uint64_t rounds = check_scaled(FLIPS);
        uint64_t came = 0;
        uint32_t refused = 0;
        for (uint64_t i = 0; i < rounds; i++) {
            run_program(clear);
            run_program(restore);
            char name[320] = "";
            flip(&rng, kveikd.disk, name, sizeof name);
            if (!daemon_start(&kveikd, arguments)) {
                refused++; /* clearly, and nothing is handed out */
                ck_assert_msg(daemon_logged(&kveikd, "cannot start", 1000), "%s", name);
                continue;
            }
            struct mini_options options = {
                .socket = kveikd.socket, .instance = "one", .pages = PAGES, .page_factor = 2};
            ck_assert(mini_open(&mini, &options));
            came += pull_all(1, 12);
            stop();
        }
        (void)printf("%llu flips: %llu of %llu blocks came, all right; %u starts refused\n",
                     (unsigned long long)rounds, (unsigned long long)came,
                     (unsigned long long)rounds * 12 * CHAIN, refused);
        ck_assert_uint_gt(came, rounds * 6 * CHAIN);
    }
END_TEST

START_TEST(a_damaged_payload_is_counted_and_logged_with_its_key)
    {
        start(arguments);
        fill(1, 1);
        stop();
        char path[160];
        (void)snprintf(path, sizeof path, "%s/segments", kveikd.disk);
        DIR *stream = opendir(path);
        char name[320] = "";
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this function's own */
        for (const struct dirent *entry; (entry = readdir(stream)) != NULL;) {
            if (entry->d_name[0] != '.') {
                (void)snprintf(name, sizeof name, "%s/%.100s", path, entry->d_name);
            }
        }
        (void)closedir(stream);
        int fd = open(name, O_RDWR | O_CLOEXEC);
        struct stat info;
        ck_assert(fd >= 0 && fstat(fd, &info) == 0);
        for (off_t at = 64 << 10; at < info.st_size; at += 32 << 10) { /* every block */
            uint8_t byte = 0;
            ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
            byte ^= 0x10;
            ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
        }
        (void)close(fd);
        start(arguments);
        ck_assert_uint_lt(pull(1), CHAIN);
        ck_assert_int_gt(mini_number(&mini, "counters", "load_corrupt"), 0);
        ck_assert(daemon_logged(&kveikd, "is damaged on disk", 2000));
        uint32_t left = pull(1);
        ck_assert_int_eq(push(1), KVEIK_OK); /* computed again, it is whole again */
        ck_assert_uint_eq(pull(1), CHAIN);
        ck_assert_uint_lt(left, CHAIN);
        stop();
    }
END_TEST

int main(void)
{
#ifdef KVEIK_SANITIZED /* a sanitizer's library must be the first: nothing can be preloaded */
    const TTest *const tests[] = {
        blocks_outlive_a_stop_and_a_kill, a_second_daemon_is_refused_with_the_pid_of_the_first,
        a_full_disk_frees_the_oldest_and_goes_on, a_flipped_bit_is_a_miss_and_never_data,
        a_damaged_payload_is_counted_and_logged_with_its_key};
    (void)writes_that_fail_degrade_the_tier_and_it_recovers;
    (void)short_writes_are_continued;
    (void)reads_that_fail_are_misses;
    (void)a_slow_disk_hangs_nobody;
#else
    const TTest *const tests[] = {blocks_outlive_a_stop_and_a_kill,
                                  a_second_daemon_is_refused_with_the_pid_of_the_first,
                                  writes_that_fail_degrade_the_tier_and_it_recovers,
                                  short_writes_are_continued,
                                  reads_that_fail_are_misses,
                                  a_slow_disk_hangs_nobody,
                                  a_full_disk_frees_the_oldest_and_goes_on,
                                  a_flipped_bit_is_a_miss_and_never_data,
                                  a_damaged_payload_is_counted_and_logged_with_its_key};
#endif
    struct check_suite suite = {.name = "disk_tier",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 200,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
