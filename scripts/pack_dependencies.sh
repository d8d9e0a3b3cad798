#!/usr/bin/env bash
# Packs the sources of the libraries that the core needs (Abseil, Highway, PCRE2, xxHash,
# nlohmann-json, GoogleTest), for a machine that has neither these libraries nor a network:
#   scripts/pack_dependencies.sh [ARCHIVE]      build/dependencies/sources.tar.gz by default
# Runs on Debian with scripts/packages.txt installed; the sources come from apt's mirrors. Copy the
# archive with the checkout; scripts/gpu_check.sh unpacks it.
set -euo pipefail
cd "$(dirname "$0")/.."

archive=$(realpath -m "${1:-build/dependencies/sources.tar.gz}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$(dirname "$archive")" "$work"/{apt/lists/partial,apt/cache/archives/partial,debs,tree/include}

# The mirrors of this system, but their source packages.
shopt -s nullglob
for list in /etc/apt/sources.list.d/*.sources; do
  sed -E 's/^Types:.*/Types: deb-src/' "$list" > "$work/apt/$(basename "$list")"
done
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [[ -f $list ]] && sed -nE 's/^deb(-src)?[[:space:]]/deb-src /p' "$list" > "$work/apt/$(basename "$list")"
done
apt=(-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/apt" -o APT::Sandbox::User=root
  -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache")
apt-get "${apt[@]}" update
(cd "$work/debs" && apt-get "${apt[@]}" source --download-only --tar-only abseil highway pcre2 >/dev/null)

unpack() {  # PACKAGE FOLDER PATTERN...: unpacks the files that match, without the archive's top folder
  mkdir -p "$work/tree/$2"
  tar -xf "$work/debs/$1"_*.orig.tar.* -C "$work/tree/$2" --strip-components=1 --wildcards "${@:3}"
}
unpack abseil abseil '*/CMakeLists.txt' '*/CMake/*' '*/absl/*' '*/LICENSE'
unpack highway highway '*/hwy/*' '*/LICENSE'
unpack pcre2 pcre2.whole '*/src/*' '*/LICENCE'
rm -rf "$work"/tree/highway/hwy/{contrib,examples,tests}
find "$work/tree" \( -name '*_test.cc' -o -name '*_benchmark.cc' -o -name 'nanobenchmark.*' -o -name 'BUILD.bazel' \) -delete

# The steps of PCRE2's guide NON-AUTOTOOLS-BUILD, without the just-in-time compiler.
whole=$work/tree/pcre2.whole
pcre2=$work/tree/pcre2
mkdir -p "$pcre2"
cp "$whole"/src/*.h "$whole"/LICENCE "$pcre2"
cp "$whole"/src/config.h.generic "$pcre2"/config.h
cp "$whole"/src/pcre2.h.generic "$pcre2"/pcre2.h
cp "$whole"/src/pcre2_chartables.c.dist "$pcre2"/pcre2_chartables.c
# The last two are included by jit_compile.
for part in auto_possess compile config context convert dfa_match error extuni find_bracket jit_compile \
    maketables match match_data newline ord2utf pattern_info script_run serialize string_utils study \
    substitute substring tables ucd ucptables valid_utf xclass jit_match jit_misc; do
  cp "$whole/src/pcre2_$part.c" "$pcre2"
done
rm -rf "$whole"
cp -r /usr/include/nlohmann /usr/include/xxhash.h "$work/tree/include"
[[ -f /usr/include/xxh3.h ]] && cp /usr/include/xxh3.h "$work/tree/include"
cp -r /usr/src/googletest "$work/tree/googletest"
find "$work/tree/googletest" -depth \( -name test -o -name samples -o -name docs \) -exec rm -rf {} +

tar -czf "$archive.new" -C "$work/tree" .
mv "$archive.new" "$archive"
echo "$archive: $(du -h "$archive" | cut -f1)"
