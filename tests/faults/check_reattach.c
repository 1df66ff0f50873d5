/*
 * Planned restarts with memory in a file: what was there is there again and right; whatever does
 * not fit, or is damaged, is a miss with a reason in the log, and never a wrong byte.
 *
 * Covers: daemon/server/keep_save.c daemon/server/keep_load.c daemon/server/verify.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/rng.h"
#include "daemon/core/core.h"
#include "storage/cpu/snapshot.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/mini.h"

enum {
    PAGES = 16,
    CHAINS = 40,
    CHAIN = 8,
    BUDGET_MIB = 64,
    WAIT_MS = 5000,
    ARGUMENTS = 24,
    SAMPLE = 64,
};

static struct daemon kveikd;
static char folder[96];
static char file[128];
static char index_file[160];

static void setup(void)
{
    daemon_init(&kveikd);
    (void)snprintf(folder, sizeof folder, "/dev/shm/%s", strrchr(kveikd.folder, '/') + 1);
    (void)snprintf(file, sizeof file, "%s/pool", folder);
    (void)snprintf(index_file, sizeof index_file, "%s/pool.index", folder);
}

static void teardown(void)
{
    daemon_finish(&kveikd);
    (void)unlink(file);
    (void)unlink(index_file);
    ck_assert_int_eq(rmdir(folder), 0); /* nothing else was left there */
}

/* With these arguments beside the usual ones. */
static bool start_with(const char *const *more)
{
    const char *arguments[ARGUMENTS] = {"--cpu-bytes", "64MiB", "--cpu-file", file};
    uint32_t count = 4;
    for (; more != NULL && *more != NULL; more++) {
        arguments[count++] = *more;
    }
    int emptied = truncate(kveikd.log, 0); /* what is looked for is this life's */
    ck_assert(emptied == 0 || errno == ENOENT);
    return daemon_start(&kveikd, arguments);
}

static void start(void)
{
    ck_assert(start_with(NULL));
}

static void stop(void)
{
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
}

static void engine(struct mini *mini)
{
    struct mini_options options = {
        .socket = kveikd.socket, .instance = "one", .pages = PAGES, .page_factor = 2};
    ck_assert(mini_open(mini, &options));
}

static void push_all(uint64_t first)
{
    struct mini mini;
    engine(&mini);
    for (uint64_t chain = first; chain < first + CHAINS; chain++) {
        uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
        mini_keys(chain, CHAIN, keys);
        for (uint32_t p = 0; p < CHAIN; p++) {
            mini_fill(&mini, p, keys + (size_t)p * KVEIK_KEY_BYTES);
        }
        ck_assert_int_eq(mini_push(&mini, keys, CHAIN, 0, NULL), KVEIK_OK);
    }
    mini_close(&mini);
}

/* Pulls all; what comes is right. How many blocks came. */
static uint32_t pull_all(uint64_t first)
{
    struct mini mini;
    engine(&mini);
    uint32_t came = 0;
    for (uint64_t chain = first; chain < first + CHAINS; chain++) {
        uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
        int8_t statuses[CHAIN] = {0};
        mini_keys(chain, CHAIN, keys);
        for (uint32_t p = 0; p < CHAIN; p++) {
            mini_wipe(&mini, p);
        }
        int status = mini_pull(&mini, keys, CHAIN, 0, statuses);
        for (uint32_t p = 0; status == KVEIK_OK && p < CHAIN; p++) {
            if (statuses[p] == KVEIK_OK) {
                ck_assert(mini_check(&mini, p, keys + (size_t)p * KVEIK_KEY_BYTES));
                came++;
            }
        }
    }
    mini_close(&mini);
    return came;
}

static int64_t number_of(const char *section, const char *name)
{
    struct mini mini;
    engine(&mini);
    int64_t number = mini_number(&mini, section, name);
    mini_close(&mini);
    return number;
}

static void expect_logged(const char *text)
{
    if (!daemon_logged(&kveikd, text, WAIT_MS)) {
        char all[4096];
        int fd = open(kveikd.log, O_RDONLY | O_CLOEXEC);
        ssize_t count = read(fd, all, sizeof all - 1);
        (void)close(fd);
        all[count > 0 ? count : 0] = '\0';
        ck_abort_msg("not in the log: %s\n%s", text, all);
    }
}

