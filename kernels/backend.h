// A device seen from above: memory, and the operations of a decoder step on it.
// One class per device (ref: the scalar specification; cpu: SIMD; cuda: a GPU of
// NVIDIA). Built once at start and passed down. One rank uses a backend from one
// thread at a time; operations run in the order of the calls. Pointers are to the
// backend's memory, unless said otherwise. Where that is the host's, operations are
// done when they return; elsewhere not before Synchronize.
//
// Activations are fp32. Every operation defines its order of additions, and all
// backends of one arithmetic family give the same bits (tests compare cpu with
// ref for equality; cuda is a family of its own, see its header). Dimensions of zero
// are allowed everywhere: a rank may own no head or no leaf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/base/sum_tree.h"
#include "kernels/kv_cache_view.h"
#include "kernels/layer_stream.h"
#include "kernels/sampling.h"

namespace tandem::kernels {

// Owning device memory, 64-byte aligned and zeroed when allocated.
class Buffer {
 public:
  using Deleter = void (*)(void* data, size_t bytes);

  Buffer() = default;
  Buffer(void* data, size_t bytes, Deleter deleter)
      : data_(data), bytes_(bytes), deleter_(deleter) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(deleter_, other.deleter_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) deleter_(data_, bytes_);
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Deleter deleter_ = nullptr;
};

// Integers, or the bytes of floats with 4 bits of exponent and 3 of mantissa (E4M3, without
// infinities).
enum class CodeType : uint8_t { kInteger, kFloat8 };

// Codes with a scale for each run of group_size columns of a row:
// value = scale * (code - zero). Groups are counted from column 0 of the whole
// layer, so a group may span a cut between ranks; both keep its scale.
struct QuantFormat {
  int bits = 8;                     // 8: codes -128..127, or floats; 4: codes 0..15
  int64_t group_size = 32;          // 32, 64 or 128; columns of the last group may be fewer
  bool zero_points = false;         // of integers; else zero is 0 with 8 bits and 8 with 4
  DType scale_dtype = DType::kF16;  // as the packed weight keeps scales
  CodeType code_type = CodeType::kInteger;

  bool operator==(const QuantFormat&) const = default;
};

// Shape of one rank's share of a linear layer y = W x.
// Column-parallel: all leaves are owned, rows are the rank's own.
// Row-parallel: rows are all of them, leaves the rank's own.
struct LinearSpec {
  DType dtype = DType::kBF16;  // of the elements, where they are not quantized
  std::optional<QuantFormat> quant;
  int64_t rows = 0;            // outputs held here
  int64_t global_columns = 0;  // K of the whole layer
  int64_t leaf_size = 128;     // columns of a leaf
  LeafRange leaves;            // owned; local columns are theirs

  int64_t column_begin() const { return leaves.begin * leaf_size; }
  int64_t columns() const {
    if (leaves.size() == 0) return 0;
    const int64_t end = leaves.end * leaf_size;
    return (end < global_columns ? end : global_columns) - column_begin();
  }
  // Quantization groups that the local columns touch: [begin, end), of the
  // layer's.
  int64_t group_begin() const { return column_begin() / quant->group_size; }
  int64_t group_end() const {
    return columns() == 0
               ? group_begin()
               : (column_begin() + columns() + quant->group_size - 1) / quant->group_size;
  }
};

// Weights in a backend's own layout.
class LinearWeight {
 public:
  explicit LinearWeight(const LinearSpec& spec)
      : spec(spec), schedule(MakeLeafSchedule(spec.global_columns, spec.leaf_size, spec.leaves)) {}
  virtual ~LinearWeight() = default;
  virtual size_t bytes() const = 0;
  // The bytes themselves, to be kept and given back to PackFrom; empty where the
  // backend has no such form.
  virtual std::span<const std::byte> packed() const { return {}; }
  // What it reads of memory that is not its own (Backend::MapPacked); not in bytes().
  virtual std::span<const std::span<const std::byte>> mapped() const { return {}; }

