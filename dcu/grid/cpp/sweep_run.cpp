// Which kernels this processor can run, and threads over chunks of states.
#include "sweep.hpp"

#include <algorithm>
#include <atomic>
#include <thread>

#ifdef HEADROOM_X86
#include <cpuid.h>
#endif

namespace headroom {
namespace {

constexpr int threads_max = 1024;
constexpr std::int64_t chunk = 512;  // states; a multiple of every register's lanes, so that threads never share one

#ifdef HEADROOM_X86
bool system_saves(std::uint32_t registers) {  // the operating system keeps these registers (XCR0)
  std::uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return false;
  std::uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & registers) == registers;
}

bool has_avx2() {
  std::uint32_t a, b, c, d;
  if (!system_saves(0x6) || !__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 12))) return false;  // FMA
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 5));
}

bool has_avx512() {
  std::uint32_t a, b, c, d;
  if (!has_avx2() || !system_saves(0xe6) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (b & (1u << 16)) && (b & (1u << 17)) && (b & (1u << 31));  // F, DQ, VL
}
#endif

}  // namespace

namespace {

std::vector<const Kernels*> look() {
  std::vector<const Kernels*> found;
#ifdef HEADROOM_X86
  if (has_avx512()) found.push_back(&avx512::kernels);
  if (has_avx2()) found.push_back(&avx2::kernels), found.push_back(&avx2_plain::kernels);
#endif
  found.push_back(&baseline::kernels);
  return found;
}

}  // namespace

const std::vector<const Kernels*>& available() {
  static const std::vector<const Kernels*> found = look();  // asking costs microseconds on a virtual machine
  return found;
}

template <typename T>
void run(const Plan<T>& plan, const Elements<T>& elements, const Batch& batch, const Kernels& kernels, int threads) {
  Kernel<T> kernel;
  if constexpr (sizeof(T) == 8) kernel = kernels.f64;
  else kernel = kernels.f32;
  const std::int64_t chunks = (batch.states + chunk - 1) / chunk;
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t c; (c = next.fetch_add(1)) < chunks;)
      kernel(plan, elements, batch, c * chunk, std::min((c + 1) * chunk, batch.states));
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads && t < chunks && t < threads_max; ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
}

template void run(const Plan<double>&, const Elements<double>&, const Batch&, const Kernels&, int);
template void run(const Plan<float>&, const Elements<float>&, const Batch&, const Kernels&, int);

}  // namespace headroom
