#include "runtime/batch/link.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <sys/random.h>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace tandem::batch {

std::string CoordinatorAddress::ToString() const {
  return absl::StrCat(token, "@", port, "@", absl::StrJoin(hosts, "@"));
}

absl::StatusOr<CoordinatorAddress> CoordinatorAddress::Parse(std::string_view text) {
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), '@');
  CoordinatorAddress address;
  if (parts.size() < 3 || parts[0].empty() || !absl::SimpleAtoi(parts[1], &address.port)) {
    return absl::InvalidArgumentError(absl::StrCat("address of the batch job's coordinator: found ",
                                                   parts.size(),
                                                   " parts, expected TOKEN@PORT@HOST"));
  }
  address.token = parts[0];
  address.hosts.assign(parts.begin() + 2, parts.end());
  return address;
}

absl::StatusOr<std::string> MakeToken() {
  char random[16];
  if (getrandom(random, sizeof(random), 0) != sizeof(random)) {
    return absl::InternalError("the kernel has no random numbers");
  }
  return absl::BytesToHexString(absl::string_view(random, sizeof(random)));
}

bool SameToken(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::vector<std::string> OwnAddresses() {
  std::vector<std::string> four, six;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return four;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0 ||
        (one->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    char text[INET6_ADDRSTRLEN];
    if (one->ifa_addr->sa_family == AF_INET) {
      const auto* address = reinterpret_cast<const sockaddr_in*>(one->ifa_addr);
      if (inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text)) != nullptr) {
        four.emplace_back(text);
      }
    } else if (one->ifa_addr->sa_family == AF_INET6) {
      const auto* address = reinterpret_cast<const sockaddr_in6*>(one->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr)) continue;  // valid on one network only
      if (inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text)) != nullptr) {
        six.emplace_back(text);
      }
    }
  }
  freeifaddrs(all);
  four.insert(four.end(), six.begin(), six.end());
  return four;
}

}  // namespace tandem::batch
