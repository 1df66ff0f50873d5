/* The model's configuration, creation and end. */
#include "client/refmodel/refmodel.h"

#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "client/refmodel/model.h"

void refmodel_config_init(struct refmodel_config *config)
{
    *config = (struct refmodel_config){
        .size = sizeof(*config),
        .layers = 8,
        .hidden = 512,
        .query_heads = 8,
        .kv_heads = 2,
        .head_dim = 64,
        .ffn = 1536,
        .vocab = 4096,
        .rms_eps = 1e-5f,
        .pairing = REFMODEL_HALF_SPLIT,
        .rotary_dim = 64,
        .kv_dtype = REFMODEL_BF16,
        .kv_layout = REFMODEL_TOKEN_MAJOR,
        .page_tokens = 16,
        .page_count = 256,
        .threads = 1,
        .isa = REFMODEL_ISA_AUTO,
        .seed = 1,
    };
}

/* ---- checks -------------------------------------------------------------------------------- */

struct bound {
    const char *name;
    uint32_t value;
    uint32_t max;
};

static int config_check(const struct refmodel_config *c, struct error *error)
{
    if (c->size != sizeof(*c)) {
        return error_set(error, ST_INVALID, "size %u, not %zu", c->size, sizeof(*c));
    }
    const struct bound bounds[] = {
        {"layers", c->layers, REFMODEL_LAYERS_MAX},
        {"hidden", c->hidden, REFMODEL_HIDDEN_MAX},
        {"head_dim", c->head_dim, REFMODEL_HEAD_DIM_MAX},
        {"query_heads", c->query_heads, REFMODEL_HIDDEN_MAX},
        {"kv_heads", c->kv_heads, c->query_heads},
        {"ffn", c->ffn, REFMODEL_FFN_MAX},
        {"vocab", c->vocab, REFMODEL_VOCAB_MAX},
        {"rotary_dim", c->rotary_dim, c->head_dim},
        {"page_tokens", c->page_tokens, REFMODEL_PAGE_TOKENS_MAX},
        {"page_count", c->page_count, UINT32_MAX},
        {"threads", c->threads, REFMODEL_THREADS_MAX},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bounds); i++) {
        if (bounds[i].value == 0 || bounds[i].value > bounds[i].max) {
            return error_set(error, ST_INVALID, "%s is %u, not within 1..%u", bounds[i].name,
                             bounds[i].value, bounds[i].max);
        }
    }
    if (c->query_heads % c->kv_heads != 0 || c->query_heads * c->head_dim > REFMODEL_HIDDEN_MAX) {
        return error_set(error, ST_INVALID, "%u query heads on %u KV heads of %u", c->query_heads,
                         c->kv_heads, c->head_dim);
    }
    if (c->head_dim % 2 != 0 || c->rotary_dim % 2 != 0) {
        return error_set(error, ST_INVALID, "head_dim %u and rotary_dim %u must be even",
                         c->head_dim, c->rotary_dim);
    }
    if ((unsigned)c->pairing > REFMODEL_INTERLEAVED || (unsigned)c->kv_dtype > REFMODEL_BF16 ||
        (unsigned)c->kv_layout > REFMODEL_HEAD_MAJOR || (unsigned)c->isa > REFMODEL_ISA_AVX512) {
        return error_set(error, ST_INVALID, "pairing, kv_dtype, kv_layout or isa is unknown");
    }
    return ST_OK;
}

size_t refmodel_kv_bytes(const struct refmodel_config *c)
{
    size_t bytes = c->kv_dtype == REFMODEL_BF16 ? 2 : 4;
    if (config_check(c, NULL) != ST_OK) {
        return 0;
    }
    const uint32_t factors[] = {2 * c->layers, c->kv_heads, c->head_dim, c->page_tokens,
                                c->page_count};
    for (size_t i = 0; i < ARRAY_COUNT(factors); i++) {
        if (__builtin_mul_overflow(bytes, (size_t)factors[i], &bytes)) {
            return 0;
        }
    }
    return bytes;
}

/* ---- creation ------------------------------------------------------------------------------ */

static int kv_create(struct refmodel *model, struct error *error)
{
    struct refmodel_config *c = &model->config;
    size_t bytes = refmodel_kv_bytes(c);
    if (bytes == 0) {
        return error_set(error, ST_INVALID, "the KV memory would be too large");
    }
    if (c->kv_memory != NULL) {
        if (c->kv_bytes < bytes || (uintptr_t)c->kv_memory % sizeof(float) != 0) {
            return error_set(error, ST_INVALID, "KV memory of %zu bytes at %p; need %zu, aligned",
                             c->kv_bytes, c->kv_memory, bytes);
        }
        model->kv = c->kv_memory;
        return ST_OK;
    }
    model->kv_owned = heap_alloc_aligned(4096, bytes);
    if (model->kv_owned == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for %zu bytes of KV", bytes);
    }
    (void)memset(model->kv_owned, 0, bytes);
    model->kv = model->kv_owned;
    return ST_OK;
}

static bool ropes_equal(const struct refmodel_rope *a, const struct refmodel_rope *b, size_t pairs)
{
    return a->attention_factor == b->attention_factor &&
           memcmp(a->inv_freq, b->inv_freq, pairs * sizeof(*a->inv_freq)) == 0;
}

