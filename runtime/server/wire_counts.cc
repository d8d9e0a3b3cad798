#include "runtime/server/wire_counts.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/struct.pb.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "runtime/engine/field_error.h"
#include "runtime/text/chat/chat_inputs.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// As in byte_buffer.cc: what is nested deeper does not parse.
constexpr int kMaxDepth = 32;
// Fields that a request has before its prompt, with room for those of newer clients.
constexpr int kMaxPeekedFields = 16;

class Counter {
 public:
  explicit Counter(WireCounts* counts) : counts_(*counts) {}

  // False where the bytes are not such a message.
  bool Walk(CodedInputStream& stream, const Descriptor& type, int depth) {
    if (depth > kMaxDepth) return false;
    int groups = 0;  // open ones, which no message of ours has
    while (const uint32_t tag = stream.ReadTag()) {
      const auto wire = WireFormatLite::GetTagWireType(tag);
      const FieldDescriptor* field =
          groups > 0 ? nullptr : type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
      if (wire == WireFormatLite::WIRETYPE_END_GROUP) {
        if (--groups < 0) return false;
      } else if (field == nullptr || !Fits(*field, wire)) {
        // The parser keeps it as an unknown field.
        ++counts_.other;
        if (wire == WireFormatLite::WIRETYPE_START_GROUP) {
          ++groups;
        } else if (!WireFormatLite::SkipField(&stream, tag)) {
          return false;
        }
      } else if (wire != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
        if (!WireFormatLite::SkipField(&stream, tag)) return false;
      } else if (!WalkLengthDelimited(stream, *field, depth)) {
        return false;
      }
    }
    return true;
  }

 private:
  static bool Fits(const FieldDescriptor& field, WireFormatLite::WireType wire) {
    const auto type = static_cast<WireFormatLite::FieldType>(field.type());
    return wire == WireFormatLite::WireTypeForFieldType(type) ||
           (field.is_packable() && wire == WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  }

  bool WalkLengthDelimited(CodedInputStream& stream, const FieldDescriptor& field, int depth) {
    uint32_t length = 0;
    if (!stream.ReadVarint32(&length)) return false;
    Count(field, length);
    if (field.type() != FieldDescriptor::TYPE_MESSAGE) {
      return stream.Skip(static_cast<int>(length));
    }
    const CodedInputStream::Limit outer = stream.PushLimit(static_cast<int>(length));
    if (!Walk(stream, *field.message_type(), depth + 1)) return false;
    if (!stream.ConsumedEntireMessage()) return false;
    stream.PopLimit(outer);
    return true;
  }

  void Count(const FieldDescriptor& field, size_t length) {
    const Descriptor* owner = field.containing_type();
    if (owner == v1::ChatPrompt::descriptor()) {
      if (field.number() == v1::ChatPrompt::kMessagesFieldNumber) ++counts_.messages;
      if (field.number() == v1::ChatPrompt::kToolsJsonFieldNumber) counts_.json_bytes += length;
    } else if (owner == v1::ChatMessage::descriptor()) {
      if (field.number() == v1::ChatMessage::kContentPartsFieldNumber) ++counts_.content_parts;
      if (field.number() == v1::ChatMessage::kToolCallsJsonFieldNumber) {
        counts_.json_bytes += length;
      }
    } else if (owner == google::protobuf::Struct::descriptor() ||
               owner == google::protobuf::ListValue::descriptor()) {
      ++counts_.template_values;
    } else if (field.is_repeated() && !field.is_packable()) {
      ++counts_.other;
    }
  }

  WireCounts& counts_;
};

absl::Status AtMost(const char* field, size_t found, const char* what, size_t most) {
  if (found <= most) return absl::OkStatus();
  return engine::FieldError(field, absl::StrCat(found, " ", what, ", allowed: at most ", most));
}

}  // namespace

WireCounts CountFields(const grpc::ByteBuffer& bytes, const Descriptor& type) {
  WireCounts counts;
  if (!bytes.Valid()) return counts;
  grpc::ByteBuffer buffer(bytes);  // shares the memory
  grpc::ProtoBufferReader reader(&buffer);
  CodedInputStream stream(&reader);
  (void)Counter(&counts).Walk(stream, type, 0);
  return counts;
}

absl::Status CheckCounts(const WireCounts& counts) {
  absl::Status status =
      AtMost("messages.messages", counts.messages, "messages", chat::kMaxMessages);
  if (status.ok()) {
    status = AtMost("messages.messages.content_parts", counts.content_parts,
                    "parts in all messages", chat::kMaxContentParts);
  }
  if (status.ok()) {
    status = AtMost("messages.template_variables", counts.template_values,
                    "values, inner ones included", kMaxTemplateValues);
  }
  if (status.ok()) {
    status = AtMost("request", counts.other, "entries and unknown fields", kMaxOtherFields);
  }
  return status;
}

PromptBytes PeekPrompt(const grpc::ByteBuffer& generate_request) {
  PromptBytes found;
  if (!generate_request.Valid()) return found;
  grpc::ByteBuffer buffer(generate_request);
  grpc::ProtoBufferReader reader(&buffer);
  CodedInputStream stream(&reader);
  for (int i = 0; i < kMaxPeekedFields; ++i) {
    const uint32_t tag = stream.ReadTag();
    if (tag == 0) return found;
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&stream, tag)) return {};
      continue;
    }
    uint32_t length = 0;
    if (!stream.ReadVarint32(&length) || !stream.Skip(static_cast<int>(length))) return {};
    // The last prompt counts; a prompt of another kind takes the place of this one.
    switch (WireFormatLite::GetTagFieldNumber(tag)) {
      case v1::GenerateRequest::kTextFieldNumber:
        found = {.text = length};
        break;
      case v1::GenerateRequest::kTokenIdsFieldNumber:
        found = {.token_ids = length};
        break;
      case v1::GenerateRequest::kMessagesFieldNumber:
        found = {};
        break;
      default:
        break;
    }
  }
  return {};  // the rest is not known
}

}  // namespace tandem::server
