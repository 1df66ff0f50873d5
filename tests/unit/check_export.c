/*
 * Allocating, the ways of exporting, the probe, giving back.
 *
 * Covers: client/lib/memfd.c
 * Covers: client/lib/memory.c
 * Covers: client/lib/probe.c
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "tests/lib/client_fixture.h"

enum { PAGE = 4096, BYTES = 20 * PAGE };

static void open_client(struct fixture *fix)
{
    fix_start(fix);
    fix_connect(fix);
}

static uint8_t *map_private(void)
{
    uint8_t *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    (void)memset(memory, 0x5a, BYTES);
    return memory;
}

START_TEST(allocated_memory_is_fresh_aligned_and_shared)
    {
        struct fixture fix;
        open_client(&fix);
        void *memory = NULL;
        uint32_t region = 0;
        uint32_t mode = 0;
        MUST(&fix, kveik_memory_allocate(fix.client, 5 * 1024 * 1024 + 1, &memory, &fix.error));
        ck_assert_uint_eq((uintptr_t)memory % (2 << 20), 0);
        for (size_t i = 0; i < 5 * 1024 * 1024 + 1; i += 4096) {
            ck_assert_int_eq(((uint8_t *)memory)[i], 0);
        }
        MUST(&fix, kveik_memory_export(fix.client, (uint8_t *)memory + 1000, 4 * 1024 * 1024, NULL,
                                       &region, &mode, &fix.error));
        ck_assert_uint_eq(mode, KVEIK_MEMORY_SHARED);
        kveik_memory_free(fix.client, memory);
        ck_assert_int_eq(kveik_memory_drop(fix.client, region, 1000, &fix.error),
                         KVEIK_E_UNKNOWN_ID);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_DROP_MEMORY), 1);
        kveik_memory_free(fix.client, memory);
        kveik_memory_free(fix.client, NULL);
        ck_assert_int_eq(kveik_memory_allocate(fix.client, 0, &memory, &fix.error),
                         KVEIK_E_INVALID);
        ck_assert_int_eq(kveik_memory_allocate(fix.client, SIZE_MAX, &memory, &fix.error),
                         KVEIK_E_INVALID);
        fix_close(&fix);
    }
END_TEST

START_TEST(auto_takes_the_first_way_that_works)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t *memory = map_private();
        uint32_t region = 0;
        uint32_t mode = 0;
        MUST(&fix,
             kveik_memory_export(fix.client, memory, BYTES, NULL, &region, &mode, &fix.error));
        ck_assert_uint_eq(mode, KVEIK_MEMORY_ADOPT);
        uint8_t *other = map_private();
        fake_daemon_memory(fix.daemon, 1u << MEMORY_PROCESS);
        MUST(&fix, kveik_memory_export(fix.client, other, BYTES, NULL, &region, &mode, &fix.error));
        ck_assert_uint_eq(mode, KVEIK_MEMORY_CROSS);
        ck_assert_int_eq(other[0], 0x5a); /* what the probe wrote was put back */
        ck_assert_int_eq(other[BYTES - 1], 0x5a);
        fake_daemon_memory(fix.daemon, 0);
        ck_assert_int_eq(
            kveik_memory_export(fix.client, other, BYTES, NULL, &region, &mode, &fix.error),
            KVEIK_E_UNSUPPORTED);
        fix_close(&fix);
        (void)munmap(memory, BYTES);
        (void)munmap(other, BYTES);
    }
END_TEST

START_TEST(a_daemon_that_sees_other_bytes_is_found_out)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t *memory = map_private();
        uint32_t region = 0;
        fake_daemon_lie(fix.daemon, true);
        ck_assert_int_eq(
            kveik_memory_export(fix.client, memory, BYTES, NULL, &region, NULL, &fix.error),
            KVEIK_E_MEMORY);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "probe"));
        /* each of the ways was tried, and taken back */
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_PROBE), 2);
        ck_assert(fake_daemon_await(fix.daemon, MSG_DROP_MEMORY, 2));
        for (size_t i = 0; i < BYTES; i++) {
            ck_assert_int_eq(memory[i], 0x5a);
        }
        fix_close(&fix);
        (void)munmap(memory, BYTES);
    }
