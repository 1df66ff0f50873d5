/*
 * The contents of files: an undo log of each file since its last sync, in memory.
 *
 * At the cut the file is first taken back, change by change, to what it was when it was synced.
 * What a change had put there is read just before it is undone. Then the changes that chance lets
 * through are made again in their order, whole, or some of their sectors only.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/queue.h"
#include "tests/lib/powerloss/powerloss.h"

static const uint64_t log_bytes_max = (uint64_t)4 << 30;

struct file {
    struct queue link;
    struct queue writes; /* oldest first */
    struct pl_id id;
    int fd; /* our own, to read and write, whatever the program's is */
};

/* Bytes of a piece of a file; all zero needs no memory. */
struct piece {
    char *bytes; /* NULL: zeros */
    uint64_t count;
};

struct pl_write {
    struct queue link;
    struct file *file;
    uint64_t sequence;
    uint64_t offset;
    uint64_t bytes;
    uint64_t old_size;
    uint64_t new_size;
    struct piece before; /* no more than there was of the file */
    struct piece after;  /* at the cut only */
};

static struct queue files = {&files, &files};
static uint64_t log_bytes;

/* ---- pieces ---------------------------------------------------------------------------------- */

static void piece_free(struct piece *piece)
{
    if (piece->bytes != NULL) {
        log_bytes -= piece->count;
        free(piece->bytes);
    }
    *piece = (struct piece){0};
}

static struct piece piece_read(int fd, uint64_t offset, uint64_t count)
{
    struct piece piece = {.count = count};
    if (count == 0) {
        return piece;
    }
    piece.bytes = malloc(count);
    if (piece.bytes == NULL || log_bytes + count > log_bytes_max) {
        pl_fail("too many unsynced bytes");
    }
    log_bytes += count;
    for (uint64_t done = 0; done < count;) {
        ssize_t part = raw_pread(fd, piece.bytes + done, count - done, offset + done);
        if (part <= 0) {
            pl_fail("cannot read what is to be overwritten: %s", strerrordesc_np(errno));
        }
        done += (uint64_t)part;
    }
    if (piece.bytes[0] == 0 && memcmp(piece.bytes, piece.bytes + 1, count - 1) == 0) {
        piece_free(&piece);
        piece.count = count;
    }
    return piece;
}

static void piece_write(int fd, const struct piece *piece, uint64_t from, uint64_t count,
                        uint64_t offset)
{
    static const char zeros[1 << 16];
    for (uint64_t done = 0; done < count;) {
        uint64_t part = count - done;
        part = piece->bytes == NULL && part > sizeof zeros ? sizeof zeros : part;
        const char *bytes = piece->bytes == NULL ? zeros : piece->bytes + from + done;
        ssize_t written = raw_pwrite(fd, bytes, part, offset + done);
        if (written <= 0) {
            pl_fail("cannot write back: %s", strerrordesc_np(errno));
        }
        done += (uint64_t)written;
    }
}

static uint64_t size_of(int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        pl_fail("fstat: %s", strerrordesc_np(errno));
    }
    return (uint64_t)status.st_size;
}

/* ---- the log --------------------------------------------------------------------------------- */

static struct file *file_find(struct pl_id id)
{
    queue_foreach (link, &files) {
        struct file *file = CONTAINER_OF(link, struct file, link);
        if (pl_same(file->id, id)) {
            return file;
        }
    }
    return NULL;
}

static struct file *file_new(int fd, struct pl_id id)
{
    char path[32];
    struct file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        pl_fail("no memory");
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    file->id = id;
    file->fd = pl_move_fd(raw_openat(AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0));
    if (file->fd < 0) {
        pl_fail("cannot open a file of the tree again: %s", strerrordesc_np(errno));
    }
    queue_init(&file->writes);
    queue_push_back(&files, &file->link);
    return file;
}

static void write_free(struct pl_write *write)
{
    queue_remove(&write->link);
    piece_free(&write->before);
    piece_free(&write->after);
    free(write);
}

static void file_free_if_synced(struct file *file)
{
    if (queue_empty(&file->writes)) {
        queue_remove(&file->link);
        (void)raw_close(file->fd);
        free(file);
    }
}

struct pl_write *file_before(int fd, const struct stat *status, uint64_t offset, uint64_t bytes)
{
    if (pl_mode() == PL_KEEP) {
        return NULL;
    }
    struct pl_id id = {.dev = status->st_dev, .ino = status->st_ino};
    struct file *file = file_find(id);
    file = file == NULL ? file_new(fd, id) : file;
    struct pl_write *write = calloc(1, sizeof *write);
    if (write == NULL) {
        pl_fail("no memory");
    }
    uint64_t size = (uint64_t)status->st_size;
    uint64_t there = offset < size ? size - offset : 0;
    write->file = file;
    write->sequence = pl_sequence();
    write->offset = offset;
    write->bytes = bytes;
    write->old_size = size;
    write->before = piece_read(file->fd, offset, bytes < there ? bytes : there);
    queue_push_back(&file->writes, &write->link);
    return write;
}

void file_after(struct pl_write *write, uint64_t bytes, bool done)
{
    if (write == NULL) {
        return;
    }
    int errnum = errno;
    struct file *file = write->file;
    if (done) {
        write->bytes = bytes < write->bytes ? bytes : write->bytes;
        write->new_size = size_of(file->fd);
    } else {
        write_free(write);
        file_free_if_synced(file);
    }
    errno = errnum;
}

