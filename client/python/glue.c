#include "glue.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static _Thread_local struct kveik_error last_error;
/* Of this thread, which may be in a callback: it would wait for itself to leave. */
static _Thread_local struct glue_handle *registering;

/* ---- the handle ------------------------------------------------------------------------------ */

/* Counted first, then asked: a closer that has set `closed` sees everybody who came before it. */
static kveik_client *enter(struct glue_handle *handle)
{
    last_error.text[0] = '\0';
    (void)atomic_fetch_add(&handle->users, 1);
    if (atomic_load(&handle->closed)) {
        (void)atomic_fetch_sub(&handle->users, 1);
        return NULL;
    }
    return handle->client;
}

static int leave(struct glue_handle *handle, int status)
{
    (void)atomic_fetch_sub(&handle->users, 1);
    return status;
}

/* `call` on the handle's client, or GLUE_CLOSED. */
#define THROUGH(handle, call)                                                                      \
    kveik_client *client = enter(handle);                                                          \
    return client == NULL ? GLUE_CLOSED : leave(handle, (call))

/* Numbers come from Python: an address that export or a buffer gave, or a tag. */
static void *pointer_of(uintptr_t number)
{
    return (void *)number; /* NOLINT(performance-no-int-to-ptr) */
}

const char *glue_error(void)
{
    return last_error.text;
}

int glue_connect(struct glue_handle *handle, const struct kveik_options *options)
{
    handle->pid = getpid();
    last_error.text[0] = '\0';
    int status = kveik_connect(options, &handle->client, &last_error);
    atomic_store(&handle->closed, status != KVEIK_OK);
    return status;
}

int glue_close(struct glue_handle *handle)
{
    if (registering == handle) {
        return KVEIK_E_INVALID;
    }
    if (atomic_exchange(&handle->closed, true)) {
        return KVEIK_PENDING;
    }
    if (handle->pid == getpid()) { /* the parent's threads are not here: nobody will leave */
        kveik_shutdown(handle->client);
        while (atomic_load(&handle->users) > 0) {
            const struct timespec nap = {.tv_nsec = 100000};
            (void)nanosleep(&nap, NULL);
        }
    }
    kveik_close(handle->client);
    handle->client = NULL;
    return KVEIK_OK;
}

int glue_info(struct glue_handle *handle, struct kveik_info *info_out)
{
    THROUGH(handle, kveik_info(client, info_out));
}

int glue_event_fd(struct glue_handle *handle)
{
    THROUGH(handle, kveik_event_fd(client));
}

int glue_daemon_status(struct glue_handle *handle, uint32_t timeout_ms, char **json_out)
{
    THROUGH(handle, kveik_daemon_status(client, timeout_ms, json_out, &last_error));
}

/* ---- spaces, memory, layouts ----------------------------------------------------------------- */

int glue_space_register(struct glue_handle *handle, const struct kveik_space *space,
                        uint32_t *space_out)
{
    THROUGH(handle, kveik_space_register(client, space, space_out, &last_error));
}

int glue_memory_allocate(struct glue_handle *handle, size_t bytes, void **address_out)
{
    THROUGH(handle, kveik_memory_allocate(client, bytes, address_out, &last_error));
}

void glue_memory_free(struct glue_handle *handle, void *address, size_t bytes)
{
    kveik_client *client = handle->pid == getpid() ? enter(handle) : NULL;
    if (client != NULL) {
        kveik_memory_free(client, address);
        (void)leave(handle, KVEIK_OK);
    } else {
        (void)munmap(address, bytes); /* the library leaves it mapped; its user is gone now */
    }
}

int glue_memory_export(struct glue_handle *handle, uintptr_t address, size_t bytes,
                       const struct kveik_memory_options *options, uint32_t *region_out,
                       uint32_t *mode_out)
{
    THROUGH(handle, kveik_memory_export(client, pointer_of(address), bytes, options, region_out,
                                        mode_out, &last_error));
}

int glue_memory_drop(struct glue_handle *handle, uint32_t region, uint32_t timeout_ms)
{
    THROUGH(handle, kveik_memory_drop(client, region, timeout_ms, &last_error));
}

int glue_layout_register(struct glue_handle *handle, const struct kveik_layout *layout,
                         uint32_t *layout_out)
{
    kveik_client *client = enter(handle);
    if (client == NULL) {
        return GLUE_CLOSED;
    }
    struct glue_handle *before = registering;
    registering = handle;
    int status = kveik_layout_register(client, layout, layout_out, &last_error);
    registering = before;
    return leave(handle, status);
}

int glue_layout_drop(struct glue_handle *handle, uint32_t layout, uint32_t timeout_ms)
{
    THROUGH(handle, kveik_layout_drop(client, layout, timeout_ms, &last_error));
}

/* ---- requests -------------------------------------------------------------------------------- */

/* The op in one number with the status: ids count from 1 and never reach the sign. */
#define SUBMIT(handle, submit, ...)                                                                \
    uint64_t op = 0;                                                                               \
    kveik_client *client = enter(handle);                                                          \
    if (client == NULL) {                                                                          \
        return GLUE_CLOSED;                                                                        \
    }                                                                                              \
    int status = leave(handle, submit(client, __VA_ARGS__, pointer_of(tag), &op, &last_error));    \
    return status < 0 ? status : (int64_t)op

