// What the kernels of statically quantized products and convolutions share on the host.
#pragma once

#include <string_view>

#include "cuda/kernel.h"
#include "cuda/matmul/products.h"
#include "cuda/matmul/qlinear.h"

namespace ingot {

// The kernels of X's type, after a check of X, W and the GPU.
const ProductKernels& QlinearProducts(CudaContext& context, std::string_view kernel);

// Tells the epilogue of Y, whose last axis has `columns` elements, and of inputs 2 to 5. Steps are set before.
void DescribeQlinear(CudaContext& context, std::string_view kernel, int64_t columns, int64_t activation, Epilogue& e);

}  // namespace ingot
