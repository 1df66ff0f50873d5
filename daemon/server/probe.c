/*
 * Probes: a client asks that bytes of a region be moved within it, to see that the daemon reaches
 * the memory that it means. Mapped memory is moved at once. Another process can stall a
 * cross-memory copy for as long as it likes, so that is a worker's.
 */
#include "base/heap.h"
#include "daemon/server/state.h"

/* A probe of a region; in another process's memory on a worker, since that process can stall it. */
struct probing {
    uv_work_t work;
    struct server_session *session;
    uint64_t request_id;
    struct msg_probe probe;
    struct copy_memory memory;
    int status;
};

/* One opaque page of `bytes` at an offset of a region, as a layout. */
static void probe_layout(struct layout *layout, struct layout_plane *plane,
                         const struct msg_probe *probe, uint64_t offset)
{
    *plane = (struct layout_plane){.region = probe->region,
                                   .offset = offset,
                                   .page_stride = probe->bytes,
                                   .element_stride = 1};
    *layout = (struct layout){.page_tokens = GRAIN_TOKENS,
                              .page_count = 1,
                              .layer_count = 1,
                              .head_count = 1,
                              .kind_count = 1,
                              .element_bytes = 1,
                              .opaque = true,
                              .kind_elements = {probe->bytes},
                              .planes = plane};
}

/* NOLINTNEXTLINE(readability-non-const-parameter): a push reads the buffer, a pull fills it */
static int probe_copy(const struct probing *probing, uint64_t offset, bool push, char *buffer)
{
    struct layout layout;
    struct layout_plane plane;
    struct stored_form form;
    probe_layout(&layout, &plane, &probing->probe, offset);
    if (stored_form_of(&layout, 1, &form, NULL) != ST_OK) {
        return ST_INVALID;
    }
    static const uint32_t page = 0;
    struct copy_item item = {.layout = &layout,
                             .form = &form,
                             .part = buffer,
                             .pages = &page,
                             .tokens = GRAIN_TOKENS,
                             .layer_count = 1,
                             .head_count = 1};
    struct copy_job job = {
        .push = push, .memory = &probing->memory, .items = &item, .item_count = 1};
    return copy_run(probing->session->server->copies, &job);
}

static void probe_run(struct probing *probing)
{
    char buffer[MSG_PROBE_BYTES_MAX + 64];
    const struct msg_probe *probe = &probing->probe;
    probing->status = probe_copy(probing, probe->offset_from, true, buffer);
    if (probing->status == ST_OK) {
        probing->status = probe_copy(probing, probe->offset_to, false, buffer);
    }
}

static void probe_answer(struct server_session *session, uint64_t request_id, int status,
                         const char *text)
{
    struct msg reply = {.request_id = request_id,
                        .kind = MSG_COMPLETION,
                        .u.completion = {.status = status, .text = status == ST_OK ? "" : text}};
    engine_send(session->conn, &reply);
}

static void probe_work(uv_work_t *work)
{
    probe_run(CONTAINER_OF(work, struct probing, work));
}

static void probe_after(uv_work_t *work, int cancelled)
{
    struct probing *probing = CONTAINER_OF(work, struct probing, work);
    struct server_session *session = probing->session;
    int status = cancelled == 0 ? probing->status : ST_CANCELLED;
    session->regions[probing->probe.region].probes--;
    session->probing--;
    probe_answer(session, probing->request_id, status, status_text(status));
    heap_free(probing);
    session_try_free(session);
}

static void probe_elsewhere(const struct probing *probe)
{
    struct server_session *session = probe->session;
    struct probing *probing = NULL;
    if (session->probing >= SESSION_PROBES_MAX) {
        probe_answer(session, probe->request_id, ST_BUSY, "too many probes at once");
        return;
    }
    probing = heap_alloc(sizeof *probing);
    if (probing == NULL) {
        probe_answer(session, probe->request_id, ST_NO_MEMORY, "probe: out of memory");
        return;
    }
    *probing = *probe;
    if (uv_queue_work(&session->server->loop, &probing->work, probe_work, probe_after) != 0) {
        heap_free(probing);
        probe_answer(session, probe->request_id, ST_NO_MEMORY, "no worker for the probe");
        return;
    }
    session->regions[probe->probe.region].probes++;
    session->probing++;
}

void session_probe(struct server_session *session, const struct msg *msg)
{
    const struct msg_probe *probe = &msg->u.probe;
    if (probe->region >= SESSION_REGIONS_MAX || !session->regions[probe->region].used) {
        probe_answer(session, msg->request_id, ST_UNKNOWN_ID,
                     "probe: no such region in this session");
        return;
    }
    uint64_t bytes = session->copy_regions[probe->region].bytes;
    if (probe->offset_from > bytes || probe->bytes > bytes - probe->offset_from ||
        probe->offset_to > bytes || probe->bytes > bytes - probe->offset_to) {
        probe_answer(session, msg->request_id, ST_INVALID, "probe: outside the region");
        return;
    }
    bool remote = session->regions[probe->region].kind == MEMORY_PROCESS;
    struct probing probing = {.session = session,
                              .request_id = msg->request_id,
                              .probe = *probe,
                              .memory = remote ? session->remote : session->memory};
    if (remote) {
        probe_elsewhere(&probing);
        return;
    }
    probe_run(&probing);
    probe_answer(session, msg->request_id, probing.status, status_text(probing.status));
}
