/*
 * Copies to and from another process's memory, by process_vm_readv and process_vm_writev. Runs are
 * collected into long vectors, so that a call moves as much as a chunk; a box whose order differs
 * on the two sides goes through a bounce buffer that stays in the cache, so that the other process
 * is read and written in long runs and only the inner copy is fine-grained.
 *
 * One object a worker; not thread-safe. Private to this folder.
 */
#ifndef KVEIK_STORAGE_CPU_CROSS_H
#define KVEIK_STORAGE_CPU_CROSS_H

#include <stdbool.h>

#include "storage/cpu/copy.h"
#include "storage/cpu/kernels.h"
#include "storage/cpu/scatter.h"

struct cross;

/* NULL when memory is short. `choice` stays the caller's and must live as long. */
struct cross *cross_create(const struct kernel_choice *choice);

/* Accepts NULL. */
void cross_destroy(struct cross *cross);

/* A chunk: begin, any number of boxes in the engine's order, end. Bytes are moved at the latest by
 * cross_end(). ST_OK; ST_MEMORY when the process's memory cannot be reached; ST_LOST when it is
 * gone. After a failure, nothing but cross_begin(). */
void cross_begin(struct cross *cross, const struct copy_memory *memory, bool push);
int cross_box(struct cross *cross, const struct box *box);
int cross_end(struct cross *cross);

#endif
