#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/trace.h"
#include "tests/lib/check_main.h"

static struct trace trace;
static struct error error;

static void setup(void)
{
    trace_finish(&trace);
    error = (struct error){0};
}

static int parse(const char *line)
{
    return trace_parse_line(&trace, line, strlen(line), &error);
}

static void refuse(const char *line, const char *why)
{
    uint32_t before = trace.request_count;
    ck_assert_int_eq(parse(line), ST_INVALID);
    ck_assert_msg(strstr(error.text, why) != NULL, "\"%s\" lacks \"%s\"", error.text, why);
    ck_assert_uint_eq(trace.request_count, before);
}

START_TEST(mooncake_line)
    {
        setup();
        ck_assert_int_eq(
            parse("{\"timestamp\": 27482, \"input_length\": 600, \"output_length\": 52, "
                  "\"hash_ids\": [46, 47]}"),
            ST_OK);
        ck_assert_int_eq(trace.format, TRACE_MOONCAKE);
        ck_assert_uint_eq(trace.id_tokens, 512);
        ck_assert_uint_eq(trace.request_count, 1);
        const struct trace_request *request = &trace.requests[0];
        ck_assert_uint_eq(request->at_us, 27482000);
        ck_assert_uint_eq(request->input_tokens, 600);
        ck_assert_uint_eq(request->output_tokens, 52);
        ck_assert_uint_eq(request->id_count, 2);
        ck_assert_uint_eq(trace.ids[request->first_id + 1], 47);
    }
END_TEST

START_TEST(qwen_line)
    {
        setup();
        ck_assert_int_eq(parse("{\"chat_id\": 159, \"parent_chat_id\": -1, \"timestamp\": 61.114, "
                               "\"input_length\": 33, \"output_length\": 4, \"type\": \"text\", "
                               "\"turn\": 1, \"hash_ids\": [1089, 1090, 6326]}"),
                         ST_OK);
        ck_assert_int_eq(trace.format, TRACE_QWEN);
        ck_assert_uint_eq(trace.id_tokens, 16);
        ck_assert_uint_eq(trace.requests[0].at_us, 61114000);
        ck_assert_uint_eq(trace.requests[0].id_count, 3);
    }
END_TEST

START_TEST(last_block_left_out)
    {
        setup();
        /* some traces name full blocks only */
        ck_assert_int_eq(parse("{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 1, "
                               "\"hash_ids\": [1, 2]}"),
                         ST_OK);
        ck_assert_uint_eq(trace_blocks(&trace, &trace.requests[0], 512), 2);
        ck_assert_uint_eq(trace_blocks(&trace, &trace.requests[0], 64), 16);
    }
END_TEST

START_TEST(bad_lines)
    {
        setup();
        refuse("{\"timestamp\": 0", "no JSON");
        refuse("[1]", "a JSON object is wanted");
        refuse("{\"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1]}", "\"timestamp\"");
        refuse("{\"timestamp\": -1, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1]}",
               "\"timestamp\"");
        refuse(
            "{\"timestamp\": 1e300, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1]}",
            "\"timestamp\"");
        refuse("{\"timestamp\": 0, \"output_length\": 1, \"hash_ids\": [1]}",
               "\"input_length\" is missing");
        refuse(
            "{\"timestamp\": 0, \"input_length\": \"5\", \"output_length\": 1, \"hash_ids\": [1]}",
            "\"input_length\" is something else");
        refuse("{\"timestamp\": 0, \"input_length\": -5, \"output_length\": 1, \"hash_ids\": [1]}",
               "-5, must be 0 to");
        refuse("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}", "\"hash_ids\"");
        refuse("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": []}",
               "\"hash_ids\"");
        refuse("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1.5]}",
               "no whole number");
        refuse(
            "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1, 2]}",
            "1 ids of 512 tokens would be right");
        ck_assert_uint_eq(trace.id_count, 0);
    }
END_TEST

static int read_text(const char *text, const struct trace_options *options)
{
    char path[] = "/tmp/check_trace.XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    ck_assert_int_eq(close(fd), 0);
    int status = trace_read(&trace, path, options, &error);
    ck_assert_int_eq(unlink(path), 0);
    return status;
}

#define LINE(ids, tokens)                                                                          \
    "{\"timestamp\": 0, \"input_length\": " #tokens ", \"output_length\": 1, \"hash_ids\": " ids   \
    "}\n"

START_TEST(a_file)
    {
        setup();
        struct trace_options options = {0};
        ck_assert_int_eq(
            read_text(LINE("[1]", 5) "\n" LINE("[1]", 7) LINE("[2, 3]", 513), &options), ST_OK);
        ck_assert_uint_eq(trace.request_count, 3);
        ck_assert_uint_eq(trace.id_count, 4);
        trace_finish(&trace);
        options.requests_max = 1;
        ck_assert_int_eq(read_text(LINE("[1]", 5) "nonsense\n", &options), ST_OK);
        ck_assert_uint_eq(trace.request_count, 1);
    }
END_TEST

