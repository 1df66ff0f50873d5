/*
 * /proc/self/mountinfo says where control groups are mounted and which part of their tree that
 * mount shows; /proc/self/cgroup says where in the tree this process is. Both versions may be there
 * at once, and a container may see its own group as the root. So every mount that could hold a
 * memory limit is followed from the process's group up to the mount point, and the tightest level
 * counts.
 */
#include "storage/cpu/limits.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/size.h"

enum { TEXT_MAX = 1024, LINE_MAX_BYTES = 2 * TEXT_MAX };

/* What differs between the two versions. */
struct version {
    const char *limit_file;
    const char *usage_file;
    const char *cache_field; /* of memory.stat: file cache that can be dropped, children's too */
};

static const struct version version_1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                         "total_inactive_file"};
static const struct version version_2 = {"memory.max", "memory.current", "inactive_file"};

static FILE *open_below(const char *root, const char *path)
{
    char name[LINE_MAX_BYTES];
    int length = snprintf(name, sizeof name, "%s%s", root, path);
    if (length < 0 || (size_t)length >= sizeof name || fault_fires(FAULT_FILE)) {
        return NULL;
    }
    return fopen(name, "re");
}

/* False for words, such as "max". */
static bool parse_number(const char *text, uint64_t *value_out)
{
    return number_prefix(text, 10, value_out) != NULL;
}

/* The number behind `field` and any colon or blanks; the file's first number when field is "". */
static bool read_number(const char *root, const char *path, const char *field, uint64_t *value_out)
{
    FILE *file = open_below(root, path);
    if (file == NULL) {
        return false;
    }
    char line[256];
    size_t length = strlen(field);
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        bool whole = strncmp(line, field, length) == 0 &&
                     (length == 0 || line[length] == ' ' || line[length] == ':');
        found = whole && parse_number(line + length + (line[length] == ':' ? 1 : 0), value_out);
    }
    (void)fclose(file);
    return found;
}

static bool read_group_number(const char *root, const char *group, const char *file,
                              const char *field, uint64_t *value_out)
{
    char path[LINE_MAX_BYTES];
    int length = snprintf(path, sizeof path, "%s/%s", group, file);
    return length > 0 && (size_t)length < sizeof path && read_number(root, path, field, value_out);
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What one group leaves; UINT64_MAX without a limit. */
static uint64_t group_available(const char *root, const char *group, const struct version *version)
{
    uint64_t limit = 0;
    uint64_t used = 0;
    uint64_t cache = 0;
    if (!read_group_number(root, group, version->limit_file, "", &limit)) {
        return UINT64_MAX;
    }
    (void)read_group_number(root, group, version->usage_file, "", &used);
    (void)read_group_number(root, group, "memory.stat", version->cache_field, &cache);
    used -= less(cache, used);
    return limit - less(used, limit);
}

/* The tightest of the groups from `path` (mount point and path below it) up to the mount point,
 * whose length is mount_length. Consumes `path`. */
static uint64_t chain_available(const char *root, char *path, size_t mount_length,
                                const struct version *version)
{
    uint64_t available = UINT64_MAX;
    for (;;) {
        available = less(available, group_available(root, path, version));
        char *slash = strrchr(path, '/');
        if (slash == NULL || (size_t)(slash - path) < mount_length) {
            return available;
        }
        *slash = '\0';
    }
}

static bool listed(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; at != NULL && *at != '\0';) {
        const char *comma = strchr(at, ',');
        size_t here = comma == NULL ? strlen(at) : (size_t)(comma - at);
        if (here == length && strncmp(at, word, length) == 0) {
            return true;
        }
        at = comma == NULL ? NULL : comma + 1;
    }
    return false;
}

/* The process's path in the tree with the memory controller (v1) or in the unified tree (v2). */
static bool read_own_group(const char *root, bool unified, char path_out[TEXT_MAX])
{
    FILE *file = open_below(root, "/proc/self/cgroup");
    if (file == NULL) {
        return false;
    }
    char line[TEXT_MAX];
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) { /* "4:memory:/a/b", "0::/a/b" */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (path == NULL) {
            continue;
        }
        controllers++;
        *path++ = '\0';
        found = unified ? *controllers == '\0' : listed(controllers, "memory");
        if (found) {
            (void)snprintf(path_out, TEXT_MAX, "%s", path);
        }
    }
    (void)fclose(file);
    return found;
}

/* The fields of a mountinfo line that matter here; pointers into the line. */
struct mount {
    char *tree; /* what of the file system the mount shows, "/" for all */
    char *point;
    const char *type;
    const char *options;
};

static char *next_word(char **rest)
{
    return strtok_r(NULL, " \n", rest);
}

static bool parse_mount(char *line, struct mount *mount_out)
{
    char *rest = NULL;
    if (strtok_r(line, " \n", &rest) == NULL || next_word(&rest) == NULL ||
        next_word(&rest) == NULL) {
        return false;
    }
    mount_out->tree = next_word(&rest);
    mount_out->point = next_word(&rest);
    const char *word = next_word(&rest);
    while (word != NULL && strcmp(word, "-") != 0) {
        word = next_word(&rest);
    }
    mount_out->type = next_word(&rest);
    (void)next_word(&rest);
    mount_out->options = next_word(&rest);
    return mount_out->options != NULL;
}

static uint64_t mount_available(const char *root, const struct mount *mount)
{
    bool unified = strcmp(mount->type, "cgroup2") == 0;
    if (!unified && (strcmp(mount->type, "cgroup") != 0 || !listed(mount->options, "memory"))) {
        return UINT64_MAX;
    }
    char own[TEXT_MAX];
    if (!read_own_group(root, unified, own)) {
        return UINT64_MAX;
    }
    /* a mount may show only a part of the tree: our path begins below that part, or, in a
     * container that does not see its own path, the mount's top is all there is */
    const char *below = own;
    if (strcmp(mount->tree, "/") != 0) {
        size_t shown = strlen(mount->tree);
        bool inside =
            strncmp(own, mount->tree, shown) == 0 && (own[shown] == '/' || own[shown] == '\0');
        below = inside ? own + shown : "";
    }
    char path[LINE_MAX_BYTES];
    int length =
        snprintf(path, sizeof path, "%s%s", mount->point, strcmp(below, "/") == 0 ? "" : below);
    if (length < 0 || (size_t)length >= sizeof path) {
        return UINT64_MAX;
    }
    return chain_available(root, path, strlen(mount->point), unified ? &version_2 : &version_1);
}

uint64_t limits_available_bytes(const char *root)
{
    uint64_t machine_kib = 0;
    uint64_t available = UINT64_MAX;
    if (read_number(root, "/proc/meminfo", "MemAvailable", &machine_kib)) {
        available = machine_kib * 1024;
    }
    FILE *file = open_below(root, "/proc/self/mountinfo");
    if (file != NULL) {
        char line[TEXT_MAX];
        struct mount mount;
        while (fgets(line, sizeof line, file) != NULL) {
            if (parse_mount(line, &mount)) {
                available = less(available, mount_available(root, &mount));
            }
        }
        (void)fclose(file);
    }
    return available == UINT64_MAX ? 0 : available;
}
