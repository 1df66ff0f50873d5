/* Memory that is exported without a copy: allocating it, and giving regions back. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/lib/client.h"
#include "kveik/kveik.h"

enum { FREE_TIMEOUT_MS = 10000 };

/* ---- allocate -------------------------------------------------------------------------------- */

static struct allocation *allocation_make(size_t bytes, struct error *error)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes == 0 || bytes > (size_t)INT64_MAX / 2) {
        (void)error_set(error, ST_INVALID, "%zu bytes cannot be allocated", bytes);
        return NULL;
    }
    struct allocation *allocation = heap_calloc(1, sizeof *allocation);
    if (allocation == NULL) {
        (void)error_set(error, ST_NO_MEMORY, "out of memory");
        return NULL;
    }
    queue_init(&allocation->link);
    allocation->bytes = (bytes + page - 1) / page * page;
    allocation->memfd = memfd_make(MEMFD_NAME_MEMORY, allocation->bytes, error);
    if (allocation->memfd < 0) {
        heap_free(allocation);
        return NULL;
    }
    allocation->address = memfd_map(allocation->memfd, 0, allocation->bytes, false, error);
    if (allocation->address != NULL &&
        memfd_populate(allocation->address, allocation->bytes, error) != ST_OK) {
        (void)munmap(allocation->address, allocation->bytes);
        allocation->address = NULL;
    }
    if (allocation->address == NULL) {
        (void)close(allocation->memfd);
        heap_free(allocation);
        return NULL;
    }
    return allocation;
}

int kveik_memory_allocate(kveik_client *client, size_t bytes, void **address_out,
                          struct kveik_error *error_out)
{
    int status = address_out == NULL ? ST_INVALID : client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    client_leave(client); /* entering was for the checks: this may take long */
    struct error error = {0};
    struct allocation *allocation = allocation_make(bytes, &error);
    if (allocation == NULL) {
        return report(error.status, &error, error_out);
    }
    (void)pthread_mutex_lock(&client->memory_mutex);
    queue_push_back(&client->allocations, &allocation->link);
    (void)pthread_mutex_unlock(&client->memory_mutex);
    *address_out = allocation->address;
    return ST_OK;
}

static struct allocation *allocation_take(struct kveik_client *client, const void *address)
{
    struct allocation *found = NULL;
    (void)pthread_mutex_lock(&client->memory_mutex);
    queue_foreach (item, &client->allocations) {
        struct allocation *allocation = CONTAINER_OF(item, struct allocation, link);
        if (allocation->address == address) {
            found = allocation;
            break;
        }
    }
    if (found != NULL) {
        queue_remove(&found->link);
    }
    (void)pthread_mutex_unlock(&client->memory_mutex);
    return found;
}

static void allocation_free(struct allocation *allocation)
{
    (void)close(allocation->memfd);
    heap_free(allocation);
}

/* A region that lies in the allocation, or 0. */
static uint32_t region_inside(struct kveik_client *client, const struct allocation *allocation)
{
    if (client_enter(client) != ST_OK) {
        return 0;
    }
    uint32_t handle = 0;
    for (uint32_t slot = 0; slot < client->regions.capacity && handle == 0; slot++) {
        const struct client_region *region = handles_at(&client->regions, slot);
        if (region != NULL && region->address >= allocation->address &&
            region->address < allocation->address + allocation->bytes) {
            handle = region->object.handle;
        }
    }
    client_leave(client);
    return handle;
}

void kveik_memory_free(kveik_client *client, void *address)
{
    if (client == NULL || address == NULL || client->pid != getpid()) {
        return;
    }
    struct allocation *allocation = allocation_take(client, address);
    if (allocation == NULL) {
        return;
    }
    uint32_t region = 0;
    while ((region = region_inside(client, allocation)) != 0) {
        if (kveik_memory_drop(client, region, FREE_TIMEOUT_MS, NULL) != ST_OK) {
            break; /* the daemon has the file mapped itself: our unmapping hurts no copy */
        }
    }
    (void)munmap(allocation->address, allocation->bytes);
    allocation_free(allocation);
}

void memory_finish(struct kveik_client *client)
{
    queue_foreach_safe (item, &client->allocations) {
        struct allocation *allocation = CONTAINER_OF(item, struct allocation, link);
        queue_remove(&allocation->link);
        allocation_free(allocation);
    }
    areas_finish(client);
}

