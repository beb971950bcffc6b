// What pith keeps of a context, and how it goes on with it: the half of peer_kvpress.py that is
// pith.
//   peer_kvpress < REQUEST.json > ANSWER.json
// A request has model, calibration, threads, keep (a fraction), the tokens `context`, `following`
// and `question`, n_answer, and scorers. The answer is a list, the full cache first: kept
// (positions, [n_layers][n_kv_heads][n]), nll (of each token of `following` after the context) and
// answer (the tokens written after the question).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "engine/session_impl.h"
#include "pith/pith.h"

namespace {

using Json = nlohmann::ordered_json;
using Tokens = std::vector<pith::Token>;

double NegativeLogLikelihood(std::span<const float> logits, pith::Token token) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<size_t>(token)];
}

Json Kept(pith::Session& session) {
  const pith::ModelInfo& info = session.model().info();
  Json layers = Json::array();
  for (int layer = 0; layer < info.n_layers; ++layer) {
    Json heads = Json::array();
    for (int h = 0; h < info.n_kv_heads; ++h) {
      const std::span<const int32_t> positions = session.impl().cache.Entries(layer, h).positions;
      std::vector<int32_t> sorted(positions.begin(), positions.end());
      std::sort(sorted.begin(), sorted.end());
      heads.push_back(sorted);
    }
    layers.push_back(heads);
  }
  return layers;
}

// Forks keep all that is left, as kvpress does after the prompt.
std::vector<double> FollowingNll(pith::Session& session, const Tokens& following) {
  std::vector<double> nll = {NegativeLogLikelihood(session.logits(), following.front())};
  pith::ReadOptions options;
  options.on_logits = [&](int64_t position, std::span<const float> logits) {
    const auto next = static_cast<size_t>(position - session.n_read()) + 1;
    if (next < following.size()) nll.push_back(NegativeLogLikelihood(logits, following[next]));
  };
  session.Fork(pith::Plan()).Read(following, options);
  return nll;
}

Tokens Answer(pith::Session& session, const Tokens& question, int n_answer) {
  pith::Session fork = session.Fork(pith::Plan());
  fork.Read(question);
  Tokens answer;
  std::span<const float> logits = fork.logits();
  for (int i = 0; i < n_answer; ++i) {
    const auto best = std::max_element(logits.begin(), logits.end());
    answer.push_back(static_cast<pith::Token>(best - logits.begin()));
    if (fork.model().tokenizer().IsEndOfGeneration(answer.back())) break;
    logits = fork.Next(answer.back());
  }
  return answer;
}

Json Run(const Json& request) {
  const auto model = pith::Model::Load(request.at("model").get<std::string>());
  const auto calibration = std::make_shared<const pith::Calibration>(
      pith::Calibration::Load(request.at("calibration").get<std::string>()));
  const auto context = request.at("context").get<Tokens>();
  const auto following = request.at("following").get<Tokens>();
  const auto question = request.at("question").get<Tokens>();
  pith::Plan reading;
  reading.keep.kind = pith::Keep::Kind::kFraction;
  reading.budget = "uniform";
  reading.window = 1;  // the least there is
  reading.calibration = calibration;
  std::vector<pith::Plan> judges;
  for (const Json& scorer : request.at("scorers")) {
    judges.push_back(reading);
    judges.back().scorer = scorer.get<std::string>();
  }
  // Judged as a whole, so that what goes is decided once.
  reading.scorer = judges.front().scorer;
  pith::Session session(model, reading,
                        {.n_threads = request.at("threads").get<int>(), .also_judge = judges});
  session.Read(context);
  std::vector<pith::Plan> plans(1);
  for (pith::Plan plan : judges) {
    plan.keep.fraction = request.at("keep").get<double>();
    plans.push_back(plan);
  }
  Json answers = Json::array();
  for (const pith::Plan& plan : plans) {
    pith::Session fork = session.Fork(plan);
    answers.push_back({{"kept", Kept(fork)},
                       {"nll", FollowingNll(fork, following)},
                       {"answer", Answer(fork, question, request.at("n_answer").get<int>())}});
  }
  return answers;
}

}  // namespace

int main() {
  try {
    const std::string request{std::istreambuf_iterator<char>(std::cin), {}};
    std::cout << Run(Json::parse(request)).dump() << '\n';
  } catch (const std::exception& error) {
    std::fprintf(stderr, "peer_kvpress: %s\n", error.what());
    return 1;
  }
  return 0;
}
