/*
 * The configuration file: a flat YAML mapping from names to single values. Everything else that
 * YAML can say (lists, nesting, anchors, further documents) is refused where it stands.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/options_internal.h"

enum { FILE_BYTES_MAX = 1 << 20, PATH_SHOWN_BYTES = 80 };

struct reading {
    const struct options *options;
    const char *path; /* its end, short enough for an error */
    char **texts;
    bool document_seen;
    int option; /* the key that waits for its value; -1: a key comes next */
};

/* Where the configuration is wrong: goes in front of what is wrong there. */
static void at_line(const struct reading *reading, size_t line, struct error *error)
{
    (void)error_wrap(error, "%s:%zu", reading->path, line + 1);
}

static int refuse(const struct reading *reading, const yaml_event_t *event, struct error *error,
                  const char *why)
{
    int status = error_set(error, ST_INVALID, "%s", why);
    at_line(reading, event->start_mark.line, error);
    return status;
}

static int open_file(const char *path)
{
    if (fault_fires(FAULT_OPEN)) {
        errno = EMFILE;
        return -1;
    }
    return open(path, O_RDONLY | O_CLOEXEC);
}

static ssize_t read_some(int fd, char *buffer, size_t bytes)
{
    if (fault_fires(FAULT_FILE)) {
        errno = EIO;
        return -1;
    }
    return read(fd, buffer, bytes);
}

static int read_bytes(int fd, const char *path, char *buffer, size_t *used_out, struct error *error)
{
    size_t used = 0;
    for (;;) {
        ssize_t got = read_some(fd, buffer + used, FILE_BYTES_MAX + 1 - used);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_errno(error, ST_IO, errno, "cannot read %s", path);
        }
        used += (size_t)got;
        if (got == 0) {
            *used_out = used;
            return ST_OK;
        }
        if (used > FILE_BYTES_MAX) {
            return error_set(error, ST_LIMIT, "%s is too large for a configuration: at most 1MiB",
                             path);
        }
    }
}

static int read_whole(const char *path, const char *shown, char *buffer, size_t *used_out,
                      struct error *error)
{
    int fd = open_file(path);
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "cannot open the configuration %s", shown);
    }
    int status = read_bytes(fd, shown, buffer, used_out, error);
    (void)close(fd);
    return status;
}

/* The scalar as a string, or NULL when it holds a NUL and so cannot be one. */
static const char *scalar_text(const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    return strlen(text) == event->data.scalar.length ? text : NULL;
}

static int take_key(struct reading *reading, const yaml_event_t *event, struct error *error)
{
    const struct options_table *table = reading->options->table;
    const char *name = scalar_text(event);
    reading->option = name == NULL ? -1 : option_find(table, name);
    if (reading->option >= 0) {
        return reading->texts[reading->option] == NULL
                   ? ST_OK
                   : refuse(reading, event, error, "this setting stands here twice: keep one");
    }
    char shown[OPTION_SHOWN_BYTES];
    option_show(name == NULL ? "" : name, shown);
    const char *nearest = name == NULL ? NULL : option_nearest(table, name);
    int status = nearest != NULL
                     ? error_set(error, ST_INVALID, "unknown setting %s; did you mean \"%s\"?",
                                 shown, nearest)
                     : error_set(error, ST_INVALID, "unknown setting %s; %s --help lists them",
                                 shown, table->program);
    at_line(reading, event->start_mark.line, error);
    return status;
}

