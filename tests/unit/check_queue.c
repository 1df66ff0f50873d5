#include <check.h>

#include "base/queue.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"

enum { ITEMS = 16, ROUNDS = 20000 };

struct item {
    int number;
    struct queue link;
};

START_TEST(first_in_first_out)
    {
        struct queue head;
        struct item items[ITEMS];
        queue_init(&head);
        ck_assert(queue_empty(&head));
        ck_assert_ptr_null(queue_pop_front(&head));
        for (int i = 0; i < ITEMS; i++) {
            items[i].number = i;
            queue_push_back(&head, &items[i].link);
        }
        int expected = 0;
        queue_foreach (link, &head) {
            ck_assert_int_eq(CONTAINER_OF(link, struct item, link)->number, expected++);
        }
        ck_assert_int_eq(expected, ITEMS);
        for (int i = 0; i < ITEMS; i++) {
            struct queue *link = queue_pop_front(&head);
            ck_assert_ptr_nonnull(link);
            ck_assert_int_eq(CONTAINER_OF(link, struct item, link)->number, i);
        }
        ck_assert(queue_empty(&head));
    }
END_TEST

START_TEST(removal_inside_a_walk)
    {
        struct queue head;
        struct item items[ITEMS];
        queue_init(&head);
        for (int i = 0; i < ITEMS; i++) {
            items[i].number = i;
            queue_push_back(&head, &items[i].link);
        }
        queue_foreach_safe (link, &head) {
            if (CONTAINER_OF(link, struct item, link)->number % 2 == 0) {
                queue_remove(link);
                queue_remove(link); /* harmless */
            }
        }
        int expected = 1;
        queue_foreach (link, &head) {
            ck_assert_int_eq(CONTAINER_OF(link, struct item, link)->number, expected);
            expected += 2;
        }
        ck_assert_int_eq(expected, ITEMS + 1);
    }
END_TEST

/* Random pushes, pops and removals beside a plain array that says what must be in it. */
START_TEST(agrees_with_an_array)
    {
        struct queue head;
        struct item items[ITEMS];
        int order[ITEMS];
        int count = 0;
        struct rng rng = {.state = 5};
        queue_init(&head);
        for (int i = 0; i < ITEMS; i++) {
            items[i].number = i;
            queue_init(&items[i].link);
        }
        for (int round = 0; round < ROUNDS; round++) {
            int number = (int)rng_below(&rng, ITEMS);
            int at = 0;
            while (at < count && order[at] != number) {
                at++;
            }
            if (at == count) {
                queue_push_back(&head, &items[number].link);
                order[count++] = number;
                continue;
            }
            if (rng_below(&rng, 2) == 0) {
                at = 0;
                ck_assert_ptr_eq(queue_pop_front(&head), &items[order[0]].link);
            } else {
                queue_remove(&items[number].link);
            }
            for (count--; at < count; at++) {
                order[at] = order[at + 1];
            }
            ck_assert_int_eq(queue_empty(&head), count == 0);
        }
        int seen = 0;
        queue_foreach (link, &head) {
            ck_assert_int_eq(CONTAINER_OF(link, struct item, link)->number, order[seen++]);
        }
        ck_assert_int_eq(seen, count);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {first_in_first_out, removal_inside_a_walk, agrees_with_an_array};
    return check_main("queue", tests, ARRAY_COUNT(tests));
}
