"""eval: what it prints, what it refuses, and going on where it was stopped."""

import json
import math
import os
import re
import signal
import time
import unittest

from pith_process import FACT, ONE_THREAD, PithTest, Terminal, random_model

HEADS = 2 * 2  # layers x KV heads of the random model


class EvalTest(PithTest):
    def setUp(self):
        super().setUp()
        self.essay = self.write("essay.txt", FACT * 40)
        self.flags = ["eval", "needle", "--haystack", self.essay, "--scorer", "knorm", *ONE_THREAD]

    def records(self, *flags):
        return self.json(*self.flags, "--json", *flags)

    def size(self, name):
        return os.path.getsize(self.path(name)) if os.path.exists(self.path(name)) else 0

    def lines(self, name):
        with open(self.path(name)) as file:
            return [json.loads(line) for line in file]


class ResultTest(EvalTest):
    def test_one_plan_is_one_record(self):
        out = self.records("-l", "512", "--trials", "3", "--keep", "25%", "--budget", "uniform")
        self.assertEqual((out["trials"], out["length"], out["seed"]), (3, 512, 42))
        self.assertEqual((out["scorer"], out["keep"], out["budget"]), ("knorm", "25%", "uniform"))
        self.assertEqual(out["accuracy"], out["correct"] / 3)
        low, high = out["interval"]
        self.assertTrue(0 <= low <= out["accuracy"] <= high <= 1)
        self.assertTrue(0 <= out["full_accuracy"] <= 1)
        # The opening, which is pinned, comes on top.
        self.assertTrue(0.25 <= out["kept_fraction"] < 0.5, out["kept_fraction"])
        self.assertLess(out["kv_bytes"], out["full_kv_bytes"])
        self.assertTrue(350 < out["context_tokens"] < 512)
        self.assertGreater(out["read_s"], 0)
        self.assertEqual(out["score_s"], 0)
        self.assertRegex(out["fingerprint"], r"^[0-9a-f]{16}$")
        self.assertRegex(out["version"], r"^\d+\.\d+\.\d+$")
        self.assertRegex(out["date"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")

    def test_kept_per_head(self):
        flags = ["-l", "600", "--trials", "2", "--keep", "30%", "--window", "16"]
        even, shared = self.records(*flags, "--budget", "uniform,global")[1:]
        for record in (even, shared):
            heads = [share for layer in record["kept_per_head"] for share in layer]
            self.assertEqual([len(layer) for layer in record["kept_per_head"]], [2, 2])
            self.assertAlmostEqual(sum(heads) / HEADS, record["kept_fraction"])
            self.assertEqual(max(heads) - min(heads) < 1e-9, record is even)

    def test_depths(self):
        flags = ["-l", "400", "--trials", "5", "--keep", "100%", "--json"]
        grid = self.json(*self.flags, *flags, "--depths", "3")
        self.assertEqual([(at["depth"], at["trials"]) for at in grid["by_depth"]],
                         [(0, 2), (0.5, 2), (1, 1)])
        drawn = self.json(*self.flags, *flags)
        for out in (grid, drawn):
            for key in ("trials", "correct"):
                self.assertEqual(sum(at[key] for at in out["by_depth"]), out[key])
        self.assertTrue({at["depth"] for at in drawn["by_depth"]} <= {0.1, 0.3, 0.5, 0.7, 0.9})

    def test_every_cell_is_a_record(self):
        out = self.records("-l", "400,600", "--trials", "2", "--keep", "50%,25%,100%,50%",
                           "--budget", "uniform,layer", "--seed", "7")
        plans = [(None, "100%"), ("uniform", "50%"), ("layer", "50%"), ("uniform", "25%"),
                 ("layer", "25%")]
        self.assertEqual([(r["length"], r["budget"], r["keep"]) for r in out],
                         [(length, *plan) for length in (400, 600) for plan in plans])
        for record in out:
            self.assertEqual((record["trials"], record["seed"]), (2, 7))
            full = record["keep"] == "100%"
            self.assertEqual(record["scorer"], None if full else "knorm")
            self.assertEqual(record["kept_fraction"] == 1.0, full)
        self.assertGreater(out[1]["kept_fraction"], out[3]["kept_fraction"])

    def test_only_the_full_cache(self):
        out = self.records("-l", "400", "--trials", "1", "--keep", "100%", "--no-chat")
        self.assertEqual((out["keep"], out["kept_fraction"], out["chat"]), ("100%", 1.0, False))
        self.assertEqual(out["accuracy"], out["full_accuracy"])

    def test_table(self):
        out = self.done(*self.flags, "-l", "400", "--trials", "2", "--keep", "50%,25%")
        for row in (("full cache", "", "", ""), ("knorm", "50%", "auto", "128"),
                    ("knorm", "25%", "auto", "128")):
            cells = r" +\| +".join(map(re.escape, row))
            self.assertRegex(out, rf"(?m)^\| +400 \| {cells} \|.*%.*\d/2")

    def test_scorers_and_windows_are_cells(self):
        out = self.records("-l", "400", "--trials", "1", "--keep", "50%", "--scorer",
                           "knorm,random,kvzip", "--window", "8,64")
        self.assertEqual([(r["scorer"], r["window"]) for r in out],
                         [(None, 128)] + [(scorer, window) for scorer in ("knorm", "random", "kvzip")
                                          for window in (8, 64)])
        # Judging by repetition is the cost of the one that asked for it.
        self.assertEqual([r["score_s"] > 0 for r in out], [False] * 5 + [True] * 2)
        self.assertEqual(len({r["read_s"] for r in out}), 1)

    def test_while_reading(self):
        flags = ["-l", "400", "--trials", "1", "--keep", "40%", "--scorer", "knorm,kvzip", "-b", "64",
                 "--window", "16"]
        out = self.records(*flags, "--while-reading")
        self.assertTrue(all(r["while_reading"] for r in out[1:]))
        self.assertEqual([r["chunkwise"] for r in out], [False, False, True])
        for record, after in zip(out[1:], self.records(*flags)[1:]):
            self.assertFalse(after["while_reading"])
            self.assertAlmostEqual(record["kept_fraction"], after["kept_fraction"], delta=0.02)

    def test_words(self):
        out = self.records("-l", "400", "--trials", "2", "--keep", "50%", "--values", "words",
                           "--out", self.path("o.jsonl"))
        self.assertEqual(out["values"], "words")
        for line in self.lines("o.jsonl"):
            self.assertRegex(line["value"], r"^[a-z]+-[a-z]+$")
            self.assertNotEqual(line["value"], line["key"])

    def test_calibration_of_one_scorer(self):
        self.done("calibrate", "--corpus", self.essay, "--sequences", "2", "--sequence-tokens", "64", "-o",
                  self.path("own.pithcal"), *ONE_THREAD)
        out = self.records("-l", "400", "--trials", "1", "--keep", "50%", "--scorer",
                           "knorm,qfilter@own.pithcal", "--out", self.path("o.jsonl"))
        self.assertEqual([r["calibration"] for r in out], [None, None, "own.pithcal"])
        self.assertEqual([line.get("calibration") for line in self.lines("o.jsonl")],
                         [None, None, "own.pithcal"])

    def test_chunkwise_reads_anew(self):
        out = self.records("-l", "512", "--trials", "1", "--keep", "40%", "-b", "64", "--chunkwise")
        self.assertTrue(out["chunkwise"])
        self.assertTrue(0.4 <= out["kept_fraction"] < 0.6, out["kept_fraction"])

    def test_folder_as_haystack(self):
        os.mkdir(self.path("essays"))
        self.write("essays/b.txt", "Second text. " * 40)
        self.write("essays/a.txt", "First text. " * 40)
        self.write("essays/c.md", "No text. " * 40)
        flags = ["eval", "needle", "-l", "400", "--trials", "1", "--keep", "100%", "--json",
                 *ONE_THREAD]
        both = self.json(*flags, "--haystack", self.path("essays"), "--out", self.path("o.jsonl"))
        listed = self.json(*flags, "--haystack", self.path("essays/a.txt"),
                           self.path("essays/b.txt"), "--out", self.path("o.jsonl"))
        self.assertEqual(both, listed)
        self.assertEqual(len(self.lines("o.jsonl")), 1)


class ResumeTest(EvalTest):
    def run_to(self, name, *flags):
        return self.records("-l", "400", "--keep", "50%", "--out", self.path(name), *flags)

    def test_finished_trials_are_not_repeated(self):
        first = self.run_to("o.jsonl", "--trials", "2")
        lines = self.lines("o.jsonl")
        self.assertEqual([(line["trial"], line["keep"]) for line in lines],
                         [(0, "100%"), (0, "50%"), (1, "100%"), (1, "50%")])
        # The times are those of the first run, to the last digit.
        self.assertEqual(self.run_to("o.jsonl", "--trials", "2"), first)
        self.assertEqual(self.lines("o.jsonl"), lines)
        more = self.run_to("o.jsonl", "--trials", "3")
        self.assertEqual(more["trials"], 3)
        self.assertEqual(self.lines("o.jsonl")[:4], lines)
        self.assertEqual(len(self.lines("o.jsonl")), 6)

    def test_other_settings_are_other_trials(self):
        self.run_to("o.jsonl", "--trials", "1")
        for added, flags in ((1, ["--window", "40"]), (2, ["--seed", "43"]), (2, ["--no-chat"]),
                             (1, ["--keep", "30%"]), (2, ["--values", "words"]), (2, ["--depths", "2"]),
                             (1, ["--while-reading"]), (2, ["--first-trial", "5"]), (1, ["--budget", "layer"]), (1, ["--sinks", "8"]),
                             (0, [])):
            before = len(self.lines("o.jsonl"))
            self.run_to("o.jsonl", "--trials", "1", *flags)
            self.assertEqual(len(self.lines("o.jsonl")), before + added, flags)

    def test_a_range_of_trials(self):
        self.run_to("whole.jsonl", "--trials", "3")
        self.run_to("o.jsonl", "--trials", "2", "--first-trial", "1")
        self.run_to("o.jsonl", "--trials", "1")
        same = lambda lines: sorted((r["trial"], r["keep"], r["key"], r["answer"]) for r in lines)
        self.assertEqual(same(self.lines("o.jsonl")), same(self.lines("whole.jsonl")))

    def test_killed_and_run_again(self):
        whole = self.run_to("whole.jsonl", "--trials", "6")
        process = self.start(*self.flags, "-l", "400", "--keep", "50%", "--trials", "6", "--out",
                             self.path("o.jsonl"))
        deadline = time.monotonic() + 60
        while self.size("o.jsonl") == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open(self.path("o.jsonl"), "a") as file:
            file.write('{"settings":"0123')  # as a kill in the middle of a write leaves it
        again = self.run_to("o.jsonl", "--trials", "6")
        for key in ("accuracy", "trials", "kept_fraction", "kv_bytes", "context_tokens"):
            self.assertEqual(again[key], whole[key])
        same = lambda lines: [(r["trial"], r["keep"], r["value"], r["answer"]) for r in lines]
        self.assertEqual(same(self.lines("o.jsonl")), same(self.lines("whole.jsonl")))

    def test_progress_and_time_left(self):
        terminal = Terminal(self, *self.flags, "-l", "400", "--keep", "50%", "--trials", "3")
        terminal.wait_for(r"needles .*1/3 trials, .* left")
        code, out = terminal.finish()
        self.assertEqual(code, 0)
        self.assertIn("full cache", out)


class WrongUseTest(EvalTest):
    def test_values_that_make_no_sense(self):
        for pattern, *flags in (
            ("--trials is 0", "--trials", "0"),
            ("--trials is -1", "--trials", "-1"),
            ("--first-trial is -1", "--first-trial", "-1"),
            ("--depths is -1", "--depths=-1"),
            ("--values is 'uuids', expected numbers or words", "--values", "uuids"),
            ("--window 'wide'", "--window", "8,wide"),
            ("--window '-1'", "--window=-1"),
            ("--scorer 'knorm@'", "--scorer", "knorm@"),
            ("no scorer 'fair'", "--scorer", "knorm,fair"),
            ("--length 'many'", "-l", "many"),
            ("--length '-5'", "--length=-5"),
            ("--length is 20, expected from", "-l", "20"),
            ("--length is 2000, .*1000", "-l", "400,2000", "-c", "1000"),
            ("no budget 'fair'", "--budget", "global,fair"),
            ("cannot keep 'half'", "--keep", "half"),
            ("unknown chat template 'x'", "--template", "x"),
            ("--template", "--template", "chatml", "--no-chat"),
            ("no/such.txt", "--haystack", "no/such.txt"),
            ("empty.txt", "--haystack", self.write("empty.txt", " \n")),
        ):
            self.refused(2, pattern, *self.flags, "--json", *flags)

    def test_tasks(self):
        self.refused(2, "no task 'haystack'", "eval", "haystack")
        self.refused(2, "needle", "eval")
        self.assertIn("needle", self.done("eval", "--help"))
        self.assertIn("--trials", self.done("eval", "needle", "--help"))

    def test_scorer(self):
        self.refused(2, "no scorer 'fair'", "eval", "needle", "--haystack", self.essay, "--scorer",
                     "fair")

    def test_no_haystack(self):
        self.refused(2, "--haystack", "eval", "needle", *ONE_THREAD)

    def test_file_of_another_kind_is_left_alone(self):
        with open(self.essay) as file:
            text = file.read()
        self.refused(1, "line 1 of .*essay.txt", *self.flags, "-l", "400", "--out", self.essay)
        with open(self.essay) as file:
            self.assertEqual(file.read(), text)
        self.refused(1, "cannot write", *self.flags, "-l", "400", "--out",
                     self.path("no/such/o.jsonl"))


class KldTest(PithTest):
    def setUp(self):
        super().setUp()
        self.text = self.write("text.txt", "".join(
            f"Sentence number {i} says that {i * i} is the square of {i}. " for i in range(60)))
        self.bare = ["eval", "kld", "--text", self.text, *ONE_THREAD]
        self.flags = [*self.bare, "-l", "300", "--next", "8"]

    def test_records(self):
        out = self.json(*self.flags, "--trials", "3", "--scorer", "knorm,random", "--keep", "50%,20%",
                        "--window", "16", "--json")
        self.assertEqual([(r["scorer"], r["keep"]) for r in out],
                         [(None, "100%"), ("knorm", "50%"), ("knorm", "20%"), ("random", "50%"),
                          ("random", "20%")])
        full = out[0]
        self.assertEqual((full["divergence"], full["same_top"], full["nll_increase"]), (0, 1, 0))
        for record in out[1:]:
            low, high = record["divergence_interval"]
            self.assertTrue(0 < low <= record["divergence"] <= high)
            self.assertTrue(0 < record["divergence_median"] <= record["divergence_p99"]
                            <= record["divergence_p999"])
            self.assertTrue(0 <= record["same_top"] <= 1)
            self.assertAlmostEqual(record["nll"] - record["nll_increase"], full["nll"])
            self.assertAlmostEqual(math.log(record["perplexity"]), record["nll"])
            self.assertEqual((record["context_tokens"], record["next"]), (300, 8))
            self.assertLess(record["kv_bytes"], record["full_kv_bytes"])

    def test_table(self):
        out = self.done(*self.flags, "--trials", "2", "--scorer", "knorm", "--keep", "50%")
        self.assertRegex(out, r"(?m)^\| +length \| scorer .*KLD.*\n\|[ :|-]+\|\n\| +300 \| full cache ")
        self.assertRegex(out, r"(?m)^\| +300 \| knorm +\|")

    def test_finished_pieces_are_not_repeated(self):
        flags = [*self.flags, "--scorer", "knorm", "--keep", "50%", "--json", "--out",
                 self.path("o.jsonl")]
        first = self.json(*flags, "--trials", "2")
        self.assertEqual(self.json(*flags, "--trials", "2"), first)
        with open(self.path("o.jsonl")) as file:
            lines = [json.loads(line) for line in file]
        self.assertEqual([(line["trial"], line["scorer"], len(line["nll"])) for line in lines],
                         [(0, None, 8), (0, "knorm", 8), (1, None, 8), (1, "knorm", 8)])
        # A plan that comes later is compared with the same full cache.
        more = self.json(*flags, "--trials", "2", "--scorer", "random")
        self.assertEqual([r["scorer"] for r in more], [None, "knorm", "random"])
        self.assertEqual(more[1]["divergence"], first["divergence"])
        self.refused(1, "line 1 of .*o.jsonl", "eval", "needle", "--haystack", self.text, "-l", "300",
                     "--scorer", "knorm", "--out", self.path("o.jsonl"), *ONE_THREAD)

    def test_values_that_make_no_sense(self):
        for pattern, *flags in (
            ("--next is 0", "--next", "0"),
            ("--trials is 0", "--trials", "0"),
            ("--length is 1, expected from 2", "-l", "1"),
            ("--length is 90000, .*longest text", "-l", "90000"),
            ("no scorer 'fair'", "--scorer", "fair"),
            ("no/such.txt", "--text", "no/such.txt"),
        ):
            self.refused(2, pattern, *self.bare, "--json", *flags)
        self.refused(2, "--text", "eval", "kld", *ONE_THREAD)


class KldBaseTest(PithTest):
    def setUp(self):
        super().setUp()
        self.text = self.write("text.txt", "".join(
            f"Sentence number {i} says that {i * i} is the square of {i}. " for i in range(60)))
        self.bare = ["eval", "kld", "--text", self.text, *ONE_THREAD, "-l", "300", "--scorer", "knorm",
                     "--json"]
        self.flags = [*self.bare, "--next", "4", "--trials", "2"]

    def test_divergences_are_those_of_the_full_cache(self):
        base = self.path("full.base")
        for more in ([], ["--while-reading"]):
            plans = [*self.flags, *more, "--keep", "50%,20%"]
            exact = self.json(*plans)
            saved = self.json(*plans, "--save-base", base)
            read = self.json(*plans, "--base", base)
            for want, *found in zip(exact, saved, read):
                for record in found:
                    self.assertAlmostEqual(record["divergence"], want["divergence"], delta=1e-5)
                    for key in ("nll", "full_nll", "same_top", "keep", "kept_per_head"):
                        self.assertEqual(record[key], want[key])

    def test_what_does_not_fit_is_refused(self):
        base = self.path("full.base")
        self.json(*self.flags, "--keep", "50%", "--save-base", base)
        before = self.files()
        for pattern, *flags in (
            ("does not hold piece 2", "--base", base, "--next", "4", "--trials", "3"),
            ("does not hold piece", "--base", base, "--next", "5", "--trials", "2"),
        ):
            self.refused(1, pattern, *self.bare, "--keep", "50%", *flags)
        for pattern, *flags in (
            ("does not hold piece", "--base", base, "--seed", "7"),
            ("does not hold piece", "--base", base, "-l", "200"),
            ("is not a KLD base", "--base", self.text),
            ("no/such.base", "--base", "no/such.base"),
            ("fingerprint", "--base", base, "-m", random_model(1)),
        ):
            self.refused(1, pattern, *self.flags, "--keep", "50%", *flags)
        self.refused(2, "--save-base.*--base", *self.flags, "--base", base, "--save-base", base)
        self.refused(1, "cannot write", *self.flags, "--save-base", self.path("no/such.base"))
        with open(base, "r+b") as file:
            file.seek(5000)
            file.write(b"damaged")
        self.refused(1, "full.base: a part of piece 1 of 2 is damaged", *self.flags, "--base", base)
        self.assertEqual(self.files(), before)


class PplTest(PithTest):
    def setUp(self):
        super().setUp()
        self.text = self.write("text.txt", "".join(
            f"Sentence number {i} says that {i * i} is the square of {i}. " for i in range(60)))
        self.bare = ["eval", "ppl", "--text", self.text, *ONE_THREAD]
        self.flags = [*self.bare, "-l", "400", "--from", "150", "--window", "16", "--scorer", "knorm"]

    def test_records(self):
        out = self.json(*self.flags, "--trials", "3", "--keep", "50%,20%", "-b", "64", "--json")
        self.assertEqual([(r["task"], r["scorer"], r["keep"]) for r in out],
                         [("ppl", None, "100%"), ("ppl", "knorm", "50%"), ("ppl", "knorm", "20%")])
        full = out[0]
        self.assertEqual(full["nll_increase"], 0)
        for record in out:
            low, high = record["perplexity_interval"]
            self.assertTrue(low <= record["perplexity"] <= high)
            low, high = record["nll_increase_interval"]
            self.assertTrue(low <= record["nll_increase"] <= high)
            self.assertAlmostEqual(record["nll"] - record["nll_increase"], full["nll"])
            self.assertAlmostEqual(math.log(record["perplexity"]), record["nll"])
            self.assertEqual(record["full_perplexity"], full["perplexity"])
            self.assertEqual([at["position"] for at in record["by_position"]], [0, 128, 256, 384])
            self.assertEqual((record["context_tokens"], record["from"]), (400, 150))
            self.assertTrue(record is full or record["while_reading"])
        self.assertLess(out[2]["kept_fraction"], out[1]["kept_fraction"])

    def test_streaming(self):
        flags = [*self.flags, "--trials", "1", "--keep", "160", "--json", "--out", self.path("o.jsonl")]
        out = self.json(*flags, "--streaming")
        self.assertEqual(out["task"], "ppl_streaming")
        self.assertEqual(out["kept_per_head"], [[160 / 400] * 2] * 2)
        curve = [at["nll_increase"] for at in out["by_position"]]
        self.assertAlmostEqual(curve[0], 0, delta=1e-3)  # the budget was not full yet
        self.assertGreater(abs(curve[3]), 1e-3)
        self.assertEqual(self.json(*flags, "--streaming"), out)
        # The order of positions does not hang on rounding, as that of norms may.
        flags = [flag if flag != "knorm" else "streaming_llm" for flag in flags]
        out, batches = self.json(*flags, "--streaming"), self.json(*flags, "-b", "1")
        self.assertEqual(batches["task"], "ppl")
        self.assertAlmostEqual(batches["nll"], out["nll"], delta=1e-4)
        with open(self.path("o.jsonl")) as file:
            self.assertEqual(len(file.readlines()), 5)

    def test_table(self):
        out = self.done(*self.flags, "--trials", "2", "--keep", "50%")
        self.assertRegex(out, r"(?m)^\| +400 \| full cache .*\| +\+0\.0000 \|")
        self.assertRegex(out, r"(?m)^\| +400 \| knorm +\| +50% ")

    def test_values_that_make_no_sense(self):
        for pattern, *flags in (
            ("--from is 0", "--from", "0"),
            ("--length is 400, expected from 402", "-l", "400", "--from", "400"),
            ("--length is 90000, .*longest text", "-l", "90000"),
            ("--length is 1000, expected from 2049 .*kvzip", "-l", "1000", "--scorer", "kvzip"),
            ("kvzip judges .*--streaming", "-l", "1000", "--scorer", "kvzip", "--streaming"),
            ("--while-reading", "-l", "1000", "--while-reading"),
        ):
            self.refused(2, pattern, *self.bare, "--json", *flags)


class SpearmanTest(PithTest):
    def setUp(self):
        super().setUp()
        self.text = self.write("text.txt", "".join(
            f"Sentence number {i} says that {i * i} is the square of {i}. " for i in range(60)))
        self.flags = ["eval", "spearman", "--text", self.text, *ONE_THREAD, "-l", "200"]

    def test_records(self):
        more = ["--trials", "3", "--json", "--out", self.path("o.jsonl")]
        flags = [*self.flags, *more, "--scorer", "knorm,random,kvzip"]
        out = self.json(*flags)
        self.assertEqual([(r["task"], r["scorer"], r["keep"], r["kept_fraction"]) for r in out],
                         [("spearman", scorer, "100%", 1) for scorer in ("knorm", "random", "kvzip")])
        for record in out:
            low, high = record["spearman_interval"]
            self.assertTrue(-1 <= low <= record["spearman"] <= high <= 1)
            heads = [head for layer in record["per_head"] for head in layer]
            self.assertEqual(len(heads), HEADS)
            self.assertAlmostEqual(sum(heads) / HEADS, record["spearman"])
        self.assertLess(abs(out[1]["spearman"]), 0.15)
        self.assertEqual(self.json(*flags), out)
        one = self.json(*self.flags, *more, "--scorer", "knorm", "--distance", "50")
        self.assertEqual((one["scorer"], one["distance"]), ("knorm", 50))
        self.assertNotEqual(one["spearman"], out[0]["spearman"])

    def test_table(self):
        out = self.done(*self.flags, "--trials", "1", "--scorer", "knorm")
        self.assertRegex(out, r"(?m)^\| +200 \| knorm +\| +[+-]0\.\d{3} \|")

    def test_values_that_make_no_sense(self):
        for pattern, *flags in (
            ("--distance is -1", "--distance=-1"),
            ("--length is 200, expected from 204", "--distance", "200"),
            ("no scorer 'fair'", "--scorer", "fair"),
            ("--keep", "--keep", "50%"),
        ):
            self.refused(2, pattern, *self.flags, "--json", *flags)


class CodecTest(PithTest):
    def setUp(self):
        super().setUp()
        text = "".join(f"Sentence number {i} says that {i * i} is the square of {i}. "
                       for i in range(60))
        self.text = self.write("text.txt", text)
        self.flags = ["eval", "codec", "--text", self.text, *ONE_THREAD, "-l", "200"]

    def books(self, name, codecs):
        self.done("calibrate", "--codebooks", codecs, "--corpus", self.text, "--sequences", "1",
                  "--sequence-tokens", "400", "-o", self.path(name), *ONE_THREAD)
        return self.path(name)

    def test_records(self):
        books = self.books("x.pithcal", "pq8x4,pq4x8")
        flags = [*self.flags, "--trials", "2", "--queries", "4", "--calibration", books, "--json",
                 "--out", self.path("o.jsonl")]
        out = self.json(*flags)
        self.assertEqual([(r["task"], r["key_codec"], r["key_bytes"]) for r in out],
                         [("codec", "q8", 18), ("codec", "q4", 10), ("codec", "int2", 6),
                          ("codec", "pq4x8", 4), ("codec", "pq8x4", 4)])
        for record in out:
            for name, most in (("cosine", 1), ("divergence", 100), ("spearman", 1), ("top5", 1)):
                low, high = record[name + "_interval"]
                self.assertTrue(-1 <= low <= record[name] <= high <= most, (name, record))
                layers = [layer[name] for layer in record["layers"]]
                self.assertAlmostEqual(sum(layers) / 2, record[name])
            heads = [head for layer in record["per_head"] for head in layer]
            self.assertEqual(len(heads), HEADS)
            self.assertAlmostEqual(sum(heads) / HEADS, record["cosine"])
        self.assertLess(out[0]["divergence"], out[2]["divergence"])
        self.assertEqual(self.json(*flags), out)
        named = self.json(*self.flags, "--trials", "2", "--queries", "4", "--json", "--window", "50",
                          "--sinks", "4", "--key-codec", f"pq4x8@{books}")
        self.assertEqual((named["calibration"], named["window"], named["sinks"]), (books, 50, 4))
        self.assertLess(named["divergence"], out[3]["divergence"])

        report = self.write("codec.json", json.dumps([*out, named]))
        table = self.done("eval", "report", report)
        self.assertRegex(table, r"\| codec +\|.* bytes a key \|.* cosine of outputs \|")
        self.assertRegex(table, r"\| pq8x4 +\|")

    def test_table(self):
        flags = [*self.flags, "--trials", "1", "--queries", "4", "--key-codec", "q4"]
        first = r"(?m)^\| +200 \| q4 +\| +10 \| all +\| +0\.\d{4} \|"
        out = self.done(*flags)
        self.assertRegex(out, first)
        self.assertEqual(len(out.splitlines()), 4)
        out = self.done(*flags, "--each-layer")
        self.assertRegex(out, first)
        self.assertEqual(len(out.splitlines()), 5)

    def test_values_that_make_no_sense(self):
        books = self.books("x.pithcal", "pq4x8")
        for pattern, *flags in (
            ("--queries is 0", "--queries", "0"),
            ("--length is 200, expected from 202", "--queries", "150", "--window", "50"),
            ("key codec 'q5' is not known", "--key-codec", "q5"),
            ("calibrate --codebooks pq8x4", "--key-codec", f"pq8x4@{books}"),
            ("names no calibration after the @", "--key-codec", "pq8x4@"),
            ("--keep", "--keep", "50%"),
        ):
            self.refused(2, pattern, *self.flags, "--json", *flags)
        self.refused(1, "no calibration with .*calibrate --codebooks pq8x4", *self.flags,
                     "--key-codec", "pq8x4")


if __name__ == "__main__":
    unittest.main()
