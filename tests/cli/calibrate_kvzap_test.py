"""pith calibrate with and without --kvzap: what is kept, what a kill leaves, what is refused."""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
import unittest

from pith_process import FACT, ONE_THREAD, TIME_LIMIT, PithTest, random_model

PROMPTS = 12


def header_of(file):
    with open(file, "rb") as stream:
        return json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))


def content(file):
    with open(file, "rb") as stream:
        return stream.read()


class CalibrateKvzapTest(PithTest):
    def corpus(self):
        return [self.write(f"{i}.txt", f"On day {i}, " + FACT * 8) for i in range(5)]

    def surrogate(self, target, *flags, form="linear", work="work"):
        return ["calibrate", "--kvzap", form, "--corpus", *self.corpus(), "-o", self.path(target),
                "--work", self.path(work), "--prompts", str(PROMPTS), "--min-tokens", "150",
                "--max-tokens", "220", "--positions", "60", *ONE_THREAD, *flags]

    def filters(self, target, *flags):
        return ["calibrate", "--corpus", self.write("corpus.txt", FACT * 20), "--sequences", "3",
                "--sequence-tokens", "96", "--rows", "128", "-o", self.path(target), *ONE_THREAD,
                *flags]

    def kill(self, arguments, when):
        """Runs pith until `when` says so, then SIGKILL."""
        process = self.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + TIME_LIMIT
        while not when():
            self.assertIsNone(process.poll(), "it was over before it could be killed")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=TIME_LIMIT)
        self.assertEqual(process.returncode, -signal.SIGKILL)

    def shards(self, work="work"):
        folder = self.path(work)
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(name for name in names if name.startswith("prompt-"))

    def test_each_half_is_kept_while_the_other_is_made(self):
        # Both orders, with the file replaced in place, give the same file but for what was named.
        self.done(*self.surrogate("a.pithcal"))
        self.done(*self.filters("b.pithcal"))
        surrogate, filters = header_of(self.path("a.pithcal")), header_of(self.path("b.pithcal"))
        said = self.done(*self.filters("a.pithcal"))
        self.assertIn("the surrogate was kept", said)
        self.done(*self.surrogate("b.pithcal"))
        self.assertEqual(content(self.path("a.pithcal")), content(self.path("b.pithcal")))
        both = header_of(self.path("a.pithcal"))
        self.assertEqual(set(both), set(surrogate) | set(filters))
        self.assertEqual(both["__metadata__"],
                         {**surrogate["__metadata__"], **filters["__metadata__"]})
        # From a file that is named.
        self.done(*self.surrogate("only.pithcal"))
        self.assertNotIn("q_filters", header_of(self.path("only.pithcal")))
        self.done(*self.filters("c.pithcal", "--from", self.path("only.pithcal")))
        self.assertEqual(content(self.path("c.pithcal")), content(self.path("a.pithcal")))
        # From the one beside the model.
        model = self.path("small.gguf")
        os.symlink(random_model(), model)
        shutil.copy(self.path("only.pithcal"), self.path("small.pithcal"))
        self.done(*self.filters("d.pithcal", "-m", model))
        self.assertEqual(content(self.path("d.pithcal")), content(self.path("a.pithcal")))

    def test_what_queries_are_like_stands_beside_the_rest(self):
        target = self.path("a.pithcal")
        self.refused(2, "--covariance.*--kvzap", *self.surrogate("a.pithcal", "--covariance"))
        self.done(*self.filters("a.pithcal", "--covariance"))
        made = header_of(target)
        shape = made["query_mean"]["shape"]
        self.assertEqual(made["query_cov"]["shape"], [*shape, shape[-1]])
        self.done(*self.filters("a.pithcal"))
        self.assertEqual(header_of(target)["query_var"]["shape"], shape)
        self.assertNotIn("query_cov", header_of(target))
        self.assertEqual(header_of(target)["keep_loss"]["shape"][:1], shape[:1])
        self.done(*self.surrogate("a.pithcal"))
        kept = header_of(target)
        self.assertIn("layers.0.weight", kept)
        self.assertIn("keep_loss", kept)
        for scorer in ("expected_calibrated", "qfilter+"):
            run = ["run", "-p", FACT * 4, "-n", "4", "--keep", "64", "--window", "16", "--scorer",
                   scorer, *ONE_THREAD]
            self.done(*run, "--calibration", target)
            self.done(*self.surrogate("b.pithcal"))
            self.refused(2, "this one has none.*pith calibrate -m", *run, "--calibration",
                         self.path("b.pithcal"))

    def test_the_one_beside_the_model_is_found(self):
        model = self.path("small.gguf")
        os.symlink(random_model(), model)
        self.done(*self.filters("small.pithcal", "-m", model))
        self.done("run", "-m", model, "-p", FACT * 4, "-n", "4", "--keep", "64", "--window", "16",
                  "--scorer", "qfilter+", *ONE_THREAD)

    def test_what_is_no_calibration_of_the_model_is_replaced(self):
        model = self.path("small.gguf")
        os.symlink(random_model(), model)
        self.write("small.pithcal", "junk")
        self.assertNotIn("was kept", self.done(*self.filters("small.pithcal", "-m", model)))
        self.done(*self.surrogate("other.pithcal", "-m", random_model(seed=1)))
        before = content(self.path("other.pithcal"))
        self.refused(1, r"of another model: .* with fingerprint", *self.filters(
            "x.pithcal", "--from", self.path("other.pithcal")))
        self.assertNotIn("was kept", self.done(*self.filters("other.pithcal")))
        self.assertNotEqual(content(self.path("other.pithcal")), before)

    def test_a_killed_harvest_goes_on(self):
        self.done(*self.surrogate("whole.pithcal", work="whole"))
        for n in (1, 7):
            self.kill(self.surrogate("cut.pithcal"), lambda: len(self.shards()) >= n)
            self.assertLess(len(self.shards()), PROMPTS)
            self.assertNotIn("cut.pithcal", self.files())
        first = os.stat(self.path("work/" + self.shards()[0]))
        self.done(*self.surrogate("cut.pithcal"))
        self.assertEqual(os.stat(self.path("work/" + self.shards()[0])).st_mtime_ns,
                         first.st_mtime_ns)
        self.assertEqual(content(self.path("cut.pithcal")), content(self.path("whole.pithcal")))
        self.assertEqual(sorted(os.listdir(self.path("work"))),
                         sorted(os.listdir(self.path("whole"))))
        for name in self.shards():
            self.assertEqual(content(self.path("work/" + name)), content(self.path("whole/" + name)))

    def test_a_killed_training_leaves_what_was_there(self):
        self.done(*self.surrogate("x.pithcal"))
        before = content(self.path("x.pithcal"))
        start = time.monotonic()
        self.done(*self.surrogate("whole.pithcal", form="mlp"))
        took = time.monotonic() - start
        n_killed = 0
        for part in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
            process = self.start(*self.surrogate("x.pithcal", form="mlp"), stdout=subprocess.DEVNULL)
            time.sleep(part * took)
            process.send_signal(signal.SIGKILL)
            n_killed += process.wait(timeout=TIME_LIMIT) == -signal.SIGKILL
            self.assertIn(content(self.path("x.pithcal")),
                          (before, content(self.path("whole.pithcal"))))
        self.assertGreater(n_killed, 0)
        self.done(*self.surrogate("x.pithcal", form="mlp"))
        self.assertEqual(content(self.path("x.pithcal")), content(self.path("whole.pithcal")))

    def test_surrogates_of_other_models_and_damaged_ones(self):
        document = self.write("long.txt", FACT * 20)
        self.done(*self.surrogate("x.pithcal"))

        def ask(*flags):
            return ["ask", document, "When?", "-n", "2", "--keep", "50%", "--scorer", "kvzap",
                    *ONE_THREAD, *flags]

        self.refused(1, r"of another model: .* with fingerprint", *ask(
            "--calibration", self.path("x.pithcal"), "-m", random_model(seed=1)))
        # Without metadata the shape is what tells.
        raw = content(self.path("x.pithcal"))
        header = header_of(self.path("x.pithcal"))
        data = raw[8 + struct.unpack("<Q", raw[:8])[0]:]
        tensors = {name: t for name, t in header.items() if name.startswith("layers.")}

        def publish(name, changed):
            parts, entries = [], {}
            for tensor, (shape, dtype, values) in sorted(changed.items()):
                at = sum(map(len, parts))
                entries[tensor] = {"dtype": dtype, "shape": shape,
                                   "data_offsets": [at, at + len(values)]}
                parts.append(values)
            text = json.dumps(entries).encode()
            text += b" " * (-len(text) % 8)
            return self.write(name, struct.pack("<Q", len(text)) + text + b"".join(parts))

        whole = {name: (t["shape"], t["dtype"], data[slice(*t["data_offsets"])])
                 for name, t in tensors.items()}
        self.assertEqual(len(whole), 4)
        plain = publish("plain", whole)
        self.done(*ask("--calibration", plain))
        more = dict(whole)
        for part in ("weight", "bias"):
            more[f"layers.2.{part}"] = whole[f"layers.1.{part}"]
        self.refused(1, r"the surrogate is for 3 layers, 2 KV heads and hidden states of 64, but "
                     r"the model .* has 2, 2 and 64", *ask("--calibration", publish("more", more)))
        shape, dtype, values = whole["layers.1.weight"]
        self.assertEqual(dtype, "F16")
        broken = dict(whole)
        broken["layers.1.weight"] = (shape, dtype, values[:10] + b"\x00\x7e" + values[12:])
        self.refused(1, r"broken: element 5 of layers.1.weight is nan, expected a finite number",
                     *ask("--calibration", publish("broken", broken)))

    def test_too_small_a_corpus(self):
        arguments = self.surrogate("x.pithcal")
        at = arguments.index("--min-tokens")
        arguments[at + 1:at + 4:2] = ["1000", "1100"]
        self.refused(1, r"the corpus has 0 documents of 1000 tokens or more, expected 3 or more",
                     *arguments)
        self.assertEqual(self.files(), [f"{i}.txt" for i in range(5)])


if __name__ == "__main__":
    unittest.main()