  const LinearSpec spec;
  const LeafSchedule schedule;
};

// Fills dst with rows [row_begin, row_end) of a weight, row-major
// [rows, local columns] in the spec's dtype; may run on many threads at once.
using RowReader =
    absl::FunctionRef<absl::Status(int64_t row_begin, int64_t row_end, std::byte* dst)>;

// Rows of a quantized weight, row-major, as a source hands them over.
struct QuantizedRows {
  int8_t* codes = nullptr;   // [rows, local columns], one code an element
  float* scales = nullptr;   // [rows, local groups]
  uint8_t* zeros = nullptr;  // [rows, local groups], where the format has zero points
};

// Fills dst with rows [row_begin, row_end), likewise.
using QuantizedRowReader =
    absl::FunctionRef<absl::Status(int64_t row_begin, int64_t row_end, QuantizedRows dst)>;

// Copies bytes [offset, offset + bytes) of what packed() gave; may run on many threads at
// once.
using PackedReader = std::function<absl::Status(uint64_t offset, size_t bytes, std::byte* dst)>;

// Rows [row_begin, row_end) of a whole matrix (all rows, all leaves) whose packed()
// bytes were kept.
struct PackedRows {
  LinearSpec whole;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  PackedReader read;
  // All of those bytes in memory that outlives the weight, or null.
  const std::byte* mapped = nullptr;
};

// How Backend::MapPacked makes a weight: what it reads in place, what it holds itself.
struct MappedView {
  struct Piece {
    size_t matrix = 0;  // among the PackedRows
    uint64_t offset = 0, bytes = 0;
  };
  std::vector<Piece> pieces;
  size_t copied_bytes = 0;
};

struct RopeAndCacheArgs {
  int64_t tokens = 0;
  int64_t q_heads = 0;
  int64_t head_dim = 0;
  float* qkv = nullptr;           // [tokens, (q_heads + 2 kv_heads) * head_dim]; q is updated
  const float* q_norm = nullptr;  // [head_dim] or null: RMSNorm per head before RoPE
  const float* k_norm = nullptr;
  float norm_epsilon = 0;
  const float* cos = nullptr;  // [tokens, head_dim / 2]
  const float* sin = nullptr;
  const int32_t* slot_mapping = nullptr;  // [tokens]
  KvCacheView cache;
};

struct PagedAttentionArgs {
  int64_t tokens = 0;
  int64_t q_heads = 0;
  int64_t head_dim = 0;
  const float* qkv = nullptr;               // q of each token at the row's start
  int64_t qkv_stride = 0;                   // floats between tokens
  const int32_t* positions = nullptr;       // [tokens]; token t attends to [0, position]
  const int32_t* token_sequence = nullptr;  // [tokens], row of block_tables
  const int32_t* block_tables = nullptr;    // [sequences, max_blocks]
  int64_t max_blocks = 0;
  // [q_heads] on the host: local KV head of each local query head, not descending.
  const int32_t* head_to_kv = nullptr;
  float scale = 0;
  KvCacheView cache;
  float* out = nullptr;  // [tokens, q_heads * head_dim]
  // What the host knows of the step; it changes no result (on GPUs that are not
  // deterministic, the last bits). The first single_tokens tokens have a sequence each to
  // themselves, of at most single_context positions.
  int64_t single_tokens = 0;
  int64_t single_context = 0;
};

// Operations that Backend::Record kept.
class Recording {
 public:
  virtual ~Recording() = default;
};

// Bytes of a device of its own.
struct DeviceMemory {
  uint64_t free = 0;
  uint64_t scratch = 0;  // what the backend holds itself, besides buffers and weights
  std::string id;        // the same for all ranks on it, on one host
};

// What a kind of device holds of a model: all that a plan needs to know, so that one can be made
// where there is no such device.
class DeviceLayout {
 public:
  virtual ~DeviceLayout() = default;

