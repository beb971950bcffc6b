// llama.cpp measured the way `pith bench` measures pith, and its logits for comparison.
//
// A program of its own: it links the libllama and ggml of .venv-peers and nothing of pith, whose
// ggml is another build.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "ggml-cpu.h"
#include "ggml.h"
#include "llama.h"

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Arguments {
  std::string model;
  std::vector<int> depths = {512};
  int threads = 2;
  std::string kv = "f16";
  int chunk = 512;
  int decode = 24;
  int sessions = 1;
  bool synthetic = false;
  int segment = 0;  // 0: one chunk
  bool no_repack = false;
  bool as_json = false;
  std::string tokens_file;  // logits mode
  std::string output;
};

ggml_type KvType(const std::string& name) {
  if (name == "f16") return GGML_TYPE_F16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  if (name == "q4_0") return GGML_TYPE_Q4_0;
  throw std::runtime_error("--kv is '" + name + "', expected f16, q8_0 or q4_0");
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) {
      const size_t start = line.find(": ");
      return start == std::string::npos ? line : line.substr(start + 2);
    }
  }
  return "unknown";
}

std::string SimdLevel() {
  if (ggml_cpu_has_avx512()) return "AVX512";
  if (ggml_cpu_has_avx2()) return "AVX2";
  if (ggml_cpu_has_sve()) return "SVE";
  if (ggml_cpu_has_neon()) return "NEON";
  return "scalar";
}

constexpr int kStateTokens = 128;  // of the state that made-up depth is put together from

uint64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

// Ordinary tokens in a fixed disorder; speed does not depend on what they say.
std::vector<llama_token> SomeTokens(int n, int n_vocab) {
  std::vector<llama_token> tokens(n);
  uint64_t state = 42;
  const int first = std::min(1000, n_vocab / 2);
  for (llama_token& token : tokens) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    token = first + static_cast<int>((state >> 33) % (n_vocab - first));
  }
  return tokens;
}

// Tokens for llama_decode, each with its place.
class Batch {
 public:
  explicit Batch(size_t capacity)
      : batch_(llama_batch_init(static_cast<int32_t>(capacity), 0, /*n_seq_max=*/1)) {}
  ~Batch() { llama_batch_free(batch_); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  void Add(llama_token token, int position, int sequence, bool logits) {
    const int32_t i = batch_.n_tokens++;
    batch_.token[i] = token;
    batch_.pos[i] = position;
    batch_.n_seq_id[i] = 1;
    batch_.seq_id[i][0] = sequence;
    batch_.logits[i] = logits ? 1 : 0;
  }
  const llama_batch& get() const { return batch_; }

 private:
  llama_batch batch_;
};

class Peer {
 public:
  // `n_ctx` tokens in each session.
  Peer(const Arguments& arguments, int n_ctx, bool all_logits)
      : chunk_(arguments.chunk), n_sessions_(arguments.sessions) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.use_extra_bufts = !arguments.no_repack;
    model_.reset(llama_model_load_from_file(arguments.model.c_str(), model_params));
    if (!model_) throw std::runtime_error("llama.cpp cannot load " + arguments.model);

    llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx * n_sessions_;
    params.n_batch = arguments.chunk;
    params.n_ubatch = arguments.chunk;
    // The second sequence brings made-up tokens in; one buffer holds both, as if there were one.
    params.n_seq_max = arguments.synthetic ? 2 : n_sessions_;
    params.n_outputs_max = all_logits ? 0 : params.n_seq_max;
    params.kv_unified = n_sessions_ == 1;
    params.n_threads = arguments.threads;
    params.n_threads_batch = arguments.threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k = params.type_v = kv_type_ = KvType(arguments.kv);
    params.no_perf = true;
    context_.reset(llama_init_from_model(model_.get(), params));
    if (!context_) throw std::runtime_error("llama.cpp cannot make a context");
  }

  int n_vocab() const { return llama_vocab_n_tokens(llama_model_get_vocab(model_.get())); }
  int n_read() const { return n_read_; }

  // Seconds for every session to read `tokens` in chunks, logits for the last of each. Sessions
  // are in one batch where their tokens fit into a chunk together, as those of a step do.
  double Read(std::span<llama_token> tokens) {
    const auto start = Clock::now();
    for (size_t i = 0; i < tokens.size(); i += chunk_) {
      ReadChunk(tokens.subspan(i, std::min<size_t>(chunk_, tokens.size() - i)));
    }
    return SecondsSince(start);
  }

