/*
 * The disk tier: what moves its bytes, its folder, its room and its health, and the file system of
 * the CPU tier's file. What the daemon says comes first; without one, the same is tried here.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/size.h"
#include "client/cli/doctor.h"

#define DISABLED "/proc/sys/kernel/io_uring_disabled"

enum { PATH_BYTES = 4096, ALIGN = 4096 };

static uint64_t number(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));
    return value > 0 ? (uint64_t)value : 0;
}

static const char *text(const json_t *object, const char *name)
{
    const char *value = json_string_value(json_object_get(object, name));
    return value != NULL ? value : "";
}

/* ---- io_uring -------------------------------------------------------------------------------- */

/* 0, or the errno of the attempt to set a ring up. */
static int ring_try(void)
{
    struct io_uring_params params;
    (void)memset(&params, 0, sizeof params);
    long fd = syscall(SYS_io_uring_setup, 1, &params);
    if (fd < 0) {
        return errno;
    }
    (void)close((int)fd);
    return 0;
}

/* What forbids it, as far as it can be seen from here. */
static const char *ring_advice(int errnum)
{
    char disabled[16] = "";
    (void)doctor_read_line(DISABLED, disabled, sizeof disabled);
    if (disabled[0] == '2') {
        return "sysctl kernel.io_uring_disabled=0: it is 2, off for everybody";
    }
    if (disabled[0] == '1' && errnum == EPERM) {
        return "sysctl kernel.io_uring_disabled=0, or add the daemon's group to "
               "kernel.io_uring_group: it is 1, off for users without privileges";
    }
    if (errnum == ENOSYS) {
        return "use Linux 5.6 or later built with io_uring, and a seccomp profile that allows it";
    }
    if (errnum == ENOMEM) {
        return "raise the limit of locked memory (LimitMEMLOCK= in the unit, `ulimit -l')";
    }
    return "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of "
           "the container or unit";
}

static void check_ring_here(struct doctor *doctor)
{
    int errnum = ring_try();
    if (errnum == 0) {
        doctor_say(doctor, DOCTOR_OK, "disk I/O", NULL, "io_uring works for this process");
    } else {
        doctor_say(doctor, DOCTOR_WARNING, "disk I/O", ring_advice(errnum),
                   "no io_uring: %s; the disk tier will use threads, with less speed at small "
                   "blocks",
                   strerrordesc_np(errnum));
    }
}

static void check_ring_of_daemon(struct doctor *doctor, const json_t *disk)
{
    const char *why = text(disk, "io_why");
    if (strcmp(text(disk, "io"), "io_uring") == 0) {
        doctor_say(doctor, DOCTOR_OK, "disk I/O", NULL, "the daemon uses io_uring");
    } else if (why[0] == '\0') {
        doctor_say(doctor, DOCTOR_NOTE, "disk I/O", "start kveikd with --disk-io auto",
                   "the daemon uses threads, as it was told");
    } else {
        int errnum = ring_try();
        doctor_say(doctor, DOCTOR_WARNING, "disk I/O",
                   errnum != 0 ? ring_advice(errnum)
                               : "it works for this process: look at the seccomp profile, the "
                                 "limits and the user of the daemon's unit or container",
                   "the daemon uses threads: io_uring %s", why);
    }
}

/* ---- the folder ------------------------------------------------------------------------------ */

/* An unlinked file in the folder, for direct I/O; < 0 with errno. */
static int probe_open(const char *folder)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) {
        return fd;
    }
    /* the file system may know one of the two flags */
    char path[PATH_BYTES + 32];
    (void)snprintf(path, sizeof path, "%s/doctor.XXXXXX", folder);
    fd = mkostemp(path, O_DIRECT | O_CLOEXEC);
    int errnum = errno;
    (void)unlink(path);
    errno = errnum;
    return fd;
}

/* Writes a page past the cache and reads it again. 0 or errno. */
static int probe_direct(const char *folder)
{
    int fd = probe_open(folder);
    char *page = heap_alloc_aligned(ALIGN, ALIGN);
    int errnum = fd < 0 ? errno : page == NULL ? ENOMEM : 0;
    if (errnum == 0) {
        (void)memset(page, 'k', ALIGN);
        errno = EIO;
        bool written = pwrite(fd, page, ALIGN, 0) == ALIGN;
        errnum = written && pread(fd, page, ALIGN, 0) == ALIGN ? 0 : errno;
    }
    heap_free(page);
    if (fd >= 0) {
        (void)close(fd);
    }
    return errnum;
}

