/*
 * Segment files as files: made, opened, checked, listed, removed; and the records in them found
 * again. Every function may block; none keeps state but in what it is given. Threads: any.
 */
#ifndef KVEIK_STORAGE_DISK_SEGMENT_H
#define KVEIK_STORAGE_DISK_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "storage/disk/format.h"

struct log; /* base/log.h */

/* The folder of them; filled by its owner, shared by threads. */
struct segment_files {
    int directory_fd;
    struct format_store store;
    uint64_t segment_bytes;
    struct log *log;
    atomic_bool said_buffered; /* that there is no direct I/O here, once */
};

/* Makes N.kv at its full length, writes its header, and puts both on stable storage. ST_OK,
 * ST_NO_SPACE, ST_IO; then nothing is left behind. */
int segment_create(struct segment_files *files, uint64_t number, int *fd_out, struct error *error);

/* For reads and writes; with direct I/O where the file system has it. ST_IO. */
int segment_open(struct segment_files *files, uint64_t number, int *fd_out, struct error *error);

/* For the page cache: scans and checks. */
int segment_open_buffered(const struct segment_files *files, uint64_t number, int *fd_out,
                          struct error *error);

/* The header fits the store and the number. ST_OK, ST_CORRUPT, ST_VERSION, ST_IO. */
int segment_check(const struct segment_files *files, uint64_t number, uint64_t *file_bytes_out,
                  struct error *error);

/* The store's identity out of any one header that can be read. ST_OK, ST_MISS: no file at all;
 * ST_CORRUPT: files, but none readable; ST_VERSION; ST_IO; ST_NO_MEMORY. */
int segment_find_store(const struct segment_files *files, struct format_store *store_out,
                       struct error *error);

/* Cuts the file to `bytes`. ST_OK, ST_IO. */
int segment_trim(const struct segment_files *files, uint64_t number, uint64_t bytes,
                 struct error *error);

int segment_remove(const struct segment_files *files, uint64_t number, struct error *error);

/* The numbers of all files, ascending; the caller frees them with heap_free(). Other names are left
 * alone. ST_OK, ST_IO, ST_NO_MEMORY, ST_LIMIT: more than DISK_SEGMENTS_MAX. */
int segment_list(const struct segment_files *files, uint64_t **numbers_out, uint32_t *count_out,
                 struct error *error);

/* Not ST_OK ends the scan with this status. Pointers in the record are valid during the call. */
typedef int (*segment_record_cb)(void *ctx, const struct format_record *record);

/* Every record whose header is sound, in order; payloads are not read. Damage is skipped, page by
 * page, to the next sound header. ST_OK, ST_IO, ST_NO_MEMORY. */
int segment_scan(const struct segment_files *files, uint64_t number, segment_record_cb each,
                 void *ctx, struct error *error);

#endif
