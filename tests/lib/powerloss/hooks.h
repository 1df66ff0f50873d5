/* How a function takes the place of the C library's. */
#ifndef KVEIK_TESTS_LIB_POWERLOSS_HOOKS_H
#define KVEIK_TESTS_LIB_POWERLOSS_HOOKS_H

#define HOOK __attribute__((visibility("default")))

/* Another name of a hook; off_t has 64 bits, so that both are one. */
#define SAME_AS(hook) HOOK __attribute__((alias(#hook)))

_Static_assert(sizeof(off_t) == sizeof(off64_t), "names with and without 64 are the same");

#endif
