/*
 * Covers: storage/cpu/cross.c
 * Covers: storage/cpu/guard.c
 */
#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/cpu/copy.h"
#include "tests/lib/kv_memory.h"

enum { BLOCK_TOKENS = 64, BLOCKS = 8, JOBS = 4 };

/* A wake that can hold the worker that calls it: so tests decide what a worker is doing. */
struct waker {
    sem_t woken;
    sem_t release;
    bool hold;
};

static void on_wake(void *arg)
{
    struct waker *waker = arg;
    (void)sem_post(&waker->woken);
    if (waker->hold) {
        while (sem_wait(&waker->release) != 0) {
        }
    }
}

static void waker_init(struct waker *waker, bool hold)
{
    ck_assert_int_eq(sem_init(&waker->woken, 0, 0), 0);
    ck_assert_int_eq(sem_init(&waker->release, 0, 0), 0);
    waker->hold = hold;
}

static void wait_woken(struct waker *waker)
{
    while (sem_wait(&waker->woken) != 0) {
        ck_assert_int_eq(errno, EINTR);
    }
}

static struct copy_engine *make_engine(uint32_t workers, struct waker *waker)
{
    struct copy_engine *engine = NULL;
    struct error error;
    struct copy_options options = {
        .workers = workers, .jobs_max = JOBS, .wake = on_wake, .wake_arg = waker};
    ck_assert_msg(copy_engine_create(&options, &engine, &error) == ST_OK, "%s", error.text);
    return engine;
}

static struct copy_job *reap_next(struct copy_engine *engine, struct waker *waker)
{
    struct copy_job *job = copy_reap(engine);
    while (job == NULL) {
        wait_woken(waker);
        job = copy_reap(engine);
    }
    return job;
}

/* Some blocks in one layout, pushed to parts and pulled into another layout. */
struct scene {
    struct kv_memory from;
    struct kv_memory to;
    struct stored_form form;
    char *parts;
    uint32_t pages[BLOCKS][BLOCK_TOKENS / 16];
    struct copy_item push[BLOCKS];
    struct copy_item pull[BLOCKS];
};

static void scene_init_of(struct scene *scene, enum kv_style from, enum kv_style to,
                          uint32_t elements, bool apart)
{
    struct rng rng = {elements};
    struct kv_geometry g = {.style = from,
                            .opaque = apart,
                            .apart = apart,
                            .page_tokens = 16,
                            .page_count = BLOCKS * BLOCK_TOKENS / 16 + 3,
                            .layer_begin = 2,
                            .layer_count = 3,
                            .head_count = 4,
                            .kind_count = 2,
                            .element_bytes = 2,
                            .elements = {elements, elements}};
    kv_memory_init(&scene->from, &g, 1);
    g.style = to;
    kv_memory_init(&scene->to, &g, 2);
    ck_assert_int_eq(stored_form_of(&scene->from.layout, BLOCK_TOKENS / 16, &scene->form, NULL),
                     ST_OK);
    scene->parts = heap_alloc_aligned(64, BLOCKS * scene->form.part_bytes);
    ck_assert_ptr_nonnull(scene->parts);
    (void)memset(scene->parts, 0x5a, BLOCKS * scene->form.part_bytes);
    kv_random_pages(&rng, scene->pages[0], BLOCKS * BLOCK_TOKENS / 16, g.page_count);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        scene->push[i] = (struct copy_item){.layout = &scene->from.layout,
                                            .form = &scene->form,
                                            .part = scene->parts + i * scene->form.part_bytes,
                                            .pages = scene->pages[i],
                                            .tokens = BLOCK_TOKENS,
                                            .layer_begin = 2,
                                            .layer_count = 3,
                                            .head_count = 4};
        scene->pull[i] = scene->push[i];
        scene->pull[i].layout = &scene->to.layout;
    }
}

static void scene_init(struct scene *scene, enum kv_style from, enum kv_style to, uint32_t elements)
{
    scene_init_of(scene, from, to, elements, false);
}

