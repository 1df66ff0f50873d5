#include "base/fault.h"
#include "client/lib/client.h"
#include "tests/lib/check_main.h"

START_TEST(handles_are_not_mistaken_for_their_successors)
    {
        struct handles table;
        int status = ST_OK;
        int items[3];
        handles_init(&table, 100);
        uint32_t first = handles_add(&table, &items[0], &status);
        uint32_t second = handles_add(&table, &items[1], &status);
        ck_assert_uint_ne(first, 0);
        ck_assert_uint_ne(first, second);
        ck_assert_ptr_eq(handles_get(&table, first), &items[0]);
        handles_remove(&table, first);
        ck_assert_ptr_null(handles_get(&table, first));
        uint32_t third = handles_add(&table, &items[2], &status);
        ck_assert_uint_eq(handles_slot(third), handles_slot(first));
        ck_assert_ptr_null(handles_get(&table, first));
        ck_assert_ptr_eq(handles_get(&table, third), &items[2]);
        ck_assert_ptr_null(handles_get(&table, 0));
        ck_assert_ptr_null(handles_get(&table, UINT32_MAX));
        handles_finish(&table);
    }
END_TEST

START_TEST(the_limit_and_shortages_are_told)
    {
        struct handles table;
        int status = ST_OK;
        int item = 0;
        handles_init(&table, 20);
        for (int64_t n = 0; n < 2; n++) {
            fault_set(FAULT_HEAP, n, 1);
            ck_assert_uint_eq(handles_add(&table, &item, &status), 0);
            ck_assert_int_eq(status, ST_NO_MEMORY);
            fault_clear();
        }
        for (int i = 0; i < 20; i++) {
            ck_assert_uint_ne(handles_add(&table, &item, &status), 0);
        }
        ck_assert_uint_eq(handles_add(&table, &item, &status), 0);
        ck_assert_int_eq(status, ST_LIMIT);
        handles_finish(&table);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {handles_are_not_mistaken_for_their_successors,
                                  the_limit_and_shortages_are_told};
    return check_main("handles", tests, ARRAY_COUNT(tests));
}
