#!/usr/bin/env bash
# Lints the template, translates it, deploys it to moto and runs the state machine: without an AWS account and without Docker.
#
#   infra/check.sh                  all checks
#   infra/check.sh --mutations      also breaks the template and the state machine in known ways; a check must report each
#
# Everything in both files was reviewed and is compared as a whole: after a change, edit infra/checks/reviewed.py, too.
#
# Needs Python 3.11 and Node 20 or newer. Packages from PyPI and npm are pinned in infra/checks and kept in target/infra.
# Whether the template agrees with the code is checked by `cargo test --workspace --test end_to_end infrastructure`.
set -euo pipefail
cd "$(dirname "$0")/.."
pins=infra/checks
cache=$PWD/target/infra

step() {
    local begun=$SECONDS
    printf '%s ... ' "$1"
    shift
    "$@"
    printf '%s s\n' $((SECONDS - begun))
}

wanted=$(cat $pins/requirements.txt $pins/package-lock.json | cksum)
if [ "$(cat "$cache/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing the checkers into target/infra; later runs use them again"
    rm -rf "$cache"
    mkdir -p "$cache"
    cp $pins/package.json $pins/package-lock.json "$cache"
    # The two registries are independent, and pip takes longer.
    npm ci --prefix "$cache" --ignore-scripts --no-audit --no-fund --loglevel=error >"$cache/npm.log" &
    npm=$!
    step "creating a Python environment" python3 -m venv "$cache/venv"
    step "installing $(grep -c == $pins/requirements.txt) Python packages" \
        "$cache/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps --requirement $pins/requirements.txt
    step "installing the npm packages" wait $npm
    echo "$wanted" >"$cache/installed"
fi

# Only the modules that are used are compiled, by the first run.
export NODE_PATH=$cache/node_modules PYTHONPYCACHEPREFIX=$cache/pycache AWS_EC2_METADATA_DISABLED=true
exec "$cache/venv/bin/python" $pins/run.py "$@"
