/*
 * A disk tier in a folder of its own, with an owner as simple as can be: it remembers every part
 * that it wrote and checks every byte that it reads. Payloads, keys and lengths are made from a
 * part's id, so that a part that is found again can be checked without knowing who wrote it.
 */
#ifndef KVEIK_TESTS_LIB_DISK_FIXTURE_H
#define KVEIK_TESTS_LIB_DISK_FIXTURE_H

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "storage/disk/disk.h"

enum { TIER_PARTS_MAX = 4096, TIER_SEGMENTS_MAX = 64, TIER_JOBS = 64 };

struct tier_part {
    bool held; /* written, or found at start, and not forgotten */
    bool durable;
    bool moving;
    bool busy; /* on its way to the tier */
    uint64_t charged;
    struct disk_place place;
    uint64_t seal;
    uint64_t bytes;
    uint32_t epoch;
};

struct tier {
    char directory[64];
    struct disk_options options;
    struct disk *disk;
    struct log log;
    sem_t woken;
    struct tier_part parts[TIER_PARTS_MAX]; /* by id */
    uint32_t held;
    uint32_t committed_epoch;
    struct disk_state state;
    uint32_t lost_segments;
    uint32_t restored;     /* at the last open */
    uint32_t order_faults; /* entries that came out of order, or did not fit their id */
    uint64_t failed_writes;
    uint64_t failed_reads;
    int write_status; /* of the last that failed */
    int read_status;
    uint32_t in_flight;
};

/* A fresh folder below $TMPDIR or /tmp. */
void tier_init(struct tier *tier);
/* Closes, and removes the folder. */
void tier_finish(struct tier *tier);

int tier_open(struct tier *tier, struct error *error);
void tier_close(struct tier *tier);

/* Writes part `id` of so many bytes. `shift` moves the payload off its alignment. The status of
 * disk_write(); what it is good for is seen once it is reaped. */
int tier_write(struct tier *tier, uint32_t id, uint64_t bytes, uint32_t shift);
int tier_move(struct tier *tier, uint32_t id);
int tier_read(struct tier *tier, uint32_t id, uint32_t shift);
void tier_forget(struct tier *tier, uint32_t id);
/* Forgets what is in it. False: nothing was. */
bool tier_free_segment(struct tier *tier, uint32_t segment);

/* Reaps what there is; waits until no more than `most` jobs are in flight. */
void tier_settle(struct tier *tier, uint32_t most);
/* Until all that was written is durable, or ten seconds have passed: false. */
bool tier_sync(struct tier *tier);
/* Reads every part that is held; those whose reading fails are forgotten and counted. */
uint32_t tier_read_all(struct tier *tier);

#endif
