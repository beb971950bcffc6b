#!/usr/bin/env python3
"""What the cache holds while a model writes 4,000 tokens, and what that costs in prediction.

    bench/long_writing.py [--program build/release/bench/long_writing] [--out DIR]

Writes under a threshold, the one that keeps about a quarter of other texts, and under one that is
steered to a quarter (--keep 25% --budget threshold); then reads a fixed text token by token, as if it
were written, with the full cache and with both. Prints a Markdown table, and writes long_writing.json
and long_writing.svg. What is done already is taken from DIR."""

import argparse
import json
import os
import struct
import subprocess

import plots

PROMPT = (
    "<|im_start|>user\nWrite a long story about a lighthouse keeper, his daughter and the sea. "
    "Tell it in many chapters.<|im_end|>\n<|im_start|>assistant\n"
)
SETTLED = 4  # windows and sinks are negligible once the fraction is this many times as much
KEPT_ALWAYS = 132
COLORS = {"tau": "#b5541c", "25%": "#1c6fb5", "100%": "#777777"}


def quantile(calibration, part):
    """The worth that `part` of all are below, as the calibration has it."""
    with open(calibration, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        begin, end = header["kvzap.quantiles"]["data_offsets"]
        file.seek(begin, os.SEEK_CUR)
        values = struct.unpack(f"<{(end - begin) // 4}f", file.read(end - begin))
    at = part * (len(values) - 1)
    low = min(int(at), len(values) - 2)
    return values[low] + (at - low) * (values[low + 1] - values[low])


def measure(flags, name, *arguments):
    file = os.path.join(flags.out, f"long_writing-{name}.json")
    if not os.path.exists(file):
        command = [flags.program, "-m", flags.model, "--calibration", flags.calibration,
                   "--prompt", PROMPT, "--seed", str(flags.seed), "-t", str(flags.threads),
                   *arguments]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        with open(file, "wb") as target:
            target.write(out)
    with open(file, encoding="utf-8") as source:
        return json.load(source)


def kept(point):
    return point["entries"] / point["entries_full"]


def picture(runs, tau, out):
    drawn = plots.panels(2, 8, "long_writing")
    if drawn is None:
        return
    figure, (bytes_axis, kept_axis) = drawn
    full = [(p["tokens"], p["kv_bytes_full"] / 2**20) for p in runs["25%"]["series"]]
    bytes_axis.plot(*zip((0, 0), *full), label="full f16 cache", color=COLORS["100%"], linestyle=":")
    for name, run in runs.items():
        label = f"--keep tau={tau:.2f}" if name == "tau" else "--keep 25%, steered"
        tokens = [p["tokens"] for p in run["series"]]
        bytes_axis.plot(tokens, [p["kv_bytes"] / 2**20 for p in run["series"]], label=label,
                        color=COLORS[name])
        kept_axis.plot(tokens, [100 * kept(p) for p in run["series"]], color=COLORS[name])
    bytes_axis.set_title("KV cache, MiB")
    kept_axis.set_title("entries kept, %")
    for axis in (bytes_axis, kept_axis):
        axis.set_xlabel("tokens read and written")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    plots.save(figure, bytes_axis, out)


def drift(run, fraction):
    """Largest distance from `fraction` once the window is negligible."""
    late = [p for p in run["series"] if fraction * p["tokens"] >= SETTLED * KEPT_ALWAYS]
    return max(abs(kept(p) - fraction) for p in late)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/bench/long_writing")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--calibration",
                        default="calibrations/SmolLM2-135M-Instruct.Q4_1.pithcal")
    parser.add_argument("--text", default=".deps/texts/essays/worked.txt")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--text-tokens", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default="build/long_writing")
    flags = parser.parse_args()
    os.makedirs(flags.out, exist_ok=True)
    tau = round(quantile(flags.calibration, 0.75), 2)
    keeps = {"tau": f"tau={tau}", "25%": "25%"}
    wrote = {name: measure(flags, f"write-{name.rstrip('%')}", "--keep", keep, "--tokens",
                           str(flags.tokens)) for name, keep in keeps.items()}
    read = {name: measure(flags, f"read-{name.rstrip('%')}", "--keep", keep, "--tokens",
                          str(flags.text_tokens), "--text", flags.text)
            for name, keep in {"100%": "100%", **keeps}.items()}
    print("| keep | kept of what it wrote | KV MiB at the end | in full | drift from 25 %, points | "
          f"NLL of {flags.text_tokens} tokens read as if written | kept of these |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, run in read.items():
        end, text = wrote[name]["series"][-1] if name in wrote else None, run["series"][-1]
        cells = ["", "", "", ""]
        if end:
            cells = [f"{100 * kept(end):.1f} %", f"{end['kv_bytes'] / 2**20:.1f}",
                     f"{end['kv_bytes_full'] / 2**20:.1f}",
                     f"{100 * drift(wrote[name], 0.25):.1f}"]
        print(f"| {keeps.get(name, name)} | {' | '.join(cells)} | {run['nll']:.3f} | "
              f"{100 * kept(text):.1f} % |")
    with open(os.path.join(flags.out, "long_writing.json"), "w", encoding="utf-8") as file:
        plain = {name: {**run, "written": None} for name, run in wrote.items()}
        json.dump({"wrote": plain, "read": read}, file, separators=(",", ":"))
        file.write("\n")
    picture(wrote, tau, os.path.join(flags.out, "long_writing.svg"))


if __name__ == "__main__":
    main()
