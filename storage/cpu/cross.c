/*
 * Happy path of a push: cross_box() lists the engine's runs and where they go (the part itself, or
 * the bounce buffer) -> transfer() reads them in one call -> settle() converts what lies in the
 * bounce buffer into parts. Of a pull: the box is converted into the bounce buffer at once, and its
 * runs are listed to be written.
 *
 * Failures: the process id may be dead or, worse, reused: its pidfd is looked at before and after
 * every call, and what a dead process left behind is never used. A short transfer means that a page
 * of the engine's is not there.
 */
#include "storage/cpu/cross.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"

enum {
    RUNS_MAX = 512,                   /* iovecs a side and call */
    CALL_BYTES_MAX = 8 * 1024 * 1024, /* bytes a call: the kernel cuts at 2 GiB */
    BOUNCE_BYTES = 256 * 1024,        /* a share of the second cache */
    BOUNCE_BOXES_MAX = 64,            /* boxes that share the buffer */
    DIRECT_RUN_BYTES = 16 * 1024,     /* runs from here on gain nothing by a detour */
    BOUNCE_ALIGNMENT = 64,
};

/* The calls take a pointer to plain bytes on both sides. */
struct runs {
    struct iovec run[RUNS_MAX];
    uint32_t count;
};

struct cross {
    const struct kernel_choice *choice; /* into parts: may stream past the cache */
    struct kernel_choice cached;        /* into the bounce buffer: must not */
    const struct copy_memory *memory;
    bool push;
    struct runs local;
    struct runs remote;
    uint64_t queued_bytes;
    char *bounce;
    uint64_t bounce_used;
    uint32_t box_count;
    struct box boxes[BOUNCE_BOXES_MAX]; /* push: bounce buffer ("engine") -> part, once read */
};

struct cross *cross_create(const struct kernel_choice *choice)
{
    struct cross *cross = heap_calloc(1, sizeof *cross);
    if (cross == NULL) {
        return NULL;
    }
    cross->bounce = heap_alloc_aligned(BOUNCE_ALIGNMENT, BOUNCE_BYTES);
    if (cross->bounce == NULL) {
        heap_free(cross);
        return NULL;
    }
    cross->choice = choice;
    kernel_choice_plain(&cross->cached);
    return cross;
}

void cross_destroy(struct cross *cross)
{
    if (cross != NULL) {
        heap_free(cross->bounce);
        heap_free(cross);
    }
}

void cross_begin(struct cross *cross, const struct copy_memory *memory, bool push)
{
    KVEIK_ASSERT(memory->pid > 0);
    cross->memory = memory;
    cross->push = push;
    cross->local.count = 0;
    cross->remote.count = 0;
    cross->queued_bytes = 0;
    cross->bounce_used = 0;
    cross->box_count = 0;
}

static bool peer_gone(const struct copy_memory *memory)
{
    if (memory->pidfd < 0) {
        return false;
    }
    struct pollfd pollfd = {.fd = memory->pidfd, .events = POLLIN};
    return poll(&pollfd, 1, 0) != 0;
}

static int transfer_status(const struct cross *cross, ssize_t moved, int errnum)
{
    if (peer_gone(cross->memory) || (moved < 0 && errnum == ESRCH)) {
        return ST_LOST;
    }
    return moved == (ssize_t)cross->queued_bytes ? ST_OK : ST_MEMORY;
}

/* Moves everything that is listed. */
static int transfer(struct cross *cross)
{
    if (cross->queued_bytes == 0) {
        return ST_OK;
    }
    if (peer_gone(cross->memory)) {
        return ST_LOST;
    }
    ssize_t moved = -1;
    if (fault_fires(FAULT_COPY)) {
        errno = EFAULT;
    } else if (cross->push) {
        moved = process_vm_readv(cross->memory->pid, cross->local.run, cross->local.count,
                                 cross->remote.run, cross->remote.count, 0);
    } else {
        moved = process_vm_writev(cross->memory->pid, cross->local.run, cross->local.count,
                                  cross->remote.run, cross->remote.count, 0);
    }
    int status = transfer_status(cross, moved, errno);
    cross->local.count = 0;
    cross->remote.count = 0;
    cross->queued_bytes = 0;
    return status;
}

/* Moves everything, finishes the conversions, and leaves the bounce buffer empty. */
static int settle(struct cross *cross)
{
    int status = transfer(cross);
    for (uint32_t i = 0; i < cross->box_count && status == ST_OK; i++) {
        box_copy(&cross->boxes[i], true, cross->choice);
    }
    cross->box_count = 0;
    cross->bounce_used = 0;
    return status;
}

static void runs_add(struct runs *runs, struct iovec run)
{
    struct iovec *last = runs->count > 0 ? &runs->run[runs->count - 1] : NULL;
    if (last != NULL && (char *)last->iov_base + last->iov_len == run.iov_base) {
        last->iov_len += run.iov_len;
        return;
    }
    KVEIK_ASSERT(runs->count < RUNS_MAX);
    runs->run[runs->count++] = run;
}