START_TEST(a_bad_file)
    {
        setup();
        struct trace_options options = {0};
        ck_assert_int_eq(read_text(LINE("[1]", 5) "\n{]\n", &options), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "/tmp/check_trace."));
        ck_assert_ptr_nonnull(strstr(error.text, ": line 3: no JSON"));
        trace_finish(&trace);
        ck_assert_int_eq(read_text("\n", &options), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "holds no request"));
        trace_finish(&trace);
        ck_assert_int_eq(trace_read(&trace, "/nonexistent/trace", &options, &error), ST_IO);
    }
END_TEST

START_TEST(block_sizes)
    {
        setup();
        ck_assert_int_eq(parse(LINE("[1, 2, 3]", 1030)), ST_OK);
        ck_assert_int_eq(trace_check_block_tokens(&trace, 512, &error), ST_OK);
        ck_assert_int_eq(trace_check_block_tokens(&trace, 16, &error), ST_OK);
        ck_assert_int_eq(trace_check_block_tokens(&trace, 1024, &error), ST_OK);
        ck_assert_int_eq(trace_check_block_tokens(&trace, 0, &error), ST_INVALID);
        ck_assert_int_eq(trace_check_block_tokens(&trace, 24, &error), ST_INVALID);
        ck_assert_int_eq(trace_check_block_tokens(&trace, 48, &error), ST_INVALID);
        ck_assert_int_eq(trace_check_block_tokens(&trace, 8192, &error), ST_INVALID);
        const struct trace_request *request = &trace.requests[0];
        ck_assert_uint_eq(trace_blocks(&trace, request, 512), 3);
        ck_assert_uint_eq(trace_blocks(&trace, request, 16), 65);
        ck_assert_uint_eq(trace_blocks(&trace, request, 1024), 2);
        ck_assert_uint_eq(trace_blocks(&trace, request, 4096), 1);
    }
END_TEST

/* Equal prefixes give equal tokens and names, unequal ones do not, at every block size. */
START_TEST(prefixes)
    {
        setup();
        static const uint32_t sizes[] = {16, 64, 512, 1024};
        static uint32_t tokens[2][3072];
        ck_assert_int_eq(parse(LINE("[1, 2, 3]", 1536)), ST_OK);
        ck_assert_int_eq(parse(LINE("[1, 2, 4]", 1536)), ST_OK);
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            uint32_t size = sizes[s];
            uint32_t blocks = trace_blocks(&trace, &trace.requests[0], size);
            ck_assert_uint_eq(trace_blocks(&trace, &trace.requests[1], size), blocks);
            trace_tokens(&trace, &trace.requests[0], size, tokens[0]);
            trace_tokens(&trace, &trace.requests[1], size, tokens[1]);
            for (uint32_t b = 0; b < blocks; b++) {
                bool same = (b + 1) * size <= 1024;
                ck_assert_int_eq(memcmp(tokens[0] + (size_t)b * size, tokens[1] + (size_t)b * size,
                                        size * sizeof tokens[0][0]) == 0,
                                 same);
                ck_assert_int_eq(trace_block_name(&trace, &trace.requests[0], size, b) ==
                                     trace_block_name(&trace, &trace.requests[1], size, b),
                                 same);
            }
        }
    }
END_TEST

/* A joined block that is only begun is not the full block of a longer prompt. */
START_TEST(begun_blocks_differ)
    {
        setup();
        static uint32_t tokens[2][1024];
        ck_assert_int_eq(parse(LINE("[1]", 512)), ST_OK);
        ck_assert_int_eq(parse(LINE("[1, 2]", 1024)), ST_OK);
        trace_tokens(&trace, &trace.requests[0], 1024, tokens[0]);
        trace_tokens(&trace, &trace.requests[1], 1024, tokens[1]);
        ck_assert_int_eq(memcmp(tokens[0], tokens[1], 512 * sizeof tokens[0][0]), 0);
        ck_assert_int_ne(memcmp(tokens[0], tokens[1], sizeof tokens[0]), 0);
        ck_assert_uint_ne(trace_block_name(&trace, &trace.requests[0], 1024, 0),
                          trace_block_name(&trace, &trace.requests[1], 1024, 0));
    }
END_TEST

START_TEST(counting)
    {
        setup();
        struct trace_counts counts = {0};
        ck_assert_int_eq(parse(LINE("[0, 2, 3]", 1030)), ST_OK);
        ck_assert_int_eq(parse(LINE("[0, 2]", 1024)), ST_OK);
        ck_assert_int_eq(parse("{\"timestamp\": 30, \"input_length\": 5, \"output_length\": 1, "
                               "\"hash_ids\": [9]}"),
                         ST_OK);
        ck_assert_int_eq(trace_count(&trace, 512, &counts), ST_OK);
        ck_assert_uint_eq(counts.references, 6);
        ck_assert_uint_eq(counts.unique, 4);
        ck_assert_uint_eq(counts.input_tokens, 2059);
        ck_assert_uint_eq(counts.request_blocks_max, 3);
        ck_assert_uint_eq(counts.span_us, 30000);
        ck_assert_int_eq(trace_count(&trace, 16, &counts), ST_OK);
        ck_assert_uint_eq(counts.references, 65 + 64 + 1);
        ck_assert_uint_eq(counts.unique, 65 + 1);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        mooncake_line, qwen_line, last_block_left_out, bad_lines, a_file, a_bad_file,
        block_sizes,   prefixes,  begun_blocks_differ, counting};
    return check_main("trace", tests, ARRAY_COUNT(tests));
}
