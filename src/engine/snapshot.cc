#include "pith/snapshot.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "base/mapped_file.h"
#include "base/printable.h"
#include "engine/plan_calibration.h"
#include "engine/session_impl.h"
#include "engine/snapshot_file.h"

namespace pith {
namespace {

// Whether keys of any tier are coded in frames of the model, and which.
int KeyFramesOf(const Cache& cache) {
  const std::vector<TierCodecs> tiers = cache.codecs();
  const bool framed = std::ranges::any_of(tiers, [](const auto& tier) {
    const RowFormat keys = tier.keys->Format(0);
    return keys.centre != nullptr && keys.rank == 0;  // coefficients have frames of their own
  });
  return framed ? kKeyFramesVersion : 0;
}

SnapshotManifest ManifestOf(const Session::Impl& session,
                            const std::map<std::string, std::string>& notes) {
  const ModelInfo& info = session.model.info();
  SnapshotManifest manifest;
  manifest.model_name = info.name;
  manifest.model_fingerprint = info.fingerprint;
  manifest.shape = session.cache.shape();
  manifest.plan = session.plan;
  manifest.calibration_hash = CalibrationHash(session.plan);
  manifest.n_read = session.n_read;
  manifest.n_judged = session.n_judged;
  manifest.text_begin = session.text_begin;
  manifest.n_settled = session.n_settled;
  if (session.steering) manifest.worths = session.steering->knowledge();
  const int n_tiers = session.cache.n_tiers();
  manifest.coded.resize(static_cast<size_t>(n_tiers - 1));
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      manifest.entries.push_back(session.cache.n_entries(layer, h));
      for (int tier = 1; tier < n_tiers; ++tier) {
        manifest.coded[tier - 1].push_back(session.cache.n_entries(layer, h, tier));
      }
    }
  }
  manifest.n_stored = session.n_stored;
  manifest.key_frames = KeyFramesOf(session.cache);
  manifest.notes = notes;
  return manifest;
}

template <typename Visit>
void ForEachHead(const Cache& cache, const Visit& visit) {
  for (int layer = 0; layer < cache.shape().n_layers; ++layer) {
    for (int h = 0; h < cache.shape().n_kv_heads; ++h) visit(layer, h);
  }
}

void WritePages(const Cache& cache, const ByteSink& sink) {
  std::vector<std::byte> last;
  ForEachHead(cache, [&](int layer, int h) {
    for (int tier = cache.n_tiers() - 1; tier >= 0; --tier) {
      const int64_t n = cache.n_entries(layer, h, tier);
      const int64_t n_whole = n / kPageEntries;
      for (int64_t page = 0; page < n_whole; ++page) sink(cache.Page(layer, h, page, tier));
      if (n % kPageEntries == 0) continue;
      last.resize(cache.page_bytes(tier));
      cache.CopyPage(layer, h, n_whole, tier, last);
      sink(last);
    }
  });
}

// Where the calibration that a snapshot needs is the one given, `plan` gets it.
void TakeCalibration(const SnapshotManifest& manifest,
                     std::shared_ptr<const Calibration> calibration, const std::string& name,
                     Plan& plan) {
  plan.calibration = std::move(calibration);
  if (manifest.calibration_hash.empty()) return;
  if (const auto missing = MissingParts(plan.calibration.get(), plan); !missing.empty()) {
    Fail(plan.calibration ? ErrorCode::kMismatch : ErrorCode::kInvalidArgument,
         "{}: goes on with {} of the calibration {} that it was made with, but {}", name,
         missing.front().name, manifest.calibration_hash,
         plan.calibration ? "the one given has none" : "none was given");
  }
  const std::string given = CalibrationHash(plan);
  if (given != manifest.calibration_hash) {
    Fail(ErrorCode::kMismatch,
         "{}: was made with the calibration {}, but the one given is {}; give the former", name,
         manifest.calibration_hash, given);
  }
}

void CheckModel(const SnapshotManifest& manifest, const ModelInfo& info, const std::string& name) {
  const CacheShape& shape = manifest.shape;
  if (manifest.model_fingerprint != info.fingerprint || shape.n_layers != info.n_layers ||
      shape.n_kv_heads != info.n_kv_heads || shape.head_dim != info.head_dim) {
    Fail(ErrorCode::kMismatch, "{}: was made with the model {} ({}), but the one given is {} ({})",
         name, Printable(manifest.model_name), Printable(manifest.model_fingerprint),
         Printable(info.name), info.fingerprint);
  }
}

void CheckAgainstModel(const SnapshotFile& file, const ModelInfo& info, const std::string& name) {
  const auto n_vocab = static_cast<size_t>(info.n_vocab);
  if (!file.logits().empty() && file.logits().size() != n_vocab) {
    Fail(ErrorCode::kFormat, "{}: section \"logits\" has {} values, the vocabulary {}", name,
         file.logits().size(), n_vocab);
  }
  for (const Token token : file.tokens()) {
    if (token >= info.n_vocab) {
      Fail(ErrorCode::kFormat, "{}: section \"tokens\" has the token {}, outside the vocabulary",
           name, token);
    }
  }
}

}  // namespace