static int add_run(struct cross *cross, char *engine, char *local, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t piece = bytes < CALL_BYTES_MAX ? bytes : CALL_BYTES_MAX;
        if (cross->local.count == RUNS_MAX || cross->remote.count == RUNS_MAX ||
            cross->queued_bytes + piece > CALL_BYTES_MAX) {
            int status = transfer(cross);
            if (status != ST_OK) {
                return status;
            }
        }
        runs_add(&cross->remote, (struct iovec){.iov_base = engine, .iov_len = piece});
        runs_add(&cross->local, (struct iovec){.iov_base = local, .iov_len = piece});
        cross->queued_bytes += piece;
        engine += piece;
        local += piece;
        bytes -= piece;
    }
    return ST_OK;
}

/* The `index`-th combination of a box's first `dims` dimensions, as addresses. */
static void box_at(const struct box *box, uint32_t dims, uint64_t index, struct box *at_out)
{
    at_out->engine = box->engine;
    at_out->part = box->part;
    for (uint32_t i = dims; i-- > 0;) {
        uint64_t here = index % box->dims[i].count;
        index /= box->dims[i].count;
        at_out->engine += here * box->dims[i].engine_stride;
        at_out->part += here * box->dims[i].part_stride;
    }
}

static uint64_t combinations(const struct box *box, uint32_t dims)
{
    uint64_t count = 1;
    for (uint32_t i = 0; i < dims; i++) {
        count *= box->dims[i].count;
    }
    return count;
}

/* Lists every run of a box as it is. */
static int add_runs(struct cross *cross, const struct box *box)
{
    uint64_t count = combinations(box, box->dim_count);
    struct box at;
    for (uint64_t i = 0; i < count; i++) {
        box_at(box, box->dim_count, i, &at);
        int status = add_run(cross, at.engine, at.part, box->run_bytes);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

/* A box that fits the bounce buffer. There it lies dense, in the engine's order. */
static int add_bounced(struct cross *cross, const struct box *box)
{
    uint64_t bytes = box_bytes(box);
    if (cross->bounce_used + bytes > BOUNCE_BYTES || cross->box_count == BOUNCE_BOXES_MAX) {
        int status = settle(cross);
        if (status != ST_OK) {
            return status;
        }
    }
    struct box outer = *box; /* engine <-> bounce buffer */
    struct box inner = *box; /* bounce buffer <-> part */
    outer.part = cross->bounce + cross->bounce_used;
    inner.engine = outer.part;
    uint64_t stride = box->run_bytes;
    for (uint32_t i = box->dim_count; i-- > 0;) {
        outer.dims[i].part_stride = stride;
        inner.dims[i].engine_stride = stride;
        stride *= box->dims[i].count;
    }
    box_normalise(&outer, BOX_ORDER_ENGINE);
    cross->bounce_used += (bytes + BOUNCE_ALIGNMENT - 1) / BOUNCE_ALIGNMENT * BOUNCE_ALIGNMENT;
    if (cross->push) {
        box_normalise(&inner, BOX_ORDER_ENGINE);
        cross->boxes[cross->box_count++] = inner;
    } else {
        box_normalise(&inner, BOX_ORDER_PART);
        box_copy(&inner, false, &cross->cached);
    }
    return add_runs(cross, &outer);
}

/* Cuts a box into pieces that fit the bounce buffer: the leading dimensions one by one, the next
 * in groups. */
static int add_pieces(struct cross *cross, const struct box *box)
{
    uint32_t lead = 0;
    uint64_t slice_bytes = box_bytes(box) / box->dims[0].count;
    while (slice_bytes > BOUNCE_BYTES) {
        lead++;
        KVEIK_ASSERT(lead < box->dim_count);
        slice_bytes /= box->dims[lead].count;
    }
    uint64_t group = BOUNCE_BYTES / slice_bytes;
    uint64_t count = combinations(box, lead);
    const struct box_dim *cut = &box->dims[lead];
    struct box piece = {.run_bytes = box->run_bytes, .dim_count = box->dim_count - lead};
    for (uint32_t i = 0; i < piece.dim_count; i++) {
        piece.dims[i] = box->dims[lead + i];
    }
    for (uint64_t i = 0; i < count; i++) {
        box_at(box, lead, i, &piece);
        for (uint64_t done = 0; done < cut->count; done += group) {
            piece.dims[0].count = cut->count - done < group ? cut->count - done : group;
            int status = add_bounced(cross, &piece);
            if (status != ST_OK) {
                return status;
            }
            piece.engine += group * cut->engine_stride;
            piece.part += group * cut->part_stride;
        }
    }
    return ST_OK;
}

int cross_box(struct cross *cross, const struct box *box)
{
    /* longer runs in the engine than on both sides together: only then is a detour worth it */
    const struct box_dim *inner = box->dim_count > 0 ? &box->dims[box->dim_count - 1] : NULL;
    if (inner == NULL || box->run_bytes >= DIRECT_RUN_BYTES ||
        inner->engine_stride != box->run_bytes) {
        return add_runs(cross, box);
    }
    return add_pieces(cross, box);
}

int cross_end(struct cross *cross)
{
    return settle(cross);
}
