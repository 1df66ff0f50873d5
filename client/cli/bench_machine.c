/* Facts about the machine that a figure means nothing without. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/size.h"
#include "client/cli/bench_report.h"

enum { TEXT_BYTES = 4096, CACHES_MAX = 16, NAME_BYTES = 128 };

static const uint64_t cache_guess_bytes = 32u << 20;

/* The file's first bytes without the newline at the end; "" when it cannot be read. */
static void read_text(const char *path, char text[TEXT_BYTES])
{
    text[0] = '\0';
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return;
    }
    ssize_t got = read(file, text, TEXT_BYTES - 1);
    (void)close(file);
    got = got > 0 ? got : 0;
    while (got > 0 && text[got - 1] == '\n') {
        got--;
    }
    text[got] = '\0';
}

uint64_t bench_last_cache_bytes(void)
{
    uint64_t most = 0;
    for (int i = 0; i < CACHES_MAX; i++) {
        char path[NAME_BYTES];
        char text[TEXT_BYTES];
        (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        read_text(path, text);
        uint64_t bytes = 0;
        if (text[0] != '\0' && size_parse(text, &bytes, NULL) == ST_OK && bytes > most) {
            most = bytes;
        }
    }
    return most > 0 ? most : cache_guess_bytes;
}

/* The value behind "name : " in /proc/cpuinfo. */
static void processor_name(char out[NAME_BYTES])
{
    char text[TEXT_BYTES];
    read_text("/proc/cpuinfo", text);
    const char *found = strstr(text, "model name");
    const char *value = found != NULL ? strchr(found, ':') : NULL;
    const char *end = value != NULL ? strchr(value, '\n') : NULL;
    if (end == NULL || end - value < 2) {
        (void)snprintf(out, NAME_BYTES, "unknown");
        return;
    }
    (void)snprintf(out, NAME_BYTES, "%.*s", (int)(end - value - 2), value + 2);
}

struct json_t *bench_machine_facts(void)
{
    char cpu[NAME_BYTES];
    char huge[TEXT_BYTES];
    char shared[TEXT_BYTES];
    struct utsname kernel;
    processor_name(cpu);
    read_text("/sys/kernel/mm/transparent_hugepage/enabled", huge);
    read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", shared);
    if (uname(&kernel) != 0) {
        memset(&kernel, 0, sizeof kernel);
    }
    return json_pack("{s:s, s:s, s:i, s:I, s:s, s:s, s:s}", "version", KVEIK_VERSION, "cpu", cpu,
                     "cores", (int)sysconf(_SC_NPROCESSORS_ONLN), "last_cache_bytes",
                     (json_int_t)bench_last_cache_bytes(), "kernel", kernel.release, "huge_pages",
                     huge, "shared_huge_pages", shared);
}
