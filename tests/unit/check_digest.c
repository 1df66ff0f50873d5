#include <stdio.h>
#include <string.h>

#include <check.h>

#include "base/digest.h"
#include "base/fault.h"
#include "base/heap.h"
#include "tests/lib/check_main.h"

struct vector {
    const char *text;
    const char *digest;
};

/* FIPS 180-4 examples and the empty message. */
static const struct vector vectors[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnop"
     "qrsmnopqrstnopqrstu",
     "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
};

static void in_hex(const uint8_t digest[DIGEST_BYTES], char out[2 * DIGEST_BYTES + 1])
{
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        (void)snprintf(out + 2 * i, 3, "%02x", (unsigned)digest[i]);
    }
}

START_TEST(known_answers)
    {
        struct digest *digest = digest_create();
        ck_assert_ptr_nonnull(digest);
        for (size_t i = 0; i < ARRAY_COUNT(vectors); i++) {
            uint8_t out[DIGEST_BYTES];
            char hex[2 * DIGEST_BYTES + 1];
            digest_begin(digest);
            digest_add(digest, vectors[i].text, strlen(vectors[i].text));
            digest_end(digest, out);
            in_hex(out, hex);
            ck_assert_str_eq(hex, vectors[i].digest);
        }
        digest_destroy(digest);
    }
END_TEST

START_TEST(a_million_letters_in_uneven_pieces)
    {
        enum { LETTERS = 1000000, PIECE = 997 };
        char piece[PIECE];
        uint8_t out[DIGEST_BYTES];
        char hex[2 * DIGEST_BYTES + 1];
        struct digest *digest = digest_create();
        ck_assert_ptr_nonnull(digest);
        (void)memset(piece, 'a', sizeof piece);
        digest_begin(digest);
        for (size_t left = LETTERS; left > 0;) {
            size_t bytes = left < sizeof piece ? left : sizeof piece;
            digest_add(digest, piece, bytes);
            left -= bytes;
        }
        digest_end(digest, out);
        in_hex(out, hex);
        ck_assert_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
        digest_destroy(digest);
    }
END_TEST

START_TEST(begin_forgets_what_was_added)
    {
        struct digest *digest = digest_create();
        ck_assert_ptr_nonnull(digest);
        uint8_t out[DIGEST_BYTES];
        char hex[2 * DIGEST_BYTES + 1];
        digest_begin(digest);
        digest_add(digest, "leftover", 8);
        digest_begin(digest);
        digest_add(digest, "abc", 3);
        digest_end(digest, out);
        in_hex(out, hex);
        ck_assert_str_eq(hex, vectors[1].digest);
        digest_destroy(digest);
    }
END_TEST

START_TEST(shortage_gives_null)
    {
        fault_set(FAULT_HEAP, 0, 1);
        ck_assert_ptr_null(digest_create());
        fault_clear();
        digest_destroy(NULL);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {known_answers, a_million_letters_in_uneven_pieces,
                                  begin_forgets_what_was_added, shortage_gives_null};
    return check_main("digest", tests, ARRAY_COUNT(tests));
}
