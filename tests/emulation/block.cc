#include "tests/emulation/block.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "tests/emulation/options.h"

// Keeps the caller's registers on its stack and goes on with another stack.
extern "C" void TandemEmulationSwitch(void** from, void* to);
asm(R"(
.text
.globl TandemEmulationSwitch
.type TandemEmulationSwitch,@function
TandemEmulationSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size TandemEmulationSwitch,.-TandemEmulationSwitch
)");

namespace tandem::emulation {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kSharedBytes = 228 << 10;  // of the largest GPU
constexpr size_t kCopyBytes = 16;
constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;

[[noreturn]] void Fail(const char* message) {
  std::fprintf(stderr, "emulation: %s\n", message);
  std::abort();
}

enum class State : uint8_t { kReady, kAtBarrier, kAtWarp, kDone };

struct Fiber {
  void* stack_pointer = nullptr;
  uint3 index = {};
  unsigned number = 0;
  State state = State::kDone;
  std::vector<std::pair<void*, const void*>> copies;  // started, not done
  bool awaited = false;
};

struct Warp {
  unsigned arrived = 0;
  unsigned parity = 0;  // an exchange's values outlive the next one's start
  uint64_t values[2][kWarp] = {};
};

// One thread's fibers and its current block.
struct Machine {
  std::byte* stacks = nullptr;
  std::vector<std::byte> shared;
  size_t shared_used = 0;
  void* dynamic_shared = nullptr;
  std::map<const void*, void*> declared;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  dim3 grid, block;
  uint3 block_index = {};
  const absl::FunctionRef<void()>* body = nullptr;
  int64_t grids = 0;
  Fiber* current = nullptr;
  void* scheduler = nullptr;  // stack pointer

  ~Machine() {
    if (stacks != nullptr) munmap(stacks, kStackBytes * kMaxThreads);
  }
};

thread_local Machine machine;

void Yield() { TandemEmulationSwitch(&machine.current->stack_pointer, machine.scheduler); }

void FiberMain() {
  (*machine.body)();
  if (!machine.current->copies.empty()) Fail("a thread ended before what it copies had come");
  if (!machine.current->awaited) {
    Fail("a thread ended without AwaitPrevious");
  }
  machine.current->state = State::kDone;
  Yield();
  Fail("a thread ran after its end");
}

void Resume(Fiber& fiber) {
  machine.current = &fiber;
  TandemEmulationSwitch(&machine.scheduler, fiber.stack_pointer);
  machine.current = nullptr;
}

// A new stack: registers as zeros, then FiberMain as the address to return to.
void Start(Fiber& fiber, unsigned number) {
  const dim3& shape = machine.block;
  fiber.number = number;
  fiber.index = {number % shape.x, number / shape.x % shape.y, number / (shape.x * shape.y)};
  fiber.state = State::kReady;
  fiber.awaited = false;
  auto** top = reinterpret_cast<void**>(machine.stacks + (number + 1) * kStackBytes - 16);
  *top = reinterpret_cast<void*>(&FiberMain);
  for (int i = 1; i <= 6; ++i) top[-i] = nullptr;
  fiber.stack_pointer = top - 6;
}

void* Carve(size_t bytes) {
  const size_t begin = (machine.shared_used + 15) / 16 * 16;
  if (begin + bytes > machine.shared.size())
    Fail("a block takes more shared memory than a GPU has");
  machine.shared_used = begin + bytes;
  return machine.shared.data() + begin;
}

// True if a lane ran.
bool RunWarp(unsigned warp, unsigned threads) {
  const bool reverse = GetOptions().reverse;
  const unsigned begin = warp * kWarp;
  const unsigned lanes = threads - begin < kWarp ? threads - begin : kWarp;
  bool any = false;
  for (bool again = true; again;) {
    again = false;
    for (unsigned i = 0; i < lanes; ++i) {
      Fiber& fiber = machine.fibers[begin + (reverse ? lanes - 1 - i : i)];
      if (fiber.state != State::kReady) continue;
      Resume(fiber);
      again = any = true;
    }
  }
  return any;
}

[[noreturn]] void ReportDeadlock(unsigned threads) {
  std::fprintf(stderr, "emulation: no thread of block (%u, %u, %u) can go on:\n",
               machine.block_index.x, machine.block_index.y, machine.block_index.z);
  for (unsigned i = 0; i < threads; ++i) {
    static constexpr const char* kNames[] = {"ready", "at a block's barrier",
                                             "at a warp's exchange", "ended"};
    std::fprintf(stderr, "  thread %u: %s\n", i, kNames[static_cast<int>(machine.fibers[i].state)]);
  }
  std::abort();
}

void RunBlock(unsigned threads, size_t dynamic_shared_bytes) {
  std::memset(machine.shared.data(), 0xff, machine.shared.size());
  machine.shared_used = 0;
  machine.declared.clear();
  machine.dynamic_shared = Carve(dynamic_shared_bytes);
  const unsigned warps = (threads + kWarp - 1) / kWarp;
  machine.warps.assign(warps, Warp());
  for (unsigned i = 0; i < threads; ++i) Start(machine.fibers[i], i);
  for (;;) {
    bool any = false;
    for (unsigned w = 0; w < warps; ++w) {
      any = RunWarp(GetOptions().reverse ? warps - 1 - w : w, threads) || any;
    }
    if (any) continue;
    bool done = true;
    for (unsigned i = 0; i < threads; ++i) {
      if (machine.fibers[i].state == State::kAtWarp) ReportDeadlock(threads);
      done = done && machine.fibers[i].state == State::kDone;
    }
    if (done) return;
    // All who are left are at the barrier.
    for (unsigned i = 0; i < threads; ++i) {
      if (machine.fibers[i].state == State::kAtBarrier) machine.fibers[i].state = State::kReady;
    }
  }
}

}  // namespace

