/*
 * Covers: proto/message_decode.c
 * Covers: proto/message_decode_data.c
 * Covers: proto/message_decode_setup.c
 * Covers: proto/message_encode.c
 * Covers: proto/message_encode_data.c
 * Covers: proto/message_encode_setup.c
 */
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/heap.h"
#include "tests/lib/check_main.h"
#include "tests/lib/message_make.h"

static struct msg_arena making;
static struct msg_arena encoding;
static struct msg_arena decoding;

static void open_arenas(void)
{
    ck_assert_int_eq(msg_arena_init(&making, 4 * MSG_ARENA_BYTES_MAX), ST_OK);
    ck_assert_int_eq(msg_arena_init(&encoding, MSG_ARENA_BYTES_MAX), ST_OK);
    ck_assert_int_eq(msg_arena_init(&decoding, MSG_ARENA_BYTES_MAX), ST_OK);
}

static void close_arenas(void)
{
    msg_arena_finish(&making);
    msg_arena_finish(&encoding);
    msg_arena_finish(&decoding);
}

static void reset_arenas(void)
{
    msg_arena_reset(&making);
    msg_arena_reset(&encoding);
    msg_arena_reset(&decoding);
}

static void encode(const struct msg *msg, const void **payload_out, uint32_t *bytes_out)
{
    struct error error = {0};
    int status = msg_encode(msg, &encoding, payload_out, bytes_out, &error);
    ck_assert_msg(status == ST_OK, "%s: %s", msg_kind_name(msg->kind), error.text);
}

START_TEST(every_kind_comes_back_as_it_went)
    {
        uint64_t rounds = check_scaled(200);
        for (uint64_t seed = 0; seed < rounds; seed++) {
            struct rng rng = {.state = seed};
            for (int kind = MSG_NONE + 1; kind < MSG_KIND_COUNT; kind++) {
                reset_arenas();
                struct msg sent;
                struct msg got;
                const void *payload = NULL;
                uint32_t bytes = 0;
                struct error error = {0};
                message_make(&rng, (enum msg_kind)kind, 2 + (uint32_t)rng_below(&rng, 20), &making,
                             &sent);
                encode(&sent, &payload, &bytes);
                int status = msg_decode(payload, bytes, &decoding, &got, &error);
                ck_assert_msg(status == ST_OK, "seed %lu %s: %s", (unsigned long)seed,
                              msg_kind_name(sent.kind), error.text);
                const char *field = message_difference(&sent, &got);
                ck_assert_msg(field == NULL, "seed %lu %s: %s differs", (unsigned long)seed,
                              msg_kind_name(sent.kind), field);
            }
        }
    }
END_TEST

START_TEST(every_cut_is_refused)
    {
        struct rng rng = {.state = 1};
        for (int kind = MSG_NONE + 1; kind < MSG_KIND_COUNT; kind++) {
            reset_arenas();
            struct msg sent;
            const void *payload = NULL;
            uint32_t bytes = 0;
            message_make(&rng, (enum msg_kind)kind, 3, &making, &sent);
            encode(&sent, &payload, &bytes);
            for (uint32_t cut = 0; cut < bytes; cut++) {
                struct msg got;
                struct error error = {0};
                msg_arena_reset(&decoding);
                /* a copy of its own size, so that a sanitizer sees every byte read beyond it */
                uint8_t *copy = heap_alloc(cut);
                (void)memcpy(copy, payload, cut);
                int status = msg_decode(copy, cut, &decoding, &got, &error);
                heap_free(copy);
                ck_assert_msg(status == ST_PROTOCOL, "%s cut at %u of %u: %d",
                              msg_kind_name(sent.kind), cut, bytes, status);
                ck_assert_str_ne(error.text, "");
            }
        }
    }
END_TEST

START_TEST(random_bytes_and_flipped_bits_are_survived)
    {
        struct rng rng = {.state = 99};
        uint64_t rounds = check_scaled(20000);
        for (uint64_t round = 0; round < rounds; round++) {
            uint8_t noise[300];
            size_t bytes = rng_below(&rng, sizeof noise);
            for (size_t i = 0; i < bytes; i++) {
                noise[i] = (uint8_t)rng_next(&rng);
            }
            struct msg got;
            struct error error = {0};
            reset_arenas();
            (void)msg_decode(noise, bytes, &decoding, &got, &error);
            struct msg sent;
            const void *payload = NULL;
            uint32_t sent_bytes = 0;
            enum msg_kind kind = (enum msg_kind)(1 + rng_below(&rng, MSG_KIND_COUNT - 1));
            message_make(&rng, kind, 3, &making, &sent);
            encode(&sent, &payload, &sent_bytes);
            uint8_t *copy = heap_alloc(sent_bytes);
            (void)memcpy(copy, payload, sent_bytes);
            for (int flips = 0; flips < 3; flips++) {
                copy[rng_below(&rng, sent_bytes)] ^= (uint8_t)(1u << rng_below(&rng, 8));
            }
            msg_arena_reset(&decoding);
            (void)msg_decode(copy, sent_bytes, &decoding, &got, &error);
            heap_free(copy);
        }
    }
END_TEST

