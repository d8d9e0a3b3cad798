#include "runtime/rank/build_id.h"

#include <elf.h>
#include <link.h>

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace tandem::rank {
namespace {

size_t AlignUp(size_t n) { return (n + 3) & ~size_t{3}; }

// Called for each loaded object; the program itself comes first.
int FindNote(dl_phdr_info* info, size_t, void* out) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const char* at = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    const char* end = at + segment.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof(note));
      const char* name = at + sizeof(note);
      const char* value = name + AlignUp(note.n_namesz);
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
          std::memcmp(name, "GNU", 4) == 0) {
        *static_cast<std::string*>(out) =
            absl::BytesToHexString(absl::string_view(value, note.n_descsz));
        return 1;
      }
      at = value + AlignUp(note.n_descsz);
    }
  }
  return 1;  // ends the iteration: only the program counts
}

}  // namespace

std::string BuildId() {
  std::string digest;
  dl_iterate_phdr(FindNote, &digest);
  return digest.empty() ? TANDEM_VERSION : absl::StrCat(TANDEM_VERSION, " ", digest);
}

}  // namespace tandem::rank
