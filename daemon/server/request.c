/*
 * Pushes and pulls: from checked messages to core events, from the core's copies to jobs of
 * the copy engine, from completions to answers.
 *
 *   message -> checked against the session's geometry -> core event -> ACTION_COPY -> copy_submit()
 *           -> copy_reap() -> EVENT_COPY_DONE -> ACTION_REPLY -> Completion
 *
 * A request that copies nothing is answered in the first step. Between copy_submit() and
 * copy_reap() everything that the job points to stays: the session is not freed, its layouts and
 * regions are not dropped.
 */
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "daemon/server/state.h"

void session_complete(struct server_session *session, uint64_t request_id, int status,
                      const char *text)
{
    struct msg msg = {.request_id = request_id,
                      .kind = MSG_COMPLETION,
                      .u.completion = {.status = status, .text = text != NULL ? text : ""}};
    engine_send(session->conn, &msg);
}

/* ---- the request table ----------------------------------------------------------------------- */

struct server_request *request_take(struct server_session *session, uint64_t request_id)
{
    struct server *server = session->server;
    if (session->request_count >= server->settings->session_requests_max) {
        engine_end(session->conn, ST_LIMIT,
                   "more than %u requests in flight (session-requests-max)",
                   server->settings->session_requests_max);
        return NULL;
    }
    queue_foreach (item, &session->requests) {
        if (CONTAINER_OF(item, struct server_request, link)->request_id == request_id) {
            engine_end(session->conn, ST_PROTOCOL, "request id %llu is in flight already",
                       (unsigned long long)request_id);
            return NULL;
        }
    }
    if (server->request_free_count == 0) {
        session_complete(session, request_id, ST_BUSY,
                         "the daemon's limit of requests (requests-max)");
        return NULL;
    }
    uint32_t number = server->request_free[--server->request_free_count];
    struct server_request *request = &server->requests[number];
    *request =
        (struct server_request){.number = number, .session = session, .request_id = request_id};
    queue_push_back(&session->requests, &request->link);
    session->request_count++;
    return request;
}

void request_free(struct server_request *request)
{
    struct server_session *session = request->session;
    struct server *server = session->server;
    KVEIK_ASSERT(!request->copying);
    request_unwatch(request);
    queue_remove(&request->link);
    session->request_count--;
    heap_free(request->runs);
    heap_free(request->pages);
    heap_free(request->items);
    heap_free(request->copies);
    heap_free(request->waits);
    heap_free(request->statuses);
    request->session = NULL;
    server->request_free[server->request_free_count++] = request->number;
    session_wake_waiters(session, request->number);
}

/* ---- checks against the session's geometry --------------------------------------------------- */

static uint64_t pages_needed(const struct server_layout *layout, uint32_t page_token,
                             uint64_t tokens)
{
    uint32_t page_tokens = layout->layout.page_tokens;
    return (page_token + tokens + page_tokens - 1) / page_tokens;
}

static const char *check_pages(const struct server_layout *layout, const uint32_t *pages,
                               uint32_t page_count, uint32_t page_token, uint64_t tokens)
{
    uint32_t page_tokens = layout->layout.page_tokens;
    if (page_token >= page_tokens) {
        return "page_token lies behind the first page";
    }
    if (pages_needed(layout, page_token, tokens) > page_count) {
        return "fewer pages than the tokens need";
    }
    for (uint32_t i = 0; i < page_count; i++) {
        if (pages[i] >= layout->layout.page_count) {
            return "a page number is outside the layout";
        }
    }
    if (layout->layout.opaque && page_token != 0) {
        return "opaque pages are moved whole: page_token must be 0";
    }
    return NULL;
}

struct server_layout *session_layout(struct server_session *session, uint32_t handle)
{
    if (handle >= SESSION_LAYOUTS_MAX || !session->layouts[handle].used ||
        session->layouts[handle].dropping) {
        return NULL;
    }
    return &session->layouts[handle];
}

/* Room for runs and pages; the pages are copied in by run_fill(). */
static int request_allocate(struct server_request *request, uint32_t run_count, uint64_t page_count)
{
    request->runs = heap_calloc(run_count, sizeof *request->runs);
    request->pages = heap_alloc((page_count + 1) * sizeof(uint32_t));
    request->run_count = run_count;
    return request->runs == NULL || request->pages == NULL ? ST_NO_MEMORY : ST_OK;
}

static void deadline_set(struct server_request *request, uint32_t deadline_ms)
{
    request->began_ns = clock_ns();
    request->deadline_ms =
        request->began_ns / 1000000u + (deadline_ms != 0 ? deadline_ms : DEADLINE_DEFAULT_MS);
}

