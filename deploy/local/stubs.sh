#!/bin/sh
# Generates the Python stubs beside every contract under proto/.
set -eu

bin=.venv/bin
# The file names hold no spaces: they are import paths.
# shellcheck disable=SC2046
"$bin/python" -m grpc_tools.protoc -Iproto \
    --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" \
    --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
    --python_out=proto --grpc_python_out=proto --mypy_out=proto --mypy_grpc_out=proto \
    $(cd proto && find envoy mesh -name '*.proto' | sort)
