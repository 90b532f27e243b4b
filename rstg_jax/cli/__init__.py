"""Shared by all commands: flags, config overrides, one-line errors.

Commands end with ``sys.exit(cli.run(main))`` where ``main(argv=None)`` returns the exit status.
"""

from rstg_jax.cli.flags import (
    add_process_flags,
    choices,
    command_parser,
    join_processes,
    number_range,
    parse,
)
from rstg_jax.cli.running import keep_compiled_programs, loading, run

__all__ = [
    "add_process_flags",
    "choices",
    "command_parser",
    "join_processes",
    "keep_compiled_programs",
    "loading",
    "number_range",
    "parse",
    "run",
]
