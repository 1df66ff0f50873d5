/*
 * A client that breaks the rules loses its session with a reason in the log; the daemon goes on
 * serving the others.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"

enum { LAYERS = 2, PAGES = 8, ENDED_MS = 5000 };

static struct daemon kveikd;
static struct raw good; /* an honest client beside the hostile ones */
static uint64_t ids = 100;

static void setup(void)
{
    static const char *const arguments[] = {"--cpu-bytes",
                                            "64MiB",
                                            "--stall-time",
                                            "500ms",
                                            "--log-format",
                                            "human",
                                            "--session-requests-max",
                                            "64",
                                            NULL};
    daemon_init(&kveikd);
    ck_assert(daemon_start(&kveikd, arguments));
    ck_assert(raw_connect(&good, kveikd.socket));
    ck_assert(raw_hello(&good, "honest"));
    ck_assert_int_eq(raw_space(&good, LAYERS), 0);
    int fd = raw_memfd(raw_layout_bytes(LAYERS, PAGES));
    ck_assert_int_eq(raw_export(&good, fd, raw_layout_bytes(LAYERS, PAGES)), 0);
    (void)close(fd);
    ck_assert_int_eq(raw_layout(&good, 0, LAYERS, PAGES), 0);
}

/* The honest client still gets its work done, and the daemon still ends well. */
static void teardown(void)
{
    uint8_t key[MSG_KEY_BYTES] = {7};
    struct msg msg;
    struct msg answer;
    struct msg_push_run run;
    raw_push(&msg, &run, ++ids, key);
    ck_assert(raw_call(&good, &msg, &answer));
    ck_assert_int_eq(answer.u.completion.status, ST_OK);
    ck_assert_uint_eq(answer.u.completion.status_count, 1);
    raw_close(&good);
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
    daemon_finish(&kveikd);
}

static void hostile_open(struct raw *raw)
{
    ck_assert(raw_connect(raw, kveikd.socket));
    ck_assert(raw_hello(raw, "hostile"));
    ck_assert_int_eq(raw_space(raw, LAYERS), 0);
    int fd = raw_memfd(raw_layout_bytes(LAYERS, PAGES));
    ck_assert_int_eq(raw_export(raw, fd, raw_layout_bytes(LAYERS, PAGES)), 0);
    (void)close(fd);
    ck_assert_int_eq(raw_layout(raw, 0, LAYERS, PAGES), 0);
}

static void must_end(struct raw *raw, const char *reason_has)
{
    char reason[MSG_TEXT_MAX];
    ck_assert_msg(raw_ended(raw, reason, ENDED_MS), "the session goes on");
    ck_assert_msg(strstr(reason, reason_has) != NULL, "the reason is: %s", reason);
    ck_assert(daemon_logged(&kveikd, reason_has, 1000));
    raw_close(raw);
}

START_TEST(push_and_pull_by_hand)
    {
        struct raw raw;
        hostile_open(&raw);
        uint8_t key[MSG_KEY_BYTES] = {1};
        struct msg_push_run push;
        struct msg msg;
        struct msg answer;
        raw_push(&msg, &push, 10, key);
        ck_assert(raw_call(&raw, &msg, &answer));
        ck_assert_int_eq(answer.u.completion.status, ST_OK);
        ck_assert_int_eq(answer.u.completion.statuses[0], ST_OK);
        msg.request_id = 11;
        ck_assert(raw_call(&raw, &msg, &answer));
        ck_assert_int_eq(answer.u.completion.statuses[0], ST_HELD);
        struct msg lookup = {.request_id = 12,
                             .kind = MSG_LOOKUP,
                             .u.lookup = {.keys = key,
                                          .key_count = 1,
                                          .key_grains = 1,
                                          .tail_tokens = GRAIN_TOKENS,
                                          .step_grains = 1,
                                          .lease = true,
                                          .origins = true}};
        ck_assert(raw_call(&raw, &lookup, &answer));
        ck_assert_int_eq(answer.u.lookup_reply.status, ST_OK);
        ck_assert_uint_eq(answer.u.lookup_reply.hit_keys, 1);
        ck_assert_uint_eq(answer.u.lookup_reply.origin_count, 1);
        static const uint32_t page = 3;
        struct msg_pull_run pull = {.keys = key,
                                    .key_count = 1,
                                    .key_grains = 1,
                                    .tail_tokens = GRAIN_TOKENS,
                                    .pages = &page,
                                    .page_count = 1};
        msg = (struct msg){.request_id = 13,
                           .kind = MSG_PULL,
                           .u.pull = {.runs = &pull,
                                      .run_count = 1,
                                      .lease = answer.u.lookup_reply.lease,
                                      .release_lease = true}};
        ck_assert(raw_call(&raw, &msg, &answer));
        ck_assert_int_eq(answer.u.completion.status, ST_OK);
        ck_assert_int_eq(answer.u.completion.statuses[0], ST_OK);
        raw_close(&raw);
    }
