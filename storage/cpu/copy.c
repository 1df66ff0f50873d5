/*
 * Happy path: copy_submit() puts a job behind the others -> an idle worker takes the next chunk of
 * the job at the front and moves that job to the back, so that a small job waits for one chunk of
 * each other job and not for all of a large one -> the worker that leaves a job last, with nothing
 * of it left to begin, puts it on the done list and wakes the owner if the list was empty ->
 * copy_reap().
 *
 * Failures: the first one (cancel, deadline, memory that vanished, a dead peer) is stored in the
 * job; from then on no chunk of it is begun, and it ends when the last worker has left it.
 *
 * One mutex guards the lists and what is the engine's in a job. It is taken twice a chunk, for some
 * tens of nanoseconds against some tens of microseconds of copying.
 */
#include "storage/cpu/copy.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/cpu/cross.h"
#include "storage/cpu/guard.h"
#include "storage/cpu/kernels.h"
#include "storage/cpu/limits.h"
#include "storage/cpu/scatter.h"

enum {
    ENGINE_MAGIC = 0x636f7079,
    CHUNK_PLANES_MAX = 512,
    CALIBRATION_BYTES = 96 * 1024 * 1024,
    CALIBRATION_MS = 150,
};

struct worker {
    struct copy_engine *engine;
    struct cross *cross; /* owned */
    pthread_t thread;
};

struct copy_engine {
    uint32_t magic;
    struct copy_options options;
    struct kernel_choice choice;
    pthread_mutex_t mutex;
    pthread_cond_t work; /* a job was queued, or the engine stops */
    struct queue jobs;   /* with chunks that nobody has begun */
    struct queue done;
    uint32_t active; /* jobs submitted and not done */
    bool stopping;
    atomic_uint_fast32_t in_flight; /* submitted and not reaped */
    uint32_t worker_count;
    struct worker workers[]; /* worker_count are running */
};

/* Some planes of a job, one after the other. */
struct chunk {
    struct copy_job *job;
    uint32_t item;
    uint32_t plane;
    uint32_t count;
};

/* ---- copying ----------------------------------------------------------------------------------
 */

/* Steps to the next plane; false behind the last one. */
static bool chunk_step(struct chunk *chunk)
{
    if (++chunk->plane < scatter_plane_count(&chunk->job->items[chunk->item])) {
        return true;
    }
    chunk->plane = 0;
    return ++chunk->item < chunk->job->item_count;
}

struct mapped_work {
    struct chunk chunk;
    const struct kernel_choice *choice;
};

/* Runs under guard_run(): may be cut short anywhere. */
static void copy_mapped_work(void *arg)
{
    struct mapped_work *work = arg;
    const struct copy_job *job = work->chunk.job;
    enum box_order order = job->push ? BOX_ORDER_ENGINE : BOX_ORDER_PART;
    struct box_pipe pipe;
    box_pipe_init(&pipe, job->push, work->choice);
    for (uint32_t i = 0; i < work->chunk.count; i++) {
        struct scatter scatter;
        struct box box;
        scatter_init(&scatter, job->memory, &job->items[work->chunk.item], work->chunk.plane,
                     order);
        while (scatter_next(&scatter, &box)) {
            box_pipe_add(&pipe, &box);
        }
        (void)chunk_step(&work->chunk);
    }
    box_pipe_end(&pipe);
}

static int copy_mapped(const struct chunk *chunk, const struct kernel_choice *choice)
{
    struct mapped_work work = {.chunk = *chunk, .choice = choice};
    if (fault_fires(FAULT_COPY)) {
        return ST_MEMORY;
    }
    return guard_run(copy_mapped_work, &work) ? ST_OK : ST_MEMORY;
}

static int copy_cross(struct chunk chunk, struct cross *cross)
{
    const struct copy_job *job = chunk.job;
    cross_begin(cross, job->memory, job->push);
    for (uint32_t i = 0; i < chunk.count; i++) {
        struct scatter scatter;
        struct box box;
        scatter_init(&scatter, job->memory, &job->items[chunk.item], chunk.plane, BOX_ORDER_ENGINE);
        while (scatter_next(&scatter, &box)) {
            int status = cross_box(cross, &box);
            if (status != ST_OK) {
                return status;
            }
        }
        (void)chunk_step(&chunk);
    }
    return cross_end(cross);
}

