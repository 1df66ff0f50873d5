/*
 * What every Check program needs besides its tests. A unit test ends in
 *
 *   int main(void)
 *   {
 *       const TTest *const tests[] = {grows_in_place, refuses_nonsense};
 *       return check_main("vm", tests, ARRAY_COUNT(tests));
 *   }
 *
 * Each test runs in a process of its own (Check's fork mode), under sanitizers too: a crash or a
 * leak is reported with the test's name. CK_FORK=no in the environment runs all in one, for gdb.
 */
#ifndef KVEIK_TESTS_LIB_CHECK_MAIN_H
#define KVEIK_TESTS_LIB_CHECK_MAIN_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <check.h>

#include "base/assert.h"
#include "base/size.h"

enum { CHECK_TIMEOUT_S = 120, CHECK_FULL_SCALE = 100 };

struct check_suite {
    const char *name;
    const TTest *const *tests;
    size_t count;
    double timeout_s; /* of one test; 0: CHECK_TIMEOUT_S */
    SFun setup;       /* before and after each test, in its process; may be NULL */
    SFun teardown;
};

static inline int check_run(const struct check_suite *wanted)
{
    TCase *tcase = tcase_create(wanted->name);
    tcase_set_timeout(tcase, wanted->timeout_s > 0 ? wanted->timeout_s : CHECK_TIMEOUT_S);
    tcase_add_checked_fixture(tcase, wanted->setup, wanted->teardown);
    for (size_t i = 0; i < wanted->count; i++) {
        tcase_add_test(tcase, wanted->tests[i]);
    }
    Suite *suite = suite_create(wanted->name);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static inline int check_main(const char *name, const TTest *const *tests, size_t count)
{
    struct check_suite suite = {.name = name, .tests = tests, .count = count};
    return check_run(&suite);
}

/* A count of rounds for this run: KVEIK_TEST_SCALE percent of `full`, at least 1. Slow builds
 * (sanitizers) set it below 100, long runs above. */
static inline uint64_t check_scaled(uint64_t full)
{
    const char *text = secure_getenv("KVEIK_TEST_SCALE");
    uint64_t percent = CHECK_FULL_SCALE;
    if (text != NULL && number_parse(text, &percent, NULL) != ST_OK) {
        percent = CHECK_FULL_SCALE;
    }
    uint64_t scaled = full * percent / CHECK_FULL_SCALE;
    return scaled > 0 ? scaled : 1;
}

#endif
