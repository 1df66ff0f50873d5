/*
 * The forward pass. Each layer takes all rows of the call through two halves, and each half goes
 * over the rows in chunks that threads share out:
 *
 *   before_layer()      the hook: earlier KV of this layer must have arrived
 *   project             norm, Q K V, rotary embedding, K and V into the pages
 *   after_layer_kv()    the hook: the new KV of this layer can leave
 *   select_rows()       the hook: rows may end here
 *   complete            attention, out, residual, norm, SwiGLU, down, residual
 *
 * Between the halves all threads meet, since attention reads rows that other threads wrote.
 */
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "client/refmodel/model.h"

/* A loop over chunks of the call's rows. */
struct pass {
    struct refmodel *model;
    uint32_t layer;
    uint32_t chunk_rows;
    uint32_t begin_row; /* rows before it are left out */
    const uint32_t *tokens;
    float *logits_out; /* of begin_row and the following */
};

struct chunk {
    uint32_t begin;
    uint32_t rows;
};

static struct chunk chunk_of(const struct pass *pass, uint32_t item)
{
    uint32_t begin = pass->begin_row + item * pass->chunk_rows;
    uint32_t left = pass->model->call.count - begin;
    return (struct chunk){begin, left < pass->chunk_rows ? left : pass->chunk_rows};
}

static void pass_run(struct pass *pass, refmodel_team_work work)
{
    uint32_t rows = pass->model->call.count - pass->begin_row;
    KVEIK_ASSERT(pass->chunk_rows > 0);
    refmodel_team_run(pass->model->team, work, pass,
                      (rows + pass->chunk_rows - 1) / pass->chunk_rows);
}

/* ---- call ---------------------------------------------------------------------------------- */

static void call_release(struct refmodel_call *call)
{
    heap_free(call->positions);
    heap_free(call->hidden);
    heap_free(call->qkv);
    heap_free(call->turns);
    heap_free(call->keep);
    *call = (struct refmodel_call){0};
}

static size_t turns_stride(const struct refmodel *model)
{
    return model->config.rotary_dim;
}

static int call_reserve(struct refmodel *model, uint32_t rows, struct error *error)
{
    struct refmodel_call *call = &model->call;
    if (rows <= call->capacity) {
        return ST_OK;
    }
    call_release(call);
    size_t hidden_bytes = rows * model->hidden_stride * sizeof(float);
    size_t turns_bytes = rows * turns_stride(model) * model->rope_tables * sizeof(float);
    call->positions = heap_alloc(rows * sizeof(*call->positions));
    call->keep = heap_alloc(rows);
    call->hidden = heap_alloc_aligned(64, hidden_bytes);
    call->qkv = heap_alloc_aligned(64, rows * model->qkv_stride * sizeof(float));
    call->turns = heap_alloc_aligned(64, turns_bytes);
    if (call->positions == NULL || call->keep == NULL || call->hidden == NULL ||
        call->qkv == NULL || call->turns == NULL) {
        call_release(call);
        return error_set(error, ST_NO_MEMORY, "no memory for %u rows", rows);
    }
    (void)memset(call->hidden, 0, hidden_bytes); /* the padding stays zero from here on */
    call->capacity = rows;
    return ST_OK;
}

static int batch_check(const struct refmodel *model, const struct refmodel_batch *batch,
                       struct error *error)
{
    const struct refmodel_config *c = &model->config;
    if (batch->token_count == 0 || batch->token_count > REFMODEL_POSITIONS_MAX) {
        return error_set(error, ST_INVALID, "a batch of %u tokens", batch->token_count);
    }
    uint64_t next = 0;
    for (uint32_t i = 0; i < batch->token_count; i++) {
        uint64_t position =
            batch->positions != NULL ? batch->positions[i] : (uint64_t)batch->first_position + i;
        if (batch->tokens[i] >= c->vocab) {
            return error_set(error, ST_INVALID, "token %u is %u, the vocabulary has %u", i,
                             batch->tokens[i], c->vocab);
        }
        if (position < next || position >= REFMODEL_POSITIONS_MAX) {
            return error_set(error, ST_INVALID, "position %llu of token %u",
                             (unsigned long long)position, i);
        }
        next = position + 1;
    }
    uint64_t pages = (next + c->page_tokens - 1) / c->page_tokens;
    if (pages > batch->page_table_count) {
        return error_set(error, ST_INVALID, "%llu positions need %llu pages, the table has %u",
                         (unsigned long long)next, (unsigned long long)pages,
                         batch->page_table_count);
    }
    for (uint64_t i = 0; i < pages; i++) {
        if (batch->page_table[i] >= c->page_count) {
            return error_set(error, ST_INVALID, "page %u of %u", batch->page_table[i],
                             c->page_count);
        }
    }
    return ST_OK;
}

