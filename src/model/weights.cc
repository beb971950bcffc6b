#include "model/weights.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <map>
#include <set>

#include <fmt/ranges.h>
#include <ggml-cpu.h>

#include "base/fail.h"
#include "model/split_q4_1.h"

namespace pith {
namespace {

// ggml reports every tensor that it repacks; only its errors are worth a user's time.
void LogErrorsOnly(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

// The CPU device's other buffer types, which lay weights out anew on upload.
std::vector<ggml_backend_buffer_type_t> RepackingBufferTypes() {
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (!device) return {};
  auto get = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
      ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
  std::vector<ggml_backend_buffer_type_t> types;
  if (!get) return types;
  for (ggml_backend_buffer_type_t* type = get(device); type && *type; ++type)
    types.push_back(*type);
  return types;
}

// Whether the device multiplies `weight` by f32 activations when it lies in a buffer of `type`.
bool Multiplies(ggml_backend_buffer_type_t type, ggml_tensor* weight) {
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  ggml_context_ptr context(ggml_init({ggml_tensor_overhead() * 4, nullptr, true}));
  ggml_backend_buffer_ptr empty(ggml_backend_buft_alloc_buffer(type, 0));
  if (!device || !empty) return false;
  ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, weight->ne[0], 512);
  ggml_tensor* product = ggml_mul_mat(context.get(), weight, x);
  weight->buffer = empty.get();
  const bool supported = ggml_backend_dev_supports_op(device, product);
  weight->buffer = nullptr;
  return supported;
}

}  // namespace

// Creates tensors as they are asked for, checks that none is left over, then gives them memory.
class Weights::Loader {
 public:
  Loader(Weights& out, const HyperParams& hparams, bool repack)
      : out_(out), hparams_(hparams), file_(out.file_) {
    if (repack) repacking_ = RepackingBufferTypes();
    size_t n_tensors = 2;  // tied embeddings exist twice
    for (ggml_tensor* t = ggml_get_first_tensor(file_.tensors()); t;
         t = ggml_get_next_tensor(file_.tensors(), t)) {
      n_tensors += 4;  // a split matrix takes two more, joined ones two together
      unused_.insert(ggml_get_name(t));
      bytes_of_type_[t->type] += ggml_nbytes(t);
    }
    out_.tensors_.reset(ggml_init({ggml_tensor_overhead() * n_tensors, nullptr, true}));
    if (!out_.tensors_) Fail(ErrorCode::kIo, "{}: no memory for its tensors", file_.name());
  }

  void Load() {
    const HyperParams& h = hparams_;
    const int64_t q_size = int64_t{h.n_heads} * h.head_dim;
    const int64_t kv_size = int64_t{h.n_kv_heads} * h.head_dim;
    out_.token_embd = Create("token_embd.weight", {h.n_embd, h.n_vocab}, Use::kLookup);
    out_.output_norm = Vector("output_norm.weight", h.n_embd);
    if (file_.FindTensor("output.weight")) {
      out_.output = Matrix("output", h.n_embd, h.n_vocab, Bias::kNone);
    } else {
      out_.output.weight = Create("token_embd.weight", {h.n_embd, h.n_vocab}, Use::kMultiply);
      out_.output.n_out = h.n_vocab;
    }
    if (file_.FindTensor("rope_freqs.weight")) {
      out_.rope_factors = Vector("rope_freqs.weight", h.n_rot / 2);
    }
    const Bias qkv_bias = h.qkv_bias ? Bias::kRequired : Bias::kOptional;
    for (int i = 0; i < h.n_layers; ++i) {
      const std::string block = fmt::format("blk.{}.", i);
      LayerWeights layer;
      layer.attn_norm = Vector(block + "attn_norm.weight", h.n_embd);
      layer.q = Matrix(block + "attn_q", h.n_embd, q_size, qkv_bias);
      layer.k = Matrix(block + "attn_k", h.n_embd, kv_size, qkv_bias);
      layer.v = Matrix(block + "attn_v", h.n_embd, kv_size, qkv_bias);
      Join({&layer.q, &layer.k, &layer.v});
      if (h.qk_norm) {
        layer.q_norm = Vector(block + "attn_q_norm.weight", h.head_dim);
        layer.k_norm = Vector(block + "attn_k_norm.weight", h.head_dim);
      }
      layer.attn_output = Matrix(block + "attn_output", q_size, h.n_embd, Bias::kOptional);
      layer.ffn_norm = Vector(block + "ffn_norm.weight", h.n_embd);
      layer.gate = Matrix(block + "ffn_gate", h.n_embd, h.n_ff, Bias::kOptional);
      layer.up = Matrix(block + "ffn_up", h.n_embd, h.n_ff, Bias::kOptional);
      Join({&layer.gate, &layer.up});
      layer.down = Matrix(block + "ffn_down", h.n_ff, h.n_embd, Bias::kOptional);
      out_.layers.push_back(layer);
    }
    if (!unused_.empty()) {
      Fail(ErrorCode::kUnsupported, "{}: {} tensors do not belong to a plain {} model, {} first",
           file_.name(), unused_.size(), h.architecture, *unused_.begin());
    }
    Place();
    const auto largest = std::max_element(bytes_of_type_.begin(), bytes_of_type_.end(),
                                          [](auto& a, auto& b) { return a.second < b.second; });
    out_.main_type_ = ggml_type_name(largest->first);
    for (auto& [type, bytes] : bytes_of_type_) out_.bytes_ += bytes;
  }

