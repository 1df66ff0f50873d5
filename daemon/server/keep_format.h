/*
 * The records of the index that a planned restart leaves beside the pool's file (storage/cpu/
 * snapshot.h): first one KEEP_HEAD, then its slabs, then kinds and parts, every kind before its
 * parts, parts by their last use, oldest first. All numbers are little-endian. A decoder checks
 * every length and bound: the bytes come from a file.
 */
#ifndef KVEIK_SERVER_KEEP_FORMAT_H
#define KVEIK_SERVER_KEEP_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/core/core.h"

enum {
    KEEP_CONTENT_FORMAT = 1,
    KEEP_SALT_BYTES = 32,
    KEEP_KIND_MAX = 65536,
    KEEP_BLOB_MAX = 1024,
    KEEP_RECORD_BYTES_MAX = 16 * 1024,
};

enum keep_record_kind { KEEP_HEAD = 1, KEEP_SLAB = 2, KEEP_KIND = 3, KEEP_PART = 4 };

struct keep_head {
    uint8_t salt[KEEP_SALT_BYTES]; /* of the default tenant: space ids hang on it */
    uint32_t slabs;
    uint64_t extent; /* pool_extent() */
};

/* What parts are of: a space and a stored form, as kind.c encodes them. */
struct keep_kind {
    uint32_t number;
    const uint8_t *space;
    uint32_t space_bytes;
    const uint8_t *form;
    uint32_t form_bytes;
};

/* Of a core_kept_part: shape is the number of its kind; space and bytes are not there. */
struct keep_record {
    enum keep_record_kind kind;
    union {
        struct keep_head head;
        struct core_kept_slab slab;
        struct keep_kind type;
        struct core_kept_part part;
    } u;
};

/* Bytes written to `out`, which has room for KEEP_RECORD_BYTES_MAX. */
uint32_t keep_encode(const struct keep_record *record, uint8_t *out);

/* False: not what keep_encode() writes. Pointers lead into `bytes`. */
bool keep_decode(const uint8_t *bytes, uint32_t count, struct keep_record *record_out);

#endif
