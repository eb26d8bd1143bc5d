/* A kernel of one's own as a shared library, beside Ingot's and other runtimes'; docs/kernels-bench.md says more.
 *
 *   cc -O3 -march=native -shared -fPIC examples/c/my_kernels.c -o libmine.so
 *   ingot kernels bench quantized_matmul --module ./libmine.so --shape 16x1024x1024 --dtype int4:g32,int8
 */
#include <stdint.h>

/* y [M, N] = x [M, K] W^T. Row n of W has K codes: of 8 bits signed, of 4 bits two in a byte, the lower half first,
 * less
 * 8. The scale of code k is scales[n][k / group]. Returns 0, or what says that it cannot compute this. */
int ingot_bench_quantized_matmul(const float* x, const void* codes, const float* scales, float* y, int64_t m, int64_t k,
                                 int64_t n, int64_t bits, int64_t group, int64_t threads) {
  const int64_t groups = (k + group - 1) / group;
  (void)threads; /* this one has one thread, whatever it is given */
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      const uint8_t* packed = (const uint8_t*)codes + column * k * bits / 8;
      float sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        const int code = bits == 8 ? (int8_t)packed[i] : (packed[i / 2] >> (i % 2 * 4) & 15) - 8;
        sum += x[row * k + i] * (float)code * scales[column * groups + i / group];
      }
      y[row * n + column] = sum;
    }
  }
  return 0;
}
