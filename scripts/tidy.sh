#!/usr/bin/env bash
# clang-tidy over our sources, skipping those that were clean and have not changed since, nor any
# header. Uses the compile commands of build/release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export stamps=build/tidy
mkdir -p "$stamps"

common=$(git ls-files -z '*.h' .clang-tidy | xargs -0 cat | cksum)
export common

tidy_one() {
  local file=$1 key stamp
  stamp=$stamps/${file//\//_}
  key="$common $(cksum <"$file")"
  [ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || return 0
  local arguments=()
  # The analyzer follows our calls into Eigen's templates, and finds there what is none.
  if grep -q '<Eigen/\|<eigen3/' "$file"; then
    local word
    for word in -Xclang -analyzer-config -Xclang c++-template-inlining=false; do
      arguments+=("--extra-arg=$word")
    done
  fi
  clang-tidy --quiet -p build/release "${arguments[@]}" "$file" 2>/dev/null || return 1
  printf '%s\n' "$key" >"$stamp"
}
export -f tidy_one

# shellcheck disable=SC2016
# Only what the release build compiles: the fuzzers and the example have no commands there.
git ls-files 'src/*.cc' 'bench/*.cc' 'tests/*.cc' |
  while read -r file; do
    if grep -qF "/$file\"" build/release/compile_commands.json; then printf '%s\0' "$file"; fi
  done | xargs -0 -r -n 1 -P "$jobs" bash -c 'tidy_one "$1"' tidy
