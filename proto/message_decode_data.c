/* Decoding of the requests that move or find KV, and of their answers. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "proto/decode.h"

/* protobuf-c gives NULL for empty lists. The arena keeps data aligned to 16. */
static const uint32_t *list_u32(const ProtobufCBinaryData *in)
{
    return in->len == 0 ? NULL : (const uint32_t *)(const void *)in->data;
}

static int decode_push_run(struct decoder *decoder, const Kveik__Engine__V1__PushRun *in,
                           struct msg_push_run *out)
{
    *out = (struct msg_push_run){.layout = in->layout,
                                 .keys = in->keys.data,
                                 .block_count = in->block_count,
                                 .block_grains = in->block_grains,
                                 .tail_tokens = in->tail_tokens,
                                 .tokens = list_u32(&in->tokens),
                                 .pages = list_u32(&in->pages),
                                 .page_token = in->page_token};
    bool parent = false;
    int status = take_fixed(&in->parent_key, MSG_KEY_BYTES, "push: parent_key", decoder, &parent);
    if (status != ST_OK) {
        return status;
    }
    out->parent_key = parent ? in->parent_key.data : NULL;
    status = take_list(&in->keys, MSG_KEY_BYTES, "push: keys", decoder, &out->key_count);
    if (status != ST_OK) {
        return status;
    }
    status = take_list(&in->tokens, sizeof(uint32_t), "push: tokens", decoder, &out->token_count);
    if (status != ST_OK) {
        return status;
    }
    if (out->tail_tokens == 0 && out->block_grains <= BLOCK_GRAINS_MAX) {
        out->tail_tokens = out->block_grains * GRAIN_TOKENS;
    }
    /* token_count says what the run holds, ids or not; msg_check() refuses counts that are none */
    if (out->tokens == NULL && out->block_count >= 1 && out->block_count <= MSG_KEYS_MAX &&
        out->block_grains <= BLOCK_GRAINS_MAX) {
        out->token_count = msg_push_run_tokens(out);
    }
    return take_list(&in->pages, sizeof(uint32_t), "push: pages", decoder, &out->page_count);
}

