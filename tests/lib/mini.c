#include "tests/lib/mini.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/rng.h"

enum { KINDS = 2, PLANES = MINI_LAYERS * KINDS };

static uint64_t plane_page_bytes(const struct mini *mini)
{
    return mini->bytes / mini->pages / PLANES;
}

uint64_t mini_page_bytes(const struct mini *mini)
{
    return mini->bytes / mini->pages;
}

static int register_all(struct mini *mini, const struct mini_options *options,
                        struct kveik_error *error)
{
    uint32_t elements =
        (uint32_t)(MINI_ELEMENTS * (options->page_factor ? options->page_factor : 1));
    struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                .layer_count = MINI_LAYERS,
                                .head_count = MINI_HEADS,
                                .kind_count = KINDS,
                                .kind_elements = {elements, elements}};
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = options->model != NULL ? options->model : "mini";
    space.dtype = KVEIK_BF16;
    space.group_count = 1;
    space.groups = &group;
    int status = kveik_space_register(mini->client, &space, &mini->space, error);
    if (status != KVEIK_OK) {
        return status;
    }
    uint64_t head_bytes = (uint64_t)elements * 2;
    uint64_t page_bytes = head_bytes * MINI_HEADS * MINI_PAGE_TOKENS;
    mini->bytes = page_bytes * PLANES * mini->pages;
    void *memory = NULL;
    status = kveik_memory_allocate(mini->client, mini->bytes, &memory, error);
    mini->memory = memory;
    if (status == KVEIK_OK) {
        status = kveik_memory_export(mini->client, memory, mini->bytes, NULL, &mini->region, NULL,
                                     error);
    }
    struct kveik_plane planes[PLANES];
    for (uint32_t p = 0; p < PLANES; p++) {
        planes[p] = (struct kveik_plane){.region = mini->region,
                                         .offset = p * page_bytes * mini->pages,
                                         .page_stride = page_bytes,
                                         .token_stride = head_bytes * MINI_HEADS,
                                         .head_stride = head_bytes,
                                         .element_stride = 2};
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = mini->space;
    layout.page_tokens = MINI_PAGE_TOKENS;
    layout.page_count = mini->pages;
    layout.layer_count = MINI_LAYERS;
    layout.head_count = MINI_HEADS;
    layout.planes = planes;
    return status != KVEIK_OK ? status
                              : kveik_layout_register(mini->client, &layout, &mini->layout, error);
}

bool mini_open(struct mini *mini, const struct mini_options *options)
{
    *mini = (struct mini){.pages = options->pages};
    struct kveik_error error = {0};
    struct kveik_options connect = KVEIK_OPTIONS_INIT;
    connect.socket_path = options->socket;
    connect.instance = options->instance;
    connect.client_name = "mini";
    connect.connect_timeout_ms = 10000;
    connect.wait_for_daemon = options->wait_for_daemon;
    int status = kveik_connect(&connect, &mini->client, &error);
    if (status == KVEIK_OK) {
        status = register_all(mini, options, &error);
    }
    if (status != KVEIK_OK) {
        (void)fprintf(stderr, "mini_open: %s\n", error.text);
        mini_close(mini);
        return false;
    }
    return true;
}

void mini_close(struct mini *mini)
{
    if (mini->client != NULL && mini->memory != NULL) {
        (void)kveik_layout_drop(mini->client, mini->layout, 5000, NULL);
        (void)kveik_memory_drop(mini->client, mini->region, 5000, NULL);
        kveik_memory_free(mini->client, mini->memory);
    }
    kveik_close(mini->client);
    *mini = (struct mini){0};
}

void mini_keys(uint64_t seed, uint32_t count, uint8_t *keys_out)
{
    struct rng rng = {.state = seed};
    uint32_t tokens[MINI_PAGE_TOKENS];
    const uint8_t *parent = NULL;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t t = 0; t < MINI_PAGE_TOKENS; t++) {
            tokens[t] = (uint32_t)rng_below(&rng, 100000);
        }
        int status = kveik_hash_tokens(parent, tokens, MINI_PAGE_TOKENS, NULL, 0, keys_out);
        KVEIK_ASSERT(status == KVEIK_OK);
        parent = keys_out;
        keys_out += KVEIK_KEY_BYTES;
    }
}