/* ---- push ------------------------------------------------------------------------------------ */

/* Where both sides have one clock a push's deadline counts from its sending, however long it lay in
 * the socket: behind it the client may write other contents to the pages. False: it has passed. */
static bool push_deadline_set(struct server_request *request, const struct msg_push *push)
{
    deadline_set(request, push->deadline_ms);
    if (request->session->same_clock && push->sent_ns != 0 && push->sent_ns < request->began_ns) {
        request->deadline_ms -= (request->began_ns - push->sent_ns) / 1000000u;
    }
    return request->deadline_ms > clock_ms();
}

/* Checks one run and fills its event and its place in the request. */
static int push_run(struct server_request *request, const struct msg_push_run *run,
                    struct server_run *out, struct core_push_run *event, struct error *error)
{
    struct server_session *session = request->session;
    out->layout = session_layout(session, run->layout);
    if (out->layout == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "push: no layout %u in this session", run->layout);
    }
    const char *wrong =
        check_pages(out->layout, run->pages, run->page_count, run->page_token, run->token_count);
    if (wrong != NULL) {
        return error_set(error, ST_INVALID, "push: %s", wrong);
    }
    uint32_t block_tokens = run->block_grains * GRAIN_TOKENS;
    if (out->layout->layout.opaque && block_tokens % out->layout->layout.page_tokens != 0) {
        return error_set(error, ST_INVALID, "push: opaque pages of %u tokens do not fill blocks",
                         out->layout->layout.page_tokens);
    }
    out->page_count = (uint32_t)pages_needed(out->layout, run->page_token, run->token_count);
    out->page_token = run->page_token;
    out->status_tokens = block_tokens;
    *event = (struct core_push_run){.keys = run->keys,
                                    .key_count = run->key_count,
                                    .block_count = run->block_count,
                                    .tail_tokens = run->tail_tokens};
    return server_shape_for(session, out->layout, run->block_grains, &event->shape, error);
}

static int push_fill(struct server_request *request, const struct msg_push *push,
                     struct core_push_run *runs, struct error *error)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; i < push->run_count; i++) {
        pages += push->runs[i].page_count;
    }
    if (request_allocate(request, push->run_count, pages) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "push: the daemon is out of memory");
    }
    uint32_t *to = request->pages;
    uint32_t statuses = 0;
    for (uint32_t i = 0; i < push->run_count; i++) {
        const struct msg_push_run *run = &push->runs[i];
        struct server_run *out = &request->runs[i];
        int status = push_run(request, run, out, &runs[i], error);
        if (status != ST_OK) {
            return status;
        }
        if (out->layout->space != request->runs[0].layout->space ||
            out->layout->remote != request->runs[0].layout->remote) {
            return error_set(error, ST_INVALID,
                             "push: all runs must be of one space and one way of memory");
        }
        (void)memcpy(to, run->pages, out->page_count * sizeof *to);
        out->pages = to;
        to += out->page_count;
        out->first_status = statuses;
        statuses += run->block_count;
    }
    return ST_OK;
}

void session_push(struct server_session *session, const struct msg *msg)
{
    if (session_punched(session)) {
        return;
    }
    struct server_request *request = request_take(session, msg->request_id);
    if (request == NULL) {
        return;
    }
    const struct msg_push *push = &msg->u.push;
    struct core_push_run *runs = heap_calloc(push->run_count, sizeof *runs);
    struct error error = {.status = ST_NO_MEMORY, .text = "push: the daemon is out of memory"};
    request->push = true;
    int status = ST_NO_MEMORY;
    if (!push_deadline_set(request, push)) {
        status = error_set(&error, ST_DEADLINE, "push: its deadline passed before it was read");
    } else if (runs != NULL) {
        status = push_fill(request, push, runs, &error);
    }
    if (status != ST_OK) {
        request_free(request);
        session_complete(session, msg->request_id, status, error.text);
    } else {
        struct core_event event = {
            .kind = EVENT_PUSH,
            .session = session->number,
            .request = request->number,
            .u.push = {.space = session->spaces[request->runs[0].layout->space].core_space,
                       .runs = runs,
                       .run_count = push->run_count}};
        server_step(session->server, &event, NULL);
    }
    heap_free(runs);
}

/* ---- pull ------------------------------------------------------------------------------------ */