  // Whether the host may read and write the device's memory.
  virtual bool memory_is_host() const { return true; }
  // Whether Linear keeps to the tree of leaves. If not, it gives a single partial sum
  // of the owned leaves, zeros where there are none, in an order of its own.
  virtual bool leaf_sums() const { return true; }
  // Whether weights of the format can be packed and multiplied.
  virtual bool Multiplies(const QuantFormat& format) const {
    return format.code_type == CodeType::kInteger;
  }
  // Whether rows of logits are surveyed where they lie (Backend::sampling).
  virtual bool surveys() const { return false; }
  // What PackLinear or PackQuantized will take.
  virtual size_t PackedBytes(const LinearSpec& spec) const = 0;
  // What MapPacked will do: of the rows, `whole` and the range count.
  virtual MappedView ViewPacked(const LinearSpec&, std::span<const PackedRows>) const { return {}; }
};

class Backend : public DeviceLayout {
 public:
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;
  virtual void CopyFromHost(void* dst, const void* src, size_t bytes) = 0;
  virtual void CopyToHost(void* dst, const void* src, size_t bytes) = 0;
  // Between two places of the device that do not overlap.
  virtual void Copy(void* dst, const void* src, size_t bytes) = 0;
  virtual void Synchronize() = 0;
  // The device's first error, known after Synchronize; final.
  virtual absl::Status status() const { return absl::OkStatus(); }
  // Of the device, where its memory is not the host's.
  virtual std::optional<DeviceMemory> device_memory() const { return std::nullopt; }

  // Runs `body` and keeps the operations that it issues, without doing them; none may be a
  // copy, EmbedTokens or a packing, and what the backend makes on first use must have been
  // made: `body` has run before and is done. Replay repeats them on the same pointers.
  // UNIMPLEMENTED where repeating would gain nothing.
  virtual absl::StatusOr<std::unique_ptr<Recording>> Record(absl::FunctionRef<absl::Status()>) {
    return absl::UnimplementedError("this backend records nothing");
  }
  virtual void Replay(const Recording&) {}

  // Ranges nest (trace_range.h); they cost nothing where no tool listens.
  virtual void PushRange(const char* /*name*/) {}
  virtual void PopRange() {}

  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                                   RowReader read_rows) = 0;
  // The same of a spec with a QuantFormat that it Multiplies.
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> PackQuantized(
      const LinearSpec& spec, QuantizedRowReader read_rows) = 0;
  // The weight of `spec` from rows that were packed before: the same bits as packing
  // them again. The wholes differ from the spec in rows and leaves alone.
  // UNIMPLEMENTED where the backend has no such form.
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> PackFrom(
      const LinearSpec& spec, std::span<const PackedRows> rows) = 0;
  // The same, but whole panels of rows are read where they are mapped, and only others
  // copied. UNIMPLEMENTED where the backend reads its own memory alone.
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> MapPacked(const LinearSpec&,
                                                                  std::span<const PackedRows>) {
    return absl::UnimplementedError("this backend reads weights in its own memory alone");
  }
  // Names the form of packed() and its version, for who keeps it; empty: none.
  virtual std::string_view packed_layout() const { return {}; }

  // Layers that the backend's memory has no room for stay in the host's, pinned, as packed. What
  // is packed from BeginHostLayer on is the next layer's; StreamHostLayers ends that and takes them
  // all: the backend has room for two, and each comes there while the one before it computes. Its
  // weights are multiplied after Enter alone, and not recorded; the backend outlives it, it
  // outlives their use. RESOURCE_EXHAUSTED where no more can be pinned.
  virtual absl::Status BeginHostLayer() {
    return absl::UnimplementedError("this backend's memory is the host's");
  }
  virtual absl::StatusOr<std::unique_ptr<LayerStream>> StreamHostLayers() {
    return absl::UnimplementedError("this backend's memory is the host's");
  }

