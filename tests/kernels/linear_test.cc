// Linear products of the CPU backend against the scalar specification: equal bits
// for every format, instruction set, thread count, token count and awkward shape.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/ref_backend.h"
#include "tests/support/cpu_backends.h"

namespace tandem::kernels {
namespace {

using testing::InstructionSets;
using testing::SameBits;

struct Format {
  std::string name;
  DType dtype = DType::kF32;
  std::optional<QuantFormat> quant;
};

std::vector<Format> Formats() {
  std::vector<Format> formats = {
      {"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBF16}};
  for (int bits : {8, 4}) {
    for (int64_t group : {32, 64, 128}) {
      for (bool zeros : {false, true}) {
        const DType scales = group == 32 ? DType::kF16 : group == 64 ? DType::kBF16 : DType::kF32;
        formats.push_back({absl::StrCat("int", bits, "g", group, zeros ? "z" : ""), DType::kF32,
                           QuantFormat{bits, group, zeros, scales}});
      }
    }
    formats.push_back(
        {absl::StrCat("int", bits, "g12"), DType::kF32, QuantFormat{bits, 12, true, DType::kF16}});
    formats.push_back({absl::StrCat("int", bits, "g1000"), DType::kF32,
                       QuantFormat{bits, 1000, false, DType::kBF16}});
  }
  return formats;
}

// A whole layer's weight; readers cut out what a spec asks for.
struct Layer {
  Layer(const Format& format, int64_t rows, int64_t columns, uint32_t seed)
      : format(format), rows(rows), columns(columns) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    if (!format.quant.has_value()) {
      for (int64_t i = 0; i < rows * columns; ++i) elements.push_back(normal(random));
      return;
    }
    const int low = format.quant->bits == 8 ? -128 : 0, high = format.quant->bits == 8 ? 127 : 15;
    std::uniform_int_distribution<int> code(low, high), zero(0, format.quant->bits == 8 ? 255 : 15);
    groups = (columns + format.quant->group_size - 1) / format.quant->group_size;
    for (int64_t i = 0; i < rows * columns; ++i) codes.push_back(static_cast<int8_t>(code(random)));
    for (int64_t i = 0; i < rows * groups; ++i) {
      scales.push_back(normal(random) * 0.01f);
      zeros.push_back(static_cast<uint8_t>(zero(random)));
    }
  }

  LinearSpec Spec(int64_t leaf, LeafRange leaves) const {
    return {.dtype = format.dtype,
            .quant = format.quant,
            .rows = rows,
            .global_columns = columns,
            .leaf_size = leaf,
            .leaves = leaves};
  }

  std::unique_ptr<LinearWeight> Pack(Backend& backend, const LinearSpec& spec) const {
    const int64_t first = spec.column_begin(), n = spec.columns();
    if (!format.quant.has_value()) {
      return *backend.PackLinear(spec, [&](int64_t begin, int64_t end, std::byte* dst) {
        for (int64_t r = begin; r < end; ++r) {
          for (int64_t k = 0; k < n; ++k) {
            const float value = elements[r * columns + first + k];
            const uint16_t half =
                format.dtype == DType::kF16 ? FloatToF16(value) : FloatToBf16(value);
            const size_t size = DTypeSize(format.dtype);
            std::memcpy(dst, size == 4 ? static_cast<const void*>(&value) : &half, size);
            dst += size;
          }
        }
        return absl::OkStatus();
      });
    }
    const int64_t g0 = spec.group_begin(), local = spec.group_end() - g0;
    return *backend.PackQuantized(spec, [&](int64_t begin, int64_t end, QuantizedRows dst) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = r - begin;
        std::copy_n(codes.begin() + r * columns + first, n, dst.codes + i * n);
        std::copy_n(scales.begin() + r * groups + g0, local, dst.scales + i * local);
        if (format.quant->zero_points) {
          std::copy_n(zeros.begin() + r * groups + g0, local, dst.zeros + i * local);
        }
      }
      return absl::OkStatus();
    });
  }

