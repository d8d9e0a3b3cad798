#include "runtime/loader/quantize_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

using kernels::DType;
using kernels::QuantFormat;

// Groups are taken so many at a time, a lane each: every sum runs over a group's
// values in order, so any vector width gives the same bits.
constexpr int kLanes = 32;
using Lanes = std::array<float, kLanes>;

// Adding and taking away rounds to the nearest integer, ties to even, for
// magnitudes below 2^22; every compiler can do that with vectors.
constexpr float kRoundMagic = kernels::kRoundMagic;

// Bounds of a code less its zero.
struct Levels {
  float low = 0;
  float high = 0;
};

Levels LevelsOf(const QuantFormat& format, float zero) {
  if (format.bits == 8) return {-127, 127};
  return {-zero, 15 - zero};
}

float Level(float x, float inverse, float low, float high) {
  const float bounded = std::min(std::max(x * inverse, low), high);
  return (bounded + kRoundMagic) - kRoundMagic;
}

float Inverse(float scale) { return scale == 0 ? 0.0f : 1.0f / scale; }

// Scales and zeros of kLanes groups, with the errors that they make.
struct Choices {
  Lanes scale = {};
  Lanes zero = {};
  Lanes error = {};
};

class BatchQuantizer {
 public:
  BatchQuantizer(const QuantFormat& format, ScaleMethod method, int64_t group_columns)
      : format_(format), method_(method), x_(group_columns), w_(group_columns) {}

  // Of value `column` of the group in a lane. Missing ones are 0, with weight 0.
  void Set(int lane, int64_t column, float x, float w) {
    x_[column][lane] = x;
    w_[column][lane] = w;
  }

  void Run() {
    low_ = high_ = {};
    for (const Lanes& x : x_) {
      for (int i = 0; i < kLanes; ++i) {
        low_[i] = std::min(low_[i], x[i]);
        high_[i] = std::max(high_[i], x[i]);
      }
    }
    TakeRtn();
    if (method_ == ScaleMethod::kRtn) return;
    if (format_.zero_points) {
      SearchZeroPoints();
    } else if (format_.bits == 4) {
      SearchSymmetric();
    } else {
      Refine(best_.scale, best_.zero);
    }
  }

  float scale(int lane) const { return best_.scale[lane]; }
  float zero(int lane) const { return best_.zero[lane]; }
  float magnitude(int lane) const { return std::max(high_[lane], -low_[lane]); }

 private:
  void TakeRtn() {
    for (int i = 0; i < kLanes; ++i) {
      const float range = format_.zero_points ? high_[i] - low_[i] : magnitude(i);
      const float levels = format_.zero_points ? 15.0f : format_.bits == 8 ? 127.0f : 7.5f;
      best_.scale[i] = StoredScale(format_.scale_dtype, range / levels);
      best_.zero[i] = format_.zero_points ? ZeroFor(i, best_.scale[i])
                                          : static_cast<float>(SymmetricZero(format_));
    }
    best_.error = ErrorOf(best_.scale, best_.zero);
  }

  float ZeroFor(int lane, float scale) const {
    return std::min(std::nearbyintf(-low_[lane] * Inverse(scale)), 15.0f);
  }

  Lanes ErrorOf(const Lanes& scale, const Lanes& zero) const {
    Lanes error = {}, inverse, low, high;
    for (int i = 0; i < kLanes; ++i) {
      const Levels levels = LevelsOf(format_, zero[i]);
      inverse[i] = Inverse(scale[i]);
      low[i] = levels.low;
      high[i] = levels.high;
    }
    for (size_t j = 0; j < x_.size(); ++j) {
      const float* x = x_[j].data();
      const float* w = w_[j].data();
      for (int i = 0; i < kLanes; ++i) {
        const float e = x[i] - scale[i] * Level(x[i], inverse[i], low[i], high[i]);
        error[i] += w[i] * (e * e);
      }
    }
    return error;
  }

  // Of the codes c that a scale gives: xc sums w x c, cc sums w c c. Of all
  // scales, xc / cc makes the least error with these codes: the sum of w x x,
  // less xc^2 / cc.
  struct Fit {
    Lanes xc = {};
    Lanes cc = {};
  };

  Fit FitCodes(const Lanes& inverse, const Lanes& zero) const {
    Fit fit;
    Lanes low, high;
    for (int i = 0; i < kLanes; ++i) {
      const Levels levels = LevelsOf(format_, zero[i]);
      low[i] = levels.low;
      high[i] = levels.high;
    }
    for (size_t j = 0; j < x_.size(); ++j) {
      const float* x = x_[j].data();
      const float* w = w_[j].data();
      for (int i = 0; i < kLanes; ++i) {
        const float c = Level(x[i], inverse[i], low[i], high[i]);
        const float wc = w[i] * c;
        fit.xc[i] += wc * x[i];
        fit.cc[i] += wc * c;
      }
    }
    return fit;
  }