END_TEST

START_TEST(random_bytes)
    {
        struct rng rng = {.state = 1};
        for (int round = 0; round < 50; round++) {
            struct raw raw;
            ck_assert(raw_connect(&raw, kveikd.socket));
            uint8_t bytes[256];
            for (size_t i = 0; i < sizeof bytes; i++) {
                bytes[i] = (uint8_t)rng_next(&rng);
            }
            (void)raw_bytes(&raw, bytes, sizeof bytes);
            char reason[MSG_TEXT_MAX];
            ck_assert(raw_ended(&raw, reason, ENDED_MS));
            raw_close(&raw);
        }
        ck_assert(daemon_logged(&kveikd, "no frame", 1000));
    }
END_TEST

START_TEST(random_payloads)
    {
        struct rng rng = {.state = 2};
        for (int round = 0; round < 200; round++) {
            struct raw raw;
            ck_assert(raw_connect(&raw, kveikd.socket));
            ck_assert(raw_hello(&raw, "random"));
            uint8_t bytes[FRAME_HEADER_BYTES + 64] = {64, 0, 0, 0, 0, 0, 0x4b, 0x56};
            for (size_t i = FRAME_HEADER_BYTES; i < sizeof bytes; i++) {
                bytes[i] = (uint8_t)rng_next(&rng);
            }
            (void)raw_bytes(&raw, bytes, sizeof bytes);
            char reason[MSG_TEXT_MAX];
            ck_assert(raw_ended(&raw, reason, ENDED_MS));
            raw_close(&raw);
        }
    }
END_TEST

START_TEST(no_hello_first)
    {
        struct raw raw;
        ck_assert(raw_connect(&raw, kveikd.socket));
        struct msg msg = {.request_id = 1, .kind = MSG_RELEASE, .u.release.lease = 1};
        ck_assert(raw_send(&raw, &msg, NULL, 0));
        must_end(&raw, "must be hello");
    }
END_TEST

START_TEST(connects_and_says_nothing)
    {
        struct raw raw;
        ck_assert(raw_connect(&raw, kveikd.socket));
        must_end(&raw, "no whole hello came");
    }
END_TEST

/* The daemon is told to stop while somebody is connected who never says hello. */
START_TEST(a_stop_waits_for_no_hello)
    {
        struct daemon other;
        struct raw silent;
        static const char *const arguments[] = {"--cpu-bytes", "4MiB", NULL};
        daemon_init(&other);
        ck_assert(daemon_start(&other, arguments));
        ck_assert(raw_connect(&silent, other.socket));
        struct timespec moment = {.tv_nsec = 100000000};
        (void)nanosleep(&moment, NULL);
        uint64_t begin_ms = clock_ms();
        ck_assert_int_eq(daemon_stop(&other), 0);
        ck_assert_uint_lt(clock_ms() - begin_ms, 3000);
        raw_close(&silent);
        daemon_finish(&other);
    }
END_TEST

START_TEST(half_a_message)
    {
        struct raw raw;
        hostile_open(&raw);
        static const uint8_t half[] = {200, 0, 0, 0, 0, 0, 0x4b, 0x56, 1, 2, 3};
        ck_assert(raw_bytes(&raw, half, sizeof half));
        must_end(&raw, "half a message");
    }
END_TEST

START_TEST(a_frame_too_large)
    {
        struct raw raw;
        hostile_open(&raw);
        static const uint8_t header[] = {255, 255, 255, 127, 0, 0, 0x4b, 0x56};
        ck_assert(raw_bytes(&raw, header, sizeof header));
        must_end(&raw, "4194304");
    }
