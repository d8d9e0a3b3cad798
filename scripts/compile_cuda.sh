#!/usr/bin/env bash
# Compiles every kernel of kernels/cuda with nvcc, once for each compute capability:
#   scripts/compile_cuda.sh FOLDER 75 90
# Objects go to FOLDER. Exits with 77 (skipped) if nvcc is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$1
shift
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
if [[ ! -x $nvcc ]]; then
  echo "skipped: no nvcc" >&2
  exit 77
fi
mkdir -p "$out"
for source in kernels/cuda/*.cu; do
  for capability in "$@"; do
    "$nvcc" -std=c++20 -O3 -fmad=false --expt-relaxed-constexpr -I. -Ikernels/cuda/device -gencode "arch=compute_$capability,code=sm_$capability" \
      -Werror all-warnings -c "$source" -o "$out/$(basename "$source").$capability.o"
  done
done
