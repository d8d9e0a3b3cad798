#!/usr/bin/env bash
# Builds Tandem if necessary, serves the demo model on two MPI ranks, and streams answers through a
# gRPC client. It stops everything that it started.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "Building (the first time takes some minutes)"
scripts/build.sh release tandem | { grep -E "error|FAILED" || true; }
tandem=build/release/tandem
model=tests/models/demo
address=127.0.0.1:${TANDEM_DEMO_PORT:-50051}

echo "Starting: tandem serve $model --tp 2 --listen $address"
"$tandem" serve "$model" --tp 2 --listen "$address" &
server=$!
trap 'kill -TERM $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT

ask() {
  echo
  echo "> $1"
  "$tandem" client --addr "$address" --wait-ready 30 --temperature 0 --max-tokens 64 \
    "<|bos|><|user|>$1<|end|><|assistant|>"
}

ask "What is 128 + 256?"
ask "Sort the numbers: 71 8 42 19"
ask "Reverse the letters: t a n d e m"
ask "Tell a story from these facts.
place: hill
thing: map
name: Dan
animal: mouse"

echo
echo "Stopping."
kill -TERM "$server"
wait "$server"
trap - EXIT
