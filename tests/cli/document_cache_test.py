"""What ask and run keep of a document for the next question."""

import os
import subprocess
import time
import unittest

from pith_process import FACT, ONE_THREAD, PithTest, random_model

DOCUMENT = FACT * 10  # about 370 tokens
QUESTION = "Who built the lighthouse?"
ASK = ["-n", "4", "--json", *ONE_THREAD]
SAME = ("answer", "prompt_tokens", "document_tokens", "entries", "keep", "scorer")


class CacheTest(PithTest):
    def setUp(self):
        super().setUp()
        self.document = self.write("doc.txt", DOCUMENT)

    def ask(self, *flags, question=QUESTION, document=None):
        if "--keep" in flags and "--scorer" not in flags:
            flags = (*flags, "--scorer", "kvzip")
        return self.json("ask", document or self.document, question, *ASK, *flags)

    def entry(self):
        (name,) = self.cached()
        return os.path.join(self.cache, name)

    def same(self, one, other):
        for key in SAME:
            self.assertEqual(one[key], other[key], key)

    def ask_told(self, pattern, *flags):
        """An answer beside one line on standard error."""
        code, out, err = self.pith("ask", self.document, QUESTION, "-n", "4", *ONE_THREAD, *flags)
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"\Apith: [^\n]+\n\Z")
        self.assertRegex(err, pattern)
        return out


class HitTest(CacheTest):
    def test_second_question_does_not_read_the_document(self):
        for flags in ((), ("--keep", "50%"), ("--keep", "150", "--scorer", "knorm")):
            first = self.ask(*flags)
            second = self.ask(*flags)
            self.assertEqual((first["cached"], second["cached"]), (False, True))
            self.same(first, second)
            self.assertEqual(first["snapshot_bytes"], second["snapshot_bytes"])
            self.assertGreater(second["kv_bytes_shared"], 0)
            self.assertEqual(second["score_s"], 0)
            self.assertLess(second["prefill_s"], first["prefill_s"])
            self.assertLess(second["first_token_s"], first["first_token_s"])
            self.assertFalse(self.ask(*flags, "--no-cache")["cached"])
            self.assertTrue(self.ask(*flags, question="And when?")["cached"])
        self.assertEqual(len(self.cached()), 3)
        for name in self.cached():
            self.assertRegex(name, r"\A[0-9a-f]{32}\.pith\Z")
            self.done("inspect", os.path.join(self.cache, name))

    def test_run_shares_it(self):
        asked = self.ask()
        ran = self.json("run", self.document, "-p", QUESTION, *ASK)
        self.assertEqual(ran["answer"], asked["answer"])
        self.assertEqual(len(self.cached()), 1)
        self.assertGreater(ran["kv_bytes_shared"], 0)

    def test_what_makes_another_entry(self):
        self.ask()
        other = self.write("other.txt", DOCUMENT + "The end.")
        n = 1
        for flags, document in (
            (("--keep", "50%"), None),
            (("--keep", "50%", "--scorer", "knorm"), None),
            (("--keep", "50%", "--window", "64"), None),
            (("--system", "Be brief."), None),
            (("--template", "none"), None),
            (("-m", random_model(seed=7)), None),
            ((), other),
        ):
            self.assertFalse(self.ask(*flags, document=document)["cached"], flags)
            n += 1
            self.assertEqual(len(self.cached()), n, flags)
        # Only what is read counts, not what it is called.
        os.rename(self.document, self.path("renamed.txt"))
        self.assertTrue(self.ask(document=self.path("renamed.txt"))["cached"])

    def test_short_documents_are_not_kept(self):
        out = self.ask(document=self.write("short.txt", FACT))
        self.assertEqual((out["cached"], out["snapshot_bytes"]), (False, None))
        self.assertEqual(self.cached(), [])

    def test_no_cache(self):
        self.ask("--no-cache")
        self.assertEqual(self.cached(), [])

    def test_where_it_is(self):
        self.ask("--cache-dir", self.path("named/deep"))
        self.assertEqual(len(os.listdir(self.path("named/deep"))), 1)
        self.assertEqual(os.stat(self.path("named/deep")).st_mode & 0o777, 0o700)
        del self.environment["PITH_CACHE"]
        self.environment.update(XDG_CACHE_HOME=self.path("xdg"), HOME=self.path("home"))
        self.ask()
        self.assertEqual(len(os.listdir(self.path("xdg/pith"))), 1)
        del self.environment["XDG_CACHE_HOME"]
        self.ask()
        self.assertEqual(len(os.listdir(self.path("home/.cache/pith"))), 1)
        del self.environment["HOME"]
        self.assertEqual(self.ask()["snapshot_bytes"], None)
        self.assertEqual(self.cached(), [])


