#include "runtime/quantize/quantize_model.h"

#include <algorithm>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/shard_plan.h"
#include "runtime/loader/quantize_rows.h"
#include "runtime/model/model_tensors.h"
#include "runtime/quantize/calibration.h"
#include "runtime/quantize/compressed_tensors_writer.h"
#include "runtime/quantize/error_compensation.h"
#include "runtime/quantize/source_weights.h"

namespace tandem::quantize {
namespace {

// Values of a matrix that are read at a time.
constexpr int64_t kValuesAtATime = 16 << 20;

// Owns what kernels::QuantizedRows points to.
struct QuantizedMatrix {
  QuantizedMatrix(const kernels::QuantFormat& format, int64_t rows, int64_t columns)
      : groups((columns + format.group_size - 1) / format.group_size),
        codes(rows * columns),
        scales(rows * groups),
        zeros(rows * groups, loader::SymmetricZero(format)) {}
  kernels::QuantizedRows View(int64_t row, int64_t columns) {
    return {&codes[row * columns], &scales[row * groups], &zeros[row * groups]};
  }

  int64_t groups;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
};

class ModelQuantizer {
 public:
  ModelQuantizer(const QuantizeJob& job, CheckpointWriter& writer) : job_(job), writer_(writer) {}

  absl::Status Run() {
    TANDEM_ASSIGN_OR_RETURN(source_, SourceWeights::Take(job_.checkpoint, job_.config));
    for (const std::string& name : job_.plan.copied) TANDEM_RETURN_IF_ERROR(Copy(name));
    if (!job_.calibration.empty()) TANDEM_RETURN_IF_ERROR(Calibrate());
    for (const QuantizedModule& module : job_.plan.modules) {
      const bool in_layer = module.name.rfind("model.layers.", 0) == 0;
      if (in_layer && !job_.calibration.empty()) continue;
      TANDEM_RETURN_IF_ERROR(QuantizeByItself(module));
    }
    return absl::OkStatus();
  }

 private:
  loader::ScaleMethod scale_method() const {
    return job_.method == QuantizeMethod::kRtn ? loader::ScaleMethod::kRtn
                                               : loader::ScaleMethod::kSearch;
  }

  absl::Status Named(const std::string& module, const absl::Status& status) const {
    if (status.ok() || status.code() != absl::StatusCode::kInvalidArgument) return status;
    return absl::InvalidArgumentError(
        absl::StrCat(module, ".weight: ", std::string(status.message())));
  }

  void Advance(const std::string& tensor) {
    done_ += source_->Get(tensor).info().bytes;
    if (job_.progress) job_.progress(done_);
  }

  absl::Status Copy(const std::string& name) {
    const loader::CheckpointTensor& tensor = source_->Get(name);
    const int64_t rows = tensor.rows();
    const int64_t step =
        std::max<int64_t>(1, kValuesAtATime / std::max<int64_t>(1, tensor.row_bytes()));
    std::vector<std::byte> bytes;
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t end = std::min(begin + step, rows);
      bytes.resize((end - begin) * tensor.row_bytes());
      TANDEM_RETURN_IF_ERROR(tensor.CopyRows(begin, end, bytes.data()));
      TANDEM_RETURN_IF_ERROR(writer_.Append(name, bytes.data(), bytes.size()));
    }
    Advance(name);
    return absl::OkStatus();
  }

  // rows [n, columns] of a module into `out`, on all threads.
  absl::Status QuantizeParallel(const std::string& module, const float* rows, int64_t n,
                                int64_t columns, const kernels::QuantFormat& format,
                                const float* importance, QuantizedMatrix& out, int64_t first) {
    std::mutex mutex;
    absl::Status failed;
    job_.pool.ParallelFor(n, 16, [&](int, int64_t begin, int64_t end) {
      const absl::Status status =
          loader::QuantizeRows(rows + begin * columns, end - begin, columns, format, importance,
                               out.View(first + begin, columns), scale_method());
      if (status.ok()) return;
      const std::lock_guard lock(mutex);
      failed = status;
    });
    return Named(module, failed);
  }

