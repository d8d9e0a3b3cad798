#include "runtime/loader/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/loader/hf_config.h"
#include "tests/runtime/loader/temp_dir.h"
#include "tests/support/source_path.h"

namespace tandem::loader {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenIn(const std::string& path) {
  const auto folder = ModelFolder::Open(path);
  if (!folder.ok()) return folder.status();
  return Checkpoint::Open(*folder);
}

std::string Refusal(const std::string& path) {
  const auto opened = OpenIn(path);
  if (opened.ok()) return "opened";
  EXPECT_THAT(std::string(opened.status().message()), Not(HasSubstr("\n")));
  return std::string(opened.status().message());
}

const auto kNone = [](std::string_view) { return false; };

TEST(Checkpoint, SlicesAndCounts) {
  TempDir dir;
  const Matrix m{"m", 5, 7, 100};
  dir.Write("model.safetensors", SafetensorsOf({{"pad", 1, 3, 0}, m}));
  auto opened = OpenIn(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  Checkpoint& checkpoint = **opened;
  EXPECT_EQ(checkpoint.bytes_read(), 0u);
  const auto tensor = checkpoint.Take("m", {5, 7});
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->rows(), 5);
  EXPECT_EQ(tensor->row_bytes(), 28);

  std::vector<float> rows(2 * 7);
  ASSERT_TRUE(tensor->CopyRows(1, 3, rows.data()).ok());
  for (int64_t i = 0; i < 14; ++i) EXPECT_EQ(rows[i], m.At(1 + i / 7, i % 7));
  EXPECT_EQ(checkpoint.bytes_read(), 56u);
  EXPECT_TRUE(tensor->CopyRows(5, 5, nullptr).ok());

  std::vector<float> block(3 * 4, -1);
  ASSERT_TRUE(tensor->CopyBlock(2, 5, 3, 6, block.data(), 16).ok());
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 3; ++c) EXPECT_EQ(block[r * 4 + c], m.At(2 + r, 3 + c));
    EXPECT_EQ(block[r * 4 + 3], -1);  // between rows nothing is written
  }
  EXPECT_EQ(checkpoint.bytes_read(), 56u + 36);

  std::vector<float> columns(5 * 2);
  ASSERT_TRUE(tensor->CopyColumns(5, 7, columns.data()).ok());
  EXPECT_EQ(columns[9], m.At(4, 6));
  EXPECT_TRUE(tensor->CopyColumns(3, 3, nullptr).ok());
  EXPECT_EQ(checkpoint.bytes_read(), 56u + 36 + 40);

  std::vector<float> all(35);
  ASSERT_TRUE(tensor->CopyAll(all.data()).ok());
  for (int64_t i = 0; i < 35; ++i) EXPECT_EQ(all[i], m.At(i / 7, i % 7));
  EXPECT_EQ(checkpoint.bytes_read(), 56u + 36 + 40 + 140);
  float middle[2];
  ASSERT_TRUE(tensor->CopyBytes(40, 48, middle).ok());
  EXPECT_EQ(middle[0], m.At(1, 3));

  // Every copy of the tensor reads from elsewhere then, and the file counts nothing.
  const uint64_t before = checkpoint.bytes_read();
  const CheckpointTensor copy = *tensor;
  tensor->ReadWith([&](uint64_t offset, size_t bytes, void* dst) {
    std::memcpy(dst, reinterpret_cast<const char*>(all.data()) + offset, bytes);
    return absl::OkStatus();
  });
  all[8] = -5;
  ASSERT_TRUE(copy.CopyRows(1, 3, rows.data()).ok());
  EXPECT_EQ(rows[1], -5);
  ASSERT_TRUE(copy.CopyColumns(1, 2, columns.data()).ok());
  EXPECT_EQ(columns[1], -5);
  EXPECT_EQ(checkpoint.bytes_read(), before);
}

