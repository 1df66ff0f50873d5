/*
 * Bump memory for messages. One block serves nearly every message; what does not fit goes to
 * overflow chunks, and the next reset makes the block large enough for it.
 */
#include <stdalign.h>

#include "base/assert.h"
#include "base/heap.h"
#include "proto/message.h"
#include "proto/message_internal.h"

enum { ARENA_ALIGNMENT = 16, ARENA_FIRST_BYTES = 16 * 1024, ARENA_CHUNK_BYTES = 64 * 1024 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t capacity;
    size_t used;
    alignas(ARENA_ALIGNMENT) uint8_t memory[];
};

_Static_assert(alignof(max_align_t) >= ARENA_ALIGNMENT, "the heap's memory is aligned enough");

static size_t round_up(size_t bytes)
{
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

static size_t arena_left(const struct msg_arena *arena)
{
    size_t total = arena->used + arena->wanted;
    return total < arena->bytes_max ? arena->bytes_max - total : 0;
}

int msg_arena_init(struct msg_arena *arena, size_t bytes_max)
{
    KVEIK_ASSERT(arena != NULL && bytes_max > 0);
    size_t first = bytes_max < ARENA_FIRST_BYTES ? round_up(bytes_max) : ARENA_FIRST_BYTES;
    *arena = (struct msg_arena){.bytes_max = bytes_max};
    arena->memory = heap_alloc(first);
    if (arena->memory == NULL) {
        return ST_NO_MEMORY;
    }
    arena->capacity = first;
    return ST_OK;
}

static void free_chunks(struct msg_arena *arena)
{
    struct arena_chunk *chunk = arena->overflow;
    while (chunk != NULL) {
        struct arena_chunk *next = chunk->next;
        heap_free(chunk);
        chunk = next;
    }
    arena->overflow = NULL;
}

void msg_arena_reset(struct msg_arena *arena)
{
    size_t total = arena->used + arena->wanted;
    free_chunks(arena);
    arena->used = 0;
    arena->wanted = 0;
    if (total <= arena->capacity) {
        return;
    }
    size_t capacity = arena->capacity == 0 ? ARENA_FIRST_BYTES : arena->capacity;
    while (capacity < total) {
        capacity *= 2;
    }
    /* a shortage here costs only speed: the next message overflows again */
    uint8_t *memory = heap_alloc(capacity);
    if (memory != NULL) {
        heap_free(arena->memory);
        arena->memory = memory;
        arena->capacity = capacity;
    }
}

void msg_arena_finish(struct msg_arena *arena)
{
    free_chunks(arena);
    heap_free(arena->memory);
    *arena = (struct msg_arena){0};
}

static void *take_overflow(struct msg_arena *arena, size_t bytes)
{
    struct arena_chunk *chunk = arena->overflow;
    if (chunk == NULL || chunk->capacity - chunk->used < bytes) {
        size_t capacity = bytes > ARENA_CHUNK_BYTES ? bytes : ARENA_CHUNK_BYTES;
        chunk = heap_alloc(sizeof *chunk + capacity);
        if (chunk == NULL) {
            return NULL;
        }
        chunk->next = arena->overflow;
        chunk->capacity = capacity;
        chunk->used = 0;
        arena->overflow = chunk;
    }
    void *memory = chunk->memory + chunk->used;
    chunk->used += bytes;
    arena->wanted += bytes;
    return memory;
}

void *msg_arena_take(struct msg_arena *arena, size_t bytes)
{
    KVEIK_ASSERT(arena->used <= arena->capacity);
    if (bytes > arena_left(arena)) {
        return NULL;
    }
    size_t rounded = round_up(bytes);
    if (rounded > arena->capacity - arena->used) {
        return take_overflow(arena, rounded);
    }
    void *memory = arena->memory + arena->used;
    arena->used += rounded;
    return memory;
}

int msg_arena_refusal(const struct msg_arena *arena, size_t bytes, struct error *error)
{
    if (bytes > arena_left(arena)) {
        return error_set(error, ST_LIMIT, "the message needs more than %zu bytes of memory",
                         arena->bytes_max);
    }
    return error_set(error, ST_NO_MEMORY, "no memory for a message");
}
