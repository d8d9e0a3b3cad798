#include "runtime/server/byte_buffer.h"

#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"
#include "grpcpp/support/slice.h"
#include "kernels/base/check.h"
#include "runtime/text/tokenizer/utf8.h"

namespace tandem::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownFieldSet;

// Our messages nest a few levels; a message that contains itself would be cut here.
constexpr int kMaxDepth = 32;

// Looks at wire bytes through the message's description, because the generated parser reports a
// bad string on stderr and does not say where it is.
absl::Status CheckStrings(const std::string& bytes, const Descriptor& type,
                          const std::string& prefix, int depth) {
  UnknownFieldSet fields;
  if (depth > kMaxDepth || !fields.ParseFromString(bytes)) {
    return absl::InvalidArgumentError(
        prefix.empty() ? std::string("the bytes are no protobuf message")
                       : absl::StrCat(prefix, ": the bytes are no protobuf message"));
  }
  for (int i = 0; i < fields.field_count(); ++i) {
    const auto& field = fields.field(i);
    if (field.type() != google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED) continue;
    const FieldDescriptor* described = type.FindFieldByNumber(field.number());
    if (described == nullptr) continue;  // of a newer client
    const std::string name =
        prefix.empty() ? described->name() : absl::StrCat(prefix, ".", described->name());
    if (described->type() == FieldDescriptor::TYPE_STRING) {
      const size_t bad = tokenizer::FindInvalidUtf8(field.length_delimited());
      if (bad != std::string_view::npos) {
        return absl::InvalidArgumentError(absl::StrCat(name, ": not UTF-8 from byte ", bad, " on"));
      }
    } else if (described->type() == FieldDescriptor::TYPE_MESSAGE) {
      const absl::Status status =
          CheckStrings(field.length_delimited(), *described->message_type(), name, depth + 1);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  std::string flat;
  std::vector<grpc::Slice> slices;
  if (bytes.Valid()) {
    if (!bytes.Dump(&slices).ok()) {
      return absl::InvalidArgumentError("the message cannot be decompressed");
    }
    flat.reserve(bytes.Length());
    for (const grpc::Slice& slice : slices) {
      flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  const Descriptor& type = *message->GetDescriptor();
  absl::Status status = CheckStrings(flat, type, "", 0);
  if (status.ok() && !message->ParseFromString(flat)) {
    status = absl::InvalidArgumentError("a field has another type on the wire");
  }
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("malformed ", type.full_name(), ": ", status.message()));
}

void SerializeMessage(const google::protobuf::Message& message, grpc::ByteBuffer* bytes) {
  grpc::Slice slice(message.ByteSizeLong());
  TANDEM_CHECK(message.SerializeToArray(const_cast<uint8_t*>(slice.begin()),
                                        static_cast<int>(slice.size())));
  *bytes = grpc::ByteBuffer(&slice, 1);
}

}  // namespace tandem::server
