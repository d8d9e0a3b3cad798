// Run under mpirun: every collective against what one process computes alone.
// Exits non-zero with a line that says what differs.
#include <cstdio>
#include <cstring>
#include <random>

#include "parallel/mpi_world.h"

using namespace tandem;  // a program of one file

namespace {

int failures = 0;

void Expect(bool condition, const char* what, int64_t count) {
  if (condition) return;
  std::fprintf(stderr, "mpi_collectives: %s differs for %lld elements\n", what,
               static_cast<long long>(count));
  ++failures;
}

}  // namespace

int main() {
  auto world = parallel::MpiWorld::Start();
  if (!world.ok()) return 1;
  const int rank = (*world)->rank(), size = (*world)->size();
  const auto communicator = (*world)->MakeCommunicator();

  constexpr int64_t kLeaves = 43;
  std::vector<kernels::LeafRange> owned;
  for (int r = 0; r < size; ++r) owned.push_back({kLeaves * r / size, kLeaves * (r + 1) / size});
  const auto layout = parallel::TreeLayout::Make(kLeaves, owned);
  for (int64_t count : {1, 7, 64, 4096, 8192, 8193, 100000}) {
    // Every rank knows all partial sums, sends its own and checks the root.
    std::mt19937 random(static_cast<uint32_t>(count));
    std::normal_distribution<float> value(0, 1);
    std::vector<std::vector<float>> nodes(layout.nodes.size(), std::vector<float>(count));
    for (auto& node : nodes) {
      for (float& v : node) v = value(random);
    }
    std::vector<const float*> values;
    for (const auto& node : nodes) values.push_back(node.data());
    std::vector<float> expected(count), found(count), mine;
    kernels::FinishTree(kLeaves, layout.nodes, values, count, expected.data());
    for (int64_t i = layout.rank_begin[rank]; i < layout.rank_begin[rank + 1]; ++i) {
      mine.insert(mine.end(), nodes[i].begin(), nodes[i].end());
    }
    const bool ok = communicator->AllReduceTree(layout, mine.data(), count, found.data()).ok();
    Expect(ok && found == expected, "all-reduce", count);
  }

  std::vector<int64_t> widths;
  int64_t total = 0;
  for (int r = 0; r < size; ++r) {
    widths.push_back(r == 1 ? 0 : 10 + r);
    total += widths.back();
  }
  for (int64_t rows : {1, 5}) {
    int64_t first = 0;
    for (int r = 0; r < rank; ++r) first += widths[r];
    std::vector<float> mine(rows * widths[rank] + 1), out(rows * total);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t c = 0; c < widths[rank]; ++c) {
        mine[row * widths[rank] + c] = static_cast<float>(row * 1000 + first + c);
      }
    }
    const bool ok = communicator->GatherColumns(mine.data(), rows, widths, out.data()).ok();
    Expect(ok, "gather", rows);
    for (int64_t row = 0; rank == 0 && row < rows; ++row) {
      for (int64_t c = 0; c < total; ++c) {
        Expect(out[row * total + c] == static_cast<float>(row * 1000 + c), "gather", c);
      }
    }
  }

  const auto bytes = communicator->AllGatherBytes(std::string(rank, 'a' + rank));
  Expect(bytes.ok() && static_cast<int>(bytes->size()) == size, "gathered bytes", size);
  for (int r = 0; bytes.ok() && r < size; ++r) {
    Expect((*bytes)[r] == std::string(r, 'a' + r), "gathered bytes", r);
  }

  const auto channel = (*world)->MakeStepChannel();
  for (int i = 1; i < 300 && size > 1; i *= 3) {
    const std::vector<std::byte> message(i * 1000, static_cast<std::byte>(i % 251));
    if (rank == 0) {
      Expect(channel->Send(message).ok(), "plan", i);
    } else {
      const auto got = channel->Receive();
      Expect(got.ok() && std::vector<std::byte>(got->begin(), got->end()) == message, "plan", i);
    }
  }
  return failures == 0 ? 0 : 1;
}
