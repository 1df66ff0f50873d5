#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/escape.h"

#define LOG_MAGIC 0x4b4c4f47u

enum {
    STAMP_BYTES = 64,
    COMPONENT_BYTES = 64,  /* of a component's name, escaped */
    TAIL_BYTES = 8,        /* room for "...", the closing of a JSON line, newline and NUL */
    SUPPRESSED_BYTES = 64, /* room for the note of a limit */
};

const char *const log_level_names[] = {"error", "warn", "info", "debug", NULL};
const char *const log_format_names[] = {"human", "json", NULL};

static const char *const level_labels[] = {"ERROR", "WARN ", "INFO ", "DEBUG"};
static const char *const level_colours[] = {"\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[2m"};

void log_init(struct log *log, int fd, enum log_level level, enum log_format format)
{
    KVEIK_ASSERT(log != NULL);
    const char *plain = secure_getenv("NO_COLOR");
    *log = (struct log){.magic = LOG_MAGIC, .fd = fd, .format = format};
    log->colours =
        format == LOG_FORMAT_HUMAN && isatty(fd) == 1 && (plain == NULL || *plain == '\0');
    atomic_init(&log->level, (int)level);
    atomic_init(&log->lost, 0);
}

void log_set_level(struct log *log, enum log_level level)
{
    if (log != NULL) {
        KVEIK_CHECK_OBJ(log, LOG_MAGIC);
        atomic_store_explicit(&log->level, (int)level, memory_order_relaxed);
    }
}

bool log_enabled(const struct log *log, enum log_level level)
{
    if (log == NULL) {
        return false;
    }
    KVEIK_CHECK_OBJ(log, LOG_MAGIC);
    return (int)level <= atomic_load_explicit(&log->level, memory_order_relaxed);
}

uint64_t log_lost(const struct log *log)
{
    return log == NULL ? 0 : atomic_load_explicit(&log->lost, memory_order_relaxed);
}

/* One line, built on the stack. */
struct line {
    char text[LOG_LINE_BYTES];
    size_t used;
};

static void line_add(struct line *line, const char *text)
{
    size_t bytes = strlen(text);
    KVEIK_ASSERT(line->used + bytes < sizeof line->text);
    (void)memcpy(line->text + line->used, text, bytes + 1);
    line->used += bytes;
}