  // Logits after each of `tokens`, at most one chunk of them [n, n_vocab].
  std::span<const float> ReadWithLogits(std::span<const llama_token> tokens) {
    Batch batch(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      batch.Add(tokens[i], n_read_ + static_cast<int>(i), 0, /*logits=*/true);
    }
    Decode(batch);
    n_read_ += static_cast<int>(tokens.size());
    return {llama_get_logits(context_.get()), tokens.size() * n_vocab()};
  }

  // Back to the state after `n` tokens.
  void Forget(int n) {
    for (int session = 0; session < n_sessions_; ++session) {
      llama_memory_seq_rm(llama_get_memory(context_.get()), session, n, -1);
    }
    n_read_ = n;
  }

  // Reads `tokens`, keeps the state after them and forgets them.
  void KeepState(std::span<llama_token> tokens) {
    Forget(0);
    Read(tokens);
    state_.resize(llama_state_seq_get_size(context_.get(), 0));
    if (llama_state_seq_get_data(context_.get(), state_.data(), state_.size(), 0) !=
        state_.size()) {
      throw std::runtime_error("llama.cpp does not give its state");
    }
    n_state_ = static_cast<int>(tokens.size());
    FindPositions();
    Forget(0);
  }

  // Leaves the cache as if `n` more tokens had been read: the state kept, time and again, at
  // positions that go on. Its keys keep the rotation they have, which costs as much to attend to.
  void ReadSynthetic(int n) {
    const llama_memory_t memory = llama_get_memory(context_.get());
    for (const int end = n_read_ + n; n_read_ < end; n_read_ += n_state_) {
      for (int i = 0; i < n_state_; ++i)
        PutWord(positions_begin_ + i * positions_step_, n_read_ + i);
      if (llama_state_seq_set_data(context_.get(), state_.data(), state_.size(), 1) == 0) {
        throw std::runtime_error("llama.cpp does not take the state of made-up tokens");
      }
      llama_memory_seq_rm(memory, 1, end, -1);
      llama_memory_seq_cp(memory, 1, 0, -1, -1);
      llama_memory_seq_rm(memory, 1, -1, -1);
    }
    n_read_ = llama_memory_seq_pos_max(memory, 0) + 1;
  }

  // Bytes of K and V for `n` tokens of type `type`.
  uint64_t KvBytes(ggml_type type, int n) const {
    const int64_t row = int64_t{HeadDim("key_length")} * llama_model_n_head_kv(model_.get());
    const int64_t value_row =
        int64_t{HeadDim("value_length")} * llama_model_n_head_kv(model_.get());
    return (ggml_row_size(type, row) + ggml_row_size(type, value_row)) *
           llama_model_n_layer(model_.get()) * static_cast<uint64_t>(n);
  }
  // llama.cpp allocates all of its context at once.
  uint64_t AllocatedKvBytes() const {
    return KvBytes(kv_type_, static_cast<int>(llama_n_ctx(context_.get())));
  }
  uint64_t F16KvBytes(int n) const { return KvBytes(GGML_TYPE_F16, n); }

 private:
  int32_t Word(size_t at) const {
    int32_t word = 0;
    std::memcpy(&word, state_.data() + at, sizeof(word));
    return word;
  }
  void PutWord(size_t at, int32_t word) { std::memcpy(state_.data() + at, &word, sizeof(word)); }

  // A state begins with a few counts; then each cell has its position and its number of sequences,
  // one, and, in some versions, which.
  void FindPositions() {
    constexpr size_t kMostCounts = 16;  // words
    for (const size_t step : {2 * sizeof(int32_t), 3 * sizeof(int32_t)}) {
      for (size_t begin = 0; begin < kMostCounts * sizeof(int32_t); begin += sizeof(int32_t)) {
        bool found = begin + n_state_ * step <= state_.size();
        for (int i = 0; found && i < n_state_; ++i) {
          const size_t cell = begin + i * step;
          found = Word(cell) == i && Word(cell + sizeof(int32_t)) == 1;
        }
        if (!found) continue;
        positions_begin_ = begin;
        positions_step_ = step;
        return;
      }
    }
    throw std::runtime_error("no positions in the state that llama.cpp gives");
  }

