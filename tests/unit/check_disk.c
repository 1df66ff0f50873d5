/*
 * The tier as a whole, as its owner uses it.
 *
 * Covers: storage/disk/disk_segments.c
 * Covers: storage/disk/disk_write.c
 * Covers: storage/disk/disk_record.c
 * Covers: storage/disk/disk_read.c
 * Covers: storage/disk/disk_commit.c
 * Covers: storage/disk/disk_state.c
 * Covers: storage/disk/disk_start.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/disk_fixture.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

static struct tier *tier;

static void setup(void)
{
    tier = calloc(1, sizeof *tier);
    ck_assert_ptr_nonnull(tier);
    tier_init(tier);
}

static void teardown(void)
{
    tier_finish(tier);
    free(tier);
}

static bool want_none(void *ctx, const struct disk_entry *entry)
{
    return ctx == NULL && entry == NULL;
}

static void open_well(void)
{
    struct error error = {0};
    ck_assert_msg(tier_open(tier, &error) == ST_OK, "%s", error.text);
    ck_assert_uint_eq(tier->order_faults, 0);
}

static void write_well(uint32_t id, uint64_t bytes, uint32_t shift)
{
    tier_settle(tier, TIER_JOBS - 1);
    ck_assert_int_eq(tier_write(tier, id, bytes, shift), ST_OK);
}

START_TEST(every_size_comes_back)
    {
        static const uint64_t sizes[] = {
            1,           2,     63,    64,     65,          4095,     4096,        4097,
            5000,        65536, 65537, 131072, 1024 * 1024, 16 * MIB, 3 * MIB + 1, 8 * MIB + 4095,
            16 * MIB - 1};
        static const uint32_t shifts[] = {0, 1, 64, 512};
        tier->options.segment_bytes = 32 * MIB;
        tier->options.bytes_max = 16 * (uint64_t)tier->options.segment_bytes;
        open_well();
        uint32_t id = 1;
        for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
            for (size_t j = 0; j < ARRAY_COUNT(shifts); j++) {
                write_well(id++, sizes[i], shifts[j]);
            }
        }
        tier_settle(tier, 0);
        ck_assert_uint_eq(tier->held, id - 1);
        ck_assert_uint_eq(tier_read_all(tier), 0);
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, id - 1);
        ck_assert_uint_eq(tier_read_all(tier), 0);
        ck_assert_uint_eq(tier->held, id - 1);
    }
END_TEST

/* What device_bytes say of `count` parts of so many bytes. */
static uint64_t device_bytes(uint32_t count, uint64_t bytes)
{
    struct disk_status before;
    struct disk_status after;
    disk_status(tier->disk, &before);
    for (uint32_t id = 1; id <= count; id++) {
        /* nothing is reaped within a batch, so that the tier cannot send what waits one by one,
         * however fast the device is */
        ck_assert_int_eq(tier_write(tier, id, bytes, 64), ST_OK);
        if (id % TIER_JOBS == 0 || id == count) {
            tier_settle(tier, 0);
        }
    }
    disk_status(tier->disk, &after);
    ck_assert_uint_eq(after.counters.written_parts, count);
    ck_assert_uint_eq(after.counters.written_bytes, count * bytes);
    return after.counters.device_bytes - before.counters.device_bytes;
}

START_TEST(small_parts_share_records)
    {
        open_well();
        uint64_t sent = device_bytes(2000, 1000);
        /* a page of header and one of payload each would be eight times as much */
        ck_assert_uint_lt(sent, 2000 * 3 * KIB);
        ck_assert_uint_eq(tier_read_all(tier), 0);
    }
END_TEST

START_TEST(charges_add_up_to_what_is_written)
    {
        uint64_t charged = 0;
        open_well();
        uint64_t sent = device_bytes(500, 3000);
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, 500);
        for (uint32_t id = 1; id <= 500; id++) {
            charged += tier->parts[id].charged;
        }
        ck_assert_uint_eq(charged, sent);
    }
END_TEST

static uint32_t segment_of(uint32_t id)
{
    return tier->parts[id].place.segment;
}