TEST(Checkpoint, NoticesThatAFileWasWrittenTo) {
  TempDir dir;
  const std::string path = dir.Write("model.safetensors", SafetensorsOf({{"m", 2, 2, 0}}));
  const auto checkpoint = OpenIn(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_TRUE((*checkpoint)->CheckUnchanged().ok());
  // Another file of the name, or none, changes nothing.
  std::filesystem::rename(path, path + ".old");
  dir.Write("model.safetensors", "another");
  EXPECT_TRUE((*checkpoint)->CheckUnchanged().ok());
  std::fstream(path + ".old", std::ios::in | std::ios::out).seekp(-1, std::ios::end) << 'x';
  std::filesystem::last_write_time(
      path + ".old", std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  const absl::Status changed = (*checkpoint)->CheckUnchanged();
  EXPECT_EQ(changed.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(changed.message()).find(path), std::string::npos);
}

TEST(Checkpoint, LargeCopiesOnManyThreads) {
  TempDir dir;
  const Matrix m{"m", 3000, 1001, 0};  // 12 MB: several pieces, unaligned rows
  dir.Write("model.safetensors", SafetensorsOf({m}));
  auto checkpoint = OpenIn(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  const auto tensor = (*checkpoint)->Take("m", {3000, 1001});
  ASSERT_TRUE(tensor.ok());
  std::vector<float> rows(2900 * 1001), columns(3000 * 400);
  std::thread one([&] { EXPECT_TRUE(tensor->CopyRows(100, 3000, rows.data()).ok()); });
  std::thread two([&] { EXPECT_TRUE(tensor->CopyColumns(601, 1001, columns.data()).ok()); });
  one.join();
  two.join();
  for (int64_t r = 0; r < 3000; ++r) {
    for (int64_t c = 0; c < 1001; ++c) {
      if (r >= 100) {
        ASSERT_EQ(rows[(r - 100) * 1001 + c], m.At(r, c));
      }
      if (c >= 601) {
        ASSERT_EQ(columns[r * 400 + c - 601], m.At(r, c));
      }
    }
  }
  EXPECT_EQ((*checkpoint)->bytes_read(), 4 * (rows.size() + columns.size()));
}

TEST(Checkpoint, RangesOutsideAreBrokenInvariants) {
  TempDir dir;
  dir.Write("model.safetensors", SafetensorsOf({{"m", 2, 2, 0}}));
  auto checkpoint = OpenIn(dir.path());
  const auto tensor = (*checkpoint)->Take("m", {2, 2});
  float buffer[4];
  EXPECT_DEATH((void)tensor->CopyRows(0, 3, buffer), "broken invariant");
  EXPECT_DEATH((void)tensor->CopyRows(-1, 1, buffer), "broken invariant");
  EXPECT_DEATH((void)tensor->CopyColumns(1, 3, buffer), "broken invariant");
  EXPECT_DEATH((void)tensor->CopyBlock(0, 2, 0, 2, buffer, 4), "broken invariant");
}

TEST(Checkpoint, TakesEachOnceAndChecksIt) {
  TempDir dir;
  const std::string header =
      R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},
          "ids":{"dtype":"I32","shape":[1],"data_offsets":[4,8]}})";
  dir.Write("model.safetensors", Safetensors(header, "12345678"));
  auto opened = OpenIn(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  Checkpoint& checkpoint = **opened;
  EXPECT_TRUE(checkpoint.Has("a"));
  EXPECT_FALSE(checkpoint.Has("b"));
  EXPECT_EQ((*checkpoint.Find("a"))->bytes, 4u);
  EXPECT_EQ(checkpoint.Find("b").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(checkpoint.Take("a", {1, 2}).status().message()),
              HasSubstr("tensor \"a\" shape: found [2], expected [1, 2]"));
  EXPECT_THAT(std::string(checkpoint.Take("ids", {1}).status().message()),
              HasSubstr("tensor \"ids\" dtype: found I32, expected F32, F16 or BF16"));
  EXPECT_TRUE(checkpoint.CheckPresent({{"a", {2}}}).ok());
  EXPECT_FALSE(checkpoint.CheckPresent({{"a", {3}}}).ok());
  const auto a = checkpoint.Take("a", {2});
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a->dtype(), kernels::DType::kF16);
  EXPECT_EQ(checkpoint.Take("a", {2}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(checkpoint.CheckAllUsed(kNone).message()),
              HasSubstr("tensors: found \"ids\", expected none"));
  EXPECT_TRUE(checkpoint.CheckAllUsed([](std::string_view name) { return name == "ids"; }).ok());
}

TEST(Checkpoint, NamesEightMissingTensorsAndCountsTheRest) {
  TempDir dir;
  dir.Write("model.safetensors", SafetensorsOf({{"m", 1, 1, 0}}));
  auto checkpoint = OpenIn(dir.path());
  std::vector<ExpectedTensor> expected = {{"m", {1, 1}}};
  for (int i = 0; i < 20; ++i)
    expected.push_back({std::string("x").append(std::to_string(i)), {1}});
  const absl::Status present = (*checkpoint)->CheckPresent(expected);
  EXPECT_EQ(present.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(present.message()), HasSubstr("\"x0\", "));
  EXPECT_THAT(std::string(present.message()), HasSubstr("\"x7\" and 12 more"));
  for (const ExpectedTensor& tensor : expected) {
    (void)(*checkpoint)->Take(tensor.name, tensor.shape);
  }
  EXPECT_THAT(std::string((*checkpoint)->CheckAllUsed(kNone).message()),
              HasSubstr("\"x7\" and 12 more"));
}

std::string Index(const std::string& entries) {
  return "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + entries + "}}";
}

