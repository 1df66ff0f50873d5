#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/heap.h"
#include "client/lib/client.h"
#include "client/lib/maps.h"
#include "tests/lib/check_main.h"

enum { PAGE = 4096 };

START_TEST(segments_are_as_they_were_mapped)
    {
        uint8_t *memory = mmap(NULL, 10 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int memfd = memfd_make("kveik-test", 100 * PAGE, NULL);
        ck_assert_int_ge(memfd, 0);
        ck_assert_ptr_ne(mmap(memory + 2 * PAGE, 3 * PAGE, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_FIXED, memfd, 7 * PAGE),
                         MAP_FAILED);
        ck_assert_int_eq(mprotect(memory + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
        uintptr_t begin = (uintptr_t)memory;
        struct map_segment *segments = NULL;
        size_t count = 0;
        struct error error = {0};
        ck_assert_int_eq(maps_read(begin + PAGE, begin + 6 * PAGE, &segments, &count, &error),
                         ST_OK);
        ck_assert_uint_eq(count, 3);
        ck_assert(!segments[0].readable && !segments[0].shared);
        ck_assert(segments[1].readable && segments[1].writable && segments[1].shared);
        ck_assert_uint_eq(segments[1].file_offset, 7 * PAGE);
        ck_assert_uint_eq(segments[1].begin, begin + 2 * PAGE);
        ck_assert_uint_eq(segments[1].end, begin + 5 * PAGE);
        ck_assert_str_eq(segments[1].name, "/memfd:kveik-test (deleted)");
        ck_assert_str_eq(segments[2].name, "");
        ck_assert(maps_cover(segments, count, begin + 2 * PAGE, begin + 6 * PAGE));
        ck_assert(!maps_cover(segments, count, begin + PAGE, begin + 6 * PAGE));
        ck_assert(!maps_cover(segments, count, begin + 2 * PAGE, begin + 7 * PAGE));
        int found = maps_find_descriptor(segments[1].device, segments[1].inode);
        ck_assert_int_ge(found, 0);
        (void)close(found);
        (void)close(memfd);
        ck_assert_int_eq(maps_find_descriptor(segments[1].device, segments[1].inode), -1);
        heap_free(segments);
        ck_assert_int_eq(maps_read(1, 2, &segments, &count, &error), ST_OK);
        ck_assert_uint_eq(count, 0);
        heap_free(segments);
        (void)munmap(memory, 10 * PAGE);
    }
END_TEST

START_TEST(failures_are_told)
    {
        struct map_segment *segments = NULL;
        size_t count = 0;
        struct error error = {0};
        fault_set(FAULT_FILE, 0, 1);
        ck_assert_int_eq(maps_read(0, UINTPTR_MAX, &segments, &count, &error), ST_IO);
        for (int64_t n = 0; n < 2; n++) {
            fault_set(FAULT_HEAP, n, 1);
            ck_assert_int_eq(maps_read(0, UINTPTR_MAX, &segments, &count, &error), ST_NO_MEMORY);
        }
        fault_clear();
        ck_assert_int_eq(heap_outstanding(), 0);
        fault_set(FAULT_FILE, 0, 1);
        ck_assert_int_lt(memfd_make("x", PAGE, &error), 0);
        fault_clear();
        int memfd = memfd_make("x", 8 * PAGE, &error);
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_ptr_null(memfd_map(memfd, 0, PAGE, true, &error));
        fault_clear();
        (void)close(memfd);
    }
END_TEST

START_TEST(files_are_sealed_aligned_and_populated)
    {
        struct error error = {0};
        int memfd = memfd_make("x", 1000 * PAGE, &error);
        ck_assert_int_lt(ftruncate(memfd, 0), 0);
        ck_assert_int_lt(ftruncate(memfd, 2000 * PAGE), 0);
        for (uint64_t offset = 0; offset < 900 * PAGE; offset += 111 * PAGE) {
            uint8_t *memory = memfd_map(memfd, offset, 50 * PAGE, false, &error);
            ck_assert_ptr_nonnull(memory);
            ck_assert_uint_eq((uintptr_t)memory % HUGE_PAGE_BYTES, offset % HUGE_PAGE_BYTES);
            ck_assert_int_eq(memfd_populate(memory, 50 * PAGE, &error), ST_OK);
            ck_assert_int_ge(lseek(memfd, (off_t)offset, SEEK_HOLE), (off_t)(offset + 50 * PAGE));
            ck_assert_int_eq(munmap(memory, 50 * PAGE), 0);
        }
        (void)close(memfd);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {segments_are_as_they_were_mapped, failures_are_told,
                                  files_are_sealed_aligned_and_populated};
    return check_main("maps", tests, ARRAY_COUNT(tests));
}
