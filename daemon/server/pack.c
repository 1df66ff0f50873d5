#include "daemon/server/pack.h"

#include <stddef.h>
#include <string.h>

#include "base/assert.h"

void pack_number(struct packer *to, uint64_t value, uint32_t bytes)
{
    KVEIK_ASSERT(bytes <= 8 && bytes <= to->room - to->used);
    for (uint32_t i = 0; i < bytes; i++) {
        to->out[to->used++] = (uint8_t)(value >> (8 * i));
    }
}

void pack_bytes(struct packer *to, const void *bytes, uint32_t count)
{
    KVEIK_ASSERT(count <= to->room - to->used);
    if (count > 0) {
        (void)memcpy(to->out + to->used, bytes, count);
        to->used += count;
    }
}

const uint8_t *unpack_bytes(struct unpacker *from, uint32_t bytes)
{
    if (!from->good || bytes > from->count - from->used) {
        from->good = false;
        return NULL;
    }
    const uint8_t *at = from->bytes + from->used;
    from->used += bytes;
    return at;
}

uint64_t unpack_number(struct unpacker *from, uint32_t bytes)
{
    KVEIK_ASSERT(bytes <= 8);
    const uint8_t *at = unpack_bytes(from, bytes);
    uint64_t value = 0;
    for (uint32_t i = 0; at != NULL && i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

uint32_t unpack_u32(struct unpacker *from, uint32_t bytes)
{
    KVEIK_ASSERT(bytes <= 4);
    return (uint32_t)unpack_number(from, bytes);
}