static uint64_t chunk_bytes(struct chunk chunk)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < chunk.count; i++) {
        bytes += scatter_plane_bytes(&chunk.job->items[chunk.item], chunk.plane);
        (void)chunk_step(&chunk);
    }
    return bytes;
}

static void job_fail(struct copy_job *job, int status)
{
    int none = ST_OK;
    (void)atomic_compare_exchange_strong(&job->failure, &none, status);
}

/* `cross` may be NULL unless the job is a cross-memory one. */
static void chunk_run(const struct kernel_choice *choice, struct cross *cross,
                      const struct chunk *chunk)
{
    struct copy_job *job = chunk->job;
    bool remote = job->memory->pid > 0;
    KVEIK_ASSERT(!remote || cross != NULL);
    int status = remote ? copy_cross(*chunk, cross) : copy_mapped(chunk, choice);
    kernel_fence();
    if (status != ST_OK) {
        job_fail(job, status);
        return;
    }
    (void)atomic_fetch_add(&job->copied_bytes, chunk_bytes(*chunk));
}

/* ---- the life of a job ------------------------------------------------------------------------
 */

static uint64_t job_reset(struct copy_job *job)
{
    KVEIK_ASSERT(job->memory != NULL);
    KVEIK_ASSERT(job->items != NULL || job->item_count == 0);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < job->item_count; i++) {
        bytes += scatter_item_bytes(&job->items[i]);
    }
    queue_init(&job->link);
    job->item_next = 0;
    job->plane_next = 0;
    job->workers_inside = 0;
    job->status = ST_PENDING;
    job->bytes = 0;
    atomic_store(&job->cancelled, false);
    atomic_store(&job->failure, ST_OK);
    atomic_store(&job->copied_bytes, 0);
    return bytes;
}

/* Looks whether the next chunk may still be begun; if not, the reason becomes the job's failure. */
static bool job_may_go_on(struct copy_job *job)
{
    if (atomic_load(&job->cancelled)) {
        job_fail(job, ST_CANCELLED);
    } else if (job->deadline_ms != 0 && clock_ms() > job->deadline_ms) {
        job_fail(job, ST_DEADLINE);
    }
    return atomic_load(&job->failure) == ST_OK;
}

/* Cuts the next chunk off the job. False when none is left to begin. */
static bool job_take(struct copy_job *job, struct chunk *chunk_out)
{
    while (job->item_next < job->item_count &&
           scatter_plane_count(&job->items[job->item_next]) == 0) {
        job->item_next++;
    }
    if (job->item_next == job->item_count || !job_may_go_on(job)) {
        return false;
    }
    struct chunk at = {.job = job, .item = job->item_next, .plane = job->plane_next};
    *chunk_out = at;
    uint64_t bytes = 0;
    bool more = true;
    while (more && bytes < COPY_CHUNK_BYTES && chunk_out->count < CHUNK_PLANES_MAX &&
           scatter_plane_count(&job->items[at.item]) > 0) {
        bytes += scatter_plane_bytes(&job->items[at.item], at.plane);
        chunk_out->count++;
        more = chunk_step(&at);
    }
    job->item_next = at.item;
    job->plane_next = at.plane;
    return true;
}

static bool job_exhausted(const struct copy_job *job)
{
    return job->item_next == job->item_count || atomic_load(&job->failure) != ST_OK;
}

static void job_conclude(struct copy_job *job)
{
    KVEIK_ASSERT(job->workers_inside == 0);
    job->status = atomic_load(&job->failure);
    job->bytes = atomic_load(&job->copied_bytes);
}

/* Runs all of a job on this thread. */
static void job_run(struct copy_engine *engine, struct cross *cross, struct copy_job *job)
{
    struct chunk chunk;
    while (job_take(job, &chunk)) {
        chunk_run(&engine->choice, cross, &chunk);
    }
    job_conclude(job);
}

/* ---- workers ----------------------------------------------------------------------------------
 */

