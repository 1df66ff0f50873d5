#include "storage/cpu/guard.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/assert.h"
#include "base/status.h"

/* Signal dispositions belong to the process, and a handler has no argument: both are global. */
static pthread_once_t install_once = PTHREAD_ONCE_INIT;
static struct sigaction previous;
static int install_result;
static _Thread_local sigjmp_buf escape;
static _Thread_local volatile sig_atomic_t armed;

/* A fault that is not ours: whoever was there before us decides, and by default the process dies
 * of it, with the right signal in its exit status. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler == SIG_DFL) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        (void)sigaction(number, &action, NULL);
        if (info->si_code <= 0) {
            (void)raise(number); /* sent, not a fault: returning would not repeat it */
        }
    } else if (previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    }
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    if (armed != 0 && info->si_code > 0) {
        siglongjmp(escape, 1);
    }
    pass_on(number, info, context);
}

static void install(void)
{
    /* NODEFER: the jump leaves the handler for good, so the signal must not stay blocked */
    struct sigaction action = {.sa_sigaction = on_sigbus,
                               .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    (void)sigemptyset(&action.sa_mask);
    install_result = sigaction(SIGBUS, &action, &previous) == 0 ? ST_OK : ST_IO;
}

int guard_install(void)
{
    (void)pthread_once(&install_once, install);
    return install_result;
}

bool guard_run(void (*work)(void *arg), void *arg)
{
    KVEIK_ASSERT(armed == 0);
    if (sigsetjmp(escape, 0) != 0) {
        armed = 0;
        return false;
    }
    armed = 1;
    atomic_signal_fence(memory_order_seq_cst);
    work(arg);
    atomic_signal_fence(memory_order_seq_cst);
    armed = 0;
    return true;
}