  absl::Status QuantizeByItself(const QuantizedModule& module) {
    const std::string tensor = module.name + ".weight";
    // Zero points are packed along the rows, so they wait for all of them.
    std::vector<uint8_t> zeros;
    const int64_t step = std::max<int64_t>(1, kValuesAtATime / module.columns);
    std::vector<float> values;
    for (int64_t begin = 0; begin < module.rows; begin += step) {
      const int64_t rows = std::min(step, module.rows - begin);
      values.resize(rows * module.columns);
      TANDEM_RETURN_IF_ERROR(source_->ReadRows(tensor, begin, begin + rows, values.data()));
      QuantizedMatrix part(module.format, rows, module.columns);
      TANDEM_RETURN_IF_ERROR(QuantizeParallel(module.name, values.data(), rows, module.columns,
                                              module.format, nullptr, part, 0));
      TANDEM_RETURN_IF_ERROR(AppendCodes(module, part.codes.data(), rows, part.scales));
      zeros.insert(zeros.end(), part.zeros.begin(), part.zeros.end());
    }
    TANDEM_RETURN_IF_ERROR(AppendRest(module, zeros.data()));
    Advance(tensor);
    return absl::OkStatus();
  }

  absl::Status AppendCodes(const QuantizedModule& module, const int8_t* codes, int64_t rows,
                           std::span<const float> scales) {
    const std::vector<uint32_t> packed = PackCodes(codes, rows, module.columns, module.format.bits);
    TANDEM_RETURN_IF_ERROR(
        writer_.Append(module.name + ".weight_packed", packed.data(), packed.size() * 4));
    const std::vector<std::byte> stored = StoreScales(scales, module.format.scale_dtype);
    return writer_.Append(module.name + ".weight_scale", stored.data(), stored.size());
  }

  absl::Status AppendRest(const QuantizedModule& module, const uint8_t* zeros) {
    const int64_t shape[] = {module.rows, module.columns};
    TANDEM_RETURN_IF_ERROR(writer_.Append(module.name + ".weight_shape", shape, sizeof(shape)));
    if (!module.format.zero_points) return absl::OkStatus();
    const std::vector<uint32_t> packed = PackZeroPoints(
        zeros, module.rows, module.columns / module.format.group_size, module.format.bits);
    return writer_.Append(module.name + ".weight_zero_point", packed.data(), packed.size() * 4);
  }

