// Layers that stay in a file: which pages they take, that these come and go, and that a file cut
// short is an error.
#include "runtime/model/weight_stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/runtime/loader/temp_dir.h"

namespace tandem::model {
namespace {

constexpr uint64_t kPage = 4096;

TEST(WeightStream, PagesOfRanges) {
  EXPECT_EQ(WholePages({}), std::vector<FileRange>{});
  EXPECT_EQ(WholePages({{5, 5}}), std::vector<FileRange>{});
  EXPECT_EQ(WholePages({{20000, 20001}, {1, 4096}, {4097, 5000}, {5000, 9000}}),
            (std::vector<FileRange>{{0, 3 * kPage}, {4 * kPage, 5 * kPage}}));
}

TEST(WeightStream, LargestPairIsACycle) {
  EXPECT_EQ(LargestPair(std::vector<uint64_t>{1, 2, 3}), 5u);
  EXPECT_EQ(LargestPair(std::vector<uint64_t>{4, 1, 3}), 7u);  // the head and the first layer
}

// A packed file of one entry, from its second page on.
struct File {
  loader::TempDir dir;
  std::string path = dir / "weights";
  std::unique_ptr<loader::PackedFile> file;
  explicit File(uint64_t pages) {
    auto writer = *loader::PackedFileWriter::Create(path, "k");
    const std::string bytes(pages * kPage, 'w');
    EXPECT_TRUE(writer.Append("w", "", std::as_bytes(std::span(bytes))).ok());
    EXPECT_TRUE(writer.Finish().ok());
    file = *loader::PackedFile::Open(path, "k");
    EXPECT_TRUE(file->ReserveImage().ok());
  }
};

// Pages of the file's image that have memory now.
int64_t Present(const loader::PackedFile& file) {
  std::vector<uint64_t> entries(std::filesystem::file_size(file.path()) / kPage);
  const auto size = static_cast<ssize_t>(entries.size() * sizeof(uint64_t));
  const auto first = static_cast<off_t>(reinterpret_cast<uintptr_t>(file.image()) / kPage);
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(pread(pagemap, entries.data(), size, first * sizeof(uint64_t)), size);
  close(pagemap);
  return std::ranges::count_if(entries, [](uint64_t entry) { return entry >> 63 != 0; });
}

TEST(WeightStream, HoldsTwoLayers) {
  if (sysconf(_SC_PAGESIZE) != static_cast<long>(kPage)) GTEST_SKIP() << "pages of another size";
  constexpr uint64_t kLayer = 1024;
  const File on_disk(5 * kLayer);
  std::vector<std::vector<FileRange>> layers;
  for (uint64_t i = 0; i < 5; ++i) {
    layers.push_back({{(i * kLayer + 1) * kPage, ((i + 1) * kLayer + 1) * kPage}});
  }
  WeightStream stream(*on_disk.file, layers, {});
  EXPECT_EQ(stream.layer_bytes(), 5 * kLayer * kPage);
  EXPECT_EQ(stream.present_bytes(), 2 * kLayer * kPage);
  for (int step = 0; step < 3; ++step) {
    for (size_t i = 0; i < layers.size(); ++i) {
      ASSERT_TRUE(stream.Enter(i).ok());
      const int64_t present = Present(*on_disk.file);
      EXPECT_GE(present, static_cast<int64_t>(kLayer));
      EXPECT_LE(present, static_cast<int64_t>(2 * kLayer));
    }
  }
  EXPECT_GE(stream.bytes_read(), 15 * kLayer * kPage);
}

TEST(WeightStream, AFileCutShortIsAnError) {
  const File on_disk(64);
  std::filesystem::resize_file(on_disk.path, 41 * kPage);
  WeightStream stream(*on_disk.file, {{{kPage, 33 * kPage}}, {{33 * kPage, 65 * kPage}}}, {});
  // The stream's thread may have failed in the second layer by now; the first is there.
  ASSERT_TRUE(stream.Enter(0).ok());
  const absl::Status status = stream.Enter(1);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_NE(std::string(status.message()).find(on_disk.path), std::string::npos) << status;
}

TEST(WeightStream, AChangedByteIsAnErrorInTheNextRound) {
  const File on_disk(64);
  WeightStream stream(*on_disk.file, {{{kPage, 33 * kPage}}, {{33 * kPage, 65 * kPage}}}, {});
  ASSERT_TRUE(stream.Enter(0).ok());
  ASSERT_TRUE(stream.Enter(1).ok());
  std::fstream(on_disk.path, std::ios::binary | std::ios::in | std::ios::out).seekp(40 * kPage + 7)
      << 'x';
  // The first round's layers may be read ahead already.
  absl::Status status;
  for (size_t i = 0; i < 6 && status.ok(); ++i) status = stream.Enter(i % 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_NE(std::string(status.message()).find("weights: w: the bytes from"), std::string::npos)
      << status;
}

}  // namespace
}  // namespace tandem::model
