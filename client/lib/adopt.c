/*
 * Adoption: private pages become pages of a sealed memfd, in place. The copy is made through a
 * second mapping; then one mremap() moves that mapping over the old pages, which the kernel does
 * under its lock: at no moment is the range unmapped. Writers during the copy would be lost, so
 * the caller promises that there are none.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/size.h"
#include "client/lib/memfd.h"

enum { HUGE_BYTES = 2 * 1024 * 1024, LINE_BYTES = 512 };

#define ADOPTED_NAME "kveik-adopted"

/* One line of /proc/self/maps. */
struct area {
    uint64_t begin;
    uint64_t end;
    char rights[5];
    uint64_t offset;
    uint64_t inode;
    const char *name;
};

static bool area_parse(const char *line, struct area *area)
{
    const char *at = number_prefix(line, 16, &area->begin);
    at = at != NULL && *at == '-' ? number_prefix(at + 1, 16, &area->end) : NULL;
    if (at == NULL || strlen(at) < 6) {
        return false;
    }
    (void)memcpy(area->rights, at + 1, 4);
    area->rights[4] = '\0';
    at = number_prefix(at + 6, 16, &area->offset);
    at = at != NULL ? strchr(at + 1, ' ') : NULL; /* behind the device */
    at = at != NULL ? number_prefix(at, 10, &area->inode) : NULL;
    if (at == NULL) {
        return false;
    }
    area->name = at + strspn(at, " ");
    return true;
}

/* What lies under a range. */
struct survey {
    uint64_t covered;     /* bytes in areas that can be adopted */
    uint64_t adopted_any; /* bytes in areas that were adopted */
    uint64_t adopted;     /* those in the file of the first of them */
    uint64_t adopted_at;  /* file offset of the range in the file of `adopted` */
    uint64_t inode;       /* of that file */
    uint64_t area_begin;  /* of an adopted area, to open its file */
    uint64_t area_end;
    char obstacle[LINE_BYTES]; /* the first line that is neither */
};

static void survey_area(struct survey *survey, const struct area *area, const char *line,
                        uint64_t begin, uint64_t end)
{
    uint64_t from = area->begin > begin ? area->begin : begin;
    uint64_t to = area->end < end ? area->end : end;
    if (from >= to) {
        return;
    }
    bool writable = area->rights[0] == 'r' && area->rights[1] == 'w';
    bool anonymous = area->inode == 0 && strncmp(area->name, "[stack", 6) != 0;
    if (area->rights[3] == 's' && strstr(area->name, "memfd:" ADOPTED_NAME) != NULL) {
        if (survey->adopted == 0) {
            survey->inode = area->inode;
            survey->adopted_at = area->offset + (from - area->begin);
            survey->area_begin = area->begin;
            survey->area_end = area->end;
        }
        survey->adopted += area->inode == survey->inode ? to - from : 0;
        survey->adopted_any += to - from;
    } else if (area->rights[3] == 'p' && writable && anonymous) {
        survey->covered += to - from;
    } else if (survey->obstacle[0] == '\0') {
        (void)snprintf(survey->obstacle, sizeof survey->obstacle, "%.*s", (int)strcspn(line, "\n"),
                       line);
    }
}

static int survey_range(uint64_t begin, uint64_t end, struct survey *survey, struct error *error)
{
    *survey = (struct survey){0};
    FILE *maps = fault_fires(FAULT_FILE) ? NULL : fopen("/proc/self/maps", "re");
    if (maps == NULL) {
        return error_set(error, ST_UNSUPPORTED, "/proc/self/maps cannot be read");
    }
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, maps) != NULL) {
        struct area area;
        if (area_parse(line, &area)) {
            survey_area(survey, &area, line, begin, end);
        }
    }
    (void)fclose(maps);
    return ST_OK;
}

