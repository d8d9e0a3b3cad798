// Weights that were packed once, whole: ranks of every degree load their part of one file and
// compute with the bits that packing from the checkpoint gives.
#include "runtime/model/packed_weights.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/loader/temp_dir.h"
#include "tests/support/model_world.h"

namespace tandem::model {
namespace {

struct Loaded {
  std::vector<float> logits;
  std::vector<uint64_t> bytes_read;  // by rank
  std::vector<DecoderBytes> bytes;
};

Loaded Load(const std::string& folder, int tp, const WeightRequests& weights,
            const loader::PackedFile* packed, bool stream = false) {
  Loaded loaded;
  loaded.bytes_read.resize(tp);
  loaded.bytes.resize(tp);
  const testing::WorldOptions options = {.tp = tp,
                                         .threads = 2,
                                         .weights = weights,
                                         .packed = packed,
                                         .layers = stream ? LayersIn::kFile : LayersIn::kMemory};
  const uint64_t before = packed == nullptr ? 0 : packed->bytes_read();
  const absl::Status status = testing::RunWorld(folder, options, [&](testing::Rank& rank) {
    testing::Sequence sequence;
    for (int32_t i = 0; i < 20; ++i) sequence.ids.push_back(3 + i * 5 % 60);
    sequence.blocks = {0, 1};
    testing::Step step;
    step.Add(sequence, 20);
    if (stream) rank.Forward(step);  // and again, from the first layer
    const std::vector<float> logits = rank.Forward(step);
    loaded.bytes[rank.index] = rank.decoder.bytes();
    if (rank.index == 0) loaded.logits = logits;
  });
  EXPECT_TRUE(status.ok()) << status;
  if (packed != nullptr) loaded.bytes_read[0] = packed->bytes_read() - before;
  return loaded;
}

class PackedWeights : public ::testing::TestWithParam<const char*> {};

TEST_P(PackedWeights, ServeEveryDegree) {
  for (const char* model : {"logits/llama_gqa", "logits/qwen3_tied", "logits/llama_ffn_172",
                            "logits/llama_biases", "quantized/ct_mixed"}) {
    const std::string folder = SourcePath(std::string("tests/golden/") + model);
    const auto weights = WeightRequests::Parse(GetParam(), 0, "auto");
    ASSERT_TRUE(weights.ok()) << weights.status();
    const loader::TempDir dir;
    const std::string path = dir / "weights";
    const auto backend = *kernels::MakeCpuBackend("auto", {.threads = 2});
    const auto model_folder = loader::ModelFolder::Open(folder);
    const auto config = loader::ReadConfig(*model_folder);
    const auto checkpoint = *loader::Checkpoint::Open(*model_folder);
    const std::string key = *PackedKey(*checkpoint, *weights, *backend);
    {
      auto writer = *loader::PackedFileWriter::Create(path, key);
      const absl::Status written =
          WritePackedWeights(*config, *checkpoint, *weights, *backend, writer);
      ASSERT_TRUE(written.ok()) << written;
      ASSERT_TRUE(writer.Finish().ok());
    }
    const auto packed = loader::PackedFile::Open(path, key);
    ASSERT_TRUE(packed.ok()) << packed.status();
    const Loaded expected = Load(folder, 1, *weights, nullptr);
    for (const int tp : {1, 2, 3, 5}) {
      const Loaded found = Load(folder, tp, *weights, packed->get());
      EXPECT_EQ(found.logits, expected.logits) << model << " at TP " << tp;
      // Every matrix came from the file.
      EXPECT_GE(found.bytes_read[0], std::filesystem::file_size(path) / 2) << model;

      const Loaded streamed = Load(folder, tp, *weights, packed->get(), true);
      EXPECT_EQ(streamed.logits, expected.logits) << model << " streamed at TP " << tp;
      size_t streamed_bytes = 0;  // a rank of many may have none
      const auto shards = parallel::ShardPlan::Make(ShapeOf(*config), std::vector<int64_t>(tp, 1));
      for (int rank = 0; rank < tp; ++rank) {
        DecoderOptions options = {
            .weights = *weights, .packed = packed->get(), .layers = LayersIn::kFile};
        options.max_tokens = options.max_rows = 1;
        const DecoderBytes planned =
            Decoder::Plan(*config, *checkpoint, shards, rank, *backend, options);
        EXPECT_EQ(streamed.bytes[rank].weights, planned.weights) << model << " at TP " << tp;
        EXPECT_EQ(streamed.bytes[rank].present, planned.present) << model << " at TP " << tp;
        EXPECT_EQ(streamed.bytes[rank].streamed, planned.streamed) << model << " at TP " << tp;
        streamed_bytes += planned.streamed;
      }
      EXPECT_GT(streamed_bytes, 0u) << model << " at TP " << tp;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedWeights, ::testing::Values("auto", "bf16", "int8", "int4"),
                         [](const auto& info) { return std::string(info.param); });

TEST(PackedWeightsKey, TellsFormatsApart) {
  const auto folder = loader::ModelFolder::Open(SourcePath("tests/golden/logits/llama_gqa"));
  const auto checkpoint = *loader::Checkpoint::Open(*folder);
  const auto backend = *kernels::MakeCpuBackend("auto", {});
  const auto key = [&](const char* dtype, int64_t group, const char* head) {
    return *PackedKey(*checkpoint, *WeightRequests::Parse(dtype, group, head), *backend);
  };
  EXPECT_EQ(key("int4", 32, "auto"), key("int4", 32, "int8"));
  EXPECT_NE(key("int4", 32, "auto"), key("int4", 64, "auto"));
  EXPECT_NE(key("int4", 32, "auto"), key("int8", 32, "auto"));
  EXPECT_NE(key("int4", 32, "auto"), key("int4", 32, "bf16"));
}

// Fine-tunes of one model have equal config.json, headers and sizes, and times that were made equal
// differ neither; one tensor may be all that does.
TEST(PackedWeightsKey, TellsFineTunesApart) {
  namespace fs = std::filesystem;
  const std::string source = SourcePath("tests/golden/logits/llama_gqa");
  const auto backend = *kernels::MakeCpuBackend("auto", {});
  const auto key = [&](const std::string& folder) {
    const auto checkpoint = *loader::Checkpoint::Open(*loader::ModelFolder::Open(folder));
    return *PackedKey(*checkpoint, {}, *backend);
  };
  const auto checkpoint = *loader::Checkpoint::Open(*loader::ModelFolder::Open(source));
  for (const loader::TensorInfo& info : checkpoint->ListTensors()) {
    const loader::TempDir dir;
    fs::copy(source, dir.path(), fs::copy_options::recursive);
    const std::string before = key(dir.path());
    const fs::path file =
        dir / fs::path(checkpoint->file(info.file).file().path()).filename().string();
    const auto time = fs::last_write_time(file);
    {
      std::fstream bytes(file, std::ios::binary | std::ios::in | std::ios::out);
      bytes.seekp(static_cast<std::streamoff>(info.offset));
      bytes << std::string(info.bytes, '\x3b');
      ASSERT_TRUE(bytes.flush().good());
    }
    fs::last_write_time(file, time);
    EXPECT_NE(key(dir.path()), before) << info.name;
  }
}

// As a file of another build or a hostile one has it: of the right key and layout, but not all that
// loading reads.
TEST(PackedWeightsFile, HasAllBytes) {
  const auto folder = loader::ModelFolder::Open(SourcePath("tests/golden/logits/llama_gqa"));
  const auto config = loader::ReadConfig(*folder);
  const auto backend = *kernels::MakeCpuBackend("auto", {});
  const auto checkpoint = *loader::Checkpoint::Open(*folder);
  const loader::TempDir dir;
  const std::string path = dir / "weights";
  {
    auto writer = *loader::PackedFileWriter::Create(path, "k");
    const auto taken = *loader::Checkpoint::Open(*folder);
    ASSERT_TRUE(WritePackedWeights(*config, *taken, {}, *backend, writer).ok());
    ASSERT_TRUE(writer.Finish().ok());
  }
  const auto check = [&] {
    const auto packed = loader::PackedFile::Open(path, "k");
    EXPECT_TRUE(packed.ok()) << packed.status();
    return CheckPackedWeights(*config, *checkpoint, {}, *backend, **packed);
  };
  EXPECT_TRUE(check().ok()) << check();
  std::ifstream file(path, std::ios::binary);
  const std::string whole(std::istreambuf_iterator<char>(file), {});
  const size_t footer = whole.rfind("{\"key\"");
  const size_t entry = whole.find("layers.1.mlp.down_proj.weight", footer);
  ASSERT_NE(entry, whole.npos);
  const auto with = [&](size_t at, const std::string& text) {
    std::string changed = whole;
    dir.Write("weights", changed.replace(at, text.size(), text));
    return std::string(check().message());
  };
  EXPECT_THAT(with(entry, "layers.9"), ::testing::HasSubstr("found 0 bytes, expected"));
  const size_t bytes = whole.rfind("\"bytes\":", entry) + 8;
  std::string fewer(whole.find_first_not_of("0123456789", bytes) - bytes, ' ');
  fewer[0] = '4';
  EXPECT_THAT(with(bytes, fewer), ::testing::HasSubstr("found 4 bytes, expected"));
}

}  // namespace
}  // namespace tandem::model
