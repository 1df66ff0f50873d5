#include "storage/cpu/scatter.h"

#include "base/assert.h"

uint32_t scatter_plane_count(const struct copy_item *item)
{
    return item->layer_count * item->form->kind_count;
}

uint64_t scatter_plane_bytes(const struct copy_item *item, uint32_t plane)
{
    const struct stored_form *form = item->form;
    uint64_t elements = form->kinds[plane % form->kind_count].elements;
    if (form->opaque) {
        uint64_t heads = stored_form_heads_apart(form) ? item->head_count : 1;
        return item->tokens / form->cell_tokens * heads * elements;
    }
    return (uint64_t)item->tokens * item->head_count * elements * form->element_bytes;
}

uint64_t scatter_item_bytes(const struct copy_item *item)
{
    uint64_t layer_bytes = 0;
    for (uint32_t kind = 0; kind < item->form->kind_count; kind++) {
        layer_bytes += scatter_plane_bytes(item, kind);
    }
    return layer_bytes * item->layer_count;
}

uint64_t box_bytes(const struct box *box)
{
    uint64_t bytes = box->run_bytes;
    for (uint32_t i = 0; i < box->dim_count; i++) {
        bytes *= box->dims[i].count;
    }
    return bytes;
}

static void remove_dim(struct box *box, uint32_t at)
{
    box->dim_count--;
    for (uint32_t i = at; i < box->dim_count; i++) {
        box->dims[i] = box->dims[i + 1];
    }
}

static uint64_t order_stride(const struct box_dim *dim, enum box_order order)
{
    return order == BOX_ORDER_ENGINE ? dim->engine_stride : dim->part_stride;
}

static void sort_dims(struct box *box, enum box_order order)
{
    for (uint32_t i = 1; i < box->dim_count; i++) {
        struct box_dim dim = box->dims[i];
        uint32_t at = i;
        while (at > 0 && order_stride(&box->dims[at - 1], order) < order_stride(&dim, order)) {
            box->dims[at] = box->dims[at - 1];
            at--;
        }
        box->dims[at] = dim;
    }
}

void box_normalise(struct box *box, enum box_order order)
{
    for (uint32_t i = box->dim_count; i-- > 0;) {
        if (box->dims[i].count == 1) {
            remove_dim(box, i);
        }
    }
    sort_dims(box, order);
    while (box->dim_count > 0) {
        const struct box_dim *inner = &box->dims[box->dim_count - 1];
        if (inner->engine_stride != box->run_bytes || inner->part_stride != box->run_bytes) {
            break;
        }
        box->run_bytes *= inner->count;
        box->dim_count--;
    }
    for (uint32_t i = box->dim_count; i-- > 1;) {
        const struct box_dim *inner = &box->dims[i];
        struct box_dim *outer = &box->dims[i - 1];
        if (outer->engine_stride == inner->count * inner->engine_stride &&
            outer->part_stride == inner->count * inner->part_stride) {
            outer->engine_stride = inner->engine_stride;
            outer->part_stride = inner->part_stride;
            outer->count *= inner->count;
            remove_dim(box, i);
        }
    }
}

void scatter_init(struct scatter *scatter, const struct copy_memory *memory,
                  const struct copy_item *item, uint32_t plane, enum box_order order)
{
    const struct layout *layout = item->layout;
    const struct stored_form *form = item->form;
    uint32_t layer = item->layer_begin + plane / form->kind_count;
    uint32_t kind = plane % form->kind_count;
    KVEIK_ASSERT(plane < scatter_plane_count(item));
    KVEIK_ASSERT(layer >= layout->layer_begin && layer - layout->layer_begin < layout->layer_count);
    KVEIK_ASSERT(layer >= form->layer_begin && layer - form->layer_begin < form->layer_count);
    uint32_t engine_head = item->head_begin - layout->head_begin;
    uint32_t part_head = item->head_begin - form->head_begin;
    KVEIK_ASSERT((uint64_t)engine_head + item->head_count <= layout->head_count);
    KVEIK_ASSERT((uint64_t)part_head + item->head_count <= form->head_count);
    KVEIK_ASSERT((uint64_t)item->part_token + item->tokens <= form->block_tokens);
    KVEIK_ASSERT(!layout->opaque || (item->page_token % layout->page_tokens == 0 &&
                                     item->part_token % layout->page_tokens == 0 &&
                                     item->tokens % layout->page_tokens == 0 &&
                                     form->cell_tokens == layout->page_tokens &&
                                     stored_form_heads_apart(form) == layout_heads_apart(layout)));

    uint32_t layout_plane = (layer - layout->layer_begin) * layout->kind_count + kind;
    *scatter = (struct scatter){.item = item,
                                .plane = &layout->planes[layout_plane],
                                .kind = &form->kinds[kind],
                                .order = order};
    const struct layout_plane *from = scatter->plane;
    scatter->engine =
        memory->regions[from->region].base + from->offset + engine_head * from->head_stride;
    scatter->part = item->part + (layer - form->layer_begin) * form->layer_bytes +
                    scatter->kind->offset + part_head * scatter->kind->head_stride;
}

