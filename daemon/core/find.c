/*
 * Finding: from a key to parts that hold what is asked for. Blocks of different sizes share grain
 * keys, so a key may lead to several blocks; parts of ranks cover ranges of layers and heads, so
 * several parts may be needed for one grain.
 */
#include <string.h>

#include "daemon/core/state.h"

/* Walks the entries of a hash whose key is the one asked for, in one space. */
struct cursor {
    const struct bucket *bucket;
    uint32_t entry;
};

static bool next_block(const struct core *core, struct cursor *cursor, const struct asked *asked,
                       uint32_t *key_number_out)
{
    while (cursor->bucket != NULL) {
        while (cursor->entry < cursor->bucket->count) {
            uint32_t at = cursor->entry++;
            uint32_t number = cursor->bucket->entries[at].key;
            if (cursor->bucket->entries[at].hash == asked->hash &&
                memcmp(keys_at(&core->keys, number), asked->key, CORE_KEY_BYTES) == 0 &&
                block_at(core, keys_owner(&core->keys, number))->space == asked->space) {
                *key_number_out = number;
                return true;
            }
        }
        cursor->bucket = table_overflow(&core->table, cursor->bucket);
        cursor->entry = 0;
    }
    return false;
}

void find_prefetch_bucket(const struct core *core, uint32_t hash)
{
    __builtin_prefetch(table_bucket(&core->table, hash));
}

void find_prefetch_key(const struct core *core, uint32_t hash)
{
    const struct bucket *bucket = table_bucket(&core->table, hash);
    for (uint32_t i = 0; i < bucket->count; i++) {
        if (bucket->entries[i].hash == hash) {
            uint32_t number = bucket->entries[i].key;
            __builtin_prefetch(keys_at(&core->keys, number));
            __builtin_prefetch((const uint32_t *)core->keys.owners.base + number);
            return;
        }
    }
}

bool ranges_inside(const struct core_ranges *inner, const struct core_ranges *outer)
{
    return inner->layer_begin >= outer->layer_begin &&
           inner->layer_begin + inner->layer_count <= outer->layer_begin + outer->layer_count &&
           inner->head_begin >= outer->head_begin &&
           inner->head_begin + inner->head_count <= outer->head_begin + outer->head_count;
}

/* Sorted cuts of the wanted span at the candidates' borders. */
static uint32_t cuts_of(uint32_t begin, uint32_t count, uint32_t (*spans)[2], uint32_t n,
                        uint32_t *cuts)
{
    uint32_t end = begin + count;
    uint32_t used = 0;
    cuts[used++] = begin;
    cuts[used++] = end;
    for (uint32_t i = 0; i < 2 * n; i++) {
        uint32_t at = spans[i / 2][i % 2];
        if (at <= begin || at >= end) {
            continue;
        }
        uint32_t to = 0;
        while (cuts[to] < at) {
            to++;
        }
        if (cuts[to] != at) {
            (void)memmove(&cuts[to + 1], &cuts[to], (used - to) * sizeof cuts[0]);
            cuts[to] = at;
            used++;
        }
    }
    return used;
}

static void piece_add(struct cover *cover, uint32_t part, const struct core_ranges *cell)
{
    if (cover->count > 0) {
        struct cover_piece *last = &cover->pieces[cover->count - 1];
        struct core_ranges *r = &last->ranges;
        if (last->part == part && r->layer_begin == cell->layer_begin &&
            r->layer_count == cell->layer_count &&
            r->head_begin + r->head_count == cell->head_begin) {
            r->head_count += cell->head_count; /* the next heads of the same layers */
            return;
        }
        if (last->part == part && r->head_begin == cell->head_begin &&
            r->head_count == cell->head_count &&
            r->layer_begin + r->layer_count == cell->layer_begin) {
            r->layer_count += cell->layer_count;
            return;
        }
    }
    if (cover->count < COVER_PIECES_MAX) {
        cover->pieces[cover->count] = (struct cover_piece){.part = part, .ranges = *cell};
    }
    cover->count++;
}

