#include "cli/source.h"

#include <algorithm>
#include <charconv>
#include <fstream>

#include "base/fail.h"
#include "base/mapped_file.h"
#include "base/printable.h"
#include "cli/document.h"
#include "engine/snapshot_file.h"

namespace pith::cli {
namespace {

constexpr char kSnapshotMagic[] = "PITHSNAP";
constexpr char kUserTurn[] = "user";

// Documents shorter than this are read faster than anyone could notice.
constexpr int64_t kLeastCached = 256;

// Fit for JSON, whatever bytes the file system allows.
std::string BaseName(const std::string& file) {
  const std::string name = std::filesystem::path(file).filename().string();
  return FindInvalidUtf8(name) == std::string::npos ? name : Printable(name);
}

std::string NoteOf(const std::map<std::string, std::string>& notes, const char* key) {
  const auto found = notes.find(key);
  return found == notes.end() ? std::string() : found->second;
}

size_t LongestQuestion(const Conversation& conversation, std::span<const std::string> questions) {
  size_t longest = 0;
  for (const std::string& question : questions) {
    longest = std::max(longest, conversation.TokensFor(question, /*from_start=*/true).size());
  }
  return longest;
}

std::string WithQuestion(const std::string& what, std::span<const std::string> questions) {
  return questions.empty() ? what : what + " with the question";
}

}  // namespace

bool IsSnapshot(const std::filesystem::path& file) {
  std::string start(sizeof(kSnapshotMagic) - 1, '\0');
  std::ifstream stream(file, std::ios::binary);
  return stream.read(start.data(), static_cast<std::streamsize>(start.size())) &&
         start == kSnapshotMagic;
}

void SourceFlags::AddTo(CommandLine& line, bool required) {
  if (required) {
    line.Positional("DOCUMENT", file_, "a text file, UTF-8, or a snapshot (.pith)");
  } else {
    line.OptionalPositional("DOCUMENT", file_,
                            "what it is about: a text file, UTF-8, or a snapshot (.pith)");
  }
}

void SourceFlags::AddRestTo(CommandLine& line) {
  line.Option("--document", more_file_, "FILE", "a text file that is read after the first");
  line.Option("--system", system_message_, "TEXT", "what the model is told before (also -sys)");
  line.Option("--template", template_name_, "NAME",
              "chat template, if the model's own is not known: chatml, llama2, llama3, mistral, "
              "gemma, phi3, none");
}

void SourceFlags::Prepare(const CommandLine& line, PlanFlags& plan) {
  for (const char* name : {"DOCUMENT", "--document"}) {
    if (line.Given(name) && (std::string_view(name) == "DOCUMENT" ? file_ : more_file_).empty()) {
      throw UsageError(fmt::format("{} has no name", name));
    }
  }
  is_snapshot_ = !file_.empty() && IsSnapshot(file_);
  if (is_snapshot_) {
    plan.RefuseBeside(file_, line);
    for (const char* flag : {"--system", "--template"}) {
      if (line.Given(flag)) {
        throw UsageError(
            fmt::format("{} comes before the document, which {} already holds", flag, file_));
      }
    }
  } else {
    if (given()) plan.SetReading(Reading::kDocument);
    plan.Check();
    if (!file_.empty()) texts_.push_back(ReadDocument(file_));
  }
  if (!more_file_.empty()) {
    if (IsSnapshot(more_file_)) {
      throw UsageError(fmt::format("{} is a snapshot, --document takes a text file", more_file_));
    }
    texts_.push_back(ReadDocument(more_file_));
  }
}

Opened SourceFlags::Open(const Model& model, const ModelFlags& model_flags,
                         const PlanFlags& plan_flags, const SnapshotCache* cache,
                         std::span<const std::string> questions) const {
  return is_snapshot_ ? OpenSnapshot(model, model_flags, plan_flags, questions)
                      : OpenDocument(model, model_flags, plan_flags, cache, questions);
}

Opened SourceFlags::OpenSnapshot(const Model& model, const ModelFlags& model_flags,
                                 const PlanFlags& plan_flags,
                                 std::span<const std::string> questions) const {
  // Load verifies the rest.
  const MappedFile mapped(file_);
  const SnapshotManifest info = SnapshotFile::Parse(mapped.bytes(), file_).manifest();
  Session session = Session::Load(model, file_, model_flags.ForSession(model),
                                  plan_flags.CalibrationFor(info.plan, model, model_flags.File()));
  if (const std::string turn = NoteOf(info.notes, kTurnNote); turn != kUserTurn && !turn.empty()) {
    Fail(ErrorCode::kUnsupported, "{} ends in the turn of '{}', expected that of the user", file_,
         Printable(turn));
  }
  Opened opened{std::move(session), Conversation(model, NoteOf(info.notes, kTemplateNote), "")};
  opened.conversation.FollowDocument();
  opened.notes = info.notes;
  opened.snapshot_bytes = mapped.bytes().size();
  const std::string count = NoteOf(info.notes, kDocumentTokensNote);
  std::from_chars(count.data(), count.data() + count.size(), opened.document_tokens);

  std::vector<Token> more;
  for (const std::string& text : texts_) more = model.tokenizer().Encode("\n\n" + text);
  CheckFitsContext(opened.session, more.size() + LongestQuestion(opened.conversation, questions),
                   more.empty() ? "the question" : WithQuestion(more_file_, questions));
  if (!more.empty()) {
    ReadWithProgress(opened.session, more);
    opened.document_tokens += static_cast<int64_t>(more.size());
    opened.notes[kDocumentTokensNote] = fmt::format("{}", opened.document_tokens);
    opened.notes[kDocumentNote] += ", " + BaseName(more_file_);
  }
  return opened;
}

Opened SourceFlags::OpenDocument(const Model& model, const ModelFlags& model_flags,
                                 const PlanFlags& plan_flags, const SnapshotCache* cache,
                                 std::span<const std::string> questions) const {
  const Plan plan = plan_flags.ForModel(model, model_flags.File());
  const SessionOptions options = model_flags.ForSession(model);
  Opened opened{MakeSession(model, plan, options),
                AsUsage([&] { return Conversation(model, template_name_, system_message_); })};
  opened.conversation.FollowDocument();
  const std::vector<Token> before = opened.conversation.BeforeDocument();
  std::string text = texts_.front();
  if (texts_.size() > 1) text += "\n\n" + texts_.back();
  const std::vector<Token> document = model.tokenizer().Encode(text);
  if (document.empty()) Fail(ErrorCode::kFormat, "{} gives no tokens", name());
  std::vector<Token> all = before;
  all.insert(all.end(), document.begin(), document.end());
  CheckFitsContext(opened.session, all.size() + LongestQuestion(opened.conversation, questions),
                   WithQuestion(name(), questions));

  opened.document_tokens = static_cast<int64_t>(document.size());
  opened.notes = {{kDocumentNote, BaseName(name())},
                  {kDocumentTokensNote, fmt::format("{}", opened.document_tokens)},
                  {kTemplateNote, std::string(opened.conversation.template_name())},
                  {kSystemNote, system_message_.empty() ? "no" : "yes"},
                  {kTurnNote, kUserTurn}};
  if (texts_.size() > 1) opened.notes[kDocumentNote] += ", " + BaseName(more_file_);
  if (opened.document_tokens < kLeastCached) cache = nullptr;
  const std::string key =
      cache != nullptr ? SnapshotCache::Key(model, plan, options, before, document) : "";
  if (cache != nullptr) {
    if (auto hit = cache->Find(key, model, plan, options, all)) {
      opened.session = std::move(hit->session);
      opened.snapshot_bytes = hit->bytes;
      opened.cached = true;
      return opened;
    }
  }
  ReadPinned(opened.session, before);
  ReadWithProgress(opened.session, document);
  if (cache != nullptr) opened.snapshot_bytes = cache->Store(key, opened.session, opened.notes);
  return opened;
}

}  // namespace pith::cli