/* Field 1000, length-delimited, a million times inside itself. */
START_TEST(deep_nesting_is_only_bytes)
    {
        enum { LEVELS = 1000000, HEADER = 6 };
        static uint8_t nested[LEVELS * 2 + HEADER];
        for (size_t i = 0; i < sizeof nested; i++) {
            nested[i] = i % 2 == 0 ? 0x0a : 0x7f;
        }
        /* as an unknown field of the envelope, and in the place of a hello */
        const uint8_t tags[] = {0x7a, 0x52};
        for (size_t i = 0; i < sizeof tags; i++) {
            uint32_t length = LEVELS * 2;
            nested[0] = tags[i];
            for (int byte = 0; byte < 4; byte++) {
                nested[1 + byte] = (uint8_t)((length >> (7 * byte) & 0x7f) | (byte < 3 ? 0x80 : 0));
            }
            struct msg got;
            struct error error = {0};
            reset_arenas();
            ck_assert_int_lt(msg_decode(nested, LEVELS * 2 + 5, &decoding, &got, &error), 0);
        }
    }
END_TEST

/* Two million empty unknown fields: the arena ends it, quickly. */
START_TEST(many_small_fields_stop_at_the_limit)
    {
        static uint8_t fields[4 * 1024 * 1024];
        for (size_t i = 0; i < sizeof fields; i += 2) {
            fields[i] = 0x7a; /* field 15, length-delimited */
            fields[i + 1] = 0;
        }
        struct msg got;
        struct error error = {0};
        int status = msg_decode(fields, sizeof fields, &decoding, &got, &error);
        ck_assert(status == ST_LIMIT || status == ST_PROTOCOL);
        ck_assert_uint_le(decoding.used + decoding.wanted, 2 * MSG_ARENA_BYTES_MAX);
    }
END_TEST

/* A reason is never lost for its wording: it is cut between characters and cleaned. */
START_TEST(reasons_are_cut_and_cleaned)
    {
        char text[400];
        (void)memset(text, 'x', sizeof text);
        text[MSG_TEXT_MAX - 1] = (char)0xc3; /* a character of two bytes across the limit */
        text[MSG_TEXT_MAX] = (char)0xa9;
        text[3] = '\n';
        text[sizeof text - 1] = '\0';
        struct msg sent = {.request_id = 1, .kind = MSG_COMPLETION, .u.completion.text = text};
        struct msg got;
        struct error error = {0};
        const void *payload = NULL;
        uint32_t bytes = 0;
        encode(&sent, &payload, &bytes);
        ck_assert_int_eq(msg_decode(payload, bytes, &decoding, &got, &error), ST_OK);
        ck_assert_uint_eq(strlen(got.u.completion.text), MSG_TEXT_MAX - 1);
        ck_assert_int_eq(got.u.completion.text[3], '?');
    }
END_TEST

START_TEST(absent_numbers_get_their_defaults)
    {
        /* lookup { keys: 32 bytes }: key_grains, tail_tokens, step_grains are absent */
        uint8_t wire[4 + 2 + 34] = {0x08, 0x01, 0xaa, 0x01, 34, 0x12, 32};
        struct msg got;
        struct error error = {0};
        int status = msg_decode(wire, 5 + 34, &decoding, &got, &error);
        ck_assert_msg(status == ST_OK, "%s", error.text);
        ck_assert_int_eq(got.kind, MSG_LOOKUP);
        ck_assert_uint_eq(got.u.lookup.key_grains, 1);
        ck_assert_uint_eq(got.u.lookup.tail_tokens, GRAIN_TOKENS);
        ck_assert_uint_eq(got.u.lookup.step_grains, 1);
    }
END_TEST

/* Fails each allocation once, decoding into an arena that still has to grow. */
START_TEST(shortages_are_told)
    {
        struct rng rng = {.state = 3};
        struct msg sent;
        struct error error = {0};
        const void *payload = NULL;
        uint32_t bytes = 0;
        message_make(&rng, MSG_PUSH, 60, &making, &sent);
        encode(&sent, &payload, &bytes);
        int64_t fired = 1;
        for (int64_t n = 0; fired > 0; n++) {
            int64_t outstanding = heap_outstanding();
            struct msg_arena small = {0};
            struct msg got;
            fault_set(FAULT_HEAP, n, 1);
            int status = msg_arena_init(&small, MSG_ARENA_BYTES_MAX);
            if (status == ST_OK) {
                status = msg_decode(payload, bytes, &small, &got, &error);
            }
            if (status == ST_OK) {
                msg_arena_reset(&small);
                status = msg_encode(&sent, &small, &payload, &bytes, &error);
            }
            fired = fault_fired(FAULT_HEAP);
            fault_clear();
            ck_assert(status == ST_NO_MEMORY || status == ST_OK);
            msg_arena_finish(&small);
            ck_assert_int_eq(heap_outstanding(), outstanding);
            reset_arenas();
            rng.state = 3;
            message_make(&rng, MSG_PUSH, 60, &making, &sent);
            encode(&sent, &payload, &bytes);
        }
        struct msg_arena tiny = {0};
        struct msg got;
        ck_assert_int_eq(msg_arena_init(&tiny, 4096), ST_OK);
        ck_assert_int_eq(msg_decode(payload, bytes, &tiny, &got, &error), ST_LIMIT);
        msg_arena_finish(&tiny);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        every_kind_comes_back_as_it_went,           every_cut_is_refused,
        random_bytes_and_flipped_bits_are_survived, deep_nesting_is_only_bytes,
        many_small_fields_stop_at_the_limit,        reasons_are_cut_and_cleaned,
        absent_numbers_get_their_defaults,          shortages_are_told};
    const struct check_suite suite = {.name = "message",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = open_arenas,
                                      .teardown = close_arenas};
    return check_run(&suite);
}
