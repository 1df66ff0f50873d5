/*
 * The power loss library itself: what was synced is there after the cut, what was not may be there
 * in part, and nothing else is.
 *
 * Each test starts this program again as a victim, with the library in front of it. The victim says
 * on its standard output what it is about to do and what it has done; what it said is compared with
 * what is left of its files.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/status.h"
#include "tests/lib/check_main.h"
#include "tests/lib/powerloss_trial.h"

enum {
    SECTOR = 512,
    SLOT_SECTORS = 8,
    SLOT_BYTES = SECTOR * SLOT_SECTORS,
    SLOTS = 12,
    VERSIONS = 256,
};

/* ---- the victims: run in a process of their own ---------------------------------------------- */

static void say(const char *what, unsigned a, unsigned b)
{
    char line[64];
    int bytes = snprintf(line, sizeof line, "%s %u %u\n", what, a, b);
    if (write(STDOUT_FILENO, line, (size_t)bytes) != bytes) {
        abort();
    }
}

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "victim: line %d: %s: %s\n", __LINE__, #condition,               \
                          strerrordesc_np(errno));                                                 \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void sector_fill(unsigned char *sector, unsigned slot, unsigned number, unsigned version)
{
    struct rng rng = {.state = ((uint64_t)slot << 32) + ((uint64_t)number << 16) + version};
    for (size_t i = 0; i < SECTOR; i += sizeof(uint64_t)) {
        uint64_t word = version == 0 ? 0 : rng_next(&rng);
        memcpy(sector + i, &word, sizeof word);
    }
}

/* Writes slots of one file, by all sorts of calls, now and then synced. */
static int victim_contents(uint64_t seed)
{
    struct rng rng = {.state = seed};
    unsigned char slot_bytes[SLOT_BYTES];
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    int fd = open("data", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    MUST(dir >= 0 && fd >= 0 && fsync(fd) == 0 && fsync(dir) == 0);
    say("ready", 0, 0);
    for (unsigned version = 1; version < VERSIONS; version++) {
        unsigned slot = (unsigned)rng_below(&rng, SLOTS);
        for (unsigned i = 0; i < SLOT_SECTORS; i++) {
            sector_fill(slot_bytes + (size_t)i * SECTOR, slot, i, version);
        }
        off_t offset = (off_t)slot * SLOT_BYTES;
        struct iovec halves[] = {{slot_bytes, 1000}, {slot_bytes + 1000, SLOT_BYTES - 1000}};
        say("write", slot, version);
        switch (rng_below(&rng, 4)) {
        case 0:
            MUST(pwrite(fd, slot_bytes, SLOT_BYTES, offset) == SLOT_BYTES);
            break;
        case 1:
            MUST(pwritev(fd, halves, 2, offset) == SLOT_BYTES);
            break;
        case 2:
            MUST(lseek(fd, offset, SEEK_SET) == offset);
            MUST(write(fd, slot_bytes, SLOT_BYTES) == SLOT_BYTES);
            break;
        default:
            MUST(lseek(fd, offset, SEEK_SET) == offset);
            MUST(writev(fd, halves, 2) == SLOT_BYTES);
            break;
        }
        if (rng_below(&rng, 6) == 0) {
            say("sync", 0, version);
            MUST(rng_below(&rng, 2) == 0 ? fsync(fd) == 0 : fdatasync(fd) == 0);
            say("synced", 0, version);
        }
    }
    return 0;
}

/* Makes, renames, replaces and removes files; each holds its number and is synced itself. */
static int victim_names(uint64_t seed)
{
    struct rng rng = {.state = seed};
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    MUST(dir >= 0);
    for (unsigned number = 1; number < VERSIONS; number++) {
        char name[8];
        char other[8];
        (void)snprintf(name, sizeof name, "n%u", (unsigned)rng_below(&rng, SLOTS));
        (void)snprintf(other, sizeof other, "n%u", (unsigned)rng_below(&rng, SLOTS));
        bool there = access(name, F_OK) == 0;
        uint64_t what = rng_below(&rng, 3);
        if (!there) {
            int fd = openat(dir, name, O_CREAT | O_WRONLY | O_CLOEXEC | O_EXCL, 0600);
            say("create", (unsigned)(name[1] - '0'), number);
            (void)snprintf(other, sizeof other, "%u", number);
            MUST(fd >= 0 && write(fd, other, sizeof other) == (ssize_t)sizeof other);
            MUST(fsync(fd) == 0 && close(fd) == 0);
        } else if (what == 0) {
            MUST(unlink(name) == 0);
        } else if (what == 1) {
            MUST(rename(name, other) == 0);
        }
        if (rng_below(&rng, 8) == 0) {
            MUST(fsync(dir) == 0);
        }
    }
    return 0;
}

/* Starts this program again as that victim, and waits for its end. */
static void run(struct powerloss_trial *trial, const char *victim, uint64_t seed)
{
    char number[32];
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)seed);
    const char *const argv[] = {"victim", victim, number, NULL};
    powerloss_start(trial, "/proc/self/exe", argv);
    powerloss_wait(trial);
}

