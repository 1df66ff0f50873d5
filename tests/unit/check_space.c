#include <string.h>

#include <check.h>

#include "base/fault.h"
#include "proto/space.h"
#include "tests/lib/check_main.h"

static const struct space plain_space = {.model = "model",
                                         .dtype = SPACE_BF16,
                                         .group_count = 1,
                                         .groups = {{.rule = GROUP_EVERY,
                                                     .layer_count = 32,
                                                     .head_count = 8,
                                                     .kind_count = 2,
                                                     .kind_elements = {128, 128}}}};

START_TEST(good_spaces_pass)
    {
        struct error error = {0};
        struct space space = plain_space;
        ck_assert_int_eq(space_check(&space, &error), ST_OK);
        space.groups[0].rule = GROUP_WINDOW;
        space.groups[0].window_tokens = 4096;
        ck_assert_int_eq(space_check(&space, &error), ST_OK);
        space.groups[0].opaque = true;
        space.groups[0].kind_elements[0] = 0;
        space.groups[0].kind_elements[1] = 0;
        space.fingerprint_bytes = SPACE_FINGERPRINT_MAX;
        ck_assert_int_eq(space_check(&space, &error), ST_OK);
    }
END_TEST

/* Each line breaks one field; the text names it. */
#define BREAK(change, word)                                                                        \
    do {                                                                                           \
        static struct space space;                                                                 \
        space = plain_space;                                                                       \
        static struct error error;                                                                 \
        change;                                                                                    \
        ck_assert_int_eq(space_check(&space, &error), ST_INVALID);                                 \
        ck_assert_msg(strstr(error.text, word) != NULL, "%s: %s", #change, error.text);            \
    } while (0)

START_TEST(every_field_is_checked)
    {
        BREAK(space.model[0] = '\0', "model");
        BREAK(memset(space.model, 'x', sizeof space.model), "model");
        BREAK(space.model[1] = '\n', "control");
        BREAK(memset(space.revision, 'x', sizeof space.revision), "revision");
        BREAK(space.dtype = 0, "dtype");
        BREAK(space.dtype = 9, "dtype");
        BREAK(space.group_count = 0, "groups");
        BREAK(space.group_count = SPACE_GROUPS_MAX + 1, "groups");
        BREAK(space.groups[0].rule = 0, "rule");
        BREAK(space.groups[0].rule = 4, "rule");
        BREAK(space.groups[0].window_tokens = 1, "window");
        BREAK(space.groups[0].rule = GROUP_WINDOW, "window");
        BREAK(space.groups[0].layer_count = 0, "layer");
        BREAK(space.groups[0].layer_count = LAYOUT_LAYERS_MAX + 1, "layer");
        BREAK(space.groups[0].head_count = 0, "head");
        BREAK(space.groups[0].head_count = LAYOUT_HEADS_MAX + 1, "head");
        BREAK(space.groups[0].kind_count = 0, "kind");
        BREAK(space.groups[0].kind_count = LAYOUT_KINDS_MAX + 1, "kind");
        BREAK(space.groups[0].kind_elements[1] = 0, "elements");
        BREAK(space.groups[0].kind_elements[1] = LAYOUT_ELEMENTS_MAX + 1, "elements");
        BREAK(space.groups[0].kind_elements[2] = 1, "elements");
        BREAK(space.groups[0].opaque = true, "elements");
        BREAK(space.fingerprint_bytes = 1, "fingerprint");
        BREAK(space.fingerprint_bytes = SPACE_FINGERPRINT_MAX + 1, "fingerprint");
        BREAK(space.isolation_bytes = SPACE_FINGERPRINT_MAX + 1, "isolation");
    }
END_TEST

#define DIFFERS(change)                                                                            \
    do {                                                                                           \
        static struct space space;                                                                 \
        space = plain_space;                                                                       \
        static uint8_t before[SPACE_ID_BYTES];                                                     \
        static uint8_t after[SPACE_ID_BYTES];                                                      \
        ck_assert_int_eq(space_id(&space, before), ST_OK);                                         \
        change;                                                                                    \
        ck_assert_int_eq(space_id(&space, after), ST_OK);                                          \
        ck_assert_msg(memcmp(before, after, sizeof before) != 0, "%s", #change);                   \
    } while (0)

START_TEST(the_id_covers_all_but_the_quota)
    {
        DIFFERS(space.model[0] = 'n');
        DIFFERS(space.revision[0] = 'r');
        DIFFERS((space.model[4] = '\0', space.revision[0] = 'l')); /* no shift between the two */
        DIFFERS(space.dtype = SPACE_F16);
        DIFFERS(space.has_rope = true);
        DIFFERS((space.has_rope = true, space.rope_id[31] = 1));
        DIFFERS((space.groups[1] = space.groups[0], space.group_count = 2));
        DIFFERS(space.groups[0].rule = GROUP_STATE);
        DIFFERS(space.groups[0].window_tokens = 7);
        DIFFERS(space.groups[0].layer_count++);
        DIFFERS(space.groups[0].head_count++);
        DIFFERS(space.groups[0].kind_count = 1);
        DIFFERS(space.groups[0].kind_elements[1]++);
        DIFFERS(space.groups[0].opaque = true);
        DIFFERS(space.fingerprint_bytes = 1);
        DIFFERS(space.isolation_bytes = 1);
        struct space space = plain_space;
        uint8_t before[SPACE_ID_BYTES];
        uint8_t after[SPACE_ID_BYTES];
        ck_assert_int_eq(space_id(&space, before), ST_OK);
        space.quota_bytes = 1;
        space.rope_id[0] = 1; /* not used: has_rope is false */
        ck_assert_int_eq(space_id(&space, after), ST_OK);
        ck_assert_mem_eq(before, after, sizeof before);
    }
END_TEST

START_TEST(dtypes_have_their_sizes)
    {
        static const uint32_t bytes[] = {0, 4, 2, 2, 1, 1, 1, 1, 8, 0};
        for (uint32_t dtype = 0; dtype < 10; dtype++) {
            ck_assert_uint_eq(space_dtype_bytes(dtype), bytes[dtype]);
        }
    }
END_TEST

START_TEST(a_shortage_is_told)
    {
        struct space space = plain_space;
        uint8_t id[SPACE_ID_BYTES];
        fault_set(FAULT_HEAP, 0, 1);
        ck_assert_int_eq(space_id(&space, id), ST_NO_MEMORY);
        fault_clear();
        ck_assert_int_eq(space_id(&space, id), ST_OK);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {good_spaces_pass, every_field_is_checked,
                                  the_id_covers_all_but_the_quota, dtypes_have_their_sizes,
                                  a_shortage_is_told};
    return check_main("space", tests, ARRAY_COUNT(tests));
}