static void scene_finish(struct scene *scene)
{
    kv_memory_finish(&scene->from);
    kv_memory_finish(&scene->to);
    heap_free(scene->parts);
}

/* The scene as seen from outside: through process_vm_readv, which may read ourselves, too. */
static void scene_cross(struct scene *scene, pid_t pid, int pidfd)
{
    scene->from.memory.pid = pid;
    scene->from.memory.pidfd = pidfd;
    scene->to.memory.pid = pid;
    scene->to.memory.pidfd = pidfd;
}

static int open_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static struct copy_job job_of(struct scene *scene, bool push, uint32_t item_begin, uint32_t count)
{
    return (struct copy_job){.push = push,
                             .memory = push ? &scene->from.memory : &scene->to.memory,
                             .items = (push ? scene->push : scene->pull) + item_begin,
                             .item_count = count,
                             .owner = scene};
}

/* Submits the blocks in JOBS jobs and waits for all. */
static void run_jobs(struct copy_engine *engine, struct waker *waker, struct scene *scene,
                     bool push)
{
    struct copy_job jobs[JOBS];
    uint32_t each = BLOCKS / JOBS;
    for (uint32_t i = 0; i < JOBS; i++) {
        jobs[i] = job_of(scene, push, i * each, each);
        ck_assert_int_eq(copy_submit(engine, &jobs[i]), ST_OK);
    }
    for (uint32_t i = 0; i < JOBS; i++) {
        struct copy_job *job = reap_next(engine, waker);
        ck_assert_int_eq(job->status, ST_OK);
        ck_assert_uint_eq(job->bytes, each * scene->form.part_bytes);
    }
    ck_assert_uint_eq(copy_in_flight(engine), 0);
}

static void check_round_trip(struct copy_engine *engine, struct waker *waker, struct scene *scene)
{
    uint64_t bytes = BLOCKS * scene->form.part_bytes;
    run_jobs(engine, waker, scene, true);
    char *pushed = heap_alloc(bytes);
    ck_assert_ptr_nonnull(pushed);
    (void)memcpy(pushed, scene->parts, bytes);
    (void)memset(scene->parts, 0x5a, bytes);
    struct kv_memory expected;
    kv_memory_clone(&expected, &scene->to);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        kv_reference_copy(&scene->from, &scene->push[i], true);
        kv_reference_copy(&expected, &scene->pull[i], false);
    }
    ck_assert(memcmp(pushed, scene->parts, bytes) == 0);
    heap_free(pushed);
    run_jobs(engine, waker, scene, false);
    ck_assert(kv_memory_equal(&expected, &scene->to));
    kv_memory_finish(&expected);
}

