/* Adopting private memory: contents, neighbours, several ranges, what is refused. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/lib/client_fixture.h"

enum { PAGE = 4096 };

static uint8_t *map_private(size_t pages)
{
    uint8_t *memory =
        mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    for (size_t i = 0; i < pages * PAGE; i++) {
        memory[i] = (uint8_t)(i * 7 + i / PAGE);
    }
    return memory;
}

static void expect_contents(const uint8_t *memory, size_t pages)
{
    for (size_t i = 0; i < pages * PAGE; i++) {
        if (memory[i] != (uint8_t)(i * 7 + i / PAGE)) {
            ck_abort_msg("byte %zu changed", i);
        }
    }
}

static int export_as(struct fixture *fix, void *memory, size_t bytes, uint32_t mode,
                     uint32_t *region_out)
{
    struct kveik_memory_options options = KVEIK_MEMORY_OPTIONS_INIT;
    options.mode = mode;
    uint32_t taken = 0;
    int status =
        kveik_memory_export(fix->client, memory, bytes, &options, region_out, &taken, &fix->error);
    if (status == KVEIK_OK && mode != KVEIK_MEMORY_AUTO) {
        ck_assert_uint_eq(taken, mode);
    }
    return status;
}

static void open_client(struct fixture *fix)
{
    fix_start(fix);
    fix_connect(fix);
}

START_TEST(contents_and_neighbours_are_kept)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t *memory = map_private(100);
        uint32_t region = 0;
        MUST(&fix,
             export_as(&fix, memory + 10 * PAGE + 100, 50 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        expect_contents(memory, 100);
        memory[10 * PAGE + 100] ^= 1; /* still writable, as are the neighbours */
        memory[10 * PAGE + 100] ^= 1;
        memory[0] ^= 1;
        memory[0] ^= 1;
        MUST(&fix, kveik_memory_drop(fix.client, region, 1000, &fix.error));
        expect_contents(memory, 100);
        fix_close(&fix);
        expect_contents(memory, 100);
        (void)munmap(memory, 100 * PAGE);
    }
END_TEST

