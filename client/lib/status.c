/* The public status numbers are the base's. */
#include "base/status.h"

#include <kveik/kveik.h>

#define SAME(name) _Static_assert((int)KVEIK_E_##name == (int)ST_##name, "one number a status")
SAME(INVALID);
SAME(NO_MEMORY);
SAME(IO);
SAME(PROTOCOL);
SAME(VERSION);
SAME(NO_SPACE);
SAME(QUOTA);
SAME(DEADLINE);
SAME(CANCELLED);
SAME(UNKNOWN_ID);
SAME(LOST);
SAME(UNAVAILABLE);
SAME(BUSY);
SAME(UNSUPPORTED);
SAME(PERMISSION);
SAME(MEMORY);
SAME(LIMIT);
SAME(CORRUPT);
SAME(SHUTDOWN);
SAME(MISMATCH);
SAME(FORKED);
SAME(STUCK);
SAME(INTERNAL);
#undef SAME
_Static_assert((int)KVEIK_OK == (int)ST_OK && (int)KVEIK_MISS == (int)ST_MISS &&
                   (int)KVEIK_HELD == (int)ST_HELD && (int)KVEIK_PENDING == (int)ST_PENDING,
               "one number a status");

const char *kveik_status_text(int status)
{
    return status_text(status);
}

const char *kveik_version(void)
{
    return KVEIK_VERSION;
}
