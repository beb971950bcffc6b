// The tokenizer that a GGUF file describes.
#pragma once

#include <memory>

#include "base/gguf_file.h"
#include "pith/text.h"
#include "text/vocabulary.h"

namespace pith {

// Reads `tokenizer.ggml.*`. Throws Error(kFormat) for metadata that is damaged or inconsistent and
// Error(kUnsupported) for a tokenizer model or pre-tokenizer that is not known.
std::unique_ptr<Tokenizer> MakeTokenizer(const GgufFile& file);

// From a vocabulary at hand, arrays of the sizes that vocabulary.h says.
std::unique_ptr<Tokenizer> MakeTokenizer(Vocabulary vocabulary);

}  // namespace pith
