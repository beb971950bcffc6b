"""compress, inspect, and ask and run on what compress has made."""

import json
import os
import random
import re
import signal
import subprocess
import time
import unittest

from pith_process import FACT, MODEL, ONE_THREAD, PithTest, Terminal, random_model

HEADS = 2 * 2  # layers x KV heads of the random model
DOCUMENT = FACT * 14  # about 500 tokens
QUESTION = "Who built the lighthouse?"
ASK = ["-n", "6", "--json", *ONE_THREAD]


def with_scorer(flags):
    """The random model has no calibration for the scorer that is the default."""
    return flags if "--scorer" in flags else (*flags, "--scorer", "kvzip")


class SnapshotTest(PithTest):
    def compress(self, *flags, name="x.pith"):
        document = self.write("doc.txt", DOCUMENT)
        return self.json("compress", document, "-o", self.path(name), "--json", *ONE_THREAD,
                         *with_scorer(flags))

    def sections(self, name="x.pith"):
        return self.json("inspect", self.path(name), "--json")["sections"]

    def damage(self, offset, name="x.pith"):
        with open(self.path(name), "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))


class CompressTest(SnapshotTest):
    def test_says_what_it_did(self):
        out = self.compress()
        self.assertEqual(out["bytes"], os.path.getsize(self.path("x.pith")))
        self.assertEqual((out["keep"], out["scorer"], out["budget"]), ("25%", "kvzip", "auto"))
        tokens = len(self.json("tokenize", "--json", stdin=DOCUMENT)["ids"])
        self.assertEqual(out["document_tokens"], tokens)
        self.assertGreater(out["tokens"], tokens)  # the turn that it opens
        self.assertEqual(out["entries_full"], out["tokens"] * HEADS)
        # The window, sinks and what stands before the document stay in any case.
        least = 128 + 4 + out["tokens"] - out["document_tokens"]
        self.assertLessEqual(out["entries"], max(out["entries_full"] // 4, least * HEADS))
        self.assertGreater(out["score_s"], 0)
        self.assertLess(out["score_s"], out["prefill_s"])
        self.assertEqual(self.files(), ["doc.txt", "x.pith"])
        text = self.done("compress", self.path("doc.txt"), "-o", self.path("x.pith"),
                         "--scorer", "kvzip", *ONE_THREAD)
        self.assertRegex(text, r"of doc\.txt, [\d,]+ of [\d,]+ entries kept \(\d+\.\d %\)\n")
        self.assertRegex(text, r"on disk, \d+\.\d % of the .* of a full f16 cache\nread in .*judged")
        self.assertTrue(text.endswith(f'Next: pith ask {self.path("x.pith")} "QUESTION"\n'))

    def test_plan_is_kept(self):
        self.compress("--keep", "200", "--scorer", "knorm", "--budget", "uniform", "--window", "64",
                      "--sinks", "2")
        out = self.json("ask", self.path("x.pith"), QUESTION, *ASK)
        self.assertEqual((out["keep"], out["scorer"], out["budget"], out["window"], out["sinks"]),
                         ("200", "knorm", "uniform", 64, 2))

    def test_tiers_are_kept(self):
        out = self.compress("--tiers", "f16:30%,q8:20%,q4:20%", "--scorer", "knorm", "--window", "8")
        self.assertEqual((out["keep"], out["tier_shares"]), ("70%", "f16:30%,q8:20%,q4:20%"))
        self.assertEqual([tier["key_codec"] for tier in out["tiers"]], ["f16", "q8", "q4"])
        self.assertTrue(all(tier["entries"] > 0 for tier in out["tiers"]))
        self.assertEqual(self.json("inspect", self.path("x.pith"), "--json")["tiers"], out["tiers"])
        self.assertIn("tiers f16:30%,q8:20%,q4:20%", self.done("inspect", self.path("x.pith")))
        self.done("ask", self.path("x.pith"), "What?", "-n", "2", *ONE_THREAD)

    def test_every_budget_goes_into_a_file_and_back(self):
        for flags in (["--budget", "uniform"], ["--budget", "layer"], ["--budget", "global"],
                      ["--budget", "adaptive", "--head-floor", "0.5"], ["--keep", "tau=-4"],
                      ["--keep", "100KiB"], ["--chunkwise"], ["--scorer", "kvzip+"]):
            made = self.compress(*flags)
            out = self.json("inspect", self.path("x.pith"), "--json")
            self.assertTrue(out["intact"])
            for key in ("keep", "scorer", "budget", "head_floor", "chunkwise", "entries"):
                self.assertEqual(out[key], made[key], (flags, key))
            if flags[0] != "--chunkwise":
                self.assertIn(flags[1], out.values())
            self.assertLess(out["entries"], out["entries_full"])
            self.json("ask", self.path("x.pith"), QUESTION, *ASK)

    def test_target_is_checked_before_the_work(self):
        document = self.write("doc.txt", DOCUMENT)
        os.mkfifo(self.path("pipe"))
        for target, code, reason in (
            ("-", 2, "standard output"),
            (self.folder, 1, "is a directory"),
            (self.path("none/x.pith"), 1, "No such file"),
            ("/dev/null", 1, "device or a pipe"),
            (self.path("pipe"), 1, "device or a pipe"),
        ):
            self.refused(code, reason, "compress", document, "-o", target, *ONE_THREAD)
        self.assertEqual(self.files(), ["doc.txt", "pipe"])

    def test_full_disk_leaves_nothing(self):
        document = self.write("doc.txt", DOCUMENT)
        process = subprocess.run(
            ["bash", "-c", 'ulimit -f 40; trap "" XFSZ; exec "$@"', "limited",
             os.environ["PITH_BINARY"], "compress", document, "-o", self.path("x.pith"),
             "--scorer", "knorm", *ONE_THREAD],
            env=self.environment, capture_output=True, timeout=120, check=False)
        self.assertEqual((process.returncode, process.stdout), (1, b""))
        self.assertRegex(process.stderr.decode(), r"\Apith: [^\n]*x\.pith[^\n]*\n\Z")
        self.assertEqual(self.files(), ["doc.txt"])

    def test_killed_leaves_the_old_file_or_the_new_one(self):
        first = self.compress("--keep", "50%")
        document = self.write("other.txt", DOCUMENT[::-1])
        command = ["compress", document, "-o", self.path("x.pith"), "--scorer", "kvzip", *ONE_THREAD]
        start = time.monotonic()
        self.done(*command)
        whole = time.monotonic() - start
        self.compress("--keep", "50%")
        choose = random.Random(1)
        for moment in [choose.random() for _ in range(6)] + [0.9, 0.95, 1.0]:
            process = self.start(*command, stdout=subprocess.DEVNULL)
            time.sleep(moment * whole)
            process.send_signal(signal.SIGKILL)
            process.wait()
            out = self.json("inspect", self.path("x.pith"), "--json")
            self.assertTrue(out["intact"])
            self.assertIn(out["notes"]["document"], ("doc.txt", "other.txt"))
            if out["notes"]["document"] == "doc.txt":
                self.assertEqual(out["bytes"], first["bytes"])
        # Whatever was left behind does not stand in the way.
        self.done(*command)
        out = self.json("inspect", self.path("x.pith"), "--json")
        self.assertEqual(out["notes"]["document"], "other.txt")

    def test_goes_on_from_a_snapshot(self):
        self.compress("--keep", "50%")
        more_text = "The lamp keeper was called Tom. " * 20
        more = self.write("more.txt", more_text)
        out = self.json("compress", self.path("x.pith"), "--document", more, "-o",
                        self.path("y.pith"), "--json", *ONE_THREAD)
        first = self.json("inspect", self.path("x.pith"), "--json")
        second = self.json("inspect", self.path("y.pith"), "--json")
        self.assertEqual(second["notes"]["document"], "doc.txt, more.txt")
        self.assertEqual(second["keep"], "50%")
        more_tokens = len(self.json("tokenize", "--json", stdin="\n\n" + more_text)["ids"])
        self.assertEqual(second["tokens"], first["tokens"] + more_tokens)
        self.assertEqual(out["tokens"], second["tokens"])
        self.assertLessEqual(second["entries"], second["entries_full"] * 0.6)


class InspectTest(SnapshotTest):
    def test_shows_what_it_holds(self):
        made = self.compress("--system", "Be brief.")
        out = self.json("inspect", self.path("x.pith"), "--json")
        self.assertTrue(out["intact"])
        self.assertEqual((out["n_layers"], out["n_kv_heads"], out["head_dim"]), (2, 2, 16))
        for key in ("tokens", "entries", "entries_full", "bytes", "kv_bytes_full", "keep", "scorer",
                    "budget", "window", "sinks", "model"):
            self.assertEqual(out[key], made[key], key)
        self.assertEqual(sum(map(sum, out["entries_per_head"])), out["entries"])
        self.assertEqual(out["notes"], {"document": "doc.txt", "system_message": "yes",
                                        "document_tokens": str(made["document_tokens"]),
                                        "template": "chatml", "turn": "user"})
        end = 0
        for section in out["sections"]:
            self.assertTrue(section["intact"])
            self.assertGreaterEqual(section["offset"], end)
            end = section["offset"] + section["bytes"]
        self.assertLessEqual(end, out["bytes"])
        del self.environment["PITH_MODEL"]
        text = self.done("inspect", self.path("x.pith"))
        self.assertIn("keep 25% by kvzip", text)
        self.assertRegex(text, r"document +doc\.txt")
        self.assertNotIn("WRONG", text)

    def test_picture(self):
        self.compress()
        rows = r"(?m)^ +(\d+)  (\S\S) +([\d,]+) +[\d,]+ +([\d,]+)$"
        for variables, shades in (
            ({"LC_ALL": "C.UTF-8", "TERM": "xterm"}, "▁▂▃▄▅▆▇█"),
            ({"LC_ALL": "", "LC_CTYPE": "", "LANG": "de_DE.utf8"}, "▁▂▃▄▅▆▇█"),
            ({"LC_ALL": "C", "LANG": "C.UTF-8"}, ".:-=+*%#"),
            ({"LC_ALL": "C.UTF-8", "TERM": "dumb"}, ".:-=+*%#"),
        ):
            self.environment.update(variables)
            found = re.findall(rows, self.done("inspect", self.path("x.pith")))
            self.assertEqual([row[0] for row in found], ["0", "1"])
            for _, picture, least, most in found:
                self.assertTrue(set(picture) <= set(shades), picture)
                self.assertLessEqual(int(least.replace(",", "")), int(most.replace(",", "")))

    def test_names_what_is_damaged(self):
        self.compress()
        for section in self.sections():
            offset = section["offset"] + section["bytes"] // 2
            self.damage(offset)
            code, out, err = self.pith("inspect", self.path("x.pith"), "--json")
            self.assertEqual(code, 1)
            self.assertRegex(err, rf"\Apith: [^\n]*damaged[^\n]* {section['name']}\n\Z")
            states = {s["name"]: s["intact"] for s in json.loads(out)["sections"]}
            self.assertEqual([name for name, intact in states.items() if not intact],
                             [section["name"]])
            code, out, _ = self.pith("inspect", self.path("x.pith"))
            self.assertEqual(code, 1)
            self.assertRegex(out, rf"(?m)^{section['name']} .* WRONG$")
            self.refused(1, section["name"], "ask", self.path("x.pith"), QUESTION, *ONE_THREAD)
            self.damage(offset)
        self.done("inspect", self.path("x.pith"))

    def test_what_is_no_snapshot(self):
        self.refused(1, "none.pith", "inspect", self.path("none.pith"))
        self.refused(1, "doc.txt", "inspect", self.write("doc.txt", DOCUMENT))
        self.refused(1, "empty.pith", "inspect", self.write("empty.pith", ""))
        self.refused(1, ".", "inspect", self.folder)
        self.compress()
        with open(self.path("x.pith"), "rb") as file:
            start = file.read(4096)
        for size in (8, 20, 100, 4095):
            self.refused(1, "cut.pith", "inspect", self.write("cut.pith", start[:size]))
            self.refused(1, "cut.pith", "ask", self.path("cut.pith"), QUESTION, *ONE_THREAD)


class AskSnapshotTest(SnapshotTest):
    def test_answers_as_the_document_does(self):
        for flags in ((), ("--keep", "100%"), ("--scorer", "knorm", "--keep", "150"),
                      ("--system", "Be brief."), ("--template", "none")):
            self.compress(*flags)
            keep = () if "--keep" in flags else ("--keep", "25%")
            read = self.json("ask", self.path("doc.txt"), QUESTION, "--no-cache", *ASK, *keep,
                             *with_scorer(flags))
            mapped = self.json("ask", self.path("x.pith"), QUESTION, *ASK)
            for key in ("answer", "prompt_tokens", "document_tokens", "tokens", "entries", "keep",
                        "scorer"):
                self.assertEqual(read[key], mapped[key], (flags, key))
            self.assertEqual(mapped["snapshot_bytes"], os.path.getsize(self.path("x.pith")))
            self.assertFalse(mapped["cached"])
            self.assertEqual(mapped["score_s"], 0)
            self.assertGreater(mapped["kv_bytes_shared"], 0)
        self.assertEqual(self.cached(), [])

    def test_any_name_will_do(self):
        self.compress(name="notes.txt")
        self.assertGreater(
            self.json("ask", self.path("notes.txt"), QUESTION, *ASK)["snapshot_bytes"], 0)

    def test_finds_what_the_document_says(self):
        self.write("doc.txt", FACT + "Nothing else is known of the island. " * 40)
        real = ["-m", MODEL, *ONE_THREAD]
        self.done("compress", self.path("doc.txt"), "-o", self.path("x.pith"), "--keep", "60%", *real)
        out = self.json("ask", self.path("x.pith"), "In which year was the lighthouse built?",
                        "-n", "30", "--json", *real)
        self.assertIn("1872", out["answer"])
        self.assertLess(out["entries"], 0.7 * out["entries_full"])

    def test_several_questions_are_answered_as_each_alone(self):
        self.compress()
        questions = ["Who?", "When was it built?", "Where does it stand?"]
        alone = [self.json("ask", self.path("x.pith"), q, *ASK) for q in questions]
        together = self.json("ask", self.path("x.pith"), *questions, *ASK)
        self.assertEqual([a["question"] for a in together], questions)
        for one, other in zip(alone, together):
            for key in ("answer", "prompt_tokens", "answer_tokens", "entries"):
                self.assertEqual(one[key], other[key])
        text = self.done("ask", self.path("x.pith"), *questions, "-n", "6", *ONE_THREAD)
        self.assertEqual(text, "".join(a["answer"] + "\n" for a in alone))

    def test_with_one_more_document(self):
        self.compress()
        more = self.write("more.txt", FACT)
        alone = self.json("ask", self.path("x.pith"), QUESTION, *ASK)
        both = self.json("ask", self.path("x.pith"), QUESTION, "--document", more, *ASK)
        self.assertGreater(both["document_tokens"], alone["document_tokens"])
        self.assertGreater(both["prompt_tokens"], alone["prompt_tokens"])
        self.refused(2, "takes a text file", "ask", more, QUESTION, "--document",
                     self.path("x.pith"), *ONE_THREAD)

    def test_snapshot_has_its_own_plan(self):
        self.compress()
        for flag in (["--keep", "50%"], ["--scorer", "knorm"], ["--budget", "uniform"],
                     ["--window", "64"], ["--chunkwise"], ["--kv-limit", "1GiB"],
                     ["--system", "Be brief."], ["--template", "none"]):
            for verb in (["ask", self.path("x.pith"), QUESTION], ["run", self.path("x.pith")],
                         ["compress", self.path("x.pith"), "-o", self.path("y.pith")]):
                self.refused(2, f"{flag[0]} .*x.pith", *verb, *flag, *ONE_THREAD)
        self.assertEqual(self.files(), ["doc.txt", "x.pith"])

    def test_of_another_model(self):
        self.compress()
        other = ["-m", random_model(seed=7), *ONE_THREAD]
        self.refused(1, "model", "ask", self.path("x.pith"), QUESTION, *other)
        self.refused(1, "model", "run", self.path("x.pith"), "-p", QUESTION, *other)

    def test_longer_than_the_context(self):
        self.compress()
        self.refused(1, "context", "ask", self.path("x.pith"), QUESTION, "-c", "256", *ONE_THREAD)
        tokens = self.json("inspect", self.path("x.pith"), "--json")["tokens"]
        self.refused(1, rf"the question has \d+ tokens, but {tokens} of the {tokens + 5}", "ask",
                     self.path("x.pith"), QUESTION, "-c", str(tokens + 5), *ONE_THREAD)


class RunSnapshotTest(SnapshotTest):
    def test_answers_once_as_ask_does(self):
        self.compress()
        asked = self.json("ask", self.path("x.pith"), QUESTION, *ASK)
        for how in (["-p", QUESTION], ["--document", self.path("doc.txt"), "-p", QUESTION]):
            source = [self.path("x.pith")] if how[0] == "-p" else ["--keep", "25%", "--scorer", "kvzip"]
            ran = self.json("run", *source, *how, *ASK)
            for key in ("answer", "prompt_tokens", "entries"):
                self.assertEqual(asked[key], ran[key])
        piped = self.json("run", self.path("x.pith"), *ASK, stdin=QUESTION)
        self.assertEqual(piped["answer"], asked["answer"])

    def test_chat_about_it(self):
        self.compress()
        asked = self.json("ask", self.path("x.pith"), QUESTION, *ASK)
        terminal = Terminal(self, "run", self.path("x.pith"), "-n", "6", *ONE_THREAD)
        self.assertIn("has read", terminal.wait_for(r"\n> $"))

        def say(message):
            terminal.send(message + "\n")
            terminal.wait_for(re.escape(message) + "\r\n")
            return terminal.wait_for(r"\n> $")

        def tokens():
            return int(re.search(r"([\d,]+) tokens of", say("/stats"))[1].replace(",", ""))

        first = say(QUESTION)
        self.assertEqual(first.replace("\r", "").removesuffix("\n\n> "), asked["answer"])
        self.assertEqual(tokens(), asked["tokens"])
        say("And when?")
        self.assertGreater(tokens(), asked["tokens"])
        # The document stays when the conversation is forgotten.
        say("/clear")
        self.assertEqual(say(QUESTION), first)
        self.assertEqual(tokens(), asked["tokens"])
        terminal.send("/exit\n")
        self.assertEqual(terminal.finish()[0], 0)


if __name__ == "__main__":
    unittest.main()
