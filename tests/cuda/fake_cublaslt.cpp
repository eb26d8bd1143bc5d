// A libcublasLt for tests: the functions that kernels/cuda/cublaslt.cpp calls, on memory of the emulator, by the
// library's documentation. Whatever it is told and does not know is an error, as is workspace that is smaller than it
// asked for.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

using Status = int;
constexpr Status kInvalid = 7, kNotSupported = 15;
enum Type : int { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14 };
constexpr uint64_t kWorkspace = 1 << 16;

struct Desc {
  int compute;
  int32_t transpose_a = 0;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};
struct Layout {
  Type type;
  uint64_t rows, columns;
  int64_t pitch;
  int32_t matrices = 1;
  int64_t step = 0;
};
struct Preference {
  uint64_t workspace = 0;
  std::map<int, uint32_t> alignments;
};
struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};

std::map<std::string, int64_t> calls;
Status refusal = 0;

size_t BytesOf(Type type) { return type == kFloat32 ? 4 : 2; }

double Load(const void* base, Type type, int64_t at) {
  if (type == kFloat32) return static_cast<const float*>(base)[at];
  const uint16_t bits = static_cast<const uint16_t*>(base)[at];
  if (type == kBFloat16) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  return static_cast<double>(*reinterpret_cast<const _Float16*>(&bits));
}

void Store(void* base, Type type, int64_t at, double value) {
  if (type == kFloat32) {
    static_cast<float*>(base)[at] = static_cast<float>(value);
  } else if (type == kFloat16) {
    static_cast<_Float16*>(base)[at] = static_cast<_Float16>(value);
  } else {
    uint32_t bits;
    const float narrow = static_cast<float>(value);
    std::memcpy(&bits, &narrow, 4);
    bits += 0x7fff + ((bits >> 16) & 1);
    static_cast<uint16_t*>(base)[at] = static_cast<uint16_t>(bits >> 16);
  }
}

template <typename T>
Status Take(T& to, const void* from, size_t bytes) {
  if (bytes != sizeof to) return kInvalid;
  std::memcpy(&to, from, bytes);
  return 0;
}

// Whether D's sizes follow from A's and B's.
bool Fits(const Desc& desc, const Layout& a, const Layout& b, const Layout& d) {
  const uint64_t m = desc.transpose_a ? a.columns : a.rows;
  const uint64_t k = desc.transpose_a ? a.rows : a.columns;
  return b.rows == k && d.rows == m && d.columns == b.columns && a.matrices == d.matrices && b.matrices == d.matrices;
}

template <typename T>
Status Destroy(void* object) {
  delete static_cast<T*>(object);
  --calls["alive"];
  return 0;
}

template <typename T>
Status Create(void** made, T object) {
  *made = new T(std::move(object));
  ++calls["alive"];
  return 0;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int64_t fake_calls(const char* name) { return calls[name]; }
// What the heuristic answers from now on.
__attribute__((visibility("default"))) void fake_refuse(Status status) { refusal = status; }

#define EXPORT __attribute__((visibility("default"))) Status

__attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 130203; }
EXPORT cublasLtCreate(void** handle) {
  ++calls["create"];
  *handle = &calls;
  return 0;
}
EXPORT cublasLtMatmulDescCreate(void** made, int compute, int scale) {
  return scale != kFloat32 ? kInvalid : Create(made, Desc{compute});
}
EXPORT cublasLtMatmulDescDestroy(void* desc) { return Destroy<Desc>(desc); }
EXPORT cublasLtMatmulDescSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
  Desc& desc = *static_cast<Desc*>(object);
  if (attribute == 3) return Take(desc.transpose_a, value, bytes);
  if (attribute == 7) return Take(desc.epilogue, value, bytes);
  if (attribute == 8) return Take(desc.bias, value, bytes);
  return kInvalid;
}
EXPORT cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t pitch) {
  return Create(made, Layout{static_cast<Type>(type), rows, columns, pitch});
}
EXPORT cublasLtMatrixLayoutDestroy(void* layout) { return Destroy<Layout>(layout); }
EXPORT cublasLtMatrixLayoutSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
  Layout& layout = *static_cast<Layout*>(object);
  if (attribute == 5) return Take(layout.matrices, value, bytes);
  if (attribute == 6) return Take(layout.step, value, bytes);
  return kInvalid;
}
EXPORT cublasLtMatmulPreferenceCreate(void** made) { return Create(made, Preference{}); }
EXPORT cublasLtMatmulPreferenceDestroy(void* preference) { return Destroy<Preference>(preference); }
EXPORT cublasLtMatmulPreferenceSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
  Preference& preference = *static_cast<Preference*>(object);
  if (attribute == 1) return Take(preference.workspace, value, bytes);
  if (attribute >= 5 && attribute <= 8) return Take(preference.alignments[attribute], value, bytes);
  return kInvalid;
}

