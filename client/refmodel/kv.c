/* The paged KV memory: where planes lie, and rounding on the way in. Attention always reads what
 * was rounded, be it computed in this call, in an earlier one, or by another process. */
#include <string.h>

#include "base/assert.h"
#include "client/refmodel/model.h"

static uint32_t element_bytes(enum refmodel_dtype dtype)
{
    return dtype == REFMODEL_BF16 ? 2 : 4;
}

static void plane_of(const struct refmodel_config *c, uint64_t index, struct refmodel_plane *plane)
{
    uint32_t element = element_bytes(c->kv_dtype);
    uint64_t head_bytes = (uint64_t)c->head_dim * element;
    bool token_major = c->kv_layout == REFMODEL_TOKEN_MAJOR;
    plane->element_bytes = element;
    plane->element_stride = element;
    plane->token_stride = token_major ? c->kv_heads * head_bytes : head_bytes;
    plane->head_stride = token_major ? head_bytes : c->page_tokens * head_bytes;
    plane->page_stride = c->page_tokens * c->kv_heads * head_bytes;
    plane->offset = index * plane->page_stride * c->page_count;
}

int refmodel_plane(const struct refmodel *model, uint32_t layer, enum refmodel_kind kind,
                   struct refmodel_plane *plane_out)
{
    KVEIK_CHECK_OBJ(model, REFMODEL_MAGIC);
    if (layer >= model->config.layers || (kind != REFMODEL_K && kind != REFMODEL_V)) {
        return ST_INVALID;
    }
    plane_of(&model->config, 2 * (uint64_t)layer + (uint64_t)kind, plane_out);
    return ST_OK;
}

void *refmodel_kv_memory(const struct refmodel *model)
{
    KVEIK_CHECK_OBJ(model, REFMODEL_MAGIC);
    return model->kv;
}

/* The elements of a head are contiguous in both layouts. */
static uint8_t *head_at(const struct refmodel *model, const struct refmodel_kv_at *at,
                        uint32_t position)
{
    struct refmodel_plane plane;
    plane_of(&model->config, 2 * (uint64_t)at->layer + (uint64_t)at->kind, &plane);
    uint32_t page = model->call.page_table[position / model->config.page_tokens];
    uint32_t token = position % model->config.page_tokens;
    return model->kv + plane.offset + page * plane.page_stride + token * plane.token_stride +
           at->head * plane.head_stride;
}

static uint16_t bf16_of(float value)
{
    uint32_t bits;
    (void)memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u); /* rounding could carry a NaN to infinity */
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void refmodel_kv_write(const struct refmodel *model, const struct refmodel_kv_at *at,
                       uint32_t position, const float *from)
{
    uint8_t *to = head_at(model, at, position);
    uint32_t count = model->config.head_dim;
    if (model->config.kv_dtype == REFMODEL_FP32) {
        (void)memcpy(to, from, count * sizeof(*from));
        return;
    }
    uint16_t *halves = (uint16_t *)(void *)to;
    for (uint32_t i = 0; i < count; i++) {
        halves[i] = bf16_of(from[i]);
    }
}

void refmodel_kv_read(const struct refmodel *model, const struct refmodel_kv_at *at,
                      uint32_t position, float *to)
{
    const uint8_t *from = head_at(model, at, position);
    uint32_t count = model->config.head_dim;
    if (model->config.kv_dtype == REFMODEL_FP32) {
        (void)memcpy(to, from, count * sizeof(*to));
        return;
    }
    const uint16_t *restrict halves = (const uint16_t *)(const void *)from;
    float *restrict floats = to;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)halves[i] << 16;
        (void)memcpy(&floats[i], &bits, sizeof(bits));
    }
}
