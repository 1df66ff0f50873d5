/*
 * What Kveik is told once: the space, so that only engines whose KV means the same share it; the
 * memory; and per part of the blob a layout, whose strides lead to the payload inside the blobs. An
 * engine with V transposed and one without give different strides for the same space: they share,
 * and the daemon transposes while it copies.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "share_state.h"

enum { PAGE_ALIGNMENT = 64 };

static uint32_t dtype_of(enum kv_blob_type type)
{
    switch (type) {
    case KV_BLOB_F32:
        return KVEIK_F32;
    case KV_BLOB_F16:
        return KVEIK_F16;
    case KV_BLOB_BF16:
        return KVEIK_BF16;
    case KV_BLOB_Q8_0:
        break;
    }
    return KVEIK_U8;
}

static struct kveik_group group_of(const struct share *share, const struct share_group *group)
{
    const struct kv_blob_part *part = &share->blob->parts[group->part];
    struct kveik_group out = {.rule = group->window ? KVEIK_RULE_WINDOW : KVEIK_RULE_EVERY,
                              .window_tokens = group->window ? share->options.window_tokens : 0,
                              .layer_count = part->layers,
                              .head_count = share->options.kv_heads,
                              .kind_count = KV_BLOB_KINDS,
                              .opaque = share->opaque};
    for (uint32_t kind = 0; kind < KV_BLOB_KINDS && !share->opaque; kind++) {
        out.kind_elements[kind] = part->row_bytes[kind] / share->options.kv_heads /
                                  (uint32_t)kv_blob_element_bytes(share->blob->type);
    }
    return out;
}

static int describe_space(struct share *share, struct kveik_error *error)
{
    enum { HASH_BYTES = 32 };
    struct kveik_group groups[KV_BLOB_PARTS_MAX] = {{0}};
    char model[16 + 2 * HASH_BYTES] = "gguf-sha256:";
    char packing[64];
    for (uint32_t i = 0; i < HASH_BYTES; i++) {
        size_t length = strlen(model);
        (void)snprintf(model + length, sizeof model - length, "%02x", share->model_id[i]);
    }
    for (uint32_t i = 0; i < share->group_count; i++) {
        groups[i] = group_of(share, &share->groups[i]);
    }
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = model;
    space.dtype = dtype_of(share->blob->type);
    space.rope_id = share->rope_id;
    space.group_count = share->group_count;
    space.groups = groups;
    if (share->opaque) { /* the rows are as they are only in blocks of this size and type */
        int length = snprintf(packing, sizeof packing, "ggml type %d, rows of %u and %u, %u tokens",
                              (int)share->blob->type, share->blob->parts[0].row_bytes[0],
                              share->blob->parts[0].row_bytes[1], share->blob->tokens);
        space.fingerprint = packing;
        space.fingerprint_bytes = (size_t)length;
    }
    if (share->options.isolation != NULL) {
        space.isolation = share->options.isolation;
        space.isolation_bytes = strlen(share->options.isolation);
    }
    return kveik_space_register(share->client, &space, &share->space, error);
}

/* ---- the layout, and its proof --------------------------------------------------------------- */

/* Bytes of one head of one token, or (opaque) of a whole plane, go one element after the other. */
static uint8_t *element(const struct share_group *group, const uint32_t at[5], size_t number)
{
    const struct share *share = group->share;
    const struct kv_blob_part *part = &share->blob->parts[group->part];
    const struct kv_blob_plane *plane = &part->planes[at[0] * KV_BLOB_KINDS + at[1]];
    size_t element_bytes = kv_blob_element_bytes(share->blob->type);
    size_t head_elements =
        share->opaque ? 0 : part->row_bytes[at[1]] / share->options.kv_heads / element_bytes;
    return share_page(share, at[2]) + plane->offset + at[3] * plane->token_stride +
           (at[4] * head_elements + number) * (share->opaque ? 1 : plane->element_stride);
}

static size_t unit_bytes(const struct share_group *group)
{
    return group->share->opaque ? 1 : kv_blob_element_bytes(group->share->blob->type);
}

static void on_fill(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                    uint32_t head, const void *data, size_t bytes)
{
    const struct share_group *group = arg;
    size_t unit = unit_bytes(group);
    for (size_t i = 0; i < bytes / unit; i++) {
        memcpy(element(group, (const uint32_t[5]){layer, kind, page, token, head}, i),
               (const uint8_t *)data + i * unit, unit);
    }
}

static int on_check(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                    uint32_t head, const void *data, size_t bytes)
{
    const struct share_group *group = arg;
    size_t unit = unit_bytes(group);
    int differs = 0;
    for (size_t i = 0; i < bytes / unit; i++) {
        differs |= memcmp(element(group, (const uint32_t[5]){layer, kind, page, token, head}, i),
                          (const uint8_t *)data + i * unit, unit);
    }
    return differs;
}