START_TEST(survivors_lie_apart)
    {
        open_well();
        for (uint32_t id = 1; id <= 40; id++) {
            write_well(id, 200 * KIB + id, 0);
        }
        tier_settle(tier, 0);
        uint32_t first = segment_of(1);
        for (uint32_t id = 1; id <= 40; id += 4) {
            ck_assert_int_eq(tier_move(tier, id), ST_OK);
            write_well(100 + id, 100 * KIB, 0);
        }
        tier_settle(tier, 0);
        for (uint32_t id = 1; id <= 40; id += 4) {
            ck_assert_uint_ne(segment_of(id), first);
            for (uint32_t other = 101; other < 140; other += 4) {
                ck_assert_uint_ne(segment_of(id), segment_of(other));
            }
        }
        ck_assert_uint_eq(tier_read_all(tier), 0);
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, 50);
        ck_assert_uint_eq(tier_read_all(tier), 0);
    }
END_TEST

/* Writes until the tier says that it is full; the parts that are held then. */
static uint32_t fill_up(uint32_t id, uint64_t bytes)
{
    uint64_t failed = tier->failed_writes;
    while (tier->failed_writes == failed && id < TIER_PARTS_MAX) {
        write_well(id++, bytes, 0);
    }
    tier_settle(tier, 0);
    ck_assert_int_eq(tier->write_status, ST_NO_SPACE);
    return id;
}

START_TEST(a_full_tier_says_so_and_freed_segments_come_again)
    {
        struct disk_status status;
        tier->options.bytes_max = 6 * tier->options.segment_bytes;
        open_well();
        uint32_t id = fill_up(1, 300 * KIB);
        ck_assert_uint_gt(tier->held, 50);
        disk_status(tier->disk, &status);
        ck_assert_uint_eq(status.segments, 5); /* one is kept for survivors */
        ck_assert_int_eq(tier_move(tier, 1), ST_OK);
        tier_settle(tier, 0);
        disk_status(tier->disk, &status);
        ck_assert_uint_eq(status.segments, 6);
        for (int round = 0; round < 8; round++) {
            uint32_t segment = (uint32_t)round % 6;
            ck_assert(tier_free_segment(tier, segment));
            id = fill_up(id, 300 * KIB);
            disk_status(tier->disk, &status);
            ck_assert_uint_le(status.segments, 6);
            ck_assert_uint_eq(tier_read_all(tier), 0);
        }
        ck_assert_uint_ge(status.counters.segments_freed, 7);
        ck_assert(tier_sync(tier));
        uint32_t held = tier->held;
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, held);
        ck_assert_uint_eq(tier_read_all(tier), 0);
    }
END_TEST

/* A segment that is freed while writes into it are on their way goes on with those. */
START_TEST(segments_are_freed_under_writes)
    {
        struct rng rng = {.state = 5};
        open_well();
        for (uint32_t id = 1; id < 3000; id++) {
            write_well(id, 1 + rng_below(&rng, 60 * KIB), 0);
            if (rng_below(&rng, 20) == 0) {
                (void)tier_free_segment(tier, (uint32_t)rng_below(&rng, 8));
            }
        }
        ck_assert(tier_sync(tier));
        ck_assert_uint_eq(tier_read_all(tier), 0);
        uint32_t held = tier->held;
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, held);
        ck_assert_uint_eq(tier_read_all(tier), 0);
    }
END_TEST

START_TEST(forgotten_parts_stay_forgotten)
    {
        open_well();
        for (uint32_t id = 1; id <= 100; id++) {
            write_well(id, 5000, 0);
        }
        ck_assert(tier_sync(tier));
        for (uint32_t id = 1; id <= 100; id += 2) {
            tier_forget(tier, id);
        }
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, 50);
        for (uint32_t id = 1; id <= 100; id++) {
            ck_assert(tier->parts[id].held == (id % 2 == 0));
        }
    }
END_TEST

START_TEST(everything_forgotten_leaves_an_empty_store)
    {
        struct disk_status status;
        open_well();
        for (uint32_t id = 1; id <= 30; id++) {
            write_well(id, 5000, 0);
        }
        tier_settle(tier, 0);
        ck_assert(tier_free_segment(tier, segment_of(1)));
        tier_close(tier);
        open_well();
        disk_status(tier->disk, &status);
        ck_assert_uint_eq(tier->restored, 0);
        ck_assert_uint_eq(status.segments, 0);
    }
END_TEST

START_TEST(a_second_opener_is_told_the_pid)
    {
        char pid[32];
        struct error error = {0};
        struct disk *other = NULL;
        open_well();
        (void)snprintf(pid, sizeof pid, "pid %d", (int)getpid());
        ck_assert_int_eq(disk_open(&tier->options, want_none, NULL, &other, &error), ST_BUSY);
        ck_assert_msg(strstr(error.text, pid) != NULL, "%s", error.text);
    }
