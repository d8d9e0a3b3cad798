// By cuBLASLt. What its heuristics choose for a shape is kept: asking takes tens of
// microseconds.
#include <cublasLt.h>

#include <array>
#include <map>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/matrix_product.h"

namespace tandem::kernels::cuda {
namespace {

constexpr size_t kWorkspaceBytes = kCudaProductBytes;

absl::Status Check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(call, ": ", cublasLtGetStatusString(status)));
}

// How one shape is computed. The library sees column-major matrices: w is [columns, rows],
// to be transposed, x [columns, tokens], y [rows, tokens].
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};

  Plan() = default;
  Plan(const Plan&) = delete;
  ~Plan() {
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
    for (cublasLtMatrixLayout_t layout : {w, x, y}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
  }
};

class CublasLtProduct : public MatrixProduct {
 public:
  explicit CublasLtProduct(cudaStream_t stream) : stream_(stream) {}
  ~CublasLtProduct() override {
    plans_.clear();
    if (handle_ != nullptr) cublasLtDestroy(handle_);
    cudaFree(workspace_);
  }

  absl::Status Create() {
    TANDEM_RETURN_IF_ERROR(Check(cublasLtCreate(&handle_), "cublasLtCreate"));
    if (cudaMalloc(&workspace_, kWorkspaceBytes) != cudaSuccess) {
      return absl::ResourceExhaustedError("the GPU has no memory for cuBLASLt's workspace");
    }
    return absl::OkStatus();
  }

  absl::Status Multiply(const ProductShape& shape, const void* w, const void* x,
                        float* y) override {
    const Key key = {shape, {AlignmentOf(w), AlignmentOf(x), AlignmentOf(y)}};
    std::unique_ptr<Plan>& plan = plans_[key];
    if (plan == nullptr) {
      TANDEM_ASSIGN_OR_RETURN(plan, MakePlan(key));
    }
    const float one = 1, zero = 0;
    return Check(
        cublasLtMatmul(handle_, plan->operation, &one, w, plan->w, x, plan->x, &zero, y, plan->y, y,
                       plan->y, &plan->algorithm, workspace_, kWorkspaceBytes, stream_),
        "cublasLtMatmul");
  }

 private:
  struct Key {
    ProductShape shape;
    std::array<uint32_t, 3> alignments;  // bytes, of w, x and y
    auto operator<=>(const Key&) const = default;
  };

  // Up to the 256 bytes that the library takes for granted unless told.
  static uint32_t AlignmentOf(const void* pointer) {
    const auto address = reinterpret_cast<uintptr_t>(pointer) | 256;
    return static_cast<uint32_t>(address & -address);
  }

  absl::StatusOr<std::unique_ptr<Plan>> MakePlan(const Key& key) const {
    const ProductShape& shape = key.shape;
    const cudaDataType_t type = shape.dtype == DType::kF32   ? CUDA_R_32F
                                : shape.dtype == DType::kF16 ? CUDA_R_16F
                                                             : CUDA_R_16BF;
    auto plan = std::make_unique<Plan>();
    TANDEM_RETURN_IF_ERROR(
        Check(cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
              "cublasLtMatmulDescCreate"));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    TANDEM_RETURN_IF_ERROR(
        Check(cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                             &transposed, sizeof(transposed)),
              "cublasLtMatmulDescSetAttribute"));
    TANDEM_RETURN_IF_ERROR(
        Check(cublasLtMatrixLayoutCreate(&plan->w, type, shape.columns, shape.rows, shape.w_stride),
              "cublasLtMatrixLayoutCreate"));
    TANDEM_RETURN_IF_ERROR(Check(
        cublasLtMatrixLayoutCreate(&plan->x, type, shape.columns, shape.tokens, shape.columns),
        "cublasLtMatrixLayoutCreate"));
    TANDEM_RETURN_IF_ERROR(Check(
        cublasLtMatrixLayoutCreate(&plan->y, CUDA_R_32F, shape.rows, shape.tokens, shape.y_stride),
        "cublasLtMatrixLayoutCreate"));
    cublasLtMatmulPreference_t preference = nullptr;
    TANDEM_RETURN_IF_ERROR(
        Check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate"));
    const size_t bytes = kWorkspaceBytes;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &bytes, sizeof(bytes));
    constexpr cublasLtMatmulPreferenceAttributes_t kAlignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 3; ++i) {
      cublasLtMatmulPreferenceSetAttribute(preference, kAlignments[i], &key.alignments[i],
                                           sizeof(uint32_t));
    }
    // It reads no C, but the pointer given for it is y.
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                         &key.alignments[2], sizeof(uint32_t));
    cublasLtMatmulHeuristicResult_t best = {};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, plan->operation, plan->w, plan->x, plan->y, plan->y, preference, 1, &best, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    TANDEM_RETURN_IF_ERROR(Check(status, "cublasLtMatmulAlgoGetHeuristic"));
    if (found == 0) {
      return absl::InternalError(absl::StrCat("cuBLASLt has no product of ", shape.rows, " by ",
                                              shape.columns, " with ", shape.tokens, " tokens"));
    }
    plan->algorithm = best.algo;
    return plan;
  }

  cudaStream_t stream_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixProduct>> MakeMatrixProduct(cudaStream_t stream) {
  auto product = std::make_unique<CublasLtProduct>(stream);
  TANDEM_RETURN_IF_ERROR(product->Create());
  return product;
}

}  // namespace tandem::kernels::cuda
