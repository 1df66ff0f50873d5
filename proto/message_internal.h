/* Shared by the files of the message conversion; nobody else includes it. */
#ifndef KVEIK_PROTO_MESSAGE_INTERNAL_H
#define KVEIK_PROTO_MESSAGE_INTERNAL_H

#include <stddef.h>

#include "base/error.h"
#include "proto/message.h"

/* Lists of u32 travel little-endian and are used in place. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lists of u32 need their bytes swapped");

/* Checks what a plain message says, whichever side built it. ST_OK, ST_PROTOCOL or ST_LIMIT. */
int msg_check(const struct msg *msg, struct error *error);

/* The text beside a status, as received. (A sender's is cleaned, not refused: see encode.h.) */
int msg_check_reason(const struct msg *msg, struct error *error);

/* Why msg_arena_take(bytes) gave NULL. */
int msg_arena_refusal(const struct msg_arena *arena, size_t bytes, struct error *error);

#endif