static void file_drop(struct file *file, uint64_t sequence)
{
    queue_foreach_safe (link, &file->writes) {
        struct pl_write *write = CONTAINER_OF(link, struct pl_write, link);
        if (write->sequence <= sequence) {
            write_free(write);
        }
    }
    file_free_if_synced(file);
}

void file_synced(struct pl_id id, uint64_t sequence)
{
    struct file *file = file_find(id);
    if (file != NULL) {
        file_drop(file, sequence);
    }
}

void file_all_synced(void)
{
    queue_foreach_safe (link, &files) {
        file_drop(CONTAINER_OF(link, struct file, link), UINT64_MAX);
    }
}

void file_forget_nameless(void)
{
    queue_foreach_safe (link, &files) {
        struct file *file = CONTAINER_OF(link, struct file, link);
        struct stat status;
        if (fstat(file->fd, &status) == 0 && status.st_nlink == 0) {
            file_drop(file, UINT64_MAX);
        }
    }
}

/* ---- the cut --------------------------------------------------------------------------------- */

static void set_size(int fd, uint64_t size)
{
    if (raw_ftruncate(fd, size) != 0) {
        pl_fail("cannot set a size: %s", strerrordesc_np(errno));
    }
}

static void take_back(struct file *file)
{
    for (struct queue *link = file->writes.prev; link != &file->writes; link = link->prev) {
        struct pl_write *write = CONTAINER_OF(link, struct pl_write, link);
        uint64_t size = size_of(file->fd);
        uint64_t there = write->offset < size ? size - write->offset : 0;
        write->after =
            piece_read(file->fd, write->offset, write->bytes < there ? write->bytes : there);
        piece_write(file->fd, &write->before, 0, write->before.count, write->offset);
        set_size(file->fd, write->old_size);
    }
}

/* How much of a change reaches the disk. */
enum fate { FATE_NONE, FATE_ALL, FATE_FRONT, FATE_TORN, FATE_COUNT };

/* Writes the sectors of a change that get through. */
static void write_sectors(const struct pl_write *write, enum fate fate)
{
    uint64_t end = write->offset + write->after.count;
    uint64_t sectors = write->after.count / PL_SECTOR + 1;
    uint64_t front = pl_random(sectors + 1);
    uint64_t number = 0;
    for (uint64_t at = write->offset; at < end; number++) {
        uint64_t next = (at / PL_SECTOR + 1) * PL_SECTOR;
        next = next < end ? next : end;
        bool through = fate == FATE_ALL || (fate == FATE_FRONT && number < front) ||
                       (fate == FATE_TORN && pl_random(2) == 0);
        if (through) {
            piece_write(write->file->fd, &write->after, at - write->offset, next - at, at);
        }
        at = next;
    }
}

/* A file grows in order, as the journals of most file systems have it: what was put at its end is
 * there up to some sector, and nothing behind it. The size after it. */
static uint64_t grow_in_order(const struct pl_write *write, enum fate fate, uint64_t size)
{
    if (size < write->old_size || fate == FATE_NONE) {
        return size;
    }
    uint64_t count = write->after.count;
    if (fate != FATE_ALL && count > 0) {
        uint64_t end = (write->offset + pl_random(count + 1)) / PL_SECTOR * PL_SECTOR;
        count = end > write->offset ? end - write->offset : 0;
    }
    piece_write(write->file->fd, &write->after, 0, count, write->offset);
    uint64_t end = count == write->after.count ? write->new_size : write->offset + count;
    return count == 0 && write->after.count > 0 ? size : end > size ? end : size;
}

/* The same, with holes: each sector by itself, and so the size. */
static uint64_t grow_in_holes(const struct pl_write *write, enum fate fate, uint64_t size)
{
    write_sectors(write, fate);
    bool sized = fate == FATE_ALL || (fate != FATE_NONE && pl_random(2) == 0);
    return sized && write->new_size > size ? write->new_size : size;
}

static void do_some_again(struct file *file)
{
    uint64_t size = size_of(file->fd);
    queue_foreach (link, &file->writes) {
        const struct pl_write *write = CONTAINER_OF(link, struct pl_write, link);
        enum fate fate = (enum fate)pl_random(FATE_COUNT);
        if (write->new_size < write->old_size) {
            if (fate == FATE_ALL || fate == FATE_FRONT) {
                set_size(file->fd, write->new_size);
                size = write->new_size;
            }
        } else if (write->new_size == write->old_size) {
            write_sectors(write, fate);
        } else if (pl_mode() == PL_HOLES) {
            size = grow_in_holes(write, fate, size);
        } else {
            size = grow_in_order(write, fate, size);
        }
    }
    set_size(file->fd, size);
}

void file_cut(void)
{
    enum { ALL_OF_ONE = 8 }; /* one file in eight has all of it, one in eight nothing */
    queue_foreach (link, &files) {
        struct file *file = CONTAINER_OF(link, struct file, link);
        uint64_t chance = pl_mode() == PL_DROP ? 0 : pl_random(ALL_OF_ONE);
        if (chance == 1) {
            continue;
        }
        take_back(file);
        if (chance > 1) {
            do_some_again(file);
        }
    }
}