static int pull_run(struct server_request *request, const struct msg_pull_run *run,
                    struct server_run *out, struct core_pull_run *event, struct error *error)
{
    out->layout = session_layout(request->session, run->layout);
    if (out->layout == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "pull: no layout %u in this session", run->layout);
    }
    const struct layout *layout = &out->layout->layout;
    uint64_t tokens =
        (uint64_t)run->key_count * run->key_grains * GRAIN_TOKENS - GRAIN_TOKENS + run->tail_tokens;
    const char *wrong =
        check_pages(out->layout, run->pages, run->page_count, run->page_token, tokens);
    if (wrong != NULL) {
        return error_set(error, ST_INVALID, "pull: %s", wrong);
    }
    out->status_tokens = run->key_grains * GRAIN_TOKENS;
    if (layout->opaque && out->status_tokens % layout->page_tokens != 0) {
        return error_set(error, ST_INVALID,
                         "pull: opaque pages of %u tokens need keys of whole pages (key_grains)",
                         layout->page_tokens);
    }
    out->page_count = (uint32_t)pages_needed(out->layout, run->page_token, tokens);
    out->page_token = run->page_token;
    *event = (struct core_pull_run){.want = {.group = out->layout->group,
                                             .ranges = {.layer_begin = layout->layer_begin,
                                                        .layer_count = layout->layer_count,
                                                        .head_begin = layout->head_begin,
                                                        .head_count = layout->head_count}},
                                    .keys = run->keys,
                                    .key_count = run->key_count,
                                    .key_grains = run->key_grains,
                                    .tail_tokens = run->tail_tokens};
    return ST_OK;
}

static int pull_fill(struct server_request *request, const struct msg_pull *pull,
                     struct core_pull_run *runs, struct error *error)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; i < pull->run_count; i++) {
        pages += pull->runs[i].page_count;
    }
    if (request_allocate(request, pull->run_count, pages) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "pull: the daemon is out of memory");
    }
    uint32_t *to = request->pages;
    uint32_t statuses = 0;
    for (uint32_t i = 0; i < pull->run_count; i++) {
        const struct msg_pull_run *run = &pull->runs[i];
        struct server_run *out = &request->runs[i];
        int status = pull_run(request, run, out, &runs[i], error);
        if (status != ST_OK) {
            return status;
        }
        if (out->layout->space != request->runs[0].layout->space ||
            out->layout->remote != request->runs[0].layout->remote) {
            return error_set(error, ST_INVALID,
                             "pull: all runs must be of one space and one way of memory");
        }
        (void)memcpy(to, run->pages, out->page_count * sizeof *to);
        out->pages = to;
        to += out->page_count;
        out->first_status = statuses;
        statuses += run->key_count;
    }
    return ST_OK;
}

