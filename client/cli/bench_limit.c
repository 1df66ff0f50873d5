#include "client/cli/bench_limit.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/cli/bench_daemon.h"
#include "storage/cpu/kernels.h"

enum { CHOOSE_PASSES = 3, PING_BYTES = 64, PLANES_MAX = BENCH_LAYERS_MAX * BENCH_KINDS_MAX };

/* ---- copies in one process ------------------------------------------------------------------- */

static char *map_memory(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    (void)madvise(memory, bytes, MADV_DONTFORK); /* shared with a child, pages would be copied */
    memset(memory, 1, bytes);
    return memory;
}

static double copy_pass(struct bench_limit *limit, kernel_copy copy)
{
    uint64_t plane_bytes = bench_plane_bytes(limit->shape);
    uint32_t planes = limit->shape->layers * limit->shape->kinds;
    uint64_t began_ns = clock_ns();
    for (uint32_t block = 0; block < limit->blocks; block++) {
        char *to = limit->pool + block * planes * plane_bytes;
        const char *from = limit->planes + limit->order[block] * plane_bytes;
        for (uint32_t i = 0; i < planes; i++) {
            copy(to + i * plane_bytes, from + i * limit->blocks * plane_bytes, plane_bytes);
        }
        kernel_fence();
    }
    return (double)(clock_ns() - began_ns) / 1e9;
}

static void plain_copy(void *restrict to, const void *restrict from, size_t bytes)
{
    memcpy(to, from, bytes);
}

double bench_limit_best(struct bench_limit *limit)
{
    return copy_pass(limit, limit->best->copy);
}

double bench_limit_memcpy(struct bench_limit *limit)
{
    return copy_pass(limit, plain_copy);
}

int bench_limit_init(struct bench_limit *limit, const struct bench_shape *shape, uint32_t blocks,
                     struct error *error)
{
    *limit = (struct bench_limit){.shape = shape, .blocks = blocks};
    limit->bytes = bench_block_bytes(shape) * blocks;
    limit->order = bench_shuffle(blocks);
    limit->planes = map_memory(limit->bytes);
    limit->pool = map_memory(limit->bytes);
    if (limit->order == NULL || limit->planes == NULL || limit->pool == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for two times %llu bytes",
                         (unsigned long long)limit->bytes);
    }
    uint32_t count = 0;
    const struct kernel *kernels = kernels_all(&count);
    double least = 0;
    for (uint32_t i = 0; i < CHOOSE_PASSES * count; i++) {
        const struct kernel *kernel = &kernels[i % count];
        if (!kernel->supported()) {
            continue;
        }
        double seconds = copy_pass(limit, kernel->copy);
        if (limit->best == NULL || seconds < least) {
            limit->best = kernel;
            least = seconds;
        }
    }
    KVEIK_ASSERT(limit->best != NULL);
    return ST_OK;
}

void bench_limit_finish(struct bench_limit *limit)
{
    if (limit->planes != NULL) {
        (void)munmap(limit->planes, limit->bytes);
    }
    if (limit->pool != NULL) {
        (void)munmap(limit->pool, limit->bytes);
    }
    heap_free(limit->order);
    *limit = (struct bench_limit){0};
}

/* ---- another process ------------------------------------------------------------------------- */

/* Forks with a stream socket between both; in the child returns 0. */
static pid_t fork_peer(int *socket_out)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(pair[0]);
        *socket_out = pair[1];
        return 0;
    }
    (void)close(pair[1]);
    if (pid < 0) {
        (void)close(pair[0]);
    } else {
        *socket_out = pair[0];
    }
    return pid;
}

int bench_peer_start(struct bench_peer *peer, const struct bench_limit *limit, struct error *error)
{
    int socket = -1;
    pid_t pid = fork_peer(&socket);
    if (pid < 0) {
        return error_errno(error, ST_IO, errno, "start a second process");
    }
    char *planes = NULL;
    if (pid == 0) {
        planes = map_memory(limit->bytes);
        bool told = planes != NULL && write(socket, &planes, sizeof planes) == sizeof planes;
        /* until the parent closes */
        _exit(told && read(socket, &planes, 1) == 0 ? 0 : 1);
    }
    *peer = (struct bench_peer){.pid = pid, .socket = socket};
    if (read(socket, &planes, sizeof planes) != sizeof planes) {
        return error_set(error, ST_LOST, "the second process ended at once");
    }
    peer->planes = planes;
    return ST_OK;
}

void bench_peer_finish(struct bench_peer *peer)
{
    if (peer->pid > 0) {
        (void)close(peer->socket);
        bench_child_end(peer->pid, 0);
        peer->pid = 0;
    }
}

int bench_peer_pass(const struct bench_peer *peer, struct bench_limit *limit, bool read_there,
                    double *seconds_out)
{
    uint64_t plane_bytes = bench_plane_bytes(limit->shape);
    uint32_t planes = limit->shape->layers * limit->shape->kinds;
    uint64_t block_bytes = planes * plane_bytes;
    KVEIK_ASSERT(planes <= PLANES_MAX);
    uint64_t began_ns = clock_ns();
    for (uint32_t block = 0; block < limit->blocks; block++) {
        struct iovec here = {.iov_base = limit->pool + block * block_bytes, .iov_len = block_bytes};
        struct iovec there[PLANES_MAX];
        char *from = peer->planes + limit->order[block] * plane_bytes;
        for (uint32_t i = 0; i < planes; i++) {
            there[i] = (struct iovec){.iov_base = from + i * limit->blocks * plane_bytes,
                                      .iov_len = plane_bytes};
        }
        ssize_t moved = read_there ? process_vm_readv(peer->pid, &here, 1, there, planes, 0)
                                   : process_vm_writev(peer->pid, &here, 1, there, planes, 0);
        if (moved != (ssize_t)block_bytes) {
            return ST_PERMISSION;
        }
    }
    *seconds_out = (double)(clock_ns() - began_ns) / 1e9;
    return ST_OK;
}

_Noreturn static void echo(int socket)
{
    char message[PING_BYTES];
    while (recv(socket, message, sizeof message, MSG_WAITALL) == (ssize_t)sizeof message) {
        if (send(socket, message, sizeof message, MSG_NOSIGNAL) != (ssize_t)sizeof message) {
            break;
        }
    }
    _exit(0);
}

int bench_ping(uint32_t rounds, void (*placed)(pid_t other, void *arg), void *arg,
               struct samples *us_out, struct error *error)
{
    int socket = -1;
    pid_t pid = fork_peer(&socket);
    if (pid < 0) {
        return error_errno(error, ST_IO, errno, "start a second process");
    }
    if (pid == 0) {
        echo(socket);
    }
    if (placed != NULL) {
        placed(pid, arg);
    }
    char message[PING_BYTES] = {0};
    int status = ST_OK;
    for (uint32_t i = 0; i < rounds && status == ST_OK; i++) {
        uint64_t began_ns = clock_ns();
        if (send(socket, message, sizeof message, MSG_NOSIGNAL) != (ssize_t)sizeof message ||
            recv(socket, message, sizeof message, MSG_WAITALL) != (ssize_t)sizeof message) {
            status = error_set(error, ST_LOST, "the second process ended");
        } else {
            samples_add(us_out, (double)(clock_ns() - began_ns) / 1e3);
        }
    }
    (void)close(socket);
    bench_child_end(pid, 0);
    return status;
}
