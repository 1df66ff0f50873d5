/* How much memory this process may still take: the machine's, and its control groups'. Private to
 * this folder. */
#ifndef KVEIK_STORAGE_CPU_LIMITS_H
#define KVEIK_STORAGE_CPU_LIMITS_H

#include <stdint.h>

/* Bytes available now: the machine's MemAvailable or, if smaller, what the memory control group
 * (v1 or v2) of this process, or any of its parents, leaves below its limit, file cache that can
 * be dropped not counted. 0 when nothing can be read. `root` is put in front of every path: "" in
 * production, a made-up tree in tests. */
uint64_t limits_available_bytes(const char *root);

#endif