static struct kveik_push push_of(const struct kveik_push_run *runs, uint32_t run_count,
                                 uint32_t deadline_ms)
{
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = runs;
    push.run_count = run_count;
    push.deadline_ms = deadline_ms;
    return push;
}

int64_t glue_submit_push(struct glue_handle *handle, const struct kveik_push_run *runs,
                         uint32_t run_count, uint32_t deadline_ms, uintptr_t tag)
{
    const struct kveik_push push = push_of(runs, run_count, deadline_ms);
    SUBMIT(handle, kveik_submit_push, &push);
}

int64_t glue_submit_pull(struct glue_handle *handle, const struct kveik_pull *pull, uintptr_t tag)
{
    SUBMIT(handle, kveik_submit_pull, pull);
}

int64_t glue_submit_lookup(struct glue_handle *handle, const struct kveik_lookup *lookup,
                           uintptr_t tag)
{
    SUBMIT(handle, kveik_submit_lookup, lookup);
}

int64_t glue_submit_persist(struct glue_handle *handle, const struct kveik_persist *persist,
                            uintptr_t tag)
{
    SUBMIT(handle, kveik_submit_persist, persist);
}

int64_t glue_submit_release(struct glue_handle *handle, uint64_t lease, uintptr_t tag)
{
    SUBMIT(handle, kveik_submit_release, lease);
}

int64_t glue_submit_quiesce(struct glue_handle *handle, uint32_t layout, const uint32_t *pages,
                            uint32_t page_count, uintptr_t tag)
{
    SUBMIT(handle, kveik_submit_quiesce, layout, pages, page_count);
}

int glue_poll(struct glue_handle *handle, struct kveik_completion *completion_out)
{
    THROUGH(handle, kveik_poll(client, completion_out));
}

int glue_wait(struct glue_handle *handle, uint64_t op, uint32_t timeout_ms,
              struct kveik_completion *completion_out)
{
    THROUGH(handle, kveik_wait(client, op, timeout_ms, completion_out));
}

int glue_cancel(struct glue_handle *handle, uint64_t op)
{
    THROUGH(handle, kveik_cancel(client, op));
}

uintptr_t glue_tag(const struct kveik_completion *completion)
{
    return (uintptr_t)completion->user;
}

/* ---- and their blocking forms ---------------------------------------------------------------- */

int glue_push(struct glue_handle *handle, const struct kveik_push_run *runs, uint32_t run_count,
              uint32_t deadline_ms, struct kveik_completion *completion_out)
{
    const struct kveik_push push = push_of(runs, run_count, deadline_ms);
    THROUGH(handle, kveik_push(client, &push, completion_out));
}

int glue_pull(struct glue_handle *handle, const struct kveik_pull *pull,
              struct kveik_completion *completion_out)
{
    THROUGH(handle, kveik_pull(client, pull, completion_out));
}

int glue_lookup(struct glue_handle *handle, const struct kveik_lookup *lookup,
                struct kveik_completion *completion_out)
{
    THROUGH(handle, kveik_lookup(client, lookup, completion_out));
}

int glue_persist(struct glue_handle *handle, const struct kveik_persist *persist,
                 struct kveik_completion *completion_out)
{
    THROUGH(handle, kveik_persist(client, persist, completion_out));
}

int glue_release(struct glue_handle *handle, uint64_t lease)
{
    THROUGH(handle, kveik_release(client, lease));
}

int glue_quiesce(struct glue_handle *handle, uint32_t layout, const uint32_t *pages,
                 uint32_t page_count, uint32_t timeout_ms)
{
    THROUGH(handle, kveik_quiesce(client, layout, pages, page_count, timeout_ms));
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* A loop a type, so that the compiler makes vectors of it. */
#define NARROW(type)                                                                               \
    do {                                                                                           \
        const type *in = pointer_of(values);                                                       \
        bool fits = true;                                                                          \
        for (size_t i = 0; i < count; i++) {                                                       \
            values_out[i] = (uint32_t)in[i];                                                       \
            fits = fits && in[i] >= 0 && (uint64_t)in[i] <= UINT32_MAX;                            \
        }                                                                                          \
        for (size_t i = 0; !fits && i < count; i++) {                                              \
            if (in[i] < 0 || (uint64_t)in[i] > UINT32_MAX) {                                       \
                return (int64_t)i;                                                                 \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static int64_t narrow_signed(uintptr_t values, size_t count, uint32_t item_bytes,
                             uint32_t *values_out)
{
    if (item_bytes == 8) {
        NARROW(int64_t);
    } else if (item_bytes == 4) {
        NARROW(int32_t);
    } else if (item_bytes == 2) {
        NARROW(int16_t);
    } else {
        NARROW(int8_t);
    }
    return -1;
}

int64_t glue_narrow(uintptr_t values, size_t count, uint32_t item_bytes, bool is_signed,
                    uint32_t *values_out)
{
    if (is_signed) {
        return narrow_signed(values, count, item_bytes, values_out);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 0; /* little-endian, as all of Kveik is */
        (void)memcpy(&value, (const char *)pointer_of(values) + i * item_bytes, item_bytes);
        if (value > UINT32_MAX) {
            return (int64_t)i;
        }
        values_out[i] = (uint32_t)value;
    }
    return -1;
}
