#include "engine.h"

#include <llama.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCE, SCRATCH, SEQUENCES }; /* the prompt's, and the one that isolates a block */

struct engine {
    struct engine_options options;
    struct llama_model *model;
    struct llama_context *context;
    struct llama_batch batch;
};

/* ---- setting up ------------------------------------------------------------------------------ */

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
    (void)level;
    (void)text;
    (void)arg;
}

static bool find_type(const char *name, enum ggml_type *type_out)
{
    static const enum ggml_type types[] = {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16,
                                           GGML_TYPE_Q8_0};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(name, ggml_type_name(types[i])) == 0) {
            *type_out = types[i];
            return true;
        }
    }
    return false;
}

/* What this way of handing out KV cannot do; NULL: nothing. */
static const char *unsuitable(const struct llama_model *model)
{
    char text[32];
    if (llama_model_is_recurrent(model) || llama_model_is_hybrid(model)) {
        return "has recurrent layers: its state cannot be cut into blocks of tokens";
    }
    if (llama_model_has_encoder(model)) {
        return "has an encoder: its KV does not follow from the tokens before alone";
    }
    if (llama_model_meta_val_str(model, "split.count", text, sizeof text) > 0 &&
        strcmp(text, "0") != 0 && strcmp(text, "1") != 0) {
        return "is split over several files, and only one would be hashed: merge them first";
    }
    return NULL;
}

static struct llama_context *create_context(const struct engine *engine, enum ggml_type type)
{
    const struct engine_options *options = &engine->options;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = options->context_tokens;
    params.n_batch = options->batch_tokens;
    params.n_ubatch = options->batch_tokens; /* a batch is computed as one */
    params.n_seq_max = SEQUENCES;
    params.n_threads = options->threads;
    params.n_threads_batch = options->threads;
    params.flash_attn_type =
        options->flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = type;
    params.type_v = type;
    params.rope_freq_base = (float)options->rope_freq_base;
    params.kv_unified = true; /* one stream, so that sequences share cells */
    /* cells are never reused in a ring: a token's cell is its position, whoever computed it, and so
     * the order of every sum over them */
    params.swa_full = true;
    return llama_init_from_model(engine->model, params);
}

static const char *start(struct engine *engine)
{
    enum ggml_type type = GGML_TYPE_COUNT;
    if (!find_type(engine->options.kv_type, &type)) {
        return "the KV type must be f32, f16, bf16 or q8_0";
    }
    if (ggml_is_quantized(type) && !engine->options.flash_attention) {
        return "llama.cpp keeps a quantized V only with flash attention";
    }
    struct llama_model_params params = llama_model_default_params();
    engine->model = llama_model_load_from_file(engine->options.model_path, params);
    if (engine->model == NULL) {
        return "libllama does not load it";
    }
    const char *wrong = unsuitable(engine->model);
    if (wrong != NULL) {
        return wrong;
    }
    engine->context = create_context(engine, type);
    if (engine->context == NULL) {
        return "libllama creates no context of this size and KV type for it";
    }
    engine->batch = llama_batch_init((int32_t)engine->options.batch_tokens, 0, 1);
    return engine->batch.token == NULL ? "out of memory" : NULL;
}

struct engine *engine_create(const struct engine_options *options,
                             char error_out[ENGINE_ERROR_BYTES])
{
    if (!options->verbose) {
        llama_log_set(quiet, NULL);
    }
    llama_backend_init();
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        (void)snprintf(error_out, ENGINE_ERROR_BYTES, "out of memory");
        return NULL;
    }
    engine->options = *options;
    const char *wrong = start(engine);
    if (wrong != NULL) {
        (void)snprintf(error_out, ENGINE_ERROR_BYTES, "%.120s: %s", options->model_path, wrong);
        engine_destroy(engine);
        return NULL;
    }
    return engine;
}

void engine_destroy(struct engine *engine)
{
    if (engine->batch.token != NULL) {
        llama_batch_free(engine->batch);
    }
    llama_free(engine->context);
    llama_model_free(engine->model);
    free(engine);
    llama_backend_free();
}

uint32_t engine_vocabulary(const struct engine *engine)
{
    return (uint32_t)llama_vocab_n_tokens(llama_model_get_vocab(engine->model));
}

uint32_t engine_kv_heads(const struct engine *engine)
{
    return (uint32_t)llama_model_n_head_kv(engine->model);
}

uint32_t engine_window_tokens(const struct engine *engine)
{
    return (uint32_t)llama_model_n_swa(engine->model);
}

/* ---- what decides the KV --------------------------------------------------------------------- */

static bool hash_file(EVP_MD_CTX *digest, const char *path)
{
    enum { CHUNK_BYTES = 1 << 20 };
    FILE *file = fopen(path, "rb");
    uint8_t *chunk = malloc(CHUNK_BYTES);
    bool good = file != NULL && chunk != NULL;
    while (good) {
        size_t bytes = fread(chunk, 1, CHUNK_BYTES, file);
        good = EVP_DigestUpdate(digest, chunk, bytes) == 1;
        if (bytes < CHUNK_BYTES) {
            good = good && !ferror(file);
            break;
        }
    }
    free(chunk);
    return (file == NULL || fclose(file) == 0) && good;
}

/* Every rotary parameter of the model by name and value, and what the context does to them. With
 * "longrope" the factors also follow from the context's size. */
