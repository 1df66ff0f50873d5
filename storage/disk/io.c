#include "storage/disk/io.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/disk/io_internal.h"

/* ---- a job on an engine's thread ------------------------------------------------------------- */

static uint64_t job_bytes(const struct disk_io_job *job)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < job->vector_count; i++) {
        bytes += job->vectors[i].iov_len;
    }
    return bytes;
}

static void job_fail(struct disk_io_job *job, int errnum)
{
    job->status = errnum == ENOSPC || errnum == EDQUOT ? ST_NO_SPACE : ST_IO;
    job->error = errnum;
}

struct disk_io_job *disk_io_take(struct disk_io *io)
{
    struct queue *link = queue_pop_front(&io->waiting);
    if (link == NULL) {
        return NULL;
    }
    queue_push_back(&io->active, link);
    return CONTAINER_OF(link, struct disk_io_job, link);
}

bool disk_io_begin(struct disk_io_job *job)
{
    if (job->write && job->before != NULL) {
        job->status = job->before(job);
    }
    return job->status == ST_OK;
}

bool disk_io_transfer(const struct disk_io *io, struct disk_io_job *job, uint64_t *offset_out)
{
    uint64_t skip = job->done_bytes;
    uint64_t room = io->transfer_max != 0 ? io->transfer_max : UINT64_MAX;
    job->rest_count = 0;
    for (uint32_t i = 0; i < job->vector_count && room > 0; i++) {
        struct iovec piece = job->vectors[i];
        if (skip >= piece.iov_len) {
            skip -= piece.iov_len;
            continue;
        }
        piece.iov_base = (char *)piece.iov_base + skip;
        piece.iov_len -= skip;
        piece.iov_len = piece.iov_len < room ? piece.iov_len : room;
        skip = 0;
        room -= piece.iov_len;
        job->rest[job->rest_count++] = piece;
    }
    *offset_out = job->offset + job->done_bytes;
    if (fault_fires(FAULT_FILE)) {
        job_fail(job, EIO);
        return false;
    }
    return true;
}

bool disk_io_moved(struct disk_io_job *job, int64_t result, uint32_t *tries)
{
    if (result > 0) {
        *tries = 0;
        job->done_bytes += (uint64_t)result;
        return job->done_bytes < job_bytes(job);
    }
    if ((result == -EINTR || result == -EAGAIN) && ++*tries < DISK_IO_TRIES_MAX) {
        return true;
    }
    /* nothing moved and no error: the file ends inside a read */
    job_fail(job, result == 0 ? EIO : (int)-result);
    return false;
}

void disk_io_end(struct disk_io *io, struct disk_io_job *job)
{
    if (job->status == ST_OK && !job->write && job->after != NULL) {
        job->status = job->after(job);
    }
    job->ended_ns = clock_ns();
    (void)pthread_mutex_lock(&io->mutex);
    bool was_empty = queue_empty(&io->done);
    queue_remove(&job->link);
    queue_push_back(&io->done, &job->link);
    (void)pthread_mutex_unlock(&io->mutex);
    /* the job may be gone from here on; the engine stays, for its destruction joins this thread */
    if (was_empty && io->options.wake != NULL) {
        io->options.wake(io->options.wake_arg);
    }
}

int disk_io_thread(pthread_t *thread_out, void *(*run)(void *), void *arg, const char *name)
{
    sigset_t blocked;
    sigset_t before;
    (void)sigfillset(&blocked);
    if (fault_fires(FAULT_THREAD) || pthread_sigmask(SIG_SETMASK, &blocked, &before) != 0) {
        return ST_NO_MEMORY;
    }
    int failed = pthread_create(thread_out, NULL, run, arg);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0) {
        return ST_NO_MEMORY;
    }
    (void)pthread_setname_np(*thread_out, name);
    return ST_OK;
}

/* ---- the engine, on its owner's thread ------------------------------------------------------- */

static int create(const struct disk_io_options *options, enum disk_io_kind kind,
                  struct disk_io **io_out, struct error *error)
{
    struct disk_io *io = heap_calloc(1, sizeof *io);
    if (io == NULL) {
        return error_set(error, ST_NO_MEMORY, "disk: no memory for an I/O engine");
    }
    io->magic = DISK_IO_MAGIC;
    io->options = *options;
    io->kind = kind;
    io->engine = kind == DISK_IO_URING ? &disk_io_uring : &disk_io_threads;
    queue_init(&io->waiting);
    queue_init(&io->active);
    queue_init(&io->done);
    if (pthread_mutex_init(&io->mutex, NULL) != 0) {
        heap_free(io);
        return error_set(error, ST_NO_MEMORY, "disk: no memory for a mutex");
    }
    int status = io->engine->start(io, error);
    if (status != ST_OK) {
        (void)pthread_mutex_destroy(&io->mutex);
        heap_free(io);
        return status;
    }
    *io_out = io;
    return ST_OK;
}

