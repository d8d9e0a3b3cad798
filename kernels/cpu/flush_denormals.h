// For a scope, this thread's arithmetic treats denormal operands and results as zeros, as the
// bfloat16 dot-product instructions always do.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace tandem::kernels::cpu {

class FlushDenormals {
 public:
  explicit FlushDenormals(bool wanted) : wanted_(wanted) {
    if (!wanted_) return;
    before_ = Read();
    Write(before_ | kFlush);
  }
  ~FlushDenormals() {
    if (wanted_) Write(before_);
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  using Register = uint32_t;
  static constexpr Register kFlush = 0x8040;  // flush to zero, denormals are zero
  static Register Read() { return _mm_getcsr(); }
  static void Write(Register value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Register = uint64_t;
  static constexpr Register kFlush = Register{1} << 24;  // FPCR.FZ
  static Register Read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void Write(Register value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
#error "write this processor's control register here"
#endif

  bool wanted_;
  Register before_ = 0;
};

}  // namespace tandem::kernels::cpu
