// Steps of a decoder, timed.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "runtime/model/kv_cache.h"
#include "tests/bench/decoder_bench.h"

namespace tandem::bench {
namespace {

using model::kBlockSize;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int32_t BlocksOf(int64_t tokens) {
  return static_cast<int32_t>((tokens + kBlockSize - 1) / kBlockSize);
}

// The arrays of a step.
struct Step {
  std::vector<int32_t> ids, positions, slots, cu_seqlens = {0}, lengths, tables, rows;
  int32_t max_blocks = 0;

  // Tokens [begin, end) of a sequence whose blocks begin at first_block.
  void Add(std::mt19937& random, int64_t vocab, int64_t begin, int64_t end, int32_t first_block) {
    for (int64_t p = begin; p < end; ++p) {
      ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab)));
      positions.push_back(static_cast<int32_t>(p));
      slots.push_back(static_cast<int32_t>(first_block * kBlockSize + p));
    }
    cu_seqlens.push_back(static_cast<int32_t>(ids.size()));
    lengths.push_back(static_cast<int32_t>(end));
    const int32_t used = BlocksOf(end);
    for (int32_t b = 0; b < max_blocks; ++b) tables.push_back(b < used ? first_block + b : -1);
  }
  model::StepInput Input() const {
    return {.token_ids = ids,
            .positions = positions,
            .slot_mapping = slots,
            .cu_seqlens_q = cu_seqlens,
            .context_lens = lengths,
            .block_tables = tables,
            .max_blocks = max_blocks,
            .logits_indices = rows};
  }
};

// Takes `tokens` of one sequence, in chunks; logits for the last one.
absl::Status Prefill(const DecoderUnderTest& test, int64_t tokens, float* logits) {
  std::mt19937 random(1);
  const int64_t vocab = test.decoder.config().vocab_size;
  for (int64_t begin = 0; begin < tokens; begin += test.options.chunk) {
    const int64_t end = std::min(begin + test.options.chunk, tokens);
    Step step = {.max_blocks = BlocksOf(tokens)};
    step.Add(random, vocab, begin, end, 0);
    if (end == tokens) step.rows = {static_cast<int32_t>(end - begin - 1)};
    TANDEM_RETURN_IF_ERROR(test.decoder.Forward(step.Input(), logits));
  }
  test.backend.Synchronize();
  return test.backend.status();
}

// Of the whole model: a token's products in the layers.
double LayerOperations(const loader::ModelConfig& c) {
  const double width = static_cast<double>(c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads));
  return 2.0 * static_cast<double>(c.num_layers * c.hidden_size) *
         (width + 3.0 * static_cast<double>(c.intermediate_size));
}

std::string Percent(double rate, double ceiling) {
  return ceiling > 0 ? absl::StrFormat("%.1f %%", 100 * rate / ceiling) : "-";
}

Json Fraction(double rate, double ceiling) {
  return ceiling > 0 ? Json(rate / ceiling) : Json(nullptr);
}

}  // namespace