  void ReadChunk(std::span<const llama_token> tokens) {
    const int together = std::max(1, chunk_ / static_cast<int>(tokens.size()));
    for (int first = 0; first < n_sessions_; first += together) {
      const int end = std::min(n_sessions_, first + together);
      Batch batch((end - first) * tokens.size());
      for (int session = first; session < end; ++session) {
        for (size_t i = 0; i < tokens.size(); ++i) {
          batch.Add(tokens[i], n_read_ + static_cast<int>(i), session, i + 1 == tokens.size());
        }
      }
      Decode(batch);
    }
    n_read_ += static_cast<int>(tokens.size());
  }

  void Decode(const Batch& batch) {
    const int32_t status = llama_decode(context_.get(), batch.get());
    if (status != 0) throw std::runtime_error("llama_decode gave " + std::to_string(status));
    llama_synchronize(context_.get());
  }

  int HeadDim(const std::string& key) const {
    char architecture[64] = "";
    char value[32] = "";
    llama_model_meta_val_str(model_.get(), "general.architecture", architecture,
                             sizeof(architecture));
    const std::string name = std::string(architecture) + ".attention." + key;
    if (llama_model_meta_val_str(model_.get(), name.c_str(), value, sizeof(value)) > 0) {
      return std::atoi(value);
    }
    return llama_model_n_embd(model_.get()) / llama_model_n_head(model_.get());
  }

  struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
  };
  int chunk_;
  int n_sessions_;
  int n_read_ = 0;              // by each session
  std::vector<uint8_t> state_;  // of n_state_ tokens, as llama.cpp writes it
  int n_state_ = 0;
  size_t positions_begin_ = 0;  // bytes into state_
  size_t positions_step_ = 0;
  ggml_type kv_type_ = GGML_TYPE_F16;
  std::unique_ptr<llama_model, Free> model_;
  std::unique_ptr<llama_context, Free> context_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// As `pith bench` does it: the decode steps are the last tokens on the way to a depth, so that the
// next segment starts at exactly this depth.
json Measure(const Arguments& arguments) {
  const int deepest = arguments.depths.back();
  Peer peer(arguments, deepest, /*all_logits=*/false);
  std::vector<llama_token> tokens = SomeTokens(deepest, peer.n_vocab());

  // Pages of the weights come in, threads start.
  peer.Read(std::span(tokens).first(std::min(32, deepest)));
  peer.Forget(0);
  if (arguments.synthetic) {
    peer.KeepState(std::span(tokens).first(std::min(kStateTokens, deepest)));
  }

  int n_synthetic = 0;
  json records = json::array();
  for (const int depth : arguments.depths) {
    const int end = depth - arguments.decode;
    if (arguments.synthetic) {
      const int segment = arguments.segment > 0 ? arguments.segment : arguments.chunk;
      const int made_up = std::max(0, end - segment - peer.n_read());
      const int wanted = peer.n_read() + made_up;
      peer.ReadSynthetic(made_up);
      if (peer.n_read() != wanted) {
        throw std::runtime_error("made-up tokens end at " + std::to_string(peer.n_read()) +
                                 ", expected " + std::to_string(wanted));
      }
      n_synthetic += made_up;
    }
    const int start = peer.n_read();
    const double seconds = peer.Read(std::span(tokens).subspan(start, end - start));
    std::vector<double> steps;
    while (peer.n_read() < depth) {
      steps.push_back(peer.Read(std::span(tokens).subspan(peer.n_read(), 1)));
    }
    records.push_back({{"engine", "llama.cpp"},
                       {"ggml", ggml_version()},
                       {"kv", arguments.kv},
                       {"depth", depth},
                       {"keep", "100%"},
                       {"synthetic", n_synthetic},
                       {"segment", {start, end}},
                       {"sessions", arguments.sessions},
                       {"prefill_tps", arguments.sessions * (end - start) / seconds},
                       {"decode_tps", arguments.sessions / Median(steps)},
                       {"decode_ms", 1e3 * Median(steps)},
                       {"decode_ms_min", 1e3 * *std::min_element(steps.begin(), steps.end())},
                       {"kv_bytes", peer.AllocatedKvBytes()},
                       {"kv_bytes_full", peer.F16KvBytes(depth * arguments.sessions)},
                       {"peak_resident_bytes", PeakResidentBytes()},
                       {"threads", arguments.threads},
                       {"simd", SimdLevel()},
                       {"cpu", CpuName()}});
  }
  return records;
}

