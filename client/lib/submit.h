/* Submitting under the mutex: shared by the asynchronous, the blocking and the internal callers. */
#ifndef KVEIK_CLIENT_LIB_SUBMIT_H
#define KVEIK_CLIENT_LIB_SUBMIT_H

#include "client/lib/client.h"

struct submit {
    void *user;
    bool internal;       /* outside the user's limit, never polled */
    uint32_t timeout_ms; /* filled from the deadline, but for quiesce */
};

/* The pages of a run and what they must hold. */
struct submit_pages {
    const uint32_t *pages;
    uint32_t page_count;
    uint32_t page_token;
    uint64_t tokens;
};

struct submit_quiesce {
    uint32_t layout;
    const uint32_t *pages;
    uint32_t page_count;
};

/* NULL: *error says why. */
struct op *submit_push(struct kveik_client *client, const struct kveik_push *push,
                       struct submit *submit, struct error *error);
struct op *submit_pull(struct kveik_client *client, const struct kveik_pull *pull,
                       struct submit *submit, struct error *error);
struct op *submit_lookup(struct kveik_client *client, const struct kveik_lookup *lookup,
                         struct submit *submit, struct error *error);
struct op *submit_persist(struct kveik_client *client, const struct kveik_persist *persist,
                          struct submit *submit, struct error *error);
struct op *submit_release(struct kveik_client *client, uint64_t lease, struct submit *submit,
                          struct error *error);
struct op *submit_quiesce(struct kveik_client *client, const struct submit_quiesce *quiesce,
                          struct submit *submit, struct error *error);

/* Sends what was built; client->out holds what the message points to until then. NULL: not sent. */
struct op *submit_send(struct kveik_client *client, struct msg *msg, const struct submit *submit,
                       uint32_t status_count, struct error *error);

#endif
