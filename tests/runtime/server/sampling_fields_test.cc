#include "runtime/engine/sampling_fields.h"

#include <cmath>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/server/sampling_proto.h"
#include "runtime/server/validation.h"

namespace tandem::server {
namespace {

using engine::SamplingField;
using engine::SamplingRequest;
using google::protobuf::FieldDescriptor;

// The field of the protocol that a value is read from.
struct ProtoType {
  FieldDescriptor::CppType type;
  bool repeated;
  bool map;

  bool operator==(const ProtoType&) const = default;
};

struct ExpectedType {
  ProtoType operator()(const engine::SamplingScalar<float>&) const {
    return {FieldDescriptor::CPPTYPE_FLOAT, false, false};
  }
  ProtoType operator()(const engine::SamplingScalar<int32_t>&) const {
    return {FieldDescriptor::CPPTYPE_INT32, false, false};
  }
  ProtoType operator()(const engine::SamplingScalar<int64_t>&) const {
    return {FieldDescriptor::CPPTYPE_INT64, false, false};
  }
  ProtoType operator()(const engine::SamplingScalar<bool>&) const {
    return {FieldDescriptor::CPPTYPE_BOOL, false, false};
  }
  ProtoType operator()(const engine::SamplingIds&) const {
    return {FieldDescriptor::CPPTYPE_INT32, true, false};
  }
  ProtoType operator()(const engine::SamplingTexts&) const {
    return {FieldDescriptor::CPPTYPE_STRING, true, false};
  }
  ProtoType operator()(const engine::SamplingBiases&) const {
    return {FieldDescriptor::CPPTYPE_MESSAGE, true, true};
  }
};

TEST(SamplingFields, AreThoseOfTheProtocol) {
  const google::protobuf::Descriptor* message = v1::SamplingParams::descriptor();
  std::set<std::string> in_table;
  for (const SamplingField& field : engine::SamplingFields()) {
    EXPECT_TRUE(in_table.insert(field.name).second) << field.name << " is there twice";
    const FieldDescriptor* in_proto = message->FindFieldByName(field.name);
    ASSERT_NE(in_proto, nullptr) << field.name << " is not in the protocol";
    const ProtoType found{in_proto->cpp_type(), in_proto->is_repeated(), in_proto->is_map()};
    EXPECT_TRUE(found == std::visit(ExpectedType(), field.value)) << field.name;
    // Unset must differ from zero.
    EXPECT_TRUE(in_proto->is_repeated() || in_proto->has_presence()) << field.name;
  }
  for (int i = 0; i < message->field_count(); ++i) {
    EXPECT_EQ(in_table.count(message->field(i)->name()), 1u)
        << message->field(i)->name() << " is not in the table";
  }
}

TEST(SamplingFields, EachNumberHasARangeInWords) {
  for (const SamplingField& field : engine::SamplingFields()) {
    const bool bounded = std::isfinite(field.range.lowest) || std::isfinite(field.range.highest);
    EXPECT_EQ(bounded, field.range.words[0] != '\0') << field.name;
    EXPECT_NE(field.help[0], '\0') << field.name;
  }
}

// Writes a value that differs from the default, and from those of other fields.
struct Setter {
  SamplingRequest* request;
  int number;

  template <typename T>
  void operator()(const engine::SamplingScalar<T>& scalar) const {
    request->*scalar.request = static_cast<T>(number);
  }
  void operator()(const engine::SamplingIds& list) const { request->*list.request = {number, 0}; }
  void operator()(const engine::SamplingTexts& list) const {
    request->*list.request = {std::to_string(number), ""};
  }
  void operator()(const engine::SamplingBiases& biases) const {
    request->*biases.request = {{number, 0.5f}, {0, -1.0f}};
  }
};

TEST(SamplingFields, EachSurvivesTheProtocol) {
  int number = 0;
  for (const SamplingField& field : engine::SamplingFields()) {
    SamplingRequest request;
    std::visit(Setter{&request, ++number}, field.value);
    const v1::SamplingParams message = SamplingToProto(request);
    std::vector<const FieldDescriptor*> set;
    message.GetReflection()->ListFields(message, &set);
    ASSERT_EQ(set.size(), 1u) << field.name;
    EXPECT_EQ(set[0]->name(), field.name);
    const SamplingRequest again = SamplingFromProto(message);
    std::visit(
        [&](const auto& value) {
          EXPECT_EQ(again.*value.request, request.*value.request) << field.name;
        },
        field.value);
    EXPECT_EQ(SamplingToProto(again).ShortDebugString(), message.ShortDebugString());
  }
  EXPECT_EQ(SamplingToProto({}).ByteSizeLong(), 0u);
}

TEST(SamplingFields, DefaultsComeFromGenerationConfig) {
  loader::GenerationConfig config;
  EXPECT_EQ(SamplingToProto(DefaultsOf(config)).ByteSizeLong(), 0u);
  config.temperature = 0.5;
  config.top_p = 0.75;
  config.top_k = 7;
  config.min_p = 0.25;
  config.repetition_penalty = 1.5;
  EXPECT_EQ(SamplingToProto(DefaultsOf(config)).ShortDebugString(),
            "temperature: 0.5 top_k: 7 top_p: 0.75 min_p: 0.25 repetition_penalty: 1.5");
  config.do_sample = false;
  EXPECT_EQ(DefaultsOf(config).temperature, 0.0f);
}

}  // namespace
}  // namespace tandem::server
