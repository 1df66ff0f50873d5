/*
 * Causal attention over paged KV, with a running softmax. Keys are taken in blocks that begin at
 * multiples of REFMODEL_KEY_BLOCK of the absolute position, whatever the call begins with: so a row
 * adds the same blocks in the same order in every call that could compute it.
 *
 * For one KV head, the query rows of all its query heads are taken together: row (r, g) is query
 * head g of the group at the call's row r. A block is read from its pages once a chunk of rows.
 */
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "client/refmodel/model.h"

struct attend {
    const struct refmodel *model;
    struct refmodel_scratch *scratch;
    const uint32_t *positions; /* of the chunk's rows */
    uint32_t begin;            /* the chunk in the call */
    uint32_t rows;
    uint32_t layer;
    uint32_t kv_head;
    size_t state_rows; /* of each array in scratch->state */
};

static void queries_load(const struct attend *a)
{
    const struct refmodel *model = a->model;
    const struct refmodel_config *c = &model->config;
    float scale = 1.0f / sqrtf((float)c->head_dim);
    for (uint32_t r = 0; r < a->rows; r++) {
        const float *from = model->call.qkv + (size_t)(a->begin + r) * model->qkv_stride +
                            (size_t)a->kv_head * model->group * c->head_dim;
        for (uint32_t g = 0; g < model->group; g++, from += c->head_dim) {
            size_t row = (size_t)r * model->group + g;
            float *to = a->scratch->queries + row * model->head_stride;
            for (uint32_t i = 0; i < c->head_dim; i++) {
                to[i] = from[i] * scale;
            }
        }
    }
    size_t rows = (size_t)a->rows * model->group;
    (void)memset(a->scratch->sums, 0, rows * model->head_stride * sizeof(float));
    for (size_t row = 0; row < rows; row++) {
        a->scratch->state[row] = -INFINITY;
        a->scratch->state[a->state_rows + row] = 0.0f;
    }
}

/* Packs `keys` keys from `first` on. What the panels hold behind them is never used. */
static void block_load(const struct attend *a, uint32_t first, uint32_t keys)
{
    const struct refmodel *model = a->model;
    uint32_t dim = model->config.head_dim;
    uint32_t wide = model->kernels->panel_columns;
    struct refmodel_kv_at at = {a->layer, REFMODEL_K, a->kv_head};
    for (uint32_t key = 0; key < keys; key++) {
        at.kind = REFMODEL_K;
        refmodel_kv_read(model, &at, first + key, a->scratch->row);
        float *to = a->scratch->keys + (size_t)(key / wide) * dim * wide + key % wide;
        for (uint32_t i = 0; i < dim; i++) {
            to[(size_t)i * wide] = a->scratch->row[i];
        }
        at.kind = REFMODEL_V;
        refmodel_kv_read(model, &at, first + key, a->scratch->row);
        for (uint32_t i = 0; i < dim; i += wide) {
            uint32_t count = dim - i < wide ? dim - i : wide;
            float *panel = a->scratch->values + (size_t)(i / wide) * REFMODEL_KEY_BLOCK * wide;
            (void)memcpy(panel + (size_t)key * wide, a->scratch->row + i, count * sizeof(float));
        }
    }
}

/* The loaded block for query rows [row, row + rows), which see its first `limit` keys. */
static void block_step(const struct attend *a, size_t row, uint32_t rows, uint32_t limit)
{
    const struct refmodel *model = a->model;
    struct refmodel_scratch *s = a->scratch;
    uint32_t dim = model->config.head_dim;
    uint32_t wide = model->kernels->panel_columns;
    float *scores = s->scores + row * model->score_stride;
    float *scale = s->state + 2 * a->state_rows + row;
    model->kernels->gemm(&(struct refmodel_gemm){
        .a = s->queries + row * model->head_stride,
        .a_stride = model->head_stride,
        .panels = s->keys,
        .panel_stride = (size_t)dim * wide,
        .panel_count = (limit + wide - 1) / wide,
        .depth = dim,
        .rows = rows,
        .end = REFMODEL_GEMM_STORE,
        .c = scores,
        .c_stride = model->score_stride,
    });
    model->kernels->softmax(&(struct refmodel_softmax){
        .scores = scores,
        .stride = model->score_stride,
        .rows = rows,
        .limit = limit,
        .maximum = s->state + row,
        .sum = s->state + a->state_rows + row,
        .scale_out = scale,
    });
    /* only the keys that the rows see: a weight of 0 does not save a sum from another's NaN */
    model->kernels->gemm(&(struct refmodel_gemm){
        .a = scores,
        .a_stride = model->score_stride,
        .panels = s->values,
        .panel_stride = (size_t)REFMODEL_KEY_BLOCK * wide,
        .panel_count = (dim + wide - 1) / wide,
        .depth = limit,
        .rows = rows,
        .end = REFMODEL_GEMM_RESCALE,
        .row_scale = scale,
        .c = s->sums + row * model->head_stride,
        .c_stride = model->head_stride,
    });
}

static void block_attend(const struct attend *a, uint32_t first, uint32_t keys)
{
    uint32_t group = a->model->group;
    uint32_t row = 0;
    block_load(a, first, keys);
    while (row < a->rows && a->positions[row] < first) {
        row++;
    }
    for (; row < a->rows && a->positions[row] - first < REFMODEL_KEY_BLOCK - 1; row++) {
        block_step(a, (size_t)row * group, group, a->positions[row] - first + 1);
    }
    if (row < a->rows) {
        block_step(a, (size_t)row * group, (a->rows - row) * group, REFMODEL_KEY_BLOCK);
    }
}

static void result_store(const struct attend *a)
{
    const struct refmodel *model = a->model;
    uint32_t dim = model->config.head_dim;
    for (uint32_t r = 0; r < a->rows; r++) {
        float *to = a->scratch->attended + (size_t)r * model->heads_stride +
                    (size_t)a->kv_head * model->group * dim;
        for (uint32_t g = 0; g < model->group; g++, to += dim) {
            size_t row = (size_t)r * model->group + g;
            const float *from = a->scratch->sums + row * model->head_stride;
            float weight = 1.0f / a->scratch->state[a->state_rows + row];
            for (uint32_t i = 0; i < dim; i++) {
                to[i] = from[i] * weight;
            }
        }
    }
}

void refmodel_attend(const struct refmodel *model, struct refmodel_scratch *scratch, uint32_t layer,
                     uint32_t begin, uint32_t rows)
{
    KVEIK_ASSERT(rows > 0 && rows <= REFMODEL_CHUNK_ROWS);
    struct attend a = {
        .model = model,
        .scratch = scratch,
        .positions = model->call.positions + begin,
        .begin = begin,
        .rows = rows,
        .layer = layer,
        .state_rows = (size_t)REFMODEL_CHUNK_ROWS * model->group,
    };
    uint32_t last = a.positions[rows - 1];
    for (a.kv_head = 0; a.kv_head < model->config.kv_heads; a.kv_head++) {
        queries_load(&a);
        for (uint32_t first = 0; first <= last; first += REFMODEL_KEY_BLOCK) {
            uint32_t left = last - first + 1;
            block_attend(&a, first, left < REFMODEL_KEY_BLOCK ? left : REFMODEL_KEY_BLOCK);
        }
        result_store(&a);
    }
}