END_TEST

START_TEST(a_given_memfd_is_sealed_and_shared)
    {
        struct fixture fix;
        open_client(&fix);
        int memfd = memfd_create("user", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        static const uint8_t zeros[2 * BYTES];
        ck_assert_int_eq(write(memfd, zeros, sizeof zeros), (ssize_t)sizeof zeros);
        uint8_t *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 5 * PAGE);
        struct kveik_memory_options options = KVEIK_MEMORY_OPTIONS_INIT;
        options.mode = KVEIK_MEMORY_SHARED;
        options.memfd = memfd;
        options.memfd_offset = 5 * PAGE;
        uint32_t region = 0;
        MUST(&fix,
             kveik_memory_export(fix.client, memory, BYTES, &options, &region, NULL, &fix.error));
        ck_assert_int_ne(fcntl(memfd, F_GET_SEALS) & F_SEAL_SHRINK, 0);
        options.memfd_offset = 4 * PAGE; /* a lie about the place is found by the probe */
        ck_assert_int_eq(
            kveik_memory_export(fix.client, memory, BYTES, &options, &region, NULL, &fix.error),
            KVEIK_E_MEMORY);
        int sealed = memfd_create("unsealable", MFD_CLOEXEC);
        options.memfd = sealed;
        ck_assert_int_eq(
            kveik_memory_export(fix.client, memory, BYTES, &options, &region, NULL, &fix.error),
            KVEIK_E_PERMISSION);
        fix_close(&fix);
        (void)close(sealed);
        (void)close(memfd);
        (void)munmap(memory, BYTES);
    }
END_TEST

START_TEST(wrong_arguments_are_told)
    {
        struct fixture fix;
        open_client(&fix);
        uint8_t *memory = map_private();
        uint32_t region = 0;
        struct kveik_memory_options options = KVEIK_MEMORY_OPTIONS_INIT;
        options.mode = 9;
        ck_assert_int_eq(
            kveik_memory_export(fix.client, memory, BYTES, &options, &region, NULL, &fix.error),
            KVEIK_E_INVALID);
        ck_assert_int_eq(
            kveik_memory_export(fix.client, memory, 0, NULL, &region, NULL, &fix.error),
            KVEIK_E_INVALID);
        ck_assert_int_eq(
            kveik_memory_export(fix.client, NULL, BYTES, NULL, &region, NULL, &fix.error),
            KVEIK_E_INVALID);
        ck_assert_int_eq(
            kveik_memory_export(fix.client, memory, SIZE_MAX, NULL, &region, NULL, &fix.error),
            KVEIK_E_INVALID);
        ck_assert_int_eq(
            kveik_memory_export(fix.client, memory, BYTES, NULL, NULL, NULL, &fix.error),
            KVEIK_E_INVALID);
        ck_assert_int_eq(kveik_memory_drop(fix.client, 77, 100, &fix.error), KVEIK_E_UNKNOWN_ID);
        MUST(&fix, kveik_memory_export(fix.client, memory, 1, NULL, &region, NULL, &fix.error));
        fix_close(&fix);
        (void)munmap(memory, BYTES);
    }
END_TEST

START_TEST(dropping_waits_and_takes_the_layouts_along)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(DROP_LAYOUT));
        ck_assert_int_eq(kveik_memory_drop(fix.client, fix.region, 50, &fix.error), KVEIK_E_STUCK);
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t op = 0;
        fix_keys(key, 1, 1);
        fake_daemon_release(fix.daemon);
        nap_ms(10);
        MUST(&fix, kveik_memory_drop(fix.client, fix.region, 1000, &fix.error));
        ck_assert_int_eq(fix_push(&fix, key, 0, &op), KVEIK_E_UNKNOWN_ID);
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {allocated_memory_is_fresh_aligned_and_shared,
                                  auto_takes_the_first_way_that_works,
                                  a_daemon_that_sees_other_bytes_is_found_out,
                                  a_given_memfd_is_sealed_and_shared,
                                  wrong_arguments_are_told,
                                  dropping_waits_and_takes_the_layouts_along};
    return check_main("export", tests, ARRAY_COUNT(tests));
}
