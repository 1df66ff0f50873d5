/*
 * What stands on disk, to the byte: README.md has the tables. Encoding and decoding only: no file
 * is touched here. Decoders take any bytes at all, never read beyond `bytes`, check every field,
 * and leave pointers into the bytes that they were given; ST_CORRUPT: not what was written;
 * ST_VERSION: written well, but by another version. Thread-safe.
 */
#ifndef KVEIK_STORAGE_DISK_FORMAT_H
#define KVEIK_STORAGE_DISK_FORMAT_H

#include <stdint.h>

#include "storage/disk/disk.h"

enum {
    FORMAT_STORE_BYTES = 128,
    FORMAT_SEGMENT_BYTES = DISK_ALIGN, /* the header of a segment file */
    FORMAT_ID_BYTES = 16,
    FORMAT_PARTS_MAX = 60, /* of one record */
    FORMAT_RECORD_FIXED_BYTES = 88,
    FORMAT_RECORD_HEADER_MAX = 256 * 1024, /* bytes */
    FORMAT_PART_FIXED_BYTES = 84,
    FORMAT_PART_BYTES_MAX =
        FORMAT_PART_FIXED_BYTES + (DISK_KEYS_MAX + 1) * DISK_KEY_BYTES + DISK_ORIGIN_MAX,
    FORMAT_KIND_BYTES_MAX = 8 + 2 * DISK_BLOB_MAX,
    FORMAT_STATE_BYTES = 24,
};

/* ---- the STORE file -------------------------------------------------------------------------- */

struct format_store {
    uint8_t id[FORMAT_ID_BYTES];
    uint8_t secret[DISK_SECRET_BYTES];
    uint64_t made_s; /* seconds since 1970 */
};

void format_store_encode(const struct format_store *store, uint8_t out[FORMAT_STORE_BYTES]);
int format_store_decode(const uint8_t *in, uint64_t bytes, struct format_store *store_out);

/* ---- the header of a segment file ------------------------------------------------------------ */

struct format_segment {
    struct format_store store;
    uint64_t number; /* N of segments/N.kv */
    uint64_t made_s;
    uint64_t segment_bytes; /* how long the file was to become */
};

void format_segment_encode(const struct format_segment *segment, uint8_t out[FORMAT_SEGMENT_BYTES]);
int format_segment_decode(const uint8_t *in, uint64_t bytes, struct format_segment *segment_out);

/* ---- a kind ---------------------------------------------------------------------------------- */

/* Bytes that it takes; at most FORMAT_KIND_BYTES_MAX. */
uint32_t format_kind_bytes(const struct disk_kind *kind);
uint32_t format_kind_encode(const struct disk_kind *kind, uint8_t *out);
int format_kind_decode(const uint8_t *in, uint64_t bytes, struct disk_kind *kind_out,
                       uint32_t *used_out);

/* ---- a part: in the header of its record, and as the catalogue's value ----------------------- */

struct format_part {
    struct disk_part part; /* `kind` counts in the record's kinds, or in the catalogue's */
    uint32_t offset;       /* of the payload in its file, in DISK_UNITs */
    uint64_t bytes;
    uint64_t seal;
    uint64_t charged_bytes;
};

uint32_t format_part_bytes(const struct disk_part *part);
uint32_t format_part_encode(const struct format_part *part, uint8_t *out);
int format_part_decode(const uint8_t *in, uint64_t bytes, struct format_part *part_out,
                       uint32_t *used_out);

/* ---- the header of a record ------------------------------------------------------------------ */

struct format_record {
    uint64_t segment; /* N of its file */
    uint64_t sequence;
    uint64_t offset;       /* of the record in its file */
    uint64_t record_bytes; /* header and payloads: whole pages */
    uint64_t written_s;
    uint32_t header_bytes; /* whole pages */
    uint32_t part_count;
    uint32_t kind_count;
    struct disk_kind kinds[FORMAT_PARTS_MAX];
    struct format_part parts[FORMAT_PARTS_MAX];
};

/* Fills out[0 .. header_bytes), which must hold what the kinds and parts take. */
void format_record_encode(const struct format_record *record, const uint8_t *secret, uint8_t *out);

/* How many bytes of header there are, from the first FORMAT_RECORD_FIXED_BYTES: so that they can be
 * read before they are checked. */
int format_record_peek(const uint8_t *in, uint64_t bytes, uint32_t *header_bytes_out);

/* Whether `in` begins as records do. */
bool format_record_begins(const uint8_t *in, uint64_t bytes);

/* Every part's payload lies inside the record, whose offset and segment are as expected. */
int format_record_decode(const uint8_t *in, uint64_t bytes, const uint8_t *secret,
                         struct format_record *record_out);

/* ---- the state of a segment, in the catalogue ------------------------------------------------ */

struct format_state {
    uint64_t used_bytes;  /* of the file, when it was last committed */
    uint64_t committed_s; /* seconds since 1970 */
};

void format_state_encode(const struct format_state *state, uint8_t out[FORMAT_STATE_BYTES]);
int format_state_decode(const uint8_t *in, uint64_t bytes, struct format_state *state_out);

#endif