/* Each export is proved by the probe: the daemon sees what we see, in every one of them. */
START_TEST(many_ranges_of_one_allocation)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t *memory = map_private(1200); /* over more than one huge page */
        uint32_t region = 0;
        MUST(&fix, export_as(&fix, memory + 5000, 3 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        /* begins in the page where the first one ends, and goes on */
        MUST(&fix,
             export_as(&fix, memory + 5000 + 3 * PAGE, 700 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        /* the same again, a part, and all of it */
        MUST(&fix,
             export_as(&fix, memory + 5000 + 3 * PAGE, 700 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        MUST(&fix, export_as(&fix, memory + 100 * PAGE, 10, KVEIK_MEMORY_ADOPT, &region));
        MUST(&fix, export_as(&fix, memory + 900 * PAGE, PAGE, KVEIK_MEMORY_ADOPT, &region));
        MUST(&fix, export_as(&fix, memory, 1200 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        expect_contents(memory, 1200);
        struct kveik_memory_options shared = KVEIK_MEMORY_OPTIONS_INIT;
        shared.mode = KVEIK_MEMORY_SHARED;
        /* by now it is a mapping of a memfd that can be found */
        MUST(&fix, kveik_memory_export(fix.client, memory, 1200 * PAGE, &shared, &region, NULL,
                                       &fix.error));
        fix_close(&fix);
        expect_contents(memory, 1200);
        (void)munmap(memory, 1200 * PAGE);
    }
END_TEST

START_TEST(file_offset_and_address_agree_modulo_2_mib)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t *memory = map_private(600);
        uint32_t region = 0;
        MUST(&fix, export_as(&fix, memory + 77 * PAGE, 20 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        FILE *maps = fopen("/proc/self/maps", "re");
        ck_assert_ptr_nonnull(maps);
        char line[512];
        bool found = false;
        while (fgets(line, sizeof line, maps) != NULL) {
            uint64_t begin = 0;
            (void)number_prefix(line, 16, &begin);
            if (begin != (uintptr_t)memory + 77 * PAGE) {
                continue;
            }
            found = true;
            ck_assert_ptr_nonnull(strstr(line, "kveik-adopted"));
            ck_assert_ptr_nonnull(strstr(line, " rw-s "));
            uint64_t offset = 0;
            (void)number_prefix(strstr(line, " rw-s ") + 6, 16, &offset);
            ck_assert_uint_eq(offset % (2 << 20), begin % (2 << 20));
        }
        (void)fclose(maps);
        ck_assert(found);
        fix_close(&fix);
        (void)munmap(memory, 600 * PAGE);
    }
END_TEST

static void expect_refused(struct fixture *fix, void *memory, size_t bytes, int status,
                           const char *word)
{
    uint32_t region = 0;
    ck_assert_int_eq(export_as(fix, memory, bytes, KVEIK_MEMORY_ADOPT, &region), status);
    ck_assert_msg(strstr(fix->error.text, word) != NULL, "no %s in: %s", word, fix->error.text);
}

START_TEST(other_memory_is_refused)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t on_stack[100];
        uint32_t region = 0;
        expect_refused(&fix, on_stack, sizeof on_stack, KVEIK_E_UNSUPPORTED, "stack");
        static uint8_t in_image[3 * PAGE] = {1}; /* mapped from the program's file */
        expect_refused(&fix, in_image, sizeof in_image, KVEIK_E_UNSUPPORTED, "file");
        uint8_t *memory = map_private(10);
        ck_assert_int_eq(mprotect(memory + 4 * PAGE, PAGE, PROT_READ), 0);
        expect_refused(&fix, memory, 10 * PAGE, KVEIK_E_MEMORY, "writable");
        ck_assert_int_eq(mprotect(memory + 4 * PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
        ck_assert_int_eq(munmap(memory + 4 * PAGE, PAGE), 0);
        expect_refused(&fix, memory, 10 * PAGE, KVEIK_E_MEMORY, "mapped");
        MUST(&fix, export_as(&fix, memory, 4 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        uint8_t *shared =
            mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        expect_refused(&fix, shared, PAGE, KVEIK_E_UNSUPPORTED, "shared");
        int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        uint8_t *mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
        ck_assert_ptr_ne(mapped, MAP_FAILED);
        expect_refused(&fix, mapped, PAGE, KVEIK_E_UNSUPPORTED, "file");
        (void)close(file);
        /* what cannot be adopted goes the other way */
        MUST(&fix, export_as(&fix, mapped, PAGE, KVEIK_MEMORY_AUTO, &region));
        fix_close(&fix);
        (void)munmap(mapped, PAGE);
        (void)munmap(shared, PAGE);
        (void)munmap(memory, 10 * PAGE);
    }
END_TEST

/* Memory that was adopted, unmapped and mapped anew at the same place is adopted anew. */
START_TEST(memory_that_was_replaced_is_seen)
    {
        struct fixture fix;
        open_client(&fix);
        uint32_t region = 0;
        uint8_t *memory = map_private(50);
        for (int round = 0; round < 3; round++) {
            MUST(&fix, export_as(&fix, memory + 5 * PAGE, 30 * PAGE, KVEIK_MEMORY_ADOPT, &region));
            MUST(&fix, kveik_memory_drop(fix.client, region, 1000, &fix.error));
            void *again = mmap(memory, 50 * PAGE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            ck_assert_ptr_eq(again, memory);
            for (size_t i = 0; i < 50 * PAGE; i++) {
                memory[i] = (uint8_t)(i * 7 + i / PAGE);
            }
        }
        MUST(&fix, export_as(&fix, memory, 50 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        expect_contents(memory, 50);
        fix_close(&fix);
        (void)munmap(memory, 50 * PAGE);
    }
END_TEST

START_TEST(two_clients_in_one_process_share_what_one_adopted)
    {
        struct fixture one;
        struct fixture two;
        open_client(&one);
        open_client(&two);
        uint32_t region = 0;
        uint32_t mode = 0;
        uint8_t *memory = map_private(20);
        MUST(&one, export_as(&one, memory, 20 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        MUST(&two, kveik_memory_export(two.client, memory + PAGE, 5 * PAGE, NULL, &region, &mode,
                                       &two.error));
        ck_assert_uint_eq(mode, KVEIK_MEMORY_SHARED);
        expect_refused(&two, memory, 20 * PAGE, KVEIK_E_UNSUPPORTED, "another way");
        fix_close(&two);
        fix_close(&one);
        /* the first is gone: its memory may be adopted again */
        open_client(&one);
        MUST(&one, export_as(&one, memory, 20 * PAGE, KVEIK_MEMORY_ADOPT, &region));
        expect_contents(memory, 20);
        fix_close(&one);
        (void)munmap(memory, 20 * PAGE);
    }
END_TEST

START_TEST(failures_leave_the_memory_as_it_was)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t *memory = map_private(40);
        const enum fault_point points[] = {FAULT_HEAP, FAULT_MMAP, FAULT_FILE};
        for (size_t p = 0; p < ARRAY_COUNT(points); p++) {
            int64_t fired = 1;
            for (int64_t n = 0; fired > 0; n++) {
                uint32_t region = 0;
                size_t offset = (size_t)(n % 8) * 4 * PAGE;
                fault_set(points[p], n, 1);
                int status =
                    export_as(&fix, memory + offset, 2 * PAGE, KVEIK_MEMORY_ADOPT, &region);
                fired = fault_fired(points[p]);
                fault_clear();
                ck_assert(status == KVEIK_OK || fired > 0);
                expect_contents(memory, 40);
                ck_assert(fix_await_connected(&fix, true));
            }
        }
        fix_close(&fix);
        (void)munmap(memory, 40 * PAGE);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {contents_and_neighbours_are_kept,
                                  many_ranges_of_one_allocation,
                                  file_offset_and_address_agree_modulo_2_mib,
                                  other_memory_is_refused,
                                  memory_that_was_replaced_is_seen,
                                  two_clients_in_one_process_share_what_one_adopted,
                                  failures_leave_the_memory_as_it_was};
    return check_main("adopt", tests, ARRAY_COUNT(tests));
}
