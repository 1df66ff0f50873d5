#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/fault.h"
#include "base/heap.h"
#include "storage/disk/worker.h"
#include "tests/lib/check_main.h"

enum { TASKS = 500 };

static atomic_uint turn;
static sem_t woken;

struct counted {
    struct task task;
    uint32_t turn;
};

static void count(struct task *task)
{
    CONTAINER_OF(task, struct counted, task)->turn = atomic_fetch_add(&turn, 1);
}

static void on_wake(void *arg)
{
    (void)sem_post(arg);
}

START_TEST(tasks_run_in_order_and_come_back)
    {
        static struct counted tasks[TASKS];
        ck_assert_int_eq(sem_init(&woken, 0, 0), 0);
        struct worker *worker = worker_create("test", on_wake, &woken);
        ck_assert_ptr_nonnull(worker);
        ck_assert_ptr_null(worker_reap(worker));
        for (uint32_t i = 0; i < TASKS; i++) {
            tasks[i].task.run = count;
            worker_submit(worker, &tasks[i].task);
        }
        for (uint32_t i = 0; i < TASKS;) {
            struct task *task = worker_reap(worker);
            if (task == NULL) {
                ck_assert_int_eq(sem_wait(&woken), 0);
                continue;
            }
            ck_assert_ptr_eq(task, &tasks[i].task);
            ck_assert_uint_eq(tasks[i].turn, i);
            i++;
        }
        worker_destroy(worker);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

START_TEST(it_can_be_waited_for)
    {
        struct counted one = {.task.run = count};
        struct worker *worker = worker_create("test", NULL, NULL);
        ck_assert_ptr_nonnull(worker);
        for (int i = 0; i < 100; i++) {
            worker_submit(worker, &one.task);
            ck_assert_ptr_eq(worker_wait(worker), &one.task);
        }
        ck_assert_uint_eq(atomic_load(&turn), 100);
        worker_destroy(worker);
        worker_destroy(NULL);
    }
END_TEST

START_TEST(no_memory_no_thread)
    {
        fault_set(FAULT_HEAP, 0, 1);
        ck_assert_ptr_null(worker_create("test", NULL, NULL));
        fault_set(FAULT_THREAD, 0, 1);
        ck_assert_ptr_null(worker_create("test", NULL, NULL));
        fault_clear();
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {tasks_run_in_order_and_come_back, it_can_be_waited_for,
                                  no_memory_no_thread};
    return check_main("worker", tests, ARRAY_COUNT(tests));
}