END_TEST

/* Length-delimited unknown fields, one inside the other: nothing may recurse into them. */
START_TEST(nested_a_million_deep)
    {
        struct raw raw;
        hostile_open(&raw);
        enum { DEPTH = 1000000 };
        size_t bytes = (size_t)DEPTH * 2;
        uint8_t *frame = heap_calloc(1, FRAME_HEADER_BYTES + bytes);
        ck_assert_ptr_nonnull(frame);
        for (size_t i = 0; i < 4; i++) {
            frame[i] = (uint8_t)(bytes >> (8 * i));
        }
        frame[6] = 0x4b;
        frame[7] = 0x56;
        for (size_t i = 0; i < DEPTH; i++) {
            frame[FRAME_HEADER_BYTES + 2 * i] = (20 << 3) | 2; /* push, again and again */
            frame[FRAME_HEADER_BYTES + 2 * i + 1] = 0x7f;
        }
        (void)raw_bytes(&raw, frame, FRAME_HEADER_BYTES + bytes);
        heap_free(frame);
        char reason[MSG_TEXT_MAX];
        ck_assert(raw_ended(&raw, reason, ENDED_MS));
        raw_close(&raw);
    }
END_TEST

START_TEST(an_id_twice)
    {
        struct raw raw;
        hostile_open(&raw);
        /* quiesce waits for nothing, so a push that is slow enough is needed: many at once */
        uint8_t keys[40][MSG_KEY_BYTES];
        struct msg_push_run runs[40];
        static const uint32_t page = 0;
        for (uint32_t i = 0; i < 40; i++) {
            (void)memset(keys[i], (int)i + 1, MSG_KEY_BYTES);
            runs[i] = (struct msg_push_run){.keys = keys[i],
                                            .key_count = 1,
                                            .block_count = 1,
                                            .block_grains = 1,
                                            .tail_tokens = GRAIN_TOKENS,
                                            .token_count = GRAIN_TOKENS,
                                            .pages = &page,
                                            .page_count = 1};
        }
        struct msg msg = {
            .request_id = 77, .kind = MSG_PUSH, .u.push = {.runs = runs, .run_count = 40}};
        bool ended = false;
        char reason[MSG_TEXT_MAX] = "";
        for (int i = 0; i < 2000 && !ended; i++) {
            for (uint32_t k = 0; k < 40; k++) {
                (void)memcpy(keys[k], &i, sizeof i);
            }
            ended = !raw_send(&raw, &msg, NULL, 0);
        }
        /* small pushes may each end before the next arrives; then nothing was in flight twice */
        if (raw_ended(&raw, reason, 500)) {
            ck_assert_msg(strstr(reason, "in flight already") != NULL, "%s", reason);
        }
        raw_close(&raw);
    }
END_TEST

START_TEST(a_file_that_can_shrink)
    {
        struct raw raw;
        hostile_open(&raw);
        int fd = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
        ck_assert_int_eq(raw_export(&raw, fd, 1 << 20), -1);
        (void)close(fd);
        fd = raw_memfd(1 << 20);
        ck_assert_int_eq(raw_export(&raw, fd, (1 << 20) + 1), -1); /* beyond the file */
        (void)close(fd);
        raw_close(&raw);
    }
END_TEST

