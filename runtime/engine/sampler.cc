#include "runtime/engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/exact_math.h"
#include "kernels/base/sampling_math.h"
#include "runtime/engine/philox.h"

namespace tandem::engine {
namespace {

using kernels::ExactExp;
using kernels::ExactLog;
using kernels::kInfinityKey;
using kernels::kLargestWeight;
using kernels::kMinusInfinityKey;
using kernels::kWeightBits;
using kernels::OrderedKey;
using kernels::PackedId;
using kernels::PackedKey;
using kernels::PackedLogit;
using kernels::PackToken;
using kernels::SampleKind;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
struct Argmax {
  int32_t id = -1;
  float logit = kMinusInfinity;
  bool valid = false;  // no NaN, no plus infinity, and something to choose
};

// One pass over memory: the largest and smallest key of a stretch, then a look
// for the id in the stretch that holds the first largest.
Argmax FindLargest(std::span<const float> logits) {
  constexpr size_t kStretch = 2048;  // 8 KiB, still in the first cache
  int32_t largest = std::numeric_limits<int32_t>::min();
  int32_t smallest = std::numeric_limits<int32_t>::max();
  size_t where = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kStretch) {
    const size_t end = std::min(begin + kStretch, logits.size());
    int32_t high = std::numeric_limits<int32_t>::min();
    int32_t low = std::numeric_limits<int32_t>::max();
    for (size_t i = begin; i < end; ++i) {
      const int32_t key = OrderedKey(logits[i]);
      high = key > high ? key : high;
      low = key < low ? key : low;
    }
    smallest = std::min(smallest, low);
    if (high > largest) {
      largest = high;
      where = begin;
    }
  }
  Argmax result;
  result.valid =
      smallest >= kMinusInfinityKey && largest > kMinusInfinityKey && largest < kInfinityKey;
  if (!result.valid) return result;
  while (OrderedKey(logits[where]) != largest) ++where;
  result.id = static_cast<int32_t>(where);
  result.logit = logits[where];
  return result;
}

// Minus infinity needs no case of its own.
uint64_t Weight(float logit, double largest, double inverse_temperature) {
  const double x = (static_cast<double>(logit) - largest) * inverse_temperature;
  return kernels::WeightOf(x > kernels::kNoWeight ? x : kernels::kNoWeight);
}

uint64_t FillWeights(std::span<const float> logits, double largest, double inverse_temperature,
                     uint64_t* __restrict weights) {
  const float* from = logits.data();
  const size_t count = logits.size();
  uint64_t total = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t weight = Weight(from[i], largest, inverse_temperature);
    weights[i] = weight;
    total += weight;
  }
  return total;
}

// The weight that a prefix must reach.
uint64_t Share(float share, uint64_t total) {
  return static_cast<uint64_t>(std::ceil(static_cast<double>(share) * static_cast<double>(total)));
}

double InverseTemperature(const SamplingParams& params) {
  return 1.0 / static_cast<double>(params.temperature);
}

// The draw's random bits.
uint64_t Uniform(const SampleInput& input) {
  const auto position = static_cast<uint32_t>(input.prompt_ids.size() + input.output_ids.size());
  const uint64_t seed = input.params.seed;
  const std::array<uint32_t, 4> random =
      Philox4x32({position, static_cast<uint32_t>(input.choice), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (uint64_t{random[1]} << 32) | random[0];
}

// Whether bias, penalties or banned stop ids change the row.
bool Processes(const SampleInput& input) {
  const SamplingParams& params = input.params;
  return !params.logit_bias.empty() || params.repetition_penalty != 1.0f ||
         params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f ||
         static_cast<int32_t>(input.output_ids.size()) < params.min_tokens;
}

// The next token of the order among all ranks' candidates; 0 where none is known to be it.
uint64_t NextCandidate(std::span<const kernels::RankSurvey> ranks, std::vector<size_t>& taken) {
  uint64_t next = 0;
  size_t from = 0;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (taken[r] < ranks[r].candidates.size()) {
      const uint64_t token = ranks[r].candidates[taken[r]];
      if (token > next) {
        next = token;
        from = r;
      }
    } else if (ranks[r].survey->complete == 0) {
      return 0;
    }
  }
  if (next != 0) ++taken[from];
  return next;
}

// Log of the sum of e^(logit - largest), added in 8 fixed lanes.
double LogSumExp(std::span<const float> logits, double largest) {
  constexpr size_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) {
      lanes[l] += ExactExp(static_cast<double>(logits[i + l]) - largest);
    }
  }
  for (size_t l = 0; i < logits.size(); ++i, ++l) {
    lanes[l] += ExactExp(static_cast<double>(logits[i]) - largest);
  }
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return ExactLog(sum);
}

}  // namespace

