/* What the kernel really gave: resident and huge bytes of an address range. Private to this
 * folder. */
#ifndef KVEIK_STORAGE_CPU_SMAPS_H
#define KVEIK_STORAGE_CPU_SMAPS_H

#include <stdint.h>

struct smaps_bytes {
    uint64_t resident;
    uint64_t huge; /* of these, in huge pages */
};

/* Sums the mappings that begin in [begin, end), as listed in `path` (/proc/self/smaps). Zeros when
 * it cannot be read. Slow where small pages are many: not for the loop's thread. */
struct smaps_bytes smaps_read(const char *path, const void *begin, const void *end);

#endif
