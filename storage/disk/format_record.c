#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/status.h"
#include "storage/disk/format.h"
#include "storage/disk/seal.h"

#define RECORD_MAGIC UINT64_C(0x0a43524b4945564b) /* "KVEIKRC\n" */

/* ---- a part ---------------------------------------------------------------------------------- */

enum {
    PART_LENGTH = 0,
    PART_KIND = 4,
    PART_OFFSET = 8,
    PART_GRAINS = 12,
    PART_BYTES = 16,
    PART_SEAL = 24,
    PART_CHARGED = 32,
    PART_PUSHED = 40,
    PART_TAIL = 48,
    PART_KEYS = 52,
    PART_ORIGIN = 54,
    PART_FLAGS = 56,
    PART_RESERVED = 57, /* class, codec, cipher, tenant, time to live, priority, device, row map */
    PART_CHECKSUM = 80,
    PART_HAS_PARENT = 1,
};

uint32_t format_part_bytes(const struct disk_part *part)
{
    KVEIK_ASSERT(part->key_count <= DISK_KEYS_MAX && part->origin_bytes <= DISK_ORIGIN_MAX);
    uint64_t bytes = FORMAT_PART_FIXED_BYTES + (uint64_t)part->key_count * DISK_KEY_BYTES +
                     (part->parent != NULL ? DISK_KEY_BYTES : 0) + part->origin_bytes;
    return (uint32_t)round_up(bytes, 4);
}

static uint32_t part_checksum(const uint8_t *in, uint32_t bytes)
{
    uint64_t head = checksum_plain(in, PART_CHECKSUM);
    uint64_t tail = checksum_plain(in + PART_CHECKSUM + 4, bytes - PART_CHECKSUM - 4);
    return (uint32_t)((head * 31 + tail) >> 16);
}

uint32_t format_part_encode(const struct format_part *part, uint8_t *out)
{
    const struct disk_part *what = &part->part;
    uint32_t bytes = format_part_bytes(what);
    (void)memset(out, 0, FORMAT_PART_FIXED_BYTES);
    (void)memset(out + bytes - 4, 0, 4);
    put_u32(out + PART_LENGTH, bytes);
    put_u32(out + PART_KIND, what->kind);
    put_u32(out + PART_OFFSET, part->offset);
    put_u32(out + PART_GRAINS, what->grains);
    put_u64(out + PART_BYTES, part->bytes);
    put_u64(out + PART_SEAL, part->seal);
    put_u64(out + PART_CHARGED, part->charged_bytes);
    put_u64(out + PART_PUSHED, what->pushed_s);
    put_u32(out + PART_TAIL, what->tail_tokens);
    put_u16(out + PART_KEYS, (uint16_t)what->key_count);
    put_u16(out + PART_ORIGIN, (uint16_t)what->origin_bytes);
    out[PART_FLAGS] = what->parent != NULL ? PART_HAS_PARENT : 0;
    uint8_t *at = out + FORMAT_PART_FIXED_BYTES;
    (void)memcpy(at, what->keys, (size_t)what->key_count * DISK_KEY_BYTES);
    at += (size_t)what->key_count * DISK_KEY_BYTES;
    if (what->parent != NULL) {
        (void)memcpy(at, what->parent, DISK_KEY_BYTES);
        at += DISK_KEY_BYTES;
    }
    if (what->origin_bytes > 0) {
        (void)memcpy(at, what->origin, what->origin_bytes);
    }
    put_u32(out + PART_CHECKSUM, part_checksum(out, bytes));
    return bytes;
}

static bool all_zero(const uint8_t *in, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (in[i] != 0) {
            return false;
        }
    }
    return true;
}

static int part_check(const uint8_t *in, uint64_t bytes, struct disk_part *what)
{
    if (bytes < FORMAT_PART_FIXED_BYTES) {
        return ST_CORRUPT;
    }
    uint32_t length = get_u32(in + PART_LENGTH);
    what->key_count = get_u16(in + PART_KEYS);
    what->origin_bytes = get_u16(in + PART_ORIGIN);
    if (length > bytes || what->key_count < 1 || what->key_count > DISK_KEYS_MAX ||
        what->origin_bytes > DISK_ORIGIN_MAX || (in[PART_FLAGS] & ~PART_HAS_PARENT) != 0) {
        return ST_CORRUPT;
    }
    what->parent = (in[PART_FLAGS] & PART_HAS_PARENT) != 0 ? in : NULL;
    if (length != format_part_bytes(what) ||
        get_u32(in + PART_CHECKSUM) != part_checksum(in, length)) {
        return ST_CORRUPT;
    }
    return all_zero(in + PART_RESERVED, PART_CHECKSUM - PART_RESERVED) ? ST_OK : ST_VERSION;
}

