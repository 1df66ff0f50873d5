/*
 * The index of a pool that was kept over a planned restart: which bytes of the pool's file mean
 * what. A container of opaque records that the caller writes and reads; what this file adds is that
 * an index is never believed wrongly: it names the boot, the pool file and the formats that it
 * belongs to, and ends in a checksum (XXH3-64) of everything before.
 *
 *   header (SNAPSHOT_HEADER_BYTES), records (length in 4 bytes, then the bytes), checksum (8 bytes)
 *
 * All numbers are little-endian. It is written beside its final name, synced and then renamed: a
 * name that is there leads to a whole index. It must be invalidated before the pool is changed: a
 * crash afterwards must not find it.
 *
 * A writer or reader belongs to one thread at a time. Any bytes in the file give a clear error.
 */
#ifndef KVEIK_STORAGE_CPU_SNAPSHOT_H
#define KVEIK_STORAGE_CPU_SNAPSHOT_H

#include <stdint.h>

#include "base/error.h"
#include "storage/cpu/pool.h"

enum {
    SNAPSHOT_FORMAT = 1, /* of the container */
    SNAPSHOT_HEADER_BYTES = 192,
    SNAPSHOT_TRAILER_BYTES = 8,
    SNAPSHOT_RECORD_BYTES_MAX = 1024 * 1024,
    SNAPSHOT_BOOT_ID_BYTES = 40, /* with its end */
    SNAPSHOT_VERSION_BYTES = 32,
};

/* What an index belongs to. All of it must be equal for an index to be read. */
struct snapshot_home {
    struct pool_identity pool;
    uint32_t granule_bytes;
    uint32_t page_bytes;
    uint32_t content_format;              /* of the records: the caller's number */
    char boot_id[SNAPSHOT_BOOT_ID_BYTES]; /* of the machine: memory does not outlive a boot */
};

/* What else an index tells: for people. */
struct snapshot_info {
    char version[SNAPSHOT_VERSION_BYTES]; /* of the daemon that wrote it; may differ from ours */
    uint64_t created_s;                   /* wall clock, seconds since 1970 */
    uint64_t record_count;
    uint64_t file_bytes;
};

struct snapshot_writer;
struct snapshot;

/* The home of a pool with a file, on this machine. ST_OK, ST_UNSUPPORTED (the pool has no file),
 * ST_IO (no boot id). */
int snapshot_home_of(const struct pool *pool, uint32_t content_format,
                     struct snapshot_home *home_out, struct error *error);

/* Begins an index that will have the name `path`; what has the name now stays until the end.
 * `version` is cut to fit. ST_OK, ST_NO_MEMORY, ST_IO, ST_PERMISSION, ST_INVALID (path too long).
 */
int snapshot_writer_create(const char *path, const struct snapshot_home *home, const char *version,
                           struct snapshot_writer **writer_out, struct error *error);

/* Appends a record of 1 .. SNAPSHOT_RECORD_BYTES_MAX bytes, which are copied or written before the
 * call returns. After an error nothing more can be appended, and the end fails with the same one.
 * ST_OK, ST_IO, ST_NO_SPACE. */
int snapshot_writer_append(struct snapshot_writer *writer, const void *record, uint32_t bytes,
                           struct error *error);

/* Writes the rest, syncs, gives it its name and syncs the folder. ST_OK: it is there. */
int snapshot_writer_finish(struct snapshot_writer *writer, struct error *error);

/* What was not finished leaves nothing behind. Accepts NULL. */
void snapshot_writer_destroy(struct snapshot_writer *writer);

/* Opens and verifies all of an index: home, lengths, checksum. ST_OK, ST_MISS (there is none),
 * ST_VERSION (another format), ST_MISMATCH (another boot, pool or page size), ST_CORRUPT,
 * ST_PERMISSION (not this user's alone), ST_IO, ST_NO_MEMORY. */
int snapshot_open(const char *path, const struct snapshot_home *home,
                  struct snapshot **snapshot_out, struct error *error);

/* The same of a descriptor, which is the snapshot's from here on, also on failure. */
int snapshot_open_fd(int fd, const struct snapshot_home *home, struct snapshot **snapshot_out,
                     struct error *error);

/* The next record, valid until the next call. ST_OK, ST_MISS (that was all), ST_CORRUPT or ST_IO:
 * the file changed while it was read; nothing of it is to be believed. */
int snapshot_next(struct snapshot *snapshot, const void **record_out, uint32_t *bytes_out,
                  struct error *error);

void snapshot_info(const struct snapshot *snapshot, struct snapshot_info *info_out);

/* Accepts NULL. */
void snapshot_close(struct snapshot *snapshot);

/* Removes an index, and what an interrupted writer left, and syncs the folder. To be called before
 * the first change of the pool that it belongs to: while it fails, the pool must not be attached.
 * ST_OK (also when there was none), ST_IO, ST_INVALID (path too long). */
int snapshot_invalidate(const char *path, struct error *error);

#endif
