/* Settings, the lock, the count of calls, and the moment when the power goes. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/size.h"
#include "base/status.h"
#include "tests/lib/powerloss/powerloss.h"

enum { FD_MIN = 512, MESSAGE_BYTES = 512 };

static struct {
    atomic_bool on;  /* this process is simulated */
    atomic_bool off; /* the power is */
    pid_t pid;
    pthread_mutex_t mutex;
    char tree[PATH_MAX];
    char hidden[PATH_MAX];
    int hidden_fd; /* -1: not made */
    enum pl_mode mode;
    uint64_t calls_left; /* 0: no limit */
    struct rng rng;
    atomic_uint_fast64_t sequence;
    int signal_fds[2];
} state = {.mutex = PTHREAD_MUTEX_INITIALIZER, .hidden_fd = -1};

void pl_message(const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int bytes = snprintf(text, sizeof text, "powerloss: ");
    bytes += vsnprintf(text + bytes, sizeof text - (size_t)bytes - 1, format, args);
    va_end(args);
    bytes = bytes < (int)sizeof text - 2 ? bytes : (int)sizeof text - 2;
    text[bytes++] = '\n';
    (void)syscall(SYS_write, STDERR_FILENO, text, (size_t)bytes);
}

void pl_fail(const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pl_message("%s", text);
    abort();
}

uint64_t pl_random(uint64_t bound)
{
    return rng_below(&state.rng, bound);
}

enum pl_mode pl_mode(void)
{
    return state.mode;
}

uint64_t pl_sequence(void)
{
    return atomic_fetch_add(&state.sequence, 1) + 1;
}

bool pl_in_tree(const char *path)
{
    size_t bytes = strlen(state.tree);
    return strncmp(path, state.tree, bytes) == 0 && (path[bytes] == '\0' || path[bytes] == '/');
}

int pl_move_fd(int fd)
{
    if (fd < 0) {
        return -1;
    }
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, FD_MIN);
    (void)raw_close(fd);
    return moved;
}

int pl_hidden_dir(void)
{
    if (state.hidden_fd < 0) {
        int made = raw_mkdirat(AT_FDCWD, state.hidden, S_IRWXU);
        int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
        state.hidden_fd = pl_move_fd(raw_openat(AT_FDCWD, state.hidden, flags, 0));
        if ((made != 0 && errno != EEXIST) || state.hidden_fd < 0) {
            pl_fail("%s: %s", state.hidden, strerrordesc_np(errno));
        }
    }
    return state.hidden_fd;
}

