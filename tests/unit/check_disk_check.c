/* Reading a whole store and dropping what is damaged. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "storage/disk/catalogue.h"
#include "storage/disk/format.h"
#include "storage/disk/segment.h"
#include "tests/lib/check_main.h"
#include "tests/lib/disk_fixture.h"

enum { PARTS = 30, PATH_BYTES = 128 };

static struct tier *tier;
static uint64_t last_done;

static void on_progress(void *ctx, uint64_t done, uint64_t all)
{
    ck_assert_ptr_eq(ctx, tier);
    ck_assert_uint_ge(done, last_done);
    ck_assert_uint_le(done, all);
    last_done = done;
}

static void check_well(struct disk_check_report *report)
{
    struct error error = {0};
    last_done = 0;
    ck_assert_msg(disk_check(&tier->options, on_progress, tier, report, &error) == ST_OK, "%s",
                  error.text);
}

static void open_well(void)
{
    struct error error = {0};
    ck_assert_msg(tier_open(tier, &error) == ST_OK, "%s", error.text);
}

static void make_store(void)
{
    open_well();
    for (uint32_t id = 1; id <= PARTS; id++) {
        ck_assert_int_eq(tier_write(tier, id, 300000 + id, 0), ST_OK);
    }
    tier_settle(tier, 0);
    ck_assert_uint_eq(tier->held, PARTS);
}

START_TEST(a_sound_store_stays_as_it_is)
    {
        struct disk_check_report report = {0};
        make_store();
        tier_close(tier);
        check_well(&report);
        ck_assert_uint_eq(report.parts, PARTS);
        ck_assert_uint_ge(report.bytes, UINT64_C(300000) * PARTS);
        ck_assert_uint_eq(report.damaged_parts + report.stale_entries + report.damaged_segments, 0);
        ck_assert(!report.rebuilt);
        ck_assert_uint_gt(report.segments, 1);
        ck_assert_uint_ge(last_done, report.bytes);
        open_well();
        ck_assert_uint_eq(tier->restored, PARTS);
    }
END_TEST

START_TEST(damaged_parts_are_dropped)
    {
        struct disk_check_report report = {0};
        char path[PATH_BYTES];
        make_store();
        uint64_t at = (uint64_t)tier->parts[1].place.offset * DISK_UNIT;
        tier_close(tier);
        (void)snprintf(path, sizeof path, "%s/segments/1.kv", tier->directory);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(pwrite(fd, "damage", 6, (off_t)at + 77777), 6);
        (void)close(fd);
        check_well(&report);
        ck_assert_uint_eq(report.parts, PARTS);
        ck_assert_uint_eq(report.damaged_parts, 1);
        check_well(&report);
        ck_assert_uint_eq(report.parts, PARTS - 1);
        ck_assert_uint_eq(report.damaged_parts, 0);
        open_well();
        ck_assert(!tier->parts[1].held);
        ck_assert_uint_eq(tier_read_all(tier), 0);
        tier_close(tier);
        ck_assert_int_eq(unlink(path), 0);
        check_well(&report);
        ck_assert_uint_gt(report.stale_entries, 0);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        (void)close(fd);
        check_well(&report);
        ck_assert_uint_eq(report.damaged_segments, 1);
        ck_assert_uint_eq(report.damaged_parts + report.stale_entries, 0);
    }
END_TEST

START_TEST(a_store_in_use_is_not_checked)
    {
        struct disk_check_report report = {0};
        struct error error = {0};
        make_store();
        ck_assert_int_eq(disk_check(&tier->options, NULL, NULL, &report, &error), ST_BUSY);
    }
END_TEST

/* ---- how long a start takes ------------------------------------------------------------------ */

static bool take(void *ctx, const struct disk_entry *entry)
{
    uint32_t *count = ctx;
    (*count)++;
    return entry->part.key_count > 0;
}

