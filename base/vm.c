#include "base/vm.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/status.h"

enum { COMMIT_STEP_BYTES = 256 * 1024 };

int vm_array_init(struct vm_array *array, size_t item_bytes, uint64_t items_max)
{
    KVEIK_ASSERT(array != NULL);
    if (item_bytes == 0 || items_max == 0 || items_max > SIZE_MAX / 2 / item_bytes) {
        return ST_INVALID;
    }
    size_t bytes = (size_t)items_max * item_bytes + COMMIT_STEP_BYTES;
    void *base = fault_fires(FAULT_MMAP) ? MAP_FAILED
                                         : mmap(NULL, bytes, PROT_NONE,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return ST_NO_MEMORY;
    }
    *array = (struct vm_array){.base = base, .item_bytes = item_bytes, .items_max = items_max};
    return ST_OK;
}

int vm_array_commit(struct vm_array *array, uint64_t items)
{
    KVEIK_ASSERT(array->base != NULL);
    if (items > array->items_max) {
        return ST_LIMIT;
    }
    size_t wanted = (size_t)items * array->item_bytes;
    if (wanted <= array->committed_bytes) {
        return ST_OK;
    }
    size_t grown = (wanted + COMMIT_STEP_BYTES - 1) / COMMIT_STEP_BYTES * COMMIT_STEP_BYTES;
    char *from = (char *)array->base + array->committed_bytes;
    if (fault_fires(FAULT_MMAP) ||
        mprotect(from, grown - array->committed_bytes, PROT_READ | PROT_WRITE) != 0) {
        return ST_NO_MEMORY;
    }
    array->committed_bytes = grown;
    return ST_OK;
}

void vm_array_finish(struct vm_array *array)
{
    if (array != NULL && array->base != NULL) {
        size_t bytes = (size_t)array->items_max * array->item_bytes + COMMIT_STEP_BYTES;
        (void)munmap(array->base, bytes);
        *array = (struct vm_array){0};
    }
}
