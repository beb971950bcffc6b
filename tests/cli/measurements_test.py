"""bench, compare and calibrate."""

import json
import os
import re
import struct
import unittest

from pith_process import FACT, ONE_THREAD, PithTest, random_model

HEADS = 2 * 2  # layers x KV heads of the random model
CACHE = {"tokens", "entries", "entries_full", "kv_bytes", "kv_bytes_peak", "kv_bytes_full"}


class BenchTest(PithTest):
    def test_records(self):
        records = self.json("bench", "-d", "256,64", "--decode", "8", "--keep", "100%,140",
                            "--scorer", "knorm", "-b", "32", "--json", *ONE_THREAD)
        self.assertEqual([(r["keep"], r["depth"], r["segment"]) for r in records],
                         [("100%", 64, [0, 56]), ("100%", 256, [64, 248]),
                          ("140", 64, [0, 56]), ("140", 256, [64, 248])])
        for record in records:
            self.assertLessEqual(
                CACHE | {"depth", "keep", "prefill_tps", "decode_ms", "threads", "simd", "cpu",
                         "attention_ms", "score_s", "segment", "batch", "weight_type"}, set(record))
            self.assertGreater(record["prefill_tps"], 0)
            self.assertGreater(record["decode_ms"], 0)
            self.assertGreaterEqual(record["decode_ms"], record["decode_ms_min"])
            self.assertEqual((record["threads"], record["decode_steps"]), (1, 8))
            self.assertEqual(record["tokens"], record["depth"])
            self.assertEqual(record["entries_full"], record["depth"] * HEADS)
            self.assertTrue(record["simd"])
            self.assertEqual(sum(tier["entries"] for tier in record["tiers"]), record["entries"])
        self.assertEqual(records[1]["entries"], 256 * HEADS)
        self.assertLessEqual(records[3]["entries"], (140 + 32) * HEADS)
        self.assertLess(records[3]["kv_bytes"], records[1]["kv_bytes"])

    def test_judging_is_part_of_reading(self):
        (record,) = self.json("bench", "-d", "200", "--decode", "2", "--keep", "80%", "--scorer",
                              "kvzip+", "--budget", "layer", "--json", *ONE_THREAD)
        self.assertEqual((record["scorer"], record["budget"]), ("kvzip+", "layer"))
        self.assertTrue(0 < record["score_s"] < record["prefill_s"])
        self.assertLess(record["entries"], 200 * HEADS)

    def test_a_depth_may_be_the_whole_context(self):
        records = self.json("bench", "-d", "128", "-c", "128", "--json", *ONE_THREAD)
        self.assertEqual(records[0]["tokens"], 128)
        self.refused(2, "129.*128", "bench", "-d", "129", "-c", "128", *ONE_THREAD)

    def test_table(self):
        text = self.write("text.txt", FACT)
        out = self.done("bench", "-d", "64,128", "-f", text, *ONE_THREAD)
        rows = [line for line in out.splitlines() if re.match(r" +\d", line)]
        self.assertEqual([row.split()[0] for row in rows], ["64", "128"])

    def test_sessions_decode_together(self):
        flags = ["-d", "64,128", "--decode", "4", "--keep", "50%", "--scorer", "knorm", "--budget",
                 "layer", "-b", "32", *ONE_THREAD]
        for more in [], ["--synthetic"], ["-f", self.write("text.txt", FACT)]:
            alone = self.json("bench", "--json", *flags, *more)
            together = self.json("bench", "--json", "--sessions", "3", *flags, *more)
            for one, three in zip(alone, together):
                self.assertEqual((one["sessions"], three["sessions"]), (1, 3))
                self.assertEqual(three["depth"], one["depth"])
                self.assertEqual(three["segment"], one["segment"])
                for count in ("tokens", "entries", "entries_full", "kv_bytes_full"):
                    self.assertEqual(three[count], 3 * one[count], count)
                self.assertAlmostEqual(three["decode_tps"], 3e3 / three["decode_ms"], 6)
        self.assertIn("3 sessions decode together",
                      self.done("bench", "--sessions", "3", *flags))

    def test_depth_without_reading(self):
        flags = ["--synthetic", "-d", "400,200", "--decode", "4", "-b", "32", "--keep", "100%,50%",
                 "--scorer", "knorm", *ONE_THREAD]
        records = self.json("bench", "--json", *flags)
        self.assertEqual(
            [(r["keep"], r["depth"], r["synthetic"], r["segment"]) for r in records],
            [("100%", 200, 164, [164, 196]), ("100%", 400, 328, [364, 396]),
             ("50%", 200, 164, [164, 196]), ("50%", 400, 328, [364, 396])])
        for record in records:
            self.assertEqual(record["tokens"], record["depth"])
        self.assertEqual(records[1]["entries"], 400 * HEADS)
        self.assertTrue(0.5 * 395 * HEADS <= records[3]["entries"] <= (200 + 32) * HEADS)
        self.assertLess(records[3]["kv_bytes"], records[1]["kv_bytes"])
        # 2 layers, 4 heads of 16 dimensions, 64 and 128 wide; a product is two operations.
        self.assertEqual(records[2]["attention_flops"], 2 * 4 * 4 * 16 * sum(range(165, 197)))
        self.assertEqual(records[2]["matrix_flops"], 32 * 2 * 2 * 64 * (12 * 16 + 3 * 128))
        self.assertIn("made up", self.done("bench", *flags))
        records = self.json("bench", "--json", "--segment", "100", *flags)
        self.assertEqual([r["segment"] for r in records[:2]], [[96, 196], [296, 396]])
        self.refused(2, "--segment", "bench", "--segment", "100", *ONE_THREAD)

    def test_judging_while_reading_is_timed(self):
        full, judged = self.json("bench", "-d", "200", "--decode", "4", "--keep", "100%,50%",
                                 "--scorer", "knorm", "--json", *ONE_THREAD)
        self.assertEqual((full["prefill_judge_s"], full["judge_ms"]), (0, 0))
        self.assertTrue(0 < judged["prefill_judge_s"] < judged["prefill_s"])
        self.assertTrue(0 < judged["judge_ms"] < judged["decode_ms"])


