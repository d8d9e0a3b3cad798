#include "runtime/loader/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/loader/temp_dir.h"

namespace tandem::loader {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The message, which must be one line that names the file.
std::string Refusal(const TempDir& dir, const std::string& bytes) {
  const std::string path = dir.Write("x.safetensors", bytes);
  const auto file = SafetensorsFile::Open(path);
  if (file.ok()) return "opened";
  const std::string message(file.status().message());
  EXPECT_THAT(message, HasSubstr(path));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  return message;
}

TEST(Safetensors, OpensAGoodFile) {
  TempDir dir;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},
          "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
          "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
          "none":{"dtype":"F16","shape":[0,7],"data_offsets":[16,16]},
          "ids":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},
          "four":{"dtype":"F4","shape":[2,2],"data_offsets":[24,26]}}  )";
  const auto file =
      SafetensorsFile::Open(dir.Write("x", Safetensors(header, std::string(26, 'z'))));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 5u);
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->header_bytes(), 8 + header.size());
  const TensorInfo& b = file->tensors()[1];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, kernels::DType::kBF16);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.offset, file->header_bytes() + 4);
  EXPECT_EQ(b.bytes, 12u);
  EXPECT_EQ(file->tensors()[3].stored_type, "I64");
  EXPECT_FALSE(file->tensors()[3].dtype.has_value());
}

TEST(Safetensors, RefusesLengthsBeforeAllocating) {
  TempDir dir;
  EXPECT_THAT(Refusal(dir, RawSafetensors(100'000'000'000, "{}", "")),
              HasSubstr("header length: found 100000000000, expected at most 100000000"));
  EXPECT_THAT(Refusal(dir, RawSafetensors(~0ull, "{}", "")), HasSubstr("header length"));
  EXPECT_THAT(Refusal(dir, RawSafetensors(90'000'000, "{}", "")), HasSubstr("cut short"));
  EXPECT_THAT(Refusal(dir, RawSafetensors(3, "{}", "")), HasSubstr("cut short"));
  EXPECT_THAT(Refusal(dir, "12345"), HasSubstr("size: found 5 bytes"));
  EXPECT_THAT(Refusal(dir, ""), HasSubstr("found 0 bytes"));
  EXPECT_THAT(Refusal(dir, "version https://git-lfs.github.com/spec/v1\n"),
              HasSubstr("git lfs pull"));
}

TEST(Safetensors, RefusesBrokenHeaders) {
  TempDir dir;
  EXPECT_THAT(Refusal(dir, Safetensors("", "")), HasSubstr("expected '{'"));
  EXPECT_THAT(Refusal(dir, Safetensors(" {}", "")), HasSubstr("expected '{'"));
  EXPECT_THAT(Refusal(dir, Safetensors("[1]", "")), HasSubstr("expected '{'"));
  EXPECT_THAT(Refusal(dir, Safetensors("{\"a\":", "")), HasSubstr("byte"));
  EXPECT_THAT(Refusal(dir, Safetensors("{} x", "")), HasSubstr("byte"));
  EXPECT_THAT(Refusal(dir, Safetensors(std::string("{}\0", 3), "")), HasSubstr("byte"));
  EXPECT_THAT(Refusal(dir, Safetensors("{\"\xff\":1}", "")), HasSubstr("byte"));
  EXPECT_THAT(Refusal(dir, Safetensors("{\"a\":" + std::string(1000000, '['), "")),
              HasSubstr("nested deeper"));
  const std::string one = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_THAT(Refusal(dir, Safetensors("{" + one + "," + one + "}", "1234")), HasSubstr("twice"));
  EXPECT_THAT(Refusal(dir, Safetensors(R"({"__metadata__":{"a":1}})", "")),
              HasSubstr("__metadata__"));
  EXPECT_THAT(Refusal(dir, Safetensors(R"({"__metadata__":"a"})", "")), HasSubstr("__metadata__"));
}

std::string WithTensor(const std::string& fields, size_t data = 4) {
  return Safetensors("{\"t\":" + fields + "}", std::string(data, 'x'));
}

TEST(Safetensors, RefusesBrokenTensors) {
  TempDir dir;
  for (const char* fields : {
           "1",
           "[]",
           "null",
           "{}",
           R"({"dtype":"F32","shape":[1]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1})",
           R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})",
           R"({"dtype":7,"shape":[1],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1.9],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[0]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[0.0,4.0]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})",
       }) {
    EXPECT_THAT(Refusal(dir, WithTensor(fields)), HasSubstr("tensor \"t\"")) << fields;
  }
  // Shape and bytes disagree; the product wraps to the right number; odd bits.
  for (const char* fields : {
           R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})",
           R"({"dtype":"F16","shape":[1],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[4611686018427387904,4,1],"data_offsets":[0,0]})",
           R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})",
           R"({"dtype":"F4","shape":[1],"data_offsets":[0,0]})",
       }) {
    EXPECT_THAT(Refusal(dir, WithTensor(fields)), HasSubstr("\"t\" data_offsets: found")) << fields;
  }
}

