"""The console script ``dcfast``: ``run``, a subcommand for each stage, ``study`` and ``doctor``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

HELP = """usage: dcfast COMMAND [options]

  dcfast run ...        the whole workflow (the same as python -m dcfast.run); --help lists its options
  dcfast STAGE ...      one stage of it, with the same options; the stages before it must be done
                        stages: {stages}
  dcfast study ...      many filters, many seeds: which filter is best, and by how much (python -m dcfast.study)
  dcfast refresh ...    a pool's index, made or brought up to date (python -m dcfast.pool_refresh)
  dcfast doctor         versions, what works on this machine, and how to get what does not
  dcfast --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    from dcfast.rundir.stage_table import STAGES

    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP.format(stages=", ".join(STAGES)), end="")
        return 0 if args else 2
    command, rest = args[0], args[1:]
    if command == "--version":
        from dcfast import __version__

        print(__version__)
        return 0
    if command == "doctor":
        from dcfast.doctor.command import main as doctor

        return doctor(rest)
    if command == "study":
        from dcfast.study import main as study

        return study(rest)
    if command == "refresh":
        from dcfast.index.refresh import main as refresh

        return refresh(rest)
    from dcfast.run import workflow as run

    if command == "run":
        return run.main(rest)
    if command in STAGES:
        return run.main([*rest, "--from", command, "--to", command])
    import difflib

    near = difflib.get_close_matches(command, [*STAGES, "run", "study", "refresh", "doctor"], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    sys.stderr.write(f"error: dcfast has no command {command!r}{hint}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
