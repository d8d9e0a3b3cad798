// Rotation, cache and attention on a GPU: the cache against the scalar specification's,
// attention against softmax in double precision over the cache as it is stored, and that it
// is the same whatever the batch. With `deterministic`, which has no matrix units.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/base/math.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/ref/ref_backend.h"
#include "tests/support/device_array.h"
#include "tests/support/random_values.h"

namespace tandem::kernels {
namespace {

using testing::DeviceArray;
using testing::RandomFloats;

constexpr int64_t kBlocks = 60;

struct Shape {
  KvDType dtype = KvDType::kF32;
  int64_t q_heads = 0, kv_heads = 0, head_dim = 0;
  bool norms = false;
};

// Two sequences: one of a chunk of 70 tokens up to position 289, one of a single token at
// position 133.
struct Batch {
  std::vector<int32_t> positions, sequences, slots, tables;
  static constexpr int64_t kMaxBlocks = 20;

  Batch() : tables(2 * kMaxBlocks) {
    for (size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<int32_t>(i * 7 % kBlocks);
    Add(0, 133);
    for (int32_t p = 220; p < 290; ++p) Add(1, p);
  }
  void Add(int32_t sequence, int32_t position) {
    positions.push_back(position);
    sequences.push_back(sequence);
    slots.push_back(tables[sequence * kMaxBlocks + position / 16] * 16 + position % 16);
  }
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

// An element as the cache has it.
double Stored(const KvCacheView& view, const std::byte* run, int64_t index, int64_t position,
              bool key) {
  switch (view.dtype) {
    case KvDType::kF32:
      return reinterpret_cast<const float*>(run)[index];
    case KvDType::kF16:
      return F16ToFloat(reinterpret_cast<const uint16_t*>(run)[index]);
    case KvDType::kBF16:
      return Bf16ToFloat(reinterpret_cast<const uint16_t*>(run)[index]);
    case KvDType::kI8:
      break;
  }
  const auto* scales =
      reinterpret_cast<const float*>(run + (key ? view.k_code_bytes() : view.v_code_bytes()));
  const int code = key ? reinterpret_cast<const uint8_t*>(run)[index] - 128
                       : reinterpret_cast<const int8_t*>(run)[index];
  return static_cast<double>(scales[position]) * code;
}

class World {
 public:
  explicit World(const Shape& shape)
      : shape_(shape),
        cuda_(*MakeCudaBackend({.deterministic = true, .scratch_bytes = 64 << 10})),
        ref_(MakeRefBackend()) {
    view_ = {.dtype = shape.dtype, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim};
    k_.resize(kBlocks * view_.k_block_bytes());
    v_.resize(kBlocks * view_.v_block_bytes());
    dk_.emplace(*cuda_, k_);
    dv_.emplace(*cuda_, v_);
    for (int64_t h = 0; h < shape.q_heads; ++h) {
      head_to_kv_.push_back(static_cast<int32_t>(h * shape.kv_heads / shape.q_heads));
    }
  }

  // Fills the contexts of both sequences, then runs the batch; both backends.
  void Run() {
    Batch context;
    context = Batch();
    context.positions.clear(), context.sequences.clear(), context.slots.clear();
    for (int32_t p = 0; p < 133; ++p) context.Add(0, p);
    for (int32_t p = 0; p < 220; ++p) context.Add(1, p);
    RopeAndCache(context, 1);
    qkv_ = RopeAndCache(batch_, 2);
    k_ = dk_->ToHost();
    v_ = dv_->ToHost();
  }

  // Both write; returns the rotated qkv of the GPU.
  std::vector<float> RopeAndCache(const Batch& batch, uint32_t seed) {
    const int64_t tokens = batch.tokens(), d = shape_.head_dim;
    const int64_t width = (shape_.q_heads + 2 * shape_.kv_heads) * d;
    auto qkv = RandomFloats(tokens * width, seed);
    const auto cos = RandomFloats(tokens * d / 2, seed + 10), sin = RandomFloats(tokens * d / 2, 9);
    const auto q_norm = RandomFloats(d, 3), k_norm = RandomFloats(d, 4);
    const DeviceArray<float> x(*cuda_, qkv), c(*cuda_, cos), s(*cuda_, sin), qn(*cuda_, q_norm),
        kn(*cuda_, k_norm);
    const DeviceArray<int32_t> slots(*cuda_, batch.slots);
    KvCacheView device = view_, host = view_;
    device.k = dk_->data();
    device.v = dv_->data();
    cuda_->RopeAndCache({.tokens = tokens,
                         .q_heads = shape_.q_heads,
                         .head_dim = d,
                         .qkv = x.data(),
                         .q_norm = shape_.norms ? qn.data() : nullptr,
                         .k_norm = shape_.norms ? kn.data() : nullptr,
                         .norm_epsilon = 1e-5f,
                         .cos = c.data(),
                         .sin = s.data(),
                         .slot_mapping = slots.data(),
                         .cache = device});
    host.k = k_.data();
    host.v = v_.data();
    ref_->RopeAndCache({.tokens = tokens,
                        .q_heads = shape_.q_heads,
                        .head_dim = d,
                        .qkv = qkv.data(),
                        .q_norm = shape_.norms ? q_norm.data() : nullptr,
                        .k_norm = shape_.norms ? k_norm.data() : nullptr,
                        .norm_epsilon = 1e-5f,
                        .cos = cos.data(),
                        .sin = sin.data(),
                        .slot_mapping = batch.slots.data(),
                        .cache = host});
    const auto found = x.ToHost();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < shape_.q_heads * d; ++i) {
        // A norm's sum has d terms; a rotation adds two products, up to about 8 each.
        EXPECT_NEAR(found[t * width + i], qkv[t * width + i],
                    static_cast<double>(d + 8) * 0x1p-24 * 16);
      }
    }
    CompareCaches();
    return found;
  }

