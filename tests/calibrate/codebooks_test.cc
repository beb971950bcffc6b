// Codebooks: nearest centroids, k-means, training, the file, and agreement with Faiss.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "base/safetensors.h"
#include "cache/nearest_centroid.h"
#include "cache/pq_codebook.h"
#include "calibrate/kmeans.h"
#include "calibrate/metadata_keys.h"
#include "calibrate/pq_train.h"
#include "calibrate/rope_layout.h"
#include "pith/calibration.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

std::vector<float> Normal(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

MatrixView<const float> View(const std::vector<float>& values, size_t cols) {
  return {values.data(), values.size() / cols, cols, cols};
}

double Distance(const float* a, const float* b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return sum;
}

// Weighted squared distance of rows from their nearest centroids.
double Cost(MatrixView<const float> rows, const std::vector<float>& weights,
            const std::vector<float>& centroids) {
  double cost = 0;
  for (size_t i = 0; i < rows.rows; ++i) {
    double least = 1e300;
    for (size_t c = 0; c < centroids.size(); c += rows.cols) {
      least = std::min(least, Distance(rows.row(i), centroids.data() + c, rows.cols));
    }
    cost += weights[i] * least;
  }
  return cost;
}

TEST(CentroidSearch, FindsTheNearestAtEverySimdLevel) {
  constexpr size_t kDims[] = {1, 2, 3, 4, 32};
  for (const std::string& level : AvailableSimdLevels()) {
    ASSERT_TRUE(ForceSimdLevel(level));
    for (const size_t n_dims : kDims) {
      for (const size_t n_centroids : {1u, 5u, 16u, 256u}) {
        const std::vector<float> centroids = Normal(n_centroids * n_dims, n_dims);
        const std::vector<float> rows = Normal(23 * n_dims, n_centroids);
        std::vector<uint8_t> codes(23);
        CentroidSearch(centroids, static_cast<int>(n_dims)).Find(View(rows, n_dims), codes);
        for (size_t i = 0; i < codes.size(); ++i) {
          ASSERT_LT(codes[i], n_centroids);
          const float* row = rows.data() + i * n_dims;
          const double found = Distance(row, centroids.data() + codes[i] * n_dims, n_dims);
          for (size_t c = 0; c < n_centroids; ++c) {
            EXPECT_LE(found, Distance(row, centroids.data() + c * n_dims, n_dims) + 1e-5) << level;
          }
        }
      }
    }
  }
  ForceSimdLevel("");
}

TEST(CentroidSearch, TakesTheFirstOfEquallyNearOnes) {
  const std::vector<float> centroids(40, 1.0f);
  const std::vector<float> rows = {1, 7, std::nanf("")};
  std::vector<uint8_t> codes(3, 9);
  CentroidSearch(centroids, 1).Find(View(rows, 1), codes);
  EXPECT_EQ(codes, std::vector<uint8_t>(3, 0));
  ExpectError(ErrorCode::kInvalidArgument, "not 1 to 256 centroids of 3",
              [&] { CentroidSearch(centroids, 3); });
}

TEST(WeightedKMeans, WeighsRowsAndIsTheSameForASeed) {
  std::vector<float> rows = Normal(400, 1);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] += i % 2 == 0 ? 50.0f : -50.0f;
  std::vector<float> weights(rows.size());
  double heavy = 0;
  for (size_t i = 0; i < rows.size(); i += 2) {
    weights[i] = i < 200 ? 3.0f : 1.0f;
    heavy += weights[i] * rows[i];
  }
  // Rows without a weight are not there.
  const std::vector<float> one = WeightedKMeans(View(rows, 1), weights, 1, 20, 7);
  EXPECT_NEAR(one[0], heavy / 400, 1e-4);
  std::fill(weights.begin(), weights.end(), 1.0f);
  std::vector<float> two = WeightedKMeans(View(rows, 1), weights, 2, 20, 7);
  EXPECT_EQ(two, WeightedKMeans(View(rows, 1), weights, 2, 20, 7));
  std::sort(two.begin(), two.end());
  EXPECT_NEAR(two[0], -50, 0.3);
  EXPECT_NEAR(two[1], 50, 0.3);
  // More centroids than rows.
  const std::vector<float> few = {1, 2, 3};
  EXPECT_EQ(Cost(View(few, 1), {1, 1, 1}, WeightedKMeans(View(few, 1), {few}, 16, 20, 7)), 0);
}

