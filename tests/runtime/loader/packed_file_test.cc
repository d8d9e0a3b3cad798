#include "runtime/loader/packed_file.h"

#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <tuple>
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

// Whether opening the file and reading all of it gives what WriteTwo wrote.
bool ReadsTwo(const std::string& path) {
  const auto file = PackedFile::Open(path, "model 1");
  if (!file.ok()) return false;
  for (const auto& [name, description, bytes] :
       {std::tuple("a", "8x4", Bytes(5000, 1)), {"b \"quoted\"", "2x2", Bytes(10'000'000, 2)}}) {
    const PackedFile::Entry* entry = (*file)->Find(name, description);
    std::vector<std::byte> found(bytes.size());
    if (entry == nullptr || entry->bytes != bytes.size() ||
        !(*file)->Read(*entry, 0, found.size(), found.data()).ok()) {
      EXPECT_TRUE(entry == nullptr || (*file)->damaged());
      return false;
    }
    EXPECT_EQ(found, bytes);
  }
  return true;
}

// Flipped bits, zeros and other pages at every kind of place: header, entries, padding, table and
// footer.
TEST(PackedFile, EveryByteIsChecked) {
  const TempDir dir;
  const std::string path = dir.path() + "/weights";
  WriteTwo(path);
  ASSERT_TRUE(ReadsTwo(path));
  const uint64_t size = std::filesystem::file_size(path);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto with = [&](uint64_t at, const std::string& bytes) {
    std::string before(bytes.size(), 0);
    file.seekg(static_cast<std::streamoff>(at)).read(before.data(), bytes.size());
    EXPECT_TRUE(before != bytes) << at;
    file.seekp(static_cast<std::streamoff>(at)).write(bytes.data(), bytes.size()).flush();
    EXPECT_FALSE(ReadsTwo(path)) << at;
    file.seekp(static_cast<std::streamoff>(at)).write(before.data(), before.size()).flush();
  };
  const auto byte_at = [&](uint64_t at) {
    char byte;
    file.seekg(static_cast<std::streamoff>(at)).read(&byte, 1);
    return byte;
  };
  std::vector<uint64_t> places;
  for (uint64_t at = 0; at < 56; ++at) places.push_back(at);  // header fields
  for (const uint64_t at : {100, 2000, 4087, 4088, 4095}) places.push_back(at);
  for (const uint64_t at : {4096, 5000, 8191, 8192, 9095, 9096, 12287}) places.push_back(at);
  for (const uint64_t at : {12288, 999'999, 5'000'000, 10'012'287, 10'012'288}) {
    places.push_back(at);  // the second entry, its end and its padding
  }
  for (uint64_t at = size - 20'000; at < size; at += 137) places.push_back(at);  // table, footer
  places.push_back(size - 1);
  for (const uint64_t at : places) {
    with(at, std::string(1, static_cast<char>(byte_at(at) ^ 1)));
  }
  with(16'384, std::string(64, '\0'));
  std::string page(4096, 0);  // the same, one byte off
  file.seekg(40'961).read(page.data(), 4096);
  with(45'056, page);
  EXPECT_TRUE(ReadsTwo(path));
}

TEST(PackedFile, AFileOfAnotherLengthIsRefused) {
  const TempDir dir;
  const std::string path = dir.path() + "/weights";
  WriteTwo(path);
  const uint64_t size = std::filesystem::file_size(path);
  for (const uint64_t other : {size + 1, size + 4096, size - 1}) {
    std::filesystem::resize_file(path, other);
    const auto file = PackedFile::Open(path, "model 1");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << other;
    WriteTwo(dir.path() + "/again");
    std::filesystem::rename(dir.path() + "/again", path);
  }
  // A file of zeros, and one of the version before.
  std::filesystem::resize_file(path, 0);
  std::filesystem::resize_file(path, size);
  EXPECT_FALSE(ReadsTwo(path));
  WriteTwo(dir.path() + "/again");
  std::filesystem::rename(dir.path() + "/again", path);
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out) << "TNDMPACK";
  EXPECT_THAT(PackedFile::Open(path, "model 1").status().message(), HasSubstr("this version"));
}

// Cut after it was opened.
TEST(PackedFile, ReadsBehindTheEndAreErrors) {
  const TempDir dir;
  const std::string path = dir.path() + "/weights";
  WriteTwo(path);
  const auto file = PackedFile::Open(path, "model 1");
  std::filesystem::resize_file(path, 1'000'000);
  const PackedFile::Entry* b = (*file)->Find("b \"quoted\"", "2x2");
  std::vector<std::byte> part(4096);
  EXPECT_TRUE((*file)->Read(*b, 0, part.size(), part.data()).ok());
  EXPECT_FALSE((*file)->damaged());
  const absl::Status status = (*file)->Read(*b, 9'000'000, part.size(), part.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_THAT(std::string(status.message()), HasSubstr("in b \"quoted\""));
  EXPECT_TRUE((*file)->damaged());
  EXPECT_FALSE((*file)->CheckPages(4096, 2'002'944).ok());
  EXPECT_TRUE((*file)->CheckPages(4096, 8192).ok());
}

TEST(PackedFile, FollowsTheUmask) {
  const TempDir dir;
  const mode_t before = umask(027);
  WriteTwo(dir.path() + "/weights");
  umask(before);
  EXPECT_EQ(std::filesystem::status(dir.path() + "/weights").permissions(),
            std::filesystem::perms(0640));
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
