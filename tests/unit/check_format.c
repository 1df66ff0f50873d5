/*
 * Covers: storage/disk/format.c
 * Covers: storage/disk/format_record.c
 * Covers: storage/disk/seal.c
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "storage/disk/format.h"
#include "storage/disk/seal.h"
#include "tests/lib/check_main.h"

enum { FLIPS = 20000 };

static const uint8_t secret[DISK_SECRET_BYTES] = {1, 2, 3, 4, 5, 6, 7, 8, 9};

START_TEST(a_store_comes_back_and_no_bit_may_change)
    {
        struct format_store store = {.id = {7, 8}, .secret = {9}, .made_s = 1234567};
        struct format_store back = {0};
        uint8_t bytes[FORMAT_STORE_BYTES];
        format_store_encode(&store, bytes);
        ck_assert_int_eq(format_store_decode(bytes, sizeof bytes, &back), ST_OK);
        ck_assert_mem_eq(&store, &back, sizeof store);
        ck_assert_int_eq(format_store_decode(bytes, sizeof bytes - 1, &back), ST_CORRUPT);
        for (uint32_t bit = 0; bit < 8 * FORMAT_STORE_BYTES; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            ck_assert_int_eq(format_store_decode(bytes, sizeof bytes, &back), ST_CORRUPT);
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        put_u32(bytes + 8, 2);
        put_u64(bytes + sizeof bytes - 8, checksum_plain(bytes, sizeof bytes - 8));
        ck_assert_int_eq(format_store_decode(bytes, sizeof bytes, &back), ST_VERSION);
    }
END_TEST

START_TEST(a_segment_header_comes_back)
    {
        struct format_segment segment = {.store = {.id = {1}, .secret = {2}},
                                         .number = 77,
                                         .made_s = 5,
                                         .segment_bytes = 1 << 22};
        struct format_segment back = {0};
        uint8_t bytes[FORMAT_SEGMENT_BYTES];
        segment.store.made_s = segment.made_s;
        format_segment_encode(&segment, bytes);
        ck_assert_int_eq(format_segment_decode(bytes, sizeof bytes, &back), ST_OK);
        ck_assert_mem_eq(&segment, &back, sizeof segment);
        ck_assert_int_eq(format_segment_decode(bytes, sizeof bytes - 1, &back), ST_CORRUPT);
        for (uint32_t bit = 0; bit < 8 * FORMAT_SEGMENT_BYTES; bit += 7) {
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            ck_assert_int_eq(format_segment_decode(bytes, sizeof bytes, &back), ST_CORRUPT);
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        segment.number = 0;
        format_segment_encode(&segment, bytes);
        ck_assert_int_eq(format_segment_decode(bytes, sizeof bytes, &back), ST_CORRUPT);
    }
END_TEST

/* A record at its limits, or small; all of its memory. */
struct made {
    uint8_t keys[DISK_KEYS_MAX * DISK_KEY_BYTES];
    uint8_t blobs[2 * DISK_BLOB_MAX];
    struct format_record record;
    struct format_record back;
    uint8_t bytes[FORMAT_RECORD_HEADER_MAX];
};

static struct made *make_record(uint64_t seed, uint32_t parts, uint32_t keys_max)
{
    struct made *made = calloc(1, sizeof *made);
    ck_assert_ptr_nonnull(made);
    struct rng rng = {.state = seed};
    struct format_record *record = &made->record;
    uint64_t used = FORMAT_RECORD_FIXED_BYTES;
    for (size_t i = 0; i < sizeof made->keys; i++) {
        made->keys[i] = (uint8_t)rng_next(&rng);
    }
    record->segment = 9;
    record->sequence = seed;
    record->offset = 5 * DISK_ALIGN;
    record->written_s = 1700000000;
    record->part_count = parts;
    record->kind_count = 1 + (uint32_t)rng_below(&rng, parts < 3 ? parts : 3);
    for (uint32_t i = 0; i < record->kind_count; i++) {
        record->kinds[i] = (struct disk_kind){.space = made->blobs,
                                              .space_bytes = (uint32_t)rng_below(&rng, 300) + i,
                                              .form = made->blobs + DISK_BLOB_MAX,
                                              .form_bytes = (uint32_t)rng_below(&rng, 40)};
        used += format_kind_bytes(&record->kinds[i]);
    }
    for (uint32_t i = 0; i < parts; i++) {
        struct format_part *part = &record->parts[i];
        part->part = (struct disk_part){.kind = (uint32_t)rng_below(&rng, record->kind_count),
                                        .keys = made->keys,
                                        .key_count = 1 + (uint32_t)rng_below(&rng, keys_max),
                                        .grains = (uint32_t)rng_next(&rng),
                                        .tail_tokens = (uint32_t)rng_next(&rng),
                                        .parent = i % 2 == 0 ? made->keys : NULL,
                                        .origin = made->keys,
                                        .origin_bytes = (uint32_t)rng_below(&rng, 65),
                                        .pushed_s = rng_next(&rng)};
        part->bytes = 1 + rng_below(&rng, 5000);
        part->seal = rng_next(&rng) & SEAL_MASK;
        part->charged_bytes = part->bytes + 100;
        used += format_part_bytes(&part->part);
    }
    record->header_bytes = (uint32_t)round_up(used, DISK_ALIGN);
    uint64_t at = record->offset + record->header_bytes;
    for (uint32_t i = 0; i < parts; i++) {
        record->parts[i].offset = (uint32_t)(at / DISK_UNIT);
        at += round_up(record->parts[i].bytes, DISK_UNIT);
    }
    record->record_bytes = round_up(at - record->offset, DISK_ALIGN);
    format_record_encode(record, secret, made->bytes);
    return made;
}

