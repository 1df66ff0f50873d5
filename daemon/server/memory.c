/* What a session exported: regions and layouts. */
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "daemon/server/state.h"

/* A region on its way into our page tables, on a worker of libuv's pool. */
struct population {
    uv_work_t work;
    struct server_session *session;
    uint64_t request_id;
    uint32_t region;
    int status;
    struct error error;
};

static void handle_reply(struct server_session *session, uint64_t request_id, int status,
                         const char *text, uint32_t handle)
{
    struct msg msg = {
        .request_id = request_id,
        .kind = MSG_HANDLE_REPLY,
        .u.handle_reply = {.status = status, .text = text != NULL ? text : "", .handle = handle}};
    engine_send(session->conn, &msg);
}

/* ---- regions of one file ---------------------------------------------------------------------
 */

/* The import of the same file that keeps its descriptor, or NULL. */
static struct import *file_keeper(struct server_session *session, const struct import *import)
{
    for (uint32_t i = 0; i < session->region_high; i++) {
        struct import *other = &session->regions[i].import;
        if (other != import && import_same_file(other, import) && other->fd >= 0) {
            return other;
        }
    }
    return NULL;
}

/* One descriptor a file is kept: a push looks at every one. */
static void file_join(struct server_session *session, struct import *import)
{
    struct import *keeper = file_keeper(session, import);
    if (keeper != NULL) {
        import_share(keeper, import);
    }
}

/* Takes the region out of its file's: another one keeps the descriptor, and what was seen of the
 * file with this region counts no more. */
static void file_leave(struct server_session *session, struct import *import)
{
    struct import *keeper = import->fd >= 0 ? import : file_keeper(session, import);
    struct import *next = keeper != import ? keeper : NULL;
    if (next != NULL) {
        next->file_blocks = next->blocks;
    }
    for (uint32_t i = 0; keeper != NULL && i < session->region_high; i++) {
        struct import *other = &session->regions[i].import;
        if (other == import || other == next || !import_same_file(other, keeper)) {
            continue;
        }
        if (next != NULL) {
            import_share(next, other);
        } else {
            next = other;
            next->fd = import->fd;
            next->file_blocks = next->blocks;
            import->fd = -1;
        }
    }
    import_finish(import);
}

/* ---- regions ---------------------------------------------------------------------------------
 */

static void populate_work(uv_work_t *work)
{
    struct population *population = CONTAINER_OF(work, struct population, work);
    population->status = import_populate(&population->session->regions[population->region].import,
                                         &population->error);
}

static void populate_after(uv_work_t *work, int cancelled)
{
    struct population *population = CONTAINER_OF(work, struct population, work);
    struct server_session *session = population->session;
    struct server_region *region = &session->regions[population->region];
    if (cancelled == 0 && population->status == ST_OK) {
        region->used = true;
        session->copy_regions[population->region] =
            (struct copy_region){.base = region->import.base, .bytes = region->import.bytes};
        handle_reply(session, population->request_id, ST_OK, NULL, population->region);
    } else {
        file_leave(session, &region->import);
        region->kind = 0;
        handle_reply(session, population->request_id, ST_MEMORY, population->error.text, 0);
    }
    session->populating--;
    heap_free(population);
    session_try_free(session);
}

/* A free number; kind != 0 marks one that is being populated. */
static uint32_t region_take(struct server_session *session)
{
    for (uint32_t i = 0; i < SESSION_REGIONS_MAX; i++) {
        if (!session->regions[i].used && session->regions[i].kind == 0) {
            session->region_high = i + 1 > session->region_high ? i + 1 : session->region_high;
            return i;
        }
    }
    return NO_HANDLE;
}

static void export_memfd(struct server_session *session, const struct msg *msg, uint32_t number,
                         int fd)
{
    struct server_region *region = &session->regions[number];
    struct error error = {0};
    int status = import_memfd(fd, msg->u.export_memory.file_offset, msg->u.export_memory.bytes,
                              &region->import, &error);
    struct population *population = status != ST_OK ? NULL : heap_calloc(1, sizeof *population);
    if (population == NULL) {
        import_finish(&region->import); /* zeroed when it was not imported */
        handle_reply(session, msg->request_id, status != ST_OK ? status : ST_NO_MEMORY, error.text,
                     0);
        return;
    }
    region->kind = MEMORY_MEMFD;
    file_join(session, &region->import);
    *population =
        (struct population){.session = session, .request_id = msg->request_id, .region = number};
    session->populating++;
    if (uv_queue_work(&session->server->loop, &population->work, populate_work, populate_after) !=
        0) {
        session->populating--;
        heap_free(population);
        file_leave(session, &region->import);
        region->kind = 0;
        handle_reply(session, msg->request_id, ST_NO_MEMORY, "no worker for the region", 0);
    }
}

