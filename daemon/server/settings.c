#include "daemon/server/settings.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"

static const char *const page_choices[] = {"auto", "small", "huge", NULL};
static const char *const io_choices[] = {"auto", "uring", "threads", NULL};
static const char *const admission_choices[] = {"at-once", "second-use", "eviction", "never", NULL};

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
    {.name = "cpu-file",
     .kind = OPTION_PATH,
     .preset = "",
     .offset = FIELD(cpu_file),
     .max = 3000,
     .preset_note = "memory of the process: it goes when the daemon ends",
     .help = "file on tmpfs or hugetlbfs that the CPU tier lives in, such as /dev/shm/kveik/pool: "
             "its blocks survive a stop and a new start of the daemon on this machine"},
    {.name = "cpu-index",
     .kind = OPTION_PATH,
     .preset = "",
     .offset = FIELD(cpu_index),
     .max = 3000,
     .preset_note = "beside cpu-file, with .index added",
     .help = "file that says between a stop and the next start what lies in cpu-file; to be named "
             "when that is on hugetlbfs"},
    {.name = "cpu-fd-store",
     .kind = OPTION_BOOL,
     .preset = "no",
     .offset = FIELD(cpu_fd_store),
     .help =
         "instead of a cpu-file: memory that the service manager holds while the daemon is down "
         "(FileDescriptorStoreMax); cpu-index must be named"},
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
    {.name = "disk",
     .kind = OPTION_BOOL,
     .preset = "yes",
     .offset = FIELD(disk),
     .help = "keep blocks on disk, too: more than memory holds, and over restarts"},
    {.name = "disk-path",
     .kind = OPTION_PATH,
     .preset = "",
     .offset = FIELD(disk_path),
     .max = 3000,
     .preset_note = "kveik under the state directory: $STATE_DIRECTORY, $XDG_STATE_HOME, /var/lib "
                    "or ~/.local/state",
     .help = "folder of the disk tier; one daemon at a time"},
    {.name = "disk-bytes",
     .kind = OPTION_SIZE,
     .preset = "0",
     .offset = FIELD(disk_bytes),
     .max = TIB(1024),
     .preset_note = "a quarter of what the file system has free, at most 64 GiB",
     .help = "bytes of the disk tier, at least four segments"},
    {.name = "disk-keep-free-percent",
     .kind = OPTION_U32,
     .preset = "5",
     .offset = FIELD(disk_keep_free_percent),
     .max = 90,
     .help = "share of the file system that the disk tier leaves free"},
    {.name = "disk-segment-bytes",
     .kind = OPTION_SIZE,
     .preset = "256MiB",
     .offset = FIELD(disk_segment_bytes),
     .min = MIB(4),
     .max = MIB(16384),
     .help = "bytes of a segment file, a multiple of 1 MiB; room is made by whole segments"},
    {.name = "disk-io",
     .kind = OPTION_CHOICE,
     .preset = "auto",
     .offset = FIELD(disk_io),
     .choices = io_choices,
     .help = "how the disk is read and written: io_uring where the kernel allows it, or threads"},
    {.name = "disk-depth",
     .kind = OPTION_U32,
     .preset = "32",
     .offset = FIELD(disk_depth),
     .min = 1,
     .max = 1024,
     .help = "reads and writes at the device at once"},
    {.name = "disk-write-bytes-per-s",
     .kind = OPTION_SIZE,
     .preset = "0",
     .offset = FIELD(disk_write_bytes_per_s),
     .max = TIB(1),
     .preset_note = "no cap",
     .help = "most bytes a second that are written to disk"},
    {.name = "disk-sync-time",
     .kind = OPTION_DURATION_MS,
     .preset = "500ms",
     .offset = FIELD(disk_sync_ms),
     .min = 10,
     .max = 60000,
     .help = "what was written is made durable at least so often: a crash loses no more than this"},
    {.name = "disk-slow-time",
     .kind = OPTION_DURATION_MS,
     .preset = "2s",
     .offset = FIELD(disk_slow_ms),
     .min = 50,
     .max = 60000,
     .help = "a request that the disk has had for longer makes its blocks misses until it answers"},
    {.name = "disk-admission",
     .kind = OPTION_CHOICE,
     .preset = "at-once",
     .offset = FIELD(disk_admission),
     .choices = admission_choices,
     .help = "when a block goes to disk: when it is pushed, when it is used again, or before it "
             "leaves memory; a space may say otherwise"},
    {.name = "disk-queue-max",
     .kind = OPTION_U32,
     .preset = "65536",
     .offset = FIELD(disk_queue_max),
     .min = 1,
     .max = 1u << 24,
     .help = "blocks waiting to be written; more are not written, and counted"},
    {.name = "disk-inflight-bytes",
     .kind = OPTION_SIZE,
     .preset = "256MiB",
     .offset = FIELD(disk_inflight_bytes),
     .min = MIB(1),
     .max = TIB(1),
     .help = "bytes being written to disk at once; at most an eighth of the CPU tier"},
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
    {.name = "check-store",
     .kind = OPTION_BOOL,
     .preset = "no",
     .offset = FIELD(check_store),
     .help = "read all that is on disk, drop what its checksum does not fit, and end: 0 when "
             "nothing had to be dropped, else 1"},
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

int settings_disk_path(const struct settings *settings, char *out, uint32_t out_bytes)
{
    int used = 0;
    const char *service = secure_getenv("STATE_DIRECTORY"); /* the service manager's */
    const char *state = secure_getenv("XDG_STATE_HOME");
    const char *home = secure_getenv("HOME");
    if (settings->disk_path[0] != '\0') {
        used = snprintf(out, out_bytes, "%s", settings->disk_path);
    } else if (service != NULL && service[0] == '/' && strchr(service, ':') == NULL) {
        used = snprintf(out, out_bytes, "%s/disk", service);
    } else if (state != NULL && state[0] == '/') {
        used = snprintf(out, out_bytes, "%s/kveik/disk", state);
    } else if (geteuid() == 0 || home == NULL || home[0] != '/') {
        used = snprintf(out, out_bytes, "/var/lib/kveik/disk");
    } else {
        used = snprintf(out, out_bytes, "%s/.local/state/kveik/disk", home);
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
    if (settings->cpu_fd_store &&
        (settings->cpu_file[0] != '\0' || settings->cpu_index[0] == '\0')) {
        return error_set(
            error, ST_INVALID,
            "cpu-fd-store: name no cpu-file, and a cpu-index that stays over a restart");
    }
    if (settings->disk_segment_bytes % (1u << 20) != 0) {
        return error_set(error, ST_INVALID,
                         "disk-segment-bytes is %llu: make it a multiple of 1MiB",
                         (unsigned long long)settings->disk_segment_bytes);
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
