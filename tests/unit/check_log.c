#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/log.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"

enum {
    READ_BYTES = 1 << 18,
    THREADS = 4,
    LINES = 200,
    ROUNDS = 3000,
    FOREIGN_BYTES = 3000,
    SHORT_INTERVAL_MS = 40,
    LONG_INTERVAL_MS = 600000,
};

/* A log into a file that has no name, and what it holds. */
struct fixture {
    FILE *file;
    struct log log;
    char text[READ_BYTES];
};

static struct fixture fixture;

static void start(enum log_level level, enum log_format format)
{
    fixture.file = tmpfile();
    ck_assert_ptr_nonnull(fixture.file);
    log_init(&fixture.log, fileno(fixture.file), level, format);
}

static const char *written(void)
{
    ssize_t bytes = pread(fileno(fixture.file), fixture.text, sizeof fixture.text - 1, 0);
    ck_assert_int_ge(bytes, 0);
    fixture.text[bytes] = '\0';
    return fixture.text;
}

static void finish(void)
{
    ck_assert_int_eq(fclose(fixture.file), 0);
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;
    for (const char *c = text; *c != '\0'; c++) {
        lines += *c == '\n';
    }
    return lines;
}

START_TEST(human_lines)
    {
        start(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN);
        log_write(&fixture.log, LOG_LEVEL_WARN, "engine", "session %d: %s", 4, "hung up");
        const char *text = written();
        ck_assert_uint_eq(strlen(text), strlen("2026-03-01 12:30:05.250 WARN  engine: ") +
                                            strlen("session 4: hung up\n"));
        ck_assert_str_eq(text + strlen("2026-03-01 12:30:05.250"),
                         " WARN  engine: session 4: hung up\n");
        ck_assert_int_eq(text[4], '-');
        ck_assert_int_eq(text[19], '.');
        finish();
    }
END_TEST

START_TEST(json_lines)
    {
        start(LOG_LEVEL_DEBUG, LOG_FORMAT_JSON);
        log_write(&fixture.log, LOG_LEVEL_DEBUG, "core", "a \"quoted\" word\nand more");
        json_t *line = json_loads(written(), 0, NULL);
        ck_assert_ptr_nonnull(line);
        ck_assert_uint_eq(json_object_size(line), 4);
        ck_assert_str_eq(json_string_value(json_object_get(line, "level")), "debug");
        ck_assert_str_eq(json_string_value(json_object_get(line, "component")), "core");
        ck_assert_str_eq(json_string_value(json_object_get(line, "message")),
                         "a \"quoted\" word\nand more");
        const char *stamp = json_string_value(json_object_get(line, "ts"));
        struct tm parts = {0};
        const char *rest = strptime(stamp, "%Y-%m-%dT%H:%M:%S", &parts);
        ck_assert_ptr_nonnull(rest);
        ck_assert_int_eq(rest[0], '.');
        ck_assert_str_eq(rest + 4, "Z");
        ck_assert(llabs((long long)(time(NULL) - timegm(&parts))) < 60);
        json_decref(line);
        finish();
    }
END_TEST

START_TEST(levels_cut_off)
    {
        start(LOG_LEVEL_WARN, LOG_FORMAT_HUMAN);
        ck_assert_int_eq(log_enabled(&fixture.log, LOG_LEVEL_INFO), 0);
        log_write(&fixture.log, LOG_LEVEL_INFO, "a", "no");
        ck_assert_uint_eq(count_lines(written()), 0);
        log_set_level(&fixture.log, LOG_LEVEL_DEBUG);
        ck_assert_int_eq(log_enabled(&fixture.log, LOG_LEVEL_DEBUG), 1);
        log_write(&fixture.log, LOG_LEVEL_DEBUG, "a", "yes");
        log_write(&fixture.log, LOG_LEVEL_ERROR, "a", "yes");
        ck_assert_uint_eq(count_lines(written()), 2);
        finish();
    }
END_TEST

START_TEST(no_log_drops_everything)
    {
        struct log_limit limit = {0};
        log_write(NULL, LOG_LEVEL_ERROR, "a", "b");
        log_limited(NULL, &limit, LOG_LEVEL_ERROR, "a", "b");
        log_set_level(NULL, LOG_LEVEL_ERROR);
        ck_assert_int_eq(log_enabled(NULL, LOG_LEVEL_ERROR), 0);
        ck_assert_uint_eq(log_lost(NULL), 0);
    }
END_TEST

START_TEST(long_lines_end_in_dots)
    {
        char *word = malloc(FOREIGN_BYTES);
        ck_assert_ptr_nonnull(word);
        (void)memset(word, '\x1b', FOREIGN_BYTES - 1); /* four times as long when escaped */
        word[FOREIGN_BYTES - 1] = '\0';
        start(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN);
        log_write(&fixture.log, LOG_LEVEL_INFO, word, "%s", word);
        const char *text = written();
        ck_assert_uint_eq(count_lines(text), 1);
        ck_assert_uint_lt(strlen(text), LOG_LINE_BYTES);
        ck_assert_str_eq(text + strlen(text) - 4, "...\n");
        finish();
        start(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN);
        (void)memset(word, 'a', FOREIGN_BYTES - 1); /* too long before it is escaped */
        log_write(&fixture.log, LOG_LEVEL_INFO, "x", "%s", word);
        text = written();
        ck_assert_str_eq(text + strlen(text) - 5, "a...\n");
        finish();
        free(word);
    }
