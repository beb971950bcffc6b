// What `pith VERB` can do.
#pragma once

#include <span>

namespace pith::cli {

// Exit codes.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kWrongUse = 2;
inline constexpr int kInterrupted = 130;

struct Verb {
  const char* name;
  const char* summary;  // a phrase for `pith --help`
  // `arguments` are what follows the verb. Returns the exit code; throws UsageError for wrong use
  // and pith::Error for what failed.
  int (*run)(const Verb& verb, std::span<char* const> arguments);
};

int Run(const Verb& verb, std::span<char* const> arguments);
int Ask(const Verb& verb, std::span<char* const> arguments);
int Compress(const Verb& verb, std::span<char* const> arguments);
int Inspect(const Verb& verb, std::span<char* const> arguments);
int Compare(const Verb& verb, std::span<char* const> arguments);
int Bench(const Verb& verb, std::span<char* const> arguments);
int CalibrateModel(const Verb& verb, std::span<char* const> arguments);
int Eval(const Verb& verb, std::span<char* const> arguments);
int Tokenize(const Verb& verb, std::span<char* const> arguments);

inline constexpr Verb kVerbs[] = {
    {"run", "chat with a model, about a document if there is one, or answer one prompt", Run},
    {"ask", "answer questions about a document or a snapshot", Ask},
    {"compress", "read a document once and save what is needed of it as a snapshot", Compress},
    {"inspect", "show what a snapshot holds, and whether it is whole", Inspect},
    {"compare", "read a document with the full and with a compressed cache, side by side", Compare},
    {"bench", "measure reading and generation speed at several depths", Bench},
    {"calibrate", "compute a model's Q-Filters from a corpus", CalibrateModel},
    {"eval", "measure what a compressed cache still knows", Eval},
    {"tokenize", "show the tokens of a text", Tokenize},
};

}  // namespace pith::cli
