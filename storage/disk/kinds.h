/* The kinds that parts are of, by number. Blobs are copied and stay where they are until the table
 * is finished, so that threads may read them. The owner thread's. */
#ifndef KVEIK_STORAGE_DISK_KINDS_H
#define KVEIK_STORAGE_DISK_KINDS_H

#include <stdbool.h>
#include <stdint.h>

#include "storage/disk/disk.h"

enum { KINDS_MAX = 4096 };

struct kind_entry {
    struct disk_kind kind; /* space == NULL: no such number */
    uint64_t hash;
    bool used;   /* a part of it was seen */
    bool stored; /* it is in the catalogue, or in the batch that gathers */
};

struct kinds {
    struct kind_entry *entries; /* KINDS_MAX */
    uint32_t count;             /* numbers below are given, or free */
};

/* ST_OK, ST_NO_MEMORY. */
int kinds_init(struct kinds *kinds);
void kinds_finish(struct kinds *kinds); /* accepts a zeroed one */

/* As disk_kind_number(). */
int kinds_number(struct kinds *kinds, const struct disk_kind *kind, uint32_t *number_out);

/* Under a number of the catalogue's. ST_OK, ST_CORRUPT: the number is too large or given already,
 * or the same kind has another; ST_NO_MEMORY. */
int kinds_put(struct kinds *kinds, uint32_t number, const struct disk_kind *kind);

/* NULL: no such number. */
struct kind_entry *kinds_get(const struct kinds *kinds, uint32_t number);

/* Forgets one that no part is of. */
void kinds_drop(struct kinds *kinds, uint32_t number);

#endif
