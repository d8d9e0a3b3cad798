#!/usr/bin/env bash
# Builds the kernels and their tests for AArch64 (NEON) with Debian's cross compiler
# and runs the tests under qemu: scripts/test_aarch64.sh [GOOGLETEST ARGUMENTS...]
# Abseil and Highway for AArch64 are unpacked into the build folder, not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_packages.sh
build=$PWD/build/aarch64
root=$build/root
mkdir -p "$build/obj"

if [[ ! -f $root/done ]]; then
  apt=$build/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs" "$root"
  options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
    -o Dir::State::lists="$apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache")
  apt-get "${options[@]}" update
  (cd "$apt/debs" && apt-get "${options[@]}" download libabsl-dev libhwy-dev libhwy1)
  for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  touch "$root/done"
fi

# Highway's NEON target needs the cryptographic extension. SVE is disabled: Tandem does not support
# vectors of unknown length.
cxx=(aarch64-linux-gnu-g++ -std=c++20 -O2 -march=armv8-a+crypto -ffp-contract=off -fno-math-errno
  '-DHWY_DISABLED_TARGETS=(HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128)'
  -I. -I/usr/src/googletest/googletest/include -I/usr/src/googletest/googletest
  -I/usr/src/googletest/googlemock/include -isystem "$root/usr/include")
sources=(kernels/host_memory.cc kernels/base/{sum_tree,thread_pool}.cc kernels/ref/*.cc kernels/cpu/*.cc
  tests/kernels/{attention,linear,math,ops,sum_tree,thread_pool}_test.cc
  /usr/src/googletest/googletest/src/gtest-all.cc /usr/src/googletest/googletest/src/gtest_main.cc)
objects=()
stale=()
for source in "${sources[@]}"; do
  [[ $source == *_x86.cc || $source == */probe*.cc ]] && continue
  object=$build/obj/$(basename "$source" .cc).o
  objects+=("$object")
  # Any newer header makes all objects stale: there are few, and most sources include them.
  if [[ ! -f $object || -n $(find "$source" kernels tests/support -newer "$object" \
      \( -name '*.h' -o -path "$source" \) -print -quit) ]]; then
    stale+=("$source" "$object")
  fi
done
[[ ${#stale[@]} -eq 0 ]] || printf '%s\n' "${stale[@]}" | xargs -P "$(nproc)" -n 2 \
  sh -c 'out=$1; in=$0; shift; exec '"$(printf '%q ' "${cxx[@]}")"' -c "$in" -o "$out"'

lib=$root/usr/lib/aarch64-linux-gnu
mapfile -t absl < <(ls "$lib"/libabsl_*.a)
"${cxx[@]}" "${objects[@]}" -o "$build/kernels_test" -Wl,--start-group "${absl[@]}" -Wl,--end-group \
  -L"$lib" -lhwy -lpthread
exec qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$lib:/usr/aarch64-linux-gnu/lib" \
  "$build/kernels_test" "$@"