Sampler::Sampler(int32_t vocab_size, std::vector<int32_t> eos_token_ids)
    : vocab_size_(vocab_size), eos_token_ids_(std::move(eos_token_ids)) {
  TANDEM_CHECK(vocab_size > 0 && vocab_size <= kMaxVocabSize);
  row_.resize(vocab_size);
  counts_.resize(vocab_size);
  weights_.resize(vocab_size);
  kept_.reserve(vocab_size);
}

bool Sampler::IsStop(int32_t token_id, const SamplingParams& params) const {
  const auto holds = [token_id](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token_id) != ids.end();
  };
  return holds(params.stop_token_ids) || (!params.ignore_eos && holds(eos_token_ids_));
}

absl::Status Sampler::Run(const SampleInput& input, Sample* sample) {
  TANDEM_CHECK(static_cast<int32_t>(input.logits.size()) == vocab_size_);
  const std::span<const float> row = Process(input);
  const bool raw = row.data() == input.logits.data();
  Argmax largest = FindLargest(input.logits);
  if (!largest.valid) {
    return absl::InternalError("NAN_LOGITS: the model's logits are not numbers");
  }
  const float raw_largest = largest.logit;
  if (!raw) largest = FindLargest(row);
  if (!largest.valid) {
    return absl::InvalidArgumentError("logit_bias and penalties leave no token to sample");
  }
  sample->token_id =
      input.params.temperature == 0.0f ? largest.id : Draw(row, largest.logit, input);
  sample->top_logprobs.clear();
  if (input.params.logprobs >= 0) {
    FillLogprobs(input.logits, raw_largest, input.params.logprobs, sample);
  }
  return absl::OkStatus();
}

std::span<const float> Sampler::Process(const SampleInput& input) {
  const SamplingParams& params = input.params;
  if (!Processes(input)) return input.logits;
  const bool repetition = params.repetition_penalty != 1.0f;
  const bool counted = params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
  const bool too_short = static_cast<int32_t>(input.output_ids.size()) < params.min_tokens;

  std::copy(input.logits.begin(), input.logits.end(), row_.begin());
  for (const auto& [id, bias] : params.logit_bias) row_[id] += bias;
  if (repetition) {
    // counts_ marks the ids already penalized: each is once, however often it occurs.
    for (const auto ids : {input.prompt_ids, input.output_ids}) {
      for (const int32_t id : ids) {
        if (counts_[id]++ != 0) continue;
        float& logit = row_[id];
        logit =
            logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      }
    }
    for (const auto ids : {input.prompt_ids, input.output_ids}) {
      for (const int32_t id : ids) counts_[id] = 0;
    }
  }
  if (counted) {
    for (const int32_t id : input.output_ids) ++counts_[id];
    for (const int32_t id : input.output_ids) {
      const uint32_t count = std::exchange(counts_[id], 0);
      if (count == 0) continue;
      row_[id] -= static_cast<float>(count) * params.frequency_penalty;
      row_[id] -= params.presence_penalty;
    }
  }
  if (too_short) {
    for (const int32_t id : params.stop_token_ids) row_[id] = kMinusInfinity;
    if (!params.ignore_eos) {
      for (const int32_t id : eos_token_ids_) {
        if (id < vocab_size_) row_[id] = kMinusInfinity;
      }
    }
  }
  return row_;
}

void Sampler::FillLogprobs(std::span<const float> logits, float largest, int32_t k,
                           Sample* sample) {
  const double log_sum = LogSumExp(logits, largest);
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - static_cast<double>(largest) - log_sum);
  };
  sample->logprob = logprob(logits[sample->token_id]);
  if (k == 0) return;
  SelectTopK(logits, k);
  for (const uint64_t token : kept_) {
    sample->top_logprobs.push_back(
        {.token_id = PackedId(token), .logprob = logprob(PackedLogit(token))});
  }
}

