/*
 * A small Llama-style decoder: the inference engine of Kveik's tests and demo. Its weights are
 * random, but its prefill honestly costs time and its KV is real KV: a byte of it that is wrong or
 * misplaced changes the logits. (With fp32 KV, a change in the lower half of one element can be
 * lost in rounding; one in any byte of bf16 KV is not.)
 *
 * Promise: a row (one token at one position) gets the same bits however its prompt was cut into
 * calls, however many threads run, and wherever its pages lie. So results that went through a
 * cache can be compared with memcmp(). It holds among processes on one machine that run the same
 * build; other instruction sets round otherwise.
 *
 * A model is used by one thread at a time; several models in one process do not know each other.
 */
#ifndef KVEIK_CLIENT_REFMODEL_REFMODEL_H
#define KVEIK_CLIENT_REFMODEL_REFMODEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct refmodel;

/* ---- configuration ------------------------------------------------------------------------- */

enum {
    REFMODEL_LAYERS_MAX = 256,
    REFMODEL_HIDDEN_MAX = 16384, /* also the bound of query heads * head_dim */
    REFMODEL_FFN_MAX = 65536,
    REFMODEL_VOCAB_MAX = 262144,
    REFMODEL_HEAD_DIM_MAX = 512,
    REFMODEL_PAGE_TOKENS_MAX = 4096,
    REFMODEL_THREADS_MAX = 64,
    REFMODEL_POSITIONS_MAX = 1 << 24, /* positions are below it */
};

/* Which two elements of a head are rotated together. */
enum refmodel_pairing {
    REFMODEL_HALF_SPLIT,  /* (i, i + rotary_dim / 2) */
    REFMODEL_INTERLEAVED, /* (2 i, 2 i + 1) */
};

enum refmodel_dtype {
    REFMODEL_FP32,
    REFMODEL_BF16, /* rounded to nearest, ties to even */
};

/* The inner order of a page of one plane. */
enum refmodel_kv_layout {
    REFMODEL_TOKEN_MAJOR, /* [token][head][element] */
    REFMODEL_HEAD_MAJOR,  /* [head][token][element] */
};

/* Kernels of each kind add in their own order; AUTO takes the widest that the processor has. */
enum refmodel_isa {
    REFMODEL_ISA_AUTO,
    REFMODEL_ISA_PORTABLE,
    REFMODEL_ISA_AVX2,
    REFMODEL_ISA_AVX512,
};

/* The rotary embedding of one layer. Pair i of a head at position p turns by p * inv_freq[i],
 * and queries and keys are then multiplied by attention_factor (1 but for YaRN). It is kept apart,
 * since keys that are re-positioned later are turned again, but must not be scaled again. */
struct refmodel_rope {
    const double *inv_freq; /* rotary_dim / 2 of them; all zero: a layer without positions */
    double attention_factor;
};

struct refmodel_config {
    uint32_t size; /* sizeof(struct refmodel_config) */
    uint32_t layers;
    uint32_t hidden;
    uint32_t query_heads; /* a multiple of kv_heads */
    uint32_t kv_heads;
    uint32_t head_dim; /* even */
    uint32_t ffn;
    uint32_t vocab;
    float rms_eps;
    enum refmodel_pairing pairing;
    uint32_t rotary_dim; /* even, at most head_dim; the elements behind it are not rotated */
    const struct refmodel_rope *ropes; /* one a layer, copied; NULL: theta 10000 in all layers */
    enum refmodel_dtype kv_dtype;
    enum refmodel_kv_layout kv_layout;
    uint32_t page_tokens;
    uint32_t page_count;
    void *kv_memory;  /* the caller's, aligned to 4 bytes, outlives the model; NULL: the model's */
    size_t kv_bytes;  /* of kv_memory, at least refmodel_kv_bytes(); ignored when that is NULL */
    uint32_t threads; /* 1: only the caller's */
    enum refmodel_isa isa;
    uint64_t seed; /* of the weights: equal seeds and sizes make equal models */
};

/* The model that the benchmarks use: 8 layers, hidden 512, 8 query and 2 KV heads of 64, ffn 1536,
 * vocabulary 4096, half-split, bf16, token-major, 256 pages of 16 tokens, one thread. */
void refmodel_config_init(struct refmodel_config *config);

/* Bytes of KV memory that the configuration needs; 0 when the configuration is not valid. */
size_t refmodel_kv_bytes(const struct refmodel_config *config);

/* ---- rotary frequencies -------------------------------------------------------------------- */
/* Each fills rotary_dim / 2 inverse frequencies. */

/* theta^(-2 i / rotary_dim) */
void refmodel_rope_default(double theta, uint32_t rotary_dim, double *inv_freq_out);

/* The same divided by factor (position interpolation). */
void refmodel_rope_linear(double theta, double factor, uint32_t rotary_dim, double *inv_freq_out);

struct refmodel_rope_llama3 {
    double theta;
    double factor;
    double low_freq_factor;
    double high_freq_factor;
    double original_positions;
};
void refmodel_rope_llama3(const struct refmodel_rope_llama3 *scaling, uint32_t rotary_dim,
                          double *inv_freq_out);

struct refmodel_rope_yarn {
    double theta;
    double factor;
    double beta_fast; /* usually 32 */
    double beta_slow; /* usually 1 */
    double original_positions;
};
/* Returns the attention factor that belongs to it: 0.1 ln(factor) + 1. */
double refmodel_rope_yarn(const struct refmodel_rope_yarn *scaling, uint32_t rotary_dim,
                          double *inv_freq_out);

