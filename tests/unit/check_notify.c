#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/status.h"
#include "daemon/server/notify.h"
#include "tests/lib/unit.h"

/* One thread a test, which may change its environment; names are bytes.
 * NOLINTBEGIN(concurrency-mt-unsafe,bugprone-narrowing-conversions) */

/* What LISTEN_FDNAMES says of the descriptor `fd` being `name`, all before it unnamed. */
static void pass(int fd, const char *name, const char *pid)
{
    char names[256] = "";
    char count[16];
    for (int i = 3; i < fd; i++) {
        (void)snprintf(names + strlen(names), sizeof names - strlen(names), "x:");
    }
    (void)snprintf(names + strlen(names), sizeof names - strlen(names), "%s", name);
    (void)snprintf(count, sizeof count, "%d", fd - 2);
    ck_assert_int_eq(setenv("LISTEN_FDNAMES", names, 1), 0);
    ck_assert_int_eq(setenv("LISTEN_FDS", count, 1), 0);
    ck_assert_int_eq(setenv("LISTEN_PID", pid, 1), 0);
}

START_TEST(finds_what_was_passed)
    {
        char pid[16];
        (void)snprintf(pid, sizeof pid, "%d", (int)getpid());
        int fd = open("/dev/null", O_RDWR);
        ck_assert_int_ge(fd, 3);
        ck_assert_int_eq(notify_descriptor("pool"), -1); /* nothing in the environment */
        pass(fd, "pool", pid);
        ck_assert_int_eq(notify_descriptor("pool"), fd);
        ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
        ck_assert_int_eq(notify_descriptor("poo"), -1);
        ck_assert_int_eq(notify_descriptor("pools"), -1);
        pass(fd, "pool:other", pid);
        ck_assert_int_eq(notify_descriptor("pool"), fd);
        ck_assert_int_eq(notify_descriptor("other"), -1); /* beyond LISTEN_FDS */
        pass(fd, "pool", "1");                            /* for somebody else */
        ck_assert_int_eq(notify_descriptor("pool"), -1);
        pass(fd, "pool", pid);
        static const char *const counts[] = {"", "0", "-1", "many", "99999999999999999999", "257"};
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            ck_assert_int_eq(setenv("LISTEN_FDS", counts[i], 1), 0);
            ck_assert_int_eq(notify_descriptor("pool"), -1);
        }
        (void)close(fd);
        pass(fd, "pool", pid); /* named, and not there */
        ck_assert_int_eq(notify_descriptor("pool"), -1);
    }
END_TEST

/* Receives a message and its descriptor. */
static int receive(int from, char *text, size_t bytes)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = text, .iov_len = bytes - 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t count = recvmsg(from, &message, MSG_DONTWAIT);
    ck_assert_int_gt((int)count, 0);
    text[count] = '\0';
    ck_assert_uint_eq(control.header.cmsg_len, CMSG_LEN(sizeof(int)));
    int fd = -1;
    (void)memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

static void hand_over(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    (void)memcpy(address.sun_path, path, length);
    address.sun_path[0] = path[0] == '@' ? '\0' : path[0];
    int manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(manager, (const struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
                     0);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
    int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct error error = {0};
    ck_assert_msg(notify_store(file, "pool", &error) == ST_OK, "%s", error.text);
    char text[128];
    int got = receive(manager, text, sizeof text);
    ck_assert_str_eq(text, "FDSTORE=1\nFDNAME=pool");
    struct stat a;
    struct stat b;
    ck_assert(fstat(file, &a) == 0 && fstat(got, &b) == 0);
    ck_assert(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
    fault_set(FAULT_SEND, 0, 1);
    ck_assert_int_eq(notify_store(file, "pool", &error), ST_IO);
    fault_clear();
    (void)close(got);
    (void)close(file);
    (void)close(manager);
}

START_TEST(hands_a_descriptor_over)
    {
        char path[64];
        (void)snprintf(path, sizeof path, "/tmp/kveik-notify-%d", (int)getpid());
        hand_over(path);
        (void)unlink(path);
        (void)snprintf(path, sizeof path, "@kveik-notify-%d", (int)getpid());
        hand_over(path);
        struct error error = {0};
        ck_assert_int_eq(notify_store(0, "pool", &error), ST_IO); /* nobody there any more */
    }
END_TEST

START_TEST(says_why_not)
    {
        struct error error = {0};
        char longest[200];
        (void)memset(longest, 'a', sizeof longest);
        longest[0] = '/';
        longest[sizeof longest - 1] = '\0';
        ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
        ck_assert_int_eq(notify_store(0, "pool", &error), ST_UNSUPPORTED);
        const char *const bad[] = {"", "/", "@", "vsock:2:1", "relative/path", longest};
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            ck_assert_int_eq(setenv("NOTIFY_SOCKET", bad[i], 1), 0);
            ck_assert_int_eq(notify_store(0, "pool", &error), ST_INVALID);
        }
    }
END_TEST

/* NOLINTEND(concurrency-mt-unsafe,bugprone-narrowing-conversions) */

UNIT_MAIN("notify", finds_what_was_passed, hands_a_descriptor_over, says_why_not)
