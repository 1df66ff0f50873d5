/*
 * Spaces and stored forms as bytes: what is kept on disk with parts, so that another daemon finds
 * the same spaces and shapes again. Fixed little-endian fields after a version; every decoder
 * checks every bound, since the bytes come from a disk.
 */
#include <string.h>

#include "base/heap.h"
#include "daemon/server/pack.h"
#include "daemon/server/state.h"

enum { KIND_VERSION = 1, PART_BYTES_MAX_LOG = 36, EXTENT_MAX_LOG = 40 };

/* ---- writing --------------------------------------------------------------------------------- */

static void put_text(struct packer *to, const char *text)
{
    uint32_t bytes = (uint32_t)strnlen(text, SPACE_NAME_BYTES - 1);
    pack_number(to, bytes, 2);
    pack_bytes(to, text, bytes);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): it is written through the writer */
uint32_t kind_space_encode(const struct kind_space *space, uint8_t *out)
{
    struct packer to = {.out = out, .room = KIND_SPACE_BYTES_MAX};
    pack_number(&to, KIND_VERSION, 1);
    pack_bytes(&to, space->id, CORE_KEY_BYTES);
    pack_number(&to, space->tenant, 4);
    pack_number(&to, space->admission, 1);
    pack_number(&to, space->quota_bytes, 8);
    pack_number(&to, space->group_count, 1);
    for (uint32_t g = 0; g < space->group_count; g++) {
        pack_number(&to, space->groups[g].rule, 1);
        pack_number(&to, space->groups[g].window_tokens, 4);
        pack_number(&to, space->groups[g].layer_count, 4);
        pack_number(&to, space->groups[g].head_count, 4);
    }
    put_text(&to, space->model);
    put_text(&to, space->revision);
    return to.used;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): it is written through the writer */
