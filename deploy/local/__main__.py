"""The command line: ``python -m deploy.local run|up|down|status|logs|reset|jaeger|packages|migrate``."""

import argparse
import sys

from deploy.local import commands, follow
from deploy.local.console import Console
from deploy.local.environment import current
from deploy.local.problems import Problem

_VERBS = {
    "run": commands.run,
    "up": commands.up,
    "down": commands.down,
    "status": commands.status,
    "reset": commands.reset,
    "jaeger": commands.jaeger,
    "migrate": commands.migrate,
}


def main() -> int:
    """Runs one verb. Returns 0, or 1 after a sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The whole mesh on this machine.")
    parser.add_argument("verb", choices=[*_VERBS, "logs", "packages"])
    parser.add_argument("names", nargs="*", help="for logs: only these processes; for packages: more programs")
    parser.add_argument("--quiet", action="store_true", help="for run: leave the processes' lines to their log files")
    arguments = parser.parse_args()
    environment = current()
    colour = sys.stdout.isatty() and not environment.get("NO_COLOR")
    console = Console(colour=colour, follow=not arguments.quiet)
    try:
        if arguments.verb == "logs":
            follow.follow(environment, arguments.names, colour=colour)
        elif arguments.verb == "packages":
            commands.packages(environment, console, arguments.names)
        else:
            _VERBS[arguments.verb](environment, console)
    except Problem as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    except KeyboardInterrupt:
        # Ctrl-C is how following logs ends; everything else was cut short.
        return 0 if arguments.verb == "logs" else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
