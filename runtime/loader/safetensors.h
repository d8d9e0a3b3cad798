// One safetensors file: 8 bytes of header length (little endian), a JSON
// header, then the tensors' bytes without gaps.
// Format: https://github.com/huggingface/safetensors#format
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "runtime/loader/input_file.h"

namespace tandem::loader {

// A tensor as its file's header describes it. Row-major.
struct TensorInfo {
  std::string name;
  std::string stored_type;              // as the file spells it: "BF16", "I64", "F8_E4M3"
  std::optional<kernels::DType> dtype;  // absent: a known type that cannot be loaded
  std::vector<int64_t> shape;           // [out, in] of a linear layer; empty: a scalar
  uint64_t offset = 0;                  // bytes, from the start of the file
  uint64_t bytes = 0;
  size_t file = 0;  // index into Checkpoint::files(); 0 in a lone file
};

// The longest header accepted, as in the reference implementation.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;

class SafetensorsFile {
 public:
  // Checks the header in full, and reads no tensor. Refused: a length beyond
  // the file or kMaxHeaderBytes (before anything is allocated), JSON that is
  // broken, nested or has duplicate keys, unknown element types, shapes whose
  // size overflows or differs from the offsets, and offsets that overlap, leave
  // holes, or do not end where the file does. Known types other than F32, F16
  // and BF16 open well: only loading such a tensor fails.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const InputFile& file() const { return file_; }
  uint64_t header_bytes() const { return header_bytes_; }    // with the 8 of its length
  uint64_t header_digest() const { return header_digest_; }  // XXH3 of those bytes

 private:
  explicit SafetensorsFile(InputFile file) : file_(std::move(file)) {}
  InputFile file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  uint64_t header_bytes_ = 0;
  uint64_t header_digest_ = 0;
};

// "[4096, 14336]"
std::string ShapeString(const std::vector<int64_t>& shape);

}  // namespace tandem::loader
