#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/heap.h"
#include "storage/disk/kinds.h"
#include "tests/lib/check_main.h"

static struct disk_kind kind_of(const char *space, const char *form)
{
    return (struct disk_kind){.space = (const uint8_t *)space,
                              .space_bytes = (uint32_t)strlen(space),
                              .form = (const uint8_t *)form,
                              .form_bytes = (uint32_t)strlen(form)};
}

START_TEST(equal_kinds_have_one_number)
    {
        struct kinds kinds;
        uint32_t numbers[4] = {0};
        struct disk_kind all[] = {kind_of("ab", "c"), kind_of("a", "bc"), kind_of("", "abc"),
                                  kind_of("", "")};
        ck_assert_int_eq(kinds_init(&kinds), ST_OK);
        for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
            ck_assert_int_eq(kinds_number(&kinds, &all[i], &numbers[i]), ST_OK);
            for (size_t j = 0; j < i; j++) {
                ck_assert_uint_ne(numbers[i], numbers[j]);
            }
        }
        for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
            uint32_t again = 0;
            ck_assert_int_eq(kinds_number(&kinds, &all[i], &again), ST_OK);
            ck_assert_uint_eq(again, numbers[i]);
            ck_assert_uint_eq(kinds_get(&kinds, again)->kind.form_bytes, all[i].form_bytes);
        }
        ck_assert_ptr_null(kinds_get(&kinds, 4));
        kinds_drop(&kinds, numbers[1]);
        ck_assert_ptr_null(kinds_get(&kinds, numbers[1]));
        struct disk_kind other = kind_of("new", "new");
        uint32_t number = 99;
        ck_assert_int_eq(kinds_number(&kinds, &other, &number), ST_OK);
        ck_assert_uint_eq(number, numbers[1]);
        kinds_finish(&kinds);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

START_TEST(limits_hold)
    {
        struct kinds kinds;
        char name[16];
        uint32_t number = 0;
        ck_assert_int_eq(kinds_init(&kinds), ST_OK);
        struct disk_kind kind = kind_of("x", "y");
        kind.space_bytes = DISK_BLOB_MAX + 1;
        ck_assert_int_eq(kinds_number(&kinds, &kind, &number), ST_INVALID);
        for (uint32_t i = 0; i < KINDS_MAX; i++) {
            (void)snprintf(name, sizeof name, "%u", i);
            kind = kind_of(name, "");
            ck_assert_int_eq(kinds_number(&kinds, &kind, &number), ST_OK);
        }
        kind = kind_of("one more", "");
        ck_assert_int_eq(kinds_number(&kinds, &kind, &number), ST_LIMIT);
        kinds_finish(&kinds);
    }
END_TEST

START_TEST(numbers_of_the_catalogue_are_checked)
    {
        struct kinds kinds;
        struct disk_kind one = kind_of("one", "");
        struct disk_kind two = kind_of("two", "");
        uint32_t number = 0;
        ck_assert_int_eq(kinds_init(&kinds), ST_OK);
        ck_assert_int_eq(kinds_put(&kinds, 7, &one), ST_OK);
        ck_assert(kinds_get(&kinds, 7)->stored);
        ck_assert_int_eq(kinds_put(&kinds, 7, &two), ST_CORRUPT);
        ck_assert_int_eq(kinds_put(&kinds, 8, &one), ST_CORRUPT);
        ck_assert_int_eq(kinds_put(&kinds, KINDS_MAX, &two), ST_CORRUPT);
        ck_assert_int_eq(kinds_number(&kinds, &two, &number), ST_OK);
        ck_assert_uint_eq(number, 0);
        ck_assert(!kinds_get(&kinds, 0)->stored);
        fault_set(FAULT_HEAP, 0, 1);
        struct disk_kind three = kind_of("three", "");
        ck_assert_int_eq(kinds_number(&kinds, &three, &number), ST_NO_MEMORY);
        fault_clear();
        kinds_finish(&kinds);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {equal_kinds_have_one_number, limits_hold,
                                  numbers_of_the_catalogue_are_checked};
    return check_main("kinds", tests, ARRAY_COUNT(tests));
}
