"""Durable no-op tasks in this project and in Celery, Dramatiq, Taskiq and Procrastinate, one system at a time.

Everyone has the same private Postgres (fsync) and RabbitMQ, persistent and confirmed messages, a payload of 1 kB, and
acknowledges after the result is committed. Every accepted task is checked for its committed result at the end.

Usage: python -m bench.tasks_peers [--only celery,taskiq] [--rounds 3] [--accepts 4000] [--full-seconds 8]
           [--half-seconds 4] [--configurations best|all|NAME,NAME] [--save FILE] [--show FILE]

With `--save` each measurement is added to FILE as a line of JSON, so that a run may be made piece by piece; `--show`
prints the tables of such a file and measures nothing. The default run takes about twenty minutes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.support.peer_environment import CannotInstallError
from bench.support.task_measuring import Amounts, measure
from bench.support.task_systems import SYSTEMS, System
from bench.support.task_table import rows_of, tables


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.show:
        print(tables(rows_of(_read(arguments.show))))
        return
    records, missing = [], set()
    for number in range(arguments.rounds):
        for system, name in _plan(arguments, number):
            if system.name in missing:
                continue
            try:
                record = _measured(system, name, arguments)
            except CannotInstallError as error:
                print(error, file=sys.stderr)
                missing.add(system.name)
                continue
            records.append(record)
            if arguments.save:
                with arguments.save.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
    if records:
        print(tables(rows_of(records)))
    if missing:
        sys.exit(f"not measured: {', '.join(sorted(missing))}")


def _measured(system: System, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    configuration = system.configurations[name]
    print(f"{system.name}: {configuration.told}", file=sys.stderr, flush=True)
    amounts = Amounts(
        accepts=arguments.accepts, full_seconds=arguments.full_seconds, half_seconds=arguments.half_seconds
    )
    figures = measure(system, configuration, amounts)
    told = {"configuration": configuration.told, "synced": configuration.synced}
    return {"system": system.name, **told, "figures": figures}


def _plan(arguments: argparse.Namespace, number: int) -> Iterator[tuple[System, str]]:
    """What is measured in a round; every other round goes backwards."""
    wanted = arguments.only.split(",") if arguments.only else [system.name for system in SYSTEMS]
    chosen = [system for system in SYSTEMS if system.name in wanted]
    if len(chosen) < len(wanted):
        sys.exit(f"known are: {', '.join(system.name for system in SYSTEMS)}")
    for system in chosen if number % 2 == 0 else chosen[::-1]:
        for name in _configurations(system, arguments.configurations):
            yield system, name


def _configurations(system: System, wanted: str) -> list[str]:
    known = list(system.configurations)
    if wanted == "best":
        return system.best
    if wanted == "all":
        return known
    if unknown := set(wanted.split(",")) - set(known):
        sys.exit(f"{system.name} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    return wanted.split(",")


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accepts", type=int, default=4000)
    parser.add_argument("--full-seconds", type=float, default=8.0)
    parser.add_argument("--half-seconds", type=float, default=4.0)
    parser.add_argument("--configurations", default="best")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--show", type=Path)
    return parser


if __name__ == "__main__":
    main()