static int call_begin(struct refmodel *model, const struct refmodel_batch *batch,
                      struct error *error)
{
    int status = batch_check(model, batch, error);
    if (status == ST_OK) {
        status = call_reserve(model, batch->token_count, error);
    }
    if (status != ST_OK) {
        return status;
    }
    KVEIK_ASSERT(batch->token_count > 0 && model->call.positions != NULL);
    model->call.count = batch->token_count;
    model->call.turns_rows = batch->token_count;
    model->call.page_table = batch->page_table;
    for (uint32_t i = 0; i < batch->token_count; i++) {
        model->call.positions[i] =
            batch->positions != NULL ? batch->positions[i] : batch->first_position + i;
    }
    return ST_OK;
}

/* ---- chunks -------------------------------------------------------------------------------- */

static float *hidden_row(const struct refmodel *model, uint32_t row)
{
    return model->call.hidden + (size_t)row * model->hidden_stride;
}

static void norm_chunk(const struct refmodel *model, const struct chunk *chunk,
                       const float *weights, float *out)
{
    model->kernels->norm(&(struct refmodel_norm){
        .in = hidden_row(model, chunk->begin),
        .in_stride = model->hidden_stride,
        .weights = weights,
        .out = out,
        .out_stride = model->hidden_stride,
        .rows = chunk->rows,
        .columns = model->config.hidden,
        .eps = model->config.rms_eps,
    });
}

static float *turns_of(const struct refmodel *model, uint32_t table, uint32_t row)
{
    size_t at = (size_t)table * model->call.turns_rows + row;
    return model->call.turns + at * turns_stride(model);
}

struct rows {
    float *at;
    size_t stride;
};

static void multiply(const struct refmodel *model, const struct refmodel_matrix *matrix,
                     struct rows from, struct rows to, const struct refmodel_gemm *how)
{
    struct refmodel_gemm gemm = *how;
    gemm.a = from.at;
    gemm.a_stride = from.stride;
    gemm.panels = matrix->panels;
    gemm.panel_stride = (size_t)matrix->inputs * model->kernels->panel_columns;
    gemm.panel_count = matrix->panel_count;
    gemm.depth = matrix->inputs;
    gemm.c = to.at;
    gemm.c_stride = to.stride;
    model->kernels->gemm(&gemm);
}

static void embed_work(void *ctx, uint32_t item, uint32_t member)
{
    const struct pass *pass = ctx;
    const struct refmodel *model = pass->model;
    const struct chunk chunk = chunk_of(pass, item);
    uint32_t pairs = model->config.rotary_dim / 2;
    (void)member;
    for (uint32_t row = chunk.begin; row < chunk.begin + chunk.rows; row++) {
        (void)memcpy(hidden_row(model, row),
                     model->embedding + (size_t)pass->tokens[row] * model->config.hidden,
                     model->config.hidden * sizeof(float));
        uint32_t table = 0;
        for (uint32_t i = 0; i < model->config.layers; i++) {
            if (model->layers[i].rope_table == table) {
                refmodel_rope_turns(&model->layers[i].rope, pairs, model->call.positions[row],
                                    turns_of(model, table, row));
                table++;
            }
        }
    }
}

