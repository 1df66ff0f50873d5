/*
 * Planned restarts with memory in a file, or with the service manager: what was there is there
 * again and right, with a disk and without; after a crash memory starts empty.
 *
 * Covers: daemon/server/keep_save.c daemon/server/keep_load.c daemon/server/verify.c
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/lib/check_main.h"
#include "tests/lib/reattach.h"

START_TEST(memory_survives_restarts)
    {
        start();
        push_all(1);
        stop();
        ck_assert_int_eq(access(index_file, F_OK), 0);
        for (uint32_t life = 0; life < 3; life++) {
            start();
            ck_assert_int_eq(number_of("counters", "reattached"), CHAINS * CHAIN);
            ck_assert_int_eq(access(index_file, F_OK), -1); /* a crash finds none */
            ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
            if (life == 1) { /* some are stopped before all is verified, some after */
                expect_all_verified();
                ck_assert_int_eq(number_of("counters", "verified"), CHAINS * CHAIN);
            }
            stop();
        }
        start(); /* life goes on */
        push_all(1000);
        ck_assert_uint_eq(pull_all(1000), CHAINS * CHAIN);
        stop();
        start();
        ck_assert_uint_eq(pull_all(1000), CHAINS * CHAIN);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        ck_assert_int_eq(number_of("counters", "verify_corrupt"), 0);
        stop();
    }
END_TEST

/* More than fits: what comes back is what was used last, and goes on being evicted. */
START_TEST(a_full_pool_survives)
    {
        start();
        for (uint64_t first = 1; first < 1 + 40 * 40; first += 40) {
            push_all(first);
        }
        uint32_t there = pull_all(1 + 39 * 40);
        int64_t blocks = number_of("index", "parts");
        ck_assert_uint_gt(there, 0);
        stop();
        start();
        ck_assert_int_eq(number_of("counters", "reattached"), blocks);
        ck_assert_uint_eq(pull_all(1 + 39 * 40), there);
        push_all(100000);
        ck_assert_uint_eq(pull_all(100000), CHAINS * CHAIN);
        expect_all_verified();
        stop();
    }
END_TEST