/* The box of `tokens` tokens, without its addresses. */
static void make_shape(struct scatter *scatter, uint32_t tokens)
{
    const struct stored_form *form = scatter->item->form;
    const struct layout_plane *plane = scatter->plane;
    const struct stored_kind *kind = scatter->kind;
    const struct box_dim heads = {scatter->item->head_count, plane->head_stride, kind->head_stride};
    scatter->shape_tokens = tokens;
    if (form->opaque) {
        scatter->shape = (struct box){.run_bytes = kind->elements};
        if (stored_form_heads_apart(form)) {
            scatter->shape.dims[scatter->shape.dim_count++] = heads;
        }
    } else {
        scatter->shape =
            (struct box){.run_bytes = form->element_bytes,
                         .dim_count = 3,
                         .dims = {{tokens, plane->token_stride, kind->token_stride},
                                  heads,
                                  {kind->elements, plane->element_stride, kind->element_stride}}};
    }
    box_normalise(&scatter->shape, scatter->order);
}

/* The tokens up to the next end of a page or a cell, and their addresses. Returns 0 at the end. */
static uint32_t next_cut(const struct scatter *scatter, char **engine_out, char **part_out)
{
    const struct copy_item *item = scatter->item;
    uint32_t left = item->tokens - scatter->done_tokens;
    if (left == 0) {
        return 0;
    }
    uint32_t page_tokens = item->layout->page_tokens;
    uint32_t cell_tokens = item->form->cell_tokens;
    uint64_t engine_token = (uint64_t)item->page_token + scatter->done_tokens;
    uint32_t part_token = item->part_token + scatter->done_tokens;
    uint32_t in_page = (uint32_t)(engine_token % page_tokens);
    uint32_t in_cell = part_token % cell_tokens;
    uint32_t page = item->pages[engine_token / page_tokens];
    KVEIK_ASSERT(page < item->layout->page_count);
    *engine_out = scatter->engine + page * scatter->plane->page_stride +
                  in_page * scatter->plane->token_stride;
    *part_out = scatter->part + part_token / cell_tokens * scatter->kind->cell_stride +
                in_cell * scatter->kind->token_stride;
    uint32_t tokens = left < page_tokens - in_page ? left : page_tokens - in_page;
    return tokens < cell_tokens - in_cell ? tokens : cell_tokens - in_cell;
}

bool scatter_next(struct scatter *scatter, struct box *box_out)
{
    char *engine = NULL;
    char *part = NULL;
    uint32_t tokens = next_cut(scatter, &engine, &part);
    if (tokens == 0) {
        return false;
    }
    if (tokens != scatter->shape_tokens) {
        make_shape(scatter, tokens);
    }
    *box_out = scatter->shape;
    box_out->engine = engine;
    box_out->part = part;
    scatter->done_tokens += tokens;
    if (scatter->shape.dim_count > 0) {
        return true;
    }
    /* one run: swallow the cuts behind it that follow in both memories */
    for (;;) {
        uint32_t more = next_cut(scatter, &engine, &part);
        if (more != tokens || engine != box_out->engine + box_out->run_bytes ||
            part != box_out->part + box_out->run_bytes) {
            return true;
        }
        box_out->run_bytes += scatter->shape.run_bytes;
        scatter->done_tokens += more;
    }
}