void Sampler::SelectTopK(std::span<const float> logits, int32_t k) {
  // Collects what beats the k-th best so far; when the buffer is full it is cut
  // to the best k. A later id never beats an equal key, so `>` is exact.
  const auto count = static_cast<size_t>(k);
  const size_t full = std::max<size_t>(2 * count, 1024);
  kept_.clear();
  int64_t threshold = std::numeric_limits<int64_t>::min();
  const auto cut = [&] {
    if (kept_.size() <= count) return;
    const auto kth = kept_.begin() + static_cast<std::ptrdiff_t>(count) - 1;
    std::nth_element(kept_.begin(), kth, kept_.end(), std::greater<>());
    kept_.resize(count);
    threshold = PackedKey(kept_.back());
  };
  for (size_t i = 0; i < logits.size(); ++i) {
    const int32_t key = OrderedKey(logits[i]);
    if (key <= threshold) continue;
    kept_.push_back(PackToken(key, static_cast<int32_t>(i)));
    if (kept_.size() == full) cut();
  }
  cut();
  std::sort(kept_.begin(), kept_.end(), std::greater<>());
}

uint64_t Sampler::GatherAbove(std::span<const float> logits, uint64_t bar) {
  uint64_t mass = 0;
  kept_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (weights_[i] < bar) continue;
    mass += weights_[i];
    kept_.push_back(PackToken(OrderedKey(logits[i]), static_cast<int32_t>(i)));
  }
  return mass;
}

void Sampler::SelectByWeight(std::span<const float> logits, uint64_t needed) {
  // Likely tokens are few: those above 1/1024 of the likeliest mostly suffice.
  // Otherwise the sum of each octave shows in which one the boundary lies.
  auto low = kept_.begin();  // the first `low` tokens weigh `before` < needed
  uint64_t before = 0;
  if (GatherAbove(logits, kLargestWeight >> 10) < needed) {
    std::array<uint64_t, kWeightBits + 2> octaves{};  // by bit width
    for (const uint64_t weight : weights_) octaves[std::bit_width(weight)] += weight;
    int width = kWeightBits + 1;
    uint64_t mass = octaves[width];
    while (mass < needed) mass += octaves[--width];
    GatherAbove(logits, uint64_t{1} << (width - 1));
    low = std::partition(kept_.begin(), kept_.end(), [&](uint64_t token) {
      return static_cast<int>(std::bit_width(weights_[PackedId(token)])) > width;
    });
    before = mass - octaves[width];
  }
  // Halves what may hold the boundary by selection, which costs less than to sort.
  auto high = kept_.end();  // the first `high` reach it
  while (high - low > 1) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, std::greater<>());
    uint64_t mass = before;
    for (auto it = low; it != middle; ++it) mass += weights_[PackedId(*it)];
    if (mass >= needed) {
      high = middle;
    } else {
      low = middle;
      before = mass;
    }
  }
  kept_.erase(high, kept_.end());
}

void Sampler::OrderKeptById(std::span<const float> logits) {
  if (kept_.size() < 1024 ||
      logits.empty()) {  // the low half of a packed token is its id's complement
    std::sort(kept_.begin(), kept_.end(), [](uint64_t a, uint64_t b) {
      return static_cast<uint32_t>(a) > static_cast<uint32_t>(b);
    });
    return;
  }
  // A prefix of the order is what does not come behind its last token.
  const uint64_t last = *std::min_element(kept_.begin(), kept_.end());
  kept_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const uint64_t token = PackToken(OrderedKey(logits[i]), static_cast<int32_t>(i));
    if (token >= last) kept_.push_back(token);
  }
}

bool Sampler::UsesTopK(const SamplingParams& params) const {
  return params.top_k > 0 && params.top_k < vocab_size_;
}

void Sampler::WeighTopK(float largest, const SamplingParams& params) {
  uint64_t total = 0;
  for (const uint64_t token : kept_) {
    const uint64_t weight = Weight(PackedLogit(token), largest, InverseTemperature(params));
    weights_[PackedId(token)] = weight;
    total += weight;
  }
  if (params.top_p == 1.0f) return;
  const uint64_t needed = Share(params.top_p, total);
  uint64_t mass = 0;
  size_t count = 0;
  while (mass < needed) mass += weights_[PackedId(kept_[count++])];
  kept_.resize(count);
}

