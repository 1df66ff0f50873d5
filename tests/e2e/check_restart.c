/*
 * What one daemon put on disk, the next one hands to engines with other layouts, page sizes and
 * ranks, converted on the way; and only to the space that it was pushed in.
 */
#include <string.h>

#include <check.h>

#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/rank.h"

enum { ROUNDS = 8, PROMPTS = 4, TOKENS = 320 };

static struct daemon kveikd;

static const char *const arguments[] = {
    "--cpu-bytes", "64MiB",        "--disk=yes", "--disk-path",
    kveikd.disk,   "--disk-bytes", "256MiB",     "--disk-segment-bytes",
    "8MiB",        "--log-level",  "warn",       NULL};

static void setup(void)
{
    daemon_init(&kveikd);
    ck_assert(daemon_start(&kveikd, arguments));
}

static void teardown(void)
{
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
    daemon_finish(&kveikd);
}

static void restart(bool kill_it)
{
    if (kill_it) {
        daemon_kill(&kveikd);
    } else {
        ck_assert_int_eq(daemon_stop(&kveikd), 0);
    }
    ck_assert(daemon_start(&kveikd, arguments));
}

static void persist(struct rank *rank, const uint8_t *keys, uint32_t tokens)
{
    struct kveik_persist request = KVEIK_PERSIST_INIT;
    request.space = rank->space;
    request.keys = keys;
    request.key_count = (tokens + 15) / 16;
    request.tail_tokens = tokens % 16;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    ck_assert_msg(kveik_persist(rank->client, &request, &done) == KVEIK_OK, "%s", done.text);
    for (uint32_t i = 0; i < done.status_count; i++) {
        ck_assert_int_eq(done.statuses[i], KVEIK_OK);
    }
    kveik_completion_finish(&done);
}

/* Engines of one process, one after the other: memory that one adopted may be half of the next
 * one's, so all are reached across processes. */
static struct cut some_cut(struct rng *rng)
{
    struct cut cut = random_cut(rng);
    cut.mode = KVEIK_MEMORY_CROSS;
    return cut;
}

/* All ranks push a prompt, which is durable then. */
static void put(struct rng *rng, const struct cut *cut, const uint8_t *keys, uint32_t tokens,
                uint64_t seed)
{
    struct rank ranks[RANKS_MAX];
    uint32_t count = engine_open(ranks, kveikd.socket, cut, "pusher");
    uint32_t pages[TOKENS_MAX];
    for (uint32_t r = 0; r < count; r++) {
        kv_random_pages(rng, pages, pages_of(&ranks[r], tokens), ranks[r].kv.layout.page_count);
        walk(&ranks[r], pages, tokens, seed, false);
        push(&ranks[r], pages, keys, tokens, cut->block_tokens);
    }
    persist(&ranks[0], keys, tokens);
    engine_close(ranks, count);
}

/* All ranks find it and pull it, right to the last element. */
static void get(struct rng *rng, const struct cut *cut, const uint8_t *keys, uint32_t tokens,
                uint64_t seed)
{
    struct rank ranks[RANKS_MAX];
    uint32_t count = engine_open(ranks, kveikd.socket, cut, "puller");
    uint32_t pages[TOKENS_MAX];
    ck_assert_uint_eq(lookup(&ranks[0], keys, tokens), tokens);
    for (uint32_t r = 0; r < count; r++) {
        kv_random_pages(rng, pages, pages_of(&ranks[r], tokens), ranks[r].kv.layout.page_count);
        pull(&ranks[r], pages, keys, tokens, KVEIK_OK);
        walk(&ranks[r], pages, tokens, seed, true);
    }
    engine_close(ranks, count);
}

START_TEST(any_layout_to_any_layout_over_a_restart)
    {
        struct rng rng = {.state = 611};
        uint64_t rounds = check_scaled(ROUNDS);
        for (uint64_t i = 0; i < rounds; i++) {
            static uint8_t keys[PROMPTS][TOKENS_MAX / 16 * KVEIK_KEY_BYTES];
            uint32_t tokens[PROMPTS];
            uint64_t seeds[PROMPTS];
            for (uint32_t p = 0; p < PROMPTS; p++) {
                struct cut from = some_cut(&rng);
                tokens[p] = 1 + (uint32_t)rng_below(&rng, TOKENS);
                seeds[p] = rng_next(&rng);
                random_prompt(&rng, tokens[p], keys[p]);
                put(&rng, &from, keys[p], tokens[p], seeds[p]);
            }
            restart(i % 2 == 0);
            for (uint32_t p = 0; p < PROMPTS; p++) {
                struct cut to = some_cut(&rng);
                get(&rng, &to, keys[p], tokens[p], seeds[p]);
            }
        }
    }
END_TEST

/* How many of the keys a space with one field changed finds. */
static uint32_t found_in(const struct kveik_space *space, const uint8_t *keys, uint32_t tokens)
{
    struct rank rank = {0};
    struct kveik_error error = {0};
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = kveikd.socket;
    ck_assert_int_eq(kveik_connect(&options, &rank.client, &error), KVEIK_OK);
    ck_assert_msg(kveik_space_register(rank.client, space, &rank.space, &error) == KVEIK_OK, "%s",
                  error.text);
    uint32_t hit = lookup(&rank, keys, tokens);
    kveik_close(rank.client);
    return hit;
}

START_TEST(another_revision_dtype_or_rope_is_a_clean_miss)
    {
        enum { SOME = 128 };
        struct rng rng = {.state = 5};
        struct cut cut = some_cut(&rng);
        uint8_t keys[TOKENS_MAX / 16 * KVEIK_KEY_BYTES];
        random_prompt(&rng, SOME, keys);
        put(&rng, &cut, keys, SOME, 1);
        restart(false);
        struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                    .layer_count = LAYERS,
                                    .head_count = HEADS,
                                    .kind_count = KINDS,
                                    .kind_elements = {ELEMENTS, ELEMENTS}};
        struct kveik_space space = KVEIK_SPACE_INIT;
        space.model = "shared";
        space.dtype = KVEIK_F16;
        space.group_count = 1;
        space.groups = &group;
        ck_assert_uint_eq(found_in(&space, keys, SOME), SOME);
        struct kveik_space other = space;
        other.revision = "v2";
        ck_assert_uint_eq(found_in(&other, keys, SOME), 0);
        other = space;
        other.dtype = KVEIK_BF16;
        ck_assert_uint_eq(found_in(&other, keys, SOME), 0);
        other = space;
        uint8_t rope[32] = {1};
        other.rope_id = rope;
        ck_assert_uint_eq(found_in(&other, keys, SOME), 0);
        other = space;
        other.model = "another";
        ck_assert_uint_eq(found_in(&other, keys, SOME), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {any_layout_to_any_layout_over_a_restart,
                                  another_revision_dtype_or_rope_is_a_clean_miss};
    struct check_suite suite = {.name = "restart",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 200,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
