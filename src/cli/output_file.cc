#include "cli/output_file.h"

#include <errno.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "base/fail.h"

namespace pith::cli {

namespace fs = std::filesystem;

void CheckWritable(const fs::path& target) {
  std::error_code ignored;
  const fs::file_type type = fs::status(target, ignored).type();
  if (type == fs::file_type::directory) {
    Fail(ErrorCode::kIo, "cannot write {}: it is a directory", target.string());
  }
  if (type != fs::file_type::not_found && type != fs::file_type::none &&
      type != fs::file_type::regular) {
    Fail(ErrorCode::kIo, "cannot write {}: it is a device or a pipe, expected a regular file",
         target.string());
  }
  std::string probe = (target.parent_path() / ".pith-probe-XXXXXX").string();
  const int descriptor = mkstemp(probe.data());
  if (descriptor < 0) {
    Fail(ErrorCode::kIo, "cannot write {}: {}", target.string(), std::strerror(errno));
  }
  close(descriptor);
  unlink(probe.c_str());
}

}  // namespace pith::cli
