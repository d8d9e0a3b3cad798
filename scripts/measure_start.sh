#!/usr/bin/env bash
# Measures the time from the start of the command to the first token, and each rank's peak memory
# compared with its plan:
#   scripts/measure_start.sh MODEL [OPTIONS OF tandem generate...]
# Prints the median of five starts, after one start that fills the page cache and the packed cache:
#   scripts/measure_start.sh MODEL --dtype int4 --packed-cache DIR
# Needs jq. Keep the machine idle.
set -euo pipefail
command -v jq >/dev/null || {
  echo "measure_start.sh: jq is missing; to install it: apt-get install jq" >&2
  exit 69
}
binary=${TANDEM_BINARY:-$(dirname "$0")/../build/release/tandem}
repeats=${REPEATS:-5}

# The prompt is token ids, so that the model needs no tokenizer. Without --json, generate prints the
# token at once and not only after the world has ended.
first_token() {
  local begin=$EPOCHREALTIME
  "$binary" generate "$@" --prompt-ids 1,2,3,4 --max-tokens 1 --ignore-eos --temperature 0 |
    { read -r -n 1 _ || true; echo "$begin $EPOCHREALTIME"; cat >/dev/null; } |
    awk '{printf "%.3f\n", $2 - $1}'
}

first_token "$@" >/dev/null
for _ in $(seq "$repeats"); do first_token "$@"; done | sort -n |
  awk '{t[NR] = $1} END {printf "start to first token: %.2f s (%.2f to %.2f)\n", t[int((NR + 1) / 2)], t[1], t[NR]}'
"$binary" generate "$@" --prompt-ids 1,2,3,4 --max-tokens 32 --ignore-eos --temperature 0 --json |
  jq -r '.ranks | to_entries[] | "rank \(.key): peak \(.value.peak_memory / 1048576 | floor) MiB, plan \(.value.planned_bytes / 1048576 | floor) MiB, ratio \(.value.peak_memory / .value.planned_bytes * 1000 | round / 1000)"'
