#include "base/status.h"

const char *status_text(int status)
{
    switch (status) {
#define X(name, number, text)                                                                      \
    case number:                                                                                   \
        return text;
        STATUS_TABLE(X)
#undef X
    default:
        return "unknown status";
    }
}

const char *status_name(int status)
{
    switch (status) {
#define X(name, number, text)                                                                      \
    case number:                                                                                   \
        return #name;
        STATUS_TABLE(X)
#undef X
    default:
        return "UNKNOWN";
    }
}
