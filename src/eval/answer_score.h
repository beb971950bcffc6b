// What an answer is worth, as the benchmarks have it. All scores are in [0, 1].
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace pith {

// Whether `value` stands anywhere in `answer`, in upper or lower case (of ASCII).
bool Names(std::string_view answer, std::string_view value);

// RULER (arXiv 2404.06654): the share of the references that the answer names, and whether it names
// any of them. 0 for no references.
double NamedShare(std::string_view answer, std::span<const std::string> references);
double NamedAny(std::string_view answer, std::span<const std::string> references);

// LongBench (arXiv 2308.14508, table 1).

// F1 over words as bags, without the case, punctuation and articles of ASCII text: SQuAD's.
double WordF1(std::string_view answer, std::string_view reference);

// ROUGE-L of summaries (C.-Y. Lin, 2004, section 3.2) as the package `rouge` 1.0.1 has it: words
// count once each; sentences end with every full stop; F1.
double RougeL(std::string_view answer, std::string_view reference);

// 1 / the number of classes that stand in the answer if the reference is one of them, else 0. Those
// that are a part of the reference's name do not count.
double ClassShare(std::string_view answer, std::string_view reference,
                  std::span<const std::string> classes);

// The share of the numbers in the answer that are `number`.
double NumberShare(std::string_view answer, std::string_view number);

// How like the reference the first line is that holds neither a comment ("#", "//") nor a "`": the
// ratio of Ratcliff and Obershelp (Dr. Dobb's Journal, 1988) as Python's difflib has it, in whole
// percent.
double CodeSimilarity(std::string_view answer, std::string_view reference);

}  // namespace pith
