// Attention, row operations and parallel regions of a 1B shape (Llama-3.2-1B: 16
// layers, 32 query and 8 KV heads of 64, hidden 2048, FFN 8192). Decoding reads
// the KV cache: its counters are GB/s and the fraction of a plain read loop that
// runs between the repetitions, with as many threads.
//   attention_bench --benchmark_filter=Decode
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/probe.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kQHeads = 32, kKvHeads = 8, kHeadDim = 64, kHidden = 2048, kFfn = 8192;
constexpr int64_t kLayers = 16, kWidth = (kQHeads + 2 * kKvHeads) * kHeadDim;

// Caches of several layers, larger together than the last cache.
class Cache {
 public:
  Cache(Backend& backend, KvDType dtype, int64_t context, size_t least_bytes)
      : blocks_((context + 15) / 16), table_(blocks_) {
    view_ = {.dtype = dtype, .kv_heads = kKvHeads, .head_dim = kHeadDim};
    const size_t layer = blocks_ * (view_.k_block_bytes() + view_.v_block_bytes());
    layers_ = static_cast<int64_t>(std::max<size_t>(1, (least_bytes + layer - 1) / layer));
    memory_ = *backend.Allocate(layers_ * layer);
    // Small values of every type, and no NaN.
    std::memset(memory_.data(), 0x11, memory_.bytes());
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(1));
  }
  KvCacheView layer(int64_t index) const {
    KvCacheView view = view_;
    const size_t k = blocks_ * view.k_block_bytes(), v = blocks_ * view.v_block_bytes();
    view.k = memory_.as<std::byte>() + index % layers_ * (k + v);
    view.v = static_cast<std::byte*>(view.k) + k;
    return view;
  }
  int64_t bytes_per_layer() const {
    return blocks_ * (view_.k_block_bytes() + view_.v_block_bytes());
  }
  const std::vector<int32_t>& table() const { return table_; }

 private:
  KvCacheView view_;
  int64_t blocks_, layers_;
  std::vector<int32_t> table_;
  Buffer memory_;
};

// Tokens at the end of one sequence of `context` tokens.
class Step {
 public:
  Step(int64_t tokens, int64_t context)
      : tokens_(tokens),
        qkv_(tokens * kWidth, 0.125f),
        out_(tokens * kQHeads * kHeadDim),
        positions_(tokens),
        sequence_(tokens, 0),
        head_to_kv_(kQHeads) {
    std::iota(positions_.begin(), positions_.end(), static_cast<int32_t>(context - tokens));
    for (int64_t h = 0; h < kQHeads; ++h)
      head_to_kv_[h] = static_cast<int32_t>(h * kKvHeads / kQHeads);
  }
  void Attend(Backend& backend, const Cache& cache, int64_t layer) {
    backend.PagedAttention({.tokens = tokens_,
                            .q_heads = kQHeads,
                            .head_dim = kHeadDim,
                            .qkv = qkv_.data(),
                            .qkv_stride = kWidth,
                            .positions = positions_.data(),
                            .token_sequence = sequence_.data(),
                            .block_tables = cache.table().data(),
                            .max_blocks = static_cast<int64_t>(cache.table().size()),
                            .head_to_kv = head_to_kv_.data(),
                            .scale = 0.125f,
                            .cache = cache.layer(layer),
                            .out = out_.data()});
  }

 private:
  int64_t tokens_;
  std::vector<float> qkv_, out_;
  std::vector<int32_t> positions_, sequence_, head_to_kv_;
};

void Decode(benchmark::State& state, KvDType dtype) {
  const int64_t context = state.range(0);
  const int threads = static_cast<int>(state.range(1));
  const auto backend = *MakeCpuBackend("auto", {.threads = threads});
  const Cache cache(*backend, dtype, context, size_t{256} << 20);
  Step step(1, context);
  const auto probe = *MakeMachineProbe("auto", {.threads = threads}, size_t{256} << 20);
  const int64_t calls = std::max<int64_t>(16, (int64_t{1} << 28) / cache.bytes_per_layer());
  std::vector<double> ours, reads, ratios;
  int64_t layer = 0;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < calls; ++i) step.Attend(*backend, cache, layer++);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    state.SetIterationTime(seconds / static_cast<double>(calls));
    ours.push_back(static_cast<double>(calls * cache.bytes_per_layer()) / seconds);
    reads.push_back(probe->ReadBandwidth(std::chrono::milliseconds(10)));
    ratios.push_back(ours.back() / reads.back());
  }
  const auto median = [](std::vector<double>& v) {
    std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
    return v[v.size() / 2];
  };
  state.counters["GB/s"] = median(ours) * 1e-9;
  state.counters["read GB/s"] = median(reads) * 1e-9;
  state.counters["of read"] = median(ratios);
}

