#include "client/lib/selftest.h"

#include <string.h>
#include <sys/random.h>

#include "base/heap.h"
#include "base/rng.h"

/* One run of elements: all of one head and token, or an opaque page. */
struct run {
    uint32_t layer;
    uint32_t kind;
    uint32_t token;
    uint32_t head;
    uint64_t bytes;
};

typedef int (*run_visit)(void *arg, const struct run *run);

static int visit_runs(const struct layout *layout, run_visit visit, void *arg)
{
    uint32_t tokens = layout->opaque ? 1 : layout->page_tokens;
    uint32_t heads = layout->opaque ? 1 : layout->head_count;
    struct run run;
    for (run.layer = 0; run.layer < layout->layer_count; run.layer++) {
        for (run.kind = 0; run.kind < layout->kind_count; run.kind++) {
            run.bytes = (uint64_t)layout->kind_elements[run.kind] * layout->element_bytes;
            for (run.token = 0; run.token < tokens; run.token++) {
                for (run.head = 0; run.head < heads; run.head++) {
                    int status = visit(arg, &run);
                    if (status != ST_OK) {
                        return status;
                    }
                }
            }
        }
    }
    return ST_OK;
}

struct test {
    struct kveik_client *client;
    const struct kveik_layout *given;
    const struct client_layout *layout;
    uint64_t seed;
    uint32_t page;
    uint8_t *kept; /* the pages' contents, element by element */
    uint64_t at;   /* in kept */
    bool restore;
    uint8_t *pattern; /* of one run */
    struct error *error;
};

static void pattern_of(const struct test *test, const struct run *run)
{
    struct rng rng = {.state = test->seed};
    rng.state ^= ((uint64_t)run->layer << 48) ^ ((uint64_t)run->kind << 40) ^
                 ((uint64_t)run->token << 16) ^ run->head;
    for (uint64_t i = 0; i < run->bytes; i++) {
        test->pattern[i] = (uint8_t)rng_next(&rng);
    }
}

static int fill_run(void *arg, const struct run *run)
{
    struct test *test = arg;
    pattern_of(test, run);
    test->given->fill(test->given->callback_arg, run->layer, run->kind, 0, run->token, run->head,
                      test->pattern, run->bytes);
    return ST_OK;
}

static int check_run(void *arg, const struct run *run)
{
    struct test *test = arg;
    pattern_of(test, run);
    if (test->given->check(test->given->callback_arg, run->layer, run->kind, test->page, run->token,
                           run->head, test->pattern, run->bytes) == 0) {
        return ST_OK;
    }
    return error_set(test->error, ST_MISMATCH,
                     "layout: the declared strides and the engine's indexing differ at layer %u, "
                     "plane %u, page %u, token %u, head %u",
                     run->layer, run->kind, test->page, run->token, run->head);
}

/* Keeps or restores through the declared strides: what the daemon will read and write. */
static int keep_run(void *arg, const struct run *run)
{
    struct test *test = arg;
    const struct layout *layout = &test->layout->layout;
    const struct layout_plane *plane = &layout->planes[run->layer * layout->kind_count + run->kind];
    const struct client_region *region = table_get(&test->client->regions, plane->region);
    char *base = region->address + plane->offset + test->page * plane->page_stride +
                 run->token * plane->token_stride + run->head * plane->head_stride;
    uint32_t step = layout->element_bytes;
    uint64_t stride = layout->opaque ? 1 : plane->element_stride;
    for (uint64_t e = 0; e < run->bytes / step; e++) {
        if (test->restore) {
            (void)memcpy(base + e * stride, test->kept + test->at, step);
        } else {
            (void)memcpy(test->kept + test->at, base + e * stride, step);
        }
        test->at += step;
    }
    return ST_OK;
}

static void keep_page(struct test *test, uint32_t page, uint64_t at, bool restore)
{
    test->page = page;
    test->at = at;
    test->restore = restore;
    (void)visit_runs(&test->layout->layout, keep_run, test);
}