static void check_direct(struct doctor *doctor, const char *folder)
{
    int errnum = probe_direct(folder);
    if (errnum == 0) {
        doctor_say(doctor, DOCTOR_OK, "direct disk I/O", NULL, "%s takes it", folder);
    } else if (errnum == EACCES || errnum == EPERM || errnum == ENOENT) {
        doctor_say(doctor, DOCTOR_SKIPPED, "direct disk I/O", "run as the daemon's user to try it",
                   "%s: %s", folder, strerrordesc_np(errnum));
    } else if (errnum == EINVAL || errnum == EOPNOTSUPP) {
        doctor_say(doctor, DOCTOR_WARNING, "direct disk I/O",
                   "name a folder on XFS, ext4 or another file system with O_DIRECT: --disk-path",
                   "%s refuses it: all bytes go through the page cache, which takes memory and "
                   "time",
                   folder);
    } else {
        doctor_say(doctor, DOCTOR_WARNING, "direct disk I/O", "look at the disk: dmesg, df",
                   "%s: %s", folder, strerrordesc_np(errnum));
    }
}

static void check_room(struct doctor *doctor, const char *folder, const json_t *disk)
{
    char wanted_text[SIZE_TEXT_BYTES];
    char used_text[SIZE_TEXT_BYTES];
    char free_text[SIZE_TEXT_BYTES];
    uint64_t wanted = number(disk, "bytes_max");
    uint64_t used = number(disk, "segment_file_bytes");
    uint64_t left = number(disk, "file_system_free_bytes");
    size_format_short(wanted, wanted_text);
    size_format_short(used, used_text);
    size_format_short(left, free_text);
    struct statfs info;
    bool in_memory = statfs(folder, &info) == 0 && (info.f_type == (__fsword_t)TMPFS_MAGIC ||
                                                    info.f_type == (__fsword_t)RAMFS_MAGIC);
    if (in_memory) {
        doctor_say(doctor, DOCTOR_WARNING, "disk room",
                   "name a folder on a disk with --disk-path: this takes memory, and is lost with "
                   "the machine",
                   "%s is on a file system in memory", folder);
    } else if (used + left < wanted) {
        doctor_say(doctor, DOCTOR_WARNING, "disk room",
                   "free space, or lower --disk-bytes: the tier stays smaller until then",
                   "disk-bytes is %s: %s are taken and only %s free", wanted_text, used_text,
                   free_text);
    } else {
        doctor_say(doctor, DOCTOR_OK, "disk room", NULL, "%s of %s taken, %s free", used_text,
                   wanted_text, free_text);
    }
}

/* ---- health ---------------------------------------------------------------------------------- */

static void check_health(struct doctor *doctor, const json_t *disk)
{
    bool readable = json_is_true(json_object_get(disk, "readable"));
    bool writable = json_is_true(json_object_get(disk, "writable"));
    const char *last = text(disk, "last_error");
    const json_t *counters = json_object_get(disk, "counters");
    uint64_t damaged = number(counters, "corrupt_parts");
    if (!readable || !writable) {
        doctor_say(doctor, readable ? DOCTOR_WARNING : DOCTOR_PROBLEM, "disk tier",
                   "look at the daemon's log and the disk (dmesg, smartctl, df); the tier tries "
                   "again by itself",
                   "degraded, %s: %s", readable ? "it is not written" : "it is not read",
                   last[0] != '\0' ? last : "it gives no reason");
    } else if (damaged > 0) {
        doctor_say(doctor, DOCTOR_WARNING, "disk tier",
                   "look at the disk (dmesg, smartctl), and at its files with the daemon stopped: "
                   "`kveikd --check-store'",
                   "%llu blocks were damaged on disk since the start; they were misses",
                   (unsigned long long)damaged);
    } else if (last[0] != '\0') {
        doctor_say(doctor, DOCTOR_NOTE, "disk tier", "look at the daemon's log for when",
                   "up at %s; the last error was: %s", text(disk, "path"), last);
    } else {
        doctor_say(doctor, DOCTOR_OK, "disk tier", NULL, "up at %s: %llu parts", text(disk, "path"),
                   (unsigned long long)number(disk, "parts"));
    }
}

