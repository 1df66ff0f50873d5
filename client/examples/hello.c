// clang-format off: an example that fits on one page
/* Keeps one prompt's KV in kveikd and gets it back: cc hello.c $(pkg-config --cflags --libs kveik)
 */
#include <kveik/kveik.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 8, PAGE_TOKENS = 16, LAYERS = 2, HEADS = 4, ELEMENTS = 64, TOKENS = 64 };
#define ROW   ((uint64_t)HEADS * ELEMENTS * 2) /* bytes of one token in one plane, bfloat16 */
#define PLANE (ROW * PAGE_TOKENS * PAGES)

static struct kveik_error error;

static void must(int status, const char *what)
{
    if (status < 0) {
        fprintf(stderr, "%s: %s\n", what,
                error.text[0] != '\0' ? error.text : kveik_status_text(status));
        exit(1);
    }
}

int main(void)
{
    kveik_client *client = NULL;
    must(kveik_connect(NULL, &client, &error), "connect"); /* $KVEIK_SOCKET, or the usual place */

    struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                .layer_count = LAYERS,
                                .head_count = HEADS,
                                .kind_count = 2,
                                .kind_elements = {ELEMENTS, ELEMENTS}};
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = "example";
    space.dtype = KVEIK_BF16;
    space.group_count = 1;
    space.groups = &group;
    uint32_t space_id = 0, region = 0, layout_id = 0;
    must(kveik_space_register(client, &space, &space_id, &error), "space");

    void *memory = NULL; /* the engine's KV memory: planes [layer][K, V] of [page][token][head] */
    must(kveik_memory_allocate(client, PLANE * LAYERS * 2, &memory, &error), "allocate");
    must(kveik_memory_export(client, memory, PLANE * LAYERS * 2, NULL, &region, NULL, &error),
         "export");

    struct kveik_plane planes[LAYERS * 2];
    for (uint32_t i = 0; i < LAYERS * 2; i++) {
        planes[i] = (struct kveik_plane){
            region, i * PLANE, ROW * PAGE_TOKENS, ROW, (uint64_t)ELEMENTS * 2, 2};
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = space_id;
    layout.page_tokens = PAGE_TOKENS;
    layout.page_count = PAGES;
    layout.layer_count = LAYERS;
    layout.head_count = HEADS;
    layout.planes = planes;
    must(kveik_layout_register(client, &layout, &layout_id, &error), "layout");

    uint32_t tokens[TOKENS]; /* a prompt of four pages, which were computed into pages 0 to 3 */
    uint8_t keys[TOKENS / KVEIK_GRAIN_TOKENS * KVEIK_KEY_BYTES];
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = 1000 + i;
    }
    for (uint64_t i = 0; i < PLANE * LAYERS * 2; i++) {
        ((uint8_t *)memory)[i] = (uint8_t)(i * 31 % 251);
    }
    must(kveik_hash_tokens(NULL, tokens, TOKENS, NULL, 0, keys), "hash");

    const uint32_t from[] = {0, 1, 2, 3}, to[] = {4, 5, 6, 7};
    struct kveik_push_run push_run = {.layout = layout_id,
                                      .block_count = 4,
                                      .block_tokens = PAGE_TOKENS,
                                      .keys = keys,
                                      .key_count = 4,
                                      .tokens = tokens,
                                      .pages = from,
                                      .page_count = 4};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &push_run;
    push.run_count = 1;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    must(kveik_push(client, &push, &done), "push");
    kveik_completion_finish(&done);

    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT; /* the same prompt comes again */
    lookup.space = space_id;
    lookup.keys = keys;
    lookup.key_count = 4;
    lookup.lease = true;
    must(kveik_lookup(client, &lookup, &done), "lookup");
    printf("%u of %d tokens are held\n", done.hit_tokens, TOKENS);

    struct kveik_pull_run pull_run = {.layout = layout_id,
                                      .keys = keys,
                                      .key_count = done.hit_keys,
                                      .pages = to,
                                      .page_count = 4};
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &pull_run;
    pull.run_count = 1;
    pull.lease = done.lease;
    pull.release_lease = true;
    kveik_completion_finish(&done);
    must(kveik_pull(client, &pull, &done), "pull");
    printf("pulled %llu bytes in %llu us\n", (unsigned long long)done.bytes,
           (unsigned long long)done.latency_us);
    kveik_completion_finish(&done);

    int same = 1;
    for (uint32_t i = 0; i < LAYERS * 2; i++) {
        const uint8_t *plane = (uint8_t *)memory + i * PLANE;
        same = same && memcmp(plane, plane + 4 * ROW * PAGE_TOKENS, 4 * ROW * PAGE_TOKENS) == 0;
    }
    printf("%s\n", same ? "the same bytes came back" : "WRONG BYTES");
    kveik_memory_free(client, memory);
    kveik_close(client);
    return same ? 0 : 1;
}
