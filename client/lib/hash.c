/*
 * Prefix keys: SHA-256 chained over grains of 16 tokens.
 *
 *   root  = SHA-256("kveik/prefix/1")
 *   key_i = SHA-256(key_{i-1} | u16 tokens | u16 bytes of extras | u32 token... | extras)
 *
 * Counts come first, so no two inputs have the same bytes. A full grain without extras is 100
 * bytes: two rounds of the compression function.
 */
#include <string.h>

#include "base/digest.h"
#include "base/heap.h"
#include "client/lib/client.h"

enum { EXTRA_BYTES_MAX = 1024, GRAIN_EXTRAS_BYTES_MAX = 65535, EXTRA_HEADER_BYTES = 8 };

struct kveik_hasher {
    struct digest *digest;
    uint8_t root[KVEIK_KEY_BYTES];
};

kveik_hasher *kveik_hasher_create(void)
{
    kveik_hasher *hasher = heap_calloc(1, sizeof *hasher);
    if (hasher == NULL) {
        return NULL;
    }
    hasher->digest = digest_create();
    if (hasher->digest == NULL) {
        heap_free(hasher);
        return NULL;
    }
    static const char mark[] = "kveik/prefix/1";
    digest_begin(hasher->digest);
    digest_add(hasher->digest, mark, sizeof mark - 1);
    digest_end(hasher->digest, hasher->root);
    return hasher;
}

void kveik_hasher_destroy(kveik_hasher *hasher)
{
    if (hasher != NULL) {
        digest_destroy(hasher->digest);
        heap_free(hasher);
    }
}

static void put_u16(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}

static void put_u32(uint8_t *to, uint32_t value)
{
    put_u16(to, value);
    put_u16(to + 2, value >> 16);
}

static int extras_check(const struct kveik_extra *extras, size_t count, size_t token_count)
{
    uint64_t in_grain = 0;
    for (size_t i = 0; i < count; i++) {
        if (extras[i].bytes > EXTRA_BYTES_MAX || (extras[i].bytes > 0 && extras[i].data == NULL) ||
            extras[i].position >= token_count) {
            return ST_INVALID;
        }
        bool same_grain =
            i > 0 && extras[i].position / GRAIN_TOKENS == extras[i - 1].position / GRAIN_TOKENS;
        if (i > 0 && extras[i].position < extras[i - 1].position) {
            return ST_INVALID;
        }
        in_grain = (same_grain ? in_grain : 0) + EXTRA_HEADER_BYTES + extras[i].bytes;
        if (in_grain > GRAIN_EXTRAS_BYTES_MAX) {
            return ST_INVALID;
        }
    }
    return ST_OK;
}

/* Extras of the grain that begins at `first` and follow on each other from extras[0]. */
static size_t extras_of(const struct kveik_extra *extras, size_t count, size_t first,
                        uint32_t *bytes_out)
{
    size_t used = 0;
    *bytes_out = 0;
    while (used < count && extras[used].position < first + GRAIN_TOKENS) {
        *bytes_out += EXTRA_HEADER_BYTES + (uint32_t)extras[used].bytes;
        used++;
    }
    return used;
}

static void grain_hash(struct digest *digest, const uint8_t *parent, const uint32_t *tokens,
                       uint32_t count, uint32_t extra_bytes)
{
    uint8_t block[KVEIK_KEY_BYTES + 4 + GRAIN_TOKENS * 4];
    (void)memcpy(block, parent, KVEIK_KEY_BYTES);
    put_u16(block + KVEIK_KEY_BYTES, count);
    put_u16(block + KVEIK_KEY_BYTES + 2, extra_bytes);
    for (uint32_t i = 0; i < count; i++) {
        put_u32(block + KVEIK_KEY_BYTES + 4 + (size_t)4 * i, tokens[i]);
    }
    digest_begin(digest);
    digest_add(digest, block, KVEIK_KEY_BYTES + 4 + (size_t)4 * count);
}

int kveik_hasher_tokens(kveik_hasher *hasher, const uint8_t *parent, const uint32_t *tokens,
                        size_t token_count, const struct kveik_extra *extras, size_t extra_count,
                        uint8_t *keys_out)
{
    if (hasher == NULL || (token_count > 0 && (tokens == NULL || keys_out == NULL)) ||
        (extra_count > 0 && extras == NULL) ||
        extras_check(extras, extra_count, token_count) != ST_OK) {
        return ST_INVALID;
    }
    const uint8_t *previous = parent != NULL ? parent : hasher->root;
    for (size_t first = 0; first < token_count; first += GRAIN_TOKENS) {
        size_t left = token_count - first;
        uint32_t count = left < GRAIN_TOKENS ? (uint32_t)left : (uint32_t)GRAIN_TOKENS;
        uint32_t extra_bytes = 0;
        size_t used = extras_of(extras, extra_count, first, &extra_bytes);
        grain_hash(hasher->digest, previous, tokens + first, count, extra_bytes);
        for (size_t i = 0; i < used; i++) {
            uint8_t header[EXTRA_HEADER_BYTES];
            put_u32(header, extras[i].position - (uint32_t)first);
            put_u32(header + 4, (uint32_t)extras[i].bytes);
            digest_add(hasher->digest, header, sizeof header);
            digest_add(hasher->digest, extras[i].data, extras[i].bytes);
        }
        extras += used;
        extra_count -= used;
        digest_end(hasher->digest, keys_out);
        previous = keys_out;
        keys_out += KVEIK_KEY_BYTES;
    }
    return ST_OK;
}

int kveik_hash_tokens(const uint8_t *parent, const uint32_t *tokens, size_t token_count,
                      const struct kveik_extra *extras, size_t extra_count, uint8_t *keys_out)
{
    kveik_hasher *hasher = kveik_hasher_create();
    if (hasher == NULL) {
        return ST_NO_MEMORY;
    }
    int status =
        kveik_hasher_tokens(hasher, parent, tokens, token_count, extras, extra_count, keys_out);
    kveik_hasher_destroy(hasher);
    return status;
}