static void check_tier(struct doctor *doctor, const json_t *disk)
{
    const char *state = text(disk, "state");
    if (strcmp(state, "up") == 0 || strcmp(state, "degraded") == 0) {
        check_health(doctor, disk);
        check_ring_of_daemon(doctor, disk);
        check_room(doctor, text(disk, "path"), disk);
        check_direct(doctor, text(disk, "path"));
        return;
    }
    if (strcmp(state, "off") == 0) {
        doctor_say(doctor, DOCTOR_NOTE, "disk tier", "start kveikd with --disk yes to keep them",
                   "turned off: blocks go when memory is short, and when the daemon stops");
    } else {
        const char *why = text(disk, "why");
        doctor_say(doctor, DOCTOR_WARNING, "disk tier",
                   "name a folder that the daemon may write, with room: --disk-path, --disk-bytes",
                   "the daemon has none: %s", why[0] != '\0' ? why : "too little room");
    }
    check_ring_here(doctor);
}

/* ---- a CPU tier in a file -------------------------------------------------------------------- */

void doctor_mount_option(const char *options, const char *name, char *out, size_t out_bytes)
{
    size_t length = strlen(name);
    out[0] = '\0';
    for (const char *at = options; at != NULL; at = strchr(at, ',')) {
        at += *at == ',' ? 1 : 0;
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            at += length + 1;
            (void)snprintf(out, out_bytes, "%.*s", (int)strcspn(at, ","), at);
            return;
        }
    }
}

/* The huge= option of the tmpfs that `folder` is the mount point of; false when it is none. */
static bool tmpfs_huge(const char *folder, char *out, size_t out_bytes)
{
    char line[PATH_BYTES];
    struct mntent entry;
    bool found = false;
    FILE *file = setmntent("/proc/self/mounts", "re");
    while (file != NULL && getmntent_r(file, &entry, line, sizeof line) != NULL) {
        if (strcmp(entry.mnt_dir, folder) == 0 && strcmp(entry.mnt_type, "tmpfs") == 0) {
            doctor_mount_option(entry.mnt_opts, "huge", out, out_bytes);
            found = true; /* a later one lies above */
        }
    }
    if (file != NULL) {
        (void)endmntent(file);
    }
    return found;
}

static void check_shm(struct doctor *doctor, bool used)
{
    char huge[32] = "";
    if (!tmpfs_huge("/dev/shm", huge, sizeof huge)) {
        doctor_say(doctor, DOCTOR_NOTE, "/dev/shm", "mount -t tmpfs tmpfs /dev/shm",
                   "no tmpfs there for a CPU tier that outlives the daemon");
    } else if (huge[0] != '\0' && strcmp(huge, "never") != 0) {
        doctor_say(doctor, DOCTOR_OK, "/dev/shm", NULL, "mounted with huge=%s", huge);
    } else {
        doctor_say(doctor, used ? DOCTOR_WARNING : DOCTOR_NOTE, "/dev/shm",
                   used ? "mount -o remount,huge=within_size /dev/shm, then restart kveikd"
                        : "mount -o remount,huge=within_size /dev/shm, if the CPU tier is to live "
                          "in a file there",
                   "mounted without huge pages: copies to a file there are a few percent slower");
    }
}

static void check_cpu_file(struct doctor *doctor, const json_t *cpu)
{
    const char *path = text(cpu, "file");
    const char *system = text(cpu, "file_system");
    if (path[0] == '\0') {
        check_shm(doctor, false);
        return;
    }
    bool memory = strcmp(system, "tmpfs") == 0 || strcmp(system, "hugetlbfs") == 0;
    if (memory) {
        doctor_say(doctor, DOCTOR_OK, "CPU tier's file", NULL, "%s is on %s", path, system);
    } else {
        doctor_say(doctor, DOCTOR_WARNING, "CPU tier's file",
                   "name a file on tmpfs or hugetlbfs, such as /dev/shm/kveik/pool",
                   "%s is not in memory (%s): the kernel writes all KV out to it", path,
                   system[0] != '\0' ? system : "an unknown file system");
    }
    check_shm(doctor, strncmp(path, "/dev/shm/", strlen("/dev/shm/")) == 0);
}

void doctor_check_disk(struct doctor *doctor, const json_t *status)
{
    const json_t *disk = json_object_get(status, "disk");
    if (disk == NULL) { /* no daemon, or an older one */
        check_ring_here(doctor);
    } else {
        check_tier(doctor, disk);
    }
    check_cpu_file(doctor, json_object_get(status, "cpu"));
}