bool cover_fill(const struct core *core, const struct core_ranges *wanted, const uint32_t *parts,
                uint32_t count, struct cover *cover_out)
{
    uint32_t layer_spans[CORE_PARTS_A_GRAIN_MAX][2];
    uint32_t head_spans[CORE_PARTS_A_GRAIN_MAX][2];
    const struct core_ranges *ranges[CORE_PARTS_A_GRAIN_MAX];
    for (uint32_t i = 0; i < count; i++) {
        const struct core_ranges *r = &shape_at(core, part_at(core, parts[i])->shape)->ranges;
        ranges[i] = r;
        layer_spans[i][0] = r->layer_begin;
        layer_spans[i][1] = r->layer_begin + r->layer_count;
        head_spans[i][0] = r->head_begin;
        head_spans[i][1] = r->head_begin + r->head_count;
    }
    uint32_t layers[2 * CORE_PARTS_A_GRAIN_MAX + 2];
    uint32_t heads[2 * CORE_PARTS_A_GRAIN_MAX + 2];
    uint32_t layer_cuts =
        cuts_of(wanted->layer_begin, wanted->layer_count, layer_spans, count, layers);
    uint32_t head_cuts = cuts_of(wanted->head_begin, wanted->head_count, head_spans, count, heads);
    cover_out->count = 0;
    for (uint32_t l = 0; l + 1 < layer_cuts; l++) {
        for (uint32_t h = 0; h + 1 < head_cuts; h++) {
            struct core_ranges cell = {.layer_begin = layers[l],
                                       .layer_count = layers[l + 1] - layers[l],
                                       .head_begin = heads[h],
                                       .head_count = heads[h + 1] - heads[h]};
            uint32_t i = 0;
            while (i < count && !ranges_inside(&cell, ranges[i])) {
                i++;
            }
            if (i == count) {
                return false;
            }
            piece_add(cover_out, parts[i], &cell);
        }
    }
    return cover_out->count <= COVER_PIECES_MAX;
}

/* Parts of one block that could help; true when one of them does it alone (then it is parts[0]). */
static bool collect(const struct core *core, const struct block *block,
                    const struct core_want *want, bool filling, uint32_t *parts, uint32_t *count)
{
    for (uint32_t n = block->parts; n != NONE; n = part_at(core, n)->next) {
        const struct part *part = part_at(core, n);
        const struct shape *shape = shape_at(core, part->shape);
        if (shape->group != want->group || (part->state != PART_READY && !filling)) {
            continue;
        }
        if (ranges_inside(&want->ranges, &shape->ranges)) {
            parts[0] = n;
            return true;
        }
        if (*count < CORE_PARTS_A_GRAIN_MAX) {
            parts[(*count)++] = n;
        }
    }
    return false;
}

/* Whether the block holds all that is asked for, as far as tokens go. */
static bool block_holds(const struct block *block, const struct asked *asked, uint32_t grain)
{
    if (grain + 1 < asked->grains) {
        return false; /* it begins behind the first grain that is asked for */
    }
    uint32_t valid = grain == block->grains_less_one ? block->tail_tokens : (uint32_t)GRAIN_TOKENS;
    /* a key names a number of tokens too; whoever says another number is wrong or lies */
    return valid == asked->tail_tokens;
}

bool find_cover(const struct core *core, const struct asked *asked, const struct core_want *want,
                struct cover *cover_out)
{
    struct cursor cursor = {.bucket = table_bucket(&core->table, asked->hash)};
    uint32_t parts[CORE_PARTS_A_GRAIN_MAX];
    uint32_t count = 0;
    uint32_t key_number = 0;
    while (next_block(core, &cursor, asked, &key_number)) {
        const struct block *block = block_at(core, keys_owner(&core->keys, key_number));
        uint32_t grain =
            block->keys_less_one == 0 ? block->grains_less_one : key_number - block->keys;
        if (!block_holds(block, asked, grain)) {
            continue;
        }
        if (collect(core, block, want, asked->filling, parts, &count)) {
            cover_out->count = 1;
            cover_out->grain = grain;
            cover_out->pieces[0] = (struct cover_piece){.part = parts[0], .ranges = want->ranges};
            return true;
        }
    }
    /* pieces of different blocks lie at different grains; piece_grain() finds each again */
    cover_out->grain = NONE;
    return count > 0 && cover_fill(core, &want->ranges, parts, count, cover_out);
}

uint32_t piece_grain(const struct core *core, uint32_t part, const uint8_t *key)
{
    const struct block *block = block_at(core, part_at(core, part)->block);
    uint32_t key_count = block->keys_less_one + 1u;
    for (uint32_t i = 0; i < key_count; i++) {
        if (memcmp(keys_at(&core->keys, block->keys + i), key, CORE_KEY_BYTES) == 0) {
            return key_count == 1 ? block->grains_less_one : i;
        }
    }
    KVEIK_UNREACHABLE("a found block has the key that found it");
}

uint32_t find_block(const struct core *core, const struct asked *asked, const struct block *like)
{
    struct cursor cursor = {.bucket = table_bucket(&core->table, asked->hash)};
    uint32_t key_number = 0;
    while (next_block(core, &cursor, asked, &key_number)) {
        uint32_t number = keys_owner(&core->keys, key_number);
        const struct block *block = block_at(core, number);
        if (block->grains_less_one == like->grains_less_one &&
            block->keys_less_one == like->keys_less_one &&
            block->tail_tokens == like->tail_tokens &&
            key_number == block->keys + block->keys_less_one) {
            return number;
        }
    }
    return NONE;
}