int disk_io_create(const struct disk_io_options *options, struct disk_io **io_out,
                   struct error *error)
{
    KVEIK_ASSERT(options != NULL && io_out != NULL);
    KVEIK_ASSERT(options->depth >= 1 && options->depth <= DISK_IO_DEPTH_MAX);
    KVEIK_ASSERT(options->jobs_max >= 1);
    char why[ERROR_TEXT_BYTES / 2];
    bool ring = options->kind != DISK_IO_THREADS && disk_io_uring_works(why, sizeof why);
    if (options->kind == DISK_IO_URING) {
        return ring
                   ? create(options, DISK_IO_URING, io_out, error)
                   : error_set(error, ST_UNSUPPORTED, "disk: io_uring does not work here: %s", why);
    }
    /* a ring that is as deep as asked for may fail where a small one works */
    if (ring && create(options, DISK_IO_URING, io_out, NULL) == ST_OK) {
        return ST_OK;
    }
    return create(options, DISK_IO_THREADS, io_out, error);
}

void disk_io_destroy(struct disk_io *io)
{
    if (io == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(io, DISK_IO_MAGIC);
    KVEIK_ASSERT(io->in_flight == 0);
    (void)pthread_mutex_lock(&io->mutex);
    io->stopping = true;
    io->engine->poke(io);
    (void)pthread_mutex_unlock(&io->mutex);
    io->engine->stop(io);
    (void)pthread_mutex_destroy(&io->mutex);
    io->magic = 0;
    heap_free(io);
}

enum disk_io_kind disk_io_kind(const struct disk_io *io)
{
    KVEIK_CHECK_OBJ(io, DISK_IO_MAGIC);
    return io->kind;
}

int disk_io_submit(struct disk_io *io, struct disk_io_job *job)
{
    KVEIK_CHECK_OBJ(io, DISK_IO_MAGIC);
    KVEIK_ASSERT(job->vector_count >= 1 && job->vector_count <= DISK_IO_VECTORS);
    KVEIK_ASSERT(job_bytes(job) > 0);
    if (io->in_flight == io->options.jobs_max) {
        return ST_BUSY;
    }
    io->in_flight++;
    job->status = ST_OK;
    job->error = 0;
    job->began_ns = clock_ns();
    job->ended_ns = 0;
    job->done_bytes = 0;
    (void)pthread_mutex_lock(&io->mutex);
    queue_push_back(&io->waiting, &job->link);
    io->engine->poke(io);
    (void)pthread_mutex_unlock(&io->mutex);
    return ST_OK;
}

struct disk_io_job *disk_io_reap(struct disk_io *io)
{
    KVEIK_CHECK_OBJ(io, DISK_IO_MAGIC);
    (void)pthread_mutex_lock(&io->mutex);
    struct queue *link = queue_pop_front(&io->done);
    (void)pthread_mutex_unlock(&io->mutex);
    if (link == NULL) {
        return NULL;
    }
    KVEIK_ASSERT(io->in_flight > 0);
    io->in_flight--;
    return CONTAINER_OF(link, struct disk_io_job, link);
}

uint32_t disk_io_in_flight(const struct disk_io *io)
{
    KVEIK_CHECK_OBJ(io, DISK_IO_MAGIC);
    return io->in_flight;
}

static uint64_t oldest_of(const struct queue *list, uint64_t oldest_ns)
{
    queue_foreach (link, list) {
        const struct disk_io_job *job = CONTAINER_OF(link, struct disk_io_job, link);
        oldest_ns = job->began_ns < oldest_ns ? job->began_ns : oldest_ns;
    }
    return oldest_ns;
}

uint64_t disk_io_oldest_ns(const struct disk_io *io)
{
    KVEIK_CHECK_OBJ(io, DISK_IO_MAGIC);
    /* only its mutex changes */
    struct disk_io *locked = (struct disk_io *)(uintptr_t)io; // NOLINT(performance-no-int-to-ptr)
    (void)pthread_mutex_lock(&locked->mutex);
    uint64_t oldest_ns = oldest_of(&io->done, oldest_of(&io->active, UINT64_MAX));
    if (!queue_empty(&io->waiting)) { /* in order of submission */
        const struct disk_io_job *job = CONTAINER_OF(io->waiting.next, struct disk_io_job, link);
        oldest_ns = job->began_ns < oldest_ns ? job->began_ns : oldest_ns;
    }
    (void)pthread_mutex_unlock(&locked->mutex);
    return oldest_ns == UINT64_MAX ? 0 : oldest_ns;
}