TEST(PqShape, HasAName) {
  for (const char* name : {"pq8x16", "pq8x1", "pq4x32", "pq8x256"}) {
    ASSERT_TRUE(ParsePqShape(name)) << name;
    EXPECT_EQ(ParsePqShape(name)->name(), name);
  }
  EXPECT_EQ(ParsePqShape("pq4x32")->key_bytes(), 16);
  EXPECT_EQ(ParsePqShape("pq4x32")->n_centroids(), 16);
  EXPECT_EQ(ParsePqShape("pq8x4")->key_bytes(), 4);
  for (const char* name : {"", "pq8x", "pq8x0", "pq8x08", "pq4x3", "pq8x257", "pq8x-1", "pq8x4 ",
                           "pq6x4", "q8", "pq8x99999999999"}) {
    EXPECT_FALSE(ParsePqShape(name)) << name;
  }
  CheckPqShape({8, 16}, 64);
  ExpectError(ErrorCode::kInvalidArgument, "pq8x24 cuts a head into 24 equal parts, but 64", [] {
    CheckPqShape({8, 24}, 64);
  });
}

// Faiss's codes and vectors, from make_faiss_golden.py.
TEST(PqCodebook, DecodesAsFaissDoes) {
  const SafeTensors golden = SafeTensors::Open(PITH_TEST_DATA "/pq_faiss.safetensors");
  constexpr size_t kDims = 16;
  const std::vector<float> rows = golden.Get("rows").ToFloats();
  const std::vector<float> centre(kDims);
  std::vector<float> identity(kDims * kDims);
  for (size_t i = 0; i < kDims; ++i) identity[i * kDims + i] = 1;
  for (const std::string name : {"pq4x8", "pq8x4"}) {
    const PqShape shape = ParsePqShape(name).value();
    const auto n_subspaces = static_cast<size_t>(shape.n_subspaces);
    const PqCodebook codebook(shape, centre, identity, golden.Get(name + ".centroids").ToFloats());
    const std::vector<int32_t> codes = golden.Get(name + ".codes").ToInts();
    const std::vector<float> decoded = golden.Get(name + ".decoded").ToFloats();
    const size_t n = decoded.size() / kDims;
    ASSERT_EQ(codes.size(), n * n_subspaces);
    std::vector<uint8_t> ours(codes.size());
    codebook.Encode({rows.data(), n, kDims, kDims}, ours);
    std::array<float, kDims> key;
    for (size_t i = 0; i < n; ++i) {
      const std::vector<uint8_t> theirs(
          codes.begin() + static_cast<int64_t>(i * n_subspaces),
          codes.begin() + static_cast<int64_t>((i + 1) * n_subspaces));
      codebook.Decode(theirs, key.data());
      EXPECT_TRUE(
          std::equal(key.begin(), key.end(), decoded.begin() + static_cast<int64_t>(i * kDims)));
      EXPECT_TRUE(std::equal(theirs.begin(), theirs.end(),
                             ours.begin() + static_cast<int64_t>(i * n_subspaces)));
    }
    // Training is as good as theirs.
    const size_t width = kDims / n_subspaces;
    const std::vector<float> weights(rows.size() / kDims, 1.0f);
    double error = 0;
    for (size_t m = 0; m < n_subspaces; ++m) {
      const MatrixView<const float> part = {rows.data() + m * width, weights.size(), width, kDims};
      error += Cost(part, weights, WeightedKMeans(part, weights, shape.n_centroids(), 25, m));
    }
    error /= static_cast<double>(rows.size());
    EXPECT_LT(error, 1.03 * golden.Get(name + ".error").ToFloats()[0]) << name;
  }
}

constexpr size_t kHeadDim = 8;

// Keys whose energy lies where queries do not look, and the other way round.
struct Problem {
  std::vector<float> keys;
  std::vector<float> weights;
  std::vector<double> queries = std::vector<double>(kHeadDim * kHeadDim);