  // Alternates least-squares scale and nearest codes, from the codes of `scale`,
  // and keeps what is better than the best so far.
  void Refine(Lanes scale, const Lanes& zero) {
    constexpr int kRounds = 2;
    Lanes inverse;
    for (int round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kLanes; ++i) inverse[i] = Inverse(scale[i]);
      const Fit fit = FitCodes(inverse, zero);
      for (int i = 0; i < kLanes; ++i) {
        scale[i] = fit.cc[i] > 0 ? StoredScale(format_.scale_dtype, fit.xc[i] / fit.cc[i]) : 0.0f;
        if (!std::isfinite(scale[i])) scale[i] = 0;
      }
      const Lanes error = ErrorOf(scale, zero);
      for (int i = 0; i < kLanes; ++i) {
        if (error[i] < best_.error[i]) {
          best_.scale[i] = scale[i];
          best_.zero[i] = zero[i];
          best_.error[i] = error[i];
        }
      }
    }
  }

  // The start of a search: the candidate with the least error so far.
  struct Start {
    Lanes gain = {};
    Lanes scale = {};
    Lanes zero = {};
  };

  void Try(const Lanes& scale, const Lanes& zero, Start& start) const {
    Lanes inverse;
    for (int i = 0; i < kLanes; ++i) inverse[i] = Inverse(scale[i]);
    const Fit fit = FitCodes(inverse, zero);
    for (int i = 0; i < kLanes; ++i) {
      const float gain = fit.xc[i] * fit.xc[i] / fit.cc[i];  // none is NaN, never greater
      const bool better = gain > start.gain[i];
      start.gain[i] = better ? gain : start.gain[i];
      start.scale[i] = better ? scale[i] : start.scale[i];
      start.zero[i] = better ? zero[i] : start.zero[i];
    }
  }

  // The largest magnitude goes to a level between 6.6 and 9; since codes reach to
  // -8 and 7, both signs of the scale are tried.
  void SearchSymmetric() {
    Start start;
    Lanes scale, zero;
    zero.fill(static_cast<float>(SymmetricZero(format_)));
    for (const float level : {6.6f, 7.0f, 7.4f, 7.8f, 8.2f, 8.6f, 9.0f}) {
      for (const float sign : {1.0f, -1.0f}) {
        for (int i = 0; i < kLanes; ++i) scale[i] = sign * magnitude(i) / level;
        Try(scale, zero, start);
      }
    }
    Refine(start.scale, start.zero);
  }

  // The range takes 14.5 to 19.5 levels; each with the zero points beside its own.
  void SearchZeroPoints() {
    Start start;
    Lanes scale, zero;
    for (const float levels : {14.5f, 15.0f, 15.5f, 16.0f, 16.5f, 17.0f, 18.0f, 19.5f}) {
      for (const float shift : {0.0f, -1.0f, 1.0f}) {
        for (int i = 0; i < kLanes; ++i) {
          scale[i] = (high_[i] - low_[i]) / levels;
          zero[i] = std::min(std::max(ZeroFor(i, scale[i]) + shift, 0.0f), 15.0f);
        }
        Try(scale, zero, start);
      }
    }
    Refine(start.scale, start.zero);
  }

  const QuantFormat format_;
  const ScaleMethod method_;
  std::vector<Lanes> x_, w_;    // [group columns]
  Lanes low_ = {}, high_ = {};  // least and greatest value, and zero
  Choices best_;
};

absl::Status NotFinite(int64_t row, int64_t column, float value) {
  return absl::InvalidArgumentError(absl::StrCat("row ", row, " column ", column, ": found ", value,
                                                 ", expected a finite number"));
}

absl::Status BeyondScale(int64_t row, int64_t begin, int64_t count, float magnitude,
                         DType scale_dtype) {
  return absl::InvalidArgumentError(
      absl::StrCat("row ", row, " columns ", begin, " to ", begin + count - 1,
                   ": found a magnitude of ", magnitude, ", expected one that a scale in ",
                   std::string(kernels::DTypeName(scale_dtype)), " can reach"));
}

