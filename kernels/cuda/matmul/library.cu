#include "cuda/cublaslt.h"
#include "cuda/matmul/checks.h"
#include "cuda/matmul/library.h"

namespace ingot {
namespace {

// Where docs/performance-cuda.md found it faster, on an H200; smaller products were not measured.
constexpr int64_t kLeastWeights = int64_t{32} << 20;  // bytes of W, where reading it takes the time
constexpr int64_t kLeastProducts = int64_t{1} << 27;  // multiply-adds of float32
constexpr int64_t kLeastHalf = int64_t{1} << 34;      // multiply-adds of 16-bit numbers, W [k, n]
constexpr int64_t kFewRows = 32, kMoreRows = 128;

cudaDataType TypeOf(Number number) {
  return number == Number::kFloat32 ? CUDA_R_32F : number == Number::kFloat16 ? CUDA_R_16F : CUDA_R_16BF;
}

// The library's matrices are one step apart: all digits of a batch but one are 1.
bool HasOneStep(const BatchSteps& batch) {
  for (int i = 1; i < BatchSteps::kDigits; ++i) {
    if (batch.extents[i] != 1) return false;
  }
  return true;
}

}  // namespace

bool IsLibraryFaster(const DenseProduct& product, int capability) {
  if (capability != 90) return false;
  const MatmulProblem& p = product.p;
  const int64_t weights = static_cast<int64_t>(p.n) * p.k * BytesOf(product.number);
  const int64_t products = static_cast<int64_t>(p.m) * p.n * p.k * p.matrices;
  if (product.number == Number::kFloat32) {
    const bool tf32 = product.precision == static_cast<int64_t>(Float32Precision::kTf32);
    if (p.m <= kFewRows) return tf32 && p.matrices == 1 && weights >= kLeastWeights;
    return products >= kLeastProducts;
  }
  if (product.rows_of_n) return products >= kLeastHalf;
  return p.m <= kMoreRows && p.matrices == 1 && weights >= kLeastWeights;
}

bool RunLibrary(CudaContext& context, std::string_view kernel, const DenseProduct& product, const Epilogue& e) {
  const MatmulProblem& p = product.p;
  // The library takes a bias of Y's type.
  const bool fits = e.activation == Activation::kNone &&
                    (e.bias == nullptr || (e.bias_number == e.number && IsAligned(e.bias))) && p.m > 0 && p.n > 0 &&
                    p.k > 0 && HasOneStep(p.batch);
  if (!fits) return false;
  LibraryProduct to;
  const int64_t x_matrix = static_cast<int64_t>(p.m) * p.k;
  const int64_t w_matrix = static_cast<int64_t>(p.n) * p.k;
  to.type = TypeOf(product.number);
  to.result = TypeOf(e.number);
  to.tf32 = product.number == Number::kFloat32 && product.precision == static_cast<int64_t>(Float32Precision::kTf32);
  to.rows_of_n = product.rows_of_n;
  to.m = p.m, to.n = p.n, to.k = p.k;
  to.matrices = p.matrices;
  to.x_step = p.batch.x[0] * x_matrix;
  to.w_step = p.batch.w[0] * w_matrix;
  to.x = product.x;
  to.w = product.w;
  to.bias = e.bias;
  to.c = e.residual;
  to.y = e.y;
  return RunLibraryProduct(context, kernel, to);
}

}  // namespace ingot
