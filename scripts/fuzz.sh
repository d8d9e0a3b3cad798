#!/usr/bin/env bash
# Runs the fuzzers of tests/fuzz: scripts/fuzz.sh [SECONDS] [TARGET...]
# Each target runs for SECONDS (default 60), two at a time, from the committed corpus. New inputs go
# to build/fuzz/corpus, inputs that fail to build/fuzz/findings.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
[[ $# -gt 0 ]] && shift
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
  for folder in tests/fuzz/corpus/*/; do targets+=("$(basename "$folder")"); done
fi
scripts/build.sh fuzz

# Debian's libraries are built without the sanitizer's container checks. Together with code that has
# them they give false alarms.
export ASAN_OPTIONS=detect_container_overflow=0:allocator_may_return_null=1
run() {
  local name=$1
  mkdir -p "build/fuzz/corpus/$name" build/fuzz/findings
  if "build/fuzz/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=3000 \
      -max_len=65536 -artifact_prefix="build/fuzz/findings/$name-" -print_final_stats=1 \
      "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"build/fuzz/$name.log" 2>&1; then
    echo "fuzz $name: $(grep -o 'number_of_executed_units: .*' "build/fuzz/$name.log") in $seconds s, nothing found"
  else
    tail -n 40 "build/fuzz/$name.log"
    echo "fuzz $name: FAILED; to repeat: build/fuzz/tests/fuzz/fuzz_$name build/fuzz/findings/$name-..."
    return 1
  fi
}
failed=0
for ((i = 0; i < ${#targets[@]}; i += 2)); do
  pids=()
  for name in "${targets[@]:i:2}"; do
    run "$name" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
done
exit $failed
