// `--keep` and byte sizes as people write them.
#include <array>
#include <charconv>
#include <cmath>
#include <string>

#include "base/fail.h"
#include "pith/plan.h"

namespace pith {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};

constexpr std::array<Unit, 9> kUnits = {{{"B", 1.0},
                                         {"KB", 1e3},
                                         {"MB", 1e6},
                                         {"GB", 1e9},
                                         {"TB", 1e12},
                                         {"KiB", 1024.0},
                                         {"MiB", 1048576.0},
                                         {"GiB", 1073741824.0},
                                         {"TiB", 1099511627776.0}}};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// A number in plain decimal notation at the start of `text`, which is advanced past it. Written
// here because strtod follows the locale and takes "inf", "nan" and hexadecimal.
bool TakeDecimal(std::string_view& text, double& value) {
  size_t length = 0;
  bool any_digit = false;
  bool seen_point = false;
  while (length < text.size() && (IsDigit(text[length]) || (text[length] == '.' && !seen_point))) {
    any_digit |= IsDigit(text[length]);
    seen_point |= text[length] == '.';
    ++length;
  }
  if (!any_digit) return false;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + length, value, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + length) return false;
  text.remove_prefix(length);
  return true;
}

// The shortest plain decimal that is read back as `value`.
std::string PlainDecimal(double value) {
  std::array<char, 400> text;  // the longest double takes 342
  const auto [end, error] =
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  return error == std::errc() ? std::string(text.data(), end) : std::string("?");
}

// Without what 0.29 * 100 has after its 12th digit.
double To12Digits(double value) {
  const std::string text = fmt::format("{:.12g}", value);
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool IsAllDigits(std::string_view text) {
  for (char c : text) {
    if (!IsDigit(c)) return false;
  }
  return !text.empty();
}

bool FindBytes(std::string_view text, uint64_t& bytes) {
  double number = 0;
  const bool whole = IsAllDigits(text);
  if (!TakeDecimal(text, number) || (text.empty() && !whole)) return false;
  double scale = text.empty() ? 1.0 : 0.0;
  for (const Unit& unit : kUnits) {
    if (text == unit.name) scale = unit.bytes;
  }
  const double product = std::round(number * scale);
  if (scale == 0.0 || product >= 0x1p63) return false;
  bytes = static_cast<uint64_t>(product);
  return true;
}

constexpr std::string_view kTau = "tau=";

bool FindKeep(std::string_view text, Keep& keep) {
  if (text.starts_with(kTau)) {
    text.remove_prefix(kTau.size());
    const bool negative = text.starts_with('-');
    if (negative) text.remove_prefix(1);
    if (!TakeDecimal(text, keep.tau) || !text.empty()) return false;
    if (negative) keep.tau = -keep.tau;
    keep.kind = Keep::Kind::kThreshold;
    return true;
  }
  if (IsAllDigits(text)) {
    keep.kind = Keep::Kind::kEntries;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), keep.entries);
    return error == std::errc() && end == text.data() + text.size() && keep.entries > 0;
  }
  if (text.ends_with('%')) {
    std::string_view number = text;
    double percent = 0;
    if (!TakeDecimal(number, percent) || number != "%") return false;
    keep.fraction = percent / 100.0;
    // All of it is the plan that needs no scorer, so that it costs nothing and stays exact.
    keep.kind = keep.fraction == 1.0 ? Keep::Kind::kAll : Keep::Kind::kFraction;
    return keep.fraction > 0.0 && keep.fraction <= 1.0;
  }
  keep.kind = Keep::Kind::kBytes;
  return FindBytes(text, keep.bytes) && keep.bytes > 0;
}

}  // namespace

uint64_t ParseBytes(std::string_view text) {
  uint64_t bytes = 0;
  if (!FindBytes(text, bytes)) {
    Fail(ErrorCode::kInvalidArgument, "'{}' is not a size such as 4096, 800KB, 64MiB or 1.5GiB",
         text);
  }
  return bytes;
}

Keep Keep::Parse(std::string_view text) {
  Keep keep;
  if (!FindKeep(text, keep)) {
    Fail(ErrorCode::kInvalidArgument,
         "cannot keep '{}': give a fraction above 0% and up to 100% such as 25%, a number of "
         "entries per head such as 512, bytes in all such as 64MiB, or the least worth such as "
         "tau=-4",
         text);
  }
  return keep;
}

std::string Keep::ToString() const {
  switch (kind) {
    case Kind::kAll:
      return "100%";
    case Kind::kFraction:
      return PlainDecimal(To12Digits(fraction * 100.0)) + '%';
    case Kind::kEntries:
      return fmt::format("{}", entries);
    case Kind::kThreshold:
      return fmt::format("{}{}", kTau, PlainDecimal(tau));
    case Kind::kBytes:
      break;
  }
  for (const auto& [name, shift] : {std::pair("GiB", 30), {"MiB", 20}, {"KiB", 10}}) {
    if (bytes > 0 && bytes % (uint64_t{1} << shift) == 0) {
      return fmt::format("{}{}", bytes >> shift, name);
    }
  }
  return fmt::format("{}B", bytes);
}

}  // namespace pith
