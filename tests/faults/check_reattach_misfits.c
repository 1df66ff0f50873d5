/*
 * Memory in a file that is not what its index says, and indexes that belong to something else, or
 * are damaged: misses with a reason in the log, never a wrong byte.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/rng.h"
#include "daemon/core/core.h"
#include "storage/cpu/snapshot.h"
#include "tests/lib/check_main.h"
#include "tests/lib/reattach.h"

enum { SAMPLE = 64 };

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
        uint8_t head[1 + 32 + 4 + 8] = {1, [33] = 1}; /* a slab is to follow */
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

int main(void)
{
    const TTest *const tests[] = {an_index_of_something_else_starts_empty,
                                  a_damaged_index_starts_empty, a_flipped_bit_is_a_miss};
    struct check_suite suite = {.name = "reattach_misfits",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 300,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
