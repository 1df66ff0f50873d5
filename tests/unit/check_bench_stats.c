/* Statistics of samples, and the report that holds them. Covers: client/cli/bench_report.c */
#include "client/cli/bench_report.h"
#include "client/cli/bench_stats.h"
#include "tests/lib/check_main.h"

static const double close_enough = 1e-9;

START_TEST(nothing_is_zero)
    {
        struct samples samples = {0};
        ck_assert_double_eq_tol(samples_median(&samples), 0, close_enough);
        ck_assert_double_eq_tol(samples_mean(&samples), 0, close_enough);
        ck_assert_double_eq_tol(samples_max(&samples), 0, close_enough);
        ck_assert_double_eq_tol(samples_spread(&samples), 0, close_enough);
        samples_finish(&samples);
    }
END_TEST

START_TEST(percentiles_interpolate)
    {
        struct samples samples = {0};
        for (uint32_t i = 0; i < 101; i++) {
            samples_add(&samples, (double)((i * 37) % 101)); /* 0 .. 100 in another order */
        }
        ck_assert_double_eq_tol(samples_percentile(&samples, 0), 0, close_enough);
        ck_assert_double_eq_tol(samples_percentile(&samples, 12.5), 12.5, close_enough);
        ck_assert_double_eq_tol(samples_median(&samples), 50, close_enough);
        ck_assert_double_eq_tol(samples_percentile(&samples, 99), 99, close_enough);
        ck_assert_double_eq_tol(samples_percentile(&samples, 100), 100, close_enough);
        ck_assert_double_eq_tol(samples_mean(&samples), 50, close_enough);
        ck_assert_double_eq_tol(samples_max(&samples), 100, close_enough);
        ck_assert_double_eq_tol(samples_spread(&samples), 0.5, close_enough);
        samples_add(&samples, 1000); /* after a percentile the order is lost, not the values */
        ck_assert_double_eq_tol(samples_max(&samples), 1000, close_enough);
        samples_clear(&samples);
        samples_add(&samples, 3);
        ck_assert_double_eq_tol(samples_percentile(&samples, 99), 3, close_enough);
        ck_assert_double_eq_tol(samples_spread(&samples), 0, close_enough);
        samples_finish(&samples);
    }
END_TEST

START_TEST(reports_judge_medians)
    {
        static struct bench_report report;
        struct bench_metric *metric = bench_metric(&report, "of limit", "%s_%u", "ratio", 4u);
        ck_assert_ptr_eq(metric, bench_metric(&report, "of limit", "ratio_4"));
        samples_add(&metric->samples, 0.5);
        ck_assert(bench_met(&report));
        bench_want(metric, BENCH_AT_LEAST, 0.9);
        ck_assert(!bench_met(&report));
        samples_add(&metric->samples, 0.95);
        samples_add(&metric->samples, 0.97);
        ck_assert(bench_met(&report));
        ck_assert_double_eq_tol(bench_median(&report, "ratio_4"), 0.95, close_enough);
        ck_assert_double_eq_tol(bench_median(&report, "unknown"), 0, close_enough);
        bench_want(metric, BENCH_AT_MOST, 0.9);
        ck_assert(!bench_met(&report));
        bench_report_finish(&report);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {nothing_is_zero, percentiles_interpolate, reports_judge_medians};
    return check_main("bench_stats", tests, ARRAY_COUNT(tests));
}
