#include "cublaslt.h"

#include <dlfcn.h>

#include <array>
#include <bit>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace ingot {
namespace {

// What is used of cublasLt.h, whose numbers are the same in all versions from 11 on.
using Status = int;
constexpr Status kSuccess = 0;
enum ComputeType : int { kComputeFloat32 = 68, kComputeTf32 = 77 };
enum Operation : int32_t { kAsItIs = 0, kTransposed = 1 };
enum DescAttribute : int { kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8 };
enum LayoutAttribute : int { kBatchCount = 5, kBatchStride = 6 };
enum PreferenceAttribute : int { kMostWorkspace = 1, kAlignmentA = 5, kAlignmentB, kAlignmentC, kAlignmentD };
constexpr uint32_t kEpilogueWithBias = 4;
using Opaque = void*;
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

constexpr size_t kWorkspace = size_t{32} << 20;  // what cuBLAS itself has on Hopper
constexpr size_t kMostPlans = 4096;              // that are remembered

struct Functions {
  Status (*create)(Opaque*);
  Status (*desc_create)(Opaque*, ComputeType, cudaDataType);
  Status (*desc_destroy)(Opaque);
  Status (*desc_set)(Opaque, DescAttribute, const void*, size_t);
  Status (*layout_create)(Opaque*, cudaDataType, uint64_t rows, uint64_t columns, int64_t pitch);
  Status (*layout_destroy)(Opaque);
  Status (*layout_set)(Opaque, LayoutAttribute, const void*, size_t);
  Status (*preference_create)(Opaque*);
  Status (*preference_destroy)(Opaque);
  Status (*preference_set)(Opaque, PreferenceAttribute, const void*, size_t);
  Status (*heuristic)(Opaque handle, Opaque desc, Opaque a, Opaque b, Opaque c, Opaque d, Opaque preference, int most,
                      Heuristic* found, int* count);
  Status (*matmul)(Opaque handle, Opaque desc, const void* alpha, const void* a, Opaque a_layout, const void* b,
                   Opaque b_layout, const void* beta, const void* c, Opaque c_layout, void* d, Opaque d_layout,
                   const Algorithm* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream);
};

// All that tells the library's kernels for two products apart.
using PlanKey = std::array<int64_t, 18>;

struct Plan {
  bool possible = false;
  Algorithm algorithm{};
  size_t workspace = 0;
};

struct Library {
  std::string missing;  // why it is not there
  Functions functions{};
  std::map<int, Opaque> handles;  // of devices; they stay until the process ends
  std::map<PlanKey, Plan> plans;
};

// A file's library; what is wrong with it is in `missing`.
Library LoadLibrary(const char* named) {
  Library library;
  if (named != nullptr && std::string_view(named) == "0") {
    library.missing = "INGOT_CUBLASLT is 0";
    return library;
  }
  std::vector<const char*> candidates = {"libcublasLt.so.13", "libcublasLt.so.12"};
  if (named != nullptr && *named != '\0') candidates = {named};
  void* handle = nullptr;
  for (const char* candidate : candidates) {
    handle = ::dlopen(candidate, RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) break;
    const char* reason = ::dlerror();
    library.missing +=
        Text(library.missing.empty() ? "" : "; ", std::string_view(reason == nullptr ? candidate : reason));
  }
  if (handle == nullptr) return library;
  library.missing.clear();
  const auto find = [&]<typename Function>(Function& function, const char* name) {
    function = reinterpret_cast<Function>(::dlsym(handle, name));
    if (function == nullptr && library.missing.empty())
      library.missing = Text("cuBLASLt has no ", std::string_view(name));
  };
  Functions& f = library.functions;
  find(f.create, "cublasLtCreate");
  find(f.desc_create, "cublasLtMatmulDescCreate");
  find(f.desc_destroy, "cublasLtMatmulDescDestroy");
  find(f.desc_set, "cublasLtMatmulDescSetAttribute");
  find(f.layout_create, "cublasLtMatrixLayoutCreate");
  find(f.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(f.layout_set, "cublasLtMatrixLayoutSetAttribute");
  find(f.preference_create, "cublasLtMatmulPreferenceCreate");
  find(f.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(f.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(f.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(f.matmul, "cublasLtMatmul");
  return library;
}

std::mutex& Mutex() {
  static std::mutex mutex;
  return mutex;
}

// The library that the environment asks for. The caller holds Mutex().
Library& CurrentLibrary() {
  static std::map<std::string, Library>& libraries = *new std::map<std::string, Library>;
  const char* named = std::getenv("INGOT_CUBLASLT");
  const auto [place, is_new] = libraries.try_emplace(named == nullptr ? "" : named);
  if (is_new) place->second = LoadLibrary(named);
  return place->second;
}

// What a status of the library means, as an exception.
struct LibraryFailed {
  const char* call;
  Status status;
};

void Check(Status status, const char* call) {
  if (status != kSuccess) throw LibraryFailed{call, status};
}

using Owned = std::unique_ptr<void, Status (*)(Opaque)>;

Owned Layout(const Functions& f, cudaDataType type, int64_t rows, int64_t columns, int64_t matrices, int64_t step) {
  Opaque made = nullptr;
  Check(f.layout_create(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), rows),
        "cublasLtMatrixLayoutCreate");
  Owned layout(made, f.layout_destroy);
  if (matrices > 1) {
    const int32_t count = static_cast<int32_t>(matrices);
    Check(f.layout_set(made, kBatchCount, &count, sizeof count), "cublasLtMatrixLayoutSetAttribute");
    Check(f.layout_set(made, kBatchStride, &step, sizeof step), "cublasLtMatrixLayoutSetAttribute");
  }
  return layout;
}

// The largest power of two, up to 256, that an address is a multiple of.
uint32_t Alignment(const void* address) {
  return uint32_t{1} << std::countr_zero(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address)) | 256u);
}

// A product as the library sees it. Its matrices are columns: Y^T = W^T X^T.
struct Call {
  const Functions& f;
  const LibraryProduct& p;
  Owned desc, w, x, y;

  Call(const Functions& functions, const LibraryProduct& product)
      : f(functions),
        p(product),
        desc(nullptr, f.desc_destroy),
        w(Layout(f, p.type, p.rows_of_n ? p.n : p.k, p.rows_of_n ? p.k : p.n, p.matrices, p.w_step)),
        x(Layout(f, p.type, p.k, p.m, p.matrices, p.x_step)),
        y(Layout(f, p.result, p.n, p.m, p.matrices, p.m * p.n)) {
    Opaque made = nullptr;
    Check(f.desc_create(&made, p.tf32 ? kComputeTf32 : kComputeFloat32, CUDA_R_32F), "cublasLtMatmulDescCreate");
    desc.reset(made);
    Set(kTransposeA, static_cast<int32_t>(p.rows_of_n ? kAsItIs : kTransposed));
    if (p.bias != nullptr) {
      Set(kEpilogue, kEpilogueWithBias);
      Set(kBiasPointer, p.bias);
    }
  }

  const void* C() const { return p.c != nullptr ? p.c : p.y; }

  PlanKey Key(int device) const {
    return {device,
            p.type,
            p.result,
            p.tf32,
            p.rows_of_n,
            p.m,
            p.n,
            p.k,
            p.matrices,
            p.x_step,
            p.w_step,
            p.bias != nullptr,
            p.c != nullptr,
            Alignment(p.w),
            Alignment(p.x),
            Alignment(C()),
            Alignment(p.y),
            Alignment(p.bias)};
  }

  Plan Find(Opaque handle) const {
    Opaque made = nullptr;
    Check(f.preference_create(&made), "cublasLtMatmulPreferenceCreate");
    const Owned preference(made, f.preference_destroy);
    const auto set = [&](PreferenceAttribute attribute, auto value) {
      Check(f.preference_set(made, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
    };
    set(kMostWorkspace, uint64_t{kWorkspace});
    set(kAlignmentA, Alignment(p.w));
    set(kAlignmentB, Alignment(p.x));
    set(kAlignmentC, Alignment(C()));
    set(kAlignmentD, Alignment(p.y));
    Heuristic found{};
    int count = 0;
    const Status status = f.heuristic(handle, desc.get(), w.get(), x.get(), y.get(), y.get(), made, 1, &found, &count);
    if (status != kSuccess || count == 0 || found.state != kSuccess) return {};
    return {true, found.algorithm, found.workspace};
  }

  void Run(Opaque handle, const Plan& plan, void* workspace, cudaStream_t stream) const {
    const float alpha = 1;
    const float beta = p.c != nullptr ? 1 : 0;
    Check(f.matmul(handle, desc.get(), &alpha, p.w, w.get(), p.x, x.get(), &beta, C(), y.get(), p.y, y.get(),
                   &plan.algorithm, workspace, plan.workspace, stream),
          "cublasLtMatmul");
  }

 private:
  template <typename T>
  void Set(DescAttribute attribute, T value) {
    Check(f.desc_set(desc.get(), attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }
};

}  // namespace

std::string WhyNoLibrary() {
  const std::lock_guard lock(Mutex());
  return CurrentLibrary().missing;
}

bool RunLibraryProduct(CudaContext& context, std::string_view kernel, const LibraryProduct& product) {
  try {
    Library* library = nullptr;
    Opaque handle = nullptr;
    int device = 0;
    {
      const std::lock_guard lock(Mutex());
      library = &CurrentLibrary();
      if (!library->missing.empty()) return false;
      CudaContext::Check(cudaGetDevice(&device), kernel);
      Opaque& known = library->handles[device];
      if (known == nullptr) Check(library->functions.create(&known), "cublasLtCreate");
      handle = known;
    }
    const Call call(library->functions, product);
    Plan plan;
    {
      const std::lock_guard lock(Mutex());
      if (library->plans.size() >= kMostPlans) library->plans.clear();
      const auto [place, is_new] = library->plans.try_emplace(call.Key(device));
      if (is_new) place->second = call.Find(handle);
      plan = place->second;
    }
    if (!plan.possible) return false;
    void* const workspace = plan.workspace == 0 ? nullptr : context.DeviceScratch(plan.workspace);
    call.Run(handle, plan, workspace, context.stream());
    return true;
  } catch (const LibraryFailed& failed) {
    FailKernel(kernel, ": cuBLASLt's ", std::string_view(failed.call), " failed with status ", failed.status,
               "; INGOT_CUBLASLT=0 leaves the library out");
  }
}

}  // namespace ingot
