/*
 * The heap hook: all of Kveik allocates here, so that tests can fail any allocation and count what
 * is outstanding. Thread-safe. Functions return NULL when memory is short.
 */
#ifndef KVEIK_BASE_HEAP_H
#define KVEIK_BASE_HEAP_H

#include <stddef.h>
#include <stdint.h>

void *heap_alloc(size_t bytes);

/* Zeroed; overflow of count * bytes gives NULL. */
void *heap_calloc(size_t count, size_t bytes);

/* As realloc(); on NULL the old memory stays valid. */
void *heap_realloc(void *memory, size_t bytes);

/* `alignment` is a power of two and a multiple of sizeof(void *). Freed with heap_free(). */
void *heap_alloc_aligned(size_t alignment, size_t bytes);

char *heap_strdup(const char *text);

/* Accepts NULL. */
void heap_free(void *memory);

/* Allocations not yet freed in this process. */
int64_t heap_outstanding(void);

#endif
