#include "daemon/server/keep_format.h"

#include <string.h>

#include "base/assert.h"

/* ---- writing --------------------------------------------------------------------------------- */

struct writer {
    uint8_t *out;
    uint32_t used;
};

static void put(struct writer *to, uint64_t value, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        to->out[to->used++] = (uint8_t)(value >> (8 * i));
    }
}

static void put_bytes(struct writer *to, const uint8_t *bytes, uint32_t count)
{
    KVEIK_ASSERT(count <= KEEP_RECORD_BYTES_MAX - to->used);
    if (count > 0) {
        (void)memcpy(to->out + to->used, bytes, count);
        to->used += count;
    }
}

static void put_part(struct writer *to, const struct core_kept_part *part)
{
    put(to, part->shape, 4);
    put(to, part->offset, 8);
    put(to, part->seal, 8);
    put(to, part->grains, 2);
    put(to, part->tail_tokens, 1);
    put(to, part->parent != NULL ? 1 : 0, 1);
    put(to, part->origin_bytes, 1);
    put(to, part->key_count, 2);
    put_bytes(to, part->parent, part->parent != NULL ? CORE_KEY_BYTES : 0);
    put_bytes(to, part->origin, part->origin_bytes);
    put_bytes(to, part->keys, part->key_count * CORE_KEY_BYTES);
}

uint32_t keep_encode(const struct keep_record *record, uint8_t *out)
{
    struct writer to = {.out = out, .used = 1};
    out[0] = (uint8_t)record->kind;
    switch (record->kind) {
    case KEEP_HEAD:
        put_bytes(&to, record->u.head.salt, KEEP_SALT_BYTES);
        put(&to, record->u.head.slabs, 4);
        put(&to, record->u.head.extent, 8);
        break;
    case KEEP_SLAB:
        put(&to, record->u.slab.slot_bytes, 8);
        put(&to, record->u.slab.offset, 8);
        put(&to, record->u.slab.bytes, 8);
        break;
    case KEEP_KIND:
        put(&to, record->u.type.number, 4);
        put(&to, record->u.type.space_bytes, 2);
        put(&to, record->u.type.form_bytes, 2);
        put_bytes(&to, record->u.type.space, record->u.type.space_bytes);
        put_bytes(&to, record->u.type.form, record->u.type.form_bytes);
        break;
    case KEEP_PART:
        put_part(&to, &record->u.part);
        break;
    default:
        KVEIK_ASSERT(false);
    }
    return to.used;
}

/* ---- reading --------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *bytes;
    uint32_t count;
    uint32_t used;
    bool good;
};

static const uint8_t *take(struct reader *from, uint32_t bytes)
{
    if (!from->good || bytes > from->count - from->used) {
        from->good = false;
        return NULL;
    }
    const uint8_t *at = from->bytes + from->used;
    from->used += bytes;
    return at;
}

static uint64_t get(struct reader *from, uint32_t bytes)
{
    const uint8_t *at = take(from, bytes);
    uint64_t value = 0;
    for (uint32_t i = 0; at != NULL && i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static uint32_t get32(struct reader *from, uint32_t bytes)
{
    return (uint32_t)get(from, bytes);
}

static void get_part(struct reader *from, struct core_kept_part *part)
{
    *part = (struct core_kept_part){.shape = get32(from, 4), .sealed = true};
    part->offset = get(from, 8);
    part->seal = get(from, 8);
    part->grains = get32(from, 2);
    part->tail_tokens = get32(from, 1);
    uint32_t parent = get32(from, 1);
    part->origin_bytes = get32(from, 1);
    part->key_count = get32(from, 2);
    from->good = from->good && part->shape < KEEP_KIND_MAX && parent <= 1 &&
                 part->origin_bytes <= CORE_INSTANCE_MAX && part->grains >= 1 &&
                 part->grains <= BLOCK_GRAINS_MAX && part->tail_tokens >= 1 &&
                 part->tail_tokens <= GRAIN_TOKENS &&
                 (part->key_count == 1 || part->key_count == part->grains);
    part->parent = parent == 1 ? take(from, CORE_KEY_BYTES) : NULL;
    part->origin = take(from, part->origin_bytes);
    part->keys = take(from, part->key_count * CORE_KEY_BYTES);
}

static void get_kind(struct reader *from, struct keep_kind *kind)
{
    *kind = (struct keep_kind){.number = get32(from, 4)};
    kind->space_bytes = get32(from, 2);
    kind->form_bytes = get32(from, 2);
    from->good = from->good && kind->number < KEEP_KIND_MAX && kind->space_bytes <= KEEP_BLOB_MAX &&
                 kind->form_bytes <= KEEP_BLOB_MAX;
    kind->space = take(from, kind->space_bytes);
    kind->form = take(from, kind->form_bytes);
}

static void get_head(struct reader *from, struct keep_head *head)
{
    const uint8_t *salt = take(from, KEEP_SALT_BYTES);
    if (salt != NULL) {
        (void)memcpy(head->salt, salt, KEEP_SALT_BYTES);
    }
    head->slabs = get32(from, 4);
    head->extent = get(from, 8);
}

bool keep_decode(const uint8_t *bytes, uint32_t count, struct keep_record *record_out)
{
    struct reader from = {.bytes = bytes, .count = count, .good = true};
    record_out->kind = (enum keep_record_kind)get(&from, 1);
    switch (record_out->kind) {
    case KEEP_HEAD:
        get_head(&from, &record_out->u.head);
        break;
    case KEEP_SLAB:
        record_out->u.slab.slot_bytes = get(&from, 8);
        record_out->u.slab.offset = get(&from, 8);
        record_out->u.slab.bytes = get(&from, 8);
        break;
    case KEEP_KIND:
        get_kind(&from, &record_out->u.type);
        break;
    case KEEP_PART:
        get_part(&from, &record_out->u.part);
        break;
    default:
        return false;
    }
    return from.good && from.used == count;
}
