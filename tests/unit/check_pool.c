/*
 * Covers: storage/cpu/pool_touch.c storage/cpu/smaps.c
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/cpu/pool.h"

enum { GRANULE = POOL_GRANULE_BYTES };

static struct pool *make_pool(const struct pool_options *options)
{
    struct pool *pool = NULL;
    struct error error;
    ck_assert_msg(pool_create(options, &pool, &error) == ST_OK, "%s", error.text);
    return pool;
}

static bool all_zero(const char *at, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += 512) {
        if (at[i] != 0) {
            return false;
        }
    }
    return true;
}

START_TEST(commits_and_gives_back)
    {
        struct pool_options options = {.budget_bytes = 8 * GRANULE,
                                       .reserve_bytes = (uint64_t)1 << 35,
                                       .pages = _i == 0 ? POOL_PAGES_AUTO : POOL_PAGES_SMALL,
                                       .prefault = _i == 0};
        struct pool *pool = make_pool(&options);
        struct pool_status status;
        struct error error;
        for (int round = 0; round < 3; round++) {
            uint64_t high = options.reserve_bytes - 2 * GRANULE;
            ck_assert_int_eq(pool_commit(pool, 0, 4 * GRANULE, NULL), ST_OK);
            ck_assert_int_eq(pool_commit(pool, high, 2 * GRANULE, NULL), ST_OK);
            ck_assert(all_zero(pool_address(pool, 0), 4 * GRANULE));
            ck_assert(all_zero(pool_address(pool, high), 2 * GRANULE));
            (void)memset(pool_address(pool, 0), 1, 4 * GRANULE);
            (void)memset(pool_address(pool, high), 2, 2 * GRANULE);
            ck_assert_int_eq(pool_commit(pool, 8 * GRANULE, 3 * GRANULE, &error), ST_LIMIT);
            ck_assert_int_eq(pool_commit(pool, 8 * GRANULE, 2 * GRANULE, NULL), ST_OK);
            ck_assert_int_eq(pool_address(pool, 4 * GRANULE - 1)[0], 1);
            pool_status(pool, &status);
            ck_assert_uint_eq(status.committed_bytes, 8 * GRANULE);
            ck_assert_uint_eq(status.commit_failures, (uint64_t)round + 1);
            pool_decommit(pool, 8 * GRANULE, 2 * GRANULE);
            pool_decommit(pool, 0, 4 * GRANULE);
            pool_decommit(pool, high, 2 * GRANULE);
        }
        pool_status(pool, &status);
        ck_assert_uint_eq(status.committed_bytes, 0);
        pool_destroy(pool);
        pool_destroy(NULL);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

static void wait_touched(struct pool *pool, uint64_t bytes, struct pool_status *status_out)
{
    for (int i = 0; i < 1000; i++) {
        pool_status(pool, status_out);
        if (status_out->touched_bytes == bytes && (i > 0 || bytes == 0)) {
            return;
        }
        (void)poll(NULL, 0, 10);
    }
    ck_abort_msg("touched %llu of %llu bytes", (unsigned long long)status_out->touched_bytes,
                 (unsigned long long)bytes);
}

START_TEST(touches_in_the_background)
    {
        struct pool_options options = {.budget_bytes = 64 * GRANULE,
                                       .reserve_bytes = 64 * GRANULE,
                                       .prefault = true,
                                       .lock = true};
        struct rlimit limit = {.rlim_cur = 8 * GRANULE, .rlim_max = 8 * GRANULE};
        (void)setrlimit(RLIMIT_MEMLOCK, &limit);
        struct pool *pool = make_pool(&options);
        struct pool_status status;
        ck_assert_int_eq(pool_commit(pool, 0, 16 * GRANULE, NULL), ST_OK);
        pool_address(pool, 0)[12345] = 7; /* in use while it is touched */
        wait_touched(pool, 16 * GRANULE, &status);
        ck_assert_int_eq(pool_address(pool, 0)[12345], 7);
        for (int i = 0; i < 300 && status.huge_bytes == 0; i++) {
            (void)poll(NULL, 0, 10);
            pool_status(pool, &status);
        }
        ck_assert_uint_le(status.huge_bytes, 16 * GRANULE);
        ck_assert_uint_le(status.locked_bytes, 16 * GRANULE);
        pool_decommit(pool, 4 * GRANULE, 12 * GRANULE);
        wait_touched(pool, 4 * GRANULE, &status);
        /* slabs that come and go faster than the thread follows */
        for (int i = 0; i < 200; i++) {
            ck_assert_int_eq(pool_commit(pool, 8 * GRANULE, 2 * GRANULE, NULL), ST_OK);
            ck_assert_int_eq(pool_address(pool, 8 * GRANULE)[i], 0);
            pool_address(pool, 8 * GRANULE)[i] = 1;
            pool_decommit(pool, 8 * GRANULE, 2 * GRANULE);
        }
        wait_touched(pool, 4 * GRANULE, &status);
        pool_decommit(pool, 0, 4 * GRANULE);
        wait_touched(pool, 0, &status);
        ck_assert_uint_eq(status.locked_bytes, 0);
        pool_destroy(pool);
    }
