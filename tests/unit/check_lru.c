#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 1, 1};
static const struct core_ranges whole = {0, 1, 0, 1};

/* Many shapes in several spaces and tenants: the oldest of each is what a walk over all finds. */
START_TEST(the_oldest_among_many_lists)
    {
        enum { SHAPES = 24, STEPS = 3000 };
        struct core_limits limits = fixture_limits();
        limits.pool_bytes = 1 << 20;
        fixture_open(&f, &limits);
        uint32_t shapes[SHAPES];
        uint32_t owner[SHAPES];
        for (uint32_t i = 0; i < SHAPES; i++) {
            owner[i] = i % 3;
            if (i < 3) {
                (void)fixture_session(&f, i, "a", i);
            }
            uint32_t space = fixture_space(&f, owner[i], (uint8_t)(1 + i / 3 % 2), &group, 1);
            shapes[i] = fixture_shape(&f, owner[i], space, 0, 1, whole, 512 * (1 + i % 4));
            ck_assert_uint_ne(shapes[i], NONE);
        }
        struct rng rng = {5};
        for (uint32_t step = 0; step < STEPS; step++) {
            uint32_t s = (uint32_t)rng_below(&rng, SHAPES);
            if (rng_below(&rng, 3) == 0) {
                fixture_store(&f, owner[s], shapes[s], step * 4, 1 + step % 3);
            } else if (shape_at(f.core, shapes[s])->lru_old != NONE) {
                part_touch(f.core, shape_at(f.core, shapes[s])->lru_old);
            }
            uint32_t oldest = NONE;
            uint32_t of_class = NONE;
            uint32_t of_tenant = NONE;
            uint32_t class = shape_at(f.core, shapes[s])->class;
            for (uint32_t p = 0; p < f.core->parts.high; p++) {
                const struct part *part = part_at(f.core, p);
                if (part->state != PART_READY) {
                    continue;
                }
                uint64_t tick = part->tick;
                const struct shape *shape = shape_at(f.core, part->shape);
                bool in_class = shape->class == class;
                bool in_tenant = space_at(f.core, shape->space)->tenant == owner[s];
                oldest = oldest == NONE || tick < part_at(f.core, oldest)->tick ? p : oldest;
                if (in_class && (of_class == NONE || tick < part_at(f.core, of_class)->tick)) {
                    of_class = p;
                }
                if (in_tenant && (of_tenant == NONE || tick < part_at(f.core, of_tenant)->tick)) {
                    of_tenant = p;
                }
            }
            ck_assert_uint_eq(lru_oldest(f.core), oldest);
            ck_assert_uint_eq(lru_oldest_of_class(f.core, class), of_class);
            ck_assert_uint_eq(lru_oldest_of_tenant(f.core, owner[s]), of_tenant);
        }
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("lru", the_oldest_among_many_lists)