/* ---- life ---------------------------------------------------------------------------------- */

/* ST_OK; ST_INVALID with the field in words; ST_NO_MEMORY; ST_UNSUPPORTED when the processor lacks
 * the asked instruction set. The model keeps no pointer into the configuration but kv_memory, and
 * writes nothing there before the first prefill. */
int refmodel_create(const struct refmodel_config *config, struct refmodel **model_out,
                    struct error *error);

/* Accepts NULL. */
void refmodel_destroy(struct refmodel *model);

/* The name of the kernels in use, such as "avx512". */
const char *refmodel_kernels_name(const struct refmodel *model);

/* ---- KV memory ----------------------------------------------------------------------------- */

enum refmodel_kind { REFMODEL_K, REFMODEL_V };

/* Where one plane lies in the KV memory. In bytes, element e of head h of token t of page p is at
 *     offset + p * page_stride + t * token_stride + h * head_stride + e * element_stride.
 * Planes follow each other as [layer][K, V], each page_count * page_stride long, without gaps:
 *     page_stride   page_tokens * kv_heads * head_dim * element_bytes
 *     token_stride  token-major: kv_heads * head_dim * element_bytes; head-major: head_dim * ...
 *     head_stride   token-major: head_dim * element_bytes; head-major: page_tokens * head_dim * ...
 * K is kept as attention uses it: after the rotary embedding. */
struct refmodel_plane {
    uint64_t offset;
    uint64_t page_stride;
    uint64_t token_stride;
    uint64_t head_stride;
    uint64_t element_stride;
    uint32_t element_bytes;
};

/* ST_OK or ST_INVALID. */
int refmodel_plane(const struct refmodel *model, uint32_t layer, enum refmodel_kind kind,
                   struct refmodel_plane *plane_out);

/* The KV memory, the caller's or the model's own; the model's is gone with it. */
void *refmodel_kv_memory(const struct refmodel *model);

/* ---- running ------------------------------------------------------------------------------- */

struct refmodel_selection {
    const uint32_t *positions;
    uint8_t *keep;
    uint32_t count; /* of both; they are the model's */
};

/* Called by the thread that runs the model; each may be NULL. What is not ST_OK stops the prefill,
 * which returns it; KV that was written until then stays written. */
struct refmodel_hooks {
    /* The KV of earlier positions must be in layer's pages when this returns. */
    int (*before_layer)(void *ctx, uint32_t layer);
    /* K and V of the batch's tokens are in layer's pages, which no later step of this call writes;
     * attention over them comes next. */
    int (*after_layer_kv)(void *ctx, uint32_t layer);
    /* Follows after_layer_kv(). Row i, at positions[i], has keep[i] = 1; where that is set to 0 the
     * row ends here: it computes no more, and the KV that the pages hold for it in later layers
     * serves the rows that go on. So blending recomputes the rows that it chose by what they
     * computed here. The last row stays. Not with refmodel_prefill_all(). */
    int (*select_rows)(void *ctx, uint32_t layer, const struct refmodel_selection *selection);
    void *ctx;
};

/* One call's tokens. Token t of the sequence has its KV in page page_table[t / page_tokens]. */
struct refmodel_batch {
    const uint32_t *tokens;
    uint32_t token_count;      /* at least 1 */
    uint32_t first_position;   /* of tokens[0]; the next has the next position */
    const uint32_t *positions; /* NULL, or a rising position for each token: recomputes a selection
                                  of rows over KV that is in the pages. Replaces first_position */
    const uint32_t *page_table;
    uint32_t page_table_count;
    const struct refmodel_hooks *hooks; /* may be NULL */
};

/* Computes the batch's tokens; their KV goes into the pages, and every row attends to all positions
 * up to its own, as read from the pages. Writes `vocab` logits of the last token (logits_out may be
 * NULL: KV only). Decoding is a batch of one token.
 * ST_OK, ST_INVALID, ST_NO_MEMORY, or what a hook returned. */
int refmodel_prefill(struct refmodel *model, const struct refmodel_batch *batch, float *logits_out,
                     struct error *error);

/* The same with the logits of every token: token_count rows of `vocab`. */
int refmodel_prefill_all(struct refmodel *model, const struct refmodel_batch *batch,
                         float *logits_out, struct error *error);

/* The token with the highest logit, the first of equals. */
uint32_t refmodel_greedy(const float *logits, uint32_t vocab);

/* ---- weights ------------------------------------------------------------------------------- */

enum refmodel_tensor {
    REFMODEL_EMBEDDING,  /* [token][hidden] */
    REFMODEL_NORM_ATTN,  /* [0][hidden] */
    REFMODEL_QKV,        /* [hidden][query heads, K heads, V heads, each head_dim] */
    REFMODEL_OUT,        /* [query heads * head_dim][hidden] */
    REFMODEL_NORM_FFN,   /* [0][hidden] */
    REFMODEL_GATE,       /* [hidden][ffn] */
    REFMODEL_UP,         /* [hidden][ffn] */
    REFMODEL_DOWN,       /* [ffn][hidden] */
    REFMODEL_NORM_FINAL, /* [0][hidden] */
    REFMODEL_HEAD,       /* [hidden][vocab] */
};

/* One weight, for checking the forward pass against other arithmetic. `layer` counts only where
 * layers have such a tensor. The indices must be in range. */
float refmodel_weight(const struct refmodel *model, enum refmodel_tensor tensor, uint32_t layer,
                      uint32_t input, uint32_t output);

#endif
