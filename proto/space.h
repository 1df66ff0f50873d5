/*
 * A space says what KV means: model, revision, dtype, rotary parameters, layer groups. Two engines
 * share blocks only within one space. Its id is the SHA-256 of a canonical encoding of all fields
 * but the quota, computed here for both sides.
 */
#ifndef KVEIK_PROTO_SPACE_H
#define KVEIK_PROTO_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/layout.h"

enum {
    SPACE_NAME_BYTES = 256, /* with the terminating zero */
    SPACE_GROUPS_MAX = 16,
    SPACE_FINGERPRINT_MAX = 128,
    SPACE_ID_BYTES = 32,
};

/* X(name, number, element bytes) */
#define SPACE_DTYPE_TABLE(X)                                                                       \
    X(F32, 1, 4)                                                                                   \
    X(BF16, 2, 2)                                                                                  \
    X(F16, 3, 2) X(F8_E4M3, 4, 1) X(F8_E5M2, 5, 1) X(I8, 6, 1) X(U8, 7, 1) X(F64, 8, 8)

enum space_dtype {
#define X(name, number, bytes) SPACE_##name = (number),
    SPACE_DTYPE_TABLE(X)
#undef X
};

/* How a hit of n tokens is decided in a group. */
enum group_rule {
    GROUP_EVERY = 1,  /* full attention: every block up to n */
    GROUP_WINDOW = 2, /* sliding window: the blocks that hold the last window_tokens up to n */
    GROUP_STATE = 3,  /* recurrent: the state at n */
};

/* When blocks of a space go to disk. */
enum space_admission {
    SPACE_ADMIT_DEFAULT = 0,    /* as the daemon is set */
    SPACE_ADMIT_AT_ONCE = 1,    /* as soon as they were pushed */
    SPACE_ADMIT_SECOND_USE = 2, /* when they are used again */
    SPACE_ADMIT_EVICTION = 3,   /* before they leave memory */
    SPACE_ADMIT_NEVER = 4,
};

struct space_group {
    uint32_t rule; /* enum group_rule */
    uint32_t window_tokens;
    uint32_t layer_count;
    uint32_t head_count;
    uint32_t kind_count;
    uint32_t kind_elements[LAYOUT_KINDS_MAX]; /* a head and token; opaque: 0 */
    bool opaque;
};

struct space {
    char model[SPACE_NAME_BYTES];
    char revision[SPACE_NAME_BYTES];
    uint32_t dtype; /* enum space_dtype */
    uint8_t rope_id[32];
    bool has_rope;
    uint32_t group_count;
    struct space_group groups[SPACE_GROUPS_MAX];
    uint32_t fingerprint_bytes;
    uint8_t fingerprint[SPACE_FINGERPRINT_MAX];
    uint32_t isolation_bytes;
    uint8_t isolation[SPACE_FINGERPRINT_MAX];
    uint64_t quota_bytes; /* not part of the id */
    uint32_t admission;   /* not part of the id: enum space_admission */
};

/* 0 for a number that is no dtype. */
uint32_t space_dtype_bytes(uint32_t dtype);

/* ST_OK, or ST_INVALID with the field in words. */
int space_check(const struct space *space, struct error *error);

/* ST_OK or ST_NO_MEMORY. The space has passed space_check(). */
int space_id(const struct space *space, uint8_t id_out[SPACE_ID_BYTES]);

#endif