  Format format;
  int64_t rows, columns, groups = 0;
  std::vector<float> elements, scales;
  std::vector<int8_t> codes;
  std::vector<uint8_t> zeros;
};

std::vector<float> Activations(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

std::vector<float> Product(Backend& backend, const LinearWeight& weight,
                           const std::vector<float>& x, int64_t tokens, const float* bias) {
  std::vector<float> y(weight.schedule.subtrees * tokens * weight.spec.rows, -1.0f);
  backend.Linear(weight, x.data(), tokens, bias, y.data());
  return y;
}

class LinearTest : public ::testing::TestWithParam<Format> {};

TEST_P(LinearTest, EqualsReference) {
  const Format& format = GetParam();
  const auto ref = MakeRefBackend();
  struct Shape {
    int64_t rows, columns, leaf;
    LeafRange leaves;
  };
  const Shape shapes[] = {{64, 256, 128, {0, 2}},  {1, 7, 128, {0, 1}},   {131, 172, 32, {1, 6}},
                          {80, 300, 32, {3, 10}},  {20, 448, 64, {2, 5}}, {16, 64, 8, {0, 8}},
                          {65, 96, 24, {4, 4}},    {65, 96, 24, {1, 4}},  {0, 64, 32, {0, 2}},
                          {20, 1000, 128, {0, 8}}, {3, 525, 256, {0, 3}}};
  for (const Shape& shape : shapes) {
    const Layer layer(format, shape.rows, shape.columns, 3);
    const LinearSpec spec = layer.Spec(shape.leaf, shape.leaves);
    const auto expected_weight = layer.Pack(*ref, spec);
    for (int64_t tokens : {1, 2, 5, 7, 49}) {
      const auto x = Activations(tokens * spec.columns(), 4);
      const auto bias = Activations(shape.rows, 5);
      const bool with_bias = expected_weight->schedule.subtrees == 1 && tokens % 2 == 1;
      const float* b = with_bias ? bias.data() : nullptr;
      const auto expected = Product(*ref, *expected_weight, x, tokens, b);
      for (const std::string& isa : InstructionSets()) {
        for (int threads : {1, 3}) {
          const auto backend = *MakeCpuBackend(isa, {.threads = threads});
          const auto weight = layer.Pack(*backend, spec);
          EXPECT_EQ(weight->bytes(), backend->PackedBytes(spec));
          ASSERT_TRUE(SameBits(Product(*backend, *weight, x, tokens, b), expected))
              << isa << ": " << shape.rows << "x" << shape.columns << " leaf " << shape.leaf
              << " tokens " << tokens << " threads " << threads;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, LinearTest, ::testing::ValuesIn(Formats()),
                         [](const auto& info) { return info.param.name; });

// Else the tests above compare nothing: every CPU that we build for has one, and "auto" takes the
// best.
TEST(Linear, AutoIsTheBestInstructionSet) {
  const std::vector<std::string> sets = InstructionSets();
  ASSERT_FALSE(sets.empty());
  EXPECT_EQ(IsaInUse("auto"), IsaInUse(sets.front()));
}

// A rank's product over its leaves has the bits of the same nodes of the tree that
// one rank adds: partial sums of all ranks finish to the whole product.
TEST(Linear, RanksFinishToTheWholeProduct) {
  const auto backend = *MakeCpuBackend("auto", {.threads = 2});
  for (const Format& format : Formats()) {
    const Layer layer(format, 70, 600, 8);
    const auto x = Activations(3 * 600, 9);
    const int64_t leaves = 600 / 24;
    const auto whole =
        Product(*backend, *layer.Pack(*backend, layer.Spec(24, {0, leaves})), x, 3, nullptr);
    for (int64_t tp : {2, 3, 7}) {
      std::vector<LeafRange> nodes;
      std::vector<std::vector<float>> sums;
      for (int64_t rank = 0; rank < tp; ++rank) {
        const LeafRange owned = {leaves * rank / tp, leaves * (rank + 1) / tp};
        const LinearSpec spec = layer.Spec(24, owned);
        std::vector<float> local;
        for (int64_t t = 0; t < 3; ++t) {
          const auto row = x.begin() + t * 600 + spec.column_begin();
          local.insert(local.end(), row, row + spec.columns());
        }
        const auto y = Product(*backend, *layer.Pack(*backend, spec), local, 3, nullptr);
        const auto subtrees = OwnedSubtrees(leaves, owned);
        for (size_t s = 0; s < subtrees.size(); ++s) {
          nodes.push_back(subtrees[s]);
          sums.emplace_back(y.begin() + s * 3 * 70, y.begin() + (s + 1) * 3 * 70);
        }
      }
      std::vector<const float*> values;
      for (const auto& sum : sums) values.push_back(sum.data());
      std::vector<float> finished(3 * 70);
      FinishTree({0, leaves}, nodes, values, 3 * 70, finished.data());
      EXPECT_TRUE(SameBits(finished, whole)) << format.name << " TP " << tp;
    }
  }
}

// Each token's product is that of the token alone: when threads divide the packing of one token
// block or two, and when tokens do not fit the memory for activations at once.
TEST(Linear, ManyTokensEqualOne) {
  const auto backend = *MakeCpuBackend("auto", {.threads = 3});
  for (const Format& format :
       {Format{"F32", DType::kF32}, Format{"BF16", DType::kBF16},
        Format{"int8", DType::kF32, QuantFormat{}},
        Format{"int4", DType::kF32, QuantFormat{.bits = 4, .zero_points = true}}}) {
    const Layer layer(format, 24, 4096, 8);
    const auto weight = layer.Pack(*backend, layer.Spec(128, {0, 32}));
    for (const int64_t tokens : {5, 12, 13, 1700}) {
      const auto x = Activations(tokens * 4096, 1);
      const auto all = Product(*backend, *weight, x, tokens, nullptr);
      for (const int64_t t :
           {int64_t{0}, tokens / 3, std::min<int64_t>(tokens - 1, 11), tokens - 1}) {
        const std::vector<float> one(x.begin() + t * 4096, x.begin() + (t + 1) * 4096);
        EXPECT_TRUE(SameBits(std::vector<float>(all.begin() + t * 24, all.begin() + (t + 1) * 24),
                             Product(*backend, *weight, one, 1, nullptr)))
            << format.name << " token " << t << " of " << tokens;
      }
    }
  }
}

// Zeros, values that vanish in 8 bits, ties, infinities and NaN.
TEST(Linear, ExtremeActivationsEqualReference) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> x = Activations(32 * 6, 2);
  for (int i = 0; i < 32; ++i) {
    x[i] = 0;
    x[32 + i] = 1e-40f * static_cast<float>(i);
    x[64 + i] = static_cast<float>(i % 2 == 0 ? i : -i) + 0.5f;
  }
  x[64] = 127;
  x[96 + 5] = infinity;
  x[128 + 9] = std::numeric_limits<float>::quiet_NaN();
  x[160] = std::numeric_limits<float>::max();
  const auto ref = MakeRefBackend();
  for (const std::string& isa : InstructionSets()) {
    const auto backend = *MakeCpuBackend(isa, {});
    for (const Format& format : Formats()) {
      const Layer layer(format, 40, 192, 3);
      const LinearSpec spec = layer.Spec(32, {0, 6});
      const auto found = Product(*backend, *layer.Pack(*backend, spec), x, 1, nullptr);
      const auto rows = Product(*ref, *layer.Pack(*ref, spec), x, 1, nullptr);
      EXPECT_TRUE(SameBits(found, rows)) << isa << " " << format.name;
    }
  }
}

// bfloat16 products around the smallest normal number: denormals vanish alike in
// the instruction, in its emulation and in the reference.
TEST(Linear, DenormalsVanishAlike) {
  const auto ref = MakeRefBackend();
  std::mt19937 random(7);
  std::uniform_int_distribution<uint32_t> mantissa(0, 127), exponent(48, 80), sign(0, 1);
  const auto small = [&] {
    return Bf16ToFloat(
        static_cast<uint16_t>(sign(random) << 15 | exponent(random) << 7 | mantissa(random)));
  };
  Layer layer({"BF16", DType::kBF16}, 64, 2048, 1);
  std::vector<float> x(2048);
  for (float& v : layer.elements) v = small();
  for (float& v : x) v = small();
  const LinearSpec spec = layer.Spec(8, {0, 256});
  const auto expected = Product(*ref, *layer.Pack(*ref, spec), x, 1, nullptr);
  for (const std::string& isa : InstructionSets()) {
    const auto backend = *MakeCpuBackend(isa, {});
    EXPECT_TRUE(SameBits(Product(*backend, *layer.Pack(*backend, spec), x, 1, nullptr), expected))
        << isa;
  }
}

// Rows of two whole matrices, packed once, give a rank the bytes that packing its own rows gives.
TEST(Linear, PackedOnceServesEveryRank) {
  const auto backend = *MakeCpuBackend("auto", {.threads = 2});
  for (const Format& format : Formats()) {
    const Layer first(format, 200, 332, 1), second(format, 72, 332, 2);
    for (const int64_t leaf : {32, 128, 84}) {
      const LeafRange all = {0, (332 + leaf - 1) / leaf};
      const auto first_whole = first.Pack(*backend, first.Spec(leaf, all));
      const auto second_whole = second.Pack(*backend, second.Spec(leaf, all));
      ASSERT_EQ(first_whole->packed().size(), backend->PackedBytes(first_whole->spec));
      const auto rows_of = [](const LinearWeight& whole, int64_t begin, int64_t end) {
        return PackedRows{whole.spec, begin, end,
                          [&whole](uint64_t offset, size_t bytes, std::byte* dst) {
                            std::memcpy(dst, whole.packed().subspan(offset, bytes).data(), bytes);
                            return absl::OkStatus();
                          },
                          whole.packed().data()};
      };
      for (const LeafRange leaves :
           {all, LeafRange{1, all.end}, LeafRange{0, 1}, LeafRange{2, 2}}) {
        struct Cut {
          int64_t first_begin, first_end, second_begin, second_end;
        };
        for (const Cut cut : {Cut{0, 200, 0, 72}, Cut{64, 128, 0, 64}, Cut{0, 200, 5, 5},
                              Cut{3, 70, 8, 71}, Cut{190, 200, 0, 72}}) {
          // The same rows cut out of the source.
          Layer joined(format, 0, 332, 3);
          for (const auto& [layer, begin, end] :
               {std::tuple(&first, cut.first_begin, cut.first_end),
                std::tuple(&second, cut.second_begin, cut.second_end)}) {
            const auto add = [&](auto& to, const auto& from, int64_t width) {
              if (!from.empty()) {
                to.insert(to.end(), from.begin() + begin * width, from.begin() + end * width);
              }
            };
            joined.groups = layer->groups;
            joined.rows += end - begin;
            add(joined.elements, layer->elements, 332);
            add(joined.codes, layer->codes, 332);
            add(joined.scales, layer->scales, layer->groups);
            add(joined.zeros, layer->zeros, layer->groups);
          }
          const LinearSpec spec = joined.Spec(leaf, leaves);
          const auto expected = joined.Pack(*backend, spec);
          const PackedRows rows[] = {rows_of(*first_whole, cut.first_begin, cut.first_end),
                                     rows_of(*second_whole, cut.second_begin, cut.second_end)};
          const auto found = backend->CopyPackedRows(spec, rows);
          ASSERT_TRUE(found.ok()) << found.status();
          EXPECT_TRUE(std::ranges::equal((*found)->packed(), expected->packed()))
              << format.name << " leaf " << leaf << " leaves " << leaves.begin << ".." << leaves.end
              << " rows " << cut.first_begin << ".." << cut.first_end;

          // Read in place, the products have the same bits.
          const auto in_place = backend->MapPackedRows(spec, rows);
          ASSERT_TRUE(in_place.ok()) << in_place.status();
          const PackedRowsPlan plan = backend->PlanPackedRows(spec, rows);
          EXPECT_EQ((*in_place)->bytes(), plan.copied_bytes);
          ASSERT_EQ((*in_place)->mapped().size(), plan.in_place.size());
          for (size_t i = 0; i < plan.in_place.size(); ++i) {
            const PackedRowsPlan::Range& range = plan.in_place[i];
            EXPECT_EQ((*in_place)->mapped()[i].data(), rows[range.matrix].mapped + range.offset);
            EXPECT_EQ((*in_place)->mapped()[i].size(), range.bytes);
          }
          const bool aligned = cut.first_begin % 64 == 0;
          if (spec.columns() > 0) {
            EXPECT_EQ(plan.copied_bytes == 0, aligned);
          }
          const int64_t tokens = 3;
          std::vector<float> x(tokens * spec.columns());
          for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
          const size_t size = expected->schedule.subtrees * tokens * spec.rows;
          std::vector<float> there(size), here(size);
          backend->Linear(*expected, x.data(), tokens, nullptr, there.data());
          backend->Linear(**in_place, x.data(), tokens, nullptr, here.data());
          EXPECT_TRUE(SameBits(here, there))
              << format.name << " in place, leaf " << leaf << " leaves " << leaves.begin << ".."
              << leaves.end << " rows " << cut.first_begin << ".." << cut.first_end;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