static void export_process(struct server_session *session, const struct msg *msg, uint32_t number)
{
    const struct msg_export_memory *memory = &msg->u.export_memory;
    const struct engine_peer *peer = engine_conn_peer(session->conn);
    if (peer->pid <= 0 || peer->pidfd < 0) {
        handle_reply(session, msg->request_id, ST_UNSUPPORTED,
                     "cross-memory copies need a common pid namespace: the peer's pid is not "
                     "visible here",
                     0);
        return;
    }
    /* The kernel asks whether we may, never whether the peer may: a privileged daemon could be made
     * to read a process that became another user's by exec, while a child speaks for it. */
    if (peer->uid != getuid()) {
        handle_reply(session, msg->request_id, ST_UNSUPPORTED,
                     "cross-memory copies are for processes of the daemon's own user: allocate or "
                     "share the memory instead",
                     0);
        return;
    }
    if (memory->address == 0 || memory->bytes > UINT64_MAX / 2 - memory->address) {
        handle_reply(session, msg->request_id, ST_INVALID, "the address range wraps around", 0);
        return;
    }
    session->regions[number].used = true;
    session->regions[number].kind = MEMORY_PROCESS;
    /* never dereferenced here: the address is of the engine's process */
    char *there = (char *)(uintptr_t)memory->address; /* NOLINT(performance-no-int-to-ptr) */
    session->copy_regions[number] = (struct copy_region){.base = there, .bytes = memory->bytes};
    handle_reply(session, msg->request_id, ST_OK, NULL, number);
}

void session_export_memory(struct server_session *session, const struct msg *msg, int *descriptors,
                           uint32_t descriptor_count)
{
    uint32_t number = region_take(session);
    bool memfd = msg->u.export_memory.kind == MEMORY_MEMFD;
    if (number == NO_HANDLE) {
        handle_reply(session, msg->request_id, ST_LIMIT, "too many regions in this session", 0);
    } else if (descriptor_count != (memfd ? 1u : 0u)) {
        engine_end(session->conn, ST_PROTOCOL, "export of memory with %u descriptors, not %u",
                   descriptor_count, memfd ? 1u : 0u);
    } else if (memfd && (uint32_t)descriptors[0] >= session->server->descriptors_max) {
        handle_reply(session, msg->request_id, ST_LIMIT,
                     "the daemon has too few descriptors left (RLIMIT_NOFILE)", 0);
    } else if (memfd) {
        int fd = descriptors[0];
        descriptors[0] = -1;
        export_memfd(session, msg, number, fd);
    } else {
        export_process(session, msg, number);
    }
}

void session_drop_memory(struct server_session *session, const struct msg *msg)
{
    uint32_t number = msg->u.drop_memory.handle;
    if (number >= SESSION_REGIONS_MAX || !session->regions[number].used) {
        handle_reply(session, msg->request_id, ST_UNKNOWN_ID, "no such region in this session", 0);
        return;
    }
    if (session->regions[number].planes > 0) {
        handle_reply(session, msg->request_id, ST_INVALID,
                     "a layout still uses the region: drop the layout first", 0);
        return;
    }
    if (session->regions[number].probes > 0) {
        handle_reply(session, msg->request_id, ST_BUSY, "a probe of the region is under way", 0);
        return;
    }
    /* without a layout nothing can copy there */
    file_leave(session, &session->regions[number].import);
    session->regions[number] = (struct server_region){0};
    session->copy_regions[number] = (struct copy_region){0};
    handle_reply(session, msg->request_id, ST_OK, NULL, number);
}

bool session_punched(struct server_session *session)
{
    for (uint32_t i = 0; i < session->region_high; i++) {
        if (import_punched(&session->regions[i].import)) { /* once for each file */
            engine_end(session->conn, ST_MEMORY,
                       "a hole was punched into the file of region %u after it was exported", i);
            return true;
        }
    }
    return false;
}

/* ---- layouts --------------------------------------------------------------------------------- */

