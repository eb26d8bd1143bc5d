#include "host_functions.h"

#include <math.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "thread_pool.h"

namespace ingot {
namespace {

void* AllocateWorkspace(int /*device_type*/, int /*device_id*/, uint64_t bytes, int /*dtype_code*/,
                        int /*dtype_bits*/) {
  Workspace* workspace = ThreadPool::CurrentWorkspace();
  return workspace == nullptr ? nullptr : workspace->Allocate(bytes);
}

int FreeWorkspace(int /*device_type*/, int /*device_id*/, void* data) {
  Workspace* workspace = ThreadPool::CurrentWorkspace();
  if (workspace == nullptr) return -1;
  workspace->Free(data);
  return 0;
}

int LaunchParallel(Task task, void* data, int num_tasks) {
  ThreadPool* pool = ThreadPool::Current();
  return pool == nullptr ? -1 : pool->Launch(task, data, num_tasks);
}

#if defined(__aarch64__)
using Half = __fp16;  // what GCC 12 calls it in C++
#else
using Half = _Float16;
#endif

// Conversions of half precision that LLVM calls on machines without instructions for them; to nearest, in one rounding.
float WidenHalf(Half value) { return static_cast<float>(value); }
Half TruncateToHalf(float value) { return static_cast<Half>(value); }
Half TruncateDoubleToHalf(double value) { return static_cast<Half>(value); }

// bfloat16 is returned like any 16-bit float: in the low bits of a vector register. C++20 has no name for the type.
Half TruncateToBfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  const uint32_t rounded = nan ? (bits | 0x400000) : bits + 0x7FFF + (bits >> 16 & 1);  // to nearest, ties to even
  return std::bit_cast<Half>(static_cast<uint16_t>(rounded >> 16));
}

Half TruncateDoubleToBfloat16(double value) {
  // Rounding to odd first makes the second rounding exact (Boldo and Melquiond, 2008).
  float narrowed = static_cast<float>(value);
  if (static_cast<double>(narrowed) != value && !isnan(value)) {
    auto bits = std::bit_cast<uint32_t>(narrowed);
    if (fabs(static_cast<double>(narrowed)) > fabs(value)) --bits;
    narrowed = std::bit_cast<float>(bits | 1);
  }
  return TruncateToBfloat16(narrowed);
}

struct HostFunction {
  std::string_view name;
  void* address;
};

using Float1 = float (*)(float);
using Float2 = float (*)(float, float);
using Double1 = double (*)(double);
using Double2 = double (*)(double, double);

template <typename Function>
HostFunction Row(std::string_view name, Function* function) {
  return {name, reinterpret_cast<void*>(function)};
}
HostFunction F1(std::string_view name, Float1 function) { return Row(name, function); }
HostFunction F2(std::string_view name, Float2 function) { return Row(name, function); }
HostFunction D1(std::string_view name, Double1 function) { return Row(name, function); }
HostFunction D2(std::string_view name, Double2 function) { return Row(name, function); }

const HostFunction kFunctions[] = {
    Row("__TVMBackendAllocWorkspace", AllocateWorkspace),
    Row("__TVMBackendFreeWorkspace", FreeWorkspace),
    Row("__TVMBackendParallelLaunch", LaunchParallel),
    Row<void*(void*, const void*, size_t)>("memcpy", std::memcpy),
    Row<void*(void*, const void*, size_t)>("memmove", std::memmove),
    Row<void*(void*, int, size_t)>("memset", std::memset),
    Row<int(const void*, const void*, size_t)>("memcmp", std::memcmp),
    Row("__extendhfsf2", WidenHalf),
    Row("__gnu_h2f_ieee", WidenHalf),
    Row("__truncsfhf2", TruncateToHalf),
    Row("__gnu_f2h_ieee", TruncateToHalf),
    Row("__truncdfhf2", TruncateDoubleToHalf),
    Row("__truncsfbf2", TruncateToBfloat16),
    Row("__truncdfbf2", TruncateDoubleToBfloat16),
    F1("acosf", acosf),
    D1("acos", acos),
    F1("acoshf", acoshf),
    D1("acosh", acosh),
    F1("asinf", asinf),
    D1("asin", asin),
    F1("asinhf", asinhf),
    D1("asinh", asinh),
    F1("atanf", atanf),
    D1("atan", atan),
    F1("atanhf", atanhf),
    D1("atanh", atanh),
    F2("atan2f", atan2f),
    D2("atan2", atan2),
    F1("cbrtf", cbrtf),
    D1("cbrt", cbrt),
    F1("ceilf", ceilf),
    D1("ceil", ceil),
    F2("copysignf", copysignf),
    D2("copysign", copysign),
    F1("cosf", cosf),
    D1("cos", cos),
    F1("coshf", coshf),
    D1("cosh", cosh),
    F1("erff", erff),
    D1("erf", erf),
    F1("erfcf", erfcf),
    D1("erfc", erfc),
    F1("expf", expf),
    D1("exp", exp),
    F1("exp2f", exp2f),
    D1("exp2", exp2),
    F1("exp10f", exp10f),
    D1("exp10", exp10),
    F1("expm1f", expm1f),
    D1("expm1", expm1),
    F1("fabsf", fabsf),
    D1("fabs", fabs),
    F2("fdimf", fdimf),
    D2("fdim", fdim),
    F1("floorf", floorf),
    D1("floor", floor),
    Row<float(float, float, float)>("fmaf", fmaf),
    Row<double(double, double, double)>("fma", fma),
    F2("fmaxf", fmaxf),
    D2("fmax", fmax),
    F2("fminf", fminf),
    D2("fmin", fmin),
    F2("fmodf", fmodf),
    D2("fmod", fmod),
    F2("hypotf", hypotf),
    D2("hypot", hypot),
    Row<float(float, int)>("ldexpf", ldexpf),
    Row<double(double, int)>("ldexp", ldexp),
    F1("lgammaf", lgammaf),
    D1("lgamma", lgamma),
    F1("logf", logf),
    D1("log", log),
    F1("log10f", log10f),
    D1("log10", log10),
    F1("log1pf", log1pf),
    D1("log1p", log1p),
    F1("log2f", log2f),
    D1("log2", log2),
    F1("nearbyintf", nearbyintf),
    D1("nearbyint", nearbyint),
    F2("nextafterf", nextafterf),
    D2("nextafter", nextafter),
    F2("powf", powf),
    D2("pow", pow),
    F2("remainderf", remainderf),
    D2("remainder", remainder),
    F1("rintf", rintf),
    D1("rint", rint),
    F1("roundf", roundf),
    D1("round", round),
    F1("roundevenf", roundevenf),
    D1("roundeven", roundeven),
    F1("sinf", sinf),
    D1("sin", sin),
    Row<void(float, float*, float*)>("sincosf", sincosf),
    Row<void(double, double*, double*)>("sincos", sincos),
    F1("sinhf", sinhf),
    D1("sinh", sinh),
    F1("sqrtf", sqrtf),
    D1("sqrt", sqrt),
    F1("tanf", tanf),
    D1("tan", tan),
    F1("tanhf", tanhf),
    D1("tanh", tanh),
    F1("tgammaf", tgammaf),
    D1("tgamma", tgamma),
    F1("truncf", truncf),
    D1("trunc", trunc),
};

}  // namespace

void* FindHostFunction(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kFunctions), std::end(kFunctions), [&](const HostFunction& f) { return f.name == name; });
  return found == std::end(kFunctions) ? nullptr : found->address;
}

}  // namespace ingot
