/*
 * What a request must look like: mistakes are told here and never cost the session.
 *
 * Covers: client/lib/blocking.c
 */
#include "tests/lib/client_fixture.h"

static uint8_t keys[64 * KVEIK_KEY_BYTES];
static uint32_t pages[64];

struct wishes {
    struct kveik_push_run push_run;
    struct kveik_push push;
    struct kveik_pull_run pull_run;
    struct kveik_pull pull;
    struct kveik_lookup lookup;
    struct kveik_want want;
};

static void good_wishes(const struct fixture *fix, struct wishes *wishes)
{
    *wishes = (struct wishes){.push = KVEIK_PUSH_INIT,
                              .pull = KVEIK_PULL_INIT,
                              .lookup = KVEIK_LOOKUP_INIT,
                              .want = {.layer_count = 1, .head_count = 1}};
    wishes->push_run = (struct kveik_push_run){.layout = fix->layout,
                                               .block_count = 2,
                                               .block_tokens = 32,
                                               .keys = keys,
                                               .key_count = 4,
                                               .pages = pages,
                                               .page_count = 4};
    wishes->push.runs = &wishes->push_run;
    wishes->push.run_count = 1;
    wishes->pull_run = (struct kveik_pull_run){
        .layout = fix->layout, .keys = keys, .key_count = 4, .pages = pages, .page_count = 4};
    wishes->pull.runs = &wishes->pull_run;
    wishes->pull.run_count = 1;
    wishes->lookup.space = fix->space;
    wishes->lookup.keys = keys;
    wishes->lookup.key_count = 4;
    wishes->lookup.wants = &wishes->want;
    wishes->lookup.want_count = 1;
}

#define REFUSED(kind, expected, word, change)                                                      \
    do {                                                                                           \
        good_wishes(&fix, &w);                                                                     \
        change;                                                                                    \
        ck_assert_int_eq(kveik_submit_##kind(fix.client, &w.kind, NULL, NULL, &fix.error),         \
                         expected);                                                                \
        ck_assert_msg(strstr(fix.error.text, word) != NULL, "%s: %s", #change, fix.error.text);    \
    } while (0)

START_TEST(mistakes_are_named)
    {
        struct fixture fix;
        static struct wishes w;
        fix_open(&fix);
        for (uint32_t i = 0; i < 64; i++) {
            pages[i] = i % FIX_PAGES;
        }
        REFUSED(push, KVEIK_E_INVALID, "KVEIK_PUSH_INIT", w.push.size = 0);
        REFUSED(push, KVEIK_E_INVALID, "run_count", w.push.run_count = 0);
        REFUSED(push, KVEIK_E_INVALID, "run_count", w.push.run_count = 1025);
        REFUSED(push, KVEIK_E_INVALID, "deadline", w.push.deadline_ms = 600001);
        REFUSED(push, KVEIK_E_UNKNOWN_ID, "layout", w.push_run.layout++);
        REFUSED(push, KVEIK_E_INVALID, "block_tokens", w.push_run.block_tokens = 17);
        REFUSED(push, KVEIK_E_INVALID, "block_tokens", w.push_run.block_tokens = 4112);
        REFUSED(push, KVEIK_E_INVALID, "block_count", w.push_run.block_count = 0);
        REFUSED(push, KVEIK_E_INVALID, "tail_tokens", w.push_run.tail_tokens = 33);
        REFUSED(push, KVEIK_E_INVALID, "keys", w.push_run.key_count = 3);
        REFUSED(push, KVEIK_E_INVALID, "keys", w.push_run.keys = NULL);
        REFUSED(push, KVEIK_E_INVALID, "pages", w.push_run.page_count = 3);
        REFUSED(push, KVEIK_E_INVALID, "pages", w.push_run.pages = NULL);
        REFUSED(push, KVEIK_E_INVALID, "pages", w.push_run.page_token = 1);
        REFUSED(push, KVEIK_E_INVALID, "page_token", w.push_run.page_token = 16);
        pages[2] = FIX_PAGES;
        REFUSED(push, KVEIK_E_INVALID, "page 16", (void)0);
        REFUSED(pull, KVEIK_E_INVALID, "page 16", (void)0);
        pages[2] = 2;
        REFUSED(pull, KVEIK_E_INVALID, "keys", w.pull_run.key_count = 0);
        REFUSED(pull, KVEIK_E_INVALID, "key_tokens", w.pull_run.key_tokens = 8);
        REFUSED(pull, KVEIK_E_INVALID, "tail_tokens", w.pull_run.tail_tokens = 17);
        REFUSED(pull, KVEIK_E_INVALID, "pages", w.pull_run.key_tokens = 32);
        REFUSED(lookup, KVEIK_E_UNKNOWN_ID, "space", w.lookup.space++);
        REFUSED(lookup, KVEIK_E_INVALID, "keys", w.lookup.keys = NULL);
        REFUSED(lookup, KVEIK_E_LIMIT, "keys", w.lookup.key_count = 65537);
        REFUSED(lookup, KVEIK_E_INVALID, "key_tokens", w.lookup.key_tokens = 5);
        REFUSED(lookup, KVEIK_E_INVALID, "step_tokens", w.lookup.step_tokens = 65537);
        REFUSED(lookup, KVEIK_E_INVALID, "want_count", w.lookup.want_count = 65);
        REFUSED(lookup, KVEIK_E_INVALID, "heads", w.want.head_count = 0);
        ck_assert_int_eq(kveik_submit_release(fix.client, 0, NULL, NULL, &fix.error),
                         KVEIK_E_INVALID);
        ck_assert_int_eq(
            kveik_submit_quiesce(fix.client, fix.layout, pages, 0, NULL, NULL, &fix.error),
            KVEIK_E_INVALID);
        ck_assert_int_eq(kveik_quiesce(fix.client, 4711, NULL, 0, 100), KVEIK_E_UNKNOWN_ID);
        /* after all that the session is the same */
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_HELLO), 1);
        ck_assert(fix_is_connected(&fix));
        fix_close(&fix);
    }
