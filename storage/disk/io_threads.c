/* The engine where io_uring is forbidden: each thread carries one job from `before` to `after`. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/heap.h"
#include "base/status.h"
#include "storage/disk/io_internal.h"

enum {
    THREADS_MAX = 32, /* enough to keep a device busy; the depth counts below it */
    PAUSE_NS = 1000 * 1000,
};

struct crew {
    struct disk_io *io;
    pthread_cond_t work; /* a job waits, or the engine stops */
    uint32_t count;
    pthread_t threads[]; /* count are running */
};

static void run_job(struct disk_io *io, struct disk_io_job *job)
{
    uint32_t tries = 0;
    bool more = disk_io_begin(job);
    while (more) {
        uint64_t offset = 0;
        if (!disk_io_transfer(io, job, &offset)) {
            break;
        }
        ssize_t moved = job->write
                            ? pwritev(job->fd, job->rest, (int)job->rest_count, (off_t)offset)
                            : preadv(job->fd, job->rest, (int)job->rest_count, (off_t)offset);
        int errnum = errno;
        more = disk_io_moved(job, moved < 0 ? -errnum : moved, &tries);
        if (more && moved < 0 && errnum == EAGAIN) {
            (void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        }
    }
    disk_io_end(io, job);
}

static void *thread_main(void *arg)
{
    struct crew *crew = arg;
    struct disk_io *io = crew->io;
    (void)pthread_mutex_lock(&io->mutex);
    while (!io->stopping) {
        struct disk_io_job *job = disk_io_take(io);
        if (job == NULL) {
            (void)pthread_cond_wait(&crew->work, &io->mutex);
            continue;
        }
        (void)pthread_mutex_unlock(&io->mutex);
        run_job(io, job);
        (void)pthread_mutex_lock(&io->mutex);
    }
    (void)pthread_mutex_unlock(&io->mutex);
    return NULL;
}

static void threads_poke(struct disk_io *io)
{
    struct crew *crew = io->state;
    if (io->stopping) {
        (void)pthread_cond_broadcast(&crew->work);
    } else {
        (void)pthread_cond_signal(&crew->work);
    }
}

static void threads_stop(struct disk_io *io)
{
    struct crew *crew = io->state;
    for (uint32_t i = 0; i < crew->count; i++) {
        (void)pthread_join(crew->threads[i], NULL);
    }
    (void)pthread_cond_destroy(&crew->work);
    heap_free(crew);
}

static int threads_start(struct disk_io *io, struct error *error)
{
    uint32_t wanted = io->options.depth < THREADS_MAX ? io->options.depth : THREADS_MAX;
    struct crew *crew = heap_calloc(1, sizeof *crew + wanted * sizeof(pthread_t));
    if (crew == NULL) {
        return error_set(error, ST_NO_MEMORY, "disk: no memory for threads");
    }
    crew->io = io;
    if (pthread_cond_init(&crew->work, NULL) != 0) {
        heap_free(crew);
        return error_set(error, ST_NO_MEMORY, "disk: no memory for a condition");
    }
    io->state = crew;
    for (; crew->count < wanted; crew->count++) {
        char name[16];
        (void)snprintf(name, sizeof name, "kveik-disk-%u", crew->count);
        if (disk_io_thread(&crew->threads[crew->count], thread_main, crew, name) != ST_OK) {
            (void)pthread_mutex_lock(&io->mutex);
            io->stopping = true;
            threads_poke(io);
            (void)pthread_mutex_unlock(&io->mutex);
            threads_stop(io);
            return error_set(error, ST_NO_MEMORY, "disk: cannot start a thread");
        }
    }
    return ST_OK;
}

const struct disk_io_engine disk_io_threads = {
    .start = threads_start,
    .poke = threads_poke,
    .stop = threads_stop,
};
