#include "storage/disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "storage/disk/disk_internal.h"
#include "storage/disk/lock.h"
#include "storage/disk/store_file.h"

enum {
    SEGMENT_BYTES_UNIT = 1024 * 1024,
    SEGMENT_BYTES_MIN = 4 * SEGMENT_BYTES_UNIT,
    SEGMENTS_MIN = 4,
    KEEP_FREE_MAX = 100, /* percent */
    POOL_BYTES = 32 * 1024 * 1024,
    SLOTS_AHEAD = 4, /* jobs that wait at the engine, so that the device has the next at once */
    FILES_FRACTION = 4,
    CLOSE_COMMITS = 2,
    PATH_BYTES = 4096,
};
#define SEGMENT_BYTES_MAX (UINT64_C(16) << 30)

/* ---- made and unmade ------------------------------------------------------------------------- */

static int check_options(const struct disk_options *options, struct error *error)
{
    if (options->directory == NULL || options->directory[0] == '\0' ||
        strlen(options->directory) > PATH_BYTES - 64) {
        return error_set(error, ST_INVALID, "disk: no directory, or a path that is too long");
    }
    if (options->segment_bytes < SEGMENT_BYTES_MIN || options->segment_bytes > SEGMENT_BYTES_MAX ||
        options->segment_bytes % SEGMENT_BYTES_UNIT != 0) {
        return error_set(error, ST_INVALID,
                         "disk: segments are whole MiB, from 4 MiB to 16 GiB: not %llu bytes",
                         (unsigned long long)options->segment_bytes);
    }
    if (options->bytes_max / options->segment_bytes < SEGMENTS_MIN) {
        return error_set(error, ST_INVALID, "disk: the tier must have room for %d segments",
                         SEGMENTS_MIN);
    }
    if (options->keep_free_percent > KEEP_FREE_MAX || options->depth < 1 ||
        options->depth > DISK_IO_DEPTH_MAX || options->jobs_max < 1) {
        return error_set(error, ST_INVALID, "disk: percentage, depth or jobs out of range");
    }
    return ST_OK;
}

/* The folder and those above it. */
static int make_folders(const char *directory, struct error *error)
{
    char path[PATH_BYTES];
    size_t length = strlen(directory);
    (void)memcpy(path, directory, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') {
            continue;
        }
        path[i] = '\0';
        errno = EIO;
        if (fault_fires(FAULT_FILE) || (mkdir(path, 0700) != 0 && errno != EEXIST)) {
            return error_errno(error, ST_IO, errno, "%s cannot be made", path);
        }
        path[i] = i < length ? '/' : '\0';
    }
    return ST_OK;
}

static int open_folder(int at, const char *path)
{
    if (fault_fires(FAULT_OPEN)) {
        errno = EIO;
        return -1;
    }
    return openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int open_directory(struct disk *disk, struct error *error)
{
    int status = make_folders(disk->directory, error);
    if (status != ST_OK) {
        return status;
    }
    disk->directory_fd = open_folder(AT_FDCWD, disk->directory);
    if (disk->directory_fd < 0) {
        return error_errno(error, ST_IO, errno, "it cannot be opened");
    }
    status = lock_take(disk->directory_fd, &disk->lock_fd, error);
    if (status != ST_OK) {
        return status;
    }
    if (mkdirat(disk->directory_fd, "segments", 0700) != 0 && errno != EEXIST) {
        return error_errno(error, ST_IO, errno, "segments cannot be made");
    }
    disk->files.directory_fd = open_folder(disk->directory_fd, "segments");
    if (disk->files.directory_fd < 0) {
        return error_errno(error, ST_IO, errno, "segments cannot be opened");
    }
    return store_file_load(disk->directory_fd, &disk->files, error);
}

static void init_plain(struct disk *disk)
{
    struct rlimit limit;
    disk->directory_fd = -1;
    disk->lock_fd = -1;
    disk->files.directory_fd = -1;
    disk->files.segment_bytes = disk->options.segment_bytes;
    disk->files.log = disk->options.log;
    disk->number_next = 1;
    disk->slots = disk->options.depth + SLOTS_AHEAD;
    disk->open_files_max = OPEN_FILES_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / FILES_FRACTION < OPEN_FILES_MAX) {
        disk->open_files_max = (uint32_t)(limit.rlim_cur / FILES_FRACTION) + 1;
    }
    queue_init(&disk->open_files);
    queue_init(&disk->reads);
    queue_init(&disk->written);
    queue_init(&disk->read_done);
    for (int i = 0; i < STREAM_COUNT; i++) {
        queue_init(&disk->streams[i].pending);
    }
    bounce_pool_init(&disk->record_pool, POOL_BYTES);
    bounce_pool_init(&disk->read_pool, POOL_BYTES);
    bounce_pool_init(&disk->move_pool, POOL_BYTES);
    commit_init(disk);
    state_init(disk);
}

