/*
 * Programs under the power loss library (tests/lib/powerloss): each is started with it in front, in
 * a tree of its own in the current folder, and may be started again on what is left of the tree.
 * All functions fail the test when something goes wrong.
 */
#ifndef KVEIK_TESTS_LIB_POWERLOSS_TRIAL_H
#define KVEIK_TESTS_LIB_POWERLOSS_TRIAL_H

#include <stdint.h>
#include <sys/types.h>

enum {
    POWERLOSS_STATUS = 137, /* of a program whose power went */
    POWERLOSS_OUTPUT_BYTES = 1 << 16,
    POWERLOSS_SETTINGS = 8,
};

struct powerloss_trial {
    const char *settings[POWERLOSS_SETTINGS]; /* the test's: NAME=value, NULL after the last */
    char folder[64];                          /* holds the tree and nothing else */
    char tree[80];
    char output[POWERLOSS_OUTPUT_BYTES]; /* what the program wrote to its standard output */
    int status;                          /* as of wait(): it ended by itself or by the cut */
    pid_t pid;
    int out_fd; /* the reading end of its standard output, while it runs */
};

/* Makes the folder and an empty tree. */
void powerloss_init(struct powerloss_trial *trial);

/* Starts a program with the tree as its current folder. */
void powerloss_start(struct powerloss_trial *trial, const char *program, const char *const *argv);

/* Reads the rest of the output behind what is there, and waits for the end. */
void powerloss_wait(struct powerloss_trial *trial);

/* Files and folders in a folder. */
uint32_t powerloss_entries(const char *path);

/* Removes the folder. Nothing but the tree may be in it. */
void powerloss_finish(struct powerloss_trial *trial);

#endif
