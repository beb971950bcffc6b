// Throwing pith::Error with a formatted message.
#pragma once

#include <fmt/format.h>

#include <utility>

#include "pith/error.h"

namespace pith {

template <typename... Args>
[[noreturn]] void Fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace pith
