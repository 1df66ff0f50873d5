/*
 * Covers: storage/disk/segment_scan.c
 * Covers: storage/disk/store_file.c
 * Covers: storage/disk/lock.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/fault.h"
#include "base/heap.h"
#include "storage/disk/lock.h"
#include "storage/disk/segment.h"
#include "storage/disk/store_file.h"
#include "tests/lib/check_main.h"

enum { SEGMENT_BYTES = 4 * 1024 * 1024, RECORDS = 6 };

static char folder[64];
static struct segment_files files;

static int create(uint64_t number)
{
    int fd = -1;
    struct error error = {0};
    ck_assert_msg(segment_create(&files, number, &fd, &error) == ST_OK, "%s", error.text);
    return fd;
}

static void rename_file(const char *from, const char *to)
{
    ck_assert_int_eq(renameat(files.directory_fd, from, files.directory_fd, to), 0);
}

START_TEST(a_segment_has_its_header_and_its_length)
    {
        struct error error = {0};
        uint64_t bytes = 0;
        int fd = create(3);
        (void)close(fd);
        ck_assert_int_eq(segment_check(&files, 3, &bytes, &error), ST_OK);
        ck_assert_uint_eq(bytes, SEGMENT_BYTES);
        ck_assert_int_eq(segment_create(&files, 3, &fd, &error), ST_IO); /* never over another */
        ck_assert_int_eq(segment_trim(&files, 3, 8192, &error), ST_OK);
        ck_assert_int_eq(segment_check(&files, 3, &bytes, &error), ST_OK);
        ck_assert_uint_eq(bytes, 8192);
        rename_file("3.kv", "4.kv");
        ck_assert_int_eq(segment_check(&files, 4, &bytes, &error), ST_CORRUPT);
        rename_file("4.kv", "3.kv");
        files.store.secret[5] ^= 1;
        ck_assert_int_eq(segment_check(&files, 3, &bytes, &error), ST_CORRUPT);
        files.store.secret[5] ^= 1;
        ck_assert_int_eq(segment_remove(&files, 3, &error), ST_OK);
        ck_assert_int_eq(segment_remove(&files, 3, &error), ST_OK);
        ck_assert_int_eq(segment_check(&files, 3, &bytes, &error), ST_IO);
    }
END_TEST

START_TEST(segments_are_listed_in_order_and_others_left_alone)
    {
        static const char *const others[] = {"x.kv", "01.kv", "1.kv.new", "0.kv", "kv"};
        struct error error = {0};
        uint64_t *numbers = NULL;
        uint32_t count = 0;
        uint64_t wanted[] = {1, 2, 10, 300};
        for (size_t i = ARRAY_COUNT(wanted); i > 0; i--) {
            (void)close(create(wanted[i - 1]));
        }
        for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
            int fd = openat(files.directory_fd, others[i], O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
            ck_assert_int_ge(fd, 0);
            (void)close(fd);
        }
        ck_assert_int_eq(segment_list(&files, &numbers, &count, &error), ST_OK);
        ck_assert_uint_eq(count, ARRAY_COUNT(wanted));
        ck_assert_mem_eq(numbers, wanted, sizeof wanted);
        heap_free(numbers);
    }
END_TEST

START_TEST(making_that_fails_leaves_nothing)
    {
        static const enum fault_point points[] = {FAULT_HEAP, FAULT_OPEN, FAULT_FILE, FAULT_SYNC};
        struct error error = {0};
        uint64_t *numbers = NULL;
        uint32_t count = 1;
        for (size_t i = 0; i < ARRAY_COUNT(points); i++) {
            int fd = -1;
            fault_set(points[i], 0, 1);
            int status = segment_create(&files, 1, &fd, &error);
            ck_assert_int_eq(fault_fired(points[i]), 1);
            fault_clear();
            ck_assert_int_eq(status, points[i] == FAULT_FILE ? ST_NO_SPACE : ST_IO);
            ck_assert_int_eq(segment_list(&files, &numbers, &count, &error), ST_OK);
            ck_assert_uint_eq(count, 0);
            heap_free(numbers);
        }
    }
END_TEST

/* ---- records --------------------------------------------------------------------------------- */

