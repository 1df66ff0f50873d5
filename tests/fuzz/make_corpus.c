/* make_corpus FOLDER: one small message of each kind into FOLDER/message, and the same in frames
 * into FOLDER/frame. How the kept corpus was made; the same seeds give the same bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "proto/frame.h"
#include "tests/lib/message_make.h"

static void put(const char *folder, const char *sub, const char *name, const void *data,
                size_t bytes)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s/%s", folder, sub, name);
    FILE *file = fopen(path, "wbe");
    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
        (void)fprintf(stderr, "%s: cannot be written\n", path);
        abort(); /* half a corpus is none */
    }
}

static void put_framed(const char *folder, const char *name, const void *data, uint32_t bytes)
{
    uint8_t framed[1 + FRAME_HEADER_BYTES + 4096];
    KVEIK_ASSERT(bytes <= 4096);
    framed[0] = (uint8_t)(bytes % 9); /* pieces: see fuzz_frame.c */
    framed[1] = (uint8_t)bytes;
    framed[2] = (uint8_t)(bytes >> 8);
    framed[3] = 0;
    framed[4] = 0;
    framed[5] = 0;
    framed[6] = 0;
    framed[7] = (uint8_t)(FRAME_MARK & 0xff);
    framed[8] = (uint8_t)(FRAME_MARK >> 8);
    (void)memcpy(framed + 1 + FRAME_HEADER_BYTES, data, bytes);
    put(folder, "frame", name, framed, 1 + FRAME_HEADER_BYTES + bytes);
}

int main(int argc, char **argv)
{
    struct msg_arena making = {0};
    struct msg_arena encoding = {0};
    if (argc != 2 || msg_arena_init(&making, MSG_ARENA_BYTES_MAX) != ST_OK ||
        msg_arena_init(&encoding, MSG_ARENA_BYTES_MAX) != ST_OK) {
        (void)fprintf(stderr, "usage: make_corpus FOLDER\n");
        return EXIT_FAILURE;
    }
    for (int kind = MSG_NONE + 1; kind < MSG_KIND_COUNT; kind++) {
        const void *payload = NULL;
        uint32_t bytes = UINT32_MAX;
        struct error error = {0};
        struct msg msg;
        for (uint64_t seed = 1; bytes > 512 && seed < 1000; seed++) { /* a small one */
            struct rng rng = {.state = seed};
            msg_arena_reset(&making);
            msg_arena_reset(&encoding);
            message_make(&rng, (enum msg_kind)kind, 2, &making, &msg);
            int status = msg_encode(&msg, &encoding, &payload, &bytes, &error);
            KVEIK_ASSERT(status == ST_OK);
        }
        put(argv[1], "message", msg_kind_name(msg.kind), payload, bytes);
        if (kind % 4 == 1) {
            put_framed(argv[1], msg_kind_name(msg.kind), payload, bytes);
        }
    }
    msg_arena_finish(&making);
    msg_arena_finish(&encoding);
    return EXIT_SUCCESS;
}
