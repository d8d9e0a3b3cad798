// Choosing tokens on a GPU against the scalar specification: surveys and candidates in the same
// bits, with the vocabulary whole and cut among ranks.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "kernels/base/sampling_math.h"
#include "kernels/cuda/sampling.h"
#include "kernels/ref/ref_sampling.h"
#include "tests/support/cuda_memory.h"

namespace tandem::kernels {
namespace {

using testing::CudaArray;
using testing::CudaStream;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows unlike each other: peaked, flat, with ties, with minus infinity, broken.
std::vector<float> MakeRow(int kind, int64_t vocab, std::mt19937& random) {
  std::normal_distribution<float> normal(0, kind % 3 == 0 ? 0.5f : 6.0f);
  std::vector<float> row(vocab);
  for (float& logit : row) logit = normal(random);
  if (kind == 1) {
    for (float& logit : row) logit = std::round(logit);
  }
  if (kind == 2) std::fill(row.begin(), row.end(), -2.5f);
  if (kind == 4) {
    for (int64_t i = 0; i < vocab; i += 1 + i % 3) row[i] = -kInfinity;
  }
  if (kind == 5) row[vocab / 2] = std::nanf("");
  if (kind == 6) row[vocab / 3] = kInfinity;
  if (kind == 7) std::fill(row.begin(), row.end(), -kInfinity);
  if (kind == 8) row[vocab - 1] = -std::nanf("");
  if (kind == 9) {
    for (float& logit : row) logit *= 1e30f;
  }
  return row;
}
constexpr int kRowKinds = 10;

struct Case {
  int64_t rows, vocab;
  std::vector<float> logits;  // [rows, vocab]
  std::vector<SampleRequest> requests;
  int32_t lists = 0;
};

Case MakeCase(int64_t vocab, int seed) {
  std::mt19937_64 draws(seed);
  std::mt19937 random(seed);
  Case made = {.rows = 5 * kRowKinds, .vocab = vocab};
  for (int64_t r = 0; r < made.rows; ++r) {
    const std::vector<float> row = MakeRow(static_cast<int>(r) / 5, vocab, random);
    made.logits.insert(made.logits.end(), row.begin(), row.end());
    SampleRequest request = {.kind = static_cast<SampleKind>(r % 5)};
    request.inverse_temperature = std::vector{1.0, 1 / 0.6, 0.01, 1e30}[draws() % 4];
    if (request.kind == SampleKind::kDraw) {
      request.uniform = draws() % 8 == 0 ? ~uint64_t{0} : draws();
      request.least = draws() % 2 == 0 ? 0 : kLargestWeight / 100;
    }
    if (request.kind == SampleKind::kCandidates || request.kind == SampleKind::kNucleus) {
      request.list = made.lists++;
    }
    made.requests.push_back(request);
  }
  return made;
}

// What one rank finds.
struct Found {
  std::vector<RowSurvey> surveys;
  std::vector<uint64_t> lists;
};

std::vector<float> Columns(const Case& c, int64_t begin, int64_t end) {
  std::vector<float> columns;
  for (int64_t r = 0; r < c.rows; ++r) {
    columns.insert(columns.end(), c.logits.begin() + r * c.vocab + begin,
                   c.logits.begin() + r * c.vocab + end);
  }
  return columns;
}

std::vector<float> Sum(const std::vector<std::vector<float>>& shares) {
  std::vector<float> sum(shares[0].size());
  for (const auto& share : shares) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += share[i];
  }
  return sum;
}

// All ranks, operation by operation; Array<T>(values) is memory of the ops.
template <typename MakeArray>
std::vector<Found> RunRanks(const Case& c, const std::vector<int64_t>& cuts, int32_t list_size,
                            const SamplingOps& ops, const MakeArray& make) {
  const int ranks = static_cast<int>(cuts.size()) - 1;
  const size_t share_size = size_t(ranks) * c.rows * kWordFloats;
  std::vector<Found> found(ranks);
  std::vector<std::vector<float>> shares(ranks, std::vector<float>(share_size));
  std::vector<RowSurvey> no_surveys(c.rows);
  auto requests = make(c.requests);
  struct Rank {
    decltype(make(std::vector<float>())) logits, share, shared;
    decltype(make(std::vector<RowSurvey>())) surveys;
    decltype(make(std::vector<uint64_t>())) lists, range_sums;
    SamplingArgs args;
  };
  std::vector<std::unique_ptr<Rank>> all;
  for (int r = 0; r < ranks; ++r) {
    all.push_back(
        std::unique_ptr<Rank>(new Rank{make(Columns(c, cuts[r], cuts[r + 1])),
                                       make(shares[r]),
                                       make(shares[r]),
                                       make(no_surveys),
                                       make(std::vector<uint64_t>(size_t(c.lists) * list_size)),
                                       make(std::vector<uint64_t>(c.rows * kSampleRanges)),
                                       {}}));
    Rank& rank = *all.back();
    rank.args = {.rows = c.rows,
                 .width = cuts[r + 1] - cuts[r],
                 .first_id = static_cast<int32_t>(cuts[r]),
                 .logits = rank.logits->data(),
                 .requests = requests->data(),
                 .list_size = list_size,
                 .surveys = rank.surveys->data(),
                 .lists = rank.lists->data(),
                 .range_sums = rank.range_sums->data(),
                 .rank = r,
                 .ranks = ranks,
                 .sent = rank.share->data()};
  }
  const auto exchange = [&] {
    for (int r = 0; r < ranks; ++r) shares[r] = all[r]->share->ToHost();
    const std::vector<float> sum = Sum(shares);
    for (auto& rank : all) {
      rank->shared = make(sum);
      rank->args.received = rank->shared->data();
    }
  };
  for (auto& rank : all) ops.FindLargest(rank->args);
  exchange();
  for (auto& rank : all) ops.Survey(rank->args);
  exchange();
  for (auto& rank : all) ops.Draw(rank->args);
  for (int r = 0; r < ranks; ++r) {
    found[r] = {all[r]->surveys->ToHost(), all[r]->lists->ToHost()};
  }
  return found;
}

template <typename T>
struct HostArray {
  std::vector<T> values;
  T* data() { return values.data(); }
  const std::vector<T>& ToHost() const { return values; }
};

TEST(CudaSampling, FollowsReference) {
  CudaStream stream;
  const cuda::CudaSampling gpu(stream.get());
  const auto on_host = [](auto values) {
    using T = typename decltype(values)::value_type;
    return std::make_unique<HostArray<T>>(HostArray<T>{values});
  };
  const auto on_gpu = [&](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    return std::make_unique<CudaArray<T>>(stream, values);
  };
  struct Shape {
    int64_t vocab;
    std::vector<int64_t> cuts;
    int32_t list_size;
  };
  const Shape shapes[] = {{7, {0, 7}, 16},
                          {1000, {0, 1000}, 64},
                          {3001, {0, 3001}, kMaxListSize},
                          {5003, {0, 1, 1, 2600, 5003}, 32},
                          {33000, {0, 33000}, 100}};
  int seed = 1;
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(shape.vocab);
    const Case c = MakeCase(shape.vocab, seed++);
    const auto expected = RunRanks(c, shape.cuts, shape.list_size, RefSampling(), on_host);
    const auto found = RunRanks(c, shape.cuts, shape.list_size, gpu, on_gpu);
    int drawn = 0;
    for (size_t rank = 0; rank < expected.size(); ++rank) {
      for (int64_t r = 0; r < c.rows; ++r) {
        const RowSurvey& a = expected[rank].surveys[r];
        const RowSurvey& b = found[rank].surveys[r];
        SCOPED_TRACE(::testing::Message() << "rank " << rank << " row " << r);
        EXPECT_EQ(a.largest, b.largest);
        EXPECT_EQ(a.total, b.total);
        EXPECT_EQ(a.drawn, b.drawn);
        EXPECT_EQ(a.candidates, b.candidates);
        EXPECT_EQ(a.complete, b.complete);
        EXPECT_EQ(a.valid, b.valid);
        drawn += a.drawn >= 0 ? 1 : 0;
        const int32_t list = c.requests[r].list;
        for (int32_t i = 0; list >= 0 && i < a.candidates; ++i) {
          const size_t at = size_t(list) * shape.list_size + i;
          ASSERT_EQ(expected[rank].lists[at], found[rank].lists[at]) << i;
        }
      }
    }
    EXPECT_GE(drawn, 6);  // in each row of numbers, in one rank
  }
}

}  // namespace
}  // namespace tandem::kernels
