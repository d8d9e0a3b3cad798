#!/usr/bin/env bash
# Installs, builds and runs every test: scripts/test.sh [PRESET] [CTEST ARGUMENTS...]
# The presets asan-ubsan and tsan run the unit tests and the tests of ranks as threads.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-release}
[[ $# -gt 0 ]] && shift
scripts/build.sh "$preset"
exec ctest --preset "$preset" "$@"
