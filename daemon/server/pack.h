/*
 * Little-endian fields one after the other: how the server describes spaces, forms and parts that
 * are kept for the next daemon. Reading never leaves its bytes: a field too many makes `good` false
 * for good, and gives 0 or NULL.
 */
#ifndef KVEIK_SERVER_PACK_H
#define KVEIK_SERVER_PACK_H

#include <stdbool.h>
#include <stdint.h>

struct packer {
    uint8_t *out; /* `room` bytes */
    uint32_t room;
    uint32_t used;
};

/* The room is the caller's business: asserted, not reported. */
void pack_number(struct packer *to, uint64_t value, uint32_t bytes);
void pack_bytes(struct packer *to, const void *bytes, uint32_t count);

struct unpacker {
    const uint8_t *bytes;
    uint32_t count;
    uint32_t used;
    bool good; /* true at first */
};

/* At most 8 bytes. */
uint64_t unpack_number(struct unpacker *from, uint32_t bytes);
uint32_t unpack_u32(struct unpacker *from, uint32_t bytes); /* at most 4 */

/* `bytes` of them where they lie. */
const uint8_t *unpack_bytes(struct unpacker *from, uint32_t bytes);

/* Everything was there, and nothing is left. */
static inline bool unpack_end(const struct unpacker *from)
{
    return from->good && from->used == from->count;
}

#endif