/* Tables are numbered in the order of the first layers that use them. */
static int ropes_create(struct refmodel *model)
{
    const struct refmodel_config *c = &model->config;
    size_t pairs = c->rotary_dim / 2;
    model->inv_freqs = heap_calloc(c->layers * pairs, sizeof(*model->inv_freqs));
    if (model->inv_freqs == NULL) {
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < c->layers; i++) {
        double *inv_freq = model->inv_freqs + i * pairs;
        struct refmodel_rope *rope = &model->layers[i].rope;
        rope->attention_factor = 1.0;
        if (c->ropes == NULL) {
            refmodel_rope_default(10000.0, c->rotary_dim, inv_freq);
        } else {
            rope->attention_factor = c->ropes[i].attention_factor;
            (void)memcpy(inv_freq, c->ropes[i].inv_freq, pairs * sizeof(*inv_freq));
        }
        rope->inv_freq = inv_freq;
        uint32_t same = 0;
        while (same < i && !ropes_equal(&model->layers[same].rope, rope, pairs)) {
            same++;
        }
        model->layers[i].rope_table =
            same < i ? model->layers[same].rope_table : model->rope_tables++;
    }
    return ST_OK;
}

static float *array(size_t rows, size_t stride)
{
    size_t bytes = rows * stride * sizeof(float);
    float *memory = heap_alloc_aligned(64, bytes);
    if (memory != NULL) {
        (void)memset(memory, 0, bytes); /* kernels read and write padding: let it be numbers */
    }
    return memory;
}

static int scratch_init(const struct refmodel *model, struct refmodel_scratch *s)
{
    const struct refmodel_config *c = &model->config;
    size_t chunk = REFMODEL_CHUNK_ROWS;
    size_t queries = chunk * model->group;
    size_t state = (3 * queries + REFMODEL_ALIGN_FLOATS) / REFMODEL_ALIGN_FLOATS;
    s->norm = array(chunk, model->hidden_stride);
    s->attended = array(chunk, model->heads_stride);
    s->act = array(chunk, model->ffn_stride);
    s->queries = array(queries, model->head_stride);
    s->sums = array(queries, model->head_stride);
    s->scores = array(queries, model->score_stride);
    s->state = array(state, REFMODEL_ALIGN_FLOATS);
    s->keys = array(REFMODEL_KEY_BLOCK, c->head_dim);
    s->values = array(REFMODEL_KEY_BLOCK, model->head_stride);
    s->row = array(1, model->head_stride);
    s->logits = array(REFMODEL_LOGIT_ROWS, model->logit_stride);
    bool whole = s->norm != NULL && s->attended != NULL && s->act != NULL && s->queries != NULL &&
                 s->sums != NULL && s->scores != NULL && s->state != NULL && s->keys != NULL &&
                 s->values != NULL && s->row != NULL && s->logits != NULL;
    return whole ? ST_OK : ST_NO_MEMORY;
}

static void scratch_finish(struct refmodel_scratch *s)
{
    heap_free(s->logits);
    heap_free(s->row);
    heap_free(s->values);
    heap_free(s->keys);
    heap_free(s->state);
    heap_free(s->scores);
    heap_free(s->sums);
    heap_free(s->queries);
    heap_free(s->act);
    heap_free(s->attended);
    heap_free(s->norm);
}

static int arrays_create(struct refmodel *model)
{
    const struct refmodel_config *c = &model->config;
    model->group = c->query_heads / c->kv_heads;
    model->hidden_stride = refmodel_stride(c->hidden);
    model->heads_stride = refmodel_stride(c->query_heads * c->head_dim);
    model->qkv_stride = refmodel_stride((c->query_heads + 2 * c->kv_heads) * c->head_dim);
    model->ffn_stride = refmodel_stride(c->ffn);
    model->head_stride = refmodel_stride(c->head_dim);
    model->score_stride = refmodel_stride(REFMODEL_KEY_BLOCK);
    model->logit_stride = refmodel_stride(c->vocab);
    model->layers = heap_calloc(c->layers, sizeof(*model->layers));
    model->scratch = heap_calloc(c->threads, sizeof(*model->scratch));
    if (model->layers == NULL || model->scratch == NULL || ropes_create(model) != ST_OK) {
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < c->threads; i++) {
        if (scratch_init(model, &model->scratch[i]) != ST_OK) {
            return ST_NO_MEMORY;
        }
    }
    return refmodel_weights_create(model);
}

static int parts_create(struct refmodel *model, struct error *error)
{
    int status = kv_create(model, error);
    if (status != ST_OK) {
        return status;
    }
    if (arrays_create(model) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "no memory for the model");
    }
    model->config.ropes = NULL;
    return refmodel_team_create(model->config.threads, &model->team, error);
}

int refmodel_create(const struct refmodel_config *config, struct refmodel **model_out,
                    struct error *error)
{
    int status = config_check(config, error);
    if (status != ST_OK) {
        return status;
    }
    const struct refmodel_kernels *kernels = refmodel_kernels_for(config->isa);
    if (kernels == NULL) {
        return error_set(error, ST_UNSUPPORTED, "the processor lacks the instruction set");
    }
    struct refmodel *model = heap_calloc(1, sizeof(*model));
    if (model == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for the model");
    }
    model->magic = REFMODEL_MAGIC;
    model->config = *config;
    model->kernels = kernels;
    status = parts_create(model, error);
    if (status != ST_OK) {
        refmodel_destroy(model);
        return status;
    }
    *model_out = model;
    return ST_OK;
}

void refmodel_destroy(struct refmodel *model)
{
    if (model == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(model, REFMODEL_MAGIC);
    refmodel_team_destroy(model->team);
    refmodel_call_finish(model);
    refmodel_weights_destroy(model);
    for (uint32_t i = 0; model->scratch != NULL && i < model->config.threads; i++) {
        scratch_finish(&model->scratch[i]);
    }
    heap_free(model->scratch);
    heap_free(model->inv_freqs);
    heap_free(model->layers);
    heap_free(model->kv_owned);
    model->magic = 0;
    heap_free(model);
}

const char *refmodel_kernels_name(const struct refmodel *model)
{
    KVEIK_CHECK_OBJ(model, REFMODEL_MAGIC);
    return model->kernels->name;
}
