// The part of choosing tokens that is done where the logits lie, so that they need not go to the
// host: operations of backends whose memory is not the host's, and small results from which the
// host's sampler chooses. Sums are of integers: the bits are the same on every device, wherever the
// vocabulary is cut between ranks.
#pragma once

#include <cstdint>
#include <span>

namespace tandem::kernels {

// What choosing a row's token needs.
enum class SampleKind : int32_t {
  kWhole = 0,       // its logits on the host
  kLargest = 1,     // the likeliest token
  kDraw = 2,        // one drawn among all tokens
  kCandidates = 3,  // the first tokens of the order
  kNucleus = 4,     // the same, and the sum of all weights
};

// A row's request. A token's weight is WeightOf((logit - largest) * inverse_temperature).
struct SampleRequest {
  SampleKind kind = SampleKind::kWhole;
  int32_t list = -1;               // index of its list of candidates; set by the ranks
  double inverse_temperature = 0;  // of kDraw and kNucleus
  uint64_t least = 0;              // of kDraw: smaller weights count as 0
  uint64_t uniform = 0;            // of kDraw: see DrawTarget
};
static_assert(sizeof(SampleRequest) == 32);

// What a rank finds in its columns of a row.
struct RowSurvey {
  uint64_t largest = 0;    // its likeliest token, packed, 0: none; after Survey that of all ranks
  uint64_t total = 0;      // of weights relative to the largest of all ranks; kDraw, kNucleus
  int32_t drawn = -1;      // kDraw: the token, where the draw falls in these columns
  int32_t candidates = 0;  // how many it lists; kCandidates, kNucleus
  int32_t complete = 0;    // 1: it has no other tokens
  int32_t valid = 1;       // 0: it found NaN or plus infinity
};
static_assert(sizeof(RowSurvey) == 32);

// A row's survey by one rank with its candidates, in order.
struct RankSurvey {
  const RowSurvey* survey = nullptr;
  std::span<const uint64_t> candidates;  // packed tokens, see base/sampling_math.h
};

inline constexpr int kSampleRanges = 32;  // of a rank's columns; their weights are added apart
inline constexpr int kWordFloats = 4;     // that carry a 64-bit word to other ranks, 16 bits each

// Pointers are to the backend's memory.
struct SamplingArgs {
  int64_t rows = 0;
  int64_t width = 0;                        // this rank's columns
  int32_t first_id = 0;                     // of the first
  const float* logits = nullptr;            // [rows, width]
  const SampleRequest* requests = nullptr;  // [rows]
  int32_t list_size = 0;                    // candidates listed at most; at most kMaxListSize
  RowSurvey* surveys = nullptr;             // [rows]
  uint64_t* lists = nullptr;                // [lists, list_size]
  uint64_t* range_sums = nullptr;           // [rows, kSampleRanges], from Survey to Draw
  // With several ranks, each sends one word for each row to the others, as floats. An all-reduce
  // adds them exactly, since a rank's floats are zero in all other ranks' places.
  int32_t rank = 0;
  int32_t ranks = 1;
  float* sent = nullptr;            // [ranks, rows, kWordFloats], filled in this rank's place
  const float* received = nullptr;  // the sum over ranks of what the operation before sent
};

inline constexpr int32_t kMaxListSize = 1024;

// Operations of one step, in this order; each covers the rows whose kind asks for it.
class SamplingOps {
 public:
  virtual ~SamplingOps() = default;

  // Sets surveys, except what the others set; sends `largest`. All rows but kWhole.
  virtual void FindLargest(const SamplingArgs& args) const = 0;

  // Totals and candidates, from all ranks' `largest`; sends `total`. Rows of kDraw, kCandidates and
  // kNucleus. Candidates are all tokens of the first bins (CandidateBin) that together hold
  // list_size tokens at most.
  virtual void Survey(const SamplingArgs& args) const = 0;

  // Where the draw falls in the running sum of all ranks' weights, in order of ids; from all
  // ranks' `total`. Rows of kDraw.
  virtual void Draw(const SamplingArgs& args) const = 0;
};

}  // namespace tandem::kernels