/* One record of a part of `payload` bytes at `at`; where the next would be. */
static uint64_t put_record(int fd, uint64_t number, uint64_t at, uint64_t payload)
{
    static const uint8_t key[DISK_KEY_BYTES] = {1};
    struct format_record *record = calloc(1, sizeof *record);
    uint8_t *page = aligned_alloc(DISK_ALIGN, DISK_ALIGN);
    ck_assert(record != NULL && page != NULL);
    record->segment = number;
    record->offset = at;
    record->header_bytes = DISK_ALIGN;
    record->record_bytes = DISK_ALIGN + round_up(payload, DISK_ALIGN);
    record->part_count = 1;
    record->kind_count = 1;
    record->kinds[0] = (struct disk_kind){.space = key, .space_bytes = 3, .form = key};
    record->parts[0].part = (struct disk_part){.keys = key, .key_count = 1};
    record->parts[0].bytes = payload;
    record->parts[0].offset = (uint32_t)((at + DISK_ALIGN) / DISK_UNIT);
    format_record_encode(record, files.store.secret, page);
    ck_assert_int_eq(pwrite(fd, page, DISK_ALIGN, (off_t)at), DISK_ALIGN);
    at += record->record_bytes;
    free(record);
    free(page);
    return at;
}

struct seen {
    uint64_t offsets[RECORDS + 2];
    uint32_t count;
};

static int see(void *ctx, const struct format_record *record)
{
    struct seen *seen = ctx;
    ck_assert_uint_lt(seen->count, RECORDS + 2);
    seen->offsets[seen->count++] = record->offset;
    return ST_OK;
}

static struct seen scan(uint64_t number)
{
    struct seen seen = {0};
    struct error error = {0};
    ck_assert_msg(segment_scan(&files, number, see, &seen, &error) == ST_OK, "%s", error.text);
    return seen;
}

START_TEST(records_are_found_and_damage_is_stepped_over)
    {
        static const uint64_t payloads[RECORDS] = {1, 4096, 700000, 5000, 1200000, 64};
        uint64_t at[RECORDS + 1] = {FORMAT_SEGMENT_BYTES};
        char *zero = aligned_alloc(DISK_ALIGN, DISK_ALIGN);
        ck_assert_ptr_nonnull(zero);
        (void)memset(zero, 0, DISK_ALIGN);
        int fd = create(1);
        for (uint32_t i = 0; i < RECORDS; i++) {
            at[i + 1] = put_record(fd, 1, at[i], payloads[i]);
        }
        struct seen seen = scan(1);
        ck_assert_uint_eq(seen.count, RECORDS);
        ck_assert_mem_eq(seen.offsets, at, RECORDS * sizeof at[0]);
        for (uint32_t i = 0; i < RECORDS; i++) { /* each hidden in turn */
            ck_assert_int_eq(pwrite(fd, zero, DISK_ALIGN, (off_t)at[i]), DISK_ALIGN);
            seen = scan(1);
            ck_assert_uint_eq(seen.count, RECORDS - 1);
            (void)put_record(fd, 1, at[i], payloads[i]);
        }
        ck_assert_int_eq(ftruncate(fd, (off_t)at[RECORDS] - DISK_ALIGN), 0);
        ck_assert_uint_eq(scan(1).count, RECORDS - 1); /* what ends behind the file is none */
        free(zero);
        (void)close(fd);
    }
END_TEST

/* Of another segment, or of another place in this one: copied blocks are not believed. */
START_TEST(records_count_only_where_they_were_written)
    {
        int fd = create(2);
        uint64_t at = put_record(fd, 2, FORMAT_SEGMENT_BYTES, 100);
        char *page = aligned_alloc(DISK_ALIGN, DISK_ALIGN);
        ck_assert_ptr_nonnull(page);
        ck_assert_int_eq(pread(fd, page, DISK_ALIGN, FORMAT_SEGMENT_BYTES), DISK_ALIGN);
        ck_assert_int_eq(pwrite(fd, page, DISK_ALIGN, (off_t)at), DISK_ALIGN);
        at += (uint64_t)2 * DISK_ALIGN;
        (void)put_record(fd, 3, at, 100);
        struct seen seen = scan(2);
        ck_assert_uint_eq(seen.count, 1);
        files.store.secret[0] ^= 1;
        ck_assert_uint_eq(scan(2).count, 0);
        files.store.secret[0] ^= 1;
        free(page);
        (void)close(fd);
    }
END_TEST

