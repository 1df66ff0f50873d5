"""`vllm serve MODEL …`, where the package has another name: python serve.py serve MODEL …

vLLM's own command asks for the version of a package `vllm`; builds for CPUs are called otherwise,
so that it fails before it serves. This is its subcommand without that question.
"""
from vllm.entrypoints.cli import serve
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    cli_env_setup()
    parser = FlexibleArgumentParser(description=__doc__)
    subparsers = parser.add_subparsers(required=True, dest="subparser")
    command = serve.cmd_init()[0]
    command.subparser_init(subparsers)
    arguments = parser.parse_args()
    command.validate(arguments)
    command.cmd(arguments)
