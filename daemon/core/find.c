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
    uint32_t matches; /* entries of the bucket with the hash, not yet looked at */
};

static struct cursor cursor_begin(const struct core *core, uint32_t hash)
{
    const struct bucket *bucket = table_bucket(&core->table, hash);
    return (struct cursor){.bucket = bucket, .matches = table_matches(bucket, hash)};
}

static inline bool key_is(const struct core *core, const struct asked *asked, uint32_t number)
{
    return keys_equal(keys_at(&core->keys, number), asked->key) &&
           block_at(core, keys_owner(&core->keys, number))->space == asked->space;
}

static bool next_block(const struct core *core, struct cursor *cursor, const struct asked *asked,
                       uint32_t *key_number_out)
{
    for (;;) {
        while (cursor->matches != 0) {
            uint32_t at = (uint32_t)__builtin_ctz(cursor->matches);
            cursor->matches &= cursor->matches - 1;
            uint32_t number = cursor->bucket->entries[at].key;
            if (key_is(core, asked, number)) {
                *key_number_out = number;
                return true;
            }
        }
        cursor->bucket = table_overflow(&core->table, cursor->bucket);
        if (cursor->bucket == NULL) {
            return false;
        }
        cursor->matches = table_matches(cursor->bucket, asked->hash);
    }
}

void find_prefetch_bucket(const struct core *core, uint32_t hash)
{
    __builtin_prefetch(table_bucket(&core->table, hash));
}

static uint32_t prefetch_in(const struct core *core, const struct bucket *bucket, uint32_t hash)
{
    uint32_t matches = table_matches(bucket, hash);
    if (matches == 0) {
        const struct bucket *overflow = table_overflow(&core->table, bucket);
        if (overflow != NULL) {
            __builtin_prefetch(overflow);
        }
        return NONE;
    }
    uint32_t number = bucket->entries[__builtin_ctz(matches)].key;
    __builtin_prefetch(keys_at(&core->keys, number));
    __builtin_prefetch((const uint32_t *)core->keys.owners.base + number);
    return number;
}

uint32_t find_prefetch_key(const struct core *core, uint32_t hash)
{
    return prefetch_in(core, table_bucket(&core->table, hash), hash);
}

uint32_t find_prefetch_overflow(const struct core *core, uint32_t hash)
{
    const struct bucket *overflow = table_overflow(&core->table, table_bucket(&core->table, hash));
    return overflow == NULL ? NONE : prefetch_in(core, overflow, hash);
}

uint32_t find_prefetch_block(const struct core *core, uint32_t key_number)
{
    uint32_t block = key_number == NONE ? NONE : keys_owner(&core->keys, key_number);
    if (block != NONE) {
        __builtin_prefetch(block_at(core, block));
    }
    return block;
}

void find_prefetch_part(const struct core *core, uint32_t block)
{
    if (block != NONE) {
        __builtin_prefetch(part_at(core, block_at(core, block)->parts));
    }
}

static bool span_inside(uint32_t begin, uint32_t count, uint32_t outer_begin, uint32_t outer_count)
{
    return count > 0 && begin >= outer_begin &&
           (uint64_t)begin + count <= (uint64_t)outer_begin + outer_count;
}

bool ranges_inside(const struct core_ranges *inner, const struct core_ranges *outer)
{
    return span_inside(inner->layer_begin, inner->layer_count, outer->layer_begin,
                       outer->layer_count) &&
           span_inside(inner->head_begin, inner->head_count, outer->head_begin, outer->head_count);
}

bool want_valid(const struct core *core, uint32_t space, const struct core_want *want)
{
    if (want->group >= space_at(core, space)->group_count) {
        return false;
    }
    const struct core_group *group = &space_at(core, space)->groups[want->group];
    struct core_ranges all = {.layer_count = group->layer_count, .head_count = group->head_count};
    return ranges_inside(&want->ranges, &all);
}

bool keys_valid(uint32_t key_count, uint32_t key_grains, uint32_t tail_tokens)
{
    return key_grains >= 1 && key_grains <= BLOCK_GRAINS_MAX && tail_tokens >= 1 &&
           tail_tokens <= GRAIN_TOKENS && key_count <= STATUSES_MAX &&
           (uint64_t)key_count * key_grains <= UINT32_MAX / GRAIN_TOKENS;
}

static bool spans_meet(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count)
{
    return (uint64_t)a + a_count > b && (uint64_t)b + b_count > a;
}

