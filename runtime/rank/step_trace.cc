#include "runtime/rank/step_trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "parallel/clock_offset.h"
#include "runtime/rank/exit_code.h"

namespace tandem::rank {
namespace {

using parallel::StepPart;
using Slice = parallel::StepTimer::Slice;

// 6 MiB a rank: some 900 steps of 32 layers.
constexpr size_t kMaxSlices = 1 << 18;

std::string HostName() {
  char name[256] = "";
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown host";
  return name;
}

absl::Status CannotWrite(const std::string& file) {
  return absl::InvalidArgumentError(absl::StrCat("--trace ", file, ": cannot be written"));
}

// The format wants microseconds; the nanoseconds stand behind the point.
std::string Microseconds(int64_t ns) { return absl::StrFormat("%d.%03d", ns / 1000, ns % 1000); }

void WriteSlice(std::ostream& out, size_t rank, std::string_view name, int64_t begin_ns,
                int64_t duration_ns, uint32_t step) {
  out << absl::StrFormat(
      ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":0,\"name\":\"%s\",\"ts\":%s,\"dur\":%s,"
      "\"args\":{\"step\":%d}}",
      rank, name, Microseconds(begin_ns), Microseconds(duration_ns), step);
}

}  // namespace

void WriteTraceJson(std::span<const RankTrace> traces, std::ostream& out) {
  int64_t origin = std::numeric_limits<int64_t>::max();
  for (const RankTrace& trace : traces) {
    for (const Slice& slice : trace.slices) {
      origin = std::min(origin, slice.begin_ns - trace.clock_offset_ns);
    }
  }
  out << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (size_t rank = 0; rank < traces.size(); ++rank) {
    const std::string name = absl::StrCat("rank ", rank, " on ", traces[rank].host);
    const nlohmann::ordered_json process = {{"ph", "M"},
                                            {"pid", rank},
                                            {"tid", 0},
                                            {"name", "process_name"},
                                            {"args", {{"name", name}}}};
    const nlohmann::ordered_json order = {{"ph", "M"},
                                          {"pid", rank},
                                          {"tid", 0},
                                          {"name", "process_sort_index"},
                                          {"args", {{"sort_index", rank}}}};
    if (rank > 0) out << ",\n";
    out << process.dump() << ",\n" << order.dump();
  }
  for (size_t rank = 0; rank < traces.size(); ++rank) {
    const RankTrace& trace = traces[rank];
    const int64_t shift = origin + trace.clock_offset_ns;
    // A step lasts from its first part to its last. A slice must come before the slices inside it.
    struct Extent {
      int64_t begin, end;
    };
    std::map<uint32_t, Extent> steps;
    for (const Slice& slice : trace.slices) {
      if (slice.part == StepPart::kIdle) continue;
      const int64_t end = slice.begin_ns + slice.duration_ns;
      const auto [at, added] = steps.try_emplace(slice.step, Extent{slice.begin_ns, end});
      if (!added) at->second.end = end;
    }
    for (const auto& [step, extent] : steps) {
      WriteSlice(out, rank, absl::StrCat("step ", step), extent.begin - shift,
                 extent.end - extent.begin, step);
    }
    for (const Slice& slice : trace.slices) {
      WriteSlice(out, rank, parallel::StepPartName(slice.part), slice.begin_ns - shift,
                 slice.duration_ns, slice.step);
    }
  }
  out << "\n]}\n";
}

StepTrace::StepTrace(const std::string& file) : file_(file), timer_(kMaxSlices) {}

absl::StatusOr<std::unique_ptr<StepTrace>> StepTrace::Start(parallel::ControlGroup& group,
                                                            const std::string& file) {
  std::unique_ptr<StepTrace> trace(new StepTrace(file));
  absl::Status writable;
  if (group.rank() == 0) {
    // A new file is readable for its owner alone.
    const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) writable = CannotWrite(file);
    if (fd >= 0) close(fd);
  }
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(group, writable));
  TANDEM_ASSIGN_OR_RETURN(trace->clock_offsets_, parallel::MeasureClockOffsets(group));
  return trace;
}

absl::Status StepTrace::Write(parallel::ControlGroup& group) {
  const std::vector<Slice> slices = timer_.Slices();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, group.AllGatherBytes(HostName()));
  TANDEM_ASSIGN_OR_RETURN(std::vector<std::vector<Slice>> all,
                          parallel::AllGatherVectors(group, slices));
  if (group.rank() != 0) return absl::OkStatus();
  std::vector<RankTrace> traces(all.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    traces[rank].host = hosts[rank];
    traces[rank].clock_offset_ns = clock_offsets_[rank];
    traces[rank].slices = std::move(all[rank]);
  }
  std::ofstream out(file_, std::ios::trunc);
  if (!out) return OutputError(absl::StrCat("--trace ", file_, ": cannot be written"));
  WriteTraceJson(traces, out);
  if (!out.flush()) return OutputError(absl::StrCat("--trace ", file_, ": writing failed"));
  return absl::OkStatus();
}

}  // namespace tandem::rank