static void stamp(enum log_format format, char out[STAMP_BYTES])
{
    struct timespec now = {0};
    struct tm parts = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    bool json = format == LOG_FORMAT_JSON;
    if ((json ? gmtime_r(&now.tv_sec, &parts) : localtime_r(&now.tv_sec, &parts)) == NULL) {
        out[0] = '\0';
        return;
    }
    char date[STAMP_BYTES / 2];
    if (strftime(date, sizeof date, json ? "%Y-%m-%dT%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &parts) ==
        0) {
        date[0] = '\0';
    }
    (void)snprintf(out, STAMP_BYTES, "%s.%03u%s", date, (unsigned)(now.tv_nsec / 1000000) % 1000u,
                   json ? "Z" : "");
}

typedef size_t (*escape_fn)(const char *text, size_t bytes, char *out, size_t room, bool *cut);

static void line_add_escaped(struct line *line, const char *text, size_t room, escape_fn escape)
{
    bool cut = false;
    size_t left = sizeof line->text - TAIL_BYTES - line->used;
    room = room < left ? room : left;
    line->used += escape(text, strlen(text), line->text + line->used, room, &cut);
    if (cut) {
        line_add(line, "...");
    }
}

static void build_human(struct line *line, const struct log *log, enum log_level level,
                        const char *component, const char *message)
{
    stamp(LOG_FORMAT_HUMAN, line->text);
    line->used = strlen(line->text);
    line_add(line, " ");
    line_add(line, log->colours ? level_colours[level] : "");
    line_add(line, level_labels[level]);
    line_add(line, log->colours ? "\x1b[0m " : " ");
    line_add_escaped(line, component, COMPONENT_BYTES, escape_text);
    line_add(line, ": ");
    line_add_escaped(line, message, sizeof line->text, escape_text);
    line_add(line, "\n");
}

static void build_json(struct line *line, enum log_level level, const char *component,
                       const char *message)
{
    line_add(line, "{\"ts\":\"");
    stamp(LOG_FORMAT_JSON, line->text + line->used);
    line->used += strlen(line->text + line->used);
    line_add(line, "\",\"level\":\"");
    line_add(line, log_level_names[level]);
    line_add(line, "\",\"component\":\"");
    line_add_escaped(line, component, COMPONENT_BYTES, escape_json);
    line_add(line, "\",\"message\":\"");
    line_add_escaped(line, message, sizeof line->text, escape_json);
    line_add(line, "\"}\n");
}

static void write_line(struct log *log, enum log_level level, const char *component,
                       const char *message)
{
    struct line line = {.used = 0};
    if (log->format == LOG_FORMAT_JSON) {
        build_json(&line, level, component, message);
    } else {
        build_human(&line, log, level, component, message);
    }
    ssize_t written = -1;
    do {
        written = write(log->fd, line.text, line.used);
    } while (written < 0 && errno == EINTR);
    if (written != (ssize_t)line.used) {
        /* a full pipe or disk must not stop the daemon; the loss is counted */
        atomic_fetch_add_explicit(&log->lost, 1, memory_order_relaxed);
    }
}

/* Formats into `message`, marking what was cut; the note, if any, always fits behind it. */
__attribute__((format(printf, 2, 0))) static void
format_message(char message[LOG_MESSAGE_BYTES], const char *format, va_list args, uint64_t left_out)
{
    size_t room = LOG_MESSAGE_BYTES - SUPPRESSED_BYTES;
    int wanted = vsnprintf(message, room, format, args);
    if (wanted < 0) {
        (void)snprintf(message, room, "(a message that cannot be formatted)");
    } else if ((size_t)wanted >= room) {
        (void)memcpy(message + room - sizeof "...", "...", sizeof "...");
    }
    if (left_out > 0) {
        size_t used = strlen(message);
        (void)snprintf(message + used, LOG_MESSAGE_BYTES - used, " (%llu more like it left out)",
                       (unsigned long long)left_out);
    }
}

void log_writev(struct log *log, enum log_level level, const char *component, const char *format,
                va_list args)
{
    if (log_enabled(log, level)) {
        int saved = errno;
        char message[LOG_MESSAGE_BYTES];
        format_message(message, format, args, 0);
        write_line(log, level, component, message);
        errno = saved;
    }
}

void log_write(struct log *log, enum log_level level, const char *component, const char *format,
               ...)
{
    va_list args;
    va_start(args, format);
    log_writev(log, level, component, format, args);
    va_end(args);
}

/* True when a line may pass; *left_out_out is then what the line has to report. */
static bool limit_passes(struct log_limit *limit, uint64_t *left_out_out)
{
    uint64_t interval = limit->interval_ms == 0 ? LOG_LIMIT_INTERVAL_MS : limit->interval_ms;
    uint64_t now = clock_ms() + 1; /* 0 stands for "no window yet" */
    uint_fast64_t window = atomic_load(&limit->window_ms);
    *left_out_out = 0;
    if (window == 0 || now - window >= interval) {
        /* one thread opens the new window; the others count in it */
        if (atomic_compare_exchange_strong(&limit->window_ms, &window, now)) {
            atomic_store(&limit->passed, 0);
            *left_out_out = atomic_exchange(&limit->suppressed, 0);
        }
    }
    if (atomic_fetch_add(&limit->passed, 1) < LOG_LIMIT_BURST) {
        return true;
    }
    atomic_fetch_add(&limit->suppressed, 1 + *left_out_out);
    return false;
}

void log_limited(struct log *log, struct log_limit *limit, enum log_level level,
                 const char *component, const char *format, ...)
{
    KVEIK_ASSERT(limit != NULL);
    uint64_t left_out = 0;
    if (!log_enabled(log, level) || !limit_passes(limit, &left_out)) {
        return;
    }
    int saved = errno;
    char message[LOG_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    format_message(message, format, args, left_out);
    va_end(args);
    write_line(log, level, component, message);
    errno = saved;
}

void log_limit_flush(struct log *log, struct log_limit *limit, const char *component)
{
    KVEIK_ASSERT(limit != NULL);
    uint64_t left_out = atomic_exchange(&limit->suppressed, 0);
    if (left_out > 0) {
        log_write(log, LOG_LEVEL_WARN, component, "%llu repeated lines were left out",
                  (unsigned long long)left_out);
    }
}
