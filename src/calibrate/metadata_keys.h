// Keys of a calibration's metadata; all but the format are optional. See docs/formats.md.
#pragma once

namespace pith {

inline constexpr const char* kFormatKey = "format";                  // set by Calibration::Save
inline constexpr const char* kModelKey = "model";                    // ModelInfo::name
inline constexpr const char* kFingerprintKey = "model_fingerprint";  // ModelInfo::fingerprint
inline constexpr const char* kCorpusKey = "corpus";                  // what the texts were
inline constexpr const char* kSeedKey = "seed";                      // of the sampling
inline constexpr const char* kSequencesKey = "n_sequences";
inline constexpr const char* kSequenceTokensKey = "sequence_tokens";
inline constexpr const char* kRowsKey = "rows_per_head";

}  // namespace pith
