/*
 * The two checksums of the tier. A seal is 48 bits over a payload: it stands in the record header,
 * in the catalogue and with the owner. A header's checksum is keyed with the store's secret, so
 * that bytes which a client stored cannot pass for a header. Thread-safe.
 */
#ifndef KVEIK_STORAGE_DISK_SEAL_H
#define KVEIK_STORAGE_DISK_SEAL_H

#include <stddef.h>
#include <stdint.h>

#define SEAL_MASK ((UINT64_C(1) << 48) - 1)

uint64_t seal_of(const void *bytes, size_t count);

/* The seal of a file's range, read piece by piece. ST_OK, ST_IO (with errno), ST_NO_MEMORY. */
int seal_of_file(int fd, uint64_t offset, uint64_t bytes, uint64_t *seal_out);

uint64_t checksum_plain(const void *bytes, size_t count);

/* Of `count` bytes but for the eight at `hole`, where it stands itself. */
uint64_t checksum_keyed(const uint8_t *secret, const uint8_t *bytes, size_t count, size_t hole);

#endif
