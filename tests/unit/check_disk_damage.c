/*
 * Damage in any file of the store: it opens, with less in it, or says what is wrong; no read gives
 * a wrong byte.
 *
 * Covers: storage/disk/rebuild.c
 * Covers: storage/disk/disk_start.c
 * Covers: storage/disk/store_file.c
 * Covers: storage/disk/segment_scan.c
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "storage/disk/format.h"
#include "storage/disk/seal.h"
#include "tests/lib/check_main.h"
#include "tests/lib/disk_fixture.h"

enum { PARTS = 60, ROUNDS = 80, PATH_BYTES = 512, FILES_MAX = 64 };

static struct tier *tier;

static void run(const char *command)
{
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c,concurrency-mt-unsafe) */
}

static void copy_path(const char *from, const char *to)
{
    char command[3 * PATH_BYTES];
    (void)snprintf(command, sizeof command, "cp -r '%s' '%s'", from, to);
    run(command);
}

static void remove_path(const char *path)
{
    char command[2 * PATH_BYTES];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", path);
    run(command);
}

static void open_well(void)
{
    struct error error = {0};
    ck_assert_msg(tier_open(tier, &error) == ST_OK, "%s", error.text);
    ck_assert_uint_eq(tier->order_faults, 0);
}

/* A closed store of some segments, some parts moved, some forgotten. */
static void make_store(void)
{
    open_well();
    for (uint32_t id = 1; id <= PARTS; id++) {
        tier_settle(tier, TIER_JOBS / 2);
        ck_assert_int_eq(tier_write(tier, id, id % 4 == 0 ? 700000 + id : 900 + id * 37, 0), ST_OK);
    }
    tier_settle(tier, 0);
    for (uint32_t id = 1; id <= PARTS; id += 10) {
        ck_assert_int_eq(tier_move(tier, id), ST_OK);
    }
    ck_assert(tier_sync(tier));
    tier_close(tier);
    open_well(); /* the catalogue's log becomes a table */
    for (uint32_t id = PARTS + 1; id <= PARTS + 10; id++) {
        ck_assert_int_eq(tier_write(tier, id, 5000, 0), ST_OK);
    }
    ck_assert(tier_sync(tier));
    tier_close(tier);
}

static void path_of(char *path, const char *name)
{
    (void)snprintf(path, PATH_BYTES, "%s/%s", tier->directory, name);
}

static void remove_all(const char *name)
{
    char path[PATH_BYTES];
    path_of(path, name);
    remove_path(path);
}

/* Held and read right: how many. */
static uint32_t sound_parts(void)
{
    (void)tier_read_all(tier);
    return tier->held;
}

START_TEST(a_lost_catalogue_is_made_again)
    {
        struct disk_status status;
        make_store();
        remove_all("catalogue");
        open_well();
        disk_status(tier->disk, &status);
        ck_assert_uint_eq(tier->restored, PARTS + 10);
        ck_assert_uint_ge(status.counters.rebuilt_parts, PARTS + 10);
        ck_assert_uint_eq(sound_parts(), PARTS + 10);
        ck_assert_int_eq(tier_write(tier, PARTS + 11, 100, 0), ST_OK);
        tier_close(tier);
        open_well();
        disk_status(tier->disk, &status);
        ck_assert_uint_eq(status.counters.rebuilt_parts, 0);
        ck_assert_uint_eq(sound_parts(), PARTS + 11);
    }
END_TEST

START_TEST(a_lost_store_file_is_made_again)
    {
        uint8_t secret[DISK_SECRET_BYTES];
        make_store();
        open_well();
        (void)memcpy(secret, disk_secret(tier->disk), sizeof secret);
        tier_close(tier);
        remove_all("STORE");
        open_well();
        ck_assert_mem_eq(secret, disk_secret(tier->disk), sizeof secret);
        ck_assert_uint_eq(sound_parts(), PARTS + 10);
    }
END_TEST

START_TEST(lost_segments_take_their_parts_along)
    {
        make_store();
        remove_all("segments/1.kv");
        open_well();
        uint32_t left = sound_parts();
        ck_assert_uint_gt(left, 0);
        ck_assert_uint_lt(left, PARTS + 10);
        tier_close(tier);
        remove_all("segments");
        open_well();
        ck_assert_uint_eq(tier->restored, 0);
        ck_assert_int_eq(tier_write(tier, 1, 100, 0), ST_OK);
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(sound_parts(), 1);
    }
END_TEST

static void write_file(const char *name, const void *bytes, size_t count, off_t offset)
{
    char path[PATH_BYTES];
    path_of(path, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, bytes, count, offset), (ssize_t)count);
    (void)close(fd);
}

START_TEST(another_version_is_refused_and_left_alone)
    {
        struct error error = {0};
        uint8_t store[FORMAT_STORE_BYTES];
        struct format_store about = {.made_s = 1};
        make_store();
        format_store_encode(&about, store);
        put_u32(store + 8, DISK_FORMAT_VERSION + 1);
        put_u64(store + FORMAT_STORE_BYTES - 8, checksum_plain(store, FORMAT_STORE_BYTES - 8));
        write_file("STORE", store, sizeof store, 0);
        ck_assert_int_eq(tier_open(tier, &error), ST_VERSION);
        ck_assert_msg(strstr(error.text, "empty directory") != NULL, "%s", error.text);
        remove_all("STORE");
        open_well();
        ck_assert_uint_eq(sound_parts(), PARTS + 10);
    }
END_TEST