 private:
  enum class Use { kLookup, kMultiply, kElementwise };
  enum class Bias { kNone, kOptional, kRequired };

  ggml_tensor* Create(const std::string& name, std::vector<int64_t> shape, Use use) {
    const ggml_tensor* source = file_.FindTensor(name);
    if (!source) Fail(ErrorCode::kFormat, "{}: tensor {} is missing", file_.name(), name);
    std::vector<int64_t> found(source->ne, source->ne + ggml_n_dims(source));
    found.resize(std::max(found.size(), shape.size()), 1);
    if (found != shape) {
      Fail(ErrorCode::kFormat, "{}: tensor {} has shape [{}], expected [{}]", file_.name(), name,
           fmt::join(found, ", "), fmt::join(shape, ", "));
    }
    const auto* traits = ggml_get_type_traits_cpu(source->type);
    const bool usable =
        use == Use::kElementwise ? source->type == GGML_TYPE_F32
        : use == Use::kMultiply
            ? traits && (traits->vec_dot || source->type == GGML_TYPE_F32)
            : ggml_get_type_traits(source->type)->to_float || source->type == GGML_TYPE_F32;
    if (!usable) {
      Fail(ErrorCode::kUnsupported, "{}: tensor {} is of type {}, which cannot be used there",
           file_.name(), name, ggml_type_name(source->type));
    }
    ggml_tensor* tensor =
        ggml_new_tensor_2d(out_.tensors_.get(), source->type, source->ne[0], source->ne[1]);
    ggml_set_name(tensor, name.c_str());
    if (use == Use::kMultiply)
      multiplied_.push_back(tensor);
    else
      in_place_.push_back(tensor);
    unused_.erase(name);
    return tensor;
  }

  ggml_tensor* Vector(const std::string& name, int64_t size) {
    return Create(name, {size}, Use::kElementwise);
  }

  Linear Matrix(const std::string& name, int64_t n_in, int64_t n_out, Bias bias) {
    Linear linear;
    linear.n_out = n_out;
    linear.weight = Create(name + ".weight", {n_in, n_out}, Use::kMultiply);
    if (linear.weight->type == GGML_TYPE_Q4_1) linear = Split(linear);
    const bool has_bias = file_.FindTensor(name + ".bias") != nullptr;
    if (bias == Bias::kRequired || (bias == Bias::kOptional && has_bias)) {
      linear.bias = Vector(name + ".bias", n_out);
    }
    return linear;
  }

  // The q4_0 and the rest of a q4_1 matrix, if that can be repacked; otherwise as it is.
  Linear Split(const Linear& linear) {
    ggml_tensor* q4_1 = linear.weight;
    ggml_tensor* q4_0 =
        ggml_new_tensor_2d(out_.tensors_.get(), GGML_TYPE_Q4_0, q4_1->ne[0], q4_1->ne[1]);
    if (!RepackingTypeFor(q4_0)) return linear;
    ggml_set_name(q4_0, ggml_get_name(q4_1));
    multiplied_.back() = q4_0;
    Linear split = linear;
    split.weight = q4_0;
    split.rest = AddRest(q4_0);
    return split;
  }

  ggml_tensor* AddRest(const ggml_tensor* q4_0) {
    ggml_tensor* rest = ggml_new_tensor_1d(out_.tensors_.get(), GGML_TYPE_F16,
                                           RestElements(q4_0->ne[0], q4_0->ne[1]));
    rests_[q4_0] = rest;
    return rest;
  }

  // Makes one matrix of several of the same n_in if all are of one type that is repacked.
  void Join(std::initializer_list<Linear*> linears) {
    const Linear first = **linears.begin();
    int64_t n_out = 0;
    for (const Linear* linear : linears) {
      if (linear->weight->type != first.weight->type || !linear->rest != !first.rest) return;
      n_out += linear->n_out;
    }
    ggml_tensor* whole =
        ggml_new_tensor_2d(out_.tensors_.get(), first.weight->type, first.weight->ne[0], n_out);
    if (!RepackingTypeFor(whole)) return;
    ggml_tensor* rest = first.rest ? AddRest(whole) : nullptr;
    int64_t first_out = 0;
    for (Linear* linear : linears) {
      parts_[whole].push_back(linear->weight);
      rests_.erase(linear->weight);
      std::erase(multiplied_, linear->weight);
      linear->weight = whole;
      linear->rest = rest;
      linear->first_out = first_out;
      first_out += linear->n_out;
    }
    multiplied_.push_back(whole);
  }

