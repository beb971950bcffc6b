"""What needs no model: help, version, wrong use."""

import unittest

from pith_process import PithTest

VERBS = ["run", "ask", "compress", "inspect", "compare", "bench", "calibrate", "tokenize"]


class HelpTest(PithTest):
    def test_help_lists_every_verb(self):
        for flag in ("--help", "-h"):
            out = self.done(flag)
            for verb in VERBS:
                self.assertRegex(out, rf"(?m)^  {verb} ")

    def test_every_verb_explains_itself(self):
        for verb in VERBS:
            out = self.done(verb, "--help")
            self.assertIn(f"pith {verb}", out)
            self.assertIn("--json", out)
            if verb == "inspect":  # works on a machine without the model
                self.assertNotIn("--model", out)
                continue
            self.assertIn("--model", out)
            self.assertIn("PITH_MODEL", out)
            self.assertNotIn("--worker", out)

    def test_version(self):
        self.assertRegex(self.done("--version"), r"\Apith \d+\.\d+\.\d+\n\Z")

    def test_nothing_gives_help_and_fails(self):
        code, out, err = self.pith()
        self.assertEqual((code, out), (2, ""))
        self.assertIn("Usage", err)


class WrongUseTest(PithTest):
    def test_unknown_verb_and_flags(self):
        self.refused(2, "no verb 'walk'", "walk")
        self.refused(2, "no verb '--walk'", "--walk")
        for verb in VERBS:
            self.refused(2, "--no-such-flag", verb, "--no-such-flag", "a", "b")

    def test_missing_arguments(self):
        self.refused(2, "DOCUMENT", "ask")
        self.refused(2, "QUESTION", "ask", "document.txt")
        self.refused(2, "DOCUMENT", "compare")
        self.refused(2, "DOCUMENT", "compress")
        self.refused(2, "-o FILE", "compress", "document.txt")
        self.refused(2, "FILE", "inspect")
        self.refused(2, "--corpus", "calibrate", "-o", "x.pithcal")
        self.refused(2, "-o", "calibrate", "--corpus", "x.txt")
        self.refused(2, "--predict", "run", "-n")

    def test_values_that_are_no_numbers(self):
        for flag in ("-n", "-t", "-b", "-c", "--top-k", "--seed", "--window"):
            self.refused(2, r"(?i)could not convert|invalid", "run", "-p", "hi", flag, "many")

    def test_no_model(self):
        del self.environment["PITH_MODEL"]
        self.refused(2, r"-m .*PITH_MODEL", "run", "-p", "hi")

    def test_keep_that_makes_no_sense(self):
        for keep in ("0", "0%", "101%", "-5", "half", "", "1e3", "0MiB", "tau=", "tau=nan"):
            self.refused(2, "25%.*512.*64MiB", "run", "-p", "hi", "--keep", keep)
            self.refused(2, "25%.*512.*64MiB", "bench", "--keep", "100%", "--keep", keep)
        self.refused(2, "131.*132.*4 sinks.*window of 128", "run", "-p", "hi", "--keep", "131")
        self.refused(2, "99.*100", "run", "-p", "hi", "--keep", "99", "--window", "90", "--sinks", "10")

    def test_plan_values_out_of_range(self):
        self.refused(2, "the tiers 'q8:10'.*q8:15%", "run", "-p", "hi", "--tiers", "q8:10")
        self.refused(2, "make 120%", "eval", "kld", "--tiers", "q8:50%,q4:70%")
        for flag, value in (("--keep", "50%"), ("--key-codec", "q8"), ("--value-codec", "q8")):
            for verb in (["ask", "a", "b"], ["eval", "kld"]):
                self.refused(2, f"(?s){flag}.*--tiers|--tiers.*{flag}", *verb, "--tiers", "q8:50%",
                             flag, value)
        self.refused(2, "scorer 'magic'.*qfilter", "run", "-p", "hi", "--scorer", "magic")
        self.refused(2, "budget 'magic'.*auto.*global", "run", "-p", "hi", "--budget", "magic")
        for floor in ("-1", "1.1", "nan", "half"):
            self.refused(2, "--head-floor.*0 to 1", "run", "-p", "hi", "--head-floor", floor)
        self.refused(2, "--window", "run", "-p", "hi", "--window", "0")
        self.refused(2, "--sinks", "run", "-p", "hi", "--sinks", "-1")
        self.refused(2, "--skip-layers", "run", "-p", "hi", "--skip-layers", "-1")
        self.refused(2, "not a size", "run", "-p", "hi", "--kv-limit", "lots")

    def test_sampling_values_out_of_range(self):
        for flag, value, name in (
            ("--temp", "-1", "temperature"),
            ("--top-k", "-1", "top-k"),
            ("--top-p", "1.5", "top-p"),
            ("--min-p", "2", "min-p"),
            ("--repeat-penalty", "0", "repeat-penalty"),
            ("--repeat-last-n", "-2", "repeat-last-n"),
        ):
            self.refused(2, f"{name} is .*expected", "run", "-p", "hi", flag, value)

    def test_bench_values_out_of_range(self):
        self.refused(2, "deep", "bench", "-d", "deep")
        self.refused(2, "depth 24", "bench", "-d", "24")
        self.refused(2, "depth 530", "bench", "-d", "512,530")
        self.refused(2, "--decode", "bench", "--decode", "0")
        self.refused(2, "--sessions is 0", "bench", "--sessions", "0")

    def test_compare_values_out_of_range(self):
        self.refused(2, "--depth is 101", "compare", "x.txt", "--depth", "101")
        self.refused(2, "question is empty", "compare", "x.txt", "--question", " ")
        self.refused(2, "plant is empty", "compare", "x.txt", "--plant", "")

    def test_cache_values_out_of_range(self):
        self.refused(2, "not a size", "ask", "x.txt", "What?", "--cache-limit", "much")

    def test_two_prompts(self):
        self.refused(2, "not both", "run", "-p", "hi", "-f", "x.txt")
        self.refused(2, "prompt is empty", "run", "-p", "  ")
        self.refused(2, "question is empty", "ask", "x.txt", " ")
        self.refused(2, "question is empty", "ask", "x.txt", "What?", "")
        self.refused(2, "question is not UTF-8", "ask", "x.txt", b"caf\xe9")
        self.refused(2, "not both", "tokenize", "-p", "hi", "-f", "x.txt")


if __name__ == "__main__":
    unittest.main()