  // Partial sums y[subtree, tokens, rows] = W x over the owned leaves, subtrees
  // in order; x is [tokens, columns]. With all leaves owned there is one subtree,
  // the product itself; bias ([rows] or null) may be given only then, and is added
  // last. Leaves are added along the tree; inside a leaf, from zero, in order:
  //
  // fp32, fp16: sum = fma(w, x, sum), column by column.
  //
  // bfloat16: activations are rounded to it, columns come in pairs, the odd one
  // first: sum = fma(w[2j], x[2j], fma(w[2j + 1], x[2j + 1], sum)); a last column
  // alone is paired with zeros. Denormal operands and results count as zeros. It
  // is what AVX512-BF16's dot product does.
  //
  // With a QuantFormat, activations are quantized on the fly, symmetric to 8 bits,
  // for each token and activation group: columns of one leaf and one run of
  // gcd(group_size, leaf_size) columns; scale = max |x| / 127, code = x times
  // 127 / max |x|, rounded to nearest even (MakeActivationScale in base/math.h).
  // For each group sum = fma(float(dot), weight scale * activation scale, sum), dot
  // being the exact integer product of (code - zero) with the activation's codes.
  virtual void Linear(const LinearWeight& weight, const float* x, int64_t tokens, const float* bias,
                      float* y) = 0;

  // out[t] = row ids[t] of a host table [vocab, hidden], widened to fp32. ids are on the
  // host.
  virtual void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                           int64_t tokens, float* out) = 0;

  // residual += delta (+ delta_bias) where delta is not null; then
  // out = residual / sqrt(mean(residual^2) + epsilon) * weight. Squares are added
  // in 16 lanes, column j in lane j mod 16, lanes then folded 8, 4, 2, 1.
  // [tokens, hidden] each; weight and delta_bias [hidden].
  virtual void AddRmsNorm(const float* delta, const float* delta_bias, float* residual,
                          const float* weight, float epsilon, int64_t tokens, int64_t hidden,
                          float* out) = 0;

  // cos, sin [tokens, half] of float(position) * inverse_frequencies[i], each
  // times attention_factor.
  virtual void RopeAngles(const int32_t* positions, int64_t tokens,
                          const float* inverse_frequencies, int64_t half, float attention_factor,
                          float* cos, float* sin) = 0;

  // Norms (where asked) and rotates q and k, halves paired as Transformers'
  // rotate_half does; writes k and v to the cache's slots, rounded to its dtype.
  // In int8, for each token and KV head: scale = max |x| / 127, code = x times
  // 127 / max |x|, rounded to nearest even (MakeCodeScale, ToCode).
  virtual void RopeAndCache(const RopeAndCacheArgs& args) = 0;

  // Softmax attention of each (token, head) over its cached context. The context
  // is cut at fixed positions every 256; inside a cut, scores are dot products of
  // K with q * scale, exponentials are relative to the cut's maximum, their sum
  // runs in 16 lanes (position mod 16), and values are a dot product of V with
  // the exponentials; cuts are combined in order. Both dot products start at zero
  // and run in order of their columns and positions, according to the cache:
  //   F32, F16  by fused multiply-adds
  //   BF16      q * scale and exponentials rounded to bf16; in pairs (2j, 2j + 1),
  //             the odd one first, by MulAddFlushed
  //   I8        as exact sums of integers: q * scale as codes of 32512, and the
  //             products of exponentials and V's scales as codes of 32767 over the
  //             cut; score = float(sum) * (q's scale * K's), value = float(sum) *
  //             the products' scale
  virtual void PagedAttention(const PagedAttentionArgs& args) = 0;

  // out[t, i] = silu(gate_up[t, i]) * gate_up[t, columns + i].
  virtual void SiluMul(const float* gate_up, int64_t tokens, int64_t columns, float* out) = 0;

  // out[r] = x[indices[r]], rows of `columns`.
  virtual void GatherRows(const float* x, const int32_t* indices, int64_t rows, int64_t columns,
                          float* out) = 0;

  // What of choosing tokens is done in the backend's memory; null: logits go to the host.
  virtual const SamplingOps* sampling() const { return nullptr; }
  bool surveys() const final { return sampling() != nullptr; }
};

}  // namespace tandem::kernels
