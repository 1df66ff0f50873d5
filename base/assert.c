#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void assert_fail(const char *file, int line, const char *condition)
{
    (void)fprintf(stderr, "kveik: assertion failed at %s:%d: %s\n", file, line, condition);
    abort();
}
