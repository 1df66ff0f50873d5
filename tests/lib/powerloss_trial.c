#include "tests/lib/powerloss_trial.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "base/assert.h"

enum { WALK_FDS = 16, ENVIRONMENT = 256 };

void powerloss_init(struct powerloss_trial *trial)
{
    memset(trial, 0, sizeof *trial);
    (void)snprintf(trial->folder, sizeof trial->folder, "./check_powerloss.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(trial->folder));
    (void)snprintf(trial->tree, sizeof trial->tree, "%s/tree", trial->folder);
    ck_assert_int_eq(mkdir(trial->tree, 0700), 0);
}

/* In the child. */
static _Noreturn void become(const struct powerloss_trial *trial, const char *tree,
                             const char *program, const char *const *argv)
{
    char dir[PATH_MAX + 32];
    const char *environment[ENVIRONMENT] = {
        dir, "LD_PRELOAD=" KVEIK_POWERLOSS_PATH,
        /* the library is loaded before the sanitizer's own; a cut leaves everything allocated */
        "ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0"};
    size_t count = 3;
    (void)snprintf(dir, sizeof dir, "KVEIK_POWERLOSS_DIR=%s", tree);
    for (int i = 0; trial->settings[i] != NULL; i++) {
        environment[count++] = trial->settings[i];
    }
    for (char **own = environ; *own != NULL && count < ENVIRONMENT - 1; own++) {
        environment[count++] = *own;
    }
    if (chdir(tree) == 0) {
        union {
            const char *const *given;
            char *const *taken; /* as execve() has it, which changes nothing */
        } words = {.given = argv}, settings = {.given = environment};
        (void)execve(program, words.taken, settings.taken);
    }
    _exit(1);
}

void powerloss_start(struct powerloss_trial *trial, const char *program, const char *const *argv)
{
    int ends[2];
    char tree[PATH_MAX];
    trial->output[0] = '\0';
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    ck_assert_ptr_nonnull(realpath(trial->tree, tree));
    trial->pid = fork();
    ck_assert_int_ge(trial->pid, 0);
    if (trial->pid == 0) {
        (void)dup2(ends[1], STDOUT_FILENO);
        become(trial, tree, program, argv);
    }
    ck_assert_int_eq(close(ends[1]), 0);
    trial->out_fd = ends[0];
}

void powerloss_wait(struct powerloss_trial *trial)
{
    size_t got = strlen(trial->output);
    for (ssize_t part = 1; part > 0; got += (size_t)(part > 0 ? part : 0)) {
        ck_assert_uint_lt(got, sizeof trial->output - 1);
        part = read(trial->out_fd, trial->output + got, sizeof trial->output - 1 - got);
    }
    trial->output[got] = '\0';
    ck_assert_int_eq(close(trial->out_fd), 0);
    ck_assert_int_eq(waitpid(trial->pid, &trial->status, 0), trial->pid);
    ck_assert(WIFEXITED(trial->status));
}

uint32_t powerloss_entries(const char *path)
{
    struct dirent **names = NULL;
    int count = scandir(path, &names, NULL, NULL);
    ck_assert_int_ge(count, 2);
    for (int i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
    return (uint32_t)count - 2;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)where;
    return kind == FTW_DP ? rmdir(path) : unlink(path);
}

void powerloss_finish(struct powerloss_trial *trial)
{
    ck_assert_uint_eq(powerloss_entries(trial->folder), 1); /* nothing hidden is left */
    // NOLINTNEXTLINE(concurrency-mt-unsafe): one thread
    ck_assert_int_eq(nftw(trial->folder, remove_entry, WALK_FDS, FTW_DEPTH | FTW_PHYS), 0);
}
