#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/heap.h"
#include "storage/disk/catalogue.h"
#include "tests/lib/check_main.h"

enum { ENTRIES_MAX = 64 };

static char folder[64];
static char path[96];

struct seen {
    struct catalogue_item items[ENTRIES_MAX];
    uint32_t count;
    uint32_t stop_at;
};

static int see(void *ctx, const struct catalogue_item *item)
{
    struct seen *seen = ctx;
    ck_assert_uint_lt(seen->count, ENTRIES_MAX);
    seen->items[seen->count++] = *item;
    return seen->stop_at != 0 && seen->count == seen->stop_at ? ST_LIMIT : ST_OK;
}

static struct catalogue *open_well(void)
{
    struct catalogue *catalogue = NULL;
    struct error error = {0};
    ck_assert_msg(catalogue_open(path, &catalogue, &error) == ST_OK, "%s", error.text);
    return catalogue;
}

static struct seen scan(struct catalogue *catalogue, enum catalogue_prefix prefix)
{
    struct seen seen = {0};
    struct error error = {0};
    ck_assert_msg(catalogue_scan(catalogue, prefix, see, &seen, &error) == ST_OK, "%s", error.text);
    return seen;
}

static void write_well(struct catalogue *catalogue, struct catalogue_batch *batch)
{
    struct error error = {0};
    ck_assert_msg(catalogue_write(catalogue, batch, &error) == ST_OK, "%s", error.text);
    catalogue_batch_clear(batch);
}

START_TEST(entries_are_in_order_and_stay)
    {
        struct catalogue *catalogue = open_well();
        struct catalogue_batch *batch = catalogue_batch_create();
        ck_assert_uint_eq(catalogue_batch_count(batch), 0);
        catalogue_put_part(batch, 256, 1, "d", 1);
        catalogue_put_part(batch, 2, 70000, "c", 1);
        catalogue_put_part(batch, 2, 3, "b", 1);
        catalogue_put_part(batch, 1, UINT32_MAX, "a", 1);
        catalogue_put_kind(batch, 300, "k", 1);
        catalogue_put_kind(batch, 2, "k", 1);
        catalogue_put_segment(batch, 2, "s", 1);
        catalogue_put_mark(batch, "mark", 4);
        ck_assert_uint_eq(catalogue_batch_count(batch), 8);
        write_well(catalogue, batch);
        for (int round = 0; round < 2; round++) {
            struct seen parts = scan(catalogue, CATALOGUE_PARTS);
            ck_assert_uint_eq(parts.count, 4);
            ck_assert_uint_eq(parts.items[0].number, 1);
            ck_assert_uint_eq(parts.items[0].offset, UINT32_MAX);
            ck_assert_uint_eq(parts.items[1].offset, 3);
            ck_assert_uint_eq(parts.items[2].offset, 70000);
            ck_assert_uint_eq(parts.items[3].number, 256);
            struct seen kinds = scan(catalogue, CATALOGUE_KINDS);
            ck_assert_uint_eq(kinds.count, 2);
            ck_assert_uint_eq(kinds.items[1].kind, 300);
            ck_assert_uint_eq(scan(catalogue, CATALOGUE_SEGMENTS).items[0].number, 2);
            ck_assert_uint_eq(scan(catalogue, CATALOGUE_MARK).items[0].value_bytes, 4);
            catalogue_close(catalogue);
            catalogue = open_well();
        }
        catalogue_batch_destroy(batch);
        catalogue_close(catalogue);
    }
END_TEST

