/*
 * The pool in a file: what survives a process and what must not, who may open it, a file system
 * that is full. The program starts itself as the second process: `--attach PATH`, `--attach-fd N`.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/status.h"
#include "storage/cpu/pool.h"
#include "storage/cpu/pool_file.h"
#include "tests/lib/check_main.h"

enum { GRANULE = POOL_GRANULE_BYTES, BUDGET = 8 * GRANULE, PATH_BYTES = 128, EXIT_BUSY = 3 };

static const uint64_t reserve = (uint64_t)1 << 36;
static const uint64_t high = ((uint64_t)1 << 36) - GRANULE;

static char folder[PATH_BYTES / 2];
static char path[PATH_BYTES];

static void make_folder(void)
{
    (void)snprintf(folder, sizeof folder, "%s/kveik-pool-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/pool", folder);
}

static void remove_folder(void)
{
    (void)unlink(path);
    ck_assert_int_eq(rmdir(folder), 0);
}

static struct pool_options options_of(bool attach)
{
    return (struct pool_options){
        .budget_bytes = BUDGET, .reserve_bytes = reserve, .file = path, .attach = attach};
}

static struct pool *make_pool(const struct pool_options *options)
{
    struct pool *pool = NULL;
    struct error error = {0};
    ck_assert_msg(pool_create(options, &pool, &error) == ST_OK, "%s", error.text);
    return pool;
}

static void refused(const struct pool_options *options, int status, const char *text)
{
    struct pool *pool = NULL;
    struct error error = {0};
    ck_assert_int_eq(pool_create(options, &pool, &error), status);
    ck_assert_ptr_null(pool);
    ck_assert_msg(strstr(error.text, text) != NULL, "'%s' not in: %s", text, error.text);
}

/* Bytes that say where they belong. */
static void write_pattern(char *at, uint64_t bytes, uint64_t seed)
{
    struct rng rng = {.state = seed};
    for (uint64_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);
        memcpy(at + i, &word, sizeof word);
    }
}

static bool holds_pattern(const char *at, uint64_t bytes, uint64_t seed)
{
    struct rng rng = {.state = seed};
    for (uint64_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);
        if (memcmp(at + i, &word, sizeof word) != 0) {
            return false;
        }
    }
    return true;
}

static bool all_zero(const char *at, uint64_t bytes)
{
    static const char zeros[4096];
    for (uint64_t i = 0; i < bytes; i += sizeof zeros) {
        if (memcmp(at + i, zeros, sizeof zeros) != 0) {
            return false;
        }
    }
    return true;
}

