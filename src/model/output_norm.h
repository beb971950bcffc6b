// How much an entry's value writes into the residual stream: |W_O^h v| for query head h.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/gguf_file.h"
#include "base/matrix_view.h"
#include "model/hparams.h"

namespace pith {

// W_O^h are the columns of the output projection that query head h meets; its bias, if any, does
// not count. Holds G_h = W_O^h^T W_O^h, so that a norm costs head_dim^2 instead of n_embd head_dim:
// n_heads * head_dim^2 floats for each layer that was asked for, made from the file's tensor when
// it is asked for first, whatever layout the weights were loaded into. Safe to use from many
// threads.
class OutputNorms {
 public:
  // `file` must outlive this. Reads nothing yet.
  OutputNorms(const GgufFile& file, const HyperParams& hparams);
  ~OutputNorms();

  // values: [n, head_dim]; norms: [n]; n = 0 prepares the layer. 0 <= layer < n_layers, 0 <= q_head
  // < n_heads. Throws Error(kFormat) for a missing or misshapen tensor, Error(kUnsupported) for a
  // type that ggml cannot turn into floats.
  void Norms(int layer, int q_head, MatrixView<const float> values, std::span<float> norms) const;

 private:
  struct Layer {
    std::once_flag once;
    std::vector<float> gram;  // [n_heads, head_dim, head_dim]
  };
  void Make(int layer, std::vector<float>& gram) const;

  const GgufFile& file_;
  int n_embd_;
  int n_heads_;
  int head_dim_;
  std::unique_ptr<Layer[]> layers_;
};

}  // namespace pith
