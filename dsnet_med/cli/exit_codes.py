"""The exit codes of all commands, besides 0 for done."""

SOME_FAILED = 1  # the rest is finished, and the failures are listed
BAD_INPUT = 2  # or arguments: one line says which
INTERRUPTED = 130
TERMINATED = 143