int decode_push(struct decoder *decoder, const Kveik__Engine__V1__Push *in, struct msg_push *out)
{
    *out = (struct msg_push){.deadline_ms = in->deadline_ms, .sent_ns = in->sent_ns};
    if (in->n_runs > MSG_RUNS_MAX) {
        return error_set(decoder->error, ST_LIMIT, "push: %zu runs, at most %d", in->n_runs,
                         MSG_RUNS_MAX);
    }
    out->runs = decoder_take(decoder, in->n_runs * sizeof *out->runs);
    if (out->runs == NULL) {
        return decoder->shortage;
    }
    out->run_count = (uint32_t)in->n_runs;
    for (size_t i = 0; i < in->n_runs; i++) {
        int status = decode_push_run(decoder, in->runs[i], &out->runs[i]);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

int decode_lookup(struct decoder *decoder, const Kveik__Engine__V1__Lookup *in,
                  struct msg_lookup *out)
{
    *out = (struct msg_lookup){.space = in->space,
                               .keys = in->keys.data,
                               .key_grains = in->key_grains == 0 ? 1 : in->key_grains,
                               .tail_tokens = in->tail_tokens == 0 ? GRAIN_TOKENS : in->tail_tokens,
                               .lease = in->lease,
                               .origins = in->origins,
                               .deadline_ms = in->deadline_ms,
                               .step_grains = in->step_grains == 0 ? 1 : in->step_grains};
    int status = take_list(&in->keys, MSG_KEY_BYTES, "lookup: keys", decoder, &out->key_count);
    if (status != ST_OK) {
        return status;
    }
    if (in->n_wants > MSG_WANTS_MAX) {
        return error_set(decoder->error, ST_LIMIT, "lookup: %zu wants, at most %d", in->n_wants,
                         MSG_WANTS_MAX);
    }
    out->wants = decoder_take(decoder, in->n_wants * sizeof *out->wants);
    if (out->wants == NULL) {
        return decoder->shortage;
    }
    out->want_count = (uint32_t)in->n_wants;
    for (size_t i = 0; i < in->n_wants; i++) {
        const Kveik__Engine__V1__Want *want = in->wants[i];
        out->wants[i] = (struct msg_want){.group = want->group,
                                          .layer_begin = want->layer_begin,
                                          .layer_count = want->layer_count,
                                          .head_begin = want->head_begin,
                                          .head_count = want->head_count};
    }
    return ST_OK;
}

int decode_lookup_reply(struct decoder *decoder, const Kveik__Engine__V1__LookupReply *in,
                        struct msg_lookup_reply *out)
{
    *out = (struct msg_lookup_reply){.status = in->status,
                                     .text = in->text,
                                     .hit_keys = in->hit_keys,
                                     .hit_tokens = in->hit_tokens,
                                     .lease = in->lease,
                                     .expected_us = in->expected_us,
                                     .hit_bytes = in->hit_bytes};
    if (in->n_origins > MSG_ORIGINS_MAX) {
        return error_set(decoder->error, ST_LIMIT, "lookup_reply: %zu origins, at most %d",
                         in->n_origins, MSG_ORIGINS_MAX);
    }
    out->origins = decoder_take(decoder, in->n_origins * sizeof *out->origins);
    if (out->origins == NULL) {
        return decoder->shortage;
    }
    out->origin_count = (uint32_t)in->n_origins;
    for (size_t i = 0; i < in->n_origins; i++) {
        out->origins[i] = (struct msg_origin){.instance_id = bytes_of(&in->origins[i]->instance_id),
                                              .keys = in->origins[i]->keys};
    }
    return ST_OK;
}

static int decode_pull_run(struct decoder *decoder, const Kveik__Engine__V1__PullRun *in,
                           struct msg_pull_run *out)
{
    *out =
        (struct msg_pull_run){.layout = in->layout,
                              .keys = in->keys.data,
                              .key_grains = in->key_grains == 0 ? 1 : in->key_grains,
                              .tail_tokens = in->tail_tokens == 0 ? GRAIN_TOKENS : in->tail_tokens,
                              .pages = list_u32(&in->pages),
                              .page_token = in->page_token};
    int status = take_list(&in->keys, MSG_KEY_BYTES, "pull: keys", decoder, &out->key_count);
    if (status != ST_OK) {
        return status;
    }
    return take_list(&in->pages, sizeof(uint32_t), "pull: pages", decoder, &out->page_count);
}

int decode_pull(struct decoder *decoder, const Kveik__Engine__V1__Pull *in, struct msg_pull *out)
{
    *out = (struct msg_pull){
        .deadline_ms = in->deadline_ms, .lease = in->lease, .release_lease = in->release_lease};
    if (in->n_runs > MSG_RUNS_MAX) {
        return error_set(decoder->error, ST_LIMIT, "pull: %zu runs, at most %d", in->n_runs,
                         MSG_RUNS_MAX);
    }
    out->runs = decoder_take(decoder, in->n_runs * sizeof *out->runs);
    if (out->runs == NULL) {
        return decoder->shortage;
    }
    out->run_count = (uint32_t)in->n_runs;
    for (size_t i = 0; i < in->n_runs; i++) {
        int status = decode_pull_run(decoder, in->runs[i], &out->runs[i]);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

int decode_release(struct decoder *decoder, const Kveik__Engine__V1__Release *in,
                   struct msg_release *out)
{
    (void)decoder;
    *out = (struct msg_release){.lease = in->lease};
    return ST_OK;
}

int decode_quiesce(struct decoder *decoder, const Kveik__Engine__V1__Quiesce *in,
                   struct msg_quiesce *out)
{
    *out = (struct msg_quiesce){.layout = in->layout, .pages = list_u32(&in->pages)};
    return take_list(&in->pages, sizeof(uint32_t), "quiesce: pages", decoder, &out->page_count);
}

int decode_cancel(struct decoder *decoder, const Kveik__Engine__V1__Cancel *in,
                  struct msg_cancel *out)
{
    (void)decoder;
    *out = (struct msg_cancel){.target = in->target};
    return ST_OK;
}

int decode_probe(struct decoder *decoder, const Kveik__Engine__V1__Probe *in, struct msg_probe *out)
{
    (void)decoder;
    *out = (struct msg_probe){.region = in->region,
                              .offset_from = in->offset_from,
                              .offset_to = in->offset_to,
                              .bytes = in->bytes};
    return ST_OK;
}

int decode_persist(struct decoder *decoder, const Kveik__Engine__V1__Persist *in,
                   struct msg_persist *out)
{
    *out =
        (struct msg_persist){.space = in->space,
                             .keys = in->keys.data,
                             .key_grains = in->key_grains == 0 ? 1 : in->key_grains,
                             .tail_tokens = in->tail_tokens == 0 ? GRAIN_TOKENS : in->tail_tokens,
                             .deadline_ms = in->deadline_ms};
    return take_list(&in->keys, MSG_KEY_BYTES, "persist: keys", decoder, &out->key_count);
}

int decode_completion(struct decoder *decoder, const Kveik__Engine__V1__Completion *in,
                      struct msg_completion *out)
{
    *out = (struct msg_completion){.status = in->status,
                                   .text = in->text,
                                   .statuses = (const int8_t *)in->statuses.data,
                                   .bytes = in->bytes};
    return take_list(&in->statuses, 1, "completion: statuses", decoder, &out->status_count);
}

int decode_status_request(struct decoder *decoder, const Kveik__Engine__V1__StatusRequest *in,
                          struct msg_status_request *out)
{
    (void)decoder;
    *out = (struct msg_status_request){.detail = in->detail};
    return ST_OK;
}

int decode_status_reply(struct decoder *decoder, const Kveik__Engine__V1__StatusReply *in,
                        struct msg_status_reply *out)
{
    (void)decoder;
    *out = (struct msg_status_reply){.json = in->json};
    return ST_OK;
}

int decode_notice(struct decoder *decoder, const Kveik__Engine__V1__Notice *in,
                  struct msg_notice *out)
{
    (void)decoder;
    *out = (struct msg_notice){.kind = in->kind, .status = in->status, .text = in->text};
    return ST_OK;
}
