/*
 * Survives memory that vanishes under a copy. A file that is truncated while it is mapped, or a
 * page that the hardware gave up on, raises SIGBUS in the thread that touches it. Private to this
 * folder.
 */
#ifndef KVEIK_STORAGE_CPU_GUARD_H
#define KVEIK_STORAGE_CPU_GUARD_H

#include <stdbool.h>

/* Installs the handler, once per process. A SIGBUS outside guard_run() goes to whoever handled it
 * before. ST_OK or ST_IO. Any thread. */
int guard_install(void);

/* Calls work(arg); false when it was cut short by SIGBUS. `work` must hold no lock and own nothing
 * that it would have to give back. Not nested. Any thread, once guard_install() was called. */
bool guard_run(void (*work)(void *arg), void *arg);

#endif
