#!/usr/bin/env python3
"""KVzap surrogates, ours in kvpress's own class and its own in pith: the scores must be the same.

    python3 -m venv .deps/kvpress
    .deps/kvpress/bin/pip install -r scripts/requirements-kvpress.txt
    .deps/kvpress/bin/python bench/peer_kvzap.py [SURROGATE.pithcal ...]    (after `make build`)

A surrogate of ours becomes a folder that `KVzapModel.from_pretrained` loads: the tensors have its
names already, config.json says the shape. The other way round a KVzapModel of random weights, linear
and mlp, in f32 and bf16, is saved by kvpress and read by pith as it is. Both score the same random
hidden states; the largest difference, relative to the root mean square of a head's scores without
their mean, must stay below 1e-5. kvpress computes in double precision here, from the stored weights.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from kvpress.presses.kvzap_press import KVzapConfig, KVzapModel
from safetensors.torch import load_file, save_file
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "calibrations/SmolLM2-135M-Instruct.Q4_1.pithcal"
logging.disable_progress_bar()
N_TOKENS = 301
TOLERANCE = 1e-5


def export(surrogate, folder):
    """Our file as a folder of KVzapModel's."""
    tensors = {k: v for k, v in load_file(surrogate).items() if k.startswith("layers.")}
    is_mlp = "layers.0.0.weight" in tensors
    first = tensors["layers.0.0.weight" if is_mlp else "layers.0.weight"]
    config = KVzapConfig(
        input_dim=first.shape[1],
        hidden_dim=first.shape[0] if is_mlp else None,
        output_dim=tensors["layers.0.2.weight" if is_mlp else "layers.0.weight"].shape[0],
        n_modules=len(tensors) // (4 if is_mlp else 2))
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return "mlp" if is_mlp else "linear"


def scores_of_pith(binary, surrogate, hidden, folder):
    save_file({"hidden": hidden.contiguous()}, folder / "hidden.safetensors")
    subprocess.run([binary, surrogate, folder / "hidden.safetensors", folder / "scores.safetensors"],
                   check=True)
    return load_file(folder / "scores.safetensors")["scores"].double()


def compare(name, binary, surrogate, folder):
    """`folder` is what kvpress loads, `surrogate` what pith does."""
    model, info = KVzapModel.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            sys.exit(f"{name}: kvpress says {kind}: {info[kind]}")
    config = model.config
    torch.manual_seed(7)
    hidden = torch.randn(config.n_modules, N_TOKENS, config.input_dim)
    with torch.no_grad():
        theirs = model.eval()(hidden.double().transpose(0, 1)).permute(1, 2, 0)
    ours = scores_of_pith(binary, surrogate, hidden, folder)
    spread = (theirs - theirs.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
    error = ((ours - theirs).abs() / spread).max().item()
    ok = ours.shape == theirs.shape and error <= TOLERANCE  # and not for NaN
    print(f"{'same' if ok else 'NOT THE SAME'}: {name}, {config.n_modules} layers, "
          f"{config.input_dim} -> {config.hidden_dim or '-'} -> {config.output_dim}, "
          f"largest relative difference {error:.1e}")
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("surrogates", nargs="*", type=pathlib.Path, default=[DEFAULT])
    parser.add_argument("--binary", type=pathlib.Path,
                        default=ROOT / "build/release/bench/kvzap_scores")
    arguments = parser.parse_args()
    ok = True
    for surrogate in arguments.surrogates:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            form = export(surrogate, folder)
            ok &= compare(f"{surrogate.name} ({form}) in kvpress", arguments.binary, surrogate, folder)
    for hidden_dim in (None, 72):
        for dtype in (torch.float32, torch.bfloat16):
            with tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name)
                torch.manual_seed(1)
                KVzapModel(KVzapConfig(input_dim=576, output_dim=3, n_modules=30,
                                       hidden_dim=hidden_dim)).to(dtype).save_pretrained(folder)
                form = "linear" if hidden_dim is None else "mlp"
                kind = json.loads((folder / "config.json").read_text()).get("dtype", dtype)
                ok &= compare(f"a random KVzapModel ({form}, {kind}) in pith", arguments.binary,
                              folder / "model.safetensors", folder)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