/* ---- contents -------------------------------------------------------------------------------- */

/* What each slot may hold: the version that the last sync found there, or a later one. */
struct story {
    unsigned synced[SLOTS];
    unsigned written[SLOTS]; /* the last */
    bool later[SLOTS][VERSIONS];
    bool ready;
    unsigned last_sync; /* the last version that a finished sync covers */
};

static void story_read(struct story *story, char *output)
{
    memset(story, 0, sizeof *story);
    char *rest = NULL;
    for (char *line = strtok_r(output, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        char word[16];
        unsigned slot = 0;
        unsigned version = 0;
        ck_assert_int_eq(sscanf(line, "%15s %u %u", word, &slot, &version), 3); // NOLINT
        if (strcmp(word, "ready") == 0) {
            story->ready = true;
        } else if (strcmp(word, "write") == 0) {
            story->written[slot] = version;
            story->later[slot][version] = true;
        } else if (strcmp(word, "synced") == 0) {
            story->last_sync = version;
            memcpy(story->synced, story->written, sizeof story->synced);
            memset(story->later, 0, sizeof story->later);
        }
    }
}

struct tally {
    uint32_t lost; /* slots that hold what was synced though a later write was begun */
    uint32_t kept; /* slots that hold a later write */
    uint32_t torn; /* slots that hold two versions */
    uint32_t same; /* slots that nothing was written to since */
};

static unsigned sector_version(const unsigned char *sector, unsigned slot, unsigned number,
                               const struct story *story)
{
    unsigned char expected[SECTOR];
    unsigned synced = story->synced[slot];
    for (unsigned version = 0; version < VERSIONS; version++) {
        sector_fill(expected, slot, number, version);
        if ((version == synced || story->later[slot][version] || (version == 0 && synced == 0)) &&
            memcmp(sector, expected, SECTOR) == 0) {
            return version;
        }
    }
    ck_abort_msg("slot %u sector %u holds what nobody wrote", slot, number);
}

static void slot_check(const unsigned char *bytes, unsigned slot, const struct story *story,
                       struct tally *tally)
{
    unsigned first = 0;
    bool torn = false;
    bool later = false;
    bool begun = false;
    for (unsigned version = 0; version < VERSIONS; version++) {
        begun = begun || story->later[slot][version];
    }
    for (unsigned i = 0; i < SLOT_SECTORS; i++) {
        unsigned version = sector_version(bytes + (size_t)i * SECTOR, slot, i, story);
        first = i == 0 ? version : first;
        torn = torn || version != first;
        later = later || version != story->synced[slot];
    }
    tally->torn += torn;
    tally->kept += later;
    tally->lost += begun && !later;
    tally->same += !begun;
}

static void contents_check(struct powerloss_trial *trial, struct tally *tally)
{
    static unsigned char bytes[SLOTS * SLOT_BYTES + 1];
    static struct story story;
    char path[128];
    story_read(&story, trial->output);
    memset(bytes, 0, sizeof bytes);
    (void)snprintf(path, sizeof path, "%s/data", trial->tree);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        ck_assert(!story.ready);
        return;
    }
    ssize_t size = read(fd, bytes, sizeof bytes);
    ck_assert(size >= 0 && size <= SLOTS * SLOT_BYTES);
    ck_assert_int_eq(close(fd), 0);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        if (story.synced[slot] != 0) {
            ck_assert_int_ge(size, (ssize_t)(slot + 1) * SLOT_BYTES);
        }
        slot_check(bytes + (size_t)slot * SLOT_BYTES, slot, &story, tally);
    }
}

