/*
 * Building one engine: connect, create the model over exported memory, register what its KV means
 * and how it lies there, with the self-test that proves the strides.
 */
#include "client/cli/demo_engine.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"

// clang-format off
const struct demo_model demo_models[DEMO_MODELS] = {
    {.name = "tiny", .layers = 2, .hidden = 128, .query_heads = 4, .kv_heads = 2, .head_dim = 32,
     .ffn = 256, .vocabulary = 1024},
    {.name = "small", .layers = 8, .hidden = 512, .query_heads = 8, .kv_heads = 2, .head_dim = 64,
     .ffn = 1536, .vocabulary = 4096},
    {.name = "medium", .layers = 16, .hidden = 768, .query_heads = 12, .kv_heads = 4,
     .head_dim = 64, .ffn = 2304, .vocabulary = 8192},
};
// clang-format on

enum { KINDS = 2, DEMO_LAYERS_MAX = 64 };

/* ---- the layout's self-test: the model's own indexing ---------------------------------------- */

static char *element_run(const struct demo_engine *engine, const uint32_t at[5])
{
    struct refmodel_plane plane;
    int status = refmodel_plane(engine->model, at[0], (enum refmodel_kind)at[1], &plane);
    KVEIK_ASSERT(status == ST_OK);
    uint64_t offset = plane.offset + at[2] * plane.page_stride + at[3] * plane.token_stride +
                      at[4] * plane.head_stride;
    KVEIK_ASSERT(offset < engine->kv_bytes);
    return (char *)engine->kv + offset;
}

// NOLINTNEXTLINE(readability-function-size): the public callback has seven parameters
static void on_fill(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                    uint32_t head, const void *data, size_t bytes)
{
    memcpy(element_run(arg, (const uint32_t[5]){layer, kind, page, token, head}), data, bytes);
}

// NOLINTNEXTLINE(readability-function-size)
static int on_check(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                    uint32_t head, const void *data, size_t bytes)
{
    return memcmp(element_run(arg, (const uint32_t[5]){layer, kind, page, token, head}), data,
                  bytes);
}

/* ---- setting up ------------------------------------------------------------------------------ */

static int create_model(struct demo_engine *engine, struct error *error)
{
    struct refmodel_config config;
    refmodel_config_init(&config);
    const struct demo_model *sizes = engine->sizes;
    config.layers = sizes->layers;
    config.hidden = sizes->hidden;
    config.query_heads = sizes->query_heads;
    config.kv_heads = sizes->kv_heads;
    config.head_dim = sizes->head_dim;
    config.rotary_dim = sizes->head_dim;
    config.ffn = sizes->ffn;
    config.vocab = sizes->vocabulary;
    config.page_tokens = DEMO_PAGE_TOKENS;
    config.page_count = 2 * engine->pages;
    config.seed = engine->setup.seed;
    engine->kv_bytes = refmodel_kv_bytes(&config);
    if (engine->kv_bytes == 0) {
        return error_set(error, ST_INVALID, "the model's sizes do not fit");
    }
    struct kveik_error wrong = {0};
    int status = kveik_memory_allocate(engine->client, engine->kv_bytes, &engine->kv, &wrong);
    if (status != KVEIK_OK) {
        return error_set(error, status, "allocate KV memory: %s", wrong.text);
    }
    config.kv_memory = engine->kv;
    config.kv_bytes = engine->kv_bytes;
    return refmodel_create(&config, &engine->model, error);
}

static int register_space(struct demo_engine *engine, struct error *error)
{
    const struct demo_model *sizes = engine->sizes;
    char name[DEMO_NAME_BYTES];
    (void)snprintf(name, sizeof name, "kveik-demo-%s-%llu", sizes->name,
                   (unsigned long long)engine->setup.seed);
    struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                .layer_count = sizes->layers,
                                .head_count = sizes->kv_heads,
                                .kind_count = KINDS,
                                .kind_elements = {sizes->head_dim, sizes->head_dim}};
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = name;
    space.revision = refmodel_kernels_name(engine->model); /* other kernels round otherwise */
    space.dtype = KVEIK_BF16;
    space.group_count = 1;
    space.groups = &group;
    if (engine->setup.isolation[0] != 0) {
        space.isolation = engine->setup.isolation;
        space.isolation_bytes = sizeof engine->setup.isolation;
    }
    struct kveik_error wrong = {0};
    int status = kveik_space_register(engine->client, &space, &engine->space, &wrong);
    return status != KVEIK_OK ? error_set(error, status, "register the space: %s", wrong.text)
                              : ST_OK;
}