bool pl_fd_in_tree(int fd, struct stat *status_out)
{
    if (!atomic_load_explicit(&state.on, memory_order_relaxed) || fstat(fd, status_out) != 0 ||
        (!S_ISREG(status_out->st_mode) && !S_ISDIR(status_out->st_mode))) {
        return false;
    }
    char entry[32];
    char target[PATH_MAX];
    (void)snprintf(entry, sizeof entry, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(entry, target, sizeof target - 1);
    if (bytes <= 0) {
        return false;
    }
    target[bytes] = '\0'; /* " (deleted)" may be at its end */
    return pl_in_tree(target);
}

/* ---- the lock and the cut -------------------------------------------------------------------- */

static void drop_hidden_dir(void)
{
    if (state.hidden_fd >= 0) {
        (void)raw_unlinkat(AT_FDCWD, state.hidden, AT_REMOVEDIR);
    }
}

static _Noreturn void cut(void)
{
    atomic_store(&state.off, true);
    if (state.mode != PL_KEEP) {
        file_cut();
        name_cut();
        drop_hidden_dir();
    }
    _exit(PL_EXIT_STATUS);
}

void pl_halt_if_off(void)
{
    while (atomic_load(&state.off)) {
        (void)pause();
    }
}

bool pl_enter(void)
{
    if (!atomic_load_explicit(&state.on, memory_order_relaxed) || getpid() != state.pid) {
        return false;
    }
    (void)pthread_mutex_lock(&state.mutex);
    return true;
}

void pl_leave(void)
{
    int errnum = errno;
    (void)pthread_mutex_unlock(&state.mutex);
    errno = errnum;
}

bool pl_last_call(void)
{
    return state.calls_left == 1;
}

void pl_leave_changed(void)
{
    if (state.calls_left > 0 && --state.calls_left == 0) {
        cut();
    }
    pl_leave();
}

static void on_signal(int number)
{
    (void)number;
    (void)!syscall(SYS_write, state.signal_fds[1], "x", (size_t)1);
}

static void *wait_for_signal(void *arg)
{
    char byte = 0;
    (void)arg;
    while (syscall(SYS_read, state.signal_fds[0], &byte, (size_t)1) != 1) {
    }
    (void)pthread_mutex_lock(&state.mutex);
    cut();
}

/* ---- start and end --------------------------------------------------------------------------- */

static uint64_t number_setting(const char *name)
{
    const char *text = getenv(name);
    uint64_t number = 0;
    if (text != NULL && number_parse(text, &number, NULL) != ST_OK) {
        pl_fail("%s=%s: not a number", name, text);
    }
    return number;
}

static enum pl_mode mode_setting(void)
{
    const char *text = getenv("KVEIK_POWERLOSS_MODE");
    static const char *const modes[] = {"random", "holes", "drop", "keep"};
    for (int mode = PL_RANDOM; mode <= PL_KEEP; mode++) {
        if (strcmp(text == NULL ? "random" : text, modes[mode]) == 0) {
            return (enum pl_mode)mode;
        }
    }
    pl_fail("KVEIK_POWERLOSS_MODE=%s: random, holes, drop or keep", text);
}

/* The tree need not be there yet; what it lies in must be. */
static void find_tree(const char *text)
{
    char above[PATH_MAX];
    char copy[PATH_MAX];
    size_t bytes = strlen(text);
    while (bytes > 1 && text[bytes - 1] == '/') {
        bytes--;
    }
    if (bytes == 0 || bytes >= sizeof copy) {
        pl_fail("KVEIK_POWERLOSS_DIR=%s: not a directory's path", text);
    }
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    char *slash = strrchr(copy, '/');
    const char *name = slash == NULL ? copy : slash + 1;
    if (slash != NULL) {
        *slash = '\0';
    }
    const char *parent = slash == NULL ? "." : slash == copy ? "/" : copy;
    if (realpath(parent, above) == NULL) {
        pl_fail("%s: %s", parent, strerrordesc_np(errno));
    }
    int tree = snprintf(state.tree, sizeof state.tree, "%s/%s", above, name);
    int hidden = snprintf(state.hidden, sizeof state.hidden, "%s/.powerloss-%d", above, state.pid);
    if (tree >= (int)sizeof state.tree || hidden >= (int)sizeof state.hidden) {
        pl_fail("KVEIK_POWERLOSS_DIR=%s: too long", text);
    }
}

static void listen_to_signal(void)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) {
        pl_fail("pipe: %s", strerrordesc_np(errno));
    }
    state.signal_fds[0] = pl_move_fd(fds[0]);
    state.signal_fds[1] = pl_move_fd(fds[1]);
    sigset_t blocked;
    sigset_t before;
    pthread_t thread;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    (void)sigfillset(&blocked);
    (void)pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int failed = pthread_create(&thread, NULL, wait_for_signal, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0 || pthread_detach(thread) != 0 || sigaction(SIGUSR2, &action, NULL) != 0) {
        pl_fail("cannot listen to SIGUSR2");
    }
}

__attribute__((constructor)) static void start(void)
{
    const char *tree = getenv("KVEIK_POWERLOSS_DIR");
    if (tree == NULL) {
        return;
    }
    state.pid = getpid();
    find_tree(tree);
    state.mode = mode_setting();
    state.calls_left = number_setting("KVEIK_POWERLOSS_AFTER");
    state.rng.state = number_setting("KVEIK_POWERLOSS_SEED");
    fault_init(getenv("KVEIK_POWERLOSS_FAIL"));
    listen_to_signal();
    (void)unsetenv("LD_PRELOAD"); /* one process: not what it starts */
    atomic_store(&state.on, true);
}

/* An orderly end: all that was done counts. */
__attribute__((destructor)) static void end(void)
{
    if (pl_enter()) {
        name_all_synced();
        atomic_store(&state.on, false);
        drop_hidden_dir();
        pl_leave();
    }
}
