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
#include <stdlib.h>

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

int main(void)
{
    const TTest *const tests[] = {every_size_comes_back};
    const struct check_suite suite = {.name = "disk",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
