#include "kernels/ref/ref_sampling.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/base/sampling_math.h"

namespace tandem::kernels {
namespace {

bool HasWeights(SampleKind kind) {
  return kind == SampleKind::kDraw || kind == SampleKind::kNucleus;
}
bool HasCandidates(SampleKind kind) {
  return kind == SampleKind::kCandidates || kind == SampleKind::kNucleus;
}

void Send(const SamplingArgs& args, int64_t row, uint64_t word) {
  if (args.ranks == 1) return;
  for (int32_t r = 0; r < args.ranks; ++r) {
    float* const to = args.sent + (r * args.rows + row) * kWordFloats;
    for (int i = 0; i < kWordFloats; ++i) {
      to[i] = r == args.rank ? static_cast<float>((word >> (16 * i)) & 0xffff) : 0.0f;
    }
  }
}

uint64_t Received(const SamplingArgs& args, int32_t rank, int64_t row, uint64_t own) {
  if (args.ranks == 1) return own;
  const float* const from = args.received + (rank * args.rows + row) * kWordFloats;
  uint64_t word = 0;
  for (int i = 0; i < kWordFloats; ++i) word |= static_cast<uint64_t>(from[i]) << (16 * i);
  return word;
}

uint64_t Weight(float logit, float largest, const SampleRequest& request) {
  const double x =
      (static_cast<double>(logit) - static_cast<double>(largest)) * request.inverse_temperature;
  const uint64_t weight = x > kNoWeight ? WeightOf(x) : 0;
  return weight < request.least ? 0 : weight;
}

uint64_t LargestOfAll(const SamplingArgs& args, int64_t row) {
  uint64_t largest = 0;
  for (int32_t r = 0; r < args.ranks; ++r) {
    largest = std::max(largest, Received(args, r, row, args.surveys[row].largest));
  }
  return largest;
}

class RefSamplingOps : public SamplingOps {
 public:
  void FindLargest(const SamplingArgs& args) const override {
    for (int64_t row = 0; row < args.rows; ++row) {
      if (args.requests[row].kind == SampleKind::kWhole) continue;
      RowSurvey survey;
      for (int64_t i = 0; i < args.width; ++i) {
        const int32_t key = OrderedKey(args.logits[row * args.width + i]);
        survey.largest =
            std::max(survey.largest, PackToken(key, args.first_id + static_cast<int32_t>(i)));
        if (key < kMinusInfinityKey || key >= kInfinityKey) survey.valid = 0;
      }
      args.surveys[row] = survey;
      Send(args, row, survey.largest);
    }
  }

  void Survey(const SamplingArgs& args) const override {
    std::vector<uint64_t> tokens;
    for (int64_t row = 0; row < args.rows; ++row) {
      const SampleRequest& request = args.requests[row];
      RowSurvey& survey = args.surveys[row];
      if (!HasWeights(request.kind) && !HasCandidates(request.kind)) continue;
      const float* const logits = args.logits + row * args.width;
      survey.largest = LargestOfAll(args, row);
      const float largest = PackedLogit(survey.largest);
      if (HasWeights(request.kind)) {
        for (int64_t i = 0; i < args.width; ++i) {
          survey.total += Weight(logits[i], largest, request);
        }
        Send(args, row, survey.total);
      }
      if (!HasCandidates(request.kind)) continue;
      std::vector<int64_t> bins(kCandidateBins);
      for (int64_t i = 0; i < args.width; ++i) ++bins[CandidateBin(largest, logits[i])];
      int end = 0;
      int64_t count = 0;
      while (end < kCandidateBins && count + bins[end] <= args.list_size) count += bins[end++];
      tokens.clear();
      for (int64_t i = 0; i < args.width; ++i) {
        if (CandidateBin(largest, logits[i]) >= end) continue;
        tokens.push_back(PackToken(OrderedKey(logits[i]), args.first_id + static_cast<int32_t>(i)));
      }
      std::sort(tokens.begin(), tokens.end(), std::greater<>());
      std::copy(tokens.begin(), tokens.end(), args.lists + int64_t{request.list} * args.list_size);
      survey.candidates = static_cast<int32_t>(count);
      survey.complete = count == args.width ? 1 : 0;
    }
  }

  void Draw(const SamplingArgs& args) const override {
    for (int64_t row = 0; row < args.rows; ++row) {
      const SampleRequest& request = args.requests[row];
      if (request.kind != SampleKind::kDraw) continue;
      RowSurvey& survey = args.surveys[row];
      uint64_t before = 0, sum = 0;
      for (int32_t r = 0; r < args.ranks; ++r) {
        if (r == args.rank) before = sum;
        sum += Received(args, r, row, survey.total);
      }
      const uint64_t target = DrawTarget(request.uniform, sum);
      if (target < before || target - before >= survey.total) continue;
      const float largest = PackedLogit(survey.largest);
      uint64_t rest = target - before;
      for (int64_t i = 0; i < args.width; ++i) {
        const uint64_t weight = Weight(args.logits[row * args.width + i], largest, request);
        if (rest < weight) {
          survey.drawn = args.first_id + static_cast<int32_t>(i);
          break;
        }
        rest -= weight;
      }
    }
  }
};

}  // namespace

const SamplingOps& RefSampling() {
  static const RefSamplingOps ops;
  return ops;
}

}  // namespace tandem::kernels
