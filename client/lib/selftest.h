/* The self-test of a declared layout: the engine's own indexing against the declared strides. */
#ifndef KVEIK_CLIENT_SELFTEST_H
#define KVEIK_CLIENT_SELFTEST_H

#include "client/lib/client.h"

/*
 * Fills page 0 through the engine's indexing, pushes it, pulls it to page 1 (or back to page 0
 * where there is one page only) and checks there through the engine's indexing. Pages 0 and 1 keep
 * their contents. Without the lock. ST_OK, ST_MISMATCH with plane, page, token and head, or why
 * it could not be run.
 */
int layout_selftest(struct kveik_client *client, const struct kveik_layout *given,
                    const struct client_layout *layout, uint32_t handle, struct error *error);

#endif
