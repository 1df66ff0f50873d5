/* Any bytes as a message: what is accepted encodes, and decodes to the same again. */
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/message_make.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct msg_arena in = {0};
    struct msg_arena out = {0};
    struct msg_arena again = {0};
    struct error error = {0};
    struct msg first;
    struct msg second;
    const void *payload = NULL;
    uint32_t payload_bytes = 0;
    if (bytes > FRAME_PAYLOAD_MAX || msg_arena_init(&in, MSG_ARENA_BYTES_MAX) != ST_OK ||
        msg_arena_init(&out, MSG_ARENA_BYTES_MAX) != ST_OK ||
        msg_arena_init(&again, MSG_ARENA_BYTES_MAX) != ST_OK) {
        return 0;
    }
    int status = msg_decode(data, bytes, &in, &first, &error);
    KVEIK_ASSERT(status == ST_OK || error.text[0] != '\0');
    if (status == ST_OK) {
        status = msg_encode(&first, &out, &payload, &payload_bytes, &error);
        /* defaults that were absent now stand there, which may pass a limit of size */
        KVEIK_ASSERT(status == ST_OK || status == ST_LIMIT);
    }
    if (status == ST_OK) {
        status = msg_decode(payload, payload_bytes, &again, &second, &error);
        KVEIK_ASSERT(status == ST_OK && message_difference(&first, &second) == NULL);
    }
    msg_arena_finish(&in);
    msg_arena_finish(&out);
    msg_arena_finish(&again);
    return 0;
}
