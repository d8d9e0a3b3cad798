// A whole TP world of a real model folder in one process, ranks as threads, and
// plain ways to run sequences through it.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "parallel/thread_communicator.h"
#include "runtime/loader/hf_config.h"
#include "runtime/model/decoder.h"
#include "runtime/model/model_tensors.h"
#include "tests/support/source_path.h"

namespace tandem::testing {

// A sequence's token ids with its blocks.
struct Sequence {
  std::vector<int32_t> ids;
  int32_t computed = 0;
  std::vector<int32_t> blocks;
};

// Builds one step: `take[i]` next tokens of each sequence; logits for the last
// token of each.
struct Step {
  std::vector<int32_t> token_ids, positions, slots, cu_seqlens = {0}, context_lens, tables, rows;
  int32_t max_blocks = 64;

  void Add(Sequence& sequence, int32_t take) {
    for (int32_t i = 0; i < take; ++i) {
      const int32_t position = sequence.computed + i;
      token_ids.push_back(sequence.ids[position]);
      positions.push_back(position);
      slots.push_back(sequence.blocks[position / model::kBlockSize] * model::kBlockSize +
                      position % model::kBlockSize);
    }
    sequence.computed += take;
    cu_seqlens.push_back(static_cast<int32_t>(token_ids.size()));
    context_lens.push_back(sequence.computed);
    std::vector<int32_t> table = sequence.blocks;
    table.resize(max_blocks, -1);
    tables.insert(tables.end(), table.begin(), table.end());
    rows.push_back(static_cast<int32_t>(token_ids.size()) - 1);
  }

  model::StepInput Input() const {
    return {.token_ids = token_ids,
            .positions = positions,
            .slot_mapping = slots,
            .cu_seqlens_q = cu_seqlens,
            .context_lens = context_lens,
            .block_tables = tables,
            .max_blocks = max_blocks,
            .logits_indices = rows};
  }
};

struct WorldOptions {
  int tp = 1;
  int threads = 1;
  std::string isa = "auto";
  kernels::KvDType kv_dtype = kernels::KvDType::kF32;
  int64_t num_blocks = 256;
  int64_t max_tokens = 1024;
  model::WeightRequests weights;
  std::string packed, packed_key;  // a packed file, opened by each rank; empty: none
  model::LayersIn layers = model::LayersIn::kMemory;
  int64_t recorded_sequences = 0;
  // Of each rank; none: the decoder's own.
  std::function<model::RecordingBudget(int rank)> recording;
  // In place of the CPU's.
  std::function<absl::StatusOr<std::unique_ptr<kernels::Backend>>()> make_backend;
  // Of a rank whose backend's memory is not the host's, on the host's communicator.
  std::function<absl::StatusOr<std::unique_ptr<parallel::Communicator>>(kernels::Backend&,
                                                                        parallel::Communicator&)>
      make_communicator;
};

// A rank as the body sees it.
struct Rank {
  int index;
  model::Decoder& decoder;
  parallel::ControlGroup& control;
  // Runs one step; returns rank 0's logits, [rows, vocab].
  std::vector<float> Forward(const Step& step) {
    std::vector<float> logits(step.rows.size() * decoder.config().vocab_size);
    EXPECT_TRUE(decoder.Forward(step.Input(), logits.data()).ok());
    return logits;
  }
};

// Loads `folder` on tp ranks and runs body on each, one thread a rank. Returns
// the first loading error.
inline absl::Status RunWorld(const std::string& folder, const WorldOptions& options,
                             const std::function<void(Rank&)>& body) {
  parallel::ThreadWorld world(options.tp);
  std::vector<absl::Status> statuses(options.tp);
  std::vector<std::byte> embedding;  // of all ranks, as on one host
  if (const auto model = loader::ModelFolder::Open(folder); options.tp > 1 && model.ok()) {
    const auto config = loader::ReadConfig(*model);
    const auto checkpoint = loader::Checkpoint::Open(*model);
    if (config.ok() && checkpoint.ok()) {
      embedding.resize(model::EmbeddingBytes(*config, **checkpoint));
    }
  }
  std::vector<std::thread> threads;
  for (int r = 0; r < options.tp; ++r) {
    threads.emplace_back([&, r] {
      statuses[r] = [&]() -> absl::Status {
        auto model_folder = loader::ModelFolder::Open(folder);
        if (!model_folder.ok()) return model_folder.status();
        auto config = loader::ReadConfig(*model_folder);
        if (!config.ok()) return config.status();
        auto checkpoint = loader::Checkpoint::Open(*model_folder);
        if (!checkpoint.ok()) return checkpoint.status();
        auto backend = options.make_backend
                           ? options.make_backend()
                           : kernels::MakeCpuBackend(options.isa, {.threads = options.threads});
        if (!backend.ok()) return backend.status();
        const auto host = world.Make(r);
        std::unique_ptr<parallel::Communicator> device;
        if (options.make_communicator) {
          auto made = options.make_communicator(**backend, *host);
          if (!made.ok()) return made.status();
          device = *std::move(made);
        }
        parallel::Communicator* const communicator = device ? device.get() : host.get();
        auto plan = parallel::ShardPlan::Make(model::ShapeOf(*config), options.tp);
        std::unique_ptr<loader::PackedFile> packed;
        if (!options.packed.empty()) {
          auto opened = loader::PackedFile::Open(options.packed, options.packed_key);
          if (!opened.ok()) return opened.status();
          packed = *std::move(opened);
          if (const absl::Status image = packed->ReserveImage(); !image.ok()) return image;
        }
        auto decoder = model::Decoder::Load(
            *config, *std::move(checkpoint), std::move(plan), **backend, *communicator,
            {.kv_dtype = options.kv_dtype,
             .num_blocks = options.num_blocks,
             .max_tokens = options.max_tokens,
             .max_rows = 64,
             .recorded_sequences = options.recorded_sequences,
             .recording = options.recording ? options.recording(r) : model::RecordingBudget(),
             .weights = options.weights,
             .packed = packed.get(),
             .embedding = {.shared = embedding.data(), .part = r, .parts = options.tp},
             .layers = options.layers});
        const absl::Status agreed =
            parallel::AgreeOnStatus(communicator->control(), decoder.status());
        if (!agreed.ok()) return agreed;
        const absl::Status recorded = (*decoder)->RecordSteps();
        if (!recorded.ok()) return recorded;
        Rank rank = {r, **decoder, communicator->control()};
        body(rank);
        return communicator->control().Barrier();
      }();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace tandem::testing
