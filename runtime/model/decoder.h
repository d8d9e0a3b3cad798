// One rank's part of a decoder-only transformer, and its forward pass. Every rank computes the same
// step; two all-reduces a layer and one gather of logits connect the ranks.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "parallel/communicator.h"
#include "parallel/linear.h"
#include "parallel/shard_plan.h"
#include "parallel/step_timer.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/packed_file.h"
#include "runtime/model/embedding_table.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/matrix_source.h"
#include "runtime/model/model_tensors.h"
#include "runtime/model/row_sampling.h"
#include "runtime/model/step_input.h"
#include "runtime/model/step_memory.h"
#include "runtime/model/weight_stream.h"

namespace tandem::model {

// Limits on recording steps. Steps that are not recorded by then are issued call by call.
struct RecordingBudget {
  absl::Duration time = absl::Seconds(20);
  uint64_t bytes = 256 << 20;  // of the device
};

// Where the weights of a layer lie while other layers compute.
enum class LayersIn {
  kMemory,  // the backend's
  kFile,    // DecoderOptions::packed, the head too (WeightStream)
  kHost,    // the host's pinned memory, if the backend's memory is another (kernels::LayerStream)
};

// --weights stream or resident, on GPUs or CPUs.
constexpr LayersIn LayersOf(bool stream, bool on_gpu) {
  if (!stream) return LayersIn::kMemory;
  return on_gpu ? LayersIn::kHost : LayersIn::kFile;
}

struct DecoderOptions {
  kernels::KvDType kv_dtype = kernels::KvDType::kF32;
  int64_t num_blocks = 0;     // of kBlockSize tokens
  int64_t max_tokens = 0;     // of one step
  int64_t max_rows = 0;       // of logits in one step
  int64_t max_sequences = 0;  // of one step; 0: max_tokens
  int64_t max_blocks = 0;     // of a sequence; 0: num_blocks
  // RecordSteps records steps of one token for each of at most so many sequences. 0: none, also if
  // layers come from the host.
  int64_t recorded_sequences = 0;
  RecordingBudget recording;
  parallel::StepTimer* timer = nullptr;  // outlives the decoder; null: off
  WeightRequests weights;                // conversions while loading
  // Weights that were packed before (CheckPackedWeights), or null. Outlives Load; if layers stay
  // there, it has an image and outlives the decoder.
  const loader::PackedFile* packed = nullptr;
  // Where the embedding is kept, unless layers stay in the file. Outlives the decoder.
  EmbeddingMemory embedding;
  LayersIn layers = LayersIn::kMemory;
  std::vector<int> stream_cpus;  // of WeightStream's thread; empty: the caller's

  bool records() const { return recorded_sequences > 0 && layers != LayersIn::kHost; }

  StepLimits step_limits() const {
    return {.tokens = max_tokens,
            .sequences = max_sequences > 0 ? max_sequences : max_tokens,
            .rows = max_rows,
            .blocks = max_blocks > 0 ? max_blocks : num_blocks};
  }
};

// Bytes that a rank will hold, by purpose.
struct DecoderBytes {
  size_t weights = 0;    // of streamed weights, the most that is present at once
  size_t embedding = 0;  // this rank's part of it, in the host's memory
  size_t kv = 0;
  size_t workspace = 0;
  size_t streamed = 0;  // read from the packed file or the host in each step; not in total()
  size_t present = 0;   // the part of `weights` that streamed layers take
  size_t total() const { return weights + embedding + kv + workspace; }
  size_t read() const { return weights - present + streamed; }  // weights read in each step
};

class Decoder {
 public:
  // Reads this rank's slices and packs them. Takes the checkpoint. The backend and the
  // communicator, which works on the backend's memory, must outlive the decoder. Not
  // collective: ranks agree on the status afterwards, before the first step.
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(
      const loader::ModelConfig& config, std::unique_ptr<loader::Checkpoint> checkpoint,
      parallel::ShardPlan plan, kernels::Backend& backend, parallel::Communicator& communicator,
      const DecoderOptions& options);