static int allocate(struct disk *disk, const char *directory)
{
    size_t bytes = strlen(directory) + sizeof "/catalogue";
    disk->directory = heap_strdup(directory);
    disk->catalogue_path = heap_alloc(bytes);
    disk->segments = heap_calloc(DISK_SEGMENTS_MAX, sizeof(struct segment *));
    disk->batch = catalogue_batch_create();
    disk->commit.batch = catalogue_batch_create();
    if (disk->directory == NULL || disk->catalogue_path == NULL || disk->segments == NULL ||
        disk->batch == NULL || disk->commit.batch == NULL || kinds_init(&disk->kinds) != ST_OK) {
        return ST_NO_MEMORY;
    }
    (void)snprintf(disk->catalogue_path, bytes, "%s/catalogue", directory);
    return ST_OK;
}

int disk_make(const struct disk_options *options, struct disk **disk_out, struct error *error)
{
    int status = check_options(options, error);
    if (status != ST_OK) {
        return status;
    }
    struct disk *disk = heap_calloc(1, sizeof *disk);
    if (disk == NULL) {
        return error_set(error, ST_NO_MEMORY, "disk: no memory");
    }
    disk->magic = DISK_MAGIC;
    disk->options = *options;
    init_plain(disk);
    status = allocate(disk, options->directory);
    if (status == ST_OK) {
        status = open_directory(disk, error);
    } else {
        (void)error_set(error, status, "no memory");
    }
    if (status != ST_OK) {
        (void)error_wrap(error, "disk: %s", options->directory);
        disk_unmake(disk);
        return status;
    }
    *disk_out = disk;
    return ST_OK;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        (void)close(fd);
    }
}

void disk_unmake(struct disk *disk)
{
    disk_io_destroy(disk->io);
    worker_destroy(disk->filer);
    worker_destroy(disk->committer);
    for (uint32_t i = 0; disk->segments != NULL && i < DISK_SEGMENTS_MAX; i++) {
        struct segment *segment = disk->segments[i];
        if (segment != NULL) {
            segment->attached = false;
            segment_forget(disk, segment);
        }
    }
    catalogue_batch_destroy(disk->batch);
    catalogue_batch_destroy(disk->commit.batch);
    catalogue_close(disk->catalogue);
    kinds_finish(&disk->kinds);
    bounce_pool_finish(&disk->record_pool);
    bounce_pool_finish(&disk->read_pool);
    bounce_pool_finish(&disk->move_pool);
    close_fd(disk->files.directory_fd);
    close_fd(disk->directory_fd);
    close_fd(disk->lock_fd); /* last: with it the directory is another's */
    heap_free(disk->segments);
    heap_free(disk->catalogue_path);
    heap_free(disk->directory);
    disk->magic = 0;
    heap_free(disk);
}

/* ---- open ------------------------------------------------------------------------------------ */