START_TEST(with_a_disk_none_is_read)
    {
        const char *disk[] = {
            "--disk=yes", "--disk-path",          kveikd.disk, "--disk-bytes",
            "512MiB",     "--disk-segment-bytes", "16MiB",     "--disk-keep-free-percent",
            "0",          "--disk-slow-time",     "60s",       NULL};
        ck_assert(start_with(disk));
        push_all(1);
        stop();
        ck_assert(start_with(disk));
        ck_assert_int_eq(number_of("counters", "restored"), CHAINS * CHAIN);
        ck_assert_int_eq(number_of("counters", "reattached"), CHAINS * CHAIN);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        expect_all_verified();
        ck_assert_int_eq(number_of("counters", "loads"), 0);
        ck_assert_int_eq(number_of("counters", "stored"), 0); /* it was there already */
        stop();
        ck_assert(start_with(disk)); /* a crash: the disk serves */
        ck_assert_int_eq(number_of("counters", "reattached"), CHAINS * CHAIN);
        daemon_kill(&kveikd);
        ck_assert(start_with(disk));
        expect_logged("no index");
        ck_assert_int_eq(number_of("counters", "reattached"), 0);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
        start(); /* without the disk, in the same names */
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
        const char *other[] = {"--disk=yes", "--disk-path",          kveikd.folder, "--disk-bytes",
                               "512MiB",     "--disk-segment-bytes", "16MiB",       NULL};
        char elsewhere[128];
        (void)snprintf(elsewhere, sizeof elsewhere, "%s/other", kveikd.folder);
        other[2] = elsewhere;
        ck_assert(start_with(other));
        expect_logged("the disk tier is another one");
        ck_assert_uint_eq(pull_all(1), 0);
        push_all(1);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

START_TEST(a_crash_starts_empty)
    {
        start();
        push_all(1);
        stop();
        start();
        ck_assert_int_eq(number_of("counters", "reattached"), CHAINS * CHAIN); /* it is up */
        daemon_kill(&kveikd);
        ck_assert_int_eq(access(file, F_OK), 0);
        start();
        expect_logged("no index");
        ck_assert_uint_eq(pull_all(1), 0);
        ck_assert_int_eq(number_of("cpu", "slab_bytes"), 0);
        push_all(1);
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

START_TEST(another_size_starts_empty)
    {
        start();
        push_all(1);
        stop();
        const char *larger[] = {"--cpu-bytes", "96MiB", NULL};
        ck_assert(start_with(larger));
        expect_logged("cannot be used");
        ck_assert_uint_eq(pull_all(1), 0);
        push_all(1);
        stop();
        ck_assert(start_with(larger));
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

/* ---- who else -------------------------------------------------------------------------------- */

START_TEST(a_second_daemon_is_refused)
    {
        start();
        push_all(1);
        struct daemon first = kveikd;
        daemon_init(&kveikd);
        const char *arguments[] = {"--cpu-bytes", "64MiB", "--cpu-file", file, NULL};
        ck_assert(!daemon_start(&kveikd, arguments));
        char words[64];
        (void)snprintf(words, sizeof words, "in use by process %d", (int)first.pid);
        expect_logged(words);
        daemon_finish(&kveikd);
        kveikd = first;
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

/* A start that fails for another reason leaves memory to the next. */
START_TEST(a_failed_start_costs_nothing)
    {
        start();
        push_all(1);
        stop();
        const char *bad[] = {"--disk=yes", "--disk-path",          kveikd.log, "--disk-bytes",
                             "512MiB",     "--disk-segment-bytes", "16MiB",    NULL};
        ck_assert(!start_with(bad));
        expect_logged("cannot start");
        start();
        ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
        stop();
    }
END_TEST

/* ---- the service manager's store --------------------------------------------------------------
 */

enum { STORE_FD = 9 };

/* What a service manager keeps: the descriptor of the last message, at STORE_FD. */
static void keep_descriptor(int manager)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char text[128];
    struct iovec part = {.iov_base = text, .iov_len = sizeof text};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ck_assert_int_gt((int)recvmsg(manager, &message, 0), 0);
    int fd = -1;
    (void)memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    ck_assert_int_eq(dup2(fd, STORE_FD), STORE_FD); /* without CLOEXEC */
    (void)close(fd);
}

/* A program that passes the descriptor on, as a service manager does. */
static void write_passer(const char *path)
{
    FILE *script = fopen(path, "we");
    const char *program = secure_getenv("KVEIKD");
    ck_assert_ptr_nonnull(script);
    (void)fprintf(script,
                  "#!/bin/sh\nexec 3<&%d %d<&-\nexport LISTEN_PID=$$ LISTEN_FDS=1 "
                  "LISTEN_FDNAMES=kveik-pool\nexec %s \"$@\"\n",
                  STORE_FD, STORE_FD, program != NULL ? program : KVEIKD_PATH);
    (void)fclose(script);
    ck_assert_int_eq(chmod(path, 0700), 0);
}

static void start_stored(bool more_memory)
{
    char index[128];
    (void)snprintf(index, sizeof index, "%s/index", kveikd.folder);
    const char *arguments[] = {
        "--cpu-bytes", more_memory ? "96MiB" : "64MiB", "--cpu-fd-store=yes", "--cpu-index", index,
        NULL};
    int emptied = truncate(kveikd.log, 0);
    ck_assert(emptied == 0 || errno == ENOENT);
    ck_assert(daemon_start(&kveikd, arguments));
}

static void restart_with_more(void)
{
    start_stored(true);
    expect_logged("cannot be used");
    ck_assert_uint_eq(pull_all(1), 0);
    push_all(1);
    daemon_kill(&kveikd);
    start_stored(true);
    expect_logged("no index");
    ck_assert_uint_eq(pull_all(1), 0);
    push_all(1);
    stop();
    start_stored(true);
    ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
    stop();
}

START_TEST(the_service_manager_keeps_memory)
    {
        ck_assert_int_eq(mkdir(folder, 0700), 0); /* as teardown wants it */
        char script[128];
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", kveikd.folder);
        (void)snprintf(script, sizeof script, "%s/passer", kveikd.folder);
        int manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(manager, (const struct sockaddr *)&address, sizeof address), 0);
        const char *environment[] = {"NOTIFY_SOCKET", address.sun_path, NULL};
        kveikd.environment = environment;
        write_passer(script);
        start_stored(false);
        keep_descriptor(manager);
        push_all(1);
        stop();
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread */
        ck_assert_int_eq(setenv("KVEIKD", script, 1), 0);
        for (uint32_t life = 0; life < 2; life++) {
            start_stored(false);
            ck_assert_int_eq(number_of("counters", "reattached"), CHAINS * CHAIN);
            ck_assert_uint_eq(pull_all(1), CHAINS * CHAIN);
            stop();
        }
        restart_with_more();
        ck_assert_int_lt((int)recv(manager, script, sizeof script, MSG_DONTWAIT),
                         0); /* once only */
        (void)close(manager);
        (void)close(STORE_FD);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {memory_survives_restarts,     a_full_pool_survives,
                                  with_a_disk_none_is_read,     a_crash_starts_empty,
                                  another_size_starts_empty,    a_second_daemon_is_refused,
                                  a_failed_start_costs_nothing, the_service_manager_keeps_memory};
    struct check_suite suite = {.name = "reattach",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .timeout_s = 300,
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
