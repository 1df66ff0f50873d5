#include "client/cli/demo_restart.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <kveik/kveik.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum { STATUS_MS = 5000, STEP_MS = 20, EXIT_EXEC = 127, SHOWN_CHARACTERS = 80 };

/* ---- looking at the daemon ------------------------------------------------------------------- */

static uint64_t number(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));
    return value > 0 ? (uint64_t)value : 0;
}

int demo_look_parse(struct demo_look *look, const char *json, struct error *error)
{
    *look = (struct demo_look){0};
    json_t *status = json_loads(json, 0, NULL);
    const char *boot_id = json_string_value(json_object_get(status, "boot_id"));
    if (boot_id == NULL || boot_id[0] == '\0' || strlen(boot_id) >= sizeof look->boot_id) {
        json_decref(status);
        return error_set(error, ST_INVALID, "the daemon's status names no boot_id");
    }
    (void)snprintf(look->boot_id, sizeof look->boot_id, "%s", boot_id);
    const json_t *disk = json_object_get(status, "disk");
    const json_t *counters = json_object_get(disk, "counters");
    const char *state = json_string_value(json_object_get(disk, "state"));
    (void)snprintf(look->disk_state, sizeof look->disk_state, "%s", state != NULL ? state : "none");
    look->blocks = number(json_object_get(status, "index"), "blocks");
    look->restored_parts = number(counters, "restored_parts");
    look->disk_read_bytes = number(counters, "read_bytes");
    json_decref(status);
    return ST_OK;
}

int demo_look(struct demo_look *look, const char *socket_path, struct error *error)
{
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = socket_path;
    options.client_name = "kveik demo";
    struct kveik_error wrong = {0};
    kveik_client *client = NULL;
    char *text = NULL;
    int status = kveik_connect(&options, &client, &wrong);
    if (status == KVEIK_OK) {
        status = kveik_daemon_status(client, STATUS_MS, &text, &wrong);
    }
    kveik_close(client);
    if (status != KVEIK_OK) {
        return error_set(error, ST_UNAVAILABLE, "%s",
                         wrong.text[0] != '\0' ? wrong.text : kveik_status_text(status));
    }
    status = demo_look_parse(look, text, error);
    kveik_text_free(text);
    return status;
}

int demo_look_await(struct demo_look *look, const char *socket_path, const char *boot_id,
                    uint32_t patience_ms, struct error *error)
{
    uint64_t give_up_ms = clock_ms() + patience_ms;
    for (;;) {
        struct error wrong = {0};
        int status = demo_look(look, socket_path, &wrong);
        if (status == ST_OK && strcmp(look->boot_id, boot_id) != 0) {
            return ST_OK;
        }
        if (clock_ms() >= give_up_ms) {
            return status == ST_OK
                       ? error_set(error, ST_INVALID, "the daemon is still the same one")
                       : error_set(error, status, "the daemon does not answer again: %.160s",
                                   wrong.text);
        }
        (void)poll(NULL, 0, STEP_MS);
    }
}

/* ---- the command ----------------------------------------------------------------------------- */

/* Between fork and exec: only what a signal handler may do. */
_Noreturn static void become_command(char *const argv[], pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setpgid(0, 0);
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    /* stdout may be a JSON document */
    if (getppid() == parent && nothing >= 0 && dup2(nothing, STDIN_FILENO) >= 0 &&
        dup2(STDERR_FILENO, STDOUT_FILENO) >= 0) {
        (void)execv("/bin/sh", argv);
    }
    _exit(EXIT_EXEC);
}

/* False when the time is up. */
static bool await_end(pid_t pid, uint32_t patience_ms, int *how_out)
{
    uint64_t give_up_ms = clock_ms() + patience_ms;
    while (waitpid(pid, how_out, WNOHANG) == 0) {
        if (clock_ms() >= give_up_ms) {
            (void)kill(-pid, SIGKILL);
            (void)kill(pid, SIGKILL); /* it may not have its group yet */
            while (waitpid(pid, how_out, 0) < 0 && errno == EINTR) {
            }
            return false;
        }
        (void)poll(NULL, 0, STEP_MS);
    }
    return true;
}

int demo_command(const char *command, uint32_t patience_ms, struct error *error)
{
    union {
        const char *given;
        char *passed;
    } word = {.given = command};
    char *const argv[] = {(char[]){"sh"}, (char[]){"-c"}, word.passed, NULL};
    (void)fflush(NULL);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        become_command(argv, parent);
    }
    if (pid < 0) {
        return error_errno(error, ST_IO, errno, "start a shell");
    }
    int how = 0;
    if (!await_end(pid, patience_ms, &how)) {
        return error_set(error, ST_DEADLINE, "`%.*s' did not end within %u s and was killed",
                         SHOWN_CHARACTERS, command, patience_ms / 1000);
    }
    if (WIFSIGNALED(how)) {
        return error_set(error, ST_IO, "`%.*s' was ended by signal %d", SHOWN_CHARACTERS, command,
                         WTERMSIG(how));
    }
    return WEXITSTATUS(how) == 0 ? ST_OK
                                 : error_set(error, ST_IO, "`%.*s' ended with exit code %d",
                                             SHOWN_CHARACTERS, command, WEXITSTATUS(how));
}