  explicit Problem(size_t n) : keys(Normal(n * kHeadDim, 3)), weights(n, 1.0f) {
    for (size_t i = 0; i < keys.size(); ++i) {
      keys[i] = keys[i] * (i % kHeadDim < 4 ? 8.0f : 1.0f) + 20.0f;
    }
    for (size_t d = 0; d < kHeadDim; ++d) queries[d * kHeadDim + d] = d < 4 ? 0.01 : 4.0;
  }
  KeySample sample() const { return {View(keys, kHeadDim), weights, queries}; }

  // Of products with such queries.
  double Error(const PqCodebook& codebook) const {
    std::vector<uint8_t> codes(weights.size() * static_cast<size_t>(codebook.shape().n_subspaces));
    codebook.Encode(View(keys, kHeadDim), codes);
    double error = 0;
    std::array<float, kHeadDim> key;
    for (size_t i = 0; i < weights.size(); ++i) {
      const size_t m = static_cast<size_t>(codebook.shape().n_subspaces);
      codebook.Decode(std::span(codes).subspan(i * m, m), key.data());
      for (size_t d = 0; d < kHeadDim; ++d) {
        const double off = key[d] - keys[i * kHeadDim + d];
        error += off * off * queries[d * kHeadDim + d];
      }
    }
    return error / static_cast<double>(weights.size());
  }
};

PqCodebook Trained(const KeySample& sample, const PqMap& map, const PqShape& shape) {
  return {shape, map.centre, map.map, FitPqCentroids(sample, map, shape, 1)};
}

TEST(PqTraining, LosesLittleOfWhatQueriesSee) {
  const Problem problem(2000);
  PqMap plain{std::vector<float>(kHeadDim, 20.0f), std::vector<float>(kHeadDim * kHeadDim)};
  for (size_t d = 0; d < kHeadDim; ++d) plain.map[d * kHeadDim + d] = 1;
  const PqMap map = FitPqMap(problem.sample());
  for (const float x : map.centre) EXPECT_NEAR(x, 20, 1);
  for (const PqShape& shape : {PqShape{4, 4}, PqShape{4, 2}}) {
    EXPECT_LT(problem.Error(Trained(problem.sample(), map, shape)),
              0.8 * problem.Error(Trained(problem.sample(), plain, shape)))
        << shape.name();
  }
}

TEST(PqTraining, KeysThatMatterMoreAreCloser) {
  Problem problem(2000);
  const PqMap map = FitPqMap(problem.sample());
  const auto error_of_first = [&](const PqCodebook& codebook) {
    Problem first(2000);
    first.weights.resize(40);
    first.keys.resize(40 * kHeadDim);
    return first.Error(codebook);
  };
  const double before = error_of_first(Trained(problem.sample(), map, {4, 2}));
  std::fill_n(problem.weights.begin(), 40, 200.0f);
  EXPECT_LT(error_of_first(Trained(problem.sample(), map, {4, 2})), 0.6 * before);
}

TEST(PqTraining, RefusesWhatIsNoNumber) {
  Problem problem(50);
  problem.keys[17] = std::nanf("");
  ExpectError(ErrorCode::kInvalidArgument, "finite numbers", [&] { FitPqMap(problem.sample()); });
  problem = Problem(50);
  std::fill(problem.weights.begin(), problem.weights.end(), 0.0f);
  ExpectError(ErrorCode::kInvalidArgument, "weight above zero",
              [&] { FitPqMap(problem.sample()); });
  const std::vector<float> flat(kHeadDim * kHeadDim, 1.0f);
  ExpectError(ErrorCode::kInvalidArgument, "no inverse", [&] { InverseOfPqMap(flat, kHeadDim); });
}

// Of 2 layers, 3 KV heads and 4 dimensions, as the model below.
Calibration SmallCalibration() {
  Calibration calibration;
  calibration.n_layers = 2;
  calibration.n_kv_heads = 3;
  calibration.head_dim = 4;
  PqCodebooks& codebooks = calibration.codebooks.emplace();
  codebooks = {2, 3, 4, {}, {}, {}};
  const auto fill = [](std::vector<float>& values, size_t n) {
    for (size_t i = 0; i < n; ++i) values.push_back(static_cast<float>(i % 251) / 8);
  };
  fill(codebooks.centre, 24);
  fill(codebooks.map, 96);
  fill(codebooks.energy, 24);
  fill(codebooks.centroids["pq4x2"], 6 * 16 * 4);
  fill(codebooks.centroids["pq8x1"], 6 * 256 * 4);
  return calibration;
}

