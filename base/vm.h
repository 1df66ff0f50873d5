/*
 * Arrays in reserved address space: the whole range is reserved at creation and committed step by
 * step as it grows, so that an array never moves and growing never pauses. Not thread-safe.
 */
#ifndef KVEIK_BASE_VM_H
#define KVEIK_BASE_VM_H

#include <stddef.h>
#include <stdint.h>

struct vm_array {
    void *base;             /* NULL before init and after finish */
    size_t item_bytes;      /* size of one item */
    uint64_t items_max;     /* reserved */
    size_t committed_bytes; /* readable and writable from base on; zero when first committed */
};

/* Reserves address space for items_max items. ST_OK, ST_NO_MEMORY or ST_INVALID. */
int vm_array_init(struct vm_array *array, size_t item_bytes, uint64_t items_max);

/* Makes items [0, items) usable; at most items_max. ST_OK, ST_NO_MEMORY or ST_LIMIT. */
int vm_array_commit(struct vm_array *array, uint64_t items);

/* Accepts a zeroed or half-built array. */
void vm_array_finish(struct vm_array *array);

#endif
