/*
 * Bytes -> struct msg. protobuf-c parses into the arena: it copies each bytes field to a place of
 * its own, 16-byte aligned, so that packed lists are used where they lie. What is absent gets its
 * documented default, then msg_check() judges the whole.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/assert.h"
#include "proto/decode.h"

typedef Kveik__Engine__V1__Envelope wire_envelope;

void *decoder_take(struct decoder *decoder, size_t bytes)
{
    void *memory = msg_arena_take(decoder->arena, bytes);
    if (memory == NULL) {
        decoder->shortage = msg_arena_refusal(decoder->arena, bytes, decoder->error);
    }
    return memory;
}

static void *decoder_alloc(void *data, size_t bytes)
{
    return decoder_take(data, bytes);
}

/* The arena frees all at once. */
static void decoder_free(void *data, void *memory)
{
    (void)data;
    (void)memory;
}

int take_list(const ProtobufCBinaryData *in, size_t item_bytes, const char *field,
              struct decoder *decoder, uint32_t *count_out)
{
    if (in->len % item_bytes != 0) {
        return error_set(decoder->error, ST_PROTOCOL, "%s: %zu bytes are no multiple of %zu", field,
                         in->len, item_bytes);
    }
    if (in->len > UINT32_MAX) {
        return error_set(decoder->error, ST_LIMIT, "%s: %zu bytes", field, in->len);
    }
    *count_out = (uint32_t)(in->len / item_bytes);
    return ST_OK;
}

int take_fixed(const ProtobufCBinaryData *in, size_t want, const char *field,
               struct decoder *decoder, bool *present_out)
{
    if (in->len != 0 && in->len != want) {
        return error_set(decoder->error, ST_PROTOCOL, "%s has %zu bytes, must be %zu", field,
                         in->len, want);
    }
    *present_out = in->len != 0;
    return ST_OK;
}

int take_copy(const ProtobufCBinaryData *in, size_t bytes_max, const char *field,
              struct decoder *decoder, void *out)
{
    if (in->len > bytes_max) {
        return error_set(decoder->error, ST_LIMIT, "%s has %zu bytes, at most %zu", field, in->len,
                         bytes_max);
    }
    if (in->len > 0) {
        (void)memcpy(out, in->data, in->len);
    }
    return ST_OK;
}

static int decode_body(struct decoder *decoder, const wire_envelope *envelope, struct msg *msg)
{
    switch ((int)envelope->body_case) { /* one of the values stands for none */
#define X(name, field)                                                                             \
    case KVEIK__ENGINE__V1__ENVELOPE__BODY_##name:                                                 \
        msg->kind = MSG_##name;                                                                    \
        KVEIK_ASSERT(envelope->field != NULL);                                                     \
        return decode_##field(decoder, envelope->field, &msg->u.field);
        MSG_TABLE(X)
#undef X
    case KVEIK__ENGINE__V1__ENVELOPE__BODY__NOT_SET:
    default:
        /* also the kind of a newer version: it was not negotiated */
        return error_set(decoder->error, ST_PROTOCOL, "a message of no known kind");
    }
}

int msg_decode(const void *payload, size_t bytes, struct msg_arena *arena, struct msg *msg_out,
               struct error *error)
{
    KVEIK_ASSERT(arena != NULL && msg_out != NULL);
    KVEIK_ASSERT(payload != NULL || bytes == 0);
    struct decoder decoder = {.arena = arena, .shortage = ST_OK, .error = error};
    ProtobufCAllocator allocator = {
        .alloc = decoder_alloc, .free = decoder_free, .allocator_data = &decoder};
    wire_envelope *envelope =
        kveik__engine__v1__envelope__unpack(&allocator, bytes, (const uint8_t *)payload);
    if (envelope == NULL) {
        return decoder.shortage != ST_OK
                   ? decoder.shortage
                   : error_set(error, ST_PROTOCOL, "%zu bytes that are no message", bytes);
    }
    msg_out->request_id = envelope->request_id;
    msg_out->kind = MSG_NONE;
    int status = decode_body(&decoder, envelope, msg_out);
    if (status == ST_OK) {
        status = msg_check(msg_out, error);
    }
    return status != ST_OK ? status : msg_check_reason(msg_out, error);
}
