/*
 * A small engine over libkveik: one space, one layout, pages of 16 tokens whose bytes are a
 * function of the key, so that any page can be checked. For tests of the whole system.
 */
#ifndef KVEIK_TESTS_LIB_MINI_H
#define KVEIK_TESTS_LIB_MINI_H

#include <kveik/kveik.h>
#include <stdbool.h>
#include <stdint.h>

enum { MINI_LAYERS = 4, MINI_ELEMENTS = 64, MINI_HEADS = 2, MINI_PAGE_TOKENS = 16 };

struct mini {
    kveik_client *client;
    uint32_t space;
    uint32_t layout;
    uint32_t region;
    uint32_t pages;
    char *memory;
    uint64_t bytes;
};

struct mini_options {
    const char *socket;
    const char *instance;
    const char *model;
    uint32_t pages;
    uint64_t page_factor; /* elements a head are MINI_ELEMENTS times this; 0: 1 */
    bool wait_for_daemon;
};

/* False with the reason on stderr. */
bool mini_open(struct mini *mini, const struct mini_options *options);
void mini_close(struct mini *mini);

/* One chain of keys per seed. */
void mini_keys(uint64_t seed, uint32_t count, uint8_t *keys_out);

/* Bytes of one page over all planes. */
uint64_t mini_page_bytes(const struct mini *mini);

/* Fills page p with the bytes of `key`, or checks them. */
void mini_fill(struct mini *mini, uint32_t page, const uint8_t *key);
bool mini_check(const struct mini *mini, uint32_t page, const uint8_t *key);
void mini_wipe(struct mini *mini, uint32_t page);

/* Blocks of one grain from pages [first_page, +count). Returns the status of the request; statuses
 * of blocks in statuses_out (may be NULL). */
int mini_push(struct mini *mini, const uint8_t *keys, uint32_t count, uint32_t first_page,
              int8_t *statuses_out);
int mini_pull(struct mini *mini, const uint8_t *keys, uint32_t count, uint32_t first_page,
              int8_t *statuses_out);

/* Leading keys held; lease_out NULL: none is taken. -1 on an error. */
int mini_lookup(struct mini *mini, const uint8_t *keys, uint32_t count, uint64_t *lease_out);

/* A number of the daemon's status, such as "index.leases"; -1 when it is not there. */
int64_t mini_number(struct mini *mini, const char *section, const char *name);

#endif
