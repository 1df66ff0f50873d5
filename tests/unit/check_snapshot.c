/*
 * The index of a kept pool: what was written comes back; every other file is refused with its
 * reason. The program starts itself as the second process: `--restart FOLDER`.
 *
 * Covers: storage/cpu/snapshot_format.c storage/cpu/snapshot_writer.c
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/status.h"
#include "storage/cpu/snapshot.h"
#include "storage/cpu/snapshot_format.h"
#include "tests/lib/check_main.h"

enum { PATH_BYTES = 128, CONTENT_FORMAT = 7, FILE_BYTES_MAX = 8 * 1024 * 1024 };

static char folder[PATH_BYTES / 2];
static char path[PATH_BYTES];
static char new_path[PATH_BYTES];
static uint8_t file_bytes[FILE_BYTES_MAX];
static uint8_t record[SNAPSHOT_RECORD_BYTES_MAX];

static const struct snapshot_home home = {
    .pool = {.device = 26, .inode = 4711, .reserve_bytes = (uint64_t)1 << 40},
    .granule_bytes = POOL_GRANULE_BYTES,
    .page_bytes = 4096,
    .content_format = CONTENT_FORMAT,
    .boot_id = "01234567-89ab-cdef-0123-456789abcdef"};

static void setup(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/kveik-snapshot-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/pool.index", folder);
    (void)snprintf(new_path, sizeof new_path, "%s/pool.index.new", folder);
}

static void teardown(void)
{
    (void)unlink(path);
    ck_assert_int_eq(rmdir(folder), 0); /* nothing else was left */
    ck_assert_int_eq(heap_outstanding(), 0);
}