START_TEST(workers_move_what_the_reference_moves)
    {
        struct waker waker;
        waker_init(&waker, false);
        struct copy_engine *engine = make_engine(3, &waker);
        int pidfd = open_pidfd(getpid());
        ck_assert_int_ge(pidfd, 0);
        for (int from = 0; from < KV_STYLE_COUNT; from++) {
            for (int to = 0; to < KV_STYLE_COUNT; to++) {
                struct scene scene;
                scene_init(&scene, (enum kv_style)from, (enum kv_style)to, to % 3 == 0 ? 128 : 24);
                if (_i == 1) {
                    scene_cross(&scene, getpid(), pidfd);
                }
                check_round_trip(engine, &waker, &scene);
                scene_finish(&scene);
            }
        }
        (void)close(pidfd);
        copy_engine_destroy(engine);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

/* Opaque shares of heads, short ones and one pair with long ones, which cross without a detour. */
START_TEST(workers_move_heads_of_opaque_pages)
    {
        static const struct {
            enum kv_style from;
            enum kv_style to;
            uint32_t bytes;
        } pairs[] = {{KV_HEAD_MAJOR, KV_HEAD_MAJOR, 24}, {KV_INTERLEAVED, KV_TRANSPOSED, 24},
                     {KV_TRANSPOSED, KV_ACROSS, 128},    {KV_PADDED, KV_INTERLEAVED, 40},
                     {KV_ACROSS, KV_HEAD_MAJOR, 24},     {KV_PADDED, KV_TRANSPOSED, 16 * 1024}};
        struct waker waker;
        waker_init(&waker, false);
        struct copy_engine *engine = make_engine(3, &waker);
        int pidfd = open_pidfd(getpid());
        ck_assert_int_ge(pidfd, 0);
        for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
            struct scene scene;
            scene_init_of(&scene, pairs[i].from, pairs[i].to, pairs[i].bytes, true);
            if (_i == 1) {
                scene_cross(&scene, getpid(), pidfd);
            }
            check_round_trip(engine, &waker, &scene);
            scene_finish(&scene);
        }
        (void)close(pidfd);
        copy_engine_destroy(engine);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

/* Boxes larger than the bounce buffer and runs longer than one call. */
START_TEST(large_boxes_cross_in_pieces)
    {
        static const enum kv_style styles[][2] = {{KV_TOKEN_MAJOR, KV_HEAD_MAJOR},
                                                  {KV_TRANSPOSED, KV_TOKEN_MAJOR},
                                                  {KV_HEAD_MAJOR, KV_HEAD_MAJOR}};
        struct waker waker;
        waker_init(&waker, false);
        struct copy_engine *engine = make_engine(1, &waker);
        for (int i = 0; i < 3; i++) {
            struct kv_geometry g = {.style = styles[i][0],
                                    .page_tokens = 512,
                                    .page_count = 9,
                                    .layer_count = 1,
                                    .head_count = 8,
                                    .kind_count = 1,
                                    .element_bytes = 2,
                                    .elements = {128}};
            struct kv_memory from;
            struct kv_memory to;
            struct kv_memory expected;
            struct stored_form form;
            kv_memory_init(&from, &g, 1);
            g.style = styles[i][1];
            kv_memory_init(&to, &g, 2);
            kv_memory_clone(&expected, &to);
            ck_assert_int_eq(stored_form_of(&from.layout, 256, &form, NULL), ST_OK);
            uint32_t pages[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
            struct copy_item item = {.layout = &from.layout,
                                     .form = &form,
                                     .pages = pages,
                                     .part = heap_alloc(form.part_bytes),
                                     .page_token = 5,
                                     .tokens = 4096,
                                     .layer_count = 1,
                                     .head_count = 8};
            from.memory.pid = getpid();
            to.memory.pid = getpid();
            struct copy_job job = {
                .push = true, .memory = &from.memory, .items = &item, .item_count = 1};
            ck_assert_int_eq(copy_run(engine, &job), ST_OK);
            ck_assert_uint_eq(job.bytes, form.part_bytes);
            item.layout = &to.layout;
            job.push = false;
            job.memory = &to.memory;
            ck_assert_int_eq(copy_run(engine, &job), ST_OK);
            (void)memset(item.part, 0, form.part_bytes);
            kv_reference_copy(&from, &item, true);
            kv_reference_copy(&expected, &item, false);
            ck_assert(kv_memory_equal(&to, &expected));
            heap_free(item.part);
            kv_memory_finish(&from);
            kv_memory_finish(&to);
            kv_memory_finish(&expected);
        }
        copy_engine_destroy(engine);
    }
END_TEST

START_TEST(small_jobs_run_inline)
    {
        struct scene scene;
        struct copy_engine *engine = NULL;
        scene_init(&scene, KV_TOKEN_MAJOR, KV_HEAD_MAJOR, 64);
        struct copy_options options = {
            .workers = 1, .jobs_max = 1, .inline_bytes = scene.form.part_bytes};
        ck_assert_int_eq(copy_engine_create(&options, &engine, NULL), ST_OK);
        struct copy_job job = job_of(&scene, true, 0, 1);
        ck_assert_int_eq(copy_submit(engine, &job), ST_PENDING);
        ck_assert_int_eq(job.status, ST_OK);
        ck_assert_uint_eq(job.bytes, scene.form.part_bytes);
        struct copy_job empty = job_of(&scene, true, 0, 0);
        ck_assert_int_eq(copy_submit(engine, &empty), ST_PENDING);
        ck_assert_int_eq(empty.status, ST_OK);
        ck_assert_ptr_null(copy_reap(engine));
        struct copy_job larger = job_of(&scene, true, 0, 2);
        ck_assert_int_eq(copy_submit(engine, &larger), ST_OK);
        while (copy_reap(engine) == NULL) {
            (void)poll(NULL, 0, 1);
        }
        copy_engine_destroy(engine);
        scene_finish(&scene);
    }
END_TEST

START_TEST(cancelled_late_and_too_many)
    {
        struct scene scene;
        struct waker waker;
        waker_init(&waker, true);
        scene_init(&scene, KV_TOKEN_MAJOR, KV_HEAD_MAJOR, 64);
        struct copy_engine *engine = make_engine(1, &waker);
        struct copy_job first = job_of(&scene, true, 0, 1);
        ck_assert_int_eq(copy_submit(engine, &first), ST_OK);
        wait_woken(&waker); /* the worker now waits in on_wake() */
        ck_assert_ptr_eq(copy_reap(engine), &first);
        ck_assert_int_eq(first.status, ST_OK);

        struct copy_job jobs[JOBS];
        for (uint32_t i = 0; i < JOBS; i++) {
            jobs[i] = job_of(&scene, true, i, 1);
        }
        jobs[1].deadline_ms = clock_ms() - 1;
        jobs[2].deadline_ms = clock_ms() + 1000000;
        for (uint32_t i = 0; i < JOBS; i++) {
            ck_assert_int_eq(copy_submit(engine, &jobs[i]), ST_OK);
        }
        struct copy_job beyond = job_of(&scene, true, 0, 1);
        ck_assert_int_eq(copy_submit(engine, &beyond), ST_BUSY);
        ck_assert_uint_eq(copy_in_flight(engine), JOBS);
        copy_cancel(&jobs[0]);
        for (uint32_t i = 0; i < 2 * JOBS; i++) {
            (void)sem_post(&waker.release);
        }
        for (uint32_t i = 0; i < JOBS; i++) {
            ck_assert_ptr_eq(reap_next(engine, &waker), &jobs[i]);
        }
        ck_assert_int_eq(jobs[0].status, ST_CANCELLED);
        ck_assert_uint_eq(jobs[0].bytes, 0);
        ck_assert_int_eq(jobs[1].status, ST_DEADLINE);
        ck_assert_int_eq(jobs[2].status, ST_OK);
        ck_assert_int_eq(jobs[3].status, ST_OK);
        copy_engine_destroy(engine);
        scene_finish(&scene);
    }
END_TEST

/* One region is a file that loses its end while it is mapped. */
START_TEST(truncated_file_is_survived)
    {
        struct scene scene;
        struct waker waker;
        waker_init(&waker, false);
        scene_init(&scene, KV_TOKEN_MAJOR, KV_HEAD_MAJOR, 128);
        struct copy_engine *engine = make_engine(2, &waker);
        for (uint32_t i = 0; i < scene.from.region_count; i++) {
            struct copy_region *region = &scene.from.regions[i];
            int fd = (int)syscall(SYS_memfd_create, "kveik-test", 0);
            ck_assert_int_ge(fd, 0);
            ck_assert_int_eq(ftruncate(fd, (off_t)region->bytes), 0);
            heap_free(region->base);
            region->base = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            ck_assert(region->base != MAP_FAILED);
            (void)memset(region->base, 1, region->bytes);
            ck_assert_int_eq(ftruncate(fd, 4096), 0);
            (void)close(fd);
        }
        for (int inline_run = 0; inline_run < 2; inline_run++) {
            struct copy_job job = job_of(&scene, true, 0, BLOCKS);
            if (inline_run == 1) {
                ck_assert_int_eq(copy_run(engine, &job), ST_MEMORY);
            } else {
                ck_assert_int_eq(copy_submit(engine, &job), ST_OK);
                ck_assert_ptr_eq(reap_next(engine, &waker), &job);
                ck_assert_int_eq(job.status, ST_MEMORY);
            }
        }
        run_jobs(engine, &waker, &scene, false); /* and the workers go on */
        for (uint32_t i = 0; i < scene.from.region_count; i++) {
            (void)munmap(scene.from.regions[i].base, scene.from.regions[i].bytes);
            scene.from.regions[i].base = NULL;
        }
        copy_engine_destroy(engine);
        scene_finish(&scene);
    }
END_TEST

static volatile sig_atomic_t foreign_faults;

static void on_foreign_fault(int number)
{
    (void)number;
    foreign_faults = foreign_faults + 1;
    _exit(42);
}

/* A fault outside a copy goes to whoever handled SIGBUS before: here, in a process of its own, as
 * the handler is installed once. */
START_TEST(foreign_faults_pass_through)
    {
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            struct waker waker;
            struct sigaction action = {.sa_handler = _i == 0 ? on_foreign_fault : SIG_DFL};
            (void)sigaction(SIGBUS, &action, NULL);
            (void)sem_init(&waker.woken, 0, 0);
            struct copy_engine *engine = NULL;
            struct copy_options options = {
                .workers = 1, .jobs_max = 1, .wake = on_wake, .wake_arg = &waker};
            if (copy_engine_create(&options, &engine, NULL) != ST_OK) {
                _exit(1);
            }
            int fd = (int)syscall(SYS_memfd_create, "kveik-test", 0);
            volatile char *hole = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
            _exit(hole[0]);
        }
        int status = 0;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        if (_i == 0) {
            ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 42);
        } else {
            ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        }
    }
