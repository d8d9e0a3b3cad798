// Products on a GPU against exact ones in double precision, in all formats, and the
// promise of equal bits where the tree of leaves is asked for.
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_weight.h"
#include "tests/support/device_array.h"
#include "tests/support/linear_layer.h"
#include "tests/support/random_values.h"

namespace tandem::kernels {
namespace {

using testing::CheckLinear;
using testing::DeviceArray;
using testing::LinearCase;
using testing::LinearLayer;
using testing::RandomFloats;

std::unique_ptr<CudaBackend> MakeBackend(bool deterministic) {
  // Scratch so small that products of many tokens go in parts.
  return *MakeCudaBackend(
      {.deterministic = deterministic, .scratch_bytes = 8 << 10, .load_threads = 3});
}

class CudaLinear : public ::testing::TestWithParam<LinearCase> {};

TEST_P(CudaLinear, IsCloseToExact) {
  struct Shape {
    int64_t rows, columns, leaf;
  };
  for (const Shape& shape :
       {Shape{5, 256, 128}, {3, 300, 128}, {2, 172, 32}, {4, 96, 24}, {3, 1000, 128}}) {
    const LinearLayer layer(GetParam(), shape.rows, shape.columns);
    const int64_t leaves = (shape.columns + shape.leaf - 1) / shape.leaf;
    const auto bias = RandomFloats(shape.rows, 7);
    for (const bool deterministic : {false, true}) {
      const auto backend = MakeBackend(deterministic);
      for (const LeafRange owned : {LeafRange{0, leaves}, {1, leaves}, {0, 1}, {1, 1}}) {
        const auto weight = layer.Pack(*backend, shape.leaf, owned);
        if (!deterministic) {
          EXPECT_EQ(MakeCudaLayout()->PackedBytes(weight->spec), weight->bytes());
        }
        const int64_t first = weight->spec.column_begin(), n = weight->spec.columns();
        std::vector<LeafRange> ranges;
        if (deterministic) {
          for (const LeafRange& node : OwnedSubtrees(leaves, owned)) {
            ranges.push_back(
                {node.begin * shape.leaf, std::min(node.end * shape.leaf, shape.columns)});
          }
        } else {
          ranges.push_back({first, first + n});
        }
        const bool whole = owned == LeafRange{0, leaves};
        for (const int64_t tokens : {1, 2, 3, 7, 9, 40, 90}) {
          SCOPED_TRACE(absl::StrCat(deterministic ? "deterministic, " : "", shape.rows, " rows, ",
                                    shape.columns, " columns, leaves of ", shape.leaf, ", ",
                                    owned.begin, " to ", owned.end, ", ", tokens, " tokens"));
          const auto x = RandomFloats(tokens * n, 5);
          const DeviceArray<float> dx(*backend, x), db(*backend, bias);
          const DeviceArray<float> dy(*backend,
                                      std::vector<float>(ranges.size() * tokens * shape.rows, NAN));
          backend->Linear(*weight, dx.data(), tokens, whole ? db.data() : nullptr, dy.data());
          const auto y = dy.ToHost();
          ASSERT_TRUE(backend->status().ok()) << backend->status();
          // More tokens: activations and, of many, quantized weights are rounded to BF16 (or
          // FP16, which is finer), each by 2^-8 at most.
          const double rounding = deterministic || tokens < 5 ? 0 : 0x1p-7;
          CheckLinear(layer, x, tokens, ranges, first, n, {.rounding = rounding},
                      whole ? bias : std::vector<float>(), y);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(CudaLinear, TreesGiveTheSameBitsAtAnyCut) {
  const auto backend = MakeBackend(true);
  const int64_t rows = 6, columns = 7 * 64 - 20, leaf = 64, leaves = 7, tokens = 5;
  const LinearLayer layer(GetParam(), rows, columns);
  const auto x = RandomFloats(tokens * columns, 5);
  const auto product = [&](LeafRange owned, const std::vector<float>& values, int64_t count) {
    const auto weight = layer.Pack(*backend, leaf, owned);
    const DeviceArray<float> dx(*backend, values);
    const DeviceArray<float> dy(*backend, weight->schedule.subtrees * count * rows);
    backend->Linear(*weight, dx.data(), count, nullptr, dy.data());
    return dy.ToHost();
  };
  const auto whole = product({0, leaves}, x, tokens);
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{0, 4, 7}, {0, 3, 7}, {0, 2, 5, 7}, {0, 1, 2, 6, 7}, {0, 0, 7}}) {
    std::vector<LeafRange> nodes;
    std::vector<std::vector<float>> parts;
    std::vector<const float*> values;
    for (size_t r = 0; r + 1 < cuts.size(); ++r) {
      const LeafRange owned = {cuts[r], cuts[r + 1]};
      const int64_t first = owned.begin * leaf;
      const int64_t n = std::min(owned.end * leaf, columns) - first;
      std::vector<float> local;
      for (int64_t t = 0; t < tokens; ++t) {
        local.insert(local.end(), &x[t * columns + first], &x[t * columns + first] + n);
      }
      parts.push_back(product(owned, local, tokens));
      const auto subtrees = OwnedSubtrees(leaves, owned);
      nodes.insert(nodes.end(), subtrees.begin(), subtrees.end());
    }
    for (const auto& part : parts) {
      for (size_t s = 0; s < part.size() / (tokens * rows); ++s) {
        values.push_back(&part[s * tokens * rows]);
      }
    }
    std::vector<float> sum(tokens * rows);
    FinishTree({0, leaves}, nodes, values, tokens * rows, sum.data());
    EXPECT_EQ(sum, whole);
  }
  // Nor do other tokens matter.
  for (int64_t t = 0; t < tokens; ++t) {
    const std::vector<float> one(&x[t * columns], &x[t * columns] + columns);
    EXPECT_EQ(product({0, leaves}, one, 1),
              std::vector<float>(&whole[t * rows], &whole[t * rows] + rows));
  }
}

// A grid has no more blocks in y and z.
TEST(CudaDequantize, MayBeMoreThan65535Rows) {
  constexpr int64_t kRows = 65537, kColumns = 32;
  const auto backend = MakeBackend(false);
  const LinearLayer layer({.quant = QuantFormat{.bits = 4, .group_size = 32}}, kRows, kColumns);
  const auto weight = layer.Pack(*backend, kColumns, {0, 1});
  const auto& packed = static_cast<const cuda::CudaLinearWeight&>(*weight);
  const auto rows = [&](int64_t begin, int64_t end) {
    const DeviceArray<uint16_t> out(*backend, (end - begin) * kColumns);
    cuda::Dequantize(backend->stream(), packed.layout, packed.pointers(), begin, end, DType::kF16,
                     out.data());
    return out.ToHost();
  };
  const auto all = rows(0, kRows);
  EXPECT_EQ(std::vector<uint16_t>(all.end() - kColumns, all.end()), rows(kRows - 1, kRows));
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaLinear, ::testing::ValuesIn(testing::LinearCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::kernels
