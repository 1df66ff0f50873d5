/*
 * Calls that fail, come short or take long:
 *
 *   KVEIK_POWERLOSS_FAIL=class:n:what[:k][,…]
 *
 *   class  read, write, sync, open, any
 *   n      the n-th call of the class on files of the tree, from 1
 *   what   the name of an error such as EIO; short; slow=MILLISECONDS
 *   k      so many calls from the n-th on; * for ever; 1 when left out
 *
 * @PATH instead: the rules stand in that file, none while it is not there. When it changes it is
 * read again and the calls are counted from the start; to be replaced by a rename.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"
#include "base/status.h"
#include "tests/lib/powerloss/powerloss.h"

enum { RULES_MAX = 16, TEXT_BYTES = 1024, FIELDS = 4, ERRNO_MAX = 134 };

enum what { WHAT_FAIL, WHAT_SHORT, WHAT_SLOW };

struct rule {
    int class; /* CLASS_COUNT: any */
    uint64_t first;
    uint64_t count; /* UINT64_MAX: for ever */
    enum what what;
    int errnum;
    uint64_t slow_ms;
};

static struct {
    pthread_mutex_t mutex;
    struct rule rules[RULES_MAX];
    uint32_t rule_count;
    uint64_t calls[CLASS_COUNT + 1];
    char path[PATH_MAX]; /* empty: the rules do not change */
    struct stat seen;
} faults = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static int errno_of(const char *name)
{
    for (int errnum = 1; errnum < ERRNO_MAX; errnum++) {
        const char *known = strerrorname_np(errnum);
        if (known != NULL && strcmp(known, name) == 0) {
            return errnum;
        }
    }
    return 0;
}

static bool parse_what(const char *text, struct rule *rule)
{
    if (strcmp(text, "short") == 0) {
        rule->what = WHAT_SHORT;
        return true;
    }
    if (strncmp(text, "slow=", strlen("slow=")) == 0) {
        rule->what = WHAT_SLOW;
        return number_parse(text + strlen("slow="), &rule->slow_ms, NULL) == ST_OK;
    }
    rule->what = WHAT_FAIL;
    rule->errnum = errno_of(text);
    return rule->errnum != 0;
}

static bool parse_rule(char *text, struct rule *rule)
{
    static const char *const classes[] = {"read", "write", "sync", "open", "any"};
    char *fields[FIELDS] = {NULL};
    char *rest = NULL;
    int count = 0;
    for (char *field = strtok_r(text, ":", &rest); field != NULL;
         field = strtok_r(NULL, ":", &rest)) {
        if (count == FIELDS) {
            return false;
        }
        fields[count++] = field;
    }
    *rule = (struct rule){.class = -1, .count = 1};
    for (int i = 0; count >= 3 && i <= CLASS_COUNT; i++) {
        rule->class = strcmp(fields[0], classes[i]) == 0 ? i : rule->class;
    }
    if (rule->class < 0 || number_parse(fields[1], &rule->first, NULL) != ST_OK ||
        rule->first == 0 || !parse_what(fields[2], rule)) {
        return false;
    }
    if (fields[3] != NULL && strcmp(fields[3], "*") == 0) {
        rule->count = UINT64_MAX;
        return true;
    }
    return fields[3] == NULL || number_parse(fields[3], &rule->count, NULL) == ST_OK;
}

static void parse(const char *text)
{
    char copy[TEXT_BYTES];
    char *rest = NULL;
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy) {
        pl_fail("KVEIK_POWERLOSS_FAIL: too long");
    }
    faults.rule_count = 0;
    memset(faults.calls, 0, sizeof faults.calls);
    for (char *one = strtok_r(copy, ",\n", &rest); one != NULL;
         one = strtok_r(NULL, ",\n", &rest)) {
        if (faults.rule_count == RULES_MAX || !parse_rule(one, &faults.rules[faults.rule_count])) {
            pl_fail("KVEIK_POWERLOSS_FAIL=%s: not understood", text);
        }
        faults.rule_count++;
    }
}

void fault_init(const char *text)
{
    if (text != NULL && text[0] == '@') {
        (void)snprintf(faults.path, sizeof faults.path, "%s", text + 1);
    } else if (text != NULL) {
        parse(text);
    }
}

static void read_again(void)
{
    char text[TEXT_BYTES] = "";
    struct stat now;
    if (faults.path[0] == '\0') {
        return;
    }
    if (stat(faults.path, &now) != 0) {
        memset(&now, 0, sizeof now);
    }
    if (now.st_ino == faults.seen.st_ino && now.st_size == faults.seen.st_size &&
        now.st_mtim.tv_sec == faults.seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == faults.seen.st_mtim.tv_nsec) {
        return;
    }
    faults.seen = now;
    int fd = raw_openat(AT_FDCWD, faults.path, O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) {
        ssize_t bytes = raw_pread(fd, text, sizeof text - 1, 0);
        text[bytes > 0 ? bytes : 0] = '\0';
        (void)raw_close(fd);
    }
    parse(text);
}

enum fault_outcome fault_call(enum fault_class class)
{
    enum fault_outcome outcome = OUTCOME_NONE;
    uint64_t slow_ms = 0;
    int errnum = errno;
    (void)pthread_mutex_lock(&faults.mutex);
    read_again();
    faults.calls[class]++;
    faults.calls[CLASS_COUNT]++;
    for (uint32_t i = 0; i < faults.rule_count; i++) {
        const struct rule *rule = &faults.rules[i];
        uint64_t call = faults.calls[rule->class];
        if ((rule->class != (int)class && rule->class != CLASS_COUNT) || call < rule->first ||
            call - rule->first >= rule->count) {
            continue;
        }
        if (rule->what == WHAT_SLOW) {
            slow_ms += rule->slow_ms;
        } else if (outcome != OUTCOME_FAIL) {
            outcome = rule->what == WHAT_SHORT ? OUTCOME_SHORT : OUTCOME_FAIL;
            errnum = rule->what == WHAT_FAIL ? rule->errnum : errnum;
        }
    }
    (void)pthread_mutex_unlock(&faults.mutex);
    if (slow_ms > 0) {
        (void)nanosleep(&(struct timespec){.tv_sec = (time_t)(slow_ms / 1000),
                                           .tv_nsec = (long)(slow_ms % 1000) * 1000000},
                        NULL);
    }
    errno = errnum;
    return outcome;
}
