#!/usr/bin/env bash
# Build the wheel, install it into an empty environment and use it from another directory, where
# nothing of the checkout can be imported or found by accident.
#
# usage: scripts/check_wheel.sh [PYTHON]     PYTHON: an interpreter that has `build`
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
[[ $python != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export WANDB_MODE=offline HF_HUB_OFFLINE=1

say() { echo "wheel check: $*"; }
install() {
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"
}

say "build"
(cd "$root" && "$python" -m build --wheel --outdir "$work/dist" >"$work/build.log" 2>&1) ||
  { cat "$work/build.log"; exit 1; }

say "install $(basename "$work"/dist/*.whl)"
"$python" -m venv "$work/venv"
install "$(grep '^torch==' "$root/requirements.lock")"
install --constraint "$root/requirements.lock" "$work"/dist/*.whl

mkdir "$work/elsewhere"
cd "$work/elsewhere"
frontrunner() { "$work/venv/bin/frontrunner" "$@"; }

say "frontrunner --help, list, check"
frontrunner --help >/dev/null
frontrunner list methods
frontrunner check

say "a tiny run, and its comparison"
frontrunner run training.steps=20 training.rounds=2 logger=none output=runs
frontrunner compare runs
test -s runs/compare/report.html
say "passed"