#define TANDEM_DECODE(name, dtype)                \
  BENCHMARK_CAPTURE(Decode, name, dtype)          \
      ->ArgsProduct({{512, 4096, 16384}, {1, 2}}) \
      ->ArgNames({"context", "threads"})          \
      ->UseManualTime()                           \
      ->Iterations(15)                            \
      ->Unit(benchmark::kMicrosecond)
TANDEM_DECODE(fp16, KvDType::kF16);
TANDEM_DECODE(bf16, KvDType::kBF16);
TANDEM_DECODE(int8, KvDType::kI8);

// A whole prompt at once, all layers; the operations of causal attention alone.
void Prefill(benchmark::State& state, KvDType dtype) {
  const int64_t tokens = state.range(0);
  const auto backend = *MakeCpuBackend("auto", {.threads = static_cast<int>(state.range(1))});
  const Cache cache(*backend, dtype, tokens, 1);
  Step step(tokens, tokens);
  for (auto _ : state) step.Attend(*backend, cache, 0);
  const double operations = 4.0 * kQHeads * kHeadDim * tokens * (tokens + 1) / 2;
  state.counters["GFLOP/s"] =
      benchmark::Counter(operations * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel("one layer of 16");
}
#define TANDEM_PREFILL(name, dtype)        \
  BENCHMARK_CAPTURE(Prefill, name, dtype)  \
      ->ArgsProduct({{512, 4096}, {1, 2}}) \
      ->ArgNames({"tokens", "threads"})    \
      ->UseRealTime()                      \
      ->Unit(benchmark::kMillisecond)
TANDEM_PREFILL(fp32, KvDType::kF32);
TANDEM_PREFILL(fp16, KvDType::kF16);
TANDEM_PREFILL(bf16, KvDType::kBF16);
TANDEM_PREFILL(int8, KvDType::kI8);

// All that a step does beside its linear products, but for attention's reading of
// a long context: norms, rotation with the KV write, attention over 64 positions,
// activation, embedding, angles.
void BesideLinears(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const auto backend = *MakeCpuBackend("auto", {.threads = static_cast<int>(state.range(1))});
  const Cache cache(*backend, KvDType::kBF16, std::max<int64_t>(64, tokens), 1);
  Step step(tokens, std::max<int64_t>(64, tokens));
  std::vector<float> residual(tokens * kHidden, 1.0f), delta(tokens * kHidden, 0.01f),
      normed(tokens * kHidden), weight(kHidden, 1.0f), gate_up(tokens * 2 * kFfn, 0.5f),
      activated(tokens * kFfn), qkv(tokens * kWidth, 0.25f), cos(tokens * kHeadDim / 2, 1.0f),
      sin(tokens * kHeadDim / 2), frequencies(kHeadDim / 2, 0.5f);
  std::vector<uint16_t> embedding(kHidden * 4);
  std::vector<int32_t> ids(tokens, 3), positions(tokens, 50), slots(tokens);
  std::iota(slots.begin(), slots.end(), 0);
  for (auto _ : state) {
    backend->EmbedTokens(embedding.data(), DType::kBF16, kHidden, ids.data(), tokens,
                         residual.data());
    backend->RopeAngles(positions.data(), tokens, frequencies.data(), kHeadDim / 2, 1.0f,
                        cos.data(), sin.data());
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      for (int half = 0; half < 2; ++half) {
        backend->AddRmsNorm(delta.data(), nullptr, residual.data(), weight.data(), 1e-5f, tokens,
                            kHidden, normed.data());
      }
      backend->RopeAndCache({.tokens = tokens,
                             .q_heads = kQHeads,
                             .head_dim = kHeadDim,
                             .qkv = qkv.data(),
                             .cos = cos.data(),
                             .sin = sin.data(),
                             .slot_mapping = slots.data(),
                             .cache = cache.layer(0)});
      step.Attend(*backend, cache, 0);
      backend->SiluMul(gate_up.data(), tokens, kFfn, activated.data());
    }
  }
}
BENCHMARK(BesideLinears)
    ->ArgsProduct({{1, 16, 512}, {1, 2}})
    ->ArgNames({"tokens", "threads"})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

void EmptyRegion(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) pool.Run([](int) {});
}
BENCHMARK(EmptyRegion)->Arg(2)->UseRealTime();

}  // namespace
}  // namespace tandem::kernels
