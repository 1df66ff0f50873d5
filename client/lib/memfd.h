/* Sealed memfds: fresh ones, and ones that replace private pages in place. No client state. */
#ifndef KVEIK_CLIENT_MEMFD_H
#define KVEIK_CLIENT_MEMFD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct memfd_mapping {
    char *address;  /* aligned to 2 MiB */
    uint64_t bytes; /* whole pages */
    int fd;
};

/* Zeroed, populated, sealed against shrinking and growing; huge pages asked for. */
int memfd_allocate(uint64_t bytes, struct memfd_mapping *mapping_out, struct error *error);

struct adopt_options {
    bool huge_pages;
    bool again;
    uint64_t own_bytes; /* with again: so much of the range the caller adopted itself */
};

struct adopted {
    int fd;               /* the caller's */
    uint64_t file_offset; /* of the range's first byte */
};

/*
 * Replaces the pages of [address, address + bytes), rounded outward, by a sealed memfd with the
 * same contents at the same address; there is no moment at which they are not mapped. Pages that
 * were adopted before, by whomever in this process, are found again by their mapping, when one
 * file holds the whole range. ST_BUSY when only part of it was adopted: `again` adopts all of it
 * anew, if nobody else adopted of it: whoever has the old file no longer sees these pages.
 * ST_UNSUPPORTED with the reason when the range is not private, anonymous, readable and writable
 * throughout.
 */
int adopt_range(char *address, uint64_t bytes, struct adopt_options options,
                struct adopted *adopted_out, struct error *error);

#endif
