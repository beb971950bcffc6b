// RULER (arXiv 2404.06654, section 3 and appendix B): retrieval, tracing and counting in texts that
// are generated to any length, with the prompts, counts and scores of its published scripts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/asked.h"
#include "eval/haystack.h"
#include "eval/ruler_documents.h"

namespace pith {

// Of which keys and lists are made.
struct RulerWords {
  std::vector<std::string> adjectives;
  std::vector<std::string> nouns;
  std::vector<std::string> verbs;
};

// What the tasks are made of; null is what no task at hand needs.
struct RulerData {
  const Haystack* essays = nullptr;
  const RulerWords* words = nullptr;
  const RulerDocuments* squad = nullptr;
  const RulerDocuments* hotpotqa = nullptr;
};

struct RulerTaskInfo {
  const char* name;
  int answer_tokens;
  bool needs_essays;
  bool needs_words;
  const RulerDocuments* RulerData::*documents;  // that it needs, null: none
};

// The 11 that need no documents, then qa_1 (SQuAD) and qa_2 (HotpotQA).
std::span<const RulerTaskInfo> RulerTasks();

struct RulerTrial : AskedTrial {
  std::string text;                     // of the context
  std::vector<std::string> references;  // that the answer should name
};

class RulerTask {
 public:
  // `name` is one of RulerTasks(), whose needs `data` has. Tokenizer and data must outlive the
  // task; an empty frame gives plain text. Throws Error(kInvalidArgument) for data too small to
  // use.
  RulerTask(std::string_view name, const Tokenizer& tokenizer, PromptFrame frame,
            const RulerData& data, uint64_t seed);

  const RulerTaskInfo& info() const { return info_; }

  // Trial `index` with as much text as fits so that prompt and answer have at most `length` tokens.
  // The same seed and index give the same for every plan. Throws Error(kInvalidArgument) for a
  // length that is too short.
  RulerTrial Make(int index, int64_t length) const;

  // [0, 1]: the share of the references that the answer names; of qa_1 and qa_2 whether it names
  // any.
  double Score(std::string_view answer, std::span<const std::string> references) const;

 private:
  const RulerTaskInfo& info_;
  const Tokenizer& tokenizer_;
  PromptFrame frame_;
  RulerData data_;
  uint64_t seed_;
};

// One outcome per plan, see AskPlans. An answer ends once its score is 1.
std::vector<ScoredOutcome> RunRuler(const Model& model, const RulerTask& task,
                                    const RulerTrial& trial, std::span<const Plan> plans,
                                    const Asking& asking);

}  // namespace pith