static void expect_all_verified(void)
{
    expect_logged("all that was found in memory is verified");
    ck_assert_int_eq(number_of("cpu", "unverified"), 0);
}

START_TEST(memory_survives_restarts)
    {
        start();
        push_all(1);
        stop();
        ck_assert_int_eq(access(index_file, F_OK), 0);
        for (uint32_t life = 0; life < 3; life++) {
            start();
            ck_assert_int_eq(number_of("counters", "reattached"), CHAINS * CHAIN);
            ck_assert_int_eq(access(index_file, F_OK), -1); /* a crash finds none */
            ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
            if (life == 1) { /* some are stopped before all is verified, some after */
                expect_all_verified();
                ck_assert_int_eq(number_of("counters", "verified"), CHAINS * CHAIN);
            }
            stop();
        }
        start(); /* life goes on */
        push_all(1000);
        ck_assert_uint_eq(pull_all(1000), CHAINS * CHAIN);
        stop();
        start();
        ck_assert_uint_eq(pull_all(1000), CHAINS * CHAIN);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        ck_assert_int_eq(number_of("counters", "verify_corrupt"), 0);
        stop();
    }
END_TEST

/* More than fits: what comes back is what was used last, and goes on being evicted. */
START_TEST(a_full_pool_survives)
    {
        start();
        for (uint64_t first = 1; first < 1 + 40 * 40; first += 40) {
            push_all(first);
        }
        uint32_t there = pull_all(1 + 39 * 40);
        int64_t blocks = number_of("index", "parts");
        ck_assert_uint_gt(there, 0);
        stop();
        start();
        ck_assert_int_eq(number_of("counters", "reattached"), blocks);
        ck_assert_uint_eq(pull_all(1 + 39 * 40), there);
        push_all(100000);
        ck_assert_uint_eq(pull_all(100000), CHAINS * CHAIN);
        expect_all_verified();
        stop();
    }
END_TEST

