/* Covers: client/cli/replay_memory.c */
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "client/cli/replay.h"
#include "tests/lib/check_main.h"

static const struct trace trace_of_512 = {.id_tokens = 512, .request_count = 1};
static const struct trace_counts counts = {.request_blocks_max = 247};

static struct replay_settings usual(void)
{
    return (struct replay_settings){.engines = 1,
                                    .in_flight = 1,
                                    .block_bytes = 65536,
                                    .layers = 1,
                                    .kinds = 2,
                                    .heads = 1,
                                    .deadline_ms = 10000};
}

static struct replay_plan make(const struct replay_settings *settings)
{
    struct replay_plan plan;
    struct error error = {0};
    int status = replay_plan_make(settings, &trace_of_512, &counts, &plan, &error);
    ck_assert_msg(status == ST_OK, "%s", error.text);
    return plan;
}

static void refuse(const struct replay_settings *settings, const char *why)
{
    struct replay_plan plan;
    struct error error = {0};
    ck_assert_int_ne(replay_plan_make(settings, &trace_of_512, &counts, &plan, &error), ST_OK);
    ck_assert_msg(strstr(error.text, why) != NULL, "\"%s\" lacks \"%s\"", error.text, why);
}

START_TEST(geometry)
    {
        struct replay_settings settings = usual();
        struct replay_plan plan = make(&settings);
        ck_assert_uint_eq(plan.block_tokens, 512);
        ck_assert_uint_eq(plan.elements, 64);
        ck_assert_uint_eq(plan.slot_bytes, 65536);
        ck_assert_uint_eq(plan.chunk_blocks, 247);
        ck_assert_uint_eq(plan.quota_bytes, 0);
        settings.layers = 4;
        settings.heads = 8;
        settings.block_tokens = 16;
        ck_assert_uint_eq(make(&settings).elements, 64);
        settings.block_bytes = 1000;
        refuse(&settings, "must be a multiple of 1024");
        settings = usual();
        settings.block_tokens = 16;
        settings.block_bytes = (uint64_t)4 << 20;
        refuse(&settings, "more --layers");
    }
END_TEST

START_TEST(slots_as_the_daemon_rounds_them)
    {
        struct replay_settings settings = usual();
        settings.block_bytes = 1024;
        ck_assert_uint_eq(make(&settings).slot_bytes, 1024);
        settings.block_tokens = 16;
        settings.block_bytes = 16 * 2 * 5; /* planes of 80 bytes take 128 */
        ck_assert_uint_eq(make(&settings).slot_bytes, 512);
        settings.block_bytes = 16 * 2 * 600; /* above 16 KiB, whole pages */
        ck_assert_uint_eq(make(&settings).slot_bytes, 20480);
    }
END_TEST

START_TEST(quotas)
    {
        struct replay_settings settings = usual();
        settings.cache_blocks = 100;
        struct replay_plan plan = make(&settings);
        ck_assert_uint_eq(plan.quota_bytes, 100 * 65536);
        ck_assert_uint_eq(plan.chunk_blocks, 100);
        settings.engines = 4;
        settings.in_flight = 5;
        ck_assert_uint_eq(make(&settings).chunk_blocks, 5);
        settings.cache_blocks = 3;
        ck_assert_uint_eq(make(&settings).chunk_blocks, 1);
        settings.cache_bytes = 1 << 20;
        refuse(&settings, "give one of them");
        settings.cache_blocks = 0;
        ck_assert_uint_eq(make(&settings).quota_bytes, 1 << 20);
        settings.cache_bytes = 65535;
        refuse(&settings, "takes 65536 bytes already");
        settings.cache_bytes = 0;
        settings.cache_blocks = UINT64_MAX;
        refuse(&settings, "beyond all memory");
    }
END_TEST

START_TEST(plain_lru)
    {
        struct replay_settings settings = usual();
        settings.plain_lru = true;
        ck_assert_uint_eq(make(&settings).chunk_blocks, 1);
        settings.in_flight = 2;
        refuse(&settings, "one engine");
    }
END_TEST

START_TEST(shared_memory)
    {
        struct trace_request requests[2] = {{.id_count = 2, .input_tokens = 600},
                                            {.first_id = 2, .id_count = 1, .input_tokens = 5}};
        uint64_t ids[3] = {10, 11, 12};
        struct trace trace = {
            .id_tokens = 512, .requests = requests, .request_count = 2, .ids = ids, .id_count = 3};
        struct replay_settings settings = usual();
        settings.engines = 3;
        struct replay_plan plan = make(&settings);
        struct replay_shared *shared = NULL;
        struct replay_shared *other = NULL;
        struct error error = {0};
        int fd = -1;
        ck_assert_int_eq(replay_shared_create(&plan, &trace, &shared, &fd, &error), ST_OK);
        ck_assert_int_eq(replay_shared_open(fd, &other), ST_OK);
        struct trace seen;
        replay_shared_trace(other, &seen);
        ck_assert_uint_eq(seen.request_count, 2);
        ck_assert_uint_eq(seen.requests[1].input_tokens, 5);
        ck_assert_uint_eq(seen.ids[seen.requests[1].first_id], 12);
        ck_assert_mem_eq(&other->plan, &plan, sizeof plan);
        other->numbers[2].hits = 7;
        ck_assert_uint_eq(shared->numbers[2].hits, 7);
        replay_shared_close(other);
        replay_shared_close(shared);
        ck_assert_int_eq(ftruncate(fd, sizeof(struct replay_shared)), 0);
        ck_assert_int_eq(replay_shared_open(fd, &other), ST_INVALID);
        ck_assert_int_eq(close(fd), 0);
    }
END_TEST

/* Bytes depend on the key, on the plane, and on nothing else; each wrong one is counted. */
START_TEST(bytes_of_a_key)
    {
        enum { PAGES = 3, PAGE_BYTES = 16 * 2 * 5 };
        struct replay_settings settings = usual();
        settings.block_tokens = 16;
        settings.block_bytes = PAGE_BYTES;
        settings.heads = 1;
        struct replay_plan plan = make(&settings);
        static char base[PAGES * PAGE_BYTES];
        struct replay_memory memory = {.base = base, .pages = PAGES, .bytes = sizeof base};
        uint8_t key[KVEIK_KEY_BYTES] = {1};
        uint8_t other[KVEIK_KEY_BYTES] = {2};
        replay_page_fill(&plan, &memory, 1, key);
        ck_assert_uint_eq(replay_page_check(&plan, &memory, 1, key), 0);
        ck_assert_uint_gt(replay_page_check(&plan, &memory, 1, other), PAGE_BYTES / 2);
        ck_assert_uint_gt(replay_page_check(&plan, &memory, 0, key), PAGE_BYTES / 2);
        /* planes lie one after the other, each with all pages */
        base[1 * 80 + 79] ^= 1;
        base[PAGES * 80 + 1 * 80] ^= 1;
        ck_assert_uint_eq(replay_page_check(&plan, &memory, 1, key), 2);
        replay_page_poison(&plan, &memory, 1);
        ck_assert_uint_gt(replay_page_check(&plan, &memory, 1, key), PAGE_BYTES / 2);
        ck_assert_int_eq(memcmp(base, (char[80]){0}, 80), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {geometry,      slots_as_the_daemon_rounds_them,
                                  quotas,        plain_lru,
                                  shared_memory, bytes_of_a_key};
    return check_main("replay_plan", tests, ARRAY_COUNT(tests));
}
