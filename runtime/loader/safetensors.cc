#include "runtime/loader/safetensors.h"

#include <xxhash.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/json.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;
using kernels::DType;

// The root object, a tensor's object, its shape; and one to spare for
// __metadata__ values that are refused with a better message.
constexpr int kMaxDepth = 4;
constexpr size_t kMaxDimensions = 8;

struct StoredType {
  std::string_view name;
  uint64_t bits;
  std::optional<DType> dtype;
};
// All types of the format, as of safetensors 0.7.
constexpr StoredType kStoredTypes[] = {
    {"F32", 32, DType::kF32},         {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},       {"BOOL", 8, std::nullopt},
    {"U8", 8, std::nullopt},          {"I8", 8, std::nullopt},
    {"U16", 16, std::nullopt},        {"I16", 16, std::nullopt},
    {"U32", 32, std::nullopt},        {"I32", 32, std::nullopt},
    {"U64", 64, std::nullopt},        {"I64", 64, std::nullopt},
    {"F64", 64, std::nullopt},        {"C64", 64, std::nullopt},
    {"F8_E4M3", 8, std::nullopt},     {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},     {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt}, {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},     {"F4", 4, std::nullopt},
};

const StoredType* FindType(std::string_view name) {
  for (const StoredType& type : kStoredTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

// A whole number >= 0 that was written as one: 4.0 is not, as in the
// reference implementation.
std::optional<uint64_t> AsCount(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t count = value.get<uint64_t>();
  if (count > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return count;
}

absl::Status Bad(const std::string& path, std::string_view tensor, std::string_view field,
                 const std::string& rest) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": tensor ", json::Quoted(tensor), std::string(field), ": ", rest));
}

// `data_begin` is where the tensors' bytes start in the file.
absl::StatusOr<TensorInfo> ParseTensor(const std::string& path, const std::string& name,
                                       const Json& entry, uint64_t data_begin,
                                       uint64_t data_bytes) {
  if (!entry.is_object()) {
    return Bad(path, name, "", absl::StrCat("found ", json::Shown(entry), ", expected an object"));
  }
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || shape == entry.end() || offsets == entry.end() || entry.size() != 3) {
    return Bad(
        path, name, "",
        absl::StrCat("found ", json::Shown(entry), ", expected dtype, shape and data_offsets"));
  }
  TensorInfo info;
  info.name = name;
  const StoredType* type =
      dtype->is_string() ? FindType(dtype->get_ref<const std::string&>()) : nullptr;
  if (type == nullptr) {
    return Bad(path, name, " dtype",
               absl::StrCat("found ", json::Shown(*dtype), ", expected a type such as \"BF16\""));
  }
  info.stored_type = std::string(type->name);
  info.dtype = type->dtype;

  if (!shape->is_array() || shape->size() > kMaxDimensions) {
    return Bad(path, name, " shape",
               absl::StrCat("found ", json::Shown(*shape), ", expected a list of at most ",
                            kMaxDimensions, " lengths"));
  }
  uint64_t bits = type->bits;
  bool overflow = false;
  for (const Json& length : *shape) {
    const std::optional<uint64_t> count = AsCount(length);
    if (!count) {
      return Bad(path, name, " shape",
                 absl::StrCat("found ", json::Shown(length), ", expected an integer from 0"));
    }
    overflow = __builtin_mul_overflow(bits, *count, &bits) || overflow;
    info.shape.push_back(static_cast<int64_t>(*count));
  }

  std::optional<uint64_t> begin, end;
  if (offsets->is_array() && offsets->size() == 2) {
    begin = AsCount((*offsets)[0]);
    end = AsCount((*offsets)[1]);
  }
  if (!begin || !end || *begin > *end) {
    return Bad(path, name, " data_offsets",
               absl::StrCat("found ", json::Shown(*offsets), ", expected [begin, end]"));
  }
  if (*end > data_bytes) {
    return absl::DataLossError(
        absl::StrCat(path, ": tensor ", json::Quoted(name), " data_offsets: found an end of ", *end,
                     ", expected at most the ", data_bytes,
                     " bytes of data in the file; it is cut short, download it again"));
  }
  if (overflow || bits % 8 != 0 || bits / 8 != *end - *begin) {
    return Bad(path, name, " data_offsets",
               absl::StrCat("found ", *end - *begin, " bytes, expected ",
                            overflow ? "more than 2^64 bits" : absl::StrCat(bits, " bits"), " for ",
                            info.stored_type, " ", ShapeString(info.shape)));
  }
  info.offset = data_begin + *begin;
  info.bytes = *end - *begin;
  return info;
}

