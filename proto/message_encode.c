/*
 * struct msg -> bytes. The wire structs lie in the arena, their bytes fields point at the caller's
 * data, and protobuf-c packs once into the arena.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/assert.h"
#include "proto/encode.h"
#include "proto/frame.h"

void *encoder_take(struct encoder *encoder, size_t bytes)
{
    void *memory = msg_arena_take(encoder->arena, bytes);
    if (memory == NULL && encoder->shortage == ST_OK) {
        encoder->shortage = msg_arena_refusal(encoder->arena, bytes, encoder->error);
    }
    return memory;
}

void **take_array(struct encoder *encoder, size_t count, size_t bytes)
{
    void **pointers = encoder_take(encoder, count * sizeof *pointers);
    uint8_t *items = encoder_take(encoder, count * bytes);
    if (pointers == NULL || items == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        pointers[i] = items + i * bytes;
    }
    return pointers;
}

static bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

/* Bytes of `text` that keep it within the limit and end between two UTF-8 characters. */
static size_t text_cut(const char *text)
{
    size_t length = strnlen(text, MSG_TEXT_MAX + 1);
    if (length <= MSG_TEXT_MAX) {
        return length;
    }
    length = MSG_TEXT_MAX;
    while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) {
        length--;
    }
    return length;
}

char *clean_text(struct encoder *encoder, const char *text)
{
    if (text == NULL) {
        return text_of(NULL);
    }
    size_t length = text_cut(text);
    bool clean = text[length] == '\0';
    for (size_t i = 0; clean && i < length; i++) {
        clean = !is_control(text[i]);
    }
    if (clean) {
        return text_of(text);
    }
    char *copy = encoder_take(encoder, length + 1);
    if (copy == NULL) {
        return text_of(NULL);
    }
    for (size_t i = 0; i < length; i++) {
        copy[i] = text[i];
        if (is_control(copy[i])) {
            copy[i] = '?';
        }
    }
    copy[length] = '\0';
    return copy;
}

static void encode_body(struct encoder *encoder, const struct msg *msg,
                        Kveik__Engine__V1__Envelope *envelope)
{
    switch (msg->kind) {
#define X(name, field)                                                                             \
    case MSG_##name:                                                                               \
        envelope->field = encoder_take(encoder, sizeof *envelope->field);                          \
        if (envelope->field == NULL) {                                                             \
            return;                                                                                \
        }                                                                                          \
        kveik__engine__v1__##field##__init(envelope->field);                                       \
        envelope->body_case = KVEIK__ENGINE__V1__ENVELOPE__BODY_##name;                            \
        encode_##field(encoder, &msg->u.field, envelope->field);                                   \
        return;
        MSG_TABLE(X)
#undef X
    case MSG_NONE:
    case MSG_KIND_COUNT:
        break;
    }
    KVEIK_UNREACHABLE("msg_check() accepted a message without a body");
}

int msg_encode(const struct msg *msg, struct msg_arena *arena, const void **payload_out,
               uint32_t *bytes_out, struct error *error)
{
    KVEIK_ASSERT(msg != NULL && arena != NULL);
    int status = msg_check(msg, error);
    if (status != ST_OK) {
        return status;
    }
    struct encoder encoder = {.arena = arena, .shortage = ST_OK, .error = error};
    Kveik__Engine__V1__Envelope envelope = KVEIK__ENGINE__V1__ENVELOPE__INIT;
    envelope.request_id = msg->request_id;
    encode_body(&encoder, msg, &envelope);
    if (encoder.shortage != ST_OK) {
        return encoder.shortage;
    }
    size_t bytes = kveik__engine__v1__envelope__get_packed_size(&envelope);
    if (bytes > FRAME_PAYLOAD_MAX) {
        return error_set(error, ST_LIMIT, "a %s message of %zu bytes, at most %d",
                         msg_kind_name(msg->kind), bytes, FRAME_PAYLOAD_MAX);
    }
    uint8_t *payload = encoder_take(&encoder, bytes);
    if (payload == NULL) {
        return encoder.shortage;
    }
    size_t packed = kveik__engine__v1__envelope__pack(&envelope, payload);
    KVEIK_ASSERT(packed == bytes);
    *payload_out = payload;
    *bytes_out = (uint32_t)bytes;
    return ST_OK;
}
