#include "base/assert.h"
#include "client/lib/client.h"

int request_send(struct kveik_client *client, struct op *op, struct msg *msg, uint32_t timeout_ms,
                 struct error *error)
{
    KVEIK_ASSERT(op->request == msg->kind);
    msg->request_id = op->id;
    int status = connection_send(client, msg, -1, error);
    if (status != ST_OK) {
        op_discard(client, op);
        return status;
    }
    op_launch(client, op, timeout_ms);
    return ST_OK;
}

void request_forgotten(struct kveik_client *client, struct msg *msg)
{
    if (client->connection.state != STATE_READY && client->connection.state != STATE_REGISTERING) {
        return;
    }
    struct error ignored = {0};
    struct op *op = op_create(client, msg->kind, true, 0, &ignored);
    if (op != NULL) {
        op->taken = true;
        (void)request_send(client, op, msg, RELEASE_TIMEOUT_MS, &ignored);
    }
}
