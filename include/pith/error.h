// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

namespace pith {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kNotFound,         // a file is not there
  kIo,               // the system refused to read or write
  kFormat,           // a file is damaged or is not what it should be
  kUnsupported,      // valid, but not something pith can do
  kMismatch,         // two things that do not belong together, e.g. a calibration of another model
  kMemoryLimit,      // the KV memory limit would be exceeded; the session stays usable
  kCancelled,        // the caller's progress callback asked to stop; the session stays usable
};

// Thrown at load, parse, IO and API misuse, never by kernels. The message is one sentence that says
// what was found and what was expected.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace pith
