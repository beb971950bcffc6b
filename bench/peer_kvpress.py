#!/usr/bin/env python3
"""pith and kvpress on the same model and prompts: what each keeps, answers and predicts.

    python3 -m venv .deps/kvpress
    .deps/kvpress/bin/pip install -r scripts/requirements-kvpress.txt
    .deps/kvpress/bin/python bench/peer_kvpress.py        (after `make build`)

transformers reads the same GGUF into f32. A prompt is essays with a needle in them, cut to --length
tokens: both sides read all of it, then every head evicts down to the same number of entries, once. The
first 4 tokens and the last stay on both sides (and the last 64 of snapkv). From there the next
--following tokens of the essay are predicted, and the question for the needle is answered greedily, with
nothing evicted any more. Q-Filters are those of --calibration on both sides. A side reads the prompt
once: its scorers judge the same keys, which no eviction has touched.

pith multiplies quantised weights with activations that ggml rounds to 8 bits. --f32 has it run the
same weights in f32, so that what differs is the scorers and the f16 cache alone.

Results are kept in --out, prompt by prompt, and the table is of all that are there.
"""
import argparse
import copy
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

import gguf
import torch
from kvpress import (BasePress, ExpectedAttentionPress, KeyDiffPress, KnormPress, QFilterPress,
                     SnapKVPress, TOVAPress)
from kvpress.utils import compute_n_kept
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

logging.disable_progress_bar()
ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "SmolLM2-135M-Instruct.Q4_1"
KEYS = ("crimson-otter", "silent-harbor", "amber-lantern", "hollow-ridge")
QUESTION = ("\nWhat is the special magic number for {} mentioned in the provided text?<|im_end|>\n"
            "<|im_start|>assistant\nThe special magic number for {} mentioned in the provided text "
            "is")
SCORERS = ("knorm", "keydiff", "snapkv", "tova", "expected", "qfilter")
N_SINKS = 4
N_ANSWER = 16


class EveryPress(BasePress):
    """Every press compresses a layer to a cache of its own, and the model goes on with all of it."""

    def __init__(self, ratio, filters):
        self.presses = {
            "knorm": KnormPress(ratio), "keydiff": KeyDiffPress(ratio), "snapkv": SnapKVPress(ratio),
            "tova": TOVAPress(ratio), "expected": ExpectedAttentionPress(ratio, n_sink=N_SINKS),
            "qfilter": QFilterPress(ratio)}
        self.presses["qfilter"].q_filters = filters  # not those of a hub
        self.caches = {name: DynamicCache() for name in SCORERS}
        self.kept = {name: [] for name in SCORERS}  # positions [layer][head][n]
        for name in SCORERS:
            self.watch(name)

    def watch(self, name):
        """Protects what is protected on both sides, and notes what is kept."""
        press = self.presses[name]
        score = press.score

        def watching(module, hidden, keys, *rest):
            scores = score(module, hidden, keys, *rest)
            scores[..., :N_SINKS] = torch.inf
            scores[..., -1] = torch.inf
            n = compute_n_kept(keys.shape[2], press.compression_ratio)
            self.kept[name].append(scores.topk(n, dim=-1).indices[0].sort().values.tolist())
            return scores

        press.score = watching

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        for name in SCORERS:
            compressed = self.presses[name].compress(module, hidden_states, keys, values, attentions,
                                                     kwargs)
            self.caches[name].update(*compressed, module.layer_idx)
        return keys, values


@torch.no_grad()
def theirs(model, ratio, filters, prompt):
    """As pith's answer: one of the full cache, then one of each scorer."""
    press = EveryPress(ratio, filters)
    full = DynamicCache()
    context = torch.tensor([prompt["context"]])
    with press(model):
        last = model(context, past_key_values=full, logits_to_keep=1).logits[0]
    return [{"kept": press.kept.get(name, []), **go_on(model, cache, last, prompt)}
            for name, cache in {"full": full, **press.caches}.items()]


def go_on(model, cache, last, prompt):
    def read(tokens, at, on):
        ids = torch.tensor([tokens])
        positions = torch.arange(at, at + len(tokens))[None]
        return model(ids, past_key_values=on, position_ids=positions).logits[0]

    n = len(prompt["context"])
    following = torch.tensor(prompt["following"])
    logits = torch.cat([last, read(prompt["following"][:-1], n, copy.deepcopy(cache))])
    nll = torch.nn.functional.cross_entropy(logits.double(), following, reduction="none").tolist()
    answer, tokens, at = [], prompt["question"], n
    for _ in range(N_ANSWER):
        written = int(read(tokens, at, cache)[-1].argmax())
        answer.append(written)
        at, tokens = at + len(tokens), [written]
        if written == model.config.eos_token_id:
            break
    return {"nll": nll, "answer": answer}


def make_prompt(number, arguments, tokenizer):
    """Number i hides its needle at a depth of its own in essays of an order of its own."""
    chance = random.Random(arguments.seed * 1000 + number)
    essays = sorted(arguments.texts.glob("*.txt"))
    if not essays:
        sys.exit(f"no essays in {arguments.texts}")
    chance.shuffle(essays)
    hay = "\n\n".join(file.read_text(errors="replace") for file in essays)
    hay = hay[: (arguments.length + arguments.following) * 8]
    key, value = chance.choice(KEYS), str(chance.randrange(1000000, 10000000))
    wanted = (number % 4 + 0.5) / 4 * arguments.length * 4  # a token has about 4 characters
    place = min((m.end() for m in re.finditer(r"[.!?] ", hay)), key=lambda p: abs(p - wanted))
    needle = f"One of the special magic numbers for {key} is: {value}. "
    text = ("<|im_start|>user\nSome special magic numbers are hidden within the following text. Make "
            "sure to memorize it. I will quiz you about the numbers afterwards.\n"
            + hay[:place] + needle + hay[place:])
    ids = tokenizer(text, add_special_tokens=False).input_ids
    end = arguments.length + arguments.following
    assert len(ids) >= end
    question = tokenizer(QUESTION.format(key, key), add_special_tokens=False).input_ids
    return {"context": ids[: arguments.length], "following": ids[arguments.length:end],
            "question": question, "value": value}