  // Null if no repacking buffer type supports the tensor.
  ggml_backend_buffer_type_t RepackingTypeFor(ggml_tensor* tensor) const {
    const auto type = std::find_if(repacking_.begin(), repacking_.end(),
                                   [&](auto t) { return Multiplies(t, tensor); });
    return type == repacking_.end() ? nullptr : *type;
  }

  void Place() {
    std::map<ggml_backend_buffer_type_t, std::vector<ggml_tensor*>> repacked;
    for (ggml_tensor* tensor : multiplied_) {
      if (ggml_backend_buffer_type_t type = RepackingTypeFor(tensor)) {
        repacked[type].push_back(tensor);
      } else {
        in_place_.push_back(tensor);
      }
    }
    MapInPlace();
    if (!rests_.empty()) AllocateRests();
    for (auto& [type, tensors] : repacked) Repack(type, tensors);
  }

  void MapInPlace() {
    const auto bytes = file_.bytes();
    out_.buffers_.emplace_back(ggml_backend_cpu_buffer_from_ptr(
        const_cast<std::byte*>(bytes.data()), bytes.size()));  // only ever read
    ggml_backend_buffer_set_usage(out_.buffers_.back().get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    for (ggml_tensor* tensor : in_place_) {
      ggml_backend_tensor_alloc(out_.buffers_.back().get(), tensor,
                                const_cast<std::byte*>(Source(tensor).data()));
    }
  }

  void AllocateRests() {
    size_t total = 0;
    for (auto& [q4_0, rest] : rests_) total += GGML_PAD(ggml_nbytes(rest), 64);
    ggml_backend_buffer_t buffer = Allocate(ggml_backend_cpu_buffer_type(), total);
    ggml_tallocr allocator = ggml_tallocr_new(buffer);
    for (auto& [q4_0, rest] : rests_) ggml_tallocr_alloc(&allocator, rest);
  }

  ggml_backend_buffer_t Allocate(ggml_backend_buffer_type_t type, size_t size) {
    out_.buffers_.emplace_back(ggml_backend_buft_alloc_buffer(type, size));
    ggml_backend_buffer_t buffer = out_.buffers_.back().get();
    if (!buffer) {
      Fail(ErrorCode::kIo, "{}: no memory for {} MB of repacked weights", file_.name(),
           size / 1000000);
    }
    ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    return buffer;
  }

  void Repack(ggml_backend_buffer_type_t type, const std::vector<ggml_tensor*>& tensors) {
    const size_t alignment = ggml_backend_buft_get_alignment(type);
    size_t total = 0;
    for (const ggml_tensor* tensor : tensors) {
      total += GGML_PAD(ggml_backend_buft_get_alloc_size(type, tensor), alignment);
    }
    ggml_backend_buffer_t buffer = Allocate(type, total);
    ggml_tallocr allocator = ggml_tallocr_new(buffer);
    for (ggml_tensor* tensor : tensors) {
      ggml_tallocr_alloc(&allocator, tensor);
      if (const auto parts = parts_.find(tensor); parts != parts_.end()) {
        std::vector<std::byte> joined;
        for (const ggml_tensor* part : parts->second) {
          const auto source = Source(part);
          joined.insert(joined.end(), source.begin(), source.end());
          file_.Release(source);
        }
        Upload(tensor, joined);
      } else {
        Upload(tensor, Source(tensor));
        file_.Release(Source(tensor));
      }
    }
  }

  // `source` as the file stores it.
  void Upload(ggml_tensor* tensor, std::span<const std::byte> source) {
    const auto rest = rests_.find(tensor);
    if (rest == rests_.end()) {
      ggml_backend_tensor_set(tensor, source.data(), 0, source.size());
      return;
    }
    std::vector<std::byte> q4_0(ggml_nbytes(tensor));
    SplitQ41(source, tensor->ne[0], q4_0,
             {static_cast<ggml_fp16_t*>(rest->second->data),
              static_cast<size_t>(ggml_nelements(rest->second))});
    ggml_backend_tensor_set(tensor, q4_0.data(), 0, q4_0.size());
  }

  std::span<const std::byte> Source(const ggml_tensor* tensor) const {
    return file_.TensorBytes(*file_.FindTensor(ggml_get_name(tensor)));
  }

  Weights& out_;
  const HyperParams& hparams_;
  const GgufFile& file_;
  std::vector<ggml_backend_buffer_type_t> repacking_;
  std::vector<ggml_tensor*> multiplied_, in_place_;
  std::map<const ggml_tensor*, ggml_tensor*> rests_;  // of split matrices, by their q4_0 part
  std::map<const ggml_tensor*, std::vector<const ggml_tensor*>> parts_;  // of joined matrices
  std::set<std::string> unused_;
  std::map<ggml_type, uint64_t> bytes_of_type_;
};

Weights::Weights(GgufFile file, const HyperParams& hparams, bool repack) : file_(std::move(file)) {
  ggml_log_set(LogErrorsOnly, nullptr);
  Loader(*this, hparams, repack).Load();
}

Weights::~Weights() = default;

}  // namespace pith
