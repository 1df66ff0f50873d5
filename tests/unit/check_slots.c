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

UNIT_MAIN("slots", takes_zeroed_and_reuses, survives_shortage)
