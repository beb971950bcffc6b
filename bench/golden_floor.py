#!/usr/bin/env python3
"""What llama.cpp on this machine has against its own golden logits from another: the floor for anyone.

    .venv-peers/bin/python bench/golden_floor.py        (after `make peers`)
"""
import json
import pathlib
import struct

import llama_cpp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
DTYPES = {"I32": "<i4", "F32": "<f4"}


def read_safetensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    return {
        name: np.frombuffer(data[slice(*t["data_offsets"])], DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
        if name != "__metadata__"
    }


def log_normalise(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


golden = read_safetensors(ROOT / "tests/data/logits.safetensors")
tokens, top = golden["tokens"].tolist(), golden["top_ids"]
for flash in (True, False):
    model = llama_cpp.Llama(
        str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"), n_ctx=1024, n_batch=1024,
        n_ubatch=512, n_threads=2, logits_all=True, flash_attn=flash, verbose=False)
    model.eval(tokens)
    log_p = log_normalise(np.array(model.scores[: len(tokens)], dtype=np.float64))
    nll = -log_p[np.arange(len(tokens) - 1), tokens[1:]].mean()
    wanted = log_normalise(golden["top_logprobs"].astype(np.float64))
    found = log_normalise(np.take_along_axis(log_p, top, 1))
    kl = (np.exp(wanted) * (wanted - found)).sum(1).mean()
    same = (log_p.argmax(-1) == top[:, 0]).mean()
    print(f"flash attention {flash}: mean NLL {nll:.4f} (golden {golden['nll'].mean():.4f}), "
          f"mean KL over the top 32 {kl:.4f}, same top {same:.1%}")
    del model