absl::Status ParseMetadata(const std::string& path, const Json& entry,
                           std::map<std::string, std::string>& metadata) {
  bool good = entry.is_object();
  for (auto it = entry.begin(); good && it != entry.end(); ++it) {
    good = it->is_string();
    if (good) metadata.emplace(it.key(), it->get<std::string>());
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": __metadata__: found ", json::Shown(entry),
                                                 ", expected an object of strings"));
}

// Every byte of data belongs to exactly one tensor.
absl::Status CheckLayout(const std::string& path, std::vector<TensorInfo>& tensors,
                         uint64_t data_begin, uint64_t file_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  uint64_t expected = data_begin;
  for (const TensorInfo& info : tensors) {
    if (info.offset != expected) {
      return Bad(path, info.name, " data_offsets",
                 absl::StrCat("found a start of ", info.offset - data_begin, ", expected ",
                              expected - data_begin, ": tensors ",
                              info.offset < expected ? "overlap" : "leave a hole"));
    }
    expected += info.bytes;
  }
  if (expected != file_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": size: found ", file_bytes, " bytes, expected ", expected,
        " by the header's last tensor; the file has something appended, download it again"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ShapeString(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(InputFile mapped, InputFile::Open(path));
  SafetensorsFile file(std::move(mapped));
  const uint64_t size = file.file_.size();
  constexpr uint64_t kLengthBytes = 8;
  if (size < kLengthBytes) {
    return absl::DataLossError(absl::StrCat(
        path, ": size: found ", size, " bytes, expected a header length of 8; download it again"));
  }
  uint8_t length_bytes[kLengthBytes];
  TANDEM_RETURN_IF_ERROR(file.file_.Read(0, kLengthBytes, length_bytes));
  // What git leaves in place of a large file is the usual reason for nonsense.
  if (std::string_view(reinterpret_cast<const char*>(length_bytes), kLengthBytes) == "version ") {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": header: found a Git LFS pointer, expected the file itself; run git lfs pull"));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(length_bytes[i]) << (8 * i);
  }
  if (length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": header length: found ", length, ", expected at most ",
                     kMaxHeaderBytes, "; this is no safetensors file, or a damaged one"));
  }
  if (length > size - kLengthBytes) {
    return absl::DataLossError(absl::StrCat(
        path, ": header length: found ", length, ", expected at most the ", size - kLengthBytes,
        " bytes that follow; the file is cut short, download it again"));
  }
  file.header_bytes_ = kLengthBytes + length;
  std::string header(file.header_bytes_, '\0');
  TANDEM_RETURN_IF_ERROR(file.file_.Read(0, header.size(), header.data()));
  file.header_digest_ = XXH3_64bits(header.data(), header.size());

  const std::string_view text = std::string_view(header).substr(kLengthBytes);
  if (text.empty() || text.front() != '{') {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": header: found ", text.empty() ? "nothing" : json::Quoted(text.substr(0, 8)),
        ", expected '{'; this is no safetensors file, or a damaged one"));
  }
  TANDEM_ASSIGN_OR_RETURN(const Json root, json::Parse(text, path, kMaxDepth));
  for (auto it = root.begin(); it != root.end(); ++it) {
    if (it.key() == "__metadata__") {
      TANDEM_RETURN_IF_ERROR(ParseMetadata(path, *it, file.metadata_));
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(TensorInfo info, ParseTensor(path, it.key(), *it, file.header_bytes_,
                                                         size - file.header_bytes_));
    file.tensors_.push_back(std::move(info));
  }
  TANDEM_RETURN_IF_ERROR(CheckLayout(path, file.tensors_, file.header_bytes_, size));
  return file;
}

}  // namespace tandem::loader