static uint64_t *page_words(const struct mini *mini, uint32_t plane, uint32_t page)
{
    char *at = mini->memory + (plane * mini->pages + page) * plane_page_bytes(mini);
    return (uint64_t *)(void *)at;
}

static struct rng page_rng(uint32_t plane, const uint8_t *key)
{
    struct rng rng;
    (void)memcpy(&rng.state, key, sizeof rng.state);
    rng.state += plane;
    return rng;
}

void mini_fill(struct mini *mini, uint32_t page, const uint8_t *key)
{
    for (uint32_t p = 0; p < PLANES; p++) {
        struct rng rng = page_rng(p, key);
        uint64_t *words = page_words(mini, p, page);
        for (uint64_t i = 0; i < plane_page_bytes(mini) / sizeof *words; i++) {
            words[i] = rng_next(&rng);
        }
    }
}

bool mini_check(const struct mini *mini, uint32_t page, const uint8_t *key)
{
    for (uint32_t p = 0; p < PLANES; p++) {
        struct rng rng = page_rng(p, key);
        const uint64_t *words = page_words(mini, p, page);
        for (uint64_t i = 0; i < plane_page_bytes(mini) / sizeof *words; i++) {
            if (words[i] != rng_next(&rng)) {
                return false;
            }
        }
    }
    return true;
}

void mini_wipe(struct mini *mini, uint32_t page)
{
    for (uint32_t p = 0; p < PLANES; p++) {
        (void)memset(page_words(mini, p, page), 0xee, plane_page_bytes(mini));
    }
}

static void finish(struct kveik_completion *completion, uint32_t count, int8_t *statuses_out)
{
    if (statuses_out != NULL) {
        (void)memset(statuses_out, KVEIK_E_INTERNAL, count);
        if (completion->status_count == count) {
            (void)memcpy(statuses_out, completion->statuses, count);
        }
    }
    kveik_completion_finish(completion);
}

enum { PAGES_MAX = 1024 };

int mini_push(struct mini *mini, const uint8_t *keys, uint32_t count, uint32_t first_page,
              int8_t *statuses_out)
{
    uint32_t pages[PAGES_MAX];
    for (uint32_t i = 0; i < count; i++) {
        pages[i] = first_page + i;
    }
    struct kveik_push_run run = {.layout = mini->layout,
                                 .block_count = count,
                                 .block_tokens = MINI_PAGE_TOKENS,
                                 .keys = keys,
                                 .key_count = count,
                                 .pages = pages,
                                 .page_count = count};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    int status = kveik_push(mini->client, &push, &completion);
    finish(&completion, count, statuses_out);
    return status;
}

int mini_pull(struct mini *mini, const uint8_t *keys, uint32_t count, uint32_t first_page,
              int8_t *statuses_out)
{
    uint32_t pages[PAGES_MAX];
    for (uint32_t i = 0; i < count; i++) {
        pages[i] = first_page + i;
    }
    struct kveik_pull_run run = {.layout = mini->layout,
                                 .keys = keys,
                                 .key_count = count,
                                 .pages = pages,
                                 .page_count = count};
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &run;
    pull.run_count = 1;
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    int status = kveik_pull(mini->client, &pull, &completion);
    finish(&completion, count, statuses_out);
    return status;
}

int mini_lookup(struct mini *mini, const uint8_t *keys, uint32_t count, uint64_t *lease_out)
{
    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
    lookup.space = mini->space;
    lookup.keys = keys;
    lookup.key_count = count;
    lookup.lease = lease_out != NULL;
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    int status = kveik_lookup(mini->client, &lookup, &completion);
    int hit = status == KVEIK_OK ? (int)completion.hit_keys : -1;
    if (lease_out != NULL) {
        *lease_out = completion.lease;
    }
    kveik_completion_finish(&completion);
    return hit;
}

int64_t mini_number(struct mini *mini, const char *section, const char *name)
{
    char *json = NULL;
    if (kveik_daemon_status(mini->client, 5000, &json, NULL) != KVEIK_OK) {
        return -1;
    }
    json_t *all = json_loads(json, 0, NULL);
    kveik_text_free(json);
    const json_t *object = section == NULL ? all : json_object_get(all, section);
    const json_t *value = json_object_get(object, name);
    int64_t number = value == NULL ? -1 : (int64_t)json_integer_value(value);
    json_decref(all);
    return number;
}
