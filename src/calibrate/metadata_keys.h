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

inline constexpr const char* kCurvesSequencesKey = "curves_sequences";  // for loss curves

// Of the codebooks.
inline constexpr const char* kCodebooksCorpusKey = "codebooks_corpus";  // what the texts were
inline constexpr const char* kCodebooksSeedKey = "codebooks_seed";
inline constexpr const char* kCodebooksKeysKey = "codebooks_keys";            // of each KV head
inline constexpr const char* kCodebooksPositionsKey = "codebooks_positions";  // spread over these

// Of the surrogate.
inline constexpr const char* kKvzapFormKey = "kvzap_form";      // "linear" or "mlp"
inline constexpr const char* kKvzapCorpusKey = "kvzap_corpus";  // what the texts were
inline constexpr const char* kKvzapSeedKey = "kvzap_seed";
inline constexpr const char* kKvzapPromptsKey = "kvzap_prompts";      // train, validation, held out
inline constexpr const char* kKvzapPositionsKey = "kvzap_positions";  // sampled of each prompt
inline constexpr const char* kKvzapPenaltyKey = "kvzap_penalty";      // of a linear one
inline constexpr const char* kKvzapR2Key = "kvzap_r2";             // held out, mean over all heads
inline constexpr const char* kKvzapR2HeadsKey = "kvzap_r2_heads";  // of every layer and KV head

// The same of the surrogate of kvzap+.
inline constexpr const char* kKvzapPlusCorpusKey = "kvzap_plus_corpus";
inline constexpr const char* kKvzapPlusSeedKey = "kvzap_plus_seed";
inline constexpr const char* kKvzapPlusPromptsKey = "kvzap_plus_prompts";
inline constexpr const char* kKvzapPlusPositionsKey = "kvzap_plus_positions";
inline constexpr const char* kKvzapPlusPenaltyKey = "kvzap_plus_penalty";
inline constexpr const char* kKvzapPlusR2Key = "kvzap_plus_r2";  // means of both predictions

}  // namespace pith
