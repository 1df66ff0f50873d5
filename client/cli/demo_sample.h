/* The trace sample that the program carries, made from data/ when it is built. */
#ifndef KVEIK_CLI_DEMO_SAMPLE_H
#define KVEIK_CLI_DEMO_SAMPLE_H

#include <stddef.h>

extern const unsigned char demo_sample[];
extern const size_t demo_sample_bytes;

#endif
