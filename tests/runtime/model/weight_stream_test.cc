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

struct File {
  loader::TempDir dir;
  std::string path = dir / "weights";
  explicit File(uint64_t pages) {
    std::ofstream(path, std::ios::binary) << std::string(pages * kPage, 'w');
  }
};

// Pages that this process has mapped now.
int64_t Present(const loader::MappedFile& file) {
  std::vector<uint64_t> entries(file.size() / kPage);
  const auto size = static_cast<ssize_t>(entries.size() * sizeof(uint64_t));
  const auto first = static_cast<off_t>(reinterpret_cast<uintptr_t>(file.data()) / kPage);
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(pread(pagemap, entries.data(), size, first * sizeof(uint64_t)), size);
  close(pagemap);
  return std::ranges::count_if(entries, [](uint64_t entry) { return entry >> 63 != 0; });
}

TEST(WeightStream, HoldsTwoLayers) {
  if (sysconf(_SC_PAGESIZE) != static_cast<long>(kPage)) GTEST_SKIP() << "pages of another size";
  constexpr uint64_t kLayer = 1024;
  const File on_disk(5 * kLayer);
  const auto file = *loader::MappedFile::Open(on_disk.path);
  std::vector<std::vector<FileRange>> layers;
  for (uint64_t i = 0; i < 5; ++i) {
    layers.push_back({{i * kLayer * kPage, (i + 1) * kLayer * kPage}});
  }
  WeightStream stream(file, layers, {});
  EXPECT_EQ(stream.layer_bytes(), 5 * kLayer * kPage);
  EXPECT_EQ(stream.present_bytes(), 2 * kLayer * kPage);
  for (int step = 0; step < 3; ++step) {
    for (size_t i = 0; i < layers.size(); ++i) {
      ASSERT_TRUE(stream.Enter(i).ok());
      const int64_t present = Present(file);
      EXPECT_GE(present, static_cast<int64_t>(kLayer));
      // The kernel may map neighbours of a page that it brings in.
      EXPECT_LE(present, static_cast<int64_t>(2 * kLayer + 64));
    }
  }
  EXPECT_GE(stream.bytes_read(), 15 * kLayer * kPage);
}

TEST(WeightStream, AFileCutShortIsAnError) {
  const File on_disk(64);
  const auto file = *loader::MappedFile::Open(on_disk.path);
  std::filesystem::resize_file(on_disk.path, 40 * kPage);
  WeightStream stream(file, {{{0, 32 * kPage}}, {{32 * kPage, 64 * kPage}}}, {});
  // The stream's thread may have failed in the second layer by now; the first is there.
  ASSERT_TRUE(stream.Enter(0).ok());
  const absl::Status status = stream.Enter(1);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_NE(std::string(status.message()).find(on_disk.path), std::string::npos) << status;
}

}  // namespace
}  // namespace tandem::model
