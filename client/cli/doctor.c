#include "client/cli/cli.h"

int command_doctor(struct cli *cli, int argc, char **argv)
{
    (void)cli;
    (void)argc;
    (void)argv;
    return CLI_GOOD;
}