int format_part_decode(const uint8_t *in, uint64_t bytes, struct format_part *part_out,
                       uint32_t *used_out)
{
    struct format_part part = {0};
    struct disk_part *what = &part.part;
    int status = part_check(in, bytes, what);
    if (status != ST_OK) {
        return status;
    }
    what->kind = get_u32(in + PART_KIND);
    what->grains = get_u32(in + PART_GRAINS);
    what->tail_tokens = get_u32(in + PART_TAIL);
    what->pushed_s = get_u64(in + PART_PUSHED);
    part.offset = get_u32(in + PART_OFFSET);
    part.bytes = get_u64(in + PART_BYTES);
    part.seal = get_u64(in + PART_SEAL);
    part.charged_bytes = get_u64(in + PART_CHARGED);
    const uint8_t *at = in + FORMAT_PART_FIXED_BYTES;
    what->keys = at;
    at += (size_t)what->key_count * DISK_KEY_BYTES;
    if (what->parent != NULL) {
        what->parent = at;
        at += DISK_KEY_BYTES;
    }
    what->origin = at;
    /* the longest segment: keeps sums of these far from overflow */
    const uint64_t longest = (uint64_t)UINT32_MAX * DISK_UNIT;
    if (part.bytes == 0 || part.bytes > longest || part.seal > SEAL_MASK ||
        part.charged_bytes > longest) {
        return ST_CORRUPT;
    }
    *part_out = part;
    *used_out = get_u32(in + PART_LENGTH);
    return ST_OK;
}

/* ---- a record -------------------------------------------------------------------------------- */

enum {
    RECORD_VERSION = 8,
    RECORD_HEADER = 12,
    RECORD_SEGMENT = 16,
    RECORD_SEQUENCE = 24,
    RECORD_BYTES = 32,
    RECORD_WRITTEN = 40,
    RECORD_PARTS = 48,
    RECORD_KINDS = 52,
    RECORD_USED = 56,
    RECORD_DEVICE = 60, /* reserved */
    RECORD_OFFSET = 64,
    RECORD_RESERVED = 72,
    RECORD_CHECKSUM = 80,
};

void format_record_encode(const struct format_record *record, const uint8_t *secret, uint8_t *out)
{
    KVEIK_ASSERT(record->part_count >= 1 && record->part_count <= FORMAT_PARTS_MAX);
    KVEIK_ASSERT(record->kind_count >= 1 && record->kind_count <= record->part_count);
    KVEIK_ASSERT(record->header_bytes <= FORMAT_RECORD_HEADER_MAX);
    uint32_t used = FORMAT_RECORD_FIXED_BYTES;
    for (uint32_t i = 0; i < record->kind_count; i++) {
        KVEIK_ASSERT(used + format_kind_bytes(&record->kinds[i]) <= record->header_bytes);
        used += format_kind_encode(&record->kinds[i], out + used);
    }
    for (uint32_t i = 0; i < record->part_count; i++) {
        KVEIK_ASSERT(used + format_part_bytes(&record->parts[i].part) <= record->header_bytes);
        used += format_part_encode(&record->parts[i], out + used);
    }
    (void)memset(out, 0, FORMAT_RECORD_FIXED_BYTES);
    (void)memset(out + used, 0, record->header_bytes - used);
    put_u64(out, RECORD_MAGIC);
    put_u32(out + RECORD_VERSION, DISK_FORMAT_VERSION);
    put_u32(out + RECORD_HEADER, record->header_bytes);
    put_u64(out + RECORD_SEGMENT, record->segment);
    put_u64(out + RECORD_SEQUENCE, record->sequence);
    put_u64(out + RECORD_BYTES, record->record_bytes);
    put_u64(out + RECORD_WRITTEN, record->written_s);
    put_u32(out + RECORD_PARTS, record->part_count);
    put_u32(out + RECORD_KINDS, record->kind_count);
    put_u32(out + RECORD_USED, used);
    put_u64(out + RECORD_OFFSET, record->offset);
    put_u64(out + RECORD_CHECKSUM, checksum_keyed(secret, out, used, RECORD_CHECKSUM));
}

