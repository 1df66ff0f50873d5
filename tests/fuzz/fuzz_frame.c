/* Any bytes on a socket: frames come out whole and within their limits, or the reader refuses. The
 * first byte says in what pieces the bytes are written. */
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"

enum { PAYLOAD_MAX = 64 * 1024 };

/* False when the stream is refused. */
static int drain(struct frame_reader *reader, int socket, size_t *taken)
{
    struct error error = {0};
    int status = frame_receive(reader, socket, &error);
    while (status >= 0) {
        struct frame frame;
        int next = frame_next(reader, &frame, &error);
        if (next != ST_OK) {
            return next == ST_PENDING ? 1 : 0;
        }
        KVEIK_ASSERT(frame.payload_bytes <= PAYLOAD_MAX);
        volatile uint8_t sum = 0;
        for (uint32_t i = 0; i < frame.payload_bytes; i++) {
            sum = (uint8_t)(sum + frame.payload[i]);
        }
        *taken += FRAME_HEADER_BYTES + frame.payload_bytes;
        frame_finish(&frame);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    int sockets[2];
    struct frame_reader reader = {0};
    if (bytes < 2 || bytes > 128 * 1024 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) != 0) {
        return 0;
    }
    if (frame_reader_init(&reader, PAYLOAD_MAX) == ST_OK) {
        size_t piece = data[0] < 8 ? 1 + (size_t)data[0] : (size_t)data[0] * 64;
        size_t written = 0;
        size_t taken = 0;
        data++;
        bytes--;
        while (written < bytes) {
            size_t part = bytes - written < piece ? bytes - written : piece;
            ssize_t sent = write(sockets[0], data + written, part);
            if (sent <= 0) {
                break;
            }
            written += (size_t)sent;
            if (!drain(&reader, sockets[1], &taken)) {
                break;
            }
            KVEIK_ASSERT(taken + frame_partial_bytes(&reader) == written);
        }
        frame_reader_finish(&reader);
    }
    (void)close(sockets[0]);
    (void)close(sockets[1]);
    return 0;
}
