/*
 * A client that speaks the engine protocol by hand: for tests that need what libkveik never sends.
 * Everything blocks, with time-outs.
 */
#ifndef KVEIK_TESTS_LIB_RAW_H
#define KVEIK_TESTS_LIB_RAW_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/message.h"

struct raw {
    int socket;
    struct frame_reader reader;
    struct frame_writer writer;
    struct msg_arena in;
    struct msg_arena out;
};

/* Connects; no hello yet. */
bool raw_connect(struct raw *raw, const char *path);
void raw_close(struct raw *raw);

/* Bytes as they are. False when the daemon hung up. */
bool raw_bytes(struct raw *raw, const void *bytes, size_t count);

bool raw_send(struct raw *raw, const struct msg *msg, const int *descriptors, uint32_t count);

/* The next message; valid until the next raw_* call. False at end of file or after timeout_ms. */
bool raw_receive(struct raw *raw, struct msg *msg_out, uint32_t timeout_ms);

/* Whether the daemon ends the session within timeout_ms; the notice's text goes to `reason`. */
bool raw_ended(struct raw *raw, char reason[MSG_TEXT_MAX], uint32_t timeout_ms);

/* Sends and receives the answer with the same request id. */
bool raw_call(struct raw *raw, const struct msg *msg, struct msg *answer_out);

bool raw_hello(struct raw *raw, const char *instance);

/* One group of `layers` layers, 1 head, K and V of 32 elements of one byte. The handle, or -1. */
int raw_space(struct raw *raw, uint32_t layers);

/* A sealed memfd of `bytes`, allocated. */
int raw_memfd(size_t bytes);

/* Exports a memfd (which stays the caller's); the handle, or -1. */
int raw_export(struct raw *raw, int memfd, uint64_t bytes);
int raw_export_at(struct raw *raw, int memfd, uint64_t offset, uint64_t bytes);

/* Pages of 16 tokens of that space in region 0, plane after plane. The handle, or -1. */
int raw_layout(struct raw *raw, uint32_t space, uint32_t layers, uint32_t pages);
uint64_t raw_layout_bytes(uint32_t layers, uint32_t pages);

/* A push of one block of one grain, page 0, key filled with `mark`. */
void raw_push(struct msg *msg, struct msg_push_run *run, uint64_t id, const uint8_t *key);

#endif