class CompareTest(PithTest):
    def test_both_sides(self):
        document = self.write("long.txt", FACT * 20)
        flags = ["--keep", "150", "--scorer", "knorm", "--tail", "16", "-n", "5", "-b", "64",
                 *ONE_THREAD]
        out = self.json("compare", document, "--json", *flags)
        full, compressed = out["full"], out["compressed"]
        tokens = len(self.json("tokenize", "--json", stdin=FACT * 20)["ids"])
        for side in (full, compressed):
            self.assertEqual(side["tokens"], tokens)
            self.assertEqual((side["text_tokens"], side["perplexity_tokens"]), (5, 16))
            # Of a model that knows nothing, near the size of its vocabulary.
            self.assertTrue(1000 < side["perplexity"] < 1e7, side["perplexity"])
            for key in ("prefill_tps", "decode_tps", "peak_resident_bytes"):
                self.assertGreater(side[key], 0)
        self.assertEqual(full["entries"], tokens * HEADS)
        self.assertEqual(compressed["entries"], 150 * HEADS)
        self.assertLess(compressed["kv_bytes"], full["kv_bytes"])
        self.assertLess(compressed["kv_bytes_peak"], full["kv_bytes_peak"])
        table = self.done("compare", document, *flags)
        for row in ("tokens read", "entries kept", "KV memory now", "KV memory at peak",
                    "peak resident memory", "prefill", "decode", "perplexity, last 16"):
            self.assertRegex(table, rf"(?m)^{row}.* \S+.* \S+")
        self.assertIn(full["text"], table)

    def test_part_of_a_document(self):
        document = self.write("long.txt", FACT * 20)
        out = self.json("compare", document, "--json", "--tokens", "60", "--tail", "10", "-n", "2",
                        "--keep", "100%", *ONE_THREAD)
        self.assertEqual(out["full"]["tokens"], 60)
        # The same plan on both sides gives the same result.
        for key in ("perplexity", "text", "entries", "kv_bytes"):
            self.assertEqual(out["full"][key], out["compressed"][key])

    def test_a_question_about_what_is_planted(self):
        document = self.write("long.txt", FACT * 20)
        secret = "The password of the harbour is kumquat."
        flags = ["--question", "What is the password?", "--plant", secret, "--depth", "50",
                 "--write-document", self.path("planted.txt"), "-n", "4", "--tokens", "400",
                 "--keep", "50%", "--scorer", "kvzip", *ONE_THREAD]
        out = self.json("compare", document, "--json", *flags)
        with open(self.path("planted.txt"), encoding="utf-8") as file:
            text = file.read()
        at = text.index(secret + " ")
        self.assertTrue(0.4 < at / len(text) < 0.6)
        self.assertTrue(text[:at].endswith(". "))
        full, compressed = out["full"], out["compressed"]
        self.assertEqual(full["entries"], full["entries_full"])
        self.assertLess(compressed["entries"], 0.7 * full["entries"])
        self.assertEqual((full["score_s"], full["text_tokens"]), (0, 4))
        self.assertGreater(compressed["score_s"], 0)
        for side in (full, compressed):
            self.assertNotIn("perplexity", side)
            self.assertGreater(side["tokens"], 400)
        table = self.done("compare", document, *flags)
        self.assertRegex(table, r"(?m)^judging, seconds +0\.0 +\d")
        self.assertNotIn("perplexity", table)
        self.assertIn("Question: What is the password?", table)
        code, _, err = self.pith("compare", document, *flags, "--expect", "such nonsense")
        self.assertEqual(code, 1)
        self.assertRegex(err, r"\Apith: 'such nonsense' is not in what [^\n]+\n\Z")


