/* Any bytes as what stands on disk: decoders read nothing outside of them and believe nothing that
 * does not fit. The first byte says what the rest is, and, by its high bit, that its checksums are
 * to be made right first, so that the checks behind them are reached. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/status.h"
#include "storage/disk/format.h"
#include "storage/disk/seal.h"
#include "tests/fuzz/fuzz.h"

enum { AT_USED = 56, AT_CHECKSUM = 80 }; /* of a record: see storage/disk/README.md */

static const uint8_t secret[DISK_SECRET_BYTES] = {42};

static uint8_t sum(const uint8_t *bytes, uint64_t count)
{
    uint8_t all = 0;
    for (uint64_t i = 0; i < count; i++) {
        all = (uint8_t)(all + bytes[i]);
    }
    return all;
}

static uint8_t touch_kind(const struct disk_kind *kind)
{
    return (uint8_t)(sum(kind->space, kind->space_bytes) + sum(kind->form, kind->form_bytes));
}

static uint8_t touch_part(const struct disk_part *part)
{
    uint8_t all = sum(part->keys, (uint64_t)part->key_count * DISK_KEY_BYTES);
    all = (uint8_t)(all + sum(part->origin, part->origin_bytes));
    return part->parent != NULL ? (uint8_t)(all + sum(part->parent, DISK_KEY_BYTES)) : all;
}

static void sign_record(uint8_t *bytes, size_t count)
{
    uint32_t used = count >= FORMAT_RECORD_FIXED_BYTES ? get_u32(bytes + AT_USED) : 0;
    if (used >= FORMAT_RECORD_FIXED_BYTES && used <= count) {
        put_u64(bytes + AT_CHECKSUM, checksum_keyed(secret, bytes, used, AT_CHECKSUM));
    }
}

static void try_record(uint8_t *bytes, size_t count, bool sign)
{
    static struct format_record record;
    volatile uint8_t all = 0;
    if (sign) {
        sign_record(bytes, count);
    }
    if (format_record_decode(bytes, count, secret, &record) != ST_OK) {
        return;
    }
    for (uint32_t i = 0; i < record.kind_count; i++) {
        all = (uint8_t)(all + touch_kind(&record.kinds[i]));
    }
    for (uint32_t i = 0; i < record.part_count; i++) {
        const struct format_part *part = &record.parts[i];
        all = (uint8_t)(all + touch_part(&part->part));
        KVEIK_ASSERT((uint64_t)part->offset * DISK_UNIT + part->bytes <=
                     record.offset + record.record_bytes);
    }
    uint8_t *again = malloc(record.header_bytes);
    if (again != NULL) {
        format_record_encode(&record, secret, again);
        KVEIK_ASSERT(memcmp(again, bytes, AT_CHECKSUM) == 0);
        free(again);
    }
}

static void try_part(const uint8_t *bytes, size_t count)
{
    struct format_part part;
    uint32_t used = 0;
    volatile uint8_t all = 0;
    if (format_part_decode(bytes, count, &part, &used) == ST_OK) {
        KVEIK_ASSERT(used <= count && used == format_part_bytes(&part.part));
        all = touch_part(&part.part);
    }
    (void)all;
}

static void try_kind(const uint8_t *bytes, size_t count)
{
    struct disk_kind kind;
    uint32_t used = 0;
    volatile uint8_t all = 0;
    if (format_kind_decode(bytes, count, &kind, &used) == ST_OK) {
        KVEIK_ASSERT(used <= count);
        all = touch_kind(&kind);
    }
    (void)all;
}

static void sign_block(uint8_t *bytes, size_t count, size_t whole)
{
    if (count >= whole) {
        put_u64(bytes + whole - 8, checksum_plain(bytes, whole - 8));
    }
}

static void try_one(uint8_t what, uint8_t *bytes, size_t count)
{
    struct format_store store;
    struct format_segment segment;
    struct format_state state;
    bool sign = (what & 0x80) != 0;
    switch (what % 6) {
    case 0:
        try_record(bytes, count, sign);
        break;
    case 1:
        try_part(bytes, count);
        break;
    case 2:
        try_kind(bytes, count);
        break;
    case 3:
        if (sign) {
            sign_block(bytes, count, FORMAT_STORE_BYTES);
        }
        (void)format_store_decode(bytes, count, &store);
        break;
    case 4:
        if (sign) {
            sign_block(bytes, count, FORMAT_SEGMENT_BYTES);
        }
        (void)format_segment_decode(bytes, count, &segment);
        break;
    default:
        (void)format_state_decode(bytes, count, &state);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1 || bytes > FORMAT_RECORD_HEADER_MAX + 1) {
        return 0;
    }
    /* a copy of its own size: one byte too far is seen */
    uint8_t *copy = malloc(bytes - 1 > 0 ? bytes - 1 : 1);
    if (copy != NULL) {
        (void)memcpy(copy, data + 1, bytes - 1);
        try_one(data[0], copy, bytes - 1);
        free(copy);
    }
    return 0;
}
