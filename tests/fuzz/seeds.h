// Gives a fuzzer its first inputs without files in the repository.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace pith::testing {

// For LLVMFuzzerInitialize: writes `seeds` into the first corpus folder on the command line, from
// which libFuzzer then reads them. Without a folder it does nothing.
inline void WriteSeeds(int argc, char** argv, const std::vector<std::string>& seeds) {
  for (int i = 1; i < argc; ++i) {
    const std::filesystem::path folder = argv[i];
    if (argv[i][0] == '-' || !std::filesystem::is_directory(folder)) continue;
    for (size_t k = 0; k < seeds.size(); ++k) {
      std::ofstream(folder / ("seed-" + std::to_string(k)), std::ios::binary) << seeds[k];
    }
    return;
  }
}

}  // namespace pith::testing
