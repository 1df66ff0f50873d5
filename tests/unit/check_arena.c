#include <string.h>

#include "proto/message.h"
#include "tests/lib/check_main.h"

START_TEST(an_arena_grows_to_what_it_needs)
    {
        struct msg_arena arena = {0};
        ck_assert_int_eq(msg_arena_init(&arena, 1 << 20), ST_OK);
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < 100; i++) {
                uint8_t *memory = msg_arena_take(&arena, 5000);
                ck_assert_ptr_nonnull(memory);
                ck_assert_uint_eq((uintptr_t)memory % 16, 0);
                (void)memset(memory, i, 5000);
            }
            ck_assert(round == 0 ? arena.overflow != NULL : arena.overflow == NULL);
            ck_assert_ptr_null(msg_arena_take(&arena, 1 << 20));
            msg_arena_reset(&arena);
        }
        msg_arena_finish(&arena);
        msg_arena_finish(&arena);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {an_arena_grows_to_what_it_needs};
    return check_main("arena", tests, ARRAY_COUNT(tests));
}