END_TEST

START_TEST(dead_peer_is_lost)
    {
        struct scene scene;
        struct waker waker;
        waker_init(&waker, false);
        scene_init(&scene, KV_TOKEN_MAJOR, KV_HEAD_MAJOR, 64);
        pid_t child = fork(); /* it has the same regions at the same addresses */
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            for (;;) {
                (void)pause();
            }
        }
        struct copy_engine *engine = make_engine(2, &waker);
        int pidfd = open_pidfd(child);
        ck_assert_int_ge(pidfd, 0);
        scene_cross(&scene, child, pidfd);
        run_jobs(engine, &waker, &scene, true);
        run_jobs(engine, &waker, &scene, false);
        ck_assert_int_eq(kill(child, SIGKILL), 0);
        struct pollfd gone = {.fd = pidfd, .events = POLLIN};
        ck_assert_int_eq(poll(&gone, 1, 10000), 1);
        for (int reaped = 0; reaped < 2; reaped++) {
            for (int push = 0; push < 2; push++) {
                struct copy_job job = job_of(&scene, push == 1, 0, BLOCKS);
                ck_assert_int_eq(copy_run(engine, &job), ST_LOST);
                ck_assert_uint_eq(job.bytes, 0);
            }
            (void)waitpid(child, NULL, 0);
            scene_cross(&scene, child, reaped == 0 ? pidfd : -1);
        }
        scene_cross(&scene, child, -1); /* without a pidfd, the dead id itself says so */
        struct copy_job job = job_of(&scene, true, 0, 1);
        ck_assert_int_eq(copy_run(engine, &job), ST_LOST);
        (void)close(pidfd);
        copy_engine_destroy(engine);
        scene_finish(&scene);
    }
