/*
 * Decoding of one message: shared by the message_decode*.c files. Functions fill *out and return
 * ST_OK, ST_PROTOCOL, ST_LIMIT or ST_NO_MEMORY with the field in words.
 */
#ifndef KVEIK_PROTO_DECODE_H
#define KVEIK_PROTO_DECODE_H

#include <stdbool.h>
#include <stddef.h>

#include <protobuf-c/protobuf-c.h>

#include "engine.pb-c.h"
#include "proto/message_internal.h"

struct decoder {
    struct msg_arena *arena;
    int shortage; /* why the arena gave nothing, once it did */
    struct error *error;
};

/* NULL: return decoder->shortage. */
void *decoder_take(struct decoder *decoder, size_t bytes);

/* Items of a packed list. ST_PROTOCOL when the length is no multiple. */
int take_list(const ProtobufCBinaryData *in, size_t item_bytes, const char *field,
              struct decoder *decoder, uint32_t *count_out);

/* A field of exactly `want` bytes, or an empty one. */
int take_fixed(const ProtobufCBinaryData *in, size_t want, const char *field,
               struct decoder *decoder, bool *present_out);

int take_copy(const ProtobufCBinaryData *in, size_t bytes_max, const char *field,
              struct decoder *decoder, void *out);

static inline struct msg_bytes bytes_of(const ProtobufCBinaryData *in)
{
    return (struct msg_bytes){.data = in->data, .bytes = (uint32_t)in->len};
}

int decode_hello(struct decoder *decoder, const Kveik__Engine__V1__Hello *in,
                 struct msg_hello *out);
int decode_hello_reply(struct decoder *decoder, const Kveik__Engine__V1__HelloReply *in,
                       struct msg_hello_reply *out);
int decode_register_space(struct decoder *decoder, const Kveik__Engine__V1__RegisterSpace *in,
                          struct space *out);
int decode_space_reply(struct decoder *decoder, const Kveik__Engine__V1__SpaceReply *in,
                       struct msg_space_reply *out);
int decode_export_memory(struct decoder *decoder, const Kveik__Engine__V1__ExportMemory *in,
                         struct msg_export_memory *out);
int decode_drop_memory(struct decoder *decoder, const Kveik__Engine__V1__DropMemory *in,
                       struct msg_drop *out);
int decode_drop_layout(struct decoder *decoder, const Kveik__Engine__V1__DropLayout *in,
                       struct msg_drop *out);
int decode_handle_reply(struct decoder *decoder, const Kveik__Engine__V1__HandleReply *in,
                        struct msg_handle_reply *out);
int decode_register_layout(struct decoder *decoder, const Kveik__Engine__V1__RegisterLayout *in,
                           struct msg_register_layout *out);
int decode_push(struct decoder *decoder, const Kveik__Engine__V1__Push *in, struct msg_push *out);
int decode_lookup(struct decoder *decoder, const Kveik__Engine__V1__Lookup *in,
                  struct msg_lookup *out);
int decode_lookup_reply(struct decoder *decoder, const Kveik__Engine__V1__LookupReply *in,
                        struct msg_lookup_reply *out);
int decode_pull(struct decoder *decoder, const Kveik__Engine__V1__Pull *in, struct msg_pull *out);
int decode_release(struct decoder *decoder, const Kveik__Engine__V1__Release *in,
                   struct msg_release *out);
int decode_quiesce(struct decoder *decoder, const Kveik__Engine__V1__Quiesce *in,
                   struct msg_quiesce *out);
int decode_cancel(struct decoder *decoder, const Kveik__Engine__V1__Cancel *in,
                  struct msg_cancel *out);
int decode_persist(struct decoder *decoder, const Kveik__Engine__V1__Persist *in,
                   struct msg_persist *out);
int decode_probe(struct decoder *decoder, const Kveik__Engine__V1__Probe *in,
                 struct msg_probe *out);
int decode_completion(struct decoder *decoder, const Kveik__Engine__V1__Completion *in,
                      struct msg_completion *out);
int decode_status_request(struct decoder *decoder, const Kveik__Engine__V1__StatusRequest *in,
                          struct msg_status_request *out);
int decode_status_reply(struct decoder *decoder, const Kveik__Engine__V1__StatusReply *in,
                        struct msg_status_reply *out);
int decode_notice(struct decoder *decoder, const Kveik__Engine__V1__Notice *in,
                  struct msg_notice *out);

#endif
