// ControlGroup::AllGatherBytes for values of a type. Collective: all ranks call it with the same
// type, in the same order as their other calls.
//
//   struct Place { int node; int cpus; };
//   TANDEM_ASSIGN_OR_RETURN(const std::vector<Place> places, AllGather(group, mine));
//
// Values travel as they lie in memory: all ranks are of the same build (the start checks that), and
// pointers mean nothing on another rank.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/control_group.h"

namespace tandem::parallel {

// Every rank's value, by rank. The errors of AllGatherBytes, and INTERNAL where a rank sends
// another number of bytes.
template <typename T>
absl::StatusOr<std::vector<T>> AllGather(ControlGroup& group, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &mine, sizeof(T));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all, group.AllGatherBytes(bytes));
  std::vector<T> values;
  values.reserve(all.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].size() != sizeof(T)) {
      return absl::InternalError(absl::StrCat("exchange between ranks: found ", all[rank].size(),
                                              " bytes from rank ", rank, ", expected ", sizeof(T)));
    }
    T value;
    std::memcpy(&value, all[rank].data(), sizeof(T));
    values.push_back(value);
  }
  return values;
}

// Strings of any length.
inline absl::StatusOr<std::vector<std::string>> AllGather(ControlGroup& group,
                                                          const std::string& mine) {
  return group.AllGatherBytes(mine);
}

// Every rank's values, by rank; ranks may have different numbers of them. INTERNAL where a rank
// sends a part of a value.
template <typename T>
absl::StatusOr<std::vector<std::vector<T>>> AllGatherVectors(ControlGroup& group,
                                                             std::span<const T> mine) {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
  static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no data()");
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          group.AllGatherBytes(std::string(
                              reinterpret_cast<const char*>(mine.data()), mine.size_bytes())));
  std::vector<std::vector<T>> values(all.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].size() % sizeof(T) != 0) {
      return absl::InternalError(absl::StrCat("exchange between ranks: found ", all[rank].size(),
                                              " bytes from rank ", rank,
                                              ", expected a multiple of ", sizeof(T)));
    }
    values[rank].resize(all[rank].size() / sizeof(T));
    if (!all[rank].empty()) std::memcpy(values[rank].data(), all[rank].data(), all[rank].size());
  }
  return values;
}

template <typename T>
absl::StatusOr<std::vector<std::vector<T>>> AllGatherVectors(ControlGroup& group,
                                                             const std::vector<T>& mine) {
  return AllGatherVectors(group, std::span<const T>(mine));
}

}  // namespace tandem::parallel
