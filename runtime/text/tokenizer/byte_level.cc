#include "runtime/text/tokenizer/byte_level.h"

#include <array>

#include "kernels/base/utf8.h"

namespace tandem::tokenizer {
namespace {

constexpr int kFirstStandIn = 0x100;
constexpr int kAlphabetEnd = kFirstStandIn + 68;

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<int, 256> code_point_of_byte{};
  std::array<int, kAlphabetEnd> byte_of_code_point{};
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int& byte : alphabet.byte_of_code_point) byte = -1;
  int next = kFirstStandIn;
  for (int byte = 0; byte < 256; ++byte) {
    const int code_point = StandsForItself(byte) ? byte : next++;
    alphabet.code_point_of_byte[byte] = code_point;
    alphabet.byte_of_code_point[code_point] = byte;
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();
static_assert(kAlphabet.code_point_of_byte[' '] == 0x120);
static_assert(kAlphabet.code_point_of_byte[0xAD] == kAlphabetEnd - 1);

}  // namespace

int ByteOfCodePoint(int32_t code_point) {
  if (code_point < 0 || code_point >= kAlphabetEnd) return -1;
  return kAlphabet.byte_of_code_point[code_point];
}

std::optional<std::string> BytesOfToken(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  while (!token.empty()) {
    const Utf8Step step = NextUtf8(token);
    const int byte = ByteOfCodePoint(step.code_point);
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    token.remove_prefix(step.length);
  }
  return bytes;
}

std::string TokenOfBytes(std::string_view bytes) {
  std::string token;
  for (const char c : bytes) {
    AppendUtf8(kAlphabet.code_point_of_byte[static_cast<uint8_t>(c)], &token);
  }
  return token;
}

}  // namespace tandem::tokenizer