static void contents_trials(const char *mode, uint64_t rounds, struct tally *tally)
{
    struct rng rng = {.state = 11};
    char after[48];
    char seed[48];
    char how[48];
    for (uint64_t round = 0; round < rounds; round++) {
        static struct powerloss_trial trial;
        powerloss_init(&trial);
        (void)snprintf(after, sizeof after, "KVEIK_POWERLOSS_AFTER=%u",
                       1 + (unsigned)rng_below(&rng, 200));
        (void)snprintf(seed, sizeof seed, "KVEIK_POWERLOSS_SEED=%u", (unsigned)round);
        (void)snprintf(how, sizeof how, "KVEIK_POWERLOSS_MODE=%s", mode);
        trial.settings[0] = after;
        trial.settings[1] = seed;
        trial.settings[2] = how;
        run(&trial, "contents", round);
        ck_assert_int_eq(WEXITSTATUS(trial.status), POWERLOSS_STATUS);
        contents_check(&trial, tally);
        powerloss_finish(&trial);
    }
}

START_TEST(synced_bytes_are_there_and_others_may_be)
    {
        struct tally tally = {0};
        contents_trials("random", check_scaled(150), &tally);
        ck_assert_uint_gt(tally.lost, 0);
        ck_assert_uint_gt(tally.kept, 0);
        ck_assert_uint_gt(tally.torn, 0);
        ck_assert_uint_gt(tally.same, 0);
    }
END_TEST

START_TEST(files_can_grow_with_holes)
    {
        struct tally tally = {0};
        contents_trials("holes", check_scaled(60), &tally);
        ck_assert_uint_gt(tally.lost, 0);
        ck_assert_uint_gt(tally.torn, 0);
    }
END_TEST

/* A sync that was under way may have got through. */
START_TEST(all_that_was_not_synced_can_be_dropped)
    {
        struct tally tally = {0};
        contents_trials("drop", check_scaled(60), &tally);
        ck_assert_uint_gt(tally.lost, 0);
        ck_assert_uint_eq(tally.torn, 0);
        ck_assert_uint_lt(tally.kept, tally.lost);
    }
END_TEST

START_TEST(a_crash_alone_loses_nothing)
    {
        struct tally tally = {0};
        contents_trials("keep", check_scaled(20), &tally);
        ck_assert_uint_eq(tally.lost, 0);
        ck_assert_uint_eq(tally.torn, 0);
    }
END_TEST

/* ---- names ----------------------------------------------------------------------------------- */

/* Plays the victim's part again, without files: name -> number of the file, 0 none. */
struct names {
    unsigned of[SLOTS];
};

/* One step of the victim; true: the directory is to be synced after it. `changes`: calls that
 * change the tree, the sync not counted. */
static bool names_step(struct names *names, struct rng *rng, unsigned number, uint32_t *changes)
{
    uint64_t name = rng_below(rng, SLOTS);
    uint64_t other = rng_below(rng, SLOTS);
    uint64_t what = rng_below(rng, 3);
    *changes = 0;
    if (names->of[name] == 0) {
        names->of[name] = number;
        *changes = 3; /* open, write, sync */
    } else if (what == 0) {
        names->of[name] = 0;
        *changes = 1;
    } else if (what == 1) {
        unsigned moved = names->of[name];
        names->of[name] = name == other ? moved : 0;
        names->of[other] = moved;
        *changes = 1;
    }
    return rng_below(rng, 8) == 0;
}

static void names_read(const char *tree, struct names *names)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        char path[128];
        char text[9] = "";
        uint64_t number = 0;
        (void)snprintf(path, sizeof path, "%s/n%u", tree, i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        names->of[i] = 0;
        if (fd >= 0) {
            /* the last file of all may be empty or torn: it was cut before it was synced */
            bool whole =
                read(fd, text, sizeof text - 1) == 8 && number_parse(text, &number, NULL) == ST_OK;
            names->of[i] = whole ? (unsigned)number : VERSIONS;
            ck_assert_int_eq(close(fd), 0);
        }
    }
}

static bool names_fit(const struct names *found, const struct names *wanted, unsigned last)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        bool torn = found->of[i] == VERSIONS && wanted->of[i] == last;
        if (found->of[i] != wanted->of[i] && !torn) {
            return false;
        }
    }
    return true;
}