START_TEST(drops_take_what_they_say_and_puts_after_them_count)
    {
        struct catalogue *catalogue = open_well();
        struct catalogue_batch *batch = catalogue_batch_create();
        for (uint64_t number = 1; number <= 3; number++) {
            catalogue_put_part(batch, number, 1, "x", 1);
            catalogue_put_part(batch, number, UINT32_MAX, "x", 1);
            catalogue_put_segment(batch, number, "s", 1);
        }
        write_well(catalogue, batch);
        catalogue_drop_segment(batch, 2);
        catalogue_put_part(batch, 2, 9, "y", 1);
        catalogue_drop_part(batch, 3, 1);
        write_well(catalogue, batch);
        struct seen parts = scan(catalogue, CATALOGUE_PARTS);
        ck_assert_uint_eq(parts.count, 4);
        ck_assert_uint_eq(parts.items[2].number, 2);
        ck_assert_uint_eq(parts.items[2].offset, 9);
        ck_assert_uint_eq(parts.items[3].number, 3);
        ck_assert_uint_eq(parts.items[3].offset, UINT32_MAX);
        ck_assert_uint_eq(scan(catalogue, CATALOGUE_SEGMENTS).count, 2);
        catalogue_batch_destroy(batch);
        catalogue_close(catalogue);
    }
END_TEST

START_TEST(a_scan_can_be_ended)
    {
        struct catalogue *catalogue = open_well();
        struct catalogue_batch *batch = catalogue_batch_create();
        struct seen seen = {.stop_at = 2};
        struct error error = {0};
        for (uint32_t i = 0; i < 5; i++) {
            catalogue_put_part(batch, 1, i, "x", 1);
        }
        write_well(catalogue, batch);
        ck_assert_int_eq(catalogue_scan(catalogue, CATALOGUE_PARTS, see, &seen, &error), ST_LIMIT);
        ck_assert_uint_eq(seen.count, 2);
        catalogue_batch_destroy(batch);
        catalogue_close(catalogue);
    }
END_TEST

START_TEST(failures_are_told_and_survived)
    {
        struct catalogue *catalogue = open_well();
        struct catalogue *other = NULL;
        struct catalogue_batch *batch = catalogue_batch_create();
        struct error error = {0};
        catalogue_put_part(batch, 1, 1, "x", 1);
        fault_set(FAULT_CATALOGUE, 0, 2);
        ck_assert_int_eq(catalogue_write(catalogue, batch, &error), ST_IO);
        ck_assert_int_eq(catalogue_reopen(catalogue, &error), ST_IO);
        ck_assert_int_eq(catalogue_write(catalogue, batch, &error), ST_UNAVAILABLE);
        ck_assert_uint_eq(catalogue_bytes(catalogue), 0);
        ck_assert_int_eq(catalogue_reopen(catalogue, &error), ST_OK);
        write_well(catalogue, batch);
        ck_assert_uint_eq(scan(catalogue, CATALOGUE_PARTS).count, 1);
        ck_assert_uint_gt(catalogue_bytes(catalogue), 0);
        ck_assert_int_eq(catalogue_open(path, &other, &error), ST_IO); /* RocksDB's own lock */
        catalogue_batch_destroy(batch);
        catalogue_close(catalogue);
    }
END_TEST

START_TEST(a_damaged_one_is_called_so)
    {
        char current[128];
        struct catalogue *catalogue = open_well();
        struct error error = {0};
        catalogue_close(catalogue);
        (void)snprintf(current, sizeof current, "%s/CURRENT", path);
        int fd = open(current, O_WRONLY | O_TRUNC | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, "nonsense\n", 9), 9);
        (void)close(fd);
        ck_assert_int_eq(catalogue_open(path, &catalogue, &error), ST_CORRUPT);
        ck_assert_uint_gt(strlen(error.text), 10);
    }
END_TEST

static void setup(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/kveik-catalogue-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/catalogue", folder);
}

static void teardown(void)
{
    char command[128];
    ck_assert_int_eq(heap_outstanding(), 0);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c,concurrency-mt-unsafe) */
}

int main(void)
{
    const TTest *const tests[] = {
        entries_are_in_order_and_stay, drops_take_what_they_say_and_puts_after_them_count,
        a_scan_can_be_ended,           failures_are_told_and_survived,
        a_damaged_one_is_called_so,
    };
    const struct check_suite suite = {.name = "catalogue",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
