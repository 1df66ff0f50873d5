/*
 * Encoding of one message: shared by the message_encode*.c files. The functions fill a wire struct
 * that protobuf-c has initialised; a shortage of memory is noted in the encoder.
 */
#ifndef KVEIK_PROTO_ENCODE_H
#define KVEIK_PROTO_ENCODE_H

#include <stddef.h>

#include <protobuf-c/protobuf-c.h>

#include "engine.pb-c.h"
#include "proto/message_internal.h"

struct encoder {
    struct msg_arena *arena;
    int shortage; /* the first take that gave nothing */
    struct error *error;
};

/* Wire structs have no const: packing only reads. */
static inline void *writable(const void *data)
{
    union {
        const void *in;
        void *out;
    } cast = {.in = data};
    return cast.out;
}

static inline ProtobufCBinaryData data_of(const void *data, size_t bytes)
{
    return (ProtobufCBinaryData){.len = data == NULL ? 0 : bytes, .data = writable(data)};
}

static inline char *text_of(const char *text)
{
    return writable(text == NULL ? "" : text);
}

void *encoder_take(struct encoder *encoder, size_t bytes);

/* `count` structs of `bytes` and the pointers to them, as repeated fields want it. */
void **take_array(struct encoder *encoder, size_t count, size_t bytes);

/* A reason must reach the other side whatever it quotes: too long is cut, controls become '?'. */
char *clean_text(struct encoder *encoder, const char *text);

void encode_hello(struct encoder *encoder, const struct msg_hello *in,
                  Kveik__Engine__V1__Hello *out);
void encode_hello_reply(struct encoder *encoder, const struct msg_hello_reply *in,
                        Kveik__Engine__V1__HelloReply *out);
void encode_register_space(struct encoder *encoder, const struct space *in,
                           Kveik__Engine__V1__RegisterSpace *out);
void encode_space_reply(struct encoder *encoder, const struct msg_space_reply *in,
                        Kveik__Engine__V1__SpaceReply *out);
void encode_export_memory(struct encoder *encoder, const struct msg_export_memory *in,
                          Kveik__Engine__V1__ExportMemory *out);
void encode_drop_memory(struct encoder *encoder, const struct msg_drop *in,
                        Kveik__Engine__V1__DropMemory *out);
void encode_drop_layout(struct encoder *encoder, const struct msg_drop *in,
                        Kveik__Engine__V1__DropLayout *out);
void encode_handle_reply(struct encoder *encoder, const struct msg_handle_reply *in,
                         Kveik__Engine__V1__HandleReply *out);
void encode_register_layout(struct encoder *encoder, const struct msg_register_layout *in,
                            Kveik__Engine__V1__RegisterLayout *out);
void encode_push(struct encoder *encoder, const struct msg_push *in, Kveik__Engine__V1__Push *out);
void encode_lookup(struct encoder *encoder, const struct msg_lookup *in,
                   Kveik__Engine__V1__Lookup *out);
void encode_lookup_reply(struct encoder *encoder, const struct msg_lookup_reply *in,
                         Kveik__Engine__V1__LookupReply *out);
void encode_pull(struct encoder *encoder, const struct msg_pull *in, Kveik__Engine__V1__Pull *out);
void encode_release(struct encoder *encoder, const struct msg_release *in,
                    Kveik__Engine__V1__Release *out);
void encode_quiesce(struct encoder *encoder, const struct msg_quiesce *in,
                    Kveik__Engine__V1__Quiesce *out);
void encode_cancel(struct encoder *encoder, const struct msg_cancel *in,
                   Kveik__Engine__V1__Cancel *out);
void encode_persist(struct encoder *encoder, const struct msg_persist *in,
                    Kveik__Engine__V1__Persist *out);
void encode_probe(struct encoder *encoder, const struct msg_probe *in,
                  Kveik__Engine__V1__Probe *out);
void encode_completion(struct encoder *encoder, const struct msg_completion *in,
                       Kveik__Engine__V1__Completion *out);
void encode_status_request(struct encoder *encoder, const struct msg_status_request *in,
                           Kveik__Engine__V1__StatusRequest *out);
void encode_status_reply(struct encoder *encoder, const struct msg_status_reply *in,
                         Kveik__Engine__V1__StatusReply *out);
void encode_notice(struct encoder *encoder, const struct msg_notice *in,
                   Kveik__Engine__V1__Notice *out);

#endif
