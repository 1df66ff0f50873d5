/*
 * The file that a pool's memory lives in, so that the memory outlives the process: a named file (on
 * tmpfs or hugetlbfs) or a memfd that someone else holds. Offsets in the file are the pool's own:
 * the file is as long as the reservation and full of holes, which cost nothing.
 *
 * A range is allocated before it is mapped: a file system that is full refuses at once, and never
 * by SIGBUS later. The file is this user's alone (mode 0600, no link followed, no second name) and
 * locked while in use. Private to this folder. Owner thread only.
 */
#ifndef KVEIK_STORAGE_CPU_POOL_FILE_H
#define KVEIK_STORAGE_CPU_POOL_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct pool_file {
    int fd;                  /* of our own; -1: there is no file */
    char *path;              /* NULL: a descriptor was given */
    const char *file_system; /* "tmpfs", "hugetlbfs", ..., "other"; static */
    bool hugetlb;
    bool written_back; /* a file system on a disk: the kernel writes the memory out */
    uint64_t device;   /* st_dev and st_ino: which file it is */
    uint64_t inode;
};

struct pool_file_options {
    const char *path; /* "" or NULL: use fd */
    int fd;           /* borrowed: a descriptor of its own is made; open for reading and writing */
    bool attach;      /* an existing file of exactly `bytes`, whose content stays as it is; else the
                         file is made when missing, and emptied */
    uint64_t bytes;   /* length of the file: address space, most of it holes */
    uint64_t budget_bytes; /* a file system that could never hold as much is refused */
    bool hugetlb;          /* any but hugetlbfs is refused */
};

/* Opens, checks and locks; `file` is untouched on failure. ST_OK, ST_BUSY (names the process that
 * has it), ST_MISMATCH (attach: missing, or not as long), ST_PERMISSION, ST_INVALID (not a file for
 * this), ST_LIMIT (of file sizes), ST_NO_SPACE (file system smaller than the budget), ST_NO_MEMORY,
 * ST_IO. */
int pool_file_open(struct pool_file *file, const struct pool_file_options *options,
                   struct error *error);

/* Gives the lock back. Unless kept, the memory goes, and a named file too. Accepts one whose fd
 * is -1. */
void pool_file_close(struct pool_file *file, bool keep);

/* Memory that reads as zero for a range, whatever lay there. False, with errno: nothing lies
 * there. */
bool pool_file_allocate(const struct pool_file *file, uint64_t offset, uint64_t bytes);

/* Gives the memory of a range back. False, with errno. */
bool pool_file_empty(const struct pool_file *file, uint64_t offset, uint64_t bytes);

/* True when all of a range was allocated already. Else false, and the range is emptied: what was
 * missing has been filled with zeros meanwhile, and must not be taken for content. Nothing else may
 * allocate in the file at the same time. */
bool pool_file_holds(const struct pool_file *file, uint64_t offset, uint64_t bytes);

/* How much of the file is allocated, in units of 512 bytes; 0: not known. */
uint64_t pool_file_blocks(const struct pool_file *file);

#endif
