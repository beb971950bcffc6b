"""Writes tests/data/answer_scores.json: what published scorers give pairs of texts.

    python make_answer_scores_golden.py OUT.json      (needs rouge 1.0.1 of PyPI)

ROUGE-L of `rouge`, as LongBench calls it, and the ratio of `difflib` in whole percent, as
`fuzzywuzzy` rounds it.
"""
import difflib
import json
import random
import sys

import rouge

WORDS = ("the report says that a river of new water runs under an old town and every year it is "
         "measured again by people who know how to count fish . stones , dams ; bridges").split()


def words(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def rouge_l(answer, reference):
    try:
        return rouge.Rouge().get_scores([answer], [reference], avg=True)["rouge-l"]["f"]
    except ValueError:  # one of them is empty
        return 0.0


def similarity(code, reference):
    if code == reference:
        return 1.0
    return round(100 * difflib.SequenceMatcher(None, code, reference).ratio()) / 100


def main():
    rng = random.Random(7)
    pairs = [("", "a river"), ("   ", "a river"), ("a river.", "a river"), ("A river.", "a river"),
             ("one. two. ", "two. one. "), ("x.y.z", "z.y.x"), ("one two three", "four five"),
             ("caf\u00e9 \u6f22\u5b57.", "\u6f22\u5b57 caf\u00e9")]
    for n, m in ((5, 5), (20, 10), (60, 80), (200, 150)):
        pairs += [(words(rng, n), words(rng, m)) for _ in range(4)]
    codes = [("", "x"), ("", ""), ("return x", "return y"), ("return self.size()", "return size"),
             ("    int a = 0;", "int b = 1;"), ("na\u00efve = 1", "naive = 1")]
    for n in (10, 60, 199, 200, 350):
        for _ in range(4):
            line = [rng.choice("abcde(). =") for _ in range(n)]
            other = [rng.choice("abcde(). =") if rng.random() < 0.3 else c for c in line]
            codes.append(("".join(line), "".join(other)))
    json.dump({
        "rouge_l": [[a, b, rouge_l(a, b)] for a, b in pairs],
        "similarity": [[a, b, similarity(a, b)] for a, b in codes],
    }, open(sys.argv[1], "w"), indent=0)


if __name__ == "__main__":
    main()
