/*
 * Each thing that can fail, failing in turn at its first, second, n-th time, once and for a while,
 * under a day in the life of a tier: nothing crashes, leaks or hangs, and what can be read
 * afterwards reads right.
 *
 * Covers: storage/disk/disk_segments.c
 * Covers: storage/disk/disk_record.c
 * Covers: storage/disk/disk_start.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/heap.h"
#include "tests/lib/check_main.h"
#include "tests/lib/disk_fixture.h"

enum { PARTS = 24, FAR = 60, PASSES_MAX = 4000, FOR_A_WHILE = 12 };

static struct tier *tier;

static void write_some(uint32_t first)
{
    for (uint32_t id = first; id < first + PARTS; id++) {
        tier_settle(tier, TIER_JOBS / 4);
        if (!tier->parts[id].held && !tier->parts[id].busy) {
            (void)tier_write(tier, id, id % 5 == 0 ? 400000 : 300 + id * 211, id % 2 * 64);
        }
    }
    tier_settle(tier, 0);
}

static void move_and_read(void)
{
    for (uint32_t id = 1; id <= PARTS; id++) {
        if (tier->parts[id].held && !tier->parts[id].busy) {
            (void)(id % 3 == 0 ? tier_move(tier, id) : tier_read(tier, id, 0));
        }
        tier_settle(tier, TIER_JOBS / 4);
    }
    tier_settle(tier, 0);
}

/* All of it may fail, none of it may harm. */
static void live(void)
{
    struct error error = {0};
    if (tier_open(tier, &error) != ST_OK) {
        ck_assert_uint_gt(strlen(error.text), 5);
        return;
    }
    write_some(1);
    disk_sync(tier->disk);
    move_and_read();
    (void)tier_free_segment(tier, 0);
    write_some(1);
    disk_tick(tier->disk);
    tier_close(tier);
}

/* Afterwards, with nothing planted. */
static void look(enum fault_point point, int64_t pass)
{
    struct error error = {0};
    int status = tier_open(tier, &error);
    ck_assert_msg(status == ST_OK, "after point %d, pass %d: %s", (int)point, (int)pass,
                  error.text);
    ck_assert_uint_eq(tier->order_faults, 0);
    ck_assert_uint_eq(tier_read_all(tier), 0);
    tier_close(tier);
}

static void fail_each(enum fault_point point, int64_t failures)
{
    bool fired = true;
    int64_t tried = 0;
    int64_t stride = 1;
    uint64_t far = check_scaled(FAR);
    for (int64_t pass = 0; fired && pass < PASSES_MAX; pass += stride) {
        int64_t before = heap_outstanding();
        fault_set(point, pass, failures);
        live();
        fired = fault_fired(point) > 0;
        fault_clear();
        look(point, pass);
        ck_assert_int_eq(heap_outstanding(), before);
        tried++;
        stride = tried >= (int64_t)far / 2 ? stride + 3 : 1; /* the first in turn, then samples */
    }
    ck_assert_int_gt(tried, 2);
}

START_TEST(the_heap_fails)
    {
        fail_each(FAULT_HEAP, 1);
    }
END_TEST

START_TEST(the_heap_fails_for_a_while)
    {
        fail_each(FAULT_HEAP, FOR_A_WHILE);
    }
END_TEST

START_TEST(files_fail)
    {
        fail_each(FAULT_FILE, 1);
    }
END_TEST

START_TEST(files_fail_for_a_while)
    {
        fail_each(FAULT_FILE, FOR_A_WHILE);
    }
END_TEST

START_TEST(opening_fails)
    {
        fail_each(FAULT_OPEN, 1);
        fail_each(FAULT_OPEN, FOR_A_WHILE);
    }
END_TEST

START_TEST(syncing_fails)
    {
        fail_each(FAULT_SYNC, 1);
        fail_each(FAULT_SYNC, FOR_A_WHILE);
    }
END_TEST

START_TEST(the_catalogue_fails)
    {
        fail_each(FAULT_CATALOGUE, 1);
        fail_each(FAULT_CATALOGUE, FOR_A_WHILE);
    }
END_TEST

START_TEST(threads_fail)
    {
        fail_each(FAULT_THREAD, 1);
    }
END_TEST

static void setup(void)
{
    tier = calloc(1, sizeof *tier);
    ck_assert_ptr_nonnull(tier);
    tier_init(tier);
    tier->options.bytes_max = 4 * tier->options.segment_bytes;
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
        the_heap_fails,      the_heap_fails_for_a_while,
        files_fail,          files_fail_for_a_while,
        opening_fails,       syncing_fails,
        the_catalogue_fails, threads_fail,
    };
    const struct check_suite suite = {.name = "disk_faults",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
