/*
 * The format of llama.cpp's sequence state, on blobs made here; tests/engines/llamacpp has the real
 * ones. Covers: client/examples/llamacpp/kv_blob.c
 */
#include <kv_blob.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/check_main.h"

enum { TOKENS = 32, ROW = 24, LAYERS = 3, SEQUENCE = 1, BLOB_BYTES = 1 << 16 };

static const uint32_t magic = 0xaf143cd8;

/* A blob being written. */
struct sample {
    uint8_t bytes[BLOB_BYTES];
    size_t count;
    uint32_t parts;
    uint32_t layers;
    uint32_t first;
    uint32_t type;
    bool transposed;
    uint8_t payload; /* counts up, so that no two bytes in a row are the same */
};

static void put(struct sample *sample, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        sample->bytes[sample->count++] = (uint8_t)(value >> (8 * i));
    }
}

static void put_payload(struct sample *sample, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        sample->bytes[sample->count++] = sample->payload++;
    }
}

static void put_plane(struct sample *sample, bool transposed)
{
    uint32_t element = (uint32_t)kv_blob_element_bytes((enum kv_blob_type)sample->type);
    put(sample, sample->type, 4);
    if (transposed) {
        put(sample, element, 4);
        put(sample, ROW / element, 4);
    } else {
        put(sample, ROW, 8);
    }
    put_payload(sample, (size_t)ROW * TOKENS);
}

static void put_part(struct sample *sample)
{
    put(sample, 1, 4);
    put(sample, TOKENS, 4);
    for (uint32_t i = 0; i < TOKENS; i++) {
        put(sample, sample->first + i, 4);
        put(sample, 1, 4);
        put(sample, SEQUENCE, 4);
    }
    put(sample, sample->transposed, 4);
    put(sample, sample->layers, 4);
    for (uint32_t i = 0; i < 2 * sample->layers; i++) {
        put_plane(sample, i >= sample->layers && sample->transposed);
    }
}

static struct sample *make(const struct sample *wanted)
{
    static struct sample sample;
    sample = *wanted;
    put(&sample, magic, 4);
    put(&sample, SEQUENCE, 4);
    for (uint32_t i = 0; i < sample.parts; i++) {
        put_part(&sample);
    }
    return &sample;
}

static struct kv_blob learn(const struct sample *sample)
{
    struct kv_blob blob;
    char error[KV_BLOB_ERROR_BYTES] = "";
    ck_assert_msg(kv_blob_learn(&blob, sample->bytes, sample->count, TOKENS, error), "%s", error);
    return blob;
}

static const struct sample samples[] = {
    {.parts = 1, .layers = LAYERS, .type = KV_BLOB_F16},
    {.parts = 1, .layers = LAYERS, .type = KV_BLOB_F32, .transposed = true},
    {.parts = 2, .layers = LAYERS, .type = KV_BLOB_BF16, .transposed = true},
    {.parts = 2, .layers = 1, .type = KV_BLOB_Q8_0},
    {.parts = 1, .layers = 0, .type = KV_BLOB_F16},
};

START_TEST(finds_the_planes)
    {
        for (size_t s = 0; s < ARRAY_COUNT(samples); s++) {
            const struct sample *sample = make(&samples[s]);
            struct kv_blob blob = learn(sample);
            ck_assert_uint_eq(blob.part_count, sample->parts);
            ck_assert_uint_eq(blob.bytes, sample->count);
            uint8_t expected = 0;
            for (uint32_t i = 0; i < blob.part_count * 2 * sample->layers; i++) {
                /* payload lies by kind, then layer; planes are kept by layer, then kind */
                uint32_t in_part = i % (2 * sample->layers);
                const struct kv_blob_part *part = &blob.parts[i / (2 * sample->layers)];
                const struct kv_blob_plane *plane =
                    &part->planes[in_part % sample->layers * 2 + in_part / sample->layers];
                ck_assert_uint_eq(plane->bytes, ROW * TOKENS);
                ck_assert_uint_eq(sample->bytes[plane->offset], expected);
                expected = (uint8_t)(expected + ROW * TOKENS);
            }
            kv_blob_finish(&blob);
        }
    }
END_TEST

START_TEST(strides_lead_to_elements)
    {
        const struct sample *sample = make(&samples[1]);
        struct kv_blob blob = learn(sample);
        const struct kv_blob_plane *k = &blob.parts[0].planes[0];
        const struct kv_blob_plane *v = &blob.parts[0].planes[1];
        ck_assert_uint_eq(k->token_stride, ROW);
        ck_assert_uint_eq(k->element_stride, 4);
        ck_assert_uint_eq(v->token_stride, 4);
        ck_assert_uint_eq(v->element_stride, 4 * TOKENS);
        kv_blob_finish(&blob);
        blob = learn(make(&samples[3]));
        ck_assert_uint_eq(blob.parts[1].planes[1].element_stride, 0); /* packed */
        kv_blob_finish(&blob);
    }
END_TEST