static void same_part(const struct format_part *a, const struct format_part *b)
{
    ck_assert_uint_eq(a->part.kind, b->part.kind);
    ck_assert_uint_eq(a->part.key_count, b->part.key_count);
    ck_assert_mem_eq(a->part.keys, b->part.keys, a->part.key_count * DISK_KEY_BYTES);
    ck_assert_uint_eq(a->part.grains, b->part.grains);
    ck_assert_uint_eq(a->part.tail_tokens, b->part.tail_tokens);
    ck_assert((a->part.parent == NULL) == (b->part.parent == NULL));
    if (a->part.parent != NULL) {
        ck_assert_mem_eq(a->part.parent, b->part.parent, DISK_KEY_BYTES);
    }
    ck_assert_uint_eq(a->part.origin_bytes, b->part.origin_bytes);
    ck_assert_mem_eq(a->part.origin, b->part.origin, a->part.origin_bytes);
    ck_assert_uint_eq(a->part.pushed_s, b->part.pushed_s);
    ck_assert_uint_eq(a->offset, b->offset);
    ck_assert_uint_eq(a->bytes, b->bytes);
    ck_assert_uint_eq(a->seal, b->seal);
    ck_assert_uint_eq(a->charged_bytes, b->charged_bytes);
}

START_TEST(records_come_back)
    {
        static const uint32_t shapes[][2] = {
            {1, 1}, {1, DISK_KEYS_MAX}, {FORMAT_PARTS_MAX, 4}, {7, 60}};
        for (size_t i = 0; i < ARRAY_COUNT(shapes); i++) {
            struct made *made = make_record(i + 1, shapes[i][0], shapes[i][1]);
            uint32_t header_bytes = 0;
            ck_assert_int_eq(
                format_record_peek(made->bytes, FORMAT_RECORD_FIXED_BYTES, &header_bytes), ST_OK);
            ck_assert_uint_eq(header_bytes, made->record.header_bytes);
            ck_assert_int_eq(format_record_decode(made->bytes, header_bytes, secret, &made->back),
                             ST_OK);
            ck_assert_uint_eq(made->back.record_bytes, made->record.record_bytes);
            ck_assert_uint_eq(made->back.sequence, made->record.sequence);
            ck_assert_uint_eq(made->back.offset, made->record.offset);
            ck_assert_uint_eq(made->back.part_count, made->record.part_count);
            ck_assert_uint_eq(made->back.kind_count, made->record.kind_count);
            for (uint32_t k = 0; k < made->back.kind_count; k++) {
                ck_assert_uint_eq(made->back.kinds[k].space_bytes,
                                  made->record.kinds[k].space_bytes);
                ck_assert_uint_eq(made->back.kinds[k].form_bytes, made->record.kinds[k].form_bytes);
            }
            for (uint32_t p = 0; p < made->back.part_count; p++) {
                same_part(&made->record.parts[p], &made->back.parts[p]);
            }
            free(made);
        }
    }
END_TEST

START_TEST(another_secret_makes_no_record)
    {
        uint8_t other[DISK_SECRET_BYTES];
        struct made *made = make_record(3, 5, 5);
        for (uint32_t i = 0; i < 3; i++) { /* the seeds of the checksum */
            (void)memcpy(other, secret, sizeof other);
            other[8 * i] ^= 1;
            ck_assert_int_eq(
                format_record_decode(made->bytes, made->record.header_bytes, other, &made->back),
                ST_CORRUPT);
        }
        free(made);
    }
END_TEST

