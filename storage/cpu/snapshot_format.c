#include "storage/cpu/snapshot_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/fault.h"
#include "base/status.h"

static const char magic_text[8] = {'K', 'V', 'E', 'I', 'K', 'I', 'D', 'X'};

enum {
    MAGIC_AT = 0,
    FORMAT_AT = 8,
    CONTENT_FORMAT_AT = 12,
    GRANULE_AT = 16,
    PAGE_AT = 20,
    DEVICE_AT = 24,
    INODE_AT = 32,
    RESERVE_AT = 40,
    CREATED_AT = 48,
    RECORDS_AT = 56,
    PAYLOAD_AT = 64,
    BOOT_ID_AT = 72,
    VERSION_AT = BOOT_ID_AT + SNAPSHOT_BOOT_ID_BYTES,
    RESERVED_AT = VERSION_AT + SNAPSHOT_VERSION_BYTES, /* zeros up to the end */
};

_Static_assert((int)RESERVED_AT <= (int)SNAPSHOT_HEADER_BYTES, "the header is too small");

int snapshot_home_of(const struct pool *pool, uint32_t content_format,
                     struct snapshot_home *home_out, struct error *error)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    struct snapshot_home home = {.granule_bytes = POOL_GRANULE_BYTES,
                                 .page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
                                 .content_format = content_format};
    if (!pool_identity(pool, &home.pool)) {
        return error_set(error, ST_UNSUPPORTED, "snapshot: the pool has no file");
    }
    errno = EIO;
    int fd = fault_fires(FAULT_OPEN) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, home.boot_id, sizeof home.boot_id - 1);
    int cause = errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    if (length <= 0) { /* without it an index of before a reboot could be believed */
        return error_errno(error, ST_IO, cause, "snapshot: cannot read %s", path);
    }
    home.boot_id[strcspn(home.boot_id, "\n")] = '\0';
    *home_out = home;
    return ST_OK;
}

void snapshot_header_encode(const struct snapshot_header *header,
                            uint8_t bytes_out[SNAPSHOT_HEADER_BYTES])
{
    const struct snapshot_home *home = &header->home;
    memset(bytes_out, 0, SNAPSHOT_HEADER_BYTES);
    memcpy(bytes_out + MAGIC_AT, magic_text, sizeof magic_text);
    put_u32(bytes_out + FORMAT_AT, SNAPSHOT_FORMAT);
    put_u32(bytes_out + CONTENT_FORMAT_AT, home->content_format);
    put_u32(bytes_out + GRANULE_AT, home->granule_bytes);
    put_u32(bytes_out + PAGE_AT, home->page_bytes);
    put_u64(bytes_out + DEVICE_AT, home->pool.device);
    put_u64(bytes_out + INODE_AT, home->pool.inode);
    put_u64(bytes_out + RESERVE_AT, home->pool.reserve_bytes);
    put_u64(bytes_out + CREATED_AT, header->created_s);
    put_u64(bytes_out + RECORDS_AT, header->record_count);
    put_u64(bytes_out + PAYLOAD_AT, header->payload_bytes);
    memcpy(bytes_out + BOOT_ID_AT, home->boot_id, sizeof home->boot_id);
    memcpy(bytes_out + VERSION_AT, header->version, sizeof header->version);
}

static void get_text(const uint8_t *at, char *text, uint32_t bytes)
{
    uint32_t i = 0;
    for (; i < bytes - 1 && at[i] != '\0'; i++) {
        bool printable = at[i] > ' ' && at[i] <= '~';
        text[i] = '?';
        if (printable) {
            text[i] = (char)at[i];
        }
    }
    memset(text + i, 0, bytes - i);
}

int snapshot_header_decode(const uint8_t bytes[SNAPSHOT_HEADER_BYTES],
                           struct snapshot_header *header_out, struct error *error)
{
    if (memcmp(bytes + MAGIC_AT, magic_text, sizeof magic_text) != 0) {
        return error_set(error, ST_CORRUPT, "the file is not an index of kveik's");
    }
    uint32_t format = get_u32(bytes + FORMAT_AT);
    if (format != SNAPSHOT_FORMAT) {
        return error_set(error, ST_VERSION, "the index has format %u, this daemon reads %u", format,
                         (unsigned)SNAPSHOT_FORMAT);
    }
    struct snapshot_header header = {
        .home = {.pool = {.device = get_u64(bytes + DEVICE_AT),
                          .inode = get_u64(bytes + INODE_AT),
                          .reserve_bytes = get_u64(bytes + RESERVE_AT)},
                 .granule_bytes = get_u32(bytes + GRANULE_AT),
                 .page_bytes = get_u32(bytes + PAGE_AT),
                 .content_format = get_u32(bytes + CONTENT_FORMAT_AT)},
        .created_s = get_u64(bytes + CREATED_AT),
        .record_count = get_u64(bytes + RECORDS_AT),
        .payload_bytes = get_u64(bytes + PAYLOAD_AT)};
    get_text(bytes + BOOT_ID_AT, header.home.boot_id, sizeof header.home.boot_id);
    get_text(bytes + VERSION_AT, header.version, sizeof header.version);
    *header_out = header;
    return ST_OK;
}

int snapshot_home_check(const struct snapshot_home *found, const struct snapshot_home *home,
                        struct error *error)
{
    if (found->content_format != home->content_format) {
        return error_set(error, ST_VERSION,
                         "the index has records of format %u, this daemon reads %u",
                         found->content_format, home->content_format);
    }
    if (strcmp(found->boot_id, home->boot_id) != 0 || home->boot_id[0] == '\0') {
        return error_set(error, ST_MISMATCH,
                         "the index is of another boot of the machine (%s, now %s)", found->boot_id,
                         home->boot_id);
    }
    if (found->pool.device != home->pool.device || found->pool.inode != home->pool.inode) {
        return error_set(
            error, ST_MISMATCH,
            "the index is of another pool file (inode %llu on device %llx, the pool "
            "is inode %llu on device %llx)",
            (unsigned long long)found->pool.inode, (unsigned long long)found->pool.device,
            (unsigned long long)home->pool.inode, (unsigned long long)home->pool.device);
    }
    if (found->pool.reserve_bytes != home->pool.reserve_bytes) {
        return error_set(error, ST_MISMATCH,
                         "the index is of a pool of another size (%llu bytes of address space, now "
                         "%llu)",
                         (unsigned long long)found->pool.reserve_bytes,
                         (unsigned long long)home->pool.reserve_bytes);
    }
    if (found->granule_bytes != home->granule_bytes || found->page_bytes != home->page_bytes) {
        return error_set(
            error, ST_MISMATCH, "the index has granules of %u and pages of %u bytes, not %u and %u",
            found->granule_bytes, found->page_bytes, home->granule_bytes, home->page_bytes);
    }
    return ST_OK;
}
