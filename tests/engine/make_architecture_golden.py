"""Writes tests/data/architectures.json: logits of llama.cpp for random-weight models.

    python make_architecture_golden.py PATH/TO/random_gguf OUT.json      (needs llama-cpp-python)

Each record holds the options of the model, tokens, and the logits after some of them. The test
writes the same model, seed for seed, and compares.
"""
import json
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

BASE = {'arch': 'llama', 'layers': 3, 'embd': 256, 'heads': 4, 'kv-heads': 2, 'ff': 512, 'ctx': 256,
        'type': 'f32', 'seed': 1}
CASES = [
    {},
    {'type': 'f16', 'kv-heads': 4, 'tied': True},
    {'type': 'bf16', 'kv-heads': 1},
    {'type': 'q8_0', 'llama3-rope': True, 'rope-base': 500000, 'ctx': 131072},
    {'type': 'q4_0'},
    {'type': 'q4_1', 'heads': 8, 'kv-heads': 2, 'head-dim': 80},
    {'type': 'q5_0', 'rope-scaling': 'linear', 'rope-factor': 4},
    {'type': 'q5_1', 'rope-scaling': 'yarn', 'rope-factor': 4, 'ctx': 1024},
    {'type': 'q4_K'},
    {'type': 'q6_K', 'tied': True},
    {'type': 'q2_K'}, {'type': 'q3_K'}, {'type': 'q5_K'}, {'type': 'iq4_nl'}, {'type': 'iq4_xs'},
    {'arch': 'qwen2', 'rope-base': 1000000},
    {'arch': 'qwen2', 'type': 'q4_0', 'tied': True, 'heads': 7, 'kv-heads': 1, 'head-dim': 64, 'embd': 448},
    {'arch': 'qwen2', 'type': 'q8_0', 'rope-scaling': 'yarn', 'rope-factor': 4, 'ctx': 2048},
    {'arch': 'qwen3', 'head-dim': 128, 'rope-base': 1000000},
    {'arch': 'qwen3', 'type': 'q4_K', 'heads': 8, 'kv-heads': 1, 'head-dim': 96},
]
TOKENS = [(i * i * 37 + 11 * i + 5) % 256 for i in range(48)]
POSITIONS = [0, 1, 20, 47]


def main(tool, out):
    records = []
    for seed, case in enumerate(CASES, 1):
        options = {**BASE, **case, 'seed': seed}
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, 'model.gguf')
            flags = [a for k, v in options.items() for a in ([f'--{k}'] if v is True else [f'--{k}', str(v)])]
            subprocess.run([tool, *flags, '-o', file], check=True)
            model = llama_cpp.Llama(file, n_ctx=min(256, options['ctx']), n_batch=64, n_threads=1,
                                    logits_all=True, verbose=False, flash_attn=True)
            model.eval(TOKENS)
            logits = [[round(float(x), 4) for x in model.scores[p]] for p in POSITIONS]
            del model
        records.append({'options': options, 'logits': logits})
        print(options, 'largest', np.abs(logits).max())
    data = {'from': 'llama-cpp-python ' + llama_cpp.__version__, 'tokens': TOKENS,
            'positions': POSITIONS, 'records': records}
    with open(out, 'w', encoding='utf-8') as f:
        json.dump(data, f, separators=(',', ':'))
        f.write('\n')


main(*sys.argv[1:])
