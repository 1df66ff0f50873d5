/*
 * Random weights, the same for every instruction set: each tensor draws its numbers in its natural
 * order from its own seed, and only then they are packed.
 *
 * Scales: rows enter each matrix with mean square about 1, so a uniform weight of variance
 * gain^2 / inputs gives outputs of deviation about gain. Scores of attention stay near deviation 1,
 * so that no key's weight vanishes; what attention adds is enlarged, since a mean over many values
 * is small; logits get deviation 4, far from flat.
 */
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/refmodel/model.h"

#define GAIN_OUT  4.0f
#define GAIN_DOWN 1.5f
#define GAIN_HEAD 4.0f

static struct rng tensor_rng(const struct refmodel *model, enum refmodel_tensor tensor,
                             uint32_t layer)
{
    struct rng rng = {model->config.seed};
    rng.state = rng_next(&rng) ^ ((uint64_t)layer << 8) ^ (uint64_t)tensor;
    (void)rng_next(&rng);
    return rng;
}

/* Uniform in (-1, 1). */
static float draw(struct rng *rng)
{
    return (float)((int32_t)(rng_next(rng) >> 40) - (1 << 23)) * 0x1p-23f;
}

static float *floats(size_t count)
{
    float *memory = heap_alloc_aligned(64, count * sizeof(float));
    if (memory != NULL) {
        (void)memset(memory, 0, count * sizeof(float));
    }
    return memory;
}

/* Norm weights lie within 1 +- 1/4. */
static float *norm_create(const struct refmodel *model, enum refmodel_tensor tensor, uint32_t layer)
{
    float *weights = floats(model->hidden_stride);
    struct rng rng = tensor_rng(model, tensor, layer);
    for (uint32_t i = 0; weights != NULL && i < model->config.hidden; i++) {
        weights[i] = 1.0f + 0.25f * draw(&rng);
    }
    return weights;
}

/* Where the packed weight is. `half` is 1 for the up part of a paired matrix. */
static size_t packed_index(const struct refmodel_matrix *matrix, uint32_t panel_columns,
                           uint32_t half, uint32_t input, uint32_t output)
{
    uint32_t wide = matrix->paired ? panel_columns / 2 : panel_columns;
    size_t panel = output / wide;
    size_t column = output % wide + half * (size_t)wide;
    return (panel * matrix->inputs + input) * panel_columns + column;
}

static int matrix_create(const struct refmodel *model, uint32_t inputs, uint32_t outputs,
                         bool paired, struct refmodel_matrix *matrix)
{
    uint32_t columns = model->kernels->panel_columns;
    uint32_t wide = paired ? columns / 2 : columns;
    matrix->inputs = inputs;
    matrix->outputs = outputs;
    matrix->paired = paired;
    matrix->panel_count = (outputs + wide - 1) / wide;
    matrix->panels = floats((size_t)matrix->panel_count * inputs * columns);
    return matrix->panels == NULL ? ST_NO_MEMORY : ST_OK;
}

static void matrix_fill(const struct refmodel *model, struct refmodel_matrix *matrix,
                        enum refmodel_tensor tensor, uint32_t layer, float gain)
{
    struct rng rng = tensor_rng(model, tensor, layer);
    float scale = gain * sqrtf(3.0f / (float)matrix->inputs);
    uint32_t half = tensor == REFMODEL_UP ? 1 : 0;
    for (uint32_t input = 0; input < matrix->inputs; input++) {
        for (uint32_t output = 0; output < matrix->outputs; output++) {
            matrix
                ->panels[packed_index(matrix, model->kernels->panel_columns, half, input, output)] =
                scale * draw(&rng);
        }
    }
}

