#include "storage/cpu/smaps.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/size.h"

/* "7f00c0000000-7f00c0200000 rw-p ...": the line that opens a mapping. */
static bool parse_begin(const char *line, uintptr_t *begin_out)
{
    uint64_t begin = 0;
    const char *end = number_prefix(line, 16, &begin);
    if (end == NULL || *end != '-') {
        return false;
    }
    *begin_out = (uintptr_t)begin;
    return true;
}

/* Bytes of a line such as "Rss:      2048 kB" when it is of that field, else 0. */
static uint64_t field_bytes(const char *line, const char *field)
{
    size_t length = strlen(field);
    uint64_t kib = 0;
    bool found =
        strncmp(line, field, length) == 0 && number_prefix(line + length, 10, &kib) != NULL;
    return found ? kib * 1024 : 0;
}

struct smaps_bytes smaps_read(const char *path, const void *begin, const void *end)
{
    struct smaps_bytes sum = {0};
    FILE *file = fault_fires(FAULT_FILE) ? NULL : fopen(path, "re");
    if (file == NULL) {
        return sum;
    }
    char line[512];
    uintptr_t at = 0;
    bool inside = false;
    while (fgets(line, sizeof line, file) != NULL) {
        if (parse_begin(line, &at)) {
            inside = at >= (uintptr_t)begin && at < (uintptr_t)end;
        } else if (inside) {
            uint64_t explicit_huge =
                field_bytes(line, "Private_Hugetlb:") + field_bytes(line, "Shared_Hugetlb:");
            /* explicit huge pages are in no other field */
            sum.resident += field_bytes(line, "Rss:") + explicit_huge;
            sum.huge += field_bytes(line, "AnonHugePages:") + field_bytes(line, "ShmemPmdMapped:") +
                        field_bytes(line, "FilePmdMapped:") + explicit_huge;
        }
    }
    (void)fclose(file);
    return sum;
}
