/*
 * A few threads that run one loop together. Which thread takes which item is left to chance; what
 * an item computes must not depend on it.
 */
#ifndef KVEIK_CLIENT_REFMODEL_TEAM_H
#define KVEIK_CLIENT_REFMODEL_TEAM_H

#include <stdint.h>

#include "base/error.h"

struct refmodel_team;

/* `member` is below the team's size: the index of per-thread memory. */
typedef void (*refmodel_team_work)(void *ctx, uint32_t item, uint32_t member);

/* `members` counts the calling thread: 1 starts none. ST_OK or ST_NO_MEMORY. */
int refmodel_team_create(uint32_t members, struct refmodel_team **team_out, struct error *error);

/* Accepts NULL. */
void refmodel_team_destroy(struct refmodel_team *team);

/* Calls `work` for items [0, items), on all members; returns when all are done. */
void refmodel_team_run(struct refmodel_team *team, refmodel_team_work work, void *ctx,
                       uint32_t items);

#endif
