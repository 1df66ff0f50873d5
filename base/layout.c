#include "base/layout.h"

#include <stddef.h>

#include "base/assert.h"

enum { DIMS = 4, STORED_ALIGNMENT = 64 };

bool layout_heads_apart(const struct layout *layout)
{
    return layout->opaque && layout->planes[0].head_stride != 0;
}

bool stored_form_heads_apart(const struct stored_form *form)
{
    return form->opaque && form->kinds[0].head_stride != 0;
}

uint32_t layout_head_units(const struct layout *layout)
{
    return layout->opaque && !layout_heads_apart(layout) ? 1 : layout->head_count;
}

/* A field of a layout that must lie in [1, max]. */
struct bounded_field {
    const char *name;
    uint64_t value;
    uint64_t max;
};

static int check_bounded(const struct bounded_field *fields, size_t count, struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (fields[i].value == 0 || fields[i].value > fields[i].max) {
            return error_set(error, ST_INVALID, "layout: %s is %llu, must be 1 to %llu",
                             fields[i].name, (unsigned long long)fields[i].value,
                             (unsigned long long)fields[i].max);
        }
    }
    return ST_OK;
}

static int check_counts(const struct layout *layout, struct error *error)
{
    const struct bounded_field fields[] = {
        {"page_tokens", layout->page_tokens, LAYOUT_PAGE_TOKENS_MAX},
        {"page_count", layout->page_count, UINT32_MAX},
        {"layer_count", layout->layer_count, LAYOUT_LAYERS_MAX},
        {"head_count", layout->head_count, LAYOUT_HEADS_MAX},
        {"kind_count", layout->kind_count, LAYOUT_KINDS_MAX},
    };
    int status = check_bounded(fields, ARRAY_COUNT(fields), error);
    if (status != ST_OK) {
        return status;
    }
    if (layout->layer_begin > UINT32_MAX - layout->layer_count) {
        return error_set(error, ST_INVALID, "layout: layer_begin %u is too large",
                         layout->layer_begin);
    }
    if (layout->head_begin > UINT32_MAX - layout->head_count) {
        return error_set(error, ST_INVALID, "layout: head_begin %u is too large",
                         layout->head_begin);
    }
    uint32_t bytes = layout->element_bytes;
    bool sized = layout->opaque ? bytes == 1 : bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
    if (!sized) {
        return error_set(error, ST_INVALID, "layout: element_bytes is %u, must be %s", bytes,
                         layout->opaque ? "1 in an opaque layout" : "1, 2, 4 or 8");
    }
    uint64_t elements_max = layout->opaque ? UINT32_MAX : LAYOUT_ELEMENTS_MAX;
    for (uint32_t kind = 0; kind < layout->kind_count; kind++) {
        struct bounded_field elements = {"kind_elements", layout->kind_elements[kind],
                                         elements_max};
        status = check_bounded(&elements, 1, error);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

/* One past the last byte of a plane, from its region's start. False when it is beyond 2^60: no
 * memory is that large, and sums and differences of offsets then fit a signed number. */
static bool plane_end(const struct layout *layout, uint32_t kind, const struct layout_plane *plane,
                      uint64_t *end_out)
{
    const uint64_t counts[DIMS] = {layout->page_count, layout->opaque ? 1 : layout->page_tokens,
                                   layout_head_units(layout), layout->kind_elements[kind]};
    const uint64_t strides[DIMS] = {plane->page_stride, plane->token_stride, plane->head_stride,
                                    plane->element_stride};
    uint64_t end = layout->element_bytes;
    if (__builtin_add_overflow(end, plane->offset, &end)) {
        return false;
    }
    for (uint32_t i = 0; i < DIMS; i++) {
        uint64_t span = 0;
        if (__builtin_mul_overflow(counts[i] - 1, strides[i], &span) ||
            __builtin_add_overflow(end, span, &end)) {
            return false;
        }
    }
    *end_out = end;
    return end <= (uint64_t)1 << 60;
}

/* What only opaque planes can have wrong. */
static int check_opaque(const struct layout *layout, uint32_t index, struct error *error)
{
    const struct layout_plane *plane = &layout->planes[index];
    uint32_t layer = index / layout->kind_count;
    uint32_t kind = index % layout->kind_count;
    if (plane->token_stride != 0 || plane->element_stride != 1) {
        return error_set(error, ST_INVALID,
                         "layout: layer %u kind %u: an opaque page has token_stride 0, "
                         "element_stride 1",
                         layer, kind);
    }
    bool apart = layout_heads_apart(layout);
    if ((plane->head_stride != 0) != apart) {
        return error_set(error, ST_INVALID,
                         "layout: layer %u kind %u: head_stride is %llu, but the first plane's "
                         "pages are %s: all planes of an opaque layout have a head_stride, or none",
                         layer, kind, (unsigned long long)plane->head_stride,
                         apart ? "cut by heads" : "whole");
    }
    /* a page of all heads is as large as a whole one may be: so the bytes of a part, times as many
     * cells, kinds and layers as there can be, stay far from overflow */
    uint64_t bytes = (uint64_t)layout_head_units(layout) * layout->kind_elements[kind];
    if (bytes > UINT32_MAX) {
        return error_set(error, ST_INVALID,
                         "layout: layer %u kind %u: a page of %u heads has %llu bytes, at most %u",
                         layer, kind, layout->head_count, (unsigned long long)bytes, UINT32_MAX);
    }
    return ST_OK;
}

static int check_plane(const struct layout *layout, uint32_t index, const uint64_t *region_bytes,
                       uint32_t region_count, struct error *error)
{
    const struct layout_plane *plane = &layout->planes[index];
    uint32_t layer = index / layout->kind_count;
    uint32_t kind = index % layout->kind_count;
    if (plane->region >= region_count) {
        return error_set(error, ST_INVALID, "layout: layer %u kind %u: region %u of %u", layer,
                         kind, plane->region, region_count);
    }
    int status = layout->opaque ? check_opaque(layout, index, error) : ST_OK;
    if (status != ST_OK) {
        return status;
    }
    uint64_t end = 0;
    if (!plane_end(layout, kind, plane, &end)) {
        return error_set(error, ST_INVALID, "layout: layer %u kind %u: offset and strides overflow",
                         layer, kind);
    }
    if (end > region_bytes[plane->region]) {
        return error_set(error, ST_INVALID,
                         "layout: layer %u kind %u ends at byte %llu of region %u, which has %llu",
                         layer, kind, (unsigned long long)end, plane->region,
                         (unsigned long long)region_bytes[plane->region]);
    }
    return ST_OK;
}

int layout_check(const struct layout *layout, const uint64_t *region_bytes, uint32_t region_count,
                 struct error *error)
{
    KVEIK_ASSERT(layout != NULL);
    KVEIK_ASSERT(region_bytes != NULL || region_count == 0);
    int status = check_counts(layout, error);
    if (status != ST_OK) {
        return status;
    }
    if (region_count > LAYOUT_REGIONS_MAX) {
        return error_set(error, ST_INVALID, "layout: %u regions, at most %u", region_count,
                         (unsigned)LAYOUT_REGIONS_MAX);
    }
    if (layout->planes == NULL) {
        return error_set(error, ST_INVALID, "layout: no planes");
    }
    uint32_t plane_count = layout->layer_count * layout->kind_count;
    for (uint32_t i = 0; i < plane_count; i++) {
        status = check_plane(layout, i, region_bytes, region_count, error);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

/* Makes token, head and element dense, in the order of the plane's strides: the smallest stride
 * stays innermost, whatever gaps there were. Dimensions of one item may carry any stride. */
static void make_dense(const struct layout_plane *plane, uint64_t element_bytes,
                       const uint64_t counts[3], struct stored_kind *kind)
{
    const uint64_t strides[3] = {plane->token_stride, plane->head_stride, plane->element_stride};
    uint64_t *const dense[3] = {&kind->token_stride, &kind->head_stride, &kind->element_stride};
    bool placed[3] = {false, false, false};
    uint64_t bytes = element_bytes;
    for (int step = 0; step < 3; step++) {
        int inner = -1;
        for (int i = 2; i >= 0; i--) {
            if (!placed[i] && (inner < 0 || strides[i] < strides[inner])) {
                inner = i;
            }
        }
        KVEIK_ASSERT(inner >= 0);
        placed[inner] = true;
        *dense[inner] = bytes;
        bytes *= counts[inner];
    }
    kind->cell_stride = bytes;
}

int stored_form_of(const struct layout *layout, uint32_t grains, struct stored_form *form_out,
                   struct error *error)
{
    KVEIK_ASSERT(layout != NULL && layout->planes != NULL);
    KVEIK_ASSERT(layout->kind_count >= 1 && layout->kind_count <= LAYOUT_KINDS_MAX);
    if (grains == 0 || grains > BLOCK_GRAINS_MAX) {
        return error_set(error, ST_INVALID, "block of %u grains, must be 1 to %u", grains,
                         (unsigned)BLOCK_GRAINS_MAX);
    }
    uint32_t block = grains * GRAIN_TOKENS;
    uint32_t page = layout->page_tokens;
    bool small_pages = block % page == 0;
    if (!small_pages && (layout->opaque || page % block != 0)) {
        return error_set(error, ST_INVALID, "blocks of %u tokens do not fit pages of %u", block,
                         page);
    }
    struct stored_form form = {.block_tokens = block,
                               .cell_tokens = small_pages ? page : block,
                               .layer_begin = layout->layer_begin,
                               .layer_count = layout->layer_count,
                               .head_begin = layout->head_begin,
                               .head_count = layout->head_count,
                               .kind_count = layout->kind_count,
                               .element_bytes = layout->element_bytes,
                               .opaque = layout->opaque};
    for (uint32_t k = 0; k < layout->kind_count; k++) {
        struct stored_kind *kind = &form.kinds[k];
        kind->elements = layout->kind_elements[k];
        kind->offset = form.layer_bytes;
        if (layout->opaque) {
            /* layout_check() proved that the product is at most UINT32_MAX */
            kind->cell_stride = (uint64_t)kind->elements * layout_head_units(layout);
            kind->head_stride = layout_heads_apart(layout) ? kind->elements : 0;
            kind->element_stride = 1;
        } else {
            /* at most 2^12 tokens, 2^12 heads, 2^16 elements of 8 bytes: far from overflow */
            const uint64_t counts[3] = {form.cell_tokens, form.head_count, kind->elements};
            make_dense(&layout->planes[k], form.element_bytes, counts, kind);
        }
        uint64_t cells = form.block_tokens / form.cell_tokens;
        kind->bytes = (cells * kind->cell_stride + STORED_ALIGNMENT - 1) / STORED_ALIGNMENT *
                      STORED_ALIGNMENT;
        form.layer_bytes += kind->bytes;
    }
    form.part_bytes = form.layer_bytes * form.layer_count;
    *form_out = form;
    return ST_OK;
}

/* Bytes of a whole page belong to all of its ranks: ranges that overlap must be the same. Where
 * heads are apart, each finds its own. */
static bool opaque_fits(const struct stored_form *form, const struct layout *layout)
{
    uint64_t form_end = (uint64_t)form->head_begin + form->head_count;
    uint64_t layout_end = (uint64_t)layout->head_begin + layout->head_count;
    bool apart = form_end <= layout->head_begin || layout_end <= form->head_begin;
    bool same = form->head_begin == layout->head_begin && form->head_count == layout->head_count;
    return form->cell_tokens == layout->page_tokens &&
           stored_form_heads_apart(form) == layout_heads_apart(layout) &&
           (stored_form_heads_apart(form) || apart || same);
}

bool stored_form_fits(const struct stored_form *form, const struct layout *layout)
{
    KVEIK_ASSERT(form != NULL && layout != NULL);
    if (form->opaque != layout->opaque || form->kind_count != layout->kind_count ||
        form->element_bytes != layout->element_bytes) {
        return false;
    }
    for (uint32_t kind = 0; kind < form->kind_count; kind++) {
        if (form->kinds[kind].elements != layout->kind_elements[kind]) {
            return false;
        }
    }
    return !form->opaque || opaque_fits(form, layout);
}
