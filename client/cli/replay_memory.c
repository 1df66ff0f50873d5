/* A replay's space, and the memory of its engines: pages of one block each, whose bytes are a
 * function of the block's key when they are to be verified. */
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/cli/replay.h"

enum { MEMORY_DROP_MS = 5000 };

int replay_space_register(kveik_client *client, const struct replay_plan *plan,
                          uint64_t quota_bytes, uint32_t *space_out, struct kveik_error *error)
{
    struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                .layer_count = plan->layers,
                                .head_count = plan->heads,
                                .kind_count = plan->kinds};
    for (uint32_t kind = 0; kind < plan->kinds; kind++) {
        group.kind_elements[kind] = plan->elements;
    }
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = "kveik-replay";
    space.dtype = KVEIK_U8;
    space.group_count = 1;
    space.groups = &group;
    space.isolation = plan->isolation;
    space.isolation_bytes = sizeof plan->isolation;
    space.quota_bytes = quota_bytes;
    return kveik_space_register(client, &space, space_out, error);
}

static uint32_t plane_count(const struct replay_plan *plan)
{
    return plan->layers * plan->kinds;
}

static uint64_t plane_page_bytes(const struct replay_plan *plan)
{
    return plan->block_bytes / plane_count(plan);
}

static int layout_register(kveik_client *client, const struct replay_plan *plan,
                           struct replay_memory *memory, uint32_t space, uint32_t region,
                           struct kveik_error *error)
{
    uint32_t count = plane_count(plan);
    struct kveik_plane *planes = heap_calloc(count, sizeof *planes);
    if (planes == NULL) {
        return KVEIK_E_NO_MEMORY;
    }
    uint64_t page_bytes = plane_page_bytes(plan);
    for (uint32_t i = 0; i < count; i++) {
        planes[i] = (struct kveik_plane){.region = region,
                                         .offset = i * page_bytes * memory->pages,
                                         .page_stride = page_bytes,
                                         .token_stride = (uint64_t)plan->heads * plan->elements,
                                         .head_stride = plan->elements,
                                         .element_stride = 1};
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = space;
    layout.page_tokens = plan->block_tokens;
    layout.page_count = memory->pages;
    layout.layer_count = plan->layers;
    layout.head_count = plan->heads;
    layout.planes = planes;
    int status = kveik_layout_register(client, &layout, &memory->layout, error);
    heap_free(planes);
    return status;
}

/* As an engine has it: memory of the library's, or memory of its own that is then shared. */
static int memory_take(kveik_client *client, uint32_t mode, struct replay_memory *memory,
                       struct kveik_error *error)
{
    void *base = NULL;
    if (mode == KVEIK_MEMORY_AUTO || mode == KVEIK_MEMORY_SHARED) {
        int status = kveik_memory_allocate(client, memory->bytes, &base, error);
        memory->base = base;
        return status;
    }
    base = mmap(NULL, memory->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return KVEIK_E_NO_MEMORY;
    }
    memory->base = base;
    memory->mapped = true;
    (void)memset(base, 0, memory->bytes);
    return KVEIK_OK;
}

static void memory_give(kveik_client *client, struct replay_memory *memory)
{
    if (memory->mapped) {
        (void)munmap(memory->base, memory->bytes);
    } else {
        kveik_memory_free(client, memory->base);
    }
    memory->base = NULL;
}

int replay_memory_create(kveik_client *client, const struct replay_plan *plan, uint32_t space,
                         uint32_t pages, struct replay_memory *memory_out,
                         struct kveik_error *error)
{
    struct replay_memory memory = {.pages = pages, .bytes = (size_t)pages * plan->block_bytes};
    int status = memory_take(client, plan->memory_mode, &memory, error);
    if (status != KVEIK_OK) {
        return status;
    }
    struct kveik_memory_options options = KVEIK_MEMORY_OPTIONS_INIT;
    options.mode = plan->memory_mode;
    status = kveik_memory_export(client, memory.base, memory.bytes, &options, &memory.region,
                                 &memory.mode, error);
    if (status == KVEIK_OK) {
        status = layout_register(client, plan, &memory, space, memory.region, error);
        if (status != KVEIK_OK) {
            (void)kveik_memory_drop(client, memory.region, MEMORY_DROP_MS, NULL);
        }
    }
    if (status != KVEIK_OK) {
        memory_give(client, &memory);
        return status;
    }
    *memory_out = memory;
    return KVEIK_OK;
}

void replay_memory_destroy(kveik_client *client, struct replay_memory *memory)
{
    if (memory->base == NULL) {
        return;
    }
    (void)kveik_layout_drop(client, memory->layout, MEMORY_DROP_MS, NULL);
    (void)kveik_memory_drop(client, memory->region, MEMORY_DROP_MS, NULL);
    memory_give(client, memory);
}

static bool forget_some(kveik_client *client, const struct replay_plan *plan, uint32_t layout)
{
    const uint8_t key[KVEIK_KEY_BYTES] = {0};
    const uint32_t page = 0;
    struct kveik_push_run run = {.layout = layout,
                                 .block_count = 1,
                                 .block_tokens = plan->block_tokens,
                                 .keys = key,
                                 .key_count = 1,
                                 .pages = &page,
                                 .page_count = 1};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    int status = kveik_push(client, &push, &completion);
    bool more = status == KVEIK_OK && completion.status_count == 1 &&
                completion.statuses[0] == KVEIK_E_QUOTA;
    kveik_completion_finish(&completion);
    return more;
}

/* A space of one block's quota, and pushes into it until one succeeds: all else is evicted then,
 * a few blocks at each attempt, since the daemon never does much in one step. */
void replay_forget(kveik_client *client, const struct replay_plan *plan)
{
    enum { ATTEMPTS_MAX = 1000000 };
    uint32_t space = 0;
    struct replay_memory memory = {0};
    struct replay_plan small = *plan;
    small.memory_mode = KVEIK_MEMORY_AUTO;
    if (replay_space_register(client, &small, plan->slot_bytes, &space, NULL) != KVEIK_OK ||
        replay_memory_create(client, &small, space, 1, &memory, NULL) != KVEIK_OK) {
        return;
    }
    uint32_t attempts = 0;
    while (attempts < ATTEMPTS_MAX && forget_some(client, &small, memory.layout)) {
        attempts++;
    }
    replay_memory_destroy(client, &memory);
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

static char *plane_page(const struct replay_plan *plan, const struct replay_memory *memory,
                        uint32_t plane, uint32_t page)
{
    KVEIK_ASSERT(page < memory->pages);
    return memory->base + ((uint64_t)plane * memory->pages + page) * plane_page_bytes(plan);
}

static struct rng plane_rng(const uint8_t *key, uint32_t plane)
{
    struct rng rng;
    (void)memcpy(&rng.state, key, sizeof rng.state);
    rng.state ^= (plane + 1) * 0xd6e8feb86659fd93u;
    return rng;
}

void replay_page_fill(const struct replay_plan *plan, const struct replay_memory *memory,
                      uint32_t page, const uint8_t *key)
{
    uint64_t bytes = plane_page_bytes(plan);
    for (uint32_t plane = 0; plane < plane_count(plan); plane++) {
        char *at = plane_page(plan, memory, plane, page);
        struct rng rng = plane_rng(key, plane);
        for (uint64_t done = 0; done < bytes; done += sizeof(uint64_t)) {
            uint64_t word = rng_next(&rng);
            uint64_t left = bytes - done;
            (void)memcpy(at + done, &word, left < sizeof word ? left : sizeof word);
        }
    }
}

void replay_page_poison(const struct replay_plan *plan, const struct replay_memory *memory,
                        uint32_t page)
{
    for (uint32_t plane = 0; plane < plane_count(plan); plane++) {
        (void)memset(plane_page(plan, memory, plane, page), 0xdb, plane_page_bytes(plan));
    }
}

static uint64_t differing(const char *at, const uint64_t *word, uint64_t bytes)
{
    const char *right = (const char *)word;
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < bytes; i++) {
        wrong += at[i] != right[i] ? 1 : 0;
    }
    return wrong;
}

uint64_t replay_page_check(const struct replay_plan *plan, const struct replay_memory *memory,
                           uint32_t page, const uint8_t *key)
{
    uint64_t bytes = plane_page_bytes(plan);
    uint64_t wrong = 0;
    for (uint32_t plane = 0; plane < plane_count(plan); plane++) {
        const char *at = plane_page(plan, memory, plane, page);
        struct rng rng = plane_rng(key, plane);
        for (uint64_t done = 0; done < bytes; done += sizeof(uint64_t)) {
            uint64_t word = rng_next(&rng);
            uint64_t left = bytes - done < sizeof word ? bytes - done : sizeof word;
            if (memcmp(at + done, &word, left) != 0) {
                wrong += differing(at + done, &word, left);
            }
        }
    }
    return wrong;
}
