#include "runtime/loader/packed_file.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/loader/temp_dir.h"

namespace tandem::loader {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> Bytes(size_t n, int seed) {
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i * 7 + seed);
  return bytes;
}

void WriteTwo(const std::string& path) {
  auto writer = PackedFileWriter::Create(path, "model 1");
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Append("a", "8x4", Bytes(5000, 1)).ok());
  ASSERT_TRUE(writer->Append("b \"quoted\"", "2x2", Bytes(10'000'000, 2)).ok());
  EXPECT_FALSE(std::filesystem::exists(path));  // not before it is whole
  ASSERT_TRUE(writer->Finish().ok());
}

TEST(PackedFile, KeepsMatrices) {
  const TempDir dir;
  const std::string path = dir.path() + "/weights";
  WriteTwo(path);
  const auto file = PackedFile::Open(path, "model 1");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Find("a", "8x5"), nullptr);
  EXPECT_EQ((*file)->Find("c", "8x4"), nullptr);
  const PackedFile::Entry* b = (*file)->Find("b \"quoted\"", "2x2");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->offset % 4096, 0u);
  const std::vector<std::byte> all = Bytes(10'000'000, 2);
  std::vector<std::byte> part(9'000'000);
  ASSERT_TRUE((*file)->Read(*b, 999'999, part.size(), part.data()).ok());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 999'999));
  EXPECT_EQ((*file)->bytes_read(), part.size());
  // Nothing else is left in the folder.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(PackedFile, AnotherKeyIsNoFile) {
  const TempDir dir;
  WriteTwo(dir.path() + "/weights");
  const auto file = PackedFile::Open(dir.path() + "/weights", "model 2");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(file.status().message(), HasSubstr("another model"));
  EXPECT_EQ(PackedFile::Open(dir.path() + "/none", "model 1").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(PackedFile, RefusesDamage) {
  const TempDir dir;
  const std::string path = dir.path() + "/weights";
  WriteTwo(path);
  const auto size = std::filesystem::file_size(path);
  for (const uintmax_t cut : {size - 1, size / 2, uintmax_t{20}, uintmax_t{3}}) {
    std::filesystem::resize_file(path, cut);
    const auto file = PackedFile::Open(path, "model 1");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << cut;
    EXPECT_THAT(file.status().message(), HasSubstr(path));
  }
  std::ofstream(path) << "something else, of more than a few bytes";
  EXPECT_FALSE(PackedFile::Open(path, "model 1").ok());
}

TEST(PackedFile, AFailedWriteLeavesNothing) {
  const TempDir dir;
  {
    auto writer = PackedFileWriter::Create(dir.path() + "/weights", "k");
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->Append("a", "", Bytes(100, 0)).ok());
  }  // never finished
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  EXPECT_EQ(PackedFileWriter::Create(dir.path() + "/no/such/folder", "k").status().code(),
            absl::StatusCode::kPermissionDenied);
}

// Two writers with one process id, as containers or hosts with a common folder may have them.
TEST(PackedFile, WritersDoNotShareAFile) {
  const TempDir dir;
  const std::string path = dir / "weights";
  auto first = PackedFileWriter::Create(path, "k");
  auto second = PackedFileWriter::Create(path, "k");
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE(first->Append("a", "", Bytes(5000, 1)).ok());
  ASSERT_TRUE(second->Append("a", "", Bytes(9000, 2)).ok());
  ASSERT_TRUE(first->Append("b", "", Bytes(3000, 3)).ok());
  ASSERT_TRUE(second->Finish().ok());
  ASSERT_TRUE(first->Finish().ok());  // the last one counts, whole
  const auto file = PackedFile::Open(path, "k");
  ASSERT_TRUE(file.ok()) << file.status();
  for (const auto& [name, bytes] : {std::pair("a", Bytes(5000, 1)), {"b", Bytes(3000, 3)}}) {
    const PackedFile::Entry* entry = (*file)->Find(name, "");
    ASSERT_NE(entry, nullptr);
    ASSERT_EQ(entry->bytes, bytes.size());
    std::vector<std::byte> found(bytes.size());
    ASSERT_TRUE((*file)->Read(*entry, 0, found.size(), found.data()).ok());
    EXPECT_EQ(found, bytes);
  }
}

TEST(PackedFile, RemovesWhatKilledWritersLeft) {
  namespace fs = std::filesystem;
  const TempDir dir;
  const std::string path = dir / "weights";
  const auto age = [](const fs::path& file) {
    fs::last_write_time(file, fs::last_write_time(file) - std::chrono::hours(1));
  };
  const std::string left = dir.Write("weights.17.partial", "some");
  age(left);
  const std::string recent = dir.Write("weights.18.partial", "some");
  const std::string of_another = dir.Write("weights2.17.partial", "some");
  age(of_another);
  const auto writing = PackedFileWriter::Create(dir / "weights", "k");
  ASSERT_TRUE(writing.ok());
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(recent));
  EXPECT_TRUE(fs::exists(of_another));
  // One that is at work keeps its file, however long ago it wrote.
  fs::remove(recent);
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(dir.path())) {
    age(entry.path());
    ++files;
  }
  EXPECT_EQ(files, 2u);
  const auto next = PackedFileWriter::Create(path, "k");
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 3);
}

}  // namespace
}  // namespace tandem::loader
