/* The directory's LOCK file: one process at a time has the store open. */
#ifndef KVEIK_STORAGE_DISK_LOCK_H
#define KVEIK_STORAGE_DISK_LOCK_H

#include "base/error.h"

/* Takes the lock and writes our pid into it; the descriptor holds it until it is closed. ST_OK,
 * ST_BUSY (the error names the holder's pid), ST_IO. */
int lock_take(int directory_fd, int *fd_out, struct error *error);

#endif
