/*
 * The engine: libllama with one sequence, its KV handed out and taken back in blocks of tokens.
 *
 * A block's cells are isolated by copying them to a second sequence (cells are shared, nothing is
 * copied) and getting that sequence's state; they come back the other way round. One model and one
 * context a process is enough for an example; there is no global state.
 */
#ifndef KVEIK_EXAMPLES_ENGINE_H
#define KVEIK_EXAMPLES_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "kv_blob.h"

enum { ENGINE_ERROR_BYTES = 256, ENGINE_HASH_BYTES = 32 };

struct engine_options {
    const char *model_path;
    uint32_t context_tokens;
    uint32_t batch_tokens; /* the largest batch */
    int32_t threads;
    bool flash_attention;
    const char *kv_type;   /* f32, f16, bf16 or q8_0, of K and V */
    double rope_freq_base; /* 0: the model's */
    bool verbose;          /* let libllama log */
};

struct engine;

/* NULL: error_out says why. */
struct engine *engine_create(const struct engine_options *options,
                             char error_out[ENGINE_ERROR_BYTES]);
void engine_destroy(struct engine *engine);

uint32_t engine_vocabulary(const struct engine *engine);
uint32_t engine_kv_heads(const struct engine *engine);
uint32_t engine_window_tokens(const struct engine *engine); /* 0: full attention only */

/* SHA-256 of what decides the KV besides the tokens: of the model file's bytes, and of the rotary
 * parameters in effect. Reads the whole file. */
bool engine_identify(const struct engine *engine, uint8_t model_out[ENGINE_HASH_BYTES],
                     uint8_t rope_out[ENGINE_HASH_BYTES], char error_out[ENGINE_ERROR_BYTES]);

/* Computes one block and learns how the engine writes it. */
bool engine_learn(struct engine *engine, uint32_t block_tokens, struct kv_blob *blob_out,
                  char error_out[ENGINE_ERROR_BYTES]);

/* Forgets all tokens. */
void engine_reset(struct engine *engine);

/* One batch of tokens after those that are there. Returns the logits of the last one, valid until
 * the next batch; NULL on a failure. */
const float *engine_compute(struct engine *engine, const uint32_t *tokens, uint32_t first,
                            uint32_t count);

/* The block at [first, first + tokens), to a page and from one. False: it is not as learned; the
 * block is as it was, or (import) gone. */
bool engine_export(struct engine *engine, struct kv_blob *blob, uint8_t *page, uint32_t first);
bool engine_import(struct engine *engine, struct kv_blob *blob, uint8_t *page, uint32_t first);

#endif