/* What is found must be the state after one of the steps since the last sync that ended.
 * `lost_out`: it cannot be the last one's. */
static bool names_check(const struct names *found, uint64_t seed, uint32_t cut_after,
                        bool *lost_out)
{
    static struct names states[VERSIONS];
    struct rng rng = {.state = seed};
    struct names now = {0};
    uint32_t calls = 0;
    unsigned first = 0;
    unsigned step = 1;
    states[0] = now;
    for (; step < VERSIONS && calls < cut_after; step++) {
        uint32_t changes = 0;
        bool sync = names_step(&now, &rng, step, &changes);
        states[step] = now;
        calls += changes + sync;
        if (sync && calls < cut_after) {
            first = step;
        }
    }
    bool fits = false;
    for (unsigned i = first; i < step; i++) {
        fits = fits || names_fit(found, &states[i], step - 1);
    }
    /* the cut came in the midst of the last step */
    *lost_out = step >= 3 && !names_fit(found, &states[step - 1], step - 1) &&
                !names_fit(found, &states[step - 2], step - 1);
    return fits;
}

START_TEST(names_are_those_of_a_moment_since_the_last_sync)
    {
        struct rng rng = {.state = 12};
        char after[48];
        char seed[48];
        uint64_t rounds = check_scaled(150);
        uint32_t lost_count = 0;
        for (uint64_t round = 0; round < rounds; round++) {
            static struct powerloss_trial trial;
            struct names found;
            bool lost = false;
            uint32_t cut_after = 1 + (uint32_t)rng_below(&rng, 150);
            powerloss_init(&trial);
            (void)snprintf(after, sizeof after, "KVEIK_POWERLOSS_AFTER=%u", cut_after);
            (void)snprintf(seed, sizeof seed, "KVEIK_POWERLOSS_SEED=%u", (unsigned)round);
            trial.settings[0] = after;
            trial.settings[1] = seed;
            run(&trial, "names", round);
            ck_assert_int_eq(WEXITSTATUS(trial.status), POWERLOSS_STATUS);
            names_read(trial.tree, &found);
            ck_assert_msg(names_check(&found, round, cut_after, &lost), "round %u: cut after %u",
                          (unsigned)round, cut_after);
            lost_count += lost;
            powerloss_finish(&trial);
        }
        ck_assert_uint_gt(lost_count, rounds / 8);
        ck_assert_uint_lt(lost_count, rounds);
    }
END_TEST

/* ---- single things --------------------------------------------------------------------------- */

static int file_with(const char *name, const char *text, bool synced)
{
    int fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    MUST(!synced || fsync(fd) == 0);
    return fd;
}

/* With "drop": the outcome is the same at every run. */
static int victim_singles(uint64_t seed)
{
    (void)seed;
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    int truncated = file_with("truncated", "0123456789", true);
    (void)file_with("emptied", "0123456789", true);
    (void)file_with("replaced", "old", true);
    int grown = file_with("grown", "0123", true);
    int punched = file_with("punched", "0123456789", true);
    int appended = open("appended", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    int dsync = open("dsync", O_CREAT | O_WRONLY | O_DSYNC | O_CLOEXEC, 0600);
    MUST(mkdir("olddir", 0700) == 0 && mkdir("emptydir", 0710) == 0);
    MUST(write(appended, "one", 3) == 3 && fsync(appended) == 0 && fsync(dir) == 0);

    MUST(write(dsync, "there", 5) == 5);
    MUST(write(appended, "two", 3) == 3);
    MUST(ftruncate(truncated, 3) == 0 && pwrite(truncated, "xyz", 3, 1) == 3);
    MUST(close(open("emptied", O_WRONLY | O_TRUNC | O_CLOEXEC)) == 0);
    MUST(fallocate(grown, 0, 0, 10000) == 0 && pwrite(grown, "4567", 4, 9000) == 4);
    MUST(posix_fallocate(grown, 0, 20000) == 0);
    MUST(fallocate(punched, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 4) == 0);
    MUST(fallocate(punched, FALLOC_FL_COLLAPSE_RANGE, 0, 4096) != 0 && errno == EOPNOTSUPP);
    (void)file_with("new", "new", true);
    MUST(rename("new", "replaced") == 0);
    MUST(rename("olddir", "newdir") == 0 && rmdir("emptydir") == 0);
    MUST(link("grown", "linked") == 0 && mkdir("lostdir", 0700) == 0);
    (void)file_with("lostdir/file", "in it", true);
    int lost = open("lostdir", O_RDONLY | O_DIRECTORY);
    MUST(lost >= 0 && fsync(lost) == 0);
    (void)file_with("../outside", "outside of the tree", false);
    MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, grown, 0) == MAP_FAILED);
    MUST(errno == ENODEV);
    MUST(mmap(NULL, 4096, PROT_READ, MAP_SHARED, grown, 0) != MAP_FAILED);
    struct io_uring ring;
    MUST(io_uring_queue_init(2, &ring, 0) == -EPERM);
    say("ready", 0, 0);
    for (;;) {
        (void)pause();
    }
}

