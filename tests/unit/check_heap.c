#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include <check.h>

#include "base/fault.h"
#include "base/heap.h"
#include "tests/lib/check_main.h"

enum { THREADS = 4, ROUNDS = 2000 };

START_TEST(counts_what_is_outstanding)
    {
        int64_t before = heap_outstanding();
        char *plain = heap_alloc(0);
        char *zeroed = heap_calloc(3, 5);
        char *copy = heap_strdup("wort");
        char *aligned = heap_alloc_aligned(4096, 10);
        ck_assert(plain != NULL && zeroed != NULL && copy != NULL && aligned != NULL);
        ck_assert_int_eq(heap_outstanding(), before + 4);
        for (int i = 0; i < 15; i++) {
            ck_assert_int_eq(zeroed[i], 0);
        }
        ck_assert_str_eq(copy, "wort");
        ck_assert_uint_eq((uintptr_t)aligned % 4096, 0);
        heap_free(plain);
        heap_free(zeroed);
        heap_free(copy);
        heap_free(aligned);
        heap_free(NULL);
        ck_assert_int_eq(heap_outstanding(), before);
    }
END_TEST

START_TEST(realloc_grows_and_keeps)
    {
        int64_t before = heap_outstanding();
        char *memory = heap_realloc(NULL, 8);
        ck_assert_ptr_nonnull(memory);
        (void)memcpy(memory, "ferment", 8);
        ck_assert_int_eq(heap_outstanding(), before + 1);
        memory = heap_realloc(memory, 100000);
        ck_assert_ptr_nonnull(memory);
        ck_assert_str_eq(memory, "ferment");
        ck_assert_int_eq(heap_outstanding(), before + 1);
        fault_set(FAULT_HEAP, 0, 1);
        ck_assert_ptr_null(heap_realloc(memory, 200000));
        fault_clear();
        ck_assert_str_eq(memory, "ferment");
        heap_free(memory);
        ck_assert_int_eq(heap_outstanding(), before);
    }
END_TEST

START_TEST(overflow_gives_null)
    {
        ck_assert_ptr_null(heap_calloc(SIZE_MAX / 2, 3));
    }
END_TEST

START_TEST(every_entry_can_fail)
    {
        int64_t before = heap_outstanding();
        fault_set(FAULT_HEAP, 0, 5);
        ck_assert_ptr_null(heap_alloc(8));
        ck_assert_ptr_null(heap_calloc(1, 8));
        ck_assert_ptr_null(heap_realloc(NULL, 8));
        ck_assert_ptr_null(heap_strdup("x"));
        ck_assert_ptr_null(heap_alloc_aligned(64, 8));
        ck_assert_int_eq(fault_fired(FAULT_HEAP), 5);
        fault_clear();
        ck_assert_int_eq(heap_outstanding(), before);
    }
END_TEST

static void *churn(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < ROUNDS; i++) {
        void *memory = heap_alloc(i);
        ck_assert_ptr_nonnull(memory);
        memory = heap_realloc(memory, 2 * i);
        ck_assert_ptr_nonnull(memory);
        heap_free(memory);
    }
    return NULL;
}

START_TEST(threads_agree_on_the_count)
    {
        int64_t before = heap_outstanding();
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, churn, NULL), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        }
        ck_assert_int_eq(heap_outstanding(), before);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {counts_what_is_outstanding, realloc_grows_and_keeps,
                                  overflow_gives_null, every_entry_can_fail,
                                  threads_agree_on_the_count};
    return check_main("heap", tests, ARRAY_COUNT(tests));
}
