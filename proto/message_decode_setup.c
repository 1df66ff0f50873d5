/* Decoding of what a session says at its beginning: hello, spaces, memory, layouts. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "proto/decode.h"

static int take_name(const char *in, const char *field, struct decoder *decoder, char *out)
{
    size_t length = strnlen(in, SPACE_NAME_BYTES);
    if (length >= SPACE_NAME_BYTES) {
        return error_set(decoder->error, ST_LIMIT, "%s is longer than %d bytes", field,
                         SPACE_NAME_BYTES - 1);
    }
    (void)memcpy(out, in, length);
    return ST_OK;
}

int decode_hello(struct decoder *decoder, const Kveik__Engine__V1__Hello *in, struct msg_hello *out)
{
    (void)decoder;
    *out = (struct msg_hello){.version_min = in->version_min,
                              .version_max = in->version_max,
                              .client = in->client,
                              .instance_id = bytes_of(&in->instance_id),
                              .token = bytes_of(&in->token),
                              .capabilities = in->capabilities,
                              .instance_lease_bytes = in->instance_lease_bytes,
                              .clock_ns = in->clock_ns};
    return ST_OK;
}

int decode_hello_reply(struct decoder *decoder, const Kveik__Engine__V1__HelloReply *in,
                       struct msg_hello_reply *out)
{
    *out = (struct msg_hello_reply){.version = in->version,
                                    .session_id = in->session_id,
                                    .capabilities = in->capabilities,
                                    .frame_bytes_max = in->frame_bytes_max,
                                    .requests_max = in->requests_max,
                                    .regions_max = in->regions_max,
                                    .layouts_max = in->layouts_max,
                                    .keys_max = in->keys_max,
                                    .daemon = in->daemon,
                                    .instance_id = bytes_of(&in->instance_id)};
    if (in->boot_id.len != MSG_BOOT_ID_BYTES) {
        return error_set(decoder->error, ST_PROTOCOL, "hello_reply: boot_id has %zu bytes",
                         in->boot_id.len);
    }
    (void)memcpy(out->boot_id, in->boot_id.data, MSG_BOOT_ID_BYTES);
    return ST_OK;
}

static int decode_group(struct decoder *decoder, const Kveik__Engine__V1__SpaceGroup *in,
                        struct space_group *out)
{
    *out = (struct space_group){.rule = in->rule,
                                .window_tokens = in->window_tokens,
                                .layer_count = in->layer_count,
                                .head_count = in->head_count,
                                .opaque = in->opaque};
    int status = take_list(&in->kind_elements, sizeof(uint32_t), "register_space: kind_elements",
                           decoder, &out->kind_count);
    return status != ST_OK
               ? status
               : take_copy(&in->kind_elements, sizeof out->kind_elements,
                           "register_space: kind_elements", decoder, out->kind_elements);
}

static int decode_space_bytes(struct decoder *decoder, const Kveik__Engine__V1__RegisterSpace *in,
                              struct space *out)
{
    int status = take_fixed(&in->rope_id, sizeof out->rope_id, "register_space: rope_id", decoder,
                            &out->has_rope);
    if (status != ST_OK) {
        return status;
    }
    status = take_copy(&in->rope_id, sizeof out->rope_id, "register_space: rope_id", decoder,
                       out->rope_id);
    if (status != ST_OK) {
        return status;
    }
    status = take_copy(&in->fingerprint, sizeof out->fingerprint, "register_space: fingerprint",
                       decoder, out->fingerprint);
    if (status != ST_OK) {
        return status;
    }
    out->fingerprint_bytes = (uint32_t)in->fingerprint.len;
    status = take_copy(&in->isolation, sizeof out->isolation, "register_space: isolation", decoder,
                       out->isolation);
    out->isolation_bytes = (uint32_t)in->isolation.len;
    return status;
}

int decode_register_space(struct decoder *decoder, const Kveik__Engine__V1__RegisterSpace *in,
                          struct space *out)
{
    *out = (struct space){
        .dtype = in->dtype, .quota_bytes = in->quota_bytes, .admission = in->admission};
    int status = take_name(in->model, "register_space: model", decoder, out->model);
    if (status != ST_OK) {
        return status;
    }
    status = take_name(in->revision, "register_space: revision", decoder, out->revision);
    if (status != ST_OK) {
        return status;
    }
    status = decode_space_bytes(decoder, in, out);
    if (status != ST_OK) {
        return status;
    }
    if (in->n_groups > SPACE_GROUPS_MAX) {
        return error_set(decoder->error, ST_LIMIT, "register_space: %zu groups, at most %d",
                         in->n_groups, SPACE_GROUPS_MAX);
    }
    out->group_count = (uint32_t)in->n_groups;
    for (uint32_t i = 0; i < out->group_count; i++) {
        status = decode_group(decoder, in->groups[i], &out->groups[i]);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

int decode_space_reply(struct decoder *decoder, const Kveik__Engine__V1__SpaceReply *in,
                       struct msg_space_reply *out)
{
    *out = (struct msg_space_reply){.status = in->status, .text = in->text, .space = in->space};
    bool present = false;
    int status =
        take_fixed(&in->space_id, SPACE_ID_BYTES, "space_reply: space_id", decoder, &present);
    if (status == ST_OK && present) {
        (void)memcpy(out->space_id, in->space_id.data, SPACE_ID_BYTES);
    }
    if (status == ST_OK && !present && in->status == ST_OK) {
        return error_set(decoder->error, ST_PROTOCOL, "space_reply: no space_id");
    }
    return status;
}

int decode_export_memory(struct decoder *decoder, const Kveik__Engine__V1__ExportMemory *in,
                         struct msg_export_memory *out)
{
    (void)decoder;
    *out = (struct msg_export_memory){.kind = in->kind,
                                      .bytes = in->bytes,
                                      .file_offset = in->file_offset,
                                      .address = in->address};
    return ST_OK;
}

int decode_drop_memory(struct decoder *decoder, const Kveik__Engine__V1__DropMemory *in,
                       struct msg_drop *out)
{
    (void)decoder;
    *out = (struct msg_drop){.handle = in->region};
    return ST_OK;
}

int decode_drop_layout(struct decoder *decoder, const Kveik__Engine__V1__DropLayout *in,
                       struct msg_drop *out)
{
    (void)decoder;
    *out = (struct msg_drop){.handle = in->layout};
    return ST_OK;
}

int decode_handle_reply(struct decoder *decoder, const Kveik__Engine__V1__HandleReply *in,
                        struct msg_handle_reply *out)
{
    (void)decoder;
    *out = (struct msg_handle_reply){.status = in->status, .text = in->text, .handle = in->handle};
    return ST_OK;
}

/* The kinds follow from the number of planes; what cannot be right is left to the check. */
static int decode_layout_kinds(struct decoder *decoder, const Kveik__Engine__V1__RegisterLayout *in,
                               struct layout *out)
{
    size_t kinds = in->layer_count == 0 ? 0 : in->n_planes / in->layer_count;
    if (kinds == 0 || kinds > LAYOUT_KINDS_MAX || in->n_planes % in->layer_count != 0) {
        return error_set(decoder->error, ST_PROTOCOL,
                         "register_layout: %zu planes for %u layers, must be 1 to %d a layer",
                         in->n_planes, in->layer_count, LAYOUT_KINDS_MAX);
    }
    out->kind_count = (uint32_t)kinds;
    if (in->opaque != (in->page_bytes != 0) || in->page_bytes > INT32_MAX) {
        return error_set(decoder->error, ST_PROTOCOL,
                         "register_layout: page_bytes is %llu; an opaque layout has 1 to %d, "
                         "others 0",
                         (unsigned long long)in->page_bytes, INT32_MAX);
    }
    for (size_t kind = 0; in->opaque && kind < kinds; kind++) {
        out->kind_elements[kind] = (uint32_t)in->page_bytes;
    }
    out->element_bytes = in->opaque ? 1 : 0;
    return ST_OK;
}

