/* Encoding of what a session says at its beginning: hello, spaces, memory, layouts. */
#include <stddef.h>

#include "proto/encode.h"

void encode_hello(struct encoder *encoder, const struct msg_hello *in,
                  Kveik__Engine__V1__Hello *out)
{
    (void)encoder;
    out->version_min = in->version_min;
    out->version_max = in->version_max;
    out->client = text_of(in->client);
    out->instance_id = data_of(in->instance_id.data, in->instance_id.bytes);
    out->token = data_of(in->token.data, in->token.bytes);
    out->capabilities = in->capabilities;
    out->instance_lease_bytes = in->instance_lease_bytes;
    out->clock_ns = in->clock_ns;
}

void encode_hello_reply(struct encoder *encoder, const struct msg_hello_reply *in,
                        Kveik__Engine__V1__HelloReply *out)
{
    (void)encoder;
    out->version = in->version;
    out->boot_id = data_of(in->boot_id, sizeof in->boot_id);
    out->session_id = in->session_id;
    out->capabilities = in->capabilities;
    out->frame_bytes_max = in->frame_bytes_max;
    out->requests_max = in->requests_max;
    out->regions_max = in->regions_max;
    out->layouts_max = in->layouts_max;
    out->keys_max = in->keys_max;
    out->daemon = text_of(in->daemon);
    out->instance_id = data_of(in->instance_id.data, in->instance_id.bytes);
}

void encode_register_space(struct encoder *encoder, const struct space *in,
                           Kveik__Engine__V1__RegisterSpace *out)
{
    out->model = text_of(in->model);
    out->revision = text_of(in->revision);
    out->dtype = in->dtype;
    out->rope_id = data_of(in->rope_id, in->has_rope ? sizeof in->rope_id : 0);
    out->fingerprint = data_of(in->fingerprint, in->fingerprint_bytes);
    out->quota_bytes = in->quota_bytes;
    out->admission = in->admission;
    out->isolation = data_of(in->isolation, in->isolation_bytes);
    void **groups = take_array(encoder, in->group_count, sizeof **out->groups);
    if (groups == NULL) {
        return;
    }
    out->groups = (Kveik__Engine__V1__SpaceGroup **)groups;
    out->n_groups = in->group_count;
    for (uint32_t i = 0; i < in->group_count; i++) {
        const struct space_group *group = &in->groups[i];
        Kveik__Engine__V1__SpaceGroup *wire = out->groups[i];
        kveik__engine__v1__space_group__init(wire);
        wire->rule = group->rule;
        wire->window_tokens = group->window_tokens;
        wire->layer_count = group->layer_count;
        wire->head_count = group->head_count;
        wire->opaque = group->opaque;
        wire->kind_elements =
            data_of(group->kind_elements, group->kind_count * sizeof group->kind_elements[0]);
    }
}

void encode_space_reply(struct encoder *encoder, const struct msg_space_reply *in,
                        Kveik__Engine__V1__SpaceReply *out)
{
    out->status = in->status;
    out->text = clean_text(encoder, in->text);
    out->space = in->space;
    out->space_id = data_of(in->space_id, in->status == ST_OK ? sizeof in->space_id : 0);
}

void encode_export_memory(struct encoder *encoder, const struct msg_export_memory *in,
                          Kveik__Engine__V1__ExportMemory *out)
{
    (void)encoder;
    out->kind = in->kind;
    out->bytes = in->bytes;
    out->file_offset = in->file_offset;
    out->address = in->address;
}

void encode_drop_memory(struct encoder *encoder, const struct msg_drop *in,
                        Kveik__Engine__V1__DropMemory *out)
{
    (void)encoder;
    out->region = in->handle;
}

void encode_drop_layout(struct encoder *encoder, const struct msg_drop *in,
                        Kveik__Engine__V1__DropLayout *out)
{
    (void)encoder;
    out->layout = in->handle;
}

void encode_handle_reply(struct encoder *encoder, const struct msg_handle_reply *in,
                         Kveik__Engine__V1__HandleReply *out)
{
    out->status = in->status;
    out->text = clean_text(encoder, in->text);
    out->handle = in->handle;
}

void encode_register_layout(struct encoder *encoder, const struct msg_register_layout *in,
                            Kveik__Engine__V1__RegisterLayout *out)
{
    const struct layout *layout = &in->layout;
    out->space = in->space;
    out->group = in->group;
    out->page_tokens = layout->page_tokens;
    out->page_count = layout->page_count;
    out->layer_begin = layout->layer_begin;
    out->layer_count = layout->layer_count;
    out->head_begin = layout->head_begin;
    out->head_count = layout->head_count;
    out->opaque = layout->opaque;
    out->page_bytes = layout->opaque ? layout->kind_elements[0] : 0;
    void **planes = take_array(encoder, in->plane_count, sizeof **out->planes);
    if (planes == NULL) {
        return;
    }
    out->planes = (Kveik__Engine__V1__Plane **)planes;
    out->n_planes = in->plane_count;
    for (uint32_t i = 0; i < in->plane_count; i++) {
        const struct layout_plane *plane = &layout->planes[i];
        Kveik__Engine__V1__Plane *wire = out->planes[i];
        kveik__engine__v1__plane__init(wire);
        wire->region = plane->region;
        wire->offset = plane->offset;
        wire->page_stride = plane->page_stride;
        wire->token_stride = plane->token_stride;
        wire->head_stride = plane->head_stride;
        wire->element_stride = plane->element_stride;
    }
}
