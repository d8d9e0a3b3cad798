// Every operation of the CPU backend against the scalar specification: equality,
// not closeness, for each instruction set, thread count and awkward shape.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "kernels/base/math.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/ref_backend.h"
#include "tests/support/cpu_backends.h"

namespace tandem::kernels {
namespace {

using testing::SameBits;

std::vector<float> RandomFloats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0, scale);
  std::vector<float> out(n);
  for (float& v : out) v = value(random);
  return out;
}

std::vector<std::byte> Encode(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> out(values.size() * DTypeSize(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(out.data() + i * 4, &values[i], 4);
    } else {
      const uint16_t bits = dtype == DType::kF16 ? FloatToF16(values[i]) : FloatToBf16(values[i]);
      std::memcpy(out.data() + i * 2, &bits, 2);
    }
  }
  return out;
}

std::vector<std::unique_ptr<Backend>> CpuBackends() {
  std::vector<std::unique_ptr<Backend>> out;
  for (const std::string& isa : testing::InstructionSets()) {
    for (int threads : {1, 2, 3}) out.push_back(*MakeCpuBackend(isa, {.threads = threads}));
  }
  return out;
}

TEST(Ops, NormsEqualReference) {
  const auto ref = MakeRefBackend();
  for (int64_t hidden : {1, 15, 16, 64, 100, 4096}) {
    const int64_t tokens = 5;
    const auto delta = RandomFloats(tokens * hidden, 1);
    const auto residual = RandomFloats(tokens * hidden, 2);
    const auto weight = RandomFloats(hidden, 3), bias = RandomFloats(hidden, 4);
    for (int variant = 0; variant < 3; ++variant) {
      const float* d = variant > 0 ? delta.data() : nullptr;
      const float* b = variant > 1 ? bias.data() : nullptr;
      auto r1 = residual;
      std::vector<float> o1(r1.size());
      ref->AddRmsNorm(d, b, r1.data(), weight.data(), 1e-5f, tokens, hidden, o1.data());
      for (const auto& cpu : CpuBackends()) {
        auto r2 = residual;
        std::vector<float> o2(r2.size());
        cpu->AddRmsNorm(d, b, r2.data(), weight.data(), 1e-5f, tokens, hidden, o2.data());
        ASSERT_TRUE(SameBits(r2, r1));
        ASSERT_TRUE(SameBits(o2, o1));
      }
    }
  }
}

TEST(Ops, SiluMulAndEmbeddingEqualReference) {
  const auto ref = MakeRefBackend();
  const int64_t tokens = 6, columns = 172;
  auto gate_up = RandomFloats(tokens * 2 * columns, 1, 10.0f);
  gate_up[0] = 500;
  gate_up[1] = -500;
  std::vector<float> expected(tokens * columns), found(expected.size());
  ref->SiluMul(gate_up.data(), tokens, columns, expected.data());
  for (const auto& cpu : CpuBackends()) {
    cpu->SiluMul(gate_up.data(), tokens, columns, found.data());
    ASSERT_TRUE(SameBits(found, expected));
  }
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    auto table = Encode(RandomFloats(10 * 37, 2), dtype);
    table.insert(table.begin(), std::byte{0});  // a file may put it at any address
    const int32_t ids[] = {3, 9, 0};
    std::vector<float> e(3 * 37), f(3 * 37);
    ref->EmbedTokens(table.data() + 1, dtype, 37, ids, 3, e.data());
    for (const auto& cpu : CpuBackends()) {
      cpu->EmbedTokens(table.data() + 1, dtype, 37, ids, 3, f.data());
      ASSERT_TRUE(SameBits(f, e));
    }
  }
}

TEST(InstructionSet, UnknownNamesAreRefused) {
  EXPECT_EQ(MakeCpuBackend("avx9", {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(MakeCpuBackend("ref", {}).ok());
  EXPECT_EQ(IsaInUse("ref"), "ref");
}

}  // namespace
}  // namespace tandem::kernels