void RunGrid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, absl::FunctionRef<void()> body) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads) Fail("a block has 1 to 1024 threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) Fail("a grid has no block");
  if (grid.y > 65535 || grid.z > 65535) Fail("a grid has more than 65535 blocks in y or z");
  if (machine.current != nullptr) Fail("a kernel may not launch another");
  if (machine.stacks == nullptr) {
    void* stacks = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) Fail("no memory for the stacks of threads");
    machine.stacks = static_cast<std::byte*>(stacks);
    machine.fibers.resize(kMaxThreads);
    machine.shared.resize(kSharedBytes);
  }
  ++machine.grids;
  machine.grid = grid;
  machine.block = block;
  machine.body = &body;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        machine.block_index = {x, y, z};
        RunBlock(threads, dynamic_shared_bytes);
      }
    }
  }
}

int64_t GridsRun() { return machine.grids; }

const uint3& CurrentThread() { return machine.current->index; }
const uint3& CurrentBlock() { return machine.block_index; }
const dim3& BlockShape() { return machine.block; }
const dim3& GridShape() { return machine.grid; }
unsigned CurrentLane() { return machine.current->number % kWarp; }

void MarkAwaited() { machine.current->awaited = true; }

void SyncThreads() {
  machine.current->state = State::kAtBarrier;
  Yield();
}

namespace {

// All lanes' values of an exchange that the lanes of mask have come to.
const uint64_t* Exchange(unsigned mask, uint64_t value) {
  Warp& warp = machine.warps[machine.current->number / kWarp];
  const unsigned lane = CurrentLane();
  if ((mask >> lane & 1) == 0) Fail("a lane is not in the mask that it gave");
  const unsigned parity = warp.parity;
  warp.values[parity][lane] = value;
  warp.arrived |= 1u << lane;
  if ((warp.arrived & mask) == mask) {
    const unsigned first = machine.current->number / kWarp * kWarp;
    for (unsigned i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1) != 0) machine.fibers[first + i].state = State::kReady;
    }
    warp.arrived &= ~mask;
    warp.parity ^= 1;
  } else {
    machine.current->state = State::kAtWarp;
    Yield();
  }
  return warp.values[parity];
}

}  // namespace

uint64_t WarpExchange(unsigned mask, uint64_t value, unsigned source) {
  const uint64_t* const values = Exchange(mask, value);
  return source >= kWarp || (mask >> source & 1) == 0 ? ~uint64_t{0} : values[source];
}

const uint64_t* WarpGather(uint64_t value) { return Exchange(0xffffffffu, value); }

void StartCopy(void* to, const void* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % kCopyBytes != 0) {
    Fail("a copy of 16 bytes is not aligned");
  }
  machine.current->copies.emplace_back(to, from);
  if (GetOptions().early) WaitCopies();
}

void WaitCopies() {
  for (const auto& [to, from] : machine.current->copies) std::memcpy(to, from, kCopyBytes);
  machine.current->copies.clear();
}

void* Shared(const void* identity, size_t bytes) {
  const auto [entry, is_new] = machine.declared.try_emplace(identity, nullptr);
  if (is_new) entry->second = Carve(bytes);
  return entry->second;
}

void* DynamicShared() { return machine.dynamic_shared; }

}  // namespace tandem::emulation
