// Choosing and starting the kernels of products.
#pragma once

#include <string_view>

#include "cuda/kernel.h"
#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/problem.h"

namespace ingot {

// How a product can be computed. The numbers are those that callers force a choice by: path + 100 slices (0 slices: as
// many as suit).
enum class ProductPath : int {
  kChosen = 0,
  kMatvec = 1,      // few rows of X, W as rows of K: bound by reading W
  kMma128x128 = 2,  // mma.sync or multiply-adds, tiles of rows by columns
  kMma128x64 = 3,
  kMma64x64 = 4,
  kWgmma128x256 = 5,  // Hopper
  kWgmma128x128 = 6,
  kWgmma64x128 = 7,
  kFma32x128 = 8,  // kernels of multiply-adds alone, for few rows
};

struct ProductPlan {
  ProductPath path;
  int slices;  // of K
};

using StartMma = cudaError_t (*)(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p,
                                 const Epilogue& e, cudaStream_t stream);

// The kernels of a number type. A function sets what a path wants to be told (tiles, steps of a slice).
struct ProductKernels {
  int bytes;          // of an element of X and W
  double mma_rate;    // multiply-adds a cycle of a multiprocessor, for the choice between paths
  double wgmma_rate;  // 0: no such kernels
  int least_capability;
  StartMma start_mma;  // kMma*; modes other than kConvolution
  cudaError_t (*start_matvec)(bool block_scales, const MatmulProblem& p, const Epilogue& e, int multiprocessors,
                              cudaStream_t stream);
  cudaError_t (*start_wgmma)(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                             int multiprocessors, cudaStream_t stream);
  int matvec_rows = 32;  // the most that kMatvec takes
  bool fma = false;      // tiles by multiply-adds of float32: kFma32x128 and kRowsOfN too
};

const ProductKernels& HalfProducts();
const ProductKernels& BFloat16Products();
const ProductKernels& Tf32Products();
const ProductKernels& Float32Products();
const ProductKernels& Int8Products();
const ProductKernels& E4M3Products();

struct ProductSituation {
  OperandMode mode;
  int64_t m, n, k;
  int64_t matrices;
  int capability;
  int multiprocessors;
};

// The plan that a model of the machine finds the fastest; `forced` as above. Fails, in the name of `kernel`, where a
// forced path cannot compute the product.
ProductPlan ChooseProductPlan(std::string_view kernel, const ProductKernels& kernels, const ProductSituation& situation,
                              int64_t forced);

// Computes p, whose operands are aligned and padded as MatmulProblem says, with all of e.
void RunProducts(CudaContext& context, std::string_view kernel, const ProductKernels& kernels, OperandMode mode,
                 const MatmulProblem& p, const Epilogue& e, int64_t forced);

// Starts `start_mma` as planned, sums of slices included.
void RunMma(CudaContext& context, std::string_view kernel, const ProductKernels& kernels, StartMma start_mma,
            OperandMode mode, const ProductPlan& plan, const MatmulProblem& p, const Epilogue& e);

}  // namespace ingot
