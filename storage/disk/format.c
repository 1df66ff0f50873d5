#include "storage/disk/format.h"

#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/status.h"
#include "storage/disk/seal.h"

/* "KVEIKST\n", "KVEIKSG\n" as numbers: magics and checksums stay where they are in all versions. */
#define STORE_MAGIC   UINT64_C(0x0a54534b4945564b)
#define SEGMENT_MAGIC UINT64_C(0x0a47534b4945564b)

enum { AT_VERSION = 8, AT_ID = 16, AT_SECRET = 32, AT_MADE = 64, AT_NUMBER = 72, AT_LENGTH = 80 };

/* magic, version, flags and checksum of a fixed block */
static void block_seal(uint8_t *out, uint32_t bytes, uint64_t magic)
{
    put_u64(out, magic);
    put_u32(out + AT_VERSION, DISK_FORMAT_VERSION);
    put_u64(out + bytes - 8, checksum_plain(out, bytes - 8));
}

static int block_check(const uint8_t *in, uint32_t bytes, uint64_t magic)
{
    if (get_u64(in) != magic || get_u64(in + bytes - 8) != checksum_plain(in, bytes - 8)) {
        return ST_CORRUPT;
    }
    return get_u32(in + AT_VERSION) == DISK_FORMAT_VERSION ? ST_OK : ST_VERSION;
}

static void put_store(const struct format_store *store, uint8_t *out)
{
    (void)memcpy(out + AT_ID, store->id, FORMAT_ID_BYTES);
    (void)memcpy(out + AT_SECRET, store->secret, DISK_SECRET_BYTES);
    put_u64(out + AT_MADE, store->made_s);
}

static void get_store(const uint8_t *in, struct format_store *store)
{
    (void)memcpy(store->id, in + AT_ID, FORMAT_ID_BYTES);
    (void)memcpy(store->secret, in + AT_SECRET, DISK_SECRET_BYTES);
    store->made_s = get_u64(in + AT_MADE);
}

void format_store_encode(const struct format_store *store, uint8_t out[FORMAT_STORE_BYTES])
{
    (void)memset(out, 0, FORMAT_STORE_BYTES);
    put_store(store, out);
    block_seal(out, FORMAT_STORE_BYTES, STORE_MAGIC);
}

int format_store_decode(const uint8_t *in, uint64_t bytes, struct format_store *store_out)
{
    if (bytes != FORMAT_STORE_BYTES) {
        return ST_CORRUPT;
    }
    int status = block_check(in, FORMAT_STORE_BYTES, STORE_MAGIC);
    if (status == ST_OK) {
        get_store(in, store_out);
    }
    return status;
}

void format_segment_encode(const struct format_segment *segment, uint8_t out[FORMAT_SEGMENT_BYTES])
{
    (void)memset(out, 0, FORMAT_SEGMENT_BYTES);
    put_store(&segment->store, out);
    put_u64(out + AT_MADE, segment->made_s);
    put_u64(out + AT_NUMBER, segment->number);
    put_u64(out + AT_LENGTH, segment->segment_bytes);
    block_seal(out, FORMAT_SEGMENT_BYTES, SEGMENT_MAGIC);
}

int format_segment_decode(const uint8_t *in, uint64_t bytes, struct format_segment *segment_out)
{
    if (bytes < FORMAT_SEGMENT_BYTES) {
        return ST_CORRUPT;
    }
    int status = block_check(in, FORMAT_SEGMENT_BYTES, SEGMENT_MAGIC);
    if (status != ST_OK) {
        return status;
    }
    get_store(in, &segment_out->store);
    segment_out->made_s = get_u64(in + AT_MADE);
    segment_out->number = get_u64(in + AT_NUMBER);
    segment_out->segment_bytes = get_u64(in + AT_LENGTH);
    return segment_out->number > 0 ? ST_OK : ST_CORRUPT;
}

uint32_t format_kind_bytes(const struct disk_kind *kind)
{
    KVEIK_ASSERT(kind->space_bytes <= DISK_BLOB_MAX && kind->form_bytes <= DISK_BLOB_MAX);
    return (uint32_t)round_up(8 + kind->space_bytes + kind->form_bytes, 4);
}

uint32_t format_kind_encode(const struct disk_kind *kind, uint8_t *out)
{
    uint32_t bytes = format_kind_bytes(kind);
    (void)memset(out + bytes - 4, 0, 4);
    put_u32(out, kind->space_bytes);
    put_u32(out + 4, kind->form_bytes);
    if (kind->space_bytes > 0) {
        (void)memcpy(out + 8, kind->space, kind->space_bytes);
    }
    if (kind->form_bytes > 0) {
        (void)memcpy(out + 8 + kind->space_bytes, kind->form, kind->form_bytes);
    }
    return bytes;
}

int format_kind_decode(const uint8_t *in, uint64_t bytes, struct disk_kind *kind_out,
                       uint32_t *used_out)
{
    if (bytes < 8 || get_u32(in) > DISK_BLOB_MAX || get_u32(in + 4) > DISK_BLOB_MAX) {
        return ST_CORRUPT;
    }
    struct disk_kind kind = {.space_bytes = get_u32(in), .form_bytes = get_u32(in + 4)};
    uint32_t used = format_kind_bytes(&kind);
    if (used > bytes) {
        return ST_CORRUPT;
    }
    kind.space = in + 8;
    kind.form = in + 8 + kind.space_bytes;
    *kind_out = kind;
    *used_out = used;
    return ST_OK;
}

void format_state_encode(const struct format_state *state, uint8_t out[FORMAT_STATE_BYTES])
{
    put_u64(out, state->used_bytes);
    put_u64(out + 8, state->committed_s);
    put_u64(out + 16, checksum_plain(out, 16));
}

int format_state_decode(const uint8_t *in, uint64_t bytes, struct format_state *state_out)
{
    if (bytes != FORMAT_STATE_BYTES || get_u64(in + 16) != checksum_plain(in, 16)) {
        return ST_CORRUPT;
    }
    state_out->used_bytes = get_u64(in);
    state_out->committed_s = get_u64(in + 8);
    return ST_OK;
}
