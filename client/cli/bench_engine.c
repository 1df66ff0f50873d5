#include "client/cli/bench_engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"

enum { ELEMENT_BYTES = 2, WAIT_MS = 30 * 1000, FILL = 0x3c };

uint64_t bench_plane_bytes(const struct bench_shape *shape)
{
    return (uint64_t)shape->page_tokens * shape->heads * shape->elements * ELEMENT_BYTES;
}

uint64_t bench_block_bytes(const struct bench_shape *shape)
{
    return bench_plane_bytes(shape) * shape->layers * shape->kinds;
}

void bench_key(uint64_t number, uint8_t key_out[KVEIK_KEY_BYTES])
{
    struct rng rng = {.state = number * 0x2545f4914f6cdd1du};
    for (uint32_t i = 0; i < KVEIK_KEY_BYTES; i += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);
        memcpy(key_out + i, &word, sizeof word);
    }
}

uint32_t *bench_shuffle(uint32_t count)
{
    uint32_t *order = heap_calloc(count, sizeof *order);
    struct rng rng = {.state = count};
    for (uint32_t i = 0; order != NULL && i < count; i++) {
        uint32_t other = (uint32_t)rng_below(&rng, i + 1);
        order[i] = order[other];
        order[other] = i;
    }
    return order;
}

/* ---- setting up ------------------------------------------------------------------------------ */

static int get_memory(struct bench_engine *engine, uint32_t mode, struct error *error)
{
    if (mode == KVEIK_MEMORY_AUTO) {
        struct kveik_error wrong = {0};
        void *memory = NULL;
        int status = kveik_memory_allocate(engine->client, engine->bytes, &memory, &wrong);
        if (status != KVEIK_OK) {
            return error_set(error, status, "allocate engine memory: %s", wrong.text);
        }
        engine->memory = memory;
    } else {
        void *memory =
            mmap(NULL, engine->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            return error_errno(error, ST_NO_MEMORY, errno, "map engine memory");
        }
        (void)madvise(memory, engine->bytes, MADV_HUGEPAGE);
        engine->memory = memory;
        engine->mapped = true;
    }
    memset(engine->memory, FILL, engine->bytes);
    return ST_OK;
}

static int register_space(struct bench_engine *engine, struct error *error)
{
    const struct bench_shape *shape = engine->shape;
    char name[64];
    (void)snprintf(name, sizeof name, "kveik-bench-%s-%u-%u", shape->name, shape->layers,
                   shape->page_tokens);
    struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                .layer_count = shape->layers,
                                .head_count = shape->heads,
                                .kind_count = shape->kinds};
    for (uint32_t i = 0; i < shape->kinds; i++) {
        group.kind_elements[i] = shape->elements;
    }
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = name;
    space.dtype = KVEIK_BF16;
    space.group_count = 1;
    space.groups = &group;
    struct kveik_error wrong = {0};
    int status = kveik_space_register(engine->client, &space, &engine->space, &wrong);
    return status != KVEIK_OK ? error_set(error, status, "register the space: %s", wrong.text)
                              : ST_OK;
}