void Session::Save(const std::filesystem::path& file,
                   const std::map<std::string, std::string>& notes) const {
  const Impl& session = *impl_;
  const Cache& cache = session.cache;
  AtomicFile out(file);
  WriteSnapshot(ManifestOf(session, notes),
                {[&](const ByteSink& sink) { sink(std::as_bytes(std::span(session.tokens))); },
                 [&](const ByteSink& sink) {
                   ForEachHead(cache, [&](int layer, int h) {
                     sink(std::as_bytes(cache.Entries(layer, h).positions));
                   });
                 },
                 [&](const ByteSink& sink) {
                   ForEachHead(cache, [&](int layer, int h) {
                     sink(std::as_bytes(cache.Entries(layer, h).worth));
                   });
                 },
                 [&](const ByteSink& sink) { sink(std::as_bytes(std::span(session.logits))); },
                 [&](const ByteSink& sink) { WritePages(cache, sink); }},
                [&](std::span<const std::byte> bytes) { out.Write(bytes); });
  out.Commit();
}

Session Session::Load(const Model& model, const std::filesystem::path& file,
                      const SessionOptions& options,
                      std::shared_ptr<const Calibration> calibration) {
  const std::string name = file.string();
  const auto mapped = std::make_shared<const MappedFile>(file);
  const SnapshotFile snapshot = SnapshotFile::Parse(mapped->bytes(), name);
  const SnapshotManifest& manifest = snapshot.manifest();
  CheckModel(manifest, model.info(), name);
  Plan plan = manifest.plan;
  TakeCalibration(manifest, std::move(calibration), name, plan);
  snapshot.Verify();
  CheckAgainstModel(snapshot, model.info(), name);

  auto session = std::make_unique<Impl>(model, plan, options);
  if (manifest.n_read > session->n_ctx) {
    Fail(ErrorCode::kInvalidArgument, "{}: {} tokens were read, over the context of {}", name,
         manifest.n_read, session->n_ctx);
  }
  if (const int wanted = KeyFramesOf(session->cache); manifest.key_frames != wanted) {
    Fail(ErrorCode::kMismatch,
         "{}: its keys are coded in frames {} (0: none), but pith now reads this model's in frames "
         "{}; make it again",
         name, manifest.key_frames, wanted);
  }
  session->tokens.assign(snapshot.tokens().begin(), snapshot.tokens().end());
  session->logits.assign(snapshot.logits().begin(), snapshot.logits().end());
  session->cache.Adopt(snapshot.heads(), mapped);
  session->n_read = manifest.n_read;
  session->n_judged = manifest.n_judged;
  session->text_begin = manifest.text_begin;
  session->n_settled = manifest.n_settled;
  session->n_stored = manifest.n_stored;
  if (session->steering && manifest.worths) session->steering->SetKnowledge(*manifest.worths);
  return Session(std::move(session));
}

SnapshotInfo InspectSnapshot(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  const SnapshotFile snapshot = SnapshotFile::Parse(mapped.bytes(), file.string());
  const SnapshotManifest& manifest = snapshot.manifest();
  SnapshotInfo info;
  info.version = kSnapshotVersion;
  info.model_name = manifest.model_name;
  info.model_fingerprint = manifest.model_fingerprint;
  info.calibration_hash = manifest.calibration_hash;
  info.plan = manifest.plan;
  info.n_layers = manifest.shape.n_layers;
  info.n_kv_heads = manifest.shape.n_kv_heads;
  info.head_dim = manifest.shape.head_dim;
  info.notes = manifest.notes;
  info.file_bytes = mapped.bytes().size();
  for (int64_t i = 0; i < std::ssize(manifest.entries); ++i) {
    info.heads.push_back({static_cast<int>(i / info.n_kv_heads),
                          static_cast<int>(i % info.n_kv_heads),
                          manifest.entries[static_cast<size_t>(i)]});
  }
  info.tiers = snapshot.tiers();
  info.intact = info.file_bytes == snapshot.wanted_bytes();
  for (size_t i = 0; i < kSnapshotParts.size(); ++i) {
    const auto& section = manifest.sections[i];
    const bool intact = snapshot.Damage(static_cast<SnapshotPart>(i)).empty();
    info.sections.push_back({section.name, section.offset, section.bytes, intact});
    info.intact = info.intact && intact;
  }
  if (info.sections[static_cast<size_t>(SnapshotPart::kTokens)].intact) {
    info.tokens.assign(snapshot.tokens().begin(), snapshot.tokens().end());
  }
  if (info.intact) snapshot.Verify();
  return info;
}

}  // namespace pith
