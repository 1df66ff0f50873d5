/*
 * Importing an engine's memory: a sealed memfd that came beside a message is checked and mapped.
 * What could hurt the daemon is refused with the reason: a file that can shrink, a sparse one (its
 * pages would be charged to us), a range outside it.
 *
 * Several regions may lie in one file (adopted tensors). A descriptor is kept for each file, by one
 * of its imports, to see whether somebody punched holes since. Not thread-safe; import_populate()
 * may run on a worker meanwhile.
 */
#ifndef KVEIK_ENGINE_IMPORT_H
#define KVEIK_ENGINE_IMPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct import {
    int fd;     /* -1: another import keeps the file's, see import_share() */
    char *base; /* of the region, not of the mapping */
    uint64_t bytes;
    char *mapping; /* whole pages around it */
    uint64_t mapping_bytes;
    uint64_t device;
    uint64_t inode;
    uint64_t blocks;      /* of the file, when it was imported */
    uint64_t file_blocks; /* the most of these among the imports that `fd` stands for */
};

/* Takes the descriptor, also when it fails. ST_OK, ST_INVALID, ST_PERMISSION (seals), ST_MEMORY
 * (sparse), ST_IO. */
int import_memfd(int fd, uint64_t file_offset, uint64_t bytes, struct import *import_out,
                 struct error *error);

/* Enters all pages into our page tables, so that copies take no faults. May take long: for a
 * worker thread. ST_OK or ST_MEMORY. */
int import_populate(const struct import *import, struct error *error);

/* Two imports of one file. */
bool import_same_file(const struct import *a, const struct import *b);

/* `keeper` keeps the descriptor for both from now on; both are of one file, and one of them has it.
 */
void import_share(struct import *keeper, struct import *other);

/* Whether the file has fewer blocks than at import: somebody punched a hole. False when another
 * import keeps the descriptor: that one tells. */
bool import_punched(const struct import *import);

/* No copy touches it any more. Accepts a zeroed one. */
void import_finish(struct import *import);

#endif