  // Records steps of one token for each sequence, if the backend can: Forward replays them.
  // Collective, after all ranks have loaded. All ranks record the same steps until one of them has
  // spent its budget, and return the same error. A backend that cannot record is no error
  // (recording_failure).
  absl::Status RecordSteps();

  // The bytes that Load will hold on `rank`, from config.json and the files' headers alone: with
  // the checkpoint's formats as options.weights converts them, or with the formats that format_of
  // returns.
  static DecoderBytes Plan(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::DeviceLayout& device, const DecoderOptions& options);
  using FormatOf = std::function<WeightFormat(const Module& module)>;
  static DecoderBytes Plan(const loader::ModelConfig& config, const FormatOf& format_of,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::DeviceLayout& device, const DecoderOptions& options);

  // One step on all ranks. logits is [rows, vocab] in fp32 on rank 0, unused elsewhere. Rows whose
  // sampling request is not kWhole are surveyed instead; their places in logits are not written. An
  // error is final for the world.
  absl::Status Forward(const StepInput& input, float* logits);

  // Candidates that each rank lists for a surveyed row. 0: ranks cannot survey; all rows come
  // whole.
  int32_t candidates() const { return sampling_ == nullptr ? 0 : RowSampling::ListSize(plan_); }
  // On rank 0: the ranks' surveys of a row of the last step. Valid until the next step.
  std::span<const kernels::RankSurvey> Survey(int32_t row) { return sampling_->Of(row); }
  // On all ranks: gathers whole rows of the last step (ascending) into their places in logits.
  absl::Status GatherRows(std::span<const int32_t> rows, float* logits);

  // Copies KV blocks, pairs (from, to), in order. Every rank, before the step that uses them.
  void MoveBlocks(std::span<const int32_t> moves) { kv_cache_.Move(backend_, moves); }

  // The bytes held, by purpose. Equal to Plan.
  DecoderBytes bytes() const;
  int64_t recorded_steps() const { return static_cast<int64_t>(recorded_.size()); }
  uint64_t recorded_bytes() const { return recorded_bytes_; }  // of the device
  // Why nothing is recorded, if that was tried; the same on all ranks.
  const absl::Status& recording_failure() const { return recording_failure_; }
  int64_t replayed_steps() const { return replayed_; }
  size_t head_bytes() const { return head_.bytes(); }  // among the weights
  uint64_t bytes_read() const {
    return checkpoint_->bytes_read() +
           (options_.layers == LayersIn::kFile ? options_.packed->bytes_read() : packed_read_) +
           (stream_ == nullptr ? 0 : stream_->bytes_read());
  }
  const loader::ModelConfig& config() const { return config_; }
  // How the products of the layers are held.
  const kernels::LinearSpec& linear_spec() const { return layers_.front().gate_up.spec(); }

 private:
  struct Layer {
    kernels::Buffer input_norm, post_norm;   // fp32 [hidden]
    kernels::Buffer q_norm, k_norm;          // fp32 [head_dim], or empty
    parallel::ColumnParallelLinear qkv;      // [(q + 2 kv) local heads * head_dim, hidden]
    parallel::RowParallelLinear output;      // [hidden, local heads * head_dim]
    parallel::ColumnParallelLinear gate_up;  // [2 * local ffn, hidden]
    parallel::RowParallelLinear down;        // [hidden, local ffn]
  };

  // Scratch of a step, sized once for options.max_tokens and max_rows.
  struct Workspace {
    kernels::Buffer memory;
    float* residual = nullptr;   // [tokens, hidden]
    float* normed = nullptr;     // [tokens, hidden]
    float* delta = nullptr;      // [tokens, hidden], a sub-layer's output
    float* qkv = nullptr;        // [tokens, local qkv]
    float* attention = nullptr;  // [tokens, local heads * head_dim]
    float* gate_up = nullptr;    // [tokens, 2 * local ffn]
    float* activated = nullptr;  // [tokens, local ffn]
    float* partials = nullptr;   // [own subtrees, tokens, hidden]
    float* cos = nullptr;        // [tokens, head_dim / 2]
    float* sin = nullptr;
    float* rows = nullptr;                 // [rows, hidden]
    float* logits = nullptr;               // [rows, local vocab]
    float* inverse_frequencies = nullptr;  // [head_dim / 2]
    float* step = nullptr;                 // StepMemory's
    float* sampling = nullptr;             // RowSampling's
    static size_t Layout(const loader::ModelConfig& config, const parallel::ShardPlan& plan,
                         int rank, const kernels::DeviceLayout& device,
                         const DecoderOptions& options, Workspace* out);
  };