static bool hash_rope(EVP_MD_CTX *digest, const struct engine *engine)
{
    char key[128];
    char text[512];
    bool good = true;
    int32_t count = llama_model_meta_count(engine->model);
    for (int32_t i = 0; good && i < count; i++) {
        int32_t got = llama_model_meta_key_by_index(engine->model, i, key, sizeof key);
        if (got > 0 && strstr(key, ".rope.") != NULL) {
            (void)llama_model_meta_val_str_by_index(engine->model, i, text, sizeof text);
            good = EVP_DigestUpdate(digest, key, strlen(key) + 1) == 1 &&
                   EVP_DigestUpdate(digest, text, strlen(text) + 1) == 1;
            if (strstr(text, "longrope") != NULL) {
                uint32_t tokens = engine->options.context_tokens;
                good = good && EVP_DigestUpdate(digest, &tokens, sizeof tokens) == 1;
            }
        }
    }
    int32_t length =
        snprintf(text, sizeof text, "kind %d, base %a", (int)llama_model_rope_type(engine->model),
                 engine->options.rope_freq_base);
    return good && length > 0 && EVP_DigestUpdate(digest, text, (size_t)length) == 1;
}

bool engine_identify(const struct engine *engine, uint8_t model_out[ENGINE_HASH_BYTES],
                     uint8_t rope_out[ENGINE_HASH_BYTES], char error_out[ENGINE_ERROR_BYTES])
{
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    bool good = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
                hash_file(digest, engine->options.model_path) &&
                EVP_DigestFinal_ex(digest, model_out, NULL) == 1 &&
                EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 && hash_rope(digest, engine) &&
                EVP_DigestFinal_ex(digest, rope_out, NULL) == 1;
    EVP_MD_CTX_free(digest);
    if (!good) {
        (void)snprintf(error_out, ENGINE_ERROR_BYTES, "%.120s cannot be read to hash it",
                       engine->options.model_path);
    }
    return good;
}

/* ---- computing ------------------------------------------------------------------------------- */

void engine_reset(struct engine *engine)
{
    llama_memory_clear(llama_get_memory(engine->context), false);
}

const float *engine_compute(struct engine *engine, const uint32_t *tokens, uint32_t first,
                            uint32_t count)
{
    struct llama_batch *batch = &engine->batch;
    batch->n_tokens = (int32_t)count;
    for (uint32_t i = 0; i < count; i++) {
        batch->token[i] = (llama_token)tokens[i];
        batch->pos[i] = (llama_pos)(first + i);
        batch->n_seq_id[i] = 1;
        batch->seq_id[i][0] = SEQUENCE;
        batch->logits[i] = i + 1 == count;
    }
    if (llama_decode(engine->context, *batch) != 0) {
        return NULL;
    }
    return llama_get_logits_ith(engine->context, -1);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Calls what is given with the block isolated in SCRATCH. Returns the bytes that it wrote. */
static size_t get_block(struct engine *engine, uint8_t *page, size_t bytes, uint32_t first,
                        uint32_t tokens)
{
    llama_memory_t memory = llama_get_memory(engine->context);
    llama_memory_seq_cp(memory, SEQUENCE, SCRATCH, (llama_pos)first, (llama_pos)(first + tokens));
    size_t got = page == NULL ? llama_state_seq_get_size(engine->context, SCRATCH)
                              : llama_state_seq_get_data(engine->context, page, bytes, SCRATCH);
    (void)llama_memory_seq_rm(memory, SCRATCH, -1, -1);
    return got;
}

bool engine_learn(struct engine *engine, uint32_t block_tokens, struct kv_blob *blob_out,
                  char error_out[ENGINE_ERROR_BYTES])
{
    uint32_t window = engine_window_tokens(engine);
    if (window > 0 && window < block_tokens) {
        (void)snprintf(error_out, ENGINE_ERROR_BYTES,
                       "the model's window is %u tokens: a block of %u would not be kept whole; "
                       "blocks must be at most %u tokens",
                       window, block_tokens, window / 16 * 16);
        return false;
    }
    uint32_t *tokens = calloc(block_tokens, sizeof *tokens);
    bool good = tokens != NULL;
    for (uint32_t at = 0; good && at < block_tokens; at += engine->options.batch_tokens) {
        uint32_t rest = block_tokens - at;
        rest = rest < engine->options.batch_tokens ? rest : engine->options.batch_tokens;
        good = engine_compute(engine, tokens, at, rest) != NULL;
    }
    free(tokens);
    size_t bytes = good ? get_block(engine, NULL, 0, 0, block_tokens) : 0;
    uint8_t *page = bytes > 0 ? malloc(bytes) : NULL;
    char why[KV_BLOB_ERROR_BYTES] = "the engine computes no block";
    good = page != NULL && get_block(engine, page, bytes, 0, block_tokens) == bytes &&
           kv_blob_learn(blob_out, page, bytes, block_tokens, why);
    if (!good) {
        (void)snprintf(error_out, ENGINE_ERROR_BYTES, "this model's KV cannot be shared: %s", why);
    }
    free(page);
    engine_reset(engine);
    return good;
}

bool engine_export(struct engine *engine, struct kv_blob *blob, uint8_t *page, uint32_t first)
{
    size_t got = get_block(engine, page, blob->bytes, first, blob->tokens);
    return kv_blob_framed(blob, page, got, first);
}

bool engine_import(struct engine *engine, struct kv_blob *blob, uint8_t *page, uint32_t first)
{
    llama_memory_t memory = llama_get_memory(engine->context);
    kv_blob_frame(blob, page, first);
    size_t used = llama_state_seq_set_data(engine->context, page, blob->bytes, SCRATCH);
    if (used == blob->bytes) {
        llama_memory_seq_cp(memory, SCRATCH, SEQUENCE, (llama_pos)first,
                            (llama_pos)(first + blob->tokens));
    }
    (void)llama_memory_seq_rm(memory, SCRATCH, -1, -1);
    return used == blob->bytes;
}
