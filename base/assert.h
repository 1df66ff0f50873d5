/*
 * Assertions stay on in release builds: what only a bug can break stops the process before it can
 * hand out a wrong byte. What input or the world can break is an error, never an assertion.
 */
#ifndef KVEIK_BASE_ASSERT_H
#define KVEIK_BASE_ASSERT_H

#include <stdint.h>

_Noreturn void assert_fail(const char *file, int line, const char *condition);

#define KVEIK_ASSERT(condition)                                                                    \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            assert_fail(__FILE__, __LINE__, #condition);                                           \
        }                                                                                          \
    } while (0)

/* A branch that cannot be reached. */
#define KVEIK_UNREACHABLE(why) assert_fail(__FILE__, __LINE__, "unreachable: " why)

/* Shared objects begin with `uint32_t magic`; checked on entry, cleared on destroy. */
#define KVEIK_CHECK_OBJ(object, object_magic)                                                      \
    do {                                                                                           \
        KVEIK_ASSERT((object) != NULL);                                                            \
        KVEIK_ASSERT((object)->magic == (object_magic));                                           \
    } while (0)

#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
