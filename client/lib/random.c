#include <sys/random.h>

#include "base/assert.h"
#include "client/lib/client.h"

void random_bytes(void *out, size_t bytes)
{
    KVEIK_ASSERT(bytes <= 256); /* so much never comes in pieces */
    ssize_t got = getrandom(out, bytes, 0);
    KVEIK_ASSERT(got == (ssize_t)bytes);
}