  absl::Status Calibrate() {
    TANDEM_ASSIGN_OR_RETURN(
        const auto calibration,
        Calibration::Create(job_.config, *source_, job_.backend, job_.calibration));
    for (int64_t layer = 0; layer < job_.config.num_layers; ++layer) {
      TANDEM_RETURN_IF_ERROR(calibration->RunLayer(
          layer, [this](const CalibrationStage& stage) { return QuantizeStage(stage); }));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<kernels::LinearWeight>> QuantizeStage(
      const CalibrationStage& stage) {
    const int64_t columns = stage.columns;
    std::vector<const QuantizedModule*> modules;
    int64_t rows = 0;
    for (const std::string& name : stage.modules) {
      modules.push_back(job_.plan.Find(name));
      TANDEM_CHECK(modules.back() != nullptr);
      rows += modules.back()->rows;
    }
    const kernels::QuantFormat& format = modules[0]->format;
    std::vector<float> values(rows * columns);
    int64_t row = 0;
    for (const QuantizedModule* module : modules) {
      // Merged matrices share columns, so groups are alike; scale types may not be.
      TANDEM_CHECK(module->format.group_size == format.group_size);
      TANDEM_RETURN_IF_ERROR(
          source_->ReadRows(module->name + ".weight", 0, module->rows, &values[row * columns]));
      row += module->rows;
    }
    QuantizedMatrix quantized(format, rows, columns);
    std::unique_ptr<ErrorCompensation> compensation;
    std::vector<float> importance;
    if (job_.method == QuantizeMethod::kGptq) {
      InputProducts products(job_.backend, columns);
      TANDEM_RETURN_IF_ERROR(products.Add(stage.inputs, stage.tokens));
      TANDEM_ASSIGN_OR_RETURN(compensation,
                              ErrorCompensation::Create(job_.backend, job_.pool,
                                                        std::move(products.matrix()), columns));
    } else {
      importance = MeanSquares(stage);
    }
    row = 0;
    for (const QuantizedModule* module : modules) {
      const float* from = &values[row * columns];
      if (compensation != nullptr) {
        TANDEM_RETURN_IF_ERROR(
            Named(module->name, compensation->Quantize(from, module->rows, module->format,
                                                       quantized.View(row, columns))));
      } else {
        TANDEM_RETURN_IF_ERROR(QuantizeParallel(module->name, from, module->rows, columns,
                                                module->format, importance.data(), quantized, row));
      }
      const kernels::QuantizedRows view = quantized.View(row, columns);
      TANDEM_RETURN_IF_ERROR(AppendCodes(
          *module, view.codes, module->rows,
          std::span(view.scales, static_cast<size_t>(module->rows * quantized.groups))));
      TANDEM_RETURN_IF_ERROR(AppendRest(*module, view.zeros));
      Advance(module->name + ".weight");
      row += module->rows;
    }
    return Packed(quantized, format, rows, columns);
  }

  // The mean square of each column of the stage's inputs.
  static std::vector<float> MeanSquares(const CalibrationStage& stage) {
    std::vector<double> sums(stage.columns);
    for (int64_t t = 0; t < stage.tokens; ++t) {
      const float* x = stage.inputs + t * stage.columns;
      for (int64_t j = 0; j < stage.columns; ++j) sums[j] += double{x[j]} * double{x[j]};
    }
    std::vector<float> means(stage.columns);
    for (int64_t j = 0; j < stage.columns; ++j) {
      means[j] = static_cast<float>(sums[j] / static_cast<double>(stage.tokens));
    }
    return means;
  }

  // For the rest of the pass: the matrix as it will be served, activations
  // quantized on the fly too.
  absl::StatusOr<std::unique_ptr<kernels::LinearWeight>> Packed(const QuantizedMatrix& matrix,
                                                                const kernels::QuantFormat& format,
                                                                int64_t rows, int64_t columns) {
    const kernels::LinearSpec spec = {
        .quant = format,
        .rows = rows,
        .global_columns = columns,
        .leaf_size = parallel::kColumnLeafSize,
        .leaves = {0, (columns + parallel::kColumnLeafSize - 1) / parallel::kColumnLeafSize}};
    return job_.backend.PackQuantized(spec, [&](int64_t begin, int64_t end,
                                                kernels::QuantizedRows dst) {
      std::copy_n(&matrix.codes[begin * columns], (end - begin) * columns, dst.codes);
      std::copy_n(&matrix.scales[begin * matrix.groups], (end - begin) * matrix.groups, dst.scales);
      if (format.zero_points) {
        std::copy_n(&matrix.zeros[begin * matrix.groups], (end - begin) * matrix.groups, dst.zeros);
      }
      return absl::OkStatus();
    });
  }

  const QuantizeJob& job_;
  CheckpointWriter& writer_;
  std::unique_ptr<SourceWeights> source_;
  uint64_t done_ = 0;
};

}  // namespace

absl::Status QuantizeModel(const QuantizeJob& job, CheckpointWriter& writer) {
  TANDEM_CHECK(job.method != QuantizeMethod::kGptq || !job.calibration.empty());
  return ModelQuantizer(job, writer).Run();
}

}  // namespace tandem::quantize