static int take_value(struct reading *reading, const yaml_event_t *event, struct error *error)
{
    const struct option_spec *spec = &reading->options->table->specs[reading->option];
    const char *text = scalar_text(event);
    struct option_value value;
    int status = ST_OK;
    if (text == NULL) {
        status = error_set(error, ST_INVALID, "the value holds a zero byte");
    } else if (*text == '\0' && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
        status = error_set(error, ST_INVALID, "has no value: write %s: %s", spec->name,
                           *spec->preset != '\0' ? spec->preset : "\"\"");
    } else {
        status = option_value_parse(spec, text, &value, error);
    }
    if (status != ST_OK) {
        (void)error_wrap(error, "%s", spec->name);
        at_line(reading, event->start_mark.line, error);
        return status;
    }
    reading->texts[reading->option] = heap_strdup(text);
    if (reading->texts[reading->option] == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    reading->option = -1;
    return ST_OK;
}

static int take_scalar(struct reading *reading, const yaml_event_t *event, bool in_mapping,
                       struct error *error)
{
    if (event->data.scalar.anchor != NULL) {
        return refuse(reading, event, error, "anchors are not used here: write NAME: VALUE");
    }
    if (!in_mapping) {
        /* a document with nothing in it, such as one of comments only */
        return event->data.scalar.length == 0
                   ? ST_OK
                   : refuse(reading, event, error, "expected lines of the form NAME: VALUE");
    }
    return reading->option < 0 ? take_key(reading, event, error)
                               : take_value(reading, event, error);
}

static int take_event(struct reading *reading, const yaml_event_t *event, bool *in_mapping,
                      struct error *error)
{
    switch (event->type) {
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return ST_OK;
    case YAML_DOCUMENT_START_EVENT:
        if (reading->document_seen) {
            return refuse(reading, event, error, "a second document begins: keep one");
        }
        reading->document_seen = true;
        return ST_OK;
    case YAML_MAPPING_START_EVENT:
        if (*in_mapping) {
            return refuse(reading, event, error, "settings are flat: write NAME: VALUE");
        }
        *in_mapping = true;
        return ST_OK;
    case YAML_MAPPING_END_EVENT:
        *in_mapping = false;
        return ST_OK;
    case YAML_SCALAR_EVENT:
        return take_scalar(reading, event, *in_mapping, error);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        return refuse(reading, event, error, "a list has no place here: write NAME: VALUE");
    case YAML_ALIAS_EVENT:
        return refuse(reading, event, error, "aliases are not used here: write NAME: VALUE");
    }
    KVEIK_UNREACHABLE("a YAML event outside the enum");
}

static int syntax_error(const struct reading *reading, const yaml_parser_t *parser,
                        struct error *error)
{
    if (parser->error == YAML_MEMORY_ERROR) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    int status = error_set(error, ST_INVALID, "not YAML: %s; write lines of the form NAME: VALUE",
                           parser->problem != NULL ? parser->problem : "unreadable");
    at_line(reading, parser->problem_mark.line, error);
    return status;
}

static int parse_all(struct reading *reading, yaml_parser_t *parser, struct error *error)
{
    bool in_mapping = false;
    for (;;) {
        yaml_event_t event;
        if (yaml_parser_parse(parser, &event) == 0) {
            return syntax_error(reading, parser, error);
        }
        int status = take_event(reading, &event, &in_mapping, error);
        bool last = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
        if (status != ST_OK || last) {
            return status;
        }
    }
}

int options_file_read(const struct options *options, const char *path, char **texts,
                      struct error *error)
{
    size_t length = strlen(path);
    struct reading reading = {.options = options, .texts = texts, .option = -1};
    reading.path = length <= PATH_SHOWN_BYTES ? path : path + length - PATH_SHOWN_BYTES;
    char *buffer = heap_alloc(FILE_BYTES_MAX + 1);
    if (buffer == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    size_t used = 0;
    int status = read_whole(path, reading.path, buffer, &used, error);
    yaml_parser_t parser;
    if (status == ST_OK && yaml_parser_initialize(&parser) == 0) {
        status = error_set(error, ST_NO_MEMORY, "out of memory");
    } else if (status == ST_OK) {
        yaml_parser_set_input_string(&parser, (const unsigned char *)buffer, used);
        status = parse_all(&reading, &parser, error);
        yaml_parser_delete(&parser);
    }
    heap_free(buffer);
    return status;
}
