#include "storage/disk/seal.h"

#include <errno.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/disk/disk.h"

enum { CHUNK_BYTES = 1024 * 1024 };

uint64_t seal_of(const void *bytes, size_t count)
{
    return XXH3_64bits(bytes, count) & SEAL_MASK;
}

static int read_fully(int fd, char *to, size_t bytes, uint64_t offset)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = -1;
        errno = EIO;
        if (!fault_fires(FAULT_FILE)) {
            got = pread(fd, to + done, bytes - done, (off_t)(offset + done));
        }
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return ST_IO;
        }
        done += (size_t)got;
    }
    return ST_OK;
}

int seal_of_file(int fd, uint64_t offset, uint64_t bytes, uint64_t *seal_out)
{
    char *chunk = heap_alloc(CHUNK_BYTES);
    XXH3_state_t *state = XXH3_createState();
    int status = chunk == NULL || state == NULL ? ST_NO_MEMORY : ST_OK;
    if (status == ST_OK) {
        (void)XXH3_64bits_reset(state);
    }
    while (status == ST_OK && bytes > 0) {
        size_t piece = bytes < CHUNK_BYTES ? (size_t)bytes : CHUNK_BYTES;
        status = read_fully(fd, chunk, piece, offset);
        if (status == ST_OK) {
            (void)XXH3_64bits_update(state, chunk, piece);
            offset += piece;
            bytes -= piece;
        }
    }
    if (status == ST_OK) {
        *seal_out = XXH3_64bits_digest(state) & SEAL_MASK;
    }
    (void)XXH3_freeState(state);
    heap_free(chunk);
    return status;
}

uint64_t checksum_plain(const void *bytes, size_t count)
{
    return XXH3_64bits(bytes, count);
}

uint64_t checksum_keyed(const uint8_t *secret, const uint8_t *bytes, size_t count, size_t hole)
{
    KVEIK_ASSERT(hole + 8 <= count);
    uint64_t front = XXH3_64bits_withSeed(bytes, hole, get_u64(secret));
    uint64_t back =
        XXH3_64bits_withSeed(bytes + hole + 8, count - hole - 8, get_u64(secret + 8) ^ front);
    uint8_t both[16];
    put_u64(both, front);
    put_u64(both + 8, back);
    return XXH3_64bits_withSeed(both, sizeof both, get_u64(secret + 16));
}