static int register_layout(struct bench_engine *engine, const struct bench_engine_options *options,
                           struct error *error)
{
    const struct bench_shape *shape = engine->shape;
    struct kveik_error wrong = {0};
    struct kveik_memory_options memory = KVEIK_MEMORY_OPTIONS_INIT;
    memory.mode = options->memory_mode;
    uint32_t region = 0;
    int status = kveik_memory_export(engine->client, engine->memory, engine->bytes, &memory,
                                     &region, NULL, &wrong);
    if (status != KVEIK_OK) {
        return error_set(error, status, "export engine memory: %s", wrong.text);
    }
    struct kveik_plane planes[BENCH_LAYERS_MAX * BENCH_KINDS_MAX];
    uint64_t plane_bytes = bench_plane_bytes(shape);
    uint64_t run_bytes = (uint64_t)shape->elements * ELEMENT_BYTES;
    for (uint32_t i = 0; i < shape->layers * shape->kinds; i++) {
        planes[i] = (struct kveik_plane){
            .region = region,
            .offset = i * plane_bytes * engine->pages,
            .page_stride = plane_bytes,
            .token_stride = options->head_major ? run_bytes : run_bytes * shape->heads,
            .head_stride = options->head_major ? run_bytes * shape->page_tokens : run_bytes,
            .element_stride = ELEMENT_BYTES,
        };
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = engine->space;
    layout.page_tokens = shape->page_tokens;
    layout.page_count = engine->pages;
    layout.layer_count = shape->layers;
    layout.head_count = shape->heads;
    layout.planes = planes;
    status = kveik_layout_register(engine->client, &layout, &engine->layout, &wrong);
    return status != KVEIK_OK ? error_set(error, status, "register the layout: %s", wrong.text)
                              : ST_OK;
}

int bench_engine_init(struct bench_engine *engine, const struct bench_engine_options *options,
                      struct error *error)
{
    const struct bench_shape *shape = options->shape;
    KVEIK_ASSERT(shape->layers <= BENCH_LAYERS_MAX && shape->kinds <= BENCH_KINDS_MAX);
    *engine = (struct bench_engine){.shape = shape, .pages = options->pages};
    engine->bytes = bench_block_bytes(shape) * options->pages;
    engine->order = bench_shuffle(options->pages);
    if (engine->order == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for %u pages", options->pages);
    }
    struct kveik_options connect = KVEIK_OPTIONS_INIT;
    connect.socket_path = options->socket_path;
    connect.client_name = "kveik bench";
    struct kveik_error wrong = {0};
    int status = kveik_connect(&connect, &engine->client, &wrong);
    if (status != KVEIK_OK) {
        return error_set(error, status, "%s", wrong.text);
    }
    status = get_memory(engine, options->memory_mode, error);
    if (status == ST_OK) {
        status = register_space(engine, error);
    }
    return status == ST_OK ? register_layout(engine, options, error) : status;
}

void bench_engine_finish(struct bench_engine *engine)
{
    if (engine->memory != NULL && !engine->mapped) {
        kveik_memory_free(engine->client, engine->memory);
    }
    kveik_close(engine->client);
    if (engine->memory != NULL && engine->mapped) {
        (void)munmap(engine->memory, engine->bytes);
    }
    heap_free(engine->order);
    *engine = (struct bench_engine){0};
}

/* ---- passes ---------------------------------------------------------------------------------- */

static int submit(struct bench_engine *engine, bool push, uint64_t key_number, uint32_t page,
                  struct error *error)
{
    uint8_t key[KVEIK_KEY_BYTES];
    bench_key(key_number, key);
    struct kveik_error wrong = {0};
    int status = KVEIK_OK;
    if (push) {
        struct kveik_push_run run = {.layout = engine->layout,
                                     .block_count = 1,
                                     .block_tokens = engine->shape->page_tokens,
                                     .keys = key,
                                     .key_count = 1,
                                     .pages = &page,
                                     .page_count = 1};
        struct kveik_push request = KVEIK_PUSH_INIT;
        request.runs = &run;
        request.run_count = 1;
        status = kveik_submit_push(engine->client, &request, NULL, NULL, &wrong);
    } else {
        struct kveik_pull_run run = {.layout = engine->layout,
                                     .keys = key,
                                     .key_count = 1,
                                     .key_tokens = engine->shape->page_tokens,
                                     .pages = &page,
                                     .page_count = 1};
        struct kveik_pull request = KVEIK_PULL_INIT;
        request.runs = &run;
        request.run_count = 1;
        status = kveik_submit_pull(engine->client, &request, NULL, NULL, &wrong);
    }
    return status < 0 ? error_set(error, status, "submit: %s", wrong.text) : ST_OK;
}

static int reap(struct bench_engine *engine, struct error *error)
{
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int waited = kveik_wait(engine->client, 0, WAIT_MS, &done);
    int status = ST_OK;
    if (waited != KVEIK_OK) {
        status = error_set(error, waited < 0 ? waited : ST_DEADLINE, "no completion came: %s",
                           kveik_status_text(waited));
    } else if (done.status != KVEIK_OK) {
        status = error_set(error, done.status, "a request failed: %s", done.text);
    } else if (done.bytes != bench_block_bytes(engine->shape)) {
        status = error_set(error, ST_MISS, "a block was not moved: %s",
                           done.status_count > 0 ? kveik_status_text(done.statuses[0]) : "");
    }
    kveik_completion_finish(&done);
    return status;
}

int bench_engine_pass(struct bench_engine *engine, struct bench_pass *pass, struct error *error)
{
    uint32_t begun = 0;
    uint32_t ended = 0;
    int status = ST_OK;
    uint64_t began_ns = clock_ns();
    while (status == ST_OK && ended < pass->blocks) {
        while (status == ST_OK && begun < pass->blocks && begun - ended < pass->depth) {
            uint32_t key = pass->key_order != NULL ? pass->key_order[begun] : begun;
            status = submit(engine, pass->push, pass->key_first + key,
                            engine->order[begun % engine->pages], error);
            begun++;
        }
        if (status == ST_OK) {
            status = reap(engine, error);
            ended++;
        }
    }
    pass->seconds = (double)(clock_ns() - began_ns) / 1e9;
    return status;
}

int bench_engine_one(struct bench_engine *engine, bool push, uint64_t key, uint32_t page,
                     double *microseconds_out, struct error *error)
{
    uint64_t began_ns = clock_ns();
    int status = submit(engine, push, key, page, error);
    if (status == ST_OK) {
        status = reap(engine, error);
    }
    if (microseconds_out != NULL) {
        *microseconds_out = (double)(clock_ns() - began_ns) / 1e3;
    }
    return status;
}
