/* Random but valid messages of every kind, for round trips and for the fuzzer's first corpus. */
#ifndef KVEIK_TESTS_LIB_MESSAGE_MAKE_H
#define KVEIK_TESTS_LIB_MESSAGE_MAKE_H

#include "base/rng.h"
#include "proto/message.h"

/* Lists have at most `items_max` items (>= 2). Pointers go into the arena. */
void message_make(struct rng *rng, enum msg_kind kind, uint32_t items_max, struct msg_arena *arena,
                  struct msg *msg_out);

/* NULL when both say the same; else the field that differs. */
const char *message_difference(const struct msg *a, const struct msg *b);

#endif
