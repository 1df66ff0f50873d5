#include "tests/lib/kv_memory.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"

enum { MEMORY_PAGE = 4096 };

static void *must(void *memory)
{
    if (memory == NULL) {
        abort();
    }
    return memory;
}

void kv_fill(char *at, uint64_t bytes, uint64_t seed)
{
    struct rng rng = {seed};
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t word = rng_next(&rng);
        (void)memcpy(at + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
}

/* The sizes that every style is made of, for one kind. */
struct sizes {
    uint64_t element;
    uint64_t head;   /* all elements of a head and token */
    uint64_t kinds;  /* that, for all kinds together */
    uint64_t before; /* and for the kinds before this one */
    uint64_t tokens;
    uint64_t heads;
};

static struct sizes sizes_of(const struct kv_geometry *g, uint32_t kind)
{
    struct sizes s = {
        .element = g->element_bytes, .tokens = g->page_tokens, .heads = g->head_count};
    for (uint32_t i = 0; i < g->kind_count; i++) {
        uint64_t bytes = (uint64_t)g->elements[i] * g->element_bytes;
        s.before += i < kind ? bytes : 0;
        s.head = i == kind ? bytes : s.head;
        s.kinds += bytes;
    }
    return s;
}

static void set_token_major(struct layout_plane *plane, const struct sizes *s, uint64_t padding)
{
    plane->element_stride = s->element;
    plane->head_stride = s->head;
    plane->token_stride = s->heads * s->head + padding;
}

static void set_head_major(struct layout_plane *plane, const struct sizes *s)
{
    plane->element_stride = s->element;
    plane->token_stride = s->head;
    plane->head_stride = s->tokens * s->head;
}

static void set_plane(const struct kv_geometry *g, uint32_t layer, uint32_t kind,
                      struct layout_plane *plane)
{
    struct sizes s = sizes_of(g, kind);
    uint64_t page = s.tokens * s.heads * s.head;
    uint64_t all_kinds = s.tokens * s.heads * s.kinds;
    *plane = (struct layout_plane){.region = layer * g->kind_count + kind, .page_stride = page};
    switch (g->style) {
    case KV_HEAD_MAJOR:
        set_head_major(plane, &s);
        break;
    case KV_FUSED:
        set_token_major(plane, &s, 0);
        plane->region = layer;
        plane->page_stride = all_kinds;
        plane->offset = s.tokens * s.heads * s.before;
        break;
    case KV_INTERLEAVED:
        plane->region = layer;
        plane->page_stride = all_kinds;
        plane->offset = s.before;
        plane->element_stride = s.element;
        plane->head_stride = s.kinds;
        plane->token_stride = s.heads * s.kinds;
        break;
    case KV_ACROSS:
        set_head_major(plane, &s);
        plane->region = 0;
        plane->page_stride = g->layer_count * all_kinds;
        plane->offset = layer * all_kinds + s.tokens * s.heads * s.before;
        break;
    case KV_TRANSPOSED:
        plane->token_stride = s.element;
        plane->element_stride = s.tokens * s.element;
        plane->head_stride = s.tokens * s.head;
        break;
    case KV_PADDED:
        set_token_major(plane, &s, 20);
        plane->page_stride = s.tokens * plane->token_stride + 64;
        break;
    case KV_TOKEN_MAJOR:
    case KV_STYLE_COUNT:
    default:
        set_token_major(plane, &s, 0);
        break;
    }
}

/* Pages of an opaque layout, or the heads' shares of them, hold kind_elements bytes, whatever is in
 * them. */
static void set_opaque_plane(const struct kv_geometry *g, uint32_t layer, uint32_t kind,
                             struct layout_plane *plane)
{
    uint64_t bytes = g->elements[kind];
    *plane = (struct layout_plane){
        .region = layer * g->kind_count + kind, .page_stride = bytes, .element_stride = 1};
    if (!g->apart) {
        return;
    }
    uint64_t heads = g->head_count;
    uint64_t kinds = 0;
    uint64_t before = 0;
    for (uint32_t k = 0; k < g->kind_count; k++) {
        kinds += g->elements[k];
        before += k < kind ? g->elements[k] : 0;
    }
    plane->head_stride = bytes;
    plane->page_stride = heads * bytes;
    if (g->style == KV_INTERLEAVED) { /* [page][head][kind] */
        plane->region = layer;
        plane->offset = before;
        plane->head_stride = kinds;
        plane->page_stride = heads * kinds;
    } else if (g->style == KV_ACROSS) { /* [page][layer][kind][head] */
        plane->region = 0;
        plane->offset = heads * (layer * kinds + before);
        plane->page_stride = g->layer_count * heads * kinds;
    } else if (g->style == KV_TRANSPOSED) { /* [head][page] */
        plane->head_stride = g->page_count * bytes;
        plane->page_stride = bytes;
    } else if (g->style == KV_PADDED) {
        plane->head_stride = bytes + 20;
        plane->page_stride = heads * plane->head_stride + 64;
    }
}

static uint64_t end_of(const struct layout *layout, uint32_t kind, const struct layout_plane *plane)
{
    uint64_t end = plane->offset + (layout->page_count - 1) * plane->page_stride +
                   (layout_head_units(layout) - 1) * plane->head_stride +
                   (layout->kind_elements[kind] - 1) * plane->element_stride +
                   layout->element_bytes;
    return end + (layout->opaque ? 0 : (layout->page_tokens - 1) * plane->token_stride);
}

static void allocate_regions(struct kv_memory *kv)
{
    kv->regions = must(heap_calloc(kv->region_count, sizeof *kv->regions));
    for (uint32_t i = 0; i < kv->region_count; i++) {
        kv->regions[i].bytes = kv->region_bytes[i];
        uint64_t unit = kv->own_pages ? MEMORY_PAGE : 1;
        uint64_t bytes = (kv->region_bytes[i] + unit - 1) / unit * unit;
        kv->regions[i].base = must(heap_alloc_aligned(kv->own_pages ? MEMORY_PAGE : 64, bytes));
    }
    kv->memory = (struct copy_memory){.regions = kv->regions, .pidfd = -1};
}

void kv_memory_init(struct kv_memory *kv, const struct kv_geometry *g, uint64_t seed)
{
    uint32_t plane_count = g->layer_count * g->kind_count;
    KVEIK_ASSERT(g->layer_count > 0 && g->kind_count > 0);
    *kv = (struct kv_memory){.own_pages = g->own_pages};
    kv->layout = (struct layout){.page_tokens = g->page_tokens,
                                 .page_count = g->page_count,
                                 .layer_begin = g->layer_begin,
                                 .layer_count = g->layer_count,
                                 .head_begin = g->head_begin,
                                 .head_count = g->head_count,
                                 .kind_count = g->kind_count,
                                 .element_bytes = g->opaque ? 1 : g->element_bytes,
                                 .opaque = g->opaque};
    (void)memcpy(kv->layout.kind_elements, g->elements, sizeof g->elements);
    kv->layout.planes = must(heap_calloc(plane_count, sizeof *kv->layout.planes));
    kv->region_bytes = must(heap_calloc(plane_count, sizeof *kv->region_bytes));
    for (uint32_t i = 0; i < plane_count; i++) {
        struct layout_plane *plane = &kv->layout.planes[i];
        uint32_t kind = i % g->kind_count;
        if (g->opaque) {
            set_opaque_plane(g, i / g->kind_count, kind, plane);
        } else {
            set_plane(g, i / g->kind_count, kind, plane);
        }
        uint64_t end = end_of(&kv->layout, kind, plane);
        if (end > kv->region_bytes[plane->region]) {
            kv->region_bytes[plane->region] = end;
        }
        if (plane->region >= kv->region_count) {
            kv->region_count = plane->region + 1;
        }
    }
    allocate_regions(kv);
    for (uint32_t i = 0; i < kv->region_count; i++) {
        kv_fill(kv->regions[i].base, kv->regions[i].bytes, seed + i);
    }
}

void kv_memory_clone(struct kv_memory *kv, const struct kv_memory *from)
{
    uint32_t plane_count = from->layout.layer_count * from->layout.kind_count;
    *kv = *from;
    kv->layout.planes = must(heap_calloc(plane_count, sizeof *kv->layout.planes));
    kv->region_bytes = must(heap_calloc(plane_count, sizeof *kv->region_bytes));
    (void)memcpy(kv->layout.planes, from->layout.planes, plane_count * sizeof *kv->layout.planes);
    (void)memcpy(kv->region_bytes, from->region_bytes, plane_count * sizeof *kv->region_bytes);
    allocate_regions(kv);
    for (uint32_t i = 0; i < kv->region_count; i++) {
        (void)memcpy(kv->regions[i].base, from->regions[i].base, from->regions[i].bytes);
    }
}

void kv_memory_finish(struct kv_memory *kv)
{
    for (uint32_t i = 0; i < kv->region_count; i++) {
        heap_free(kv->regions[i].base);
    }
    heap_free(kv->regions);
    heap_free(kv->region_bytes);
    heap_free(kv->layout.planes);
    *kv = (struct kv_memory){0};
}

bool kv_memory_equal(const struct kv_memory *a, const struct kv_memory *b)
{
    for (uint32_t i = 0; i < a->region_count; i++) {
        if (memcmp(a->regions[i].base, b->regions[i].base, a->regions[i].bytes) != 0) {
            return false;
        }
    }
    return a->region_count == b->region_count;
}

/* One element's place: token i of the run, head and element of the model. */
struct place {
    uint32_t layer;
    uint32_t kind;
    uint32_t token;
    uint32_t head;
    uint32_t element;
};

static char *engine_address(const struct kv_memory *kv, const struct copy_item *item,
                            const struct place *at)
{
    const struct layout *l = &kv->layout;
    const struct layout_plane *p =
        &l->planes[(at->layer - l->layer_begin) * l->kind_count + at->kind];
    uint32_t token = item->page_token + at->token;
    return kv->regions[p->region].base + p->offset +
           item->pages[token / l->page_tokens] * p->page_stride +
           token % l->page_tokens * p->token_stride + (at->head - l->head_begin) * p->head_stride +
           at->element * p->element_stride;
}

static char *part_address(const struct copy_item *item, const struct place *at)
{
    const struct stored_form *f = item->form;
    const struct stored_kind *k = &f->kinds[at->kind];
    uint32_t token = item->part_token + at->token;
    return item->part + (at->layer - f->layer_begin) * f->layer_bytes + k->offset +
           token / f->cell_tokens * k->cell_stride + token % f->cell_tokens * k->token_stride +
           (at->head - f->head_begin) * k->head_stride + at->element * k->element_stride;
}

static void copy_elements(const struct kv_memory *kv, const struct copy_item *item, bool push,
                          struct place at)
{
    for (at.element = 0; at.element < item->form->kinds[at.kind].elements; at.element++) {
        char *engine = engine_address(kv, item, &at);
        char *part = part_address(item, &at);
        (void)memcpy(push ? part : engine, push ? engine : part, item->form->element_bytes);
    }
}

static void copy_plane(const struct kv_memory *kv, const struct copy_item *item, bool push,
                       struct place at)
{
    /* bytes of an opaque page belong to all of its tokens at once, of a whole one to all heads */
    uint32_t step = item->form->opaque ? item->form->cell_tokens : 1;
    bool whole = item->form->opaque && !stored_form_heads_apart(item->form);
    uint32_t heads = whole ? 1 : item->head_count;
    for (at.token = 0; at.token < item->tokens; at.token += step) {
        for (uint32_t head = 0; head < heads; head++) {
            at.head = item->head_begin + head;
            copy_elements(kv, item, push, at);
        }
    }
}

void kv_reference_copy(const struct kv_memory *kv, const struct copy_item *item, bool push)
{
    for (uint32_t layer = 0; layer < item->layer_count; layer++) {
        for (uint32_t kind = 0; kind < item->form->kind_count; kind++) {
            copy_plane(kv, item, push,
                       (struct place){.layer = item->layer_begin + layer, .kind = kind});
        }
    }
}

void kv_random_pages(struct rng *rng, uint32_t *pages, uint32_t count, uint32_t page_count)
{
    KVEIK_ASSERT(count <= page_count);
    for (uint32_t i = 0; i < count; i++) {
        bool taken = true;
        while (taken) {
            pages[i] = (uint32_t)rng_below(rng, page_count);
            taken = false;
            for (uint32_t j = 0; j < i; j++) {
                taken = taken || pages[j] == pages[i];
            }
        }
    }
}
