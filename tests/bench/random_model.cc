#include "tests/bench/random_model.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/loader/hf_config.h"
#include "runtime/model/model_tensors.h"

namespace tandem::bench {
namespace {

using Json = nlohmann::ordered_json;

Json Llama(int64_t hidden, int64_t ffn, int64_t layers, int64_t heads, int64_t kv_heads,
           int64_t vocab) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_act", "silu"},
          {"hidden_size", hidden},
          {"intermediate_size", ffn},
          {"max_position_embeddings", 131072},
          {"num_attention_heads", heads},
          {"num_hidden_layers", layers},
          {"num_key_value_heads", kv_heads},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"tie_word_embeddings", false},
          {"vocab_size", vocab}};
}

Json Qwen3(int64_t hidden, int64_t ffn, int64_t layers, int64_t heads, int64_t kv_heads,
           int64_t vocab) {
  Json json = Llama(hidden, ffn, layers, heads, kv_heads, vocab);
  json["architectures"] = {"Qwen3ForCausalLM"};
  json["model_type"] = "qwen3";
  json["head_dim"] = 128;
  return json;
}

const std::vector<std::pair<std::string, Json>>& Shapes() {
  static const auto* const shapes = new std::vector<std::pair<std::string, Json>>{
      {"tiny", Llama(128, 352, 2, 8, 4, 1024)},
      {"1b", Llama(2048, 8192, 16, 32, 8, 128256)},
      {"8b", Llama(4096, 14336, 32, 32, 8, 128256)},
      {"qwen3-8b", Qwen3(4096, 12288, 36, 32, 8, 151936)},
      {"14b", Qwen3(5120, 17408, 40, 40, 8, 151936)},
      {"70b", Llama(8192, 28672, 80, 64, 8, 128256)},
  };
  return *shapes;
}

absl::StatusOr<Json> ShapeOf(const RandomModelOptions& options) {
  const auto found = std::find_if(Shapes().begin(), Shapes().end(),
                                  [&](const auto& s) { return options.shape == s.first; });
  if (found == Shapes().end()) {
    return absl::InvalidArgumentError(absl::StrCat("--shape: found '", options.shape,
                                                   "', expected one of ",
                                                   absl::StrJoin(RandomModelShapes(), ", ")));
  }
  Json json = found->second;
  if (options.layers > 0) json["num_hidden_layers"] = options.layers;
  json["torch_dtype"] = options.dtype == kernels::DType::kF16 ? "float16" : "bfloat16";
  return json;
}

struct Place {
  uint64_t begin = 0, bytes = 0;  // behind the header
  bool is_norm = false;
};

