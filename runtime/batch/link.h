// What the two ends of the link between a coordinator and its replicas share: where the coordinator
// is, the token that lets a replica in, and limits. The link itself is a gRPC stream,
// proto/tandem/internal/v1/batch.proto. It is not encrypted, as MPI's messages are not.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::batch {

inline constexpr int kMaxLinkMessageBytes = 1 << 30;
// A host that does not acknowledge what was sent to it for so long is gone.
inline constexpr std::chrono::seconds kLinkHostTimeout{15};
// The call's metadata.
inline constexpr char kTokenKey[] = "tandem-token";
inline constexpr char kReplicaKey[] = "tandem-replica";

// How a replica reaches the coordinator. Reaches the replica through the environment or MPI, never
// on a command line: whoever has the token is let in.
struct CoordinatorAddress {
  std::string token;               // of the job, hexadecimal
  int port = 0;                    // TCP
  std::vector<std::string> hosts;  // numeric addresses of the coordinator's host, one of them works

  // One word, "TOKEN@PORT@HOST@HOST...".
  std::string ToString() const;
  // INVALID_ARGUMENT for another form; the message does not quote `text`.
  static absl::StatusOr<CoordinatorAddress> Parse(std::string_view text);
};

// 128 random bits, hexadecimal.
absl::StatusOr<std::string> MakeToken();
// In a time that depends on the lengths alone.
bool SameToken(std::string_view a, std::string_view b);

// Addresses by which other hosts may reach this one, IPv4 before IPv6. Empty: it has no network.
std::vector<std::string> OwnAddresses();

}  // namespace tandem::batch
