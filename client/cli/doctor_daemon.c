/* The socket, the daemon behind it, and bytes sent there and back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "client/cli/doctor.h"
#include "client/cli/replay.h"

enum {
    STATUS_TIMEOUT_MS = 5000,
    LINE_BYTES = 512,
    PATH_BYTES = 256,
    TRIP_PAGES = 8, /* the first half is pushed, the second pulled into */
    TRIP_BLOCK_BYTES = 64 << 10,
    TRIP_TOKENS = 16,
    FILES_WANTED = 4096,
};

/* ---- the socket -------------------------------------------------------------------------------
 */

static void say_missing(struct doctor *doctor, const char *path, int errnum)
{
    char folder[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    (void)snprintf(folder, sizeof folder, "%.*s/.", slash != NULL ? (int)(slash - path) : 1,
                   slash != NULL ? path : ".");
    struct stat stat_of;
    bool there = stat(folder, &stat_of) == 0;
    doctor_say(doctor, DOCTOR_SKIPPED, "socket",
               "start the daemon with `kveikd', or name its socket with --socket PATH or "
               "KVEIK_SOCKET",
               "%s: %s%s", path, strerrordesc_np(errnum),
               there ? "" : " (nor is its folder there)");
}

static bool check_socket(struct doctor *doctor, const char *path)
{
    struct stat stat_of;
    if (stat(path, &stat_of) != 0) {
        say_missing(doctor, path, errno);
        return false;
    }
    if (!S_ISSOCK(stat_of.st_mode)) {
        doctor_say(doctor, DOCTOR_PROBLEM, "socket", "name another path, or take the file away",
                   "%s is no socket", path);
        return false;
    }
    if (access(path, R_OK | W_OK) != 0) {
        doctor_say(doctor, DOCTOR_PROBLEM, "socket",
                   "run as its owner, or start kveikd with --socket-mode 660 and join its group",
                   "%s: %s (mode %o, owner %u, group %u; this user is %u)", path,
                   strerrordesc_np(errno), stat_of.st_mode & 0777u, stat_of.st_uid, stat_of.st_gid,
                   geteuid());
        return false;
    }
    bool open_to_all = (stat_of.st_mode & S_IWOTH) != 0;
    doctor_say(doctor, open_to_all ? DOCTOR_WARNING : DOCTOR_OK, "socket",
               open_to_all ? "start kveikd with --socket-mode 600 or 660" : NULL,
               "%s, mode %o, owner %u, group %u%s", path, stat_of.st_mode & 0777u, stat_of.st_uid,
               stat_of.st_gid, open_to_all ? ": every user of the machine may connect" : "");
    return true;
}

static kveik_client *check_connect(struct doctor *doctor, const char *path)
{
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = path;
    options.client_name = "kveik doctor";
    struct kveik_error error = {0};
    kveik_client *client = NULL;
    uint64_t began_ns = clock_ns();
    int status = kveik_connect(&options, &client, &error);
    uint64_t took_us = (clock_ns() - began_ns) / 1000;
    if (status != KVEIK_OK) {
        bool away = status == KVEIK_E_UNAVAILABLE;
        doctor->unreachable = doctor->unreachable || away;
        doctor_say(doctor, away ? DOCTOR_SKIPPED : DOCTOR_PROBLEM, "connection",
                   away ? "start the daemon with `kveikd'" : "see the daemon's log", "%s",
                   error.text[0] != '\0' ? error.text : kveik_status_text(status));
        return NULL;
    }
    struct kveik_info info = KVEIK_INFO_INIT;
    (void)kveik_info(client, &info);
    doctor_say(doctor, DOCTOR_OK, "connection", NULL,
               "%s answers after %llu us, protocol %u, %u requests at once", info.daemon,
               (unsigned long long)took_us, info.protocol_version, info.requests_max);
    return client;
}

/* ---- the daemon's own state -------------------------------------------------------------------
 */

static uint64_t number(const json_t *object, const char *group, const char *name)
{
    const json_t *from = group != NULL ? json_object_get(object, group) : object;
    json_int_t value = json_integer_value(json_object_get(from, name));
    return value > 0 ? (uint64_t)value : 0;
}

static void check_version(struct doctor *doctor, const json_t *status)
{
    const char *version = json_string_value(json_object_get(status, "version"));
    version = version != NULL ? version : "unknown";
    if (strcmp(version, kveik_version()) == 0) {
        doctor_say(doctor, DOCTOR_OK, "versions", NULL, "kveik and kveikd are both %s", version);
    } else {
        doctor_say(doctor, DOCTOR_WARNING, "versions", "install the same version of both",
                   "kveik is %s, kveikd is %s", kveik_version(), version);
    }
}

/* The memory limit of the control group of a process (v2 or v1); 0: none, or it cannot be read. */
static uint64_t cgroup_limit(uint64_t pid)
{
    char path[PATH_BYTES];
    char line[LINE_BYTES];
    char text[64];
    uint64_t least = 0;
    (void)snprintf(path, sizeof path, "/proc/%llu/cgroup", (unsigned long long)pid);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char limit_path[LINE_BYTES + 64];
        const char *memory = strstr(line, ":memory:");
        if (strncmp(line, "0::", 3) == 0) {
            (void)snprintf(limit_path, sizeof limit_path, "/sys/fs/cgroup%s/memory.max", line + 3);
        } else if (memory != NULL) {
            (void)snprintf(limit_path, sizeof limit_path,
                           "/sys/fs/cgroup/memory%s/memory.limit_in_bytes", memory + 8);
        } else {
            continue;
        }
        uint64_t limit = 0;
        if (doctor_read_line(limit_path, text, sizeof text) &&
            number_parse(text, &limit, NULL) == ST_OK && limit > 0 &&
            (least == 0 || limit < least)) {
            least = limit;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return least;
}

static void check_pool(struct doctor *doctor, const json_t *status)
{
    char budget_text[SIZE_TEXT_BYTES];
    char limit_text[SIZE_TEXT_BYTES];
    uint64_t budget = number(status, "cpu", "budget_bytes");
    uint64_t limit = cgroup_limit(number(status, NULL, "pid"));
    size_format_short(budget, budget_text);
    size_format_short(limit, limit_text);
    if (limit > 0 && limit <= budget) {
        doctor_say(doctor, DOCTOR_PROBLEM, "daemon's memory",
                   "lower --cpu-bytes to three quarters of the limit, or raise the limit",
                   "the CPU tier may take %s, its control group only %s: the kernel will end it",
                   budget_text, limit_text);
    } else if (limit > 0 && limit < UINT64_MAX / 4) {
        doctor_say(doctor, DOCTOR_OK, "daemon's memory", NULL,
                   "the CPU tier may take %s, its control group %s", budget_text, limit_text);
    } else {
        doctor_say(doctor, DOCTOR_OK, "daemon's memory", NULL,
                   "the CPU tier may take %s; its control group has no limit", budget_text);
    }
    uint64_t failures = number(status, "cpu", "commit_failures");
    if (failures > 0) {
        doctor_say(doctor, DOCTOR_WARNING, "daemon's memory",
                   "lower --cpu-bytes, or give the machine more memory",
                   "the system gave no memory %llu times", (unsigned long long)failures);
    }
    uint64_t touched = number(status, "cpu", "touched_bytes");
    uint64_t huge = number(status, "cpu", "huge_bytes");
    unsigned percent = touched > 0 ? (unsigned)(100 * huge / touched) : 100;
    doctor_say(doctor, percent < 90 ? DOCTOR_NOTE : DOCTOR_OK, "daemon's huge pages",
               percent < 90 ? "it collapses them in the background: look again in a minute" : NULL,
               "%u %% of the memory touched so far", percent);
}

static void check_daemon_files(struct doctor *doctor, const json_t *status)
{
    char path[PATH_BYTES];
    char line[LINE_BYTES];
    uint64_t soft = 0;
    (void)snprintf(path, sizeof path, "/proc/%llu/limits",
                   (unsigned long long)number(status, NULL, "pid"));
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL &&
           !doctor_number(line, "Max open files", &soft)) {
    }
    if (file == NULL) {
        doctor_say(doctor, DOCTOR_SKIPPED, "daemon's files", NULL,
                   "its limits cannot be read from here: another container or user");
        return;
    }
    (void)fclose(file);
    bool few = soft > 0 && soft < FILES_WANTED;
    doctor_say(doctor, few ? DOCTOR_NOTE : DOCTOR_OK, "daemon's files",
               few ? "LimitNOFILE=65536 in its unit, for more than a few hundred engines" : NULL,
               "at most %llu file descriptors", (unsigned long long)soft);
}

static void check_status(struct doctor *doctor, kveik_client *client)
{
    char *text = NULL;
    struct kveik_error error = {0};
    if (kveik_daemon_status(client, STATUS_TIMEOUT_MS, &text, &error) != KVEIK_OK) {
        doctor_say(doctor, DOCTOR_PROBLEM, "status", "see the daemon's log", "%s", error.text);
        return;
    }
    json_t *status = json_loads(text, 0, NULL);
    kveik_text_free(text);
    check_version(doctor, status);
    check_pool(doctor, status);
    check_daemon_files(doctor, status);
    doctor_check_disk(doctor, status);
    json_decref(status);
}

/* ---- there and back ---------------------------------------------------------------------------
 */

struct trip {
    struct doctor *doctor;
    kveik_client *client;
    const char *check;
    struct replay_plan plan;
    struct replay_memory memory;
    uint32_t space;
    struct kveik_error error;
    uint64_t took_us;
    uint64_t wrong_bytes;
};

/* The bytes are a function of random keys: pushed from the first pages, pulled into the others. */
static int trip_bytes(struct trip *trip)
{
    enum { BLOCKS = TRIP_PAGES / 2 };
    uint8_t keys[BLOCKS * KVEIK_KEY_BYTES];
    uint32_t pages[TRIP_PAGES];
    if (getrandom(keys, sizeof keys, 0) != (ssize_t)sizeof keys) {
        return KVEIK_E_IO;
    }
    for (uint32_t i = 0; i < TRIP_PAGES; i++) {
        pages[i] = i;
        if (i < BLOCKS) {
            replay_page_fill(&trip->plan, &trip->memory, i, keys + (size_t)i * KVEIK_KEY_BYTES);
        } else {
            replay_page_poison(&trip->plan, &trip->memory, i);
        }
    }
    struct kveik_push_run out = {.layout = trip->memory.layout,
                                 .block_count = BLOCKS,
                                 .block_tokens = TRIP_TOKENS,
                                 .keys = keys,
                                 .key_count = BLOCKS,
                                 .pages = pages,
                                 .page_count = BLOCKS};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &out;
    push.run_count = 1;
    struct kveik_pull_run back = {.layout = trip->memory.layout,
                                  .keys = keys,
                                  .key_count = BLOCKS,
                                  .key_tokens = TRIP_TOKENS,
                                  .pages = pages + BLOCKS,
                                  .page_count = BLOCKS};
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &back;
    pull.run_count = 1;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    uint64_t began_ns = clock_ns();
    int status = kveik_push(trip->client, &push, &done);
    (void)snprintf(trip->error.text, sizeof trip->error.text, "%s", done.text);
    kveik_completion_finish(&done);
    if (status == KVEIK_OK) {
        done = (struct kveik_completion)KVEIK_COMPLETION_INIT;
        status = kveik_pull(trip->client, &pull, &done);
        (void)snprintf(trip->error.text, sizeof trip->error.text, "%s", done.text);
        kveik_completion_finish(&done);
    }
    trip->took_us = (clock_ns() - began_ns) / 1000;
    for (uint32_t i = 0; status == KVEIK_OK && i < BLOCKS; i++) {
        trip->wrong_bytes += replay_page_check(&trip->plan, &trip->memory, BLOCKS + i,
                                               keys + (size_t)i * KVEIK_KEY_BYTES);
    }
    return status;
}

static void trip_say(struct trip *trip, int status, bool vital)
{
    struct doctor *doctor = trip->doctor;
    char bytes[SIZE_TEXT_BYTES];
    size_format_short(TRIP_PAGES / 2 * TRIP_BLOCK_BYTES, bytes);
    if (status != KVEIK_OK) {
        doctor_say(doctor, vital ? DOCTOR_PROBLEM : DOCTOR_WARNING, trip->check,
                   vital ? "see the daemon's log and the lines above"
                         : "not needed where another way works; see the lines above",
                   "%s",
                   trip->error.text[0] != '\0' ? trip->error.text : kveik_status_text(status));
    } else if (trip->wrong_bytes > 0) {
        doctor_say(doctor, DOCTOR_PROBLEM, trip->check, "do not use this; please report it",
                   "%llu bytes came back wrong", (unsigned long long)trip->wrong_bytes);
    } else {
        doctor_say(doctor, DOCTOR_OK, trip->check, NULL, "%s there and back in %llu us, all equal",
                   bytes, (unsigned long long)trip->took_us);
    }
}

static void check_trip(struct doctor *doctor, kveik_client *client, uint32_t mode,
                       const char *check)
{
    struct trip trip = {.doctor = doctor,
                        .client = client,
                        .check = check,
                        .plan = {.block_tokens = TRIP_TOKENS,
                                 .block_bytes = TRIP_BLOCK_BYTES,
                                 .layers = 2,
                                 .kinds = 2,
                                 .heads = 2,
                                 .elements = TRIP_BLOCK_BYTES / TRIP_TOKENS / 2 / 2 / 2,
                                 .slot_bytes = TRIP_BLOCK_BYTES,
                                 .memory_mode = mode}};
    int status = replay_space_register(client, &trip.plan, 0, &trip.space, &trip.error);
    if (status == KVEIK_OK) {
        status = replay_memory_create(client, &trip.plan, trip.space, TRIP_PAGES, &trip.memory,
                                      &trip.error);
    }
    if (status == KVEIK_OK) {
        status = trip_bytes(&trip);
        replay_memory_destroy(client, &trip.memory);
    }
    trip_say(&trip, status, mode == KVEIK_MEMORY_SHARED);
}

void doctor_check_daemon(struct doctor *doctor)
{
    char path[PATH_BYTES];
    (void)cli_socket_path(doctor->cli, path, sizeof path);
    kveik_client *client = NULL;
    if (check_socket(doctor, path)) {
        client = check_connect(doctor, path);
    } else {
        doctor->unreachable = true;
    }
    if (client == NULL) {
        doctor_check_disk(doctor, NULL);
        doctor_say(doctor, DOCTOR_SKIPPED, "there and back", NULL,
                   "pushing and pulling needs the daemon");
        return;
    }
    check_status(doctor, client);
    check_trip(doctor, client, KVEIK_MEMORY_SHARED, "shared memory");
    check_trip(doctor, client, KVEIK_MEMORY_ADOPT, "adopted memory");
    check_trip(doctor, client, KVEIK_MEMORY_CROSS, "copied memory");
    kveik_close(client);
}
