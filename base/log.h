/*
 * The log: one line a message, one write(2) a line, to a descriptor that the caller owns.
 *
 *   human  2026-03-01 12:30:05.250 WARN  engine: session 4: the peer hung up
 *   json   {"ts":"2026-03-01T11:30:05.250Z","level":"warn","component":"engine","message":"..."}
 *
 * Messages may hold foreign bytes: they are escaped. Lines are bounded: what is too long ends in
 * "...". All functions are thread-safe after log_init(), keep errno, and accept a NULL log, which
 * drops everything.
 */
#ifndef KVEIK_BASE_LOG_H
#define KVEIK_BASE_LOG_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    LOG_MESSAGE_BYTES = 1024, /* of one message, before escaping */
    LOG_LINE_BYTES = 2048,    /* of one line, with its newline; below PIPE_BUF */
    LOG_LIMIT_BURST = 5,      /* lines that a limit lets through in one interval */
    LOG_LIMIT_INTERVAL_MS = 1000,
};

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format { LOG_FORMAT_HUMAN, LOG_FORMAT_JSON };

/* The names of the enums, NULL-terminated, in order: choices for option tables. */
extern const char *const log_level_names[];
extern const char *const log_format_names[];

struct log {
    uint32_t magic;
    int fd; /* the caller's; open for as long as the log is used */
    enum log_format format;
    bool colours;              /* human format on a terminal */
    atomic_int level;          /* lines above it are dropped before formatting */
    atomic_uint_fast64_t lost; /* lines that could not be written */
};

/* The limit of one class of lines; zeroed is ready. Belongs to whom it concerns: a session's in
 * its struct, a call site's in a static. */
struct log_limit {
    uint32_t interval_ms; /* 0: LOG_LIMIT_INTERVAL_MS */
    atomic_uint_fast64_t window_ms;
    atomic_uint_fast32_t passed; /* lines in this window */
    atomic_uint_fast64_t suppressed;
};

/* Colours are used when `fd` is a terminal and NO_COLOR is not set. */
void log_init(struct log *log, int fd, enum log_level level, enum log_format format);

void log_set_level(struct log *log, enum log_level level);

/* For callers that would have to work to build a message. */
bool log_enabled(const struct log *log, enum log_level level);

void log_write(struct log *log, enum log_level level, const char *component, const char *format,
               ...) __attribute__((format(printf, 4, 5)));

void log_writev(struct log *log, enum log_level level, const char *component, const char *format,
                va_list args) __attribute__((format(printf, 4, 0)));

/* log_write() for lines that a peer or a broken device can cause without end: at most
 * LOG_LIMIT_BURST an interval; the first line after a silence says how many were left out. */
void log_limited(struct log *log, struct log_limit *limit, enum log_level level,
                 const char *component, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Says how many lines are still unreported, if any: when the owner of the limit ends. */
void log_limit_flush(struct log *log, struct log_limit *limit, const char *component);

/* Lines that could not be written since log_init(). */
uint64_t log_lost(const struct log *log);

#endif
