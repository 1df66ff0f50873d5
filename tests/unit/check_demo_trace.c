/* The demo's prompts: they share what the trace's prompts shared, and nothing else. */
#include <string.h>

#include "base/heap.h"
#include "client/cli/demo_trace.h"
#include "tests/lib/check_main.h"

static const char lines[] =
    "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": [0, 1, 2]}\n"
    "{\"timestamp\": 1, \"input_length\": 700, \"output_length\": 5, \"hash_ids\": [0, 7]}\n"
    "\n"
    "{\"timestamp\": 2, \"input_length\": 1536, \"output_length\": 5, \"hash_ids\": [0, 1, 9]}\n"
    "{\"timestamp\": 3, \"input_length\": 100, \"output_length\": 5, \"hash_ids\": [0]}\n";

static const struct demo_scale scale = {.block_tokens = 32,
                                        .tokens_max = 80,
                                        .vocabulary = 1000,
                                        .seed = 3};

static void parse(struct demo_trace *trace)
{
    struct error error = {0};
    int status = demo_trace_parse(trace, lines, strlen(lines), 100, &error);
    ck_assert_msg(status == ST_OK, "%s", error.text);
    ck_assert_uint_eq(trace->count, 4);
}

START_TEST(reads_requests)
    {
        struct demo_trace trace = {0};
        parse(&trace);
        ck_assert_uint_eq(trace.requests[2].number, 4); /* the line, with the empty one counted */
        ck_assert_uint_eq(trace.requests[2].input_tokens, 1536);
        ck_assert_uint_eq(trace.requests[2].id_count, 3);
        ck_assert_uint_eq(trace.ids[trace.requests[2].id_first + 2], 9);
        demo_trace_finish(&trace);
        ck_assert_int_eq(demo_trace_parse(&trace, lines, strlen(lines), 2, NULL), ST_OK);
        ck_assert_uint_eq(trace.count, 2);
        demo_trace_finish(&trace);
    }
END_TEST

START_TEST(refuses_nonsense)
    {
        static const char *const wrong[] = {
            "",
            "\n\n",
            "hello\n",
            "[]\n",
            "{\"input_length\": 5}\n",
            "{\"input_length\": 5, \"hash_ids\": []}\n",
            "{\"input_length\": 0, \"hash_ids\": [1]}\n",
            "{\"input_length\": -3, \"hash_ids\": [1]}\n",
            "{\"input_length\": 5, \"hash_ids\": [-1]}\n",
            "{\"input_length\": 5, \"hash_ids\": [1.5]}\n",
            "{\"input_length\": 5, \"hash_ids\": [4294967296]}\n",
            "{\"input_length\": 5, \"hash_ids\": [\"a\"]}\n",
        };
        for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
            struct demo_trace trace = {0};
            struct error error = {0};
            ck_assert_int_eq(demo_trace_parse(&trace, wrong[i], strlen(wrong[i]), 10, &error),
                             ST_INVALID);
            ck_assert_str_ne(error.text, "");
            demo_trace_finish(&trace);
        }
    }
END_TEST

START_TEST(reads_files)
    {
        struct demo_trace trace = {0};
        struct error error = {0};
        ck_assert_int_eq(demo_trace_read(&trace, "/nonexistent/trace", 10, &error), ST_IO);
        ck_assert_int_eq(demo_trace_read(&trace, "/", 10, &error), ST_INVALID);
        demo_trace_finish(&trace);
    }
END_TEST

START_TEST(finds_conversations)
    {
        struct demo_trace trace = {0};
        parse(&trace);
        uint32_t conversations[4];
        ck_assert_int_eq(demo_trace_conversations(&trace, conversations), ST_OK);
        ck_assert_uint_eq(conversations[0], 0);
        ck_assert_uint_eq(conversations[1], DEMO_ALONE);
        ck_assert_uint_eq(conversations[2], 0);
        ck_assert_uint_eq(conversations[3], DEMO_ALONE);
        demo_trace_finish(&trace);
    }
END_TEST

START_TEST(prompts_share_what_the_trace_shared)
    {
        struct demo_trace trace = {0};
        parse(&trace);
        uint32_t first[80];
        uint32_t other[80];
        uint32_t again[80];
        uint32_t first_count = demo_prompt(&trace, &trace.requests[0], &scale, first);
        ck_assert_uint_eq(first_count, 32 + 32 + 4); /* 1100 = 512 + 512 + 76; 76 * 32 / 512 = 4 */
        ck_assert_uint_eq(demo_prompt(&trace, &trace.requests[2], &scale, other), 80); /* cut */
        ck_assert_mem_eq(first, other, 64 * sizeof(uint32_t));
        ck_assert_uint_ne(first[64], other[64]);
        ck_assert_uint_eq(demo_prompt(&trace, &trace.requests[1], &scale, other), 32 + 11);
        ck_assert_mem_eq(first, other, 32 * sizeof(uint32_t));
        ck_assert(memcmp(first + 32, other + 32, 11 * sizeof(uint32_t)) != 0);
        (void)demo_prompt(&trace, &trace.requests[0], &scale, again);
        ck_assert_mem_eq(first, again, first_count * sizeof(uint32_t));
        for (uint32_t i = 0; i < first_count; i++) {
            ck_assert_uint_lt(first[i], scale.vocabulary);
        }
        struct demo_scale seeded = scale;
        seeded.seed = 4;
        (void)demo_prompt(&trace, &trace.requests[0], &seeded, again);
        ck_assert(memcmp(first, again, 32 * sizeof(uint32_t)) != 0);
        ck_assert_uint_eq(demo_prompt(&trace, &trace.requests[3], &scale, again), 100 * 32 / 512);
        demo_trace_finish(&trace);
    }
END_TEST

START_TEST(carries_a_sample)
    {
        struct demo_trace trace = {0};
        struct error error = {0};
        ck_assert_int_eq(demo_trace_embedded(&trace, 1000, &error), ST_OK);
        ck_assert_uint_eq(trace.count, 400);
        ck_assert_uint_eq(trace.requests[0].input_tokens, 6758);
        uint32_t *conversations = heap_calloc(trace.count, sizeof *conversations);
        ck_assert_int_eq(demo_trace_conversations(&trace, conversations), ST_OK);
        uint32_t shared = 0;
        for (uint32_t i = 0; i < trace.count; i++) {
            shared += conversations[i] != DEMO_ALONE ? 1 : 0;
        }
        ck_assert_uint_eq(shared, 85); /* counted independently */
        heap_free(conversations);
        demo_trace_finish(&trace);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {reads_requests,
                                  refuses_nonsense,
                                  reads_files,
                                  finds_conversations,
                                  prompts_share_what_the_trace_shared,
                                  carries_a_sample};
    return check_main("demo_trace", tests, ARRAY_COUNT(tests));
}