ModelInfo SmallModel() {
  ModelInfo model;
  model.name = "small";
  model.n_layers = 2;
  model.n_heads = 6;
  model.n_kv_heads = 3;
  model.head_dim = 4;
  return model;
}

TEST(CodebooksFile, LoadsWhatItSaves) {
  const TempFolder folder;
  const Calibration saved = SmallCalibration();
  saved.Save(folder / "a.pithcal");
  EXPECT_LT(std::filesystem::file_size(folder / "a.pithcal"), 16000u) << "as f16";
  const Calibration loaded = Calibration::Load(folder / "a.pithcal");
  ASSERT_TRUE(loaded.codebooks);
  EXPECT_FALSE(loaded.has_filters());
  EXPECT_EQ(loaded.codebooks->centre, saved.codebooks->centre);
  EXPECT_EQ(loaded.codebooks->map, saved.codebooks->map);
  EXPECT_EQ(loaded.codebooks->energy, saved.codebooks->energy);
  EXPECT_EQ(loaded.codebooks->centroids, saved.codebooks->centroids);
  ModelInfo model = SmallModel();
  EXPECT_EQ(loaded.CodebooksFor(model).centre, saved.codebooks->centre);
  model.rope_interleaved = true;
  const PqCodebooks turned = loaded.CodebooksFor(model);
  for (int i = 0; i < 4; ++i) {
    const auto to = static_cast<size_t>(InterleavedIndex(i, 4));
    EXPECT_EQ(turned.centre[4 + to], saved.codebooks->centre[4 + static_cast<size_t>(i)]);
    EXPECT_EQ(turned.map[92 + to], saved.codebooks->map[92 + static_cast<size_t>(i)]);
  }
  EXPECT_EQ(turned.centroids, saved.codebooks->centroids);
  model.n_kv_heads = 2;
  ExpectError(ErrorCode::kMismatch, "codebooks are of 2 layers, 3 KV heads",
              [&] { loaded.CodebooksFor(model); });
}

TEST(CodebooksFile, RefusesWrongTensors) {
  const TempFolder folder;
  const std::vector<float> values(4096);
  const auto refuses = [&](const char* name, std::vector<int64_t> shape, const char* why) {
    std::map<std::string, SafeTensor, std::less<>> tensors;
    const auto add = [&](const std::string& tensor, std::vector<int64_t> dims) {
      size_t n = 1;
      for (const int64_t dim : dims) n *= static_cast<size_t>(dim);
      tensors[tensor] = {"F32", std::move(dims), std::as_bytes(std::span(values).first(n))};
    };
    add("codebooks.centre", {2, 3, 4});
    add("codebooks.map", {2, 3, 4, 4});
    add("codebooks.pq4x2", {2, 3, 2, 16, 2});
    tensors.erase(name);
    if (!shape.empty()) add(name, std::move(shape));
    WriteSafeTensors(folder / "a", tensors, {});
    ExpectError(ErrorCode::kFormat, why, [&] { Calibration::Load(folder / "a"); });
  };
  refuses("codebooks.centre", {}, "codebooks.centre");
  refuses("codebooks.centre", {2, 12}, "[2, 12], expected [layers, KV heads, head dimensions]");
  refuses("codebooks.map", {}, "codebooks.map");
  refuses("codebooks.map", {2, 3, 4, 3}, "[2, 3, 4, 3], expected [2, 3, 4, 4]");
  refuses("codebooks.pq4x2", {2, 3, 2, 15, 2}, "expected [2, 3, 2, 16, 2]");
  refuses("codebooks.pq4x3", {1}, "codebooks.pq4x3 is no codebook");
  refuses("codebooks.pq8x3", {1}, "codebooks.pq8x3 is no codebook for 4 dimensions");
  refuses("codebooks.other", {1}, "codebooks.other is no codebook");
  refuses("q_filters", {2, 3, 8}, "the codebooks are of 2 layers, 3 KV heads and 4 dimensions");
}

}  // namespace
}  // namespace pith
