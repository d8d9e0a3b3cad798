#include "runtime/server/sampling_proto.h"

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "google/protobuf/message.h"
#include "google/protobuf/reflection.h"
#include "kernels/base/check.h"
#include "runtime/engine/sampling_fields.h"

namespace tandem::server {
namespace {

using engine::SamplingRequest;
using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;

float Get(const Reflection& reflection, const v1::SamplingParams& message,
          const FieldDescriptor* field, float) {
  return reflection.GetFloat(message, field);
}
int32_t Get(const Reflection& reflection, const v1::SamplingParams& message,
            const FieldDescriptor* field, int32_t) {
  return reflection.GetInt32(message, field);
}
int64_t Get(const Reflection& reflection, const v1::SamplingParams& message,
            const FieldDescriptor* field, int64_t) {
  return reflection.GetInt64(message, field);
}
bool Get(const Reflection& reflection, const v1::SamplingParams& message,
         const FieldDescriptor* field, bool) {
  return reflection.GetBool(message, field);
}

void Set(const Reflection& reflection, v1::SamplingParams* message, const FieldDescriptor* field,
         float value) {
  reflection.SetFloat(message, field, value);
}
void Set(const Reflection& reflection, v1::SamplingParams* message, const FieldDescriptor* field,
         int32_t value) {
  reflection.SetInt32(message, field, value);
}
void Set(const Reflection& reflection, v1::SamplingParams* message, const FieldDescriptor* field,
         int64_t value) {
  reflection.SetInt64(message, field, value);
}
void Set(const Reflection& reflection, v1::SamplingParams* message, const FieldDescriptor* field,
         bool value) {
  reflection.SetBool(message, field, value);
}

// Reads one field of a message into a request.
struct Reader {
  const v1::SamplingParams& message;
  const Reflection& reflection;
  const FieldDescriptor* field;
  SamplingRequest* request;

  template <typename T>
  void operator()(const engine::SamplingScalar<T>& scalar) const {
    if (reflection.HasField(message, field)) {
      request->*scalar.request = Get(reflection, message, field, T());
    }
  }
  template <typename T>
  void operator()(const engine::SamplingList<std::vector<T>, std::vector<T>>& list) const {
    const auto values = reflection.GetRepeatedFieldRef<T>(message, field);
    (request->*list.request).assign(values.begin(), values.end());
  }
  // The one map of the message: reflection over a map is slower and longer than its accessor.
  void operator()(const engine::SamplingBiases& biases) const {
    request->*biases.request = {message.logit_bias().begin(), message.logit_bias().end()};
  }
};

// Writes one field of a request into a message.
struct Writer {
  const SamplingRequest& request;
  const Reflection& reflection;
  const FieldDescriptor* field;
  v1::SamplingParams* message;

  template <typename T>
  void operator()(const engine::SamplingScalar<T>& scalar) const {
    const std::optional<T>& value = request.*scalar.request;
    if (value.has_value()) Set(reflection, message, field, *value);
  }
  template <typename T>
  void operator()(const engine::SamplingList<std::vector<T>, std::vector<T>>& list) const {
    const auto values = reflection.GetMutableRepeatedFieldRef<T>(message, field);
    for (const T& value : request.*list.request) values.Add(value);
  }
  void operator()(const engine::SamplingBiases& biases) const {
    const auto& values = request.*biases.request;
    message->mutable_logit_bias()->insert(values.begin(), values.end());
  }
};

// Descriptors in the order of SamplingFields: looked up by name once.
const std::vector<const FieldDescriptor*>& Descriptors() {
  static const auto* const kDescriptors = [] {
    auto* all = new std::vector<const FieldDescriptor*>;
    for (const engine::SamplingField& field : engine::SamplingFields()) {
      all->push_back(v1::SamplingParams::descriptor()->FindFieldByName(field.name));
      TANDEM_CHECK(all->back() != nullptr);
    }
    return all;
  }();
  return *kDescriptors;
}

}  // namespace

SamplingRequest SamplingFromProto(const v1::SamplingParams& message) {
  SamplingRequest request;
  for (size_t i = 0; i < engine::SamplingFields().size(); ++i) {
    const Reader reader{message, *message.GetReflection(), Descriptors()[i], &request};
    std::visit(reader, engine::SamplingFields()[i].value);
  }
  return request;
}

v1::SamplingParams SamplingToProto(const SamplingRequest& request) {
  v1::SamplingParams message;
  for (size_t i = 0; i < engine::SamplingFields().size(); ++i) {
    const Writer writer{request, *message.GetReflection(), Descriptors()[i], &message};
    std::visit(writer, engine::SamplingFields()[i].value);
  }
  return message;
}

}  // namespace tandem::server
