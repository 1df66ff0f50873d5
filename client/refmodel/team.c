/*
 * The caller publishes a round (work, items) under the lock, raises its number and takes part; a
 * member that sees a new number takes items until none is left and counts itself out; the caller
 * leaves when all have. So no member still looks at a round when the next is published.
 */
#include "client/refmodel/team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"

enum { TEAM_MAGIC = 0x7ea3c011 };

struct seat {
    struct refmodel_team *team;
    pthread_t thread;
    uint32_t member;
};

struct refmodel_team {
    uint32_t magic;
    uint32_t members;
    uint32_t started; /* threads, so one less than members once built */
    struct seat *seats;
    pthread_mutex_t lock;
    pthread_cond_t round_begins;
    pthread_cond_t round_ends;
    uint64_t round; /* these five under the lock */
    uint32_t busy;  /* threads that have not counted themselves out of the round */
    bool leaving;
    refmodel_team_work work;
    void *ctx;
    uint32_t items;
    atomic_uint_fast32_t next; /* item that nobody took yet */
};

static void take_items(struct refmodel_team *team, uint32_t member)
{
    for (;;) {
        uint_fast32_t item = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
        if (item >= team->items) {
            return;
        }
        team->work(team->ctx, (uint32_t)item, member);
    }
}

static void *member_main(void *argument)
{
    struct seat *seat = argument;
    struct refmodel_team *team = seat->team;
    uint64_t seen = 0;
    (void)pthread_mutex_lock(&team->lock);
    while (!team->leaving) {
        if (team->round == seen) {
            (void)pthread_cond_wait(&team->round_begins, &team->lock);
            continue;
        }
        seen = team->round;
        (void)pthread_mutex_unlock(&team->lock);
        take_items(team, seat->member);
        (void)pthread_mutex_lock(&team->lock);
        KVEIK_ASSERT(team->busy > 0);
        team->busy--;
        if (team->busy == 0) {
            (void)pthread_cond_signal(&team->round_ends);
        }
    }
    (void)pthread_mutex_unlock(&team->lock);
    return NULL;
}

static int start_members(struct refmodel_team *team, struct error *error)
{
    while (team->started + 1 < team->members) {
        struct seat *seat = &team->seats[team->started];
        seat->team = team;
        seat->member = team->started + 1;
        if (fault_fires(FAULT_THREAD) ||
            pthread_create(&seat->thread, NULL, member_main, seat) != 0) {
            return error_set(error, ST_NO_MEMORY, "cannot start thread %u of the model",
                             seat->member);
        }
        team->started++;
    }
    return ST_OK;
}

int refmodel_team_create(uint32_t members, struct refmodel_team **team_out, struct error *error)
{
    KVEIK_ASSERT(members > 0);
    struct refmodel_team *team = heap_calloc(1, sizeof(*team));
    if (team == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for the model's threads");
    }
    team->magic = TEAM_MAGIC;
    team->members = members;
    (void)pthread_mutex_init(&team->lock, NULL);
    (void)pthread_cond_init(&team->round_begins, NULL);
    (void)pthread_cond_init(&team->round_ends, NULL);
    team->seats = heap_calloc(members, sizeof(*team->seats));
    int status = team->seats == NULL
                     ? error_set(error, ST_NO_MEMORY, "no memory for the model's threads")
                     : start_members(team, error);
    if (status != ST_OK) {
        refmodel_team_destroy(team);
        return status;
    }
    *team_out = team;
    return ST_OK;
}

void refmodel_team_destroy(struct refmodel_team *team)
{
    if (team == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(team, TEAM_MAGIC);
    (void)pthread_mutex_lock(&team->lock);
    team->leaving = true;
    (void)pthread_cond_broadcast(&team->round_begins);
    (void)pthread_mutex_unlock(&team->lock);
    for (uint32_t i = 0; i < team->started; i++) {
        (void)pthread_join(team->seats[i].thread, NULL);
    }
    (void)pthread_cond_destroy(&team->round_ends);
    (void)pthread_cond_destroy(&team->round_begins);
    (void)pthread_mutex_destroy(&team->lock);
    heap_free(team->seats);
    team->magic = 0;
    heap_free(team);
}

void refmodel_team_run(struct refmodel_team *team, refmodel_team_work work, void *ctx,
                       uint32_t items)
{
    KVEIK_CHECK_OBJ(team, TEAM_MAGIC);
    if (team->started == 0 || items == 1) {
        for (uint32_t item = 0; item < items; item++) {
            work(ctx, item, 0);
        }
        return;
    }
    (void)pthread_mutex_lock(&team->lock);
    KVEIK_ASSERT(team->busy == 0);
    team->work = work;
    team->ctx = ctx;
    team->items = items;
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    team->busy = team->started;
    team->round++;
    (void)pthread_cond_broadcast(&team->round_begins);
    (void)pthread_mutex_unlock(&team->lock);
    take_items(team, 0);
    (void)pthread_mutex_lock(&team->lock);
    while (team->busy > 0) {
        (void)pthread_cond_wait(&team->round_ends, &team->lock);
    }
    (void)pthread_mutex_unlock(&team->lock);
}
