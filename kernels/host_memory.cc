#include "kernels/host_memory.h"

#include <sys/mman.h>

#include "absl/strings/str_cat.h"

namespace tandem::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

void Unmap(void* data, size_t bytes) { munmap(data, bytes); }

}  // namespace

absl::StatusOr<Buffer> AllocateHost(size_t bytes, Pages pages) {
  if (bytes == 0) return Buffer();
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("out of memory: the system refused ", bytes, " bytes"));
  }
  // The system may ignore this.
  if (bytes >= kHugePage) {
    madvise(data, bytes, pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }
  return Buffer(data, bytes, &Unmap);
}

}  // namespace tandem::kernels
