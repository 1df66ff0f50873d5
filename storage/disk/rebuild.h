/* The catalogue at start: its folder, and making it again from the segments. */
#ifndef KVEIK_STORAGE_DISK_REBUILD_H
#define KVEIK_STORAGE_DISK_REBUILD_H

#include "storage/disk/disk_internal.h"

/* Moves the catalogue's folder aside, to catalogue.damaged-1, in place of one that lies there.
 * ST_OK also when there is none; ST_IO. */
int catalogue_move_aside(struct disk *disk, struct error *error);

/* Opens it; if it is missing, damaged or another store's, moves it aside, begins a new one and sets
 * *empty_out: rebuild_catalogue() must follow. ST_OK, ST_IO, ST_NO_SPACE, ST_NO_MEMORY. */
int catalogue_obtain(struct disk *disk, bool *empty_out, struct error *error);

/* Fills an empty catalogue with what the segments of the table say, then marks it as whole. */
int rebuild_catalogue(struct disk *disk, struct error *error);

#endif