  void CompareCaches() {
    const auto k = dk_->ToHost(), v = dv_->ToHost();
    for (int64_t block = 0; block < kBlocks; ++block) {
      for (int64_t h = 0; h < shape_.kv_heads; ++h) {
        for (int64_t p = 0; p < 16; ++p) {
          for (int64_t i = 0; i < shape_.head_dim; ++i) {
            for (const bool key : {true, false}) {
              const int64_t run = key ? block * view_.k_block_bytes() + h * view_.k_head_bytes()
                                      : block * view_.v_block_bytes() + h * view_.v_head_bytes();
              const int64_t index = key ? view_.k_index(i, p) : view_.v_index(p, i);
              const double mine = Stored(view_, (key ? k : v).data() + run, index, p, key);
              const double theirs = Stored(view_, (key ? k_ : v_).data() + run, index, p, key);
              // What differs in the last bits may round to neighbouring stored values.
              const double step = view_.dtype == KvDType::kI8     ? 0.2
                                  : view_.dtype == KvDType::kBF16 ? 0x1p-7
                                  : view_.dtype == KvDType::kF16  ? 0x1p-10
                                                                  : 0x1p-16;
              ASSERT_NEAR(mine, theirs, step * (1 + std::abs(theirs)));
            }
          }
        }
      }
    }
  }

  std::vector<float> Attention(int64_t single_tokens) {
    const int64_t d = shape_.head_dim;
    const DeviceArray<float> x(*cuda_, qkv_);
    const DeviceArray<int32_t> positions(*cuda_, batch_.positions),
        sequences(*cuda_, batch_.sequences), tables(*cuda_, batch_.tables);
    const DeviceArray<float> out(*cuda_,
                                 std::vector<float>(batch_.tokens() * shape_.q_heads * d, NAN));
    KvCacheView device = view_;
    device.k = dk_->data();
    device.v = dv_->data();
    cuda_->PagedAttention({.tokens = batch_.tokens(),
                           .q_heads = shape_.q_heads,
                           .head_dim = d,
                           .qkv = x.data(),
                           .qkv_stride = (shape_.q_heads + 2 * shape_.kv_heads) * d,
                           .positions = positions.data(),
                           .token_sequence = sequences.data(),
                           .block_tables = tables.data(),
                           .max_blocks = Batch::kMaxBlocks,
                           .head_to_kv = head_to_kv_.data(),
                           .scale = 0.25f,
                           .cache = device,
                           .out = out.data(),
                           .single_tokens = single_tokens,
                           .single_context = 290});
    auto values = out.ToHost();
    EXPECT_TRUE(cuda_->status().ok()) << cuda_->status();
    return values;
  }

