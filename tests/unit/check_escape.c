#include <jansson.h>
#include <string.h>

#include <check.h>

#include "base/escape.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"

enum { ROUNDS = 2000, FOREIGN_BYTES = 64, ESCAPED_BYTES = 6 * FOREIGN_BYTES + 3 };

struct sample {
    const char *foreign;
    const char *text;
    const char *json;
};

static const struct sample samples[] = {
    {"", "", ""},
    {"plain text, 100%", "plain text, 100%", "plain text, 100%"},
    {"a\nb\r\tc", "a\\nb\\r\\tc", "a\\nb\\r\\tc"},
    {"\\ \"", "\\\\ \"", "\\\\ \\\""},
    {"\x1b[31mred", "\\x1b[31mred", "\\u001b[31mred"},
    {"\x7f", "\\x7f", "\\u007f"},
    {"kve\xc3\xaf"
     "k \xf0\x9f\x8d\xba",
     "kve\xc3\xaf"
     "k \xf0\x9f\x8d\xba",
     "kve\xc3\xaf"
     "k \xf0\x9f\x8d\xba"},
    {"\xc2\x9b", "\\u009b", "\\u009b"}, /* a one-character CSI */
    {"\xe2\x80\xae"
     "cod",
     "\\u202ecod", "\\u202ecod"}, /* turns the text around */
    {"\xff\xfe", "\\xff\\xfe", "\\ufffd\\ufffd"},
    {"\xc3", "\\xc3", "\\ufffd"},                                 /* cut short */
    {"\xc0\xaf", "\\xc0\\xaf", "\\ufffd\\ufffd"},                 /* overlong */
    {"\xed\xa0\x80", "\\xed\\xa0\\x80", "\\ufffd\\ufffd\\ufffd"}, /* a surrogate */
    {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},
};

START_TEST(writes_the_expected)
    {
        for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
            char out[ESCAPED_BYTES];
            bool cut = true;
            size_t bytes = strlen(samples[i].foreign);
            size_t used = escape_text(samples[i].foreign, bytes, out, sizeof out, &cut);
            ck_assert_str_eq(out, samples[i].text);
            ck_assert_uint_eq(used, strlen(out));
            ck_assert_int_eq(cut, 0);
            used = escape_json(samples[i].foreign, bytes, out, sizeof out, NULL);
            ck_assert_str_eq(out, samples[i].json);
            ck_assert_uint_eq(used, strlen(out));
        }
    }
END_TEST

START_TEST(a_nul_inside_is_escaped)
    {
        char out[ESCAPED_BYTES];
        (void)escape_text("a\0b", 3, out, sizeof out, NULL);
        ck_assert_str_eq(out, "a\\x00b");
        (void)escape_json("a\0b", 3, out, sizeof out, NULL);
        ck_assert_str_eq(out, "a\\u0000b");
    }
END_TEST

START_TEST(cuts_between_characters)
    {
        const char *foreign = "a\xc3\xaf\x1b";
        const struct {
            size_t room;
            const char *text;
        } cuts[] = {{1, ""}, {2, "a"}, {3, "a"}, {4, "a\xc3\xaf"}, {7, "a\xc3\xaf"}};
        for (size_t i = 0; i < ARRAY_COUNT(cuts); i++) {
            char out[ESCAPED_BYTES];
            bool cut = false;
            (void)memset(out, '#', sizeof out);
            (void)escape_text(foreign, strlen(foreign), out, cuts[i].room, &cut);
            ck_assert_str_eq(out, cuts[i].text);
            ck_assert_int_eq(cut, 1);
            ck_assert_int_eq(out[cuts[i].room], '#');
        }
        char out[ESCAPED_BYTES];
        bool cut = true;
        (void)escape_text(foreign, strlen(foreign), out, 8, &cut);
        ck_assert_str_eq(out, "a\xc3\xaf\\x1b");
        ck_assert_int_eq(cut, 0);
    }
END_TEST

/* Random bytes: the JSON parses, and the text has no control character and is UTF-8 (the JSON
 * decoder, which insists on it, takes it after a second escape). */
START_TEST(random_bytes_become_valid_json)
    {
        struct rng rng = {.state = 7};
        for (int i = 0; i < ROUNDS; i++) {
            char foreign[FOREIGN_BYTES];
            char out[ESCAPED_BYTES];
            out[0] = '"';
            for (size_t j = 0; j < sizeof foreign; j++) {
                foreign[j] = (char)rng_next(&rng);
            }
            size_t room = 1 + rng_below(&rng, sizeof out - 3);
            size_t used = 1 + escape_json(foreign, sizeof foreign, out + 1, room, NULL);
            (void)memcpy(out + used, "\"", 2);
            json_t *value = json_loads(out, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
            ck_assert_msg(json_is_string(value), "%s", out);
            json_decref(value);
            used = escape_text(foreign, sizeof foreign, out, sizeof out, NULL);
            for (size_t j = 0; j < used; j++) {
                ck_assert((unsigned char)out[j] >= ' ' && out[j] != 0x7f);
            }
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {writes_the_expected, a_nul_inside_is_escaped,
                                  cuts_between_characters, random_bytes_become_valid_json};
    return check_main("escape", tests, ARRAY_COUNT(tests));
}
