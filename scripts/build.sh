#!/usr/bin/env bash
# Configures a preset where that is needed and builds it: scripts/build.sh PRESET [TARGET...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=$1
shift

# Ninja configures again by itself when a CMake file changes; what it cannot see is the environment
# and a virtual environment that came or went.
peers=no
[ ! -e .deps/stamp/peers ] || peers=$(cat .deps/stamp/peers)
ggml=none
[ ! -e .deps/stamp/ggml ] || ggml=$(cat .deps/stamp/ggml)
wanted="${GGML_DIR:-} ${CXX:-} ${CXXFLAGS:-} peers:$peers ggml:$ggml"
stamp=build/$preset/.configured
if [ ! -e "build/$preset/build.ninja" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  log=build/$preset.configure.log
  mkdir -p "build/$preset"
  rm -f "build/$preset/CMakeCache.txt"
  if ! cmake --preset "$preset" >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
  fi
  printf '%s\n' "$wanted" >"$stamp"
fi

ninja=(ninja -C "build/$preset" "$@")
# Nothing to do says nothing.
if [ "$("${ninja[@]}" -n 2>/dev/null | tail -n 1)" = "ninja: no work to do." ]; then exit 0; fi
exec "${ninja[@]}"
