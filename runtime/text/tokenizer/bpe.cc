#include "runtime/text/tokenizer/bpe.h"

#include <algorithm>
#include <array>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "runtime/text/tokenizer/byte_level.h"

namespace tandem::tokenizer {
namespace {

// Up to here looking at all pairs for each merge is faster than a queue.
constexpr size_t kShortWord = 48;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

int32_t ResultOf(uint64_t merge) { return static_cast<int32_t>(merge & 0xFFFFFFFF); }

// Views of the two tokens of a merge, "a b" or ["a", "b"].
absl::StatusOr<std::pair<std::string_view, std::string_view>> SplitMerge(const json::Field& merges,
                                                                         size_t i) {
  const nlohmann::json& merge = merges.value()[i];
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return std::make_pair(text.substr(0, space), text.substr(space + 1));
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
             merge[1].is_string()) {
    return std::make_pair(std::string_view(merge[0].get_ref<const std::string&>()),
                          std::string_view(merge[1].get_ref<const std::string&>()));
  }
  return merges.At(i).Unexpected("two tokens, as \"A B\" or [\"A\", \"B\"]");
}

}  // namespace

absl::StatusOr<Bpe> Bpe::FromJson(const json::Field& field, BpeAlphabet alphabet) {
  Bpe bpe;
  bpe.alphabet_ = alphabet;
  TANDEM_RETURN_IF_ERROR(bpe.ReadSettings(field));
  TANDEM_ASSIGN_OR_RETURN(const json::Field vocab, field.Get("vocab"));
  TANDEM_RETURN_IF_ERROR(bpe.ReadVocab(vocab));
  TANDEM_ASSIGN_OR_RETURN(const json::Field merges, field.Get("merges"));
  TANDEM_RETURN_IF_ERROR(bpe.ReadMerges(merges));
  TANDEM_RETURN_IF_ERROR(bpe.FindFallback(field));
  if (!bpe.unknown_token_.empty()) {
    // A name that is not in the vocabulary is none: files of GPT-2's time carry "" or leftovers.
    bpe.unknown_id_ = bpe.IdOf(bpe.unknown_token_).value_or(-1);
  }
  return bpe;
}

absl::Status Bpe::CheckType(const json::Field& field) {
  // Files of GPT-2's time have no type; a vocabulary and merges are BPE.
  if (!field.Find("type")) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, field.Type());
  if (type == "BPE") return absl::OkStatus();
  return field.Error(absl::StrCat("found type ", json::Quoted(type), ", expected BPE"));
}

absl::Status Bpe::ReadSettings(const json::Field& field) {
  TANDEM_RETURN_IF_ERROR(CheckType(field));
  TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 10>{
      "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
      "byte_fallback", "ignore_merges", "vocab", "merges"}));
  if (const auto dropout = field.Find("dropout")) {
    if (!dropout->value().is_number() || dropout->value().get<double>() != 0) {
      return dropout->Unexpected("null or 0: encoding must not depend on chance");
    }
  }
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = field.Find(key);
    if (!affix) continue;
    TANDEM_ASSIGN_OR_RETURN(const std::string_view text, affix->AsString());
    if (!text.empty()) return affix->Unexpected("null: affixes of tokens are not supported");
  }
  TANDEM_ASSIGN_OR_RETURN(ignore_merges_, field.BoolOr("ignore_merges", false));
  TANDEM_ASSIGN_OR_RETURN(fuse_unknown_, field.BoolOr("fuse_unk", false));
  if (const auto unknown = field.Find("unk_token")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view token, unknown->AsString());
    unknown_token_ = std::string(token);
  }
  return absl::OkStatus();
}

absl::Status Bpe::FindFallback(const json::Field& field) {
  TANDEM_ASSIGN_OR_RETURN(const bool byte_fallback, field.BoolOr("byte_fallback", false));
  if (!byte_fallback) return absl::OkStatus();
  if (alphabet_ == BpeAlphabet::kBytes) {
    // To the reference a missing byte is then the bytes of the character that stands for it.
    if (std::count(byte_ids_.begin(), byte_ids_.end(), -1) == 0) return absl::OkStatus();
    return field.Error(
        "byte_fallback: found true beside ByteLevel and a vocabulary that lacks bytes, expected "
        "false");
  }
  fallback_.reserve(256);
  for (int byte = 0; byte < 256; ++byte) {
    fallback_.push_back(IdOf(absl::StrFormat("<0x%02X>", byte)).value_or(-1));
  }
  return absl::OkStatus();
}

std::optional<std::string> Bpe::Spelled(std::string_view token) const {
  if (alphabet_ == BpeAlphabet::kCharacters) return std::string(token);
  return BytesOfToken(token);
}

