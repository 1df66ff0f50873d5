/* Statuses, errors and the growth of public structs: the edge of the library. */
#include <stdbool.h>
#include <string.h>

#include "base/heap.h"
#include "client/lib/client.h"

/* The public numbers are the internal and the wire's. */
#define SAME(public, internal)                                                                     \
    _Static_assert((int)(public) == (int)(internal), #public " differs from " #internal)
SAME(KVEIK_OK, ST_OK);
SAME(KVEIK_MISS, ST_MISS);
SAME(KVEIK_HELD, ST_HELD);
SAME(KVEIK_PENDING, ST_PENDING);
SAME(KVEIK_E_INVALID, ST_INVALID);
SAME(KVEIK_E_NO_MEMORY, ST_NO_MEMORY);
SAME(KVEIK_E_IO, ST_IO);
SAME(KVEIK_E_PROTOCOL, ST_PROTOCOL);
SAME(KVEIK_E_VERSION, ST_VERSION);
SAME(KVEIK_E_NO_SPACE, ST_NO_SPACE);
SAME(KVEIK_E_QUOTA, ST_QUOTA);
SAME(KVEIK_E_DEADLINE, ST_DEADLINE);
SAME(KVEIK_E_CANCELLED, ST_CANCELLED);
SAME(KVEIK_E_UNKNOWN_ID, ST_UNKNOWN_ID);
SAME(KVEIK_E_LOST, ST_LOST);
SAME(KVEIK_E_UNAVAILABLE, ST_UNAVAILABLE);
SAME(KVEIK_E_BUSY, ST_BUSY);
SAME(KVEIK_E_UNSUPPORTED, ST_UNSUPPORTED);
SAME(KVEIK_E_PERMISSION, ST_PERMISSION);
SAME(KVEIK_E_MEMORY, ST_MEMORY);
SAME(KVEIK_E_LIMIT, ST_LIMIT);
SAME(KVEIK_E_CORRUPT, ST_CORRUPT);
SAME(KVEIK_E_SHUTDOWN, ST_SHUTDOWN);
SAME(KVEIK_E_MISMATCH, ST_MISMATCH);
SAME(KVEIK_E_FORKED, ST_FORKED);
SAME(KVEIK_E_STUCK, ST_STUCK);
SAME(KVEIK_E_INTERNAL, ST_INTERNAL);
SAME(KVEIK_F32, SPACE_F32);
SAME(KVEIK_BF16, SPACE_BF16);
SAME(KVEIK_F16, SPACE_F16);
SAME(KVEIK_F8_E4M3, SPACE_F8_E4M3);
SAME(KVEIK_F8_E5M2, SPACE_F8_E5M2);
SAME(KVEIK_I8, SPACE_I8);
SAME(KVEIK_U8, SPACE_U8);
SAME(KVEIK_F64, SPACE_F64);
SAME(KVEIK_RULE_EVERY, GROUP_EVERY);
SAME(KVEIK_RULE_WINDOW, GROUP_WINDOW);
SAME(KVEIK_RULE_STATE, GROUP_STATE);
SAME(KVEIK_KINDS_MAX, LAYOUT_KINDS_MAX);
SAME(KVEIK_GROUPS_MAX, SPACE_GROUPS_MAX);
SAME(KVEIK_ORIGINS_MAX, MSG_ORIGINS_MAX);
SAME(KVEIK_KEY_BYTES, MSG_KEY_BYTES);
SAME(KVEIK_GRAIN_TOKENS, GRAIN_TOKENS);
#undef SAME

_Static_assert(sizeof(struct kveik_error) == sizeof(struct error), "the same texts fit");

const char *kveik_status_text(int status)
{
    return status_text(status);
}

const char *kveik_version(void)
{
    return KVEIK_VERSION;
}

void kveik_text_free(char *text)
{
    heap_free(text);
}

static void copy_text(char out[ERROR_TEXT_BYTES], const char *text)
{
    size_t length = strnlen(text, ERROR_TEXT_BYTES - 1);
    (void)memcpy(out, text, length);
    out[length] = '\0';
}

int report(int status, const struct error *error, struct kveik_error *error_out)
{
    if (status < 0 && error_out != NULL) {
        bool worded = error != NULL && error->text[0] != '\0';
        error_out->status = status;
        copy_text(error_out->text, worded ? error->text : status_text(status));
    }
    return status;
}

static size_t size_of(const void *theirs)
{
    size_t size = 0;
    (void)memcpy(&size, theirs, sizeof size);
    return size;
}

int take_struct(void *ours, size_t our_bytes, const void *theirs, const char *init,
                struct error *error)
{
    if (theirs == NULL) {
        return error_set(error, ST_INVALID, "a struct is NULL; initialise one with %s", init);
    }
    size_t size = size_of(theirs);
    if (size < 2 * sizeof size) {
        return error_set(error, ST_INVALID, "size is %zu; initialise the struct with %s", size,
                         init);
    }
    const uint8_t *bytes = theirs;
    for (size_t i = our_bytes; i < size; i++) {
        if (bytes[i] != 0) {
            return error_set(error, ST_UNSUPPORTED,
                             "a field at byte %zu that this library (%s) does not know; see %s", i,
                             KVEIK_VERSION, init);
        }
    }
    (void)memset(ours, 0, our_bytes);
    (void)memcpy(ours, theirs, size < our_bytes ? size : our_bytes);
    return ST_OK;
}

int give_struct(const void *ours, size_t our_bytes, void *theirs)
{
    size_t size = size_of(theirs);
    if (size < 2 * sizeof size) {
        return ST_INVALID;
    }
    uint8_t *out = theirs;
    size_t given = size < our_bytes ? size : our_bytes;
    (void)memcpy(out + sizeof size, (const uint8_t *)ours + sizeof size, given - sizeof size);
    if (size > given) {
        (void)memset(out + given, 0, size - given);
    }
    return ST_OK;
}