START_TEST(changed_records_are_refused)
    {
        struct made *made = make_record(4, 9, 9);
        struct rng rng = {.state = 4};
        uint32_t used = get_u32(made->bytes + 56);
        for (uint64_t i = check_scaled(FLIPS); i > 0; i--) {
            uint32_t bit = (uint32_t)rng_below(&rng, 8 * (uint64_t)used);
            made->bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            ck_assert_int_eq(
                format_record_decode(made->bytes, made->record.header_bytes, secret, &made->back),
                ST_CORRUPT);
            made->bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        for (uint32_t bytes = 0; bytes < made->record.header_bytes; bytes += 61) {
            uint8_t *exact = malloc(bytes + 1);
            ck_assert_ptr_nonnull(exact);
            (void)memcpy(exact, made->bytes, bytes);
            ck_assert_int_eq(format_record_decode(exact, bytes, secret, &made->back), ST_CORRUPT);
            free(exact);
        }
        free(made);
    }
END_TEST

/* Signed well, but with fields that lie: nothing outside the record is believed. */
START_TEST(lies_are_refused)
    {
        static const struct {
            uint32_t at;
            uint64_t value;
            int status;
        } lies[] = {{8, 2, ST_VERSION},           {60, 1, ST_VERSION},
                    {32, 4096, ST_CORRUPT},       {32, UINT64_MAX - 4095, ST_CORRUPT},
                    {64, 4096 * 100, ST_CORRUPT}, {64, UINT64_MAX - 4095, ST_CORRUPT},
                    {48, 61, ST_CORRUPT},         {48, 0, ST_CORRUPT},
                    {52, 0, ST_CORRUPT},          {52, 60, ST_CORRUPT},
                    {48, 8, ST_CORRUPT},          {72, 1, ST_VERSION}};
        for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
            struct made *made = make_record(5, 9, 3);
            bool wide = lies[i].at == 32 || lies[i].at == 64;
            if (wide) {
                put_u64(made->bytes + lies[i].at, lies[i].value);
            } else {
                put_u32(made->bytes + lies[i].at, (uint32_t)lies[i].value);
            }
            uint32_t used = get_u32(made->bytes + 56);
            put_u64(made->bytes + 80, checksum_keyed(secret, made->bytes, used, 80));
            ck_assert_msg(format_record_decode(made->bytes, made->record.header_bytes, secret,
                                               &made->back) == lies[i].status,
                          "lie %d", (int)i);
            free(made);
        }
    }
END_TEST

START_TEST(parts_stand_alone)
    {
        uint8_t bytes[FORMAT_PART_BYTES_MAX];
        struct made *made = make_record(6, 40, 30);
        for (uint32_t i = 0; i < made->record.part_count; i++) {
            struct format_part back = {0};
            uint32_t used = 0;
            uint32_t length = format_part_encode(&made->record.parts[i], bytes);
            ck_assert_int_eq(format_part_decode(bytes, length, &back, &used), ST_OK);
            ck_assert_uint_eq(used, length);
            same_part(&made->record.parts[i], &back);
            for (uint32_t bit = 0; bit < 8 * length; bit += 3) {
                bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
                ck_assert_int_ne(format_part_decode(bytes, length, &back, &used), ST_OK);
                bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            }
        }
        free(made);
    }
END_TEST

START_TEST(kinds_and_states_are_bounded)
    {
        uint8_t bytes[FORMAT_KIND_BYTES_MAX] = {0};
        struct disk_kind kind = {0};
        struct format_state state = {.used_bytes = 4096, .committed_s = 7};
        struct format_state back = {0};
        uint32_t used = 0;
        put_u32(bytes, DISK_BLOB_MAX + 1);
        ck_assert_int_eq(format_kind_decode(bytes, sizeof bytes, &kind, &used), ST_CORRUPT);
        put_u32(bytes, DISK_BLOB_MAX);
        ck_assert_int_eq(format_kind_decode(bytes, DISK_BLOB_MAX + 7, &kind, &used), ST_CORRUPT);
        ck_assert_int_eq(format_kind_decode(bytes, DISK_BLOB_MAX + 8, &kind, &used), ST_OK);
        ck_assert_int_eq(format_kind_decode(bytes, 7, &kind, &used), ST_CORRUPT);
        format_state_encode(&state, bytes);
        ck_assert_int_eq(format_state_decode(bytes, FORMAT_STATE_BYTES, &back), ST_OK);
        ck_assert_mem_eq(&state, &back, sizeof state);
        bytes[3] ^= 1;
        ck_assert_int_eq(format_state_decode(bytes, FORMAT_STATE_BYTES, &back), ST_CORRUPT);
        ck_assert_int_eq(format_state_decode(bytes, 5, &back), ST_CORRUPT);
    }
END_TEST

START_TEST(seals_see_every_bit)
    {
        uint8_t bytes[200] = {0};
        uint64_t seal = seal_of(bytes, sizeof bytes);
        ck_assert_uint_le(seal, SEAL_MASK);
        for (uint32_t bit = 0; bit < 8 * sizeof bytes; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            ck_assert_uint_ne(seal_of(bytes, sizeof bytes), seal);
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        ck_assert_uint_ne(seal_of(bytes, sizeof bytes - 1), seal);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        a_store_comes_back_and_no_bit_may_change,
        a_segment_header_comes_back,
        records_come_back,
        another_secret_makes_no_record,
        changed_records_are_refused,
        lies_are_refused,
        parts_stand_alone,
        kinds_and_states_are_bounded,
        seals_see_every_bit,
    };
    return check_main("format", tests, ARRAY_COUNT(tests));
}