static int start_threads(struct disk *disk, struct error *error)
{
    const struct disk_options *options = &disk->options;
    struct disk_io_options io = {.kind = options->io,
                                 .depth = options->depth,
                                 .jobs_max = disk->slots,
                                 .wake = options->wake,
                                 .wake_arg = options->wake_arg};
    int status = disk_io_create(&io, &disk->io, error);
    if (status != ST_OK) {
        return status;
    }
    if (disk_io_kind(disk->io) == DISK_IO_THREADS && options->io != DISK_IO_THREADS) {
        (void)disk_io_uring_works(disk->io_why, sizeof disk->io_why);
    }
    disk->filer = worker_create("kveik-files", options->wake, options->wake_arg);
    disk->committer = worker_create("kveik-commit", options->wake, options->wake_arg);
    if (disk->filer == NULL || disk->committer == NULL) {
        return error_set(error, ST_NO_MEMORY, "a thread cannot be started");
    }
    return ST_OK;
}

int disk_open(const struct disk_options *options, disk_restore_cb restore, void *ctx,
              struct disk **disk_out, struct error *error)
{
    KVEIK_ASSERT(options != NULL && restore != NULL && disk_out != NULL);
    uint64_t began_ms = clock_ms();
    struct start start = {.restore = restore, .ctx = ctx};
    struct disk *disk = NULL;
    int status = disk_make(options, &disk, error);
    if (status != ST_OK) {
        return status;
    }
    KVEIK_ASSERT(disk != NULL);
    status = start_threads(disk, error);
    if (status == ST_OK) {
        status = disk_start(disk, &start, error);
    }
    if (status != ST_OK) {
        (void)error_wrap(error, "disk: %s", options->directory);
        disk_unmake(disk);
        return status;
    }
    (void)space_look(disk); /* if it fails, two segments until it succeeds */
    disk->state_told = disk->state;
    disk->start_ms = clock_ms() - began_ms;
    *disk_out = disk;
    return ST_OK;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void take_jobs(struct disk *disk)
{
    for (struct disk_io_job *job = disk_io_reap(disk->io); job != NULL;
         job = disk_io_reap(disk->io)) {
        if (job->write) {
            record_done(disk, job->owner);
        } else {
            read_finished(disk, job->owner);
        }
    }
}

static void filer_done(struct disk *disk, struct task *task)
{
    if (task == &disk->space.task) {
        space_done(disk);
        return;
    }
    for (int i = 0; i < STREAM_COUNT; i++) {
        if (task == &disk->streams[i].make.task) {
            stream_made(disk, &disk->streams[i].make);
        }
    }
}

static void take_tasks(struct disk *disk)
{
    for (struct task *task = worker_reap(disk->filer); task != NULL;
         task = worker_reap(disk->filer)) {
        filer_done(disk, task);
    }
    if (worker_reap(disk->committer) != NULL) {
        commit_done(disk);
    }
}

static void turn(struct disk *disk)
{
    take_jobs(disk);
    take_tasks(disk);
    state_update(disk);
    reads_pump(disk);
    writes_pump(disk);
}

static bool next_lost(struct disk *disk, struct disk_event *event)
{
    if (disk->lost_untold == 0) {
        return false;
    }
    for (uint32_t i = 0; i < DISK_SEGMENTS_MAX; i++) {
        struct segment *segment = disk->segments[i];
        if (segment != NULL && segment->lost && !segment->lost_told) {
            segment->lost_told = true;
            disk->lost_untold--;
            *event = (struct disk_event){.kind = DISK_SEGMENT_LOST, .u.segment = i};
            return true;
        }
    }
    KVEIK_UNREACHABLE("a lost segment stays until it is told");
}

static bool same_state(const struct disk_state *a, const struct disk_state *b)
{
    return a->segments_max == b->segments_max && a->readable == b->readable &&
           a->writable == b->writable;
}

static bool next_notice(struct disk *disk, struct disk_event *event)
{
    if (next_lost(disk, event)) {
        return true;
    }
    if (disk->committed_told != disk->committed_epoch) {
        disk->committed_told = disk->committed_epoch;
        *event = (struct disk_event){.kind = DISK_COMMITTED, .u.epoch = disk->committed_epoch};
        return true;
    }
    if (!same_state(&disk->state, &disk->state_told)) {
        disk->state_told = disk->state;
        *event = (struct disk_event){.kind = DISK_STATE, .u.state = disk->state};
        return true;
    }
    return false;
}

bool disk_reap(struct disk *disk, struct disk_event *event_out)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    if (queue_empty(&disk->written) && queue_empty(&disk->read_done)) {
        turn(disk);
    }
    struct disk_write *write = write_hand_out(disk);
    if (write != NULL) {
        *event_out = (struct disk_event){.kind = DISK_WRITTEN, .u.write = write};
        return true;
    }
    struct disk_read *read = read_hand_out(disk);
    if (read != NULL) {
        *event_out = (struct disk_event){.kind = DISK_READ, .u.read = read};
        return true;
    }
    commit_pump(disk);
    return next_notice(disk, event_out);
}

