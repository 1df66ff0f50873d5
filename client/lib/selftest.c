/*
 * The proof of a layout: the engine writes a pattern through its own indexing, the daemon moves it
 * to another page through the declared strides, the engine reads it there.
 *
 *   save pages 0 and 1 -> fill(page 0) -> compare page 0 by the strides -> push page 0
 *     -> pull into page 1 -> compare page 1 by the strides -> check(page 1) -> put both back
 *
 * The first comparison finds a wrong stride before anything moves and names the place. The block
 * goes into a space of its own (isolation: random bytes), where nobody finds it.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/lib/submit.h"

/* A run of elements: all of one head and token; opaque: a page, or one head's share of it. */
struct place {
    uint32_t layer;
    uint32_t kind;
    uint32_t token;
    uint32_t head;
};

struct selftest {
    struct kveik_client *client;
    const struct kveik_layout *user;
    const struct client_layout *layout;
    const struct layout *shape;
    uint8_t **bases;  /* address of each plane's page 0 */
    uint8_t *saved;   /* both pages, in the order of the places */
    uint8_t *pattern; /* of one run */
    uint8_t *seen;    /* what lies at one run */
    size_t run_max;   /* bytes */
    uint64_t seed;
};

typedef bool (*place_fn)(struct selftest *test, const struct place *place, void *arg);

static size_t run_bytes(const struct selftest *test, uint32_t kind)
{
    return (size_t)test->shape->kind_elements[kind] * test->shape->element_bytes;
}