void session_pull(struct server_session *session, const struct msg *msg)
{
    if (session_punched(session)) {
        return;
    }
    struct server_request *request = request_take(session, msg->request_id);
    if (request == NULL) {
        return;
    }
    const struct msg_pull *pull = &msg->u.pull;
    struct core_pull_run *runs = heap_calloc(pull->run_count, sizeof *runs);
    struct error error = {.status = ST_NO_MEMORY, .text = "pull: the daemon is out of memory"};
    deadline_set(request, pull->deadline_ms);
    int status = runs == NULL ? ST_NO_MEMORY : pull_fill(request, pull, runs, &error);
    if (status != ST_OK) {
        request_free(request);
        session_complete(session, msg->request_id, status, error.text);
    } else {
        struct core_event event = {
            .kind = EVENT_PULL,
            .session = session->number,
            .request = request->number,
            .u.pull = {.space = session->spaces[request->runs[0].layout->space].core_space,
                       .runs = runs,
                       .run_count = pull->run_count,
                       .lease = pull->lease,
                       .release_lease = pull->release_lease}};
        server_step(session->server, &event, NULL);
    }
    heap_free(runs);
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* The keys of a pull that a copy stands for, when it cannot be carried out after all. */
void request_mark_missed(struct server_request *request, const struct core_copy *copy)
{
    const struct server_run *run = &request->runs[copy->run];
    uint32_t first = run->first_status + copy->run_token / run->status_tokens;
    uint32_t count = (copy->tokens + run->status_tokens - 1) / run->status_tokens;
    (void)memset(request->statuses + first, ST_MISS, count);
}

static void item_fill(struct server_request *request, const struct core_copy *copy,
                      struct copy_item *item)
{
    struct server *server = request->session->server;
    const struct server_run *run = &request->runs[copy->run];
    const struct layout *layout = &run->layout->layout;
    uint32_t tokens = copy->tokens;
    if (layout->opaque) { /* whole pages, however many tokens of the last one are valid */
        tokens = (tokens + layout->page_tokens - 1) / layout->page_tokens * layout->page_tokens;
    }
    *item = (struct copy_item){.layout = layout,
                               .form = &server->shapes[copy->shape].form,
                               .part = pool_address(server->pool, copy->offset),
                               .pages = run->pages,
                               .page_token = run->page_token + copy->run_token,
                               .part_token = copy->part_token,
                               .tokens = tokens,
                               .layer_begin = copy->ranges.layer_begin,
                               .layer_count = copy->ranges.layer_count,
                               .head_begin = copy->ranges.head_begin,
                               .head_count = copy->ranges.head_count};
}

void request_submit(struct server_request *request, uint32_t first, uint32_t count)
{
    struct server *server = request->session->server;
    request->job =
        (struct copy_job){.push = request->push,
                          .memory = request->runs[0].layout->remote ? &request->session->remote
                                                                    : &request->session->memory,
                          .items = request->items + first,
                          .item_count = count,
                          .deadline_ms = request->deadline_ms,
                          .owner = request};
    queue_init(&request->job.link);
    request->copying = true;
    if (count == 0 || request->failed != ST_OK) {
        queue_push_back(&server->finished, &request->job.link);
        return;
    }
    int status = copy_submit(server->copies, &request->job);
    if (status == ST_OK) {
        return;
    }
    if (status != ST_PENDING) {
        request->failed = status;
    }
    queue_push_back(&server->finished, &request->job.link);
}

/* Keeps the statuses that came with the action. */
static bool statuses_keep(struct server_request *request, const struct core_action *action)
{
    if (action->status_count == 0) {
        return true;
    }
    request->statuses = heap_alloc(action->status_count);
    if (request->statuses == NULL) {
        return false;
    }
    (void)memcpy(request->statuses, action->statuses, action->status_count);
    request->status_count = action->status_count;
    return true;
}

/* Room for what waits for the disk, when something does. */
static bool waits_reserve(struct server_request *request, const struct core_action *action)
{
    bool waits = false;
    for (uint32_t i = 0; i < action->copy_count; i++) {
        waits = waits || action->copies[i].load != CORE_NO_LOAD;
    }
    if (!waits) {
        return true;
    }
    request->copies = heap_alloc(action->copy_count * sizeof *request->copies);
    request->waits = heap_calloc(action->copy_count, sizeof *request->waits);
    if (request->copies != NULL && request->waits != NULL) {
        return true;
    }
    heap_free(request->waits); /* or it would look as if it waited */
    request->waits = NULL;
    return false;
}

void request_copy(struct server_request *request, const struct core_action *action)
{
    struct server *server = request->session->server;
    request->items = heap_alloc(action->copy_count * sizeof *request->items);
    if (request->items == NULL || !statuses_keep(request, action) ||
        !waits_reserve(request, action)) {
        request->failed = ST_NO_MEMORY;
    }
    if (request->failed != ST_OK) { /* perhaps its slab could not be had: touch nothing there */
        request_submit(request, 0, 0);
        return;
    }
    uint32_t items = 0;
    bool waits = false;
    for (uint32_t i = 0; i < action->copy_count; i++) {
        const struct core_copy *copy = &action->copies[i];
        const struct server_run *run = &request->runs[copy->run];
        const struct stored_form *form = &server->shapes[copy->shape].form;
        bool fits = stored_form_fits(form, &run->layout->layout);
        if (fits && run->layout->layout.opaque) {
            fits = copy->part_token % form->cell_tokens == 0;
        }
        if (fits) {
            if (request->copies != NULL) {
                request->copies[items] = *copy;
            }
            waits = waits || copy->load != CORE_NO_LOAD;
            item_fill(request, copy, &request->items[items++]);
        } else {
            KVEIK_ASSERT(!request->push);
            request_mark_missed(request, copy); /* packed in a way that this layout cannot take */
        }
    }
    if (waits) {
        request->item_count = items;
        request_wait(request);
    } else {
        request_submit(request, 0, items);
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

void request_reply(struct server_request *request, const struct core_action *action)
{
    struct server_session *session = request->session;
    if (request->statuses == NULL && !statuses_keep(request, action)) {
        session_complete(session, request->request_id, ST_NO_MEMORY, "the daemon is out of memory");
        request_free(request);
        return;
    }
    if (action->status != ST_OK && request->statuses != NULL) {
        for (uint32_t i = 0; i < request->status_count; i++) {
            if (request->statuses[i] == ST_OK) {
                request->statuses[i] = (int8_t)action->status;
            }
        }
    }
    struct msg msg = {.request_id = request->request_id,
                      .kind = MSG_COMPLETION,
                      .u.completion = {.status = action->status,
                                       .text = action->text != NULL ? action->text : "",
                                       .statuses = request->statuses,
                                       .status_count = request->status_count,
                                       .bytes = request->copied_bytes}};
    engine_send(session->conn, &msg);
    request_free(request);
}