uint32_t kind_form_encode(const struct kind_form *kind, uint8_t *out)
{
    const struct stored_form *form = &kind->form;
    struct packer to = {.out = out, .room = KIND_FORM_BYTES_MAX};
    pack_number(&to, KIND_VERSION, 1);
    pack_number(&to, kind->group, 4);
    pack_number(&to, kind->grains, 4);
    pack_number(&to, form->block_tokens, 4);
    pack_number(&to, form->cell_tokens, 4);
    pack_number(&to, form->layer_begin, 4);
    pack_number(&to, form->layer_count, 4);
    pack_number(&to, form->head_begin, 4);
    pack_number(&to, form->head_count, 4);
    pack_number(&to, form->element_bytes, 1);
    pack_number(&to, form->opaque ? 1 : 0, 1);
    pack_number(&to, form->layer_bytes, 8);
    pack_number(&to, form->part_bytes, 8);
    pack_number(&to, form->kind_count, 1);
    for (uint32_t k = 0; k < form->kind_count; k++) {
        pack_number(&to, form->kinds[k].offset, 8);
        pack_number(&to, form->kinds[k].bytes, 8);
        pack_number(&to, form->kinds[k].cell_stride, 8);
        pack_number(&to, form->kinds[k].token_stride, 8);
        pack_number(&to, form->kinds[k].head_stride, 8);
        pack_number(&to, form->kinds[k].element_stride, 8);
        pack_number(&to, form->kinds[k].elements, 4);
    }
    return to.used;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void get_text(struct unpacker *from, char *out)
{
    uint32_t bytes = (uint32_t)unpack_number(from, 2);
    const uint8_t *at = bytes < SPACE_NAME_BYTES ? unpack_bytes(from, bytes) : NULL;
    if (at == NULL) {
        from->good = false;
        return;
    }
    (void)memcpy(out, at, bytes);
    out[bytes] = '\0';
}

bool kind_space_decode(const uint8_t *bytes, uint32_t count, struct kind_space *out)
{
    struct unpacker from = {.bytes = bytes, .count = count, .good = true};
    *out = (struct kind_space){0};
    bool good = unpack_number(&from, 1) == KIND_VERSION;
    const uint8_t *id = unpack_bytes(&from, CORE_KEY_BYTES);
    if (!good || id == NULL) {
        return false;
    }
    (void)memcpy(out->id, id, CORE_KEY_BYTES);
    out->tenant = unpack_u32(&from, 4);
    out->admission = (uint32_t)unpack_number(&from, 1);
    out->quota_bytes = unpack_number(&from, 8);
    out->group_count = (uint32_t)unpack_number(&from, 1);
    good = out->group_count >= 1 && out->group_count <= CORE_GROUPS_MAX;
    for (uint32_t g = 0; good && g < out->group_count; g++) {
        struct core_group *group = &out->groups[g];
        group->rule = (uint32_t)unpack_number(&from, 1);
        group->window_tokens = unpack_u32(&from, 4);
        group->layer_count = unpack_u32(&from, 4);
        group->head_count = unpack_u32(&from, 4);
        good = group->rule >= CORE_EVERY && group->rule <= CORE_STATE && group->layer_count > 0 &&
               group->layer_count <= LAYOUT_LAYERS_MAX && group->head_count > 0 &&
               group->head_count <= LAYOUT_HEADS_MAX;
    }
    if (!good) {
        return false;
    }
    get_text(&from, out->model);
    get_text(&from, out->revision);
    return unpack_end(&from);
}

/* Every byte that the strides of a plane can reach lies in the layer. */
static bool plane_inside(const struct stored_form *form, const struct stored_kind *kind)
{
    const uint64_t most = UINT64_C(1) << EXTENT_MAX_LOG;
    if (kind->offset > most || kind->bytes > most || kind->cell_stride > most ||
        kind->token_stride > most || kind->head_stride > most || kind->element_stride > most ||
        kind->elements == 0) {
        return false;
    }
    uint64_t cells = form->block_tokens / form->cell_tokens;
    __uint128_t end = kind->offset;
    end += (__uint128_t)(cells - 1) * kind->cell_stride;
    end += (__uint128_t)(form->cell_tokens - 1) * kind->token_stride;
    end += (__uint128_t)(form->head_count - 1) * kind->head_stride;
    end += (__uint128_t)(kind->elements - 1) * kind->element_stride;
    end += form->element_bytes;
    return end <= form->layer_bytes;
}

static bool form_sound(const struct kind_form *kind)
{
    const struct stored_form *form = &kind->form;
    bool good = kind->grains >= 1 && kind->grains <= BLOCK_GRAINS_MAX &&
                form->block_tokens == kind->grains * GRAIN_TOKENS && form->cell_tokens > 0 &&
                form->block_tokens % form->cell_tokens == 0;
    good = good && form->layer_count > 0 && form->layer_count <= LAYOUT_LAYERS_MAX &&
           form->head_count > 0 && form->head_count <= LAYOUT_HEADS_MAX;
    good = good &&
           (form->element_bytes == 1 || form->element_bytes == 2 || form->element_bytes == 4 ||
            form->element_bytes == 8) &&
           form->part_bytes > 0 && form->part_bytes <= UINT64_C(1) << PART_BYTES_MAX_LOG &&
           form->layer_bytes == form->part_bytes / form->layer_count &&
           form->part_bytes % form->layer_count == 0;
    for (uint32_t k = 0; good && k < form->kind_count; k++) {
        good = plane_inside(form, &form->kinds[k]);
    }
    return good;
}

bool kind_form_decode(const uint8_t *bytes, uint32_t count, struct kind_form *out)
{
    struct unpacker from = {.bytes = bytes, .count = count, .good = true};
    *out = (struct kind_form){0};
    struct stored_form *form = &out->form;
    bool good = unpack_number(&from, 1) == KIND_VERSION;
    out->group = unpack_u32(&from, 4);
    out->grains = unpack_u32(&from, 4);
    form->block_tokens = unpack_u32(&from, 4);
    form->cell_tokens = unpack_u32(&from, 4);
    form->layer_begin = unpack_u32(&from, 4);
    form->layer_count = unpack_u32(&from, 4);
    form->head_begin = unpack_u32(&from, 4);
    form->head_count = unpack_u32(&from, 4);
    form->element_bytes = (uint32_t)unpack_number(&from, 1);
    form->opaque = unpack_number(&from, 1) != 0;
    form->layer_bytes = unpack_number(&from, 8);
    form->part_bytes = unpack_number(&from, 8);
    form->kind_count = (uint32_t)unpack_number(&from, 1);
    if (!good || form->kind_count == 0 || form->kind_count > LAYOUT_KINDS_MAX) {
        return false;
    }
    for (uint32_t k = 0; k < form->kind_count; k++) {
        struct stored_kind *kind = &form->kinds[k];
        kind->offset = unpack_number(&from, 8);
        kind->bytes = unpack_number(&from, 8);
        kind->cell_stride = unpack_number(&from, 8);
        kind->token_stride = unpack_number(&from, 8);
        kind->head_stride = unpack_number(&from, 8);
        kind->element_stride = unpack_number(&from, 8);
        kind->elements = unpack_u32(&from, 4);
    }
    return unpack_end(&from) && form_sound(out);
}

/* ---- their numbers --------------------------------------------------------------------------- */

int space_text_keep(struct server *server, uint32_t core_space, const struct kind_space *space)
{
    if (server->space_texts == NULL) { /* nothing is kept anywhere */
        return ST_OK;
    }
    KVEIK_ASSERT(core_space < SPACES_MAX);
    struct server_space_text *text = &server->space_texts[core_space];
    uint8_t blob[KIND_SPACE_BYTES_MAX];
    uint32_t bytes = kind_space_encode(space, blob);
    if (text->blob != NULL && text->bytes == bytes && memcmp(text->blob, blob, bytes) == 0) {
        return ST_OK;
    }
    uint8_t *copy = heap_alloc(bytes);
    if (copy == NULL) {
        return ST_NO_MEMORY;
    }
    (void)memcpy(copy, blob, bytes);
    heap_free(text->blob);
    *text = (struct server_space_text){.blob = copy, .bytes = bytes};
    return ST_OK;
}

int shape_kind(struct server *server, uint32_t number, uint32_t *kind_out)
{
    struct server_shape *shape = &server->shapes[number];
    const struct server_space_text *text = &server->space_texts[shape->core_space];
    if (shape->kind == NO_HANDLE) {
        uint8_t blob[KIND_FORM_BYTES_MAX];
        struct kind_form form = {
            .group = shape->group, .grains = shape->grains, .form = shape->form};
        struct disk_kind kind = {.space = text->blob,
                                 .space_bytes = text->bytes,
                                 .form = blob,
                                 .form_bytes = kind_form_encode(&form, blob)};
        int status =
            text->blob == NULL ? ST_INTERNAL : disk_kind_number(server->disk, &kind, &shape->kind);
        if (status != ST_OK) {
            shape->kind = NO_HANDLE;
            return status;
        }
    }
    *kind_out = shape->kind;
    return ST_OK;
}
