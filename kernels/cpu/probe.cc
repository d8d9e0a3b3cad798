#include "kernels/cpu/probe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/probe_kernels.h"
#include "kernels/host_memory.h"

namespace tandem::kernels {
namespace {

using Clock = std::chrono::steady_clock;

class CpuProbe : public MachineProbe {
 public:
  CpuProbe(const cpu::InstructionSet& set, const CpuOptions& options, Buffer buffer)
      : pool_(options.threads, options.cpus, options.spin),
        buffer_(std::move(buffer)),
        kernels_(cpu::ProbeKernelsOf(set.target)) {
    if (set.dot.vnni) int8_ = cpu::ByteDotLoop();
    if (set.dot.bf16) bf16_ = cpu::Bf16DotLoop();
    f32_ = kernels_.fma;
    if (int8_.run == nullptr) int8_ = kernels_.widened_dot;
    if (bf16_.run == nullptr) bf16_ = f32_;
    // Every page becomes the process's own, of the thread that will read it.
    pool_.Run([&](int thread) {
      const ItemRange range = PartOf(thread);
      std::memset(buffer_.as<std::byte>() + range.begin, thread + 1, range.end - range.begin);
    });
  }

  double ReadBandwidth(std::chrono::milliseconds duration) override {
    return Rate(duration, [&](int thread) {
      const ItemRange range = PartOf(thread);
      Keep(kernels_.read(buffer_.as<std::byte>() + range.begin, range.end - range.begin));
      return static_cast<double>(range.end - range.begin);
    });
  }

  double PeakArithmetic(DotType type, std::chrono::milliseconds duration) override {
    const cpu::PeakLoop& loop = Loop(type);
    return Rate(duration, [&](int) {
      constexpr uint64_t kRounds = 1 << 17;  // a millisecond or less
      Keep(loop.run(kRounds));
      return loop.operations * kRounds;
    });
  }

  std::string DotInstruction(DotType type) const override { return Loop(type).name; }

 private:
  const cpu::PeakLoop& Loop(DotType type) const {
    return type == DotType::kInt8 ? int8_ : type == DotType::kBf16 ? bf16_ : f32_;
  }

  ItemRange PartOf(int thread) const {
    constexpr int64_t kUnit = 1024;  // of ReadLoop
    const ItemRange range =
        EvenRange(static_cast<int64_t>(buffer_.bytes()) / kUnit, thread, pool_.size());
    return {range.begin * kUnit, range.end * kUnit};
  }

  void Keep(uint64_t value) { kept_.fetch_xor(value, std::memory_order_relaxed); }

  // Work that `once` returns, of all threads, over the time that the slowest of them took.
  template <typename Once>
  double Rate(std::chrono::milliseconds duration, Once once) {
    std::vector<double> work(pool_.size());
    const Clock::time_point begin = Clock::now();
    pool_.Run([&](int thread) {
      double mine = 0;
      do {
        mine += once(thread);
      } while (Clock::now() - begin < duration);
      work[thread] = mine;
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    double sum = 0;
    for (const double mine : work) sum += mine;
    return sum / seconds;
  }

  ThreadPool pool_;
  Buffer buffer_;
  const cpu::ProbeKernels kernels_;
  cpu::PeakLoop int8_, bf16_, f32_;
  std::atomic<uint64_t> kept_{0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<MachineProbe>> MakeMachineProbe(const std::string& isa,
                                                               const CpuOptions& options,
                                                               size_t buffer_bytes) {
  // The scalar reference has no ceilings of its own: those of the CPU are measured.
  TANDEM_ASSIGN_OR_RETURN(const cpu::InstructionSet set,
                          cpu::FindInstructionSet(isa == "ref" ? "auto" : isa));
  TANDEM_ASSIGN_OR_RETURN(Buffer buffer, AllocateHost(buffer_bytes));
  return std::make_unique<CpuProbe>(set, options, std::move(buffer));
}

}  // namespace tandem::kernels
