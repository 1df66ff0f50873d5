#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <check.h>

#include "storage/cpu/limits.h"

enum { MIB = 1 << 20 };

static char root[64];

/* Writes root/path, making its folders. */
static void put(const char *path, const char *text)
{
    char name[512];
    (void)snprintf(name, sizeof name, "%s%s", root, path);
    for (char *slash = strchr(name + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(name, 0700);
        *slash = '/';
    }
    FILE *file = fopen(name, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

static void setup(void)
{
    (void)snprintf(root, sizeof root, "/tmp/kveik-limits-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    put("/proc/meminfo", "MemTotal:       9000000 kB\nMemAvailable:    1048576 kB\n");
}

static int remove_entry(const char *path, const struct stat *stat, int type, struct FTW *walk)
{
    (void)stat;
    (void)type;
    (void)walk;
    return remove(path);
}

static void teardown(void)
{
    /* one thread here: NOLINTNEXTLINE(concurrency-mt-unsafe) */
    ck_assert_int_eq(nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

START_TEST(machine_without_groups)
    {
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)1024 * MIB);
        ck_assert_uint_eq(limits_available_bytes("/nonexistent"), 0);
    }
END_TEST

START_TEST(version_2_takes_the_tightest_parent)
    {
        put("/proc/self/mountinfo",
            "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
        put("/proc/self/cgroup", "0::/system/kveik/inner\n");
        put("/sys/fs/cgroup/system/kveik/inner/memory.max", "max\n");
        put("/sys/fs/cgroup/system/kveik/memory.max", "536870912\n");     /* 512 MiB */
        put("/sys/fs/cgroup/system/kveik/memory.current", "314572800\n"); /* 300 MiB used */
        put("/sys/fs/cgroup/system/kveik/memory.stat",
            "anon 1\ninactive_anon 7\ninactive_file 104857600\n"); /* 100 of it cache */
        put("/sys/fs/cgroup/system/memory.max", "838860800\n");
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)312 * MIB);
        put("/sys/fs/cgroup/system/memory.max", "209715200\n"); /* the parent is tighter */
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)200 * MIB);
        put("/sys/fs/cgroup/system/memory.current", "999999999\n"); /* over its limit */
        ck_assert_uint_eq(limits_available_bytes(root), 0);
    }
END_TEST

START_TEST(version_1_beside_an_empty_version_2)
    {
        put("/proc/self/mountinfo",
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
            "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
        put("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/a/b\n1:cpu:/\n0::/\n");
        put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "268435456\n");
        put("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "134217728\n");
        put("/sys/fs/cgroup/memory/a/memory.stat",
            "inactive_file 1048576\ntotal_inactive_file 33554432\n");
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)160 * MIB);
    }
END_TEST

START_TEST(container_sees_its_group_as_the_top)
    {
        put("/proc/self/mountinfo",
            "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
        put("/proc/self/cgroup", "4:memory:/docker/abc\n");
        put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n");
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)128 * MIB);
        put("/proc/self/cgroup", "4:memory:/somewhere/else\n");
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)128 * MIB);
        put("/proc/self/cgroup", "4:memory:/docker/abc/sub\n");
        put("/sys/fs/cgroup/memory/sub/memory.limit_in_bytes", "67108864\n");
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)64 * MIB);
    }
END_TEST

START_TEST(damaged_files_are_no_limit)
    {
        put("/proc/self/mountinfo", "29\n\n29 23 0:26 / /cg rw - cgroup2\n"
                                    "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n");
        put("/proc/self/cgroup", "no colons\n0:\n0::/x\n");
        put("/cg/x/memory.max", "");
        put("/cg/memory.max", "twelve\n");
        ck_assert_uint_eq(limits_available_bytes(root), (uint64_t)1024 * MIB);
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("limits");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, machine_without_groups);
    tcase_add_test(tcase, version_2_takes_the_tightest_parent);
    tcase_add_test(tcase, version_1_beside_an_empty_version_2);
    tcase_add_test(tcase, container_sees_its_group_as_the_top);
    tcase_add_test(tcase, damaged_files_are_no_limit);
    Suite *suite = suite_create("limits");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