/* Every run of a page until fn() says false; that one is in *stopped_out. */
static bool each_place(struct selftest *test, place_fn fn, void *arg, struct place *stopped_out)
{
    const struct layout *shape = test->shape;
    uint32_t tokens = shape->opaque ? 1 : shape->page_tokens;
    uint32_t heads = layout_head_units(shape);
    struct place place = {0};
    for (place.layer = 0; place.layer < shape->layer_count; place.layer++) {
        for (place.kind = 0; place.kind < shape->kind_count; place.kind++) {
            for (place.token = 0; place.token < tokens; place.token++) {
                for (place.head = 0; place.head < heads; place.head++) {
                    if (!fn(test, &place, arg)) {
                        *stopped_out = place;
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

/* Unique for each (layer, kind, token, head): bytes of a generator that is seeded with them. */
static void make_pattern(struct selftest *test, const struct place *place)
{
    uint64_t where =
        ((uint64_t)place->layer * LAYOUT_KINDS_MAX + place->kind) * LAYOUT_PAGE_TOKENS_MAX +
        place->token;
    struct rng rng = {.state = test->seed ^ (where * LAYOUT_HEADS_MAX + place->head)};
    size_t bytes = run_bytes(test, place->kind);
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);
        size_t left = bytes - at;
        (void)memcpy(test->pattern + at, &word, left < sizeof word ? left : sizeof word);
    }
}

/* Where element 0 of the run lies, by the declared strides. */
static uint8_t *run_address(const struct selftest *test, const struct place *place, uint32_t page)
{
    uint32_t index = place->layer * test->shape->kind_count + place->kind;
    const struct layout_plane *plane = &test->shape->planes[index];
    return test->bases[index] + page * plane->page_stride + place->token * plane->token_stride +
           place->head * plane->head_stride;
}

static void move_run(const struct selftest *test, const struct place *place, uint32_t page,
                     uint8_t *bytes, bool out_of_memory)
{
    const struct layout *shape = test->shape;
    const struct layout_plane *plane =
        &shape->planes[place->layer * shape->kind_count + place->kind];
    uint8_t *at = run_address(test, place, page);
    size_t step = shape->element_bytes;
    size_t count = shape->kind_elements[place->kind];
    if (plane->element_stride == step) { /* one piece, as nearly always */
        step *= count;
        count = 1;
    }
    for (size_t i = 0; i < count; i++) {
        uint8_t *element = at + i * plane->element_stride;
        if (out_of_memory) {
            (void)memcpy(bytes + i * step, element, step);
        } else {
            (void)memcpy(element, bytes + i * step, step);
        }
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

struct copy_state {
    uint32_t page;
    uint8_t *at;
    bool save;
};

static bool save_or_restore(struct selftest *test, const struct place *place, void *arg)
{
    struct copy_state *state = arg;
    move_run(test, place, state->page, state->at, state->save);
    state->at += run_bytes(test, place->kind);
    return true;
}

static void copy_pages(struct selftest *test, bool save)
{
    struct place ignored;
    struct copy_state state = {.at = test->saved, .save = save};
    for (state.page = 0; state.page < 2; state.page++) {
        (void)each_place(test, save_or_restore, &state, &ignored);
    }
}

static bool fill_run(struct selftest *test, const struct place *place, void *arg)
{
    (void)arg;
    make_pattern(test, place);
    test->user->fill(test->user->callback_arg, place->layer, place->kind, 0, place->token,
                     place->head, test->pattern, run_bytes(test, place->kind));
    return true;
}

static bool compare_run(struct selftest *test, const struct place *place, void *arg)
{
    const uint32_t *page = arg;
    make_pattern(test, place);
    move_run(test, place, *page, test->seen, true);
    return memcmp(test->seen, test->pattern, run_bytes(test, place->kind)) == 0;
}

static bool check_run(struct selftest *test, const struct place *place, void *arg)
{
    (void)arg;
    make_pattern(test, place);
    return test->user->check(test->user->callback_arg, place->layer, place->kind, 1, place->token,
                             place->head, test->pattern, run_bytes(test, place->kind)) == 0;
}

static int mismatch(const struct place *place, uint32_t page, const char *what, struct error *error)
{
    return error_set(error, ST_MISMATCH, "self-test: layer %u kind %u page %u token %u head %u: %s",
                     place->layer, place->kind, page, place->token, place->head, what);
}

/* ---- the move -------------------------------------------------------------------------------- */

/* Blocks that the page fits into. False: none; then only the strides can be compared. */
static bool choose_block(const struct layout *shape, uint32_t *block_tokens_out)
{
    for (uint32_t block = GRAIN_TOKENS; block <= BLOCK_GRAINS_MAX * GRAIN_TOKENS;
         block += GRAIN_TOKENS) {
        bool whole_pages = block % shape->page_tokens == 0;
        if (whole_pages || (!shape->opaque && shape->page_tokens % block == 0)) {
            *block_tokens_out = block;
            return true;
        }
    }
    return false;
}

/* Waits for an internal request; a block that was not stored or found counts as its status. */
static int settle(struct kveik_client *client, struct op *op, struct error *error)
{
    if (op == NULL) {
        return error->status;
    }
    int status = op_await(client, op, error);
    for (uint32_t i = 0; status == ST_OK && i < op->status_count; i++) {
        int one = op->statuses[i]; /* NOLINT(bugprone-signed-char-misuse,cert-str34-c): a number */
        if (one != ST_OK) {
            status =
                error_set(error, one < 0 ? one : ST_MISMATCH, "block %u: %s", i, status_text(one));
        }
    }
    op_forget(client, op);
    return status;
}

static int push_page(struct selftest *test, uint32_t layout, const uint8_t *keys,
                     uint32_t block_tokens, struct error *error)
{
    static const uint32_t page = 0;
    uint32_t tokens = test->shape->page_tokens;
    uint32_t blocks = (tokens + block_tokens - 1) / block_tokens;
    struct kveik_push_run run = {.layout = layout,
                                 .block_count = blocks,
                                 .block_tokens = block_tokens,
                                 .tail_tokens = tokens - (blocks - 1) * block_tokens,
                                 .keys = keys,
                                 .key_count = (tokens + GRAIN_TOKENS - 1) / GRAIN_TOKENS,
                                 .pages = &page,
                                 .page_count = 1};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    struct submit submit = {.internal = true};
    return settle(test->client, submit_push(test->client, &push, &submit, error), error);
}

static int pull_page(struct selftest *test, uint32_t layout, const uint8_t *keys,
                     uint32_t block_tokens, struct error *error)
{
    static const uint32_t page = 1;
    uint32_t tokens = test->shape->page_tokens;
    uint32_t grains = (tokens + GRAIN_TOKENS - 1) / GRAIN_TOKENS;
    struct kveik_pull_run run = {.layout = layout,
                                 .keys = keys,
                                 .key_count = grains,
                                 .key_tokens = GRAIN_TOKENS,
                                 .tail_tokens = tokens - (grains - 1) * GRAIN_TOKENS,
                                 .pages = &page,
                                 .page_count = 1};
    if (test->shape->opaque) {
        /* opaque pages move whole: one key stands for the page, the last grain's */
        run.keys = keys + (size_t)(grains - 1) * KVEIK_KEY_BYTES;
        run.key_count = 1;
        run.key_tokens = block_tokens;
        run.tail_tokens = 0;
    }
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &run;
    pull.run_count = 1;
    struct submit submit = {.internal = true};
    return settle(test->client, submit_pull(test->client, &pull, &submit, error), error);
}

/* With the mutex held: push and pull under a layout that is in the table for that long. */
static int push_and_pull(struct selftest *test, uint32_t layout, struct error *error)
{
    uint32_t block_tokens = 0;
    if (!choose_block(test->shape, &block_tokens)) {
        return ST_OK;
    }
    uint32_t grains = (test->shape->page_tokens + GRAIN_TOKENS - 1) / GRAIN_TOKENS;
    uint8_t *keys = heap_alloc((size_t)grains * KVEIK_KEY_BYTES);
    if (keys == NULL) {
        return error_set(error, ST_NO_MEMORY, "self-test: out of memory");
    }
    for (uint32_t i = 0; i < grains; i++) {
        random_bytes(keys + (size_t)i * KVEIK_KEY_BYTES, KVEIK_KEY_BYTES);
    }
    int status = push_page(test, layout, keys, block_tokens, error);
    if (status == ST_OK) {
        status = pull_page(test, layout, keys, block_tokens, error);
    }
    heap_free(keys);
    return status;
}

/* A space that differs only in that nobody else knows it; every block counts for itself. */
static struct client_space *private_space(const struct client_space *space)
{
    struct client_space *private = heap_alloc(sizeof *private);
    if (private == NULL) {
        return NULL;
    }
    *private = (struct client_space){.space = space->space};
    private->space.isolation_bytes = 32;
    random_bytes(private->space.isolation, private->space.isolation_bytes);
    for (uint32_t i = 0; i < private->space.group_count; i++) {
        private->space.groups[i].rule = GROUP_EVERY;
        private->space.groups[i].window_tokens = 0;
    }
    if (space_id(&private->space, private->id) != ST_OK) {
        heap_free(private);
        return NULL;
    }
    return private;
}

/* The layout once more, for the private space. Its planes are the original's. */
static int move_with(struct selftest *test, const struct client_space *space, struct error *error)
{
    struct kveik_client *client = test->client;
    struct client_layout twin = *test->layout;
    twin.object = (struct object){0};
    twin.private_space = space;
    int status = layout_offer(client, &twin, error);
    if (status != ST_OK) {
        return status;
    }
    twin.object.handle = handles_add(&client->layouts, &twin, &status);
    if (status == ST_OK) {
        status = push_and_pull(test, twin.object.handle, error);
        handles_remove(&client->layouts, twin.object.handle);
    }
    if (twin.object.epoch == client->connection.epoch) {
        register_undo(client, MSG_REGISTER_LAYOUT, twin.object.number);
    }
    return status;
}

static int move_page(struct selftest *test, struct error *error)
{
    struct kveik_client *client = test->client;
    int status = client_enter(client);
    if (status != ST_OK) {
        return status;
    }
    const struct client_space *space = handles_get(&client->spaces, test->layout->space);
    struct client_space *private = space != NULL ? private_space(space) : NULL;
    if (private == NULL) {
        status = error_set(error, ST_NO_MEMORY, "self-test: out of memory");
    } else {
        status = space_offer(client, private, error);
    }
    if (status == ST_OK) {
        status = move_with(test, private, error);
    }
    heap_free(private);
    client_leave(client);
    return status == ST_OK ? ST_OK : error_wrap(error, "self-test");
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int prove(struct selftest *test, struct error *error)
{
    struct place place;
    uint32_t page = 0;
    (void)each_place(test, fill_run, NULL, &place);
    if (!each_place(test, compare_run, &page, &place)) {
        return mismatch(&place, page, "`fill` wrote elsewhere than the strides say", error);
    }
    int status = move_page(test, error);
    if (status == ST_NO_SPACE || status == ST_QUOTA) {
        return ST_OK; /* a full daemon cannot move it, but the strides are proved */
    }
    if (status != ST_OK) {
        return status;
    }
    uint32_t ignored = 0;
    page = 1;
    if (choose_block(test->shape, &ignored) && !each_place(test, compare_run, &page, &place)) {
        return mismatch(&place, page, "the daemon did not move the page as declared", error);
    }
    if (choose_block(test->shape, &ignored) && !each_place(test, check_run, NULL, &place)) {
        return mismatch(&place, page, "`check` reads elsewhere than the strides say", error);
    }
    return ST_OK;
}

static size_t page_bytes(const struct selftest *test)
{
    const struct layout *shape = test->shape;
    size_t runs = (shape->opaque ? 1 : (size_t)shape->page_tokens) * layout_head_units(shape);
    size_t bytes = 0;
    for (uint32_t kind = 0; kind < shape->kind_count; kind++) {
        bytes += runs * run_bytes(test, kind);
    }
    return bytes * shape->layer_count;
}

static int prepare(struct selftest *test, struct error *error)
{
    const struct layout *shape = test->shape;
    uint32_t count = shape->layer_count * shape->kind_count;
    for (uint32_t kind = 0; kind < shape->kind_count; kind++) {
        size_t bytes = run_bytes(test, kind);
        test->run_max = bytes > test->run_max ? bytes : test->run_max;
    }
    test->bases = heap_alloc(count * sizeof *test->bases);
    test->saved = heap_alloc(2 * page_bytes(test));
    test->pattern = heap_alloc(test->run_max);
    test->seen = heap_alloc(test->run_max);
    if (test->bases == NULL || test->saved == NULL || test->pattern == NULL || test->seen == NULL) {
        return error_set(error, ST_NO_MEMORY, "self-test: no memory to save two pages");
    }
    int status = client_enter(test->client);
    for (uint32_t i = 0; status == ST_OK && i < count; i++) {
        const struct client_region *region =
            handles_get(&test->client->regions, shape->planes[i].region);
        if (region == NULL) {
            client_leave(test->client);
            return error_set(error, ST_UNKNOWN_ID, "self-test: a region was dropped");
        }
        test->bases[i] = region->address + shape->planes[i].offset;
    }
    if (status == ST_OK) {
        client_leave(test->client);
    }
    return status;
}

int selftest_run(struct kveik_client *client, const struct kveik_layout *user,
                 const struct client_layout *layout, struct error *error)
{
    if (layout->layout.page_count < 2) {
        return ST_OK; /* nowhere to move a page to */
    }
    struct selftest test = {
        .client = client, .user = user, .layout = layout, .shape = &layout->layout};
    random_bytes(&test.seed, sizeof test.seed);
    int status = prepare(&test, error);
    if (status == ST_OK) {
        copy_pages(&test, true);
        status = prove(&test, error);
        copy_pages(&test, false);
    }
    heap_free(test.bases);
    heap_free(test.saved);
    heap_free(test.pattern);
    heap_free(test.seen);
    return status;
}
