// Flags of one verb: CLI11 behind a few calls, because its header takes seconds to compile.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "pith/error.h"

namespace pith::cli {

// Wrong use of the command line: exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Runs `check` and turns Error(kInvalidArgument), whose cause is a flag, into UsageError.
template <typename Check>
auto AsUsage(const Check& check) {
  try {
    return check();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInvalidArgument) throw UsageError(error.what());
    throw;
  }
}

class CommandLine {
 public:
  CommandLine(const std::string& verb, const std::string& summary);
  ~CommandLine();

  // What is added from here on is listed under `title`; "" hides it.
  void Group(const std::string& title);

  // `names` as in "-n,--predict"; `meta` stands for the value in the help, for example "N". The
  // value that is there when the flag is added is its default.
  void Flag(const std::string& names, bool& value, const std::string& help);
  void Option(const std::string& names, std::string& value, const std::string& meta,
              const std::string& help);
  void Option(const std::string& names, int& value, const std::string& meta,
              const std::string& help);
  void Option(const std::string& names, float& value, const std::string& meta,
              const std::string& help);
  void Option(const std::string& names, uint64_t& value, const std::string& meta,
              const std::string& help);
  void Option(const std::string& names, double& value, const std::string& meta,
              const std::string& help);
  // "a,b,c", or the flag several times.
  void List(const std::string& names, std::vector<std::string>& values, const std::string& meta,
            const std::string& help);
  // The flag several times, each with a value of its own, commas and all.
  void Repeated(const std::string& names, std::vector<std::string>& values, const std::string& meta,
                const std::string& help);
  // Takes every argument up to the next flag.
  void Files(const std::string& names, std::vector<std::string>& files, const std::string& help);
  // Required, in the order they are added.
  void Positional(const std::string& name, std::string& value, const std::string& help);
  // May be left out; the last one.
  void OptionalPositional(const std::string& name, std::string& value, const std::string& help);
  // One or more, the last one.
  void Positionals(const std::string& name, std::vector<std::string>& values,
                   const std::string& help);
  // Two flags that are not given together, by their longest names.
  void Exclude(const std::string& name, const std::string& other);
  // Text after the list of flags.
  void Footer(const std::string& text);

  // Returns false when help was asked for and printed. Throws UsageError.
  bool Parse(std::span<char* const> arguments);
  // Whether the user gave the flag, by its longest name.
  bool Given(const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pith::cli
