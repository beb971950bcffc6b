// Writing a file so that a reader, or a crash, sees the old one or the new one, never half.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace pith {

// Writes to a temporary name in the same folder, syncs, renames. On any failure the temporary file
// is removed and `file` is untouched. Throws Error(kIo) with the system's reason.
void WriteFileAtomically(const std::filesystem::path& file, std::span<const std::byte> bytes);

}  // namespace pith
