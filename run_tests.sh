#!/usr/bin/env bash
# Sets up what is missing, then passes the tests. Options go to pytest: ./run_tests.sh -k attention
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$("$here/setup_environment.sh" --dev --print-python)"
cd "$here"
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
