#include "runtime/rank/roofline.h"

#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_probe.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/rank/outcome.h"

namespace tandem::rank {
namespace {

// Larger than any processor's caches, of all ranks of a host together.
constexpr size_t kProbeBytes = size_t{512} << 20;
// Of each of two buffers on a GPU: more than its caches hold.
constexpr size_t kGpuProbeBytes = size_t{256} << 20;
constexpr std::chrono::milliseconds kProbeTime{60};

// Columns of a rank's answer, added over the ranks.
template <size_t n>
absl::StatusOr<std::array<double, n>> Sum(parallel::ControlGroup& communicator,
                                          const std::array<double, n>& mine) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator.AllGatherBytes(std::string(
                              reinterpret_cast<const char*>(mine.data()), sizeof(mine))));
  std::array<double, n> sum{};
  for (const std::string& bytes : all) {
    std::array<double, n> theirs;
    std::memcpy(theirs.data(), bytes.data(), sizeof(theirs));
    for (size_t i = 0; i < n; ++i) sum[i] += theirs[i];
  }
  return sum;
}

// Whether all ranks are OK. A failed exchange is an error.
absl::StatusOr<bool> AllAgree(parallel::ControlGroup& communicator, const absl::Status& mine) {
  const absl::Status agreed = AgreeOnStatus(communicator, mine);
  if (ExchangeTimedOut(agreed)) return agreed;
  return agreed.ok();
}

}  // namespace

kernels::DotType DotTypeOf(const kernels::LinearSpec& spec) {
  if (spec.quant.has_value()) {
    // Floats of 8 bits are widened to multiply.
    return spec.quant->code_type == kernels::CodeType::kFloat8 ? kernels::DotType::kBf16
                                                               : kernels::DotType::kInt8;
  }
  return spec.dtype == kernels::DType::kBF16 ? kernels::DotType::kBf16 : kernels::DotType::kF32;
}

absl::StatusOr<std::unique_ptr<kernels::MachineProbe>> MakeProbe(const RankRuntime& runtime,
                                                                 const std::string& isa) {
  if (runtime.on_gpu()) return kernels::MakeCudaProbe(runtime.local_rank(), kGpuProbeBytes);
  return kernels::MakeMachineProbe(isa,
                                   {.threads = runtime.binding().threads,
                                    .cpus = runtime.binding().cpus,
                                    .spin = runtime.binding().own_cores},
                                   kProbeBytes / static_cast<size_t>(runtime.ranks_on_host()));
}

absl::StatusOr<plan::Ceilings> MeasureCeilings(RankRuntime& runtime, kernels::MachineProbe& probe) {
  parallel::ControlGroup& communicator = runtime.communicator();
  TANDEM_RETURN_IF_ERROR(communicator.Barrier());
  const double read = probe.ReadBandwidth(kProbeTime);
  TANDEM_RETURN_IF_ERROR(communicator.Barrier());
  const double peak = probe.PeakArithmetic(DotTypeOf(runtime.decoder().linear_spec()), kProbeTime);
  double stream = 0;
  if (runtime.layers() == model::LayersIn::kHost) {
    TANDEM_RETURN_IF_ERROR(communicator.Barrier());
    stream = probe.UploadBandwidth(kProbeTime);
  }
  using Triple = std::array<double, 3>;
  TANDEM_ASSIGN_OR_RETURN(const Triple sum, Sum<3>(communicator, {read, peak, stream}));
  return plan::Ceilings{.read = sum[0], .peak = sum[1], .stream = sum[2]};
}

absl::StatusOr<plan::ModelWork> WorkOf(RankRuntime& runtime) {
  model::Decoder& decoder = runtime.decoder();
  const model::DecoderBytes bytes = decoder.bytes();
  using Four = std::array<double, 4>;
  TANDEM_ASSIGN_OR_RETURN(const Four sum,
                          Sum<4>(runtime.communicator(),
                                 {static_cast<double>(bytes.read() - decoder.head_bytes()),
                                  static_cast<double>(decoder.head_bytes()),
                                  static_cast<double>(bytes.kv) /
                                      static_cast<double>(runtime.num_blocks() * model::kBlockSize),
                                  static_cast<double>(bytes.streamed)}));
  plan::ModelWork work = plan::OperationsOf(runtime.config());
  work.weights = sum[0];
  work.head = sum[1];
  work.kv_token = sum[2];
  work.streamed = sum[3];
  return work;
}

absl::StatusOr<double> SecondsAtCeilings(RankRuntime& runtime, const std::string& isa,
                                         const plan::CountingExecutor* done) {
  parallel::ControlGroup& communicator = runtime.communicator();
  // Nothing has planned the probe's memory: where it is scarce a job that is done is not to end so.
  absl::Status room;
  if (!runtime.on_gpu() && plan::AvailableMemory() < 2 * kProbeBytes) {
    room = absl::ResourceExhaustedError("memory for the probe");
  }
  TANDEM_ASSIGN_OR_RETURN(const bool has_room, AllAgree(communicator, room));
  if (!has_room) return 0.0;
  auto probe = MakeProbe(runtime, isa);
  TANDEM_ASSIGN_OR_RETURN(const bool has_probe, AllAgree(communicator, probe.status()));
  if (!has_probe) return 0.0;
  TANDEM_ASSIGN_OR_RETURN(const plan::Ceilings ceilings, MeasureCeilings(runtime, **probe));
  return done == nullptr ? 0.0 : done->SecondsAt(ceilings.read, ceilings.peak, ceilings.stream);
}

}  // namespace tandem::rank
