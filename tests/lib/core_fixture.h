/*
 * A core under test and events said tersely. Keys are made from numbers: key n of every fixture is
 * the same 32 bytes. Each call takes one step and returns the action that answers it; all actions
 * of the step are in fixture->actions.
 */
#ifndef KVEIK_TESTS_CORE_FIXTURE_H
#define KVEIK_TESTS_CORE_FIXTURE_H

#include "base/rng.h"
#include "daemon/core/state.h"

enum { FIXTURE_KEYS_MAX = 4096, FIXTURE_RUNS_MAX = 4 };

struct core_fixture {
    struct core *core;
    struct core_actions actions;
    uint32_t last_request;
    uint8_t keys[FIXTURE_KEYS_MAX * CORE_KEY_BYTES];
};

/* Small limits, eviction only when space is asked for: a pool of 64 KiB in slabs of 4 KiB. */
struct core_limits fixture_limits(void);

void fixture_open(struct core_fixture *fixture, const struct core_limits *limits);

/* Checks the core once more before it goes. */
void fixture_close(struct core_fixture *fixture);

/* Keys first, first + stride … as bytes, valid until the next call. */
const uint8_t *fixture_keys(struct core_fixture *fixture, uint32_t first, uint32_t count,
                            uint32_t stride);

/* One step; the action of `kind` in it, or NULL. */
const struct core_action *fixture_step(struct core_fixture *fixture, const struct core_event *event,
                                       enum core_action_kind kind);

const struct core_action *fixture_session(struct core_fixture *fixture, uint32_t session,
                                          const char *instance, uint32_t tenant);
const struct core_action *fixture_session_close(struct core_fixture *fixture, uint32_t session);

/* A space of `count` groups; `id` tells spaces apart. Returns the handle, NONE when refused. */
uint32_t fixture_space(struct core_fixture *fixture, uint32_t session, uint8_t id,
                       const struct core_group *groups, uint32_t count);

/* Handle, or NONE. */
uint32_t fixture_shape(struct core_fixture *fixture, uint32_t session, uint32_t space,
                       uint32_t group, uint32_t grains, struct core_ranges ranges, uint64_t bytes);

/* Pushes keys first … as blocks of the shape's grains, all of them named; the last grain has
 * `tail_tokens`. The copies are left under way: the action is ACTION_COPY or ACTION_REPLY. */
const struct core_action *fixture_push(struct core_fixture *fixture, uint32_t session,
                                       uint32_t shape, uint32_t first, uint32_t grains,
                                       uint32_t tail_tokens);

/* The same, and the copies end with ST_OK. Statuses and copies are gone then. */
void fixture_store(struct core_fixture *fixture, uint32_t session, uint32_t shape, uint32_t first,
                   uint32_t grains);

const struct core_action *fixture_done(struct core_fixture *fixture, uint32_t session,
                                       uint32_t request, int status);

/* A lookup of keys first … with keys of one grain, full tail, all groups. */
struct core_event fixture_lookup(struct core_fixture *fixture, uint32_t session, uint32_t space,
                                 uint32_t first, uint32_t count);
uint32_t fixture_hit(struct core_fixture *fixture, uint32_t session, uint32_t space, uint32_t first,
                     uint32_t count);

/* A lease on what a lookup of these finds; 0: none. */
uint64_t fixture_lease(struct core_fixture *fixture, uint32_t session, uint32_t space,
                       uint32_t first, uint32_t count);
int fixture_release(struct core_fixture *fixture, uint32_t session, uint64_t lease);

/* A pull of keys first … of one grain and all of group 0. */
const struct core_action *fixture_pull(struct core_fixture *fixture, uint32_t session,
                                       uint32_t space, uint32_t first, uint32_t count);

struct core_gauges fixture_gauges(const struct core_fixture *fixture);
struct core_counters fixture_counters(const struct core_fixture *fixture);

#endif
