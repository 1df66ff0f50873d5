#include <string.h>

#include "base/rng.h"
#include "base/status.h"
#include "storage/cpu/pool.h"
#include "storage/disk/seal.h"
#include "tests/lib/unit.h"

/* What is on disk and in memory has one checksum: either tells whether the other's copy is good. */
START_TEST(is_the_disks)
    {
        struct pool_options options = {.budget_bytes = POOL_GRANULE_BYTES,
                                       .reserve_bytes = (uint64_t)4 * POOL_GRANULE_BYTES};
        struct pool *pool = NULL;
        ck_assert_int_eq(pool_create(&options, &pool, NULL), ST_OK);
        ck_assert_int_eq(pool_commit(pool, POOL_GRANULE_BYTES, POOL_GRANULE_BYTES, NULL), ST_OK);
        char *at = pool_address(pool, POOL_GRANULE_BYTES);
        struct rng rng = {5};
        for (uint32_t i = 0; i < 100000; i++) {
            at[i] = (char)rng_next(&rng);
        }
        static const uint64_t sizes[] = {1, 16, 17, 240, 241, 4096, 99999};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            uint64_t seal = 0;
            uint64_t other = 0;
            ck_assert_int_eq(pool_seal(pool, POOL_GRANULE_BYTES, sizes[i], &seal), ST_OK);
            ck_assert_uint_eq(seal, seal_of(at, sizes[i]));
            ck_assert_uint_eq(seal >> POOL_SEAL_BITS, 0);
            at[sizes[i] / 2] ^= 8;
            ck_assert_int_eq(pool_seal(pool, POOL_GRANULE_BYTES, sizes[i], &other), ST_OK);
            ck_assert_uint_ne(seal, other);
        }
        pool_destroy(pool);
    }
END_TEST

UNIT_MAIN("pool_seal", is_the_disks)
