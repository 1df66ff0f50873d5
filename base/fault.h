/*
 * Fault points: every allocation and system call that can fail passes one, so that tests can make
 * the n-th one fail. Unset (always, in production) a point costs one relaxed load.
 * Process-wide; set and cleared by tests only, from one thread.
 */
#ifndef KVEIK_BASE_FAULT_H
#define KVEIK_BASE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#define FAULT_TABLE(X)                                                                             \
    X(HEAP) X(MMAP) X(OPEN) X(SEND) X(RECEIVE) X(THREAD) X(COPY) X(FILE) X(SYNC) X(CATALOGUE)

enum fault_point {
#define X(name) FAULT_##name,
    FAULT_TABLE(X)
#undef X
        FAULT_POINT_COUNT
};

/* The next `countdown` passes of `point` succeed, the `failures` after them fail. */
void fault_set(enum fault_point point, int64_t countdown, int64_t failures);

/* Clears all points. */
void fault_clear(void);

/* Passes of `point` that were made to fail since the last fault_clear(). */
int64_t fault_fired(enum fault_point point);

/* True when this pass must fail. Callers set errno themselves. */
bool fault_fires(enum fault_point point);

#endif