absl::Status Bpe::ReadVocab(const json::Field& vocab) {
  const nlohmann::json& entries = vocab.value();
  if (!entries.is_object()) return vocab.Unexpected("an object of tokens and ids");
  if (entries.size() > static_cast<size_t>(kIdLimit)) {
    return vocab.Error(
        absl::StrCat("found ", entries.size(), " tokens, expected at most ", kIdLimit));
  }
  // Two passes: views into bytes_ must not move.
  std::vector<bool> in_alphabet;
  for (const auto& [token, id_value] : entries.items()) {
    const json::Field id_field(id_value,
                               absl::StrCat(vocab.place(), "[", json::Quoted(token), "]"));
    TANDEM_ASSIGN_OR_RETURN(const int32_t id, id_field.AsId(kIdLimit));
    if (id >= id_limit()) {
      tokens_.resize(id + 1);
      in_alphabet.resize(id + 1);
    }
    Token& entry = tokens_[id];
    if (entry.exists) {
      return id_field.Error(absl::StrCat("found id ", id, ", which ", json::Quoted(View(entry)),
                                         " has already, expected one token an id"));
    }
    const std::optional<std::string> bytes = Spelled(token);
    const std::string_view stored = bytes ? *bytes : std::string_view(token);
    if (bytes_.size() + stored.size() > UINT32_MAX) {
      return vocab.Error("found more than 4 GiB of tokens, expected less");
    }
    entry = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(stored.size()), true};
    in_alphabet[id] = bytes.has_value();
    bytes_.insert(bytes_.end(), stored.begin(), stored.end());
  }
  id_of_bytes_.reserve(entries.size());
  byte_ids_.assign(256, -1);
  for (int32_t id = 0; id < id_limit(); ++id) {
    if (!tokens_[id].exists) continue;
    const std::string_view bytes = View(tokens_[id]);
    if (!in_alphabet[id]) {
      id_of_other_.emplace(bytes, id);
      continue;
    }
    id_of_bytes_.emplace(bytes, id);
    if (bytes.size() == 1) byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
  }
  word_states_ = std::make_unique<std::atomic<uint8_t>[]>(tokens_.size());
  return absl::OkStatus();
}

absl::Status Bpe::ReadMerges(const json::Field& merges) {
  TANDEM_RETURN_IF_ERROR(merges.CheckArray());
  const size_t count = merges.value().size();
  if (count > UINT32_MAX) return merges.Error("found more than 2^32 merges, expected fewer");
  merges_.reserve(count);
  uint64_t rank = 0;
  std::string result;
  for (size_t i = 0; i < count; ++i) {
    const nlohmann::json& merge = merges.value()[i];
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    TANDEM_ASSIGN_OR_RETURN(const auto pair, SplitMerge(merges, i));
    result.assign(pair.first);
    result.append(pair.second);
    std::array<int32_t, 3> ids;
    const std::array<std::string_view, 3> tokens = {pair.first, pair.second, result};
    for (size_t part = 0; part < tokens.size(); ++part) {
      const std::optional<int32_t> id = IdOf(tokens[part]);
      if (!id) {
        return merges.At(i).Error(absl::StrCat("found ", json::Quoted(tokens[part]),
                                               ", which model.vocab lacks, expected a token"));
      }
      ids[part] = *id;
    }
    // Of a pair that is listed twice the last rank counts, as in the reference.
    merges_[PairKey(ids[0], ids[1])] = rank++ << 32 | static_cast<uint32_t>(ids[2]);
  }
  return absl::OkStatus();
}

bool Bpe::HasAllBytes() const {
  return std::all_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t id) { return id >= 0; });
}

std::optional<int32_t> Bpe::IdOf(std::string_view token) const {
  if (const std::optional<std::string> bytes = Spelled(token)) {
    const auto found = id_of_bytes_.find(std::string_view(*bytes));
    if (found == id_of_bytes_.end()) return std::nullopt;
    return found->second;
  }
  const auto found = id_of_other_.find(absl::string_view(token.data(), token.size()));
  if (found == id_of_other_.end()) return std::nullopt;
  return found->second;
}

Bpe::Merge Bpe::MergeOf(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? kNoMerge : found->second;
}

size_t Bpe::Encode(std::string_view word, std::vector<int32_t>* ids) const {
  TANDEM_CHECK(word.size() < (uint64_t{1} << 31));
  std::atomic<uint8_t>* state = nullptr;
  if (const auto found = id_of_bytes_.find(word); found != id_of_bytes_.end() && !word.empty()) {
    state = &word_states_[found->second];
    if (ignore_merges_ || state->load(std::memory_order_relaxed) == kOneToken) {
      ids->push_back(found->second);
      return 0;
    }
  }
  std::vector<int32_t> symbols;
  const size_t left_out = Symbols(word, &symbols);
  if (symbols.size() <= kShortWord) {
    MergeShort(&symbols);
  } else {
    MergeLong(&symbols);
  }
  if (state != nullptr) {
    const bool is_token = symbols.size() == 1 && symbols[0] == state - word_states_.get();
    state->store(is_token ? kOneToken : kManyTokens, std::memory_order_relaxed);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.end());
  return left_out;
}

