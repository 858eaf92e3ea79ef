#!/bin/sh
# Makes .venv hold what a lock file pins: deploy/local/venv.sh requirements.lock
#
# A stamp inside .venv remembers the lock file's content, so that a second call costs nothing.
set -eu

lock=$1
stamp=.venv/.installed-$(basename "$lock")
wanted=$(sha256sum <"$lock")
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

python_of_this_machine() {
    for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or newer is needed; \`PYTHON=/path/to/python make ...\` names one." >&2
    exit 1
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(python_of_this_machine)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print(f"python3.{sys.version_info[1]}-venv")')
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "Missing: $package. Install with \`sudo apt-get install $package\`." >&2
            exit 1
        fi
        echo "Installing $package"
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$package" >/dev/null
    fi
    echo "Creating .venv"
    "$python" -m venv .venv
fi

echo "Installing what $lock pins"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$lock"
echo "$wanted" >"$stamp"
