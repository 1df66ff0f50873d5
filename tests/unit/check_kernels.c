/*
 * Covers: storage/cpu/kernels_x86.c
 */
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "base/fault.h"
#include "base/rng.h"
#include "base/status.h"
#include "storage/cpu/kernels.h"
#include "tests/lib/kv_memory.h"

enum { ROOM = 80 * 1024, MARGIN = 256 };

static char from[ROOM + 2 * MARGIN];
static char to[ROOM + 2 * MARGIN];
static char expected[ROOM + 2 * MARGIN];

static void check_run(const struct kernel *kernel, size_t from_at, size_t to_at, size_t bytes)
{
    (void)memset(to, 0x77, sizeof to);
    (void)memset(expected, 0x77, sizeof expected);
    kernel->copy(to + to_at, from + from_at, bytes);
    kernel_fence();
    (void)memcpy(expected + to_at, from + from_at, bytes);
    ck_assert_msg(memcmp(to, expected, sizeof to) == 0, "%s: %zu bytes from %zu to %zu",
                  kernel->name, bytes, from_at, to_at);
}

START_TEST(all_kernels_move_the_same_bytes)
    {
        static const size_t edges[] = {0,     1,     63,    64,    65,    127,   128,  255,  256,
                                       257,   319,   512,   1024,  4095,  4096,  4097, 8192, 16383,
                                       16384, 16385, 32768, 40000, 65536, 65600, ROOM};
        uint32_t count = 0;
        const struct kernel *kernels = kernels_all(&count);
        struct rng rng = {1};
        kv_fill(from, sizeof from, 2);
        ck_assert_uint_ge(count, 2);
        for (uint32_t i = 0; i < count; i++) {
            if (!kernels[i].supported()) {
                continue;
            }
            for (size_t e = 0; e < sizeof edges / sizeof edges[0]; e++) {
                check_run(&kernels[i], MARGIN, MARGIN, edges[e]);
                check_run(&kernels[i], MARGIN + 1, MARGIN, edges[e]);
                check_run(&kernels[i], MARGIN, MARGIN + 63, edges[e]);
            }
            for (int n = 0; n < 300; n++) {
                size_t bytes = rng_below(&rng, n % 3 == 0 ? ROOM : 700);
                check_run(&kernels[i], MARGIN + rng_below(&rng, 64), MARGIN + rng_below(&rng, 64),
                          bytes);
            }
        }
    }
END_TEST

START_TEST(rows_move_the_same_bytes)
    {
        uint32_t count = 0;
        const struct kernel *kernels = kernels_all(&count);
        struct rng rng = {3};
        static char lines[ROOM] __attribute__((aligned(64)));
        kv_fill(from, sizeof from, 2);
        for (uint32_t i = 0; i < count; i++) {
            if (kernels[i].rows == NULL || !kernels[i].supported()) {
                continue;
            }
            for (int n = 0; n < 200; n++) {
                uint64_t run = 64 * (1 + rng_below(&rng, 9));
                uint64_t inner = 1 + rng_below(&rng, 12);
                uint64_t outer = 1 + rng_below(&rng, 8);
                struct kernel_rows rows = {.to = lines,
                                           .from = from + rng_below(&rng, 64),
                                           .run_bytes = run,
                                           .inner_count = inner,
                                           .inner_to = run + 64 * rng_below(&rng, 2),
                                           .inner_from = outer * run,
                                           .outer_count = outer,
                                           .outer_to = inner * (run + 64),
                                           .outer_from = run};
                (void)memset(lines, 0x77, sizeof lines);
                (void)memset(expected, 0x77, sizeof lines);
                ck_assert(kernel_rows_aligned(&rows));
                kernels[i].rows(&rows);
                kernel_fence();
                for (uint64_t r = 0; r < inner * outer; r++) {
                    uint64_t o = r / inner;
                    uint64_t in = r % inner;
                    (void)memcpy(expected + o * rows.outer_to + in * rows.inner_to,
                                 rows.from + o * rows.outer_from + in * rows.inner_from, run);
                }
                ck_assert(memcmp(lines, expected, sizeof lines) == 0);
            }
        }
    }
END_TEST

START_TEST(classes_and_choices)
    {
        struct kernel_choice choice;
        ck_assert_uint_eq(kernel_class_of(0), 0);
        ck_assert_uint_eq(kernel_class_of(2048), 0);
        ck_assert_uint_eq(kernel_class_of(2049), 1);
        ck_assert_uint_eq(kernel_class_of(16384), 1);
        ck_assert_uint_eq(kernel_class_of(131072), 2);
        ck_assert_uint_eq(kernel_class_of(131073), 3);
        ck_assert_uint_eq(kernel_class_of(SIZE_MAX), 3);
        kernel_choice_default(&choice);
        for (uint32_t i = 0; i < KERNEL_CLASSES; i++) {
            ck_assert(choice.best[i]->supported());
        }
        kernel_choice_plain(&choice);
        ck_assert(kernel_for(&choice, 10) == kernel_for(&choice, 1 << 20));
        ck_assert(choice.rows == NULL);
    }
END_TEST

START_TEST(calibration_chooses_what_is_supported)
    {
        struct kernel_choice choice;
        ck_assert_int_eq(kernel_calibrate(&choice, 8 << 20, 20), ST_OK);
        for (uint32_t i = 0; i < KERNEL_CLASSES; i++) {
            ck_assert_ptr_nonnull(choice.best[i]);
            ck_assert(choice.best[i]->supported());
            ck_assert(choice.gbps[i] > 0);
        }
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_int_eq(kernel_calibrate(&choice, 8 << 20, 20), ST_NO_MEMORY);
        fault_clear();
        ck_assert_str_eq(choice.best[3]->name, "plain");
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("kernels");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, all_kernels_move_the_same_bytes);
    tcase_add_test(tcase, rows_move_the_same_bytes);
    tcase_add_test(tcase, classes_and_choices);
    tcase_add_test(tcase, calibration_chooses_what_is_supported);
    Suite *suite = suite_create("kernels");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
