/*
 * Engine memory for tests: layouts as engines have them, random ones too, over regions of exactly
 * the size that the layout needs (so that a sanitizer sees any byte beyond; rounded up to pages of
 * memory if asked for), and a reference that
 * moves one element after the other by the formulas of base/layout.h and nothing else.
 */
#ifndef KVEIK_TESTS_LIB_KV_MEMORY_H
#define KVEIK_TESTS_LIB_KV_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/layout.h"
#include "base/rng.h"
#include "storage/cpu/copy.h"

enum kv_style {
    KV_TOKEN_MAJOR, /* one region a plane: [page][token][head][element] */
    KV_HEAD_MAJOR,  /* one region a plane: [page][head][token][element] */
    KV_FUSED,       /* one region a layer: [page][kind][token][head][element] */
    KV_INTERLEAVED, /* one region a layer: [page][token][head][kind][element], so K has gaps */
    KV_ACROSS,      /* one region for all: [page][layer][kind][head][token][element] */
    KV_TRANSPOSED,  /* one region a plane: [page][head][element][token] */
    KV_PADDED,      /* as token-major, every token followed by a few bytes of something else */
    KV_STYLE_COUNT,
};

struct kv_geometry {
    enum kv_style style;
    bool opaque; /* elements: bytes of a page of all heads */
    bool apart;  /* with opaque: of one head's share of it; they lie as the style's heads do */
    uint32_t page_tokens;
    uint32_t page_count;
    uint32_t layer_begin;
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
    uint32_t kind_count;
    uint32_t element_bytes;
    uint32_t elements[LAYOUT_KINDS_MAX];
    bool own_pages; /* no region shares a page of memory with anything else: to be adopted beside
                       other clients of the process */
};

struct kv_memory {
    struct layout layout;
    struct copy_region *regions;
    uint64_t *region_bytes;
    uint32_t region_count;
    bool own_pages;
    struct copy_memory memory; /* over the regions, in this process */
};

/* Regions are filled with bytes that depend on `seed` and the address. Dies when out of memory. */
void kv_memory_init(struct kv_memory *kv, const struct kv_geometry *geometry, uint64_t seed);
void kv_memory_finish(struct kv_memory *kv);

/* As `from`, bytes and all, in regions of its own. */
void kv_memory_clone(struct kv_memory *kv, const struct kv_memory *from);

/* True when all regions hold the same bytes. */
bool kv_memory_equal(const struct kv_memory *a, const struct kv_memory *b);

/* Moves an item element by element; `kv` stands for the item's layout and memory. */
void kv_reference_copy(const struct kv_memory *kv, const struct copy_item *item, bool push);

/* Random bytes. */
void kv_fill(char *at, uint64_t bytes, uint64_t seed);

/* `count` different page numbers below `page_count`. */
void kv_random_pages(struct rng *rng, uint32_t *pages, uint32_t count, uint32_t page_count);

#endif
