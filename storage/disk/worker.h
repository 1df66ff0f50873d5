/*
 * A thread for what blocks: making, syncing and removing files, writing the catalogue. Tasks are
 * structs that the caller embeds; they run one after another, in order.
 *
 * worker_submit() and worker_reap() are the owner thread's.
 */
#ifndef KVEIK_STORAGE_DISK_WORKER_H
#define KVEIK_STORAGE_DISK_WORKER_H

#include "base/queue.h"

struct task {
    void (*run)(struct task *task); /* on the worker's thread: computes, stores */
    struct queue link;              /* the worker's own */
};

struct worker;

/* `name` is the thread's, at most 15 bytes. NULL: no memory or no thread. */
struct worker *worker_create(const char *name, void (*wake)(void *arg), void *wake_arg);

/* Ends after the task that runs; what is queued and not begun stays undone. Accepts NULL. */
void worker_destroy(struct worker *worker);

void worker_submit(struct worker *worker, struct task *task);

/* The next finished task, or NULL. */
struct task *worker_reap(struct worker *worker);

/* The same, waiting for it: at close only. There must be one under way. */
struct task *worker_wait(struct worker *worker);

#endif
