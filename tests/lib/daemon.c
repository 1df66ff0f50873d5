#include "tests/lib/daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"

enum { START_MS = 20000, STEP_US = 2000, ARGUMENTS_MAX = 32, LOG_BYTES_MAX = 8 * 1024 * 1024 };

static void nap(void)
{
    struct timespec step = {.tv_nsec = STEP_US * 1000};
    (void)nanosleep(&step, NULL);
}

void daemon_init(struct daemon *daemon)
{
    *daemon = (struct daemon){0};
    (void)snprintf(daemon->folder, sizeof daemon->folder, "/tmp/kveik-test-XXXXXX");
    KVEIK_ASSERT(mkdtemp(daemon->folder) != NULL);
    (void)snprintf(daemon->socket, sizeof daemon->socket, "%s/engine.sock", daemon->folder);
    (void)snprintf(daemon->log, sizeof daemon->log, "%s/log", daemon->folder);
    (void)snprintf(daemon->disk, sizeof daemon->disk, "%s/disk", daemon->folder);
}

static bool answers(const struct daemon *daemon)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)memcpy(address.sun_path, daemon->socket, strlen(daemon->socket) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    (void)close(fd);
    return connected;
}

static _Noreturn void become(const struct daemon *daemon, const char *const *arguments)
{
    const char *program = secure_getenv("KVEIKD");
    union {
        const char *given;
        char *passed;
    } words[ARGUMENTS_MAX];
    char *argv[ARGUMENTS_MAX + 1];
    size_t count = 0;
    words[count++].given = program != NULL ? program : KVEIKD_PATH;
    words[count++].given = "--socket";
    words[count++].given = daemon->socket;
    for (size_t i = 0; arguments != NULL && arguments[i] != NULL && count < ARGUMENTS_MAX; i++) {
        words[count++].given = arguments[i];
    }
    for (size_t i = 0; i < count; i++) {
        argv[i] = words[i].passed;
    }
    argv[count] = NULL;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): after fork there is one thread */
    (void)setenv("KVEIK_DISK", "no", 0); /* tests that want a disk say --disk=yes */
    for (const char *const *name = daemon->environment; name != NULL && *name != NULL; name += 2) {
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): as before */
        (void)setenv(name[0], name[1], 1);
    }
    int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)dup2(log, STDERR_FILENO);
    (void)execv(argv[0], argv);
    _exit(127);
}

bool daemon_start(struct daemon *daemon, const char *const *arguments)
{
    KVEIK_ASSERT(daemon->pid == 0);
    daemon->pid = fork();
    if (daemon->pid == 0) {
        become(daemon, arguments);
    }
    uint64_t until = clock_ms() + START_MS;
    while (clock_ms() < until) {
        if (answers(daemon)) {
            return true;
        }
        if (waitpid(daemon->pid, NULL, WNOHANG) != 0) {
            daemon->pid = 0;
            return false;
        }
        nap();
    }
    return false;
}

int daemon_stop(struct daemon *daemon)
{
    (void)kill(daemon->pid, SIGTERM);
    int status = 0;
    uint64_t until = clock_ms() + START_MS;
    while (waitpid(daemon->pid, &status, WNOHANG) == 0) {
        if (clock_ms() > until) {
            daemon_kill(daemon);
            return -1;
        }
        nap();
    }
    daemon->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool daemon_ended(struct daemon *daemon, uint32_t timeout_ms)
{
    uint64_t until = clock_ms() + timeout_ms;
    while (waitpid(daemon->pid, NULL, WNOHANG) == 0) {
        if (clock_ms() > until) {
            return false;
        }
        nap();
    }
    daemon->pid = 0;
    return true;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    return remove(path);
}

void daemon_kill(struct daemon *daemon)
{
    if (daemon->pid != 0) {
        (void)kill(daemon->pid, SIGKILL);
        (void)waitpid(daemon->pid, NULL, 0);
        daemon->pid = 0;
    }
}

void daemon_finish(struct daemon *daemon)
{
    daemon_kill(daemon);
    (void)unlink(daemon->socket);
    (void)unlink(daemon->log);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the tree is the test's own */
    (void)nftw(daemon->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static bool log_has(const struct daemon *daemon, const char *text)
{
    int fd = open(daemon->log, O_RDONLY | O_CLOEXEC);
    char *all = heap_alloc(LOG_BYTES_MAX);
    KVEIK_ASSERT(fd >= 0 && all != NULL);
    ssize_t used = 0;
    ssize_t got = 0;
    while (used < LOG_BYTES_MAX - 1 &&
           (got = read(fd, all + used, (size_t)(LOG_BYTES_MAX - 1 - used))) > 0) {
        used += got;
    }
    all[used] = '\0';
    bool found = strstr(all, text) != NULL;
    heap_free(all);
    (void)close(fd);
    return found;
}

bool daemon_logged(const struct daemon *daemon, const char *text, uint32_t timeout_ms)
{
    uint64_t until = clock_ms() + timeout_ms;
    while (!log_has(daemon, text)) {
        if (clock_ms() > until) {
            return false;
        }
        nap();
    }
    return true;
}

uint32_t daemon_descriptors(const struct daemon *daemon)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon->pid);
    DIR *folder = opendir(path);
    uint32_t count = 0;
    KVEIK_ASSERT(folder != NULL);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this function's own */
    while (readdir(folder) != NULL) {
        count++;
    }
    (void)closedir(folder);
    return count;
}

uint32_t daemon_mappings(const struct daemon *daemon)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/maps", (int)daemon->pid);
    FILE *maps = fopen(path, "re");
    uint32_t count = 0;
    KVEIK_ASSERT(maps != NULL);
    for (int c = fgetc(maps); c != EOF; c = fgetc(maps)) {
        count += c == '\n' ? 1 : 0;
    }
    (void)fclose(maps);
    return count;
}
