// The patterns in tokenizer.json are written for Oniguruma; here PCRE2 matches them.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::tokenizer {

// Rewrites an Oniguruma pattern so that PCRE2, with UTF, UCP, MULTILINE and newline LF, matches
// the same text:
//   \s \S      \p{White_Space} and its complement, in classes too: PCRE2's own \s with UCP takes
//              the general category, and so differs at U+180E
//   \w \d      the properties that Oniguruma gives them: PCRE2's \w has no marks
//   \p{Han}    \p{sc:Han}: PCRE2 would take the script extensions
//   \v \uHHHH  the character (PCRE2's \v is a class)
//   \b \B \h \R what Oniguruma has: PCRE2's \b goes by its own \w, its \h is white space
//   [a[^b]]     classes in classes, and with &&: patterns of one character that look ahead
// InvalidArgument, naming the construct and its byte offset, for what the two read differently
// and no tokenizer needs: [:name:], \X \K \G, back references, {n}+ {n}? {,n}, conditions,
// recursion, verbs, options other than i.
// Sources: Oniguruma doc/RE, pcre2pattern(3).
absl::StatusOr<std::string> ToPcre2(std::string_view pattern);

}  // namespace tandem::tokenizer