static bool ranges_meet(const struct core_ranges *a, const struct core_ranges *b)
{
    return spans_meet(a->layer_begin, a->layer_count, b->layer_begin, b->layer_count) &&
           spans_meet(a->head_begin, a->head_count, b->head_begin, b->head_count);
}

/* Parts that could be put together, each with the place of the asked grain in its block. */
struct candidates {
    uint32_t count;
    uint32_t parts[CORE_PARTS_A_GRAIN_MAX];
    uint32_t grains[CORE_PARTS_A_GRAIN_MAX];
    struct core_ranges ranges[CORE_PARTS_A_GRAIN_MAX];
};

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

/* Whether `cell` continues `r` to the right (heads) or downwards (layers); then r grows. */
static bool piece_grow(struct core_ranges *r, const struct core_ranges *cell)
{
    if (r->layer_begin == cell->layer_begin && r->layer_count == cell->layer_count &&
        r->head_begin + r->head_count == cell->head_begin) {
        r->head_count += cell->head_count;
        return true;
    }
    if (r->head_begin == cell->head_begin && r->head_count == cell->head_count &&
        r->layer_begin + r->layer_count == cell->layer_begin) {
        r->layer_count += cell->layer_count;
        return true;
    }
    return false;
}

static bool piece_add(struct cover *cover, uint32_t part, uint32_t grain,
                      const struct core_ranges *cell)
{
    for (uint32_t i = cover->count; i-- > 0;) {
        if (cover->pieces[i].part == part && piece_grow(&cover->pieces[i].ranges, cell)) {
            return true;
        }
    }
    if (cover->count == COVER_PIECES_MAX) {
        return false;
    }
    cover->pieces[cover->count++] =
        (struct cover_piece){.part = part, .grain = grain, .ranges = *cell};
    return true;
}

static bool cover_fill(const struct core_ranges *wanted, const struct candidates *from,
                       struct cover *cover_out)
{
    uint32_t layer_spans[CORE_PARTS_A_GRAIN_MAX][2];
    uint32_t head_spans[CORE_PARTS_A_GRAIN_MAX][2];
    for (uint32_t i = 0; i < from->count; i++) {
        const struct core_ranges *r = &from->ranges[i];
        layer_spans[i][0] = r->layer_begin;
        layer_spans[i][1] = r->layer_begin + r->layer_count;
        head_spans[i][0] = r->head_begin;
        head_spans[i][1] = r->head_begin + r->head_count;
    }
    uint32_t layers[2 * CORE_PARTS_A_GRAIN_MAX + 2];
    uint32_t heads[2 * CORE_PARTS_A_GRAIN_MAX + 2];
    uint32_t layer_cuts =
        cuts_of(wanted->layer_begin, wanted->layer_count, layer_spans, from->count, layers);
    uint32_t head_cuts =
        cuts_of(wanted->head_begin, wanted->head_count, head_spans, from->count, heads);
    cover_out->count = 0;
    for (uint32_t l = 0; l + 1 < layer_cuts; l++) {
        for (uint32_t h = 0; h + 1 < head_cuts; h++) {
            struct core_ranges cell = {.layer_begin = layers[l],
                                       .layer_count = layers[l + 1] - layers[l],
                                       .head_begin = heads[h],
                                       .head_count = heads[h + 1] - heads[h]};
            uint32_t i = 0;
            while (i < from->count && !ranges_inside(&cell, &from->ranges[i])) {
                i++;
            }
            if (i == from->count || !piece_add(cover_out, from->parts[i], from->grains[i], &cell)) {
                return false;
            }
        }
    }
    return true;
}

/* Whether the part counts for who asks; `filling`: also what will be readable soon. */
static inline bool counts(const struct core *core, const struct part *part, bool filling)
{
    return part_readable(core, part) || (filling && part->state == PART_FILLING);
}

/* Adds the parts of one block that could help: those that meet what is wanted and give more of it
 * than a candidate before. NONE, or the part that does it alone. */
