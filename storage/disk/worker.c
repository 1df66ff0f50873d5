#include "storage/disk/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"

#define WORKER_MAGIC UINT32_C(0x64776b72)

struct worker {
    uint32_t magic;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    pthread_cond_t finished;
    struct queue tasks;
    struct queue done;
    uint32_t under_way; /* submitted and not reaped */
    bool stopping;
    void (*wake)(void *arg);
    void *wake_arg;
};

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    (void)pthread_mutex_lock(&worker->mutex);
    while (!worker->stopping) {
        struct queue *link = queue_pop_front(&worker->tasks);
        if (link == NULL) {
            (void)pthread_cond_wait(&worker->work, &worker->mutex);
            continue;
        }
        struct task *task = CONTAINER_OF(link, struct task, link);
        (void)pthread_mutex_unlock(&worker->mutex);
        task->run(task);
        (void)pthread_mutex_lock(&worker->mutex);
        queue_push_back(&worker->done, &task->link);
        (void)pthread_cond_signal(&worker->finished);
        if (worker->wake != NULL) {
            (void)pthread_mutex_unlock(&worker->mutex);
            worker->wake(worker->wake_arg);
            (void)pthread_mutex_lock(&worker->mutex);
        }
    }
    (void)pthread_mutex_unlock(&worker->mutex);
    return NULL;
}

static int start(struct worker *worker, const char *name)
{
    sigset_t blocked;
    sigset_t before;
    (void)sigfillset(&blocked);
    if (fault_fires(FAULT_THREAD) || pthread_sigmask(SIG_SETMASK, &blocked, &before) != 0) {
        return -1;
    }
    int failed = pthread_create(&worker->thread, NULL, worker_main, worker);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed == 0) {
        (void)pthread_setname_np(worker->thread, name);
    }
    return failed;
}

static void release(struct worker *worker)
{
    (void)pthread_cond_destroy(&worker->finished);
    (void)pthread_cond_destroy(&worker->work);
    (void)pthread_mutex_destroy(&worker->mutex);
    worker->magic = 0;
    heap_free(worker);
}

struct worker *worker_create(const char *name, void (*wake)(void *arg), void *wake_arg)
{
    struct worker *worker = heap_calloc(1, sizeof *worker);
    if (worker == NULL) {
        return NULL;
    }
    worker->magic = WORKER_MAGIC;
    worker->wake = wake;
    worker->wake_arg = wake_arg;
    queue_init(&worker->tasks);
    queue_init(&worker->done);
    /* plain ones cannot fail on Linux */
    (void)pthread_mutex_init(&worker->mutex, NULL);
    (void)pthread_cond_init(&worker->work, NULL);
    (void)pthread_cond_init(&worker->finished, NULL);
    if (start(worker, name) != 0) {
        release(worker);
        return NULL;
    }
    return worker;
}

void worker_destroy(struct worker *worker)
{
    if (worker == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(worker, WORKER_MAGIC);
    (void)pthread_mutex_lock(&worker->mutex);
    worker->stopping = true;
    (void)pthread_cond_signal(&worker->work);
    (void)pthread_mutex_unlock(&worker->mutex);
    (void)pthread_join(worker->thread, NULL);
    release(worker);
}

void worker_submit(struct worker *worker, struct task *task)
{
    KVEIK_CHECK_OBJ(worker, WORKER_MAGIC);
    KVEIK_ASSERT(task->run != NULL);
    (void)pthread_mutex_lock(&worker->mutex);
    worker->under_way++;
    queue_push_back(&worker->tasks, &task->link);
    (void)pthread_cond_signal(&worker->work);
    (void)pthread_mutex_unlock(&worker->mutex);
}

static struct task *take_done(struct worker *worker)
{
    struct queue *link = queue_pop_front(&worker->done);
    if (link == NULL) {
        return NULL;
    }
    KVEIK_ASSERT(worker->under_way > 0);
    worker->under_way--;
    return CONTAINER_OF(link, struct task, link);
}

struct task *worker_reap(struct worker *worker)
{
    KVEIK_CHECK_OBJ(worker, WORKER_MAGIC);
    (void)pthread_mutex_lock(&worker->mutex);
    struct task *task = take_done(worker);
    (void)pthread_mutex_unlock(&worker->mutex);
    return task;
}

struct task *worker_wait(struct worker *worker)
{
    KVEIK_CHECK_OBJ(worker, WORKER_MAGIC);
    (void)pthread_mutex_lock(&worker->mutex);
    KVEIK_ASSERT(worker->under_way > 0);
    while (queue_empty(&worker->done)) {
        (void)pthread_cond_wait(&worker->finished, &worker->mutex);
    }
    struct task *task = take_done(worker);
    (void)pthread_mutex_unlock(&worker->mutex);
    return task;
}