/* Entries that were never written, straight into the catalogue. */
static void plant(uint32_t count)
{
    char path[PATH_BYTES];
    uint8_t key[DISK_KEY_BYTES] = {0};
    uint8_t value[FORMAT_PART_BYTES_MAX];
    struct catalogue *catalogue = NULL;
    struct error error = {0};
    (void)snprintf(path, sizeof path, "%s/catalogue", tier->directory);
    ck_assert_msg(catalogue_open(path, &catalogue, &error) == ST_OK, "%s", error.text);
    struct catalogue_batch *batch = catalogue_batch_create();
    for (uint32_t i = 0; i < count; i++) {
        put_u32(key, i);
        struct format_part part = {.part = {.keys = key, .key_count = 1, .parent = key},
                                   .offset = FORMAT_SEGMENT_BYTES / DISK_UNIT + 128 + i % 10000,
                                   .bytes = 64,
                                   .charged_bytes = 64};
        /* many in one place: the catalogue does not mind, nor does the scan */
        catalogue_put_part(batch, 1 + i / 10000, part.offset, value,
                           format_part_encode(&part, value));
        if (catalogue_batch_count(batch) == 10000 || i + 1 == count) {
            ck_assert_int_eq(catalogue_write(catalogue, batch, &error), ST_OK);
            catalogue_batch_clear(batch);
        }
    }
    catalogue_batch_destroy(batch);
    catalogue_close(catalogue);
}

START_TEST(a_start_over_many_entries_is_quick)
    {
        uint32_t most = (uint32_t)check_scaled(100000) / 10000 * 10000;
        struct disk *disk = NULL;
        struct error error = {0};
        uint32_t count = 0;
        most = most < 10000 ? 10000 : most;
        tier->options.bytes_max = 200 * tier->options.segment_bytes;
        open_well();
        ck_assert_int_eq(tier_write(tier, 1, 100, 0), ST_OK);
        ck_assert_int_eq(tier_write(tier, 3, 100, 0), ST_OK);
        tier_close(tier);
        char store[PATH_BYTES];
        uint8_t bytes[FORMAT_STORE_BYTES];
        (void)snprintf(store, sizeof store, "%s/STORE", tier->directory);
        int fd = open(store, O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(read(fd, bytes, sizeof bytes), FORMAT_STORE_BYTES);
        (void)close(fd);
        struct segment_files files = {.segment_bytes = tier->options.segment_bytes};
        ck_assert_int_eq(format_store_decode(bytes, sizeof bytes, &files.store), ST_OK);
        (void)snprintf(store, sizeof store, "%s/segments", tier->directory);
        files.directory_fd = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (uint64_t number = 2; number <= most / 10000; number++) {
            ck_assert_int_eq(segment_create(&files, number, &fd, &error), ST_OK);
            (void)close(fd);
        }
        (void)close(files.directory_fd);
        (void)snprintf(store, sizeof store, "%s/segments/1.kv", tier->directory);
        ck_assert_int_eq(truncate(store, 4 << 20), 0);
        plant(most);
        uint64_t began_ms = clock_ms();
        ck_assert_msg(disk_open(&tier->options, take, &count, &disk, &error) == ST_OK, "%s",
                      error.text);
        uint64_t took_ms = clock_ms() - began_ms;
        disk_close(disk);
        ck_assert_uint_ge(count, most);
        (void)printf("start over %u entries: %d ms\n", most, (int)took_ms);
        ck_assert_msg(took_ms < 20000, "%d ms", (int)took_ms);
    }
END_TEST

static void setup(void)
{
    tier = calloc(1, sizeof *tier);
    ck_assert_ptr_nonnull(tier);
    tier_init(tier);
    tier->log.fd = -1;
}

static void teardown(void)
{
    tier_finish(tier);
    free(tier);
}

int main(void)
{
    const TTest *const tests[] = {
        a_sound_store_stays_as_it_is,
        damaged_parts_are_dropped,
        a_store_in_use_is_not_checked,
        a_start_over_many_entries_is_quick,
    };
    const struct check_suite suite = {.name = "disk_check",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
