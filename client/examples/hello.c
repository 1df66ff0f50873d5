// clang-format off
/* Keeps one prompt's KV in kveikd and gets it back, on one page (hence its dense style):
 * cc hello.c $(pkg-config --cflags --libs kveik) */
#include <stdio.h>
#include <string.h>

#include <kveik/kveik.h>

enum { PAGES = 8, TOKENS = 64, ROW = 4 * 64 * 2, PLANE = PAGES * 16 * ROW }; /* 4 heads of 64 */

static struct kveik_error error; /* of the first call that fails; the rest is skipped */
static kveik_client *client;
static uint32_t space_id, region, layout_id;

static int describe(char **memory) /* what the KV means, where it is, how its pages lie there */
{
    struct kveik_group group = {.rule = KVEIK_RULE_EVERY, .layer_count = 1, .head_count = 4,
                                .kind_count = 2, .kind_elements = {64, 64}};
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = "example", space.dtype = KVEIK_BF16, space.group_count = 1, space.groups = &group;
    struct kveik_plane planes[2] = {{0, 0, 16 * ROW, ROW, 64 * 2, 2},
                                    {0, PLANE, 16 * ROW, ROW, 64 * 2, 2}};
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.page_tokens = 16, layout.page_count = PAGES, layout.layer_count = 1;
    layout.head_count = 4, layout.planes = planes;
    int status = kveik_connect(NULL, &client, &error); /* $KVEIK_SOCKET, or the usual place */
    if (status == KVEIK_OK)
        status = kveik_space_register(client, &space, &space_id, &error);
    if (status == KVEIK_OK)
        status = kveik_memory_allocate(client, 2 * PLANE, (void **)memory, &error);
    if (status == KVEIK_OK)
        status = kveik_memory_export(client, *memory, 2 * PLANE, NULL, &region, NULL, &error);
    layout.space = space_id, planes[0].region = planes[1].region = region;
    return status == KVEIK_OK ? kveik_layout_register(client, &layout, &layout_id, &error) : status;
}

int main(void)
{
    char *kv = NULL; /* the engine's KV: K, then V, each of 8 pages of 16 tokens */
    uint32_t tokens[TOKENS] = {15496, 995}; /* a prompt, computed into pages 0 to 3 ... */
    const uint32_t from[] = {0, 1, 2, 3}, to[] = {4, 5, 6, 7}; /* ... and wanted in 4 to 7 */
    uint8_t keys[TOKENS / KVEIK_GRAIN_TOKENS * KVEIK_KEY_BYTES];
    struct kveik_completion pushed = KVEIK_COMPLETION_INIT, found = KVEIK_COMPLETION_INIT,
                            pulled = KVEIK_COMPLETION_INIT;
    if (describe(&kv) != KVEIK_OK)
        return fprintf(stderr, "connect and describe: %s\n", error.text), 1;
    memset(kv, 7, 4 * 16 * ROW), memset(kv + PLANE, 9, 4 * 16 * ROW);
    kveik_hash_tokens(NULL, tokens, TOKENS, NULL, 0, keys);
    struct kveik_push_run push_run = {.layout = layout_id, .block_count = 4, .block_tokens = 16,
                                      .keys = keys, .key_count = 4, .pages = from, .page_count = 4};
    struct kveik_push push = {.size = sizeof push, .runs = &push_run, .run_count = 1};
    struct kveik_lookup lookup = {.size = sizeof lookup, .space = space_id, .keys = keys,
                                  .key_count = 4, .lease = true};
    struct kveik_pull_run pull_run = {.layout = layout_id, .keys = keys, .key_count = 4,
                                      .pages = to, .page_count = 4};
    struct kveik_pull pull = {.size = sizeof pull, .runs = &pull_run, .run_count = 1,
                              .release_lease = true};
    kveik_push(client, &push, &pushed);
    kveik_lookup(client, &lookup, &found);
    pull.lease = found.lease;
    kveik_pull(client, &pull, &pulled);
    int same = pulled.status == KVEIK_OK && !memcmp(kv, kv + PLANE / 2, PLANE / 2) &&
               !memcmp(kv + PLANE, kv + PLANE * 3 / 2, PLANE / 2);
    printf("%u tokens found; %s\n", found.hit_tokens,
           same ? "pulled, and the same bytes" : pulled.text);
    kveik_completion_finish(&pushed), kveik_completion_finish(&pulled);
    kveik_memory_free(client, kv), kveik_close(client);
    return same ? 0 : 1;
}
