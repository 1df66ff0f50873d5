/* Any bytes as the index of a kept pool: it is refused, or read within its bounds. The first byte
 * says how the others are used: 0 as they are, else as records behind a header that is right in all
 * but the count, with a checksum that is right: so that what lies behind the checksum is reached.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "storage/cpu/snapshot.h"
#include "storage/cpu/snapshot_format.h"
#include "tests/fuzz/fuzz.h"

enum { PAYLOAD_MAX = 128 * 1024 };

static const struct snapshot_home home = {.pool = {.device = 1, .inode = 2, .reserve_bytes = 3},
                                          .granule_bytes = 4,
                                          .page_bytes = 5,
                                          .content_format = 6,
                                          .boot_id = "boot"};

static size_t dress(const uint8_t *data, size_t bytes, uint8_t *file)
{
    struct snapshot_header header = {
        .home = home, .version = "0", .record_count = data[0] - 1u, .payload_bytes = bytes - 1};
    snapshot_header_encode(&header, file);
    memcpy(file + SNAPSHOT_HEADER_BYTES, data + 1, bytes - 1);
    uint64_t sum =
        XXH3_64bits_withSeed(file, SNAPSHOT_HEADER_BYTES, XXH3_64bits(data + 1, bytes - 1));
    put_u64(file + SNAPSHOT_HEADER_BYTES + bytes - 1, sum);
    return SNAPSHOT_HEADER_BYTES + bytes - 1 + SNAPSHOT_TRAILER_BYTES;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static uint8_t file[SNAPSHOT_HEADER_BYTES + PAYLOAD_MAX + SNAPSHOT_TRAILER_BYTES];
    if (bytes < 1 || bytes > PAYLOAD_MAX) {
        return 0;
    }
    size_t file_bytes = bytes - 1;
    if (data[0] == 0) {
        memcpy(file, data + 1, bytes - 1);
    } else {
        file_bytes = dress(data, bytes, file);
    }
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, file, file_bytes) != (ssize_t)file_bytes) {
        return 0;
    }
    struct snapshot *snapshot = NULL;
    struct error error = {0};
    int status = snapshot_open_fd(fd, &home, &snapshot, &error);
    KVEIK_ASSERT(data[0] == 0 || status == ST_OK);
    if (status != ST_OK) {
        KVEIK_ASSERT(error.text[0] != '\0');
        return 0;
    }
    const void *record = NULL;
    uint32_t length = 0;
    size_t taken = 0;
    while (snapshot_next(snapshot, &record, &length, &error) == ST_OK) {
        volatile uint8_t sum = 0;
        for (uint32_t i = 0; i < length; i++) {
            sum = (uint8_t)(sum + ((const uint8_t *)record)[i]);
        }
        taken += 4 + length;
        KVEIK_ASSERT(length > 0 && taken <= bytes - 1);
    }
    snapshot_close(snapshot);
    return 0;
}
