/*
 * The bytes in which llama.cpp hands out a sequence's KV (llama_state_seq_get_data), for one block
 * of tokens. Nothing here calls llama.cpp.
 *
 *   u32 magic | i32 sequence                                                  once
 *   u32 streams = 1 | u32 cells | per cell {i32 position, u32 1, i32 sequence}
 *   u32 V is transposed | u32 layers                                          a part
 *   per layer, K:  i32 type | u64 row bytes | a row of all heads for each cell
 *   per layer, V:  the same; or, transposed,
 *                  i32 type | u32 element bytes | u32 n | n rows of one element for each cell
 *
 * A model with a sliding window has two parts: the layers with full attention, then the others.
 *
 * All blocks of one size have the same frame around their payload, but for the positions. So the
 * frame is learned once, from the first block that the engine wrote, and with it where each plane
 * lies: that is what Kveik is told as strides, and what a page gets before it goes back into the
 * engine. A blob that is not exactly like this is refused by name, never guessed at.
 */
#ifndef KVEIK_EXAMPLES_KV_BLOB_H
#define KVEIK_EXAMPLES_KV_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KV_BLOB_PARTS_MAX = 2,
    KV_BLOB_KINDS = 2, /* K, V */
    KV_BLOB_ERROR_BYTES = 160
};

/* Numbers of ggml's types, as they stand in blobs. */
enum kv_blob_type { KV_BLOB_F32 = 0, KV_BLOB_F16 = 1, KV_BLOB_Q8_0 = 8, KV_BLOB_BF16 = 30 };

/* One layer's K or V. Element e of token t is at offset + t*token_stride + e*element_stride; packed
 * types have no elements of their own (element_stride 0), only rows. */
struct kv_blob_plane {
    size_t offset;
    size_t bytes;
    size_t token_stride;
    size_t element_stride;
};

struct kv_blob_part {
    uint32_t layers; /* may be 0 */
    bool v_transposed;
    size_t cells;                      /* where the first cell's position stands */
    uint32_t row_bytes[KV_BLOB_KINDS]; /* of one token, the same in all layers */
    struct kv_blob_plane *planes;      /* [layer][kind] */
};

/* A stretch without payload. */
struct kv_blob_gap {
    size_t begin;
    size_t end;
};

struct kv_blob {
    uint32_t tokens;
    size_t bytes; /* of each blob */
    enum kv_blob_type type;
    uint32_t part_count;
    struct kv_blob_part parts[KV_BLOB_PARTS_MAX];
    uint32_t gap_count;
    struct kv_blob_gap *gaps;
    uint8_t *frame; /* the first blob; of its payload nothing is used */
};

/* Learns from the blob of a sequence that holds positions 0 to tokens - 1 and nothing else. False:
 * error_out says what is not as expected, and blob_out needs no finishing. */
bool kv_blob_learn(struct kv_blob *blob_out, const uint8_t *bytes, size_t count, uint32_t tokens,
                   char error_out[KV_BLOB_ERROR_BYTES]);
void kv_blob_finish(struct kv_blob *blob);

/* Bytes of one element; 0: packed. */
size_t kv_blob_element_bytes(enum kv_blob_type type);

/* Writes all but the payload, for tokens at [first, first + tokens). */
void kv_blob_frame(struct kv_blob *blob, uint8_t *page, uint32_t first);

/* Whether a blob is exactly that, around whatever payload. */
bool kv_blob_framed(struct kv_blob *blob, const uint8_t *page, size_t count, uint32_t first);

/* Zeroes one part's payload. */
void kv_blob_clear(const struct kv_blob *blob, uint32_t part, uint8_t *page);

#endif