// One safetensors file with `logits` F32 [n_tokens, n_vocab].
void WriteLogits(const Arguments& arguments) {
  std::ifstream input(arguments.tokens_file);
  json parsed = json::parse(input);
  const auto tokens =
      (parsed.is_object() ? parsed.at("ids") : parsed).get<std::vector<llama_token>>();
  if (tokens.empty()) throw std::runtime_error(arguments.tokens_file + " holds no tokens");

  Peer peer(arguments, static_cast<int>(tokens.size()), /*all_logits=*/true);
  const uint64_t n_bytes = uint64_t{tokens.size()} * peer.n_vocab() * sizeof(float);
  const json header = {{"logits",
                        {{"dtype", "F32"},
                         {"shape", {tokens.size(), peer.n_vocab()}},
                         {"data_offsets", {0, n_bytes}}}}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();

  std::ofstream output(arguments.output, std::ios::binary);
  output.write(reinterpret_cast<const char*>(&length), sizeof(length));
  output.write(text.data(), static_cast<std::streamsize>(text.size()));
  for (size_t i = 0; i < tokens.size(); i += arguments.chunk) {
    const std::span<const float> logits = peer.ReadWithLogits(
        std::span(tokens).subspan(i, std::min<size_t>(arguments.chunk, tokens.size() - i)));
    output.write(reinterpret_cast<const char*>(logits.data()),
                 static_cast<std::streamsize>(logits.size_bytes()));
  }
  if (!output.flush()) throw std::runtime_error("cannot write " + arguments.output);
}

int Run(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("llama.cpp measured as `pith bench` measures pith");
  app.add_option("-m", arguments.model, "GGUF model")->required();
  app.add_option("-d", arguments.depths, "depths, rising")->delimiter(',');
  app.add_option("-t", arguments.threads, "threads");
  app.add_option("--kv", arguments.kv, "type of K and V: f16, q8_0, q4_0");
  app.add_option("--chunk", arguments.chunk, "tokens read at once");
  app.add_option("--decode", arguments.decode, "steps, of which the median counts");
  auto* sessions =
      app.add_option("--sessions", arguments.sessions,
                     "sequences, each with a cache of its own, that decode in one batch");
  auto* synthetic =
      app.add_flag("--synthetic", arguments.synthetic,
                   "fill the cache with copies of a few tokens' entries and read only "
                   "the last --segment tokens before each depth");
  sessions->excludes(synthetic);
  app.add_option("--segment", arguments.segment, "tokens (default: one chunk)")->needs(synthetic);
  app.add_flag("--no-repack", arguments.no_repack, "use the weights as they lie in the file");
  app.add_flag("--json", arguments.as_json, "records instead of a table");
  auto* tokens = app.add_option("--logits", arguments.tokens_file,
                                "write the logits after each token of this JSON list");
  auto* output = app.add_option("-o", arguments.output, "safetensors file for --logits");
  tokens->needs(output);
  output->needs(tokens);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (arguments.chunk < 1 || arguments.decode < 1 || arguments.threads < 1 ||
      arguments.sessions < 1 || arguments.segment < 0) {
    std::fprintf(stderr, "peer_llama: counts must be at least 1\n");
    return 2;
  }
  for (size_t i = 0; i < arguments.depths.size(); ++i) {
    if (arguments.depths[i] - (i == 0 ? 0 : arguments.depths[i - 1]) <= arguments.decode) {
      std::fprintf(stderr, "peer_llama: depths must rise by more than the %d steps of --decode\n",
                   arguments.decode);
      return 2;
    }
  }

  if (!arguments.tokens_file.empty()) {
    WriteLogits(arguments);
    return 0;
  }
  const json records = Measure(arguments);
  if (arguments.as_json) {
    std::printf("%s\n", records.dump(2).c_str());
    return 0;
  }
  std::printf("%8s %6s %12s %10s %10s %10s\n", "depth", "kv", "prefill t/s", "decode ms", "KV MiB",
              "RSS MiB");
  for (const json& record : records) {
    std::printf("%8d %6s %12.1f %10.2f %10.1f %10.1f\n", record["depth"].get<int>(),
                arguments.kv.c_str(), record["prefill_tps"].get<double>(),
                record["decode_ms"].get<double>(), record["kv_bytes"].get<double>() / (1 << 20),
                record["peak_resident_bytes"].get<double>() / (1 << 20));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "peer_llama: %s\n", error.what());
    return 1;
  }
}
