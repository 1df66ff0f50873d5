/*
 * A daemon whose memory lives in a file on tmpfs, and what is asked of it in tests of planned
 * restarts: chains of blocks whose bytes tell whether they are right. One a program.
 */
#ifndef KVEIK_TESTS_LIB_REATTACH_H
#define KVEIK_TESTS_LIB_REATTACH_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <check.h>

#include "tests/lib/daemon.h"
#include "tests/lib/mini.h"

enum {
    PAGES = 16,
    CHAINS = 40,
    CHAIN = 8,
    WAIT_MS = 5000,
    ARGUMENTS = 24,
};

static struct daemon kveikd;
static char folder[96]; /* of the pool: on tmpfs */
static char file[128];
static char index_file[160];

static inline void setup(void)
{
    daemon_init(&kveikd);
    (void)snprintf(folder, sizeof folder, "/dev/shm/%s", strrchr(kveikd.folder, '/') + 1);
    (void)snprintf(file, sizeof file, "%s/pool", folder);
    (void)snprintf(index_file, sizeof index_file, "%s/pool.index", folder);
}

static inline void teardown(void)
{
    daemon_finish(&kveikd);
    (void)unlink(file);
    (void)unlink(index_file);
    ck_assert_int_eq(rmdir(folder), 0); /* nothing else was left there */
}

/* With these arguments beside the usual ones. */
static inline bool start_with(const char *const *more)
{
    const char *arguments[ARGUMENTS] = {"--cpu-bytes", "64MiB", "--cpu-file", file};
    uint32_t count = 4;
    for (; more != NULL && *more != NULL; more++) {
        arguments[count++] = *more;
    }
    int emptied = truncate(kveikd.log, 0); /* what is looked for is this life's */
    ck_assert(emptied == 0 || errno == ENOENT);
    return daemon_start(&kveikd, arguments);
}

static inline void start(void)
{
    ck_assert(start_with(NULL));
}

static inline void stop(void)
{
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
}

static inline void engine(struct mini *mini)
{
    struct mini_options options = {
        .socket = kveikd.socket, .instance = "one", .pages = PAGES, .page_factor = 2};
    ck_assert(mini_open(mini, &options));
}

static inline void push_all(uint64_t first)
{
    struct mini mini;
    engine(&mini);
    for (uint64_t chain = first; chain < first + CHAINS; chain++) {
        uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
        mini_keys(chain, CHAIN, keys);
        for (uint32_t p = 0; p < CHAIN; p++) {
            mini_fill(&mini, p, keys + (size_t)p * KVEIK_KEY_BYTES);
        }
        ck_assert_int_eq(mini_push(&mini, keys, CHAIN, 0, NULL), KVEIK_OK);
    }
    mini_close(&mini);
}

/* Pulls all; what comes is right. How many blocks came. */
static inline uint32_t pull_all(uint64_t first)
{
    struct mini mini;
    engine(&mini);
    uint32_t came = 0;
    for (uint64_t chain = first; chain < first + CHAINS; chain++) {
        uint8_t keys[CHAIN * KVEIK_KEY_BYTES];
        int8_t statuses[CHAIN] = {0};
        mini_keys(chain, CHAIN, keys);
        for (uint32_t p = 0; p < CHAIN; p++) {
            mini_wipe(&mini, p);
        }
        int status = mini_pull(&mini, keys, CHAIN, 0, statuses);
        for (uint32_t p = 0; status == KVEIK_OK && p < CHAIN; p++) {
            if (statuses[p] == KVEIK_OK) {
                ck_assert(mini_check(&mini, p, keys + (size_t)p * KVEIK_KEY_BYTES));
                came++;
            }
        }
    }
    mini_close(&mini);
    return came;
}

static inline int64_t number_of(const char *section, const char *name)
{
    struct mini mini;
    engine(&mini);
    int64_t number = mini_number(&mini, section, name);
    mini_close(&mini);
    return number;
}

static inline void expect_logged(const char *text)
{
    if (!daemon_logged(&kveikd, text, WAIT_MS)) {
        char all[4096];
        int fd = open(kveikd.log, O_RDONLY | O_CLOEXEC);
        ssize_t count = read(fd, all, sizeof all - 1);
        (void)close(fd);
        all[count > 0 ? count : 0] = '\0';
        ck_abort_msg("not in the log: %s\n%s", text, all);
    }
}

static inline void expect_all_verified(void)
{
    expect_logged("all that was found in memory is verified");
    ck_assert_int_eq(number_of("cpu", "unverified"), 0);
}

#endif
