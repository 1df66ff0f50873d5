#include "storage/disk/kinds.h"

#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "storage/disk/seal.h"

int kinds_init(struct kinds *kinds)
{
    kinds->entries = heap_calloc(KINDS_MAX, sizeof *kinds->entries);
    kinds->count = 0;
    return kinds->entries != NULL ? ST_OK : ST_NO_MEMORY;
}

void kinds_drop(struct kinds *kinds, uint32_t number)
{
    KVEIK_ASSERT(number < kinds->count);
    struct kind_entry *entry = &kinds->entries[number];
    union {
        const uint8_t *shared;
        uint8_t *own;
    } blob = {.shared = entry->kind.space}; /* one block holds both */
    heap_free(blob.own);
    (void)memset(entry, 0, sizeof *entry);
}

void kinds_finish(struct kinds *kinds)
{
    for (uint32_t i = 0; i < kinds->count; i++) {
        kinds_drop(kinds, i);
    }
    heap_free(kinds->entries);
    kinds->entries = NULL;
    kinds->count = 0;
}

static bool same(const uint8_t *a, uint32_t a_bytes, const uint8_t *b, uint32_t b_bytes)
{
    return a_bytes == b_bytes && (a_bytes == 0 || memcmp(a, b, a_bytes) == 0);
}

static uint64_t hash_of(const struct disk_kind *kind)
{
    uint64_t space = kind->space_bytes > 0 ? seal_of(kind->space, kind->space_bytes) : 0;
    uint64_t form = kind->form_bytes > 0 ? seal_of(kind->form, kind->form_bytes) : 0;
    return space * 31 + form;
}

/* The number of an equal one; KINDS_MAX: none. */
static uint32_t find(const struct kinds *kinds, const struct disk_kind *kind, uint64_t hash)
{
    for (uint32_t i = 0; i < kinds->count; i++) {
        const struct kind_entry *entry = &kinds->entries[i];
        if (entry->kind.space != NULL && entry->hash == hash &&
            same(entry->kind.space, entry->kind.space_bytes, kind->space, kind->space_bytes) &&
            same(entry->kind.form, entry->kind.form_bytes, kind->form, kind->form_bytes)) {
            return i;
        }
    }
    return KINDS_MAX;
}

static int fill(struct kind_entry *entry, const struct disk_kind *kind, uint64_t hash)
{
    uint8_t *blob = heap_alloc((size_t)kind->space_bytes + kind->form_bytes + 1);
    if (blob == NULL) {
        return ST_NO_MEMORY;
    }
    if (kind->space_bytes > 0) {
        (void)memcpy(blob, kind->space, kind->space_bytes);
    }
    if (kind->form_bytes > 0) {
        (void)memcpy(blob + kind->space_bytes, kind->form, kind->form_bytes);
    }
    entry->kind = *kind;
    entry->kind.space = blob;
    entry->kind.form = blob + kind->space_bytes;
    entry->hash = hash;
    return ST_OK;
}

int kinds_number(struct kinds *kinds, const struct disk_kind *kind, uint32_t *number_out)
{
    if (kind->space_bytes > DISK_BLOB_MAX || kind->form_bytes > DISK_BLOB_MAX) {
        return ST_INVALID;
    }
    uint64_t hash = hash_of(kind);
    uint32_t number = find(kinds, kind, hash);
    if (number < KINDS_MAX) {
        *number_out = number;
        return ST_OK;
    }
    for (number = 0; number < kinds->count && kinds->entries[number].kind.space != NULL;) {
        number++;
    }
    if (number == KINDS_MAX) {
        return ST_LIMIT;
    }
    int status = fill(&kinds->entries[number], kind, hash);
    if (status == ST_OK) {
        kinds->count = number < kinds->count ? kinds->count : number + 1;
        *number_out = number;
    }
    return status;
}

int kinds_put(struct kinds *kinds, uint32_t number, const struct disk_kind *kind)
{
    uint64_t hash = hash_of(kind);
    if (number >= KINDS_MAX || kinds->entries[number].kind.space != NULL ||
        find(kinds, kind, hash) < KINDS_MAX) {
        return ST_CORRUPT;
    }
    int status = fill(&kinds->entries[number], kind, hash);
    if (status == ST_OK) {
        kinds->entries[number].stored = true;
        kinds->count = number < kinds->count ? kinds->count : number + 1;
    }
    return status;
}

struct kind_entry *kinds_get(const struct kinds *kinds, uint32_t number)
{
    if (number >= kinds->count || kinds->entries[number].kind.space == NULL) {
        return NULL;
    }
    return &kinds->entries[number];
}