  // A step of `sequences` single tokens with contexts of at most `context`.
  struct RecordedStep {
    int64_t sequences = 0;
    int64_t context = 0;
    std::unique_ptr<kernels::Recording> recording;
  };

  Decoder(const loader::ModelConfig& config, std::unique_ptr<loader::Checkpoint> checkpoint,
          parallel::ShardPlan plan, kernels::Backend& backend, parallel::Communicator& communicator,
          const DecoderOptions& options);

  // How a rank will hold a matrix.
  struct PlannedMatrix {
    WeightFormat format;
    bool has_bias = false;
  };
  static DecoderBytes PlanMatrices(const loader::ModelConfig& config,
                                   absl::FunctionRef<PlannedMatrix(const HeldMatrix&)> plan_matrix,
                                   const parallel::ShardPlan& plan, int rank,
                                   const kernels::DeviceLayout& device,
                                   const DecoderOptions& options);
  absl::Status LoadWeights();
  absl::Status LoadLayer(int64_t index);
  absl::Status LoadNorm(const Norm& norm, Layer& layer);
  absl::Status LoadMatrix(const HeldMatrix& matrix, Layer& layer);
  // After the layers and the head are loaded: checks all that this rank will read from the file,
  // and starts to read the first layer.
  absl::Status StartFileStream();
  const RecordedStep* FindRecorded(const StepInput& input) const;
  // From here on work belongs to `part`: for the timer, and as a range of the backend.
  void Enter(parallel::StepPart part);
  void LeaveParts();  // ends that range
  // From the embedded tokens in the workspace to the rows' logits there.
  absl::Status RunLayers(const PlacedStep& step);
  // The same, until it is done.
  absl::Status RunAlone(const PlacedStep& step);
  // Sub-layers, up to their row-parallel product's partial sums in the workspace.
  void Attention(const Layer& layer, int64_t index, const PlacedStep& step);
  void FeedForward(const Layer& layer, int64_t tokens);
  // Adds up the product's partial sums, adds them to the residual stream and norms that.
  absl::Status AddAndNorm(const parallel::RowParallelLinear& product, parallel::ReducePlan plan,
                          const kernels::Buffer& norm, int64_t tokens);
  // In a world of one rank, partial sums are the sum.
  float* Partials() const { return plan_.tp == 1 ? workspace_.delta : workspace_.partials; }

  const loader::ModelConfig config_;
  std::unique_ptr<loader::Checkpoint> checkpoint_;
  const parallel::ShardPlan plan_;
  const parallel::RankShard& shard_;
  kernels::Backend& backend_;
  parallel::Communicator& communicator_;
  const DecoderOptions options_;

  std::unique_ptr<EmbeddingTable> embedding_;
  std::vector<Layer> layers_;
  kernels::Buffer final_norm_;
  parallel::ColumnParallelLinear head_;  // [local vocab, hidden]
  KvCache kv_cache_;
  Workspace workspace_;
  StepMemory step_memory_;
  std::unique_ptr<RowSampling> sampling_;  // null: the backend surveys nothing
  int32_t step_rows_ = 0;                  // of the last step
  std::vector<int32_t> whole_rows_;        // of it
  std::vector<RecordedStep> recorded_;     // fewer sequences first, then shorter contexts
  uint64_t recorded_bytes_ = 0;
  absl::Status recording_failure_;
  int64_t replayed_ = 0;
  bool in_part_ = false;
  // Of row-parallel products: the leaves' trees, or one of ranks where the backend adds up
  // its leaves as it likes.
  parallel::ReducePlan attention_sum_, ffn_sum_;
  size_t weight_bytes_ = 0;                       // in memory for good
  uint64_t packed_read_ = 0;                      // bytes, of a packed file while loading
  std::unique_ptr<kernels::LayerStream> stream_;  // null: all are
};

}  // namespace tandem::model
