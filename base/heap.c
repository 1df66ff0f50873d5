#include "base/heap.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

static atomic_int_fast64_t outstanding;

static void *counted(void *memory)
{
    if (memory != NULL) {
        atomic_fetch_add_explicit(&outstanding, 1, memory_order_relaxed);
    }
    return memory;
}

void *heap_alloc(size_t bytes)
{
    return fault_fires(FAULT_HEAP) ? NULL : counted(malloc(bytes == 0 ? 1 : bytes));
}

void *heap_calloc(size_t count, size_t bytes)
{
    if (fault_fires(FAULT_HEAP) || (bytes != 0 && count > SIZE_MAX / bytes)) {
        return NULL;
    }
    return counted(calloc(count == 0 ? 1 : count, bytes == 0 ? 1 : bytes));
}

void *heap_realloc(void *memory, size_t bytes)
{
    if (fault_fires(FAULT_HEAP)) {
        return NULL;
    }
    if (memory == NULL) {
        return counted(malloc(bytes == 0 ? 1 : bytes));
    }
    return realloc(memory, bytes == 0 ? 1 : bytes);
}

void *heap_alloc_aligned(size_t alignment, size_t bytes)
{
    void *memory = NULL;
    if (fault_fires(FAULT_HEAP) ||
        posix_memalign(&memory, alignment, bytes == 0 ? 1 : bytes) != 0) {
        return NULL;
    }
    return counted(memory);
}

char *heap_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = heap_alloc(bytes);
    if (copy != NULL) {
        (void)memcpy(copy, text, bytes);
    }
    return copy;
}

void heap_free(void *memory)
{
    if (memory != NULL) {
        atomic_fetch_sub_explicit(&outstanding, 1, memory_order_relaxed);
        free(memory);
    }
}

int64_t heap_outstanding(void)
{
    return atomic_load(&outstanding);
}
