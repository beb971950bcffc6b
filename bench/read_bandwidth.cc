// The machine's read bandwidth: for 1 and n threads, in each level of the cache and out of it.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "read_memory.h"

namespace pith {
namespace {

int Main(int argc, char** argv) {
  int max_threads = 2;
  int repeats = 9;
  std::vector<size_t> sizes = {16, 256, 4096, 131072};
  CLI::App app("Read bandwidth of the machine, by threads and by how much each of them reads");
  app.add_option("-t,--threads", max_threads);
  app.add_option("-r,--repeats", repeats);
  app.add_option("-s,--sizes", sizes, "KiB that a thread reads over and over, multiples of 4")
      ->delimiter(',');
  CLI11_PARSE(app, argc, argv);

  std::printf("%8s %14s %12s %12s\n", "threads", "KiB a thread", "median GB/s", "best GB/s");
  for (const int n_threads : {1, max_threads}) {
    Team team(n_threads);
    const size_t largest = *std::max_element(sizes.begin(), sizes.end());
    const ReadMemory memory(n_threads, largest * 1024 * n_threads);
    for (const size_t kib : sizes) {
      const int times = static_cast<int>(std::max<size_t>(1, 65536 / kib));
      std::vector<double> speeds;
      memory.Read(team, kib * 1024);  // what fits in a cache is there from now on
      for (int i = 0; i < repeats; ++i) speeds.push_back(memory.Read(team, kib * 1024, times));
      std::sort(speeds.begin(), speeds.end());
      std::printf("%8d %14zu %12.1f %12.1f\n", n_threads, kib, speeds[speeds.size() / 2] * 1e-9,
                  speeds.back() * 1e-9);
    }
    if (n_threads == max_threads) break;
  }
  return 0;
}

}  // namespace
}  // namespace pith

int main(int argc, char** argv) { return pith::Main(argc, argv); }
