#include "runtime/server/byte_buffer.h"

#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/stubs/logging.h"
#include "google/protobuf/unknown_field_set.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/slice.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "runtime/server/wire_counts.h"

namespace tandem::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownFieldSet;

// Our messages nest a few levels; a message that contains itself would be cut here.
constexpr int kMaxDepth = 32;

// Why bytes are not a message of `type`: names the field where its strings are not UTF-8. OK where
// it finds no reason.
absl::Status FindFault(const std::string& bytes, const Descriptor& type, const std::string& prefix,
                       int depth) {
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
      const size_t bad = FindInvalidUtf8(field.length_delimited());
      if (bad != std::string_view::npos) {
        return absl::InvalidArgumentError(absl::StrCat(name, ": not UTF-8 from byte ", bad, " on"));
      }
    } else if (described->type() == FieldDescriptor::TYPE_MESSAGE) {
      const absl::Status status =
          FindFault(field.length_delimited(), *described->message_type(), name, depth + 1);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

// Takes the bytes of a message that did not parse apart, more slowly, to say why.
absl::Status Diagnose(const grpc::ByteBuffer& bytes, const Descriptor& type) {
  std::string flat;
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) {
    return absl::InvalidArgumentError("the message cannot be decompressed");
  }
  for (const grpc::Slice& slice : slices) {
    flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  absl::Status status = FindFault(flat, type, "", 0);
  if (status.ok()) status = absl::InvalidArgumentError("a field has another type on the wire");
  return absl::InvalidArgumentError(
      absl::StrCat("malformed ", type.full_name(), ": ", status.message()));
}

google::protobuf::LogHandler* default_log_handler = nullptr;

void LogAllButUtf8Errors(google::protobuf::LogLevel level, const char* file, int line,
                         const std::string& message) {
  if (default_log_handler != nullptr && message.find("invalid UTF-8") == std::string::npos) {
    default_log_handler(level, file, line, message);
  }
}

// The parser would log a line for each string that is not UTF-8. Clients send such strings, and the
// error that they get says more.
void SilenceUtf8Errors() {
  static const bool kDone = [] {
    default_log_handler = google::protobuf::SetLogHandler(&LogAllButUtf8Errors);
    return true;
  }();
  (void)kDone;
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  message->Clear();
  if (!bytes.Valid()) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(CheckCounts(CountFields(bytes, *message->GetDescriptor())));
  SilenceUtf8Errors();
  grpc::ByteBuffer buffer(bytes);  // shares the memory
  {
    grpc::ProtoBufferReader reader(&buffer);
    google::protobuf::io::CodedInputStream stream(&reader);
    stream.SetRecursionLimit(kMaxDepth);
    if (message->ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage() &&
        reader.status().ok()) {
      return absl::OkStatus();
    }
  }
  return Diagnose(bytes, *message->GetDescriptor());
}

void SerializeMessage(const google::protobuf::Message& message, grpc::ByteBuffer* bytes) {
  grpc::Slice slice(message.ByteSizeLong());
  TANDEM_CHECK(message.SerializeToArray(const_cast<uint8_t*>(slice.begin()),
                                        static_cast<int>(slice.size())));
  *bytes = grpc::ByteBuffer(&slice, 1);
}

}  // namespace tandem::server