/* Opens the file of an area that was adopted before. */
static int adopted_open(const struct survey *survey, uint64_t skip, struct adopted *adopted,
                        struct error *error)
{
    char path[96];
    (void)snprintf(path, sizeof path, "/proc/self/map_files/%llx-%llx",
                   (unsigned long long)survey->area_begin, (unsigned long long)survey->area_end);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return error_errno(error, ST_UNSUPPORTED, errno, "open the adopted file again");
    }
    *adopted = (struct adopted){.fd = fd, .file_offset = survey->adopted_at + skip};
    return ST_OK;
}

/* The file is as long as it takes for file offset and address to agree modulo 2 MiB (huge pages
 * need that); only the range's part of it is ever written. */
static int adopt_fill(int fd, char *begin, uint64_t bytes, bool huge, struct error *error)
{
    uint64_t lead = (uintptr_t)begin % HUGE_BYTES;
    if (ftruncate(fd, (off_t)(lead + bytes)) != 0) {
        return error_errno(error, ST_NO_MEMORY, errno, "size the memfd to %llu bytes",
                           (unsigned long long)(lead + bytes));
    }
    uint64_t reserved = bytes + 2 * (uint64_t)HUGE_BYTES;
    char *space = fault_fires(FAULT_MMAP)
                      ? MAP_FAILED
                      : mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED) {
        return error_errno(error, ST_NO_MEMORY, errno, "reserve address space");
    }
    uint64_t skip = (HUGE_BYTES - (uintptr_t)space % HUGE_BYTES) % HUGE_BYTES + lead;
    char *copy =
        mmap(space + skip, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)lead);
    int status = ST_OK;
    if (copy == MAP_FAILED) {
        status = error_errno(error, ST_NO_MEMORY, errno, "map the memfd");
    } else {
        if (huge) {
            (void)madvise(copy, bytes, MADV_HUGEPAGE);
        }
        (void)memcpy(copy, begin, bytes);
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
            status = error_errno(error, ST_IO, errno, "seal the memfd");
        } else if (mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, begin) == MAP_FAILED) {
            status = error_errno(error, ST_UNSUPPORTED, errno, "move the memfd over the pages");
        }
    }
    (void)munmap(space, reserved);
    return status;
}

static int adopt_new(char *begin, uint64_t bytes, bool huge, int *fd_out, struct error *error)
{
    int fd =
        fault_fires(FAULT_OPEN) ? -1 : memfd_create(ADOPTED_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "memfd_create");
    }
    int status = adopt_fill(fd, begin, bytes, huge, error);
    if (status != ST_OK) {
        (void)close(fd);
        return status;
    }
    *fd_out = fd;
    return ST_OK;
}

int adopt_range(char *address, uint64_t bytes, struct adopt_options options,
                struct adopted *adopted_out, struct error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t lead = (uintptr_t)address % page;
    char *begin = address - lead;
    uint64_t whole = (lead + bytes + page - 1) / page * page;
    struct survey survey;
    int status = survey_range((uintptr_t)begin, (uintptr_t)begin + whole, &survey, error);
    if (status != ST_OK) {
        return status;
    }
    if (survey.adopted == whole) {
        return adopted_open(&survey, lead, adopted_out, error);
    }
    if (survey.covered + survey.adopted_any != whole) {
        return error_set(error, ST_UNSUPPORTED, "the memory cannot be adopted: %s",
                         survey.obstacle[0] != '\0' ? survey.obstacle
                                                    : "part of the range is not mapped");
    }
    if (survey.adopted_any > 0 && !options.again) {
        return error_set(error, ST_BUSY, "part of the memory was adopted already");
    }
    if (survey.adopted_any > options.own_bytes) {
        return error_set(error, ST_UNSUPPORTED,
                         "the memory shares a page with memory that another client adopted");
    }
    int fd = -1;
    status = adopt_new(begin, whole, options.huge_pages, &fd, error);
    if (status == ST_OK) {
        *adopted_out =
            (struct adopted){.fd = fd, .file_offset = (uintptr_t)begin % HUGE_BYTES + lead};
    }
    return status;
}