int32_t Sampler::DrawKept(std::span<const float> logits, const SampleInput& input) {
  const uint64_t least = Share(input.params.min_p, kLargestWeight);
  OrderKeptById(logits);
  std::erase_if(kept_, [&](uint64_t token) { return weights_[PackedId(token)] < least; });
  uint64_t total = 0;
  for (const uint64_t token : kept_) total += weights_[PackedId(token)];
  uint64_t rest = kernels::DrawTarget(Uniform(input), total);
  for (const uint64_t token : kept_) {
    const int32_t id = PackedId(token);
    if (rest < weights_[id]) return id;
    rest -= weights_[id];
  }
  TANDEM_CHECK(false && "the kept weights add up to their sum");
  return -1;
}

int32_t Sampler::Draw(std::span<const float> logits, float largest, const SampleInput& input) {
  const SamplingParams& params = input.params;
  if (UsesTopK(params)) {
    SelectTopK(logits, params.top_k);
    WeighTopK(largest, params);
    return DrawKept(logits, input);
  }
  uint64_t total = FillWeights(logits, largest, InverseTemperature(params), weights_.data());
  if (params.top_p < 1.0f) {
    SelectByWeight(logits, Share(params.top_p, total));
    return DrawKept(logits, input);
  }
  const uint64_t least = Share(params.min_p, kLargestWeight);
  if (least > 0) {
    total = 0;
    for (uint64_t& weight : weights_) {
      weight = weight < least ? 0 : weight;
      total += weight;
    }
  }
  uint64_t rest = kernels::DrawTarget(Uniform(input), total);
  for (int32_t id = 0; id < vocab_size_; ++id) {
    if (rest < weights_[id]) return id;
    rest -= weights_[id];
  }
  TANDEM_CHECK(false && "the weights add up to their sum");
  return -1;
}

kernels::SampleRequest Sampler::MakeRequest(const SampleInput& input, int32_t candidates) const {
  const SamplingParams& params = input.params;
  kernels::SampleRequest request;
  if (params.logprobs >= 0 || params.logits_hash || Processes(input)) return request;
  if (params.temperature == 0.0f) {
    request.kind = SampleKind::kLargest;
  } else if (UsesTopK(params)) {
    if (params.top_k <= candidates) request.kind = SampleKind::kCandidates;
  } else if (params.top_p < 1.0f) {
    request.kind = SampleKind::kNucleus;
    request.inverse_temperature = InverseTemperature(params);
  } else {
    request.kind = SampleKind::kDraw;
    request.inverse_temperature = InverseTemperature(params);
    request.least = Share(params.min_p, kLargestWeight);
    request.uniform = Uniform(input);
  }
  return request;
}

int32_t Sampler::Choose(const SampleInput& input, std::span<const kernels::RankSurvey> ranks) {
  const SamplingParams& params = input.params;
  uint64_t first = 0, total = 0;
  int32_t drawn = -1;
  for (const kernels::RankSurvey& rank : ranks) {
    if (rank.survey->valid == 0) return -1;
    first = std::max(first, rank.survey->largest);
    total += rank.survey->total;
    drawn = std::max(drawn, rank.survey->drawn);
  }
  if (PackedKey(first) <= kMinusInfinityKey) return -1;
  if (params.temperature == 0.0f) return PackedId(first);
  if (!UsesTopK(params) && params.top_p == 1.0f) return drawn;
  const float largest = PackedLogit(first);
  kept_.clear();
  taken_.assign(ranks.size(), 0);
  if (UsesTopK(params)) {
    while (kept_.size() < static_cast<size_t>(params.top_k)) {
      const uint64_t token = NextCandidate(ranks, taken_);
      if (token == 0) return -1;
      kept_.push_back(token);
    }
    WeighTopK(largest, params);
  } else {
    const uint64_t needed = Share(params.top_p, total);
    uint64_t mass = 0;
    while (mass < needed) {
      const uint64_t token = NextCandidate(ranks, taken_);
      if (token == 0) return -1;
      const uint64_t weight = Weight(PackedLogit(token), largest, InverseTemperature(params));
      weights_[PackedId(token)] = weight;
      mass += weight;
      kept_.push_back(token);
    }
  }
  return DrawKept({}, input);
}

}  // namespace tandem::engine