/* With the mutex held. True when the owner must be woken. */
static bool finish_if_last(struct copy_engine *engine, struct copy_job *job)
{
    if (!job_exhausted(job)) {
        return false;
    }
    queue_remove(&job->link);
    if (job->workers_inside > 0) {
        return false;
    }
    job_conclude(job);
    bool was_empty = queue_empty(&engine->done);
    queue_push_back(&engine->done, &job->link);
    KVEIK_ASSERT(engine->active > 0);
    engine->active--;
    return was_empty;
}

/* One turn with the job at the front; called and left with the mutex held. */
static void worker_turn(struct worker *worker)
{
    struct copy_engine *engine = worker->engine;
    struct copy_job *job = CONTAINER_OF(engine->jobs.next, struct copy_job, link);
    struct chunk chunk;
    bool took = job_take(job, &chunk);
    if (took) {
        queue_remove(&job->link);
        if (!job_exhausted(job)) {
            queue_push_back(&engine->jobs, &job->link);
        }
        job->workers_inside++;
        (void)pthread_mutex_unlock(&engine->mutex);
        chunk_run(&engine->choice, worker->cross, &chunk);
        (void)pthread_mutex_lock(&engine->mutex);
        job->workers_inside--;
    }
    if (finish_if_last(engine, job) && engine->options.wake != NULL) {
        (void)pthread_mutex_unlock(&engine->mutex);
        engine->options.wake(engine->options.wake_arg);
        (void)pthread_mutex_lock(&engine->mutex);
    }
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct copy_engine *engine = worker->engine;
    (void)pthread_mutex_lock(&engine->mutex);
    while (!engine->stopping) {
        if (queue_empty(&engine->jobs)) {
            (void)pthread_cond_wait(&engine->work, &engine->mutex);
        } else {
            worker_turn(worker);
        }
    }
    (void)pthread_mutex_unlock(&engine->mutex);
    return NULL;
}

/* Signals are the loop's: a worker takes only those that its own accesses raise. */
static int start_thread(struct worker *worker, uint32_t number)
{
    sigset_t blocked;
    sigset_t before;
    (void)sigfillset(&blocked);
    (void)sigdelset(&blocked, SIGBUS);
    (void)sigdelset(&blocked, SIGSEGV);
    if (fault_fires(FAULT_THREAD) || pthread_sigmask(SIG_SETMASK, &blocked, &before) != 0) {
        return ST_NO_MEMORY;
    }
    int failed = pthread_create(&worker->thread, NULL, worker_main, worker);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0) {
        return ST_NO_MEMORY;
    }
    char name[16];
    (void)snprintf(name, sizeof name, "kveik-copy-%u", number);
    (void)pthread_setname_np(worker->thread, name);
    return ST_OK;
}

static int start_worker(struct copy_engine *engine, struct error *error)
{
    struct worker *worker = &engine->workers[engine->worker_count];
    worker->engine = engine;
    worker->cross = cross_create(&engine->choice);
    if (worker->cross == NULL) {
        return error_set(error, ST_NO_MEMORY, "copy: no memory for a worker");
    }
    int status = start_thread(worker, engine->worker_count);
    if (status != ST_OK) {
        cross_destroy(worker->cross);
        return error_set(error, status, "copy: cannot start a thread");
    }
    engine->worker_count++;
    return ST_OK;
}

/* ---- the engine -------------------------------------------------------------------------------
 */

/* What is fastest is a property of the machine: measured once a process, kept for all engines. */
static struct kernel_choice measured;

static void measure_once(void)
{
#ifdef KVEIK_SANITIZED
    kernel_choice_default(&measured); /* instrumented kernels say nothing about real ones */
#else
    /* less memory would measure the cache, and a small machine must not be starved */
    if (limits_available_bytes("") / 4 < CALIBRATION_BYTES) {
        kernel_choice_default(&measured);
    } else {
        (void)kernel_calibrate(&measured, CALIBRATION_BYTES, CALIBRATION_MS);
    }
#endif
}