def dequantised(model, target):
    """The model with f32 weights, written once."""
    if target.exists():
        return target
    reader = gguf.GGUFReader(model)
    part = target.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(part, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        is_list = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, field.contents(), field.types[0],
                             field.types[-1] if is_list else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)
    return target


def run_prompt(number, arguments, tokenizer, model, filters, pith_model):
    prompt = make_prompt(number, arguments, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        # As published: with no word of which model they are of.
        calibration = pathlib.Path(folder) / "filters.safetensors"
        save_file({"q_filters": filters}, calibration)
        request = {"model": str(pith_model), "calibration": str(calibration),
                   "threads": arguments.threads, "keep": arguments.keep, "n_answer": N_ANSWER,
                   "scorers": SCORERS,
                   **{part: prompt[part] for part in ("context", "following", "question")}}
        done = subprocess.run([arguments.binary], input=json.dumps(request), text=True, check=True,
                              stdout=subprocess.PIPE)
    ours = json.loads(done.stdout)
    record = {"number": number, "length": arguments.length, "keep": arguments.keep,
              "seed": arguments.seed, "following": arguments.following, "f32": arguments.f32,
              "rows": []}
    for name, our, their in zip(["full", *SCORERS], ours,
                                theirs(model, 1 - arguments.keep, filters, prompt)):
        row = {"scorer": name}
        for side, result in (("pith", our), ("kvpress", their)):
            row[side] = {"nll": sum(result["nll"]) / len(result["nll"]),
                         "found": prompt["value"] in tokenizer.decode(result["answer"])}
        row["nll_difference"] = sum(abs(a - b) for a, b in zip(our["nll"], their["nll"])) / len(
            our["nll"])
        row["jaccard"] = [[jaccard(a, b) for a, b in zip(*layers)]
                          for layers in zip(our["kept"], their["kept"])]
        record["rows"].append(row)
    print(f"prompt {number} of {arguments.prompts} is done", file=sys.stderr)
    return record


def jaccard(a, b):
    if len(a) != len(b):
        sys.exit(f"pith keeps {len(a)} entries of a head, kvpress {len(b)}")
    return len(set(a) & set(b)) / len(set(a) | set(b))


def table(records):
    lines = ["| scorer | kept sets: Jaccard, mean | layer least alike | needles, pith and kvpress | "
             "NLL, pith | NLL, kvpress | mean difference of a token's |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    n = len(records)
    for i, name in enumerate(["full", *SCORERS]):
        rows = [record["rows"][i] for record in records]
        alike = ["", ""]
        if name != "full":
            layers = [sum(sum(row["jaccard"][layer]) / len(row["jaccard"][layer]) for row in rows) / n
                      for layer in range(len(rows[0]["jaccard"]))]
            least = min(layers)
            alike = [f"{sum(layers) / len(layers):.4f}", f"{least:.4f} ({layers.index(least)})"]
        found = [sum(row[side]["found"] for row in rows) for side in ("pith", "kvpress")]
        nll = [sum(row[side]["nll"] for row in rows) / n for side in ("pith", "kvpress")]
        lines.append(f"| {name} | {alike[0]} | {alike[1]} | {found[0]}/{n}, {found[1]}/{n} | "
                     f"{nll[0]:.4f} | {nll[1]:.4f} | "
                     f"{sum(row['nll_difference'] for row in rows) / n:.4f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / f"models/{NAME}.gguf")
    parser.add_argument("--calibration", type=pathlib.Path,
                        default=ROOT / f"calibrations/{NAME}.pithcal")
    parser.add_argument("--texts", type=pathlib.Path, default=ROOT / ".deps/texts/essays")
    parser.add_argument("--binary", type=pathlib.Path,
                        default=ROOT / "build/release/bench/peer_kvpress")
    parser.add_argument("--out", type=pathlib.Path,
                        default=ROOT / "build/bench/peer_kvpress.jsonl")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a prompt")
    parser.add_argument("--following", type=int, default=128, help="tokens predicted after it")
    parser.add_argument("--keep", type=float, default=0.5, help="part of each head's entries")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--f32", action="store_true", help="pith runs the weights in f32, too")
    arguments = parser.parse_args()

    same = ("length", "keep", "seed", "following", "f32")
    records = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.out.exists():
        lines = [json.loads(line) for line in arguments.out.read_text().splitlines()]
        records = [r for r in lines if all(r[key] == getattr(arguments, key) for key in same)
                   and r["number"] < arguments.prompts]
    missing = sorted(set(range(arguments.prompts)) - {r["number"] for r in records})
    if missing:
        torch.set_num_threads(arguments.threads)
        folder, file = arguments.model.parent, arguments.model.name
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        model.eval()
        filters = load_file(arguments.calibration)["q_filters"]
        pith_model = arguments.model
        if arguments.f32:
            pith_model = dequantised(
                arguments.model, arguments.out.parent / f"{arguments.model.stem}.f32.gguf")
    for number in missing:
        record = run_prompt(number, arguments, tokenizer, model, filters, pith_model)
        with arguments.out.open("a") as out:
            out.write(json.dumps(record) + "\n")
        records.append(record)
    print(table(records))


if __name__ == "__main__":
    main()