static int describe_layout(struct share *share, struct share_group *group,
                           struct kveik_error *error)
{
    const struct kv_blob_part *part = &share->blob->parts[group->part];
    uint32_t count = part->layers * KV_BLOB_KINDS;
    struct kveik_plane *planes = calloc(count, sizeof *planes);
    if (planes == NULL) {
        return KVEIK_E_NO_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct kv_blob_plane *plane = &part->planes[i];
        planes[i] = (struct kveik_plane){.region = share->region,
                                         .offset = plane->offset,
                                         .page_stride = share->page_stride,
                                         .token_stride = plane->token_stride,
                                         .element_stride = plane->element_stride};
        if (!share->opaque) {
            planes[i].head_stride = part->row_bytes[i % KV_BLOB_KINDS] / share->options.kv_heads /
                                    kv_blob_element_bytes(share->blob->type) *
                                    plane->element_stride;
        }
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = share->space;
    layout.group = (uint32_t)(group - share->groups);
    layout.page_tokens = share->blob->tokens;
    layout.page_count = share->options.page_count;
    layout.layer_count = part->layers;
    layout.head_count = share->options.kv_heads;
    layout.planes = planes;
    layout.page_bytes = share->opaque ? part->planes[0].bytes : 0;
    layout.fill = on_fill;
    layout.check = on_check;
    layout.callback_arg = group;
    int status = kveik_layout_register(share->client, &layout, &group->layout, error);
    free(planes);
    return status;
}

int share_describe(struct share *share, struct kveik_error *error)
{
    int status = share->space != 0 ? KVEIK_OK : describe_space(share, error);
    if (status == KVEIK_OK && share->region == 0) {
        status = kveik_memory_export(share->client, share->pages,
                                     share->page_stride * share->options.page_count, NULL,
                                     &share->region, NULL, error);
    }
    for (uint32_t i = 0; status == KVEIK_OK && i < share->group_count; i++) {
        if (share->groups[i].layout == 0) {
            status = describe_layout(share, &share->groups[i], error);
        }
    }
    return status;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

/* What the blob and the model say must fit together; NULL: it does. */
static const char *misfit(const struct share *share)
{
    size_t unit = share->opaque ? 1 : kv_blob_element_bytes(share->blob->type);
    for (uint32_t i = 0; i < share->blob->part_count; i++) {
        const struct kv_blob_part *part = &share->blob->parts[i];
        for (uint32_t kind = 0; kind < KV_BLOB_KINDS && part->layers > 0; kind++) {
            if (share->options.kv_heads == 0 ||
                part->row_bytes[kind] % (share->options.kv_heads * unit) != 0) {
                return "a row is no whole number of heads";
            }
        }
        if (share->opaque && part->row_bytes[0] != part->row_bytes[1]) {
            return "packed K and V have rows of different sizes";
        }
    }
    return share->group_count == 0 ? "the model keeps no KV" : NULL;
}

static int set_up(struct share *share, struct kveik_error *error)
{
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = share->options.socket_path;
    options.client_name = "kveik-llama";
    options.wait_for_daemon = true;
    size_t grains = share->options.tokens_max / KVEIK_GRAIN_TOKENS + 1;
    share->keys = calloc(grains, KVEIK_KEY_BYTES);
    share->block_keys = calloc(grains, KVEIK_KEY_BYTES);
    share->states = calloc(share->options.page_count, sizeof *share->states);
    if (share->keys == NULL || share->block_keys == NULL || share->states == NULL) {
        (void)snprintf(error->text, sizeof error->text, "out of memory");
        return KVEIK_E_NO_MEMORY;
    }
    int status = kveik_connect(&options, &share->client, error);
    if (status == KVEIK_OK) {
        void *pages = NULL;
        status = kveik_memory_allocate(
            share->client, share->page_stride * share->options.page_count, &pages, error);
        share->pages = pages;
    }
    struct kveik_info info = KVEIK_INFO_INIT;
    if (status == KVEIK_OK && kveik_info(share->client, &info) == KVEIK_OK && info.connected) {
        status = share_describe(share, error);
        bool gone = status == KVEIK_E_UNAVAILABLE || status == KVEIK_E_LOST ||
                    status == KVEIK_E_STUCK || status == KVEIK_E_DEADLINE;
        status = gone ? KVEIK_OK : status; /* then with a later prompt */
    }
    return status;
}

struct share *share_create(const struct share_options *options, const struct kv_blob *blob,
                           char error_out[SHARE_TEXT_BYTES])
{
    struct share *share = calloc(1, sizeof *share);
    if (share == NULL) {
        (void)snprintf(error_out, SHARE_TEXT_BYTES, "out of memory");
        return NULL;
    }
    share->options = *options;
    memcpy(share->model_id, options->model_id, sizeof share->model_id);
    memcpy(share->rope_id, options->rope_id, sizeof share->rope_id);
    share->blob = blob;
    share->opaque = kv_blob_element_bytes(blob->type) == 0;
    share->page_stride = (blob->bytes + PAGE_ALIGNMENT - 1) / PAGE_ALIGNMENT * PAGE_ALIGNMENT;
    for (uint32_t part = 0; part < blob->part_count; part++) {
        if (blob->parts[part].layers > 0) { /* the second part is the one with a window */
            share->groups[share->group_count++] =
                (struct share_group){.share = share, .part = part, .window = part == 1};
        }
    }
    struct kveik_error error = {0};
    const char *wrong = misfit(share);
    if (wrong != NULL || set_up(share, &error) != KVEIK_OK) {
        (void)snprintf(error_out, SHARE_TEXT_BYTES, "%s", wrong != NULL ? wrong : error.text);
        share_destroy(share);
        return NULL;
    }
    return share;
}

void share_destroy(struct share *share)
{
    if (share->pages != NULL) {
        kveik_memory_free(share->client, share->pages);
    }
    kveik_close(share->client);
    free(share->states);
    free(share->block_keys);
    free(share->keys);
    free(share);
}
