"""Writes tests/data/pretokenizers.json: tokens that llama.cpp gives under each pre-tokenizer.

The vocabulary is the default model's, written to a temporary GGUF file in which only
`tokenizer.ggml.pre` changes. Needs the PyPI packages gguf and llama-cpp-python:

    python tests/text/make_pretokenizer_golden.py models/SmolLM2-135M-Instruct.Q4_1.gguf \
        > tests/data/pretokenizers.json
"""

import ctypes
import json
import os
import random
import sys
import tempfile
import unicodedata

import gguf
import llama_cpp

# One name for each rule in src/text/pretokenizer_rules.cc.
NAMES = [
    "default", "gpt-2", "smollm", "falcon", "llama-bpe", "dbrx", "glm4", "qwen2", "qwen35",
    "tekken", "gpt-4o", "deepseek-llm", "deepseek-coder", "deepseek-v3", "spark2_5", "youtu",
    "bloom", "viking", "chameleon", "bailingmoe", "seed-coder", "ufakzeka", "laguna", "minicpm5",
]

TEXTS = [
    "Hello  world, it's  3.14159 o'clock!\n\n  He said: \"don't\" \u2014 WE'LL see.\t(12345678)\r\n",
    "def f(x):\n    return x**2  # camelCase HTTPServer snake_case\n\n\nfor i in range(10):\n\tprint(i)",
    "\u00c9t\u00e9 \u00fcber na\u00efve; \u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! "
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002\u4e2d\u6587\uff0c123\u4e2a\uff01 \ud55c\uad6d\uc5b4 1\ubc88",
    "e\u0301a\u0308 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \U0001f642\U0001f469\u200d\U0001f4bb \u2167 \u00bd \u0661\u0662",
    "a\u00a0b\u3000c\u2028d\u200be\u180ef \x01\x7f  \u2003 x",
    "://[]{}<>|$+=^~`@#%&*-_\\?!;:,.. ...  //\n/\n IMGIMGABZ <sentinel:7> \uff21\uff41\uff01\u01c5\u02b0",
    "   leading\n \n  \n\n trailing   ",
    "'S'T'RE 've'Ll'D'm ''s '\u017f",
    "don't DON'T a'b 1'2 x's\ny's 007 1,000,000.00 v1.2.3-rc4",
]


def random_texts(n, seed):
    """Characters of Unicode 14 at most: later ones depend on the version of the tables."""
    rng = random.Random(seed)
    favourites = " \t\n\r  ''sStTdDabcXYZ0129.,!?/<>()$_\u00e9\u0416\u65e5\u3042\uac00\u0301\u2014"
    texts = []
    while len(texts) < n:
        text = "".join(
            rng.choice(favourites) if rng.random() < 0.75 else chr(rng.randrange(0x20, 0x3100))
            for _ in range(rng.randrange(8, 40)))
        if all(unicodedata.category(c) not in ("Cn", "Cs", "Co") for c in text):
            texts.append(text)
    return texts


def write_vocabulary(model, pre, file):
    reader = gguf.GGUFReader(model)
    value = {k: f.contents() for k, f in reader.fields.items() if k.startswith("tokenizer.")}
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(value["tokenizer.ggml.tokens"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(value["tokenizer.ggml.tokens"])
    writer.add_token_types(value["tokenizer.ggml.token_type"])
    writer.add_token_merges(value["tokenizer.ggml.merges"])
    writer.add_bos_token_id(value["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(value["tokenizer.ggml.eos_token_id"])
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def encode(vocabulary, text):
    data = text.encode()
    tokens = (ctypes.c_int32 * (len(data) + 16))()
    n = llama_cpp.llama_tokenize(vocabulary, data, len(data), tokens, len(tokens), False, False)
    return list(tokens[:n])


def main():
    texts = TEXTS + random_texts(30, 1)
    rows = {}
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            file = os.path.join(folder, "vocabulary.gguf")
            write_vocabulary(sys.argv[1], name, file)
            model = llama_cpp.llama_model_load_from_file(file.encode(), params)
            vocabulary = llama_cpp.llama_model_get_vocab(model)
            rows[name] = [encode(vocabulary, text) for text in texts]
            llama_cpp.llama_model_free(model)
    print(json.dumps({"texts": texts, "tokens": rows}, separators=(",", ":")))


if __name__ == "__main__":
    main()