class FaultTest(CacheTest):
    def test_damaged_entry_is_read_again(self):
        expected = self.ask()["answer"] + "\n"
        size = os.path.getsize(self.entry())
        for offset in (0, 9, size // 2, size - 1):
            with open(self.entry(), "r+b") as file:
                file.seek(offset)
                byte = file.read(1)[0]
                file.seek(offset)
                file.write(bytes([byte ^ 1]))
            self.assertEqual(self.ask_told("read again.*pith"), expected)
            self.assertTrue(self.ask()["cached"])
        for content in (b"", b"junk", b"\xff" * 5000):
            with open(self.entry(), "wb") as file:
                file.write(content)
            self.assertEqual(self.ask_told("read again.*pith"), expected)
            self.assertTrue(self.ask()["cached"])
        with open(self.entry(), "r+b") as file:
            file.truncate(size - 4096)
        self.assertEqual(self.ask_told("read again.*pith"), expected)
        self.assertTrue(self.ask()["cached"])

    def test_entry_of_another_text_is_read_again(self):
        mine = self.ask()
        name = self.entry()
        self.ask("--cache-dir", self.path("other"), document=self.write("o.txt", DOCUMENT[::-1]))
        (other,) = os.listdir(self.path("other"))
        os.replace(os.path.join(self.path("other"), other), name)
        self.assertEqual(self.ask_told("holds another text"), mine["answer"] + "\n")
        self.same(self.ask(), mine)

    def test_folder_that_cannot_be_written(self):
        expected = self.ask("--no-cache")["answer"] + "\n"
        for folder in ("/proc/pith", os.path.join(self.document, "cache"), "/dev/null"):
            self.assertEqual(self.ask_told("not affected", "--cache-dir", folder), expected)

    def test_two_processes_at_once(self):
        command = ["ask", self.document, QUESTION, "-n", "4", *ONE_THREAD]
        expected = self.done(*command, "--no-cache")
        for _ in range(3):
            both = [self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                    for _ in range(3)]
            for process in both:
                out, err = process.communicate(timeout=120)
                self.assertEqual((process.returncode, out.decode(), err), (0, expected, b""))
            self.assertEqual(len(self.cached()), 1)
            self.assertTrue(self.ask()["cached"])
            os.remove(self.entry())

    def test_killed_while_it_reads(self):
        process = self.start("ask", self.write("long.txt", FACT * 200), QUESTION, *ONE_THREAD)
        time.sleep(0.5)
        process.kill()
        process.wait()
        self.assertFalse(self.ask()["cached"])
        self.assertTrue(self.ask()["cached"])


class LimitTest(CacheTest):
    def test_oldest_go_first(self):
        documents = [self.write(f"{i}.txt", DOCUMENT + f"Number {i}.") for i in range(3)]
        size = self.ask(document=documents[0])["snapshot_bytes"]
        limit = ["--cache-limit", str(2 * size + size // 2)]
        time.sleep(0.05)
        self.ask(*limit, document=documents[1])
        time.sleep(0.05)
        self.assertTrue(self.ask(*limit, document=documents[0])["cached"])  # now the newer one
        time.sleep(0.05)
        self.ask(*limit, document=documents[2])
        self.assertEqual(len(self.cached()), 2)
        self.assertTrue(self.ask(*limit, document=documents[0])["cached"])
        self.assertTrue(self.ask(*limit, document=documents[2])["cached"])
        self.assertFalse(self.ask(*limit, document=documents[1])["cached"])

    def test_the_one_in_use_stays_whatever_its_size(self):
        self.ask()
        self.ask("--keep", "50%", "--cache-limit", "1B")
        self.assertEqual(len(self.cached()), 1)
        self.assertTrue(self.ask("--keep", "50%", "--cache-limit", "1B")["cached"])

    def test_touches_only_its_own(self):
        foreign = ["notes.txt", "book.pith", "x" * 32 + ".pith", "." + "a" * 32 + ".txt"]
        half_written = "." + "a" * 32 + ".pith.99-0.tmp"
        fresh = "." + "b" * 32 + ".pith.99-0.tmp"
        for name in [*foreign, half_written, fresh]:
            with open(os.path.join(self.cache, name), "wb") as file:
                file.write(b"0" * 5000)
            if name != fresh:
                os.utime(os.path.join(self.cache, name), (1, 1))
        self.ask("--cache-limit", "1B")
        left = self.cached()
        self.assertEqual(len(left), len(foreign) + 2)
        self.assertTrue(set(foreign) | {fresh} <= set(left))


if __name__ == "__main__":
    unittest.main()
