// Options and results of decoder_bench.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "tests/bench/decoder_bench.h"

namespace tandem::bench {
namespace {

using Reader = std::function<absl::Status(const std::string& value)>;

absl::Status Wrong(std::string_view option, std::string_view found, std::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("--", std::string(option), ": found '",
                                                 std::string(found), "', expected ",
                                                 std::string(expected)));
}

absl::StatusOr<int64_t> Number(std::string_view option, std::string_view text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(absl::string_view(text.data(), text.size()), &value) || value < 0) {
    return Wrong(option, text, "a number, 0 or more");
  }
  return value;
}

absl::Status CheckNames(std::string_view option, const std::vector<std::string>& names,
                        const std::vector<std::string>& known) {
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return Wrong(option, name, absl::StrCat("some of ", absl::StrJoin(known, ",")));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BenchOptions> BenchOptions::Parse(int argc, char** argv) {
  BenchOptions options;
  std::map<std::string, Reader> readers;
  const auto text = [&](const std::string& name, std::string& out) {
    readers[name] = [&out](const std::string& value) {
      out = value;
      return absl::OkStatus();
    };
  };
  const auto number = [&](const std::string& name, auto& out) {
    readers[name] = [&out, name](const std::string& value) -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const int64_t parsed, Number(name, value));
      out = static_cast<std::remove_reference_t<decltype(out)>>(parsed);
      return absl::OkStatus();
    };
  };
  const auto list = [&](const std::string& name, std::vector<std::string>& out) {
    readers[name] = [&out](const std::string& value) {
      out = absl::StrSplit(value, ',', absl::SkipEmpty());
      return absl::OkStatus();
    };
  };
  // A pair, "32x8192".
  const auto pair = [&](const std::string& name, char between, auto& first, auto& second) {
    readers[name] = [&first, &second, name, between](const std::string& value) -> absl::Status {
      const std::vector<std::string> parts = absl::StrSplit(value, between);
      if (parts.size() != 2)
        return Wrong(name, value, absl::StrCat("A", std::string(1, between), "B"));
      TANDEM_ASSIGN_OR_RETURN(const int64_t a, Number(name, parts[0]));
      TANDEM_ASSIGN_OR_RETURN(const int64_t b, Number(name, parts[1]));
      first = static_cast<std::remove_reference_t<decltype(first)>>(a);
      second = static_cast<std::remove_reference_t<decltype(second)>>(b);
      return absl::OkStatus();
    };
  };
  int64_t one = 1;
  text("shape", options.shape);
  number("layers", options.layers);
  text("folder", options.folder);
  text("device", options.device);
  number("threads", options.threads);
  list("formats", options.formats);
  text("kv-dtype", options.kv_dtype);
  number("tp", options.tp);
  pair("shard", '/', one, options.shard);
  text("way", options.way);
  list("modes", options.modes);
  list("what", options.what);
  readers["batches"] = [&](const std::string& value) -> absl::Status {
    options.batches.clear();
    const std::vector<std::string> parts = absl::StrSplit(value, ',');
    for (const std::string& part : parts) {
      TANDEM_ASSIGN_OR_RETURN(const int64_t batch, Number("batches", part));
      options.batches.push_back(batch);
    }
    return absl::OkStatus();
  };
  number("context", options.context);
  number("prefill", options.prefill);
  number("chunk", options.chunk);
  pair("attention", 'x', options.attention_batch, options.attention_context);
  number("repeats", options.repeats);
  number("steps", options.steps);
  number("probe-bytes", options.probe_bytes);
  number("scratch-bytes", options.scratch_bytes);
  text("json", options.json);

  for (int i = 1; i < argc; i += 2) {
    const std::string_view name(argv[i]);
    const auto reader =
        name.starts_with("--") ? readers.find(std::string(name.substr(2))) : readers.end();
    if (reader == readers.end() || i + 1 == argc) {
      return absl::InvalidArgumentError(absl::StrCat(
          "found '", std::string(name), "', expected pairs of an option and its value: ",
          absl::StrJoin(readers, " ", [](std::string* out, const auto& entry) {
            absl::StrAppend(out, "--", entry.first);
          })));
    }
    TANDEM_RETURN_IF_ERROR(reader->second(argv[i + 1]));
  }
  if (one != 1) return Wrong("shard", absl::StrCat(one), "1/N: the first rank's share");
  TANDEM_RETURN_IF_ERROR(CheckNames("device", {options.device}, {"cpu", "cuda"}));
  TANDEM_RETURN_IF_ERROR(CheckNames("modes", options.modes, {"graphs", "issued", "deterministic", "streamed"}));
  TANDEM_RETURN_IF_ERROR(
      CheckNames("what", options.what, {"machine", "attention", "load", "decode", "prefill"}));
  TANDEM_RETURN_IF_ERROR(ParseKvDType(options.kv_dtype).status());
  const bool empty = std::min({options.tp, options.threads, options.repeats, options.steps}) < 1 ||
                     options.batches.empty() ||
                     *std::min_element(options.batches.begin(), options.batches.end()) < 1 ||
                     std::min({options.context, options.prefill, options.chunk,
                               options.attention_batch, options.attention_context}) < 1;
  if (empty) return absl::InvalidArgumentError("found a 0, expected numbers above");
  // The host's operations are the same in every mode.
  if (options.device == "cpu") options.modes = {"issued"};
  return options;
}

bool BenchOptions::Wants(std::string_view part) const {
  return std::find(what.begin(), what.end(), part) != what.end();
}

absl::StatusOr<kernels::KvDType> ParseKvDType(std::string_view name) {
  using kernels::KvDType;
  if (name == "fp32") return KvDType::kF32;
  if (name == "fp16") return KvDType::kF16;
  if (name == "bf16") return KvDType::kBF16;
  if (name == "int8") return KvDType::kI8;
  return Wrong("kv-dtype", name, "fp32, fp16, bf16 or int8");
}

Samples Samples::Of(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const size_t n = seconds.size();
  return {.median = (seconds[(n - 1) / 2] + seconds[n / 2]) / 2,
          .min = seconds.front(),
          .max = seconds.back()};
}

Json Samples::Microseconds() const {
  return {{"median", median * 1e6}, {"min", min * 1e6}, {"max", max * 1e6}};
}

Ceilings Ceilings::Measure(kernels::MachineProbe& probe, kernels::DotType type) {
  const std::chrono::milliseconds duration(200);
  return {.copy = probe.ReadBandwidth(duration),
          .upload = probe.UploadBandwidth(duration),
          .peak = probe.PeakArithmetic(type, duration)};
}

Report::Report(const BenchOptions& options) {
  common_ = {{"shape", options.shape}, {"device", options.device}};
  if (!options.json.empty()) file_.open(options.json, std::ios::app);
}

void Report::Add(std::string_view what, const Json& record, std::string_view line) {
  Json whole = {{"what", std::string(what)}};
  whole.update(common_);
  whole.update(record);
  if (file_.is_open()) file_ << whole.dump() << std::endl;
  std::printf("%-10s %.*s\n", std::string(what).c_str(), static_cast<int>(line.size()),
              line.data());
  std::fflush(stdout);
}

}  // namespace tandem::bench