// The file's start, and where its tensors lie.
std::string Header(const std::vector<loader::ExpectedTensor>& tensors, std::string_view type,
                   std::vector<Place>& places) {
  Json header;
  uint64_t offset = 0;
  for (const loader::ExpectedTensor& tensor : tensors) {
    uint64_t bytes = 2;
    for (const int64_t size : tensor.shape) bytes *= static_cast<uint64_t>(size);
    header[tensor.name] = {
        {"dtype", type}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    places.push_back({offset, bytes, tensor.name.ends_with("norm.weight")});
    offset += bytes;
  }
  std::string text = header.dump();
  text.append((64 - (text.size() + 8) % 64) % 64, ' ');
  std::string start(8, '\0');
  for (size_t i = 0; i < 8; ++i) start[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  return start + text;
}

// Values that a file repeats: of weights, and behind them those of norms.
class Pattern {
 public:
  explicit Pattern(kernels::DType dtype) : values_(kWeights + kNorms) {
    std::mt19937 random(1);
    for (size_t i = 0; i < values_.size(); ++i) {
      // Even, with the deviation of weights as they are trained, 0.02.
      const float even = (static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f) * 0.0693f;
      const float value = i < kWeights ? even : 1 + even;
      values_[i] =
          dtype == kernels::DType::kF16 ? kernels::FloatToF16(value) : kernels::FloatToBf16(value);
    }
  }
  // [begin, begin + bytes) of a tensor; bytes are even.
  void Fill(const Place& place, uint64_t begin, uint64_t bytes, std::byte* dst) const {
    const uint64_t period = 2 * (place.is_norm ? kNorms : kWeights);
    const auto* const from =
        reinterpret_cast<const std::byte*>(values_.data()) + (place.is_norm ? 2 * kWeights : 0);
    uint64_t at = (place.begin + begin) % period;
    while (bytes > 0) {
      const uint64_t n = std::min(bytes, period - at);
      std::memcpy(dst, from + at, n);
      dst += n;
      bytes -= n;
      at = 0;
    }
  }

 private:
  // Odd, so that no two rows of a matrix are alike soon.
  static constexpr uint64_t kWeights = (4 << 20) + 77, kNorms = 8191;
  std::vector<uint16_t> values_;
};

absl::Status NoRoom(uint64_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("random model: no room for ", bytes, " bytes: ",
                                                   std::strerror(errno), "; use fewer --layers"));
}

absl::Status Write(int fd, const std::string& header, const std::vector<Place>& places,
                   kernels::DType dtype, bool in_memory) {
  const uint64_t size = header.size() + places.back().begin + places.back().bytes;
  // Who writes to a mapping that has no room is killed. Memory is not taken beforehand: one
  // thread would clear all of it.
  const uint64_t memory =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  errno = ENOMEM;
  if (in_memory && size > memory) return NoRoom(size);
  if (ftruncate(fd, static_cast<off_t>(size)) != 0) return NoRoom(size);
  if (!in_memory) errno = posix_fallocate(fd, 0, static_cast<off_t>(size));
  if (!in_memory && errno != 0) return NoRoom(size);
  void* const mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) return NoRoom(size);
  auto* const file = static_cast<std::byte*>(mapped);
  std::memcpy(file, header.data(), header.size());
  const Pattern pattern(dtype);
  constexpr uint64_t kPiece = 16 << 20;
  std::vector<std::pair<const Place*, uint64_t>> pieces;
  for (const Place& place : places) {
    for (uint64_t at = 0; at < place.bytes; at += kPiece) pieces.emplace_back(&place, at);
  }
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); ++t) {
    threads.emplace_back([&] {
      for (size_t i = next++; i < pieces.size(); i = next++) {
        const auto& [place, at] = pieces[i];
        pattern.Fill(*place, at, std::min(kPiece, place->bytes - at),
                     file + header.size() + place->begin + at);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  munmap(mapped, size);
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> RandomModelShapes() {
  std::vector<std::string> names;
  for (const auto& [name, shape] : Shapes()) names.push_back(name);
  return names;
}

absl::StatusOr<RandomModel> RandomModel::Make(const RandomModelOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const Json shape, ShapeOf(options));
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelConfig config,
                          loader::ParseConfig(shape.dump(), "random model"));
  RandomModel model;
  const char* const temporary = std::getenv("TMPDIR");
  std::string folder = absl::StrCat(!options.folder.empty() ? options.folder
                                    : temporary != nullptr  ? temporary
                                                            : "/tmp",
                                    "/tandem-random-XXXXXX");
  if (mkdtemp(folder.data()) == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, ": cannot be made: ", std::strerror(errno)));
  }
  model.folder_ = folder;
  std::ofstream(folder + "/config.json") << shape.dump();
  const std::string path = folder + "/model.safetensors";
  bool in_memory = options.folder.empty();
  if (in_memory) {
    model.fd_ = memfd_create("tandem-random-model", MFD_CLOEXEC);
    const std::string at = absl::StrCat("/proc/", getpid(), "/fd/", model.fd_);
    if (model.fd_ < 0 || symlink(at.c_str(), path.c_str()) != 0) return NoRoom(0);
    // Not every system opens such a link.
    in_memory = access(path.c_str(), R_OK) == 0;
    if (!in_memory) {
      close(std::exchange(model.fd_, -1));
      unlink(path.c_str());
    }
  }
  if (!in_memory) {
    model.fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (model.fd_ < 0) return NoRoom(0);
  }
  std::vector<Place> places;
  const std::string header = Header(model::ExpectedTensors(config, nullptr),
                                    options.dtype == kernels::DType::kF16 ? "F16" : "BF16", places);
  TANDEM_RETURN_IF_ERROR(Write(model.fd_, header, places, options.dtype, in_memory));
  return model;
}

RandomModel::RandomModel(RandomModel&& other) noexcept
    : folder_(std::exchange(other.folder_, {})), fd_(std::exchange(other.fd_, -1)) {}

RandomModel::~RandomModel() {
  if (fd_ >= 0) close(fd_);
  if (folder_.empty()) return;
  for (const char* name : {"/config.json", "/model.safetensors"}) {
    unlink((folder_ + name).c_str());
  }
  rmdir(folder_.c_str());
}

}  // namespace tandem::bench
