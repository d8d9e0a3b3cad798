// The formats in which ranks hold weights: as the checkpoint stores them, or converted while
// loading.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tandem::model {

// Of one matrix: elements, or codes with scales.
struct WeightFormat {
  kernels::DType dtype = kernels::DType::kBF16;  // of elements
  std::optional<kernels::QuantFormat> quant;
};

// "BF16"; "INT8, groups of 32"; "INT4, groups of 128, zero points"; "FP8, groups of 128"
std::string FormatName(const WeightFormat& format);

// The format that options ask for. Neither bits nor dtype: as stored.
struct WeightRequest {
  int bits = 0;  // 8 or 4: codes
  int64_t group_size = 0;
  std::optional<kernels::DType> dtype;  // elements
  kernels::CodeType code_type = kernels::CodeType::kInteger;

  // What becomes of a matrix that is stored so. Such codes of as many bits stay as they
  // are unless another group size was asked for (group_size != 0).
  WeightFormat Of(const WeightFormat& stored) const;

  // Of matrices that are held as one. Where they are not alike then: codes anew if codes were asked
  // for, else elements, of a type that the stored elements need and BF16 if there are none.
  WeightFormat OfAll(std::span<const WeightFormat> stored) const;
};

// Of the layers' matrices and of the head. Embedding rows are always looked up as
// stored: the table stays in its file and takes no memory.
struct WeightRequests {
  WeightRequest body;
  WeightRequest head;

  // Of --dtype (auto, fp32, fp16, bf16, fp8, int8, int4), --group-size (0: the format's
  // default) and --head-dtype (likewise; auto: int8 with a body of int8 or int4, as
  // stored with one of fp8, else as the body). INVALID_ARGUMENT names the option.
  static absl::StatusOr<WeightRequests> Parse(std::string_view dtype, int64_t group_size,
                                              std::string_view head_dtype);

  // INVALID_ARGUMENT where codes are asked for that the backend does not multiply.
  absl::Status Check(const kernels::Backend& backend) const;
};

}  // namespace tandem::model
