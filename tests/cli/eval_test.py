"""eval needle: what it prints, what it refuses, and going on where it was stopped."""

import json
import os
import signal
import time
import unittest

from pith_process import FACT, ONE_THREAD, PithTest, Terminal

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
        for row in ("full cache", "knorm 50% auto", "knorm 25% auto"):
            self.assertRegex(out, rf"(?m)^ +400  {row} .*%.*\d/2")

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
                             (1, ["--keep", "30%"]), (1, ["--budget", "layer"]), (1, ["--sinks", "8"]),
                             (0, [])):
            before = len(self.lines("o.jsonl"))
            self.run_to("o.jsonl", "--trials", "1", *flags)
            self.assertEqual(len(self.lines("o.jsonl")), before + added, flags)

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


if __name__ == "__main__":
    unittest.main()