END_TEST

/* What a client may send as its name: one line of valid JSON each, whatever it is. */
START_TEST(hostile_bytes_stay_one_line)
    {
        struct rng rng = {.state = 3};
        char word[FOREIGN_BYTES];
        for (int i = 0; i < ROUNDS; i++) {
            size_t bytes = rng_below(&rng, i % 10 == 0 ? sizeof word : 64);
            for (size_t j = 0; j < bytes; j++) {
                word[j] = (char)rng_next(&rng);
            }
            word[bytes] = '\0';
            start(LOG_LEVEL_INFO, i % 2 == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_HUMAN);
            log_write(&fixture.log, LOG_LEVEL_INFO, word, "hello from %s", word);
            const char *text = written();
            ck_assert_uint_eq(count_lines(text), 1);
            ck_assert_int_eq(text[strlen(text) - 1], '\n');
            if (i % 2 == 0) {
                json_t *line = json_loads(text, JSON_ALLOW_NUL, NULL);
                ck_assert_msg(line != NULL, "%s", text);
                json_decref(line);
            }
            finish();
        }
    }
END_TEST

static void *write_many(void *arg)
{
    const char *const *name = arg;
    for (int i = 0; i < LINES; i++) {
        log_write(&fixture.log, LOG_LEVEL_INFO, *name, "%s %d", *name, i);
    }
    return NULL;
}

START_TEST(threads_do_not_mix_their_lines)
    {
        const char *names[THREADS] = {"one", "two", "three", "four"};
        start(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
        ck_assert_int_eq(fcntl(fileno(fixture.file), F_SETFL, O_APPEND), 0);
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, write_many, &names[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        }
        const char *at = written();
        ck_assert_uint_eq(count_lines(at), (size_t)THREADS * LINES);
        while (*at != '\0') {
            size_t bytes = strcspn(at, "\n");
            json_t *line = json_loadb(at, bytes, 0, NULL);
            ck_assert_msg(line != NULL, "%.*s", (int)bytes, at);
            json_decref(line);
            at += bytes + 1;
        }
        finish();
    }
END_TEST

START_TEST(repeats_are_limited_and_counted)
    {
        start(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN);
        struct log_limit limit = {.interval_ms = LONG_INTERVAL_MS};
        for (int i = 0; i < LINES; i++) {
            log_limited(&fixture.log, &limit, LOG_LEVEL_WARN, "disk", "bad sector %d", i);
        }
        ck_assert_uint_eq(count_lines(written()), LOG_LIMIT_BURST);
        log_limit_flush(&fixture.log, &limit, "disk");
        log_limit_flush(&fixture.log, &limit, "disk");
        ck_assert_uint_eq(count_lines(written()), LOG_LIMIT_BURST + 1);
        ck_assert_ptr_nonnull(strstr(written(), "disk: 195 repeated lines were left out\n"));
        /* lines below the level cost the limit nothing */
        struct log_limit other = {.interval_ms = LONG_INTERVAL_MS};
        log_limited(&fixture.log, &other, LOG_LEVEL_DEBUG, "disk", "unseen");
        ck_assert_uint_eq(atomic_load(&other.passed), 0);
        finish();
    }
END_TEST

START_TEST(a_new_window_reports_the_last)
    {
        start(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN);
        struct log_limit limit = {.interval_ms = SHORT_INTERVAL_MS};
        const struct timespec pause = {.tv_nsec = 2 * SHORT_INTERVAL_MS * 1000000L};
        uint64_t left_out = 0;
        do {
            /* a slow machine may begin a new window within the burst: then try again */
            (void)nanosleep(&pause, NULL);
            for (int i = 0; i < LOG_LIMIT_BURST + 3; i++) {
                log_limited(&fixture.log, &limit, LOG_LEVEL_WARN, "net", "refused");
            }
            left_out = atomic_load(&limit.suppressed);
        } while (left_out != 3);
        (void)nanosleep(&pause, NULL);
        log_limited(&fixture.log, &limit, LOG_LEVEL_WARN, "net", "refused");
        ck_assert_ptr_nonnull(strstr(written(), "refused (3 more like it left out)\n"));
        ck_assert_uint_eq(atomic_load(&limit.suppressed), 0);
        finish();
    }
END_TEST

START_TEST(what_cannot_be_written_is_counted)
    {
        int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
        ck_assert_int_ge(full, 0);
        log_init(&fixture.log, full, LOG_LEVEL_INFO, LOG_FORMAT_HUMAN);
        errno = EXDEV;
        log_write(&fixture.log, LOG_LEVEL_INFO, "a", "b");
        ck_assert_int_eq(errno, EXDEV);
        ck_assert_uint_eq(log_lost(&fixture.log), 1);
        ck_assert_int_eq(close(full), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        human_lines,
        json_lines,
        levels_cut_off,
        no_log_drops_everything,
        long_lines_end_in_dots,
        hostile_bytes_stay_one_line,
        threads_do_not_mix_their_lines,
        repeats_are_limited_and_counted,
        a_new_window_reports_the_last,
        what_cannot_be_written_is_counted,
    };
    return check_main("log", tests, ARRAY_COUNT(tests));
}
