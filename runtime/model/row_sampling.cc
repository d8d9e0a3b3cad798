#include "runtime/model/row_sampling.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::model {

using kernels::RowSurvey;
using kernels::SampleKind;

namespace {

// Candidates of all ranks together; the frequent tokens may all lie with one, so each lists
// kLeastList. More would rarely spare a row's gather, and cost one of as many words always.
constexpr int32_t kAllLists = 512;
constexpr int32_t kLeastList = 128;
static_assert(kAllLists <= kernels::kMaxListSize);

size_t ResultBytes(int64_t rows, int64_t lists, int64_t list_size) {
  return rows * sizeof(RowSurvey) + lists * list_size * sizeof(uint64_t);
}

// Where each array begins.
struct Places {
  size_t results, range_sums, share, shared, end;
  Places(const parallel::ShardPlan& plan, int64_t max_rows) {
    const auto aligned = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
    const size_t exchanged =
        plan.tp == 1 ? 0 : aligned(plan.tp * max_rows * kernels::kWordFloats * sizeof(float));
    results = aligned(max_rows * sizeof(kernels::SampleRequest));
    range_sums = results + aligned(ResultBytes(max_rows, max_rows, RowSampling::ListSize(plan)));
    share = range_sums + aligned(max_rows * kernels::kSampleRanges * sizeof(uint64_t));
    shared = share + exchanged;
    end = shared + exchanged;
  }
};

}  // namespace

int32_t RowSampling::ListSize(const parallel::ShardPlan& plan) {
  const int64_t widest = *std::max_element(plan.vocab_widths.begin(), plan.vocab_widths.end());
  return static_cast<int32_t>(std::min<int64_t>(widest, std::max(kAllLists / plan.tp, kLeastList)));
}

SamplingTraffic RowSampling::Traffic(const parallel::ShardPlan& plan, int64_t max_rows) {
  return {.reduced = plan.tp == 1 ? 0 : plan.tp * max_rows * kernels::kWordFloats,
          .gathered = static_cast<int64_t>(ResultBytes(max_rows, max_rows, ListSize(plan)) /
                                           sizeof(float))};
}

size_t RowSampling::Bytes(const parallel::ShardPlan& plan, int64_t max_rows) {
  return Places(plan, max_rows).end;
}

RowSampling::RowSampling(kernels::Backend& backend, parallel::Communicator& communicator,
                         const parallel::ShardPlan& plan, int64_t max_rows, void* memory)
    : backend_(backend),
      communicator_(communicator),
      plan_(plan),
      sum_(communicator.PlanReduce(parallel::TreeLayout::OfRanks(plan.tp))),
      max_rows_(max_rows),
      list_size_(ListSize(plan)) {
  const Places places(plan, max_rows);
  auto* const base = static_cast<std::byte*>(memory);
  device_requests_ = reinterpret_cast<kernels::SampleRequest*>(base);
  device_results_ = base + places.results;
  range_sums_ = reinterpret_cast<uint64_t*>(base + places.range_sums);
  share_ = reinterpret_cast<float*>(base + places.share);
  shared_ = reinterpret_cast<float*>(base + places.shared);
  requests_.reserve(max_rows);
  of_row_.resize(plan.tp);
  if (communicator.rank() == 0) {
    results_.resize(plan.tp * ResultBytes(max_rows, max_rows, list_size_));
  }
}

absl::Status RowSampling::Survey(std::span<const kernels::SampleRequest> requests,
                                 const float* logits) {
  const auto rows = static_cast<int64_t>(requests.size());
  TANDEM_CHECK(rows <= max_rows_);
  requests_.assign(requests.begin(), requests.end());
  int32_t lists = 0;
  bool any = false, survey = false, draw = false;
  for (kernels::SampleRequest& request : requests_) {
    const SampleKind kind = request.kind;
    const bool has_list = kind == SampleKind::kCandidates || kind == SampleKind::kNucleus;
    request.list = has_list ? lists++ : -1;
    any |= kind != SampleKind::kWhole;
    survey |= has_list || kind == SampleKind::kDraw;
    draw |= kind == SampleKind::kDraw;
  }
  if (!any) return absl::OkStatus();

  backend_.CopyFromHost(device_requests_, requests_.data(), rows * sizeof(kernels::SampleRequest));
  const kernels::SamplingOps& ops = *backend_.sampling();
  const parallel::Range columns = plan_.ranks[communicator_.rank()].vocab;
  const kernels::SamplingArgs args = {
      .rows = rows,
      .width = columns.size(),
      .first_id = static_cast<int32_t>(columns.begin),
      .logits = logits,
      .requests = device_requests_,
      .list_size = list_size_,
      .surveys = reinterpret_cast<RowSurvey*>(device_results_),
      .lists = reinterpret_cast<uint64_t*>(device_results_ + rows * sizeof(RowSurvey)),
      .range_sums = range_sums_,
      .rank = communicator_.rank(),
      .ranks = plan_.tp,
      .sent = share_,
      .received = shared_};
  const auto exchange = [&]() -> absl::Status {
    if (plan_.tp == 1) return absl::OkStatus();
    return communicator_.AllReduce(sum_, share_, plan_.tp * rows * kernels::kWordFloats, shared_);
  };
  ops.FindLargest(args);
  if (survey) {
    TANDEM_RETURN_IF_ERROR(exchange());
    ops.Survey(args);
  }
  if (draw) {
    TANDEM_RETURN_IF_ERROR(exchange());
    ops.Draw(args);
  }
  widths_.assign(plan_.tp,
                 static_cast<int64_t>(ResultBytes(rows, lists, list_size_) / sizeof(float)));
  return communicator_.GatherColumns(reinterpret_cast<const float*>(device_results_), 1, widths_,
                                     reinterpret_cast<float*>(results_.data()));
}

std::span<const kernels::RankSurvey> RowSampling::Of(int64_t row) {
  const int32_t list = requests_[row].list;
  for (int r = 0; r < plan_.tp; ++r) {
    const std::byte* const results = results_.data() + r * widths_[r] * sizeof(float);
    const auto* const surveys = reinterpret_cast<const RowSurvey*>(results);
    of_row_[r] = {&surveys[row], {}};
    if (list < 0) continue;
    const auto* const lists =
        reinterpret_cast<const uint64_t*>(results + requests_.size() * sizeof(RowSurvey));
    of_row_[r].candidates = {lists + int64_t{list} * list_size_,
                             static_cast<size_t>(surveys[row].candidates)};
  }
  return of_row_;
}

}  // namespace tandem::model