  void CheckAttention(const std::vector<float>& found) {
    const int64_t d = shape_.head_dim, width = (shape_.q_heads + 2 * shape_.kv_heads) * d;
    for (int64_t t = 0; t < batch_.tokens(); ++t) {
      for (int64_t h = 0; h < shape_.q_heads; ++h) {
        const int64_t context = batch_.positions[t] + 1;
        const auto run = [&](int64_t j, bool key) {
          const int64_t block = batch_.tables[batch_.sequences[t] * Batch::kMaxBlocks + j / 16];
          return key ? k_.data() + block * view_.k_block_bytes() +
                           head_to_kv_[h] * view_.k_head_bytes()
                     : v_.data() + block * view_.v_block_bytes() +
                           head_to_kv_[h] * view_.v_head_bytes();
        };
        std::vector<double> scores(context);
        double largest_product = 0, most = -INFINITY;
        for (int64_t j = 0; j < context; ++j) {
          double magnitude = 0;
          for (int64_t i = 0; i < d; ++i) {
            const double product =
                0.25 * qkv_[t * width + h * d + i] *
                Stored(view_, run(j, true), view_.k_index(i, j % 16), j % 16, true);
            scores[j] += product;
            magnitude += std::abs(product);
          }
          largest_product = std::max(largest_product, magnitude);
          most = std::max(most, scores[j]);
        }
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - most);
        // An error e of scores makes weights wrong by 2 e of themselves; sums have as many
        // roundings as terms.
        const double error = 2 * (static_cast<double>(d) + 4) * 0x1p-24 * largest_product +
                             (static_cast<double>(context) + 32) * 0x1p-23;
        for (int64_t i = 0; i < d; ++i) {
          double value = 0, magnitude = 0;
          for (int64_t j = 0; j < context; ++j) {
            const double v = Stored(view_, run(j, false), view_.v_index(j % 16, i), j % 16, false);
            value += scores[j] / sum * v;
            magnitude += scores[j] / sum * std::abs(v);
          }
          ASSERT_NEAR(found[(t * shape_.q_heads + h) * d + i], value, error * magnitude + 1e-9)
              << "token " << t << " head " << h << " dimension " << i;
        }
      }
    }
  }

 private:
  Shape shape_;
  std::unique_ptr<Backend> cuda_, ref_;
  KvCacheView view_;
  std::vector<std::byte> k_, v_;  // the reference's, then the GPU's
  std::optional<DeviceArray<std::byte>> dk_, dv_;
  std::vector<int32_t> head_to_kv_;
  Batch batch_;
  std::vector<float> qkv_;
};

class CudaAttention : public ::testing::TestWithParam<KvDType> {};

TEST_P(CudaAttention, FollowsTheCache) {
  for (const Shape& shape : {Shape{GetParam(), 4, 2, 64, true},
                             {GetParam(), 5, 1, 18, false},
                             {GetParam(), 2, 2, 144, true}}) {
    World world(shape);
    world.Run();
    if (HasFatalFailure()) return;
    const auto prefill = world.Attention(0);
    world.CheckAttention(prefill);
    if (HasFatalFailure()) return;
    // However many tokens are said to be alone: the same bits.
    EXPECT_EQ(world.Attention(1), prefill);
    EXPECT_EQ(world.Attention(71), prefill);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaAttention,
                         ::testing::Values(KvDType::kF32, KvDType::kF16, KvDType::kBF16,
                                           KvDType::kI8),
                         [](const auto& info) { return std::string(KvDTypeName(info.param)); });

}  // namespace
}  // namespace tandem::kernels