int copy_engine_create(const struct copy_options *options, struct copy_engine **engine_out,
                       struct error *error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    KVEIK_ASSERT(options != NULL && engine_out != NULL);
    KVEIK_ASSERT(options->workers >= 1 && options->workers <= COPY_WORKERS_MAX);
    KVEIK_ASSERT(options->jobs_max >= 1);
    if (guard_install() != ST_OK) {
        return error_set(error, ST_IO, "copy: cannot handle SIGBUS");
    }
    size_t bytes = sizeof(struct copy_engine) + options->workers * sizeof(struct worker);
    struct copy_engine *engine = heap_calloc(1, bytes);
    if (engine == NULL) {
        return error_set(error, ST_NO_MEMORY, "copy: no memory for an engine");
    }
    (void)pthread_once(&once, measure_once);
    engine->magic = ENGINE_MAGIC;
    engine->options = *options;
    engine->choice = measured;
    queue_init(&engine->jobs);
    queue_init(&engine->done);
    if (pthread_mutex_init(&engine->mutex, NULL) != 0) {
        heap_free(engine);
        return error_set(error, ST_NO_MEMORY, "copy: no memory for a mutex");
    }
    if (pthread_cond_init(&engine->work, NULL) != 0) {
        (void)pthread_mutex_destroy(&engine->mutex);
        heap_free(engine);
        return error_set(error, ST_NO_MEMORY, "copy: no memory for a condition");
    }
    for (uint32_t i = 0; i < options->workers; i++) {
        int status = start_worker(engine, error);
        if (status != ST_OK) {
            copy_engine_destroy(engine);
            return status;
        }
    }
    *engine_out = engine;
    return ST_OK;
}

void copy_engine_destroy(struct copy_engine *engine)
{
    if (engine == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    KVEIK_ASSERT(copy_in_flight(engine) == 0);
    (void)pthread_mutex_lock(&engine->mutex);
    engine->stopping = true;
    (void)pthread_cond_broadcast(&engine->work);
    (void)pthread_mutex_unlock(&engine->mutex);
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        (void)pthread_join(engine->workers[i].thread, NULL);
        cross_destroy(engine->workers[i].cross);
    }
    (void)pthread_cond_destroy(&engine->work);
    (void)pthread_mutex_destroy(&engine->mutex);
    engine->magic = 0;
    heap_free(engine);
}

int copy_submit(struct copy_engine *engine, struct copy_job *job)
{
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    uint64_t bytes = job_reset(job);
    /* another process can stall a cross-memory copy: never on the caller's thread */
    if (bytes == 0 || (bytes <= engine->options.inline_bytes && job->memory->pid <= 0)) {
        job_run(engine, NULL, job);
        return ST_PENDING;
    }
    (void)pthread_mutex_lock(&engine->mutex);
    bool full = engine->active == engine->options.jobs_max;
    if (!full) {
        engine->active++;
        (void)atomic_fetch_add(&engine->in_flight, 1);
        queue_push_back(&engine->jobs, &job->link);
        if (bytes > COPY_CHUNK_BYTES) {
            (void)pthread_cond_broadcast(&engine->work);
        } else {
            (void)pthread_cond_signal(&engine->work);
        }
    }
    (void)pthread_mutex_unlock(&engine->mutex);
    return full ? ST_BUSY : ST_OK;
}

void copy_cancel(struct copy_job *job)
{
    atomic_store(&job->cancelled, true);
}

struct copy_job *copy_reap(struct copy_engine *engine)
{
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    (void)pthread_mutex_lock(&engine->mutex);
    struct queue *link = queue_pop_front(&engine->done);
    (void)pthread_mutex_unlock(&engine->mutex);
    if (link == NULL) {
        return NULL;
    }
    (void)atomic_fetch_sub(&engine->in_flight, 1);
    return CONTAINER_OF(link, struct copy_job, link);
}

uint32_t copy_in_flight(const struct copy_engine *engine)
{
    return (uint32_t)atomic_load(&engine->in_flight);
}

int copy_run(struct copy_engine *engine, struct copy_job *job)
{
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    (void)job_reset(job);
    struct cross *cross = NULL;
    if (job->memory->pid > 0) {
        cross = cross_create(&engine->choice);
        if (cross == NULL) {
            job->status = ST_NO_MEMORY;
            return job->status;
        }
    }
    job_run(engine, cross, job);
    cross_destroy(cross);
    return job->status;
}