bool format_record_begins(const uint8_t *in, uint64_t bytes)
{
    return bytes >= 8 && get_u64(in) == RECORD_MAGIC;
}

int format_record_peek(const uint8_t *in, uint64_t bytes, uint32_t *header_bytes_out)
{
    if (bytes < FORMAT_RECORD_FIXED_BYTES || !format_record_begins(in, bytes)) {
        return ST_CORRUPT;
    }
    uint32_t header_bytes = get_u32(in + RECORD_HEADER);
    if (header_bytes < DISK_ALIGN || header_bytes > FORMAT_RECORD_HEADER_MAX ||
        header_bytes % DISK_ALIGN != 0) {
        return ST_CORRUPT;
    }
    *header_bytes_out = header_bytes;
    return ST_OK;
}

static int record_head(const uint8_t *in, uint64_t bytes, const uint8_t *secret,
                       struct format_record *record)
{
    int status = format_record_peek(in, bytes, &record->header_bytes);
    if (status != ST_OK) {
        return status;
    }
    uint32_t used = get_u32(in + RECORD_USED);
    if (record->header_bytes > bytes || used < FORMAT_RECORD_FIXED_BYTES ||
        used > record->header_bytes ||
        get_u64(in + RECORD_CHECKSUM) != checksum_keyed(secret, in, used, RECORD_CHECKSUM)) {
        return ST_CORRUPT;
    }
    if (get_u32(in + RECORD_VERSION) != DISK_FORMAT_VERSION || get_u32(in + RECORD_DEVICE) != 0 ||
        get_u64(in + RECORD_RESERVED) != 0) {
        return ST_VERSION;
    }
    record->segment = get_u64(in + RECORD_SEGMENT);
    record->sequence = get_u64(in + RECORD_SEQUENCE);
    record->record_bytes = get_u64(in + RECORD_BYTES);
    record->written_s = get_u64(in + RECORD_WRITTEN);
    record->part_count = get_u32(in + RECORD_PARTS);
    record->kind_count = get_u32(in + RECORD_KINDS);
    record->offset = get_u64(in + RECORD_OFFSET);
    const uint64_t longest = (uint64_t)UINT32_MAX * DISK_UNIT;
    bool sound = record->part_count >= 1 && record->part_count <= FORMAT_PARTS_MAX &&
                 record->kind_count >= 1 && record->kind_count <= record->part_count &&
                 record->record_bytes >= record->header_bytes && record->record_bytes <= longest &&
                 record->record_bytes % DISK_ALIGN == 0 && record->offset <= longest &&
                 record->offset % DISK_ALIGN == 0;
    return sound ? ST_OK : ST_CORRUPT;
}

int format_record_decode(const uint8_t *in, uint64_t bytes, const uint8_t *secret,
                         struct format_record *record_out)
{
    struct format_record *record = record_out;
    int status = record_head(in, bytes, secret, record);
    if (status != ST_OK) {
        return status;
    }
    uint32_t used = get_u32(in + RECORD_USED);
    uint32_t at = FORMAT_RECORD_FIXED_BYTES;
    uint32_t took = 0;
    for (uint32_t i = 0; i < record->kind_count; i++, at += took) {
        status = format_kind_decode(in + at, used - at, &record->kinds[i], &took);
        if (status != ST_OK) {
            return status;
        }
    }
    for (uint32_t i = 0; i < record->part_count; i++, at += took) {
        struct format_part *part = &record->parts[i];
        status = format_part_decode(in + at, used - at, part, &took);
        if (status != ST_OK) {
            return status;
        }
        uint64_t begin = (uint64_t)part->offset * DISK_UNIT;
        if (part->part.kind >= record->kind_count ||
            begin < record->offset + record->header_bytes ||
            begin + part->bytes > record->offset + record->record_bytes) {
            return ST_CORRUPT;
        }
    }
    return at == used ? ST_OK : ST_CORRUPT;
}
