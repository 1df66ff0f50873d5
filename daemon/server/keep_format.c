#include "daemon/server/keep_format.h"

#include <string.h>

#include "base/assert.h"
#include "daemon/server/pack.h"

/* ---- writing --------------------------------------------------------------------------------- */

static void put_part(struct packer *to, const struct core_kept_part *part)
{
    pack_number(to, part->shape, 4);
    pack_number(to, part->offset, 8);
    pack_number(to, part->seal, 8);
    pack_number(to, part->grains, 2);
    pack_number(to, part->tail_tokens, 1);
    pack_number(to, part->parent != NULL ? 1 : 0, 1);
    pack_number(to, part->origin_bytes, 1);
    pack_number(to, part->key_count, 2);
    pack_bytes(to, part->parent, part->parent != NULL ? CORE_KEY_BYTES : 0);
    pack_bytes(to, part->origin, part->origin_bytes);
    pack_bytes(to, part->keys, part->key_count * CORE_KEY_BYTES);
}

uint32_t keep_encode(const struct keep_record *record, uint8_t *out)
{
    struct packer to = {.out = out, .room = KEEP_RECORD_BYTES_MAX, .used = 1};
    out[0] = (uint8_t)record->kind;
    switch (record->kind) {
    case KEEP_HEAD:
        pack_bytes(&to, record->u.head.salt, KEEP_SALT_BYTES);
        pack_number(&to, record->u.head.slabs, 4);
        pack_number(&to, record->u.head.extent, 8);
        break;
    case KEEP_SLAB:
        pack_number(&to, record->u.slab.slot_bytes, 8);
        pack_number(&to, record->u.slab.offset, 8);
        pack_number(&to, record->u.slab.bytes, 8);
        break;
    case KEEP_KIND:
        pack_number(&to, record->u.type.number, 4);
        pack_number(&to, record->u.type.space_bytes, 2);
        pack_number(&to, record->u.type.form_bytes, 2);
        pack_bytes(&to, record->u.type.space, record->u.type.space_bytes);
        pack_bytes(&to, record->u.type.form, record->u.type.form_bytes);
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

static void get_part(struct unpacker *from, struct core_kept_part *part)
{
    *part = (struct core_kept_part){.shape = unpack_u32(from, 4), .sealed = true};
    part->offset = unpack_number(from, 8);
    part->seal = unpack_number(from, 8);
    part->grains = unpack_u32(from, 2);
    part->tail_tokens = unpack_u32(from, 1);
    uint32_t parent = unpack_u32(from, 1);
    part->origin_bytes = unpack_u32(from, 1);
    part->key_count = unpack_u32(from, 2);
    from->good = from->good && part->shape < KEEP_KIND_MAX && parent <= 1 &&
                 part->origin_bytes <= CORE_INSTANCE_MAX && part->grains >= 1 &&
                 part->grains <= BLOCK_GRAINS_MAX && part->tail_tokens >= 1 &&
                 part->tail_tokens <= GRAIN_TOKENS &&
                 (part->key_count == 1 || part->key_count == part->grains);
    part->parent = parent == 1 ? unpack_bytes(from, CORE_KEY_BYTES) : NULL;
    part->origin = unpack_bytes(from, part->origin_bytes);
    part->keys = unpack_bytes(from, part->key_count * CORE_KEY_BYTES);
}

static void get_kind(struct unpacker *from, struct keep_kind *kind)
{
    *kind = (struct keep_kind){.number = unpack_u32(from, 4)};
    kind->space_bytes = unpack_u32(from, 2);
    kind->form_bytes = unpack_u32(from, 2);
    from->good = from->good && kind->number < KEEP_KIND_MAX && kind->space_bytes <= KEEP_BLOB_MAX &&
                 kind->form_bytes <= KEEP_BLOB_MAX;
    kind->space = unpack_bytes(from, kind->space_bytes);
    kind->form = unpack_bytes(from, kind->form_bytes);
}

static void get_head(struct unpacker *from, struct keep_head *head)
{
    const uint8_t *salt = unpack_bytes(from, KEEP_SALT_BYTES);
    if (salt != NULL) {
        (void)memcpy(head->salt, salt, KEEP_SALT_BYTES);
    }
    head->slabs = unpack_u32(from, 4);
    head->extent = unpack_number(from, 8);
}

bool keep_decode(const uint8_t *bytes, uint32_t count, struct keep_record *record_out)
{
    struct unpacker from = {.bytes = bytes, .count = count, .good = true};
    record_out->kind = (enum keep_record_kind)unpack_number(&from, 1);
    switch (record_out->kind) {
    case KEEP_HEAD:
        get_head(&from, &record_out->u.head);
        break;
    case KEEP_SLAB:
        record_out->u.slab.slot_bytes = unpack_number(&from, 8);
        record_out->u.slab.offset = unpack_number(&from, 8);
        record_out->u.slab.bytes = unpack_number(&from, 8);
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
    return unpack_end(&from);
}
