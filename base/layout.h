/*
 * Layouts are strides, not enums. Two descriptions of the same KV, both plain data:
 *
 *   struct layout       where the planes of page p lie in an engine's exported regions
 *   struct stored_form  how one part (block x group x layers x heads) lies in a tier
 *
 * A plane is one kind (K = 0, V = 1, more for engines that keep more) of one layer. An element is
 * one number, or, in an opaque layout, one byte of a page whose inner order only the engine knows.
 * Opaque pages come in two ways, one for all planes of a layout, told apart by head_stride:
 *
 *   whole pages  head_stride 0: the bytes belong to all heads of the layout at once. Their ranks
 *                count as heads, but nothing cuts a page, so only equal head ranges share it
 *   heads apart  head_stride > 0, also where there is one head: every head's share of a page is a
 *                unit of its own, kind_elements its bytes. Any head range shares with any other
 *
 * All strides and offsets are bytes. Nothing here touches memory: a layout that passed
 * layout_check() cannot address a byte outside its regions, whatever pages below page_count are
 * asked for.
 */
#ifndef KVEIK_BASE_LAYOUT_H
#define KVEIK_BASE_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum {
    GRAIN_TOKENS = 16,           /* the step at which prefix keys chain */
    LAYOUT_KINDS_MAX = 4,        /* planes a layer */
    LAYOUT_LAYERS_MAX = 1024,    /* layers of one layout */
    LAYOUT_HEADS_MAX = 4096,     /* KV heads */
    LAYOUT_ELEMENTS_MAX = 65536, /* elements a head and token */
    LAYOUT_PAGE_TOKENS_MAX = 65536,
    LAYOUT_REGIONS_MAX = 4096, /* regions of one session */
    BLOCK_GRAINS_MAX = 256,    /* grains a block: at most 4,096 tokens */
};

/* One kind of one layer in engine memory: the element (page p, token t, head h, element e) of it
 * lies at offset + p * page_stride + t * token_stride + h * head_stride + e * element_stride. */
struct layout_plane {
    uint32_t region; /* index into the session's regions */
    uint64_t offset;
    uint64_t page_stride;
    uint64_t token_stride;
    uint64_t head_stride;
    uint64_t element_stride;
};

struct layout {
    uint32_t page_tokens; /* tokens a page holds */
    uint32_t page_count;  /* pages of every plane */
    uint32_t layer_begin; /* the layers and KV heads of the model that this session keeps */
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
    uint32_t kind_count;    /* planes a layer */
    uint32_t element_bytes; /* 1, 2, 4, 8; opaque: 1 */
    bool opaque;            /* element = byte, token_stride 0; head_stride: see above */
    /* elements a head and token; opaque: bytes of a page, or of one head's share of it */
    uint32_t kind_elements[LAYOUT_KINDS_MAX];
    struct layout_plane
        *planes; /* layer_count * kind_count, layer-major; owned by whoever built it */
};

/* One kind in the stored form. Tokens are cut in cells (the pages of whoever pushed it); element
 * (cell c, token t in the cell, head h, element e) of the kind lies, from the layer's start, at
 * offset + c * cell_stride + t * token_stride + h * head_stride + e * element_stride. */
struct stored_kind {
    uint64_t offset; /* from the start of the layer */
    uint64_t bytes;  /* all cells, rounded up to 64 */
    uint64_t cell_stride;
    uint64_t token_stride;
    uint64_t head_stride;
    uint64_t element_stride;
    uint32_t elements; /* a head and token; opaque: bytes a cell, or a cell and head */
};

/* A dense permutation of the pusher's page: planes of equal inner order copy as whole runs, others
 * convert in the same pass over the bytes. Opaque: cell after cell, in it, where heads are apart
 * (head_stride > 0), head after head. Layer l of the part starts at l * layer_bytes. */
struct stored_form {
    uint32_t block_tokens; /* capacity: grains * GRAIN_TOKENS, whatever is valid */
    uint32_t cell_tokens;  /* divides block_tokens */
    uint32_t layer_begin;
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
    uint32_t kind_count;
    uint32_t element_bytes;
    bool opaque;
    struct stored_kind kinds[LAYOUT_KINDS_MAX];
    uint64_t layer_bytes;
    uint64_t part_bytes; /* layer_count * layer_bytes */
};

/* Whether the layout, or the form, is opaque with heads apart. */
bool layout_heads_apart(const struct layout *layout);
bool stored_form_heads_apart(const struct stored_form *form);

/* Heads that have bytes of their own: all of them, but 1 where whole pages are opaque. */
uint32_t layout_head_units(const struct layout *layout);

/* Checks every field and that every element of every page lies inside its region
 * (region_bytes[i], region_count of them). ST_OK or ST_INVALID with the field in words. */
int layout_check(const struct layout *layout, const uint64_t *region_bytes, uint32_t region_count,
                 struct error *error);

/* ST_MISMATCH when two planes of the layout, or two elements of one, share a byte, or when they are
 * interleaved in ways that no engine needs and a bounded search cannot settle. The layout has
 * passed layout_check(). Allocates; for registration, not for the hot path. ST_NO_MEMORY when
 * memory is short. */
int layout_check_disjoint(const struct layout *layout, struct error *error);

/* The stored form in which blocks of `grains` grains pushed from `layout` are kept. The layout has
 * passed layout_check(). ST_INVALID when page and block do not fit (neither a multiple of the
 * other; opaque: block not a multiple of the page). */
int stored_form_of(const struct layout *layout, uint32_t grains, struct stored_form *form_out,
                   struct error *error);

/* True when parts of `form` can be copied to and from `layout` as far as their ranges overlap:
 * same element size, kinds and elements, and, if opaque, the same tokens a page and the same way;
 * whole pages moreover have the same heads, or none in common. */
bool stored_form_fits(const struct stored_form *form, const struct layout *layout);

#endif
