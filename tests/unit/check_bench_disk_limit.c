/* What fio prints, and programs in its place: made up, since no test may depend on a device. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/status.h"
#include "client/cli/bench_disk_limit.h"
#include "tests/lib/check_main.h"

enum { PATH_BYTES = 128 };

static const double close_enough = 1e-6;
static char folder[PATH_BYTES / 2];
static char program[PATH_BYTES];
static char work[PATH_BYTES];

static const char two_jobs[] =
    "fio: a message before\n"
    "{\n"
    "  \"fio version\" : \"fio-3.33\",\n"
    "  \"jobs\" : [\n"
    "    {\"error\": 0, \"read\": {\"io_bytes\": 1000000, \"runtime\": 500},\n"
    "     \"write\": {\"io_bytes\": 4000000, \"runtime\": 800},\n"
    "     \"job_runtime\": 2000, \"usr_cpu\": 1.5, \"sys_cpu\": 8.5},\n"
    "    {\"error\": 0, \"read\": {\"io_bytes\": 2000000, \"runtime\": 1000},\n"
    "     \"write\": {\"io_bytes\": 4000000, \"runtime\": 400},\n"
    "     \"job_runtime\": 1000, \"usr_cpu\": 0, \"sys_cpu\": 10}\n"
    "  ]\n"
    "}\n"
    "and one behind\n";

static int parse(const char *text, bool write, struct bench_disk_result *result,
                 struct error *error)
{
    return bench_disk_limit_parse(text, strlen(text), write, result, error);
}

START_TEST(jobs_are_summed)
    {
        struct bench_disk_result result = {0};
        ck_assert_int_eq(parse(two_jobs, false, &result, NULL), ST_OK);
        ck_assert_uint_eq(result.bytes, 3000000);
        ck_assert_double_eq_tol(result.bytes_per_s, 3e6, close_enough); /* over the longest run */
        ck_assert_double_eq_tol(result.cpu_s, 0.3, close_enough);
        ck_assert_int_eq(parse(two_jobs, true, &result, NULL), ST_OK);
        ck_assert_double_eq_tol(result.bytes_per_s, 1e7, close_enough);
    }
END_TEST

START_TEST(anything_else_is_an_error)
    {
        static const struct {
            const char *text;
            int status;
            const char *says;
        } cases[] = {
            {"", ST_IO, "no result"},
            {"fio: engine io_uring not loadable\nfio: failed", ST_IO, "not loadable"},
            {"{", ST_IO, "no result"},
            {"[1, 2]", ST_IO, "no result"},
            {"{\"jobs\": 3}", ST_IO, "no result"},
            {"{\"jobs\": []}", ST_IO, "no result"},
            {"{\"jobs\": [7]}", ST_IO, "no bytes"},
            {"{\"jobs\": [{\"error\": 0, \"read\": \"x\"}]}", ST_IO, "no bytes"},
            {"{\"jobs\": [{\"error\": 28}]}", ST_NO_SPACE, "No space"},
            {"{\"jobs\": [{\"error\": 5}]}", ST_IO, "Input/output"},
            {"{\"jobs\": [{\"error\": 0, \"read\": {\"io_bytes\": -5, \"runtime\": 9}}]}", ST_IO,
             "no bytes"},
            {"{\"jobs\": [{\"error\": 0, \"read\": {\"io_bytes\": 4096, \"runtime\": 0}}]}", ST_IO,
             "within a millisecond"},
        };
        for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
            struct bench_disk_result result = {0};
            struct error error = {0};
            ck_assert_int_eq(parse(cases[i].text, false, &result, &error), cases[i].status);
            ck_assert_msg(strstr(error.text, cases[i].says) != NULL, "%d: %s", (int)i, error.text);
        }
        for (size_t cut = 0; cut < sizeof two_jobs - sizeof "\nand one behind\n"; cut++) {
            struct bench_disk_result result = {0};
            ck_assert_int_eq(bench_disk_limit_parse(two_jobs, cut, false, &result, NULL), ST_IO);
        }
    }
END_TEST

/* ---- programs in fio's place ----------------------------------------------------------------- */

static void setup(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/kveik-limit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(program, sizeof program, "%s/fio", folder);
    (void)snprintf(work, sizeof work, "%s/work", folder);
    ck_assert_int_eq(mkdir(work, 0700), 0);
}

static void teardown(void)
{
    ck_assert_int_eq(rmdir(work), 0); /* nothing was left there */
    (void)unlink(program);
    ck_assert_int_eq(rmdir(folder), 0);
    ck_assert_int_eq(heap_outstanding(), 0);
}

