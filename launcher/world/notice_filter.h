// mpirun's stderr, made fit for people: its framed notices about a world that ended are taken out
// and read, because they alone know which rank on which host was the first to go. All else, the
// ranks' own lines among it, passes unchanged.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem::launcher {

// The first rank that ended a world.
struct RankEnd {
  int rank = 0;
  std::string host;  // empty where mpirun does not say
  int signal = 0;    // 0: it exited
};

class NoticeFilter {
 public:
  // The part of the stream that may be shown now. Lines are kept until they are whole,
  // but for those that begin with a carriage return.
  std::string Feed(std::string_view bytes);
  // What is left at the end of the stream.
  std::string Finish();

  const std::optional<RankEnd>& rank_end() const { return rank_end_; }

 private:
  void TakeLine(std::string_view line, std::string* out);
  // True where the notice is one that we tell in our own words.
  bool Read(const std::string& notice);

  std::string partial_;  // the last line, without its end yet
  std::string notice_;   // the open notice with its frame
  bool in_notice_ = false;
  std::optional<RankEnd> rank_end_;
};

}  // namespace tandem::launcher