static uint32_t collect(const struct core *core, const struct block *block, uint32_t grain,
                        const struct core_want *want, bool filling, struct candidates *to)
{
    for (uint32_t n = block->parts; n != NONE; n = part_at(core, n)->next) {
        const struct part *part = part_at(core, n);
        const struct shape *shape = shape_at(core, part->shape);
        if (shape->group != want->group || !counts(core, part, filling)) {
            continue;
        }
        if (ranges_inside(&want->ranges, &shape->ranges)) {
            return n;
        }
        bool useful =
            to->count < CORE_PARTS_A_GRAIN_MAX && ranges_meet(&want->ranges, &shape->ranges);
        for (uint32_t i = 0; useful && i < to->count; i++) {
            useful = !ranges_inside(&shape->ranges, &to->ranges[i]);
        }
        if (useful) {
            to->parts[to->count] = n;
            to->grains[to->count] = grain;
            to->ranges[to->count++] = shape->ranges;
        }
    }
    return NONE;
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

static uint32_t grain_of(const struct block *block, uint32_t key_number)
{
    return block->keys_less_one == 0 ? block->grains_less_one : key_number - block->keys;
}

/* The block of a key's number, if it holds what is asked for; NULL otherwise. */
static const struct block *holder(const struct core *core, const struct asked *asked,
                                  uint32_t key_number, uint32_t *grain_out)
{
    const struct block *block = block_at(core, keys_owner(&core->keys, key_number));
    *grain_out = grain_of(block, key_number);
    return block_holds(block, asked, *grain_out) ? block : NULL;
}

static void cover_alone(struct cover *cover, uint32_t part, uint32_t grain,
                        const struct core_want *want)
{
    cover->count = 1;
    cover->pieces[0] = (struct cover_piece){.part = part, .grain = grain, .ranges = want->ranges};
}

/* The common case: the first block with the key, and one part of it that does it alone. */
static bool cover_at_once(const struct core *core, const struct asked *asked,
                          const struct core_want *want, struct cover *cover_out)
{
    uint32_t number = asked->hint - 1;
    uint32_t grain = 0;
    const struct block *block =
        key_is(core, asked, number) ? holder(core, asked, number, &grain) : NULL;
    if (block == NULL) {
        return false;
    }
    const struct part *part = part_at(core, block->parts);
    const struct shape *shape = shape_at(core, part->shape);
    if (shape->group != want->group || !counts(core, part, asked->filling) ||
        !ranges_inside(&want->ranges, &shape->ranges)) {
        return false;
    }
    cover_alone(cover_out, block->parts, grain, want);
    return true;
}

/* A guessed number may be of a key that was freed, whose bytes, owner and block are still there. A
 * part that is ready and names the block proves that the block lives, and a living block's keys
 * are where it says. */
bool find_guess(const struct core *core, const struct asked *asked, const struct core_want *want,
                uint32_t number, struct cover *cover_out)
{
    if (number >= core->keys.high || !keys_equal(keys_at(&core->keys, number), asked->key)) {
        return false;
    }
    uint32_t owner = keys_owner(&core->keys, number);
    if (owner >= core->blocks.high) {
        return false;
    }
    const struct block *block = block_at(core, owner);
    if (block->space != asked->space || number - block->keys > block->keys_less_one ||
        block->parts >= core->parts.high) {
        return false;
    }
    const struct part *part = part_at(core, block->parts);
    if (part->block != owner || !part_readable(core, part)) {
        return false;
    }
    uint32_t grain = grain_of(block, number);
    const struct shape *shape = shape_at(core, part->shape);
    if (!block_holds(block, asked, grain) || shape->group != want->group ||
        !ranges_inside(&want->ranges, &shape->ranges)) {
        return false;
    }
    cover_alone(cover_out, block->parts, grain, want);
    return true;
}

bool find_cover(const struct core *core, const struct asked *asked, const struct core_want *want,
                struct cover *cover_out)
{
    if (asked->hint != 0 && cover_at_once(core, asked, want, cover_out)) {
        return true;
    }
    struct cursor cursor = cursor_begin(core, asked->hash);
    struct candidates candidates;
    candidates.count = 0;
    uint32_t key_number = 0;
    while (next_block(core, &cursor, asked, &key_number)) {
        uint32_t grain = 0;
        const struct block *block = holder(core, asked, key_number, &grain);
        if (block == NULL) {
            continue;
        }
        uint32_t alone = collect(core, block, grain, want, asked->filling, &candidates);
        if (alone != NONE) {
            cover_alone(cover_out, alone, grain, want);
            return true;
        }
    }
    return candidates.count > 0 && cover_fill(&want->ranges, &candidates, cover_out);
}

void find_each(struct core *core, const struct asked *asked,
               void (*visit)(struct core *core, uint32_t part))
{
    struct cursor cursor = cursor_begin(core, asked->hash);
    uint32_t key_number = 0;
    while (next_block(core, &cursor, asked, &key_number)) {
        const struct block *block = block_at(core, keys_owner(&core->keys, key_number));
        for (uint32_t n = block->parts; n != NONE; n = part_at(core, n)->next) {
            visit(core, n);
        }
    }
}

uint32_t find_block(const struct core *core, const struct asked *asked, const struct block *like)
{
    struct cursor cursor = cursor_begin(core, asked->hash);
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