START_TEST(with_a_disk_none_is_read)
    {
        const char *disk[] = {"--disk=yes", "--disk-path",
                              kveikd.disk,  "--disk-bytes",
                              "512MiB",     "--disk-segment-bytes",
                              "16MiB",      "--disk-keep-free-percent",
                              "0",          NULL};
        ck_assert(start_with(disk));
        push_all(1);
        stop();
        ck_assert(start_with(disk));
        ck_assert_int_eq(number_of("counters", "restored"), CHAINS * CHAIN);
        ck_assert_int_eq(number_of("counters", "reattached"), CHAINS * CHAIN);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        expect_all_verified();
        ck_assert_int_eq(number_of("counters", "loads"), 0);
        ck_assert_int_eq(number_of("counters", "stored"), 0); /* it was there already */
        stop();
        ck_assert(start_with(disk)); /* a crash: the disk serves */
        daemon_kill(&kveikd);
        ck_assert(start_with(disk));
        expect_logged("no index");
        ck_assert_int_eq(number_of("counters", "reattached"), 0);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
        start(); /* without the disk, in the same names */
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
        const char *other[] = {"--disk=yes", "--disk-path",          kveikd.folder, "--disk-bytes",
                               "512MiB",     "--disk-segment-bytes", "16MiB",       NULL};
        char elsewhere[128];
        (void)snprintf(elsewhere, sizeof elsewhere, "%s/other", kveikd.folder);
        other[2] = elsewhere;
        ck_assert(start_with(other));
        expect_logged("the disk tier is another one");
        ck_assert_uint_eq(pull_all(1), 0);
        push_all(1);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

START_TEST(a_crash_starts_empty)
    {
        start();
        push_all(1);
        stop();
        start();
        daemon_kill(&kveikd);
        ck_assert_int_eq(access(file, F_OK), 0);
        start();
        expect_logged("no index");
        ck_assert_uint_eq(pull_all(1), 0);
        ck_assert_int_eq(number_of("cpu", "slab_bytes"), 0);
        push_all(1);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

START_TEST(another_size_starts_empty)
    {
        start();
        push_all(1);
        stop();
        const char *larger[] = {"--cpu-bytes", "96MiB", NULL};
        ck_assert(start_with(larger));
        expect_logged("cannot be used");
        ck_assert_uint_eq(pull_all(1), 0);
        push_all(1);
        stop();
        ck_assert(start_with(larger));
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

/* ---- indexes that do not fit ----------------------------------------------------------------- */

/* The home that an index of the file must have, as the daemon would say. */
static struct snapshot_home home_now(void)
{
    struct stat info;
    struct snapshot_home home = {.granule_bytes = POOL_GRANULE_BYTES,
                                 .page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
                                 .content_format = 1};
    ck_assert_int_eq(stat(file, &info), 0);
    home.pool = (struct pool_identity){.device = (uint64_t)info.st_dev,
                                       .inode = (uint64_t)info.st_ino,
                                       .reserve_bytes = (uint64_t)info.st_size};
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_gt((int)read(fd, home.boot_id, sizeof home.boot_id - 4), 0);
    (void)close(fd);
    home.boot_id[strcspn(home.boot_id, "\n")] = '\0';
    return home;
}

/* An index that is whole and good but for what it belongs to and says. */
static void write_index(const struct snapshot_home *home, const void *record, uint32_t bytes)
{
    struct snapshot_writer *writer = NULL;
    struct error error = {0};
    ck_assert_int_eq(snapshot_writer_create(index_file, home, "9.9.9", &writer, &error), ST_OK);
    if (bytes > 0) {
        ck_assert_int_eq(snapshot_writer_append(writer, record, bytes, &error), ST_OK);
    }
    ck_assert_int_eq(snapshot_writer_finish(writer, &error), ST_OK);
    snapshot_writer_destroy(writer);
}

static void expect_empty_start(const char *logged)
{
    start();
    expect_logged("starting with empty memory");
    expect_logged(logged);
    ck_assert_uint_eq(pull_all(1), 0);
    ck_assert_int_eq(number_of("cpu", "slab_bytes"), 0);
    push_all(1);
    ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
    stop();
}

START_TEST(an_index_of_something_else_starts_empty)
    {
        start();
        push_all(1);
        stop();
        struct snapshot_home home = home_now();
        home.boot_id[0] = home.boot_id[0] == 'a' ? 'b' : 'a';
        write_index(&home, NULL, 0);
        expect_empty_start("boot");
        home = home_now();
        home.granule_bytes *= 2;
        write_index(&home, NULL, 0);
        expect_empty_start("granule");
        home = home_now();
        home.page_bytes *= 4;
        write_index(&home, NULL, 0);
        expect_empty_start("page");
        home = home_now();
        home.content_format++;
        write_index(&home, NULL, 0);
        expect_empty_start("format");
        home = home_now();
        home.pool.inode++;
        write_index(&home, NULL, 0);
        expect_empty_start("pool");
        home = home_now(); /* all fits, and what it says is nonsense */
        write_index(&home, NULL, 0);
        expect_empty_start("empty memory");
        home = home_now();
        write_index(&home, "\2nonsense", 9);
        expect_empty_start("damaged");
        home = home_now();
        uint8_t head[1 + 32 + 4] = {1, [33] = 1}; /* a slab is to follow */
        write_index(&home, head, sizeof head);
        expect_empty_start("lacks slabs");
    }
END_TEST

/* Every byte of it counts. */
START_TEST(a_damaged_index_starts_empty)
    {
        start();
        push_all(1);
        stop();
        struct rng rng = {clock_ns()};
        (void)printf("seed %llu\n", (unsigned long long)rng.state);
        uint64_t rounds = check_scaled(20);
        for (uint64_t i = 0; i < rounds; i++) {
            struct stat info;
            ck_assert_int_eq(stat(index_file, &info), 0);
            int fd = open(index_file, O_RDWR | O_CLOEXEC);
            off_t at = (off_t)rng_below(&rng, (uint64_t)info.st_size);
            uint8_t byte = 0;
            if (i % 4 == 3) {
                ck_assert_int_eq(ftruncate(fd, at), 0);
            } else {
                ck_assert_int_eq((int)pread(fd, &byte, 1, at), 1);
                byte ^= (uint8_t)(1u << rng_below(&rng, 8));
                ck_assert_int_eq((int)pwrite(fd, &byte, 1, at), 1);
            }
            (void)close(fd);
            expect_empty_start("cannot be used");
        }
    }
END_TEST

/* ---- damaged bytes --------------------------------------------------------------------------- */

/* How a block's bytes begin. */
static void sample_of(struct mini *mini, uint64_t chain, uint32_t block, char out[SAMPLE])
{
    uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
    mini_keys(chain, CHAIN, keys);
    mini_fill(mini, 0, keys + (size_t)block * KVEIK_KEY_BYTES);
    (void)memcpy(out, mini->memory, SAMPLE);
}

/* Flips a bit of a block's bytes in the pool's file. */
static void damage(const char sample[SAMPLE])
{
    int fd = open(file, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    bool found = false;
    off_t at = lseek(fd, 0, SEEK_DATA);
    while (at >= 0 && !found) {
        off_t hole = lseek(fd, at, SEEK_HOLE);
        size_t bytes = (size_t)(hole - at);
        char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
        ck_assert_ptr_ne(map, MAP_FAILED);
        char *there = memmem(map, bytes, sample, SAMPLE);
        if (there != NULL) {
            there[7] ^= 4;
            found = true;
        }
        (void)munmap(map, bytes);
        at = lseek(fd, hole, SEEK_DATA);
    }
    (void)close(fd);
    ck_assert(found);
}

static void hexadecimal(const uint8_t *key, char *out)
{
    for (uint32_t i = 0; i < KVEIK_KEY_BYTES; i++) {
        (void)snprintf(out + (size_t)2 * i, 3, "%02x", key[i]);
    }
}

START_TEST(a_flipped_bit_is_a_miss)
    {
        uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
        char text[2 * KVEIK_KEY_BYTES + 1];
        start();
        push_all(1);
        struct mini mini; /* its memory tells how the blocks' bytes begin */
        char samples[2][SAMPLE];
        engine(&mini);
        sample_of(&mini, 5, 3, samples[0]);
        sample_of(&mini, 20, 7, samples[1]);
        mini_close(&mini);
        stop();
        damage(samples[0]);
        damage(samples[1]);
        start();
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN - 2);
        mini_keys(5, CHAIN, keys);
        hexadecimal(keys + (size_t)3 * KVEIK_KEY_BYTES, text);
        expect_logged(text);
        mini_keys(20, CHAIN, keys);
        hexadecimal(keys + (size_t)7 * KVEIK_KEY_BYTES, text);
        expect_logged(text);
        expect_all_verified();
        ck_assert_int_eq(number_of("counters", "verify_corrupt"), 2);
        push_all(1); /* they can be had again */
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

/* ---- who else -------------------------------------------------------------------------------- */

START_TEST(a_second_daemon_is_refused)
    {
        start();
        push_all(1);
        struct daemon first = kveikd;
        daemon_init(&kveikd);
        const char *arguments[] = {"--cpu-bytes", "64MiB", "--cpu-file", file, NULL};
        ck_assert(!daemon_start(&kveikd, arguments));
        char words[64];
        (void)snprintf(words, sizeof words, "in use by process %d", (int)first.pid);
        expect_logged(words);
        daemon_finish(&kveikd);
        kveikd = first;
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

/* A start that fails for another reason leaves memory to the next. */
START_TEST(a_failed_start_costs_nothing)
    {
        start();
        push_all(1);
        stop();
        const char *bad[] = {"--disk=yes", "--disk-path",          kveikd.log, "--disk-bytes",
                             "512MiB",     "--disk-segment-bytes", "16MiB",    NULL};
        ck_assert(!start_with(bad));
        expect_logged("cannot start");
        start();
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        memory_survives_restarts,     a_full_pool_survives,
        with_a_disk_none_is_read,     a_crash_starts_empty,
        another_size_starts_empty,    an_index_of_something_else_starts_empty,
        a_damaged_index_starts_empty, a_flipped_bit_is_a_miss,
        a_second_daemon_is_refused,   a_failed_start_costs_nothing};
    struct check_suite suite = {.name = "reattach",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 300,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