/* Whole blocks of the page's tokens, moved from page 0 to test->page. */
static int move_page(struct test *test, uint32_t handle)
{
    const struct layout *layout = &test->layout->layout;
    uint32_t tokens = layout->page_tokens / GRAIN_TOKENS * GRAIN_TOKENS;
    uint32_t from = 0;
    uint8_t key[KVEIK_KEY_BYTES];
    if (tokens == 0 || tokens > BLOCK_GRAINS_MAX * GRAIN_TOKENS ||
        getrandom(key, sizeof key, 0) != (ssize_t)sizeof key) {
        return ST_UNSUPPORTED; /* pages smaller than a grain, or larger than a block */
    }
    struct kveik_push_run push_run = {.layout = handle,
                                      .block_count = 1,
                                      .block_tokens = tokens,
                                      .keys = key,
                                      .key_count = 1,
                                      .pages = &from,
                                      .page_count = 1};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &push_run;
    push.run_count = 1;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_push(test->client, &push, &done);
    status = status == ST_OK && done.status_count == 1 ? done.statuses[0] : status;
    kveik_completion_finish(&done);
    struct kveik_pull_run pull_run = {.layout = handle,
                                      .keys = key,
                                      .key_count = 1,
                                      .key_tokens = tokens,
                                      .pages = &test->page,
                                      .page_count = 1};
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &pull_run;
    pull.run_count = 1;
    if (status == ST_OK) {
        status = kveik_pull(test->client, &pull, &done);
        status = status == ST_OK && done.status_count == 1 ? done.statuses[0] : status;
        kveik_completion_finish(&done);
    }
    return status;
}

static int run_test(struct test *test, uint32_t handle, uint64_t page_bytes)
{
    uint32_t pages = test->layout->layout.page_count < 2 ? 1 : 2;
    for (uint32_t p = 0; p < pages; p++) {
        keep_page(test, p, p * page_bytes, false);
    }
    (void)visit_runs(&test->layout->layout, fill_run, test);
    test->page = pages - 1;
    int status = move_page(test, handle);
    if (status == ST_UNSUPPORTED) {
        status = ST_OK;
    } else if (status != ST_OK) {
        (void)error_set(test->error, status < 0 ? status : ST_MISMATCH,
                        "layout: the self-test's block could not be moved: %s",
                        status_text(status));
        status = test->error->status;
    } else {
        test->page = pages - 1;
        status = visit_runs(&test->layout->layout, check_run, test);
    }
    for (uint32_t p = 0; p < pages; p++) {
        keep_page(test, p, p * page_bytes, true);
    }
    return status;
}

static int add_bytes(void *arg, const struct run *run)
{
    *(uint64_t *)arg += run->bytes;
    return ST_OK;
}

int layout_selftest(struct kveik_client *client, const struct kveik_layout *given,
                    const struct client_layout *layout, uint32_t handle, struct error *error)
{
    uint64_t page_bytes = 0;
    uint64_t run_bytes = 0;
    (void)visit_runs(&layout->layout, add_bytes, &page_bytes);
    for (uint32_t k = 0; k < layout->layout.kind_count; k++) {
        uint64_t bytes = (uint64_t)layout->layout.kind_elements[k] * layout->layout.element_bytes;
        run_bytes = bytes > run_bytes ? bytes : run_bytes;
    }
    struct test test = {.client = client, .given = given, .layout = layout, .error = error};
    test.kept = heap_alloc(2 * page_bytes);
    test.pattern = heap_alloc(run_bytes);
    int status = ST_NO_MEMORY;
    if (test.kept == NULL || test.pattern == NULL ||
        getrandom(&test.seed, sizeof test.seed, 0) != (ssize_t)sizeof test.seed) {
        (void)error_set(error, status, "layout: no memory for the self-test");
    } else {
        status = run_test(&test, handle, page_bytes);
    }
    heap_free(test.kept);
    heap_free(test.pattern);
    return status;
}
