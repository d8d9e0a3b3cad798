#!/usr/bin/env bash
# Builds the core on a machine with an NVIDIA GPU, tests it, measures it, and writes one report:
#   scripts/gpu_check.sh [OPTIONS] [REPORT]     build/gpu/report.txt by default
# Needs the CUDA toolkit, CMake and a C++ compiler; no MPI, no gRPC, no network. The libraries come from
# build/dependencies/sources.tar.gz (which scripts/pack_dependencies.sh makes on another machine) if
# that file exists, else from the system.
#   --minutes N     limit of the whole (9); a stage without enough time left is skipped
#   --stages A,B    of: build, tests, sanitizer, bench, pytorch, formats, products, deterministic,
#                   streamed, ranks, shards, more (all)
#   --shape NAME    shape to measure (8b)
#   --build FOLDER  build folder (build/gpu)
#   --arch N        compute capability to build for, such as 90 (the GPU's)
#   --build-only    only builds, for machines without a GPU (which also need --arch)
# Every stage adds its results to the report at once, so that they survive an interruption. Lines that
# begin with { are JSON records: grep '^{' REPORT. A failed stage does not stop the others. Exits with
# 0 if no stage failed, 1 if one did, 77 if there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
started=$SECONDS

minutes=9
stages=build,tests,sanitizer,bench,pytorch,formats,products,deterministic,streamed,ranks,shards,more
shape=8b
arch=
build=build/gpu
build_only=false
report=
usage() { echo "gpu_check: found '$1', expected $2" >&2; exit 64; }
while [[ $# -gt 0 ]]; do
  case $1 in
    --minutes | --stages | --shape | --arch | --build)
      [[ $# -ge 2 ]] || usage "$1" "a value after it"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --build-only) build_only=true; shift ;;
    --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \?//'; exit 0 ;;
    -*) usage "$1" "one of the options of --help" ;;
    *) report=$1; shift ;;
  esac
done
[[ $minutes =~ ^[0-9]+$ ]] || usage "--minutes $minutes" "a whole number"

build=$(realpath -m "$build")
report=$(realpath -m "${report:-$build/report.txt}")
export PATH=$PATH:/usr/local/cuda/bin

smi() { nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null | head -1; }
gpu=$(smi name)
if [[ -z $gpu ]]; then
  if ! $build_only; then
    echo "gpu_check: no GPU: nvidia-smi lists none (--build-only --arch 90 builds without one)" >&2
    exit 77
  fi
  [[ -n $arch ]] || usage "no GPU" "--arch, such as 90"
fi
[[ -n $arch ]] || arch=$(smi compute_cap | tr -d .)

mkdir -p "$build/logs" "$(dirname "$report")"
[[ ! -s $report ]] || mv "$report" "$report.previous"
: > "$report"
failures=0
say() { echo "$*" | tee -a "$report"; }
elapsed() { echo $((SECONDS - started)); }
left() { echo $((minutes * 60 - $(elapsed))); }
wanted() { [[ ,$stages, == *,$1,* ]]; }
version() { "$@" 2>/dev/null | head -1; }

# stage NAME LIMIT LEAST COMMAND...: takes at most LIMIT seconds, and is skipped if fewer than LEAST are
# left. The whole output goes to logs/; `tell` says which part goes into the report: all or its end.
tell=end
stage() {
  local name=$1 limit=$2 least=$3 log=$build/logs/${1// /_}.log
  shift 3
  local rest status begin code
  rest=$(($(left) - 5))
  if [[ $rest -lt $least ]]; then
    say "== $name: skipped, $rest s are left"
    say "{\"what\":\"stage\",\"stage\":\"$name\",\"status\":\"skipped\"}"
    return 1
  fi
  [[ $limit -lt $rest ]] || limit=$rest
  say "== $name ($(elapsed) s, $limit s at most)"
  begin=$SECONDS
  if [[ $tell == all ]]; then
    timeout -k 5 "$limit" "$@" 2>&1 | tee "$log" | tee -a "$report"
    code=${PIPESTATUS[0]}
  else
    timeout -k 5 "$limit" "$@" > "$log" 2>&1
    code=$?
  fi
  case $code in
    0) status=passed ;;
    77) status=skipped ;;
    124 | 137) status="timed out" ;;
    *) status="failed with $code" ;;
  esac
  [[ $tell == all ]] || tail -n "$([[ $code == 0 ]] && echo 4 || echo 60)" "$log" | tee -a "$report"
  say "{\"what\":\"stage\",\"stage\":\"$name\",\"status\":\"$status\",\"seconds\":$((SECONDS - begin))}"
  [[ $code == 0 || $code == 77 ]] && return 0
  failures=$((failures + 1))
  return 1
}

# bench NAME LIMIT LEAST ARGUMENTS...: adds the benchmark's table and its JSON records to the report.
bench() {
  tell=all stage "$1" "$2" "$3" "$build/tests/bench/decoder_bench" --json "$report" "${@:4}"
}