/* Records of all sizes from one seed: the i-th is the same at every call. */
static uint32_t make_record(struct rng *rng, uint32_t i)
{
    static const uint32_t sizes[] = {1, 2, 3, 100, 4096, 70000, SNAPSHOT_RECORD_BYTES_MAX};
    uint32_t bytes = i < ARRAY_COUNT(sizes) ? sizes[i] : 1 + (uint32_t)(rng_next(rng) % 300);
    for (uint32_t at = 0; at < bytes; at += 8) {
        uint64_t word = rng_next(rng);
        memcpy(record + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
    return bytes;
}

static int write_index(uint32_t records, uint32_t first, struct error *error)
{
    struct snapshot_writer *writer = NULL;
    struct rng rng = {.state = 1};
    int status = snapshot_writer_create(path, &home, "1.2.3", &writer, error);
    for (uint32_t i = first; i < first + records && status == ST_OK; i++) {
        status = snapshot_writer_append(writer, record, make_record(&rng, i), error);
    }
    if (status == ST_OK) {
        status = snapshot_writer_finish(writer, error);
    }
    snapshot_writer_destroy(writer);
    return status;
}

/* ST_OK when the whole index came back as it was written. */
static int read_index(const struct snapshot_home *at_home, uint32_t records, uint32_t first,
                      struct error *error)
{
    struct snapshot *snapshot = NULL;
    struct rng rng = {.state = 1};
    int status = snapshot_open(path, at_home, &snapshot, error);
    if (status != ST_OK) {
        ck_assert_ptr_null(snapshot);
        return status;
    }
    const void *got = NULL;
    uint32_t bytes = 0;
    for (uint32_t i = first; status == ST_OK; i++) {
        status = snapshot_next(snapshot, &got, &bytes, error);
        if (status == ST_OK) {
            ck_assert_uint_lt(i, first + records);
            ck_assert_uint_eq(bytes, make_record(&rng, i));
            ck_assert_int_eq(memcmp(got, record, bytes), 0);
        } else if (status == ST_MISS) {
            ck_assert_uint_eq(i, first + records);
        }
    }
    snapshot_close(snapshot);
    return status == ST_MISS ? ST_OK : status;
}

static size_t load(void)
{
    FILE *file = fopen(path, "rbe");
    ck_assert_ptr_nonnull(file);
    size_t bytes = fread(file_bytes, 1, sizeof file_bytes, file);
    (void)fclose(file);
    ck_assert_uint_lt(bytes, sizeof file_bytes);
    return bytes;
}

static void store(size_t bytes)
{
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ck_assert_int_eq(write(fd, file_bytes, bytes), (ssize_t)bytes);
    (void)close(fd);
}

START_TEST(what_was_written_comes_back)
    {
        struct error error = {0};
        static const uint32_t counts[] = {0, 1, 7, 5000};
        for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
            ck_assert_msg(write_index(counts[i], 0, &error) == ST_OK, "%s", error.text);
            ck_assert_msg(read_index(&home, counts[i], 0, &error) == ST_OK, "%s", error.text);
        }
        struct snapshot *snapshot = NULL;
        struct snapshot_info info;
        struct stat file;
        ck_assert_int_eq(snapshot_open(path, &home, &snapshot, &error), ST_OK);
        snapshot_info(snapshot, &info);
        snapshot_close(snapshot);
        snapshot_close(NULL);
        ck_assert_str_eq(info.version, "1.2.3");
        ck_assert_uint_eq(info.record_count, 5000);
        ck_assert_int_eq(stat(path, &file), 0);
        ck_assert_uint_eq(info.file_bytes, (uint64_t)file.st_size);
        ck_assert_uint_eq(file.st_mode & 07777, 0600);
        ck_assert_int_le(llabs((long long)info.created_s - (long long)file.st_mtime), 10);
        ck_assert_int_eq(access(new_path, F_OK), -1);
    }
END_TEST

static void refused(const struct snapshot_home *at_home, int status, const char *text)
{
    struct error error = {0};
    ck_assert_int_eq(read_index(at_home, 3, 0, &error), status);
    ck_assert_msg(strstr(error.text, text) != NULL, "'%s' not in: %s", text, error.text);
}

START_TEST(another_home_is_refused_by_name)
    {
        refused(&home, ST_MISS, "no index");
        ck_assert_int_eq(write_index(3, 0, NULL), ST_OK);
        struct snapshot_home other = home;
        other.boot_id[0] = 'f';
        refused(&other, ST_MISMATCH, "another boot");
        other = home;
        other.pool.inode++;
        refused(&other, ST_MISMATCH, "another pool file");
        other = home;
        other.pool.device++;
        refused(&other, ST_MISMATCH, "another pool file");
        other = home;
        other.pool.reserve_bytes *= 2;
        refused(&other, ST_MISMATCH, "another size");
        other = home;
        other.page_bytes = 65536;
        refused(&other, ST_MISMATCH, "pages of 4096");
        other = home;
        other.granule_bytes *= 2;
        refused(&other, ST_MISMATCH, "granules of 2097152");
        other = home;
        other.content_format = CONTENT_FORMAT + 1;
        refused(&other, ST_VERSION, "records of format 7, this daemon reads 8");
        size_t bytes = load();
        file_bytes[8] = SNAPSHOT_FORMAT + 1;
        store(bytes);
        refused(&home, ST_VERSION, "format 2, this daemon reads 1");
        memset(file_bytes, 'x', bytes);
        store(bytes);
        refused(&home, ST_CORRUPT, "not an index");
    }
END_TEST

START_TEST(files_of_others_are_refused)
    {
        ck_assert_int_eq(write_index(3, 0, NULL), ST_OK);
        ck_assert_int_eq(chmod(path, 0620), 0);
        refused(&home, ST_PERMISSION, "mode 620");
        ck_assert_int_eq(chmod(path, 0600), 0);
        if (geteuid() == 0) {
            ck_assert_int_eq(chown(path, 12345, 0), 0);
            refused(&home, ST_PERMISSION, "user 12345");
        }
        ck_assert_int_eq(rename(path, new_path), 0);
        ck_assert_int_eq(symlink(new_path, path), 0);
        refused(&home, ST_PERMISSION, path);
        (void)unlink(path);
        (void)unlink(new_path);
        ck_assert_int_eq(mkfifo(path, 0600), 0);
        refused(&home, ST_CORRUPT, "not a regular file");
    }
END_TEST

START_TEST(every_cut_is_noticed)
    {
        ck_assert_int_eq(write_index(3, 0, NULL), ST_OK); /* 1, 2 and 3 bytes */
        struct error error = {0};
        size_t bytes = load();
        ck_assert_uint_eq(bytes, SNAPSHOT_HEADER_BYTES + 3 * 4 + 6 + SNAPSHOT_TRAILER_BYTES);
        for (size_t cut = 0; cut < bytes; cut++) {
            store(cut);
            ck_assert_int_eq(read_index(&home, 3, 0, &error), ST_CORRUPT);
        }
        file_bytes[bytes] = 0;
        store(bytes + 1);
        ck_assert_int_eq(read_index(&home, 3, 0, &error), ST_CORRUPT);
        store(bytes);
        ck_assert_int_eq(read_index(&home, 3, 0, &error), ST_OK);
    }
END_TEST

START_TEST(every_flipped_bit_is_noticed)
    {
        ck_assert_int_eq(write_index(3, 0, NULL), ST_OK);
        struct error error = {0};
        size_t bytes = load();
        for (size_t bit = 0; bit < bytes * 8; bit++) {
            file_bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            store(bytes);
            int status = read_index(&home, 3, 0, &error);
            ck_assert_msg(status == ST_CORRUPT || status == ST_VERSION, "bit %d: %d", (int)bit,
                          status);
            file_bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
END_TEST

START_TEST(changes_while_reading_are_noticed)
    {
        struct error error = {0};
        const void *got = NULL;
        uint32_t bytes = 0;
        ck_assert_int_eq(write_index(8, 0, NULL), ST_OK); /* more than the reader's buffer */
        for (int cut = 0; cut < 2; cut++) {
            struct snapshot *snapshot = NULL;
            ck_assert_int_eq(write_index(8, 0, NULL), ST_OK);
            ck_assert_int_eq(snapshot_open(path, &home, &snapshot, &error), ST_OK);
            int fd = open(path, O_RDWR | O_CLOEXEC);
            if (cut == 0) {
                ck_assert_int_eq(pwrite(fd, "!!", 2, SNAPSHOT_HEADER_BYTES + 4096), 2);
            } else {
                ck_assert_int_eq(ftruncate(fd, SNAPSHOT_HEADER_BYTES + 1000000), 0);
            }
            (void)close(fd);
            int status = ST_OK;
            while (status == ST_OK) {
                status = snapshot_next(snapshot, &got, &bytes, &error);
            }
            ck_assert_int_eq(status, ST_CORRUPT);
            snapshot_close(snapshot);
        }
    }
END_TEST

START_TEST(every_failure_leaves_the_old_one)
    {
        static const enum fault_point points[] = {FAULT_HEAP, FAULT_OPEN, FAULT_FILE};
        struct error error = {0};
        for (size_t i = 0; i < ARRAY_COUNT(points); i++) {
            for (int64_t n = 0;; n++) {
                ck_assert_int_eq(write_index(5, 0, NULL), ST_OK);
                fault_set(points[i], n, 1);
                int status = write_index(9, 0, &error);
                bool fired = fault_fired(points[i]) > 0;
                fault_clear();
                ck_assert_msg(fired == (status != ST_OK), "point %d, n %d: %s", (int)points[i],
                              (int)n, error.text);
                ck_assert_int_eq(access(new_path, F_OK), -1);
                status = read_index(&home, fired ? 5 : 9, 0, &error);
                /* none at all when it is not known which of the two a crash would leave */
                ck_assert(status == ST_OK || (fired && status == ST_MISS));
                if (!fired) {
                    break;
                }
            }
            for (int64_t n = 0;; n++) {
                fault_set(points[i], n, 1);
                int status = read_index(&home, 9, 0, &error);
                bool fired = fault_fired(points[i]) > 0;
                fault_clear();
                ck_assert(fired == (status != ST_OK));
                if (!fired) {
                    break;
                }
            }
        }
    }
END_TEST

START_TEST(a_full_device_is_named)
    {
        struct snapshot_writer *writer = NULL;
        struct error error = {0};
        struct rng rng = {.state = 1};
        (void)signal(SIGXFSZ, SIG_IGN);
        struct rlimit before;
        ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
        struct rlimit limit = {.rlim_cur = 1536 * 1024, .rlim_max = before.rlim_max};
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_assert_int_eq(snapshot_writer_create(path, &home, "1", &writer, &error), ST_OK);
        int status = ST_OK;
        for (uint32_t i = 0; i < 100000 && status == ST_OK; i++) {
            status = snapshot_writer_append(writer, record, make_record(&rng, 5), &error);
        }
        ck_assert_int_eq(status, ST_NO_SPACE);
        ck_assert_int_eq(snapshot_writer_append(writer, record, 1, &error), ST_NO_SPACE);
        ck_assert_int_eq(snapshot_writer_finish(writer, &error), ST_NO_SPACE);
        snapshot_writer_destroy(writer);
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
        ck_assert_int_eq(access(path, F_OK), -1);
    }
END_TEST

START_TEST(invalidated_is_gone)
    {
        struct error error = {0};
        ck_assert_int_eq(snapshot_invalidate(path, &error), ST_OK);
        ck_assert_int_eq(write_index(3, 0, NULL), ST_OK);
        int fd = open(new_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        (void)close(fd);
        fault_set(FAULT_FILE, 1, 1); /* the folder's sync */
        ck_assert_int_eq(snapshot_invalidate(path, &error), ST_IO);
        fault_clear();
        ck_assert_int_eq(snapshot_invalidate(path, &error), ST_OK);
        refused(&home, ST_MISS, "no index");
        ck_assert_int_eq(access(new_path, F_OK), -1);
        char long_path[5000];
        memset(long_path, 'x', sizeof long_path - 1);
        long_path[sizeof long_path - 1] = '\0';
        ck_assert_int_eq(snapshot_invalidate(long_path, &error), ST_INVALID);
    }
END_TEST

/* ---- together with a pool -------------------------------------------------------------------- */

static struct pool_options pool_options_of(const char *file, bool attach)
{
    return (struct pool_options){.budget_bytes = 4 * POOL_GRANULE_BYTES,
                                 .reserve_bytes = (uint64_t)1 << 34,
                                 .file = file,
                                 .attach = attach};
}

/* The second process: what the first one left is where its index says. */
static int restart_main(const char *where)
{
    char pool_path[PATH_BYTES];
    (void)snprintf(pool_path, sizeof pool_path, "%s/pool", where);
    (void)snprintf(path, sizeof path, "%s/pool.index", where);
    struct pool *pool = NULL;
    struct snapshot *snapshot = NULL;
    struct snapshot_home now;
    struct error error = {0};
    struct pool_options options = pool_options_of(pool_path, true);
    const void *got = NULL;
    uint32_t bytes = 0;
    bool good = pool_create(&options, &pool, &error) == ST_OK &&
                snapshot_home_of(pool, CONTENT_FORMAT, &now, &error) == ST_OK &&
                snapshot_open(path, &now, &snapshot, &error) == ST_OK &&
                snapshot_invalidate(path, &error) == ST_OK;
    while (good && snapshot_next(snapshot, &got, &bytes, &error) == ST_OK) {
        uint64_t offset = 0;
        memcpy(&offset, got, sizeof offset);
        good = bytes == 16 && pool_adopt(pool, offset, POOL_GRANULE_BYTES, &error) == ST_OK &&
               memcmp(pool_address(pool, offset) + 100, (const char *)got + 8, 8) == 0;
    }
    good = good && snapshot_next(snapshot, &got, &bytes, &error) == ST_MISS &&
           pool_adopt_end(pool, &error) == ST_OK;
    if (!good) {
        (void)fprintf(stderr, "%s\n", error.text);
    }
    snapshot_close(snapshot);
    pool_destroy(pool);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

START_TEST(a_pool_is_found_again)
    {
        char pool_path[PATH_BYTES];
        (void)snprintf(pool_path, sizeof pool_path, "%s/pool", folder);
        struct pool_options options = pool_options_of(pool_path, false);
        struct pool *pool = NULL;
        struct snapshot_writer *writer = NULL;
        struct snapshot_home now;
        struct error error = {0};
        ck_assert_int_eq(pool_create(&options, &pool, &error), ST_OK);
        fault_set(FAULT_OPEN, 0, 1);
        ck_assert_int_eq(snapshot_home_of(pool, CONTENT_FORMAT, &now, &error), ST_IO);
        fault_clear();
        ck_assert_int_eq(snapshot_home_of(pool, CONTENT_FORMAT, &now, &error), ST_OK);
        ck_assert_uint_eq(strlen(now.boot_id), 36);
        ck_assert_int_eq(snapshot_writer_create(path, &now, "0.1", &writer, &error), ST_OK);
        for (uint64_t i = 0; i < 4; i++) {
            uint64_t entry[2] = {i * i * i * POOL_GRANULE_BYTES, i * 12345678901};
            ck_assert_int_eq(pool_commit(pool, entry[0], POOL_GRANULE_BYTES, &error), ST_OK);
            memcpy(pool_address(pool, entry[0]) + 100, &entry[1], 8);
            ck_assert_int_eq(snapshot_writer_append(writer, entry, sizeof entry, &error), ST_OK);
        }
        ck_assert_int_eq(snapshot_writer_finish(writer, &error), ST_OK);
        snapshot_writer_destroy(writer);
        ck_assert_int_eq(pool_keep(pool), ST_OK);
        pool_destroy(pool);
        pid_t pid = fork();
        if (pid == 0) {
            (void)execl("/proc/self/exe", "check_snapshot", "--restart", folder, (char *)NULL);
            _exit(127);
        }
        int status = 0;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        ck_assert_int_eq(access(pool_path, F_OK), -1);
        refused(&now, ST_MISS, "no index");
        options.file = NULL;
        ck_assert_int_eq(pool_create(&options, &pool, &error), ST_OK);
        ck_assert_int_eq(snapshot_home_of(pool, 1, &now, &error), ST_UNSUPPORTED);
        pool_destroy(pool);
    }
END_TEST

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--restart") == 0) {
        return restart_main(argv[2]);
    }
    const TTest *const tests[] = {what_was_written_comes_back,
                                  another_home_is_refused_by_name,
                                  files_of_others_are_refused,
                                  every_cut_is_noticed,
                                  every_flipped_bit_is_noticed,
                                  changes_while_reading_are_noticed,
                                  every_failure_leaves_the_old_one,
                                  a_full_device_is_named,
                                  invalidated_is_gone,
                                  a_pool_is_found_again};
    struct check_suite suite = {.name = "snapshot",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
