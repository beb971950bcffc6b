#include "base/printable.h"

namespace pith {

std::string Printable(std::string_view text) {
  constexpr size_t kMost = 64;
  std::string out(text.substr(0, kMost));
  for (char& c : out) {
    if (c < 32 || c > 126) c = '?';
  }
  if (text.size() > kMost) out += "...";
  return out;
}

}  // namespace pith
