#!/usr/bin/env bash
# Checks the template, the state machine and their agreement with the code: without an AWS account, without Docker.
#
#   infra/check.sh                  all checks
#   infra/check.sh --mutations      and breaks template, machine and code in known ways, each of which must be seen
#
# Needs Python 3.11 and Node 20 or newer. What it takes from PyPI and npm is pinned in infra/checks and kept in target/infra.
set -euo pipefail
cd "$(dirname "$0")/.."
pins=infra/checks
cache=$PWD/target/infra

wanted=$(cat $pins/requirements.txt $pins/package-lock.json | cksum)
if [ "$(cat "$cache/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$cache"
    mkdir -p "$cache"
    cp $pins/package.json $pins/package-lock.json "$cache"
    npm ci --prefix "$cache" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement $pins/requirements.txt
    echo "$wanted" >"$cache/installed"
fi

export NODE_PATH=$cache/node_modules PYTHONDONTWRITEBYTECODE=1 AWS_EC2_METADATA_DISABLED=true
exec "$cache/venv/bin/python" $pins/run.py "$@"