static uint64_t bytes_in(int fd)
{
    struct stat info;
    ck_assert_int_eq(fd >= 0 ? fstat(fd, &info) : stat(path, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

/* A pool with three slabs of known content, kept. */
static void leave_content(const struct pool_options *options)
{
    struct pool *pool = make_pool(options);
    ck_assert_int_eq(pool_commit(pool, 0, 2 * GRANULE, NULL), ST_OK);
    ck_assert_int_eq(pool_commit(pool, 4 * GRANULE, GRANULE, NULL), ST_OK);
    ck_assert_int_eq(pool_commit(pool, high, GRANULE, NULL), ST_OK);
    write_pattern(pool_address(pool, 0), 2 * GRANULE, 1);
    write_pattern(pool_address(pool, 4 * GRANULE), GRANULE, 2);
    write_pattern(pool_address(pool, high), GRANULE, 3);
    ck_assert_int_eq(pool_keep(pool), ST_OK);
    pool_destroy(pool);
}

/* ---- the second process ---------------------------------------------------------------------- */

/* Takes two of the three slabs over, gives the third back, leaves a mark. */
static int attach_main(const struct pool_options *options, int fd)
{
    struct pool *pool = NULL;
    struct error error = {0};
    int status = pool_create(options, &pool, &error);
    if (status != ST_OK) {
        (void)fprintf(stderr, "%s\n", error.text);
        return status == ST_BUSY ? EXIT_BUSY : EXIT_FAILURE;
    }
    bool good = pool_adopt(pool, 0, 2 * GRANULE, &error) == ST_OK &&
                pool_adopt(pool, high, GRANULE, &error) == ST_OK &&
                holds_pattern(pool_address(pool, 0), 2 * GRANULE, 1) &&
                holds_pattern(pool_address(pool, high), GRANULE, 3) &&
                pool_adopt_end(pool, &error) == ST_OK;
    struct stat info;
    good = good && (fd >= 0 ? fstat(fd, &info) : stat(options->file, &info)) == 0 &&
           info.st_blocks * 512 == 3 * GRANULE;
    good = good && pool_commit(pool, 4 * GRANULE, GRANULE, &error) == ST_OK &&
           all_zero(pool_address(pool, 4 * GRANULE), GRANULE);
    if (good) {
        pool_address(pool, 4 * GRANULE)[7] = 'm';
        (void)pool_keep(pool);
    } else {
        (void)fprintf(stderr, "not as it was left: %s\n", error.text);
    }
    pool_destroy(pool);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Exit status of this program with two arguments; what it says is in `said`. */
static int second_process(const char *option, const char *value, char *said, size_t said_bytes)
{
    int pipes[2];
    ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        (void)dup2(pipes[1], STDERR_FILENO);
        (void)execl("/proc/self/exe", "check_pool_file", option, value, (char *)NULL);
        _exit(127);
    }
    (void)close(pipes[1]);
    size_t length = 0;
    for (ssize_t got = 1; got > 0 && length < said_bytes - 1;) {
        got = read(pipes[0], said + length, said_bytes - 1 - length);
        length += got > 0 ? (size_t)got : 0;
    }
    said[length] = '\0';
    (void)close(pipes[0]);
    int status = 0;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* ---- what survives --------------------------------------------------------------------------- */

START_TEST(content_survives_the_process)
    {
        make_folder();
        struct pool_options options = options_of(false);
        struct pool_options again = options_of(true);
        char said[1024];
        options.prefault = true;
        again.prefault = true;
        leave_content(&options);
        ck_assert_uint_eq(bytes_in(-1), 4 * GRANULE);
        int code = second_process("--attach", path, said, sizeof said);
        ck_assert_msg(code == EXIT_SUCCESS, "%s", said);
        struct pool *pool = make_pool(&again);
        ck_assert_int_eq(pool_adopt(pool, 0, 2 * GRANULE, NULL), ST_OK);
        ck_assert_int_eq(pool_adopt(pool, 4 * GRANULE, GRANULE, NULL), ST_OK);
        ck_assert(holds_pattern(pool_address(pool, 0), 2 * GRANULE, 1));
        ck_assert_int_eq(pool_address(pool, 4 * GRANULE)[7], 'm');
        pool_destroy(pool); /* not kept */
        ck_assert_int_eq(access(path, F_OK), -1);
        ck_assert_int_eq(heap_outstanding(), 0);
        remove_folder();
    }
END_TEST

/* What is as much as was noted is all there; anything else is looked at. */
START_TEST(a_whole_file_is_not_looked_at)
    {
        make_folder();
        struct pool_options options = options_of(false);
        struct pool_options again = options_of(true);
        leave_content(&options);
        const uint64_t extent = (uint64_t)4 * GRANULE / 512;
        const struct {
            uint64_t noted;
            int status;
        } cases[] = {{extent + 1, ST_MISMATCH}, {0, ST_MISMATCH}, {extent, ST_OK}};
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct pool *pool = make_pool(&again);
            ck_assert_uint_eq(pool_extent(pool), extent);
            pool_adopt_begin(pool, cases[i].noted);
            fault_set(FAULT_FILE, 0, 1); /* of the look, which empties the range then */
            int status =
                pool_adopt(pool, cases[i].status == ST_OK ? 0 : 4 * GRANULE, GRANULE, NULL);
            fault_clear();
            ck_assert_int_eq(status, cases[i].status);
            if (status == ST_OK) {
                ck_assert(holds_pattern(pool_address(pool, 0), GRANULE, 1));
            } else { /* filled again: as much as there was, in the wrong place */
                ck_assert_int_eq(pool_commit(pool, 4 * GRANULE, GRANULE, NULL), ST_OK);
            }
            ck_assert_int_eq(pool_keep(pool), ST_OK);
            pool_destroy(pool);
        }
        (void)unlink(path);
        remove_folder();
    }
END_TEST

START_TEST(a_descriptor_does_as_well)
    {
        int fd = memfd_create("pool", MFD_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        struct pool_options options = {
            .budget_bytes = BUDGET, .reserve_bytes = reserve, .has_fd = true, .fd = fd};
        leave_content(&options);
        ck_assert_uint_eq(bytes_in(fd), 4 * GRANULE);
        char said[1024];
        char number[16];
        int inherited = fcntl(fd, F_DUPFD, 100); /* without CLOEXEC */
        (void)snprintf(number, sizeof number, "%d", inherited);
        int code = second_process("--attach-fd", number, said, sizeof said);
        ck_assert_msg(code == EXIT_SUCCESS, "%s", said);
        options.attach = true;
        struct pool *pool = make_pool(&options);
        ck_assert_int_eq(pool_adopt(pool, high, GRANULE, NULL), ST_OK);
        ck_assert(holds_pattern(pool_address(pool, high), GRANULE, 3));
        pool_destroy(pool); /* not kept: whoever holds the descriptor holds no memory */
        ck_assert_uint_eq(bytes_in(fd), 0);
        (void)close(inherited);
        (void)close(fd);
    }
END_TEST

START_TEST(old_content_never_shows)
    {
        make_folder();
        struct pool_options options = options_of(false);
        leave_content(&options);
        struct pool *pool = make_pool(&options); /* no attach: emptied */
        ck_assert_uint_eq(bytes_in(-1), 0);
        ck_assert_int_eq(pool_commit(pool, 0, 2 * GRANULE, NULL), ST_OK);
        ck_assert(all_zero(pool_address(pool, 0), 2 * GRANULE));
        write_pattern(pool_address(pool, 0), 2 * GRANULE, 5);
        pool_decommit(pool, GRANULE, GRANULE);
        ck_assert_uint_eq(bytes_in(-1), GRANULE);
        ck_assert_int_eq(pool_commit(pool, GRANULE, GRANULE, NULL), ST_OK);
        ck_assert(all_zero(pool_address(pool, GRANULE), GRANULE));
        /* a give-back that failed in the file: the next commit makes up for it */
        write_pattern(pool_address(pool, GRANULE), GRANULE, 6);
        fault_set(FAULT_FILE, 0, 1);
        pool_decommit(pool, GRANULE, GRANULE);
        ck_assert_int_eq(fault_fired(FAULT_FILE), 1);
        fault_clear();
        ck_assert_uint_eq(bytes_in(-1), 2 * GRANULE);
        fault_set(FAULT_FILE, 0, 1);
        ck_assert_int_eq(pool_commit(pool, GRANULE, GRANULE, NULL), ST_NO_MEMORY);
        fault_clear();
        ck_assert_int_eq(pool_commit(pool, GRANULE, GRANULE, NULL), ST_OK);
        ck_assert(all_zero(pool_address(pool, GRANULE), GRANULE));
        pool_destroy(pool);
        remove_folder();
    }
END_TEST

START_TEST(holes_are_not_adopted)
    {
        make_folder();
        struct pool_options options = options_of(false);
        leave_content(&options);
        options.attach = true;
        struct pool *pool = make_pool(&options);
        struct error error = {0};
        ck_assert_int_eq(pool_adopt(pool, 8 * GRANULE, GRANULE, &error), ST_MISMATCH);
        ck_assert_int_eq(pool_adopt(pool, 3 * GRANULE, 2 * GRANULE, &error), ST_MISMATCH);
        ck_assert(!pool_committed(pool, 4 * GRANULE));
        ck_assert_int_eq(pool_commit(pool, 4 * GRANULE, GRANULE, &error), ST_OK);
        ck_assert(all_zero(pool_address(pool, 4 * GRANULE), GRANULE));
        ck_assert_int_eq(pool_adopt(pool, 0, 2 * GRANULE, &error), ST_OK);
        ck_assert_int_eq(pool_adopt(pool, high, GRANULE, &error), ST_OK);
        ck_assert_int_eq(pool_adopt(pool, 9 * GRANULE, 5 * GRANULE, &error), ST_LIMIT);
        pool_decommit(pool, 0, 2 * GRANULE);
        ck_assert_int_eq(pool_adopt(pool, 0, 2 * GRANULE, &error), ST_MISMATCH);
        /* one page is enough of a hole */
        ck_assert_int_eq(pool_commit(pool, 0, GRANULE, &error), ST_OK);
        ck_assert_int_eq(pool_keep(pool), ST_OK);
        pool_destroy(pool);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 4096), 0);
        (void)close(fd);
        pool = make_pool(&options);
        ck_assert_int_eq(pool_adopt(pool, 0, GRANULE, &error), ST_MISMATCH);
        /* allocated and never touched is no hole */
        ck_assert_int_eq(pool_adopt(pool, 4 * GRANULE, GRANULE, &error), ST_OK);
        pool_destroy(pool);
        remove_folder();
    }
END_TEST

/* ---- who may have it ------------------------------------------------------------------------- */

START_TEST(one_process_at_a_time)
    {
        make_folder();
        struct pool_options options = options_of(false);
        char said[1024];
        char pid[32];
        struct pool *pool = make_pool(&options);
        ck_assert_int_eq(pool_commit(pool, 0, GRANULE, NULL), ST_OK);
        write_pattern(pool_address(pool, 0), GRANULE, 9);
        ck_assert_int_eq(second_process("--attach", path, said, sizeof said), EXIT_BUSY);
        ck_assert_int_eq(second_process("--create", path, said, sizeof said), EXIT_BUSY);
        (void)snprintf(pid, sizeof pid, "process %d", (int)getpid());
        ck_assert_msg(strstr(said, pid) != NULL, "%s", said);
        refused(&options, ST_BUSY, path);
        options.attach = true;
        refused(&options, ST_BUSY, path);
        ck_assert(holds_pattern(pool_address(pool, 0), GRANULE, 9));
        /* a name that leads elsewhere now is not ours to remove */
        ck_assert_int_eq(unlink(path), 0);
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        (void)close(fd);
        pool_destroy(pool);
        ck_assert_int_eq(access(path, F_OK), 0);
        remove_folder();
    }
END_TEST

START_TEST(files_of_others_are_refused)
    {
        make_folder();
        char other[PATH_BYTES];
        (void)snprintf(other, sizeof other, "%s/other", folder);
        struct pool_options options = options_of(true);
        refused(&options, ST_MISMATCH, "not there");
        leave_content(
            &(struct pool_options){.budget_bytes = BUDGET, .reserve_bytes = reserve, .file = path});
        struct pool_options wrong = options;
        wrong.reserve_bytes *= 2;
        refused(&wrong, ST_MISMATCH, "bytes long");
        wrong = options;
        wrong.pages = POOL_PAGES_HUGE;
        wrong.attach = false;
        refused(&wrong, ST_INVALID, "hugetlbfs");
        ck_assert_int_eq(chmod(path, 0640), 0);
        refused(&options, ST_PERMISSION, "mode 640");
        ck_assert_int_eq(chmod(path, 0600), 0);
        ck_assert_int_eq(link(path, other), 0);
        refused(&options, ST_PERMISSION, "second name");
        ck_assert_int_eq(unlink(other), 0);
        ck_assert_int_eq(symlink(path, other), 0);
        wrong = options;
        wrong.file = other;
        refused(&wrong, ST_INVALID, "symbolic link");
        ck_assert_int_eq(unlink(other), 0);
        ck_assert_int_eq(mkfifo(other, 0600), 0);
        refused(&wrong, ST_INVALID, "not a regular file");
        ck_assert_int_eq(unlink(other), 0);
        wrong.file = "/nowhere/at/all";
        wrong.attach = false;
        refused(&wrong, ST_IO, "/nowhere/at/all");
        if (geteuid() == 0) {
            ck_assert_int_eq(chown(path, 12345, 0), 0);
            refused(&options, ST_PERMISSION, "belongs to user 12345");
            ck_assert_int_eq(chown(path, 0, 0), 0);
        }
        ck_assert_uint_eq(bytes_in(-1), 4 * GRANULE); /* all of it is there still */
        remove_folder();
    }
END_TEST

START_TEST(nonsense_is_refused)
    {
        make_folder();
        struct pool_options options = options_of(true);
        options.file = "";
        refused(&options, ST_INVALID, "nothing to attach to");
        options.has_fd = true;
        options.fd = -1;
        refused(&options, ST_INVALID, "descriptor -1");
        options.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        refused(&options, ST_INVALID, "reading and writing");
        options.file = path;
        refused(&options, ST_INVALID, "both");
        (void)close(options.fd);
        options = options_of(false);
        options.file = NULL;
        struct pool *pool = make_pool(&options);
        struct pool_identity identity;
        struct pool_status status;
        ck_assert_int_eq(pool_keep(pool), ST_UNSUPPORTED);
        ck_assert(!pool_identity(pool, &identity));
        pool_status(pool, &status);
        ck_assert_str_eq(status.file_system, "");
        pool_destroy(pool);
        options = options_of(false);
        pool = make_pool(&options);
        struct stat info;
        ck_assert_int_eq(stat(path, &info), 0);
        ck_assert_uint_eq(info.st_mode & 07777, 0600);
        ck_assert(pool_identity(pool, &identity));
        ck_assert_uint_eq(identity.inode, info.st_ino);
        ck_assert_uint_eq(identity.device, info.st_dev);
        ck_assert_uint_eq(identity.reserve_bytes, reserve);
        pool_status(pool, &status);
        ck_assert_str_ne(status.file_system, "");
        ck_assert(status.written_back == (strcmp(status.file_system, "tmpfs") != 0));
        pool_destroy(pool);
        remove_folder();
    }
END_TEST

/* ---- shortage -------------------------------------------------------------------------------- */

START_TEST(limits_on_file_sizes_are_named)
    {
        make_folder();
        struct rlimit before;
        ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
        struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = before.rlim_max};
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        struct pool_options options = options_of(false);
        refused(&options, ST_LIMIT, "ulimit -f");
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
        ck_assert_int_eq(access(path, F_OK), -1); /* what it made is gone */
        remove_folder();
    }
END_TEST

START_TEST(a_full_file_system_refuses_at_once)
    {
        make_folder();
        if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount("tmpfs", folder, "tmpfs", 0, "size=16m") != 0) {
            (void)printf("skipped: may not mount a small tmpfs: errno %d\n", errno);
            (void)rmdir(folder);
            return;
        }
        struct pool_options options = options_of(false);
        options.budget_bytes = 32 * GRANULE;
        refused(&options, ST_NO_SPACE, "smaller than the pool's");
        options.budget_bytes = 8 * GRANULE;
        options.prefault = true;
        struct pool *pool = make_pool(&options);
        char other[PATH_BYTES];
        (void)snprintf(other, sizeof other, "%s/other", folder);
        int fd = open(other, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        ck_assert_int_eq(fallocate(fd, 0, 0, 5 * GRANULE), 0);
        struct error error = {0};
        ck_assert_int_eq(pool_commit(pool, 0, 2 * GRANULE, &error), ST_OK);
        write_pattern(pool_address(pool, 0), 2 * GRANULE, 4);
        ck_assert_int_eq(pool_commit(pool, 2 * GRANULE, 2 * GRANULE, &error), ST_NO_MEMORY);
        ck_assert_ptr_nonnull(strstr(error.text, "tmpfs"));
        ck_assert(!pool_committed(pool, 2 * GRANULE));
        ck_assert(holds_pattern(pool_address(pool, 0), 2 * GRANULE, 4));
        ck_assert_uint_eq(bytes_in(-1), 2 * GRANULE); /* nothing of it stays */
        ck_assert_int_eq(pool_commit(pool, 2 * GRANULE, GRANULE, &error), ST_OK);
        ck_assert_int_eq(ftruncate(fd, 0), 0);
        ck_assert_int_eq(pool_commit(pool, high, GRANULE, &error), ST_OK);
        /* full from now on: what was committed can be written all the same */
        for (off_t at = 0; fallocate(fd, 0, at, 4096) == 0; at += 4096) {
        }
        ck_assert_int_eq(errno, ENOSPC);
        write_pattern(pool_address(pool, high), GRANULE, 8);
        ck_assert(holds_pattern(pool_address(pool, high), GRANULE, 8));
        pool_destroy(pool);
        (void)close(fd);
        ck_assert_int_eq(umount2(folder, MNT_DETACH), 0);
        (void)rmdir(folder);
    }
END_TEST

START_TEST(every_failure_is_survived)
    {
        make_folder();
        static const enum fault_point points[] = {FAULT_HEAP, FAULT_MMAP, FAULT_THREAD, FAULT_OPEN,
                                                  FAULT_FILE};
        struct error error = {0};
        for (size_t i = 0; i < 2 * ARRAY_COUNT(points); i++) {
            enum fault_point point = points[i / 2];
            struct pool_options options = options_of(i % 2 == 1);
            for (int64_t n = 0;; n++) {
                leave_content(&(struct pool_options){
                    .budget_bytes = BUDGET, .reserve_bytes = reserve, .file = path});
                struct pool *pool = NULL;
                fault_set(point, n, 1);
                int status = pool_create(&options, &pool, &error);
                if (status == ST_OK) {
                    status = options.attach ? pool_adopt(pool, 0, 2 * GRANULE, &error)
                                            : pool_commit(pool, 0, 2 * GRANULE, &error);
                    if (status == ST_OK && options.attach) {
                        status = pool_adopt_end(pool, &error);
                    }
                }
                bool fired = fault_fired(point) > 0;
                fault_clear();
                ck_assert_msg(fired == (status != ST_OK), "point %d, n %d: %d, %s", (int)point,
                              (int)n, status, error.text);
                if (pool == NULL && options.attach) { /* refused: as it was */
                    ck_assert_uint_eq(bytes_in(-1), 4 * GRANULE);
                }
                pool_destroy(pool);
                if (!fired) {
                    break;
                }
            }
        }
        ck_assert_int_eq(heap_outstanding(), 0);
        remove_folder();
    }
END_TEST

START_TEST(the_thread_leaves_nothing_behind)
    {
        make_folder();
        struct pool_options options = options_of(false);
        options.prefault = true;
        struct pool *pool = make_pool(&options);
        struct pool_status status;
        ck_assert_int_eq(pool_commit(pool, 0, 2 * GRANULE, NULL), ST_OK);
        write_pattern(pool_address(pool, 0), 2 * GRANULE, 7); /* while it is collapsed */
        uint64_t rounds = check_scaled(200);
        for (uint64_t i = 0; i < rounds; i++) {
            ck_assert_int_eq(pool_commit(pool, 4 * GRANULE, 3 * GRANULE, NULL), ST_OK);
            ck_assert_int_eq(pool_address(pool, 5 * GRANULE)[i], 0);
            pool_address(pool, 5 * GRANULE)[i] = 1;
            if (i % 8 == 0) {
                (void)poll(NULL, 0, 1);
            }
            pool_decommit(pool, 4 * GRANULE, 3 * GRANULE);
            ck_assert_uint_eq(bytes_in(-1), 2 * GRANULE);
        }
        for (int i = 0; i < 1000; i++) {
            pool_status(pool, &status);
            if (status.touched_bytes == 2 * GRANULE) {
                break;
            }
            (void)poll(NULL, 0, 10);
        }
        ck_assert_uint_eq(status.touched_bytes, 2 * GRANULE);
        ck_assert_uint_eq(bytes_in(-1), 2 * GRANULE);
        ck_assert(holds_pattern(pool_address(pool, 0), 2 * GRANULE, 7));
        pool_destroy(pool);
        remove_folder();
    }
END_TEST

int main(int argc, char **argv)
{
    if (argc == 3) {
        uint64_t fd = 0;
        struct pool_options options = {.budget_bytes = BUDGET,
                                       .reserve_bytes = reserve,
                                       .attach = strcmp(argv[1], "--create") != 0};
        if (strcmp(argv[1], "--attach-fd") != 0) {
            options.file = argv[2];
            return attach_main(&options, -1);
        }
        if (number_parse(argv[2], &fd, NULL) != ST_OK) {
            return EXIT_FAILURE;
        }
        options.has_fd = true;
        options.fd = (int)fd;
        return attach_main(&options, (int)fd);
    }
    const TTest *const tests[] = {
        content_survives_the_process,   a_whole_file_is_not_looked_at,
        a_descriptor_does_as_well,      old_content_never_shows,
        holes_are_not_adopted,          one_process_at_a_time,
        files_of_others_are_refused,    nonsense_is_refused,
        limits_on_file_sizes_are_named, a_full_file_system_refuses_at_once,
        every_failure_is_survived,      the_thread_leaves_nothing_behind};
    return check_main("pool_file", tests, ARRAY_COUNT(tests));
}
