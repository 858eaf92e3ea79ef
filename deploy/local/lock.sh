#!/bin/sh
# Pins every dependency with hashes, for every platform, naming no package index.
#
# Without arguments what is pinned stays where the ranges in pyproject.toml allow; `--upgrade` moves everything.
set -eu

compile() {
    .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header --quiet "$@"
}

compile --extra local --output-file requirements.lock "$@"
# The same versions for development, so that what is tested is what runs.
compile --extra local --extra dev --constraint requirements.lock --output-file requirements-dev.lock "$@"
