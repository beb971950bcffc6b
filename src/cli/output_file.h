// Files that a verb is asked to write.
#pragma once

#include <filesystem>

namespace pith::cli {

// Throws Error(kIo) unless a regular file can be made or replaced at `target`, so that hours of
// work are not lost for a typing error. Leaves nothing behind.
void CheckWritable(const std::filesystem::path& target);

}  // namespace pith::cli