say "tandem on a GPU: $(date -u +%FT%TZ), commit $(version git rev-parse --short HEAD)"
say "GPU: ${gpu:-none}, $(smi memory.total) MiB, driver $(smi driver_version), compute capability $(smi compute_cap), clocks $(smi clocks.max.sm)/$(smi clocks.max.mem) MHz, power limit $(smi power.limit) W"
say "host: $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), kernel $(uname -r), $(version ldd --version)"
say "tools: $(version nvcc --version), $(nvcc --version 2>/dev/null | sed -n 's/.*\(release [^,]*\).*/\1/p'); $(version cmake --version); $(version c++ --version); ninja $(version ninja --version); $(version python3 --version)"
say "{\"what\":\"gpu\",\"gpu\":\"${gpu//\"/}\",\"memory_mib\":\"$(smi memory.total)\",\"driver\":\"$(smi driver_version)\",\"compute_capability\":\"$(smi compute_cap)\",\"arch\":\"$arch\"}"

configure_and_build() {
  local archive=build/dependencies/sources.tar.gz arguments=()
  if [[ -f $archive ]]; then
    if [[ ! $build/dependencies/unpacked -nt $archive ]]; then
      rm -rf "$build/dependencies"
      mkdir -p "$build/dependencies"
      tar -xzf "$archive" -C "$build/dependencies" || return
      touch "$build/dependencies/unpacked"
    fi
    arguments+=(-DTANDEM_DEPENDENCIES="$build/dependencies")
  fi
  # Python's CUDA packages may have libraries that a small toolkit lacks.
  local packages
  packages=$(python3 -c 'import glob, nvidia; print(";".join(f for p in nvidia.__path__ for f in glob.glob(p + "/*")))' \
    2>/dev/null)
  [[ -n $packages ]] && arguments+=(-DTANDEM_CUDA_HINTS="$packages")
  command -v ninja >/dev/null && [[ ! -f $build/Makefile ]] && arguments+=(-G Ninja)
  cmake -S . -B "$build" -Wno-dev -DCMAKE_BUILD_TYPE=Release -DTANDEM_CORE_ONLY=ON -DTANDEM_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$arch" -DTANDEM_EMULATED_TESTS=OFF "${arguments[@]}" || return
  # The benchmark first: a test that does not compile must not prevent measuring.
  cmake --build "$build" -j "${TANDEM_JOBS:-$(nproc)}" --target decoder_bench || return
  cmake --build "$build" -j "${TANDEM_JOBS:-$(nproc)}" --target gpu_tests cuda_linear_bench \
    kernels_test attention_test -- -k $([[ -f $build/build.ninja ]] && echo 0)
}
export -f configure_and_build
# If kernels were loaded at their first launch, ranks that share a GPU could wait for each other
# without end.
export build arch CUDA_MODULE_LOADING=EAGER CUDA_MODULE_DATA_LOADING=EAGER

if wanted build; then
  # At most two thirds of the time, unless nothing else follows.
  limit=$((minutes * 40))
  $build_only && limit=$((minutes * 60))
  stage build "$limit" 30 bash -c configure_and_build
fi
if $build_only; then
  exit $((failures > 0))
fi
if [[ ! -x $build/tests/bench/decoder_bench ]]; then
  say "gpu_check: $build has no decoder_bench: nothing can be measured; --stages build builds it"
  exit 1
fi

if wanted tests; then
  stage "tests on the GPU" 120 20 ctest --test-dir "$build" -L gpu -j 4 --timeout 60 --output-on-failure
  # Only those that were built.
  stage "tests of kernels on the host" 40 20 ctest --test-dir "$build" -L unit -j 8 --timeout 30 \
    --output-on-failure
fi
wanted bench && bench "bench bf16" 100 40 --shape "$shape" --formats bf16 --modes graphs,issued
wanted pytorch && tell=all stage "PyTorch" 60 30 python3 scripts/compare_pytorch.py --shape "$shape"
wanted formats && bench "bench of few layers" 75 30 --shape "$shape" --layers 4 --modes graphs \
  --formats bf16,int8,int4,fp8,fp16
if wanted products && [[ -x $build/tests/bench/cuda_linear_bench ]]; then
  tell=all stage "kernels of a product" 40 20 "$build/tests/bench/cuda_linear_bench" \
    --formats bf16,int8,int4,fp8
fi
wanted deterministic && bench "bench deterministic" 50 25 --shape "$shape" --layers 4 \
  --modes graphs,deterministic --prefill 2048
if wanted formats; then
  for kv_dtype in fp16 int8; do
    bench "attention over $kv_dtype" 20 10 --shape "$shape" --layers 1 --modes graphs --what machine,attention \
      --kv-dtype "$kv_dtype"
  done
fi
wanted streamed && bench "bench of streamed weights" 45 20 --shape "$shape" --layers 4 --modes streamed \
  --what machine,load,decode --batches 1,64
# Two ranks that share the GPU: correctness, and the cost of the exchange. The ranks are threads, so
# that only peer access works, which takes steps of at most 16 tokens of any shape.
wanted ranks && bench "two ranks on one GPU" 40 20 --shape "$shape" --layers 4 --tp 2 --modes graphs,deterministic \
  --what decode --batches 1,16 --chunk 16
if wanted sanitizer && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    stage "compute-sanitizer $tool" 45 25 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$build/tests/kernels/cuda_kernels_gpu_test" --gtest_brief=1
  done
fi
if wanted shards; then
  for ranks in 2 4 8; do
    bench "a rank of $ranks alone" 40 20 --shape "$shape" --layers 8 --shard "1/$ranks" --modes graphs,issued \
      --what machine,decode --batches 1,8
  done
fi
wanted more && bench "bench int4" 120 60 --shape "$shape" --formats int4 --modes graphs

say "== done after $(elapsed) s: $failures stages failed"
echo "report: $report"
exit $((failures > 0))