static int register_layout(struct demo_engine *engine, struct error *error)
{
    struct kveik_error wrong = {0};
    struct kveik_memory_options options = KVEIK_MEMORY_OPTIONS_INIT;
    uint32_t region = 0;
    int status = kveik_memory_export(engine->client, engine->kv, engine->kv_bytes, &options,
                                     &region, NULL, &wrong);
    if (status != KVEIK_OK) {
        return error_set(error, status, "export KV memory: %s", wrong.text);
    }
    struct kveik_plane planes[DEMO_LAYERS_MAX * KINDS];
    KVEIK_ASSERT(engine->sizes->layers <= DEMO_LAYERS_MAX);
    for (uint32_t i = 0; i < engine->sizes->layers * KINDS; i++) {
        struct refmodel_plane plane;
        status = refmodel_plane(engine->model, i / KINDS, (enum refmodel_kind)(i % KINDS), &plane);
        KVEIK_ASSERT(status == ST_OK);
        planes[i] = (struct kveik_plane){.region = region,
                                         .offset = plane.offset,
                                         .page_stride = plane.page_stride,
                                         .token_stride = plane.token_stride,
                                         .head_stride = plane.head_stride,
                                         .element_stride = plane.element_stride};
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = engine->space;
    layout.page_tokens = DEMO_PAGE_TOKENS;
    layout.page_count = 2 * engine->pages;
    layout.layer_count = engine->sizes->layers;
    layout.head_count = engine->sizes->kv_heads;
    layout.planes = planes;
    layout.fill = on_fill;
    layout.check = on_check;
    layout.callback_arg = engine;
    status = kveik_layout_register(engine->client, &layout, &engine->layout, &wrong);
    return status != KVEIK_OK ? error_set(error, status, "register the layout: %s", wrong.text)
                              : ST_OK;
}

static int allocate(struct demo_engine *engine, struct error *error)
{
    size_t logits = engine->sizes->vocabulary;
    engine->served_pages = heap_calloc(engine->pages, sizeof(uint32_t));
    engine->fresh_pages = heap_calloc(engine->pages, sizeof(uint32_t));
    engine->keys = heap_calloc(engine->pages, KVEIK_KEY_BYTES);
    engine->cached_logits = heap_calloc(logits, sizeof(float));
    engine->fresh_logits = heap_calloc(logits, sizeof(float));
    if (engine->served_pages == NULL || engine->fresh_pages == NULL || engine->keys == NULL ||
        engine->cached_logits == NULL || engine->fresh_logits == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for an engine");
    }
    for (uint32_t i = 0; i < engine->pages; i++) {
        engine->served_pages[i] = i;
        engine->fresh_pages[i] = engine->pages + i;
    }
    return ST_OK;
}

int demo_engine_init(struct demo_engine *engine, const struct demo_setup *setup,
                     struct error *error)
{
    KVEIK_ASSERT(setup->model < DEMO_MODELS);
    KVEIK_ASSERT(setup->tokens_max > 0 && setup->tokens_max <= DEMO_TOKENS_MAX);
    *engine = (struct demo_engine){.setup = *setup, .sizes = &demo_models[setup->model]};
    engine->pages = (setup->tokens_max + DEMO_PAGE_TOKENS - 1) / DEMO_PAGE_TOKENS;
    int status = allocate(engine, error);
    if (status != ST_OK) {
        return status;
    }
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = setup->socket_path[0] != '\0' ? engine->setup.socket_path : NULL;
    options.instance = engine->setup.instance;
    options.client_name = "kveik demo engine";
    struct kveik_error wrong = {0};
    status = kveik_connect(&options, &engine->client, &wrong);
    if (status != KVEIK_OK) {
        return error_set(error, status, "%s", wrong.text);
    }
    status = create_model(engine, error);
    if (status == ST_OK) {
        status = register_space(engine, error);
    }
    return status == ST_OK ? register_layout(engine, error) : status;
}

void demo_engine_finish(struct demo_engine *engine)
{
    refmodel_destroy(engine->model);
    if (engine->kv != NULL) {
        kveik_memory_free(engine->client, engine->kv);
    }
    kveik_close(engine->client);
    heap_free(engine->served_pages);
    heap_free(engine->fresh_pages);
    heap_free(engine->keys);
    heap_free(engine->cached_logits);
    heap_free(engine->fresh_logits);
    *engine = (struct demo_engine){0};
}