static int layout_complete(const struct server_session *session,
                           const struct msg_register_layout *request, struct layout *layout,
                           struct error *error)
{
    if (request->space >= SESSION_SPACES_MAX || !session->spaces[request->space].used) {
        return error_set(error, ST_UNKNOWN_ID, "layout: no space %u in this session",
                         request->space);
    }
    const struct space *space = &session->spaces[request->space].space;
    if (request->group >= space->group_count) {
        return error_set(error, ST_MISMATCH, "layout: the space has no group %u", request->group);
    }
    const struct space_group *group = &space->groups[request->group];
    *layout = request->layout;
    if (layout->opaque != group->opaque) {
        return error_set(error, ST_MISMATCH, "layout: the group is %sopaque",
                         group->opaque ? "" : "not ");
    }
    layout->kind_count = group->kind_count;
    layout->element_bytes = group->opaque ? 1 : space_dtype_bytes(space->dtype);
    for (uint32_t k = 0; !group->opaque && k < group->kind_count; k++) {
        layout->kind_elements[k] = group->kind_elements[k];
    }
    uint64_t planes = (uint64_t)layout->layer_count * layout->kind_count;
    if (planes != request->plane_count) {
        return error_set(error, ST_MISMATCH, "layout: %u planes, but %u layers of %u kinds",
                         request->plane_count, layout->layer_count, layout->kind_count);
    }
    if (layout->layer_begin > group->layer_count ||
        layout->layer_count > group->layer_count - layout->layer_begin ||
        layout->head_begin > group->head_count ||
        layout->head_count > group->head_count - layout->head_begin) {
        return error_set(error, ST_MISMATCH,
                         "layout: layers or heads outside the group's %u and %u",
                         group->layer_count, group->head_count);
    }
    return ST_OK;
}

static int layout_check_regions(const struct server_session *session, const struct layout *layout,
                                struct error *error)
{
    uint64_t *bytes = heap_calloc(SESSION_REGIONS_MAX, sizeof *bytes);
    if (bytes == NULL) {
        return error_set(error, ST_NO_MEMORY, "layout: the daemon is out of memory");
    }
    bool mapped = false;
    bool remote = false;
    for (uint32_t i = 0; i < SESSION_REGIONS_MAX; i++) {
        bytes[i] = session->regions[i].used ? session->copy_regions[i].bytes : 0;
    }
    int status = layout_check(layout, bytes, SESSION_REGIONS_MAX, error);
    heap_free(bytes);
    for (uint32_t p = 0; status == ST_OK && p < layout->layer_count * layout->kind_count; p++) {
        uint32_t kind = session->regions[layout->planes[p].region].kind;
        mapped = mapped || kind == MEMORY_MEMFD;
        remote = remote || kind == MEMORY_PROCESS;
    }
    if (mapped && remote) {
        return error_set(error, ST_UNSUPPORTED,
                         "layout: planes in shared and in cross-memory regions at once");
    }
    return status;
}

void layout_free(struct server_session *session, struct server_layout *layout)
{
    for (uint32_t p = 0; p < layout->layout.layer_count * layout->layout.kind_count; p++) {
        session->regions[layout->layout.planes[p].region].planes--;
    }
    heap_free(layout->layout.planes);
    *layout = (struct server_layout){0};
}

static uint32_t layout_take(const struct server_session *session)
{
    for (uint32_t i = 0; i < SESSION_LAYOUTS_MAX; i++) {
        if (!session->layouts[i].used) {
            return i;
        }
    }
    return NO_HANDLE;
}

void session_register_layout(struct server_session *session, const struct msg *msg)
{
    const struct msg_register_layout *request = &msg->u.register_layout;
    struct error error = {0};
    struct layout layout = {0};
    uint32_t number = layout_take(session);
    int status = number == NO_HANDLE
                     ? error_set(&error, ST_LIMIT, "too many layouts in this session")
                     : layout_complete(session, request, &layout, &error);
    status = status != ST_OK ? status : layout_check_regions(session, &layout, &error);
    struct layout_plane *planes = NULL;
    if (status == ST_OK) {
        planes = heap_alloc(request->plane_count * sizeof *planes);
        status = planes != NULL ? ST_OK : error_set(&error, ST_NO_MEMORY, "layout: out of memory");
    }
    if (status != ST_OK || planes == NULL || layout.planes == NULL) {
        handle_reply(session, msg->request_id, status, error.text, 0);
        return;
    }
    (void)memcpy(planes, layout.planes, request->plane_count * sizeof *planes);
    layout.planes = planes;
    for (uint32_t p = 0; p < request->plane_count; p++) {
        session->regions[planes[p].region].planes++;
    }
    bool remote = session->regions[planes[0].region].kind == MEMORY_PROCESS;
    session->layouts[number] = (struct server_layout){.used = true,
                                                      .remote = remote,
                                                      .space = request->space,
                                                      .group = request->group,
                                                      .layout = layout};
    handle_reply(session, msg->request_id, ST_OK, NULL, number);
}

void session_free_memory(struct server_session *session)
{
    for (uint32_t i = 0; i < SESSION_LAYOUTS_MAX; i++) {
        if (session->layouts[i].used) {
            layout_free(session, &session->layouts[i]);
        }
    }
    for (uint32_t i = 0; i < session->region_high; i++) {
        import_finish(&session->regions[i].import);
    }
}
