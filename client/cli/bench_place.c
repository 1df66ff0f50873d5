/* Placing the two processes of a round trip, so that the same is measured every time. */
#include <sched.h>

#include "base/assert.h"
#include "client/cli/bench.h"

/* Taken once, before anything is placed: what this process may use at all. */
static cpu_set_t allowed;
static size_t processors[2];
static uint32_t processor_count; /* 0: not looked up yet; at most 2 */

static void find_processors(void)
{
    if (processor_count > 0) {
        return;
    }
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        CPU_SET(0, &allowed);
    }
    for (size_t i = 0; i < CPU_SETSIZE && processor_count < ARRAY_COUNT(processors); i++) {
        if (CPU_ISSET(i, &allowed)) {
            processors[processor_count++] = i;
        }
    }
    KVEIK_ASSERT(processor_count > 0);
}

const char *bench_place_name(enum bench_place place)
{
    static const char *const names[BENCH_PLACES] = {"near", "far", "anywhere"};
    KVEIK_ASSERT(place < BENCH_PLACES);
    return names[place];
}

bool bench_place_possible(const struct bench_run *run, enum bench_place place)
{
    find_processors();
    switch (place) {
    case BENCH_NEAR:
        return run->daemon_pid > 0;
    case BENCH_FAR:
        return run->daemon_pid > 0 && processor_count == ARRAY_COUNT(processors);
    case BENCH_ANYWHERE:
        return run->daemon_pid == 0;
    case BENCH_PLACES:
        break;
    }
    return false;
}

void bench_place_take(enum bench_place place, pid_t other)
{
    find_processors();
    cpu_set_t ours;
    cpu_set_t theirs;
    CPU_ZERO(&ours);
    CPU_ZERO(&theirs);
    CPU_SET(processors[0], &ours);
    CPU_SET(processors[place == BENCH_FAR ? 1 : 0], &theirs);
    /* a failure leaves it to the scheduler: the figures then vary more, nothing else */
    (void)sched_setaffinity(0, sizeof ours, place == BENCH_ANYWHERE ? &allowed : &ours);
    if (other > 0) {
        (void)sched_setaffinity(other, sizeof theirs, place == BENCH_ANYWHERE ? &allowed : &theirs);
    }
}
