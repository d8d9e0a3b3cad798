#include "kernels/base/read_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

class ReadFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/read_file_XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& bytes) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  static std::string Message(const absl::StatusOr<std::string>& read, absl::StatusCode code) {
    EXPECT_EQ(read.status().code(), code) << read.status();
    return std::string(read.status().message());
  }

  std::string folder_;
};

TEST_F(ReadFileTest, ReadsAllBytesUpToTheLimit) {
  const std::string bytes("a\0b\n", 4);
  const std::string path = Write("four", bytes);
  for (const auto& read : {ReadFile(path, 4), ReadRegularFile(path, 4), ReadTextFile(path, 4)}) {
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, bytes);
  }
  EXPECT_EQ(Message(ReadFile(path, 3), absl::StatusCode::kInvalidArgument),
            path + ": size: found 4 bytes, expected at most 3");
}

TEST_F(ReadFileTest, AnEmptyFileIsNoText) {
  const std::string path = Write("empty", "");
  EXPECT_EQ(*ReadFile(path, 10), "");
  EXPECT_EQ(*ReadRegularFile(path, 10), "");
  EXPECT_EQ(Message(ReadTextFile(path, 10), absl::StatusCode::kInvalidArgument),
            path + ": found no text, expected some");
}

TEST_F(ReadFileTest, NamesWhatCannotBeOpened) {
  const std::string absent = folder_ + "/absent";
  EXPECT_THAT(Message(ReadFile(absent, 1), absl::StatusCode::kNotFound),
              StartsWith(absent + ": cannot open: "));
  EXPECT_EQ(Message(ReadFile(folder_, 1), absl::StatusCode::kInvalidArgument),
            folder_ + ": found a folder, expected a file");
}

TEST_F(ReadFileTest, ReadsPipesOnlyWhereAnyFileIsAccepted) {
  const std::string pipe = folder_ + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  // Does not wait for the writer that never comes.
  EXPECT_THAT(Message(ReadRegularFile(pipe, 1), absl::StatusCode::kInvalidArgument),
              StartsWith(pipe + ": found no regular file"));
  // /proc files have size 0 and still have text.
  EXPECT_FALSE(ReadFile("/proc/self/status", 1 << 20)->empty());
  EXPECT_THAT(Message(ReadFile("/proc/self/status", 10), absl::StatusCode::kInvalidArgument),
              EndsWith("size: found more than 10 bytes, expected at most that"));
}

TEST_F(ReadFileTest, ReadsStreams) {
  std::istringstream in("12345");
  EXPECT_EQ(*ReadStream(in, "standard input", 5), "12345");
  std::istringstream again("12345");
  EXPECT_EQ(Message(ReadStream(again, "standard input", 4), absl::StatusCode::kInvalidArgument),
            "standard input: size: found more than 4 bytes, expected at most that");
}

}  // namespace
}  // namespace tandem
