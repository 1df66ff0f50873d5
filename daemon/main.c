/* kveikd: build the parts, run, tear down in mirror order. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/options.h"
#include "daemon/server/server.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int run(const struct settings *settings)
{
    struct log log;
    log_init(&log, STDERR_FILENO, (enum log_level)settings->log_level,
             (enum log_format)settings->log_format);
    struct server *server = NULL;
    struct error error = {0};
    if (server_create(settings, &log, &server, &error) != ST_OK) {
        log_write(&log, LOG_LEVEL_ERROR, "kveikd", "cannot start: %s", error.text);
        return EXIT_FAILED;
    }
    int status = server_run(server);
    server_destroy(server);
    return status == ST_OK ? EXIT_SUCCESS : EXIT_FAILED;
}

static int check_store(const struct settings *settings)
{
    struct log log;
    log_init(&log, STDERR_FILENO, (enum log_level)settings->log_level,
             (enum log_format)settings->log_format);
    struct error error = {0};
    bool clean = false;
    if (server_check_store(settings, &log, &clean, &error) != ST_OK) {
        (void)fprintf(stderr, "kveikd: %s\n", error.text);
        return EXIT_FAILED;
    }
    return clean ? EXIT_SUCCESS : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    struct options *options = options_create(&settings_table);
    struct settings settings = {0};
    struct error error = {0};
    struct options_input input = {.argc = argc, .argv = argv, .environment = environ};
    int status = options == NULL ? ST_NO_MEMORY : options_load(options, &input, &settings, &error);
    if (status == ST_OK) {
        status = settings_check(&settings, &error);
    }
    int code = EXIT_SUCCESS;
    if (status == ST_CANCELLED) { /* --help, --version */
        code = EXIT_SUCCESS;
    } else if (status != ST_OK) {
        (void)fprintf(stderr, "kveikd: %s\n", error.text);
        code = EXIT_USAGE;
    } else if (settings.check_config) {
        code = options_print(options, stdout) == ST_OK ? EXIT_SUCCESS : EXIT_FAILED;
    } else if (settings.check_store) {
        code = check_store(&settings);
    } else {
        (void)signal(SIGPIPE, SIG_IGN);
        (void)signal(SIGHUP, SIG_IGN); /* the log is stderr: nothing to open again */
        code = run(&settings);
    }
    options_destroy(options);
    return code;
}