int32_t Bpe::SymbolOf(std::string_view character) const {
  if (character.size() == 1) return byte_ids_[static_cast<uint8_t>(character[0])];
  const auto found = id_of_bytes_.find(character);
  return found == id_of_bytes_.end() ? -1 : found->second;
}

size_t Bpe::Symbols(std::string_view word, std::vector<int32_t>* symbols) const {
  symbols->reserve(word.size());
  size_t left_out = 0;
  bool pending_unknown =
      false;  // the reference adds an unknown token late, after fallen back bytes
  const auto add_unknown = [&] {
    if (std::exchange(pending_unknown, false)) symbols->push_back(unknown_id_);
  };
  while (!word.empty()) {
    const size_t length = alphabet_ == BpeAlphabet::kBytes ? 1 : NextUtf8(word).length;
    const std::string_view character = word.substr(0, length);
    word.remove_prefix(length);
    if (const int32_t id = SymbolOf(character); id >= 0) {
      add_unknown();
      symbols->push_back(id);
      continue;
    }
    const auto has_fallback = [this](char byte) {
      return fallback_[static_cast<uint8_t>(byte)] >= 0;
    };
    if (!fallback_.empty() && std::all_of(character.begin(), character.end(), has_fallback)) {
      for (const char byte : character) symbols->push_back(fallback_[static_cast<uint8_t>(byte)]);
    } else if (unknown_id_ < 0) {
      left_out += length;
    } else if (!pending_unknown) {
      pending_unknown = true;
    } else if (!fuse_unknown_) {
      symbols->push_back(unknown_id_);  // the one before; this one is pending
    }
  }
  add_unknown();
  return left_out;
}

void Bpe::MergeShort(std::vector<int32_t>* symbols) const {
  std::vector<int32_t>& ids = *symbols;
  size_t count = ids.size();
  std::array<Merge, kShortWord> merges;  // of symbol i with i + 1
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = MergeOf(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i] < merges[best]) best = i;
    }
    if (merges[best] == kNoMerge) break;
    ids[best] = ResultOf(merges[best]);
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      ids[i] = ids[i + 1];
      if (i + 1 < count) merges[i] = merges[i + 1];
    }
    if (best > 0) merges[best - 1] = MergeOf(ids[best - 1], ids[best]);
    if (best + 1 < count) merges[best] = MergeOf(ids[best], ids[best + 1]);
  }
  ids.resize(count);
}

void Bpe::MergeLong(std::vector<int32_t>* symbols) const {
  // Symbols as a doubly linked list over their first positions; -1 ends it.
  struct Node {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    Merge merge;
    int32_t at;  // the left symbol
    bool operator>(const Candidate& other) const {
      return merge != other.merge ? merge > other.merge : at > other.at;
    }
  };
  const int32_t count = static_cast<int32_t>(symbols->size());
  std::vector<Node> nodes(count);
  for (int32_t i = 0; i < count; ++i) {
    nodes[i] = {(*symbols)[i], i - 1, i + 1 < count ? i + 1 : -1};
  }
  std::vector<Candidate> candidates;
  candidates.reserve(count);
  for (int32_t i = 0; i + 1 < count; ++i) {
    const Merge merge = MergeOf(nodes[i].id, nodes[i + 1].id);
    if (merge != kNoMerge) candidates.push_back({merge, i});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(
      std::greater<>(), std::move(candidates));
  const auto push = [&](int32_t left) {
    if (left < 0 || nodes[left].next < 0) return;
    const Merge merge = MergeOf(nodes[left].id, nodes[nodes[left].next].id);
    if (merge != kNoMerge) queue.push({merge, left});
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Node& left = nodes[top.at];
    // Stale: one of the two was merged with another since. A merged-away symbol has id -1.
    if (left.id < 0 || left.next < 0) continue;
    Node& right = nodes[left.next];
    if (MergeOf(left.id, right.id) != top.merge) continue;
    left.id = ResultOf(top.merge);
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) nodes[left.next].previous = top.at;
    push(left.previous);
    push(top.at);
  }
  size_t kept = 0;
  for (int32_t at = 0; at >= 0 && count > 0; at = nodes[at].next) (*symbols)[kept++] = nodes[at].id;
  symbols->resize(kept);
}

}  // namespace tandem::tokenizer
