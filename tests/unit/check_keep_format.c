#include <string.h>

#include "base/assert.h"
#include "base/rng.h"
#include "daemon/server/keep_format.h"
#include "tests/lib/unit.h"

static uint8_t keys[BLOCK_GRAINS_MAX * CORE_KEY_BYTES];
static uint8_t bytes[KEEP_RECORD_BYTES_MAX];

static struct keep_record part_of(uint32_t grains, bool every)
{
    return (struct keep_record){.kind = KEEP_PART,
                                .u.part = {.shape = 77,
                                           .keys = keys,
                                           .key_count = every ? grains : 1,
                                           .grains = grains,
                                           .tail_tokens = 1 + grains % GRAIN_TOKENS,
                                           .parent = grains % 2 == 0 ? keys + 32 : NULL,
                                           .origin = keys + 7,
                                           .origin_bytes = grains % (CORE_INSTANCE_MAX + 1),
                                           .offset = UINT64_C(0x123456789abc),
                                           .seal = UINT64_C(0xfedcba987654)}};
}

static void expect_part(const struct core_kept_part *a, const struct core_kept_part *b)
{
    ck_assert_uint_eq(a->shape, b->shape);
    ck_assert_uint_eq(a->key_count, b->key_count);
    ck_assert_uint_eq(a->grains, b->grains);
    ck_assert_uint_eq(a->tail_tokens, b->tail_tokens);
    ck_assert_uint_eq(a->offset, b->offset);
    ck_assert_uint_eq(a->seal, b->seal);
    ck_assert(b->sealed);
    ck_assert_uint_eq(a->origin_bytes, b->origin_bytes);
    ck_assert_mem_eq(a->origin, b->origin, a->origin_bytes);
    ck_assert_mem_eq(a->keys, b->keys, a->key_count * CORE_KEY_BYTES);
    ck_assert((a->parent == NULL) == (b->parent == NULL));
    if (a->parent != NULL) {
        ck_assert_mem_eq(a->parent, b->parent, CORE_KEY_BYTES);
    }
}

static void fill_keys(void)
{
    struct rng rng = {9};
    for (size_t i = 0; i < sizeof keys; i++) {
        keys[i] = (uint8_t)rng_next(&rng);
    }
}

START_TEST(comes_back_as_it_was)
    {
        fill_keys();
        struct keep_record back;
        for (uint32_t grains = 1; grains <= BLOCK_GRAINS_MAX; grains++) {
            struct keep_record record = part_of(grains, grains % 3 != 0);
            uint32_t count = keep_encode(&record, bytes);
            ck_assert(keep_decode(bytes, count, &back));
            ck_assert_int_eq(back.kind, KEEP_PART);
            expect_part(&record.u.part, &back.u.part);
        }
        struct keep_record head = {.kind = KEEP_HEAD,
                                   .u.head = {.slabs = 1234567, .extent = UINT64_C(1) << 50}};
        (void)memcpy(head.u.head.salt, keys, KEEP_SALT_BYTES);
        ck_assert(keep_decode(bytes, keep_encode(&head, bytes), &back));
        ck_assert_uint_eq(back.u.head.slabs, 1234567);
        ck_assert_uint_eq(back.u.head.extent, UINT64_C(1) << 50);
        ck_assert_mem_eq(back.u.head.salt, keys, KEEP_SALT_BYTES);
        struct keep_record slab = {.kind = KEEP_SLAB,
                                   .u.slab = {.slot_bytes = 1, .offset = UINT64_MAX, .bytes = 3}};
        ck_assert(keep_decode(bytes, keep_encode(&slab, bytes), &back));
        ck_assert_uint_eq(back.u.slab.slot_bytes, 1);
        ck_assert_uint_eq(back.u.slab.offset, UINT64_MAX);
        ck_assert_uint_eq(back.u.slab.bytes, 3);
        struct keep_record kind = {
            .kind = KEEP_KIND,
            .u.type = {
                .number = 5, .space = keys, .space_bytes = 700, .form = keys + 9, .form_bytes = 1}};
        ck_assert(keep_decode(bytes, keep_encode(&kind, bytes), &back));
        ck_assert_uint_eq(back.u.type.number, 5);
        ck_assert_uint_eq(back.u.type.space_bytes, 700);
        ck_assert_mem_eq(back.u.type.space, keys, 700);
        ck_assert_uint_eq(back.u.type.form_bytes, 1);
        ck_assert_uint_eq(back.u.type.form[0], keys[9]);
    }
END_TEST

/* No prefix of a record and nothing longer is one; whatever bytes come, what is read is in bounds.
 */
START_TEST(nonsense_is_refused)
    {
        fill_keys();
        struct keep_record back;
        struct keep_record record = part_of(6, true);
        uint32_t count = keep_encode(&record, bytes);
        for (uint32_t cut = 0; cut < count; cut++) {
            ck_assert(!keep_decode(bytes, cut, &back));
        }
        ck_assert(!keep_decode(bytes, count + 1, &back));
        struct rng rng = {1};
        uint32_t read = 0;
        for (uint32_t i = 0; i < 200000; i++) {
            record = part_of(1 + i % 8, i % 2 == 0);
            count = keep_encode(&record, bytes);
            for (uint32_t flips = 1 + i % 3; flips > 0; flips--) {
                bytes[rng_below(&rng, 30)] = (uint8_t)rng_next(&rng);
            }
            if (!keep_decode(bytes, count, &back) || back.kind != KEEP_PART) {
                continue;
            }
            read++;
            ck_assert_uint_ge(back.u.part.grains, 1);
            ck_assert_uint_le(back.u.part.grains, BLOCK_GRAINS_MAX);
            ck_assert(back.u.part.key_count == 1 || back.u.part.key_count == back.u.part.grains);
            ck_assert_uint_lt(back.u.part.shape, KEEP_KIND_MAX);
            ck_assert(back.u.part.keys + (size_t)back.u.part.key_count * CORE_KEY_BYTES <=
                      bytes + count);
        }
        ck_assert_uint_gt(read, 0);
    }
END_TEST

UNIT_MAIN("keep_format", comes_back_as_it_was, nonsense_is_refused)
