/*
 * The CPU tier's memory: one reservation of private anonymous address space, much larger than the
 * memory that may be used, committed and given back in slabs. The core decides which slabs exist
 * (it counts bytes against the budget); the pool only makes them real, so that a size class can
 * grow contiguous slabs whatever other classes came and went: no fragmentation collapse.
 *
 * Memory is obtained in the background: one thread touches one byte per 2 MiB (which gives a huge
 * page where the kernel grants one at fault time) and collapses what was given as small pages
 * (MADV_COLLAPSE). Advice alone may give none, so what was obtained is counted and reported. KV
 * stays out of core dumps (MADV_DONTDUMP) and out of forked children (MADV_DONTFORK).
 *
 * The memory may live in a file on tmpfs or hugetlbfs, so that a planned restart keeps it:
 *
 *   the old process: pool_keep(), pool_destroy()
 *   the new one:     pool_create() with attach, pool_adopt() of each slab that is still known,
 *                    pool_adopt_end()
 *
 * What is not adopted is given back; a slab that is committed anew reads as zero, whatever lay
 * there. Which bytes mean what is the caller's to remember (snapshot.h) and to verify.
 */
#ifndef KVEIK_STORAGE_CPU_POOL_H
#define KVEIK_STORAGE_CPU_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { POOL_GRANULE_BYTES = 2 * 1024 * 1024, POOL_SEAL_BITS = 48 };

enum pool_pages {
    POOL_PAGES_AUTO,  /* transparent huge pages where the kernel grants them */
    POOL_PAGES_SMALL, /* none: for comparison */
    POOL_PAGES_HUGE,  /* explicit (MAP_HUGETLB, 2 MiB); refused at commit when the system has none;
                         a file must lie on hugetlbfs for it */
};

struct pool_options {
    uint64_t budget_bytes;  /* multiple of POOL_GRANULE_BYTES: most memory in use at once */
    uint64_t reserve_bytes; /* address space; offsets lie below it */
    enum pool_pages pages;
    bool prefault; /* the background thread touches slabs before they are used */
    bool lock;     /* mlock; failure is reported in the status, not fatal */

    const char *file; /* the memory lives there; NULL or "": anonymous, unless has_fd. Made when it
                         is missing; this user's alone, locked while in use */
    bool has_fd;      /* or in this descriptor: a memfd that a service manager keeps */
    int fd;           /* borrowed for pool_create() alone */
    bool attach;      /* the file is there, of exactly reserve_bytes, and keeps what it holds; else
                         it is emptied */
};

struct pool_status {
    uint64_t committed_bytes;
    uint64_t touched_bytes;
    uint64_t huge_bytes; /* of the touched; read from /proc/self/smaps by the pool's thread, after
                            it touched a slab and when asked, at most once a second: it may be one
                            question old. Without prefault, touched_bytes comes from there, too */
    uint64_t locked_bytes;
    uint64_t commit_failures;
    const char *file_system; /* of the file: "tmpfs", "hugetlbfs", ..., "other"; "": anonymous */
    bool written_back;       /* it is on a disk: the kernel writes KV out, and is slowed by it */
};

/* Which file the memory lives in. Equal only for one file, within one boot of the machine. */
struct pool_identity {
    uint64_t device; /* st_dev */
    uint64_t inode;
    uint64_t reserve_bytes;
};

struct pool;

/* What to take when nothing was configured: three quarters of what the cgroup (v1 or v2, its own
 * limit and all its parents') or, if smaller, the machine has available now, at most
 * limit_bytes if not 0, rounded down to whole granules; at least 64 MiB. */
uint64_t pool_default_budget(uint64_t limit_bytes);

/* ST_OK, ST_NO_MEMORY, ST_INVALID. With a file also: ST_BUSY (another process has it: its id is
 * named), ST_MISMATCH (attach: not there, or of another length), ST_PERMISSION (not this user's
 * alone), ST_LIMIT (on file sizes), ST_NO_SPACE (the file system is smaller than the budget),
 * ST_IO. A file that is refused is left as it was. */
int pool_create(const struct pool_options *options, struct pool **pool_out, struct error *error);

/* All copies must have drained. The file's memory goes, and its name, unless it is to be kept.
 * Accepts NULL. */
void pool_destroy(struct pool *pool);

/* From now on pool_destroy() leaves the file and what is in it. ST_OK, ST_UNSUPPORTED (no file). */
int pool_keep(struct pool *pool);

/* False when there is no file. */
bool pool_identity(const struct pool *pool, struct pool_identity *identity_out);

/* Makes [offset, offset + bytes) usable (both multiples of the granule). The memory reads as zero
 * at first. ST_OK, ST_NO_MEMORY, ST_LIMIT (beyond the budget). Owner thread only. With a file, what
 * was committed is there: nothing faults when its file system is full later. */
int pool_commit(struct pool *pool, uint64_t offset, uint64_t bytes, struct error *error);

/* How much of the file is memory, in a number to be noted with what is kept; 0: not known. */
uint64_t pool_extent(const struct pool *pool);

/* Before the first pool_adopt(): the extent that was noted. If it still is the file's, nothing can
 * be missing, and adopting does not look for it, which takes a tenth of a second for some GiB of
 * small pages. */
void pool_adopt_begin(struct pool *pool, uint64_t extent);

/* As pool_commit(), of an attached file's range with what it holds. All of it must be there: else
 * ST_MISMATCH, and the range is emptied, since a hole would read as zeros. */
int pool_adopt(struct pool *pool, uint64_t offset, uint64_t bytes, struct error *error);

/* Gives all back that an attached file holds and that is not committed. ST_OK, ST_IO. */
int pool_adopt_end(struct pool *pool, struct error *error);

/* Gives the memory back to the system. No copy may touch it any more. Owner thread only. */
void pool_decommit(struct pool *pool, uint64_t offset, uint64_t bytes);

/* Whether the granule at an offset is committed. Owner thread only. */
bool pool_committed(const struct pool *pool, uint64_t offset);

/* The address of an offset in a committed slab. Any thread. */
char *pool_address(const struct pool *pool, uint64_t offset);

/* The checksum (XXH3-64's low POOL_SEAL_BITS: the disk tier's seal) of bytes in a committed slab.
 * ST_OK; ST_MEMORY: they cannot be read. Any thread; nobody may write there meanwhile. */
int pool_seal(const struct pool *pool, uint64_t offset, uint64_t bytes, uint64_t *seal_out);

void pool_status(struct pool *pool, struct pool_status *status_out);

#endif
