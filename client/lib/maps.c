/* What lies where in this process, from /proc/self/maps. */
#include "client/lib/maps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/size.h"

enum { READ_BYTES = 64 * 1024, SEGMENTS_FIRST = 16 };

/* The whole file: it is of one piece only if it is read while nothing is mapped, so lines may be of
 * different moments; a range that nobody else maps or unmaps is right all the same. */
static char *read_all(struct error *error)
{
    errno = ENOENT;
    int fd = fault_fires(FAULT_FILE) ? -1 : open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        (void)error_errno(error, ST_IO, errno, "open /proc/self/maps");
        return NULL;
    }
    size_t capacity = READ_BYTES;
    size_t held = 0;
    char *text = heap_alloc(capacity);
    ssize_t got = 1;
    while (text != NULL && got > 0) {
        if (capacity - held < READ_BYTES / 2) {
            char *larger = heap_realloc(text, 2 * capacity);
            if (larger == NULL) {
                break;
            }
            text = larger;
            capacity *= 2;
        }
        do {
            got = read(fd, text + held, capacity - held - 1);
        } while (got < 0 && errno == EINTR);
        held += got > 0 ? (size_t)got : 0;
    }
    (void)close(fd);
    if (text == NULL || got != 0) {
        (void)error_set(error, got < 0 ? ST_IO : ST_NO_MEMORY, "read /proc/self/maps");
        heap_free(text);
        return NULL;
    }
    text[held] = '\0';
    return text;
}

/* A hexadecimal or decimal number, and what follows it. */
static uint64_t number(char **at, uint32_t base)
{
    uint64_t value = 0;
    const char *end = number_prefix(*at, base, &value);
    *at += end != NULL ? end - *at : 0;
    if (**at != '\0') {
        (*at)++;
    }
    return value;
}

/* One line: begin-end perms offset major:minor inode     name */
static void parse_line(char *line, struct map_segment *out)
{
    *out = (struct map_segment){0};
    char *at = line;
    out->begin = (uintptr_t)number(&at, 16);
    out->end = (uintptr_t)number(&at, 16);
    if (strnlen(at, 5) < 5) {
        return;
    }
    out->readable = at[0] == 'r';
    out->writable = at[1] == 'w';
    out->executable = at[2] == 'x';
    out->shared = at[3] == 's';
    at += 5;
    out->file_offset = number(&at, 16);
    unsigned major_number = (unsigned)number(&at, 16);
    unsigned minor_number = (unsigned)number(&at, 16);
    out->device = makedev(major_number, minor_number);
    out->inode = number(&at, 10);
    while (*at == ' ') {
        at++;
    }
    size_t length = strnlen(at, sizeof out->name - 1);
    (void)memcpy(out->name, at, length);
}

static int append(struct map_segment **segments, size_t *count, size_t *capacity,
                  const struct map_segment *segment)
{
    if (*count == *capacity) {
        size_t larger = *capacity == 0 ? SEGMENTS_FIRST : 2 * *capacity;
        struct map_segment *grown = heap_realloc(*segments, larger * sizeof *grown);
        if (grown == NULL) {
            return ST_NO_MEMORY;
        }
        *segments = grown;
        *capacity = larger;
    }
    (*segments)[(*count)++] = *segment;
    return ST_OK;
}

int maps_read(uintptr_t begin, uintptr_t end, struct map_segment **segments_out, size_t *count_out,
              struct error *error)
{
    char *text = read_all(error);
    if (text == NULL) {
        return error->status;
    }
    struct map_segment *segments = NULL;
    size_t count = 0;
    size_t capacity = 0;
    int status = ST_OK;
    for (char *line = text; status == ST_OK && *line != '\0';) {
        char *next = strchr(line, '\n');
        next = next != NULL ? next : line + strlen(line);
        bool last = *next == '\0';
        *next = '\0';
        struct map_segment segment;
        parse_line(line, &segment);
        if (segment.begin < end && segment.end > begin) {
            status = append(&segments, &count, &capacity, &segment);
        }
        line = last ? next : next + 1;
    }
    heap_free(text);
    if (status != ST_OK) {
        heap_free(segments);
        return error_set(error, status, "no memory for the map of the process");
    }
    *segments_out = segments;
    *count_out = count;
    return ST_OK;
}

bool maps_cover(const struct map_segment *segments, size_t count, uintptr_t begin, uintptr_t end)
{
    uintptr_t at = begin;
    for (size_t i = 0; i < count && at < end; i++) {
        if (segments[i].end <= at) {
            continue;
        }
        if (segments[i].begin > at || !segments[i].readable || !segments[i].writable) {
            return false;
        }
        at = segments[i].end;
    }
    return at >= end;
}

int maps_find_descriptor(uint64_t device, uint64_t inode)
{
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL) {
        return -1;
    }
    int found = -1;
    struct dirent *entry = NULL;
    while (found < 0 && (entry = readdir(folder)) != NULL) { /* NOLINT(concurrency-mt-unsafe) */
        uint64_t fd = 0;
        struct stat info;
        if (number_parse(entry->d_name, &fd, NULL) != ST_OK || fd > INT32_MAX ||
            fstat((int)fd, &info) != 0 || info.st_dev != device || info.st_ino != inode) {
            continue;
        }
        found = fcntl((int)fd, F_DUPFD_CLOEXEC, 0);
        /* another thread may have closed and reused the number in between */
        if (found >= 0 &&
            (fstat(found, &info) != 0 || info.st_dev != device || info.st_ino != inode)) {
            (void)close(found);
            found = -1;
        }
    }
    (void)closedir(folder);
    return found;
}
