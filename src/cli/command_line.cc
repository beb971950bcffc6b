#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>

namespace pith::cli {

struct CommandLine::Impl {
  CLI::App app;
  std::string verb;
  std::string group = "Options";

  template <typename T>
  CLI::Option* Add(const std::string& names, T& value, const std::string& meta,
                   const std::string& help) {
    return app.add_option(names, value, help)->group(group)->type_name(meta)->capture_default_str();
  }
};

CommandLine::CommandLine(const std::string& verb, const std::string& summary)
    : impl_(std::make_unique<Impl>()) {
  impl_->verb = verb;
  impl_->app.name("pith " + verb);
  impl_->app.description("pith " + verb + ": " + summary);
  impl_->app.set_help_flag("-h,--help", "Print this help and exit");
  impl_->app.get_formatter()->column_width(34);
}

CommandLine::~CommandLine() = default;

void CommandLine::Group(const std::string& title) { impl_->group = title; }

void CommandLine::Flag(const std::string& names, bool& value, const std::string& help) {
  impl_->app.add_flag(names, value, help)->group(impl_->group);
}

void CommandLine::Option(const std::string& names, std::string& value, const std::string& meta,
                         const std::string& help) {
  // An empty default would be shown as "=".
  CLI::Option* option = impl_->app.add_option(names, value, help);
  option->group(impl_->group)->type_name(meta);
  if (!value.empty()) option->capture_default_str();
}

void CommandLine::Option(const std::string& names, int& value, const std::string& meta,
                         const std::string& help) {
  impl_->Add(names, value, meta, help);
}

void CommandLine::Option(const std::string& names, float& value, const std::string& meta,
                         const std::string& help) {
  impl_->Add(names, value, meta, help);
}

void CommandLine::Option(const std::string& names, uint64_t& value, const std::string& meta,
                         const std::string& help) {
  impl_->Add(names, value, meta, help);
}

void CommandLine::Option(const std::string& names, double& value, const std::string& meta,
                         const std::string& help) {
  impl_->Add(names, value, meta, help);
}

void CommandLine::List(const std::string& names, std::vector<std::string>& values,
                       const std::string& meta, const std::string& help) {
  impl_->app.add_option(names, values, help)
      ->group(impl_->group)
      ->type_name(meta)
      ->delimiter(',')
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->capture_default_str();
}

void CommandLine::Repeated(const std::string& names, std::vector<std::string>& values,
                           const std::string& meta, const std::string& help) {
  impl_->app.add_option(names, values, help)
      ->group(impl_->group)
      ->type_name(meta)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void CommandLine::Files(const std::string& names, std::vector<std::string>& files,
                        const std::string& help) {
  impl_->app.add_option(names, files, help)->group(impl_->group)->type_name("FILES");
}

void CommandLine::Positional(const std::string& name, std::string& value, const std::string& help) {
  impl_->app.add_option(name, value, help)->required()->type_name("");
}

void CommandLine::OptionalPositional(const std::string& name, std::string& value,
                                     const std::string& help) {
  impl_->app.add_option(name, value, help)->type_name("");
}

void CommandLine::Positionals(const std::string& name, std::vector<std::string>& values,
                              const std::string& help) {
  impl_->app.add_option(name, values, help)->required()->type_name("");
}

void CommandLine::Exclude(const std::string& name, const std::string& other) {
  impl_->app.get_option(name)->excludes(impl_->app.get_option(other));
}

void CommandLine::Footer(const std::string& text) { impl_->app.footer(text); }

bool CommandLine::Parse(std::span<char* const> arguments) {
  // CLI11 takes the arguments in reverse.
  std::vector<std::string> reversed;
  for (char* argument : arguments) {
    // llama.cpp writes this long name with one dash, which would mean -s with the value "ys".
    reversed.emplace_back(std::strcmp(argument, "-sys") == 0 ? "--system" : argument);
  }
  std::reverse(reversed.begin(), reversed.end());
  try {
    impl_->app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    std::fputs(impl_->app.help().c_str(), stdout);
    return false;
  } catch (const CLI::ParseError& error) {
    std::string message = error.what();
    std::replace(message.begin(), message.end(), '\n', ' ');
    throw UsageError(message + " (see pith " + impl_->verb + " --help)");
  }
  return true;
}

bool CommandLine::Given(const std::string& name) const {
  return impl_->app.get_option(name)->count() > 0;
}

}  // namespace pith::cli
