#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "proto/frame.h"
#include "tests/lib/check_main.h"

struct pair {
    int near;
    int far;
    struct frame_writer writer;
    struct frame_reader reader;
};

static void pair_open(struct pair *pair, size_t payload_max, size_t queue_max)
{
    int sockets[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pair->near = sockets[0];
    pair->far = sockets[1];
    frame_writer_init(&pair->writer, queue_max);
    ck_assert_int_eq(frame_reader_init(&pair->reader, payload_max), ST_OK);
}

static void pair_close(struct pair *pair)
{
    (void)close(pair->near);
    (void)close(pair->far);
    frame_writer_finish(&pair->writer);
    frame_reader_finish(&pair->reader);
}

static int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    }
    return count;
}

static void put_header(uint8_t *out, uint32_t bytes, uint32_t descriptors, uint32_t mark)
{
    for (uint32_t i = 0; i < 4; i++) {
        out[i] = (uint8_t)(bytes >> (8 * i));
    }
    out[4] = (uint8_t)descriptors;
    out[5] = (uint8_t)(descriptors >> 8);
    out[6] = (uint8_t)mark;
    out[7] = (uint8_t)(mark >> 8);
}

static uint8_t byte_at(uint64_t seed, size_t at)
{
    return (uint8_t)(seed * 31 + at * 7 + at / 251);
}

/* Sends frames of many sizes through a small socket buffer and compares all that comes. */
START_TEST(frames_of_all_sizes_arrive_in_order)
    {
        struct pair pair;
        pair_open(&pair, FRAME_PAYLOAD_MAX, FRAME_QUEUE_MAX);
        struct rng rng = {.state = 7};
        static uint8_t payload[FRAME_PAYLOAD_MAX];
        const uint32_t sizes[] = {0, 1, 7, 4096, 70000, 300000, FRAME_PAYLOAD_MAX, 3, 0, 12345};
        uint32_t written = 0;
        uint32_t read = 0;
        while (read < ARRAY_COUNT(sizes)) {
            if (written < ARRAY_COUNT(sizes) && rng_below(&rng, 2) == 0) {
                for (size_t i = 0; i < sizes[written]; i++) {
                    payload[i] = byte_at(written, i);
                }
                int status = frame_write(&pair.writer, pair.near, payload, sizes[written], NULL, 0);
                ck_assert(status == ST_OK || status == ST_PENDING);
                written++;
            }
            ck_assert_int_ge(frame_flush(&pair.writer, pair.near), ST_OK);
            struct error error = {0};
            ck_assert_int_ge(frame_receive(&pair.reader, pair.far, &error), ST_OK);
            struct frame frame;
            while (frame_next(&pair.reader, &frame, &error) == ST_OK) {
                ck_assert_uint_eq(frame.payload_bytes, sizes[read]);
                for (size_t i = 0; i < frame.payload_bytes; i++) {
                    if (frame.payload[i] != byte_at(read, i)) {
                        ck_abort_msg("frame %u differs at byte %zu", read, i);
                    }
                }
                frame_finish(&frame);
                read++;
            }
        }
        ck_assert_uint_eq(frame_partial_bytes(&pair.reader), 0);
        pair_close(&pair);
    }
END_TEST

START_TEST(bytes_one_by_one_make_a_frame)
    {
        struct pair pair;
        pair_open(&pair, 100, 1000);
        uint8_t bytes[FRAME_HEADER_BYTES + 5];
        put_header(bytes, 5, 0, FRAME_MARK);
        static const uint8_t word[5] = {'k', 'v', 'e', 'i', 'k'};
        (void)memcpy(bytes + FRAME_HEADER_BYTES, word, sizeof word);
        struct frame frame;
        struct error error = {0};
        for (size_t i = 0; i < sizeof bytes; i++) {
            ck_assert_int_eq(frame_next(&pair.reader, &frame, &error), ST_PENDING);
            ck_assert_uint_eq(frame_partial_bytes(&pair.reader), i);
            ck_assert_int_eq(write(pair.near, bytes + i, 1), 1);
            ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_OK);
        }
        ck_assert_int_eq(frame_next(&pair.reader, &frame, &error), ST_OK);
        ck_assert_mem_eq(frame.payload, "kveik", 5);
        ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_PENDING);
        pair_close(&pair);
    }
END_TEST

