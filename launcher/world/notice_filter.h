// Reads mpirun's stderr (Open MPI 4.1). Its framed notices about the end of a world are taken out
// and parsed: they alone name the rank that ended first, and its host. Everything else passes
// unchanged, the ranks' own lines too.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem::launcher {

// The first rank that ended a world.
struct RankEnd {
  int rank = 0;
  std::string host;  // empty where mpirun does not name it
  int signal = 0;    // 0: it exited
  bool operator==(const RankEnd&) const = default;
};

class NoticeFilter {
 public:
  // Takes the next bytes of the stream and returns what may be shown now. A line is kept until it
  // is whole, unless it begins with a carriage return.
  std::string Feed(std::string_view bytes);
  // Returns what is left at the end of the stream.
  std::string Finish();

  const std::optional<RankEnd>& rank_end() const { return rank_end_; }

 private:
  void TakeLine(std::string_view line, std::string* out);
  // True for a notice that the launcher reports in its own words.
  bool Read(const std::string& notice);

  std::string partial_;  // the last line, without its end yet
  std::string notice_;   // the open notice with its frame
  bool in_notice_ = false;
  std::optional<RankEnd> rank_end_;
};

}  // namespace tandem::launcher
