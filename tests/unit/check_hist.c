#include "client/cli/hist.h"
#include "tests/lib/check_main.h"

static struct hist hist;

static void setup(void)
{
    hist = (struct hist){0};
}

START_TEST(empty)
    {
        setup();
        ck_assert_uint_eq(hist_quantile(&hist, 0.5), 0);
        ck_assert_uint_eq(hist_quantile(&hist, 1.0), 0);
    }
END_TEST

START_TEST(small_values_are_exact)
    {
        setup();
        for (uint64_t v = 1; v <= 100; v++) {
            hist_add(&hist, v);
        }
        ck_assert_uint_eq(hist.count, 100);
        ck_assert_uint_eq(hist.sum, 5050);
        ck_assert_uint_eq(hist_quantile(&hist, 0.5), 50);
        ck_assert_uint_eq(hist_quantile(&hist, 0.9), 90);
        ck_assert_uint_eq(hist_quantile(&hist, 0.99), 99);
        ck_assert_uint_eq(hist_quantile(&hist, 1.0), 100);
        ck_assert_uint_eq(hist_quantile(&hist, 0.0), 1);
    }
END_TEST

/* Every value lands in a bucket whose end is at most 1/64 above it. */
START_TEST(relative_width)
    {
        setup();
        for (uint64_t v = 1; v < (uint64_t)1 << (HIST_BITS_MAX - 1); v = v * 9 / 8 + 1) {
            struct hist one = {0};
            hist_add(&one, v);
            one.max = UINT64_MAX; /* so that it does not cut */
            uint64_t end = hist_quantile(&one, 1.0);
            ck_assert_uint_ge(end, v);
            ck_assert_uint_le(end, v + v / 64);
        }
    }
END_TEST

START_TEST(huge_values)
    {
        setup();
        hist_add(&hist, UINT64_MAX);
        ck_assert_uint_eq(hist.max, UINT64_MAX);
        ck_assert_uint_eq(hist_quantile(&hist, 1.0), ((uint64_t)1 << HIST_BITS_MAX) - 1);
    }
END_TEST

START_TEST(merging)
    {
        setup();
        static struct hist other;
        hist_add(&hist, 10);
        hist_add(&other, 20);
        hist_add(&other, 30);
        hist_merge(&hist, &other);
        ck_assert_uint_eq(hist.count, 3);
        ck_assert_uint_eq(hist.sum, 60);
        ck_assert_uint_eq(hist.max, 30);
        ck_assert_uint_eq(hist_quantile(&hist, 0.5), 20);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {empty, small_values_are_exact, relative_width, huge_values,
                                  merging};
    return check_main("hist", tests, ARRAY_COUNT(tests));
}
