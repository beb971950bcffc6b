// Checks that a statement throws pith::Error of one code with some words in its message.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "pith/error.h"

namespace pith::testing {

inline void ExpectError(ErrorCode code, const std::string& words,
                        const std::function<void()>& statement) {
  try {
    statement();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos)
        << "\"" << error.what() << "\" does not say \"" << words << "\"";
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return;
  }
  ADD_FAILURE() << "no error, expected one that says \"" << words << "\"";
}

}  // namespace pith::testing
