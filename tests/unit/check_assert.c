#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "base/assert.h"
#include "tests/lib/check_main.h"

struct object {
    uint32_t magic;
};

/* Runs the n-th broken assertion in a child and returns the signal that ended it. */
static int signal_of(int which)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        const struct rlimit no_core = {0};
        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)close(STDERR_FILENO);
        struct object object = {.magic = 1};
        struct object *volatile missing = NULL;
        if (which == 0) {
            KVEIK_ASSERT(object.magic == 2);
        } else if (which == 1) {
            KVEIK_CHECK_OBJ(&object, 2u);
        } else if (which == 2) {
            KVEIK_CHECK_OBJ(missing, 1u);
        } else {
            KVEIK_UNREACHABLE("on purpose");
        }
        _exit(0);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

START_TEST(what_holds_costs_nothing)
    {
        struct object object = {.magic = 7};
        KVEIK_ASSERT(object.magic == 7);
        KVEIK_CHECK_OBJ(&object, 7u);
        const int array[5] = {0};
        ck_assert_uint_eq(ARRAY_COUNT(array), 5);
    }
END_TEST

START_TEST(what_is_broken_stops_the_process)
    {
        for (int which = 0; which < 4; which++) {
            ck_assert_int_eq(signal_of(which), SIGABRT);
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {what_holds_costs_nothing, what_is_broken_stops_the_process};
    return check_main("assert", tests, ARRAY_COUNT(tests));
}
