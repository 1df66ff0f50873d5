#include "daemon/server/settings.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"

static const char *const page_choices[] = {"auto", "small", "huge", NULL};

#define FIELD(name) offsetof(struct settings, name)
#define MIB(n)      ((uint64_t)(n) << 20)
#define TIB(n)      ((uint64_t)(n) << 40)

static const struct option_spec specs[] = {
    {.name = "socket",
     .kind = OPTION_PATH,
     .preset = "",
     .offset = FIELD(socket_path),
     .max = 107,
     .preset_note = "kveik/engine.sock under $XDG_RUNTIME_DIR or /run; /tmp/kveik-UID for users",
     .help = "Unix socket on which engines connect"},
    {.name = "socket-mode",
     .kind = OPTION_U64,
     .preset = "600",
     .offset = FIELD(socket_mode),
     .max = 777,
     .unit = "OCTAL",
     .help = "permissions of the socket: who may connect"},
    {.name = "cpu-bytes",
     .kind = OPTION_SIZE,
     .preset = "0",
     .offset = FIELD(cpu_bytes),
     .max = TIB(16),
     .preset_note = "three quarters of what the cgroup or the machine has available",
     .help = "memory of the CPU tier; rounded down to 2 MiB"},
    {.name = "cpu-pages",
     .kind = OPTION_CHOICE,
     .preset = "auto",
     .offset = FIELD(cpu_pages),
     .choices = page_choices,
     .help = "pages of the CPU tier: transparent huge ones where granted, small ones, or explicit "
             "huge ones"},
    {.name = "cpu-lock",
     .kind = OPTION_BOOL,
     .preset = "no",
     .offset = FIELD(cpu_lock),
     .help = "lock the CPU tier into memory (mlock)"},
    {.name = "cpu-prefault",
     .kind = OPTION_BOOL,
     .preset = "yes",
     .offset = FIELD(cpu_prefault),
     .help = "touch memory in the background before it is used"},
    {.name = "cpu-high-percent",
     .kind = OPTION_U32,
     .preset = "100",
     .offset = FIELD(cpu_high_percent),
     .min = 1,
     .max = 100,
     .help =
         "evict in advance above this share of the CPU tier; 100: only when space is asked for"},
    {.name = "cpu-low-percent",
     .kind = OPTION_U32,
     .preset = "100",
     .offset = FIELD(cpu_low_percent),
     .min = 1,
     .max = 100,
     .help = "down to this share"},
    {.name = "copy-threads",
     .kind = OPTION_U32,
     .preset = "0",
     .offset = FIELD(copy_threads),
     .max = 64,
     .preset_note = "one for every two processors, 1 to 8",
     .help = "threads that copy between engines and the CPU tier"},
    {.name = "copy-inline-bytes",
     .kind = OPTION_SIZE,
     .preset = "128KiB",
     .offset = FIELD(copy_inline_bytes),
     .max = MIB(4),
     .help = "requests of at most so many bytes are copied without waking a thread"},
    {.name = "sessions-max",
     .kind = OPTION_U32,
     .preset = "1024",
     .offset = FIELD(sessions_max),
     .min = 1,
     .max = 65536,
     .help = "sessions at once"},
    {.name = "requests-max",
     .kind = OPTION_U32,
     .preset = "16384",
     .offset = FIELD(requests_max),
     .min = 1,
     .max = 1048576,
     .help = "requests in flight at once, all sessions together"},
    {.name = "session-requests-max",
     .kind = OPTION_U32,
     .preset = "256",
     .offset = FIELD(session_requests_max),
     .min = 1,
     .max = 65536,
     .help = "requests in flight of one session; one more ends it"},
    {.name = "blocks-max",
     .kind = OPTION_U32,
     .preset = "16777216",
     .offset = FIELD(blocks_max),
     .min = 16,
     .max = 1u << 30,
     .help = "blocks in the index; also the most parts"},
    {.name = "leases-max",
     .kind = OPTION_U32,
     .preset = "65536",
     .offset = FIELD(leases_max),
     .min = 1,
     .max = 1u << 23,
     .help = "leases at once"},
    {.name = "lease-percent",
     .kind = OPTION_U32,
     .preset = "50",
     .offset = FIELD(lease_percent),
     .min = 1,
     .max = 100,
     .help = "share of the CPU tier that one instance may keep leased"},
    {.name = "stall-time",
     .kind = OPTION_DURATION_MS,
     .preset = "10s",
     .offset = FIELD(stall_ms),
     .min = 100,
     .max = 600000,
     .help = "a message that was begun must be whole within this"},
    {.name = "stop-grace",
     .kind = OPTION_DURATION_MS,
     .preset = "5s",
     .offset = FIELD(stop_grace_ms),
     .max = 600000,
     .help = "how long a stop waits for requests in flight"},
    {.name = "log-level",
     .kind = OPTION_CHOICE,
     .preset = "info",
     .offset = FIELD(log_level),
     .choices = log_level_names,
     .reloadable = true,
     .help = "least urgent lines to log"},
    {.name = "log-format",
     .kind = OPTION_CHOICE,
     .preset = "human",
     .offset = FIELD(log_format),
     .choices = log_format_names,
     .help = "lines for people, or one JSON object a line"},
    {.name = "check-config",
     .kind = OPTION_BOOL,
     .preset = "no",
     .offset = FIELD(check_config),
     .help = "check the configuration, print what is in effect, and end"},
};

const struct options_table settings_table = {
    .program = "kveikd",
    .version = KVEIK_VERSION,
    .summary = "kveikd keeps the KV caches of this node's inference engines in memory and serves "
               "them to all of them. It needs no configuration.",
    .env_prefix = "KVEIK_",
    .config_file = true,
    .config_default = "/etc/kveik/kveikd.yaml",
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct settings),
};

#undef FIELD
#undef MIB
#undef TIB

int settings_socket_path(const struct settings *settings, char *out, uint32_t out_bytes)
{
    int used = 0;
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    if (settings->socket_path[0] != '\0') {
        used = snprintf(out, out_bytes, "%s", settings->socket_path);
    } else if (runtime != NULL && runtime[0] == '/') {
        used = snprintf(out, out_bytes, "%s/kveik/engine.sock", runtime);
    } else if (geteuid() == 0) {
        used = snprintf(out, out_bytes, "/run/kveik/engine.sock");
    } else {
        used = snprintf(out, out_bytes, "/tmp/kveik-%u/engine.sock", geteuid());
    }
    return used > 0 && (uint32_t)used < out_bytes ? ST_OK : ST_INVALID;
}

int settings_check(const struct settings *settings, struct error *error)
{
    if (settings->cpu_low_percent > settings->cpu_high_percent) {
        return error_set(error, ST_INVALID,
                         "cpu-low-percent is %u, above cpu-high-percent, %u: make it smaller",
                         settings->cpu_low_percent, settings->cpu_high_percent);
    }
    for (uint64_t mode = settings->socket_mode; mode > 0; mode /= 10) {
        if (mode % 10 > 7) {
            return error_set(error, ST_INVALID,
                             "socket-mode is %llu: write octal permissions, such as 600 or 660",
                             (unsigned long long)settings->socket_mode);
        }
    }
    return ST_OK;
}