void disk_tick(struct disk *disk)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    space_pump(disk);
    turn(disk);
    commit_pump(disk);
}

/* ---- close ----------------------------------------------------------------------------------- */

static void wait_commit(struct disk *disk)
{
    if (disk->commit.running) {
        (void)worker_wait(disk->committer);
        commit_done(disk);
    }
}

/* Segments in streams are closed; those that hold nothing go. */
static void close_streams(struct disk *disk)
{
    for (int i = 0; i < STREAM_COUNT; i++) {
        struct stream *stream = &disk->streams[i];
        struct segment *held[] = {stream->open, stream->next};
        for (size_t j = 0; j < ARRAY_COUNT(held); j++) {
            if (held[j] != NULL) {
                segment_detach(disk, held[j]);
                segment_release(disk, held[j]);
            }
        }
    }
}

static void wait_filer(struct disk *disk)
{
    while (disk->space.running || disk->streams[STREAM_FRESH].making ||
           disk->streams[STREAM_SURVIVORS].making) {
        filer_done(disk, worker_wait(disk->filer));
    }
}

void disk_close(struct disk *disk)
{
    if (disk == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    KVEIK_ASSERT(disk->jobs == 0);
    wait_filer(disk);
    close_streams(disk);
    wait_commit(disk);
    if (disk->commit.failed) {
        commit_again(disk);
        wait_commit(disk);
    }
    for (int i = 0; i < CLOSE_COMMITS && !disk->commit.failed &&
                    (commit_wanted(disk) || disk->dirty_count > 0);
         i++) {
        if (!commit_begin(disk)) {
            break;
        }
        wait_commit(disk);
    }
    if (disk->commit.failed) {
        log_write(disk->options.log, LOG_LEVEL_ERROR, "disk", "closed without the last commit: %s",
                  disk->commit.error.text);
    }
    log_limit_flush(disk->options.log, &disk->log_limit, "disk");
    disk_unmake(disk);
}

/* ---- what it tells --------------------------------------------------------------------------- */

const uint8_t *disk_secret(const struct disk *disk)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    return disk->files.store.secret;
}

static uint64_t file_bytes(const struct disk *disk)
{
    uint64_t sum = 0;
    for (uint32_t i = 0, seen = 0; i < DISK_SEGMENTS_MAX && seen < disk->segment_count; i++) {
        const struct segment *segment = disk->segments[i];
        if (segment != NULL) {
            sum += segment->attached ? disk->options.segment_bytes : segment->used;
            seen++;
        }
    }
    return sum;
}

void disk_status(struct disk *disk, struct disk_status *status_out)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    struct disk_status status = {
        .counters = disk->counters,
        .io = disk_io_kind(disk->io),
        .state = disk->state,
        .segments = disk->segment_count,
        .segment_file_bytes = file_bytes(disk),
        .catalogue_bytes = disk->catalogue_bytes,
        .file_system_free_bytes = disk->free_bytes,
        .epoch = disk->epoch,
        .committed_epoch = disk->committed_epoch,
        .start_ms = disk->start_ms,
        .in_flight = disk->jobs,
    };
    (void)snprintf(status.io_why, sizeof status.io_why, "%s", disk->io_why);
    (void)snprintf(status.last_error, sizeof status.last_error, "%s", disk->last_error);
    *status_out = status;
}