static void expect_refusal(uint32_t bytes, uint32_t descriptors, uint32_t mark)
{
    struct pair pair;
    pair_open(&pair, 100, 1000);
    uint8_t header[FRAME_HEADER_BYTES];
    put_header(header, bytes, descriptors, mark);
    ck_assert_int_eq(write(pair.near, header, sizeof header), (ssize_t)sizeof header);
    struct frame frame;
    struct error error = {0};
    ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_OK);
    ck_assert_int_eq(frame_next(&pair.reader, &frame, &error), ST_PROTOCOL);
    ck_assert_str_ne(error.text, "");
    pair_close(&pair);
}

START_TEST(bad_headers_are_refused)
    {
        expect_refusal(1, 0, FRAME_MARK ^ 1);
        expect_refusal(101, 0, FRAME_MARK);
        expect_refusal(UINT32_MAX, 0, FRAME_MARK);
        expect_refusal(0, FRAME_DESCRIPTORS_MAX + 1, FRAME_MARK);
        expect_refusal(0, 1, FRAME_MARK); /* named, but none came */
    }
END_TEST

START_TEST(a_claim_alone_costs_no_memory)
    {
        struct pair pair;
        pair_open(&pair, FRAME_PAYLOAD_MAX, 1000);
        uint8_t header[FRAME_HEADER_BYTES];
        put_header(header, FRAME_PAYLOAD_MAX, 0, FRAME_MARK);
        ck_assert_int_eq(write(pair.near, header, sizeof header), (ssize_t)sizeof header);
        struct error error = {0};
        ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_OK);
        ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_PENDING);
        ck_assert_uint_lt(pair.reader.capacity, 128 * 1024);
        pair_close(&pair);
    }
END_TEST

static ino_t inode_of(int fd)
{
    struct stat info;
    ck_assert_int_eq(fstat(fd, &info), 0);
    return info.st_ino;
}

START_TEST(descriptors_come_with_their_frame)
    {
        int before = open_descriptors();
        struct pair pair;
        pair_open(&pair, 1000, 100000);
        int pipes[2][2];
        ck_assert_int_eq(pipe(pipes[0]), 0);
        ck_assert_int_eq(pipe(pipes[1]), 0);
        const int both[] = {pipes[0][0], pipes[1][0]};
        ck_assert_int_eq(frame_write(&pair.writer, pair.near, "a", 1, NULL, 0), ST_OK);
        ck_assert_int_eq(frame_write(&pair.writer, pair.near, "b", 1, both, 2), ST_OK);
        ck_assert_int_eq(frame_write(&pair.writer, pair.near, "c", 1, both, 1), ST_OK);
        struct error error = {0};
        for (char expected = 'a'; expected <= 'c';) {
            ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_OK);
            struct frame frame;
            while (frame_next(&pair.reader, &frame, &error) == ST_OK) {
                ck_assert_int_eq(frame.payload[0], expected);
                ck_assert_uint_eq(frame.descriptor_count, expected == 'a'   ? 0u
                                                          : expected == 'b' ? 2u
                                                                            : 1u);
                if (expected == 'b') {
                    ck_assert_uint_eq(inode_of(frame.descriptors[1]), inode_of(both[1]));
                    ck_assert_int_ne(fcntl(frame.descriptors[1], F_GETFD) & FD_CLOEXEC, 0);
                    (void)close(frame.descriptors[1]);
                    frame.descriptors[1] = -1; /* taken */
                }
                frame_finish(&frame);
                expected++;
            }
        }
        pair_close(&pair);
        for (int i = 0; i < 4; i++) {
            (void)close(pipes[i / 2][i % 2]);
        }
        ck_assert_int_eq(open_descriptors(), before);
    }
END_TEST

/* A raw message with `count` descriptors beside a header that names `named`. */
static void send_raw(int socket, uint32_t named, int count)
{
    uint8_t header[FRAME_HEADER_BYTES];
    put_header(header, 0, named, FRAME_MARK);
    struct iovec vector = {.iov_base = header, .iov_len = sizeof header};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    for (int i = 0; i < count; i++) {
        int fd = STDERR_FILENO;
        (void)memcpy(CMSG_DATA(part) + (size_t)i * sizeof fd, &fd, sizeof fd);
    }
    ck_assert_int_eq(sendmsg(socket, &message, 0), (ssize_t)sizeof header);
}