class CalibrateTest(PithTest):
    def calibrate(self, *flags):
        corpus = self.write("corpus.txt", FACT * 20)
        return self.json("calibrate", "--corpus", corpus, "--sequences", "3", "--sequence-tokens",
                         "96", "--rows", "128", "--json", *ONE_THREAD, *flags)

    def test_writes_a_file_that_is_found_and_used(self):
        model = self.path("small.gguf")
        os.symlink(random_model(), model)
        out = self.calibrate("-m", model, "-o", self.path("small.pithcal"))
        self.assertEqual((out["n_layers"], out["n_kv_heads"], out["head_dim"]), (2, 2, 16))
        self.assertEqual(out["bytes"], os.path.getsize(out["file"]))
        self.assertEqual(self.files(), ["corpus.txt", "small.gguf", "small.pithcal"])
        with open(out["file"], "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        self.assertEqual(header["q_filters"]["shape"], [2, 2, 16])
        self.assertEqual(header["__metadata__"]["corpus"], "corpus.txt")

        # Beside the model it is found by its name, elsewhere it can be named, in ./calibrations by
        # its fingerprint.
        document = self.write("long.txt", FACT * 20)
        ask = ["ask", document, "When?", "-n", "2", "--json", "--keep", "200", "--scorer",
               "qfilter", "--no-cache", *ONE_THREAD]
        beside = self.json(*ask, "-m", model)
        self.assertEqual(beside["scorer"], "qfilter")
        named = self.json(*ask, "--calibration", out["file"])
        os.mkdir(self.path("calibrations"))
        os.rename(out["file"], self.path("calibrations/any-name.pithcal"))
        found = self.json(*ask, "-m", model)
        for other in (named, found):
            self.assertEqual((other["answer"], other["entries"]),
                             (beside["answer"], beside["entries"]))

    def test_same_seed_same_file(self):
        contents = []
        for name in ("a.pithcal", "b.pithcal"):
            self.calibrate("-o", self.path(name))
            with open(self.path(name), "rb") as file:
                contents.append(file.read())
        self.assertEqual(contents[0], contents[1])

    def test_old_file_is_replaced(self):
        target = self.write("x.pithcal", "old")
        self.calibrate("-o", target)
        self.assertGreater(os.path.getsize(target), 256)


class KvzapTest(PithTest):
    def surrogate(self, target, *flags, form="linear", tokens=("100", "120")):
        corpus = [self.write(f"{i}.txt", f"On day {i}, " + FACT * 4) for i in range(4)]
        return ["calibrate", "--kvzap", form, "--corpus", *corpus, "-o", self.path(target),
                "--prompts", "4", "--min-tokens", tokens[0], "--max-tokens", tokens[1],
                "--positions", "40", "--epochs", "2", *ONE_THREAD, *flags]

    def test_keeps_the_filters_and_is_used(self):
        corpus = self.write("corpus.txt", FACT * 20)
        filters = self.json("calibrate", "--corpus", corpus, "--sequences", "3",
                            "--sequence-tokens", "96", "--rows", "128", "--json", "-o",
                            self.path("filters.pithcal"), *ONE_THREAD)
        for form in ("linear", "mlp"):
            out = self.json(*self.surrogate(f"{form}.pithcal", "--json", "--from",
                                            filters["file"], "--work", self.path("work"),
                                            form=form))
            with open(out["file"], "rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            self.assertEqual(header["q_filters"]["shape"], [2, 2, 16])
            weight = "layers.1.weight" if form == "linear" else "layers.1.0.weight"
            self.assertEqual(header[weight]["shape"], [2 if form == "linear" else 8, 64])
            self.assertEqual(header["kvzap.quantiles"]["shape"], [257])
            metadata = header["__metadata__"]
            self.assertEqual(metadata["corpus"], "corpus.txt")
            self.assertEqual(metadata["kvzap_corpus"], "0.txt 1.txt 2.txt 3.txt")
            self.assertEqual(metadata["kvzap_form"], form)
            self.assertEqual(len(metadata["kvzap_r2_heads"].split()), 4)
            self.assertAlmostEqual(out["r2"], float(metadata["kvzap_r2"]), delta=0.001)

            document = self.write("long.txt", FACT * 20)
            ask = ["ask", document, "When?", "-n", "2", "--json", "--scorer", "kvzap",
                   "--calibration", out["file"], "--window", "32", *ONE_THREAD]
            part = self.json(*ask, "--keep", "50%")
            self.assertEqual((part["scorer"], part["budget"]), ("kvzap", "auto"))
            self.assertLess(part["entries"], part["entries_full"])

        code, _, err = self.pith(*ask, "--keep", "tau=100")
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"tau=100 is above .* keeps nothing but sinks and window")
        self.assertEqual(err.count("tau=100"), 1)
        code, _, err = self.pith(*ask, "--keep", "tau=-100")
        self.assertRegex(err, r"tau=-100 is below .* keeps all")

    def test_table_and_samples_beside_the_output(self):
        out = self.done(*self.surrogate("x.pithcal"))
        self.assertRegex(out, r"R2 on held-out prompts, mean -?\d+\.\d{3}")
        self.assertRegex(out, r"(?m)^  0: +-?\d+\.\d\d +-?\d+\.\d\d    1: ")
        self.assertRegex(out, r"x.pithcal: linear surrogate of 2 layers x 2 KV heads")
        self.assertIn("manifest.json", os.listdir(self.path("x.pithcal.work")))
        again = self.done(*self.surrogate("x.pithcal"))
        self.assertEqual(again.splitlines()[:2], out.splitlines()[:2])
        self.refused(1, "another model, corpus or settings", *self.surrogate("x.pithcal", "-s", "1"))

    def test_wrong_use(self):
        self.refused(2, "--kvzap is 'forest', expected linear, mlp or plus",
                     *self.surrogate("x.pithcal", form="forest"))
        self.refused(1, "documents of 5000 tokens or more",
                     *self.surrogate("x.pithcal", tokens=("5000", "5000")))
        document = self.write("long.txt", FACT)
        self.refused(1, "calibrate --kvzap linear", "ask", document, "When?", "--keep", "50%",
                     "--scorer", "kvzap")


if __name__ == "__main__":
    unittest.main()
