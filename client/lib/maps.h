/* What lies where in this process. */
#ifndef KVEIK_CLIENT_LIB_MAPS_H
#define KVEIK_CLIENT_LIB_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct map_segment {
    uintptr_t begin;
    uintptr_t end;
    bool readable;
    bool writable;
    bool executable;
    bool shared;
    uint64_t file_offset;
    uint64_t device; /* makedev() */
    uint64_t inode;
    char name[64]; /* cut; empty: anonymous */
};

/* The segments of this process that meet [begin, end), in order. ST_OK with a heap array, ST_IO,
 * ST_NO_MEMORY. */
int maps_read(uintptr_t begin, uintptr_t end, struct map_segment **segments_out, size_t *count_out,
              struct error *error);

/* True when [begin, end) is covered without a gap by readable and writable segments. */
bool maps_cover(const struct map_segment *segments, size_t count, uintptr_t begin, uintptr_t end);

/* An open descriptor of this process (a duplicate, the caller's) for a device and inode; -1. */
int maps_find_descriptor(uint64_t device, uint64_t inode);

#endif
