/* Shared by the files of the fake daemon. */
#ifndef KVEIK_TESTS_LIB_FAKE_STATE_H
#define KVEIK_TESTS_LIB_FAKE_STATE_H

#include <pthread.h>

#include "proto/frame.h"
#include "tests/lib/fake_daemon.h"

enum { CONNS_MAX = 16, THINGS_MAX = 64, HELD_MAX = 4096, GRAINS_MAX = 4096 };

struct fake_region {
    bool used;
    uint32_t kind;
    uint8_t *base;
    uint64_t bytes;
    void *mapping;
    size_t mapping_bytes;
};

struct fake_layout {
    bool used;
    struct layout layout; /* owns its planes */
};

struct fake_conn {
    int socket;
    struct frame_reader reader;
    struct frame_writer writer;
    struct space spaces[THINGS_MAX];
    uint32_t space_count;
    struct fake_region regions[THINGS_MAX];
    struct fake_layout layouts[THINGS_MAX];
};

struct fake_grain {
    uint8_t key[MSG_KEY_BYTES];
    uint8_t *data;
    size_t bytes;
};

struct held {
    uint32_t conn;
    uint64_t request_id;
    enum msg_kind kind;
    uint32_t statuses;
};

struct fake_daemon {
    pthread_t thread;
    pthread_mutex_t mutex;
    char path[108];
    int listener;
    int wake;
    bool stopping;
    bool deaf;
    bool miscount;
    bool lie;
    enum fake_hello hello;
    uint64_t hold;
    uint64_t refuse;
    int refusal;
    uint32_t memory_kinds;
    uint32_t requests_max;
    uint8_t boot_id[MSG_BOOT_ID_BYTES];
    uint64_t counts[MSG_KIND_COUNT];
    uint64_t leases;
    struct fake_conn *conns[CONNS_MAX];
    struct held held[HELD_MAX];
    uint32_t held_count;
    struct fake_grain grains[GRAINS_MAX];
    uint32_t grain_count;
    struct msg_arena in;
    struct msg_arena out;
};

void fake_region_drop(struct fake_region *region);

/* The shape of the answer to a kind, with a status. */
void fake_answer_shape(enum msg_kind kind, int status, struct msg *reply);

/* Does what a request asks and fills the answer. */
void fake_carry_out(struct fake_daemon *daemon, struct fake_conn *conn, const struct msg *msg,
                    struct frame *frame, struct msg *reply);

#endif