START_TEST(a_sparse_file)
    {
        struct raw raw;
        hostile_open(&raw);
        int fd = memfd_create("sparse", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
        ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
        ck_assert_int_eq(raw_export(&raw, fd, 1 << 20), -1);
        (void)close(fd);
        raw_close(&raw);
    }
END_TEST

START_TEST(a_punched_file)
    {
        struct raw raw;
        ck_assert(raw_connect(&raw, kveikd.socket));
        ck_assert(raw_hello(&raw, "puncher"));
        ck_assert_int_eq(raw_space(&raw, LAYERS), 0);
        int fd = raw_memfd(raw_layout_bytes(LAYERS, PAGES));
        ck_assert_int_eq(raw_export(&raw, fd, raw_layout_bytes(LAYERS, PAGES)), 0);
        ck_assert_int_eq(raw_layout(&raw, 0, LAYERS, PAGES), 0);
        ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
        uint8_t key[MSG_KEY_BYTES] = {9};
        struct msg msg;
        struct msg_push_run run;
        raw_push(&msg, &run, 50, key);
        ck_assert(raw_send(&raw, &msg, NULL, 0));
        must_end(&raw, "a hole was punched");
        (void)close(fd);
    }
END_TEST

/* Regions of one file cost one descriptor, and a hole is found whichever of them were dropped. */
START_TEST(a_punched_file_of_many_regions)
    {
        enum { REGIONS = 8 };
        struct raw raw;
        uint64_t bytes = raw_layout_bytes(LAYERS, PAGES);
        ck_assert(raw_connect(&raw, kveikd.socket));
        ck_assert(raw_hello(&raw, "puncher"));
        ck_assert_int_eq(raw_space(&raw, LAYERS), 0);
        int fd = raw_memfd(bytes * REGIONS);
        uint32_t before = daemon_descriptors(&kveikd);
        for (uint32_t i = 0; i < REGIONS; i++) {
            ck_assert_int_eq(raw_export_at(&raw, fd, bytes * i, bytes), (int)i);
        }
        ck_assert_uint_eq(daemon_descriptors(&kveikd), before + 1);
        ck_assert_int_eq(raw_layout(&raw, 0, LAYERS, PAGES), 0);
        for (uint32_t i = 1; i < REGIONS; i++) {
            struct msg answer;
            struct msg drop = {
                .request_id = 60 + i, .kind = MSG_DROP_MEMORY, .u.drop_memory.handle = i};
            ck_assert(raw_call(&raw, &drop, &answer));
            ck_assert_int_eq(answer.u.handle_reply.status, ST_OK);
        }
        struct msg drop = {.request_id = 59, .kind = MSG_DROP_LAYOUT};
        struct msg answer;
        ck_assert(raw_call(&raw, &drop, &answer));
        ck_assert_int_eq(answer.u.handle_reply.status, ST_OK);
        ck_assert_int_eq(raw_export_at(&raw, fd, bytes, bytes), 1);
        drop = (struct msg){.request_id = 58, .kind = MSG_DROP_MEMORY};
        ck_assert(raw_call(&raw, &drop, &answer)); /* the one that kept the descriptor */
        ck_assert_int_eq(answer.u.handle_reply.status, ST_OK);
        ck_assert_int_eq(raw_export_at(&raw, fd, 0, bytes), 0);
        ck_assert_uint_eq(daemon_descriptors(&kveikd), before + 1);
        ck_assert_int_eq(raw_layout(&raw, 0, LAYERS, PAGES), 0);
        ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
        uint8_t key[MSG_KEY_BYTES] = {9};
        struct msg msg;
        struct msg_push_run run;
        raw_push(&msg, &run, 50, key);
        ck_assert(raw_send(&raw, &msg, NULL, 0));
        must_end(&raw, "a hole was punched");
        (void)close(fd);
    }
END_TEST

/* Layouts that come and go leave no shapes behind: a session may use more than it may hold. */
START_TEST(a_thousand_shapes_one_after_the_other)
    {
        enum { MOST_LAYERS = 64, MOST_GRAINS = 18 };
        struct raw raw;
        uint64_t bytes = raw_layout_bytes(MOST_LAYERS, MOST_GRAINS);
        ck_assert(raw_connect(&raw, kveikd.socket));
        ck_assert(raw_hello(&raw, "shapes"));
        ck_assert_int_eq(raw_space(&raw, MOST_LAYERS), 0);
        int fd = raw_memfd(bytes);
        ck_assert_int_eq(raw_export(&raw, fd, bytes), 0);
        (void)close(fd);
        uint32_t pages[MOST_GRAINS];
        for (uint32_t i = 0; i < MOST_GRAINS; i++) {
            pages[i] = i;
        }
        for (uint32_t i = 0; i < MOST_LAYERS * MOST_GRAINS; i++) {
            uint32_t grains = i % MOST_GRAINS + 1;
            uint8_t key[MSG_KEY_BYTES] = {(uint8_t)i, (uint8_t)(i >> 8), 2};
            struct msg_push_run run;
            struct msg msg;
            struct msg answer;
            ck_assert_int_eq(raw_layout(&raw, 0, i / MOST_GRAINS + 1, MOST_GRAINS), 0);
            raw_push(&msg, &run, 100, key);
            run.block_grains = grains;
            run.tail_tokens = grains * GRAIN_TOKENS;
            run.token_count = run.tail_tokens;
            run.pages = pages;
            run.page_count = grains;
            ck_assert(raw_call(&raw, &msg, &answer));
            ck_assert_msg(answer.u.completion.status == ST_OK, "push %u: %s", i,
                          answer.u.completion.text);
            struct msg drop = {.request_id = 101, .kind = MSG_DROP_LAYOUT};
            ck_assert(raw_call(&raw, &drop, &answer));
            ck_assert_int_eq(answer.u.handle_reply.status, ST_OK);
        }
        raw_close(&raw);
    }
END_TEST

START_TEST(lies_about_pages_and_handles)
    {
        struct raw raw;
        hostile_open(&raw);
        static const uint32_t beyond = PAGES;
        uint8_t key[MSG_KEY_BYTES] = {3};
        struct msg msg;
        struct msg answer;
        struct msg_push_run run;
        raw_push(&msg, &run, 60, key);
        run.pages = &beyond;
        ck_assert(raw_call(&raw, &msg, &answer));
        ck_assert_int_eq(answer.u.completion.status, ST_INVALID);
        raw_push(&msg, &run, 61, key);
        run.layout = 5;
        ck_assert(raw_call(&raw, &msg, &answer));
        ck_assert_int_eq(answer.u.completion.status, ST_UNKNOWN_ID);
        raw_push(&msg, &run, 62, key);
        run.page_token = GRAIN_TOKENS - 1; /* runs over the end of its only page */
        ck_assert(raw_call(&raw, &msg, &answer));
        ck_assert_int_eq(answer.u.completion.status, ST_INVALID);
        msg = (struct msg){.request_id = 63, .kind = MSG_RELEASE, .u.release.lease = 12345};
        ck_assert(raw_call(&raw, &msg, &answer));
        ck_assert_int_eq(answer.u.completion.status, ST_UNKNOWN_ID);
        raw_close(&raw);
    }
END_TEST

/* Requests without reading an answer: the daemon neither waits nor grows. */
START_TEST(floods)
    {
        struct raw raw;
        hostile_open(&raw);
        uint8_t key[MSG_KEY_BYTES] = {4};
        struct msg lookup = {.kind = MSG_LOOKUP,
                             .u.lookup = {.keys = key,
                                          .key_count = 1,
                                          .key_grains = 1,
                                          .tail_tokens = GRAIN_TOKENS,
                                          .step_grains = 1}};
        bool sending = true;
        for (uint64_t i = 0; i < 2000000 && sending; i++) {
            lookup.request_id = 1000 + i;
            sending = raw_send(&raw, &lookup, NULL, 0);
        }
        ck_assert_msg(!sending, "two million answers were kept for a peer that does not read");
        ck_assert(daemon_logged(&kveikd, "does not read its answers", ENDED_MS));
        raw_close(&raw);
    }
END_TEST

static uint64_t daemon_cpu_ms(const struct daemon *daemon)
{
    clockid_t clock = 0;
    struct timespec used = {0};
    ck_assert_int_eq(clock_getcpuclockid(daemon->pid, &clock), 0);
    ck_assert_int_eq(clock_gettime(clock, &used), 0);
    return (uint64_t)used.tv_sec * 1000u + (uint64_t)used.tv_nsec / 1000000u;
}

/* Out of descriptors the daemon waits, it does not spin; and it goes on when there are some. */
START_TEST(no_descriptor_for_a_connection)
    {
        enum { MORE = 8 };
        struct raw raws[MORE];
        struct rlimit before;
        rlim_t now = daemon_descriptors(&kveikd) + 2;
        struct rlimit few = {.rlim_cur = now, .rlim_max = now};
        ck_assert_int_eq(prlimit(kveikd.pid, RLIMIT_NOFILE, NULL, &before), 0);
        few.rlim_max = before.rlim_max;
        ck_assert_int_eq(prlimit(kveikd.pid, RLIMIT_NOFILE, &few, NULL), 0);
        for (int i = 0; i < MORE; i++) {
            ck_assert(raw_connect(&raws[i], kveikd.socket));
        }
        uint64_t used_ms = daemon_cpu_ms(&kveikd);
        struct timespec moment = {.tv_nsec = 400000000};
        (void)nanosleep(&moment, NULL);
        ck_assert_uint_lt(daemon_cpu_ms(&kveikd) - used_ms, 100);
        ck_assert_int_eq(prlimit(kveikd.pid, RLIMIT_NOFILE, &before, NULL), 0);
        for (int i = 0; i < MORE; i++) {
            raw_close(&raws[i]);
        }
        struct raw raw;
        hostile_open(&raw);
        raw_close(&raw);
    }
END_TEST

/* Regions of many files use up the descriptors: others still get in. */
START_TEST(descriptors_are_kept_for_others)
    {
        struct daemon small;
        struct raw raw;
        struct raw late;
        struct rlimit few = {.rlim_cur = 96, .rlim_max = 96};
        static const char *const arguments[] = {"--cpu-bytes", "4MiB", NULL};
        daemon_init(&small);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
        ck_assert(daemon_start(&small, arguments));
        ck_assert(raw_connect(&raw, small.socket));
        ck_assert(raw_hello(&raw, "greedy"));
        int exported = 0;
        for (int i = 0; i < 100; i++) {
            int fd = raw_memfd(4096);
            exported += raw_export(&raw, fd, 4096) >= 0;
            (void)close(fd);
        }
        ck_assert_int_gt(exported, 20);
        ck_assert_int_lt(exported, 80);
        ck_assert(raw_connect(&late, small.socket));
        ck_assert(raw_hello(&late, "late"));
        raw_close(&late);
        raw_close(&raw);
        ck_assert_int_eq(daemon_stop(&small), 0);
        daemon_finish(&small);
    }
END_TEST

START_TEST(too_many_descriptors)
    {
        struct raw raw;
        hostile_open(&raw);
        uint32_t before = daemon_descriptors(&kveikd);
        int fds[FRAME_DESCRIPTORS_MAX];
        for (int i = 0; i < FRAME_DESCRIPTORS_MAX; i++) {
            fds[i] = raw.socket;
        }
        struct msg msg = {.request_id = 70, .kind = MSG_RELEASE, .u.release.lease = 1};
        ck_assert(raw_send(&raw, &msg, fds, FRAME_DESCRIPTORS_MAX));
        must_end(&raw, "with descriptors");
        struct timespec moment = {.tv_nsec = 100000000};
        (void)nanosleep(&moment, NULL);
        ck_assert_uint_lt(daemon_descriptors(&kveikd), before);
    }
END_TEST

/* Not hostile, but many: all are served, and all are gone afterwards. */
START_TEST(several_hundred_sessions)
    {
        enum { MANY = 400 };
        static struct raw raws[MANY];
        uint32_t before = daemon_descriptors(&kveikd);
        for (int i = 0; i < MANY; i++) {
            hostile_open(&raws[i]);
        }
        for (int i = 0; i < MANY; i++) {
            uint8_t key[MSG_KEY_BYTES] = {(uint8_t)i, (uint8_t)(i >> 8), 1};
            struct msg msg;
            struct msg answer;
            struct msg_push_run run;
            raw_push(&msg, &run, 5, key);
            ck_assert(raw_call(&raws[i], &msg, &answer));
            ck_assert_int_eq(answer.u.completion.status, ST_OK);
        }
        for (int i = 0; i < MANY; i++) {
            raw_close(&raws[i]);
        }
        uint64_t until = clock_ms() + 1000;
        while (daemon_descriptors(&kveikd) > before) {
            ck_assert_msg(clock_ms() < until, "descriptors are left after a second");
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {push_and_pull_by_hand,
                                  random_bytes,
                                  random_payloads,
                                  no_hello_first,
                                  connects_and_says_nothing,
                                  a_stop_waits_for_no_hello,
                                  half_a_message,
                                  a_frame_too_large,
                                  nested_a_million_deep,
                                  an_id_twice,
                                  a_file_that_can_shrink,
                                  a_sparse_file,
                                  a_punched_file,
                                  a_punched_file_of_many_regions,
                                  a_thousand_shapes_one_after_the_other,
                                  lies_about_pages_and_handles,
                                  floods,
                                  no_descriptor_for_a_connection,
                                  descriptors_are_kept_for_others,
                                  too_many_descriptors,
                                  several_hundred_sessions};
    struct check_suite suite = {.name = "hostile",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