int decode_register_layout(struct decoder *decoder, const Kveik__Engine__V1__RegisterLayout *in,
                           struct msg_register_layout *out)
{
    *out = (struct msg_register_layout){.space = in->space,
                                        .group = in->group,
                                        .layout = {.page_tokens = in->page_tokens,
                                                   .page_count = in->page_count,
                                                   .layer_begin = in->layer_begin,
                                                   .layer_count = in->layer_count,
                                                   .head_begin = in->head_begin,
                                                   .head_count = in->head_count,
                                                   .opaque = in->opaque}};
    if (in->n_planes > (size_t)LAYOUT_LAYERS_MAX * LAYOUT_KINDS_MAX) {
        return error_set(decoder->error, ST_LIMIT, "register_layout: %zu planes, at most %d",
                         in->n_planes, LAYOUT_LAYERS_MAX * LAYOUT_KINDS_MAX);
    }
    int status = decode_layout_kinds(decoder, in, &out->layout);
    if (status != ST_OK) {
        return status;
    }
    struct layout_plane *planes = decoder_take(decoder, in->n_planes * sizeof *planes);
    if (planes == NULL) {
        return decoder->shortage;
    }
    for (size_t i = 0; i < in->n_planes; i++) {
        const Kveik__Engine__V1__Plane *plane = in->planes[i];
        planes[i] = (struct layout_plane){.region = plane->region,
                                          .offset = plane->offset,
                                          .page_stride = plane->page_stride,
                                          .token_stride = plane->token_stride,
                                          .head_stride = plane->head_stride,
                                          .element_stride = plane->element_stride};
    }
    out->layout.planes = planes;
    out->plane_count = (uint32_t)in->n_planes;
    return ST_OK;
}
