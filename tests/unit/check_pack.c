#include "daemon/server/pack.h"
#include "tests/lib/check_main.h"

START_TEST(fields_come_back)
    {
        uint8_t room[64];
        struct packer to = {.out = room, .room = sizeof room};
        pack_number(&to, 0xab, 1);
        pack_number(&to, 0x1234, 2);
        pack_number(&to, UINT64_MAX - 1, 8);
        pack_bytes(&to, "key", 3);
        pack_bytes(&to, NULL, 0);
        ck_assert_uint_eq(to.used, 14);
        ck_assert_uint_eq(room[1], 0x34); /* the low byte first */
        struct unpacker from = {.bytes = room, .count = to.used, .good = true};
        ck_assert_uint_eq(unpack_u32(&from, 1), 0xab);
        ck_assert_uint_eq(unpack_u32(&from, 2), 0x1234);
        ck_assert_uint_eq(unpack_number(&from, 8), UINT64_MAX - 1);
        ck_assert(!unpack_end(&from));
        ck_assert_mem_eq(unpack_bytes(&from, 3), "key", 3);
        ck_assert(unpack_end(&from));
    }
END_TEST

START_TEST(what_is_not_there_is_not_read)
    {
        const uint8_t bytes[] = {1, 2, 3};
        struct unpacker from = {.bytes = bytes, .count = sizeof bytes, .good = true};
        ck_assert_uint_eq(unpack_u32(&from, 4), 0);
        ck_assert(!from.good);
        ck_assert_uint_eq(unpack_u32(&from, 1), 0); /* and nothing after it */
        ck_assert_ptr_null(unpack_bytes(&from, 1));
        ck_assert(!unpack_end(&from));
        struct unpacker large = {.bytes = bytes, .count = sizeof bytes, .good = true};
        ck_assert_ptr_null(unpack_bytes(&large, UINT32_MAX));
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {fields_come_back, what_is_not_there_is_not_read};
    return check_main("pack", tests, ARRAY_COUNT(tests));
}