START_TEST(too_many_and_unnamed_descriptors_are_refused)
    {
        int before = open_descriptors();
        struct error error = {0};
        struct frame frame;
        struct pair pair;
        pair_open(&pair, 1000, 100000);
        send_raw(pair.near, 0, 60);
        ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_PROTOCOL);
        pair_close(&pair);
        pair_open(&pair, 1000, 100000);
        send_raw(pair.near, 0, 2);
        ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_OK);
        ck_assert_int_eq(frame_next(&pair.reader, &frame, &error), ST_OK);
        ck_assert_int_eq(frame_next(&pair.reader, &frame, &error), ST_PROTOCOL);
        pair_close(&pair);
        ck_assert_int_eq(open_descriptors(), before);
    }
END_TEST

START_TEST(a_full_queue_refuses_whole_frames)
    {
        struct pair pair;
        pair_open(&pair, FRAME_PAYLOAD_MAX, 2 * 1000 * 1000);
        static uint8_t payload[600000];
        int fd = STDERR_FILENO;
        int before = open_descriptors();
        int status = ST_OK;
        uint32_t accepted = 0;
        while ((status = frame_write(&pair.writer, pair.near, payload, sizeof payload, &fd, 1)) !=
               ST_BUSY) {
            ck_assert_int_ge(status, ST_OK);
            accepted++;
        }
        ck_assert_uint_ge(accepted, 3);
        ck_assert_uint_le(pair.writer.queued_bytes, 2 * 1000 * 1000);
        ck_assert_int_gt(open_descriptors(), before); /* duplicates wait with their frames */
        uint32_t read = 0;
        struct error error = {0};
        while (read < accepted) {
            ck_assert_int_ge(frame_flush(&pair.writer, pair.near), ST_OK);
            ck_assert_int_ge(frame_receive(&pair.reader, pair.far, &error), ST_OK);
            struct frame frame;
            while (frame_next(&pair.reader, &frame, &error) == ST_OK) {
                ck_assert_uint_eq(frame.descriptor_count, 1);
                frame_finish(&frame);
                read++;
            }
        }
        ck_assert_int_eq(frame_flush(&pair.writer, pair.near), ST_OK);
        ck_assert_uint_eq(pair.writer.queued_bytes, 0);
        ck_assert_int_eq(open_descriptors(), before);
        pair_close(&pair);
    }
END_TEST

START_TEST(the_end_is_told)
    {
        struct pair pair;
        pair_open(&pair, 1000, 100000);
        struct error error = {0};
        (void)close(pair.near);
        ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_LOST);
        ck_assert_int_eq(frame_write(&pair.writer, pair.far, "x", 1, NULL, 0), ST_LOST);
        pair.near = -1;
        pair_close(&pair);
        pair_open(&pair, 1000, 100000);
        fault_set(FAULT_RECEIVE, 0, 1);
        ck_assert_int_eq(frame_receive(&pair.reader, pair.far, &error), ST_LOST);
        fault_set(FAULT_SEND, 0, 1);
        ck_assert_int_eq(frame_write(&pair.writer, pair.near, "x", 1, NULL, 0), ST_LOST);
        fault_clear();
        pair_close(&pair);
    }
END_TEST

/* Fails one allocation after the other: no leak, and either a told shortage or a lost stream. */
START_TEST(shortages_of_memory_lose_nothing_else)
    {
        static uint8_t payload[500000];
        for (int64_t n = 0; n < 12; n++) {
            int64_t outstanding = heap_outstanding();
            int descriptors = open_descriptors();
            struct pair pair;
            pair_open(&pair, FRAME_PAYLOAD_MAX, FRAME_QUEUE_MAX);
            fault_set(FAULT_HEAP, n, 1);
            int fd = STDERR_FILENO;
            int status = ST_OK;
            struct error error = {0};
            for (int i = 0; i < 4 && status >= 0; i++) {
                status = frame_write(&pair.writer, pair.near, payload, sizeof payload, &fd, 1);
                if (status >= 0) {
                    status = frame_receive(&pair.reader, pair.far, &error);
                }
            }
            ck_assert(status >= 0 || status == ST_NO_MEMORY || status == ST_LOST);
            fault_clear();
            pair_close(&pair);
            ck_assert_int_eq(heap_outstanding(), outstanding);
            ck_assert_int_eq(open_descriptors(), descriptors);
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {frames_of_all_sizes_arrive_in_order,
                                  bytes_one_by_one_make_a_frame,
                                  bad_headers_are_refused,
                                  a_claim_alone_costs_no_memory,
                                  descriptors_come_with_their_frame,
                                  too_many_and_unnamed_descriptors_are_refused,
                                  a_full_queue_refuses_whole_frames,
                                  the_end_is_told,
                                  shortages_of_memory_lose_nothing_else};
    return check_main("frame", tests, ARRAY_COUNT(tests));
}
