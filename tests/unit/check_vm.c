#include <check.h>

#include "base/fault.h"
#include "base/status.h"
#include "base/vm.h"
#include "tests/lib/check_main.h"

START_TEST(grows_in_place)
    {
        struct vm_array array = {0};
        ck_assert_int_eq(vm_array_init(&array, 24, 1000000), ST_OK);
        char *base = array.base;
        ck_assert_int_eq(vm_array_commit(&array, 1), ST_OK);
        base[0] = 1;
        ck_assert_int_eq(vm_array_commit(&array, 1000000), ST_OK);
        ck_assert_ptr_eq(array.base, base);
        ck_assert_int_eq(base[0], 1);
        ck_assert_int_eq(base[24 * 1000000 - 1], 0);
        ck_assert_int_eq(vm_array_commit(&array, 1000001), ST_LIMIT);
        vm_array_finish(&array);
        vm_array_finish(&array);
    }
END_TEST

START_TEST(refuses_nonsense_and_survives_shortage)
    {
        struct vm_array array = {0};
        ck_assert_int_eq(vm_array_init(&array, 0, 10), ST_INVALID);
        ck_assert_int_eq(vm_array_init(&array, 64, UINT64_MAX / 2), ST_INVALID);
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_int_eq(vm_array_init(&array, 64, 10), ST_NO_MEMORY);
        fault_clear();
        ck_assert_int_eq(vm_array_init(&array, 64, 100000), ST_OK);
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_int_eq(vm_array_commit(&array, 100000), ST_NO_MEMORY);
        ck_assert_int_eq(vm_array_commit(&array, 100000), ST_OK);
        fault_clear();
        vm_array_finish(&array);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {grows_in_place, refuses_nonsense_and_survives_shortage};
    return check_main("vm", tests, ARRAY_COUNT(tests));
}