static int layer_create(const struct refmodel *model, uint32_t index)
{
    const struct refmodel_config *c = &model->config;
    struct refmodel_layer *layer = &model->layers[index];
    uint32_t heads = c->query_heads * c->head_dim;
    layer->norm_attn = norm_create(model, REFMODEL_NORM_ATTN, index);
    layer->norm_ffn = norm_create(model, REFMODEL_NORM_FFN, index);
    uint32_t qkv = (c->query_heads + 2 * c->kv_heads) * c->head_dim;
    if (layer->norm_attn == NULL || layer->norm_ffn == NULL ||
        matrix_create(model, c->hidden, qkv, false, &layer->qkv) != ST_OK ||
        matrix_create(model, heads, c->hidden, false, &layer->out) != ST_OK ||
        matrix_create(model, c->hidden, c->ffn, true, &layer->gate_up) != ST_OK ||
        matrix_create(model, c->ffn, c->hidden, false, &layer->down) != ST_OK) {
        return ST_NO_MEMORY;
    }
    matrix_fill(model, &layer->qkv, REFMODEL_QKV, index, 1.0f);
    matrix_fill(model, &layer->out, REFMODEL_OUT, index, GAIN_OUT);
    matrix_fill(model, &layer->gate_up, REFMODEL_GATE, index, 1.0f);
    matrix_fill(model, &layer->gate_up, REFMODEL_UP, index, 1.0f);
    matrix_fill(model, &layer->down, REFMODEL_DOWN, index, GAIN_DOWN);
    return ST_OK;
}

int refmodel_weights_create(struct refmodel *model)
{
    const struct refmodel_config *c = &model->config;
    model->embedding = floats((size_t)c->vocab * c->hidden);
    model->norm_final = norm_create(model, REFMODEL_NORM_FINAL, 0);
    if (model->embedding == NULL || model->norm_final == NULL ||
        matrix_create(model, c->hidden, c->vocab, false, &model->head) != ST_OK) {
        return ST_NO_MEMORY;
    }
    struct rng rng = tensor_rng(model, REFMODEL_EMBEDDING, 0);
    for (size_t i = 0; i < (size_t)c->vocab * c->hidden; i++) {
        model->embedding[i] = 1.7320508f * draw(&rng);
    }
    matrix_fill(model, &model->head, REFMODEL_HEAD, 0, GAIN_HEAD);
    for (uint32_t layer = 0; layer < c->layers; layer++) {
        if (layer_create(model, layer) != ST_OK) {
            return ST_NO_MEMORY;
        }
    }
    return ST_OK;
}

void refmodel_weights_destroy(struct refmodel *model)
{
    for (uint32_t i = 0; model->layers != NULL && i < model->config.layers; i++) {
        struct refmodel_layer *layer = &model->layers[i];
        heap_free(layer->down.panels);
        heap_free(layer->gate_up.panels);
        heap_free(layer->out.panels);
        heap_free(layer->qkv.panels);
        heap_free(layer->norm_ffn);
        heap_free(layer->norm_attn);
    }
    heap_free(model->head.panels);
    heap_free(model->norm_final);
    heap_free(model->embedding);
}

static float matrix_weight(const struct refmodel *model, const struct refmodel_matrix *matrix,
                           uint32_t half, uint32_t input, uint32_t output)
{
    KVEIK_ASSERT(input < matrix->inputs && output < matrix->outputs);
    return matrix->panels[packed_index(matrix, model->kernels->panel_columns, half, input, output)];
}

float refmodel_weight(const struct refmodel *model, enum refmodel_tensor tensor, uint32_t layer,
                      uint32_t input, uint32_t output)
{
    KVEIK_CHECK_OBJ(model, REFMODEL_MAGIC);
    KVEIK_ASSERT(layer < model->config.layers);
    const struct refmodel_layer *of = &model->layers[layer];
    switch (tensor) {
    case REFMODEL_EMBEDDING:
        KVEIK_ASSERT(input < model->config.vocab && output < model->config.hidden);
        return model->embedding[(size_t)input * model->config.hidden + output];
    case REFMODEL_NORM_ATTN:
        return of->norm_attn[output];
    case REFMODEL_QKV:
        return matrix_weight(model, &of->qkv, 0, input, output);
    case REFMODEL_OUT:
        return matrix_weight(model, &of->out, 0, input, output);
    case REFMODEL_NORM_FFN:
        return of->norm_ffn[output];
    case REFMODEL_GATE:
        return matrix_weight(model, &of->gate_up, 0, input, output);
    case REFMODEL_UP:
        return matrix_weight(model, &of->gate_up, 1, input, output);
    case REFMODEL_DOWN:
        return matrix_weight(model, &of->down, 0, input, output);
    case REFMODEL_NORM_FINAL:
        return model->norm_final[output];
    case REFMODEL_HEAD:
        return matrix_weight(model, &model->head, 0, input, output);
    }
    KVEIK_UNREACHABLE("no such tensor");
}
