/*
 * The tier killed at any moment: what was reported durable is there, and reads right.
 *
 * A child writes, moves, forgets and frees until a timer ends it between two instructions, and says
 * through a pipe what became durable, and, before it begins, what it will not want any more.
 * Another child opens the store again and looks. The parent opens nothing: RocksDB's threads do not
 * survive a fork.
 *
 * Covers: storage/disk/disk_commit.c
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/disk_fixture.h"

enum { ROUNDS = 60, IDS = 800, LIFE_US = 120000, STEPS = 100000, SEGMENTS = 12 };
enum { SAY_DURABLE = 1, SAY_UNWANTED = 2 };

struct saying {
    uint32_t what;
    uint32_t id;
};

static struct tier *tier;
static bool expected[TIER_PARTS_MAX];

static void on_alarm(int number)
{
    _exit(number == SIGALRM ? 0 : 1);
}

static void say(int pipe_fd, uint32_t what, uint32_t id)
{
    struct saying saying = {.what = what, .id = id};
    if (write(pipe_fd, &saying, sizeof saying) != (ssize_t)sizeof saying) {
        _exit(2);
    }
}

static void say_durable(int pipe_fd, bool *said)
{
    for (uint32_t id = 1; id < IDS; id++) {
        const struct tier_part *part = &tier->parts[id];
        if (part->held && part->durable && !part->busy && !said[id]) {
            said[id] = true;
            say(pipe_fd, SAY_DURABLE, id);
        }
    }
}

static void unwanted(int pipe_fd, bool *said, uint32_t id)
{
    said[id] = false;
    say(pipe_fd, SAY_UNWANTED, id);
}

static void free_segment(int pipe_fd, bool *said, uint32_t segment)
{
    for (uint32_t id = 1; id < IDS; id++) {
        if (tier->parts[id].held && tier->parts[id].place.segment == segment) {
            unwanted(pipe_fd, said, id);
        }
    }
    (void)tier_free_segment(tier, segment);
}

static void step(int pipe_fd, bool *said, struct rng *rng)
{
    uint32_t id = 1 + (uint32_t)rng_below(rng, IDS - 1);
    uint64_t what = rng_below(rng, 100);
    tier_settle(tier, TIER_JOBS / 2);
    if (tier->parts[id].busy) {
        return;
    }
    if (!tier->parts[id].held) {
        (void)tier_write(tier, id, 1 + rng_below(rng, what < 80 ? 9000 : 90000), 0);
    } else if (what < 20) {
        unwanted(pipe_fd, said, id); /* a move takes its old place away before it is durable */
        (void)tier_move(tier, id);
    } else if (what < 40) {
        unwanted(pipe_fd, said, id);
        tier_forget(tier, id);
    } else if (what < 42) {
        tier_settle(tier, 0);
        free_segment(pipe_fd, said, (uint32_t)rng_below(rng, SEGMENTS));
    } else if (what < 45) {
        disk_sync(tier->disk);
    }
    say_durable(pipe_fd, said);
}

static void live(int pipe_fd, uint64_t seed)
{
    static bool said[TIER_PARTS_MAX];
    struct rng rng = {.state = seed};
    struct itimerval timer = {.it_value.tv_usec = 2000 + (int)rng_below(&rng, LIFE_US)};
    if (tier_open(tier, NULL) != ST_OK) {
        _exit(3);
    }
    for (uint32_t id = 1; id < IDS; id++) {
        said[id] = tier->parts[id].held;
    }
    (void)signal(SIGALRM, on_alarm);
    (void)setitimer(ITIMER_REAL, &timer, NULL);
    for (int i = 0; i < STEPS; i++) {
        step(pipe_fd, said, &rng);
    }
    _exit(4);
}

/* Everything durable is there, all that is there reads right. */
static void look(void)
{
    struct error error = {0};
    if (tier_open(tier, &error) != ST_OK) {
        (void)fprintf(stderr, "%s\n", error.text);
        _exit(5);
    }
    for (uint32_t id = 1; id < IDS; id++) {
        if (expected[id] && !tier->parts[id].held) {
            (void)fprintf(stderr, "part %u was durable and is gone\n", id);
            _exit(6);
        }
    }
    if (tier->order_faults > 0 || tier_read_all(tier) > 0) {
        _exit(7);
    }
    tier_close(tier);
    _exit(0);
}

static void hear(int pipe_fd)
{
    struct saying saying;
    while (read(pipe_fd, &saying, sizeof saying) == (ssize_t)sizeof saying) {
        expected[saying.id] = saying.what == SAY_DURABLE;
    }
}

static void wait_well(pid_t child)
{
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ended with %x", status);
}

START_TEST(durable_parts_outlive_a_kill)
    {
        uint64_t rounds = check_scaled(ROUNDS);
        uint32_t most = 0;
        for (uint64_t round = 0; round < rounds; round++) {
            int pipe_fds[2];
            ck_assert_int_eq(pipe(pipe_fds), 0);
            pid_t child = fork();
            ck_assert_int_ge(child, 0);
            if (child == 0) {
                (void)close(pipe_fds[0]);
                live(pipe_fds[1], round + 1);
            }
            (void)close(pipe_fds[1]);
            hear(pipe_fds[0]);
            (void)close(pipe_fds[0]);
            wait_well(child);
            child = fork();
            ck_assert_int_ge(child, 0);
            if (child == 0) {
                look();
            }
            wait_well(child);
            uint32_t count = 0;
            for (uint32_t id = 1; id < IDS; id++) {
                count += expected[id];
            }
            most = count > most ? count : most;
        }
        ck_assert_uint_gt(most, 50); /* it was about something */
    }
END_TEST

static void setup(void)
{
    tier = calloc(1, sizeof *tier);
    ck_assert_ptr_nonnull(tier);
    tier_init(tier);
    tier->options.sync_ms = 5;
    tier->options.bytes_max = SEGMENTS * tier->options.segment_bytes;
}

static void teardown(void)
{
    tier_finish(tier);
    free(tier);
}

int main(void)
{
    const TTest *const tests[] = {durable_parts_outlive_a_kill};
    const struct check_suite suite = {.name = "disk_crash",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = setup,
                                      .teardown = teardown};
    return check_run(&suite);
}
