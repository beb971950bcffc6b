// What a conversation is about: a document, a snapshot of one, or a snapshot and one more document.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/conversation.h"
#include "cli/options.h"
#include "cli/snapshot_cache.h"

namespace pith::cli {

// Keys of the notes in a snapshot.
inline constexpr char kDocumentNote[] = "document";  // file names, without folders
inline constexpr char kDocumentTokensNote[] = "document_tokens";
inline constexpr char kTemplateNote[] = "template";      // a name for ChatTemplate::ByName
inline constexpr char kSystemNote[] = "system_message";  // "yes" or "no"
inline constexpr char kTurnNote[] = "turn";              // whose turn is open: "user"

// Whether the file begins as a snapshot does, whatever it is called.
bool IsSnapshot(const std::filesystem::path& file);

// A session that has read everything up to the first question.
struct Opened {
  Session session;
  Conversation conversation;
  std::map<std::string, std::string> notes;
  int64_t document_tokens = 0;
  bool cached = false;          // the document was not read, but found in the cache
  uint64_t snapshot_bytes = 0;  // of the file that was mapped or written to the cache; 0: none
};

// --document --system --template, and the file that stands first.
class SourceFlags {
 public:
  // Positional: required, or else the verb may be used without any document.
  void AddTo(CommandLine& line, bool required);
  void AddRestTo(CommandLine& line);

  // Before the model is loaded: reads and checks the files. Throws UsageError for flags that do not
  // go together, and Error.
  void Prepare(const CommandLine& line, PlanFlags& plan);

  bool given() const { return !file_.empty() || !more_file_.empty(); }
  const std::string& name() const { return file_.empty() ? more_file_ : file_; }
  const std::string& system_message() const { return system_message_; }
  const std::string& template_name() const { return template_name_; }

  // Loads or reads what was given. Documents of some length are looked for in `cache` and left
  // there; null: no cache. Throws Error(kInvalidArgument) before the reading starts if not all of
  // it and the longest of `questions` fit into the context.
  Opened Open(const Model& model, const ModelFlags& model_flags, const PlanFlags& plan_flags,
              const SnapshotCache* cache, std::span<const std::string> questions) const;

 private:
  Opened OpenSnapshot(const Model& model, const ModelFlags& model_flags,
                      const PlanFlags& plan_flags, std::span<const std::string> questions) const;
  Opened OpenDocument(const Model& model, const ModelFlags& model_flags,
                      const PlanFlags& plan_flags, const SnapshotCache* cache,
                      std::span<const std::string> questions) const;

  std::string file_;
  std::string more_file_;
  std::string system_message_;
  std::string template_name_;
  bool is_snapshot_ = false;
  std::vector<std::string> texts_;  // the document, and the one more
};

}  // namespace pith::cli