static void kv_chunk(const struct pass *pass, const struct chunk *chunk)
{
    const struct refmodel *model = pass->model;
    const struct refmodel_config *c = &model->config;
    const struct refmodel_layer *layer = &model->layers[pass->layer];
    for (uint32_t row = chunk->begin; row < chunk->begin + chunk->rows; row++) {
        const float *turns = turns_of(model, layer->rope_table, row);
        float *head = model->call.qkv + (size_t)row * model->qkv_stride;
        for (uint32_t i = 0; i < c->query_heads + c->kv_heads; i++) {
            refmodel_rope_turn(c->pairing, c->rotary_dim / 2, turns, head + i * c->head_dim);
        }
        head += (size_t)c->query_heads * c->head_dim;
        const float *values = head + (size_t)c->kv_heads * c->head_dim;
        for (uint32_t i = 0; i < c->kv_heads; i++) {
            struct refmodel_kv_at at = {pass->layer, REFMODEL_K, i};
            refmodel_kv_write(model, &at, model->call.positions[row], head + i * c->head_dim);
            at.kind = REFMODEL_V;
            refmodel_kv_write(model, &at, model->call.positions[row], values + i * c->head_dim);
        }
    }
}

static void project_work(void *ctx, uint32_t item, uint32_t member)
{
    const struct pass *pass = ctx;
    const struct refmodel *model = pass->model;
    const struct refmodel_layer *layer = &model->layers[pass->layer];
    struct refmodel_scratch *scratch = &model->scratch[member];
    const struct chunk chunk = chunk_of(pass, item);
    norm_chunk(model, &chunk, layer->norm_attn, scratch->norm);
    multiply(model, &layer->qkv, (struct rows){scratch->norm, model->hidden_stride},
             (struct rows){model->call.qkv + chunk.begin * model->qkv_stride, model->qkv_stride},
             &(struct refmodel_gemm){.rows = chunk.rows, .end = REFMODEL_GEMM_STORE});
    kv_chunk(pass, &chunk);
}

static void complete_work(void *ctx, uint32_t item, uint32_t member)
{
    const struct pass *pass = ctx;
    const struct refmodel *model = pass->model;
    const struct refmodel_layer *layer = &model->layers[pass->layer];
    struct refmodel_scratch *scratch = &model->scratch[member];
    const struct chunk chunk = chunk_of(pass, item);
    struct rows hidden = {hidden_row(model, chunk.begin), model->hidden_stride};
    struct rows act = {scratch->act, model->ffn_stride};
    struct refmodel_gemm add = {.rows = chunk.rows, .end = REFMODEL_GEMM_ADD};
    struct refmodel_gemm swiglu = {.rows = chunk.rows, .end = REFMODEL_GEMM_SWIGLU};
    refmodel_attend(model, scratch, pass->layer, chunk.begin, chunk.rows);
    multiply(model, &layer->out, (struct rows){scratch->attended, model->heads_stride}, hidden,
             &add);
    norm_chunk(model, &chunk, layer->norm_ffn, scratch->norm);
    multiply(model, &layer->gate_up, (struct rows){scratch->norm, model->hidden_stride}, act,
             &swiglu);
    multiply(model, &layer->down, act, hidden, &add);
}

static void logits_work(void *ctx, uint32_t item, uint32_t member)
{
    const struct pass *pass = ctx;
    const struct refmodel *model = pass->model;
    struct refmodel_scratch *scratch = &model->scratch[member];
    const struct chunk chunk = chunk_of(pass, item);
    KVEIK_ASSERT(chunk.rows <= REFMODEL_LOGIT_ROWS);
    norm_chunk(model, &chunk, model->norm_final, scratch->norm);
    multiply(model, &model->head, (struct rows){scratch->norm, model->hidden_stride},
             (struct rows){scratch->logits, model->logit_stride},
             &(struct refmodel_gemm){.rows = chunk.rows, .end = REFMODEL_GEMM_STORE});
    for (uint32_t r = 0; r < chunk.rows; r++) {
        size_t row = chunk.begin - pass->begin_row + r;
        (void)memcpy(pass->logits_out + row * model->config.vocab,
                     scratch->logits + r * model->logit_stride,
                     model->config.vocab * sizeof(float));
    }
}

/* ---- the pass ------------------------------------------------------------------------------ */

static int hook(int (*call)(void *ctx, uint32_t layer), const struct refmodel_hooks *hooks,
                uint32_t layer, struct error *error)
{
    int status = call == NULL ? ST_OK : call(hooks->ctx, layer);
    if (status != ST_OK) {
        return error_set(error, status, "stopped by a hook at layer %u", layer);
    }
    return ST_OK;
}