/* ---- drop ------------------------------------------------------------------------------------ */

void client_region_destroy(struct client_region *region)
{
    if (region != NULL) {
        if (region->memfd >= 0) {
            (void)close(region->memfd);
        }
        heap_free(region);
    }
}

static bool is_done(const struct kveik_client *client, const void *arg)
{
    (void)client;
    return ((const struct op *)arg)->done;
}

int register_drop(struct kveik_client *client, enum msg_kind request, const struct object *object,
                  uint64_t until_ms, struct error *error)
{
    const struct connection *connection = &client->connection;
    bool held = object->status == ST_OK && object->epoch == connection->epoch;
    if (connection->state == STATE_DOWN || connection->state == STATE_HELLO || !held) {
        return ST_OK; /* no session has it: nothing can touch it */
    }
    if (connection->state == STATE_DRAINING) {
        return error_set(error, ST_UNAVAILABLE, "the daemon still has to end the session");
    }
    struct op *op = op_create(client, request, true, 0, error);
    if (op == NULL) {
        return error->status;
    }
    struct msg msg = {.kind = request, .u.drop_memory.handle = object->number};
    uint64_t now_ms = clock_ms();
    int status = request_send(client, op, &msg,
                              until_ms > now_ms ? (uint32_t)(until_ms - now_ms) : 0, error);
    if (status != ST_OK) {
        return status;
    }
    op->waiters++;
    bool over = client_await(client, is_done, op, until_ms) == ST_OK;
    op->waiters--;
    status = over ? op->completion.status : ST_STUCK;
    if (status == ST_LOST || status == ST_UNKNOWN_ID || status == ST_CANCELLED) {
        status = ST_OK; /* gone with its session: end of file came after the last copy */
    }
    if (status != ST_OK) {
        (void)error_set(error, status, "%s",
                        over ? op->completion.text : "the daemon has not let go of it in time");
    }
    op_forget(client, op);
    return status;
}

/* A layout whose planes lie in the region, or 0. */
static uint32_t layout_inside(const struct kveik_client *client, uint32_t region)
{
    for (uint32_t slot = 0; slot < client->layouts.capacity; slot++) {
        const struct client_layout *layout = handles_at(&client->layouts, slot);
        /* the twin of a self-test under way is its thread's, which drops it itself */
        bool droppable = layout != NULL && layout->private_space == NULL;
        uint32_t planes = droppable ? layout->layout.layer_count * layout->layout.kind_count : 0;
        for (uint32_t i = 0; i < planes; i++) {
            if (layout->layout.planes[i].region == region) {
                return layout->object.handle;
            }
        }
    }
    return 0;
}

/* Layouts first: the daemon waits for their copies, a region without layouts is quiet. */
static int drop_layouts(struct kveik_client *client, uint32_t region, uint64_t until_ms,
                        struct error *error)
{
    uint32_t handle = 0;
    while ((handle = layout_inside(client, region)) != 0) {
        struct client_layout *layout = handles_get(&client->layouts, handle);
        int status = register_drop(client, MSG_DROP_LAYOUT, &layout->object, until_ms, error);
        if (status != ST_OK) {
            return status;
        }
        layout = handles_get(&client->layouts, handle); /* another thread may have been faster */
        if (layout != NULL) {
            handles_remove(&client->layouts, handle);
            client_layout_destroy(layout);
        }
    }
    return ST_OK;
}

int kveik_memory_drop(kveik_client *client, uint32_t region, uint32_t timeout_ms,
                      struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    uint64_t until_ms = clock_ms() + timeout_ms;
    struct client_region *found = handles_get(&client->regions, region);
    if (found == NULL) {
        status = error_set(&error, ST_UNKNOWN_ID, "region %u is not registered", region);
        return client_return(client, status, &error, error_out);
    }
    status = drop_layouts(client, region, until_ms, &error);
    found = handles_get(&client->regions, region);
    if (status == ST_OK && found != NULL) {
        status = register_drop(client, MSG_DROP_MEMORY, &found->object, until_ms, &error);
        found = handles_get(&client->regions, region);
    }
    if (status == ST_OK && found != NULL) {
        handles_remove(&client->regions, region);
        client_region_destroy(found);
    }
    return client_return(client, status, &error, error_out);
}
