#!/usr/bin/env bash
# What `make check` runs after its set-up: format, scripts, clang-tidy, sanitizers, fuzzers.
# FUZZ_SECONDS=60 per fuzzer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

step() { printf '\n== %s\n' "$*"; }

step "clang-format"
git ls-files -z '*.h' '*.cc' | xargs -0 clang-format --dry-run --Werror

step "shellcheck"
git ls-files -z 'scripts/*.sh' .ci/run | xargs -0 shellcheck

step "clang-tidy"
scripts/build.sh release all bench/all
scripts/tidy.sh

step "AddressSanitizer and UndefinedBehaviorSanitizer"
scripts/build.sh asan
ctest --preset asan

step "ThreadSanitizer: attention and cache"
scripts/build.sh tsan tests/attention/all tests/cache/all
ctest --preset tsan

step "fuzzers, ${FUZZ_SECONDS:-60} seconds each"
scripts/build.sh fuzz tests/fuzz/all
shopt -s nullglob
fuzzers=(build/fuzz/tests/fuzz/*_fuzzer)
[ ${#fuzzers[@]} -gt 0 ] || {
  echo "check: no fuzzer was built in build/fuzz/tests/fuzz" >&2
  exit 1
}
export ASAN_OPTIONS=allocator_may_return_null=0 UBSAN_OPTIONS=print_stacktrace=1
run_fuzzer() {
  local name corpus log
  name=$(basename "$1")
  corpus=build/fuzz/corpus/$name
  log=build/fuzz/$name.log
  mkdir -p "$corpus"
  if ! "$1" -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=2048 -timeout=10 \
    -artifact_prefix="build/fuzz/$name-" "$corpus" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "check: $name found something, its input is build/fuzz/$name-*" >&2
    return 1
  fi
  echo "$name: $(sed -n 's/^Done \([0-9]*\) runs.*/\1 runs, no finding/p' "$log")"
}
export -f run_fuzzer
# shellcheck disable=SC2016
printf '%s\0' "${fuzzers[@]}" | xargs -0 -n 1 -P "$jobs" bash -c 'run_fuzzer "$1"' run

printf '\ncheck: all passed\n'