void WriteShards(const TempDir& dir) {
  dir.Write("s1.safetensors", SafetensorsOf({{"a", 1, 2, 0}, {"b", 2, 2, 10}}));
  dir.Write("s2.safetensors", SafetensorsOf({{"c", 1, 2, 20}}));
  dir.Write("s3.safetensors", SafetensorsOf({{"d", 1, 2, 30}}));
  dir.Write("model.safetensors.index.json",
            Index(R"("a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors",
                     "d":"s3.safetensors")"));
}

TEST(Checkpoint, OpensThreeFiles) {
  TempDir dir;
  WriteShards(dir);
  auto checkpoint = OpenIn(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->file_count(), 3u);
  ASSERT_EQ((*checkpoint)->ListTensors().size(), 4u);
  const auto d = (*checkpoint)->Take("d", {1, 2});
  float values[2];
  ASSERT_TRUE(d->CopyAll(values).ok());
  EXPECT_EQ(values[1], 31);
}

TEST(Checkpoint, RefusesBadIndexes) {
  TempDir dir;
  WriteShards(dir);
  const std::string rest = R"("b":"s1.safetensors","c":"s2.safetensors","d":"s3.safetensors")";
  const auto with = [&](const std::string& entries) {
    dir.Write("model.safetensors.index.json", Index(entries));
    return Refusal(dir.path());
  };
  EXPECT_EQ(with(R"("a":"s1.safetensors",)" + rest), "opened");
  for (const char* entry :
       {"\"../s1.safetensors\"", "\"/etc/passwd\"", "\"x/s1.safetensors\"", "\"..\"", "\".\"",
        "\"\"", "\"s1\\u0000.safetensors\"", "7", "null", "\"x\\\\y\"", "[]"}) {
    EXPECT_THAT(with(std::string("\"a\":") + entry + "," + rest),
                HasSubstr("weight_map.\"a\": found "))
        << entry;
  }
  EXPECT_THAT(with(R"("a":"gone.safetensors",)" + rest), HasSubstr("found no file \"gone"));
  EXPECT_THAT(with(R"("a":"s2.safetensors",)" + rest),
              HasSubstr("weight_map.\"a\": found it in \"s1.safetensors\", expected it in"));
  EXPECT_THAT(with(R"("a":"s1.safetensors","z":"s1.safetensors",)" + rest),
              HasSubstr("weight_map.\"z\": found it in no file"));
  EXPECT_THAT(with(rest), HasSubstr("weight_map: found no \"a\""));
  EXPECT_THAT(with(R"("a":"s1.safetensors","a":"s1.safetensors",)" + rest), HasSubstr("twice"));
  EXPECT_THAT(with(""), HasSubstr("weight_map: found {}"));
  dir.Write("model.safetensors.index.json", "{}");
  EXPECT_THAT(Refusal(dir.path()), HasSubstr("weight_map: found nothing"));
  dir.Write("model.safetensors.index.json", "[]");
  EXPECT_THAT(Refusal(dir.path()), HasSubstr("weight_map: found nothing"));
  // One tensor in two files.
  WriteShards(dir);
  dir.Write("s3.safetensors", SafetensorsOf({{"d", 1, 2, 30}, {"c", 1, 2, 20}}));
  EXPECT_THAT(Refusal(dir.path()), HasSubstr("tensor \"c\": found it here and in"));
}

TEST(Checkpoint, SaysWhenThereAreNoWeights) {
  TempDir dir;
  EXPECT_THAT(Refusal(dir.path()), HasSubstr("weights: found none, expected model.safetensors"));
  dir.Write("pytorch_model.bin", "x");
  EXPECT_THAT(Refusal(dir.path()), HasSubstr("convert it to safetensors"));
}

TEST(Checkpoint, IdentityIsOfConfigAndHeaders) {
  TempDir one, two;
  const auto identity = [](const TempDir& dir) {
    const auto checkpoint = OpenIn(dir.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? (*checkpoint)->Identity() : 0;
  };
  for (const TempDir* dir : {&one, &two}) {
    dir->Write("model.safetensors", SafetensorsOf({{"m", 2, 2, 0}}));
    dir->Write("config.json", "{}");
  }
  const uint64_t base = identity(one);
  EXPECT_EQ(identity(two), base);  // where it lies does not matter
  two.Write("config.json", "{ }");
  EXPECT_NE(identity(two), base);
  two.Write("config.json", "{}");
  EXPECT_EQ(identity(two), base);
  two.Write("model.safetensors", SafetensorsOf({{"n", 2, 2, 0}}));
  EXPECT_NE(identity(two), base);
}

// Pages of the file that are in memory, by the kernel's account.
std::vector<unsigned char> Resident(const std::string& path, size_t size) {
  const int fd = open(path.c_str(), O_RDONLY);
  void* address = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((size + page - 1) / page);
  EXPECT_EQ(mincore(address, size, pages.data()), 0);
  munmap(address, size);
  close(fd);
  for (unsigned char& p : pages) p &= 1;
  return pages;
}

// Writes the page cache out and drops it for the file. False where a file
// system keeps it (tmpfs).
bool DropFromMemory(const std::string& path, size_t size) {
  const int fd = open(path.c_str(), O_RDWR);
  fsync(fd);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
  for (const unsigned char p : Resident(path, size)) {
    if (p != 0) return false;
  }
  return true;
}

TEST(Checkpoint, OnlyOwnSlicesAreReadFromDisk) {
  TempDir dir;
  // Rows of 32 KiB as in down_proj of 8B (28 KiB); a rank of 4 owns 8 KiB of each.
  constexpr int64_t kRows = 512, kColumns = 8192;
  const std::string bytes = SafetensorsOf({{"m", kRows, kColumns, 0}});
  const std::string path = dir.Write("model.safetensors", bytes);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto pages = [&] {
    size_t n = 0;
    for (const unsigned char p : Resident(path, bytes.size())) n += p;
    return n;
  };
  if (!DropFromMemory(path, bytes.size())) GTEST_SKIP() << "the page cache cannot be dropped here";

  auto checkpoint = OpenIn(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_LE(pages(), 2u) << "opening reads the header alone";
  const auto tensor = (*checkpoint)->Take("m", {kRows, kColumns});
  std::vector<float> slice(kRows * 2048);
  ASSERT_TRUE(tensor->CopyColumns(2048, 4096, slice.data()).ok());
  usleep(20000);  // what was asked for in the background has arrived
  // The tensor starts off a page boundary, so each slice of 2 pages touches 3.
  EXPECT_EQ((*checkpoint)->bytes_read(), slice.size() * sizeof(float));
  const size_t column_pages = pages();
  EXPECT_LE(column_pages, kRows * (8192 / page + 1) + 2);
  EXPECT_LT(column_pages, bytes.size() / page / 2);

  ASSERT_TRUE(DropFromMemory(path, bytes.size()));
  std::vector<float> rows(128 * kColumns);
  ASSERT_TRUE(tensor->CopyRows(128, 256, rows.data()).ok());
  usleep(20000);
  const size_t row_pages = pages();
  EXPECT_LE(row_pages, rows.size() * sizeof(float) / page + 1);

  // A looked-up row brings its own pages.
  ASSERT_TRUE(DropFromMemory(path, bytes.size()));
  std::vector<char> row(kColumns * sizeof(float));
  ASSERT_TRUE(tensor->CopyRows(300, 301, row.data()).ok());
  usleep(20000);
  EXPECT_LE(pages(), row.size() / page + 1);
  std::printf("pages in memory: columns %zu, rows %zu, one row %zu, of %zu\n", column_pages,
              row_pages, pages(), bytes.size() / page);
}

TEST(Checkpoint, HarmlessLeftovers) {
  EXPECT_TRUE(IsHarmlessLeftover("model.layers.0.self_attn.rotary_emb.inv_freq", false));
  EXPECT_TRUE(IsHarmlessLeftover("lm_head.weight", true));
  EXPECT_FALSE(IsHarmlessLeftover("lm_head.weight", false));
  EXPECT_FALSE(IsHarmlessLeftover("model.norm.weight", true));
}

TEST(Checkpoint, KvScales) {
  for (const char* name : {"kv_scale", "k_scale", "v_proj.v_scale", "q_scale", "k_zero_point"}) {
    EXPECT_TRUE(IsKvScale(std::string("model.layers.0.self_attn.") + name)) << name;
  }
  EXPECT_FALSE(IsKvScale("model.layers.0.self_attn.k_proj.weight_scale"));
  EXPECT_FALSE(IsKvScale("model.layers.0.mlp.kv_scale"));
}

TEST(Checkpoint, ATrainedModelOpens) {
  const std::string path = SharedPath("models/stories260k");
  if (path.empty()) GTEST_SKIP() << "no models beside the project";
  const auto folder = ModelFolder::Open(path);
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto config = ReadConfig(*folder);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_TRUE(config->tie_word_embeddings);
  auto checkpoint = Checkpoint::Open(*folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const TensorInfo& info : (*checkpoint)->ListTensors()) {
    EXPECT_TRUE((*checkpoint)->Take(info.name, info.shape).ok());
  }
  EXPECT_TRUE((*checkpoint)->CheckAllUsed(kNone).ok());
}

}  // namespace
}  // namespace tandem::loader
