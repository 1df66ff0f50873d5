#include "base/fault.h"
#include "base/status.h"
#include "daemon/core/slots.h"
#include "tests/lib/unit.h"

START_TEST(takes_zeroed_and_reuses)
    {
        struct slots slots;
        ck_assert_int_eq(slots_init(&slots, 24, 3), ST_OK);
        uint32_t a = slots_take(&slots);
        uint32_t b = slots_take(&slots);
        ck_assert_uint_ne(a, b);
        *(uint64_t *)slots_at(&slots, b) = 7;
        slots_give(&slots, b);
        ck_assert_uint_eq(slots_take(&slots), b);
        ck_assert_uint_eq(*(uint64_t *)slots_at(&slots, b), 0);
        ck_assert_uint_ne(slots_take(&slots), NONE);
        ck_assert_uint_eq(slots.used, 3);
        ck_assert_uint_eq(slots_take(&slots), NONE);
        slots_give(&slots, a);
        ck_assert_uint_eq(slots_take(&slots), a);
        slots_finish(&slots);
    }
END_TEST

START_TEST(survives_shortage)
    {
        struct slots slots;
        ck_assert_int_eq(slots_init(&slots, 4096, 1000), ST_OK);
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_uint_eq(slots_take(&slots), NONE);
        fault_clear();
        ck_assert_uint_eq(slots.used, 0);
        ck_assert_uint_eq(slots_take(&slots), 0);
        slots_finish(&slots);
    }
END_TEST

/* Numbers taken by name, in any order, beside others: none twice, none lost. */
START_TEST(takes_by_number)
    {
        struct slots slots;
        ck_assert_int_eq(slots_init(&slots, 16, 8), ST_OK);
        ck_assert_int_eq(slots_take_at(&slots, 5), ST_OK);
        ck_assert_uint_eq(slots.used, 1);
        ck_assert_int_eq(slots_take_at(&slots, 2), ST_OK);
        ck_assert_int_eq(slots_take_at(&slots, 8), ST_LIMIT);
        ck_assert_int_eq(slots_take_at(&slots, 6), ST_OK);
        ck_assert_int_eq(slots_take_at(&slots, 0), ST_OK);
        ck_assert_uint_eq(slots.used, 4);
        uint32_t seen = 1u << 5 | 1u << 2 | 1u << 6 | 1u << 0;
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t number = slots_take(&slots);
            ck_assert_uint_lt(number, 8);
            ck_assert_uint_eq(seen & 1u << number, 0);
            seen |= 1u << number;
        }
        ck_assert_uint_eq(slots_take(&slots), NONE);
        slots_give(&slots, 3);
        slots_give(&slots, 7);
        ck_assert_int_eq(slots_take_at(&slots, 3), ST_OK);
        ck_assert_uint_eq(slots_take(&slots), 7);
        slots_finish(&slots);
        ck_assert_int_eq(slots_init(&slots, 4096, 100), ST_OK);
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_int_eq(slots_take_at(&slots, 50), ST_NO_MEMORY);
        fault_clear();
        ck_assert_uint_eq(slots.used, 0);
        ck_assert_uint_eq(slots_take(&slots), 0);
        slots_finish(&slots);
    }
END_TEST

UNIT_MAIN("slots", takes_zeroed_and_reuses, survives_shortage, takes_by_number)
