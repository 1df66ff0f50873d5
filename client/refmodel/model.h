/* The model's inside, shared by the files of this folder. */
#ifndef KVEIK_CLIENT_REFMODEL_MODEL_H
#define KVEIK_CLIENT_REFMODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/refmodel/kernels.h"
#include "client/refmodel/refmodel.h"
#include "client/refmodel/team.h"

enum {
    REFMODEL_MAGIC = 0x2ef40de1,
    REFMODEL_CHUNK_ROWS = 96, /* rows that one thread takes through a layer: fits the L2 cache */
    REFMODEL_LOGIT_ROWS = 12, /* rows of logits computed at a time */
};

/* A matrix packed for the kernels; see struct refmodel_gemm. */
struct refmodel_matrix {
    float *panels;
    uint32_t inputs;
    uint32_t outputs;     /* columns without padding; gate and up count once each */
    uint32_t panel_count; /* the last may be padded with zeros */
    bool paired;          /* gate and up in the halves of each panel */
};

struct refmodel_layer {
    float *norm_attn;
    float *norm_ffn;
    struct refmodel_matrix qkv;
    struct refmodel_matrix out;
    struct refmodel_matrix gate_up;
    struct refmodel_matrix down;
    struct refmodel_rope rope; /* inv_freq is the model's copy */
    uint32_t rope_table;       /* layers of equal rope share a table of cosines and sines */
};

/* What one thread needs for a chunk of rows; one allocation each, aligned. */
struct refmodel_scratch {
    float *norm;     /* [chunk][hidden] */
    float *attended; /* [chunk][query heads * head_dim] */
    float *act;      /* [chunk][ffn] */
    float *queries;  /* attention of one KV head: [chunk * group][head_dim] */
    float *sums;     /* [chunk * group][head_dim] */
    float *scores;   /* [chunk * group][REFMODEL_KEY_BLOCK] */
    float *state;    /* [3][chunk * group]: maximum, sum, scale of the running softmax */
    float *keys;     /* one block of K, transposed, as panels [head_dim][keys] */
    float *values;   /* the same block of V as panels [keys][head_dim] */
    float *row;      /* one head's elements on their way */
    float *logits;   /* [REFMODEL_LOGIT_ROWS][vocab] */
};

/* Rows of one call. Grown when a call needs more, kept between calls. */
struct refmodel_call {
    uint32_t capacity;
    uint32_t count;
    uint32_t turns_rows; /* rows of a table in `turns`: the count with which the call began */
    uint32_t *positions;
    float *hidden; /* the residual stream: [row][hidden] */
    float *qkv;    /* [row][query, K, V heads] of the layer at hand */
    uint8_t *keep;
    float *turns; /* [table][row][cosines, sines] */
    const uint32_t *page_table;
};

struct refmodel {
    uint32_t magic;
    struct refmodel_config config; /* ropes is NULL here; the layers have them */
    const struct refmodel_kernels *kernels;
    struct refmodel_team *team;
    uint8_t *kv;
    void *kv_owned; /* NULL when the caller provided it */
    float *embedding;
    float *norm_final;
    double *inv_freqs; /* all layers' */
    struct refmodel_layer *layers;
    struct refmodel_matrix head;
    uint32_t rope_tables;
    uint32_t group;       /* query heads of one KV head */
    size_t hidden_stride; /* floats from row to row of each kind of array */
    size_t heads_stride;
    size_t qkv_stride;
    size_t ffn_stride;
    size_t head_stride;
    size_t score_stride;
    size_t logit_stride;
    struct refmodel_scratch *scratch; /* one a thread */
    struct refmodel_call call;
};

/* Floats from row to row of an array of `columns` columns: whole panels, and then one line more,
 * so that the rows of a tile do not all fall into the same cache sets. */
static inline size_t refmodel_stride(uint32_t columns)
{
    size_t panels = ((size_t)columns + REFMODEL_PANEL_MAX - 1) / REFMODEL_PANEL_MAX;
    return panels * REFMODEL_PANEL_MAX + REFMODEL_ALIGN_FLOATS;
}

/* rope.c */
void refmodel_rope_turns(const struct refmodel_rope *rope, uint32_t pairs, uint32_t position,
                         float *cos_sin_out);
void refmodel_rope_turn(enum refmodel_pairing pairing, uint32_t pairs, const float *cos_sin,
                        float *head);

/* weights.c: ST_OK or ST_NO_MEMORY. */
int refmodel_weights_create(struct refmodel *model);
void refmodel_weights_destroy(struct refmodel *model); /* accepts half-built ones */

/* kv.c: one head of one token, between float and the pages. */
struct refmodel_kv_at {
    uint32_t layer;
    enum refmodel_kind kind;
    uint32_t head;
};
void refmodel_kv_write(const struct refmodel *model, const struct refmodel_kv_at *at,
                       uint32_t position, const float *from);
void refmodel_kv_read(const struct refmodel *model, const struct refmodel_kv_at *at,
                      uint32_t position, float *to);

/* forward.c: frees the rows that calls left. */
void refmodel_call_finish(struct refmodel *model);

/* attention.c: rows [begin, begin + rows) of the call into scratch->attended. */
void refmodel_attend(const struct refmodel *model, struct refmodel_scratch *scratch, uint32_t layer,
                     uint32_t begin, uint32_t rows);

#endif