END_TEST

START_TEST(bytes_come_back_through_push_lookup_and_pull)
    {
        struct fixture fix;
        static struct wishes w;
        fix_open(&fix);
        for (size_t i = 0; i < FIX_BYTES; i++) {
            fix.memory[i] = (uint8_t)(i * 3 + i / 999);
        }
        uint32_t tokens[50];
        for (uint32_t i = 0; i < 50; i++) {
            tokens[i] = i;
        }
        ck_assert_int_eq(kveik_hash_tokens(NULL, tokens, 50, NULL, 0, keys), KVEIK_OK);
        for (uint32_t i = 0; i < 8; i++) {
            pages[i] = i;
        }
        good_wishes(&fix, &w);
        w.push_run.tail_tokens = 18; /* 50 tokens: a block of 32, one of 18 */
        w.push_run.tokens = tokens;
        w.push_run.page_count = 7; /* more than needed */
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        MUST(&fix, kveik_push(fix.client, &w.push, &done));
        ck_assert_uint_eq(done.status_count, 2);
        kveik_completion_finish(&done);
        w.lookup.tail_tokens = 2;
        w.lookup.want_count = 0;
        w.lookup.lease = true;
        w.lookup.origins = true;
        MUST(&fix, kveik_lookup(fix.client, &w.lookup, &done));
        ck_assert_uint_eq(done.hit_keys, 4);
        ck_assert_uint_ne(done.lease, 0);
        ck_assert_uint_eq(done.origin_count, 1);
        ck_assert_str_eq(done.origins[0].instance, "fake");
        w.pull.lease = done.lease;
        w.pull.release_lease = true;
        kveik_completion_finish(&done);
        static const uint32_t to[] = {10, 11, 12, 13};
        w.pull_run.pages = to;
        w.pull_run.tail_tokens = 2;
        MUST(&fix, kveik_pull(fix.client, &w.pull, &done));
        ck_assert_uint_eq(done.status_count, 4);
        kveik_completion_finish(&done);
        for (uint32_t plane = 0; plane < FIX_PLANES; plane++) {
            const uint8_t *from = fix.memory + (size_t)plane * FIX_PLANE;
            ck_assert_mem_eq(from, from + (size_t)10 * FIX_PAGE_TOKENS * FIX_ROW,
                             (size_t)50 * FIX_ROW);
        }
        ck_assert_int_eq(kveik_release(fix.client, 99), KVEIK_OK);
        fix_keys(keys, 4, 77);
        MUST(&fix, kveik_pull(fix.client, &w.pull, &done));
        ck_assert_int_eq(done.statuses[0], KVEIK_MISS);
        kveik_completion_finish(&done);
        fix_close(&fix);
    }
END_TEST

START_TEST(blocking_calls_say_why_too)
    {
        struct fixture fix;
        static struct wishes w;
        fix_open(&fix);
        good_wishes(&fix, &w);
        w.push_run.block_tokens = 17;
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_push(fix.client, &w.push, &done), KVEIK_E_INVALID);
        ck_assert_int_eq(done.status, KVEIK_E_INVALID);
        ck_assert_uint_eq(done.op, 0);
        ck_assert_ptr_nonnull(strstr(done.text, "block_tokens is 17"));
        kveik_completion_finish(&done);
        ck_assert_int_eq(kveik_lookup(NULL, &w.lookup, &done), KVEIK_E_INVALID);
        ck_assert_int_eq(done.status, KVEIK_E_INVALID);
        ck_assert_str_ne(done.text, "");
        ck_assert_int_eq(kveik_release(fix.client, 0), KVEIK_E_INVALID);
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {mistakes_are_named, bytes_come_back_through_push_lookup_and_pull,
                                  blocking_calls_say_why_too};
    return check_main("submit", tests, ARRAY_COUNT(tests));
}
