#include "client/cli/cli.h"

#include <ctype.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "client/cli/table.h"

enum { NAME_BYTES = 32, PROGRESS_BYTES = 160 };

int cli_fail(int code, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cli_progress(NULL);
    (void)fprintf(stderr, "kveik: %s\n", text);
    return code;
}

void cli_progress(const char *format, ...)
{
    static bool shown;
    if (isatty(STDERR_FILENO) == 0 || (format == NULL && !shown)) {
        return;
    }
    char text[PROGRESS_BYTES] = "";
    if (format != NULL) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(text, sizeof text, format, args);
        va_end(args);
    }
    (void)fprintf(stderr, "\r\033[K%s", text);
    (void)fflush(stderr);
    shown = format != NULL;
}

/* Levenshtein distance, kept as one row; both shorter than NAME_BYTES. */
static size_t distance(const char *a, const char *b)
{
    size_t row[NAME_BYTES];
    size_t b_length = strlen(b);
    for (size_t j = 0; j <= b_length; j++) {
        row[j] = j;
    }
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < b_length; j++) {
            size_t changed = diagonal + (tolower((unsigned char)a[i]) != b[j] ? 1 : 0);
            size_t shifted = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            diagonal = row[j + 1];
            row[j + 1] = changed < shifted ? changed : shifted;
        }
    }
    return row[b_length];
}

const char *cli_nearest(const char *const *names, size_t count, const char *name)
{
    size_t length = strlen(name);
    if (length < 2 || length >= NAME_BYTES) {
        return NULL;
    }
    const char *nearest = NULL;
    size_t least = 1 + length / 3; /* beyond it, a suggestion confuses more than it helps */
    for (size_t i = 0; i < count; i++) {
        bool begins = strncmp(names[i], name, length) == 0;
        size_t found = begins ? 0 : distance(name, names[i]);
        if (found <= least && (nearest == NULL || found < least)) {
            least = found;
            nearest = names[i];
        }
    }
    return nearest;
}

int cli_load(struct cli *cli, const struct options_table *table, int argc, char **argv,
             void *settings, struct options **options_out)
{
    *options_out = NULL;
    struct options *options = options_create(table);
    struct error error = {0};
    if (options == NULL) {
        return cli_fail(CLI_FAILED, "out of memory");
    }
    struct options_input input = {.argc = argc, .argv = argv, .environment = environ};
    int status = options_load(options, &input, settings, &error);
    if (status != ST_OK) {
        options_destroy(options);
        if (status == ST_CANCELLED) { /* --help, --version */
            return CLI_GOOD;
        }
        (void)cli_fail(CLI_USAGE, "%s", error.text);
        (void)fprintf(stderr, "Try `%s --help'.\n", table->program);
        return CLI_USAGE;
    }
    const struct cli_common *common = settings;
    if (common->socket_path[0] != '\0') {
        cli->socket_path = common->socket_path;
    }
    cli->json = cli->json || common->json;
    *options_out = options;
    return CLI_GO_ON;
}

const char *cli_socket_path(const struct cli *cli, char *out, size_t out_bytes)
{
    const char *named = cli->socket_path != NULL ? cli->socket_path : secure_getenv("KVEIK_SOCKET");
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    if (named != NULL && named[0] != '\0') {
        (void)snprintf(out, out_bytes, "%s", named);
    } else if (runtime != NULL && runtime[0] == '/') {
        (void)snprintf(out, out_bytes, "%s/kveik/engine.sock", runtime);
    } else if (geteuid() == 0) {
        (void)snprintf(out, out_bytes, "/run/kveik/engine.sock");
    } else {
        (void)snprintf(out, out_bytes, "/tmp/kveik-%u/engine.sock", geteuid());
    }
    return out;
}

static const char *advice(int status)
{
    switch (status) {
    case KVEIK_E_PERMISSION:
        return "run as the daemon's user, or start kveikd with a wider --socket-mode";
    case KVEIK_E_VERSION:
        return "install the same version of kveikd and kveik";
    case KVEIK_E_UNAVAILABLE:
        return "start it with `kveikd', or name its socket with --socket PATH or KVEIK_SOCKET";
    default:
        return "`kveik doctor' may know more";
    }
}

int cli_connect(const struct cli *cli, const char *client_name, kveik_client **client_out)
{
    char path[256];
    (void)cli_socket_path(cli, path, sizeof path);
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = path;
    options.client_name = client_name;
    struct kveik_error error = {0};
    int status = kveik_connect(&options, client_out, &error);
    if (status == KVEIK_OK) {
        return CLI_GOOD;
    }
    const char *text = error.text[0] != '\0' ? error.text : kveik_status_text(status);
    if (cli->json) {
        json_t *document =
            json_pack("{s:s, s:s, s:i, s:s, s:s}", "state", "unreachable", "socket", path, "status",
                      status, "error", text, "advice", advice(status));
        (void)table_print_json(document, stdout);
    }
    int code = status == KVEIK_E_UNAVAILABLE || status == KVEIK_E_PERMISSION ||
                       status == KVEIK_E_VERSION || status == KVEIK_E_LOST
                   ? CLI_UNREACHABLE
                   : CLI_FAILED;
    if (strstr(text, path) != NULL) {
        (void)cli_fail(code, "%s", text);
    } else {
        (void)cli_fail(code, "no daemon answers at %s: %s", path, text);
    }
    (void)fprintf(stderr, "What to do: %s.\n", advice(status));
    return code;
}
