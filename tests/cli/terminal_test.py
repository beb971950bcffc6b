"""What a person sees: the chat and the progress bar, on a pseudo-terminal."""

import re
import signal
import unittest

from pith_process import FACT, ONE_THREAD, PithTest, Terminal

PROMPT = r"\n> $"


def chatml(user):
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


class ChatTest(PithTest):
    def chat(self, *flags):
        terminal = Terminal(self, "run", *ONE_THREAD, *flags)
        terminal.wait_for(PROMPT)
        return terminal

    def say(self, terminal, message):
        """The answer to `message`."""
        terminal.send(message + "\n")
        terminal.wait_for(re.escape(message) + "\r\n")
        return terminal.wait_for(PROMPT)

    def read_so_far(self, terminal):
        return int(re.search(r"([\d,]+) tokens of", self.say(terminal, "/stats"))[1].replace(",", ""))

    def n_tokens(self, text):
        return len(self.json("tokenize", "--json", "--special", stdin=text)["ids"])

    def test_every_turn_reads_only_what_is_new(self):
        terminal = self.chat("-n", "5", "--template", "chatml", "--system", "Be brief.")
        self.say(terminal, "First words.")
        first = self.read_so_far(terminal)
        system = "<|im_start|>system\nBe brief.<|im_end|>\n"
        self.assertEqual(first, self.n_tokens(system + chatml("First words.")) + 5)
        self.say(terminal, "And a second turn.")
        second = self.read_so_far(terminal)
        self.assertEqual(
            second - first, self.n_tokens("<|im_end|>\n" + chatml("And a second turn.")) + 5
        )
        self.say(terminal, "/clear")
        self.say(terminal, "First words.")
        self.assertEqual(self.read_so_far(terminal), first)
        terminal.send("/exit\n")
        self.assertEqual(terminal.finish()[0], 0)

    def test_help_blank_lines_and_end_of_input(self):
        terminal = self.chat("-n", "2")
        self.assertIn("/exit", self.say(terminal, "/help"))
        self.say(terminal, "")
        self.assertEqual(self.read_so_far(terminal), 0)
        terminal.send("\x04")
        self.assertEqual(terminal.finish()[0], 0)

    def test_backslash_continues_the_message(self):
        terminal = self.chat("-n", "1", "--template", "none")
        terminal.send("one\\\n")
        terminal.wait_for(r"\.\.\. $")
        terminal.send("two\n")
        terminal.wait_for(PROMPT)
        self.assertEqual(self.read_so_far(terminal), self.n_tokens("one\ntwo") + 1)

    def test_interrupt_while_answering_returns_to_the_prompt(self):
        terminal = self.chat("-n", "-1")
        terminal.send("Talk.\n")
        terminal.wait_for(r"Talk\.\r\n(?s:.)+")
        terminal.send("\x03")
        terminal.wait_for(PROMPT)
        terminal.send("Talk again.\n")
        terminal.wait_for(r"Talk again\.\r\n(?s:.)+")
        terminal.send("\x03")
        terminal.wait_for(PROMPT)
        terminal.send("\x03")
        self.assertEqual(terminal.finish()[0], 0)

    def test_too_long_a_message_leaves_the_chat_usable(self):
        terminal = self.chat("-n", "2", "-c", "128")
        self.assertRegex(self.say(terminal, FACT * 5), r"pith: the message has \d+ tokens")
        self.assertEqual(self.read_so_far(terminal), 0)
        self.assertNotIn("pith:", self.say(terminal, "Short."))

    def test_full_context_is_told(self):
        terminal = self.chat("-n", "-1", "-c", "96", "--temp", "1", "--top-k", "1")
        text = self.say(terminal, "Talk.") + self.say(terminal, "More.")
        self.assertRegex(text, r"pith: ")

    def test_json_needs_a_prompt(self):
        code, text = Terminal(self, "run", "--json").finish()
        self.assertEqual(code, 2)
        self.assertRegex(text, r"\Apith: --json needs a prompt[^\n]*\n\Z")


class ProgressTest(PithTest):
    def test_bar_moves_and_goes_away(self):
        document = self.write("long.txt", FACT * 40)
        terminal = Terminal(self, "ask", document, "When?", "-n", "3", "-b", "32", *ONE_THREAD)
        code, text = terminal.finish()
        self.assertEqual(code, 0)
        bars = re.findall(r"reading \[([#.]+)\] ([\d,]+)/([\d,]+) tokens, [\d.]+ .*? left", text)
        self.assertGreater(len(bars), 10)
        filled = [bar.count("#") for bar, _, _ in bars]
        self.assertEqual(filled, sorted(filled))
        self.assertEqual((bars[-1][0].count("."), bars[-1][1]), (0, bars[-1][2]))
        self.assertIn("\r\x1b[K", text[text.rindex("left") :])
        self.assertRegex(text, r"\[read [\d,]+ tokens in ")

    def test_none_without_a_terminal(self):
        document = self.write("long.txt", FACT * 40)
        code, _, err = self.pith("ask", document, "When?", "-n", "3", "-b", "32", *ONE_THREAD)
        self.assertEqual((code, err), (0, ""))

    def test_interrupt_takes_the_bar_away(self):
        document = self.write("long.txt", FACT * 2500)
        terminal = Terminal(self, "ask", document, "When?", "-b", "32", *ONE_THREAD)
        terminal.wait_for(r"reading \[")
        terminal.process.send_signal(signal.SIGINT)
        code, text = terminal.finish()
        self.assertEqual(code, 130)
        self.assertTrue(text.endswith("\r\x1b[K"), text[-80:])


if __name__ == "__main__":
    unittest.main()
