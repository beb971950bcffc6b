"""What run, ask and tokenize print when all is well, most of it by the real model."""

import json
import os
import subprocess
import unittest

from pith_process import DATA, FACT, MODEL, ONE_THREAD, PithTest

CACHE = {"tokens", "entries", "entries_full", "kv_bytes", "kv_bytes_peak", "kv_bytes_shared",
         "kv_bytes_full", "tiers"}
PLAN = {"keep", "scorer", "budget", "head_floor", "chunkwise", "window", "sinks", "skip_layers",
        "key_codec", "value_codec"}
ANSWER = CACHE | PLAN | {
    "answer", "stop", "model", "prompt_tokens", "answer_tokens", "peak_resident_bytes",
    "prefill_s", "prefill_tps", "score_s", "decode_s", "decode_tps",
}
REAL = ["-m", MODEL, *ONE_THREAD]


class TokenizeTest(PithTest):
    def test_golden(self):
        with open(os.path.join(DATA, "tokens.json"), encoding="utf-8") as file:
            golden = json.load(file)
        self.assertGreater(len(golden), 10)
        for case in golden[1::3]:
            plain = self.json("tokenize", "--json", "-m", MODEL, stdin=case["text"])
            self.assertEqual(plain, {"ids": case["plain"]})
            special = self.json("tokenize", "--json", "--special", "-m", MODEL, stdin=case["text"])
            self.assertEqual(special, {"ids": case["special"]})

    def test_a_piece_a_line(self):
        out = self.done("tokenize", stdin="Hello  world\n")
        self.assertEqual([line.split()[0] for line in out.splitlines()],
                         ["19556", "216", "905", "198"])
        self.assertEqual(out.splitlines()[3], "   198  \\n")

    def test_nothing_gives_nothing(self):
        self.assertEqual(self.done("tokenize"), "")
        self.assertEqual(self.json("tokenize", "--json"), {"ids": []})

    def test_text_from_flags(self):
        expected = self.json("tokenize", "--json", stdin="one two")
        self.assertEqual(self.json("tokenize", "--json", "-p", "one two"), expected)
        file = self.write("text.txt", "one two")
        self.assertEqual(self.json("tokenize", "--json", "-f", file), expected)


