/*
 * Prefix keys. One grain is one contiguous message of 100 bytes (two SHA-256 blocks) unless it has
 * extras; it is put together on the stack and digested in one go.
 *
 *   root  = SHA-256("kveik/prefix/1")
 *   key_i = SHA-256(key_{i-1} | u16 tokens | u16 bytes of extras | u32 token... | extras)
 *   extra = u32 position in the grain | u32 bytes | data
 */
#include <string.h>

#include "base/digest.h"
#include "base/heap.h"
#include "client/lib/client.h"

enum {
    EXTRA_BYTES_MAX = 1024,
    EXTRA_HEADER_BYTES = 8,
    GRAIN_HEADER_BYTES = KVEIK_KEY_BYTES + 4,
    GRAIN_MESSAGE_BYTES = GRAIN_HEADER_BYTES + 4 * KVEIK_GRAIN_TOKENS,
};

struct kveik_hasher {
    struct digest *digest;
    uint8_t root[DIGEST_BYTES];
};

kveik_hasher *kveik_hasher_create(void)
{
    static const char root[] = "kveik/prefix/1";
    struct kveik_hasher *hasher = heap_calloc(1, sizeof *hasher);
    if (hasher == NULL) {
        return NULL;
    }
    hasher->digest = digest_create();
    if (hasher->digest == NULL) {
        heap_free(hasher);
        return NULL;
    }
    digest_begin(hasher->digest);
    digest_add(hasher->digest, root, sizeof root - 1);
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

static void put_u16(uint8_t *out, size_t value)
{
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

static void put_u32(uint8_t *out, uint32_t value)
{
    put_u16(out, value & 0xffff);
    put_u16(out + 2, value >> 16);
}

/* What a grain has of the sorted extras: how many, and their encoded bytes. */
static size_t extras_of(const struct kveik_extra *extras, size_t extra_count, size_t position_end,
                        size_t *bytes_out)
{
    size_t count = 0;
    *bytes_out = 0;
    while (count < extra_count && extras[count].position < position_end) {
        *bytes_out += EXTRA_HEADER_BYTES + extras[count].bytes;
        count++;
    }
    return count;
}

/* Sorted, within the prompt, small, and no grain's sum beyond what its u16 can say. */
static int check_extras(const struct kveik_extra *extras, size_t extra_count, size_t token_count)
{
    if (extra_count > 0 && extras == NULL) {
        return ST_INVALID;
    }
    uint32_t position = 0;
    size_t grain = 0;
    size_t grain_bytes = 0;
    for (size_t i = 0; i < extra_count; i++) {
        const struct kveik_extra *extra = &extras[i];
        if (extra->position < position || extra->position >= token_count ||
            extra->bytes > EXTRA_BYTES_MAX || (extra->data == NULL && extra->bytes > 0)) {
            return ST_INVALID;
        }
        position = extra->position;
        if (position / KVEIK_GRAIN_TOKENS != grain) {
            grain = position / KVEIK_GRAIN_TOKENS;
            grain_bytes = 0;
        }
        grain_bytes += EXTRA_HEADER_BYTES + extra->bytes;
        if (grain_bytes > UINT16_MAX) {
            return ST_LIMIT;
        }
    }
    return ST_OK;
}

static void add_extras(struct digest *digest, const struct kveik_extra *extras, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t header[EXTRA_HEADER_BYTES];
        put_u32(header, extras[i].position % KVEIK_GRAIN_TOKENS);
        put_u32(header + 4, (uint32_t)extras[i].bytes);
        digest_add(digest, header, sizeof header);
        digest_add(digest, extras[i].data, extras[i].bytes);
    }
}

/* NOLINTNEXTLINE(readability-function-size): the public signature */
int kveik_hasher_tokens(kveik_hasher *hasher, const uint8_t *parent, const uint32_t *tokens,
                        size_t token_count, const struct kveik_extra *extras, size_t extra_count,
                        uint8_t *keys_out)
{
    if (hasher == NULL || (token_count > 0 && (tokens == NULL || keys_out == NULL)) ||
        token_count > UINT32_MAX) {
        return ST_INVALID;
    }
    int status = check_extras(extras, extra_count, token_count);
    if (status != ST_OK) {
        return status;
    }
    struct digest *digest = hasher->digest;
    uint8_t message[GRAIN_MESSAGE_BYTES];
    (void)memcpy(message, parent != NULL ? parent : hasher->root, KVEIK_KEY_BYTES);
    for (size_t at = 0; at < token_count; at += KVEIK_GRAIN_TOKENS) {
        size_t count = token_count - at;
        count = count < KVEIK_GRAIN_TOKENS ? count : KVEIK_GRAIN_TOKENS;
        size_t extra_bytes = 0;
        size_t grain_extras = extras_of(extras, extra_count, at + KVEIK_GRAIN_TOKENS, &extra_bytes);
        put_u16(message + KVEIK_KEY_BYTES, count);
        put_u16(message + KVEIK_KEY_BYTES + 2, extra_bytes);
        /* the machine is little-endian: see proto/message_internal.h */
        (void)memcpy(message + GRAIN_HEADER_BYTES, tokens + at, count * sizeof *tokens);
        digest_begin(digest);
        digest_add(digest, message, GRAIN_HEADER_BYTES + count * sizeof *tokens);
        add_extras(digest, extras, grain_extras);
        digest_end(digest, message);
        (void)memcpy(keys_out, message, KVEIK_KEY_BYTES);
        keys_out += KVEIK_KEY_BYTES;
        if (grain_extras > 0) {
            extras += grain_extras;
            extra_count -= grain_extras;
        }
    }
    return ST_OK;
}

int kveik_hash_tokens(const uint8_t *parent, const uint32_t *tokens, size_t token_count,
                      const struct kveik_extra *extras, size_t extra_count, uint8_t *keys_out)
{
    struct kveik_hasher *hasher = kveik_hasher_create();
    if (hasher == NULL) {
        return ST_NO_MEMORY;
    }
    int status =
        kveik_hasher_tokens(hasher, parent, tokens, token_count, extras, extra_count, keys_out);
    kveik_hasher_destroy(hasher);
    return status;
}
