/*
 * The engine on io_uring: one thread owns the ring and waits for completions and for the owner's
 * pokes (an eventfd that is polled through the ring) in one place:
 *
 *   take what waits, up to the depth -> `before`, fill entries -> submit and wait -> completions:
 *   go on with what came short, else `after` and hand over -> take …
 *
 * `before` and `after` read each byte once, at the speed of memory: several times that of a
 * device. Jobs that have a `before` are taken one at a time, so that the device has the first
 * bytes while the next job's are still summed up.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/disk/io_internal.h"

enum { WORKS_ENTRIES = 2, REASON_BYTES = 128, PAUSE_NS = 1000 * 1000 };

/* A place in the depth. */
struct place {
    struct disk_io_job *job; /* NULL: free */
    uint32_t tries;
};

struct ring {
    struct disk_io *io;
    struct io_uring uring;
    int event_fd;
    bool poked; /* with the mutex: the eventfd was written and not read since */
    bool polls; /* a poll of the eventfd is in the ring */
    pthread_t thread;
    uint32_t used;
    uint32_t free_count;
    uint32_t *free;        /* of [depth]: numbers of free places */
    struct place places[]; /* [depth] */
};

/* ---- the ring's thread ----------------------------------------------------------------------- */

static struct io_uring_sqe *next_entry(struct ring *ring)
{
    /* there is an entry for each place and one for the poll */
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    KVEIK_ASSERT(entry != NULL);
    return entry;
}

static void finish(struct ring *ring, struct place *place)
{
    struct disk_io_job *job = place->job;
    place->job = NULL;
    ring->free[ring->free_count++] = (uint32_t)(place - ring->places);
    ring->used--;
    disk_io_end(ring->io, job);
}

static void transfer(struct ring *ring, struct place *place)
{
    struct disk_io_job *job = place->job;
    uint64_t offset = 0;
    if (!disk_io_transfer(ring->io, job, &offset)) {
        finish(ring, place);
        return;
    }
    struct io_uring_sqe *entry = next_entry(ring);
    if (job->write) {
        io_uring_prep_writev(entry, job->fd, job->rest, job->rest_count, offset);
    } else {
        io_uring_prep_readv(entry, job->fd, job->rest, job->rest_count, offset);
    }
    if (place->tries > 0) {
        io_uring_sqe_set_flags(entry, IOSQE_ASYNC); /* may block there, and says EAGAIN no more */
    }
    io_uring_sqe_set_data(entry, place);
}

/* With the mutex. True when the owner has to be waited for: nothing waits that could be begun. */
static bool take(struct ring *ring)
{
    struct disk_io *io = ring->io;
    uint32_t depth = io->options.depth;
    while (ring->used < depth) {
        struct disk_io_job *job = disk_io_take(io);
        if (job == NULL) {
            return true;
        }
        struct place *place = &ring->places[ring->free[--ring->free_count]];
        ring->used++;
        *place = (struct place){.job = job};
        (void)pthread_mutex_unlock(&io->mutex);
        bool summed = job->write && job->before != NULL;
        if (disk_io_begin(job)) {
            transfer(ring, place);
        } else {
            finish(ring, place);
        }
        (void)pthread_mutex_lock(&io->mutex);
        if (summed) {
            return ring->used == depth || queue_empty(&io->waiting);
        }
    }
    return true;
}

static void listen_to_owner(struct ring *ring)
{
    if (!ring->polls) {
        struct io_uring_sqe *entry = next_entry(ring);
        io_uring_prep_poll_add(entry, ring->event_fd, POLLIN);
        io_uring_sqe_set_data(entry, ring);
        ring->polls = true;
    }
}

static void complete(struct ring *ring, void *data, int result)
{
    if (data == ring) {
        uint64_t pokes = 0;
        (void)!read(ring->event_fd, &pokes, sizeof pokes);
        ring->polls = false;
        (void)pthread_mutex_lock(&ring->io->mutex);
        ring->poked = false;
        (void)pthread_mutex_unlock(&ring->io->mutex);
        return;
    }
    struct place *place = data;
    KVEIK_ASSERT(place->job != NULL);
    if (disk_io_moved(place->job, result, &place->tries)) {
        transfer(ring, place);
    } else {
        finish(ring, place);
    }
}

static void complete_all(struct ring *ring)
{
    struct io_uring_cqe *completion = NULL;
    while (io_uring_peek_cqe(&ring->uring, &completion) == 0) {
        void *data = io_uring_cqe_get_data(completion);
        int result = completion->res;
        io_uring_cqe_seen(&ring->uring, completion);
        complete(ring, data, result);
    }
}