// Of one group to floats of 8 bits.
absl::Status QuantizeToFloats(const float* x, int64_t row, int64_t begin, int64_t count,
                              DType scale_dtype, float& scale, int8_t* codes) {
  float most = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (!std::isfinite(x[j])) return NotFinite(row, begin + j, x[j]);
    most = std::max(most, std::fabs(x[j]));
  }
  scale = StoredScale(scale_dtype, most / kernels::E4m3ToFloat(0x7e));
  if (!std::isfinite(scale)) return BeyondScale(row, begin, count, most, scale_dtype);
  const float inverse = Inverse(scale);
  for (int64_t j = 0; j < count; ++j) {
    codes[j] = static_cast<int8_t>(kernels::FloatToE4m3(x[j] * inverse));
  }
  return absl::OkStatus();
}

}  // namespace

float StoredScale(DType scale_dtype, float scale) {
  float stored = scale;
  if (scale_dtype == DType::kF16) stored = kernels::F16ToFloat(kernels::FloatToF16(scale));
  if (scale_dtype == DType::kBF16) stored = kernels::Bf16ToFloat(kernels::FloatToBf16(scale));
  // The smallest scale keeps more than none. It also has an inverse.
  const float smallest = scale_dtype == DType::kF16 ? 0x1p-24f : 0x1p-126f;
  return scale != 0 && std::fabs(stored) < smallest ? std::copysign(smallest, scale) : stored;
}

int8_t QuantizeValue(const QuantFormat& format, float value, float scale, uint8_t zero) {
  const Levels levels = LevelsOf(format, zero);
  return static_cast<int8_t>(Level(value, Inverse(scale), levels.low, levels.high) +
                             static_cast<float>(zero));
}

absl::Status QuantizeRows(const float* rows, int64_t n, int64_t columns, const QuantFormat& format,
                          const float* importance, kernels::QuantizedRows out, ScaleMethod method) {
  TANDEM_CHECK(format.bits == 4 || (format.bits == 8 && !format.zero_points));
  TANDEM_CHECK(format.group_size > 0);
  const int64_t size = std::min(format.group_size, columns);
  const int64_t row_groups = (columns + format.group_size - 1) / format.group_size;
  const int64_t groups = n * row_groups;
  // [begin, begin + count) of the values are a group's.
  const auto columns_of = [&](int64_t group) {
    const int64_t begin = group % row_groups * format.group_size;
    return std::pair(begin, std::min(format.group_size, columns - begin));
  };
  if (format.code_type == kernels::CodeType::kFloat8) {
    for (int64_t group = 0; group < groups; ++group) {
      const auto [begin, count] = columns_of(group);
      const int64_t at = group / row_groups * columns + begin;
      TANDEM_RETURN_IF_ERROR(QuantizeToFloats(rows + at, group / row_groups, begin, count,
                                              format.scale_dtype, out.scales[group],
                                              out.codes + at));
    }
    return absl::OkStatus();
  }
  BatchQuantizer batch(format, method, size);
  for (int64_t first = 0; first < groups; first += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t group = first + lane;
      const auto [begin, count] =
          group < groups ? columns_of(group) : std::pair<int64_t, int64_t>();
      const float* x = rows + group / row_groups * columns + begin;
      bool finite = true;
      for (int64_t j = 0; j < count; ++j) {
        finite = finite && std::isfinite(x[j]);
        batch.Set(lane, j, x[j], importance == nullptr ? 1.0f : importance[begin + j]);
      }
      for (int64_t j = count; j < size; ++j) batch.Set(lane, j, 0, 0);
      if (finite) continue;
      const int64_t bad =
          std::find_if_not(x, x + count, [](float v) { return std::isfinite(v); }) - x;
      return NotFinite(group / row_groups, begin + bad, x[bad]);
    }
    batch.Run();
    for (int lane = 0; lane < kLanes && first + lane < groups; ++lane) {
      const int64_t group = first + lane;
      const int64_t row = group / row_groups;
      const auto [begin, count] = columns_of(group);
      const float scale = batch.scale(lane);
      const float zero = batch.zero(lane);
      if (!std::isfinite(scale)) {
        return BeyondScale(row, begin, count, batch.magnitude(lane), format.scale_dtype);
      }
      out.scales[group] = scale;
      if (format.zero_points) out.zeros[group] = static_cast<uint8_t>(zero);
      const float inverse = Inverse(scale);
      const Levels levels = LevelsOf(format, zero);
      const float* x = rows + row * columns + begin;
      int8_t* codes = out.codes + row * columns + begin;
      for (int64_t j = 0; j < count; ++j) {
        codes[j] = static_cast<int8_t>(
            static_cast<int32_t>(Level(x[j], inverse, levels.low, levels.high) + zero));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::loader
