// JSON text from outside, as a DOM that is safe to walk and to destroy.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::json {

// Parses one JSON value that must be the whole of `text` (UTF-8; spaces around it are allowed).
// `name` is the file or field that error messages begin with; it is not opened.
//
// Stricter than nlohmann::json::parse, which keeps the last of two equal keys, takes a NUL for the
// end, follows any nesting, and throws. InvalidArgument, one line, "NAME: byte OFFSET: WHAT", for
//   - a syntax error, a number beyond double, invalid UTF-8, bytes after the value (a NUL too);
//   - a key that appears twice in one object (named);
//   - arrays and objects nested deeper than `max_depth` (refused when the level opens, so that
//     depth costs neither stack nor memory).
// No exception leaves this function. The caller still has to check types before get<>():
// nlohmann silently turns -1 into 2^64 - 1 and 1.9 into 1.
absl::StatusOr<nlohmann::json> Parse(std::string_view text, std::string_view name,
                                     int max_depth = 64);

// The keys of an object in the order of the text, which the DOM does not keep. `path` leads to the
// object: each name is a member of the object before, starting at the text's own object. Empty
// where there is no such object. Only for text that Parse accepts.
std::vector<std::string> KeysInOrder(std::string_view text,
                                     std::initializer_list<std::string_view> path);

}  // namespace tandem::json
