/* Keys, compared with plain SHA-256 over the bytes that kveik.h documents, put together here. */
#include <openssl/sha.h>
#include <string.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "kveik/kveik.h"
#include "tests/lib/check_main.h"

enum { TOKENS_MAX = 200, KEYS_MAX = (TOKENS_MAX + 15) / 16 };

static size_t put(uint8_t *out, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
    return bytes;
}

/* key = SHA-256(parent | u16 tokens | u16 bytes of extras | u32 token... | extras) */
static void reference(const uint8_t *parent, const uint32_t *tokens, size_t count,
                      const struct kveik_extra *extras, size_t extra_count, uint8_t *keys)
{
    uint8_t previous[32];
    if (parent != NULL) {
        (void)memcpy(previous, parent, 32);
    } else {
        (void)SHA256((const uint8_t *)"kveik/prefix/1", 14, previous);
    }
    for (size_t at = 0; at < count; at += 16) {
        static uint8_t message[70000];
        static uint8_t tail[70000];
        size_t tail_bytes = 0;
        size_t grain = count - at < 16 ? count - at : 16;
        for (size_t i = 0; i < extra_count; i++) {
            if (extras[i].position >= at && extras[i].position < at + 16) {
                tail_bytes += put(tail + tail_bytes, extras[i].position - at, 4);
                tail_bytes += put(tail + tail_bytes, extras[i].bytes, 4);
                (void)memcpy(tail + tail_bytes, extras[i].data, extras[i].bytes);
                tail_bytes += extras[i].bytes;
            }
        }
        size_t bytes = 32;
        (void)memcpy(message, previous, 32);
        bytes += put(message + bytes, grain, 2);
        bytes += put(message + bytes, tail_bytes, 2);
        for (size_t i = 0; i < grain; i++) {
            bytes += put(message + bytes, tokens[at + i], 4);
        }
        (void)memcpy(message + bytes, tail, tail_bytes);
        (void)SHA256(message, bytes + tail_bytes, previous);
        (void)memcpy(keys + at * 2, previous, 32);
    }
}

static void make_tokens(uint32_t *tokens, size_t count)
{
    struct rng rng = {.state = count};
    for (size_t i = 0; i < count; i++) {
        tokens[i] = (uint32_t)rng_next(&rng);
    }
}

START_TEST(keys_are_as_documented)
    {
        uint32_t tokens[TOKENS_MAX];
        uint8_t expected[KEYS_MAX * 32];
        uint8_t keys[KEYS_MAX * 32];
        for (size_t count = 1; count <= TOKENS_MAX; count++) {
            make_tokens(tokens, count);
            reference(NULL, tokens, count, NULL, 0, expected);
            ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, count, NULL, 0, keys), KVEIK_OK);
            ck_assert_mem_eq(keys, expected, (count + 15) / 16 * 32);
        }
        ck_assert_int_eq(kveik_hash_tokens(NULL, NULL, 0, NULL, 0, NULL), KVEIK_OK);
    }
END_TEST

/* Constants, so that a change of both sides at once is seen too. */
START_TEST(known_answers_stay)
    {
        static const uint8_t first[] = {0xff, 0x71, 0xa6, 0xd1, 0x24, 0x5a, 0x57, 0x05,
                                        0x9b, 0xb4, 0x78, 0x11, 0xd8, 0x52, 0xc1, 0x03,
                                        0x2e, 0x80, 0x2f, 0x4b, 0x7f, 0xea, 0xa5, 0xb5,
                                        0x6a, 0x47, 0x33, 0xb8, 0x51, 0x5b, 0x52, 0xed};
        uint32_t tokens[16];
        uint8_t key[32];
        for (uint32_t i = 0; i < 16; i++) {
            tokens[i] = i;
        }
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 16, NULL, 0, key), KVEIK_OK);
        ck_assert_mem_eq(key, first, sizeof first);
    }
END_TEST

START_TEST(extras_change_their_grain_and_what_follows)
    {
        uint32_t tokens[TOKENS_MAX];
        uint8_t plain[KEYS_MAX * 32];
        uint8_t expected[KEYS_MAX * 32];
        uint8_t keys[KEYS_MAX * 32];
        uint8_t big[1024];
        (void)memset(big, 7, sizeof big);
        const struct kveik_extra extras[] = {{.position = 0, .data = "adapter", .bytes = 7},
                                             {.position = 40, .data = big, .bytes = 1024},
                                             {.position = 40, .data = "", .bytes = 0},
                                             {.position = 47, .data = "x", .bytes = 1},
                                             {.position = 199, .data = "end", .bytes = 3}};
        make_tokens(tokens, TOKENS_MAX);
        reference(NULL, tokens, TOKENS_MAX, extras, 5, expected);
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, TOKENS_MAX, extras, 5, keys), KVEIK_OK);
        ck_assert_mem_eq(keys, expected, sizeof keys);
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, TOKENS_MAX, NULL, 0, plain), KVEIK_OK);
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, TOKENS_MAX, extras + 1, 4, keys),
                         KVEIK_OK);
        ck_assert_mem_eq(keys, plain, 64); /* grains 0 and 1 lie before token 40 */
        ck_assert_mem_ne(keys + 64, plain + 64, 32);
        ck_assert_mem_ne(keys + 96, plain + 96, 32);
    }
