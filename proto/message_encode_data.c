/* Encoding of the requests that move or find KV, and of their answers. */
#include <stddef.h>

#include "proto/encode.h"

void encode_push(struct encoder *encoder, const struct msg_push *in, Kveik__Engine__V1__Push *out)
{
    out->deadline_ms = in->deadline_ms;
    out->sent_ns = in->sent_ns;
    void **runs = take_array(encoder, in->run_count, sizeof **out->runs);
    if (runs == NULL) {
        return;
    }
    out->runs = (Kveik__Engine__V1__PushRun **)runs;
    out->n_runs = in->run_count;
    for (uint32_t i = 0; i < in->run_count; i++) {
        const struct msg_push_run *run = &in->runs[i];
        Kveik__Engine__V1__PushRun *wire = out->runs[i];
        kveik__engine__v1__push_run__init(wire);
        wire->layout = run->layout;
        wire->parent_key = data_of(run->parent_key, MSG_KEY_BYTES);
        wire->keys = data_of(run->keys, (size_t)run->key_count * MSG_KEY_BYTES);
        wire->block_count = run->block_count;
        wire->block_grains = run->block_grains;
        wire->tail_tokens = run->tail_tokens;
        wire->tokens = data_of(run->tokens, (size_t)run->token_count * sizeof(uint32_t));
        wire->pages = data_of(run->pages, (size_t)run->page_count * sizeof(uint32_t));
        wire->page_token = run->page_token;
    }
}

void encode_lookup(struct encoder *encoder, const struct msg_lookup *in,
                   Kveik__Engine__V1__Lookup *out)
{
    out->space = in->space;
    out->keys = data_of(in->keys, (size_t)in->key_count * MSG_KEY_BYTES);
    out->key_grains = in->key_grains;
    out->tail_tokens = in->tail_tokens;
    out->lease = in->lease;
    out->origins = in->origins;
    out->deadline_ms = in->deadline_ms;
    out->step_grains = in->step_grains;
    void **wants = take_array(encoder, in->want_count, sizeof **out->wants);
    if (wants == NULL) {
        return;
    }
    out->wants = (Kveik__Engine__V1__Want **)wants;
    out->n_wants = in->want_count;
    for (uint32_t i = 0; i < in->want_count; i++) {
        Kveik__Engine__V1__Want *wire = out->wants[i];
        kveik__engine__v1__want__init(wire);
        wire->group = in->wants[i].group;
        wire->layer_begin = in->wants[i].layer_begin;
        wire->layer_count = in->wants[i].layer_count;
        wire->head_begin = in->wants[i].head_begin;
        wire->head_count = in->wants[i].head_count;
    }
}

void encode_lookup_reply(struct encoder *encoder, const struct msg_lookup_reply *in,
                         Kveik__Engine__V1__LookupReply *out)
{
    out->status = in->status;
    out->text = clean_text(encoder, in->text);
    out->hit_keys = in->hit_keys;
    out->hit_tokens = in->hit_tokens;
    out->lease = in->lease;
    out->expected_us = in->expected_us;
    out->hit_bytes = in->hit_bytes;
    void **origins = take_array(encoder, in->origin_count, sizeof **out->origins);
    if (origins == NULL) {
        return;
    }
    out->origins = (Kveik__Engine__V1__Origin **)origins;
    out->n_origins = in->origin_count;
    for (uint32_t i = 0; i < in->origin_count; i++) {
        const struct msg_origin *origin = &in->origins[i];
        kveik__engine__v1__origin__init(out->origins[i]);
        out->origins[i]->instance_id = data_of(origin->instance_id.data, origin->instance_id.bytes);
        out->origins[i]->keys = origin->keys;
    }
}

void encode_pull(struct encoder *encoder, const struct msg_pull *in, Kveik__Engine__V1__Pull *out)
{
    out->deadline_ms = in->deadline_ms;
    out->lease = in->lease;
    out->release_lease = in->release_lease;
    void **runs = take_array(encoder, in->run_count, sizeof **out->runs);
    if (runs == NULL) {
        return;
    }
    out->runs = (Kveik__Engine__V1__PullRun **)runs;
    out->n_runs = in->run_count;
    for (uint32_t i = 0; i < in->run_count; i++) {
        const struct msg_pull_run *run = &in->runs[i];
        Kveik__Engine__V1__PullRun *wire = out->runs[i];
        kveik__engine__v1__pull_run__init(wire);
        wire->layout = run->layout;
        wire->keys = data_of(run->keys, (size_t)run->key_count * MSG_KEY_BYTES);
        wire->key_grains = run->key_grains;
        wire->tail_tokens = run->tail_tokens;
        wire->pages = data_of(run->pages, (size_t)run->page_count * sizeof(uint32_t));
        wire->page_token = run->page_token;
    }
}

void encode_release(struct encoder *encoder, const struct msg_release *in,
                    Kveik__Engine__V1__Release *out)
{
    (void)encoder;
    out->lease = in->lease;
}

void encode_quiesce(struct encoder *encoder, const struct msg_quiesce *in,
                    Kveik__Engine__V1__Quiesce *out)
{
    (void)encoder;
    out->layout = in->layout;
    out->pages = data_of(in->pages, (size_t)in->page_count * sizeof(uint32_t));
}

void encode_cancel(struct encoder *encoder, const struct msg_cancel *in,
                   Kveik__Engine__V1__Cancel *out)
{
    (void)encoder;
    out->target = in->target;
}

void encode_probe(struct encoder *encoder, const struct msg_probe *in,
                  Kveik__Engine__V1__Probe *out)
{
    (void)encoder;
    out->region = in->region;
    out->offset_from = in->offset_from;
    out->offset_to = in->offset_to;
    out->bytes = in->bytes;
}

void encode_persist(struct encoder *encoder, const struct msg_persist *in,
                    Kveik__Engine__V1__Persist *out)
{
    (void)encoder;
    out->space = in->space;
    out->keys = data_of(in->keys, (size_t)in->key_count * MSG_KEY_BYTES);
    out->key_grains = in->key_grains;
    out->tail_tokens = in->tail_tokens;
    out->deadline_ms = in->deadline_ms;
}

void encode_completion(struct encoder *encoder, const struct msg_completion *in,
                       Kveik__Engine__V1__Completion *out)
{
    out->status = in->status;
    out->text = clean_text(encoder, in->text);
    out->statuses = data_of(in->statuses, in->status_count);
    out->bytes = in->bytes;
}

void encode_status_request(struct encoder *encoder, const struct msg_status_request *in,
                           Kveik__Engine__V1__StatusRequest *out)
{
    (void)encoder;
    out->detail = in->detail;
}

void encode_status_reply(struct encoder *encoder, const struct msg_status_reply *in,
                         Kveik__Engine__V1__StatusReply *out)
{
    (void)encoder;
    out->json = text_of(in->json);
}

void encode_notice(struct encoder *encoder, const struct msg_notice *in,
                   Kveik__Engine__V1__Notice *out)
{
    out->kind = in->kind;
    out->status = in->status;
    out->text = clean_text(encoder, in->text);
}
