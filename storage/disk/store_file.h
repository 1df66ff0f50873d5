/* The STORE file: who the store is. */
#ifndef KVEIK_STORAGE_DISK_STORE_FILE_H
#define KVEIK_STORAGE_DISK_STORE_FILE_H

#include "storage/disk/segment.h"

/* Reads it; a damaged or missing one is written again from any segment's header; in a folder
 * without either, a new store is begun. `files` has its folder open and gets the store. ST_OK;
 * ST_VERSION: another format, everything is left as it is; ST_CORRUPT: neither can be read; ST_IO;
 * ST_NO_MEMORY. */
int store_file_load(int directory_fd, struct segment_files *files, struct error *error);

#endif
