// Text from a file that may be hostile, made fit for an error message.
#pragma once

#include <string>
#include <string_view>

namespace pith {

// At most 64 bytes of `text`; control characters and bytes above 126 become '?'.
std::string Printable(std::string_view text);

}  // namespace pith