std::string Two(const char* a, const char* b, size_t data) {
  return Safetensors(std::string(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)") + a +
                         R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + b + "}}",
                     std::string(data, 'x'));
}

TEST(Safetensors, RefusesOffsetsThatDoNotTile) {
  TempDir dir;
  EXPECT_EQ(Refusal(dir, Two("[0,4]", "[4,8]", 8)), "opened");
  EXPECT_THAT(Refusal(dir, Two("[0,4]", "[0,4]", 8)), HasSubstr("overlap"));
  EXPECT_THAT(Refusal(dir, Two("[0,4]", "[2,6]", 6)), HasSubstr("overlap"));
  EXPECT_THAT(Refusal(dir, Two("[0,4]", "[5,9]", 9)), HasSubstr("hole"));
  EXPECT_THAT(Refusal(dir, Two("[4,8]", "[8,12]", 12)), HasSubstr("hole"));
  EXPECT_THAT(Refusal(dir, Two("[0,4]", "[4,8]", 7)), HasSubstr("cut short"));
  EXPECT_THAT(Refusal(dir, Two("[0,4]", "[4,8]", 9)), HasSubstr("appended"));
  EXPECT_THAT(Refusal(dir, Two("[0,4]", "[9223372036854775803,9223372036854775807]", 8)),
              HasSubstr("at most the 8 bytes"));
}

TEST(Safetensors, EveryCutAndEveryFlippedByteIsSafe) {
  TempDir dir;
  const std::string good = SafetensorsOf({{"first", 2, 3, 0}, {"second", 1, 2, 9}});
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(SafetensorsFile::Open(dir.Write("cut", good.substr(0, size))).ok()) << size;
  }
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    for (const int flip : {1, 0x20, 0x80}) {
      bad[i] = static_cast<char>(good[i] ^ flip);
      (void)SafetensorsFile::Open(dir.Write("flip", bad));  // may open: a name may have changed
    }
  }
}

TEST(InputFile, RefusesWhatIsNoFile) {
  TempDir dir;
  EXPECT_EQ(InputFile::Open(dir / "absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(InputFile::Open(dir.path()).ok());
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_FALSE(InputFile::Open(dir / "pipe").ok());
}

TEST(InputFile, AFileThatShrinksIsAnErrorOfRead) {
  TempDir dir;
  const std::string path = dir.Write("x", std::string(10000, 'x'));
  auto file = InputFile::Open(path);
  ASSERT_TRUE(file.ok());
  std::filesystem::resize_file(path, 5000);
  char buffer[2000];
  EXPECT_TRUE(file->Read(0, sizeof buffer, buffer).ok());
  EXPECT_EQ(file->Read(4000, sizeof buffer, buffer).code(), absl::StatusCode::kDataLoss);
  InputFile moved = *std::move(file);
  EXPECT_EQ(moved.size(), 10000u);
  EXPECT_TRUE(moved.Read(0, 1, buffer).ok());
}

}  // namespace
}  // namespace tandem::loader