START_TEST(scans_that_fail_say_so)
    {
        static const enum fault_point points[] = {FAULT_HEAP, FAULT_OPEN, FAULT_FILE};
        int fd = create(1);
        (void)put_record(fd, 1, FORMAT_SEGMENT_BYTES, 100);
        for (size_t i = 0; i < ARRAY_COUNT(points); i++) {
            struct seen seen = {0};
            struct error error = {0};
            fault_set(points[i], 0, 1);
            int status = segment_scan(&files, 1, see, &seen, &error);
            fault_clear();
            ck_assert_int_eq(status, points[i] == FAULT_HEAP ? ST_NO_MEMORY : ST_IO);
        }
        (void)close(fd);
    }
END_TEST

/* ---- STORE and LOCK -------------------------------------------------------------------------- */

START_TEST(a_store_is_made_once)
    {
        struct error error = {0};
        struct format_store before = {0};
        int folder_fd = files.directory_fd;
        ck_assert_int_eq(store_file_load(folder_fd, &files, &error), ST_OK);
        before = files.store;
        (void)memset(&files.store, 0, sizeof files.store);
        ck_assert_int_eq(store_file_load(folder_fd, &files, &error), ST_OK);
        ck_assert_mem_eq(&before, &files.store, sizeof before);
        (void)close(create(1));
        ck_assert_int_eq(unlinkat(folder_fd, "STORE", 0), 0);
        (void)memset(&files.store, 0, sizeof files.store);
        ck_assert_int_eq(store_file_load(folder_fd, &files, &error), ST_OK);
        ck_assert_mem_eq(&before, &files.store, sizeof before);
        ck_assert_int_eq(faccessat(folder_fd, "STORE.new", F_OK, 0), -1);
    }
END_TEST

START_TEST(store_failures_are_told)
    {
        static const enum fault_point points[] = {FAULT_OPEN, FAULT_FILE, FAULT_SYNC};
        for (size_t i = 0; i < ARRAY_COUNT(points); i++) {
            struct error error = {0};
            fault_set(points[i], 0, 1);
            int status = store_file_load(files.directory_fd, &files, &error);
            int64_t fired = fault_fired(points[i]);
            fault_clear();
            ck_assert_int_eq(fired, 1);
            ck_assert_int_eq(status, ST_IO);
            ck_assert_uint_gt(strlen(error.text), 5);
        }
    }
END_TEST

START_TEST(one_process_has_the_lock)
    {
        struct error error = {0};
        char pid[32];
        int fd = -1;
        int second = -1;
        ck_assert_int_eq(lock_take(files.directory_fd, &fd, &error), ST_OK);
        ck_assert_int_eq(lock_take(files.directory_fd, &second, &error), ST_BUSY);
        (void)snprintf(pid, sizeof pid, "pid %d", (int)getpid());
        ck_assert_msg(strstr(error.text, pid) != NULL, "%s", error.text);
        pid_t child = fork();
        if (child == 0) {
            (void)close(fd); /* a child's copy lets nothing go */
            _exit(lock_take(files.directory_fd, &second, &error) == ST_BUSY ? 0 : 1);
        }
        int status = -1;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_int_eq(status, 0);
        (void)close(fd);
        ck_assert_int_eq(lock_take(files.directory_fd, &second, &error), ST_OK);
        (void)close(second);
        fault_set(FAULT_OPEN, 0, 1);
        ck_assert_int_eq(lock_take(files.directory_fd, &second, &error), ST_IO);
        fault_set(FAULT_FILE, 0, 1);
        ck_assert_int_eq(lock_take(files.directory_fd, &second, &error), ST_IO);
        fault_clear();
    }
END_TEST

static void setup(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/kveik-segment-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    files.directory_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(files.directory_fd, 0);
    files.segment_bytes = SEGMENT_BYTES;
    files.store = (struct format_store){.id = {1, 2}, .secret = {3, 4}};
}

static void teardown(void)
{
    char command[128];
    (void)close(files.directory_fd);
    ck_assert_int_eq(heap_outstanding(), 0);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c,concurrency-mt-unsafe) */
}

int main(void)
{
    const TTest *const tests[] = {
        a_segment_has_its_header_and_its_length,
        segments_are_listed_in_order_and_others_left_alone,
        making_that_fails_leaves_nothing,
        records_are_found_and_damage_is_stepped_over,
        records_count_only_where_they_were_written,
        scans_that_fail_say_so,
        a_store_is_made_once,
        store_failures_are_told,
        one_process_has_the_lock,
    };
    const struct check_suite suite = {.name = "segment",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