/* Row `from` becomes row `to`, an earlier one. */
static void row_move(const struct refmodel *model, uint32_t from, uint32_t to)
{
    const struct refmodel_call *call = &model->call;
    call->positions[to] = call->positions[from];
    (void)memcpy(hidden_row(model, to), hidden_row(model, from),
                 model->hidden_stride * sizeof(float));
    (void)memcpy(call->qkv + to * model->qkv_stride, call->qkv + from * model->qkv_stride,
                 model->qkv_stride * sizeof(float));
    for (uint32_t table = 0; table < model->rope_tables; table++) {
        (void)memcpy(turns_of(model, table, to), turns_of(model, table, from),
                     turns_stride(model) * sizeof(float));
    }
}

static int rows_select(struct refmodel *model, const struct refmodel_hooks *hooks, uint32_t layer,
                       struct error *error)
{
    struct refmodel_call *call = &model->call;
    if (hooks->select_rows == NULL) {
        return ST_OK;
    }
    (void)memset(call->keep, 1, call->count);
    const struct refmodel_selection selection = {call->positions, call->keep, call->count};
    int status = hooks->select_rows(hooks->ctx, layer, &selection);
    if (status != ST_OK) {
        return error_set(error, status, "stopped by a hook at layer %u", layer);
    }
    if (call->keep[call->count - 1] == 0) {
        return error_set(error, ST_INVALID, "the last row was dropped at layer %u", layer);
    }
    uint32_t kept = 0;
    for (uint32_t row = 0; row < call->count; row++) {
        if (call->keep[row] != 0) {
            if (kept < row) {
                row_move(model, row, kept);
            }
            kept++;
        }
    }
    call->count = kept;
    return ST_OK;
}

static int layers_run(struct pass *pass, const struct refmodel_hooks *hooks, struct error *error)
{
    static const struct refmodel_hooks none = {NULL, NULL, NULL, NULL};
    hooks = hooks == NULL ? &none : hooks;
    for (pass->layer = 0; pass->layer < pass->model->config.layers; pass->layer++) {
        int status = hook(hooks->before_layer, hooks, pass->layer, error);
        if (status != ST_OK) {
            return status;
        }
        pass_run(pass, project_work);
        status = hook(hooks->after_layer_kv, hooks, pass->layer, error);
        if (status == ST_OK) {
            status = rows_select(pass->model, hooks, pass->layer, error);
        }
        if (status != ST_OK) {
            return status;
        }
        pass_run(pass, complete_work);
    }
    return ST_OK;
}

/* Rows of a chunk: an equal share for each thread, at most what the cache holds. */
static uint32_t chunk_rows_for(const struct refmodel *model, uint32_t rows)
{
    uint32_t share = (rows + model->config.threads - 1) / model->config.threads;
    return share < REFMODEL_CHUNK_ROWS ? share : REFMODEL_CHUNK_ROWS;
}

static int run(struct refmodel *model, const struct refmodel_batch *batch, bool all_rows,
               float *logits_out, struct error *error)
{
    KVEIK_CHECK_OBJ(model, REFMODEL_MAGIC);
    if (all_rows && batch->hooks != NULL && batch->hooks->select_rows != NULL) {
        return error_set(error, ST_INVALID, "all rows are wanted, and a hook selects rows");
    }
    int status = call_begin(model, batch, error);
    if (status != ST_OK) {
        return status;
    }
    struct pass pass = {
        .model = model,
        .chunk_rows = chunk_rows_for(model, batch->token_count),
        .tokens = batch->tokens,
    };
    pass_run(&pass, embed_work);
    status = layers_run(&pass, batch->hooks, error);
    if (status == ST_OK && logits_out != NULL) {
        pass.chunk_rows = REFMODEL_LOGIT_ROWS;
        pass.begin_row = all_rows ? 0 : model->call.count - 1;
        pass.logits_out = logits_out;
        pass_run(&pass, logits_work);
    }
    model->call.page_table = NULL; /* the caller's only during the call */
    return status;
}

int refmodel_prefill(struct refmodel *model, const struct refmodel_batch *batch, float *logits_out,
                     struct error *error)
{
    return run(model, batch, false, logits_out, error);
}

int refmodel_prefill_all(struct refmodel *model, const struct refmodel_batch *batch,
                         float *logits_out, struct error *error)
{
    return run(model, batch, true, logits_out, error);
}

void refmodel_call_finish(struct refmodel *model)
{
    call_release(&model->call);
}

uint32_t refmodel_greedy(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}
