/* The daemon's settings: one name each in the file, the environment and on the command line. */
#ifndef KVEIK_SERVER_SETTINGS_H
#define KVEIK_SERVER_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/options.h"

struct settings {
    const char *socket_path; /* empty: settings_socket_path() */
    uint64_t socket_mode;    /* permissions, written in octal digits: 600 */
    uint64_t cpu_bytes;      /* 0: chosen from the cgroup and the machine */
    uint32_t cpu_pages;      /* enum pool_pages */
    bool cpu_lock;
    bool cpu_prefault;
    const char *cpu_file;  /* empty: anonymous memory */
    const char *cpu_index; /* empty: beside cpu_file */
    bool cpu_fd_store;     /* no file: the service manager's descriptor store */
    uint32_t cpu_high_percent;
    uint32_t cpu_low_percent;
    bool disk;
    const char *disk_path; /* empty: settings_disk_path() */
    uint64_t disk_bytes;   /* 0: chosen from the file system */
    uint32_t disk_keep_free_percent;
    uint64_t disk_segment_bytes;
    uint32_t disk_io; /* enum disk_io_kind */
    uint32_t disk_depth;
    uint64_t disk_write_bytes_per_s; /* 0: no cap */
    uint64_t disk_sync_ms;
    uint64_t disk_slow_ms;
    uint32_t disk_admission; /* enum core_admission - 1 */
    uint32_t disk_queue_max;
    uint64_t disk_inflight_bytes;
    uint32_t copy_threads; /* 0: chosen from the processors */
    uint64_t copy_inline_bytes;
    uint32_t sessions_max;
    uint32_t requests_max;
    uint32_t session_requests_max;
    uint32_t blocks_max;
    uint32_t leases_max;
    uint32_t lease_percent; /* of the pool, for one instance */
    uint64_t stall_ms;
    uint64_t stop_grace_ms;
    uint32_t log_level;
    uint32_t log_format;
    bool check_config;
    bool check_store;
};

/* Names, defaults, limits and help of all settings. */
extern const struct options_table settings_table;

/* The socket's path: as set, or $XDG_RUNTIME_DIR/kveik/engine.sock, else /run/kveik/engine.sock for
 * root and /tmp/kveik-UID/engine.sock for others. Written to `out`; ST_OK or ST_INVALID. */
int settings_socket_path(const struct settings *settings, char *out, uint32_t out_bytes);

/* The disk tier's folder: as set, or kveik under $STATE_DIRECTORY or $XDG_STATE_HOME, else
 * /var/lib/kveik for root and ~/.local/state/kveik for others. ST_OK or ST_INVALID. */
int settings_disk_path(const struct settings *settings, char *out, uint32_t out_bytes);

/* Whether memory is to be kept over restarts. */
static inline bool settings_keep(const struct settings *settings)
{
    return settings->cpu_fd_store || settings->cpu_file[0] != '\0';
}

/* Relations between settings that the table cannot say. ST_OK or ST_INVALID. */
int settings_check(const struct settings *settings, struct error *error);

#endif
