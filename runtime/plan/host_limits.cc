#include "runtime/plan/host_limits.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

namespace tandem::plan {
namespace {

// The values of the lines "Key:  123 kB" of these keys, added up, in bytes.
uint64_t KilobyteField(const std::string& path, const std::vector<std::string>& keys) {
  std::ifstream file(path);
  std::string line;
  uint64_t sum = 0;
  while (std::getline(file, line)) {
    for (const std::string& key : keys) {
      if (line.rfind(key, 0) == 0) sum += std::strtoull(line.c_str() + key.size(), nullptr, 10);
    }
  }
  return sum * 1024;
}

// The number in a file of one word; nullopt for "max" and anything else.
std::optional<uint64_t> NumberIn(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return std::nullopt;
  uint64_t value = 0;
  const auto result = std::from_chars(word.data(), word.data() + word.size(), value);
  if (result.ec != std::errc() || result.ptr != word.data() + word.size()) return std::nullopt;
  return value;
}

// Folders of this process's control group and its parents, innermost first: of version 2, or of
// this controller of version 1.
std::vector<std::string> GroupFolders(const std::string& root, const std::string& controller) {
  const std::string mounts = root + "/sys/fs/cgroup";
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  std::vector<std::string> folders;
  while (std::getline(file, line)) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    std::string mount;
    if (names.empty()) {
      mount = mounts;
    } else {
      std::stringstream list(names);
      std::string name;
      while (std::getline(list, name, ',')) {
        if (name == controller) mount = mounts + "/" + controller;
      }
      if (mount.empty()) continue;
    }
    std::string path = line.substr(second + 1);
    for (;;) {
      folders.push_back(mount + path);
      const size_t slash = path.find_last_of('/');
      if (path.empty() || slash == std::string::npos) break;
      path.resize(slash);
    }
  }
  return folders;
}

}  // namespace

uint64_t ResidentBytes() { return KilobyteField("/proc/self/status", {"RssAnon:", "RssShmem:"}); }

uint64_t ResidentBytes(int64_t pid) {
  return KilobyteField("/proc/" + std::to_string(pid) + "/status", {"RssAnon:", "RssShmem:"});
}

void PeakMemory::Sample() { peak_ = std::max(peak_, ResidentBytes()); }

uint64_t AvailableMemory(const std::string& root) {
  uint64_t available = KilobyteField(root + "/proc/meminfo", {"MemAvailable:"});
  for (const std::string& folder : GroupFolders(root, "memory")) {
    for (const auto& [limit_file, usage_file] :
         {std::pair("/memory.max", "/memory.current"),
          std::pair("/memory.limit_in_bytes", "/memory.usage_in_bytes")}) {
      const auto limit = NumberIn(folder + limit_file);
      const auto usage = NumberIn(folder + usage_file);
      if (!limit || !usage) continue;
      // Cached file pages count as used, but the kernel drops them when memory is needed.
      const uint64_t cache = KilobyteField(folder + "/memory.stat", {"inactive_file "}) / 1024;
      const uint64_t held = *usage > cache ? *usage - cache : 0;
      available = std::min(available, *limit > held ? *limit - held : 0);
    }
  }
  return available;
}

int AvailableCpus(const std::string& root) {
  cpu_set_t set;
  int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  for (const std::string& folder : GroupFolders(root, "cpu")) {
    std::ifstream file(folder + "/cpu.max");
    double quota = 0, period = 0;
    if (file >> quota >> period && period > 0) {
      cpus = std::min(cpus, static_cast<int>(std::max(1.0, quota / period)));
    }
    const auto old_quota = NumberIn(folder + "/cpu.cfs_quota_us");
    const auto old_period = NumberIn(folder + "/cpu.cfs_period_us");
    if (old_quota && old_period && *old_period > 0) {
      cpus = std::min(cpus, std::max(1, static_cast<int>(*old_quota / *old_period)));
    }
  }
  return std::max(1, cpus);
}

}  // namespace tandem::plan