static void pretend(const char *script)
{
    FILE *file = fopen(program, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_gt(fprintf(file, "#!/bin/sh\n%s\n", script), 0);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(chmod(program, 0700), 0);
}

#define GOOD                                                                                       \
    "side='{\"io_bytes\": 8388608, \"runtime\": 100}'\n"                                           \
    "echo \"{\\\"jobs\\\": [{\\\"error\\\": 0, \\\"read\\\": $side, \\\"write\\\": $side}]}\""

START_TEST(the_first_engine_that_works_is_taken)
    {
        struct bench_disk_limit limit;
        struct bench_disk_result result;
        struct error error = {0};
        struct bench_disk_job job = {.block_bytes = 65536, .depth = 4, .total_bytes = 8 << 20};
        pretend(
            "case \"$*\" in *--ioengine=io_uring*) echo 'no io_uring'; exit 1;; esac\n"
            "case \"$*\" in *--direct=1*) ;; *) exit 1;; esac\n"
            "for word; do case $word in --filename=*) printf x >>${word#*=};; esac; done\n" GOOD);
        ck_assert_int_eq(bench_disk_limit_init(&limit, work, program, &error), ST_OK);
        ck_assert_str_eq(limit.engine, "libaio");
        struct stat info;
        ck_assert_int_eq(fstat(limit.fd, &info), 0);
        ck_assert_int_eq(info.st_size, 1); /* the file without a name was reached */
        ck_assert_uint_eq(info.st_nlink, 0);
        ck_assert_int_eq(bench_disk_limit_write(&limit, &job, &result, &error), ST_OK);
        ck_assert_int_eq(bench_disk_limit_read(&limit, &job, &result, &error), ST_OK);
        ck_assert_double_eq_tol(result.bytes_per_s, 83886080, close_enough);
        ck_assert_int_eq(fstat(limit.fd, &info), 0);
        ck_assert_int_eq(info.st_size, 2); /* read where it was written */
        static const struct bench_disk_job wrong[] = {
            {.block_bytes = 0, .depth = 1, .total_bytes = 1 << 20},
            {.block_bytes = 1000, .depth = 1, .total_bytes = 1 << 20},
            {.block_bytes = 4096, .depth = 0, .total_bytes = 1 << 20},
            {.block_bytes = 4096, .depth = 5000, .total_bytes = 1 << 20},
            {.block_bytes = 4096, .depth = 1, .total_bytes = 4095},
        };
        for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
            ck_assert_int_eq(bench_disk_limit_write(&limit, &wrong[i], &result, &error),
                             ST_INVALID);
            ck_assert_int_eq(bench_disk_limit_read(&limit, &wrong[i], &result, &error), ST_INVALID);
        }
        bench_disk_limit_finish(&limit);
    }
END_TEST

START_TEST(failures_say_what_to_do)
    {
        struct bench_disk_limit limit;
        struct error error = {0};
        ck_assert_int_eq(bench_disk_limit_init(&limit, work, "/nowhere/fio", &error),
                         ST_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(error.text, "apt-get install fio"));
        bench_disk_limit_finish(&limit);
        pretend("echo 'fio: direct is refused here'; exit 1");
        ck_assert_int_eq(bench_disk_limit_init(&limit, work, program, &error), ST_IO);
        ck_assert_ptr_nonnull(strstr(error.text, "direct is refused here"));
        bench_disk_limit_finish(&limit);
        ck_assert_int_eq(bench_disk_limit_init(&limit, "/nowhere", program, &error), ST_IO);
        bench_disk_limit_finish(&limit);
        pretend(GOOD "\nexit 3");
        ck_assert_int_eq(bench_disk_limit_init(&limit, work, program, &error), ST_IO);
        ck_assert_ptr_nonnull(strstr(error.text, "status 3"));
        bench_disk_limit_finish(&limit);
    }
END_TEST

START_TEST(what_does_not_end_is_ended)
    {
        struct bench_disk_limit limit;
        struct bench_disk_result result;
        struct error error = {0};
        struct bench_disk_job job = {
            .block_bytes = 4096, .depth = 1, .total_bytes = 1 << 20, .timeout_s = 1};
        pretend(GOOD);
        ck_assert_int_eq(bench_disk_limit_init(&limit, work, program, &error), ST_OK);
        pretend("exec sleep 100");
        uint64_t began_ms = clock_ms();
        ck_assert_int_eq(bench_disk_limit_write(&limit, &job, &result, &error), ST_DEADLINE);
        pretend("exec yes"); /* prints without end */
        ck_assert_int_eq(bench_disk_limit_write(&limit, &job, &result, &error), ST_DEADLINE);
        ck_assert_uint_lt(clock_ms() - began_ms, 30000);
        bench_disk_limit_finish(&limit);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {jobs_are_summed, anything_else_is_an_error,
                                  the_first_engine_that_works_is_taken, failures_say_what_to_do,
                                  what_does_not_end_is_ended};
    struct check_suite suite = {.name = "bench_disk_limit",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
