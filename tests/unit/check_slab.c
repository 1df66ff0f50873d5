#include "base/fault.h"
#include "base/status.h"
#include "daemon/core/slab.h"
#include "tests/lib/unit.h"

START_TEST(refuses_nonsense)
    {
        struct slabs slabs;
        ck_assert_int_eq(slabs_init(&slabs, 65536, 0), ST_INVALID);
        ck_assert_int_eq(slabs_init(&slabs, 65536, 5000), ST_INVALID);
        ck_assert_int_eq(slabs_init(&slabs, 65536 + 1, 4096), ST_INVALID);
        ck_assert_int_eq(slabs_init(&slabs, UINT64_MAX / 4096 * 4096, 4096), ST_INVALID);
        ck_assert_int_eq(slabs_init(&slabs, 65536, 4096), ST_OK);
        /* sizes that round to 0 once matched a class that nobody used */
        ck_assert_uint_eq(slabs_class_take(&slabs, 0), NONE);
        ck_assert_uint_eq(slabs_class_take(&slabs, UINT64_MAX), NONE);
        ck_assert_uint_eq(slabs_class_take(&slabs, UINT64_MAX - 4000), NONE);
        ck_assert_uint_eq(slabs_class_take(&slabs, 65537), NONE);
        slabs_finish(&slabs);
    }
END_TEST

START_TEST(rounds_and_places)
    {
        ck_assert_uint_eq(slab_slot_bytes(1), 512);
        ck_assert_uint_eq(slab_slot_bytes(16384), 16384);
        ck_assert_uint_eq(slab_slot_bytes(16385), 20480);
        struct slabs slabs;
        ck_assert_int_eq(slabs_init(&slabs, 1 << 20, 4096), ST_OK);
        for (uint64_t bytes = 1; bytes < 1 << 19; bytes = bytes * 5 / 4 + 37) {
            uint32_t class = slabs_class_take(&slabs, bytes);
            ck_assert_uint_ne(class, NONE);
            const struct slab_class *c = &slabs.classes[class];
            ck_assert_uint_ge(c->slab_slots, 1);
            ck_assert_uint_le(c->slab_slots * c->slot_bytes, c->slab_bytes);
            ck_assert_uint_le(c->slab_bytes, slabs.budget_bytes);
            slabs_class_give(&slabs, class);
            ck_assert_uint_eq(c->slot_bytes, 0);
        }
        slabs_finish(&slabs);
    }
END_TEST

START_TEST(takes_gives_and_hands_over)
    {
        struct slabs slabs;
        uint64_t offset = 0;
        ck_assert_int_eq(slabs_init(&slabs, 8192, 4096), ST_OK);
        uint32_t small = slabs_class_take(&slabs, 512);
        uint32_t large = slabs_class_take(&slabs, 4096);
        ck_assert_uint_eq(slabs_slot_take(&slabs, small), NONE);
        ck_assert(slabs_grow(&slabs, small, &offset));
        ck_assert(slabs_grow(&slabs, small, &offset));
        ck_assert(!slabs_fits(&slabs, large));
        ck_assert(!slabs_grow(&slabs, large, &offset));
        uint32_t slots[16];
        for (uint32_t i = 0; i < 16; i++) {
            slots[i] = slabs_slot_take(&slabs, small);
            ck_assert_uint_lt(slots[i], 16);
            slabs_slot_fill(&slabs, small, slots[i], 100 + i);
            for (uint32_t k = 0; k < i; k++) {
                ck_assert_uint_ne(slots[i], slots[k]);
            }
        }
        ck_assert_uint_eq(slabs_slot_take(&slabs, small), NONE);
        struct slab_place place;
        ck_assert(!slabs_find_empty(&slabs, large, &place));
        for (uint32_t i = 0; i < 8; i++) {
            ck_assert(slabs_slot_give(&slabs, small, slots[i]) == (i == 7));
        }
        ck_assert(!slabs_find_empty(&slabs, small, &place));
        ck_assert(slabs_find_empty(&slabs, large, &place));
        slabs_shrink(&slabs, place.class, place.slab, &offset);
        ck_assert(slabs_grow(&slabs, large, &offset));
        ck_assert_uint_eq(slabs.committed_bytes, 8192);
        slabs_finish(&slabs);
    }
END_TEST

START_TEST(prefers_slabs_in_use_to_empty_ones)
    {
        struct slabs slabs;
        uint64_t offset = 0;
        ck_assert_int_eq(slabs_init(&slabs, 8192, 4096), ST_OK);
        uint32_t class = slabs_class_take(&slabs, 2048);
        ck_assert(slabs_grow(&slabs, class, &offset));
        uint32_t first = slabs_slot_take(&slabs, class);
        ck_assert(slabs_grow(&slabs, class, &offset));
        uint32_t second = slabs_slot_take(&slabs, class);
        ck_assert_uint_eq(slab_of(&slabs.classes[class], first),
                          slab_of(&slabs.classes[class], second));
        slabs_finish(&slabs);
    }
END_TEST

START_TEST(broken_slabs_take_nothing_more)
    {
        struct slabs slabs;
        uint64_t offset = 0;
        uint64_t gone = 0;
        struct slab_place place;
        ck_assert_int_eq(slabs_init(&slabs, 8192, 4096), ST_OK);
        uint32_t class = slabs_class_take(&slabs, 1024);
        ck_assert(slabs_grow(&slabs, class, &offset));
        uint32_t slot = slabs_slot_take(&slabs, class);
        ck_assert(!slabs_break(&slabs, offset, &place));
        ck_assert(!slabs_break(&slabs, offset, &place)); /* said twice */
        ck_assert_uint_eq(slabs_slot_take(&slabs, class), NONE);
        ck_assert(slabs_slot_give(&slabs, class, slot));
        slabs_shrink(&slabs, class, 0, &gone);
        ck_assert_uint_eq(gone, offset);
        /* no such slab any more, or never */
        ck_assert(!slabs_break(&slabs, offset, &place));
        ck_assert(!slabs_break(&slabs, UINT64_MAX, &place));
        /* empty already: it can go at once */
        ck_assert(slabs_grow(&slabs, class, &offset));
        ck_assert(slabs_break(&slabs, offset, &place));
        slabs_shrink(&slabs, place.class, place.slab, &gone);
        ck_assert_uint_eq(slabs.committed_bytes, 0);
        slabs_finish(&slabs);
    }
END_TEST

START_TEST(survives_shortage)
    {
        struct slabs slabs;
        uint64_t offset = 0;
        ck_assert_int_eq(slabs_init(&slabs, 8192, 4096), ST_OK);
        for (int n = 0; n < 2; n++) {
            fault_set(FAULT_MMAP, n, 1);
            ck_assert_uint_eq(slabs_class_take(&slabs, 512), NONE);
            fault_clear();
        }
        uint32_t class = slabs_class_take(&slabs, 512);
        for (int n = 0; n < 2; n++) {
            fault_set(FAULT_MMAP, n, 1);
            ck_assert(!slabs_grow(&slabs, class, &offset));
            fault_clear();
        }
        ck_assert_uint_eq(slabs.committed_bytes, 0);
        ck_assert(slabs_grow(&slabs, class, &offset));
        slabs_finish(&slabs);
    }
END_TEST

UNIT_MAIN("slab", refuses_nonsense, rounds_and_places, takes_gives_and_hands_over,
          prefers_slabs_in_use_to_empty_ones, broken_slabs_take_nothing_more, survives_shortage)
