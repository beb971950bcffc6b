#!/usr/bin/env python3
"""What limits a linear KVzap surrogate: R2 by the number of training prompts, from a folder of samples.

    python3 bench/kvzap_r2.py FOLDER        (numpy; FOLDER is the --work of `pith calibrate --kvzap`)

Ridge regression as `pith calibrate --kvzap linear` does it, in double precision, on every 8th, 4th,
2nd and all of the training prompts; one penalty for all layers, chosen on the validation prompts. R2
is the mean over layers and KV heads: on the samples trained on, on the held-out prompts, and on these
with each prompt's own mean taken out of scores and errors.
"""
import json
import pathlib
import sys

import numpy as np

PENALTIES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0]


class Shard:
    def __init__(self, file):
        raw = np.memmap(file, mode="r")
        length = int(raw[:8].view("<u8")[0])
        header = json.loads(raw[8 : 8 + length].tobytes())

        def tensor(name, dtype):
            begin, end = header[name]["data_offsets"]
            return raw[8 + length + begin : 8 + length + end].view(dtype).reshape(header[name]["shape"])

        self.hidden = tensor("hidden", "<f2")  # [n_layers, n, n_embd]
        self.scores = tensor("log_scores", "<f4")  # [n_layers, n_kv_heads, n]

    def layer(self, i):
        return self.hidden[i].astype(np.float32), self.scores[i].T.astype(np.float64)


def join(parts):
    prompt = np.repeat(np.arange(len(parts)), [len(y) for _, y in parts])
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), prompt


def prompt_means(values, prompt):
    return np.stack([values[prompt == p].mean(0) for p in range(prompt.max() + 1)])[prompt]


def r2(error, y):
    return 1 - (error**2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)


def study(folder):
    prompts = json.loads((folder / "manifest.json").read_text())["prompts"]
    split = {}
    for i, prompt in enumerate(prompts):
        split.setdefault(prompt["split"], []).append(Shard(folder / f"prompt-{i:05}.safetensors"))
    n_train = len(split["train"])
    steps = [s for s in (8, 4, 2, 1) if n_train // s > 0]
    n_layers = split["train"][0].hidden.shape[0]
    result = {s: np.zeros((4, len(PENALTIES), n_layers)) for s in steps}
    for layer in range(n_layers):
        parts = [shard.layer(layer) for shard in split["train"]]
        shift = parts[0][0].mean(0)
        valid = join([shard.layer(layer) for shard in split["validation"]])
        held = join([shard.layer(layer) for shard in split["held_out"]])
        sums = []
        for x, y in parts:
            x = x - shift
            sums.append((x.T @ x, x.sum(0, dtype=float), x.T @ y, y.sum(0), (y * y).sum(0), len(y)))
        for step in steps:
            xx, x, xy, y, yy, n = (sum(np.asarray(s[i], float) for s in sums[::step])
                                   for i in range(6))
            values, vectors = np.linalg.eigh(xx / n - np.outer(x, x) / n**2)
            projected = vectors.T @ (xy / n - np.outer(x, y) / n**2)
            for p, penalty in enumerate(PENALTIES):
                w = vectors @ (projected / (values + penalty * values.mean())[:, None])
                b = (y - w.T @ x) / n
                rest = yy - 2 * (w * xy).sum(0) - 2 * b * y + (w * (xx @ w)).sum(0)
                rest += 2 * b * (w.T @ x) + n * b * b
                out = result[step][:, p, layer]
                out[0] = (1 - rest / (yy - y * y / n)).mean()
                out[1] = r2(valid[1] - ((valid[0] - shift) @ w + b), valid[1]).mean()
                error = held[1] - ((held[0] - shift) @ w + b)
                out[2] = r2(error, held[1]).mean()
                inner = held[1] - prompt_means(held[1], held[2])
                out[3] = r2(error - prompt_means(error, held[2]), inner).mean()
        print(f"layer {layer + 1} of {n_layers}", end="\r", file=sys.stderr)
    print("| prompts | penalty | trained on | held out | held out, without prompts' means |")
    print("| --- | --- | --- | --- | --- |")
    for step in steps:
        best = result[step][1].mean(-1).argmax()
        trained, _, out, inner = result[step][:, best].mean(-1)
        print(f"| {len(split['train'][::step])} | {PENALTIES[best]:g} | {trained:.3f} | {out:.3f} | "
              f"{inner:.3f} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    study(pathlib.Path(sys.argv[1]))
