#include "storage/disk/rebuild.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"

static const char folder[] = "catalogue";
static const char folder_aside[] = "catalogue.damaged-1";

enum { BATCH_ENTRIES = 4096 };

/* ---- the folder ------------------------------------------------------------------------------ */

/* RocksDB's folders hold files only. */
static void remove_folder(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *files = fd >= 0 ? fdopendir(fd) : NULL;
    if (files == NULL) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    const struct dirent *entry = readdir(files); /* NOLINT(concurrency-mt-unsafe): our own */
    while (entry != NULL) {
        (void)unlinkat(fd, entry->d_name, 0); /* . and .. refuse */
        entry = readdir(files);               /* NOLINT(concurrency-mt-unsafe) */
    }
    (void)closedir(files);
    (void)unlinkat(at, name, AT_REMOVEDIR);
}

int catalogue_move_aside(struct disk *disk, struct error *error)
{
    struct stat about;
    if (fstatat(disk->directory_fd, folder, &about, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT) {
        return ST_OK;
    }
    remove_folder(disk->directory_fd, folder_aside);
    errno = EIO;
    if (fault_fires(FAULT_FILE) ||
        renameat(disk->directory_fd, folder, disk->directory_fd, folder_aside) != 0) {
        return error_errno(error, ST_IO, errno, "the catalogue cannot be moved aside");
    }
    return ST_OK;
}

/* ---- obtaining it ---------------------------------------------------------------------------- */

struct mark {
    const struct format_store *store;
    bool fits;
};

static int see_mark(void *ctx, const struct catalogue_item *item)
{
    struct mark *mark = ctx;
    mark->fits = item->value_bytes == FORMAT_ID_BYTES &&
                 memcmp(item->value, mark->store->id, FORMAT_ID_BYTES) == 0;
    return ST_OK;
}

/* ST_CORRUPT: it has to be made again. */
static int open_existing(struct disk *disk, struct error *error)
{
    struct mark mark = {.store = &disk->files.store};
    int status = catalogue_open(disk->catalogue_path, &disk->catalogue, error);
    if (status == ST_OK) {
        status = catalogue_scan(disk->catalogue, CATALOGUE_MARK, see_mark, &mark, error);
    }
    if (status == ST_OK && !mark.fits) {
        status = error_set(error, ST_CORRUPT, "the catalogue is unfinished or another store's");
    }
    if (status != ST_OK) {
        catalogue_close(disk->catalogue);
        disk->catalogue = NULL;
    }
    return status;
}

int catalogue_obtain(struct disk *disk, bool *empty_out, struct error *error)
{
    char current[sizeof folder + 16];
    (void)snprintf(current, sizeof current, "%s/CURRENT", folder);
    bool there = faccessat(disk->directory_fd, current, F_OK, 0) == 0;
    int status = there ? open_existing(disk, error) : ST_CORRUPT;
    *empty_out = status == ST_CORRUPT;
    if (status != ST_CORRUPT) {
        return status;
    }
    if (there) {
        log_write(disk->options.log, LOG_LEVEL_ERROR, "disk",
                  "the catalogue is moved to %s and made again from the segments: %s", folder_aside,
                  error->text);
    }
    status = catalogue_move_aside(disk, error);
    if (status == ST_OK) {
        status = catalogue_open(disk->catalogue_path, &disk->catalogue, error);
    }
    /* a fresh one that is damaged is the device's fault */
    return status == ST_CORRUPT ? ST_IO : status;
}

/* ---- making it again ------------------------------------------------------------------------- */

static int flush(struct disk *disk, struct error *error)
{
    int status = catalogue_write(disk->catalogue, disk->batch, error);
    catalogue_batch_clear(disk->batch);
    return status;
}

/* The catalogue's number of a record's kind, put into it when it is new. Not inlined: its buffer
 * would lie beside the caller's. */
__attribute__((noinline)) static int kind_of(struct disk *disk, const struct disk_kind *kind,
                                             uint32_t *number_out)
{
    int status = kinds_number(&disk->kinds, kind, number_out);
    if (status != ST_OK) {
        return status;
    }
    struct kind_entry *entry = kinds_get(&disk->kinds, *number_out);
    if (!entry->stored) {
        uint32_t bytes = format_kind_encode(&entry->kind, disk->scratch);
        catalogue_put_kind(disk->batch, *number_out, disk->scratch, bytes);
        entry->stored = true;
    }
    return ST_OK;
}

static int see_record(void *ctx, const struct format_record *record)
{
    struct disk *disk = ctx;
    for (uint32_t i = 0; i < record->part_count; i++) {
        struct format_part part = record->parts[i];
        int status = kind_of(disk, &record->kinds[part.part.kind], &part.part.kind);
        if (status == ST_LIMIT) {
            continue; /* a kind too many: its parts are missed, no more */
        }
        if (status != ST_OK) {
            return status;
        }
        uint32_t bytes = format_part_encode(&part, disk->scratch);
        catalogue_put_part(disk->batch, record->segment, part.offset, disk->scratch, bytes);
        disk->counters.rebuilt_parts++;
    }
    return catalogue_batch_count(disk->batch) >= BATCH_ENTRIES ? flush(disk, NULL) : ST_OK;
}

int rebuild_catalogue(struct disk *disk, struct error *error)
{
    catalogue_batch_clear(disk->batch);
    for (uint32_t i = 0; i < disk->kinds.count; i++) {
        struct kind_entry *entry = kinds_get(&disk->kinds, i);
        if (entry != NULL) {
            entry->stored = false;
        }
    }
    for (uint32_t i = 0; i < DISK_SEGMENTS_MAX; i++) {
        if (disk->segments[i] == NULL) {
            continue;
        }
        struct error failed = {0};
        int status =
            segment_scan(&disk->files, disk->segments[i]->number, see_record, disk, &failed);
        if (status == ST_NO_MEMORY) {
            return error_set(error, status, "%s", failed.text);
        }
        if (status != ST_OK) {
            log_write(disk->options.log, LOG_LEVEL_ERROR, "disk", "%s", failed.text);
        }
    }
    catalogue_put_mark(disk->batch, disk->files.store.id, FORMAT_ID_BYTES);
    return flush(disk, error);
}