class RunTest(PithTest):
    def test_answers_from_flag_file_and_pipe(self):
        question = FACT + "Who built the lighthouse?"
        answer = self.done("run", "-p", question, "-n", "16", *REAL)
        self.assertGreater(len(answer.strip()), 10)
        self.assertTrue(answer.endswith("\n"))
        self.assertEqual(self.done("run", "-n", "16", *REAL, stdin=question), answer)
        file = self.write("prompt.txt", question)
        self.assertEqual(self.done("run", "-f", file, "-n", "16", *REAL), answer)

    def test_stops_where_the_model_ends(self):
        out = self.json("run", "-p", "Say hello.", "-n", "200", "--json", *REAL)
        self.assertEqual(out["stop"], "end")
        self.assertLess(out["answer_tokens"], 200)
        self.assertNotIn("<|im_end|>", out["answer"])

    def test_json(self):
        out = self.json("run", "-p", "hi", "-n", "7", "--json", "--temp", "1", *ONE_THREAD)
        self.assertEqual(set(out), ANSWER)
        self.assertEqual((out["stop"], out["answer_tokens"]), ("length", 7))
        self.assertEqual(out["tokens"], out["prompt_tokens"] + 7)
        self.assertEqual(out["entries"], out["entries_full"])
        self.assertGreaterEqual(out["kv_bytes"], out["kv_bytes_full"])
        self.assertEqual((out["keep"], out["scorer"]), ("100%", None))

    def test_no_tokens_asked_for(self):
        self.assertEqual(self.done("run", "-p", "hi", "-n", "0", *ONE_THREAD), "\n")

    def test_ends_when_the_context_is_full(self):
        out = self.json("run", "-p", "hi", "-n", "-1", "-c", "64", "--json", *ONE_THREAD)
        self.assertIn(out["stop"], ("context", "end"))
        self.assertEqual(out["tokens"], 64 if out["stop"] == "context" else out["tokens"])
        self.assertLessEqual(out["tokens"], 64)

    def test_seed_decides(self):
        def sample(seed):
            return self.done("run", "-p", "hi", "-n", "12", "--temp", "2", "--top-k", "0",
                             "--min-p", "0", "--seed", seed, *ONE_THREAD)

        self.assertEqual(sample("1"), sample("1"))
        self.assertNotEqual(sample("1"), sample("2"))

    def test_system_message_and_template_are_read(self):
        def read(*flags):
            return self.json("run", "-p", "hi", "-n", "1", "--json", *ONE_THREAD, *flags)[
                "prompt_tokens"
            ]

        self.assertEqual(read("--system", "Be brief."), read("-sys", "Be brief."))
        self.assertNotEqual(read("--system", "Be brief. " * 9), read())
        self.assertEqual(read("--template", "none"),
                         len(self.json("tokenize", "--json", "-p", "hi")["ids"]))

    def test_pipe_that_closes_early_is_quiet(self):
        process = self.start("run", "-p", "hi", "-n", "3000", *ONE_THREAD,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.read(1)
        process.stdout.close()
        self.assertEqual(process.stderr.read(), b"")
        self.assertNotEqual(process.wait(timeout=60), 0)

    def test_full_disk_is_told(self):
        with open("/dev/full", "wb") as full:
            process = self.start("tokenize", "-p", "hi", stdout=full, stderr=subprocess.PIPE)
            err = process.communicate(timeout=60)[1].decode()
        self.assertEqual(process.returncode, 1)
        self.assertRegex(err, r"\Apith: cannot write to standard output: [^\n]+\n\Z")

    def test_default_model_of_a_checkout(self):
        del self.environment["PITH_MODEL"]
        os.mkdir(self.path("models"))
        os.symlink(MODEL, self.path("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
        self.assertEqual(self.json("tokenize", "--json", "-p", "Hello"), {"ids": [19556]})

    def test_kv_limit_is_told_and_kept(self):
        self.refused(1, "(?i)limit", "run", *ONE_THREAD, "--kv-limit", "20KB", stdin=FACT * 20)


class AskTest(PithTest):
    def test_finds_what_the_document_says(self):
        document = self.write("fact.txt", FACT)
        out = self.json("ask", document, "In which year was the lighthouse built?", "-n", "40",
                        "--json", *REAL)
        self.assertIn("1872", out["answer"])
        self.assertEqual(set(out), ANSWER | {"document", "document_tokens", "cached",
                                             "snapshot_bytes", "first_token_s", "threads"})
        self.assertGreater(out["first_token_s"], out["prefill_s"] * 0.9)
        self.assertEqual(out["threads"], 1)
        tokens = len(self.json("tokenize", "--json", "-m", MODEL, stdin=FACT)["ids"])
        self.assertEqual(out["document_tokens"], tokens)
        self.assertGreater(out["prompt_tokens"], tokens)

    def test_keeps_what_it_was_told_to(self):
        document = self.write("fact.txt", FACT * 30)
        for keep, entries in (("200", 200), ("25%", None), ("100%", None)):
            out = self.json("ask", document, "When?", "-n", "2", "--json", "--keep", keep,
                            "--scorer", "knorm", "-b", "64", *ONE_THREAD)
            heads = 2 * 2
            if keep == "200":
                self.assertLessEqual(out["entries"], (entries + 32) * heads)
                self.assertLess(out["kv_bytes_peak"], out["kv_bytes_full"])
            elif keep == "25%":
                self.assertLessEqual(out["entries"], (out["tokens"] / 4 + 33) * heads)
            else:
                self.assertEqual(out["entries"], out["tokens"] * heads)
            self.assertEqual(out["keep"], keep)
            self.assertEqual(out["entries_full"], out["tokens"] * heads)

    def test_document_markup_stays_text(self):
        plain = self.write("a.txt", "The end.")
        marked = self.write("b.txt", "The end.<|im_end|>")
        tokens = [
            self.json("ask", file, "What?", "-n", "1", "--json", *ONE_THREAD)["prompt_tokens"]
            for file in (plain, marked)
        ]
        self.assertGreater(tokens[1], tokens[0] + 1)


if __name__ == "__main__":
    unittest.main()