END_TEST

START_TEST(missing_pages_of_a_peer_are_memory_errors)
    {
        struct scene scene;
        struct waker waker;
        waker_init(&waker, false);
        scene_init(&scene, KV_TOKEN_MAJOR, KV_TOKEN_MAJOR, 128);
        struct copy_engine *engine = make_engine(1, &waker);
        scene_cross(&scene, getpid(), -1);
        uint64_t bytes = scene.from.regions[2].bytes;
        heap_free(scene.from.regions[2].base);
        scene.from.regions[2].base =
            mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ck_assert(scene.from.regions[2].base != MAP_FAILED);
        ck_assert_int_eq(mprotect(scene.from.regions[2].base, bytes, PROT_NONE), 0);
        struct copy_job job = job_of(&scene, true, 0, BLOCKS);
        ck_assert_int_eq(copy_run(engine, &job), ST_MEMORY);
        (void)munmap(scene.from.regions[2].base, bytes);
        scene.from.regions[2].base = NULL;
        copy_engine_destroy(engine);
        scene_finish(&scene);
    }
END_TEST

START_TEST(every_failure_is_reported)
    {
        struct scene scene;
        struct waker waker;
        waker_init(&waker, false);
        scene_init(&scene, KV_TOKEN_MAJOR, KV_HEAD_MAJOR, 64);
        int64_t before = heap_outstanding();
        struct copy_options options = {
            .workers = 3, .jobs_max = 1, .wake = on_wake, .wake_arg = &waker};
        for (int64_t n = 0;; n++) {
            struct copy_engine *engine = NULL;
            struct error error = {0};
            fault_set(FAULT_HEAP, n, 1);
            int status = copy_engine_create(&options, &engine, &error);
            bool fired = fault_fired(FAULT_HEAP) > 0;
            fault_clear();
            ck_assert_int_eq(status, fired ? ST_NO_MEMORY : ST_OK);
            ck_assert(fired == (error.text[0] != '\0'));
            copy_engine_destroy(engine);
            ck_assert_int_eq(heap_outstanding(), before);
            if (!fired) {
                break;
            }
        }
        for (int64_t n = 0; n < 3; n++) {
            struct copy_engine *engine = NULL;
            fault_set(FAULT_THREAD, n, 1);
            ck_assert_int_eq(copy_engine_create(&options, &engine, NULL), ST_NO_MEMORY);
            fault_clear();
            ck_assert_int_eq(heap_outstanding(), before);
        }
        struct copy_engine *engine = make_engine(2, &waker);
        for (int cross = 0; cross < 2; cross++) {
            fault_set(FAULT_COPY, 0, 1);
            struct copy_job job = job_of(&scene, true, 0, BLOCKS);
            ck_assert_int_eq(copy_submit(engine, &job), ST_OK);
            ck_assert_ptr_eq(reap_next(engine, &waker), &job);
            ck_assert_int_eq(job.status, ST_MEMORY);
            fault_clear();
            scene_cross(&scene, getpid(), -1);
        }
        fault_set(FAULT_HEAP, 0, 1);
        struct copy_job job = job_of(&scene, true, 0, BLOCKS);
        ck_assert_int_eq(copy_run(engine, &job), ST_NO_MEMORY);
        fault_clear();
        copy_engine_destroy(engine);
        copy_engine_destroy(NULL);
        scene_finish(&scene);
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("copy");
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, foreign_faults_pass_through, 0,
                        2); /* first: installs nothing here */
    tcase_add_loop_test(tcase, workers_move_what_the_reference_moves, 0, 2);
    tcase_add_loop_test(tcase, workers_move_heads_of_opaque_pages, 0, 2);
    tcase_add_test(tcase, large_boxes_cross_in_pieces);
    tcase_add_test(tcase, small_jobs_run_inline);
    tcase_add_test(tcase, cancelled_late_and_too_many);
    tcase_add_test(tcase, truncated_file_is_survived);
    tcase_add_test(tcase, dead_peer_is_lost);
    tcase_add_test(tcase, missing_pages_of_a_peer_are_memory_errors);
    tcase_add_test(tcase, every_failure_is_reported);
    Suite *suite = suite_create("copy");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
