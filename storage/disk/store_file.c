#include "storage/disk/store_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"

static const char name[] = "STORE";
static const char name_new[] = "STORE.new";

static int open_at(int directory_fd, const char *file, int flags)
{
    if (fault_fires(FAULT_OPEN)) {
        errno = EIO;
        return -1;
    }
    return openat(directory_fd, file, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

/* ST_OK, ST_MISS: there is none; ST_CORRUPT, ST_VERSION, ST_IO. */
static int read_store(int directory_fd, struct format_store *store_out, struct error *error)
{
    uint8_t bytes[FORMAT_STORE_BYTES + 1];
    int fd = open_at(directory_fd, name, O_RDONLY);
    if (fd < 0) {
        return errno == ENOENT ? ST_MISS
                               : error_errno(error, ST_IO, errno, "STORE cannot be opened");
    }
    ssize_t got = -1;
    errno = EIO;
    if (!fault_fires(FAULT_FILE)) {
        got = read(fd, bytes, sizeof bytes);
    }
    int status = got >= 0 ? format_store_decode(bytes, (uint64_t)got, store_out)
                          : error_errno(error, ST_IO, errno, "STORE cannot be read");
    (void)close(fd);
    return status;
}

static int write_new(int directory_fd, const uint8_t bytes[FORMAT_STORE_BYTES])
{
    int fd = open_at(directory_fd, name_new, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0) {
        return -1;
    }
    ssize_t wrote = -1;
    errno = EIO;
    if (!fault_fires(FAULT_FILE)) {
        wrote = write(fd, bytes, FORMAT_STORE_BYTES);
    }
    int failed = wrote == FORMAT_STORE_BYTES && !fault_fires(FAULT_SYNC) ? fsync(fd) : -1;
    (void)close(fd);
    return failed;
}

static int write_store(int directory_fd, const struct format_store *store, struct error *error)
{
    uint8_t bytes[FORMAT_STORE_BYTES];
    format_store_encode(store, bytes);
    if (write_new(directory_fd, bytes) != 0 ||
        renameat(directory_fd, name_new, directory_fd, name) != 0 || fsync(directory_fd) != 0) {
        return error_errno(error, ST_IO, errno, "STORE cannot be written");
    }
    return ST_OK;
}

static int make_store(struct format_store *store_out, struct error *error)
{
    struct format_store store = {.made_s = (uint64_t)time(NULL)};
    if (getrandom(store.id, sizeof store.id, 0) != (ssize_t)sizeof store.id ||
        getrandom(store.secret, sizeof store.secret, 0) != (ssize_t)sizeof store.secret) {
        return error_errno(error, ST_IO, errno, "no random bytes for a new store");
    }
    *store_out = store;
    return ST_OK;
}

static int refuse_version(struct error *error)
{
    return error_set(error, ST_VERSION,
                     "the store has another format than this daemon's (%d): run the version that "
                     "made it, or give an empty directory; nothing was changed",
                     DISK_FORMAT_VERSION);
}

int store_file_load(int directory_fd, struct segment_files *files, struct error *error)
{
    int found = read_store(directory_fd, &files->store, error);
    if (found == ST_OK || found == ST_IO) {
        return found;
    }
    int status = found == ST_VERSION ? ST_VERSION : segment_find_store(files, &files->store, error);
    if (status == ST_VERSION) {
        return refuse_version(error);
    }
    if (status == ST_CORRUPT || (status == ST_MISS && found == ST_CORRUPT)) {
        return error_set(error, ST_CORRUPT,
                         "STORE is %s and no segment tells what stood in it: move the directory "
                         "away to begin with an empty one",
                         found == ST_MISS ? "missing" : "damaged");
    }
    if (status == ST_MISS) {
        status = make_store(&files->store, error);
    } else if (status == ST_OK) {
        log_write(files->log, LOG_LEVEL_WARN, "disk",
                  "STORE was %s: written again from a segment's header",
                  found == ST_MISS ? "missing" : "damaged");
    }
    return status == ST_OK ? write_store(directory_fd, &files->store, error) : status;
}