START_TEST(a_store_that_tells_nothing_is_refused)
    {
        struct error error = {0};
        make_store();
        write_file("STORE", "nonsense", 8, 0);
        remove_all("segments");
        ck_assert_int_eq(tier_open(tier, &error), ST_CORRUPT);
        ck_assert_uint_gt(strlen(error.text), 20);
    }
END_TEST

/* Of another store: its segments are not ours, its catalogue is moved aside. */
START_TEST(a_foreign_catalogue_is_not_believed)
    {
        struct tier *other = calloc(1, sizeof *other);
        ck_assert_ptr_nonnull(other);
        make_store();
        tier_init(other);
        ck_assert_int_eq(tier_open(other, NULL), ST_OK);
        ck_assert_int_eq(tier_write(other, 1, 100, 0), ST_OK);
        tier_close(other);
        remove_all("catalogue");
        char from[PATH_BYTES];
        (void)snprintf(from, sizeof from, "%s/catalogue", other->directory);
        copy_path(from, tier->directory);
        open_well();
        ck_assert_uint_eq(sound_parts(), PARTS + 10);
        tier_finish(other);
        free(other);
    }
END_TEST

/* ---- at random ------------------------------------------------------------------------------- */

static uint32_t list_files(const char *folder, char names[FILES_MAX][64])
{
    char path[PATH_BYTES];
    uint32_t count = 0;
    path_of(path, folder);
    DIR *files = opendir(path);
    ck_assert_ptr_nonnull(files);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this function's own */
    for (const struct dirent *entry; count < FILES_MAX && (entry = readdir(files)) != NULL;) {
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < 32) {
            (void)snprintf(names[count++], 64, "%.16s/%.32s", folder, entry->d_name);
        }
    }
    (void)closedir(files);
    return count;
}

/* Flips bits, clears a stretch, or cuts the file. */
static void damage(const char *name, struct rng *rng)
{
    char path[PATH_BYTES];
    struct stat about;
    path_of(path, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &about), 0);
    uint64_t bytes = (uint64_t)about.st_size;
    if (bytes > 0) {
        uint64_t what = rng_below(rng, 10);
        /* half of the time near the front, where headers are */
        uint64_t at = rng_below(rng, rng_below(rng, 2) == 0 && bytes > 9000 ? 9000 : bytes);
        uint8_t old[64] = {0};
        if (what < 7) {
            ck_assert_int_eq(pread(fd, old, 1, (off_t)at), 1);
            old[0] ^= (uint8_t)(1u << rng_below(rng, 8));
            ck_assert_int_eq(pwrite(fd, old, 1, (off_t)at), 1);
        } else if (what < 9) {
            ck_assert_int_eq(pwrite(fd, old, sizeof old, (off_t)at), (ssize_t)sizeof old);
        } else {
            ck_assert_int_eq(ftruncate(fd, (off_t)at), 0);
        }
    }
    (void)close(fd);
}

static void damage_somewhere(struct rng *rng, uint64_t which)
{
    char names[FILES_MAX][64];
    static const char *const folders[] = {"segments", "segments", "catalogue", "catalogue"};
    if (which % 5 == 4) {
        damage("STORE", rng);
        return;
    }
    uint32_t count = list_files(folders[which % 5], names);
    ck_assert_uint_gt(count, 0);
    damage(names[rng_below(rng, count)], rng);
}

START_TEST(damage_anywhere_costs_parts_but_never_gives_wrong_bytes)
    {
        char keep[PATH_BYTES];
        make_store();
        (void)snprintf(keep, sizeof keep, "%s.keep", tier->directory);
        copy_path(tier->directory, keep);
        uint64_t rounds = check_scaled(ROUNDS);
        uint32_t whole = 0;
        for (uint64_t round = 0; round < rounds; round++) {
            struct error error = {0};
            struct rng rng = {.state = round + 1};
            remove_path(tier->directory);
            copy_path(keep, tier->directory);
            damage_somewhere(&rng, round);
            if (round % 7 == 0) {
                remove_all("catalogue");
            }
            int status = tier_open(tier, &error);
            ck_assert_msg(status == ST_OK, "round %d: %s", (int)round, error.text);
            ck_assert_uint_eq(tier->order_faults, 0);
            uint32_t sound = sound_parts();
            ck_assert_uint_le(sound, PARTS + 10);
            whole += sound == PARTS + 10;
            tier_close(tier);
            ck_assert_int_eq(tier_open(tier, &error), ST_OK); /* and stays so */
            ck_assert_uint_eq(tier->restored, sound);
            ck_assert_uint_eq(tier_read_all(tier), 0);
            tier_close(tier);
        }
        remove_path(keep);
        ck_assert_uint_gt(whole, rounds / 3); /* STORE and the catalogue are made again */
    }
END_TEST

static void setup(void)
{
    tier = calloc(1, sizeof *tier);
    ck_assert_ptr_nonnull(tier);
    tier_init(tier);
    tier->log.fd = -1; /* it has much to say here */
}

static void teardown(void)
{
    tier_finish(tier);
    free(tier);
}

int main(void)
{
    const TTest *const tests[] = {
        a_lost_catalogue_is_made_again,
        a_lost_store_file_is_made_again,
        lost_segments_take_their_parts_along,
        another_version_is_refused_and_left_alone,
        a_store_that_tells_nothing_is_refused,
        a_foreign_catalogue_is_not_believed,
        damage_anywhere_costs_parts_but_never_gives_wrong_bytes,
    };
    const struct check_suite suite = {.name = "disk_damage",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
