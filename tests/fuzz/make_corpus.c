/* make_corpus FOLDER: one small message of each kind into FOLDER/message, and the same in frames
 * into FOLDER/frame; what stands on disk into FOLDER/store. How the kept corpus was made; the same
 * seeds give the same bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "proto/frame.h"
#include "storage/disk/format.h"
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

/* See fuzz_store.c for the first byte. */
static void put_stored(const char *folder, const char *name, uint8_t what, const uint8_t *data,
                       size_t bytes)
{
    uint8_t tagged[1 + FORMAT_SEGMENT_BYTES];
    KVEIK_ASSERT(bytes <= FORMAT_SEGMENT_BYTES);
    tagged[0] = what;
    (void)memcpy(tagged + 1, data, bytes);
    put(folder, "store", name, tagged, 1 + bytes);
}

static void put_stores(const char *folder)
{
    static const uint8_t keys[2 * DISK_KEY_BYTES] = {1, 2, 3};
    static const uint8_t secret[DISK_SECRET_BYTES] = {42};
    static struct format_record record;
    uint8_t out[FORMAT_SEGMENT_BYTES];
    struct format_segment segment = {.number = 3, .segment_bytes = 1 << 22};
    struct format_state state = {.used_bytes = 8192};
    struct disk_kind kind = {.space = keys, .space_bytes = 5, .form = keys, .form_bytes = 2};
    struct disk_part part = {
        .keys = keys, .key_count = 2, .parent = keys, .origin = keys, .origin_bytes = 3};
    record.header_bytes = DISK_ALIGN;
    record.record_bytes = UINT64_C(2) * DISK_ALIGN;
    record.part_count = 2;
    record.kind_count = 1;
    record.kinds[0] = kind;
    for (uint32_t i = 0; i < 2; i++) {
        record.parts[i].part = part;
        record.parts[i].bytes = 100;
        record.parts[i].offset = DISK_ALIGN / DISK_UNIT + 2 * i;
    }
    format_record_encode(&record, secret, out);
    put_stored(folder, "record", 126, out, DISK_ALIGN);
    put_stored(folder, "record_signed", 132, out, DISK_ALIGN);
    put_stored(folder, "part", 1, out, format_part_encode(&record.parts[0], out));
    put_stored(folder, "kind", 2, out, format_kind_encode(&kind, out));
    format_store_encode(&segment.store, out);
    put_stored(folder, "store", 3, out, FORMAT_STORE_BYTES);
    format_segment_encode(&segment, out);
    put_stored(folder, "segment", 4, out, FORMAT_SEGMENT_BYTES);
    format_state_encode(&state, out);
    put_stored(folder, "state", 5, out, FORMAT_STATE_BYTES);
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
    put_stores(argv[1]);
    msg_arena_finish(&making);
    msg_arena_finish(&encoding);
    return EXIT_SUCCESS;
}
