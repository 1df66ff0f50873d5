/*
 * Which of the tokens found after a restart had been pushed before it? Counted by the keys of the
 * grains. A key that any engine pushed anew after the restart does not count, even if it was found
 * before that: what is reported is certain, not likely.
 */
#ifndef KVEIK_CLI_DEMO_OUTLIVED_H
#define KVEIK_CLI_DEMO_OUTLIVED_H

#include <stdbool.h>
#include <stdint.h>

/* The first eight bytes of each key: enough for a count. Past a limit keys are let go, and then
 * fewer are counted than there were. */
struct demo_keys {
    uint64_t *keys;
    uint32_t count;
    uint32_t capacity;
    bool incomplete;
};

struct demo_outlived {
    bool restarted;
    struct demo_keys before; /* pushed or found before the restart */
    struct demo_keys found;  /* after it */
    struct demo_keys again;  /* pushed after it */
};

/* A zeroed struct is ready. `keys`: `count` keys of KVEIK_KEY_BYTES. */
void demo_outlived_pushed(struct demo_outlived *outlived, const uint8_t *keys, uint32_t count);
void demo_outlived_found(struct demo_outlived *outlived, const uint8_t *keys, uint32_t count);

/* What follows is after the restart. */
void demo_outlived_restart(struct demo_outlived *outlived);

/* Keys found after the restart (each as often as it was found) that came over it. */
uint64_t demo_outlived_count(struct demo_outlived *outlived);

/* Accepts a zeroed one. */
void demo_outlived_finish(struct demo_outlived *outlived);

#endif
