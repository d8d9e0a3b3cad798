#!/usr/bin/env bash
# Installs missing packages and builds: scripts/build.sh [PRESET] [TARGET...]
# The default preset, release, leaves the binary at build/release/tandem.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-release}
[[ $# -gt 0 ]] && shift
scripts/install_packages.sh
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" -Wno-dev >/dev/null
if [[ $# -gt 0 ]]; then
  cmake --build --preset "$preset" --target "$@"
else
  cmake --build --preset "$preset"
fi