absl::Status MeasureDecode(const DecoderUnderTest& test) {
  const BenchOptions& options = test.options;
  const loader::ModelConfig& config = test.decoder.config();
  const int64_t most = *std::max_element(options.batches.begin(), options.batches.end());
  const int32_t blocks = BlocksOf(options.context);
  std::vector<float> logits(test.rank == 0 ? most * config.vocab_size : 0);
  // Every sequence reads blocks of its own, with the values of one that was computed.
  TANDEM_RETURN_IF_ERROR(Prefill(test, options.context, logits.data()));
  std::vector<int32_t> moves;
  for (int32_t sequence = 1; sequence < most; ++sequence) {
    for (int32_t b = 0; b < blocks; ++b) {
      moves.push_back(b);
      moves.push_back(sequence * blocks + b);
    }
  }
  test.decoder.MoveBlocks(moves);

  const double token_bytes = static_cast<double>(test.decoder.bytes().kv) /
                             static_cast<double>(most * blocks * kBlockSize);
  for (const int64_t batch : options.batches) {
    std::mt19937 random(2);
    Step step = {.max_blocks = blocks};
    for (int32_t i = 0; i < batch; ++i) {
      step.Add(random, config.vocab_size, options.context - 1, options.context, i * blocks);
      step.rows.push_back(i);
    }
    std::vector<double> seconds;
    for (int repeat = -1; repeat < options.repeats; ++repeat) {
      const double begin = Now();
      for (int i = 0; i < options.steps; ++i) {
        TANDEM_RETURN_IF_ERROR(test.decoder.Forward(step.Input(), logits.data()));
      }
      if (repeat >= 0) seconds.push_back((Now() - begin) / options.steps);
    }
    if (test.report == nullptr) continue;
    for (int64_t i = 0; i < batch * config.vocab_size; ++i) {
      if (!std::isfinite(logits[i])) {
        return absl::InternalError(
            absl::StrFormat("decode of %d: logit %d is not finite, expected numbers", batch, i));
      }
    }
    const Samples step_time = Samples::Of(seconds);
    const double kv = token_bytes * static_cast<double>(batch * options.context);
    const model::DecoderBytes held = test.decoder.bytes();
    const double bytes = static_cast<double>(held.read()) + kv;
    const double rate = bytes / step_time.median;
    const double streamed = static_cast<double>(held.streamed) / step_time.median;
    const double tokens = static_cast<double>(batch) / step_time.median;
    test.report->Add(
        "decode",
        {{"batch", batch},
         {"context", options.context},
         {"step_us", step_time.Microseconds()},
         {"tokens_per_s", tokens},
         {"bytes", bytes},
         {"kv_bytes", kv},
         {"bytes_per_s", rate},
         {"of_copy", Fraction(rate, test.ceilings.copy)},
         {"streamed_bytes_per_s", streamed},
         {"of_upload",
          held.streamed > 0 ? Fraction(streamed, test.ceilings.upload) : Json(nullptr)}},
        absl::StrFormat(
            "batch %3d  context %5d  %9.1f us (%.1f to %.1f)  %8.1f tokens/s  "
            "%7.1f GB/s  %s of copy%s",
            batch, options.context, step_time.median * 1e6, step_time.min * 1e6,
            step_time.max * 1e6, tokens, rate * 1e-9, Percent(rate, test.ceilings.copy),
            held.streamed == 0
                ? ""
                : absl::StrFormat("  %.1f GB/s streamed, %s of uploads", streamed * 1e-9,
                                  Percent(streamed, test.ceilings.upload))));
  }
  return absl::OkStatus();
}

absl::Status MeasurePrefill(const DecoderUnderTest& test) {
  const BenchOptions& options = test.options;
  const loader::ModelConfig& config = test.decoder.config();
  std::vector<float> logits(test.rank == 0 ? config.vocab_size : 0);
  // A first chunk: plans are made, workspaces grow.
  TANDEM_RETURN_IF_ERROR(Prefill(test, std::min(options.chunk, options.prefill), logits.data()));
  std::vector<double> seconds;
  for (int repeat = 0; repeat < std::min(options.repeats, 3); ++repeat) {
    const double begin = Now();
    TANDEM_RETURN_IF_ERROR(Prefill(test, options.prefill, logits.data()));
    seconds.push_back(Now() - begin);
  }
  if (test.report == nullptr) return absl::OkStatus();
  const Samples time = Samples::Of(seconds);
  const auto tokens = static_cast<double>(options.prefill);
  const double ranks = test.plan.tp;
  const double products = LayerOperations(config) * tokens / ranks;
  // Of each token with those before it and itself, scores and values.
  const double attention =
      4.0 * static_cast<double>(config.num_layers * config.num_heads * config.head_dim) * tokens *
      (tokens + 1) / 2 / ranks;
  const double rate = (products + attention) / time.median;
  test.report->Add("prefill",
                   {{"tokens", options.prefill},
                    {"chunk", options.chunk},
                    {"time_us", time.Microseconds()},
                    {"tokens_per_s", tokens / time.median},
                    {"operations", products + attention},
                    {"attention_operations", attention},
                    {"operations_per_s", rate},
                    {"of_product", Fraction(rate, test.ceilings.peak)}},
                   absl::StrFormat("%5d tokens by %d  %9.1f us (%.1f to %.1f)  %8.0f tokens/s  "
                                   "%7.2f TFLOP/s  %s of the product",
                                   options.prefill, options.chunk, time.median * 1e6,
                                   time.min * 1e6, time.max * 1e6, tokens / time.median,
                                   rate * 1e-12, Percent(rate, test.ceilings.peak)));
  return absl::OkStatus();
}

namespace {

// Values in the backend's memory.
template <typename T>
absl::StatusOr<kernels::Buffer> Upload(kernels::Backend& backend, const std::vector<T>& values) {
  TANDEM_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(values.size() * sizeof(T)));
  backend.CopyFromHost(buffer.data(), values.data(), values.size() * sizeof(T));
  return buffer;
}

}  // namespace