END_TEST

START_TEST(children_do_not_inherit_it)
    {
        struct pool_options options = {.budget_bytes = 2 * GRANULE, .reserve_bytes = 4 * GRANULE};
        struct pool *pool = make_pool(&options);
        ck_assert_int_eq(pool_commit(pool, 0, GRANULE, NULL), ST_OK);
        char *memory = pool_address(pool, 0);
        memory[0] = 1;
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            unsigned char resident = 0;
            _exit(mincore(memory, 4096, &resident) == 0 ? 1 : 0);
        }
        int status = 0;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        pool_destroy(pool);
    }
END_TEST

START_TEST(explicit_huge_pages_are_given_or_refused)
    {
        struct pool_options options = {.budget_bytes = 4 * GRANULE,
                                       .reserve_bytes = 8 * GRANULE,
                                       .pages = POOL_PAGES_HUGE,
                                       .prefault = true};
        struct pool *pool = make_pool(&options);
        struct error error = {0};
        int got = pool_commit(pool, 2 * GRANULE, GRANULE, &error);
        if (got == ST_OK) {
            ck_assert(all_zero(pool_address(pool, 2 * GRANULE), GRANULE));
            pool_decommit(pool, 2 * GRANULE, GRANULE);
        } else {
            ck_assert_int_eq(got, ST_NO_MEMORY);
            ck_assert_str_ne(error.text, "");
        }
        pool_destroy(pool);
    }
END_TEST

START_TEST(refuses_nonsense_and_survives_shortage)
    {
        static const struct pool_options wrong[] = {
            {.budget_bytes = 0, .reserve_bytes = GRANULE},
            {.budget_bytes = GRANULE + 1, .reserve_bytes = 2 * GRANULE},
            {.budget_bytes = GRANULE, .reserve_bytes = GRANULE + 4096},
            {.budget_bytes = 2 * GRANULE, .reserve_bytes = GRANULE},
        };
        struct pool *pool = NULL;
        struct error error;
        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
            ck_assert_int_eq(pool_create(&wrong[i], &pool, &error), ST_INVALID);
        }
        struct pool_options options = {
            .budget_bytes = 4 * GRANULE, .reserve_bytes = 8 * GRANULE, .prefault = true};
        static const enum fault_point points[] = {FAULT_HEAP, FAULT_MMAP, FAULT_THREAD};
        for (size_t i = 0; i < 3; i++) {
            for (int64_t n = 0;; n++) {
                fault_set(points[i], n, 1);
                int status = pool_create(&options, &pool, &error);
                bool fired = fault_fired(points[i]) > 0;
                fault_clear();
                ck_assert_int_eq(status, fired ? ST_NO_MEMORY : ST_OK);
                if (status == ST_OK) {
                    pool_destroy(pool);
                    break;
                }
            }
        }
        pool = make_pool(&options);
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_int_eq(pool_commit(pool, 0, GRANULE, &error), ST_NO_MEMORY);
        fault_clear();
        fault_set(FAULT_HEAP, 0, 1); /* not remembered for the thread, but usable */
        ck_assert_int_eq(pool_commit(pool, 0, GRANULE, &error), ST_OK);
        fault_clear();
        ck_assert(all_zero(pool_address(pool, 0), GRANULE));
        pool_destroy(pool);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

START_TEST(default_budget_is_sane)
    {
        uint64_t budget = pool_default_budget(0);
        ck_assert_uint_ge(budget, (uint64_t)64 << 20);
        ck_assert_uint_eq(budget % GRANULE, 0);
        ck_assert_uint_eq(pool_default_budget(((uint64_t)65 << 20) + 1), (uint64_t)64 << 20);
        ck_assert_uint_eq(pool_default_budget(1), (uint64_t)64 << 20);
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("pool");
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, commits_and_gives_back, 0, 2);
    tcase_add_test(tcase, touches_in_the_background);
    tcase_add_test(tcase, children_do_not_inherit_it);
    tcase_add_test(tcase, explicit_huge_pages_are_given_or_refused);
    tcase_add_test(tcase, refuses_nonsense_and_survives_shortage);
    tcase_add_test(tcase, default_budget_is_sane);
    Suite *suite = suite_create("pool");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
