/*
 * What the Python package needs beside libkveik, on its way to it.
 *
 * A handle is a client that threads may call while another thread closes it: calls are counted, a
 * closed handle answers GLUE_CLOSED, and the client is freed when the last call has returned. The
 * text of a thread's last error stays with the thread, so that a call without one costs nothing.
 *
 * glue_<x>() is kveik_<x>() on a handle, with its arguments and statuses; what differs is said at
 * its place.
 */
#ifndef KVEIK_PYTHON_GLUE_H
#define KVEIK_PYTHON_GLUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "kveik/kveik.h"

enum { GLUE_CLOSED = -1000 };

struct glue_handle {
    kveik_client *client;
    pid_t pid; /* whose threads are counted */
    atomic_int users;
    atomic_bool closed;
};

/* Of this thread's last call that failed; "" if it gave none. */
const char *glue_error(void);

/* The handle is the caller's memory, zeroed; it is never used again after a failure. */
int glue_connect(struct glue_handle *handle, const struct kveik_options *options);
/* KVEIK_OK: nothing touches exported memory any more. KVEIK_PENDING: another call closed it, or is
 * about to. In a forked child only the child's copies are freed.
 * KVEIK_E_INVALID: called by a callback of glue_layout_register() on this handle. */
int glue_close(struct glue_handle *handle);

int glue_info(struct glue_handle *handle, struct kveik_info *info_out);
int glue_event_fd(struct glue_handle *handle);
int glue_daemon_status(struct glue_handle *handle, uint32_t timeout_ms, char **json_out);

int glue_space_register(struct glue_handle *handle, const struct kveik_space *space,
                        uint32_t *space_out);
int glue_memory_allocate(struct glue_handle *handle, size_t bytes, void **address_out);
/* With the client closed, or in a forked child, unmaps it itself. */
void glue_memory_free(struct glue_handle *handle, void *address, size_t bytes);
int glue_memory_export(struct glue_handle *handle, uintptr_t address, size_t bytes,
                       const struct kveik_memory_options *options, uint32_t *region_out,
                       uint32_t *mode_out);
int glue_memory_drop(struct glue_handle *handle, uint32_t region, uint32_t timeout_ms);
int glue_layout_register(struct glue_handle *handle, const struct kveik_layout *layout,
                         uint32_t *layout_out);
int glue_layout_drop(struct glue_handle *handle, uint32_t layout, uint32_t timeout_ms);

/* The op, or a negative status. `tag` comes back as the completion's user pointer. */
int64_t glue_submit_push(struct glue_handle *handle, const struct kveik_push_run *runs,
                         uint32_t run_count, uint32_t deadline_ms, uintptr_t tag);
int64_t glue_submit_pull(struct glue_handle *handle, const struct kveik_pull *pull, uintptr_t tag);
int64_t glue_submit_lookup(struct glue_handle *handle, const struct kveik_lookup *lookup,
                           uintptr_t tag);
int64_t glue_submit_persist(struct glue_handle *handle, const struct kveik_persist *persist,
                            uintptr_t tag);
int64_t glue_submit_release(struct glue_handle *handle, uint64_t lease, uintptr_t tag);
int64_t glue_submit_quiesce(struct glue_handle *handle, uint32_t layout, const uint32_t *pages,
                            uint32_t page_count, uintptr_t tag);

int glue_poll(struct glue_handle *handle, struct kveik_completion *completion_out);
int glue_wait(struct glue_handle *handle, uint64_t op, uint32_t timeout_ms,
              struct kveik_completion *completion_out);
int glue_cancel(struct glue_handle *handle, uint64_t op);
uintptr_t glue_tag(const struct kveik_completion *completion);

int glue_push(struct glue_handle *handle, const struct kveik_push_run *runs, uint32_t run_count,
              uint32_t deadline_ms, struct kveik_completion *completion_out);
int glue_pull(struct glue_handle *handle, const struct kveik_pull *pull,
              struct kveik_completion *completion_out);
int glue_lookup(struct glue_handle *handle, const struct kveik_lookup *lookup,
                struct kveik_completion *completion_out);
int glue_persist(struct glue_handle *handle, const struct kveik_persist *persist,
                 struct kveik_completion *completion_out);
int glue_release(struct glue_handle *handle, uint64_t lease);
int glue_quiesce(struct glue_handle *handle, uint32_t layout, const uint32_t *pages,
                 uint32_t page_count, uint32_t timeout_ms);

/* Integers of another width as 32 bits without a sign: `item_bytes` is 1, 2, 4 or 8. The number of
 * the first that does not fit, or -1. */
int64_t glue_narrow(uintptr_t values, size_t count, uint32_t item_bytes, bool is_signed,
                    uint32_t *values_out);

#endif
