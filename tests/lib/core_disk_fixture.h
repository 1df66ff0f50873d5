/*
 * The disk tier's side of a core under test, said tersely. The test is the disk: it sees the writes
 * and reads that a step asked for in fixture->actions, and ends them when it likes. Parts are of
 * one grain in a space of one group; key n is that of core_fixture.
 */
#ifndef KVEIK_TESTS_CORE_DISK_FIXTURE_H
#define KVEIK_TESTS_CORE_DISK_FIXTURE_H

#include "tests/lib/core_fixture.h"

/* Of core_fixture, with eight segments, four writes and four reads at once, and room to wait for
 * eight parts; parts are written at once. */
struct core_limits core_disk_limits(void);

/* A session 0 of tenant 1, a space of this admission and a shape of 512 bytes: 128 fill the pool.
 */
void core_disk_open(struct core_fixture *fixture, const struct core_limits *limits,
                    uint32_t admission);

/* what core_disk_open() made. */
extern uint32_t core_disk_space;
extern uint32_t core_disk_shape;

/* Action `index` of the kind in the last step; NULL: there are not so many. */
const struct core_action *core_disk_action(const struct core_fixture *fixture,
                                           enum core_action_kind kind, uint32_t index);
uint32_t core_disk_count(const struct core_fixture *fixture, enum core_action_kind kind);

/* One write, or read, ends. The seal of what is written is its place's offset + 1. */
void core_disk_written(struct core_fixture *fixture, uint32_t job, uint32_t segment,
                       uint32_t offset, uint32_t epoch);
void core_disk_write_failed(struct core_fixture *fixture, uint32_t job, int status);
void core_disk_loaded(struct core_fixture *fixture, uint32_t job, int status);

/* Ends all writes under way and those that follow, into this segment. */
void core_disk_write_all(struct core_fixture *fixture, uint32_t segment, uint32_t epoch);

void core_disk_committed(struct core_fixture *fixture, uint32_t epoch);
void core_disk_lost(struct core_fixture *fixture, uint32_t segment);
void core_disk_state(struct core_fixture *fixture, uint32_t segments, bool readable, bool writable);
void core_disk_quota(struct core_fixture *fixture, uint64_t bytes);

/* The part of the space of core_disk_open() that has the key, whatever its state; NONE. */
uint32_t core_disk_part(struct core_fixture *fixture, uint32_t key);
enum part_state core_disk_part_state(struct core_fixture *fixture, uint32_t key);

/* Out of memory, as an eviction does it: on disk only from now on, or gone. */
void core_disk_demote(struct core_fixture *fixture, uint32_t first, uint32_t count);

/* Pushed, written to the segment and out of memory. */
void core_disk_fill(struct core_fixture *fixture, uint32_t first, uint32_t count, uint32_t segment);

void core_disk_pin(struct core_fixture *fixture, uint32_t key, bool on);

/* The answer to a persist of these keys, and its request: ACTION_WAIT or ACTION_REPLY. */
const struct core_action *core_disk_persist(struct core_fixture *fixture, uint32_t first,
                                            uint32_t count);

/* Status of a part that was found on disk. */
int core_disk_restore(struct core_fixture *fixture, uint32_t key, uint32_t segment,
                      uint32_t offset);

#endif