END_TEST

START_TEST(nonsense_is_refused)
    {
        struct disk_options good = tier->options;
        struct disk_options bad[8];
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            bad[i] = good;
        }
        bad[0].segment_bytes = 4 * MIB + 1;
        bad[1].segment_bytes = 2 * MIB;
        bad[2].bytes_max = 3 * good.segment_bytes;
        bad[3].keep_free_percent = 101;
        bad[4].depth = 0;
        bad[5].jobs_max = 0;
        bad[6].directory = "";
        bad[7].depth = DISK_IO_DEPTH_MAX + 1;
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            struct error error = {0};
            tier->options = bad[i];
            ck_assert_int_eq(tier_open(tier, &error), ST_INVALID);
            ck_assert_uint_gt(strlen(error.text), 10);
        }
        tier->options = good;
        open_well();
        ck_assert_int_eq(tier_write(tier, 1, 4 * MIB, 0), ST_LIMIT);
        ck_assert_int_eq(tier_write(tier, 1, 4 * MIB - 64 * KIB, 0), ST_OK);
        tier_settle(tier, 0);
        tier->parts[1].place.segment = 7;
        ck_assert_int_eq(tier_read(tier, 1, 0), ST_INVALID);
        tier->parts[1].place = (struct disk_place){.segment = segment_of(1), .offset = UINT32_MAX};
        ck_assert_int_eq(tier_read(tier, 1, 0), ST_INVALID);
    }
END_TEST

START_TEST(jobs_are_bounded)
    {
        tier->options.jobs_max = 3;
        open_well();
        for (uint32_t id = 1; id <= 3; id++) {
            ck_assert_int_eq(tier_write(tier, id, 1000, 0), ST_OK);
        }
        ck_assert_int_eq(tier_write(tier, 4, 1000, 0), ST_BUSY);
        tier_settle(tier, 0);
        ck_assert_int_eq(tier_write(tier, 4, 1000, 0), ST_OK);
    }
END_TEST

START_TEST(writes_are_paced)
    {
        uint64_t rate = 20 * MIB;
        tier->options.write_bytes_per_s = rate;
        open_well();
        uint64_t began_ms = clock_ms();
        for (uint32_t id = 1; id <= 40; id++) {
            write_well(id, MIB / 4, 0);
        }
        tier_settle(tier, 0);
        uint64_t took_ms = clock_ms() - began_ms;
        ck_assert_msg(took_ms >= 200, "10 MiB at 20 MiB/s in %d ms", (int)took_ms);
        ck_assert_uint_eq(tier->held, 40);
    }
END_TEST

/* A page that is damaged on the way is neither read nor moved. */
START_TEST(damage_is_never_read_and_never_moved)
    {
        open_well();
        for (uint32_t id = 1; id <= 8; id++) {
            write_well(id, 100 * KIB, 0);
        }
        tier_settle(tier, 0);
        tier->parts[1].seal ^= 1;
        ck_assert_int_eq(tier_read(tier, 1, 0), ST_OK);
        tier->parts[2].seal ^= 1;
        ck_assert_int_eq(tier_move(tier, 2), ST_OK);
        tier->parts[3].place.offset += 1;
        ck_assert_int_eq(tier_read(tier, 3, 0), ST_OK);
        ck_assert_int_eq(tier_move(tier, 4), ST_OK);
        tier_settle(tier, 0);
        ck_assert_uint_eq(tier->failed_reads, 2);
        ck_assert_int_eq(tier->read_status, ST_CORRUPT);
        ck_assert_uint_eq(tier->failed_writes, 1);
        ck_assert_int_eq(tier->write_status, ST_CORRUPT);
        ck_assert_uint_eq(tier_read_all(tier), 1); /* the second, whose seal is wrong still */
    }
END_TEST