EXPORT cublasLtMatmulAlgoGetHeuristic(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference,
                                      int most, Heuristic* found, int* count) {
  ++calls["heuristic"];
  *count = 0;
  if (handle != &calls || most < 1 || c == nullptr) return kInvalid;
  const Desc& what = *static_cast<Desc*>(desc);
  if (!Fits(what, *static_cast<Layout*>(a), *static_cast<Layout*>(b), *static_cast<Layout*>(d))) return kInvalid;
  const Preference& allowed = *static_cast<Preference*>(preference);
  if (refusal != 0 || allowed.workspace < kWorkspace || allowed.alignments.size() != 4) return kNotSupported;
  *found = {};
  found->algorithm[0] = 0x1234;
  found->workspace = kWorkspace;
  *count = 1;
  return 0;
}

EXPORT cublasLtMatmul(void* handle, void* desc_, const void* alpha, const void* a, void* a_layout, const void* b,
                      void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                      const uint64_t* algorithm, void* workspace, size_t workspace_bytes, void*) {
  const Desc& desc = *static_cast<Desc*>(desc_);
  const Layout& la = *static_cast<Layout*>(a_layout);
  const Layout& lb = *static_cast<Layout*>(b_layout);
  const Layout& lc = *static_cast<Layout*>(c_layout);
  const Layout& ld = *static_cast<Layout*>(d_layout);
  ++calls[desc.compute == 77 ? "tf32" : "matmul"];
  if (handle != &calls || *algorithm != 0x1234 || workspace_bytes < kWorkspace || workspace == nullptr) return kInvalid;
  if (!Fits(desc, la, lb, ld) || la.type != lb.type || lc.type != ld.type || *static_cast<const float*>(alpha) != 1)
    return kInvalid;
  if (desc.epilogue != 1 && (desc.epilogue != 4 || desc.bias == nullptr)) return kNotSupported;
  std::memset(workspace, 0, kWorkspace);  // it is ours
  const float added = *static_cast<const float*>(beta);
  const int64_t depth = static_cast<int64_t>(lb.rows);
  std::vector<double> results;
  for (int64_t matrix = 0; matrix < ld.matrices; ++matrix) {
    const char* left = static_cast<const char*>(a) + matrix * la.step * static_cast<int64_t>(BytesOf(la.type));
    const char* right = static_cast<const char*>(b) + matrix * lb.step * static_cast<int64_t>(BytesOf(lb.type));
    for (int64_t column = 0; column < static_cast<int64_t>(ld.columns); ++column) {
      for (int64_t row = 0; row < static_cast<int64_t>(ld.rows); ++row) {
        double sum = 0;
        for (int64_t k = 0; k < depth; ++k) {
          sum += Load(left, la.type, desc.transpose_a ? row * la.pitch + k : k * la.pitch + row) *
                 Load(right, lb.type, column * lb.pitch + k);
        }
        const int64_t at = matrix * ld.step + column * ld.pitch + row;
        if (added != 0) sum += added * Load(c, lc.type, matrix * lc.step + column * lc.pitch + row);
        if (desc.epilogue == 4) sum += Load(desc.bias, ld.type, row);
        Store(d, ld.type, at, sum);
      }
    }
  }
  return 0;
}

}  // extern "C"
