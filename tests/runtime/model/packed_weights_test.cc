// Weights that were packed once, whole: ranks of every degree load their part of one file and
// compute with the bits that packing from the checkpoint gives.
#include "runtime/model/packed_weights.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>

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
            const std::string& packed = "", const std::string& key = "", bool stream = false) {
  Loaded loaded;
  loaded.bytes_read.resize(tp);
  loaded.bytes.resize(tp);
  const testing::WorldOptions options = {.tp = tp,
                                         .threads = 2,
                                         .weights = weights,
                                         .packed = packed,
                                         .packed_key = key,
                                         .layers = stream ? LayersIn::kFile : LayersIn::kMemory};
  const absl::Status status = testing::RunWorld(folder, options, [&](testing::Rank& rank) {
    testing::Sequence sequence;
    for (int32_t i = 0; i < 20; ++i) sequence.ids.push_back(3 + i * 5 % 60);
    sequence.blocks = {0, 1};
    testing::Step step;
    step.Add(sequence, 20);
    if (stream) rank.Forward(step);  // and again, from the first layer
    const std::vector<float> logits = rank.Forward(step);
    loaded.bytes[rank.index] = rank.decoder.bytes();
    loaded.bytes_read[rank.index] = rank.decoder.bytes_read();
    if (rank.index == 0) loaded.logits = logits;
  });
  EXPECT_TRUE(status.ok()) << status;
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
    const Loaded expected = Load(folder, 1, *weights);
    for (const int tp : {1, 2, 3, 5}) {
      const Loaded found = Load(folder, tp, *weights, path, key);
      EXPECT_EQ(found.logits, expected.logits) << model << " at TP " << tp;
      // Every matrix came from the file.
      EXPECT_GE(std::accumulate(found.bytes_read.begin(), found.bytes_read.end(), uint64_t{0}),
                std::filesystem::file_size(path) / 2)
          << model;

      const Loaded streamed = Load(folder, tp, *weights, path, key, true);
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
        EXPECT_EQ(streamed.bytes[rank].embedding, 0u);
        EXPECT_EQ(planned.embedding, 0u);
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

// A file of the right key and right digests that lacks what loading reads, as another build may
// have made it.
TEST(PackedWeightsFile, HasAllBytes) {
  const auto folder = loader::ModelFolder::Open(SourcePath("tests/golden/logits/llama_gqa"));
  const auto config = loader::ReadConfig(*folder);
  const auto backend = *kernels::MakeCpuBackend("auto", {});
  const auto checkpoint = *loader::Checkpoint::Open(*folder);
  const loader::TempDir dir;
  const std::string path = dir / "weights";
  const auto check = [&] {
    const auto packed = loader::PackedFile::Open(path, "k");
    EXPECT_TRUE(packed.ok()) << packed.status();
    return CheckPackedWeights(*config, *checkpoint, {}, *backend, **packed);
  };
  {
    auto writer = *loader::PackedFileWriter::Create(path, "k");
    const auto taken = *loader::Checkpoint::Open(*folder);
    ASSERT_TRUE(WritePackedWeights(*config, *taken, {}, *backend, writer).ok());
    ASSERT_TRUE(writer.Finish().ok());
  }
  EXPECT_TRUE(check().ok()) << check();
  {
    auto writer = *loader::PackedFileWriter::Create(path, "k");
    const auto taken = *loader::Checkpoint::Open(*folder);
    const auto embedding = TakeMatrix(*config, *taken, EmbeddingModule(*config));
    ASSERT_TRUE(WriteEmbedding(*embedding, writer).ok());
    ASSERT_TRUE(writer.Finish().ok());
  }
  EXPECT_THAT(std::string(check().message()), ::testing::HasSubstr("found 0 bytes, expected"));
  ASSERT_TRUE(loader::PackedFileWriter::Create(path, "k")->Finish().ok());
  EXPECT_THAT(std::string(check().message()),
              ::testing::HasSubstr("embedding model.embed_tokens.weight: found none"));
}

// Every page of a file is checked by the ranks that read it, in whatever way they do.
TEST(PackedWeightsFile, ADamageAnywhereIsFound) {
  const std::string folder = SourcePath("tests/golden/logits/llama_gqa");
  const auto backend = *kernels::MakeCpuBackend("auto", {.threads = 2});
  const auto model_folder = loader::ModelFolder::Open(folder);
  const auto config = loader::ReadConfig(*model_folder);
  const loader::TempDir dir;
  const std::string path = dir / "weights";
  {
    auto writer = *loader::PackedFileWriter::Create(path, "k");
    const auto taken = *loader::Checkpoint::Open(*model_folder);
    ASSERT_TRUE(WritePackedWeights(*config, *taken, {}, *backend, writer).ok());
    ASSERT_TRUE(writer.Finish().ok());
  }
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto flip = [&](uint64_t at) {
    char byte;
    file.seekg(static_cast<std::streamoff>(at)).read(&byte, 1);
    byte = static_cast<char>(byte ^ 16);
    file.seekp(static_cast<std::streamoff>(at)).write(&byte, 1).flush();
  };
  const uint64_t size = std::filesystem::file_size(path);
  // In each page of entries and padding, in another place each time; then table and footer.
  for (uint64_t at = 4096, page = 0; at + 4096 < size; at += 4096, ++page) {
    const uint64_t place = at + page * 1237 % 4096;
    flip(place);
    for (const bool stream : {false, true}) {
      const absl::Status status =
          testing::RunWorld(folder,
                            {.tp = page % 3 == 0 ? 2 : 1,
                             .packed = path,
                             .packed_key = "k",
                             .layers = stream ? LayersIn::kFile : LayersIn::kMemory},
                            [](testing::Rank&) { ADD_FAILURE() << "loaded"; });
      EXPECT_FALSE(status.ok()) << place << (stream ? " streamed" : "");
      EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(path)) << place;
    }
    flip(place);
  }
  EXPECT_TRUE(testing::RunWorld(folder, {.packed = path, .packed_key = "k"}, [](auto&) {}).ok());
}

// While a world streams, somebody overwrites or cuts the file: the step fails and names it.
TEST(PackedWeightsFile, ADamageWhileItStreamsFailsTheStep) {
  const std::string folder = SourcePath("tests/golden/logits/llama_gqa");
  const auto backend = *kernels::MakeCpuBackend("auto", {.threads = 2});
  const auto model_folder = loader::ModelFolder::Open(folder);
  const auto config = loader::ReadConfig(*model_folder);
  for (const bool cut : {false, true}) {
    for (const int tp : {1, 2}) {
      const loader::TempDir dir;
      const std::string path = dir / "weights";
      auto writer = *loader::PackedFileWriter::Create(path, "k");
      const auto taken = *loader::Checkpoint::Open(*model_folder);
      ASSERT_TRUE(WritePackedWeights(*config, *taken, {}, *backend, writer).ok());
      ASSERT_TRUE(writer.Finish().ok());
      const absl::Status status = testing::RunWorld(
          folder, {.tp = tp, .packed = path, .packed_key = "k", .layers = LayersIn::kFile},
          [&](testing::Rank& rank) {
            testing::Sequence sequence;
            for (int32_t i = 0; i < 20; ++i) sequence.ids.push_back(3 + i);
            sequence.blocks = {0, 1};
            testing::Step step;
            step.Add(sequence, 20);
            std::vector<float> logits(step.rows.size() * rank.decoder.config().vocab_size);
            ASSERT_TRUE(rank.decoder.Forward(step.Input(), logits.data()).ok());
            ASSERT_TRUE(rank.control.Barrier().ok());
            if (rank.index == 0) {
              const auto size = std::filesystem::file_size(path);
              if (cut) std::filesystem::resize_file(path, 8192);
              if (!cut)
                std::ofstream(path, std::ios::binary | std::ios::in).seekp(4096)
                    << std::string(size - 4096, 'x');
            }
            ASSERT_TRUE(rank.control.Barrier().ok());
            const absl::Status failed = rank.decoder.Forward(step.Input(), logits.data());
            EXPECT_EQ(failed.code(), absl::StatusCode::kDataLoss) << failed;
            EXPECT_THAT(std::string(failed.message()), ::testing::HasSubstr(path));
          });
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

}  // namespace
}  // namespace tandem::model