static void holds(const struct powerloss_trial *trial, const char *name, const char *text)
{
    char path[128];
    char found[64] = "";
    (void)snprintf(path, sizeof path, "%s/%s", trial->tree, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_msg(fd >= 0, "%s is not there", name);
    ck_assert_int_ge(read(fd, found, sizeof found - 1), 0);
    ck_assert_str_eq(found, text);
    ck_assert_int_eq(close(fd), 0);
}

static struct stat status_of(const struct powerloss_trial *trial, const char *name)
{
    char path[128];
    struct stat status = {0};
    (void)snprintf(path, sizeof path, "%s/%s", trial->tree, name);
    if (stat(path, &status) != 0) {
        memset(&status, 0, sizeof status);
    }
    return status;
}

START_TEST(each_call_is_taken_back)
    {
        static struct powerloss_trial trial;
        powerloss_init(&trial);
        trial.settings[0] = "KVEIK_POWERLOSS_MODE=drop";
        const char *const argv[] = {"victim", "singles", "0", NULL};
        powerloss_start(&trial, "/proc/self/exe", argv);
        while (strstr(trial.output, "ready") == NULL) {
            ssize_t part = read(trial.out_fd, trial.output, sizeof trial.output - 1);
            ck_assert_int_gt(part, 0);
        }
        ck_assert_int_eq(kill(trial.pid, SIGUSR2), 0);
        powerloss_wait(&trial);
        ck_assert_int_eq(WEXITSTATUS(trial.status), POWERLOSS_STATUS);
        holds(&trial, "truncated", "0123456789");
        holds(&trial, "emptied", "0123456789");
        holds(&trial, "replaced", "old");
        holds(&trial, "grown", "0123");
        holds(&trial, "punched", "0123456789");
        holds(&trial, "appended", "one");
        holds(&trial, "dsync", "there");
        holds(&trial, "../outside", "outside of the tree");
        ck_assert(S_ISDIR(status_of(&trial, "olddir").st_mode));
        ck_assert_uint_eq(status_of(&trial, "emptydir").st_mode & 0777, 0710);
        ck_assert_uint_eq(status_of(&trial, "grown").st_nlink, 1);
        ck_assert_uint_eq(powerloss_entries(trial.tree), 9);
        char outside[128];
        (void)snprintf(outside, sizeof outside, "%s/outside", trial.folder);
        ck_assert_int_eq(unlink(outside), 0);
        powerloss_finish(&trial);
    }
END_TEST

/* Ends of its own accord, or is cut short by an error of the victim's: all is as it was left. */
START_TEST(an_orderly_end_keeps_all)
    {
        static struct powerloss_trial trial;
        powerloss_init(&trial);
        run(&trial, "names", 3);
        ck_assert_int_eq(WEXITSTATUS(trial.status), 0);
        struct rng rng = {.state = 3};
        struct names wanted = {0};
        struct names found;
        for (unsigned step = 1; step < VERSIONS; step++) {
            uint32_t changes = 0;
            (void)names_step(&wanted, &rng, step, &changes);
        }
        names_read(trial.tree, &found);
        ck_assert(names_fit(&found, &wanted, 0));
        powerloss_finish(&trial);
    }
END_TEST

/* ---- injected faults ------------------------------------------------------------------------- */

static int victim_faults(uint64_t seed)
{
    (void)seed;
    char bytes[8192] = "";
    int fd = open("file", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    MUST(fd >= 0);
    MUST(open("file", O_RDONLY | O_CLOEXEC) < 0 && errno == EMFILE);
    MUST(pwrite(fd, bytes, 8192, 0) == 8192);
    MUST(pwrite(fd, bytes, 8192, 0) < 0 && errno == ENOSPC);
    MUST(write(fd, bytes, 8192) < 0 && errno == ENOSPC);
    MUST(pwrite(fd, bytes, 8192, 0) == 4096);
    struct iovec two[] = {{bytes, 6}, {bytes + 6, 4}};
    MUST(pwritev(fd, two, 2, 0) == 10);
    MUST(fsync(fd) == 0 && fdatasync(fd) < 0 && errno == EIO && fsync(fd) < 0 && fsync(fd) < 0);
    MUST(pread(fd, bytes, 8192, 0) == 8192);
    MUST(preadv(fd, two, 2, 0) == 5);
    uint64_t began_ms = clock_ms();
    MUST(pread(fd, bytes, 100, 0) == 100 && clock_ms() - began_ms >= 50);
    began_ms = clock_ms();
    MUST(pread(fd, bytes, 100, 0) == 100 && clock_ms() - began_ms < 50);

    int rules = open("../rules.new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    MUST(rules >= 0 && write(rules, "write:1:EROFS:*\n", 16) == 16 && close(rules) == 0);
    MUST(rename("../rules.new", "../rules") == 0);
    bool from_file = secure_getenv("RULES_FROM_FILE") != NULL;
    MUST((pwrite(fd, bytes, 1, 0) < 0) == from_file && (!from_file || errno == EROFS));
    MUST((unlink("file") < 0) == from_file && (!from_file || errno == EROFS));
    MUST(unlink("../rules") == 0);
    MUST(pwrite(fd, bytes, 1, 0) == 1);
    return 0;
}

#define FAULTS                                                                                     \
    "open:2:EMFILE,write:2:ENOSPC:2,write:4:short,sync:2:EIO:*,read:2:short,read:3:slow=60"

START_TEST(calls_fail_as_told)
    {
        static struct powerloss_trial trial;
        powerloss_init(&trial);
        trial.settings[0] = "KVEIK_POWERLOSS_FAIL=" FAULTS;
        run(&trial, "faults", 0);
        ck_assert_int_eq(WEXITSTATUS(trial.status), 0);
        powerloss_finish(&trial);
    }
END_TEST

START_TEST(rules_from_a_file_can_change)
    {
        static struct powerloss_trial trial;
        char path[128];
        char setting[PATH_MAX + 32];
        char full[PATH_MAX];
        powerloss_init(&trial);
        ck_assert_ptr_nonnull(realpath(trial.folder, full));
        (void)snprintf(setting, sizeof setting, "KVEIK_POWERLOSS_FAIL=@%s/rules", full);
        (void)snprintf(path, sizeof path, "%s/rules", trial.folder);
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        ck_assert_int_eq(write(fd, FAULTS, strlen(FAULTS)), strlen(FAULTS));
        ck_assert_int_eq(close(fd), 0);
        trial.settings[0] = setting;
        trial.settings[1] = "RULES_FROM_FILE=1";
        run(&trial, "faults", 0);
        ck_assert_int_eq(WEXITSTATUS(trial.status), 0);
        powerloss_finish(&trial);
    }
END_TEST

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(uint64_t seed);
    } victims[] = {{"contents", victim_contents},
                   {"names", victim_names},
                   {"singles", victim_singles},
                   {"faults", victim_faults}};
    for (size_t i = 0; argc == 3 && i < ARRAY_COUNT(victims); i++) {
        uint64_t seed = 0;
        if (strcmp(argv[1], victims[i].name) == 0 && number_parse(argv[2], &seed, NULL) == ST_OK) {
            return victims[i].run(seed);
        }
    }
    const TTest *const tests[] = {synced_bytes_are_there_and_others_may_be,
                                  files_can_grow_with_holes,
                                  all_that_was_not_synced_can_be_dropped,
                                  a_crash_alone_loses_nothing,
                                  names_are_those_of_a_moment_since_the_last_sync,
                                  each_call_is_taken_back,
                                  an_orderly_end_keeps_all,
                                  calls_fail_as_told,
                                  rules_from_a_file_can_change};
    return check_main("powerloss", tests, ARRAY_COUNT(tests));
}
