#include "runtime/quantize/checkpoint_writer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_folder.h"
#include "tests/runtime/loader/temp_dir.h"

namespace tandem::quantize {
namespace {

// Bytes that tell where they belong.
std::vector<uint8_t> Bytes(const OutputTensor& tensor, int seed) {
  std::vector<uint8_t> bytes(tensor.bytes());
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(i * 7 + static_cast<size_t>(seed));
  }
  return bytes;
}

const std::vector<OutputTensor> kTensors = {
    {"b.weight", "BF16", {3, 5}}, {"a.packed", "I32", {2, 3}}, {"a.shape", "I64", {2}},
    {"empty", "F32", {0, 4}},     {"c.weight", "F16", {7}},    {"d.weight", "F32", {}}};

class CheckpointWriterTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(CheckpointWriterTest, WhatIsWrittenIsRead) {
  const loader::TempDir dir;
  dir.Write("config.json", "{}");
  const auto writer = CheckpointWriter::Create(dir.path(), kTensors, GetParam());
  ASSERT_TRUE(writer.ok()) << writer.status();
  // In another order than declared, and in pieces.
  for (size_t i = kTensors.size(); i-- > 0;) {
    const std::vector<uint8_t> bytes = Bytes(kTensors[i], static_cast<int>(i));
    const size_t half = bytes.size() / 2;
    ASSERT_TRUE((*writer)->Append(kTensors[i].name, bytes.data(), half).ok());
    ASSERT_TRUE((*writer)->Append(kTensors[i].name, bytes.data() + half, bytes.size() - half).ok());
  }
  ASSERT_TRUE((*writer)->Close().ok());

  const auto folder = loader::ModelFolder::Open(dir.path());
  ASSERT_TRUE(folder.ok());
  const auto checkpoint = loader::Checkpoint::Open(*folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->ListTensors().size(), kTensors.size());
  EXPECT_EQ((*checkpoint)->file_count() > 1, GetParam() < 100);
  for (size_t i = 0; i < kTensors.size(); ++i) {
    const auto info = (*checkpoint)->Find(kTensors[i].name);
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_EQ((*info)->stored_type, kTensors[i].type);
    EXPECT_EQ((*info)->shape, kTensors[i].shape);
    const std::vector<uint8_t> expected = Bytes(kTensors[i], static_cast<int>(i));
    std::vector<uint8_t> found(expected.size());
    const loader::InputFile& file = (*checkpoint)->file((*info)->file).file();
    ASSERT_TRUE(file.Read((*info)->offset, found.size(), found.data()).ok());
    EXPECT_EQ(found, expected) << kTensors[i].name;
    // Other readers map tensors as arrays of their type.
    if (!expected.empty() && !kTensors[i].shape.empty()) {
      const uint64_t element =
          expected.size() /
          static_cast<uint64_t>(std::accumulate(kTensors[i].shape.begin(), kTensors[i].shape.end(),
                                                int64_t{1}, std::multiplies<>()));
      EXPECT_EQ((*info)->offset % element, 0u) << kTensors[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(FileBytes, CheckpointWriterTest, ::testing::Values(1, 50, 1 << 20));

TEST(CheckpointWriter, FailedOutputIsNoInternalError) {
  const loader::TempDir dir;
  const auto no_folder = CheckpointWriter::Create(dir / "missing", kTensors);
  EXPECT_EQ(no_folder.status().code(), absl::StatusCode::kAborted) << no_folder.status();
  // More than any disk has.
  const auto too_large =
      CheckpointWriter::Create(dir.path(), {{"x", "I8", {int64_t{1} << 55}}}, uint64_t{1} << 60);
  EXPECT_EQ(too_large.status().code(), absl::StatusCode::kAborted) << too_large.status();
  // What exists stays.
  dir.Write("a", "kept");
  EXPECT_EQ(WriteFileDurably(dir / "a", "new").code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace tandem::quantize
