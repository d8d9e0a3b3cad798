#include "launcher/world/slurm_job.h"

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tandem::launcher {

std::optional<int64_t> SlurmSecondsLeft(const std::string& text) {
  int64_t days = 0, seconds = 0;
  const std::vector<std::string> parts = absl::StrSplit(text, '-');
  if (parts.size() > 2) return std::nullopt;
  if (parts.size() == 2 && (!absl::SimpleAtoi(parts[0], &days) || days < 0)) return std::nullopt;
  const std::vector<std::string> clock = absl::StrSplit(parts.back(), ':');
  if (clock.size() < 2 || clock.size() > 3) return std::nullopt;
  for (const std::string& part : clock) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(part, &value) || value < 0) return std::nullopt;
    seconds = seconds * 60 + value;
  }
  return days * 86400 + seconds;
}

void LearnSlurmEnd() {
  constexpr char kEnd[] = "SLURM_JOB_END_TIME";
  const char* job = std::getenv("SLURM_JOB_ID");
  int64_t id = 0;
  if (std::getenv(kEnd) != nullptr || job == nullptr || !absl::SimpleAtoi(job, &id)) return;
  std::string answer;
  FILE* squeue = popen(absl::StrCat("timeout 10 squeue -h -o %L -j ", id, " 2>&1").c_str(), "r");
  if (squeue != nullptr) {
    char buffer[256];
    while (std::fgets(buffer, sizeof(buffer), squeue) != nullptr) answer += buffer;
    pclose(squeue);
  }
  answer = std::string(absl::StripAsciiWhitespace(answer));
  if (answer == "UNLIMITED") return;
  if (const std::optional<int64_t> left = SlurmSecondsLeft(answer)) {
    setenv(kEnd, absl::StrCat(std::time(nullptr) + *left).c_str(), 1);
    return;
  }
  std::fprintf(stderr,
               "tandem: squeue does not say when this Slurm job ends ('%s'); see --time-limit\n",
               answer.c_str());
}

}  // namespace tandem::launcher
