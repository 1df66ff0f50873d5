/*
 * The catalogue: what lies in the segments, in RocksDB. Keys, numbers in them big-endian so that
 * they sort:
 *
 *   'K' | kind number (u32)              -> the kind's space and form
 *   'M'                                  -> the store's id: the catalogue is whole, and is this
 * one's 'P' | N (u64) | offset (u32)         -> the part whose payload lies there 'S' | N (u64) ->
 * the state of the segment at its last commit
 *
 * The only file that knows RocksDB. A batch belongs to one thread at a time; catalogue_write(),
 * catalogue_reopen() and scans may be on any one thread, never on two at once.
 */
#ifndef KVEIK_STORAGE_DISK_CATALOGUE_H
#define KVEIK_STORAGE_DISK_CATALOGUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct catalogue;
struct catalogue_batch;

enum catalogue_prefix {
    CATALOGUE_KINDS = 'K',
    CATALOGUE_MARK = 'M',
    CATALOGUE_PARTS = 'P',
    CATALOGUE_SEGMENTS = 'S',
};

/* Opens or makes the one in folder `path`. ST_CORRUPT: what is there cannot be used; ST_NO_SPACE,
 * ST_IO: the device or its permissions are at fault; ST_NO_MEMORY. */
int catalogue_open(const char *path, struct catalogue **catalogue_out, struct error *error);

/* Accepts NULL. */
void catalogue_close(struct catalogue *catalogue);

/* After a failed write RocksDB refuses further ones until it is opened anew. On failure there is no
 * database behind it: writes and scans say ST_UNAVAILABLE until this succeeds. */
int catalogue_reopen(struct catalogue *catalogue, struct error *error);

/* All of the batch or nothing, on stable storage when it returns. The batch stays as it is. */
int catalogue_write(struct catalogue *catalogue, struct catalogue_batch *batch,
                    struct error *error);

/* Of its files, about. */
uint64_t catalogue_bytes(const struct catalogue *catalogue);

struct catalogue_item {
    uint32_t kind;   /* of CATALOGUE_KINDS */
    uint64_t number; /* N, of CATALOGUE_PARTS and CATALOGUE_SEGMENTS */
    uint32_t offset; /* of CATALOGUE_PARTS, in DISK_UNITs */
    const uint8_t *value;
    size_t value_bytes;
};

/* Not ST_OK ends the scan with this status. */
typedef int (*catalogue_cb)(void *ctx, const struct catalogue_item *item);

/* Every item under the prefix, in order. Keys of a wrong length are given as N = 0. ST_CORRUPT:
 * damage was met; what was given before is sound. */
int catalogue_scan(struct catalogue *catalogue, enum catalogue_prefix prefix, catalogue_cb each,
                   void *ctx, struct error *error);

struct catalogue_batch *catalogue_batch_create(void);
void catalogue_batch_destroy(struct catalogue_batch *batch); /* accepts NULL */
void catalogue_batch_clear(struct catalogue_batch *batch);
uint32_t catalogue_batch_count(const struct catalogue_batch *batch);

void catalogue_put_kind(struct catalogue_batch *batch, uint32_t kind, const void *value,
                        size_t bytes);
void catalogue_put_mark(struct catalogue_batch *batch, const void *value, size_t bytes);
void catalogue_put_part(struct catalogue_batch *batch, uint64_t number, uint32_t offset,
                        const void *value, size_t bytes);
void catalogue_put_segment(struct catalogue_batch *batch, uint64_t number, const void *value,
                           size_t bytes);
void catalogue_drop_kind(struct catalogue_batch *batch, uint32_t kind);
void catalogue_drop_part(struct catalogue_batch *batch, uint64_t number, uint32_t offset);
/* With all of its parts. */
void catalogue_drop_segment(struct catalogue_batch *batch, uint64_t number);

#endif
