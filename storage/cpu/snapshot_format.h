/* The header of a snapshot as bytes. Private to this folder. */
#ifndef KVEIK_STORAGE_CPU_SNAPSHOT_FORMAT_H
#define KVEIK_STORAGE_CPU_SNAPSHOT_FORMAT_H

#include <stdint.h>

#include "base/error.h"
#include "storage/cpu/snapshot.h"

struct snapshot_header {
    struct snapshot_home home;
    char version[SNAPSHOT_VERSION_BYTES];
    uint64_t created_s;
    uint64_t record_count;
    uint64_t payload_bytes; /* of all records with their lengths */
};

void snapshot_header_encode(const struct snapshot_header *header,
                            uint8_t bytes_out[SNAPSHOT_HEADER_BYTES]);

/* ST_OK, ST_CORRUPT (no snapshot), ST_VERSION. Texts come out terminated and printable. */
int snapshot_header_decode(const uint8_t bytes[SNAPSHOT_HEADER_BYTES],
                           struct snapshot_header *header_out, struct error *error);

/* Whether what a header names is `home`. ST_OK, ST_VERSION (of the records), ST_MISMATCH. */
int snapshot_home_check(const struct snapshot_home *found, const struct snapshot_home *home,
                        struct error *error);

#endif