START_TEST(a_failed_sync_loses_the_segment_and_no_other)
    {
        struct disk_status status;
        open_well();
        for (uint32_t id = 1; id <= 40; id++) {
            write_well(id, 300 * KIB, 0);
        }
        ck_assert(tier_sync(tier));
        uint32_t held = tier->held;
        write_well(50, 1000, 0);
        tier_settle(tier, 0);
        fault_set(FAULT_SYNC, 0, 1);
        ck_assert(tier_sync(tier));
        ck_assert_int_eq(fault_fired(FAULT_SYNC), 1);
        fault_clear();
        ck_assert_uint_eq(tier->lost_segments, 1);
        ck_assert_uint_lt(tier->held, held);
        ck_assert_uint_gt(tier->held, 0);
        ck_assert(!tier->parts[50].held);
        write_well(51, 1000, 0);
        ck_assert(tier_sync(tier));
        disk_status(tier->disk, &status);
        ck_assert_uint_eq(status.counters.segments_lost, 1);
        held = tier->held;
        ck_assert_uint_eq(tier_read_all(tier), 0);
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, held);
        ck_assert_uint_eq(tier_read_all(tier), 0);
    }
END_TEST

START_TEST(a_catalogue_that_fails_is_tried_again)
    {
        struct disk_status status;
        open_well();
        write_well(1, 1000, 0);
        tier_settle(tier, 0);
        fault_set(FAULT_CATALOGUE, 0, 2);
        disk_sync(tier->disk);
        while (tier->state.writable || tier->state.segments_max == 0) {
            tier_settle(tier, 0);
            disk_tick(tier->disk);
        }
        ck_assert_int_eq(tier_write(tier, 2, 1000, 0), ST_UNAVAILABLE);
        ck_assert(tier_sync(tier)); /* a second later */
        tier_settle(tier, 0);
        fault_clear();
        disk_status(tier->disk, &status);
        ck_assert_uint_eq(status.counters.commit_errors, 1);
        write_well(2, 1000, 0);
        ck_assert(tier_sync(tier));
        tier_close(tier);
        open_well();
        ck_assert_uint_eq(tier->restored, 2);
    }
END_TEST

START_TEST(the_secret_stays)
    {
        uint8_t secret[DISK_SECRET_BYTES];
        open_well();
        (void)memcpy(secret, disk_secret(tier->disk), sizeof secret);
        tier_close(tier);
        open_well();
        ck_assert_mem_eq(secret, disk_secret(tier->disk), sizeof secret);
    }
END_TEST

/* Sizes, moves, reads, forgets, frees and restarts as they come. */
START_TEST(any_history_reads_what_it_wrote)
    {
        struct rng rng = {.state = (uint64_t)_i + 1};
        tier->options.bytes_max = 12 * tier->options.segment_bytes;
        open_well();
        for (int step = 0; step < 1500; step++) {
            uint32_t id = 1 + (uint32_t)rng_below(&rng, 600);
            const struct tier_part *part = &tier->parts[id];
            uint64_t what = rng_below(&rng, 100);
            tier_settle(tier, (uint32_t)rng_below(&rng, TIER_JOBS));
            if (!part->held && !part->busy) {
                uint64_t bytes = 1 + rng_below(&rng, what < 90 ? 40 * KIB : MIB);
                (void)tier_write(tier, id, bytes, (uint32_t)rng_below(&rng, 3) * 64);
            } else if (part->busy) {
                tier_settle(tier, 0);
            } else if (what < 50) {
                ck_assert_int_eq(tier_read(tier, id, (uint32_t)(what % 2)), ST_OK);
                tier_settle(tier, 0);
            } else if (what < 70) {
                (void)tier_move(tier, id);
            } else if (what < 90) {
                tier_forget(tier, id);
            } else if (what < 97) {
                tier_settle(tier, 0);
                (void)tier_free_segment(tier, segment_of(id));
            } else {
                ck_assert(tier_sync(tier));
                uint32_t held = tier->held;
                tier_close(tier);
                open_well();
                ck_assert_uint_eq(tier->restored, held);
            }
        }
        ck_assert_uint_eq(tier_read_all(tier), 0);
        ck_assert_uint_eq(tier->failed_reads, 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        every_size_comes_back,
        small_parts_share_records,
        charges_add_up_to_what_is_written,
        survivors_lie_apart,
        a_full_tier_says_so_and_freed_segments_come_again,
        segments_are_freed_under_writes,
        forgotten_parts_stay_forgotten,
        everything_forgotten_leaves_an_empty_store,
        a_second_opener_is_told_the_pid,
        nonsense_is_refused,
        jobs_are_bounded,
        writes_are_paced,
        damage_is_never_read_and_never_moved,
        a_failed_sync_loses_the_segment_and_no_other,
        a_catalogue_that_fails_is_tried_again,
        the_secret_stays,
        any_history_reads_what_it_wrote,
    };
    const struct check_suite suite = {.name = "disk",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