/* The frame of the learned block makes of another block's payload exactly the other blob. */
START_TEST(frames_other_blocks)
    {
        static uint8_t page[BLOB_BYTES];
        for (size_t s = 0; s < ARRAY_COUNT(samples); s++) {
            struct kv_blob blob = learn(make(&samples[s]));
            static struct sample wanted;
            wanted = samples[s];
            wanted.first = 70000;
            wanted.payload = 99;
            const struct sample *other = make(&wanted);
            ck_assert(kv_blob_framed(&blob, other->bytes, other->count, 70000));
            memset(page, 0xee, sizeof page);
            for (uint32_t p = 0; p < blob.part_count; p++) {
                for (uint32_t i = 0; i < 2 * blob.parts[p].layers; i++) {
                    const struct kv_blob_plane *plane = &blob.parts[p].planes[i];
                    memcpy(page + plane->offset, other->bytes + plane->offset, plane->bytes);
                }
            }
            kv_blob_frame(&blob, page, 70000);
            ck_assert_mem_eq(page, other->bytes, other->count);
            ck_assert_uint_eq(page[other->count], 0xee);
            kv_blob_finish(&blob);
        }
    }
END_TEST

/* Every byte that is not payload counts. */
START_TEST(sees_another_frame)
    {
        struct kv_blob blob = learn(make(&samples[2]));
        struct sample *sample = make(&samples[2]);
        size_t payload = (size_t)2 * 2 * LAYERS * ROW * TOKENS;
        size_t refused = 0;
        for (size_t i = 0; i < sample->count; i++) {
            sample->bytes[i] ^= 0x10;
            refused += !kv_blob_framed(&blob, sample->bytes, sample->count, 0);
            sample->bytes[i] ^= 0x10;
        }
        ck_assert_uint_eq(refused, sample->count - payload);
        ck_assert(!kv_blob_framed(&blob, sample->bytes, sample->count - 1, 0));
        ck_assert(!kv_blob_framed(&blob, sample->bytes, sample->count, TOKENS));
        kv_blob_finish(&blob);
    }
END_TEST

/* Cut anywhere, or with any byte changed, it is refused or still makes sense; it is never read past
 * its end (asan looks). */
START_TEST(survives_any_damage)
    {
        struct kv_blob blob;
        char error[KV_BLOB_ERROR_BYTES];
        for (size_t s = 0; s < ARRAY_COUNT(samples); s++) {
            struct sample *sample = make(&samples[s]);
            uint8_t *exact = malloc(sample->count);
            ck_assert_ptr_nonnull(exact);
            for (size_t count = 0; count < sample->count; count += 1 + count / 64) {
                memcpy(exact + sample->count - count, sample->bytes, count);
                error[0] = '\0';
                ck_assert(
                    !kv_blob_learn(&blob, exact + sample->count - count, count, TOKENS, error));
                ck_assert_uint_gt(strlen(error), 0);
            }
            for (size_t i = 0; i < sample->count; i++) {
                memcpy(exact, sample->bytes, sample->count);
                exact[i] ^= (uint8_t)(1 + i % 255);
                if (kv_blob_learn(&blob, exact, sample->count, TOKENS, error)) {
                    kv_blob_finish(&blob);
                }
            }
            free(exact);
        }
    }
END_TEST

START_TEST(says_what_is_wrong)
    {
        static const struct {
            size_t at;
            uint8_t flip;
            const char *words;
        } wrongs[] = {
            {0, 1, "the magic"},
            {8, 2, "the number of streams (a unified cache has one) is 3, not 1, at byte 8"},
            {12, 1, "the number of cells is 33, not 32"},
            {16 + 12, 2, "a cell's position is 3, not 1"},
            {20, 2, "number of sequences"},
            {16 + 12 * TOKENS, 2, "V transposed: 2"},
            {16 + 12 * TOKENS + 8, 4, "type 5 is none of"},
            {16 + 12 * TOKENS + 12, 0x18, "a row of 0 bytes"},
        };
        struct kv_blob blob;
        char error[KV_BLOB_ERROR_BYTES];
        for (size_t i = 0; i < ARRAY_COUNT(wrongs); i++) {
            struct sample *sample = make(&samples[0]);
            sample->bytes[wrongs[i].at] ^= wrongs[i].flip;
            ck_assert(!kv_blob_learn(&blob, sample->bytes, sample->count, TOKENS, error));
            ck_assert_msg(strstr(error, wrongs[i].words) != NULL, "%s", error);
        }
        struct sample *sample = make(&samples[0]);
        put(sample, 0, 1);
        ck_assert(!kv_blob_learn(&blob, sample->bytes, sample->count, TOKENS, error));
    }
END_TEST

START_TEST(clears_one_part)
    {
        struct sample *sample = make(&samples[2]);
        struct kv_blob blob = learn(sample);
        kv_blob_clear(&blob, 1, sample->bytes);
        ck_assert(kv_blob_framed(&blob, sample->bytes, sample->count, 0));
        for (uint32_t i = 0; i < 2 * LAYERS; i++) {
            const struct kv_blob_plane *kept = &blob.parts[0].planes[i];
            const struct kv_blob_plane *cleared = &blob.parts[1].planes[i];
            ck_assert_uint_ne(sample->bytes[kept->offset] | sample->bytes[kept->offset + 1], 0);
            for (size_t byte = 0; byte < cleared->bytes; byte++) {
                ck_assert_uint_eq(sample->bytes[cleared->offset + byte], 0);
            }
        }
        kv_blob_finish(&blob);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {finds_the_planes,   strides_lead_to_elements, frames_other_blocks,
                                  sees_another_frame, survives_any_damage,      says_what_is_wrong,
                                  clears_one_part};
    return check_main("kv_blob", tests, ARRAY_COUNT(tests));
}