absl::Status MeasureAttention(const BenchOptions& options, const loader::ModelConfig& config,
                              kernels::Backend& backend, const Ceilings& ceilings, Report& report) {
  const int64_t batch = options.attention_batch, context = options.attention_context;
  const int32_t blocks = BlocksOf(context);
  const int64_t width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim;
  TANDEM_ASSIGN_OR_RETURN(const kernels::KvDType kv_dtype, ParseKvDType(options.kv_dtype));
  TANDEM_ASSIGN_OR_RETURN(const model::KvCache cache,
                          model::KvCache::Allocate(backend, {.layers = 1,
                                                             .blocks = batch * blocks,
                                                             .kv_heads = config.num_kv_heads,
                                                             .head_dim = config.head_dim,
                                                             .dtype = kv_dtype}));
  // The cache is filled as a step fills it, so many tokens at a time.
  const int64_t at_once = std::max(batch, std::min<int64_t>(context, 256));
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(at_once * width);
  for (float& value : values) value = normal(random);
  std::vector<float> ones(at_once * config.head_dim / 2, 1), zeros(ones.size(), 0);
  TANDEM_ASSIGN_OR_RETURN(const kernels::Buffer qkv, Upload(backend, values));
  TANDEM_ASSIGN_OR_RETURN(const kernels::Buffer cosines, Upload(backend, ones));
  TANDEM_ASSIGN_OR_RETURN(const kernels::Buffer sines, Upload(backend, zeros));
  TANDEM_ASSIGN_OR_RETURN(const kernels::Buffer slots,
                          Upload(backend, std::vector<int32_t>(at_once)));
  for (int64_t first = 0; first < batch * blocks * kBlockSize; first += at_once) {
    std::vector<int32_t> of(std::min(at_once, batch * blocks * kBlockSize - first));
    std::iota(of.begin(), of.end(), static_cast<int32_t>(first));
    backend.CopyFromHost(slots.data(), of.data(), of.size() * sizeof(int32_t));
    backend.RopeAndCache({.tokens = static_cast<int64_t>(of.size()),
                          .q_heads = config.num_heads,
                          .head_dim = config.head_dim,
                          .qkv = qkv.as<float>(),
                          .cos = cosines.as<float>(),
                          .sin = sines.as<float>(),
                          .slot_mapping = slots.as<int32_t>(),
                          .cache = cache.layer(0)});
  }

  std::vector<int32_t> positions(batch, static_cast<int32_t>(context - 1)), sequences(batch);
  std::iota(sequences.begin(), sequences.end(), 0);
  std::vector<int32_t> tables(batch * blocks), head_to_kv(config.num_heads);
  std::iota(tables.begin(), tables.end(), 0);
  for (int64_t h = 0; h < config.num_heads; ++h) {
    head_to_kv[h] = static_cast<int32_t>(h * config.num_kv_heads / config.num_heads);
  }
  TANDEM_ASSIGN_OR_RETURN(const kernels::Buffer positions_there, Upload(backend, positions));
  TANDEM_ASSIGN_OR_RETURN(const kernels::Buffer sequences_there, Upload(backend, sequences));
  TANDEM_ASSIGN_OR_RETURN(const kernels::Buffer tables_there, Upload(backend, tables));
  TANDEM_ASSIGN_OR_RETURN(
      const kernels::Buffer out,
      backend.Allocate(batch * config.num_heads * config.head_dim * sizeof(float)));
  std::vector<double> seconds;
  for (int repeat = -1; repeat < options.repeats; ++repeat) {
    backend.Synchronize();
    const double begin = Now();
    for (int i = 0; i < options.steps; ++i) {
      backend.PagedAttention({.tokens = batch,
                              .q_heads = config.num_heads,
                              .head_dim = config.head_dim,
                              .qkv = qkv.as<float>(),
                              .qkv_stride = width,
                              .positions = positions_there.as<int32_t>(),
                              .token_sequence = sequences_there.as<int32_t>(),
                              .block_tables = tables_there.as<int32_t>(),
                              .max_blocks = blocks,
                              .head_to_kv = head_to_kv.data(),
                              .scale = 1 / std::sqrt(static_cast<float>(config.head_dim)),
                              .cache = cache.layer(0),
                              .out = out.as<float>(),
                              .single_tokens = batch,
                              .single_context = context});
    }
    backend.Synchronize();
    if (repeat >= 0) seconds.push_back((Now() - begin) / options.steps);
  }
  TANDEM_RETURN_IF_ERROR(backend.status());
  const Samples time = Samples::Of(seconds);
  const auto bytes = static_cast<double>(cache.bytes());
  const double rate = bytes / time.median;
  report.Add("attention",
             {{"batch", batch},
              {"context", context},
              {"time_us", time.Microseconds()},
              {"bytes", bytes},
              {"bytes_per_s", rate},
              {"of_copy", Fraction(rate, ceilings.copy)}},
             absl::StrFormat("batch %3d  context %5d  %9.1f us (%.1f to %.1f)  %7.1f GB/s  "
                             "%s of copy",
                             batch, context, time.median * 1e6, time.min * 1e6, time.max * 1e6,
                             rate * 1e-9, Percent(rate, ceilings.copy)));
  return absl::OkStatus();
}

}  // namespace tandem::bench