static void *ring_main(void *arg)
{
    struct ring *ring = arg;
    struct disk_io *io = ring->io;
    for (;;) {
        (void)pthread_mutex_lock(&io->mutex);
        bool wait = take(ring);
        bool stop = io->stopping;
        (void)pthread_mutex_unlock(&io->mutex);
        if (stop) {
            return NULL;
        }
        listen_to_owner(ring);
        int result = io_uring_submit_and_wait(&ring->uring, wait ? 1 : 0);
        if (result < 0 && result != -EINTR) {
            /* short of memory in the kernel: what was not taken stays in the ring; the owner sees
             * the age of its jobs */
            (void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        }
        complete_all(ring);
    }
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void uring_poke(struct disk_io *io)
{
    struct ring *ring = io->state;
    if (!ring->poked) {
        ring->poked = true;
        uint64_t one = 1;
        ssize_t written = write(ring->event_fd, &one, sizeof one);
        KVEIK_ASSERT(written == (ssize_t)sizeof one); /* the counter is far from its end */
    }
}

static void ring_free(struct ring *ring)
{
    (void)close(ring->event_fd);
    heap_free(ring->free);
    heap_free(ring);
}

static void uring_stop(struct disk_io *io)
{
    struct ring *ring = io->state;
    (void)pthread_join(ring->thread, NULL);
    io_uring_queue_exit(&ring->uring);
    ring_free(ring);
}

/* -errno, or 0. */
static int set_up(struct io_uring *uring, uint32_t entries)
{
    if (fault_fires(FAULT_OPEN)) {
        return -EPERM;
    }
    return io_uring_queue_init(entries, uring, 0);
}

static struct ring *ring_alloc(struct disk_io *io)
{
    uint32_t depth = io->options.depth;
    struct ring *ring = heap_calloc(1, sizeof *ring + depth * sizeof ring->places[0]);
    if (ring == NULL) {
        return NULL;
    }
    ring->io = io;
    ring->free = heap_calloc(depth, sizeof *ring->free);
    ring->event_fd = fault_fires(FAULT_OPEN) ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ring->free == NULL || ring->event_fd < 0) {
        ring_free(ring);
        return NULL;
    }
    for (uint32_t i = 0; i < depth; i++) {
        ring->free[ring->free_count++] = i;
    }
    return ring;
}

static int uring_start(struct disk_io *io, struct error *error)
{
    uint32_t depth = io->options.depth;
    struct ring *ring = ring_alloc(io);
    if (ring == NULL) {
        return error_set(error, ST_NO_MEMORY, "disk: no memory for a ring of %u", depth);
    }
    int result = set_up(&ring->uring, depth + 1);
    if (result < 0) {
        ring_free(ring);
        return error_errno(error, ST_IO, -result, "disk: cannot set up a ring of %u", depth);
    }
    /* What would block is run by threads of the kernel's, by default few where processors are few:
     * stuck requests must not take them all. Old kernels know no limit and do not mind. */
    unsigned workers[2] = {depth, depth};
    (void)io_uring_register_iowq_max_workers(&ring->uring, workers);
    io->state = ring;
    if (disk_io_thread(&ring->thread, ring_main, ring, "kveik-disk") != ST_OK) {
        io_uring_queue_exit(&ring->uring);
        ring_free(ring);
        return error_set(error, ST_NO_MEMORY, "disk: cannot start a thread");
    }
    return ST_OK;
}

/* Lets a ring do nothing, once. -errno, or 0. */
static int try_nothing(struct io_uring *uring)
{
    struct io_uring_cqe *completion = NULL;
    struct io_uring_sqe *entry = io_uring_get_sqe(uring);
    if (entry == NULL) {
        return -ENOMEM;
    }
    io_uring_prep_nop(entry);
    int result = io_uring_submit_and_wait(uring, 1);
    if (result >= 0) {
        result = io_uring_wait_cqe(uring, &completion);
    }
    return result < 0 ? result : completion->res;
}

bool disk_io_uring_works(char *why, uint32_t why_bytes)
{
    struct io_uring uring;
    const char *what = "cannot be set up";
    int result = set_up(&uring, WORKS_ENTRIES);
    if (result == 0) {
        what = "was set up but does nothing";
        result = try_nothing(&uring);
        io_uring_queue_exit(&uring);
    }
    if (why != NULL && why_bytes > 0) {
        char reason[REASON_BYTES];
        why[0] = '\0';
        if (result < 0) {
            (void)snprintf(why, why_bytes, "%s: %s", what,
                           strerror_r(-result, reason, sizeof reason));
        }
    }
    return result >= 0;
}

const struct disk_io_engine disk_io_uring = {
    .start = uring_start,
    .poke = uring_poke,
    .stop = uring_stop,
};
