// What surrounds products: operands that cp.async and TMA can read, and sums of slices of K.
#pragma once

#include <string_view>

#include "cuda/kernel.h"
#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/problem.h"

namespace ingot {

// A tensor whose last axis of `columns` elements is filled up to `pitch` with zeros, and begins at a multiple of 16
// bytes: itself, where nothing is to be done, or a copy.
const void* PaddedRows(CudaContext& context, std::string_view kernel, const DLTensor& tensor, int element_bytes,
                       int64_t columns, int64_t pitch);

// A layer of numbers of 8 bits: X [..., K] times the transpose of W [N, K] gives Y [..., N]. K is filled up to 16s.
// Throws where the shapes do not fit.
MatmulProblem ByteLayer(std::string_view kernel, const DLTensor& x, const DLTensor& w, const DLTensor& y);

// The operands of a ByteLayer.
void ReadByteLayer(CudaContext& context, std::string_view kernel, const DLTensor& x, const DLTensor& w,
                   MatmulProblem& p);

// Copies `matrices` matrices [rows, columns] of elements of 1, 2 or 4 bytes to [rows, pitch], filled up with zeros.
cudaError_t PadRows(const void* from, void* to, int element_bytes, int64_t matrices, int64_t rows, int64_t columns,
                    int64_t pitch, cudaStream_t stream);

// Copies `matrices` matrices [rows, columns] of floats to [columns, pitch], pitch >= rows, filled up with zeros.
cudaError_t TransposeFloats(const float* from, float* to, int64_t matrices, int rows, int columns, int pitch,
                            cudaStream_t stream);

// Adds up partial sums [slices, matrices, e.rows, pitch] and finishes them. pitch is a multiple of 8.
cudaError_t AddSlices(const float* partial, int slices, int matrices, int pitch, const Epilogue& e,
                      cudaStream_t stream);

// The epilogue of a kernel whose slices write their sums for AddSlices.
Epilogue PartialSums(float* partial, int rows, int pitch);

}  // namespace ingot