END_TEST

START_TEST(a_parent_goes_on_where_it_ended)
    {
        uint32_t tokens[TOKENS_MAX];
        uint8_t whole[KEYS_MAX * 32];
        uint8_t pieces[KEYS_MAX * 32];
        make_tokens(tokens, TOKENS_MAX);
        const struct kveik_extra extra = {.position = 100, .data = "image", .bytes = 5};
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, TOKENS_MAX, &extra, 1, whole), KVEIK_OK);
        for (size_t cut = 16; cut < TOKENS_MAX; cut += 16) {
            struct kveik_extra later = extra;
            bool before = extra.position < cut;
            later.position -= before ? 0 : (uint32_t)cut;
            ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, cut, &extra, before ? 1 : 0, pieces),
                             KVEIK_OK);
            ck_assert_int_eq(kveik_hash_tokens(pieces + cut * 2 - 32, tokens + cut,
                                               TOKENS_MAX - cut, &later, before ? 0 : 1,
                                               pieces + cut * 2),
                             KVEIK_OK);
            ck_assert_mem_eq(pieces, whole, sizeof whole);
        }
    }
END_TEST

START_TEST(a_hasher_is_reused)
    {
        uint32_t tokens[TOKENS_MAX];
        uint8_t once[KEYS_MAX * 32];
        uint8_t again[KEYS_MAX * 32];
        make_tokens(tokens, TOKENS_MAX);
        kveik_hasher *hasher = kveik_hasher_create();
        ck_assert_ptr_nonnull(hasher);
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, TOKENS_MAX, NULL, 0, once), KVEIK_OK);
        for (int i = 0; i < 3; i++) {
            ck_assert_int_eq(kveik_hasher_tokens(hasher, NULL, tokens, TOKENS_MAX, NULL, 0, again),
                             KVEIK_OK);
            ck_assert_mem_eq(once, again, sizeof once);
        }
        kveik_hasher_destroy(hasher);
        kveik_hasher_destroy(NULL);
    }
END_TEST

START_TEST(wrong_extras_are_refused)
    {
        uint32_t tokens[32] = {0};
        uint8_t keys[64];
        uint8_t big[1025] = {0};
        struct kveik_extra extras[70] = {{.position = 5, .data = "a", .bytes = 1},
                                         {.position = 4, .data = "b", .bytes = 1}};
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 32, extras, 2, keys), KVEIK_E_INVALID);
        extras[0] = (struct kveik_extra){.position = 32, .data = "a", .bytes = 1};
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 32, extras, 1, keys), KVEIK_E_INVALID);
        extras[0] = (struct kveik_extra){.position = 0, .data = big, .bytes = 1025};
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 32, extras, 1, keys), KVEIK_E_INVALID);
        extras[0] = (struct kveik_extra){.position = 0, .data = NULL, .bytes = 1};
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 32, extras, 1, keys), KVEIK_E_INVALID);
        for (size_t i = 0; i < 70; i++) { /* 70 x 1032 bytes do not fit a u16 */
            extras[i] = (struct kveik_extra){.position = 3, .data = big, .bytes = 1024};
        }
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 32, extras, 63, keys), KVEIK_OK);
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 32, extras, 70, keys), KVEIK_E_LIMIT);
        ck_assert_int_eq(kveik_hash_tokens(NULL, NULL, 1, NULL, 0, keys), KVEIK_E_INVALID);
        ck_assert_int_eq(kveik_hasher_tokens(NULL, NULL, tokens, 1, NULL, 0, keys),
                         KVEIK_E_INVALID);
    }
END_TEST

START_TEST(shortages_leave_nothing)
    {
        uint32_t tokens[16] = {0};
        uint8_t key[32];
        for (int64_t n = 0; n < 2; n++) {
            fault_set(FAULT_HEAP, n, 1);
            ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 16, NULL, 0, key), KVEIK_E_NO_MEMORY);
            fault_clear();
            ck_assert_int_eq(heap_outstanding(), 0);
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {keys_are_as_documented,
                                  known_answers_stay,
                                  extras_change_their_grain_and_what_follows,
                                  a_parent_goes_on_where_it_ended,
                                  a_hasher_is_reused,
                                  wrong_extras_are_refused,
                                  shortages_leave_nothing};
    return check_main("hash", tests, ARRAY_COUNT(tests));
}
